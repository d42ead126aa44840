"""Parsing of columns of flags, one per label, into the raw matrix that `cells` makes of names; grades and scores."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from xrayfast.data.foreign_words import foreign_meaning
from xrayfast.data.labels.names import normalize_label, sort_labels
from xrayfast.data.labels.targets import UNCERTAIN, Targets, Where, require_few_labels
from xrayfast.data.labels.words import is_missing
from xrayfast.data.text_column import TextColumn, distinct
from xrayfast.errors import LONGEST_NAME, DataError, shorten, truncate
from xrayfast.errors.advice import quoted

_FLAGS = {"0": 0.0, "1": 1.0, "1,000": 1.0, "-1": UNCERTAIN, "-1,000": UNCERTAIN}

_FLAG_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "si", "positive", "pos", "present"), 1.0),
    **dict.fromkeys(("+", "x", "\u2713", "\u2714", "checked", "detected", "reactive"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "negative", "neg", "absent", "unchecked"), 0.0),
    **dict.fromkeys(("notdetected", "undetected", "notpresent", "nonreactive"), 0.0),
    **dict.fromkeys(("uncertain", "unsure", "notsure", "unclear", "equivocal", "maybe"), UNCERTAIN),
}

_COMMENTED = re.compile(
    r"\s*(1|0|yes|no|true|false|positive|negative|pos|neg|present|absent)\s*[(,:;-]\s*[^\W\d]", re.IGNORECASE
)
"""The beginning of a cell of a flag and a comment."""


def note_missing(
    columns: Mapping[str, Sequence[str]], known: Collection[str] = (), *, are_flags: bool = False
) -> list[str]:
    """Return a note on words such as "nan" in columns, which are read as blank cells.

    With `are_flags`, for columns that `parse_flags` reads, words for uncertain cells do not count.
    """
    listed = list[str]()
    for name, cells in columns.items():
        column = TextColumn.of(cells)
        words = [
            word
            for word in column.texts
            if word.strip() and is_missing(word, known) and not (are_flags and parse_flag(word) == UNCERTAIN)
        ]
        counts = column.counts() if words else {}
        listed += (
            f"'{word.strip()}' {counts[word]} times in '{name}'"
            for word in sorted(words, key=lambda word: -counts[word])
        )
    return [f"Read as blank cells: {shorten(listed, 20)}."] if listed else []


_HIGH_SCORE, _MANY_SCORES = 50, 6  # the least maximum of scores in percent; the least number of distinct scores

SOFT_LABELS = (
    "Labels must be 1 or 0: apply a threshold to the scores, for example 1 where a cell is at least 0.5 (or 50 of "
    "100), and write the result into a new column."
)
"""Advice on labels that are fractions."""


def are_fractions(cells: Sequence[str], known: Collection[str] = ()) -> bool:
    """Whether the cells that are not missing are scores, and none is a known label.

    Distinct numbers are scores if they are

    - logits: 6 or more, with decimals, some of them negative;
    - from 0 to 100, at least one of them written with "%";
    - from 0 to 1, at least one of them between 0 and 1;
    - from 0 to 100 with a maximum of 50 or more, and either 0 and 100 alone, at least one of them with decimals, or 6
      or more that are too far apart to be class numbers.
    """
    values = list[float]()
    for cell in distinct(cells):
        if is_missing(cell):
            continue
        try:
            values.append(float(cell.strip().replace(",", ".").removesuffix("%")))
        except ValueError:
            return False
        if not np.isfinite(values[-1]):
            return False
        if cell.strip() in known:
            return False
    low, high, whole = min(values, default=-1), max(values, default=0), all(value == int(value) for value in values)
    if low < 0 or high > 100:
        return not whole and low < 0 and len(values) >= _MANY_SCORES
    if any("%" in cell for cell in distinct(cells)):
        return True
    if 1 < high < _HIGH_SCORE:
        return False
    return not whole or {*values} == {0, 100} or (high > 1 and _MANY_SCORES <= len(values) < high / 2)


_GRADE = re.compile(r"\d|10|i{1,3}|iv|v|\+{2,4}|trace|minimal|mild|moderate|marked|severe")


def are_grades(cells: Iterable[str]) -> bool:
    """Whether the cells, apart from missing ones and -1, are grades: small numbers or words, and not only 1 and 0."""
    values = {normalize_label(cell) for cell in distinct(cells) if not is_missing(cell)} - {"-1"}
    return len(values) > 1 and not values <= {"0", "1"} and all(map(_GRADE.fullmatch, values))


def describe_grades(column: str) -> str:
    """Return advice on a column of grades."""
    return (
        "make a column of 1 and 0 from it with a threshold, such as 1 for values of 2 or more, but first "
        f"replace codes such as 2 for no or 9 for unknown; or use --label-col {quoted(column)} alone, which uses each "
        "value as a class."
    )


def parse_flags(columns: Mapping[str, Sequence[str]], where: Where) -> Targets:
    """Return the (N, L) raw matrix of columns, N texts per label, of 1, 0, -1 (uncertain) and missing cells.

    Words such as True and no are read as 1 and 0; numbers may have zeros after a point or comma, and exponents.
    """
    require_few_labels(columns)
    matrix = np.zeros((len(next(iter(columns.values()))), len(columns)), np.float32)
    for j, (name, cells) in enumerate(columns.items()):
        column = TextColumn.of(cells)
        values = [parse_flag(cell) for cell in column.texts]
        if None in values:
            code = values.index(None)
            cell = truncate(column.texts[code], LONGEST_NAME)
            advice = "Fix the cell or remove the row, or name the right columns with --label-col."
            if are_fractions([cell]):
                advice = SOFT_LABELS
            elif are_grades(column.texts):
                values_found = shorten(sort_labels(text for text in column.texts if not is_missing(text)))
                advice = f"Its values {values_found} look like grades: {describe_grades(name)}"
            row = where(column.first_rows()[code])
            raise DataError(f"{row}: {name} is '{cell}'; expected 1, 0, -1 (uncertain) or blank. {advice}")
        matrix[:, j] = np.array(values, np.float32)[column.codes]
    return matrix


def parse_flag(cell: str) -> float | None:
    """Return the value of a cell: 1, 0, `UNCERTAIN`, NaN if it is missing, or None if it is anything else."""
    text = normalize_label(cell)
    if (value := _FLAGS.get(text, _FLAG_WORDS.get(text))) is not None:
        return value
    return np.nan if is_missing(cell) else {"yes": 1.0, "no": 0.0}.get(foreign_meaning(cell))


def are_flags(cells: Iterable[str]) -> bool:
    """Whether all cells that are not missing are the numbers 1, 0 or -1, and there is at least one such cell."""
    filled = [cell for cell in distinct(cells) if not is_missing(cell)]
    return bool(filled) and all(normalize_label(cell) in _FLAGS for cell in filled)


def have_comments(cells: Iterable[str]) -> bool:
    """Whether some cells are 1, 0 or words such as yes, and others begin with these, as in "yes (mild)"."""
    found = distinct(cells)
    return any(map(_COMMENTED.match, found)) and any(parse_flag(cell) in (0, 1) for cell in found)


def looks_like_flags(
    cells: Sequence[str], share: float = 1.0, *, words: bool = False, known: Collection[str] = ()
) -> bool:
    """Whether at least one cell is 1 or -1, and at least `share` of the cells that are not missing are 1, 0 or -1.

    With `words`, words such as True, False, yes and no count too. `known` labels never count as missing.
    """
    column, values = TextColumn.of(cells), set[float | None]()
    flags = filled = 0
    counts = np.bincount(column.codes, minlength=len(column.texts))
    for cell, count in zip(column.texts, counts, strict=True):
        if is_missing(cell, known):
            continue
        value = parse_flag(cell) if words else _FLAGS.get(normalize_label(cell))
        values.add(value)
        filled += count
        flags += 0 if value is None else count
        if filled - flags > (1 - share) * len(column) + 1:  # stops early in a column of millions of identifiers
            return False
    return bool(flags >= share * filled) and not values.isdisjoint((1, UNCERTAIN))
