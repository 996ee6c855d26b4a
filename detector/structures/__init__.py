"""What travels between rooms: boxes, masks, samples.

Belongs here: plain data and its conventions. Not: anything that computes on images. May import torch and
the standard library, and pycocotools for run-length masks.
"""
