"""Labels out of folder names and table cells."""

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

LIST = "[...]"
"""Stands for the delimiter where cells are lists, as in "['effusion', 'mass']"."""

_LIST_ITEM = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\s*(?:,|$)""")


# Names


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


def normalize_label(name: str) -> str:
    """The name by which two spellings of a label are the same: case, spaces and '_' make no difference.

    >>> plain("Pleural_Thickening") == plain("pleural thickening")
    True
    """
    return re.sub(r"[\s_]+", "", name).casefold()


def is_no_finding(label: str) -> bool:
    """Whether the label says that there is none, in any spelling."""
    return normalize_label(label) == normalize_label(NO_FINDING)


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Distinct labels in the order used everywhere: by name, ignoring case, numbers by value.

    >>> in_order(["grade 10", "Grade 2", "normal"])
    ['Grade 2', 'grade 10', 'normal']
    """
    return sorted(set(labels), key=_natural)


def _natural(label: str) -> tuple[list[tuple[int, int, str]], str]:
    pieces = re.split(r"([0-9]+)", label.casefold())
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece], label


# Out of text


def parse_delimited(text: str, delim: str) -> LabelSet:
    """The distinct labels of a delimited text, in its order.

    Raises:
        DataError: see `clean_label`.
    """
    return tuple(dict.fromkeys(clean_label(part) for part in text.split(delim)))


def parse_folder_name(name: str) -> LabelSet:
    """The labels that a class folder's name joins with '+'.

    Raises:
        DataError: one of them is empty or contains '|'.

    >>> folder_labels("covid-19+pneumonia")
    ('covid-19', 'pneumonia')
    """
    try:
        return parse_delimited(name, "+")
    except DataError as error:
        raise DataError(f"class folder '{name}': {error} Rename the folder.") from error


def parse_label_list(text: str) -> LabelSet:
    """The distinct labels of a list in a text, in its order; empty ones are left out.

    Raises:
        DataError: it is no list of quoted texts, or see `clean_label`.

    >>> listed_labels("['pleural effusion', ' mass', '']")
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


def detect_delimiter(cells: Iterable[str], chosen: str) -> str:
    """What separates the labels of a cell, where `chosen` is "auto".

    It is '|' where that occurs; the comma of a list where most cells are lists; ';' where that occurs; ',' where parts
    of cells recur in others, so that there are no more distinct parts than cells; and '|' otherwise.
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
    parts = {part.strip() for cell in filled for part in cell.split(",")}
    return "," if any("," in cell for cell in filled) and len(parts) <= len(filled) else LABEL_JOIN
