"""The gate before training: no patient and no image in two splits."""

from __future__ import annotations

from xrayfast.audit.features import LEAST_SIDE
from xrayfast.audit.findings import class_findings, duplicate_findings
from xrayfast.audit.leaks import Leaks, find_leaks, redraw_leaky_splits
from xrayfast.data.cache.image_cache import DecodedImages, open_images
from xrayfast.data.manifest import Manifest
from xrayfast.errors import DataError, plural
from xrayfast.progress import StageProgress

LEAKS_ALLOWED = "Trained with leaks allowed"
"""How the warning of a run with leaks begins."""


def require_leak_free(
    data: Manifest, images: DecodedImages, *, allow_leaks: bool, progress: StageProgress | None = None
) -> tuple[Manifest, list[str], list[str]]:
    """Make sure that splits share neither patients nor duplicates.

    Drawn splits are drawn again where they do; given splits are kept. Images below 64 px are compared at 64 px.

    Returns:
        The data set; warnings of leaks that it has nonetheless, of rare labels, and of contradicting labels; and what
        was looked for and found, in sentences.

    Raises:
        DataError: given splits have leaks, and they are not allowed; the message names them.
    """
    if images.side < LEAST_SIDE:
        images = open_images(data.config, LEAST_SIDE)
    data, leaks = redraw_leaky_splits(data, find_leaks(data, images, progress))
    looked = _describe_search(data, leaks)
    findings = [*duplicate_findings(data, leaks.duplicates), *class_findings(data)]
    warnings = [f"{found.title}. {found.text}" for found in findings if found.severity == "warning"]
    if not leaks:
        return data, warnings, looked
    found = " ".join(leaks.sentences())
    if not allow_leaks:
        advice = (
            "Remove copies: too few patients or groups of duplicates are left to draw a split that keeps each together"
            if data.drawn.all()
            else "Remove copies, fix the split, or leave it out with --ignore-split, which draws one"
        )
        raise DataError(
            f"{data.config.source}: training would see images that it is evaluated on. {found} {advice}; 'xrayfast "
            "check' lists all and shows the images, and 'xrayfast fit --allow-leaks' trains all the same."
        )
    return data, [f"{LEAKS_ALLOWED}: results are optimistic. {found}", *warnings], looked


def _describe_search(data: Manifest, leaks: Leaks) -> list[str]:
    """What was looked for, and what was found."""
    kinds = [group.kind for group in leaks.duplicates]
    exact, near = (plural(kinds.count(kind), "group") for kind in ("exact", "near"))
    known = int(data.table["patient"].notna().sum())
    patients = (
        f"Patients are known of {plural(known, 'image')} and are in one split each."
        if known
        else "Patients are not known, so that one of them could be in several splits."
    )
    return [
        f"{plural(len(data), 'image')} compared: {exact} of equal images, {near} of near duplicates.",
        *(leaks.sentences() or ["No image is in more than one split."]),
        *([] if leaks.patients else [patients]),
        "Shortcuts, such as size, borders or brightness that give a label away, were not looked for: 'xrayfast check' "
        "does.",
    ]
