"""Mask per region."""
