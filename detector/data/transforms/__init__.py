"""The steps of a data pipeline: from a file name to a normalised, padded network input with its targets.

Belongs here: what changes one sample. Not: which sample comes when (samplers), annotation files (datasets).
May import numpy, OpenCV, pycocotools for run lengths, structures and errors.
"""

from __future__ import annotations

from detector.data.transforms.catalog import TRANSFORMS, build_pipeline
from detector.data.transforms.loading import UnreadableImageError
from detector.data.transforms.pipeline import Pipeline
from detector.data.transforms.sample import Annotations, Sample

__all__ = ["TRANSFORMS", "Annotations", "Pipeline", "Sample", "UnreadableImageError", "build_pipeline"]
