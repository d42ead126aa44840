"""Joining of the spellings of one label, and notes on labels that may be errors."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, combinations

import numpy as np

from xrayfast.data.arrays import Bools
from xrayfast.data.foreign_words import foreign_meaning
from xrayfast.data.labels.cells import find_joint_labels
from xrayfast.data.labels.flags import parse_flag
from xrayfast.data.labels.names import (
    drop_constructor,
    drop_invisible,
    find_spelling,
    is_number,
    may_be_thousands,
    normalize_label,
    plain_spelling,
    repair_encoding,
)
from xrayfast.data.labels.words import (
    copied_label,
    is_normal,
    is_undecided,
    is_unusable,
    looks_like_date,
    plain_label,
    uncertain_label,
)
from xrayfast.errors import shorten

_LEAST_COMPARED, _LONGEST_COMPARED = 5, 60  # letters of labels that are checked for typing errors
_MOST_COMPARED = 500  # labels, all pairs of which are compared

_LEAST_MIXED = 2  # fewest labels that are numbers for a note on others that are not

_DECIMALS = re.compile(r"[.,]0*[1-9]")
_MANY_GRADES = 5  # whole numbers; fewer are the usual codes of classes

_LEAST_JOINED = 3  # letters of labels that may form one word together

_DRAWN = re.compile("[\u2500-\u259f\u207f\u2320\u2321]")

_ONE_HOT = re.compile(r"[01]([ ;,/]?[01])+|[01]\.0*([ ;,/]+[01]\.0*)+")

_LONGEST_SHORT = 4  # letters of an abbreviation of a word such as "ptx"

_ENDING = re.compile(r"(?<=[^\W\d_]{4})(ies|es|s|y|is|ic|ar|a|um|us|ae|e|ion|ation|ated|ate|ive|ed|al|ing|ous)$")
"""Endings in which a word differs from its plural, adjective and other forms."""

_SYNONYMS = (
    {"tb", "tbc", "ptb", "tuberculosis", "kochs"},
    {"covid", "covid19", "coronavirus", "sarscov2", "ncov", "2019-ncov"},
    {"sick", "ill", "disease", "diseased", "abnormal", "pathological", "pathology", "affected"},
    {"cardiomegaly", "enlargedheart", "bigheart", "heartenlargement", "enlargedcardiacsilhouette"},
    {"pneumothorax", "ptx", "collapsedlung"},
    {"effusion", "pleuralfluid", "hydrothorax"},
)
"""Groups of synonyms, as keys of `normalize_label`, that no rule on spelling finds."""

_NUMERALS = {
    **dict(zip(("zero", "one", "two", "three", "four", "five"), "012345", strict=True)),
    **dict(zip(("i", "ii", "iii", "iv", "v", "vi"), "123456", strict=True)),
}
_NUMERAL = re.compile(rf"(?<![^\W_])({'|'.join(_NUMERALS)})(?=[abc]?(?![^\W_]))")
"""A number in a label, as a word or a Roman numeral, as in "stage IIa"."""

_CODE = re.compile(
    r"[\s#()\[\]]*(?:(?:label|class|cls|categ\w*|code|no|nr|number)[\s._-]*)?(\d+)[\s)\].:;*\u00b0]*", re.IGNORECASE
)
"""The number of a class, with a word for it or signs around it, such as "class 1" and "1)"."""

_PART = re.compile(
    r"^\d+\s*[_.:)-]\s*(?=[^\W\d]{3})|[\s_-]+(part|batch|chunk|set|split|extra|new)[\s_-]*\d*$", re.IGNORECASE
)
"""The number of a class, or of a part of its images, in a label, as in "0_normal" and "normal_part2"."""

_DENIAL = re.compile(
    r"(no|not|without|sin|sans|pas de?|kein\w*|ohne|senza|nessun\w*|sem|geen|ingen|brak|bez|нет|без)[\s_'\u2019-]"
    r"|[无無](?!気肺)|بدون",
    re.IGNORECASE,
)
"""The beginning of a label that says that something is absent."""

_SCORED = re.compile(r".*[^\W\d].*[\s(:=](0?[.,]\d+|\d{1,3}([.,]\d+)?\s?%)\)?")
"""A label with a score, as in "mass (0.87)" and "mass 87%"."""

_LOOKS_LIKE = str.maketrans("015", "ols")
"""Digits that are typed instead of letters."""


def spelling_keys(names: Sequence[str]) -> list[str]:
    """Return the key of each name; names with the same key are spellings of one label.

    A key is that of `normalize_label`. If `plain_label` finds a name's label among the names, as for a copy, the name
    gets the key of that label.

    >>> spelling_keys(["normal", "Normal - Copy", "mass (1)"])
    ['normal', 'normal', 'mass(1)']
    """
    keys = list(map(normalize_label, names))
    copied = [normalize_label(plain_label(name)) for name in names]
    return [copy if copy in keys else key for key, copy in zip(keys, copied, strict=True)]


def join_spellings(names: Sequence[str], images: Bools, known: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Give all spellings of a label one name: the most frequent plain spelling; of equally frequent ones, the first.

    Copies, names in quotes, and names that are not in NFKC are not plain. Invisible characters are dropped. The `known`
    labels of a run stay as they are, and their spellings get their name. `images` (N, L) is which images have a name.
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
        first = label if label and len(written) > 1 else drop_invisible(written[0])
        others = [name for name in written if name != first]
        for j in columns:
            joined[j] = first
        if others:
            # Names that look the same are shown with escapes.
            alike = [plain_spelling(other) == plain_spelling(first) for other in others]
            shown = (ascii(other) if same else repr(other) for other, same in zip(others, alike, strict=True))
            kept = f"'{first}'" if plain_spelling(first) == first else ascii(first)
            notes.append(f"{kept} (also {shorten(shown, 20)})")
    if notes:
        notes = [f"Spellings of one label are joined: {shorten(notes, 20)}. To keep them separate, use --exact-labels."]
    return joined, notes


def note_odd_names(names: Iterable[str]) -> list[str]:
    """Return notes on names that may not be labels, and on pairs of names that may be one label."""
    listed, notes = list(names), []
    doubtful = _find_doubtful(listed)
    explained = {*chain(*doubtful.values(), *find_joint_labels(listed).values())}
    longer = dict(_longer_names([name for name in listed if name not in explained]))
    pairs = [(a, b) for a, b in find_alike(listed) if longer.get(a) != b and longer.get(b) != a]
    if longer:
        shown = shorten((f"{name!r} ({inner})" for name, inner in longer.items()), 3)
        notes.append(
            f"Labels that contain the name of another label are kept separate: {shown}. To join them, use --label-map."
        )
    notes += [
        f"Labels that {what}: {shorten(map(repr, found), 3)}. Rename them with --label-map, or edit the cells."
        for what, found in doubtful.items()
        if found
    ]
    denials = [name for name in listed if _DENIAL.match(name) and name not in longer and not is_normal(name)]
    if len(listed) > 2 and denials:
        notes.append(
            f"Labels that say that something is absent: {shorten(map(repr, denials), 3)}. Each is a label of its own: "
            f"if it only denies another, remove it from the cells, or join it with 'No Finding' by --label-map."
        )
    notes += _note_numbers(listed, {*chain(*pairs)}, explained)
    if dates := [name for name in listed if looks_like_date(name)]:
        notes.append(
            "Labels that look like dates, into which spreadsheets convert texts such as 1-2: "
            f"{shorten(map(repr, dates), 3)}."
        )
    if pairs:
        short, long = sorted(pairs[0], key=len)
        shown = shorten((f"{a!r} and {b!r}" for a, b in pairs), 5)
        notes.append(
            f"Labels that may be two names for one label are kept separate: {shown}. To join them, add a line to "
            f"--label-map, such as '{long} = {short}'."
        )
    return notes


def _find_doubtful(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names that may not be labels, keyed by what makes them doubtful."""
    return {
        "say that they are uncertain": [name for name in names if uncertain_label(name) or is_undecided(name)],
        "say that images are not to be used": list(filter(is_unusable, names)) if len(names) > 2 else [],
        "look like values as Python prints them": [name for name in names if drop_constructor(name) != name],
        "look like UTF-8 that was read in another encoding": [name for name in names if repair_encoding(name) != name],
        "contain signs for drawing boxes, as names in another encoding do": list(filter(_DRAWN.search, names)),
        "look like copies of others": [name for name in names if copied_label(name)],
        "may have thousands or decimal separators (compared as written)": list(filter(may_be_thousands, names)),
        "are numbers that may stand for missing labels": _missing_codes(names),
        "look like rows of 1 and 0": _one_hot_codes(names),
        "contain scores": list(filter(_SCORED.fullmatch, names)),
        "look like the same column of two tables that pandas joined": _joined_columns(names),
    }


def _note_numbers(names: Sequence[str], paired: Collection[str], explained: Collection[str]) -> list[str]:
    """Return a note if all names are numbers, and one if some are, apart from names that other notes explain."""
    notes = []
    numbers = [name for name in names if is_number(name) and name not in paired]
    if len(numbers) == len(names) and (any(map(_DECIMALS.search, numbers)) or len(numbers) >= _MANY_GRADES):
        notes.append(
            f"Labels are numbers ({shorten(map(repr, numbers), 3)}): each is a class of its own, and their order is "
            f"not used. If they are scores or grades, make a column of 1 and 0 with a threshold."
        )
    words = [name for name in names if not is_number(name) and name not in explained]
    if len(numbers) >= _LEAST_MIXED and words:
        notes.append(
            f"Some labels are numbers ({shorten(map(repr, numbers), 3)}), and others are names, such as "
            f"{shorten(words, 3)}. If they mean the same, join them with --label-map."
        )
    return notes


def find_alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of labels that may be one.

    They differ by a letter or an ending, have the same meaning, or one is short for the other.

    >>> find_alike(["pos", "positive", "TB", "tuberculosis", "opacity", "opacities", "mass"])
    [('pos', 'positive'), ('TB', 'tuberculosis'), ('opacity', 'opacities')]
    """
    kept = [name for name in names if len(name) <= _LONGEST_COMPARED][:_MOST_COMPARED]
    keys, meanings = list(map(normalize_label, kept)), list(map(_meanings, kept))
    words = [re.findall(r"[^\W\d_]+", name.casefold()) or [""] for name in kept]
    return [
        (kept[i], kept[j])
        for i, j in combinations(range(len(kept)), 2)
        if keys[i] != keys[j]
        and (
            meanings[i] & meanings[j]
            or (_differ_by_a_letter(keys[i], keys[j]) and not len(words[i][-1]) == len(words[j][-1]) == 1)
            or _is_short_for(keys[i], words[j])
            or _is_short_for(keys[j], words[i])
        )
    ]


def _meanings(name: str) -> set[object]:
    """Return what a label may stand for, as pairs of a kind and a value.

    The kinds are its words without endings, the flag that it means, the number before its words, its name with digits
    for numerals, its meaning in another language, normal, and its group of synonyms.
    """
    key, stem = normalize_label(name), re.sub(r"(?<=[^\W\d])\.", "", name.casefold())
    while (shorter := _ENDING.sub("", stem)) != stem:
        stem = shorter
    number = re.match(r"(\d+)(?![\d.,])(?=$|[\s_:=.-]*[^\W\d])", name) or _CODE.fullmatch(name)
    bare = _PART.sub("", name)
    found = {("stem", normalize_label(stem)), ("flag", parse_flag(name)), ("code", number and number[1])}
    digits = _NUMERAL.sub(lambda word: _NUMERALS[word[0]], unicodedata.normalize("NFKC", name).casefold())
    found |= {
        ("digits", normalize_label(digits)),
        ("foreign", foreign_meaning(name) or None),
        ("normal", is_normal(re.sub(r"[\W\d_]+$", "", name)) or None),
        ("bare", normalize_label(bare) if bare else None),
    }
    found |= {("synonym", i) for i, one in enumerate(_SYNONYMS) if key in one}
    return {one for one in found if one[1] is not None and one[1] == one[1]}


def _is_short_for(key: str, words: Sequence[str]) -> bool:
    """Whether a key is the start of a word, its first letter and further consonants, or the initials of words."""
    whole = "".join(words)
    if not key.isalpha() or len(whole) < len(key) + 2 or {*whole} <= {*"ivx"}:
        return False
    if len(key) > 1 and parse_flag(key) is not None:
        return False
    if len(words) > 1:
        return key == "".join(word[0] for word in words)
    few = 1 < len(key) <= _LONGEST_SHORT and not {*key[1:3]} & {*"aeiou"}
    return whole.startswith(key) or (few and re.match(".*".join(key), whole) is not None)


def _missing_codes(names: Sequence[str]) -> list[str]:
    """Return labels such as 99, -9 and 9, which may stand for missing labels, if all others are smaller numbers."""
    keys = {name: normalize_label(name) for name in names}
    for codes, others in ((r"-(7|8|9)|-?9{2,4}|-?8{2,4}|-?7{2,4}", r"-?[0-8]"), ("[789]", r"-1|[0-4]")):
        found = [name for name, key in keys.items() if re.fullmatch(codes, key)]
        if found and all(re.fullmatch(others, key) for name, key in keys.items() if name not in found):
            return found
    return []


def _joined_columns(names: Sequence[str]) -> list[str]:
    """Return labels such as "mass_x" and "mass_y", if both are there."""
    ends = {"_x": "_y", "_y": "_x"}
    return [name for name in names if name[:-2] and ends.get(name[-2:]) and name[:-2] + ends[name[-2:]] in names]


def _one_hot_codes(names: Sequence[str]) -> list[str]:
    """Return the labels if all are rows of 0 and 1 with the same length, and one begins with 0; else none."""
    codes = [re.sub(r"[ ;,/]|\.0*", "", name) for name in names if _ONE_HOT.fullmatch(name)]
    alike = len(codes) == len(names) and len({*map(len, codes)}) == 1 and any(code[0] == "0" for code in codes)
    return list(names) if alike else []


def _longer_names(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the labels that contain another label, each with that other label.

    They have all of its words and further words or signs, or are one word that joins it and another label.
    """
    words = {
        name: frozenset(re.findall(r"[^\W\d_]+|\d[^\W_]*", unicodedata.normalize("NFKC", name).casefold()))
        for name in names[:_MOST_COMPARED]
        if not (is_number(name) or looks_like_date(name))
    }
    keys = {normalize_label(name): name for name in names if len(normalize_label(name)) >= _LEAST_JOINED}
    for name, parts in words.items():
        key = normalize_label(name)
        inner = [
            other
            for other, some in words.items()
            if other != name and some and (some < parts or (some == parts and len(other) <= len(name)))
        ]
        if not name.isascii():  # some scripts have no spaces between words
            inner += [other for other in words if len(other) > 1 and other != name and other in name]
        inner += [keys[key[:end]] for end in range(1, len(key)) if key[:end] in keys and key[end:] in keys]
        signs = inner and {name.strip()[-1], inner[0].strip()[-1]} == {*"+-"}
        if inner and not signs and not (len(names) == 2 and parts & {"no", "non", "not"}):
            yield name, inner[0]


def _differ_by_a_letter(one: str, other: str) -> bool:
    """Whether two keys of five letters or more differ by one letter, or only by digits that look like letters.

    The letter is added, changed, or swapped with the next one.
    """
    if len(one) >= _LEAST_COMPARED and one.translate(_LOOKS_LIKE) == other.translate(_LOOKS_LIKE):
        return True
    short, long = sorted((one, other), key=len)
    if len(short) < _LEAST_COMPARED or len(long) - len(short) > 1 or long == f"a{short}":  # "atypical" is no typo
        return False
    start = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    rest, other_rest = short[start:], long[start:]
    swapped = rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:]
    if len(short) < len(long):
        return other_rest[0].isalpha() and rest == other_rest[1:]
    return (swapped or rest[1:] == other_rest[1:]) and (rest[:1] + other_rest[:1]).isalpha()
