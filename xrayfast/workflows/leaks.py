"""The gate before training: no patient and no picture on both sides of the split."""

from __future__ import annotations

from collections.abc import Callable

from xrayfast.audit.features import LEAST_SIDE
from xrayfast.audit.leaks import Leaks, find_leaks, mended
from xrayfast.data.manifest import Manifest
from xrayfast.data.store import Pictures, open_pictures
from xrayfast.errors import DataError, counted


def sound(
    data: Manifest,
    pictures: Pictures,
    *,
    allow_leaks: bool,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Manifest, list[str], list[str]]:
    """The data set with parts that share neither patients nor duplicates.

    Parts that were drawn are drawn again, with what belongs together kept together. Parts that were given are not
    touched.

    Args:
        data: all images, of all parts.
        pictures: of those images; where they are smaller than 64 px, larger ones are looked at.
        allow_leaks: go on although given parts have leaks.
        progress: called with what is being done, the images done and the images in all.

    Returns:
        The data set; a warning where it has leaks all the same; and what was looked for and found, in sentences.

    Raises:
        DataError: given parts have leaks, and they are not allowed; the message names them.
    """
    if pictures.side < LEAST_SIDE:
        pictures = open_pictures(data.config, LEAST_SIDE)
    data, leaks = mended(data, find_leaks(data, pictures, progress))
    looked = _looked(data, leaks)
    if not leaks:
        return data, [], looked
    found = " ".join(leaks.sentences())
    if not allow_leaks:
        raise DataError(
            f"{data.config.source}: training would see images that it is measured on. {found} Remove copies, mend the "
            "split or leave it to xrayfast; 'xrayfast check' lists all and shows the pictures, and 'xrayfast fit "
            "--allow-leaks' trains all the same."
        )
    return data, [f"Trained with leaks allowed: results are too good. {found}"], looked


def _looked(data: Manifest, leaks: Leaks) -> list[str]:
    """What the gate looked for, and what it found."""
    kinds = [group.kind for group in leaks.duplicates]
    exact, near = (counted(kinds.count(kind), "group") for kind in ("exact", "near"))
    known = int(data.table["patient"].notna().sum())
    patients = (
        f"Patients are known of {counted(known, 'image')} and stand in one part each."
        if known
        else "Patients are not known, so that one of them could stand in several parts."
    )
    return [
        f"{counted(len(data), 'image')} compared: {exact} of equal pictures, {near} of near duplicates.",
        *(leaks.sentences() or ["No picture stands in more than one part."]),
        *([] if leaks.patients else [patients]),
        "Shortcuts, such as size, borders or brightness that give a label away, were not looked for: 'xrayfast check' "
        "does.",
    ]
