"""Boxes or points a dense head starts from."""
