"""Label sets: out of folder names and table cells, what they imply, and as a multi-hot matrix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.config import Task
from xrayfast.errors import ConfigError, DataError, did_you_mean

LabelSet: TypeAlias = tuple[str, ...]
Targets: TypeAlias = npt.NDArray[np.uint8]
Where: TypeAlias = Callable[[int], str]
"""Names the i-th image in a message: "labels.csv row 3"."""

NO_FINDING = "No Finding"
"""In multi-label tables: none of the labels applies."""

LABEL_JOIN = "|"
"""Joins the labels of one image in the tables that xrayfast writes."""

_FLAGS = {"0": False, "0.0": False, "1": True, "1.0": True}


def clean_label(text: str) -> str:
    """The label without spaces around it.

    Raises:
        DataError: it is empty or contains '|', which joins labels in the tables of a run.
    """
    label = text.strip()
    if not label:
        raise DataError("found an empty label; expected a name.")
    if LABEL_JOIN in label:
        raise DataError(f"found the label '{label}'; expected a name without '{LABEL_JOIN}', which joins labels.")
    return label


def split_labels(text: str, delim: str) -> LabelSet:
    """The distinct labels of a delimited text, in its order.

    Raises:
        DataError: see `clean_label`.
    """
    return tuple(dict.fromkeys(clean_label(part) for part in text.split(delim)))


def folder_labels(name: str) -> LabelSet:
    """The labels that a class folder's name joins with '+'.

    Raises:
        DataError: one of them is empty or contains '|'.

    >>> folder_labels("covid-19+pneumonia")
    ('covid-19', 'pneumonia')
    """
    try:
        return split_labels(name, "+")
    except DataError as error:
        raise DataError(f"class folder '{name}': {error} Rename the folder.") from error


def cell_labels(cells: Sequence[str], delim: str, where: Where) -> list[LabelSet]:
    """The labels in each cell of a label column, one or several joined by `delim`.

    Raises:
        DataError: a blank cell, an empty label or one with '|'; the message begins with `where(i)`.
    """
    known: dict[str, LabelSet] = {}
    for i, cell in enumerate(cells):
        if cell in known:
            continue
        if not cell.strip():
            raise DataError(
                f"{where(i)}: found a blank label; expected at least one. "
                f"Write '{NO_FINDING}' for an image without findings, or remove the row."
            )
        try:
            known[cell] = split_labels(cell, delim)
        except DataError as error:
            raise DataError(f"{where(i)}: {error} Mend '{cell}', or set --label-delim.") from error
    return [known[cell] for cell in cells]


def column_labels(columns: Mapping[str, Sequence[str]], where: Where) -> list[LabelSet]:
    """The labels of each row of 0/1 columns: the names of the columns that hold 1.

    Raises:
        DataError: a cell is neither 0 nor 1, or a column's name can't be a label.
    """
    names = [clean_label(name) for name in columns]
    flags = [_flags(name, column, where) for name, column in zip(names, columns.values(), strict=True)]
    return [tuple(compress(names, row)) for row in zip(*flags, strict=True)]


def is_flag(cell: str) -> bool:
    """Whether a cell is a 0 or 1 as `column_labels` reads them."""
    return cell.strip() in _FLAGS


def _flags(name: str, column: Sequence[str], where: Where) -> list[bool]:
    """A 0/1 column's values. Uncertain (-1) and blank cells are errors: the one place to teach a policy."""
    flags = []
    for i, cell in enumerate(column):
        flag = _FLAGS.get(cell.strip())
        if flag is None:
            raise DataError(
                f"{where(i)}: {name} is '{cell}'; expected 0 or 1. Mend the cell or remove the row, "
                "or name the right columns with --label-col."
            )
        flags.append(flag)
    return flags


def parse_implications(rules: Iterable[str]) -> dict[str, frozenset[str]]:
    """What each label implies, directly and through others.

    Args:
        rules: texts like "covid-19=pneumonia"; several on the right are joined by '+' or ','.

    Raises:
        ConfigError: a rule has no '=' or an empty side, or rules form a cycle, which is named.

    >>> sorted(parse_implications(["a=b", "b=c"])["a"])
    ['b', 'c']
    """
    direct: dict[str, list[str]] = {}
    for rule in rules:
        left, _, right = rule.partition("=")
        try:
            direct.setdefault(clean_label(left), []).extend(clean_label(part) for part in re.split("[+,]", right))
        except DataError as error:
            raise ConfigError(f"imply: found '{rule}'; expected LABEL=IMPLIED, as in covid-19=pneumonia.") from error
    return {left: _implied(left, direct, (left,)) for left in direct}


def _implied(label: str, direct: Mapping[str, Sequence[str]], trail: tuple[str, ...]) -> frozenset[str]:
    """All that a label implies; the trail of labels gone through finds cycles."""
    found: set[str] = set()
    for right in direct.get(label, ()):
        if right in trail:
            cycle = " -> ".join((*trail[trail.index(right) :], right))
            raise ConfigError(f"imply: found a cycle, {cycle}; expected none. Remove one of its rules.")
        found |= {right} | _implied(right, direct, (*trail, right))
    return frozenset(found)


def check_implications(closure: Mapping[str, frozenset[str]], known: Iterable[str]) -> None:
    """Refuse rules about labels that no image has; what they imply may be new.

    Raises:
        DataError: the left side of a rule is neither a known label nor implied by one.
    """
    names = set(known)
    reachable = names.union(*(closure[left] for left in closure if left in names))
    for left in closure:
        if left not in reachable:
            raise DataError(
                f"imply: found the label '{left}', which no image has; expected one of "
                f"{', '.join(in_order(names))}.{did_you_mean(left, names)}"
            )


def apply_implications(labels: LabelSet, closure: Mapping[str, frozenset[str]]) -> LabelSet:
    """The labels with all that they imply added, sorted after the ones given."""
    implied = {right for label in labels for right in closure.get(label, ())}
    return (*labels, *in_order(implied.difference(labels)))


def in_order(labels: Iterable[str]) -> list[str]:
    """Distinct labels in the order used everywhere: by name, ignoring case, numbers by value.

    >>> in_order(["grade 10", "Grade 2", "normal"])
    ['Grade 2', 'grade 10', 'normal']
    """
    return sorted(set(labels), key=_natural)


def _natural(label: str) -> tuple[list[tuple[int, int, str]], str]:
    pieces = re.split(r"([0-9]+)", label.casefold())
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece], label


def infer_task(label_sets: Iterable[LabelSet]) -> Task:
    """Single where each image has exactly one label, multi otherwise."""
    return "single" if all(len(labels) == 1 for labels in label_sets) else "multi"


def targets(label_sets: Sequence[LabelSet], labels: Sequence[str]) -> Targets:
    """Which labels each image has.

    Args:
        label_sets: N sets of labels.
        labels: the L labels, in the order of the columns.

    Returns:
        (N, L) uint8, 1 where the image has the label.

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
    matrix = np.zeros((len(label_sets), len(labels)), np.uint8)
    if ones:
        matrix[tuple(np.array(ones).T)] = 1
    return matrix
