"""Which ground-truth box each prior or proposal stands for."""
