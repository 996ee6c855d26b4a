"""Which files a data set's server takes: what ``--format-only`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from detector.data.class_names import VOC_CLASSES
from detector.errors import DatasetError
from detector.evaluation.annotations import ImageId
from detector.evaluation.submissions import cityscapes, coco, voc
from detector.structures.samples import Detections


class Split(Protocol):
    """What is asked of a data set."""

    @property
    def ann_file(self) -> Path:
        """COCO-format json, or VOC's list of image names."""

    @property
    def class_names(self) -> Sequence[str]:
        """Name of each label."""

    def __len__(self) -> int: ...

    def image_info(self, index: int, /) -> Mapping[str, object]:
        """``id`` and ``file_name`` of an image."""


def wanted_formats(
    split: Split, *, jsonfile_prefix: str | Path | None = None, txtfile_prefix: str | Path | None = None
) -> list[str]:
    """The formats that prefixes ask for, of 'json', 'cityscapes' and 'voc', before a model is run.

    Raises:
        DatasetError: the data has no such format.
    """
    formats = []
    if jsonfile_prefix:
        if Path(split.ann_file).suffix == ".txt":
            raise DatasetError(
                f"jsonfile_prefix: {split.ann_file} is a list of image names; expected a COCO-format json, "
                "which has the ids it needs. Give txtfile_prefix for the VOC server, or convert the data."
            )
        formats.append("json")
    if txtfile_prefix:
        formats.append(_text_format(split))
    if "cityscapes" in formats:
        cityscapes.instance_class_ids(split.class_names)
    return formats


def _text_format(split: Split) -> str:
    """'cityscapes' or 'voc': the server that takes text files for this data."""
    first = str(split.image_info(0)["file_name"]) if len(split) else ""
    if first.endswith(cityscapes.IMAGE_SUFFIX):
        return "cityscapes"
    if Path(split.ann_file).suffix == ".txt" or set(split.class_names) == set(VOC_CLASSES):
        return "voc"
    raise DatasetError(
        f"txtfile_prefix: {split.ann_file} is neither Cityscapes' (images named *{cityscapes.IMAGE_SUFFIX}) "
        "nor Pascal VOC's (its 20 classes, or a list of image names); expected one of them. Give "
        "jsonfile_prefix for COCO and LVIS."
    )


def text_prefix(prefix: str | Path, part: str) -> str:
    """``txtfile_prefix`` of one of several data sets: a folder of its own in the one that was asked for."""
    path = Path(prefix)
    return str(path.parent / part / path.name if voc.PREFIX.fullmatch(path.name) else path / part)


def write_files(
    results: Mapping[ImageId, Detections],
    split: Split,
    *,
    jsonfile_prefix: str | Path | None = None,
    txtfile_prefix: str | Path | None = None,
    proposals: bool = False,
) -> list[Path]:
    """Write a split's results for its test server; no ground truth is needed.

    Args:
        results: detections by image id.
        split: the data set.
        jsonfile_prefix: COCO and LVIS: ``<prefix>.bbox.json``, ``.segm.json`` or ``.proposal.json``.
        txtfile_prefix: Cityscapes: folder of text files and masks, and its zip; VOC: folder, or path up to
            ``comp3_det_test``.
        proposals: the results are a proposal model's.

    Returns:
        The files written.

    Raises:
        DatasetError: the data has no such format, or the results do not fit it.
    """
    formats = wanted_formats(split, jsonfile_prefix=jsonfile_prefix, txtfile_prefix=txtfile_prefix)
    ann_file, names = Path(split.ann_file), split.class_names
    paths: list[Path] = []
    if "json" in formats and proposals:
        paths += coco.write_proposals(results, ann_file=ann_file, prefix=str(jsonfile_prefix))
    elif "json" in formats:
        paths += coco.write(results, ann_file=ann_file, class_names=names, prefix=str(jsonfile_prefix))
    if "cityscapes" in formats:
        paths += cityscapes.write(results, ann_file=ann_file, class_names=names, out_dir=str(txtfile_prefix))
    if "voc" in formats:
        rows = [split.image_info(i) for i in range(len(split))]
        paths += voc.write(
            results,
            file_names={cast("ImageId", row["id"]): str(row["file_name"]) for row in rows},
            class_names=names,
            prefix=str(txtfile_prefix),
            split="test" if "test" in ann_file.stem else ann_file.stem.rpartition("_")[2],
        )
    return paths
