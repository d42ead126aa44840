"""The check before training that no patient and no image is in two splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xrayfast.audit.duplicates import Duplicates
from xrayfast.audit.features import LEAST_SIDE, Features
from xrayfast.audit.findings import class_findings, duplicate_findings
from xrayfast.audit.leaks import Leaks, compare_images, group_linked_images, leaks_between_splits, redraw_leaky_splits
from xrayfast.audit.shortcuts import predictable_labels
from xrayfast.data.cache.image_cache import DecodedImages, open_images
from xrayfast.data.cache.shards import ImageInfo
from xrayfast.data.manifest import Manifest
from xrayfast.errors import DataError, plural, shorten
from xrayfast.metrics.claims.headline import Remark
from xrayfast.progress import StageProgress, no_progress


@dataclass(frozen=True, eq=False)
class CheckedData:
    """A data set that was checked for leaks.

    Attributes:
        warnings: warnings of leaks that were allowed, of rare labels and of contradictory labels.
        looked: sentences on what was looked for and what was found.
        shortcuts: the result of `audit.shortcuts.predictable_labels`.
    """

    data: Manifest
    warnings: list[str]
    looked: list[str]
    shortcuts: dict[str, float]


@dataclass(frozen=True, eq=False)
class ComparedImages:
    """The result of comparing all images of a data set, whatever their splits.

    Attributes:
        side: side of the images that were compared, in pixels.
        duplicates: groups of equal and nearly equal images.
        unreadable: the error of each file that can't be read, keyed by path.
        shortcuts: as in `CheckedData`.
    """

    side: int
    duplicates: tuple[Duplicates, ...]
    unreadable: Mapping[str, str]
    shortcuts: dict[str, float]


def find_leaks(data: Manifest, images: DecodedImages, progress: StageProgress = no_progress) -> tuple[Features, Leaks]:
    """Run `compare_images` on decoded images; images below 64 px are decoded again at 64 px for it."""
    if images.side >= LEAST_SIDE:
        return compare_images(data, images, progress, unreadable={})
    return compare_images(data, open_images(data.config, LEAST_SIDE), progress)


def compare_all_images(data: Manifest, images: DecodedImages, progress: StageProgress = no_progress) -> ComparedImages:
    """Compare all images with each other."""
    features, leaks = find_leaks(data, images, progress)
    shortcuts = predictable_labels(data, features, group_linked_images(data, leaks.duplicates))
    return ComparedImages(max(images.side, LEAST_SIDE), leaks.duplicates, leaks.unreadable, shortcuts)


def require_leak_free(data: Manifest, compared: ComparedImages, *, allow_leaks: bool) -> CheckedData:
    """Make sure that splits share neither patients nor duplicates.

    If drawn splits share some, they are drawn again; given splits are kept.

    Raises:
        DataError: splits still have leaks, and leaks are not allowed; the message names them.
    """
    data, leaks = redraw_leaky_splits(data, leaks_between_splits(data, compared.duplicates, compared.unreadable))
    looked = _describe_search(data, leaks, compared)
    findings = [*duplicate_findings(data, leaks.duplicates), *class_findings(data)]
    warnings = [f"{found.title}. {found.text}" for found in findings if found.severity == "warning"]
    if not leaks:
        return CheckedData(data, warnings, looked, compared.shortcuts)
    found = " ".join(leaks.sentences())
    if not allow_leaks:
        advice = (
            "Remove copies: there are too few patients or groups of duplicates to draw a split that keeps each of "
            "them together"
            if data.drawn.all()
            else "Remove copies, fix the split file, or leave out --split-file (images are compared at --size, so "
            "'xrayfast split' has to be given the same one)"
            if data.config.split_file
            else "Remove copies, fix the split, or draw a new one with --ignore-split"
        )
        raise DataError(
            f"{data.config.shown}: the network would be evaluated on images that it is trained on. {found} {advice}; "
            f"'xrayfast check --size {compared.side}' lists all of them with their images, and 'xrayfast fit "
            "--allow-leaks' trains anyway."
        )
    warnings = [f"{Remark.LEAKS_ALLOWED}: results are optimistic. {found}", *warnings]
    return CheckedData(data, warnings, looked, compared.shortcuts)


def describe_exact_leaks(data: Manifest, infos: Sequence[ImageInfo]) -> list[str]:
    """Return a remark on patients and images of equal pixels in more than one split, if there are any.

    `infos` are those of the manifest's images, or none if they are not known.
    """
    rows_of: dict[str, list[int]] = {}
    for row, info in enumerate(infos):
        rows_of.setdefault(info.digest, []).append(row)
    groups = [Duplicates(tuple(rows), "exact", 1.0) for rows in rows_of.values() if len(rows) > 1]
    found = leaks_between_splits(data, groups).sentences()
    return [f"{Remark.LEAKS_ALLOWED}: results are optimistic. {' '.join(found)}"] if found else []


def _describe_search(data: Manifest, leaks: Leaks, compared: ComparedImages) -> list[str]:
    """Return sentences on what was looked for and what was found."""
    shortcuts, kinds = compared.shortcuts, [group.kind for group in leaks.duplicates]
    exact, near = (plural(kinds.count(kind), "group") for kind in ("exact", "near"))
    known = int(data.table["patient"].notna().sum())
    patients = (
        f"Patients are known for {plural(known, 'image')}, and no patient is in more than one split."
        if known
        else "Patients are not known, so a patient could be in several splits."
    )
    return [
        f"{plural(len(data), 'image')} compared: {exact} of identical images, {near} of near duplicates.",
        *(leaks.sentences() or ["No image is in more than one split."]),
        *([] if leaks.patients else [patients]),
        "An image's size, coding, border, brightness, texture, view and notes on reading predict "
        + (
            f"better than chance (AUROC): {shorten(f'{label} {value:.2f}' for label, value in shortcuts.items())}. "
            f"'xrayfast check --size {compared.side}' shows which of them."
            if shortcuts
            else "no label with enough images better than chance."
        ),
    ]
