"""From stored DICOM values to displayed gray levels: one table per image, by PS3.3 C.11.

All that stands between a stored value of at most 16 bits and a gray level depends on that value alone, so the whole
chain is worked out once for each value that the bits allow, and not for each pixel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.data.images.radiograph import Pixels, to_levels
from xrayfast.errors import ConfigError

Values: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int64]

_LOW, _HIGH = 0.005, 0.995
"""The percentile range: enough to pass by collimator edges, markers and dead pixels."""

_WELL_FILLED = 0.5

_NEARLY_FULL = 0.1
"""A window that cuts off no more than this share of the full range, at both ends together, was meant for all of it.
Such round numbers also stay in files whose values are turned over later, and then cut off the bright end, where most
of a film is."""

_MOSTLY_SATURATED = 0.5


@dataclass(frozen=True)
class Window:
    """A choice of window.

    Attributes:
        kind: "auto", "percentile", "full"; "file" for the file's own `index`; "given" for `center` and `width`.
    """

    kind: Literal["auto", "percentile", "full", "file", "given"]
    index: int = 0
    center: float = 0.0
    width: float = 0.0


@dataclass(frozen=True)
class Lut:
    """A lookup table: the values below `first` map to the first entry, those past the end to the last.

    Attributes:
        first: the value that the first entry is for.
        entries: (N,) float64.
        top: the largest value that the entries' bits allow.
    """

    first: int
    entries: Values
    top: float

    def __call__(self, values: Values) -> Values:
        """Look up."""
        places = np.clip(np.floor(values + 0.5) - self.first, 0, len(self.entries) - 1)
        found: Values = self.entries[places.astype(np.int64)]
        return found


@dataclass(frozen=True)
class Voi:
    """One of a file's views: from values after the modality transform to 0 (black) .. 1 (white).

    Attributes:
        name: what the notes call it.
        fractions: the function.
        may_saturate: whether someone chose it who may have erred, so that what it cuts off is worth a note.
        ends: the values that become black and white, where it is a linear window.
    """

    name: str
    fractions: Callable[[Values], Values]
    may_saturate: bool = True
    ends: tuple[float, float] | None = None


def parse_window(text: str) -> Window:
    """Understand "auto", "percentile", "full", "1" to "9" or "CENTER/WIDTH".

    >>> parse_window("2048/4096")
    Window(kind='given', index=0, center=2048.0, width=4096.0)

    Raises:
        ConfigError: anything else, or a width below 1.
    """
    if text in ("auto", "percentile", "full"):
        return Window(text)  # type: ignore[arg-type]
    if re.fullmatch("[1-9]", text):
        return Window("file", index=int(text) - 1)
    number = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,2})?)\s*"
    match = re.fullmatch(f"{number}/{number}", text)
    if match and float(match[2]) >= 1:
        return Window("given", center=float(match[1]), width=float(match[2]))
    raise ConfigError(
        f"window is '{text}'; expected auto, percentile, full, 1 to 9, or CENTER/WIDTH with a width of 1 or more, "
        "such as 2048/4096."
    )


def window_voi(center: float, width: float, function: str) -> Voi | None:
    """A window by the standard's LINEAR, LINEAR_EXACT or SIGMOID; None where it can't be one.

    PS3.3 C.11.2.1.2.1 (LINEAR: width at least 1), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT: above 0).
    """
    name = f"window {center:g}/{width:g} {function}"
    if not np.isfinite([center, width]).all() or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "SIGMOID":
        return Voi(name, lambda values: 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    if function == "LINEAR_EXACT":
        ends = center - width / 2, center + width / 2
        return Voi(name, lambda values: np.clip((values - center) / width + 0.5, 0, 1), ends=ends)
    if width == 1:
        return Voi(name, lambda values: (values > center - 0.5).astype(np.float64))
    ends = center - width / 2, center + width / 2 - 1
    return Voi(name, lambda values: np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1), ends=ends)


def lut_voi(lut: Lut, number: int) -> Voi:
    """A VOI LUT as a view."""
    return Voi(f"VOI LUT {number}", lambda values: lut(values) / lut.top)


def display_table(
    values: Values, counts: Counts, views: list[Voi], choice: Window, bits: int, inverted: bool
) -> tuple[Pixels, tuple[str, ...]]:
    """The gray level of each stored code, and what was done.

    Args:
        values: (2**bits,) after the modality transform, by stored code.
        counts: (2**bits,) how many pixels have each code; 0 for padding.
        views: the file's own VOI LUTs, then its windows.
        choice: which of them, or what instead.
        bits: stored a sample.
        inverted: whether the least value is white (MONOCHROME1).

    Returns:
        (2**bits,) uint8, and notes.

    Raises:
        LookupError: the file has no view of the chosen number; the message says how many there are.
    """
    view = _chosen(values, counts, views, choice, bits)
    fractions = view.fractions(values)
    notes = [view.name]
    saturated = counts[(fractions <= 0) | (fractions >= 1)].sum() / max(1, counts.sum())
    if view.may_saturate and saturated > _MOSTLY_SATURATED:
        notes.append(f"saturates {saturated:.0%} of the pixels")
    if inverted:
        notes.append("MONOCHROME1 inverted")
        fractions = 1 - fractions
    return to_levels(fractions), tuple(notes)


def _chosen(values: Values, counts: Counts, views: list[Voi], choice: Window, bits: int) -> Voi:
    if choice.kind == "given":
        view = window_voi(choice.center, choice.width, "LINEAR")
        assert view is not None, "parse_window lets no other through"
        return view
    if choice.kind == "file":
        if choice.index >= len(views):
            raise LookupError(f"{len(views)} VOI LUTs and windows; expected at least {choice.index + 1}")
        return views[choice.index]
    full = _range_voi("full", float(values.min()), float(values.max()))
    if choice.kind == "auto" and views:
        nearly = _is_nearly_full(views[0], values)
        return replace(full, name=f"{full.name} for {views[0].name}") if nearly else views[0]
    low, high = _percentiles(values, counts)
    well_filled = high - low >= _WELL_FILLED * (values.max() - values.min())
    if choice.kind == "full" or (choice.kind == "auto" and (bits <= 8 or well_filled)):
        return full
    return _range_voi("percentile", low, high)


def _is_nearly_full(view: Voi, values: Values) -> bool:
    """Whether a window cuts off a little of the full range, at one end or both."""
    if view.ends is None:
        return False
    low, high = float(values.min()), float(values.max())
    below, above = view.ends[0] - low, high - view.ends[1]
    return (below > 0 or above > 0) and abs(below) + abs(above) <= _NEARLY_FULL * (high - low)


def _range_voi(name: str, low: float, high: float) -> Voi:
    width = max(high - low, np.finfo(np.float64).tiny)
    return Voi(
        f"{name} range {low:g}..{high:g}", lambda values: np.clip((values - low) / width, 0, 1), may_saturate=False
    )


def _percentiles(values: Values, counts: Counts) -> tuple[float, float]:
    """The values that the darkest 0.5 % and 99.5 % of the pixels don't exceed; all where none is counted."""
    if not counts.any():
        return float(values.min()), float(values.max())
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[order])
    places = np.searchsorted(reached, [_LOW * reached[-1], _HIGH * reached[-1]])
    low, high = values[order][places]
    return float(low), float(high)
