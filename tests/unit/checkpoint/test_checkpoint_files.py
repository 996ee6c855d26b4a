import datetime
import fractions
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.checkpoint import unpickle
from detector.checkpoint.files import load_checkpoint, manifest_path, save_checkpoint, verify_checkpoint
from detector.checkpoint.unpickle import Foreign, NumpyDtype, rebuild_tensor
from detector.errors import CheckpointError


def state():
    shared = torch.arange(6, dtype=torch.float32)
    result = OrderedDict(
        a=shared[:3],
        b=shared[3:],
        c=torch.arange(6).reshape(2, 3).T,
        half=torch.ones(2, dtype=torch.float16),
        n=torch.tensor(3),
    )
    result._metadata = OrderedDict({"": {"version": 1}, "head": {"version": 2}})
    return result


def payload():
    meta = {
        "CLASSES": ("cat", "dog"),
        "best": np.float64(0.5),
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "path": Path("a/b"),
        "when": datetime.date(2020, 1, 2),
        "thing": fractions.Fraction(1, 3),
    }
    return {"meta": meta, "state_dict": state(), "optimizer": {"state": {0: {"step": 3}}}}


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_round_trip_with_inert_foreign_objects(tmp_path, new_format):
    path = tmp_path / "x.pth"
    torch.save(payload(), path, _use_new_zipfile_serialization=new_format)
    got = load_checkpoint(path)
    assert [
        torch.equal(v, got.state_dict[k]) and v.dtype == got.state_dict[k].dtype for k, v in state().items()
    ] == [True] * 5
    assert got.state_dict._metadata["head"] == {"version": 2}
    assert got.meta["CLASSES"] == ("cat", "dog")
    assert got.meta["best"] == 0.5
    np.testing.assert_array_equal(got.meta["array"], np.arange(6).reshape(2, 3))
    assert got.meta["path"] == "a/b"
    assert isinstance(got.meta["when"], Foreign)
    assert isinstance(got.meta["thing"], Foreign)
    assert got.foreign == ("datetime.date", "fractions.Fraction")
    assert got.optimizer == {"state": {0: {"step": 3}}}


def test_a_bare_state_dict(tmp_path):
    torch.save(state(), tmp_path / "x.pth")
    got = load_checkpoint(tmp_path / "x.pth")
    assert got.meta == {}
    assert got.state_dict._metadata["head"] == {"version": 2}


class Call:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def hostile(target):
    touch = f"touch {target}"
    return {
        "os.system": Call(os.system, touch),
        "subprocess.run": Call(subprocess.run, ["touch", str(target)]),
        "popen": Call(subprocess.Popen, ["touch", str(target)]),
        "eval": Call(eval, f"open({str(target)!r}, 'w')"),
        "exec": Call(exec, f"open({str(target)!r}, 'w')"),
        "open": Call(open, str(target), "w"),
        "path.touch": Call(Path.touch, Path(target)),
        "mkdir": Call(os.mkdir, str(target)),
        "getattr": Call(getattr, "", "join"),
        "import": Call(__import__, "os"),
        "compile": Call(compile, "1", "x", "eval"),
        "torch.load": Call(torch.load, str(target)),
        "torch.save": Call(torch.save, {}, str(target)),
        "np.save": Call(np.save, str(target), 1),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
        "shutil": Call(__import__("shutil").rmtree, str(target)),
        "input": Call(input, "x"),
        "print": Call(print, "x"),
        "runpy": Call(__import__("runpy").run_path, str(target)),
        "map": Call(map, os.system, [touch]),
    }


@pytest.mark.parametrize("kind", sorted(hostile(Path("x"))))
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_hostile_pickles_execute_nothing(tmp_path, kind, new_format, capsys):
    target, path = tmp_path / "touched", tmp_path / "x.pth"
    data = {"state_dict": state(), "meta": {"evil": hostile(target)[kind]}}
    torch.save(data, path, _use_new_zipfile_serialization=new_format)
    got = load_checkpoint(path)
    assert isinstance(got.meta["evil"], Foreign)
    assert not target.exists()
    assert capsys.readouterr().out == ""


def text(value):
    return b"X" + struct.pack("<i", len(value)) + value.encode()


def changing(module, name):
    """A pickle that sets the attribute 'fromkeys' of what it names, by BUILD with (None, {...})."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"N}" + text("fromkeys") + b"K\x07s\x86b."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("collections", "Counter"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("pathlib", "PosixPath"),
        ("collections", "OrderedDict"),
        ("fractions", "Fraction"),
    ],
)
def test_no_pickle_changes_what_it_names(tmp_path, module, name):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", changing(module, name))
    named = [Foreign, NumpyDtype, Counter, rebuild_tensor, OrderedDict]
    before = [getattr(item, "fromkeys", None) for item in named]
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        load_checkpoint(tmp_path / "x.pth")
    assert [getattr(item, "fromkeys", None) for item in named] == before
    with pytest.raises(AttributeError):
        unpickle._rebuild_parameter.fromkeys  # noqa: B018


def test_state_of_a_function_is_refused(tmp_path):
    state = b"}" + text("planted") + b"K\x01s"
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02ctorch._utils\n_rebuild_parameter\n" + state + b"b.")
    with pytest.raises(CheckpointError, match="only use"):
        load_checkpoint(tmp_path / "x.pth")
    assert not hasattr(unpickle._rebuild_parameter, "planted")


def test_counters_are_read(tmp_path):
    torch.save({"state_dict": state(), "meta": {"seen": Counter("aab")}}, tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth").meta["seen"] == Counter(a=2, b=1)


def test_a_global_written_by_hand_is_inert(tmp_path):
    code = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", code)
    with pytest.raises(CheckpointError, match="expected a dict with 'state_dict'"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x02}.", pickle.dumps({"state_dict": {}}), b"PK\x03\x04 cut"],
    ids=range(5),
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_cut_files_are_refused(tmp_path, new_format, share):
    stream = io.BytesIO()
    torch.save({"state_dict": {"w": torch.randn(2000)}}, stream, _use_new_zipfile_serialization=new_format)
    data = stream.getvalue()
    (tmp_path / "x.pth").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "x.pth")


def test_a_tensor_past_its_storage_is_refused(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(16)}}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as source, zipfile.ZipFile(tmp_path / "x.pth", "w") as out:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):  # size (16,) -> (200,): BININT1 16 TUPLE1 memo BININT1 1
                at = data.rindex(b"K\x10\x85")
                data = data[:at] + b"K\xc8\x85" + data[at + 3 :]
            out.writestr(name, data)
    with pytest.raises(CheckpointError, match="reaches past"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_huge_storage_is_not_allocated(tmp_path):
    stream = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(16)}}, stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue().replace(b"K\x10Nt", b"J" + struct.pack("<i", 2**31 - 1) + b"Nt")
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="larger than the file"):
        load_checkpoint(tmp_path / "x.pth")


def test_no_state_dict_names_what_was_found(tmp_path):
    torch.save({"weights": {"a": 1}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="found the keys weights"):
        load_checkpoint(tmp_path / "x.pth")


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "x.pth")


def test_saving_writes_a_manifest_that_verifies(tmp_path):
    path = tmp_path / "deep" / "x.pth"
    digest = save_checkpoint(path, payload() | {"meta": {"epoch": 1}})
    assert manifest_path(path).read_text() == f"{digest}  x.pth\n"
    assert verify_checkpoint(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.pth", "x.pth.sha256"]
    assert load_checkpoint(path).meta == {"epoch": 1}


@pytest.mark.parametrize("damage", ["flip", "cut", "no manifest", "no file"])
def test_damage_is_noticed(tmp_path, damage):
    path = tmp_path / "x.pth"
    save_checkpoint(path, {"state_dict": state(), "meta": {}})
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    else:
        (manifest_path(path) if damage == "no manifest" else path).unlink()
    assert not verify_checkpoint(path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "x.pth"
    save_checkpoint(path, {"state_dict": state(), "meta": {"epoch": 1}})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {"state_dict": state(), "meta": {"epoch": lambda: None}})
    assert load_checkpoint(path).meta == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []
