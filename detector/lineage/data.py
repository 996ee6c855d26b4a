"""The data of a stamp: digests of the annotation files, and those that the pipeline knows of everything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detector.whole_files import sha256_file

FILE_KEYS = ("ann_file", "proposal_file", "ins_ann_file")
#: name in the stamp -> environment variable that the pipeline sets
DATA_VARIABLES = {"digest": "DETECTOR_DATA_DIGEST", "dvc_md5": "DETECTOR_DVC_DATA"}


def data_facts(*sections: Any, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What identifies the data of some dataset sections of a config.

    Returns:
        annotations: path -> sha256 of the files that the sections name; digest: the pipeline's, of
        annotations and images; dvc_md5: of ``data.dvc``; images: which of the two holds.
    """
    values = os.environ if environ is None else environ
    known = {name: values[key] for name, key in DATA_VARIABLES.items() if values.get(key)}
    files = {path for section in sections for path in annotation_files(section)}
    digests = {path.as_posix(): sha256_file(path) for path in sorted(files) if path.is_file()}
    images = "in the digest" if "digest" in known else "not hashed"
    return {**known, "annotations": digests, "images": images}


def annotation_files(section: Any, root: str = "") -> Iterator[Path]:
    """Files that a dataset section of a config names, wrappers and lists followed; folders of images not."""
    if isinstance(section, list | tuple):
        for item in section:
            yield from annotation_files(item, root)
    if not isinstance(section, Mapping):
        return
    root = section.get("data_root") or root
    for key in FILE_KEYS:
        value = section.get(key)
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, str) and item:
                yield Path(root, item)
    for key in ("dataset", "datasets"):
        yield from annotation_files(section.get(key), root)
