"""The official Cityscapes instance-level metric, run by cityscapesscripts on any Cityscapes-like folder.

The script's functions are called with settings of our own, so that nothing is shared between calls: no cache
beside the installed package, no `matches.json` in the current folder, no prints. Objects below 100 pixels
are ignored, as in the official benchmark, also when the images are smaller than its 2048 x 1024.

Source: Cordts et al., The Cityscapes Dataset (2016), section 4.3; `evalInstanceLevelSemanticLabeling.py`.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import DatasetError
from detector.evaluation.annotations import ImageId
from detector.evaluation.submissions.cityscapes import write_predictions
from detector.structures.samples import Detections

_SCRIPT_LOCK = threading.Lock()


def evaluate_cityscapes(
    results: Mapping[ImageId, Detections],
    *,
    file_names: Mapping[ImageId, str],
    class_names: Sequence[str],
    gt_dir: str | Path,
    out_dir: str | Path,
) -> dict[str, float]:
    """Write the predictions in the server's format and score them with the official script.

    Args:
        results: detections with masks by image id; an image without an entry has no predictions.
        file_names: `<city>/<base>_leftImg8bit.png` of every image to score, by image id.
        class_names: Cityscapes' name of each label.
        gt_dir: the split's ground truth, e.g. `gtFine/val`.
        out_dir: where the text and png files are written; files there of an earlier call are replaced.

    Returns:
        `cityscapes_AP`, `cityscapes_AP50`, and `cityscapes_AP/<class>`, `cityscapes_AP50/<class>` of the
        classes that have ground truth; in [0, 1].

    Raises:
        DatasetError: a ground-truth file is missing, there is no object to score, or results have no masks.
    """
    out_dir = Path(out_dir)
    truth = [_truth_path(Path(gt_dir), name) for name in file_names.values()]
    if not truth:
        raise DatasetError(f"{gt_dir}: found no image to score, expected at least one")
    texts = write_predictions(results, file_names=file_names, class_names=class_names, out_dir=out_dir)
    with _official_script() as script:
        precision = _score(script, texts, truth, out_dir)
        names = _class_names(script)
    return _metrics(precision, names, Path(gt_dir))


def _score(script: Any, texts: Sequence[Path], truth: Sequence[Path], out_dir: Path) -> NDArray[np.float64]:
    """Average precision (classes, overlaps); NaN for a class without ground truth."""
    settings = copy.copy(script.args)
    settings.predictionPath = str(out_dir.resolve())
    settings.predictionWalk = None
    settings.quiet = True
    settings.distanceAvailable = False
    script.setInstanceLabels(settings)
    paths = [str(path.resolve()) for path in truth]
    try:
        instances = script.instances2dict(paths, False)
        matches = script.matchGtWithPreds([str(path) for path in texts], paths, instances, settings)
    except SystemExit as error:  # the script prints its reason and exits
        raise DatasetError(
            f"{out_dir}: the official Cityscapes script refused the prediction files; expected "
            "`<base>_pred.txt` and masks below this folder, without spaces in its path"
        ) from error
    names = list(settings.instLabels)
    return np.array([[_one_score(script, matches, settings, n, o) for o in settings.overlaps] for n in names])


def _one_score(script: Any, matches: Any, settings: Any, name: str, overlap: float) -> float:
    """Average precision of one class at one overlap.

    The script fails with an IndexError where a class has objects, but all its predictions are ignored; that
    scores 0.
    """
    one = copy.copy(settings)
    one.instLabels, one.overlaps = [name], np.array([overlap])
    try:
        return float(script.evaluateMatches(matches, one)[0, 0, 0])
    except IndexError:
        return 0.0


def _metrics(precision: NDArray[np.float64], names: Sequence[str], gt_dir: Path) -> dict[str, float]:
    """Averages over the classes that have ground truth."""
    known = ~np.isnan(precision[:, 0])
    if not known.any():
        raise DatasetError(
            f"{gt_dir}: found no object of an instance class in the ground truth, expected some; "
            "this looks like a test split: use --format-only"
        )
    values = {
        "cityscapes_AP": float(precision[known].mean()),
        "cityscapes_AP50": float(precision[known, 0].mean()),
    }
    for name, row in zip(np.array(names)[known].tolist(), precision[known], strict=True):
        values[f"cityscapes_AP/{name}"] = float(row.mean())
        values[f"cityscapes_AP50/{name}"] = float(row[0])
    return values


def _class_names(script: Any) -> list[str]:
    """Names of the scored classes, in the script's order."""
    return [label.name for label in script.labels if label.hasInstances and not label.ignoreInEval]


def _truth_path(gt_dir: Path, file_name: str) -> Path:
    """The instance map of an image."""
    path = gt_dir / file_name.replace("_leftImg8bit.png", "_gtFine_instanceIds.png")
    if not path.is_file():
        raise DatasetError(
            f"{path}: found no such file, expected the instance map of image {file_name}; gt_dir must be "
            "the folder of the split (e.g. gtFine/val)"
        )
    return path


@contextlib.contextmanager
def _official_script() -> Iterator[ModuleType]:
    """The script's module, one user at a time, with the NumPy names it uses and NumPy lost."""
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script  # noqa: N813

    with _SCRIPT_LOCK:
        before = script.np
        if not hasattr(np, "in1d"):
            script.np = _OldNumpy()
        try:
            yield script
        finally:
            script.np = before


class _OldNumpy:
    """NumPy with ``in1d``, which left it in 2.4."""

    def __getattr__(self, name: str) -> Any:
        return np.isin if name == "in1d" else getattr(np, name)
