"""From what a user types (a family, a config's name, a path) to a config file."""

from __future__ import annotations

import difflib
from pathlib import Path

from detector.config.read import SUFFIXES
from detector.errors import ConfigError

DEFAULT_DATASET = "sample"

# a family name is a model; the data set says which of its configs
FAMILIES: dict[tuple[str, str], str] = {
    ("mask_rcnn", "sample"): "mask_rcnn_r18_fpn_sample",
    ("mask_rcnn", "coco"): "mask_rcnn_r50_fpn_1x_coco",
    ("mask_rcnn", "cityscapes"): "mask_rcnn_r50_fpn_1x_cityscapes",
    ("faster_rcnn", "sample"): "faster_rcnn_r18_fpn_sample",
    ("faster_rcnn", "coco"): "faster_rcnn_r50_fpn_1x_coco",
    ("faster_rcnn", "cityscapes"): "faster_rcnn_r50_fpn_1x_cityscapes",
    ("faster_rcnn", "voc"): "faster_rcnn_r50_fpn_1x_voc0712",
    ("mask_rcnn", "lvis"): "mask_rcnn_r50_fpn_sample1e-3_mstrain_1x_lvis_v1",
    ("mask_rcnn", "lvis_v1"): "mask_rcnn_r50_fpn_sample1e-3_mstrain_1x_lvis_v1",
    ("mask_rcnn", "lvis_v0.5"): "mask_rcnn_r50_fpn_sample1e-3_mstrain_2x_lvis_v0.5",
    ("cascade_rcnn", "coco"): "cascade_rcnn_r50_fpn_1x_coco",
    ("cascade_mask_rcnn", "coco"): "cascade_mask_rcnn_r50_fpn_1x_coco",
    ("htc", "coco"): "htc_r50_fpn_1x_coco",
    ("detectors", "coco"): "detectors_cascade_rcnn_r50_1x_coco",
    ("scnet", "coco"): "scnet_r50_fpn_1x_coco",
    ("retinanet", "coco"): "retinanet_r50_fpn_1x_coco",
    ("retinanet", "voc"): "retinanet_r50_fpn_1x_voc0712",
    ("fcos", "coco"): "fcos_r50_caffe_fpn_gn-head_1x_coco",
    ("ssd", "coco"): "ssd300_coco",
    ("ssd", "voc"): "ssd300_voc0712",
    ("yolo", "coco"): "yolov3_d53_mstrain-608_273e_coco",
    ("yolox", "coco"): "yolox_s_8x8_300e_coco",
}

# what a family's data set is called where several versions of it are kept
NEWEST = {"lvis": "lvis_v1"}


def config_dirs() -> list[Path]:
    """Return the folder of config names: ``./configs`` if there, else the one beside (or in) the package."""
    package = Path(__file__).resolve().parents[1]
    candidates = [Path("configs"), package.parent / "configs", package / "configs"]
    return [folder for folder in candidates if folder.is_dir()][:1]


def config_names() -> dict[str, list[Path]]:
    """Return {name: files} of all configs that can be run (those outside of ``_base_``)."""
    names: dict[str, list[Path]] = {}
    for folder in config_dirs():
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder).parts
            if path.suffix in SUFFIXES and relative[0] not in ("_base_", "sources") and path.is_file():
                names.setdefault(path.stem, []).append(path)
    return names


def resolve_config(name_or_path: str | Path, dataset: str | None = None) -> Path:
    """Return the config file a name or path means.

    Args:
        name_or_path: a path (also one relative to the configs folder), a config's name with or without
            suffix, or a family such as 'mask_rcnn'.
        dataset: which of a family's configs, 'sample' if not given; a name or path brings its own data set.

    Raises:
        ConfigError: nothing fits; the nearest names are given.
    """
    text = str(name_or_path)
    if text in {family for family, _ in FAMILIES}:
        return _by_name(_of_family(text, dataset or DEFAULT_DATASET))
    path = Path(text).expanduser()
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        found = _by_path(path)
        if found is not None:
            return found
    return _by_name(path.stem if path.suffix in SUFFIXES else text)


def _of_family(family: str, dataset: str) -> str:
    if (family, dataset) in FAMILIES:
        return FAMILIES[family, dataset]
    known = [d for f, d in FAMILIES if f == family]
    raise ConfigError(
        f"config '{family}' with dataset '{dataset}': no config is known for this pair; the family {family} "
        "has configs for "
        f"{', '.join(known)}.{_nearest(dataset, known)} Choose one of them or give a config's path."
    )


def _by_path(path: Path) -> Path | None:
    candidates = [path, *(folder / path for folder in config_dirs())]
    if path.suffix not in SUFFIXES:
        candidates = [c.with_name(c.name + ".py") for c in candidates]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if path.parent.is_dir() and len(path.parts) > 1 and path.suffix in SUFFIXES:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"{path}: no such file; expected a config file.{hint} Correct the path.")
    return None


def _by_name(name: str) -> Path:
    names = config_names()
    files = names.get(name, [])
    if len(files) == 1:
        return files[0]
    if files:
        raise ConfigError(
            f"config '{name}': {len(files)} files have this name ({', '.join(map(str, files))}). Give the "
            "path."
        )
    families = sorted({family for family, _ in FAMILIES})
    looked = ", ".join(str(folder) for folder in config_dirs()) or "no configs folder (there is none here)"
    raise ConfigError(
        f"config '{name}': found neither a file nor a name in {looked}; expected a path, a config's name or "
        "a family "
        f"({', '.join(families)}).{_nearest(name, [*names, *families])} Correct it, or give the config's "
        "path."
    )


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
