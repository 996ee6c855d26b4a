"""Weightless algorithms that decide what a head should predict: priors, coders, assigners, samplers.

Imports ops and structures only.
"""
