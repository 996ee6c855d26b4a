"""The stamp of checkpoints: the training's, with the weights' digest, and what a resumed run was before."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detector.checkpoint.digest import weights_sha256
from detector.checkpoint.exchange import write_safetensors
from detector.checkpoint.files import Checkpoint, save_checkpoint
from detector.config import Config, config_from_text
from detector.engine.resume import weights_digest
from detector.lineage import models, reading, reproducing, stamp
from detector.lineage.stamp import LineageError

MACHINE = {"device": "cpu", "processes": 1, "threads": 2}


def config(rate: float = 0.1) -> Config:
    text = f"model = dict(type='A')\noptimizer = dict(type='SGD', lr={rate})\n"
    return config_from_text(text + "runner = dict(type='EpochBasedRunner', max_epochs=1)\n", name="c")


def made(
    seed: int = 3, *, rate: float = 0.1, resumed: Checkpoint | None = None, **facts: Any
) -> dict[str, Any]:
    known = {**models.training_facts(config(rate), deterministic=True), **facts}
    return models.training_stamp(
        known, config(rate), seeds={"seed": seed, "diff_seed": False}, machine=MACHINE, resumed=resumed
    )


def saved(stamped: dict[str, Any], iteration: int = 4) -> Checkpoint:
    return Checkpoint(state_dict=OrderedDict(), meta={"iter": iteration, "lineage": stamped})


def file(path: Path, stamped: dict[str, Any]) -> Path:
    state = OrderedDict(a=torch.ones(2))
    meta = {"iter": 4, "config": config().text(), "lineage": models.checkpoint_stamp(stamped, state)}
    save_checkpoint(path, {"meta": meta, "state_dict": state})
    return path


def test_a_digest_of_weights_knows_names_and_values() -> None:
    model = nn.BatchNorm1d(3)
    state = model.state_dict()
    assert weights_sha256(state) == weights_digest(model)
    assert weights_sha256({**state, "bias": state["bias"] + 1}) != weights_digest(model)
    assert weights_sha256({f"m.{k}": v for k, v in state.items()}) != weights_digest(model)


def test_a_checkpoint_says_what_it_was_made_from(tmp_path: Path) -> None:
    found = reading.read_stamp(file(tmp_path / "a.pth", made()))
    assert found["config"]["text"] == config().text()
    assert found["config"]["sha256"] == config().sha256()
    assert found["seeds"] == {"seed": 3, "diff_seed": False}
    assert found["options"] == {"deterministic": True, **MACHINE}
    assert found["weights_sha256"] == weights_sha256({"a": torch.ones(2)})
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["code"] is None or len(found["code"]["commit"]) == 40


def test_the_config_before_the_scaling_of_its_rate_is_kept() -> None:
    facts = models.training_facts(config(0.1), auto_scale_lr=True)
    found = models.training_stamp(facts, config(0.2), seeds={}, machine={}, resumed=None)
    assert "lr=0.1" in found["config"]["text"]
    assert made()["config"]["text"] == models.IN_META


def test_a_resumed_run_lists_what_was_otherwise() -> None:
    assert "resumed_from" not in made(resumed=saved(made()))
    second = made(4, resumed=saved(made(3), 4))
    assert second["resumed_from"] == [{"iteration": 4, "seeds": {"seed": 3, "diff_seed": False}}]
    third = made(4, resumed=saved(second, 6), code={"commit": "other", "dirty": False, "of": "package"})
    assert [set(entry) for entry in third["resumed_from"]] == [{"iteration", "seeds"}, {"iteration", "code"}]
    foreign = made(resumed=Checkpoint(state_dict=OrderedDict(), meta={"iter": 9}))
    assert foreign["resumed_from"] == [{"iteration": 9, "stamp": "none in the file"}]


def test_no_facts_no_stamp() -> None:
    assert models.training_stamp({}, config(), seeds={}, machine={}, resumed=None) == {}
    assert models.checkpoint_stamp({}, {"a": torch.ones(1)}) == {}


def test_safetensors_keep_it(tmp_path: Path) -> None:
    state = OrderedDict(a=torch.ones(2))
    stamped = models.checkpoint_stamp(made(), state)
    assert write_safetensors(tmp_path / "a.safetensors", state, {"lineage": stamped}) == ()
    assert reading.read_stamp(tmp_path / "a.safetensors")["seeds"] == stamped["seeds"]


def test_a_checkpoint_of_others_has_none(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pth", {"meta": {}, "state_dict": {"a": torch.ones(1)}})
    with pytest.raises(LineageError, match=r"a\.pth: found no lineage"):
        reading.read_stamp(tmp_path / "a.pth")


def test_what_is_made_with_a_checkpoint_names_it(tmp_path: Path) -> None:
    state = OrderedDict(a=torch.ones(2))
    loaded = Checkpoint(state_dict=state, meta={"lineage": made()})
    models.note_checkpoint(config(), "w.pth", loaded)  # nobody collects
    with stamp.collecting(command=["detector", "test"]):
        models.note_checkpoint(config(), "w.pth", loaded)
        found = stamp.current() or {}
    assert found["checkpoint"]["weights_sha256"] == weights_sha256(state)
    assert found["checkpoint"]["trained"]["seeds"]["seed"] == 3
    assert found["config"]["sha256"] == config().sha256()


def test_the_commands_of_a_checkpoint(tmp_path: Path) -> None:
    code = {"commit": "c" * 40, "dirty": True, "of": "package"}
    recipe = reproducing.recipe(file(tmp_path / "a.pth", made(code=code)), tmp_path / "r")
    clone, checkout, sync, train = recipe.lines_of_commands()
    place = tmp_path / "r"
    assert clone.startswith("git clone --quiet ")
    assert checkout == f"git -C {place}/code checkout --quiet {'c' * 40}"
    assert sync == f"uv sync --quiet --project {place}/code"
    assert train == (
        f"OMP_NUM_THREADS=2 PYTHONSAFEPATH=1 uv run --project {place}/code --no-sync python -m detector "
        f"train {place}/c.py --work-dir {place}/work --seed 3 --device cpu --deterministic"
    )
    assert "changes beyond commit cccccccccccc" in recipe.notes[0]
    assert config_from_text((place / "c.py").read_text()).sha256() == config().sha256()


def test_a_changed_config_is_noticed(tmp_path: Path) -> None:
    stamped = made()
    stamped["config"]["sha256"] = "0" * 64
    with pytest.raises(LineageError, match="its stamp says 000000000000"):
        reproducing.recipe(file(tmp_path / "a.pth", stamped), tmp_path / "r", here=True)


def test_a_run_is_not_mixed_with_an_earlier_one(tmp_path: Path) -> None:
    recipe = reproducing.recipe(file(tmp_path / "a.pth", made()), tmp_path / "r", here=True)
    (tmp_path / "r/work/old").mkdir(parents=True)
    with pytest.raises(LineageError, match="expected an empty folder"):
        reproducing.run(recipe, tmp_path / "r", print)
