"""Checkpoint files.

Reading them without running what they hold, writing them whole, and fitting them to a model.
"""
