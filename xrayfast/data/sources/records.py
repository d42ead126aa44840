"""What a layout of files yields, before it becomes a Manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xrayfast.data.labels.targets import Targets, Where
from xrayfast.data.splits.stratify import Split


@dataclass
class ImageRecords:
    """The images of a layout; the lists are aligned. Raw identifiers of patients and studies go no further than this.

    Attributes:
        names: unique, the path from the source folder with '/'.
        paths: absolute.
        labels: L labels.
        raw: (N, L) raw matrix.
        where: names an image in a message.
        parts: of the images whose part is given.
        patients: "" where unknown.
        studies: "" where unknown.
        sexes: "F" or "M"; None where unknown.
        ages: in years; NaN where unknown.
        views: such as "PA" or "LATERAL"; None where unknown.
        from_table: whether labels are from a table.
        several: whether images have several labels, whatever the matrix shows.
        blank: the policy on blank cells where the settings have none.
        left_out: why image files were left out, and how many.
        notes: what was inferred or ignored, in sentences.
    """

    names: list[str]
    paths: list[str]
    labels: list[str]
    raw: Targets
    where: Where
    splits: Sequence[Split | None] | None = None
    patients: Sequence[str] | None = None
    studies: Sequence[str] | None = None
    sexes: Sequence[str | None] | None = None
    ages: Sequence[float] | None = None
    views: Sequence[str | None] | None = None
    from_table: bool = False
    several: bool = False
    blank: str = "ignore"
    left_out: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
