"""Names of labels: what is allowed, which are equal, and their order."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.errors import LONGEST_NAME, DataError, shorten, truncate

LabelSet: TypeAlias = tuple[str, ...]

LABEL_JOIN = "|"
"""Joins the labels of one image in the tables that xrayfast writes."""

NO_FINDING = "No Finding"
"""In multi-label tables: none of the labels applies."""

_LEAST_COMPARED, _LONGEST_COMPARED = 6, 60  # letters of labels that may be typing errors
_MOST_COMPARED = 500  # labels, each with each

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_PAIRS = ("''", '""', "``", "\u2018\u2019", "\u201c\u201d", "\u00ab\u00bb", "[]", "()", "{}", "<>")
_SEPARATORS = r"[\s_\-\u2010-\u2015\u2212]+"

_EXPONENT = re.compile(r"[-+]?\d{1,6}(\.\d*)?[eE][-+]?\d{1,2}")

_DATE = re.compile(
    r"\d{1,2}[-./ ](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*([-./ ]\d{2,4})?|"
    r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[-./ ]\d{2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|"
    r"\d{4}[-./]\d{1,2}[-./]\d{1,2}( 00:00:00)?",
    re.IGNORECASE,
)

_MISSING = frozenset({"", "?", "na", "nan", "-nan", "n/a", "#n/a", "#na", "<na>", "nat", "null", "none"})
"""Cells of a table that hold no label, in lower case: those of pandas.read_csv, which writes and reads them."""


def clean_label(text: str) -> str:
    """The label without surrounding spaces and invisible characters.

    Raises:
        DataError: it is empty, longer than `LONGEST_NAME`, or contains '|', which joins labels in the tables of a run.
    """
    label = _INVISIBLE.sub("", text).strip()
    if not label:
        raise DataError("found an empty label; expected a name.")
    if len(label) > LONGEST_NAME:
        start = truncate(label, 60)
        raise DataError(f"found a label of {len(label):,} characters, '{start}'; expected at most {LONGEST_NAME}.")
    if LABEL_JOIN in label:
        raise DataError(f"found the label '{label}'; expected a name without '{LABEL_JOIN}', which joins labels.")
    return label


def normalize_label(name: str) -> str:
    """The key by which two spellings of a label are equal, wherever labels are read or compared.

    It has no case, Unicode form, invisible characters, surrounding quotes or brackets, and no last full stop; no
    spaces, underscores and hyphens, except a hyphen that is not between letters or digits ("covid-", "-1") and one
    between two digits ("1-2" is not "12"); and of numbers no zeros before them or after the point.

    >>> normalize_label("Pleural_Thickening") == normalize_label("['pleural-thickening']")
    True
    >>> normalize_label("1.0") == normalize_label("1"), normalize_label("-1") == normalize_label("1")
    (True, False)
    """
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", name)).strip()
    while (inner := _unwrap(text)) != text:
        text = inner
    text = re.sub(r"[.,;:\s]+$", "", text) or text
    if _EXPONENT.fullmatch(text):
        text = f"{float(text):g}"
    text = re.sub(r"(?<![\d.,])0+(?=\d)", "", text)
    text = re.sub(r"(?<![\d.,])(\d+)[.,]0+(?![\d.,])", r"\1", text)
    text = re.sub(rf"(?<=\d){_SEPARATORS}(?=\d)", "-", text)
    text = re.sub(rf"(?<=[^\W_]){_SEPARATORS}(?=[^\W\d_])|(?<=[^\W\d_]){_SEPARATORS}(?=[^\W_])", "", text)
    return (re.sub(r"[\s_]+", "", text) or text).casefold()


def _unwrap(text: str) -> str:
    """The text without a pair of quotes or brackets around all of it."""
    if text[:1] + text[-1:] in _PAIRS and len(text) > 2 and not {text[0], text[-1]} & set(text[1:-1]):
        return text[1:-1].strip()
    return text


def note_odd_names(names: Iterable[str]) -> list[str]:
    """Notes on labels that look like dates, and on pairs that differ in one letter, as typing errors and plurals do."""
    listed, notes = list(names), []
    if dates := [name for name in listed if _DATE.fullmatch(name)]:
        notes.append(
            f"Labels that look like dates, as spreadsheets make of texts such as 1-2: {shorten(map(repr, dates), 3)}."
        )
    keys = {name: normalize_label(name) for name in listed[:_MOST_COMPARED] if len(name) <= _LONGEST_COMPARED}
    pairs = [f"{a!r} and {b!r}" for a, b in combinations(keys, 2) if _differ_by_a_letter(keys[a], keys[b])]
    if pairs:
        notes.append(f"Labels that differ in one letter are apart: {shorten(pairs, 3)}. --label-map joins them.")
    return notes


def _differ_by_a_letter(one: str, other: str) -> bool:
    """Whether two keys of six letters or more differ by one letter that is added, changed, or swapped with the next."""
    short, long = sorted((one, other), key=len)
    if len(short) < _LEAST_COMPARED or len(long) - len(short) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    rest, other_rest = short[start:], long[start:]
    swapped = rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:]
    if len(short) < len(long):
        return other_rest[0].isalpha() and rest == other_rest[1:]
    return (swapped or rest[1:] == other_rest[1:]) and (rest[:1] + other_rest[:1]).isalpha()


def is_missing(cell: str, known: Collection[str] = ()) -> bool:
    """Whether a cell holds no label: it is blank or a word for that, such as "nan", and not among the known labels."""
    text = cell.strip()
    return text.casefold() in _MISSING and (not text or text not in known)


def find_spelling(name: str, known: Iterable[str]) -> str | None:
    """The known label that a name spells; None where there is none, or more than one."""
    listed = list(known)
    if name in listed:
        return name
    key = normalize_label(name)
    found = list(dict.fromkeys(label for label in listed if normalize_label(label) == key))
    return found[0] if len(found) == 1 else None


def join_spellings(
    names: Sequence[str], images: npt.NDArray[np.bool_], known: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Give all spellings of a label one name: the most frequent of them, the first of those equally frequent.

    Args:
        names: the L as they are written.
        images: (N, L) which images have which.
        known: labels of a run, which stay as they are, and name the spellings of theirs.

    Returns:
        The name of each label; notes on what was joined.
    """
    order = np.lexsort((images.argmax(0), -images.sum(0))) if len(images) else np.arange(len(names))
    rank = np.argsort(order).tolist()
    spellings: dict[tuple[str | None, str], list[int]] = {}
    for j, name in enumerate(names):
        spellings.setdefault((find_spelling(name, known), normalize_label(name)), []).append(j)
    joined, notes = list(names), []
    for (label, _), columns in spellings.items():
        written = list(dict.fromkeys(names[j] for j in sorted(columns, key=lambda j: rank[j])))
        first = label if label and len(written) > 1 else written[0]
        others = [name for name in written if name != first]
        for j in columns:
            joined[j] = first
        if others:
            notes.append(f"'{first}' (also {shorten((repr(other) for other in others), 20)})")
    if notes:
        notes = [f"Spellings of one label are joined: {shorten(notes, 20)}. --exact-labels keeps them apart."]
    return joined, notes


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
    pieces = filter(None, re.split(r"([0-9]+)", label.casefold()))
    numbers = [(piece, piece.lstrip("0")) for piece in pieces]  # Python makes no int of more than 4,300 digits
    return [(0, len(n), n) if piece.isdecimal() else (1, 0, piece) for piece, n in numbers], label


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
