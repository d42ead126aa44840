"""Which notes of the reader need attention or say that an image is no radiograph; notes on color and compression."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from xrayfast.errors import plural, shorten

_CHROMA = 48  # least difference between the channels of a colored pixel
_COLORED_SHARE = 0.02
_MARKED_LINES = 3  # least number of lines with a colored pixel
_TINT = 3  # gray levels between the means of the channels; JPEG adds less to gray
_ONE_HUE = 0.975  # mean resultant length of hues, above which they are a tint

_ROUTINE = re.compile(
    r"\d+ bits stored|(full|percentile) range|window \S+ [A-Z_]+$|VOI LUT \d+$|modality LUT|rescaled by|pixel padding|"
    r"MONOCHROME1 inverted|WhiteIsZero inverted|\d+-bit scaled from|16-bit channels|(mode )?\S+( COLOR)? converted to "
    r"gray|pydicom: "
)
"""Beginnings of notes on steps that many sound files need; only `xrayfast check` and `predict` show these notes."""

NO_RADIOGRAPH = "not a radiograph, according to its header"
"""The note on DICOM images that are no radiographs, such as masks."""

TWO_SHADES, FEW_SHADES, COLOR_CODED = "only two shades of gray", "only # shades of gray", "color-coded"
"""The notes on images of only two shades, of 3 to 8 shades (see `generalize_note`), and of several strong colors."""

TOO_SMOOTH, PLAIN_AREAS = "smooth, as blurred masks and heat maps are", "plain areas with sharp edges, as in label maps"
"""The notes on images that may be no radiographs, judged by their texture."""

COLORED_MARKS = "colored lines or marks converted to gray"
"""The note on gray images with a little color, such as a contour or text."""

TINTED = "slightly tinted, as in photos of radiographs and screens"
"""The note on gray images whose channels differ a little everywhere."""

_STRONG = 40  # ratio of decoded to encoded bytes; the Canadian Association of Radiologists allows 30 (2011)

_WEBP_GAIN = 1.5

_REASONS = {
    NO_RADIOGRAPH: "DICOM objects that are not radiographs, according to their header",
    TWO_SHADES: f"{TWO_SHADES}, as in masks",
    FEW_SHADES: "only a few shades of gray, as in label maps",
    COLOR_CODED: f"{COLOR_CODED}, as maps and overlays are",
}
"""The reasons for leaving out images that are no radiographs, keyed by the note on them."""

_OTHER_OBJECT = re.compile(r": found a DICOM object (of another kind|with no pixel data) \((?!of unknown class)")


def describe_colors(rgb: bytes) -> list[str]:
    """Return notes on the color of some of an image's pixels, three bytes each.

    The color that JPEG adds to gray gets no note.
    """
    red, green, blue = rgb[::3], rgb[1::3], rgb[2::3]
    if red == green == blue:  # the usual case
        return []
    channels = np.frombuffer(rgb, np.uint8).reshape(-1, 3).astype(np.float64)
    is_colored = np.ptp(channels, axis=1) > _CHROMA
    colored, share = channels[is_colored], float(is_colored.mean())
    if share < _COLORED_SHARE:
        return [TINTED] * bool(np.ptp(channels[~is_colored].mean(axis=0)) > _TINT)
    hues = colored @ np.exp(2j * np.pi / 3 * np.arange(3))
    if share > 0.5 and abs((hues / np.abs(hues)).mean()) < _ONE_HUE:
        return [COLOR_CODED]
    return [f"color on {share:.0%} of the area, converted to gray"]


def describe_compression(ratio: float, *, webp: bool = False) -> list[str]:
    """Return a note on an image that lossy compression made `ratio` times smaller, if that is too much.

    In 7,801 radiographs, the ratio is at most 11. WebP takes two thirds of JPEG's bytes for the same quality.
    """
    ratio_as_jpeg = ratio / _WEBP_GAIN if webp else ratio
    return (
        [f"strongly compressed, {min(ratio, 9999):.0f}:1, so that fine detail is lost"]
        if ratio_as_jpeg >= _STRONG
        else []
    )


def has_colored_marks(rgb: bytes, width: int) -> bool:
    """Whether 3 or more rows have a strongly colored pixel, as with thin lines; `rgb` has three bytes per pixel."""
    if rgb[::3] == rgb[1::3] == rgb[2::3]:
        return False
    channels = np.frombuffer(rgb, np.uint8).reshape(-1, width, 3)
    colored = (channels.max(axis=2) - channels.min(axis=2)) > _CHROMA
    return int(np.count_nonzero(colored.any(axis=1))) >= _MARKED_LINES


def find_other_images(notes: Mapping[str, Sequence[str]], problems: Mapping[str, str]) -> dict[str, str]:
    """Return the reasons for leaving out images that are no radiographs by header or content, keyed by name.

    If no image would be left, return none.

    Args:
        notes: on the images, keyed by name.
        problems: why other files can't be read, keyed by name; among them are DICOM objects without an image.
    """
    kinds = {name: map(generalize_note, own) for name, own in notes.items()}
    found = {name: _REASONS[kind] for name, own in kinds.items() for kind in own if kind in _REASONS}
    found |= {name: _REASONS[NO_RADIOGRAPH] for name, problem in problems.items() if is_other_object(problem)}
    return found if len(found) < len(notes) + len(problems) else {}


def is_other_object(problem: str) -> bool:
    """Whether a file can't be read because it is a sound DICOM object without an image, such as a report."""
    return bool(_OTHER_OBJECT.search(problem))


def needs_attention(note: str) -> bool:
    """Whether a note is about more than a routine step."""
    return not _ROUTINE.match(note)


def group_notes(names: Sequence[str], notes: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """Return the images with each kind of note that needs attention, the commonest kind first.

    Args:
        names: of N images.
        notes: on each image.

    Returns:
        Names keyed by the first note of the kind; notes of one kind differ only in their numbers.
    """
    groups: dict[str, tuple[str, list[str]]] = {}
    for name, own in zip(names, notes, strict=True):
        for kind, note in {generalize_note(note): note for note in own if needs_attention(note)}.items():
            groups.setdefault(kind, (note, []))[1].append(name)
    return dict(sorted(groups.values(), key=lambda group: -len(group[1])))


def describe_notes(names: Sequence[str], notes: Iterable[Sequence[str]]) -> list[str]:
    """Return the groups of `group_notes` as sentences.

    >>> describe_notes(["a.png", "b.png"], [["nearly black"], ["nearly black", "12 bits stored"]])
    ['2 images read with the note "nearly black": a.png, b.png.']
    """
    groups = group_notes(names, notes).items()
    return [f'{plural(len(own), "image")} read with the note "{note}": {shorten(own, 3)}.' for note, own in groups]


def generalize_note(note: str) -> str:
    """Return a note with its numbers replaced by "#", so that it is the same for many images."""
    return re.sub(r"-?\d+(\.\d+)?", "#", note)
