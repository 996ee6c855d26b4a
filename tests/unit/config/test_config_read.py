"""Files, bases, predefined variables, JSON and YAML, and the origin of every value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detector.config.origin import flattened
from detector.config.read import read_file, read_text
from detector.errors import ConfigError


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_bases_are_found_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        base__a_py="m = dict(x=1, y=dict(z=2))",
        base__b_py="_base_ = './c.py'\nb = 1",
        base__c_py="c = [1, 2]",
        run__top_py="_base_ = ['../base/a.py', '../base/b.py']\nm = dict(y=dict(w=3))\nc = [3]",
    )

    source = read_file(tmp_path / "run" / "top.py")

    assert source.data == {"m": {"x": 1, "y": {"z": 2, "w": 3}}, "b": 1, "c": [3]}
    assert [Path(f).name for f in source.files] == ["a.py", "c.py", "b.py", "top.py"]


def test_base_values_by_name_keep_their_type(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_py="n = 4\nm = dict(p=[1, 2])",
        t_py="_base_ = 'a.py'\nk = {{_base_.n}}\nq = dict(r={{ _base_.m.p }})\ns = _base_.n",
    )

    data = read_file(tmp_path / "t.py").data

    assert (data["k"], data["q"], data["s"]) == (4, {"r": [1, 2]}, 4)


def test_file_names_are_inserted(tmp_path: Path) -> None:
    write(
        tmp_path,
        name_py="a = 'runs/{{ fileBasenameNoExtension }}'\n"
        "b = '{{fileBasename}}{{fileExtname}}'\nc = '{{fileDirname}}'",
    )

    data = read_file(tmp_path / "name.py").data

    assert data == {"a": "runs/name", "b": "name.py.py", "c": tmp_path.as_posix()}


def test_json_and_yaml(tmp_path: Path) -> None:
    write(tmp_path, a_py="n = 4\nm = dict(x=1)")
    (tmp_path / "t.json").write_text(
        '{\n"_base_": "a.py",\n"m": {"y": [1,\n {"z": null}]}, "k": {{_base_.n}}\n}'
    )
    (tmp_path / "t.yaml").write_text("_base_: [a.py]\nm:\n  y: [1, 2]\n  _delete_: true\n")

    from_json, from_yaml = read_file(tmp_path / "t.json"), read_file(tmp_path / "t.yaml")

    assert from_json.data == {"n": 4, "m": {"x": 1, "y": [1, {"z": None}]}, "k": 4}
    assert flattened(from_json.data, from_json.tree)["m.y.1.z"].line == 4
    assert from_yaml.data == {"n": 4, "m": {"y": [1, 2]}}


def test_yaml_tags_build_no_objects(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("a: !!python/object/apply:os.getcwd []\n")

    with pytest.raises(ConfigError, match="not valid YAML"):
        read_file(tmp_path / "t.yaml")


def test_every_leaf_knows_its_line(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_py="p = [\n  dict(t='L'),\n  dict(t='R',\n       s=(1, 2)),\n]\nd = dict(train=dict(p=p, n=1))",
        t_py="_base_ = 'a.py'\n\nd = dict(\n    train=dict(n=2 +\n               3))\n"
        "e = dict(x=1)\ne.update(\n    y=2)\n",
    )
    source = read_file(tmp_path / "t.py")

    where = {key: (Path(o.file).name, o.line) for key, o in flattened(source.data, source.tree).items()}

    assert where["d.train.p.0.t"] == ("a.py", 2)
    assert where["d.train.p.1.s.1"] == ("a.py", 4)
    assert where["d.train.n"] == ("t.py", 4)
    assert (where["e.x"], where["e.y"]) == (("t.py", 6), ("t.py", 8))


def test_custom_imports_are_kept_and_reported_but_not_run(tmp_path: Path) -> None:
    write(
        tmp_path,
        evil_py="raise SystemExit(3)",
        t_py="custom_imports = dict(imports=['evil'], allow_failed_imports=False)",
    )

    source = read_file(tmp_path / "t.py")

    assert source.data["custom_imports"]["imports"] == ["evil"]
    assert "custom_imports is not run" in source.notes[0]


def test_deprecation_is_a_note_and_no_key() -> None:
    source = read_text("_deprecation_ = dict(expected='new.py')\na = 1")

    assert source.data == {"a": 1}
    assert "use new.py instead" in source.notes[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"t_py": "_base_ = 'missing.py'"}, r"missing\.py \(a _base_ of .*t\.py\): no such file"),
        (
            {"t_py": "_base_ = ['a.py', 'b.py']", "a_py": "x = 1", "b_py": "x = 2"},
            r"a\.py and b\.py both give 'x'",
        ),
        ({"t_py": "_base_ = 'a.py'", "a_py": "_base_ = 't.py'"}, "form a circle"),
        ({"t_py": "_base_ = 3"}, "expected a path or a list of paths"),
        ({"t_py": "a = 1\nb = (2"}, r"t\.py:2: not valid Python"),
        (
            {"t_py": "_base_ = 'a.py'\nm = dict(x=1)", "a_py": "m = 3"},
            r"t\.py:2: m is a dict here but 3 in .*a\.py:1",
        ),
        (
            {"t_py": "_base_ = 'a.py'\nm = {{_base_.no}}", "a_py": "m = 3"},
            r"t\.py:2: no base file gives _base_\.no",
        ),
        ({"t_py": "_base_ = 'a.py'\nm = 'x/{{_base_.m}}'", "a_py": "m = 3"}, r"t\.py:2: found \{\{_base_"),
        ({"t_py": "text = 1"}, "the top-level key 'text' cannot be used"),
        ({"t_py": "x = '{{$HOME:/x}}'"}, r"t\.py:1: found an environment variable"),
    ],
)
def test_what_cannot_be_read_names_file_line_and_remedy(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    write(tmp_path, **files)

    with pytest.raises(ConfigError, match=message):
        read_file(tmp_path / "t.py")


def test_a_text_in_memory_has_no_bases() -> None:
    assert read_text("a = dict(b=inf)", name="ckpt.pth").data == {"a": {"b": float("inf")}}
    with pytest.raises(ConfigError, match="no folder to find it in"):
        read_text("_base_ = 'x.py'")


def test_other_files_are_no_configs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a = 1")
    (tmp_path / "b.py").write_bytes(b"a = '\xff'")
    (tmp_path / "c.json").write_text(json.dumps([1]))

    with pytest.raises(ConfigError, match=r"expected one of \.py"):
        read_file(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match="expected UTF-8"):
        read_file(tmp_path / "b.py")
    with pytest.raises(ConfigError, match="expected named sections"):
        read_file(tmp_path / "c.json")
