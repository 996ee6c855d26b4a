"""What a scan can find: one row per kind, with its weight and the way to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

PROBLEM, WARNING, NOTE = "problem", "warning", "note"


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: PROBLEM (spoils training or evaluation), WARNING (look at it) or NOTE.
        title: what was found, in the plural.
        advice: how to mend it.
    """

    severity: str
    title: str
    advice: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        kind: a key of ``KINDS``.
        data_set: title of the data set.
        subject: image file, or what else it is about.
        detail: what was found and expected.
        annotation: id of the annotation, if it is about one.
        row: position of the image in the data set, -1 for none; not part of the report.
    """

    kind: str
    data_set: str
    subject: str
    detail: str
    annotation: int | str | None = None
    row: int = -1


#: in the order of the report
KINDS: dict[str, Kind] = {
    "missing-file": Kind(PROBLEM, "image files that are not there", "Restore them, or drop their entries."),
    "unreadable-image": Kind(PROBLEM, "files that cannot be decoded", "Fetch or export them again."),
    "damaged-image": Kind(
        PROBLEM, "images decoded with damaged parts", "Fetch or export them again; training would not notice."
    ),
    "wrong-size": Kind(
        PROBLEM,
        "images of another size than stated",
        "Correct width and height, and check that the boxes belong to this file.",
    ),
    "turned-by-exif": Kind(
        WARNING,
        "images that EXIF turns on reading",
        "Check that their boxes were drawn on the turned image, or store the pixels upright.",
    ),
    "leakage": Kind(
        PROBLEM,
        "images with the same content in two data sets",
        "Remove them from one: the metric is flattered.",
    ),
    "near-leakage": Kind(
        WARNING,
        "images that look alike in two data sets",
        "Look at the pairs; frames of one video leak as well.",
    ),
    "duplicate-file": Kind(
        WARNING, "files with the same content", "Keep one, with the union of its objects."
    ),
    "near-duplicate": Kind(NOTE, "images that look alike", "Look at the pairs."),
    "malformed-entry": Kind(
        PROBLEM, "entries that cannot be used", "Correct them, or convert the data again."
    ),
    "repeated-id": Kind(PROBLEM, "ids used more than once", "Number the entries anew."),
    "repeated-name": Kind(WARNING, "image files listed more than once", "Merge their entries."),
    "id-zero": Kind(
        PROBLEM,
        "annotations with the id 0",
        "Number from 1: COCO's matching takes 0 for 'no match', so AP falls.",
    ),
    "unknown-image": Kind(
        PROBLEM, "annotations of an image that is not listed", "Add the image, or drop the annotation."
    ),
    "unknown-category": Kind(
        PROBLEM, "annotations of a category that is not listed", "Add the category, or correct category_id."
    ),
    "degenerate-box": Kind(PROBLEM, "boxes without extent", "Correct them, or drop the annotations."),
    "tiny-box": Kind(
        NOTE, "boxes below a pixel", "Training leaves them out; drop them if they are mistakes."
    ),
    "box-outside-image": Kind(
        PROBLEM, "boxes wholly outside their image", "Correct them: the coordinates belong to another size?"
    ),
    "box-over-border": Kind(WARNING, "boxes that reach over the border", "Clip them to the image."),
    "bad-mask": Kind(PROBLEM, "masks that cannot be drawn", "Correct the polygons or run lengths."),
    "box-not-of-mask": Kind(
        WARNING, "boxes that do not enclose their mask", "Compute the box from the mask, or correct the mask."
    ),
    "duplicate-annotation": Kind(WARNING, "objects annotated twice", "Drop one of each pair."),
    "unannotated-image": Kind(
        NOTE, "images without annotations", "Fine for background; annotate if forgotten."
    ),
    "class-without-objects": Kind(NOTE, "classes without any object", "Drop the class, or add examples."),
}
SEVERITIES = (PROBLEM, WARNING, NOTE)


def count_by_kind(findings: Iterable[Finding]) -> dict[str, int]:
    """Number of findings of every kind that occurs, in the order of ``KINDS``."""
    counts = Counter(finding.kind for finding in findings)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def count_by_severity(findings: Iterable[Finding]) -> dict[str, int]:
    """Number of problems, warnings and notes."""
    counts = Counter(KINDS[finding.kind].severity for finding in findings)
    return {severity: counts[severity] for severity in SEVERITIES}
