"""Stored proposals from the file through the pipeline to the batch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.data.collate import collate_views, pack_training
from detector.data.datasets import build_dataset
from detector.data.datasets.proposals import StoredProposals
from detector.data.transforms.catalog import build_pipeline
from detector.data.transforms.sample import Sample
from detector.engine.scoring import read_results, write_results
from detector.errors import ConfigError, DatasetError
from detector.evaluation.results import from_mmdet, save_results, segm_records, to_mmdet
from detector.structures.samples import Detections


def write(path: Path, content: Any) -> Path:
    save_results(path, content)
    return path


def regions(count: int, start: float = 0.0) -> Any:
    """(count, 5) boxes of 10 x 8 pixels from ``start`` on."""
    x = start + np.arange(count, dtype=np.float32)
    return np.stack([x, x, x + 10, x + 8, np.linspace(1, 0, count, dtype=np.float32)], axis=1)


def with_proposals(section: dict[str, Any], path: Path, **limits: Any) -> dict[str, Any]:
    """A data set section whose pipeline loads and collects proposals."""
    steps = [dict(step) for step in section["pipeline"]]
    steps.insert(1, {"type": "LoadProposals", **limits})
    inner = steps[-1].get("transforms", steps)
    inner[-1] = {**inner[-1], "keys": [*inner[-1]["keys"], "proposals"]}
    return {**section, "pipeline": steps, "proposal_file": str(path)}


def test_arrays_with_and_without_scores_and_our_own_results(tmp_path: Path) -> None:
    entries = [regions(3), [regions(2)], regions(4)[:, :4], np.zeros((0, 5), np.float32)]
    found = StoredProposals(write(tmp_path / "p.pkl", entries), 4)
    assert [len(found[i]) for i in range(len(found))] == [3, 2, 4, 0]
    assert found[1].tolist() == regions(2)[:, :4].tolist()
    assert found.boxes.dtype == np.float32


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ([regions(1)], ["proposals of 1 images", "expected 2"]),
        ([regions(1), "x"], ["image 2 of 2", "found str"]),
        ([regions(1), regions(1)[:, :3]], ["image 2 of 2", "shape (1, 3)"]),
        ([regions(1), regions(1) * np.nan], ["NaN"]),
        ({"a": 1}, ["found dict", "expected a list"]),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, content: Any, parts: list[str]) -> None:
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DatasetError) as error:
        StoredProposals(path, 2)
    assert [part for part in (str(path), *parts) if part not in str(error.value)] == []


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    (tmp_path / "p.pkl").write_bytes(pickle.dumps([Bad()]))
    with pytest.raises(DatasetError, match="not a pickle of arrays"):
        StoredProposals(tmp_path / "p.pkl", 1)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(DatasetError, match="cannot be opened"):
        StoredProposals(tmp_path / "none.pkl", 1)


def test_training_samples_follow_resize_and_flip(ten: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "p.pkl", [regions(5, float(i)) for i in range(10)])
    section = with_proposals(ten.section(), path, num_max_proposals=3)
    section["pipeline"][4] = {"type": "RandomFlip", "flip_ratio": 1.0}
    dataset = build_dataset(section)
    image, targets, meta = dataset[0]
    assert meta.flip_direction == "horizontal"
    boxes = torch.from_numpy(regions(5)[:3, :4]) * torch.tensor(meta.scale_factor)
    width = meta.input_hw[1]
    wanted = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), dim=1)
    torch.testing.assert_close(targets.proposals, wanted)
    batch = pack_training([(image, targets, meta), dataset[1]]).batches()[0]
    assert batch.proposals is not None
    assert [len(p) for p in batch.proposals] == [3, 3]
    torch.testing.assert_close(batch.proposals[0], wanted)
    assert batch.to("cpu").proposals is not None


def test_images_left_out_in_training_do_not_shift_the_others(ten: Any, tmp_path: Path) -> None:
    ten.content["annotations"] = [a for a in ten.content["annotations"] if a["image_id"] != 0]
    path = write(tmp_path / "p.pkl", [regions(i) for i in range(10)])
    dataset: Any = build_dataset(with_proposals(ten.section(), path))
    assert len(dataset) == 9
    assert [len(dataset[i][1].proposals) for i in range(9)] == list(range(1, 10))


def test_test_views_carry_proposals(ten: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "p.pkl", [regions(i) for i in range(10)])
    section = with_proposals(ten.section(train=False), path)
    dataset = build_dataset(section, test_mode=True)
    views: Any = [dataset[2], dataset[3]]
    batches = collate_views(views)
    assert len(batches) == 2  # unflipped and flipped
    assert batches[0].targets is None
    assert [[len(p) for p in b.proposals or []] for b in batches] == [[2, 3], [2, 3]]


def test_a_pipeline_without_a_file_says_so(ten: Any) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DatasetError, match="Set proposal_file"):
        build_pipeline([{"type": "LoadProposals"}])(Sample(), rng)
    with pytest.raises(ConfigError, match="num_max_proposals"):
        build_pipeline([{"type": "LoadProposals", "num_max_proposals": 0}])
    with pytest.raises(ConfigError, match="Add LoadProposals"):
        build_pipeline([{"type": "Collect", "keys": ["img", "proposals"]}])(Sample(), rng)


def test_formatting_steps_of_the_dialect() -> None:
    steps = build_pipeline(
        [
            {"type": "ToTensor", "keys": ["proposals"]},
            {"type": "ToDataContainer", "fields": [{"key": "proposals", "stack": False}]},
        ]
    )
    sample = Sample(proposals=np.zeros((1, 4), np.float32))
    assert steps(sample, np.random.default_rng(0)) == [sample]
    with pytest.raises(ConfigError, match="proposal"):
        build_pipeline([{"type": "ToTensor", "keys": ["proposal"]}])
    with pytest.raises(ConfigError, match="'key'"):
        build_pipeline([{"type": "ToDataContainer", "fields": [{"stack": True}]}])


def test_masks_are_ranked_by_scores_of_their_own() -> None:
    rle: Any = {"size": [2, 2], "counts": b"04"}
    found = Detections(
        boxes=torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]]),
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([1, 0]),
        masks=[rle, rle],
        mask_scores=torch.tensor([0.3, 0.6]),
    )
    records = segm_records(found, (5, 6), where="image")
    assert [round(r["score"], 6) for r in records] == [0.6, 0.3]
    again = from_mmdet(to_mmdet(found, 2))
    assert again.mask_scores is not None
    assert again.mask_scores.tolist() == pytest.approx([0.6, 0.3])
    assert again.scores.tolist() == pytest.approx([0.8, 0.9])


def test_proposal_models_write_what_is_read(ten: Any, tmp_path: Path) -> None:
    section = ten.section(train=False)
    dataset: Any = build_dataset(section, test_mode=True)
    rows = torch.from_numpy(regions(3))
    one = Detections(boxes=rows[:, :4], scores=rows[:, 4], labels=torch.zeros(3, dtype=torch.long))
    path = write_results(tmp_path / "p.pkl", dataset, dict.fromkeys(dataset.image_ids, one), proposals=True)
    assert StoredProposals(path, 10)[9].tolist() == rows[:, :4].tolist()
    assert read_results(path, dataset)[0].scores.tolist() == rows[:, 4].tolist()
