"""The closed set of expressions: values as Python gives them, everything else refused with file and line."""

from __future__ import annotations

import pytest

from detector.config.read import read_text
from detector.errors import ConfigError

DOUBLED = "x = (0, 0)\n" + "x = (x, x)\n" * 40  # 2**41 values, 82 of them in memory


def value_of(expression: str) -> object:
    return read_text(f"n = 3\nxs = [1, 2, 3]\nd = dict(a=1, b=dict(c=2))\nresult = {expression}\n").data[
        "result"
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "None",
        "True",
        "-1.5e-3",
        "'a' 'b'",
        "[1, (2, 'x'), {}]",
        "(1,)",
        "()",
        "{'a': 1, 2: 'b', **d}",
        "[*xs, 4]",
        "n * 2 + 7 // 2 - 5 / 2",
        "2 ** 10 % 7",
        "[0] * n",
        "xs + [9]",
        "d['b']['c']",
        "xs[-1]",
        "xs[1:]",
        "xs[::-1]",
        "'abc'[1]",
        "'abc'[:2]",
        "[i * i for i in range(n) if i != 1]",
        "[(i, j) for i in range(2) for j in xs]",
        "{f'stage{i}.norm': v for i, v in enumerate(xs)}",
        "{k: v for k, v in d.items()}",
        "f'{n:03d}-{1/3:.2f}-{\"x\"!r}'",
        "len(xs) and max(xs)",
        "1 if n > 2 else 0",
        "not n",
        "1 < n <= 3",
        "n in xs",
        "list(range(1, 6, 2))",
        "sum(xs) / len(xs)",
        "sorted(xs, reverse=True)",
        "dict(d, a=5)",
        "dict([('k', 1)])",
        "d | {'z': 1}",
        "d.get('zz', 4)",
        "[x for x in zip(xs, xs)]",
        "int('7') + float('0.5')",
        "tuple(str(x) for x in xs)",
    ],
)
def test_value_is_what_python_gives(expression: str) -> None:
    names = {"n": 3, "xs": [1, 2, 3], "d": {"a": 1, "b": {"c": 2}}}
    expected = eval(expression, names)  # the oracle; the reader itself never evaluates text

    result = value_of(expression)

    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "from os import system",
        "def f():\n    return 1",
        "for i in [1]:\n    x = i",
        "class A: pass",
        "x = __import__('os').system('true')",
        "x = open('f').read()",
        "x = (lambda: 1)()",
        "with a as b:\n    pass",
        "x = eval('1')",
        "x = ().__class__",
        "x = {1, 2}",
        "x = b'bytes'",
        "x = 1j",
        "x = ...",
        "x = [y := 1]",
        "x = 'a'.format(1)",
        "x = '%s' % 1",
        "print('hi')",
        "x = undefined",
        "x = dict(a=1)(2)",
        "if True:\n    x = 1",
        "assert True",
        "x = 1 << 2",
        "x = ~1",
        "'a'.join",
        "x = dict(**{'a': 1}, a=2)",
        "x = await y",
    ],
)
def test_code_is_refused_with_its_line(code: str) -> None:
    with pytest.raises(ConfigError, match=r"^conf\.py:2: "):
        read_text("a = 1\n" + code, name="conf.py")


@pytest.mark.parametrize(
    "code",
    [
        "x = 10 ** 10 ** 10",
        "x = [0] * 10 ** 9",
        "x = 'a' * 10 ** 9",
        "x = range(10 ** 9)",
        DOUBLED + "y = str(x)",
        DOUBLED + "y = f'{x}'",
        DOUBLED + "y = x == [1]",
        DOUBLED + "y = max(x, x)",
        DOUBLED + "y = {x: 1}",
        DOUBLED + "y = dict([(x, 1)])",
        DOUBLED + "custom_imports = x",
        "x = sum([[1] * 1000] * 1000, [])",
        "x = [0 for i in range(9999) for j in range(9999)]",
        "x = f'{1:999999999}'",
        "x = [1]\nx.append(x)",
        DOUBLED,
        "\n".join(["x = 'ab'"] + ["x = x + x"] * 40),
        "x = " + "[" * 150 + "]" * 150,
        "x = " + "-" * 5000 + "1",
    ],
    ids=lambda code: code[-25:],
)
@pytest.mark.timeout(20)
def test_a_text_that_would_grow_without_bound_is_refused(code: str) -> None:
    with pytest.raises(ConfigError):
        read_text(code)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = dict(a=1)\nx.update(dict(b=2), c=3)", {"a": 1, "b": 2, "c": 3}),
        ("x = [1]\nx.append(2)\nx.extend([3, 4])", [1, 2, 3, 4]),
        ("x = dict(a=[1, 2])\nx['a'][0] = 5\nx['b'] = 6", {"a": [5, 2], "b": 6}),
        ("x = 1\nx += 2", 3),
        ("y, x = 1, [2]\ndel y", [2]),
        ("x: int = 4", 4),
        ("y = x = 'a'", "a"),
        ("y = dict(a=1)\nx = y\ny.update(a=2)", {"a": 2}),
    ],
)
def test_statements(code: str, expected: object) -> None:
    assert read_text(code).data["x"] == expected


def test_what_two_names_share_is_separate_afterwards() -> None:
    data = read_text("p = [1]\nx = dict(p=p, q=p)").data

    data["x"]["p"].append(2)

    assert data == {"p": [1], "x": {"p": [1, 2], "q": [1]}}
