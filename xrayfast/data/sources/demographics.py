"""Sex, age and view from the text of cells and DICOM headers."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np

_OLDEST = 120
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_AGE = re.compile(r"(\d+(?:\.\d+)?) *([YMWD]?)", re.IGNORECASE)
_SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M"}
_LATERAL = {"L", "LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"}


def parse_sexes(cells: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """F, M or, for all else, None; and notes on cells that are neither and not blank."""
    sex_of = {cell: _SEXES.get(cell.strip().upper()) for cell in set(cells)}
    unknown = {cell for cell, sex in sex_of.items() if sex is None}
    return [sex_of[cell] for cell in cells], _note_unknown("a sex that is neither F nor M", cells, unknown)


def parse_ages(cells: Sequence[str]) -> tuple[list[float], list[str]]:
    """Years from texts such as "58", "058Y" or "11M", NaN for blank, odd and impossible ones; and notes on these."""
    age_of = {cell: _years(cell) for cell in set(cells)}
    unknown = {cell for cell, age in age_of.items() if age != age}
    return [age_of[cell] for cell in cells], _note_unknown(f"an age that is no number up to {_OLDEST}", cells, unknown)


def _note_unknown(what: str, cells: Sequence[str], unknown: Collection[str]) -> list[str]:
    count = sum(cell in unknown and bool(cell.strip()) for cell in cells) if unknown else 0
    return [f"{count} images have {what}: taken as unknown."] if count else []


def _years(cell: str) -> float:
    match = _AGE.fullmatch(cell.strip())
    return plausible_age(float(match[1]) * _YEARS[match[2].upper()] if match else None)


def plausible_age(years: float | None) -> float:
    """The age; NaN where unknown or above 120."""
    return years if years is not None and years <= _OLDEST else np.nan


def parse_views(*columns: Sequence[str]) -> list[str | None]:
    """PA, AP, LATERAL or another text in capitals: of several columns the first that is not blank."""
    views: list[str | None] = [None] * len(columns[0])
    for cells in columns:
        view_of = {cell: _view(cell) for cell in set(cells)}
        views = [view or view_of[cell] for view, cell in zip(views, cells, strict=True)]
    return views


def _view(cell: str) -> str | None:
    view = cell.strip().upper()
    return "LATERAL" if view in _LATERAL else view or None
