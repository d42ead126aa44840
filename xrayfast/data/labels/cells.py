"""Parsing of cells of label names into a raw matrix, (N, L) float32: 1, 0, `UNCERTAIN` for -1, NaN for blank.

`policies.apply_policies` then turns uncertain and blank cells into targets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from xrayfast.data.labels.flags import parse_flag
from xrayfast.data.labels.names import (
    LABEL_JOIN,
    NO_FINDING,
    LabelSet,
    clean_label,
    drop_constructor,
    is_number,
    normalize_label,
    parse_delimited,
    sort_labels,
)
from xrayfast.data.labels.targets import UNCERTAIN, Targets, Where, encode_labels
from xrayfast.data.labels.words import is_missing, uncertain_label
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import LONGEST_NAME, DataError, plural, shorten, truncate

LIST = "[...]"
"""Used as the delimiter if cells are lists, as in "['effusion', 'mass']"."""

_LIST_ITEM = re.compile(
    r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^'",]*[^'",\s]))(?:\s*,|\s*$|(?<=['"])\s+(?=['"]))"""
)

_BRACKETS = ("[]", "()", "{}")

_DECIMAL = re.compile(r"[-+]?\d+(,\d+)*")
"""A whole number, or numbers with commas: decimal commas, thousands separators, or separators between labels."""

_DELIMITERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        *(";", ",", " (?:and|und|et|y|with|w/|plus|or|vs) ", "/", "&", ":", r"\\", r"\+", r"\n", r"\t", " - "),
        *("(?:[<>](?!=?\\s*\\d)|[\u00bb\u2022\u00b7\u3001\u3002\uff0c\uff1b\u060c\u061b])+", "-", "_", " +"),
    )
)
"""Patterns of what may separate labels in a cell, besides '|'."""

_CODED = re.compile(r"\d+\s*[:=-]\s*[^\W\d]")
"""The beginning of a label that includes its class number, as in "0: normal"."""

_LISTS, _IN_NAMES = _DELIMITERS[:2], _DELIMITERS[-3:]
"""The delimiters that always separate labels, and those that many single labels have in their names too."""


def resolve_delimiter(cells: Iterable[str], chosen: str) -> str:
    """Return what separates the labels in a cell: `chosen`, or if that is "auto", the first of these that fits.

    - '|' if a cell has it.
    - `LIST` if most distinct cells are lists.
    - '|' if all cells are numbers and some number between commas is not a cell of its own.
    - ';' if a cell has it, unless ',' fits too and divides more cells into labels that all recur in other cells.
    - ',' if a cell has it and labels recur, so that there are no more distinct labels than distinct cells.
    - '|' otherwise.
    """
    if chosen != "auto":
        return chosen
    filled = {cell.strip() for cell in cells} - {""}
    if any(LABEL_JOIN in cell for cell in filled):
        return LABEL_JOIN
    texts = {cell for cell in filled if not is_list(cell)}
    if 2 * len(texts) < len(filled):
        return LIST
    if all(map(_DECIMAL.fullmatch, texts)) and any(set(cell.split(",")) - texts for cell in texts):
        return LABEL_JOIN
    labels = {label.strip() for cell in texts for label in cell.split(",")}
    commas = any("," in cell for cell in texts) and len(labels) <= len(texts)
    if any(";" in cell for cell in texts):
        return "," if commas and _count_recurring(texts, ",") > _count_recurring(texts, ";") else ";"
    return "," if commas else LABEL_JOIN


def _count_recurring(cells: Iterable[str], delim: str) -> int:
    """Return how many cells a delimiter divides into labels that are all in other cells too."""
    divided = [{part.strip() for part in cell.split(delim)} for cell in cells]
    counts = Counter(part for parts in divided for part in parts)
    return sum(len(parts) > 1 and all(counts[part] > 1 for part in parts) for parts in divided)


def note_delimiters(labels: Collection[str], delim: str, what: str = "label") -> list[str]:
    """Return a note for each delimiter, other than `delim`, that seems to separate labels: see `find_joint_labels`.

    `what` is the kind of the names: "label" (in cells), "class folder" or "column".
    """
    advice = {"class folder": "To give a folder two labels, name it A+B.", "column": "Each column is one label."}
    return [
        f"{_describe_delimiter(sign)} is in {plural(len(joint), what)} but is not used as a separator: "
        f"{shorten(map(repr, joint), 3)}. "
        + advice.get(what, f"To use it as the separator, give --label-delim {_in_shell(sign)}.")
        for sign, joint in find_joint_labels(labels).items()
        if sign != delim
    ]


def find_joint_labels(labels: Collection[str]) -> dict[str, list[str]]:
    """Return the labels that seem to be several labels in one, keyed by the delimiter that separates these.

    With ';' or ',', every label does. With '-', '_' or a space, each piece must be a label too. With another delimiter,
    one piece must be a label, or each piece must also be in another label with that delimiter.
    """
    names = [name for name in labels if not (is_number(name) or _CODED.match(name))]
    known = set(map(normalize_label, labels))
    found: dict[str, list[str]] = {}
    taken = set[str]()
    for pattern in _DELIMITERS:
        parts = {
            name: [normalize_label(part) for part in pattern.split(name)] for name in names if pattern.search(name)
        }
        counts = Counter(part for keys in parts.values() for part in set(keys))
        for name, keys in parts.items():
            are_known = [key in known for key in keys]
            seems_joint = pattern in _LISTS or all(are_known)
            if pattern not in _IN_NAMES:
                seems_joint |= any(are_known) or all(counts[key] > 1 for key in keys)
            if seems_joint and name not in taken and ("" not in keys or pattern in _LISTS):
                taken.add(name)
                found.setdefault(next(pattern.finditer(name))[0], []).append(name)
    return found


def _describe_delimiter(sign: str) -> str:
    return {"\n": "a line break", "\t": "a tab", " ": "a space"}.get(sign, f"'{sign}'")


def _in_shell(sign: str) -> str:
    return {"\n": r"$'\n'", "\t": r"$'\t'"}.get(sign, f"'{sign}'")


def parse_label_cells(
    cells: Sequence[str], delim: str, where: Where, blank_allowed: bool = False, known: Collection[str] = ()
) -> tuple[list[str], Targets]:
    """Parse the N cells of a column of label names.

    `delim` is the result of `resolve_delimiter`. Cells that are lists are always read as lists, and cells that are one
    of the `known` labels are not divided. With `blank_allowed`, a missing cell (see `words.is_missing`) becomes a row
    of blanks.

    Returns:
        The labels, sorted; (N, L) raw matrix of 1, 0 and, in blank rows, NaN.

    Raises:
        DataError: a missing cell that is not allowed, a row of flags, an empty label or one with '|'; the message
            begins with `where(i)`.
    """
    column, sets = TextColumn.of(cells), list[LabelSet]()
    texts, codes = column.texts, column.codes
    for code, cell in enumerate(texts):
        try:
            sets.append(_parse_cell(cell, delim, known))
        except DataError as error:
            hint = "" if delim == LIST else ", or set --label-delim"
            raise DataError(
                f"{where(column.first_rows()[code])}: {error} Fix '{truncate(cell, LONGEST_NAME)}'{hint}."
            ) from error
    blank = [code for code, labels in enumerate(sets) if not labels]
    if blank and not blank_allowed:
        cell = texts[blank[0]].strip()
        what = f"'{cell}', which is not a label" if is_missing(cell) and cell else "a blank label"
        rows = int(np.isin(codes, blank).sum())
        words = shorten(f"'{texts[code]}'" for code in blank)
        others = f", and {plural(rows - 1, 'more row')} like it ({words})" if rows > 1 else ""
        raise DataError(
            f"{where(column.first_rows()[blank[0]])}: found {what}{others}; expected at least one. Write "
            f"'{NO_FINDING}' for an image without findings, remove the row, or set --blank ignore or --blank zeros"
            + (
                f"; to use it as a label, give --label-map the line '{cell} = {cell}'."
                if is_missing(cell) and cell
                else "."
            )
        )
    labels = sort_labels(label for row in sets for label in row)
    both = [code for code, row in enumerate(sets) if len(row) == 2]
    if both and {*map(parse_flag, labels)} == {0, 1} and not {*labels} <= {*known}:
        raise DataError(
            f"{where(column.first_rows()[both[0]])}: found '{truncate(texts[both[0]], LONGEST_NAME)}', which looks "
            f"like a row of 1 and 0; expected names of labels. Make a column of 1 and 0 for each label."
        )
    matrix = encode_labels(sets, labels)
    matrix[[not row for row in sets]] = np.nan
    return labels, matrix[codes]


def _parse_cell(cell: str, delim: str, known: Collection[str]) -> LabelSet:
    """Return the labels of a cell; none if it is missing."""
    if is_missing(cell, known):
        return ()
    if cell.strip() in known:
        return (cell.strip(),)
    if is_list(cell):
        labels = parse_label_list(cell)
    else:
        labels = (clean_label(cell),) if delim == LIST else parse_delimited(cell, delim)
    if missing := [label for label in labels if is_missing(label, known)]:
        if len(labels) == 1:
            return ()
        raise DataError(f"found '{missing[0]}' among labels; expected names.")
    return labels


def mark_uncertain(
    names: Sequence[str], raw: Targets, known: Collection[str] = ()
) -> tuple[list[str], Targets, dict[str, int]]:
    """Merge uncertain labels such as "pneumonia?" into the label that they name, if that is among the labels.

    Their 1 becomes `UNCERTAIN` in the column of the label of the (N, L) raw matrix, unless the row has 1 there too.
    `known` labels are kept as they are. Return the remaining labels, their matrix, and the rows per merged label.
    """
    names, raw = list(names), raw.copy()
    certain = {normalize_label(name): name for name in names if name in known or not uncertain_label(name)}
    label_of = {
        name: certain.get(normalize_label(uncertain_label(name))) for name in names if name not in certain.values()
    }
    counts = dict[str, int]()
    for name, label in label_of.items():
        if label:
            rows, column = raw[:, names.index(name)] == 1, raw[:, names.index(label)]
            column[rows & (column != 1)] = UNCERTAIN
            counts[name] = int(rows.sum())
    kept = [j for j, name in enumerate(names) if name not in counts]
    return [names[j] for j in kept], raw[:, kept], counts


def is_list(cell: str) -> bool:
    """Whether a cell is a list: in square brackets, in others if empty or with quotes, or one bracket is missing."""
    text = drop_constructor(cell.strip())
    if text in _BRACKETS or re.fullmatch(r"[\[{][^\]}]+|[^\[{]+[\]}]", text):
        return True
    return text[:1] + text[-1:] in _BRACKETS and len(text) > 1 and (text[0] == "[" or text[1:].lstrip()[:1] in "'\"")


def parse_label_list(text: str) -> LabelSet:
    """Return the distinct labels of a list in text form, in the list's order, without empty ones.

    >>> parse_label_list("['pleural effusion', ' mass', '']"), parse_label_list("array(['a' 'b'], dtype=object)")
    (('pleural effusion', 'mass'), ('a', 'b'))
    """
    text = drop_constructor(text.strip())
    inner = text[1:-1].strip()
    items, end = list[str](), 0
    while end < len(inner) and (found := _LIST_ITEM.match(inner, end)):
        items.append(re.sub(r"\\(.)", r"\1", next(item for item in found.groups() if item is not None)))
        end = found.end()
    are_numbers = len(items) > 1 and all(re.fullmatch(r"-?[\d.]+|True|False", item.strip()) for item in items)
    if end < len(inner) or are_numbers or text[:1] + text[-1:] not in _BRACKETS:
        raise DataError(f"found '{text}'; expected a list such as ['Effusion', 'Mass'].{_describe_mapping(inner)}")
    return tuple(dict.fromkeys(clean_label(item) for item in items if item.strip()))


def _describe_mapping(inner: str) -> str:
    """Return advice on cells such as {"Mass": 1}, given the text inside the brackets; "" for other cells."""
    if not re.search(r"""['"]\s*:""", inner):
        return ""
    return (
        " This is a mapping of labels to values: write only the labels that are 1, such as 'Effusion|Mass', or make a "
        "column of 1 and 0 per label."
    )
