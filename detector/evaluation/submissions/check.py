"""A submission checked before it is uploaded: what its server would refuse, and the zip for it.

Nothing is sent. What a server does beyond these rules it does not say; a submission without a fault can
still be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from detector.data.class_names import VOC_CLASSES
from detector.errors import ConfigError, DatasetError
from detector.evaluation.annotations import AnnotationFile, read_annotations
from detector.evaluation.submissions import cityscapes, coco, voc
from detector.evaluation.submissions.findings import Findings
from detector.evaluation.submissions.package import (
    Package,
    deflated_size,
    opened,
    too_large,
    write_zip,
)


@dataclass(frozen=True)
class Server:
    """What is known of a server.

    Attributes:
        max_megabytes: largest zip it takes; None where no figure is published.
        most_used: results of an image that count.
    """

    max_megabytes: float | None = None
    most_used: int = 100


SERVERS = {
    # CodaLab's limit for an upload: codalab/codalab-competitions issues 3394 and 1050.
    "coco": Server(max_megabytes=300),
    "cityscapes": Server(),
    "lvis": Server(most_used=300),
    "voc": Server(),
}


@dataclass(frozen=True)
class Report:
    """The outcome of a check.

    Attributes:
        path: what was checked.
        kind: 'coco', 'cityscapes', 'lvis' or 'voc'.
        annotations: the split's file, if it was given.
        findings: faults and notes.
        max_bytes: largest zip, None for no limit.
    """

    path: Path
    kind: str
    annotations: AnnotationFile | None
    findings: Findings
    max_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether no fault was found."""
        return not self.findings

    def lines(self) -> list[str]:
        """The report as text, the verdict last."""
        notes = [f"note: {note}" for note in self.findings.notes]
        if self.fits:
            return [*notes, f"{self.path}: fits the {self.kind} server"]
        count = self.findings.counts.total()
        verdict = f"{self.path}: refused, {count} fault{'s' if count > 1 else ''} ({self.kind})"
        return [*notes, *self.findings.lines(), verdict]


def check_submission(
    path: str | Path,
    *,
    annotations: str | Path | None = None,
    kind: str | None = None,
    classes: Collection[str] | None = None,
    max_megabytes: float | None = None,
    shown: int = 3,
) -> Report:
    """Check a results file, a folder or a zip.

    Args:
        path: what would be uploaded, or what it would be made of.
        annotations: COCO-format file of the split (image info is enough), or VOC's list of image names;
            without it neither missing images nor sizes can be checked.
        kind: 'coco', 'cityscapes', 'lvis' or 'voc'; None to tell from the files.
        classes: names that VOC's files may end with; None for those of the annotations, else VOC's 20.
        max_megabytes: largest zip, in place of what is known of the server.
        shown: places shown of each kind of fault.

    Raises:
        ConfigError: the kind is unknown.
        DatasetError: there is nothing at ``path``, or the annotations cannot be read.
    """
    path = Path(path)
    if kind is not None and kind not in SERVERS:
        raise ConfigError(f"--kind: found {kind!r}; expected one of {', '.join(SERVERS)}.")
    findings = Findings(shown)
    file, stems = _split(annotations)
    with opened(path, findings) as package:
        chosen = kind or guess_kind(package, file)
        if classes is None:
            classes = VOC_CLASSES if file is None else tuple(file.categories)
        _check_content(package, chosen, file, stems, classes, findings)
        limit = max_megabytes if max_megabytes is not None else SERVERS[chosen].max_megabytes
        max_bytes = None if limit is None else round(limit * 1e6)
        if max_bytes is not None and not findings:
            size = _upload_size(package, max_bytes)
            if size > max_bytes:
                findings.add("size", too_large(size, max_bytes))
    if annotations is None:
        findings.notes.append(
            "without --annotations neither missing images, nor ids, nor boxes and masks against their "
            "images' sizes are checked"
        )
    return Report(path, chosen, file, findings, max_bytes)


def _split(
    annotations: str | Path | None,
) -> tuple[AnnotationFile | None, dict[str, tuple[int, int] | None] | None]:
    """The split's COCO file, and the size of every image by its stem as far as it is known."""
    if annotations is None:
        return None, None
    path = Path(annotations)
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}), expected image names") from error
        return None, {line.split()[0]: None for line in lines if line.split()}
    file = read_annotations(path)
    sized = {"height", "width"}
    return file, {
        PurePosixPath(str(image.get("file_name", image_id))).stem: (
            file.image_hw(image_id) if sized <= image.keys() else None
        )
        for image_id, image in file.images.items()
    }


def guess_kind(package: Package, file: AnnotationFile | None) -> str:
    """The server that files with these names are for; COCO's where nothing tells."""
    names = [PurePosixPath(name).name for name in package.names]
    if any(name.endswith(cityscapes.PREDICTION_SUFFIX) for name in names):
        return "cityscapes"
    if any(voc.FILE_NAME.fullmatch(name) for name in names):
        return "voc"
    # Only LVIS numbers its categories beyond COCO's 90 and objects' usual hundreds.
    if file is not None and len(file.categories) > 1000:
        return "lvis"
    return "coco"


def _check_content(
    package: Package,
    kind: str,
    file: AnnotationFile | None,
    stems: dict[str, tuple[int, int] | None] | None,
    classes: Collection[str],
    findings: Findings,
) -> None:
    if package.form == "zip" and not package.names:
        if not findings:
            findings.add("zip", f"{package.path.name} is empty")
        return
    if kind == "cityscapes":
        cityscapes.check(package, file, findings)
    elif kind == "voc":
        voc.check(package, stems, findings, classes=classes)
    else:
        most_used = SERVERS[kind].most_used
        coco.check(package, file, findings, most_used=most_used, named=kind == "coco")


def _upload_size(package: Package, max_bytes: int) -> int:
    """Size of the zip; worked out by packing only where the files are larger than the limit."""
    if package.form == "zip":
        return package.path.stat().st_size
    if package.form == "file":
        raw = package.path.stat().st_size
    else:
        raw = sum((package.path / name).stat().st_size for name in package.names)
    return raw if raw <= max_bytes else deflated_size(package, package.names)


def pack(report: Report, out: str | Path) -> Path:
    """Write the zip for the server from a file or folder that was checked.

    Args:
        report: of a submission without faults.
        out: the zip; for VOC its files lie in ``results/VOC2012/Main``.

    Raises:
        ConfigError: the name does not end in .zip, or the source is a zip or holds several submissions.
        DatasetError: the zip is larger than the server takes.
    """
    out = Path(out)
    if out.suffix.lower() != ".zip" or report.path.suffix.lower() == ".zip":
        raise ConfigError(
            f"--zip: found {out} from {report.path}; expected a name that ends in .zip and a file or folder "
            "to pack."
        )
    with opened(report.path, Findings()) as package:
        return write_zip(out, _entries(package, report, out), max_bytes=report.max_bytes)


def _entries(package: Package, report: Report, out: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name in the zip, content) of the files of a submission."""
    names = package.names
    if report.kind in ("coco", "lvis"):
        names = [name for name in names if name.endswith(".json")]
        if len(names) > 1:
            raise ConfigError(
                f"--zip: found {', '.join(names)} in {report.path}; expected one results file a zip. Give "
                "the file."
            )
    for name in names:
        inner = PurePosixPath(name).name
        if report.kind == "coco":
            inner = coco.server_name(Path(name), out, report.annotations)
        elif report.kind == "voc":
            inner = f"results/VOC2012/Main/{inner}"
        yield inner, partial(package.read, name)
