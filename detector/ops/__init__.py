"""Pure functions on tensors: overlaps, suppression, mask pasting.

No parameters, no state; imports structures only.
"""
