"""The window or VOI LUT of a DICOM image: read from the header, chosen and applied (PS3.3 C.11.2).

`apply_window` maps values after the modality transform to gray levels; `render` calls it once per image, with one value
per stored code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from xrayfast.data.arrays import Ints
from xrayfast.data.images.dicom.elements import Elements
from xrayfast.data.images.dicom.lut import Values, read_lut
from xrayfast.data.images.notes import Note
from xrayfast.data.images.radiograph import Pixels, scale_to_uint8
from xrayfast.errors import ConfigError

_LOW, _HIGH = 0.005, 0.995
"""The percentile range: enough to exclude collimator edges, markers and dead pixels."""

_WELL_FILLED = 0.5

_NEARLY_FULL = 0.1
"""A window that differs from the full range by at most this share, at both ends together, was meant for all of it. Such
windows are round numbers, and also survive in files whose values were inverted later; there they cut off the bright
end, where most of a chest radiograph is."""

_MOSTLY_SATURATED = 0.5

_LEVELS = 9
"""A window of the file that leaves fewer gray levels of as many values or more is not meant for the image either."""

_NEARLY_ALL = 0.95
"""A window of the file that makes more than this share of the pixels black or white is not meant for the image. Pixels
with the lowest or the highest value don't count: windows rightly end there, and a collimator can cover most of an
image."""

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class WindowChoice:
    """The window that the user asks for; `parse_window` makes it from the option's text."""

    kind: Literal["auto", "percentile", "full", "file", "given"]
    index: int = 0  # of the file's own windows, for "file"
    center: float = 0.0  # for "given"
    width: float = 0.0  # for "given"


@dataclass(frozen=True)
class VoiTransform:
    """A window or VOI LUT: a function from values after the modality transform to 0 (black) .. 1 (white)."""

    name: str  # for the notes
    to_unit: Callable[[Values], Values]  # the function
    note_saturation: bool = True  # whether the file or the user gives it, so that saturating most pixels needs a note
    ends: tuple[float, float] | None = None  # the values that become black and white, if it is a linear window


def parse_window(text: str) -> WindowChoice:
    """Parse "auto", "percentile", "full", "1" to "9" or "CENTER/WIDTH".

    >>> parse_window("2048/4096")
    WindowChoice(kind='given', index=0, center=2048.0, width=4096.0)

    Raises:
        ConfigError: the text is anything else, or the width is below 1.
    """
    if text in ("auto", "percentile", "full"):
        return WindowChoice(text)  # type: ignore[arg-type]
    if re.fullmatch("[1-9]", text):
        return WindowChoice("file", index=int(text) - 1)
    number = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,2})?)\s*"
    match = re.fullmatch(f"{number}/{number}", text)
    if match and float(match[2]) >= 1:
        return WindowChoice("given", center=float(match[1]), width=float(match[2]))
    raise ConfigError(
        f"window is '{text}'; expected auto, percentile, full, 1 to 9, or CENTER/WIDTH with a width of 1 or more, "
        "such as 2048/4096."
    )


def read_voi_transforms(elements: Elements, signed: bool) -> tuple[list[VoiTransform], list[str]]:
    """Return the header's VOI LUTs, then its windows, and notes on invalid ones.

    `signed` is whether the values after the modality transform can be negative.
    """
    items = enumerate(elements.items("VOILUTSequence"), start=1)
    luts = [VoiTransform(Note.VOI_LUT(number), read_lut(item, "LUT", signed).to_unit) for number, item in items]
    function = elements.text("VOILUTFunction").upper() or _FUNCTIONS[0]
    notes = []
    if function not in _FUNCTIONS:
        notes, function = [Note.UNKNOWN_FUNCTION()], _FUNCTIONS[0]
    centers, widths = elements.numbers("WindowCenter"), elements.numbers("WindowWidth")
    windows = [_window(center, width, function) for center, width in zip(centers, widths, strict=False)]
    if None in windows:
        notes.append(Note.INVALID_WINDOW())
    return [*luts, *filter(None, windows)], notes


def _window(center: float, width: float, function: str) -> VoiTransform | None:
    """Return a window with the standard's LINEAR, LINEAR_EXACT or SIGMOID function; None if it is invalid.

    PS3.3 C.11.2.1.2.1 (LINEAR: width at least 1), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT: above 0).
    """
    name = Note.WINDOW(center, width, function)
    if not np.isfinite([center, width]).all() or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "SIGMOID":
        return VoiTransform(name, lambda values: 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    if function == "LINEAR_EXACT":
        ends = center - width / 2, center + width / 2
        return VoiTransform(name, lambda values: np.clip((values - center) / width + 0.5, 0, 1), ends=ends)
    if width == 1:
        return VoiTransform(name, lambda values: (values > center - 0.5).astype(np.float64))
    ends = center - width / 2, center + width / 2 - 1
    return VoiTransform(name, lambda values: np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1), ends=ends)


def apply_window(
    values: Values, counts: Ints, transforms: list[VoiTransform], choice: WindowChoice, bits: int, *, inverted: bool
) -> tuple[Pixels, tuple[str, ...]]:
    """Choose the window and apply it to the values of all stored codes.

    Args:
        values: (2**bits,) the value of each stored code after the modality transform.
        counts: (2**bits,) number of pixels with each code; 0 for padding.
        transforms: the file's VOI LUTs, then its windows.
        choice: which of these to apply, or which other window.
        bits: stored per sample.
        inverted: whether the lowest value is white.

    Returns:
        (2**bits,) uint8, the gray level of each stored code, and notes on what was done.

    Raises:
        LookupError: the file has no VOI LUT or window with the chosen number; the message says how many it has.
    """
    notes = []
    transform = _choose(values, counts, transforms, choice, bits)
    unit = transform.to_unit(values)
    saturated = _saturated(unit, counts)
    if choice.kind == "auto" and transforms:
        lost = _saturated(unit, _between_extremes(values, counts)) if saturated > _MOSTLY_SATURATED else 0
        occurring = unit[counts > 0]
        levels = round(256 * float(np.ptp(occurring))) + 1 if occurring.size > _LEVELS else _LEVELS
        if lost > _NEARLY_ALL or levels < _LEVELS:
            name, blanks = transform.name, lost > _NEARLY_ALL
            notes.append(Note.WINDOW_BLANKS(name, lost) if blanks else Note.WINDOW_FLATTENS(name, levels))
            transform = _choose(values, counts, [], choice, bits)
            unit = transform.to_unit(values)
    notes.append(transform.name)
    if transform.note_saturation and saturated > _MOSTLY_SATURATED:
        notes.append(Note.WINDOW_SATURATES(saturated))
    return scale_to_uint8(1 - unit if inverted else unit), tuple(notes)


def _saturated(unit: Values, counts: Ints) -> float:
    """Return the share of the pixels that becomes black or white."""
    return float(counts[(unit <= 0) | (unit >= 1)].sum() / max(1, counts.sum()))


def _between_extremes(values: Values, counts: Ints) -> Ints:
    """Return the counts without the pixels that have the lowest or the highest value."""
    occurring = values[counts > 0]
    return np.where((values > occurring.min()) & (values < occurring.max()), counts, 0)


def _choose(
    values: Values, counts: Ints, transforms: list[VoiTransform], choice: WindowChoice, bits: int
) -> VoiTransform:
    if choice.kind == "given":
        window = _window(choice.center, choice.width, "LINEAR")
        assert window is not None, "parse_window checks the width"
        return window
    if choice.kind == "file":
        if choice.index >= len(transforms):
            raise LookupError(f"{len(transforms)} VOI LUTs and windows; expected at least {choice.index + 1}")
        return transforms[choice.index]
    ends = float(values.min()), float(values.max())
    full = _linear_range("full", *ends)
    if choice.kind == "auto" and transforms:
        first = transforms[0]
        if not _is_nearly_full(first, values):
            return first
        return replace(full, name=Note.FULL_FOR_WINDOW(*ends, first.name))
    low, high = _percentiles(values, counts)
    well_filled = high - low >= _WELL_FILLED * (values.max() - values.min())
    if choice.kind == "full" or (choice.kind == "auto" and (bits <= 8 or well_filled)):
        return full
    return _linear_range("percentile", low, high)


def _is_nearly_full(transform: VoiTransform, values: Values) -> bool:
    """Whether a window cuts off a little of the full range, at one end or both."""
    if transform.ends is None:
        return False
    low, high = float(values.min()), float(values.max())
    below, above = transform.ends[0] - low, high - transform.ends[1]
    return (below > 0 or above > 0) and abs(below) + abs(above) <= _NEARLY_FULL * (high - low)


def _linear_range(name: str, low: float, high: float) -> VoiTransform:
    width = max(high - low, np.finfo(np.float64).tiny)
    return VoiTransform(
        Note.RANGE(name, low, high), lambda values: np.clip((values - low) / width, 0, 1), note_saturation=False
    )


def _percentiles(values: Values, counts: Ints) -> tuple[float, float]:
    """Return the 0.5th and 99.5th percentiles of the pixels; the full range if no pixel is counted."""
    if not counts.any():
        return float(values.min()), float(values.max())
    order = np.argsort(values, kind="stable")
    cumulated = np.cumsum(counts[order])
    indices = np.searchsorted(cumulated, [_LOW * cumulated[-1], _HIGH * cumulated[-1]])
    low, high = values[order][indices]
    return float(low), float(high)
