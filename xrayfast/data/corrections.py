"""Label corrections that `review` proposes and a reader accepts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from xrayfast.data.labels.flags import parse_flag
from xrayfast.data.labels.implications import apply_implications, parse_implications
from xrayfast.data.labels.resolve import ResolvedLabels
from xrayfast.data.labels.targets import to_truth
from xrayfast.data.sources.tables import read_table
from xrayfast.errors import DataError, did_you_mean, plural, shorten
from xrayfast.files.checksums import file_digest

COLUMNS = ("image", "label", "given", "proposed", "accept")

_CELLS = {1: "1", 0: "0", -1: "masked"}


@dataclass(frozen=True)
class Correction:
    """A correction of one label of an image, accepted by a reader.

    Attributes:
        image: as in the manifest.
        label: in a multi-label task, the label; in a single-label task, "".
        given: the class, or "1" or "0", in the data.
        proposed: the value that replaces it.
        where: how a message refers to it.
    """

    image: str
    label: str
    given: str
    proposed: str
    where: str = ""

    def row(self) -> dict[str, str]:
        """Return the row of a corrections file for this correction, marked as accepted."""
        cells = asdict(self) | {"accept": "yes"}
        return {name: cells[name] for name in COLUMNS}


def read_corrections(file: Path, sha256: str | None = None) -> tuple[list[Correction], str]:
    """Return the accepted rows of a file with the columns image, label, given, proposed and accept, and its SHA-256.

    Raises:
        DataError: the file can't be read, its SHA-256 is not the expected one, or no row is accepted.
    """
    table = read_table(file)
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise DataError(
            f"{file}: found the columns {shorten(table.columns)}; expected {', '.join(COLUMNS)}, as written by "
            f"'xrayfast review'. Missing: {', '.join(missing)}."
        )
    found = file_digest(file)
    if sha256 not in (None, found):
        raise DataError(
            f"{file}: its SHA-256 is {found}; expected {sha256}, as recorded in corrections_sha256. Leave out "
            "corrections_sha256 to use the file as it is now."
        )
    corrections, places = list[Correction](), dict[tuple[str, str], str]()
    for i, cells in enumerate(zip(*(table.columns[name] for name in COLUMNS), strict=True)):
        image, label, given, proposed, accept = map(str.strip, cells)
        answer = parse_flag(accept)
        if answer is None or answer < 0:
            raise DataError(f"{table.where(i)}: accept is '{accept}'; expected yes, no, or blank for no.")
        if answer != 1:
            continue
        one = Correction(image, label, given, proposed, table.where(i))
        if (one.image, one.label) in places:
            other = places[one.image, one.label]
            raise DataError(
                f"{one.where}: '{one.image}' is already corrected in {other}; expected one accepted row per image "
                f"and label."
            )
        places[one.image, one.label] = one.where
        corrections.append(one)
    if not corrections:
        raise DataError(
            f"{file}: no row is accepted. Write yes in the accept column of the rows to apply, or leave out the file."
        )
    return corrections, found


def apply_corrections(
    labels: ResolvedLabels,
    names: Sequence[str],
    corrections: Iterable[Correction],
    left_out: Collection[str] = (),
    imply: Sequence[str] = (),
) -> tuple[ResolvedLabels, list[Correction]]:
    """Correct the targets; return the labels, and the corrections without those of images that are left out.

    Raises:
        DataError: an image is missing, a label does not exist, a cell differs from the correction's `given`, or a rule
            of `imply` is violated.
    """
    rows = {name: i for i, name in enumerate(names)}
    columns = {label: j for j, label in enumerate(labels.names)}
    targets, truth = labels.targets.copy(), to_truth(labels.targets)
    used = [one for one in corrections if one.image not in left_out]
    for one in used:
        if one.image not in rows:
            near = did_you_mean(one.image, rows)
            raise DataError(f"{one.where}: '{one.image}' is not among the images.{near} Remove the row.")
        row = rows[one.image]
        if labels.task == "single":
            if one.label:
                raise DataError(
                    f"{one.where}: label is '{one.label}'; expected a blank cell, because given and proposed are the "
                    f"classes in a single-label task."
                )
            found = labels.names[int(truth[row].argmax())]
            _require_given(one, found, columns)
            targets[row] = 0
            targets[row, columns[one.proposed]] = 1
        else:
            _require_label(one, one.label, columns)
            column = columns[one.label]
            _require_given(one, _CELLS[int(truth[row, column])], {"0": 0, "1": 1})
            targets[row, column] = float(one.proposed)
    corrected = replace(labels, targets=targets)
    _require_implied(corrected, used, rows, imply)
    return corrected, used


def describe_corrections(file: Path, sha256: str, applied: Sequence[Correction], accepted: int) -> list[str]:
    """Describe the corrections that were applied, as sentences."""
    images = len({one.image for one in applied})
    notes = [
        f"{file.name} (SHA-256 {sha256[:12]}) corrects {plural(len(applied), 'label')} of {plural(images, 'image')}. "
        "Metrics are computed with the corrected labels: they are optimistic if a network proposed the corrections."
    ]
    if accepted > len(applied):
        notes.append(
            f"{file.name}: {plural(accepted - len(applied), 'row')} not used, because the images were left out."
        )
    return notes


def _require_label(one: Correction, label: str, known: Mapping[str, int]) -> None:
    if label not in known:
        raise DataError(
            f"{one.where}: found the label '{label}'; expected one of {shorten(known, 20)}.{did_you_mean(label, known)}"
        )


def _require_given(one: Correction, found: str, known: Mapping[str, int]) -> None:
    """Raise an error if the data differ from the correction's `given`, or already have the proposed value."""
    _require_label(one, one.proposed, known)
    if one.given != found:
        raise DataError(
            f"{one.where}: given is '{one.given}', but the label of '{one.image}' in the data is '{found}'. Remove "
            f"the row, or run 'xrayfast review' again."
        )
    if one.proposed == found:
        raise DataError(
            f"{one.where}: proposed is '{found}', which is already the label in the data. Write no in the accept "
            f"column."
        )


def _require_implied(
    labels: ResolvedLabels, corrections: Sequence[Correction], rows: Mapping[str, int], imply: Sequence[str]
) -> None:
    """Raise an error if a correction contradicts a rule such as covid-19=pneumonia."""
    _, implied = apply_implications(labels.targets, labels.names, parse_implications(imply, labels.names))
    for one in corrections:
        row = rows[one.image]
        if (wrong := np.flatnonzero(implied[row] != labels.targets[row])).size:
            label = labels.names[int(wrong[0])]
            raise DataError(
                f"{one.where}: contradicts --imply, which also gives '{one.image}' the label '{label}'. Correct both "
                f"labels."
            )
