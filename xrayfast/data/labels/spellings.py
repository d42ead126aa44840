"""Spellings of one label under one name, and notes on labels that may be errors."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

from xrayfast.data.labels.cells import find_joint_labels
from xrayfast.data.labels.names import find_spelling, is_number, may_be_thousands, normalize_label, plain_spelling
from xrayfast.data.labels.words import copied_label, is_undecided, plain_label, uncertain_label
from xrayfast.errors import shorten

_LEAST_COMPARED, _LONGEST_COMPARED = 5, 60  # letters of labels that may be typing errors
_MOST_COMPARED = 500  # labels, each with each

_LEAST_JOINED = 3  # letters of labels that may be joined to one word

_ONE_HOT = re.compile(r"[01]([ ;,/]?[01])+")

_LOOKS_LIKE = str.maketrans("015", "ols")
"""Digits that are typed for letters."""

_DATE = re.compile(
    r"\d{1,2}[-./ ](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*([-./ ]\d{2,4})?|"
    r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[-./ ]\d{2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|"
    r"\d{4}[-./]\d{1,2}[-./]\d{1,2}( 00:00:00)?",
    re.IGNORECASE,
)


def spelling_keys(names: Sequence[str]) -> list[str]:
    """The keys by which names are spellings of one label: see `normalize_label`; a copy has that of its label.

    >>> spelling_keys(["normal", "Normal - Copy", "mass (1)"])
    ['normal', 'normal', 'mass(1)']
    """
    keys = list(map(normalize_label, names))
    copied = [normalize_label(plain_label(name)) for name in names]
    return [copy if copy in keys else key for key, copy in zip(keys, copied, strict=True)]


def join_spellings(
    names: Sequence[str], images: npt.NDArray[np.bool_], known: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Give all spellings of a label one name: the most frequent that is plain, the first of those equally frequent.

    A copy is not plain, nor is a name in quotes or with other characters than `unicodedata` composes.

    Args:
        names: the L as they are written.
        images: (N, L) which images have which.
        known: labels of a run, which stay as they are, and name the spellings of theirs.

    Returns:
        The name of each label; notes on what was joined.
    """
    order = np.lexsort((images.argmax(0), -images.sum(0))) if len(images) else np.arange(len(names))
    keys = spelling_keys(names)
    by_count = np.argsort(order).tolist()
    rank = [
        (normalize_label(name) != key, plain_spelling(name) != name, r)
        for name, key, r in zip(names, keys, by_count, strict=True)
    ]
    spellings: dict[tuple[str | None, str], list[int]] = {}
    for j, name in enumerate(names):
        spellings.setdefault((find_spelling(name, known), keys[j]), []).append(j)
    joined, notes = list(names), []
    for (label, _), columns in spellings.items():
        written = list(dict.fromkeys(names[j] for j in sorted(columns, key=lambda j: rank[j])))
        first = label if label and len(written) > 1 else written[0]
        others = [name for name in written if name != first]
        for j in columns:
            joined[j] = first
        if others:
            # Those that look the same are shown with escapes.
            alike = [plain_spelling(other) == plain_spelling(first) for other in others]
            shown = (ascii(other) if same else repr(other) for other, same in zip(others, alike, strict=True))
            kept = f"'{first}'" if plain_spelling(first) == first else ascii(first)
            notes.append(f"{kept} (also {shorten(shown, 20)})")
    if notes:
        notes = [f"Spellings of one label are joined: {shorten(notes, 20)}. --exact-labels keeps them apart."]
    return joined, notes


def note_odd_names(names: Iterable[str]) -> list[str]:
    """Notes on labels that by their names may be none, and on pairs that differ in one letter, as typing errors do."""
    listed, notes = list(names), []
    doubtful = {
        "say that they are uncertain": [name for name in listed if uncertain_label(name) or is_undecided(name)],
        "look like copies of others": [name for name in listed if copied_label(name)],
        "may be thousands or decimals, and are compared as written": list(filter(may_be_thousands, listed)),
        "may stand for missing ones, as numbers": _missing_codes(listed),
        "look like rows of 1 and 0": _one_hot_codes(listed),
    }
    explained = {*chain(*doubtful.values(), *find_joint_labels(listed).values())}
    longer = [
        f"{name!r} ({inner})" for name, inner in _longer_names([name for name in listed if name not in explained])
    ]
    if longer:
        notes.append(f"Labels that hold the name of another are apart: {shorten(longer, 3)}. --label-map joins them.")
    notes += [
        f"Labels that {what}: {shorten(map(repr, found), 3)}. --label-map gives other names, or edit the cells."
        for what, found in doubtful.items()
        if found
    ]
    if dates := [name for name in listed if _DATE.fullmatch(name)]:
        notes.append(
            f"Labels that look like dates, as spreadsheets make of texts such as 1-2: {shorten(map(repr, dates), 3)}."
        )
    keys = {name: normalize_label(name) for name in listed[:_MOST_COMPARED] if len(name) <= _LONGEST_COMPARED}
    pairs = [f"{a!r} and {b!r}" for a, b in combinations(keys, 2) if _differ_by_a_letter(keys[a], keys[b])]
    if pairs:
        notes.append(f"Labels that differ in one letter are apart: {shorten(pairs, 3)}. --label-map joins them.")
    return notes


def _missing_codes(names: Sequence[str]) -> list[str]:
    """Labels such as 99 and -9 among numbers below 9."""
    keys = {name: normalize_label(name) for name in names}
    found = [name for name, key in keys.items() if re.fullmatch(r"-(7|8|9)|-?9{2,4}|-?8{2,4}|-?7{2,4}", key)]
    return found if all(re.fullmatch(r"-?[0-8]", key) for name, key in keys.items() if name not in found) else []


def _one_hot_codes(names: Sequence[str]) -> list[str]:
    """The labels, where all are as many of 0 and 1, and one begins with 0."""
    codes = [re.sub(r"[ ;,/]", "", name) for name in names if _ONE_HOT.fullmatch(name)]
    alike = len(codes) == len(names) and len({*map(len, codes)}) == 1 and any(code[0] == "0" for code in codes)
    return list(names) if alike else []


def _longer_names(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Labels that have all words of another and further ones or signs, or are two others in one word; and the other."""
    words = {
        name: frozenset(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold()))
        for name in names[:_MOST_COMPARED]
        if not (is_number(name) or _DATE.fullmatch(name))
    }
    keys = {normalize_label(name): name for name in names if len(normalize_label(name)) >= _LEAST_JOINED}
    for name, parts in words.items():
        key = normalize_label(name)
        inner = [
            other
            for other, some in words.items()
            if other != name and some and (some < parts or (some == parts and len(other) <= len(name)))
        ]
        inner += [keys[key[:end]] for end in range(1, len(key)) if key[:end] in keys and key[end:] in keys]
        if inner and not (len(names) == 2 and parts & {"no", "non", "not"}):
            yield name, inner[0]


def _differ_by_a_letter(one: str, other: str) -> bool:
    """Whether two keys of five letters or more differ by a letter that is added, changed, or swapped with the next."""
    if len(one) >= _LEAST_COMPARED and one.translate(_LOOKS_LIKE) == other.translate(_LOOKS_LIKE):
        return True
    short, long = sorted((one, other), key=len)
    if len(short) < _LEAST_COMPARED or len(long) - len(short) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    rest, other_rest = short[start:], long[start:]
    swapped = rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:]
    if len(short) < len(long):
        return other_rest[0].isalpha() and rest == other_rest[1:]
    return (swapped or rest[1:] == other_rest[1:]) and (rest[:1] + other_rest[:1]).isalpha()
