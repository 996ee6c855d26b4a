"""From a server, or a recipe, to the data store, and from the store into the project."""

from __future__ import annotations

from detector.data.download.bars import Bars
from detector.data.download.datasets import DATASETS, default_store
from detector.data.download.link import link
from detector.data.download.sources import load_source
from detector.data.download.store import download

__all__ = ["DATASETS", "Bars", "default_store", "download", "link", "load_source"]
