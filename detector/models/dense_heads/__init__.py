"""Heads that predict on every cell."""
