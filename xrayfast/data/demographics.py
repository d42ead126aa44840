"""Parse sex, age, view and body part from the text of cells and DICOM headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from xrayfast.data.text_column import TextColumn
from xrayfast.errors import plural

DAYS_PER_YEAR = 365.25

_OLDEST = 120
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / DAYS_PER_YEAR, "D": 1 / DAYS_PER_YEAR}
_AGE = re.compile(r"(\d+(?:\.\d+)?) *([YMWD]?)", re.IGNORECASE)
_SEX_WORDS = {
    "F": (
        "F FEMALE W WOMAN WEIBLICH FRAU FEMME FEMININ F\u00c9MININ MUJER FEMENINO FEMININO FEMMINA V VROUW K KOBIETA "
        "KVINNA KADIN \u0416 \u0416\u0415\u041d \u5973"
    ),
    "M": (
        "M MALE MAN M\u00c4NNLICH MANN H HOMME HOMBRE MASCULIN MASCULINO MASCHIO E ERKEK M\u0118\u017bCZYZNA \u041c "
        "\u041c\u0423\u0416 \u7537"
    ),
}
_SEXES = {word: sex for sex, words in _SEX_WORDS.items() for word in words.split()}
_SPANISH = {**_SEXES, "M": "F"}  # hombre and mujer
_LATERAL = {
    *("L", "LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "LATERALE", "LATERO", "SEITLICH", "SEITL", "PROFIL"),
    *("PROFILE", "PERFIL", "\u0411\u041e\u041a\u041e\u0412\u0410\u042f", "\u4fa7\u4f4d", "\u5074\u4f4d"),
    *("\u5074\u9762", "\uce21\uba74"),
}
_PA, _AP = {"PA", "POSTEROANTERIOR", "POSTERO"}, {"AP", "ANTEROPOSTERIOR", "ANTERO"}
_FRONTAL = {
    *("FRONTAL", "FRONTALE", "FACE", "FRENTE", *_PA, *_AP, "\u041f\u0420\u042f\u041c\u0410\u042f"),
    *("\u6b63\u4f4d", "\u6b63\u9762", "\uc815\uba74"),
}
_LYING = {"DECUBITUS", "DECUB", "DECUBITO", "D\u00c9CUBITO"}
"""A patient who lies on the side, the lateral decubitus, is imaged from the front."""

_NO_VIEW = {"UNKNOWN", "UNK"}

_CHEST = re.compile("chest|cxr|thora|t[o\u00f3]ra[xc]|lung|rib|heart|trunk|\u80f8", re.IGNORECASE)
"""What the name of a body part has that chest radiographs show."""

_OTHER_PART = re.compile(
    r"\b(abd(omen|ominal)?|kub|pelvi[sc]|hips?|knees?|ankles?|foot|feet|hands?|wrists?|elbows?|shoulders?|skull|sinus(es)?|"
    r"[clt]?-?spine|lumbar|extremit(y|ies)|femur|tibia|humerus|breasts?|mammo\w*|becken|knie|schulter|rodilla|columna|cadera)\b",
    re.IGNORECASE,
)

ViewKind = Literal["frontal", "lateral", "other", ""]
"""The kind of a view; "" if it is not known."""


def parse_sexes(cells: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """Return F, M, or None for anything else; and notes on non-blank cells that are neither."""
    column = TextColumn.of(cells)
    words = {cell.strip().upper() for cell in column.texts}
    is_spanish = {"H", "M"} <= words and "F" not in words
    meaning = _SPANISH if is_spanish else _SEXES
    sexes = column.map(lambda cell: meaning.get(cell.strip().upper()))
    unknown = sum(n for cell, n in column.counts().items() if cell.strip() and cell.strip().upper() not in meaning)
    note = f"{plural(unknown, 'image')} with a sex that is neither F nor M: used as unknown."
    mujer = "The sexes H and M are read as hombre and mujer: M is female."
    return sexes, [mujer] * is_spanish + [note] * bool(unknown)


def sex_in_name(column: str) -> str | None:
    """Return the sex for which 1 stands in a 0/1 column with this name, such as "male" or "sex_F"; else None."""
    match = re.fullmatch(r"(?:is|sex|gender)?(male|female)|(?:sex|gender)([mf])", re.sub(r"[\W_]+", "", column).lower())
    return _SEXES[(match[1] or match[2]).upper()] if match else None


def sexes_from_flags(cells: Sequence[str], sex: str) -> TextColumn:
    """Convert a column to sexes as text: 1 becomes `sex`, 0 the other sex, and other cells stay as they are."""
    other = {"F": "M", "M": "F"}[sex]
    meaning = {"1": sex, "1.0": sex, "true": sex, "0": other, "0.0": other, "false": other}
    return TextColumn.of(cells).replace(lambda cell: meaning.get(cell.strip().lower(), cell))


def parse_ages(cells: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return years from texts such as "58", "058Y" or "11M", else NaN; and notes on implausible texts."""
    column = TextColumn.of(cells)
    ages = column.map(parse_age)
    unknown = sum(n for cell, n in column.counts().items() if cell.strip() and np.isnan(parse_age(cell)))
    note = f"{plural(unknown, 'image')} with an age that is not a number up to {_OLDEST}: used as unknown."
    return ages, [note] if unknown else []


def parse_age(cell: str) -> float:
    """Return years from a text such as "58", "058Y" or "11M"; NaN if it is another text or implausible."""
    match = _AGE.fullmatch(cell.strip())
    return plausible_age(float(match[1]) * _YEARS[match[2].upper()]) if match else np.nan


def plausible_age(years: float) -> float:
    """Return the age; NaN if it is below 0 or above 120."""
    return years if 0 <= years <= _OLDEST else np.nan


def parse_views(*columns: Sequence[str]) -> list[str | None]:
    """Return PA, AP, LATERAL or another text in capitals, from the first column that is not blank; else None."""
    views: list[str | None] = [None] * len(columns[0])
    for cells in columns:
        found = TextColumn.of(cells).map(_view)
        views = [view or other for view, other in zip(views, found, strict=True)]
    return views


def kind_of_view(view: str | None) -> ViewKind:
    """Return the kind of a view as returned by `parse_views`.

    >>> kind_of_view("PA"), kind_of_view("AP_HORIZONTAL"), kind_of_view("XTABLE LATERAL"), kind_of_view("LAO")
    ('frontal', 'frontal', 'lateral', 'other')
    """
    words = _words(view or "")
    if words & _LATERAL:
        return "other" if words & _LYING else "lateral"
    if words & _FRONTAL:
        return "frontal"
    return "other" if view and not (words and words <= _NO_VIEW) else ""


def view_in_description(text: str) -> str:
    """Return PA, AP or LATERAL if that alone is in the description of a series; else "".

    >>> [view_in_description(text) for text in ("W Chest Lat.", "postero-anterior", "face et profil", "L SHOULDER")]
    ['LATERAL', 'PA', '', '']
    """
    kinds, words = {"PA": _PA, "AP": _AP, "LATERAL": _LATERAL - {"L"}}, _words(_join_initials(text.upper()))
    found = [view for view, names in kinds.items() if names & words]
    is_clear = len(found) == 1 and not (found == ["LATERAL"] and words & (_FRONTAL | _LYING))
    return found[0] if is_clear else ""


def names_other_region(text: str) -> bool:
    """Whether a body part or a description names another part of the body than the chest.

    >>> [names_other_region(text) for text in ("XR ABDOMEN", "CHEST AND ABDOMEN", "XR CHEST", "PORTABLE")]
    [True, False, False, False]
    """
    return bool(_OTHER_PART.search(text.replace("_", " "))) and is_other_region(text)


def is_other_region(region: str) -> bool:
    """Whether the name of a body part is not that of the chest, such as in DICOM's Body Part Examined."""
    return bool(region) and not _CHEST.search(region)


def _words(view: str) -> set[str]:
    return {*re.findall(r"[^\W\d_]+", view)}


def _join_initials(text: str) -> str:
    """Return the text with "PA" for "P.A."."""
    return re.sub(r"(?<=\b\w)\.", "", text)


def _view(cell: str) -> str | None:
    view = _join_initials(cell.strip().upper())
    return "LATERAL" if kind_of_view(view) == "lateral" else view or None
