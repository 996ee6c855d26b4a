"""Detections in other forms: COCO records, MMDetection's list per class, and the pickle that holds it.

Boxes: xyxy in ``Detections`` and in MMDetection's arrays; xywh in COCO records; absolute pixels of the
original image.
Shapes: n detections of one class in an image; MMDetection's array is (n, 5): x1, y1, x2, y2, score.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detector.errors import ConfigError, DatasetError
from detector.evaluation.files import write_bytes
from detector.evaluation.pickles import ResultPickler, ResultUnpickler, unwrap
from detector.lineage.carriers import pickle_trailer
from detector.structures import masks
from detector.structures.samples import Detections, Rle

BoxLists = list[NDArray[np.float32]]
MaskLists = list[list[Rle]]
ScoredMasks = tuple[MaskLists, list[NDArray[np.float32]]]
MmdetResult = BoxLists | tuple[BoxLists, MaskLists] | tuple[BoxLists, ScoredMasks] | dict[str, Any]

SUFFIXES = (".pkl", ".pickle")


def box_records(detections: Detections, category_ids: Sequence[int], *, where: str) -> list[dict[str, Any]]:
    """COCO records {category_id, bbox (xywh, not rounded), score}, class by class as the reference does.

    Args:
        detections: results of one image.
        category_ids: the annotation file's category id of each label.
        where: what the message of an error calls this image.

    Raises:
        DatasetError: a label has no category, or a number is not finite.
    """
    boxes, scores, labels, order = _columns(detections, len(category_ids), where)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    return [{"category_id": category_ids[labels[i]], "bbox": xywh[i], "score": scores[i]} for i in order]


def segm_records(detections: Detections, category_ids: Sequence[int], *, where: str) -> list[dict[str, Any]]:
    """COCO records {category_id, segmentation, score}; otherwise as ``box_records``."""
    if detections.mask_scores is not None:  # a mask scoring model ranks its masks by scores of their own
        detections = replace(detections, scores=detections.mask_scores)
    _, scores, labels, order = _columns(detections, len(category_ids), where)
    rles = require_masks(detections, where=where)
    return [
        {"category_id": category_ids[labels[i]], "segmentation": rles[i], "score": scores[i]} for i in order
    ]


def require_masks(detections: Detections, *, where: str) -> list[Rle]:
    """The masks of one image's results.

    Raises:
        DatasetError: the model gave boxes only.
    """
    if detections.masks is None:
        if len(detections) == 0:
            return []
        raise DatasetError(
            f"{where}: found boxes without masks, expected masks for a mask metric; evaluate with "
            "metric 'bbox', or use a model with a mask head"
        )
    if len(detections.masks) != len(detections):
        raise DatasetError(
            f"{where}: found {len(detections.masks)} masks, expected one for each of {len(detections)}"
        )
    return detections.masks


def to_boxes(detections: Detections, num_classes: int) -> BoxLists:
    """Boxes and scores of one image: a float32 (n, 5) array per class."""
    rows, labels = proposal_array(detections), detections.labels.detach().cpu().numpy()
    return [np.ascontiguousarray(rows[labels == label]) for label in range(num_classes)]


def to_mmdet(detections: Detections, num_classes: int) -> MmdetResult:
    """MMDetection's form of one image: a float32 (n, 5) array per class; with masks, a tuple.

    Of a mask scoring model the tuple's second part is itself one: masks and their scores, per class. A
    panoptic model's is a dict of the map and of that.
    """
    if isinstance(detections, PanopticDetections) and detections.panoptic is not None:
        known = {key: value for key, value in vars(detections).items() if key != "panoptic"}
        return {"pan_results": detections.panoptic, "ins_results": to_mmdet(Detections(**known), num_classes)}
    box_lists = to_boxes(detections, num_classes)
    labels = detections.labels.detach().cpu().numpy()
    chosen = [np.flatnonzero(labels == label) for label in range(num_classes)]
    if detections.masks is None:
        return box_lists
    rles = detections.masks
    mask_lists = [[rles[i] for i in index] for index in chosen]
    if detections.mask_scores is None:
        return box_lists, mask_lists
    own = detections.mask_scores.detach().cpu().float().numpy()
    return box_lists, (mask_lists, [own[index] for index in chosen])


def proposal_array(detections: Detections) -> NDArray[np.float32]:
    """MMDetection's form of one image of a proposal model: (n, 5) float32 boxes and scores."""
    columns = (detections.boxes.float(), detections.scores.float()[:, None])
    rows: NDArray[np.float32] = torch.cat(columns, dim=1).detach().cpu().numpy()
    return rows


@dataclass
class PanopticDetections(Detections):
    """A panoptic model's result: also (H, W) label + 1000 * instance, the number of classes for nothing."""

    panoptic: NDArray[np.integer[Any]] | None = None


def from_mmdet(result: Any, *, where: str = "result") -> Detections:
    """The house form of one image's MMDetection result, class by class.

    A panoptic result (a dict with ``pan_results`` and perhaps ``ins_results``) gives PanopticDetections.

    Raises:
        DatasetError: the value is not a list of (n, 5) arrays, or a tuple of that and a list of RLE lists.
    """
    if isinstance(result, dict):
        return _from_panoptic(result, where)
    box_lists, mask_lists = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(box_lists, list) or any(getattr(a, "shape", ())[1:] != (5,) for a in box_lists):
        raise DatasetError(
            f"{where}: found {type(box_lists).__name__}, expected a list over classes of (n, 5) arrays"
        )
    rows = np.concatenate([np.zeros((0, 5), np.float32), *box_lists]).astype(np.float32)
    labels = np.repeat(np.arange(len(box_lists)), [len(a) for a in box_lists])
    rles: list[Rle] | None = None
    own: NDArray[np.float32] | None = None
    if mask_lists is not None:
        if isinstance(mask_lists, tuple):  # mask scoring: RLE lists and their scores
            mask_lists, score_lists = mask_lists
            own = np.concatenate([np.zeros(0, np.float32), *map(np.asarray, score_lists)]).astype(np.float32)
        if [len(m) for m in mask_lists] != [len(a) for a in box_lists]:
            raise DatasetError(
                f"{where}: found another number of masks than boxes, expected one mask per box"
            )
        rles = [_as_rle(mask) for per_class in mask_lists for mask in per_class]
    if own is not None and len(own) != len(rows):
        raise DatasetError(
            f"{where}: found {len(own)} mask scores, expected one for each of {len(rows)} boxes"
        )
    return Detections(
        boxes=torch.from_numpy(rows[:, :4].copy()),
        scores=torch.from_numpy(rows[:, 4].copy()),
        labels=torch.from_numpy(labels),
        masks=rles,
        mask_scores=None if own is None else torch.from_numpy(own),
    )


def _from_panoptic(result: dict[str, Any], where: str) -> PanopticDetections:
    """The house form of MMDetection's panoptic result."""
    pixels = result.get("pan_results")
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.dtype.kind not in "iu":
        raise DatasetError(f"{where}: found keys {sorted(result)}, expected `pan_results`, a map of integers")
    instances = from_mmdet(result.get("ins_results", []), where=where)
    return PanopticDetections(**vars(instances), panoptic=pixels)


def check_suffix(path: str | Path) -> Path:
    """The path, if its suffix is one the reference accepts for results.

    Raises:
        ConfigError: it is not.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--out {path}: found suffix '{path.suffix}', expected {' or '.join(SUFFIXES)}")
    return path


def save_results(path: str | Path, results: Sequence[MmdetResult | NDArray[np.float32]]) -> Path:
    """Write the pickle that the reference's tools read: a list with one result per image in data-set order.

    Arrays are stored by public names only, so that every NumPy version reads them. The stamp stands behind
    the pickle's end, where readers do not look.

    Raises:
        ConfigError: the suffix is not .pkl or .pickle.
    """
    buffer = io.BytesIO()
    ResultPickler(buffer, protocol=4).dump(list(results))
    return write_bytes(check_suffix(path), buffer.getvalue() + pickle_trailer())


def load_results(path: str | Path) -> list[Any]:
    """Read a results pickle of this project or of the reference; nothing in it is executed.

    Raises:
        DatasetError: the file is missing or damaged, or holds anything but plain values and arrays.
    """
    path = check_suffix(path)
    try:
        with path.open("rb") as stream:
            content = unwrap(ResultUnpickler(stream).load())
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: found no such file, expected results written with --out") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise DatasetError(f"{path}: found a file that is not a results pickle ({error})") from error
    if not isinstance(content, list):
        raise DatasetError(
            f"{path}: found {type(content).__name__}, expected a list with one result per image"
        )
    return content


def _columns(
    detections: Detections, num_classes: int, where: str
) -> tuple[NDArray[Any], list[float], list[int], list[int]]:
    """Boxes (N, 4) float64, scores, labels, and the order of the labels (stable)."""
    boxes = detections.boxes.detach().cpu().double().numpy()
    scores = detections.scores.detach().cpu().double().numpy()
    labels = detections.labels.detach().cpu().numpy()
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise DatasetError(
            f"{where}: found labels {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}; "
            "the model has another number of classes than the data"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise DatasetError(f"{where}: found NaN or infinite numbers, expected finite boxes and scores")
    return boxes, scores.tolist(), labels.tolist(), np.argsort(labels, kind="stable").tolist()


def _as_rle(mask: Any) -> Rle:
    """A mask of a result, RLE or bitmap, as RLE with bytes."""
    if not isinstance(mask, dict):
        return masks.encode(np.asarray(mask))
    counts = mask["counts"]
    return Rle(
        size=[int(v) for v in mask["size"]], counts=counts.encode() if isinstance(counts, str) else counts
    )
