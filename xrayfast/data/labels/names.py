"""Names of labels: what is allowed, which are equal, and their order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from xrayfast.errors import DataError

LabelSet: TypeAlias = tuple[str, ...]

LABEL_JOIN = "|"
"""Joins the labels of one image in the tables that xrayfast writes."""

NO_FINDING = "No Finding"
"""In multi-label tables: none of the labels applies."""


def clean_label(text: str) -> str:
    """The label without surrounding spaces.

    Raises:
        DataError: it is empty or contains '|', which joins labels in the tables of a run.
    """
    label = text.strip()
    if not label:
        raise DataError("found an empty label; expected a name.")
    if LABEL_JOIN in label:
        raise DataError(f"found the label '{label}'; expected a name without '{LABEL_JOIN}', which joins labels.")
    return label


def normalize_label(name: str) -> str:
    """The key by which two spellings of a label are equal: without spaces and '_', case folded.

    >>> normalize_label("Pleural_Thickening") == normalize_label("pleural thickening")
    True
    """
    return re.sub(r"[\s_]+", "", name).casefold()


def is_no_finding(label: str) -> bool:
    """Whether the label is "No Finding", in any spelling."""
    return normalize_label(label) == normalize_label(NO_FINDING)


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Distinct labels by name, ignoring case, numbers by value: the order of labels everywhere.

    >>> sort_labels(["grade 10", "Grade 2", "normal"])
    ['Grade 2', 'grade 10', 'normal']
    """
    return sorted(set(labels), key=_natural)


def _natural(label: str) -> tuple[list[tuple[int, int, str]], str]:
    pieces = re.split(r"([0-9]+)", label.casefold())
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece], label


def parse_delimited(text: str, delim: str) -> LabelSet:
    """The distinct labels of a delimited text, in its order.

    Raises:
        DataError: see `clean_label`.
    """
    return tuple(dict.fromkeys(clean_label(label) for label in text.split(delim)))


def parse_folder_name(name: str) -> LabelSet:
    """The labels that a class folder's name joins with '+'.

    Raises:
        DataError: one of them is empty or contains '|'.

    >>> parse_folder_name("covid-19+pneumonia")
    ('covid-19', 'pneumonia')
    """
    try:
        return parse_delimited(name, "+")
    except DataError as error:
        raise DataError(f"class folder '{name}': {error} Rename the folder.") from error
