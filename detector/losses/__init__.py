"""Loss functions, one idea per file.

A loss takes predictions, targets, weights and ``avg_factor``; imports ops and structures only.
"""
