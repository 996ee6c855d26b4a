"""``detector convert FORMAT ...``: annotations to COCO format, with the reference's arguments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "convert annotations to COCO format"


def add_parser(subparsers: Any) -> None:
    """Add the command, its formats and their arguments."""
    parser = subparsers.add_parser("convert", help=HELP, description=HELP)
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    _add_cityscapes(formats)
    _add_pascal_voc(formats)
    _add_images(formats)


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


def run(args: argparse.Namespace) -> int:
    """Convert; prints one line per file with what was found and written."""
    from detector.data.converters import cityscapes_to_coco, images_to_coco, voc_to_coco
    from detector.progress import Progress

    with Progress(None, f"convert {args.format}") as progress:
        shared: dict[str, Any] = {"progress": progress, "note": print}
        if args.format == "cityscapes":
            root = Path(args.cityscapes_path)
            dirs = {"img_dir": args.img_dir, "gt_dir": args.gt_dir}
            cityscapes_to_coco.convert(root, out_dir=args.out_dir, nproc=args.nproc, **dirs, **shared)
        elif args.format == "pascal_voc":
            voc_to_coco.convert(
                args.devkit_path,
                out_dir=args.out_dir,
                classes=args.classes,
                nproc=args.nproc,
                out_format=args.out_format,
                one_based=not args.zero_based,
                skip_invalid=args.skip_invalid,
                **shared,
            )
        else:
            excluded = args.exclude_extensions
            images_to_coco.convert(
                args.img_path, args.classes, args.out, exclude_extensions=excluded, **shared
            )
    return 0
