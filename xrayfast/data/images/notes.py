"""Notes on an image's contents, and which notes of the reader deserve attention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from operator import sub

import numpy as np

from xrayfast.data.images.radiograph import Pixels
from xrayfast.errors import plural, shorten

_SAMPLED = 64  # rows and columns
_RUN = 16  # neighbouring pixels
_CONSTANT, _FLAT, _DARK, _BRIGHT = 2.55, 64, 64, 191  # gray levels of 0..255
_NOISE = 0.8

_ROUTINE = re.compile(
    r"\d+ bits stored|(full|percentile) range|window \S+ [A-Z_]+$|VOI LUT \d+$|modality LUT|rescaled by|pixel padding|"
    r"MONOCHROME1 inverted|WhiteIsZero inverted|\d+-bit scaled from|16-bit channels|(mode )?\S+( COLOR)? converted to "
    r"gray|pydicom: "
)
"""How notes begin on steps that many sound files need; only `xrayfast check` and `predict` give these."""

TWO_SHADES = "of two shades"
"""The note on images that are black and white alone, as masks are."""


def describe_contents(pixels: Pixels) -> list[str]:
    """Notes on an image (H, W) in which little or nothing can be seen, judged by some thousands of its pixels.

    Most images are settled by fewer than a hundred, in 0.01 ms: small ones are read in 0.2 ms.
    """
    if (spread := _least_spread(pixels)) < 1.25 * _FLAT:
        height, width = pixels.shape
        sample = pixels[:: -(-height // _SAMPLED), :: -(-width // _SAMPLED)]
        counted = np.bincount(sample.ravel()).cumsum()
        low, high = counted.searchsorted((0.05 * sample.size, 0.95 * sample.size)).tolist()
        if high - low < _FLAT:
            return _describe_flat(pixels, sample, low, high)
        spread = high - low
    if _is_noise(pixels, spread):
        return ["neighbouring pixels differ as in noise"]
    return [TWO_SHADES] if len(set(pixels[len(pixels) // 2].tobytes())) <= 2 and _has_two_values(pixels) else []


def _has_two_values(pixels: Pixels) -> bool:
    """Whether an image is black and white alone, as masks are."""
    return bool(np.count_nonzero(np.bincount(pixels.ravel())) == 2)


def _least_spread(pixels: Pixels) -> int:
    """About the difference between the 95 and 5 percentiles, by 64 pixels of four rows."""
    height, width = pixels.shape
    step = width // 16 + 1
    sample = sorted(b"".join([pixels[height * i // 5, ::step].tobytes() for i in (1, 2, 3, 4)]))
    return sample[-5] - sample[4] if len(sample) > 40 else 0


def _describe_flat(pixels: Pixels, sample: Pixels, low: int, high: int) -> list[str]:
    """Notes on an image of little contrast; `low` and `high` are the 5 and 95 percentiles of a sample."""
    if sample.std() < _CONSTANT:
        return ["of one shade" if pixels.min() == pixels.max() else "nearly of one shade"]
    notes = ["nearly black"] if high < _DARK else ["nearly white"] if low > _BRIGHT else []
    return [*notes, "nearly without contrast"]


def _is_noise(pixels: Pixels, spread: int) -> bool:
    """Whether neighbours in rows, or in columns, differ as much as any two pixels do.

    Of two independent pixels the mean squared difference is twice the variance.
    """
    height, width = pixels.shape
    run = pixels[height // 2, width // 2 : width // 2 + _RUN].tobytes()
    down = pixels[height // 2 : height // 2 + _RUN, width // 2].tobytes()
    if 5 * max(sum(map(abs, map(sub, run, run[1:]))), sum(map(abs, map(sub, down, down[1:])))) < _RUN * spread:
        return False  # nearly always; of noise these steps are a third of the spread
    rows, columns = pixels[:: -(-height // _SAMPLED)], pixels[:, :: -(-width // _SAMPLED)]
    return min(height, width) >= _RUN and any(
        float(np.square(np.diff(values.astype(np.float32), axis=axis)).mean()) > 2 * _NOISE * rows.var()
        for values, axis in ((rows, 1), (columns, 0))
    )


def needs_attention(note: str) -> bool:
    """Whether a note tells of more than a routine step."""
    return not _ROUTINE.match(note)


def group_notes(names: Sequence[str], notes: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """The images with each kind of note that needs attention, the commonest kind first.

    Args:
        names: of N images.
        notes: of each.

    Returns:
        Names by the first note of the kind; notes of one kind differ in their numbers.
    """
    groups: dict[str, tuple[str, list[str]]] = {}
    for name, own in zip(names, notes, strict=True):
        for kind, note in {generalize_note(note): note for note in own if needs_attention(note)}.items():
            groups.setdefault(kind, (note, []))[1].append(name)
    return dict(sorted(groups.values(), key=lambda group: -len(group[1])))


def describe_notes(names: Sequence[str], notes: Iterable[Sequence[str]]) -> list[str]:
    """`group_notes` as sentences.

    >>> describe_notes(["a.png", "b.png"], [["nearly black"], ["nearly black", "12 bits stored"]])
    ['2 images read with the note "nearly black": a.png, b.png.']
    """
    groups = group_notes(names, notes).items()
    return [f'{plural(len(own), "image")} read with the note "{note}": {shorten(own, 3)}.' for note, own in groups]


def generalize_note(note: str) -> str:
    """A note with its numbers replaced by "#", so that it is the same for many images."""
    return re.sub(r"-?\d+(\.\d+)?", "#", note)
