"""Labels as a matrix: a column a label, 1, 0, or NaN where nobody knows.

Targets are (N, L) float32 from 0 to 1: NaN where a cell is ignored, strictly between 0 and 1 where an uncertain one is
smoothed. Before the policies on uncertain and blank cells are applied a matrix is raw: `UNCERTAIN` and NaN mark them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.config import Task
from xrayfast.data.labels.names import (
    LABEL_JOIN,
    LIST,
    NO_FINDING,
    LabelSet,
    parse_delimited,
    parse_label_list,
    sort_labels,
)
from xrayfast.errors import DataError, did_you_mean

Targets: TypeAlias = npt.NDArray[np.float32]
Where: TypeAlias = Callable[[int], str]
"""Names the i-th image in a message: "labels.csv row 3"."""

UNCERTAIN = -1.0
"""In a raw matrix: nobody dared to say. A blank cell is NaN there."""


_FLAGS = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "-1": UNCERTAIN, "-1.0": UNCERTAIN, "": np.nan}


# Out of cells


def parse_label_cells(
    cells: Sequence[str], delim: str, where: Where, blank_allowed: bool = False
) -> tuple[list[str], Targets]:
    """The labels in each cell of a label column, one or several.

    Args:
        cells: N texts.
        delim: what stands between labels, as `detect_delimiter` gives it.
        where: names a row.
        blank_allowed: whether a blank cell is a row of which nothing is known, and no error.

    Returns:
        The labels, in order; (N, L) raw matrix of 1, 0 and, in blank rows, NaN.

    Raises:
        DataError: a blank cell, an empty label or one with '|'; the message begins with `where(i)`.
    """
    codes, distinct = pd.factorize(np.array(cells, dtype=object))
    sets: list[LabelSet] = []
    for code, cell in enumerate(distinct):
        try:
            sets.append(parse_label_list(cell) if delim == LIST and cell.strip() else _split_or_blank(cell, delim))
        except DataError as error:
            hint = "" if delim == LIST else ", or set --label-delim"
            raise DataError(f"{where(_first(codes, code))}: {error} Mend '{cell}'{hint}.") from error
        if not sets[code] and not blank_allowed:
            raise DataError(
                f"{where(_first(codes, code))}: found a blank label; expected at least one. Write '{NO_FINDING}' for "
                "an image without findings, remove the row, or set --blank ignore or --blank zeros."
            )
    labels = sort_labels(label for row in sets for label in row)
    matrix = encode_labels(sets, labels)
    matrix[[not row for row in sets]] = np.nan
    return labels, matrix[codes]


def _split_or_blank(cell: str, delim: str) -> LabelSet:
    return parse_delimited(cell, delim) if cell.strip() else ()


def parse_flag_columns(columns: Mapping[str, Sequence[str]], where: Where) -> Targets:
    """Columns of 1, 0, -1 (uncertain) and blanks.

    Returns:
        (N, L) raw matrix.

    Raises:
        DataError: a cell holds something else.
    """
    matrix = np.zeros((len(next(iter(columns.values()))), len(columns)), np.float32)
    for j, (name, cells) in enumerate(columns.items()):
        codes, distinct = pd.factorize(np.array(cells, dtype=object))
        values = [_FLAGS.get(cell.strip()) for cell in distinct]
        if None in values:
            code = values.index(None)
            raise DataError(
                f"{where(_first(codes, code))}: {name} is '{distinct[code]}'; expected 1, 0, -1 (uncertain) or blank. "
                "Mend the cell or remove the row, or name the right columns with --label-col."
            )
        matrix[:, j] = np.array(values, np.float32)[codes]
    return matrix


def _first(codes: npt.NDArray[np.intp], code: int) -> int:
    return int(np.argmax(codes == code))


def looks_like_flags(cells: Sequence[str], share: float = 1.0) -> bool:
    """Whether at least one cell is 1 or -1, and this share of those that are not blank is 1, 0 or -1."""
    counts = Counter(cells)
    filled = sum(count for cell, count in counts.items() if cell.strip())
    flags = sum(count for cell, count in counts.items() if cell.strip() and cell.strip() in _FLAGS)
    return flags >= share * filled and any(_FLAGS.get(cell.strip()) in (1, UNCERTAIN) for cell in counts)


# As they are


def encode_labels(label_sets: Sequence[LabelSet], labels: Sequence[str]) -> Targets:
    """Which labels each image has.

    Args:
        label_sets: N sets of labels.
        labels: the L labels, in the order of the columns.

    Returns:
        (N, L) float32, 1 where the image has the label and 0 elsewhere.

    Raises:
        DataError: a set holds a label that is not among `labels`.
    """
    column = {label: j for j, label in enumerate(labels)}
    try:
        ones = [(i, column[label]) for i, row in enumerate(label_sets) for label in row]
    except KeyError as error:
        label = error.args[0]
        raise DataError(
            f"found the label '{label}'; expected one of {', '.join(labels)}.{did_you_mean(label, labels)}"
        ) from error
    matrix = np.zeros((len(label_sets), len(labels)), np.float32)
    if ones:
        matrix[tuple(np.array(ones).T)] = 1
    return matrix


def to_truth(matrix: Targets) -> npt.NDArray[np.int8]:
    """(N, L) int8: 1, 0, or -1 where nobody knows, because the cell is ignored or smoothed."""
    return np.where(matrix == 1, 1, np.where(matrix == 0, 0, -1)).astype(np.int8)


def join_labels(present: npt.NDArray[np.bool_], labels: Sequence[str]) -> list[str]:
    """The labels of each row joined by '|', "" for none.

    Args:
        present: (N, L) whether the row has the label.
        labels: the L labels.
    """
    if not present.size:
        return [""] * len(present)
    bits = np.ascontiguousarray(np.packbits(present, axis=1))
    # Rows as single values: there are far fewer patterns than rows.
    _, first, codes = np.unique(bits.view(f"V{bits.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    texts = [LABEL_JOIN.join(label for label, there in zip(labels, present[i], strict=True) if there) for i in first]
    return [texts[code] for code in codes.tolist()]


def merge_labels(matrix: Targets, names: Sequence[str]) -> tuple[list[str], Targets]:
    """Join columns of one name: 1 where any is 1, else NaN where any is NaN, else the largest value.

    Args:
        matrix: (N, L) targets.
        names: a name for each column.

    Returns:
        The distinct names in order of appearance, and (N, number of names) targets.
    """
    distinct = list(dict.fromkeys(names))
    if len(distinct) == len(names):
        return distinct, matrix
    columns = [merge_columns(matrix[:, [j for j, other in enumerate(names) if other == name]]) for name in distinct]
    return distinct, np.column_stack(columns)


def merge_columns(columns: Targets) -> Targets:
    """(N, K) targets of one label as its (N,) targets; see `merge_labels`."""
    one = (columns == 1).any(1)
    column: Targets = np.where(one, np.float32(1), columns.max(1))  # the maximum of NaN and anything is NaN
    return column


def infer_task(matrix: Targets) -> Task:
    """Single where each image has exactly one label and nothing is unknown, multi otherwise."""
    return "single" if not len(not_single_label(matrix)) else "multi"


def not_single_label(matrix: Targets) -> npt.NDArray[np.intp]:
    """The rows that have another number of labels than one, or something unknown."""
    return np.flatnonzero(((matrix == 1).sum(1) != 1) | ((matrix != 0) & (matrix != 1)).any(1))
