"""Layers that box and mask heads share."""
