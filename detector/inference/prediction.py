"""From images to detections: the test pipeline, batches of one size, the model.

Shapes: B images of H x W.
Boxes: xyxy, pixels of the original image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.config import Config
from detector.config.run_settings import replace_image_to_tensor
from detector.data.collate import collate_views
from detector.data.transforms import Pipeline, Sample, build_pipeline
from detector.data.transforms.loading import UnreadableImageError
from detector.engine.predicting import predict_images
from detector.errors import ConfigError, DatasetError
from detector.evaluation.results import MmdetResult, to_mmdet
from detector.inference.images import to_bgr, why_unreadable
from detector.inference.read_ahead import read_ahead
from detector.inference.sources import Frame
from detector.structures.samples import Batch, Detections, ImageMeta

#: a path, an array or a PIL image as ``to_bgr`` takes them, or a frame of a source
ImageSource: TypeAlias = Any
View: TypeAlias = tuple[Tensor, ImageMeta]

#: images per call of the model; bounds the memory whatever the length of the list
MAX_BATCH = 8

T = TypeVar("T")

logger = logging.getLogger(__name__)


def inference_detector(
    model: nn.Module, imgs: ImageSource | Sequence[ImageSource]
) -> MmdetResult | list[MmdetResult]:
    """Detect objects in one image or several.

    Args:
        model: from ``init_detector``.
        imgs: path, (H, W, 3) uint8 BGR array, or PIL image; or a list or tuple of them.

    Returns:
        one result in MMDetection's form, or a list of them for a list.

    Raises:
        DatasetError: an image cannot be read.
    """
    many = isinstance(imgs, list | tuple)
    count = num_labels(model)
    results = [to_mmdet(found, count) for found in detect(model, imgs if many else [imgs])]
    return results if many else results[0]


def predict(
    model: nn.Module,
    images: Batch | ImageSource | Iterable[ImageSource],
    *,
    batch_size: int = MAX_BATCH,
    rescale: bool = True,
) -> list[Detections] | Detections:
    """``model.predict``: typed detections of images, or of a batch that is ready for the network.

    Args:
        model: from ``init_detector``.
        images: one image (path, array, PIL image), or a list, a source or another iterable of them; or a
            Batch.
        batch_size: images per forward pass at most.
        rescale: of a Batch: boxes in pixels of the original images, else of the network input.

    Returns:
        detections of each image, in order; of one image its own.

    Raises:
        ConfigError: ``batch_size`` is no positive number.
        DatasetError: an image cannot be read.
    """
    if isinstance(images, Batch):
        found: list[Detections] = cast(Any, type(model)).predict(model, images, rescale=rescale)
        return found
    if _is_one_image(images):
        return detect(model, [images], batch_size=batch_size)[0]
    return detect(model, images, batch_size=batch_size)


def detect(
    model: nn.Module, sources: Iterable[ImageSource], *, batch_size: int = MAX_BATCH
) -> list[Detections]:
    """Detections of images, in their order; see ``detections_of``."""
    return list(detections_of(model, sources, batch_size=batch_size))


def detections_of(
    model: nn.Module, sources: Iterable[ImageSource], *, batch_size: int = MAX_BATCH
) -> Iterator[Detections]:
    """Detections of images one after the other, while the next ones are read and resized in a thread.

    A forward pass takes images whose padded size is the same, found among the next ``2 * batch_size``: the
    padding that another size needs would change the results.

    Raises:
        ConfigError: ``batch_size`` is no positive number, or the model cannot merge the pipeline's views.
        DatasetError: an image cannot be read.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: found {batch_size}; expected a positive number of images.")
    steps = test_pipeline(cast(Any, model).cfg)
    rng = np.random.default_rng(0)
    multiple = int(getattr(model, "input_multiple", 1))
    views = ([padded(view, multiple) for view in views_of(steps, source, rng)] for source in sources)
    if not (isinstance(sources, Sequence) and len(sources) < 2):
        views = cast(Any, read_ahead(views, depth=batch_size))
    for window in _chunks(views, 2 * batch_size):
        yield from _in_batches(model, window, batch_size)


def _in_batches(model: nn.Module, images: Sequence[list[View]], batch_size: int) -> list[Detections]:
    """Detections of some images in their order, by batches of one size."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, views in enumerate(images):
        groups.setdefault(tuple(view[0].shape for view in views), []).append(i)
    found: dict[int, Detections] = {}
    for members in groups.values():
        for chosen in _chunks(members, batch_size):
            found.update(zip(chosen, forward(model, [images[i] for i in chosen]), strict=True))
    return [found[i] for i in range(len(images))]


@torch.inference_mode()
def forward(model: nn.Module, images: Sequence[list[View]]) -> list[Detections]:
    """One pass of the model over images of one size; the detections are in host memory.

    Args:
        model: in eval mode.
        images: equally many views each, one or (test-time augmentation) more.

    Raises:
        ConfigError: several views, and a model for which that is not defined.
    """
    device = next(model.parameters()).device
    batches = [batch.to(device) for batch in collate_views([[*views] for views in images])]
    return [detections.cpu() for detections in predict_images(model, batches)]


def views_of(steps: Pipeline, source: ImageSource, rng: np.random.Generator) -> list[View]:
    """The network inputs of an image: one, or with test-time augmentation several.

    Raises:
        ConfigError: the pipeline leaves none.
        DatasetError: the image cannot be read.
    """
    sample = _sample(source)
    try:
        views = steps(sample, rng)
    except UnreadableImageError as error:
        raise DatasetError(why_unreadable(sample.filename or "")) from error
    if not views:
        raise ConfigError(
            "test pipeline: a step dropped the image; expected at least one view of it. Leave out steps that "
            "filter, such as FilterAnnotations."
        )
    return [(view.image_tensor(), view.meta()) for view in views]


def padded(view: View, multiple: int) -> View:
    """The view with zeros right and below up to multiples of ``multiple`` pixels."""
    image, meta = view
    height, width = (-(-side // multiple) * multiple for side in image.shape[-2:])
    if (height, width) == tuple(image.shape[-2:]):
        return view
    border = (0, width - image.shape[-1], 0, height - image.shape[-2])
    return functional.pad(image, border), replace(meta, pad_hw=(height, width))


def test_pipeline(config: Config) -> Pipeline:
    """The pipeline of the config's test data, for images of different sizes in one batch.

    Raises:
        ConfigError: the config has none.
    """
    settings = test_settings(config)
    steps = settings.get("pipeline") or config.data.get("test_pipeline")
    if not steps:
        raise ConfigError(
            f"{config.path}: data.test.pipeline: found none; expected the transforms of a test image."
        )
    return build_pipeline(replace_image_to_tensor(steps), where="data.test.pipeline")


test_pipeline.__test__ = False  # type: ignore[attr-defined]  # not a test case, whatever pytest thinks of the name


def test_settings(config: Config) -> dict[str, Any]:
    """The config's data set of ``data.test``, or of ``data.val``; of a list the first; or nothing."""
    data = config.data.get("data") or {}
    settings = data.get("test") or data.get("val") or {}
    return dict(settings[0] if isinstance(settings, list | tuple) else settings)


test_settings.__test__ = False  # type: ignore[attr-defined]  # as above


def num_labels(model: nn.Module) -> int:
    """Lists of a result: the model's classes, or one of proposals."""
    return int(cast(Any, model).num_classes or 1)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _is_one_image(images: Any) -> bool:
    """Whether this is an image and no collection of images."""
    from PIL import Image as Pillow

    return isinstance(images, str | Path | np.ndarray | Frame | Pillow.Image | Tensor)


def _sample(source: ImageSource) -> Sample:
    """The start of the pipeline for an image."""
    if isinstance(source, Frame):
        source = source.image() if source.path is None else source.path
    if isinstance(source, str | Path):
        return Sample(filename=str(source), ori_filename=str(source))
    return Sample(image=to_bgr(source))
