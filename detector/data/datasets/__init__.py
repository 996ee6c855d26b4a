"""Annotation files as indexed samples.

Belongs here: reading annotations into compact arrays, class mapping, which images count, one class per
format.
Not: changing a sample (transforms), batches (loader), other formats written (converters). May import
transforms,
structures and errors.
"""

from __future__ import annotations

from detector.data.datasets.catalog import DATASETS, build_dataset
from detector.data.datasets.source import Fetched, Item, SampleKey, SampleSource, View

__all__ = ["DATASETS", "Fetched", "Item", "SampleKey", "SampleSource", "View", "build_dataset"]
