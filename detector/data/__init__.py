"""From files on disk to batches, and from one annotation format to another.

Not here: models and metrics. May import structures, ops and plain config dicts.
"""
