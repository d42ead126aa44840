"""The gate before training: no patient and no image on both sides of the split."""

from __future__ import annotations

from collections.abc import Callable

from xrayfast.audit.features import LEAST_SIDE
from xrayfast.audit.leaks import Leaks, find_leaks, redraw_leaky_splits
from xrayfast.data.cache.image_cache import DecodedImages, open_images
from xrayfast.data.manifest import Manifest
from xrayfast.errors import DataError, plural


def require_leak_free(
    data: Manifest,
    images: DecodedImages,
    *,
    allow_leaks: bool,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Manifest, list[str], list[str]]:
    """The data set with parts that share neither patients nor duplicates.

    Splits that were drawn are drawn again, with what belongs together kept together. Splits that were given are not
    touched.

    Args:
        data: all images, of all parts.
        images: of those images; where they are smaller than 64 px, larger ones are looked at.
        allow_leaks: go on although given splits have leaks.
        progress: called with what is being done, the images done and the images in all.

    Returns:
        The data set; a warning where it has leaks all the same; and what was looked for and found, in sentences.

    Raises:
        DataError: given splits have leaks, and they are not allowed; the message names them.
    """
    if images.side < LEAST_SIDE:
        images = open_images(data.config, LEAST_SIDE)
    data, leaks = redraw_leaky_splits(data, find_leaks(data, images, progress))
    looked = _looked(data, leaks)
    if not leaks:
        return data, [], looked
    found = " ".join(leaks.sentences())
    if not allow_leaks:
        raise DataError(
            f"{data.config.source}: training would see images that it is measured on. {found} Remove copies, mend the "
            "split or leave it to xrayfast; 'xrayfast check' lists all and shows the images, and 'xrayfast fit "
            "--allow-leaks' trains all the same."
        )
    return data, [f"Trained with leaks allowed: results are too good. {found}"], looked


def _looked(data: Manifest, leaks: Leaks) -> list[str]:
    """What the gate looked for, and what it found."""
    kinds = [group.kind for group in leaks.duplicates]
    exact, near = (plural(kinds.count(kind), "group") for kind in ("exact", "near"))
    known = int(data.table["patient"].notna().sum())
    patients = (
        f"Patients are known of {plural(known, 'image')} and stand in one split each."
        if known
        else "Patients are not known, so that one of them could stand in several splits."
    )
    return [
        f"{plural(len(data), 'image')} compared: {exact} of equal images, {near} of near duplicates.",
        *(leaks.sentences() or ["No image stands in more than one split."]),
        *([] if leaks.patients else [patients]),
        "Shortcuts, such as size, borders or brightness that give a label away, were not looked for: 'xrayfast check' "
        "does.",
    ]
