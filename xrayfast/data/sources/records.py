"""The images of a source, before they become a Manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

from xrayfast.data.images.names import folders_of
from xrayfast.data.labels.targets import RawLabels, Where
from xrayfast.data.splits.words import Split
from xrayfast.data.text_column import TextColumn

NO_FILE = "listed, but without a file"
"""Why rows are left out if their image does not exist."""


class FilePaths(Sequence[str]):
    """The absolute paths of N names, built on access: as strings, the paths of ten million names take a gigabyte."""

    def __init__(self, names: Sequence[str], path_of: Callable[[str], str] = str) -> None:
        self.names, self._path_of = names, path_of

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return map(self._path_of, self.names)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> FilePaths: ...
    def __getitem__(self, i: int | slice) -> str | FilePaths:
        return self.of(self.names[i]) if isinstance(i, slice) else self._path_of(self.names[i])

    def of(self, names: Sequence[str]) -> FilePaths:
        """Return the paths of other names."""
        return FilePaths(names, self._path_of)


@dataclass
class ImageRecords:
    """Records of N images, as aligned sequences. Raw patient and study identifiers go no further than this.

    Attributes:
        names: unique paths from the source folder, with '/'.
        paths: absolute.
        where: returns how a message refers to the i-th image.
        splits: None for an image without a split.
        patients, studies: identifiers, "" where unknown.
        archive: the public data set that gave the patients their identifiers, or "".
        patient_shown: if all images are of one patient, how a message may name the patient: " 'ANON'", or "".
        sexes: "F" or "M"; None where unknown.
        ages: in years; NaN where unknown.
        views: such as "PA" or "LATERAL"; None where unknown.
        own_split: whether the source gives splits, used or not.
        companions: names of tables beside the label table that were read too.
        describe_columns: returns a sentence on the column of label names, and on the columns that look like labels.
        left_out: pairs of a reason and the names of the images left out for it.
        notes: sentences on what was inferred or ignored.
    """

    names: list[str]
    paths: FilePaths
    labels: RawLabels
    where: Where
    splits: Sequence[Split | None] | None = None
    patients: Sequence[str] | None = None
    studies: Sequence[str] | None = None
    sexes: Sequence[str | None] | None = None
    ages: Sequence[float] | None = None
    views: Sequence[str | None] | None = None
    own_split: bool = False
    companions: tuple[str, ...] = ()
    describe_columns: Callable[[], str] = str
    left_out: list[tuple[str, list[str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    archive: str = ""
    patient_shown: str = ""

    @cached_property
    def folders(self) -> TextColumn:
        """The folder of each image."""
        return folders_of(self.names)

    def select(self, rows: Sequence[int]) -> ImageRecords:
        """Return the images at some positions, in the given order."""
        chosen: dict[str, Any] = {}
        for name in ("names", "splits", "patients", "studies", "sexes", "ages", "views"):
            if (values := getattr(self, name)) is not None:
                chosen[name] = values.take(rows) if isinstance(values, TextColumn) else [values[i] for i in rows]
        return replace(
            self,
            paths=self.paths.of([self.paths.names[i] for i in rows]),
            labels=replace(self.labels, matrix=self.labels.matrix[list(rows)]),
            where=lambda i: self.where(rows[i]),
            **chosen,
        )

    def leave_out(self, reasons: Mapping[str, str]) -> ImageRecords:
        """Return the images without those named in `reasons`, which gives the reason to leave out each."""
        if not reasons:
            return self
        others = self.select([i for i, name in enumerate(self.names) if name not in reasons])
        by_reason = {reason: list(names) for reason, names in self.left_out}
        for name in filter(reasons.__contains__, self.names):
            by_reason.setdefault(reasons[name], []).append(name)
        others.left_out = list(by_reason.items())
        return others
