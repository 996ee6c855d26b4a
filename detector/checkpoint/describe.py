"""What a checkpoint file says about itself, and which backbone its keys look like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.checkpoint.files import Checkpoint
from detector.checkpoint.formats import serialisation
from detector.whole_files import sha256_file

Shapes = Mapping[str, tuple[int, ...]]

_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
_RESNET_DEPTHS = {
    (2, 2, 2, 2): "18",
    (3, 4, 6, 3): "50",
    (3, 4, 23, 3): "101",
    (3, 8, 36, 3): "152",
}
#: start of a key below the backbone -> name, for families whose sizes do not matter; the first hit counts
_BY_KEY = (
    ("hourglass_modules.0.", "Hourglass"),
    ("downsample_layers.0.0.weight", "ConvNeXt"),
    ("layers.0.0.projection.weight", "PVT"),
    ("layers.1.0.depthwise_conv.conv.weight", "EfficientNet"),
    ("features.0.weight", "VGG-16"),
    ("layer1.0.depthwise_conv.conv.weight", "MobileNetV2"),
    ("conv_res_block1.conv.conv.weight", "Darknet-53"),
    ("stem.conv.conv.weight", "CSPDarknet"),
)


def guess_backbone(shapes: Shapes) -> str | None:
    """The likely backbone, such as 'ResNet-50'; None where the keys say nothing.

    Args:
        shapes: shape of every key, of a whole detector or of a backbone alone.
    """
    shapes = {key.removeprefix("module."): shape for key, shape in shapes.items()}
    inner = {k.removeprefix("backbone."): s for k, s in shapes.items() if k.startswith("backbone.")}
    keys = inner or shapes
    if "stage4.0.branches.0.0.conv1.weight" in keys:
        return f"HRNet-W{keys['stage4.0.branches.0.0.conv1.weight'][0]}"
    for start, name in _BY_KEY:
        if any(key.startswith(start) for key in keys):
            return name
    return _swin(keys) or _resnet(keys)


def _swin(keys: Shapes) -> str | None:
    found = next((k for k in ("patch_embed.projection.weight", "patch_embed.proj.weight") if k in keys), None)
    if found is None:
        return None
    width = keys[found][0]
    blocks = {m[1] for k in keys if (m := re.match(r"(?:stages|layers)\.2\.blocks\.(\d+)\.", k))}
    size = {96: "T" if len(blocks) <= 6 else "S", 128: "B", 192: "L"}.get(width)
    return f"Swin-{size}" if size else f"Swin of width {width}"


def _resnet(keys: Shapes) -> str | None:
    """ResNet and its kin: by the blocks of each stage, and the parts of the first block."""
    blocks = Counter({m[0]: 0 for k in keys if (m := re.match(r"layer[1-4]\.\d+\.", k))})
    counts = tuple(sum(b.startswith(f"layer{i}.") for b in blocks) for i in range(1, 5))
    if "layer1.0.conv1.weight" not in keys or not all(counts[:3]):
        return None
    if counts[3] == 0:  # the last stage belongs to a shared head
        counts = (*counts[:3], next((c[3] for c in _RESNET_DEPTHS if c[:3] == counts[:3]), 0))
    depth = _RESNET_DEPTHS.get(counts)  # type: ignore[arg-type]
    middle = keys.get("layer1.0.conv2.weight")
    if depth == "50" and "layer1.0.conv3.weight" not in keys:
        depth = "34"
    if "layer1.0.convs.0.weight" in keys:
        kind = "Res2Net"
    elif any(key.startswith("layer1.0.conv2.fc1.") for key in keys):
        kind = "ResNeSt"
    elif keys.get("conv1.weight", (64,))[0] == 32:
        return f"RegNet with {'-'.join(map(str, counts))} blocks"
    elif middle is not None and len(middle) == 4 and middle[1] < middle[0]:
        groups = middle[0] // middle[1]
        return f"ResNeXt-{depth or '?'}-{groups}x{middle[1]}d"
    else:
        kind = "ResNet"
    return f"{kind}-{depth}" if depth else f"{kind} with {'-'.join(map(str, counts))} blocks"


def shapes_of(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shape of every key."""
    return {key: tuple(value.shape) for key, value in checkpoint.state_dict.items()}


def class_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """CLASSES of the meta; empty where it names none."""
    stored = checkpoint.meta.get("CLASSES")
    if isinstance(stored, str):
        return (stored,)
    return tuple(map(str, stored)) if isinstance(stored, list | tuple) else ()


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Facts of a checkpoint that was read from a file, as plain values.

    Returns:
        path, size (bytes), sha256, serialisation, tensors, parameters (running statistics and copies of a
        moving average not counted), dtypes, config, backbone, epoch, iter, mmdet_version, mmcv_version, time,
        classes, optimizer, ema, foreign, meta (its keys); None where the file does not say.
    """
    path, meta, state = Path(str(checkpoint.path)), checkpoint.meta, checkpoint.state_dict
    counted = {
        k: v for k, v in state.items() if not k.endswith(_STATISTICS) and not re.match(r"(module\.)?ema_", k)
    }
    return {
        "path": str(path),
        "size": path.stat().st_size,
        "sha256": sha256_file(path),
        "serialisation": serialisation(path),
        "tensors": len(state),
        "parameters": sum(v.numel() for v in counted.values() if v.is_floating_point()),
        "dtypes": sorted({str(v.dtype).removeprefix("torch.") for v in state.values()}),
        "config": _config_name(meta),
        "backbone": guess_backbone(shapes_of(checkpoint)),
        **{key: _scalar(meta.get(key)) for key in ("epoch", "iter", "mmdet_version", "mmcv_version", "time")},
        "classes": list(class_names(checkpoint)),
        "optimizer": checkpoint.optimizer is not None,
        "ema": sum(bool(re.match(r"(module\.)?ema_", key)) for key in state),
        "foreign": list(checkpoint.foreign),
        "meta": sorted(map(str, meta)),
    }


def _config_name(meta: Mapping[str, Any]) -> str | None:
    """Name of the config: as the runner noted it, else the last part of the work folder it was given."""
    named = meta.get("exp_name")
    if isinstance(named, str) and named:
        return named
    text = meta.get("config")
    match = re.search(r"work_dir\s*=\s*['\"]([^'\"]+)['\"]", text) if isinstance(text, str) else None
    return match[1].rstrip("/").rsplit("/", 1)[-1] if match else None


def _scalar(value: Any) -> Any:
    """A plain value; anything else in words."""
    value = value.item() if hasattr(value, "item") else value
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
