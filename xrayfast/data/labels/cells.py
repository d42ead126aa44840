"""The text of label cells to a raw matrix, (N, L) float32: 1, 0, `UNCERTAIN` for -1, NaN for blank.

`policies.apply_policies` then turns uncertain and blank cells into targets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.data.labels.names import LABEL_JOIN, NO_FINDING, LabelSet, clean_label, parse_delimited, sort_labels
from xrayfast.data.labels.targets import UNCERTAIN, Targets, Where, encode_labels
from xrayfast.errors import DataError

LIST = "[...]"
"""Stands for the delimiter where cells are lists, as in "['effusion', 'mass']"."""

_LIST_ITEM = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\s*(?:,|$)""")

_FLAGS = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "-1": UNCERTAIN, "-1.0": UNCERTAIN, "": np.nan}


# One column of label names


def resolve_delimiter(cells: Iterable[str], chosen: str) -> str:
    """What separates the labels of a cell, where `chosen` is "auto".

    It is '|' where that occurs; `LIST` where most cells are lists; ';' where that occurs; ',' where labels recur in
    other cells, so that there are no more distinct labels than cells; '|' otherwise.
    """
    if chosen != "auto":
        return chosen
    filled = {cell.strip() for cell in cells} - {""}
    if any(LABEL_JOIN in cell for cell in filled):
        return LABEL_JOIN
    if 2 * sum(cell.startswith("[") for cell in filled) > len(filled):
        return LIST
    if any(";" in cell for cell in filled):
        return ";"
    labels = {label.strip() for cell in filled for label in cell.split(",")}
    return "," if any("," in cell for cell in filled) and len(labels) <= len(filled) else LABEL_JOIN


def parse_label_cells(
    cells: Sequence[str], delim: str, where: Where, blank_allowed: bool = False
) -> tuple[list[str], Targets]:
    """The labels in each of N cells of a column of label names.

    `delim` is what `resolve_delimiter` gives. A blank cell is a row of blanks, where that is allowed.

    Returns:
        The labels, sorted; (N, L) raw matrix of 1, 0 and, in blank rows, NaN.

    Raises:
        DataError: a blank cell, an empty label or one with '|'; the message begins with `where(i)`.
    """
    codes, distinct = pd.factorize(np.array(cells, dtype=object))
    parse = parse_label_list if delim == LIST else partial(parse_delimited, delim=delim)
    sets: list[LabelSet] = []
    for code, cell in enumerate(distinct):
        try:
            sets.append(parse(cell) if cell.strip() else ())
        except DataError as error:
            hint = "" if delim == LIST else ", or set --label-delim"
            raise DataError(f"{where(_first(codes, code))}: {error} Fix '{cell}'{hint}.") from error
        if not sets[code] and not blank_allowed:
            raise DataError(
                f"{where(_first(codes, code))}: found a blank label; expected at least one. Write '{NO_FINDING}' for "
                "an image without findings, remove the row, or set --blank ignore or --blank zeros."
            )
    labels = sort_labels(label for row in sets for label in row)
    matrix = encode_labels(sets, labels)
    matrix[[not row for row in sets]] = np.nan
    return labels, matrix[codes]


def parse_label_list(text: str) -> LabelSet:
    """The distinct labels of a list in a text, in its order; empty ones are left out.

    Raises:
        DataError: it is no list of quoted texts, or see `clean_label`.

    >>> parse_label_list("['pleural effusion', ' mass', '']")
    ('pleural effusion', 'mass')
    """
    inner = text.strip()[1:-1].strip()
    items, end = [], 0
    while end < len(inner) and (found := _LIST_ITEM.match(inner, end)):
        items.append(re.sub(r"\\(.)", r"\1", found[1] if found[1] is not None else found[2]))
        end = found.end()
    if end < len(inner) or not (text.strip().startswith("[") and text.strip().endswith("]")):
        raise DataError(f"found '{text}'; expected a list such as ['Effusion', 'Mass'].")
    return tuple(dict.fromkeys(clean_label(item) for item in items if item.strip()))


# A column per label


def parse_flags(columns: Mapping[str, Sequence[str]], where: Where) -> Targets:
    """The (N, L) raw matrix of columns of 1, 0, -1 (uncertain) and blanks: N texts by label.

    Raises:
        DataError: a cell holds something else; the message begins with `where(i)`.
    """
    matrix = np.zeros((len(next(iter(columns.values()))), len(columns)), np.float32)
    for j, (name, cells) in enumerate(columns.items()):
        codes, distinct = pd.factorize(np.array(cells, dtype=object))
        values = [_FLAGS.get(cell.strip()) for cell in distinct]
        if None in values:
            code = values.index(None)
            raise DataError(
                f"{where(_first(codes, code))}: {name} is '{distinct[code]}'; expected 1, 0, -1 (uncertain) or blank. "
                "Fix the cell or remove the row, or name the right columns with --label-col."
            )
        matrix[:, j] = np.array(values, np.float32)[codes]
    return matrix


def looks_like_flags(cells: Sequence[str], share: float = 1.0) -> bool:
    """Whether at least one cell is 1 or -1, and this share of those that are not blank is 1, 0 or -1."""
    counts = Counter(cells)
    filled = sum(count for cell, count in counts.items() if cell.strip())
    flags = sum(count for cell, count in counts.items() if cell.strip() and cell.strip() in _FLAGS)
    return flags >= share * filled and any(_FLAGS.get(cell.strip()) in (1, UNCERTAIN) for cell in counts)


def _first(codes: npt.NDArray[np.intp], code: int) -> int:
    return int(np.argmax(codes == code))
