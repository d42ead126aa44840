"""Who is on an image, as far as columns, file names and DICOM headers tell; and how that is hidden."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.config import DataConfig
from xrayfast.data.images.reader import IMAGE_SUFFIXES
from xrayfast.data.sources.records import ImageRecords
from xrayfast.errors import DataError, ReadError, shorten

if TYPE_CHECKING:
    from xrayfast.data.images.dicom.metadata import Header

# The first group is the patient, the second, where there is one, the study.
_NAMES = {
    "NIH": re.compile(r"(?:^|/)000(\d{5})_\d{3}(?:\.\w+)?$"),
    "CheXpert": re.compile(r"(?:^|/)(patient\d{5,})/(study\d+)/"),
    "MIMIC-CXR": re.compile(r"(?:^|/)p\d\d/(p\d{8})/(s\d{8})/"),
}
_SHAPES = "00000123_004.png (NIH), patient00123/study1/ (CheXpert) or p10/p10000123/s50000123/ (MIMIC-CXR)"

_OLDEST = 120
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_AGE = re.compile(r"(\d+(?:\.\d+)?) *([YMWD]?)", re.IGNORECASE)
_SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M"}
_LATERAL = {"L", "LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"}


# Facts


def sexes(cells: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """F, M or, for all else, None; and notes on cells that are neither and not blank."""
    known = {cell: _SEXES.get(cell.strip().upper()) for cell in set(cells)}
    unknown = {cell for cell, sex in known.items() if sex is None}
    return [known[cell] for cell in cells], _odd("a sex that is neither F nor M", cells, unknown)


def ages(cells: Sequence[str]) -> tuple[list[float], list[str]]:
    """Years out of texts such as "58", "058Y" or "11M"; NaN for blank, odd and impossible ones; and notes on these."""
    known = {cell: _years(cell) for cell in set(cells)}
    unknown = {cell for cell, age in known.items() if age != age}
    return [known[cell] for cell in cells], _odd(f"an age that is no number up to {_OLDEST}", cells, unknown)


def _odd(fact: str, cells: Sequence[str], unknown: set[str]) -> list[str]:
    odd = {cell for cell in unknown if cell.strip()}
    count = sum(cell in odd for cell in cells) if odd else 0
    return [f"{count} images have {fact}: taken as unknown."] if odd else []


def _years(cell: str) -> float:
    found = _AGE.fullmatch(cell.strip())
    years = float(found[1]) * _YEARS[found[2].upper()] if found else np.nan
    return years if years <= _OLDEST else np.nan


def ages_at_study(births: Sequence[str], dates: Sequence[str]) -> tuple[list[float], list[str]]:
    """Years between a year of birth ("1930" or "1930.0") and a date (YYYYMMDD); see `ages`."""
    pairs = zip(births, dates, strict=True)
    return ages(
        [
            str(int(date[:4]) - int(birth[:4])) if birth[:4].isdecimal() and date[:4].isdecimal() else ""
            for birth, date in pairs
        ]
    )


def views(*columns: Sequence[str]) -> list[str | None]:
    """PA, AP, LATERAL or another text in capitals: the first that is not blank, of several columns."""
    found: list[str | None] = [None] * len(columns[0])
    for cells in columns:
        known = {cell: _view(cell) for cell in set(cells)}
        found = [view or known[cell] for view, cell in zip(found, cells, strict=True)]
    return found


def _view(cell: str) -> str | None:
    view = cell.strip().upper()
    return "LATERAL" if view in _LATERAL else view or None


# Patients


def is_column_name(patient_col: str) -> bool:
    """Whether the option names a column, and not another way to tell patients."""
    return patient_col not in ("none", "name") and not patient_col.startswith("dicom:")


def identify(images: ImageRecords, config: DataConfig) -> None:
    """Fill in who is on the images where no column has told: from file names, or else from DICOM headers.

    Headers, once read, also tell what no column has of study, sex, age and view. Reading one takes milliseconds, so
    that is not done for those alone.

    Raises:
        DataError: names or headers were asked for and tell nothing.
        ConfigError: the keyword of a header's element is none.
    """
    chosen = config.patient_col
    if chosen == "none":
        images.notes.append("Patients are not looked for, as patient_col is none.")
        return
    keyword = chosen.partition(":")[2] if chosen and chosen.startswith("dicom:") else None
    if images.patients is None and keyword is None:
        _from_names(images)
    if images.patients is None and chosen != "name":
        _from_headers(images, keyword or "PatientID")
    if images.patients is None and (chosen == "name" or keyword):
        where = (
            f"headers; expected DICOM files that have {keyword}" if keyword else f"names; expected some as {_SHAPES}"
        )
        raise DataError(f"found no patients in the images' {where}. Leave out --patient-col, or name a column.")


def _from_names(images: ImageRecords) -> None:
    """Patients, and studies, by the names that well-known sets give their files; the others' are unknown."""
    n = len(images.names)
    patients, studies = [""] * n, [""] * n
    counts = dict.fromkeys(_NAMES, 0)
    for i, name in enumerate(images.names):
        for origin, pattern in _NAMES.items():
            if found := pattern.search(name):
                patients[i] = f"{origin} {found[1]}"
                studies[i] = f"{patients[i]} {found[2]}" if pattern.groups > 1 else ""
                counts[origin] += 1
                break
    if not any(counts.values()):
        return
    images.patients = patients
    if images.studies is None and any(studies):
        images.studies = studies
    named = " and ".join(origin for origin, count in counts.items() if count)
    known, people = sum(counts.values()), len(set(filter(None, patients)))
    images.notes.append(
        f"Patients from the {named} file names: {people} on {known} of {n} images; --patient-col none ignores them."
    )


def _from_headers(images: ImageRecords, keyword: str) -> None:
    """Patients, and whatever else is not known yet, from the headers of DICOM files."""
    headers = _headers(images, keyword)
    known = [header for header in headers if header is not None]
    if any(header.patient for header in known):
        images.patients = [header.patient if header else "" for header in headers]
        on, people = sum(map(bool, images.patients)), len(set(filter(None, images.patients)))
        images.notes.append(f"Patients from the DICOM headers ({keyword}): {people} on {on} of {len(known)} files.")
    if not known:
        return
    images.studies = images.studies or [header.study if header else "" for header in headers]
    images.sexes = images.sexes or sexes([header.sex if header else "" for header in headers])[0]
    images.views = images.views or views([header.view if header else "" for header in headers])
    if images.ages is None:
        found = [header.age if header and header.age is not None else np.nan for header in headers]
        images.ages = [age if age <= _OLDEST else np.nan for age in found]


def _headers(images: ImageRecords, keyword: str) -> list[Header | None]:
    """Each image's DICOM header; None where there is none. Files with the ending of another kind are not opened."""
    may_be = [_may_be_dicom(path) for path in images.paths]
    if not any(may_be):
        return []
    from xrayfast.data.images.dicom.metadata import (
        read_header,  # pydicom takes its time to load, and most data need none of it
    )

    headers: list[Header | None] = []
    damaged = []
    for name, path, likely in zip(images.names, images.paths, may_be, strict=True):
        try:
            headers.append(read_header(path, keyword) if likely else None)
        except ReadError:
            headers.append(None)
            damaged.append(name)
    if damaged:
        images.notes.append(f"{len(damaged)} files' headers can't be read, and tell no patient: {shorten(damaged)}.")
    return headers


def _may_be_dicom(path: str) -> bool:
    """Whether the file's ending does not say that it is another kind of image."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - a Path for each of 400,000 files takes seconds
    return suffix in (".dcm", ".dicom") or suffix not in IMAGE_SUFFIXES


def group_patients(patients: Sequence[str | None] | None) -> npt.NDArray[np.intp] | None:
    """(N,) a number for each patient, and for each image whose patient is unknown; None where all are."""
    if patients is None or not any(patients):
        return None
    codes, distinct = pd.factorize(np.array([patient or None for patient in patients], dtype=object))
    unknown = codes < 0
    codes[unknown] = len(distinct) + np.arange(unknown.sum())
    return codes


def pseudonymize(identifiers: Sequence[str] | None, letter: str) -> list[str | None] | None:
    """N names such as P00001, P00002, ... in order of first appearance; None where blank. None where none is known."""
    if identifiers is None or not any(identifiers):
        return None
    codes, distinct = pd.factorize(np.array([identifier or None for identifier in identifiers], dtype=object))
    names = [*(f"{letter}{i:05d}" for i in range(1, len(distinct) + 1)), None]
    return [names[code] for code in codes.tolist()]  # -1, for blank, is the last
