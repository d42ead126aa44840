"""The images of a source, before they become a Manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xrayfast.data.labels.targets import RawLabels, Where
from xrayfast.data.splits.stratify import Split

NO_FILE = "listed without a file"
"""Why rows of a table are left out whose image is not there."""


@dataclass
class ImageRecords:
    """N images; sequences are aligned. Raw identifiers of patients and studies go no further than this.

    Attributes:
        names: unique: the path from the source folder, with '/'.
        paths: absolute.
        where: names an image in a message.
        splits: None where an image has none.
        patients, studies: identifiers, "" where unknown.
        sexes: "F" or "M"; None where unknown.
        ages: in years; NaN where unknown.
        views: such as "PA" or "LATERAL"; None where unknown.
        companions: names of tables beside the labels that were read too.
        left_out: why images were left out, and their names.
        notes: what was inferred or ignored, in sentences.
    """

    names: list[str]
    paths: list[str]
    labels: RawLabels
    where: Where
    splits: Sequence[Split | None] | None = None
    patients: Sequence[str] | None = None
    studies: Sequence[str] | None = None
    sexes: Sequence[str | None] | None = None
    ages: Sequence[float] | None = None
    views: Sequence[str | None] | None = None
    companions: tuple[str, ...] = ()
    left_out: list[tuple[str, list[str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
