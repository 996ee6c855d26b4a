"""Use a detector from python: ``init_detector``, ``inference_detector``, and drawn results.

Results are in MMDetection's form: per image a list over classes of (n, 5) float32 arrays x1, y1, x2, y2,
score in pixels of the original image; with masks a tuple of that list and a list over classes of RLE lists.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MethodType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.build import build_model
from detector.checkpoint.files import load_checkpoint
from detector.checkpoint.load import load_state
from detector.checkpoint.weights import resolve_weights
from detector.config import Config, load_config
from detector.config.run_settings import replace_image_to_tensor
from detector.data.collate import collate_views
from detector.data.datasets import DATASETS
from detector.data.datasets.base import DetectionDataset
from detector.data.datasets.classes import read_classes
from detector.data.transforms import Pipeline, Sample, build_pipeline
from detector.data.transforms.loading import read_image
from detector.engine import distributed
from detector.engine.placement import place_model
from detector.errors import ConfigError
from detector.evaluation.results import MmdetResult, from_mmdet, to_mmdet
from detector.structures.samples import Detections, ImageMeta
from detector.visualize import draw_detections

Image = NDArray[np.uint8]
ImageSource = str | Path | Image
View = tuple[Tensor, ImageMeta]

#: images per call of the model; bounds the memory whatever the length of the list
MAX_BATCH = 8

logger = logging.getLogger(__name__)


def init_detector(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str = "cuda:0",
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a detector for inference.

    Args:
        config: config file, name, or a loaded config.
        checkpoint: weights, a path or an address; None leaves the model with the values it was built with.
        device: 'cuda:0', 'cpu' ...
        cfg_options: dotted keys over the config.

    Returns:
        the model in eval mode, with ``model.cfg`` (the Config), ``model.CLASSES`` and ``model.show_result``.

    Raises:
        ConfigError: the config cannot be read or built.
        CheckpointError: the weights do not fit.
        MachineError: the device is not there.
    """
    loaded = config if isinstance(config, Config) else load_config(config, cfg_options)
    where = distributed.resolve_device(device)
    model: Any = build_model(loaded.data["model"], training=False, test_cfg=loaded.data.get("test_cfg"))
    classes: tuple[str, ...] | None = None
    if checkpoint is not None:
        remote = "://" in str(checkpoint)
        file = load_checkpoint(resolve_weights(str(checkpoint)) if remote else Path(checkpoint))
        load_state(model, file, strict=True)
        stored = file.meta.get("CLASSES")
        classes = ((stored,) if isinstance(stored, str) else tuple(stored)) if stored else None
    model.CLASSES = _class_names(model, classes or _config_classes(loaded))
    model.cfg = loaded
    model.show_result = MethodType(show_result, model)
    return place_model(model, where, loaded.data).eval()


@torch.inference_mode()
def inference_detector(
    model: nn.Module, imgs: ImageSource | Sequence[ImageSource]
) -> MmdetResult | list[MmdetResult]:
    """Detect objects in one image or several.

    Args:
        model: from ``init_detector``.
        imgs: path, (H, W, 3) uint8 BGR array, or a list or tuple of them.

    Returns:
        one result, or a list of them for a list.

    Raises:
        DatasetError: an image cannot be read.
    """
    many = isinstance(imgs, list | tuple)
    sources = cast(Sequence[ImageSource], imgs) if many else [cast(ImageSource, imgs)]
    count = _num_labels(model)
    results = [to_mmdet(found, count) for found in detect(model, sources)]
    return results if many else results[0]


@torch.inference_mode()
def detect(model: nn.Module, sources: Sequence[ImageSource]) -> list[Detections]:
    """Detections of images, in their order.

    Only neighbours of one padded size share a batch, at most MAX_BATCH of them: the padding that another
    size needs would change the results.
    """
    steps = test_pipeline(cast(Any, model).cfg)
    rng = np.random.default_rng(0)
    views = (_single_view(steps(_sample(source), rng)) for source in sources)
    device = next(model.parameters()).device
    results: list[Detections] = []
    for group in _equal_sizes(views):
        batch = collate_views([[view] for view in group])[0].to(device)
        found: list[Detections] = cast(Any, model).predict(batch, rescale=True)
        results += [detections.cpu() for detections in found]
    return results


def _single_view(views: Sequence[Sample]) -> View:
    """The only view of an image.

    Raises:
        ConfigError: the pipeline gives another number of views.
    """
    if len(views) != 1:
        raise ConfigError(
            f"test pipeline: found {len(views)} views per image; expected 1. Use one img_scale and "
            "flip=False in MultiScaleFlipAug."
        )
    return views[0].image_tensor(), views[0].meta()


def _equal_sizes(views: Iterable[View]) -> Iterator[list[View]]:
    """Neighbours of one size, at most MAX_BATCH together."""
    group: list[View] = []
    for view in views:
        if group and (len(group) == MAX_BATCH or group[0][0].shape != view[0].shape):
            yield group
            group = []
        group.append(view)
    if group:
        yield group


def test_pipeline(config: Config) -> Pipeline:
    """The pipeline of the config's test data, for images of different sizes in one batch.

    Raises:
        ConfigError: the config has none.
    """
    data = config.data.get("data") or {}
    settings = data.get("test") or data.get("val") or {}
    settings = settings[0] if isinstance(settings, list | tuple) else settings
    steps = settings.get("pipeline") or config.data.get("test_pipeline")
    if not steps:
        raise ConfigError(
            f"{config.path}: data.test.pipeline: found none; expected the transforms of a test image."
        )
    return build_pipeline(replace_image_to_tensor(steps), where="data.test.pipeline")


test_pipeline.__test__ = False  # type: ignore[attr-defined]  # not a test case, whatever pytest thinks of the name


def show_result(
    model: nn.Module,
    img: ImageSource,
    result: Any,
    score_thr: float = 0.3,
    out_file: str | Path | None = None,
    **_: Any,
) -> Image:
    """Draw a result of ``inference_detector``: the (H, W, 3) BGR picture, also written to ``out_file``."""
    image = read_image(str(img)) if isinstance(img, str | Path) else img
    detections = from_mmdet(result)
    return draw_detections(
        cast(Image, image), detections, cast(Any, model).CLASSES, score_thr=score_thr, out_file=out_file
    )


def draw_results(
    dataset: DetectionDataset,
    results: Mapping[int | str, Detections],
    folder: Path,
    *,
    score_thr: float = 0.3,
) -> list[Path]:
    """Draw every image of a data set with its detections into ``folder``.

    Returns:
        the written files, as ``drawing_paths`` names them.

    Raises:
        ConfigError: a drawing would replace an image of the data set.
    """
    paths = drawing_paths(dataset, folder)
    for i, path in enumerate(paths):
        info = dataset.image_info(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = read_image(str(dataset.img_prefix / info["file_name"]))
        draw_detections(
            image,
            results[info["id"]],
            dataset.class_names,
            palette=dataset.palette,
            score_thr=score_thr,
            out_file=path,
        )
    return paths


def drawing_paths(dataset: DetectionDataset, folder: Path) -> list[Path]:
    """Where the drawing of each image goes: its path below img_prefix, or its bare name if it lies elsewhere.

    Raises:
        ConfigError: a drawing would replace an image of the data set.
    """
    # '..' is taken out of the text alone: links stay as they are named
    root = Path(os.path.normpath(dataset.img_prefix.absolute()))
    sources = [Path(os.path.normpath(root / dataset.image_info(i)["file_name"])) for i in range(len(dataset))]
    originals = {source.resolve() for source in sources}
    paths: dict[Path, None] = {}
    for i, source in enumerate(sources):
        inside = source.is_relative_to(root)
        path = folder / (source.relative_to(root) if inside else source.name)
        if path in paths:  # two images from elsewhere with one name
            path = path.with_name(f"{path.stem}_{i}{path.suffix}")
        if path.resolve() in originals or (path.exists() and path.samefile(source)):
            raise ConfigError(
                f"--show-dir {folder}: the drawing {path} would replace an image of the data set; expected a "
                "folder outside of the data. Name another one."
            )
        paths[path] = None
    return list(paths)


def _sample(source: ImageSource) -> Sample:
    """The start of the pipeline for a path or an array."""
    if isinstance(source, str | Path):
        return Sample(filename=str(source), ori_filename=str(source))
    return Sample(image=source)


def _config_classes(config: Config) -> tuple[str, ...]:
    """Classes of the config's test data, for a checkpoint that names none."""
    data = config.data.get("data") or {}
    settings = data.get("test") or data.get("val") or {}
    settings = settings[0] if isinstance(settings, list | tuple) else settings
    if settings.get("classes"):
        return read_classes(settings["classes"], where="data.test.classes")
    kind = DATASETS.get(str(settings.get("type")))
    return kind.CLASSES if kind is not None else ()


def _num_labels(model: nn.Module) -> int:
    """Lists of a result: the model's classes, or one of proposals."""
    return int(cast(Any, model).num_classes or 1)


def _class_names(model: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    """A name for each label of the model: the given ones if they fit, else numbered ones."""
    if cast(Any, model).num_classes is None:
        return ("object",)
    count = _num_labels(model)
    if len(names) == count:
        return names
    logger.warning(
        "classes: found %d names for a model of %d classes; its labels are called 'class 0' to 'class %d'. "
        "Set data.test.classes, or use a checkpoint that names its classes.",
        len(names),
        count,
        count - 1,
    )
    return tuple(f"class {label}" for label in range(count))
