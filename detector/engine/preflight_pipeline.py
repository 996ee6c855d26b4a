"""Pre-flight hints about pipelines: colours against the backbone's, padding against the neck's strides.

They read the config alone, so they cost nothing; all are warnings, as a user may know better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detector.engine.preflight_result import OK, WARNING, Check

#: sum feature maps of neighbouring strides, which only fit when the input divides by the largest
SUMMING = ("HRNet",)
STRIDE = 32


def check_pipelines(cfg: Mapping[str, Any]) -> Iterator[Check]:
    """Hints about all pipelines of a config."""
    data, model = cfg.get("data") or {}, cfg.get("model") or {}
    used = {split: list(steps_of(data.get(split))) for split in ("train", "val", "test")}
    yield from _check_colours(used, model)
    yield _check_padding(used["train"], model)


def steps_of(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every step of every pipeline below a data section, those inside others too."""
    if isinstance(node, Mapping):
        for key in ("pipeline", "transforms", "dataset", "datasets"):
            yield from steps_of(node.get(key))
        if "type" in node and "ann_file" not in node and not {"dataset", "datasets"} & set(node):
            yield node
    elif isinstance(node, list | tuple):
        for item in node:
            yield from steps_of(item)


def _check_colours(used: Mapping[str, list[Mapping[str, Any]]], model: Mapping[str, Any]) -> Iterator[Check]:
    """Normalize: the same everywhere, and as the backbone's weights were trained."""
    norms = {
        split: {key: value for key, value in step.items() if key != "type"}
        for split, steps in used.items()
        for step in steps
        if step["type"] == "Normalize"
    }
    if not norms:
        return
    first, *others = norms
    if odd := [split for split in others if _plain(norms[split]) != _plain(norms[first])]:
        text = f"{odd[0]} normalises by {norms[odd[0]]}, {first} by {norms[first]}; expected the same"
        yield Check("colours", WARNING, text, "Use one img_norm_cfg in all pipelines.")
        return
    hint = colour_hint(norms[first], (model.get("backbone") or {}).get("style"))
    if hint:
        text = f"Normalize({_shown(norms[first])}): {hint}"
        yield Check("colours", WARNING, text, "Take the img_norm_cfg of the backbone's weights.")
    else:
        yield Check("colours", OK, _shown(norms[first]))


def colour_hint(norm: Mapping[str, Any], style: Any) -> str:
    """What does not go together in a Normalize step; '' when nothing is odd.

    ResNets of ``style='caffe'`` come from weights for BGR pixels with the mean taken away and not divided;
    those of 'pytorch' from RGB pixels, divided.
    """
    mean, std = list(norm.get("mean", ())), list(norm.get("std", ()))
    rgb = bool(norm.get("to_rgb", True))
    if len(mean) != 3 or len(std) != 3:
        return f"found {len(mean)} means and {len(std)} deviations, expected 3 of each"
    if mean[0] > mean[2] > 1 and not rgb:
        return "the means are in the order red, green, blue, but to_rgb=False leaves blue first"
    if 1 < mean[0] < mean[2] and rgb:
        return "the means are in the order blue, green, red, but to_rgb=True puts red first"
    if style == "caffe" and rgb and std != [1.0, 1.0, 1.0]:
        return "the backbone has style='caffe', whose weights expect BGR pixels (to_rgb=False, std of 1)"
    if style == "pytorch" and not rgb and std == [1.0, 1.0, 1.0]:
        return "the backbone has style='pytorch', whose weights expect divided RGB pixels (to_rgb=True)"
    return ""


def _check_padding(steps: list[Mapping[str, Any]], model: Mapping[str, Any]) -> Check:
    """Pad: a multiple of the largest stride."""
    pads = [step for step in steps if step["type"] == "Pad"]
    divisors = [step["size_divisor"] for step in pads if step.get("size_divisor")]
    backbone = str((model.get("backbone") or {}).get("type", ""))
    neck = model.get("neck") or {}
    necks = [str(part.get("type", "")) for part in (neck if isinstance(neck, list | tuple) else [neck])]
    if bad := [d for d in divisors if isinstance(d, int) and d % STRIDE]:
        text = f"size_divisor={bad[0]}; the usual strides go up to {STRIDE}, expected a multiple of it"
        return Check("padding", WARNING, text, f"Set Pad(size_divisor={STRIDE}).")
    if not pads and backbone.startswith(SUMMING):
        text = f"no Pad step; {backbone} sums maps of strides 4 to {STRIDE}, expected sizes that divide by it"
        return Check("padding", WARNING, text, f"Add dict(type='Pad', size_divisor={STRIDE}).")
    if not pads and any("FPN" in name for name in necks) and _keeps_ratio(steps):
        text = f"no Pad step before {', '.join(necks)}; MMDetection's configs pad to a multiple of {STRIDE}"
        return Check("padding", WARNING, text, f"Add dict(type='Pad', size_divisor={STRIDE}).")
    return Check("padding", OK, f"size_divisor={divisors[0]}" if divisors else "nothing to pad to")


def _keeps_ratio(steps: list[Mapping[str, Any]]) -> bool:
    """Whether images come in sizes of their own."""
    return any(step["type"] == "Resize" and step.get("keep_ratio", True) for step in steps)


def _plain(norm: Mapping[str, Any]) -> dict[str, Any]:
    """Values that compare equal as list and tuple."""
    plain = {key: [float(v) for v in norm[key]] for key in ("mean", "std") if norm.get(key) is not None}
    return {**plain, "to_rgb": bool(norm.get("to_rgb", True))}


def _shown(norm: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={norm[key]}" for key in ("mean", "std", "to_rgb") if key in norm)
