"""detector print-config."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from detector.commands import print_config
from detector.config.read import read_text
from detector.errors import ConfigError


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    parser = argparse.ArgumentParser()
    print_config.add_parser(parser.add_subparsers())
    args = parser.parse_args(["print-config", *arguments])
    assert args.run(args) == 0
    return capsys.readouterr().out


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "base.py").write_text(
        "optimizer = dict(\n    type='SGD',\n    lr=0.1,\n    custom={'a.b': 1})\ntotal_epochs = 2"
    )
    (tmp_path / "top.py").write_text("_base_ = 'base.py'\noptimizer = dict(lr=0.2)")
    return str(tmp_path / "top.py")


@pytest.mark.parametrize("flag", ["--cfg-options", "--options"])
def test_prints_text_that_reads_back(capsys: pytest.CaptureFixture[str], config: str, flag: str) -> None:
    data = read_text(run(capsys, config, flag, "optimizer.type=Adam", "seed=3")).data

    assert data["optimizer"] == {"type": "Adam", "lr": 0.2, "custom": {"a.b": 1}}
    assert (data["seed"], data["runner"]["max_epochs"]) == (3, 2)


def test_origin_names_file_and_line(capsys: pytest.CaptureFixture[str], config: str) -> None:
    lines = run(capsys, config, "--origin", "--cfg-options", "seed=3").splitlines()
    rows = {row.split("  ", 1)[1].strip(): Path(row.split("  ", 1)[0]).name for row in lines}

    assert rows["optimizer.type = 'SGD'"] == "base.py:2"
    assert rows["optimizer.custom.a.b = 1"] == "base.py:4"
    assert rows["optimizer.lr = 0.2"] == "top.py:2"
    assert rows["seed = 3"] == "--cfg-options"


def test_both_spellings_of_options_at_once(capsys: pytest.CaptureFixture[str], config: str) -> None:
    with pytest.raises(ConfigError, match="both given"):
        run(capsys, config, "--options", "seed=1", "--cfg-options", "seed=2")
