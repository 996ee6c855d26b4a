"""Heads that predict per region."""
