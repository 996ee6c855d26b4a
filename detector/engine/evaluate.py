"""Running a checkpoint over a data set: what `detector test` and the pipeline's evaluation do."""

# ruff: noqa: PT028 - `test` is a command here, not a test case

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detector.build import build_model
from detector.checkpoint.files import load_checkpoint
from detector.checkpoint.load import load_state
from detector.config import Config
from detector.data.datasets import build_dataset
from detector.data.loader import build_test_loader
from detector.engine import distributed
from detector.engine.checks import check_keys
from detector.engine.gathering import Exchange, open_exchange
from detector.engine.interrupts import Interrupted
from detector.engine.joined_split import TestData, as_test_data
from detector.engine.placement import place_model
from detector.engine.predicting import finite, predict_images
from detector.engine.preflight import before_testing
from detector.engine.scoring import (
    ImageId,
    Metrics,
    Results,
    evaluate_results,
    format_results,
    read_results,
    write_metrics,
    write_results,
)
from detector.engine.settings import LOADER_KEYS
from detector.errors import CheckpointError, ConfigError
from detector.lineage.models import note_checkpoint, note_data
from detector.progress import Progress
from detector.structures.samples import Batch, Detections

__all__ = [
    "ImageId",
    "Metrics",
    "Results",
    "evaluate_results",
    "format_results",
    "infer_dataset",
    "load_model",
    "read_results",
    "run_inference",
    "split_dataset",
    "test",
    "write_metrics",
    "write_results",
]

EMPTY = Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
logger = logging.getLogger(__name__)


def split_dataset(config: Config, split: str = "test") -> TestData:
    """The config's data set of a split, with its test pipeline; several are joined.

    Raises:
        ConfigError: the config has no such split, or one that repeats or draws images.
        DatasetError: annotations or images are missing or do not fit the classes.
    """
    settings = (config.data.get("data") or {}).get(split)
    if settings is None:
        raise ConfigError(
            f"{config.path}: data.{split}: found nothing; expected a data set dict(type=..., ann_file=...)."
        )
    where = f"data.{split}"
    return as_test_data(build_dataset(settings, test_mode=True, where=where), f"{config.path}: {where}")


@torch.inference_mode()
def run_inference(
    model: nn.Module,
    loader: Iterable[Sequence[Batch]],
    device: torch.device,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_result: Callable[[ImageId, Detections], None] | None = None,
) -> Results:
    """Detections of every image the loader gives to this process.

    What a model finds with infinite numbers no metric can place: it is left out, and one warning counts it.

    Args:
        model: detector in eval mode on ``device``.
        loader: yields one Batch per view.
        device: where batches go.
        progress: advanced by images.
        should_stop: asked between batches.
        on_result: called with the id and the detections of each image, in turn; to draw them.

    Raises:
        Interrupted: ``should_stop`` said so.
        ConfigError: several views per image (test-time augmentation), and a model that cannot merge them.
    """
    results: Results = {}
    lost: dict[ImageId, int] = {}
    for views in loader:
        if should_stop is not None and should_stop():
            raise Interrupted(15)
        metas = views[0].metas
        detections = predict_images(model, [view.to(device) for view in views])
        for meta, found in zip(metas, detections, strict=True):
            results[meta.image_id], count = finite(found.cpu())
            if count:
                lost[meta.image_id] = count
            if on_result is not None:
                on_result(meta.image_id, results[meta.image_id])
        if progress is not None:
            progress.advance(len(metas))
    if lost:
        logger.warning(
            "%d detections of %d images have NaN or infinite numbers and are left out (first: image %s). "
            "Usual for a model hardly trained; otherwise look at its weights, or test in float32.",
            sum(lost.values()), len(lost), next(iter(lost)),
        )  # fmt: skip
    return results


def infer_dataset(
    model: nn.Module,
    dataset: TestData,
    device: torch.device,
    *,
    loader_settings: Mapping[str, Any],
    what: str,
    should_stop: Callable[[], bool] | None = None,
    exchange: Exchange | None = None,
    on_result: Callable[[ImageId, Detections], None] | None = None,
) -> tuple[Results, int]:
    """Results of a whole data set: each process does its part, process 0 gets them all, by files.

    Args:
        model: detector in eval mode on ``device``.
        dataset: from ``split_dataset``.
        device: where batches go.
        loader_settings: samples_per_gpu and workers_per_gpu.
        what: text of the progress bar.
        should_stop: asked between batches.
        exchange: from ``open_exchange``; None when there is one process.
        on_result: called with the id and the detections of each image of this process.

    Returns:
        (results by image id in data-set order, number of batches); on other processes than 0 only their own
        part.
    """
    loader = build_test_loader(
        dataset,
        samples_per_gpu=int(loader_settings["samples_per_gpu"]),
        workers_per_gpu=int(loader_settings["workers_per_gpu"]),
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    size = int(loader_settings["samples_per_gpu"])
    total = len(dataset) if distributed.world_size() == 1 else None
    with contextlib.nullcontext() if exchange is None else exchange.telling():
        try:
            with Progress(total, what, enabled=distributed.rank() == 0) as progress:
                results = run_inference(
                    model, loader, device, progress=progress, should_stop=should_stop, on_result=on_result
                )
        finally:
            loader.close()
        if exchange is not None and exchange.rank != 0:
            exchange.hand_in(results)
    if exchange is not None and exchange.rank == 0:
        results = exchange.collect(results)
    if distributed.rank() == 0:
        results = {image_id: results.get(image_id, EMPTY) for image_id in dataset.image_ids}
    return results, -(-len(dataset) // size)


def test(
    config: Config,
    checkpoint: str | Path,
    *,
    split: str = "test",
    dataset: TestData | None = None,
    out: str | Path | None = None,
    score_threshold: float | None = None,
    device: str | None = None,
    tmpdir: str | Path | None = None,
    on_result: Callable[[ImageId, Detections], None] | None = None,
    prepare: Callable[[nn.Module, torch.device], nn.Module] | None = None,
) -> Results:
    """Run a checkpoint on a split of its config's data.

    Args:
        config: gives model, data and loader.
        checkpoint: file of this project or of MMDetection 2.x.
        split: 'test', 'val' or 'train'.
        dataset: the split's data set if it is built already.
        out: results file to write, .pkl.
        score_threshold: lowest score of a detection, in place of the config's.
        device: 'cpu', 'cuda:0' ...; None for a GPU if there is one.
        tmpdir: folder shared by all processes.
        on_result: called with the id and the detections of each image of this process, as the test goes on.
        prepare: turns the loaded model on its device into the one that runs.

    Returns:
        detections by image id, in the data set's order (process 0).

    Raises:
        CheckpointError: the file does not fit the model or was trained for classes in another order.
    """
    where = distributed.resolve_device(device)
    data = dataset if dataset is not None else split_dataset(config, split)
    loader_settings = config.data["data"].get(f"{split}_dataloader") or {
        "samples_per_gpu": 1,
        "workers_per_gpu": 2,
    }
    check_keys(f"data.{split}_dataloader", loader_settings, LOADER_KEYS)
    before_testing(config, data, out=out)
    options = {"split": split, "score_threshold": score_threshold, "device": str(where)}
    note_data(config.data["data"].get(split), **options, threads=torch.get_num_threads())
    model = load_model(config, checkpoint, class_names=data.class_names, score_threshold=score_threshold)
    model = place_model(model, where, config.data)
    running = model if prepare is None else prepare(model, where)
    exchange = open_exchange(Path(tmpdir or ".dist_test"))
    results, _ = infer_dataset(
        running,
        data,
        where,
        loader_settings=loader_settings,
        what=f"test {split}",
        exchange=exchange,
        on_result=on_result,
    )
    if exchange is not None and exchange.rank == 0:
        exchange.close()
    if out is not None and distributed.rank() == 0:
        write_results(out, data, results, proposals=model.num_classes is None)
    return results


def load_model(
    config: Config,
    checkpoint: str | Path,
    *,
    class_names: Sequence[str],
    score_threshold: float | None = None,
) -> nn.Module:
    """The config's model with a checkpoint's weights, in eval mode, on the CPU.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape, or the classes are in another
            order.
    """
    model_cfg = with_score_threshold(config.data["model"], score_threshold)
    top_level = with_score_threshold({"test_cfg": config.data.get("test_cfg")}, score_threshold)
    model = build_model(model_cfg, training=False, test_cfg=top_level["test_cfg"])
    file = load_checkpoint(Path(checkpoint))
    check_classes(file.meta.get("CLASSES"), class_names, where=str(checkpoint))
    note_checkpoint(config, checkpoint, file)
    load_state(model, file, strict=True)
    return model.eval()


def check_classes(trained: Sequence[str] | None, wanted: Sequence[str], *, where: str) -> None:
    """Refuse a checkpoint whose labels mean other classes than the data set's.

    Raises:
        CheckpointError: a class stands at another position, or the numbers of classes differ.
    """
    if not trained:
        return
    names = [trained] if isinstance(trained, str) else list(trained)
    moved = [name for i, name in enumerate(wanted) if name in names and (i >= len(names) or names[i] != name)]
    if len(names) != len(wanted) or moved:
        raise CheckpointError(
            f"{where}: trained for {len(names)} classes "
            f"({', '.join(names[:8])}{' …' if len(names) > 8 else ''}); the data set has "
            f"{len(wanted)} ({', '.join(list(wanted)[:8])}{' …' if len(wanted) > 8 else ''}); expected the "
            "same ones in the same order. "
            "Set classes=(…) of the data set in the config to the checkpoint's order, or take another "
            "checkpoint."
        )
    if names != list(wanted):
        logger.warning("%s: trained for classes %s, the data set names them %s", where, names, list(wanted))


def with_score_threshold(model_cfg: Mapping[str, Any], threshold: float | None) -> dict[str, Any]:
    """A copy of a model config with another ``score_thr`` throughout ``test_cfg``; None changes nothing."""

    def replaced(node: Any, inside: bool) -> Any:
        if isinstance(node, Mapping):
            return {
                key: threshold
                if inside and key == "score_thr"
                else replaced(value, inside or key == "test_cfg")
                for key, value in node.items()
            }
        return type(node)(replaced(item, inside) for item in node) if isinstance(node, list | tuple) else node

    return dict(model_cfg) if threshold is None else dict(replaced(model_cfg, False))
