"""``detector convert FORMAT ...``: annotations to COCO format, with the reference's arguments."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "convert annotations to COCO format"


def add_parser(subparsers: Any) -> None:
    """Add the command, its formats and their arguments."""
    parser = subparsers.add_parser("convert", help=HELP, description=HELP)
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    _add_coco(formats)
    _add_cityscapes(formats)
    _add_pascal_voc(formats)
    _add_images(formats)
    _add_panoptic(formats)
    _add_stuff_maps(formats)


def _add_coco(formats: Any) -> None:
    text = "COCO's or LVIS' own files, linked as source_annotations, to annotations, where configs read them"
    parser = formats.add_parser("coco", help=text, description=text)
    parser.add_argument("root", help="the linked data set, such as data/coco")
    parser.add_argument("-o", "--out-dir", help="where the files go (default: root/annotations)")


def _add_cityscapes(formats: Any) -> None:
    text = "Cityscapes' instance maps to instancesonly_filtered_gtFine_{train,val,test}.json"
    parser = formats.add_parser("cityscapes", help=text, description=text)
    parser.add_argument("cityscapes_path", help="folder that holds the images and the ground truth")
    parser.add_argument(
        "--img-dir", default="leftImg8bit", help="image folder below it (default: leftImg8bit)"
    )
    parser.add_argument("--gt-dir", default="gtFine", help="ground-truth folder below it (default: gtFine)")
    parser.add_argument("-o", "--out-dir", help="where the files go (default: cityscapes_path)")
    parser.add_argument("--nproc", type=int, default=1, help="processes (default: 1)")


def _add_pascal_voc(formats: Any) -> None:
    text = "a VOC devkit, or any folder with JPEGImages, Annotations and ImageSets/Main"
    parser = formats.add_parser("pascal_voc", help=text, description=text)
    parser.add_argument("devkit_path", help="the devkit (holds VOC2007 or VOC2012) or the folder")
    parser.add_argument("-o", "--out-dir", help="where the files go (default: devkit_path)")
    parser.add_argument(
        "--out-format",
        choices=("pkl", "coco"),
        default="pkl",
        help="coco: json; pkl: MMDetection's middle format (default: pkl)",
    )
    parser.add_argument(
        "--classes", nargs="+", help="class names in label order (default: VOC's 20, or all found, sorted)"
    )
    parser.add_argument("--nproc", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--zero-based",
        action="store_true",
        help="take boxes as they are instead of subtracting 1, VOC's first pixel",
    )
    parser.add_argument(
        "--skip-invalid", action="store_true", help="leave objects with an inverted box or unknown class out"
    )


def _add_images(formats: Any) -> None:
    text = "a folder of images without annotations"
    parser = formats.add_parser("images2coco", help=text, description=text)
    parser.add_argument("img_path", help="folder of the images, searched to any depth")
    parser.add_argument("classes", help="text file with one class name a line")
    parser.add_argument("out", help="file name, ends in json; goes to <img_path>/../annotations")
    parser.add_argument(
        "-e",
        "--exclude-extensions",
        nargs="+",
        default=[],
        help="endings of files to leave out, such as png bmp",
    )


def _add_panoptic(formats: Any) -> None:
    text = "COCO panoptic PNG files to semantic maps, for a semantic branch such as HTC's"
    parser = formats.add_parser("panoptic2semantic", help=text, description=text)
    parser.add_argument("annotations", help="such as panoptic_train2017.json")
    parser.add_argument("-o", "--out-dir", required=True, help="where the maps go; give it as seg_prefix")
    parser.add_argument("--png-dir", help="the PNG files (default: the folder beside the json, of its name)")
    parser.add_argument(
        "--values",
        choices=("contiguous", "category"),
        default="contiguous",
        help="contiguous: categories from 0 in the file's order; category: their ids less 1, as COCO-stuff",
    )
    parser.add_argument("--nproc", type=int, default=1, help="processes (default: 1)")


def _add_stuff_maps(formats: Any) -> None:
    text = "check semantic maps, such as COCO-stuff's, against a COCO file; writes nothing"
    parser = formats.add_parser("stuffthingmaps", help=text, description=text)
    parser.add_argument("folder", help="the maps, such as data/coco/stuffthingmaps/train2017")
    parser.add_argument("annotations", help="such as data/coco/annotations/instances_train2017.json")
    parser.add_argument("--num-classes", type=int, default=182, help="classes of the maps (default: 182)")
    parser.add_argument("--nproc", type=int, default=1, help="processes (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Convert; prints one line per file with what was found and written."""
    from detector.progress import Progress

    with Progress(None, f"convert {args.format}") as progress:
        _CONVERT[args.format](args, progress=progress, note=print)
    return 0


def _coco(args: argparse.Namespace, **shared: Any) -> None:
    from detector.data.converters.coco_files import convert

    convert(args.root, out_dir=args.out_dir, **shared)


def _cityscapes(args: argparse.Namespace, **shared: Any) -> None:
    from detector.data.converters.cityscapes_to_coco import convert

    convert(
        args.cityscapes_path,
        out_dir=args.out_dir,
        img_dir=args.img_dir,
        gt_dir=args.gt_dir,
        nproc=args.nproc,
        **shared,
    )


def _pascal_voc(args: argparse.Namespace, **shared: Any) -> None:
    from detector.data.converters.voc_to_coco import convert

    convert(
        args.devkit_path,
        out_dir=args.out_dir,
        classes=args.classes,
        nproc=args.nproc,
        out_format=args.out_format,
        one_based=not args.zero_based,
        skip_invalid=args.skip_invalid,
        **shared,
    )


def _images(args: argparse.Namespace, **shared: Any) -> None:
    from detector.data.converters.images_to_coco import convert

    convert(args.img_path, args.classes, args.out, exclude_extensions=args.exclude_extensions, **shared)


def _panoptic(args: argparse.Namespace, **shared: Any) -> None:
    from detector.data.converters.panoptic_to_semantic import convert

    convert(
        args.annotations,
        out_dir=args.out_dir,
        png_dir=args.png_dir,
        values=args.values,
        nproc=args.nproc,
        **shared,
    )


def _stuff_maps(args: argparse.Namespace, **shared: Any) -> None:
    from detector.data.converters.stuff_maps import check

    check(args.folder, args.annotations, num_classes=args.num_classes, nproc=args.nproc, **shared)


_CONVERT = {
    "coco": _coco,
    "cityscapes": _cityscapes,
    "pascal_voc": _pascal_voc,
    "images2coco": _images,
    "panoptic2semantic": _panoptic,
    "stuffthingmaps": _stuff_maps,
}
