"""Which priors or proposals take part in the loss."""
