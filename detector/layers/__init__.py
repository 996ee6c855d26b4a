"""Small modules used by two or more models: convolution blocks, norms, initialisation.

Imports ops and structures only.
"""
