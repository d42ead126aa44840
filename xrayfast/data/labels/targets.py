"""Labels as matrices.

Targets are (N, L) float32 from 0 to 1: NaN where a cell is ignored, strictly between 0 and 1 where an uncertain cell is
smoothed. In a raw matrix, `UNCERTAIN` and NaN mark uncertain and blank cells; `labels.policies` makes targets of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.config import MAX_LABELS, Task
from xrayfast.data.arrays import Bools, Places
from xrayfast.data.labels.names import LABEL_JOIN, LabelSet
from xrayfast.errors import DataError, did_you_mean, shorten

Targets: TypeAlias = npt.NDArray[np.float32]
Where: TypeAlias = Callable[[int], str]
"""Returns the name of the i-th image for a message, such as "labels.csv row 3"."""

UNCERTAIN = -1.0
"""A cell of -1 in a raw matrix. A blank cell is NaN there."""


@dataclass(frozen=True)
class RawLabels:
    """The labels of N images as read from a source.

    Attributes:
        names: the L labels.
        matrix: (N, L) raw matrix.
        multi_label: whether the task is multi-label whatever the matrix shows.
        keep_no_finding: whether "No Finding" is a label like any other.
        blank: the policy on blank cells if the config has none.
        flags: whether each label was a column of 0 and 1.
    """

    names: list[str]
    matrix: Targets
    multi_label: bool = False
    keep_no_finding: bool = False
    blank: str = "ignore"
    flags: bool = False


def require_few_labels(labels: Collection[str]) -> None:
    """Raise a DataError for labels that would fill the memory, such as those of a column of file names."""
    if len(labels) > MAX_LABELS:
        raise DataError(
            f"found {len(labels):,} labels ({shorten(labels)}); expected at most {MAX_LABELS:,}. Name the columns of "
            "labels with --label-col."
        )


def encode_labels(label_sets: Sequence[LabelSet], labels: Sequence[str]) -> Targets:
    """One-hot encode N sets of labels: (N, L) float32, 1 where the image has the label, else 0."""
    require_few_labels(labels)
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


def to_truth(targets: Targets) -> npt.NDArray[np.int8]:
    """Return (N, L) int8: 1, 0, or -1 where the label is masked, because the cell is ignored or smoothed."""
    truth = np.full(targets.shape, -1, np.int8)
    truth[targets == 1] = 1
    truth[targets == 0] = 0
    return truth


def join_labels(present: Bools, labels: Sequence[str]) -> list[str]:
    """Return the labels of each row joined with '|', "" for none; `present` (N, L) is whether the row has the label."""
    if not present.size:
        return [""] * len(present)
    bits = np.ascontiguousarray(np.packbits(present, axis=1))
    # Each row as one value, because there are far fewer distinct rows than rows.
    _, first, codes = np.unique(bits.view(f"V{bits.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    texts = [LABEL_JOIN.join(label for label, has in zip(labels, present[i], strict=True) if has) for i in first]
    return [texts[code] for code in codes.tolist()]


def merge_labels(matrix: Targets, names: Sequence[str]) -> tuple[list[str], Targets]:
    """Merge columns of (N, L) targets that have the same name; return the distinct names in order of appearance too.

    A merged cell is 1 if any cell is 1, else NaN if any is NaN, else the maximum.
    """
    distinct = list(dict.fromkeys(names))
    if len(distinct) == len(names):
        return distinct, matrix
    columns = [merge_columns(matrix[:, [j for j, other in enumerate(names) if other == name]]) for name in distinct]
    return distinct, np.column_stack(columns)


def merge_columns(columns: Targets) -> Targets:
    """Merge (N, K) targets of one label into (N,) targets: see `merge_labels`."""
    return np.where((columns == 1).any(1), np.float32(1), columns.max(1))


def infer_task(targets: Targets) -> Task:
    """Return "single" if each image has exactly one label and no cell is masked, else "multi"."""
    return "single" if not len(not_single_label(targets)) else "multi"


def not_single_label(targets: Targets) -> Places:
    """Return the rows that have no label, several labels or a masked cell."""
    return np.flatnonzero(((targets == 1).sum(1) != 1) | ((targets != 0) & (targets != 1)).any(1))
