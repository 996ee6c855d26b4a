"""Pickles that would run something, in every form of a checkpoint file; none may.

Each program makes the file ``canary`` when python's own unpickler reads it (the first test shows that it
does), unless it stands in ``ONLY_REFUSED``.
"""

from __future__ import annotations

import bz2
import codecs
import copyreg
import gzip
import io
import marshal
import pickle
import pickletools
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detector.checkpoint.files import load_checkpoint
from detector.errors import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
CODE = 0x7F31  # a free code of copyreg's registry


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def whole(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def programs(canary: Path) -> dict[str, bytes]:
    """Name -> pickle."""
    shell = f"touch {canary}"
    source = f"open({str(canary)!r}, 'w').close()"
    system = call(named("os", "system"), text(shell))
    module = call(named("importlib", "import_module"), text("os"))
    inner = whole(system)
    legacy = io.BytesIO()
    torch.save({}, legacy, _use_new_zipfile_serialization=False)
    return {
        "REDUCE os.system": whole(system),
        "REDUCE posix.system": whole(call(named("posix", "system"), text(shell))),
        "GLOBAL in text": b"cos\nsystem\n(S'" + shell.encode() + b"'\ntR.",
        "INST": b"(S'" + shell.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + shell.encode() + b"'\no.",
        "NEWOBJ": whole(
            named("functools", "partial") + b"(" + named("os", "system") + text(shell) + b"t\x81)R"
        ),
        "NEWOBJ_EX": whole(
            named("functools", "partial")
            + b"("
            + named("subprocess", "Popen")
            + b"t}"
            + text("args")
            + text(shell)
            + b"s"
            + text("shell")
            + b"\x88s\x92)R"
        ),
        "EXT4": whole(call(b"\x84" + struct.pack("<i", CODE), text(shell))),
        "STACK_GLOBAL through torch": whole(call(named("torch.serialization", "os.system"), text(shell))),
        "builtins.eval": whole(call(named("builtins", "eval"), text(source))),
        "__builtin__.eval, protocol 2": b"\x80\x02c__builtin__\neval\n(" + text(source) + b"tR.",
        "builtins.exec": whole(call(named("builtins", "exec"), text(source))),
        "getattr chain": whole(call(call(named("builtins", "getattr"), module, text("system")), text(shell))),
        "operator.attrgetter": whole(
            call(call(call(named("operator", "attrgetter"), text("system")), module), text(shell))
        ),
        "operator.methodcaller": whole(
            call(call(named("operator", "methodcaller"), text("system"), text(shell)), module)
        ),
        "functools.partial": whole(
            call(call(named("functools", "partial"), named("os", "system"), text(shell)))
        ),
        "functools.reduce": whole(
            call(
                named("functools", "reduce"),
                named("operator", "call"),
                b"(" + named("os", "system") + text(shell) + b"l",
            )
        ),
        "codecs and exec": whole(
            call(
                named("builtins", "exec"),
                call(named("codecs", "decode"), text(codecs.encode(source, "rot13")), text("rot13")),
            )
        ),
        "marshal and a function": whole(
            call(
                call(
                    named("types", "FunctionType"),
                    call(named("marshal", "loads"), raw(marshal.dumps(compile(source, "x", "exec")))),
                    call(named("builtins", "globals")),
                )
            )
        ),
        "pickle.loads": whole(call(named("pickle", "loads"), raw(inner))),
        "_pickle.loads": whole(call(named("_pickle", "loads"), raw(inner))),
        "torch.load of bytes": whole(
            call(named("torch.storage", "_load_from_bytes"), raw(pickle.dumps(MAGIC) + inner))
        ),
        "torch.hub.load": whole(call(named("torch.hub", "load"), text(str(canary.parent)), text("model"))),
        "numpy.load": whole(call(named("numpy", "load"), text(str(canary.parent / "evil.npy")))),
        "bz2 inside": whole(
            call(named("pickle", "loads"), call(named("bz2", "decompress"), raw(bz2.compress(inner))))
        ),
        "timeit": whole(
            call(named("timeit", "timeit"), text(source), text("pass"), named("time", "time"), b"K\x01")
        ),
        "memo slot used twice": whole(
            named("collections", "OrderedDict")
            + b"q\x000"
            + named("os", "system")
            + b"q\x000h\x00("
            + text(shell)
            + b"tR"
        ),
        "state of an allowed dict": whole(
            named("collections", "OrderedDict") + b")R}" + text("__reduce__") + system + b"sb"
        ),
        "factory of a defaultdict": whole(
            call(
                named("collections", "defaultdict"),
                call(named("functools", "partial"), named("os", "system"), text(shell)),
            )
        ),
        "persistent id": whole(system + b"Q"),
        "persistent id as text": b"Pos.system\n.",
        "storage of a hostile type": whole(
            b"(" + text("storage") + named("os", "system") + text(shell) + text("cpu") + b"K\x01tQ"
        ),
        "tensor rebuilt by os.system": whole(
            call(
                named("torch._tensor", "_rebuild_from_type_v2"),
                named("os", "system"),
                named("torch", "Tensor"),
                b"(" + text(shell) + b"t",
                b"N",
            )
        ),
        "parameter of os.system": whole(
            call(named("torch._utils", "_rebuild_parameter"), system, b"\x88", b"N")
        ),
    }


#: python's own unpickler does not run these either, as it lacks what they lean on
ONLY_REFUSED = {
    "torch.load of bytes",
    "torch.hub.load",
    "numpy.load",
    "factory of a defaultdict",
    "persistent id as text",
    "storage of a hostile type",
}
NAMES = sorted(programs(Path("x")))


def zipped(code: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/code/__torch__.py", "import os\nos.system('touch canary')\n")
    return stream.getvalue()


def older(code: bytes) -> bytes:
    start = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(item, protocol=2) for item in start) + code + pickle.dumps([], protocol=2)


FORMS = {
    "zip": zipped,
    "legacy": older,
    "pickle": lambda code: code,
    "bz2": bz2.compress,
    "gzip": gzip.compress,
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A path that no file lies at; the registry of extension codes names os.system meanwhile."""
    copyreg.add_extension("os", "system", CODE)
    yield tmp_path / "canary"
    copyreg.remove_extension("os", "system", CODE)
    copyreg._extension_cache.clear()  # type: ignore[attr-defined]


def test_there_are_twenty_and_each_is_a_pickle_of_its_own() -> None:
    found = programs(Path("x"))
    assert len(set(found.values())) == len(found) >= 20
    for code in found.values():
        list(pickletools.genops(code))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONLY_REFUSED])
def test_pythons_own_unpickler_would_run_it(canary: Path, name: str) -> None:
    code = programs(canary)[name]
    try:
        held = pickle.loads(code)
        getattr(held, "wait", lambda: 0)()
    except (pickle.UnpicklingError, AttributeError, TypeError):
        pass  # after it ran
    assert canary.exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_nothing_runs(canary: Path, form: str, name: str) -> None:
    (canary.parent / "hubconf.py").write_text(f"open({str(canary)!r}, 'w')")
    (canary.parent / "evil.npy").write_bytes(programs(canary)["REDUCE os.system"])
    path = canary.parent / "x.pth"
    path.write_bytes(FORMS[form](programs(canary)[name]))
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        load_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_nothing_runs_beside_good_weights(canary: Path, name: str, new_format: bool) -> None:
    """The program stands in the meta of a checkpoint that is otherwise whole."""
    path, mark = canary.parent / "x.pth", "stands here"
    body = programs(canary)[name].removeprefix(b"\x80\x04").removeprefix(b"\x80\x02")[:-1]
    stream = io.BytesIO()
    torch.save(
        {"state_dict": {"w": torch.ones(3)}, "meta": {"evil": mark}},
        stream,
        _use_new_zipfile_serialization=new_format,
    )
    if new_format:
        packed = io.BytesIO()
        with zipfile.ZipFile(stream) as source, zipfile.ZipFile(packed, "w") as out:
            for item in source.namelist():
                out.writestr(item, source.read(item).replace(text(mark), body))
        path.write_bytes(packed.getvalue())
    else:
        path.write_bytes(stream.getvalue().replace(text(mark), body))
    try:
        got = load_checkpoint(path)
    except CheckpointError:
        pass
    else:
        assert torch.equal(got.state_dict["w"], torch.ones(3))
        if isinstance(got.meta["evil"], defaultdict):
            got.meta["evil"]["absent"]
    assert not canary.exists()
