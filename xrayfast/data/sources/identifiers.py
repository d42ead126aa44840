"""Patient and study identifiers: spellings, placeholders such as "unknown", and columns that look like identifiers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import unquote

import numpy as np

from xrayfast.data.labels.flags import looks_like_flags
from xrayfast.data.labels.names import drop_invisible, fold_look_alikes, may_be_thousands
from xrayfast.data.labels.words import is_missing, looks_like_date
from xrayfast.data.sources.column_words import MEASURED, ORIGIN, has_word, key_role, may_be_key
from xrayfast.data.text_column import TextColumn, distinct
from xrayfast.errors import plural, shorten
from xrayfast.errors.advice import quoted

_MOST_PER_KEY = 50
"""Largest average number of images per patient or other identifier."""

_LEAST_KEYS = 8
"""Least number of distinct values for a column to be seen as an identifier from its cells alone."""

_LONGEST_KEY = 40

_NUMBER_OR_DATE = re.compile(
    r"(?!\d{5,}$)[-+]?[\d.,]+([eE][-+]?\d+)?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T][\d:.]+)?|(19|20)\d{4}(\d\d)?"
)
"""Matches numbers and dates, but not whole numbers of 5 or more digits, which measurements rarely have."""

_LETTERS_AND_NUMBER = re.compile("([A-Za-z]*)([0-9]+)")

_WORD_AND_NUMBER = re.compile(r"(?:(?:p|pt|pat|patient|pid|id|s|sub|subj|subject|c|case)[ :#_-]*)?(\d+)")
"""Matches the key of an identifier that is a number, with or without a word for a patient before it."""

_LAST_FIRST = re.compile(r"\s*(?P<last>[^\W\d_][^\d,^]*?)\s*[,^]\s*(?P<first>[^\W\d_][^\d,^]*)\^*\s*")
"""A person's name, as DICOM has it, or with a comma."""

_GROUPED = re.compile(r"^(?:\+\d+|\d{1,3}([ ,'\u2019])\d{3}(?:\1\d{3})*)$")
"""A number with thousands separators or a plus sign."""

_SEVERAL = re.compile(
    r"([^\W\d_]+)[-_ ]?\d+([a-z]?)(((\s*[-/;,|&+]\s*|\s+(and\s+)?)\1[-_ ]?\d+\2)+|(\s*([;,&+]|\band\b)\s*\d+\2)+)",
    re.IGNORECASE,
)
"""Matches several identifiers of one form in a cell, such as "P1/P2" and "P1, 2"."""

_OF_VISIT = re.compile(
    r"(?i)(.*[^\W_])(?:[-_ .,/#(]+|(?<=\d)(?=[a-z]{1,4}$))((?:(?<=\d)|(?<=\d[-_ .,/#(]))(?:[a-z]|i{2,3}|iv|vi{1,3}|ix)"
    r"|(pre|post|before|after|baseline|bl|fu|follow[-_ ]?up|admission|discharge|left|right|pa|ap"
    r"|lat|lateral|frontal|l|r)[-_ ]?\d*|(t|tp|v|visit|scan|session|ses|exam|study|img|image|day|d)[-_ ]?\d+|\d{1,2}"
    r"|\d{1,3} ?y(rs?|ears?)?|(19|20)\d\d[-_.]?\d\d[-_.]?\d\d)\)?"
)
"""Matches an identifier that adds to a patient which of the patient's images or visits it is, such as "P1_pre"."""

MOST_IN_STUDY = 20  # images of a study or patient; most studies of chest radiographs have 1 to 3
_LOOKED_AT = 20_000  # identifiers in which visits are looked for

_AROUND = " .,;:#'\"`\u2018\u2019\u201c\u201d\u00b4"

_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")

_PLACEHOLDER_WORD = re.compile(
    r"[\[<({]*((patient[\s^_]*)?(unk(nown)?|anon(ymous|ym)?|(an|pseud)on[iy]m[^\W\d]{2,6})([\s^_]*(patient|name|unknown))?|n\.?n\.?|"
    r"not?[ _]?(available|applicable|known|(patient[ _]?)?id|recorded|given|name)|missing([ _]?id)?|"
    r"undefined|unspecified|unidentified|de-?identified|removed|deleted|redacted|hidden|withheld|confidential|masked|"
    r"default|dummy|tbd|\u533f\u540d|"
    r"(test[\s^_]*patient|john[\s^_]*doe|doe[\s^_,]*john)|xx+|[-\u2013\u2014._*#?]+|n\.a\.?)[\]>)}]*",
    re.IGNORECASE,
)
_PLACEHOLDER_NUMBER = re.compile(r"0+([-.]0+)*|-1|-9+|9{3,}")
"""Numbers that are placeholders if they are on more images than any other identifier."""


def normalize_identifier(text: str) -> str:
    """Return a key that is equal for all spellings of an identifier.

    Spreadsheets drop leading zeros and turn integers into floats.

    >>> normalize_identifier("0012") == normalize_identifier("12.0"), normalize_identifier(" P-0001' ")
    (True, 'p1')
    >>> normalize_identifier("DOE^JANE") == normalize_identifier("Doe, Jane") == normalize_identifier("Jane Doe")
    True
    """
    if plain := _LETTERS_AND_NUMBER.fullmatch(text):  # the usual case, made fast because there may be millions
        return plain[1].lower() + (plain[2].lstrip("0") or "0")
    text = drop_invisible(text).strip(_AROUND)
    if person := _LAST_FIRST.fullmatch(text):
        text = f"{person['first']} {person['last']}"
    text = _GROUPED.sub(lambda number: re.sub(r"\D", "", number[0]), fold_look_alikes(text))
    key = re.sub(r"(?<=[^\W\d_])[\s_.-]+(?=\d)|(?<=\d)[\s_-]+(?=[^\W\d_])", "", " ".join(text.split()).casefold())
    return plain_numbers(key)


def plain_numbers(text: str) -> str:
    """Return the text without leading zeros of numbers; if it is one number, also without ".0" or ",0" at its end.

    >>> plain_numbers("00012"), plain_numbers("12.0"), plain_numbers("p007_01")
    ('12', '12', 'p7_1')
    """
    return re.sub(r"(?<![\d.])0+(?=\d+(?![\d.]))", "", re.sub(r"(?<=^\d)(\d*)(\.0+|,00?)$", r"\1", text))


def plain_signs(text: str) -> str:
    r"""Return the text without spaces, '_', '-' and invisible characters, and with percent-encoded characters decoded
    and those folded that look alike.

    >>> plain_signs("my%20image_1"), plain_signs("my image-\u200b\u0661")
    ('myimage1', 'myimage1')
    """
    return re.sub(r"[\s_-]+", "", drop_invisible(fold_look_alikes(unquote(text))))


def join_spellings(identifiers: Sequence[str]) -> tuple[TextColumn, list[str]]:
    """Give each identifier its first spelling; return notes if there were several or a spreadsheet rounded some."""
    first, column = dict[str, str](), TextColumn.of(identifiers)
    spelling = {text: first.setdefault(normalize_identifier(text), text) for text in column.texts}
    notes = list[str]()
    if joined := sum(text != kept for text, kept in spelling.items()):
        notes.append(
            f"{plural(joined, 'patient identifier')} joined with another that differs only in case, spaces, the "
            f"order of names, leading zeros, thousands separators, a trailing .0, '-' and '_' next to a number, "
            f"quotes or signs around it, or characters that look alike or are invisible."
        )
    notes += filter(None, [describe_rounding(column)])
    return column.replace(spelling.__getitem__), notes


def blank_placeholders(identifiers: Sequence[str]) -> tuple[TextColumn, list[str]]:
    """Replace placeholders such as "unknown", whose images are not all of one patient, with ""; return a note on them.

    If there are no other identifiers, nothing is replaced: such data are rejected as anonymized.
    """
    column = TextColumn.of(identifiers)
    counts = {text: count for text, count in column.counts().items() if text}
    words = {text for text, count in counts.items() if count > 1 and _PLACEHOLDER_WORD.fullmatch(text)}
    others = max(
        (n for text, n in counts.items() if text not in words and not _PLACEHOLDER_NUMBER.fullmatch(text)), default=0
    )
    words |= {text for text, count in counts.items() if _PLACEHOLDER_NUMBER.fullmatch(text) and count > max(others, 1)}
    if not words or words == counts.keys():
        return column, []
    listed = shorten(f"'{text}' ({counts[text]})" for text in sorted(words))
    note = f"Read as missing patient, because these words and numbers usually mean unknown: {listed}."
    return column.replace(lambda text: "" if text in words else text), [note]


def note_blank(patients: Sequence[str]) -> list[str]:
    """Return a note on images without a patient among others that have one, and on cells that may have been merged."""
    counts = TextColumn.of(patients).counts()
    if not (blank := counts.pop("", 0)) or not counts:
        return []
    note = (
        f"{blank} of {plural(len(patients), 'image')} {'has' if blank == 1 else 'have'} no patient identifier: other "
        f"images of the same patient may be in another split."
    )
    if max(counts.values()) == 1 < len(counts) <= 2 * blank:
        note += (
            " Each identifier is on one image only: if a blank cell means the patient above, as merged cells of a "
            "spreadsheet do, fill in the blank cells."
        )
    return [note]


def note_dates(patients: Sequence[str]) -> list[str]:
    """Return a note if most identifiers of patients are dates."""
    texts = [text for text in distinct(patients) if text][:_LOOKED_AT]
    dates = list(filter(looks_like_date, texts))
    if 2 * len(dates) <= len(texts):
        return []
    return [
        f"Patient identifiers look like dates ({shorten(map(repr, dates), 2)}): different patients with the same date "
        f"are treated as one. If that is wrong, name another column with --patient-col, or give --patient-col none."
    ]


def note_forms(patients: Sequence[str]) -> list[str]:
    """Return notes on identifiers that are of images or visits, such as "P1_pre", of several patients, or alike."""
    counts = TextColumn.of(patients).counts()
    counts.pop("", None)
    alone = {normalize_identifier(text) for text in counts}
    visits, notes = _find_visits(list(counts)[:_LOOKED_AT])
    if several := sum(n for text, n in counts.items() if text not in visits and _names_several(text, alone)):
        notes.append(
            f"{plural(several, 'image')} with a patient identifier that names several, such as P1/P2: it is read as "
            f"one more patient, so images of the same patient are not kept together. Write one identifier into each "
            f"cell."
        )
    numbers = Counter(match[1] for key in alone if (match := _WORD_AND_NUMBER.fullmatch(key)))
    if same := sum(n > 1 for n in numbers.values()):
        notes.append(
            f"{plural(same, 'number')} of patients with and without a word before it, or with different words, such as "
            f"P12 and 12: these are read as different patients. If they are the same, write them alike."
        )
    return notes


def _find_visits(texts: Sequence[str]) -> tuple[set[str], list[str]]:
    """Return the identifiers that add a visit to a patient, and a note on them; none if few do, or no two share one."""
    matches = {text: match for text in texts if (match := _OF_VISIT.fullmatch(text))}
    sizes = Counter(match[1].lower() for match in matches.values())
    sizes.update(text.lower() for text in texts if text.lower() in sizes)  # "12", beside "12b"
    if 2 * sizes.total() <= len(texts):
        return set(), []
    shared = [match for match in matches.values() if sizes[match[1].lower()] > 1]
    are_few = len(sizes) >= _LEAST_KEYS or not any(re.fullmatch(r"\d{1,2}", match[2]) for match in shared)
    if 2 * len(shared) <= len(matches) or not are_few or max(sizes.values()) > MOST_IN_STUDY:
        return set(), []
    ends = shorten(dict.fromkeys(f"'{match[2]}'" for match in shared), 3)
    return {*matches}, [
        f"Patient identifiers may be those of images or visits, because they end in {ends}: images of the same "
        f"patient are then not kept together. If the text before that is the patient ({len(sizes)} instead of "
        f"{sizes.total():,} patients), put it into a separate column and name that with --patient-col."
    ]


def _names_several(text: str, alone: Collection[str]) -> bool:
    """Whether an identifier names several patients: "P1/P2", or "a1/b1" and "1/2" if one of these is a patient alone.

    `alone` are the keys of all identifiers.
    """
    if may_be_thousands(text) or not re.search(r"[-\s/;,|&+]", text):
        return False
    text = re.sub(r"[][(){}'\"]", "", text)
    parts = re.split(r"[/;,|&+]|\band\b", normalize_identifier(re.sub(r"\band\b", "&", text)))
    are_known = len(parts) > 1 and any(normalize_identifier(part) in alone for part in parts)
    return bool(_SEVERAL.fullmatch(text)) or (are_known and all(re.search(r"\d", part) for part in parts))


def name_studies(column: str, cells: Sequence[str], patients: Sequence[str] | None) -> list[str]:
    """Return the studies of N images from the cells of a column with that name.

    Study numbers may restart for each patient, so the patient goes in front of them; UIDs and accession numbers don't.
    """
    owners = None if re.search("uid|accession", column, re.IGNORECASE) else patients
    return [cell and f"{owner} {cell}" for owner, cell in zip(owners or [""] * len(cells), cells, strict=True)]


def key_columns(columns: Mapping[str, Sequence[str]], free: Sequence[str], role: str) -> list[str]:
    """Return the free columns that are named for patients or studies and whose values group rows."""
    return [name for name in free if key_role(name) == role and _groups_rows(columns[name])]


def starts_again(cells: Sequence[str]) -> bool:
    """Whether all cells are small numbers, as if visits were numbered per patient."""
    texts = distinct(cells)
    return all(cell.strip().isdecimal() and len(cell.strip()) < 3 for cell in texts if not is_missing(cell))


def note_origins(columns: Mapping[str, Sequence[str]], free: Sequence[str], patients: Sequence[str]) -> list[str]:
    """Return a note on patient identifiers that occur with several values of a column of origins, such as sites.

    If identifiers restart at each site, two patients become one.
    """
    named = (name for name in free if has_word(name, ORIGIN))
    found = (note_shared_numbers(columns[name], patients, f"'{name}'") for name in named)
    return next(filter(None, found), [])


def note_shared_numbers(origins: Sequence[str], patients: Sequence[str], what: str = "the folder") -> list[str]:
    """Return a note on patient identifiers with several `origins`, by default the folders above the class folders."""
    if not (found := _describe_several(origins, patients, what)):
        return []
    return [
        f"{found}. If identifiers restart for each value, different patients are treated as one: put {what} before the "
        f"identifier, in a column or a pattern for --patient-col."
    ]


def note_folders_of_others(folders: TextColumn, patients: Sequence[str]) -> list[str]:
    """Return a note on the images that are in no folder named for their patient, if twice as many are in one."""
    key_of = {text: normalize_identifier(text) for text in distinct(patients)}
    keys_in = {folder: {*map(normalize_identifier, folder.split("/"))} for folder in folders.texts}
    pairs = [(folder, key_of[patient]) for folder, patient in zip(folders, patients, strict=True) if patient]
    others = [folder for folder, key in pairs if key not in keys_in[folder]]
    if not others or 3 * len(others) > len(pairs):
        return []
    return [
        f"{plural(len(others), 'image')} in no folder named for the patient in the table, as the others are: "
        f"{shorten(dict.fromkeys(others), 2)}. If a patient's own file is missing, this is another patient's image: "
        f"write paths with folders into the table."
    ]


def note_contradictions(values: Sequence[str | None], patients: Sequence[str], what: str) -> list[str]:
    """Return a note on patient identifiers with several `values` of what a patient has only one of, such as the sex."""
    found = _describe_several([value or "" for value in values], patients, what)
    return [f"{found}: cells are wrong, or different patients are treated as one."] if found else []


def _describe_several(values: Sequence[str], patients: Sequence[str], what: str) -> str:
    """Return how many patients occur with several values, as words, or "" if none does."""
    pairs = {(owner, value.strip()) for owner, value in zip(patients, values, strict=True) if owner}
    counts = Counter(owner for owner, value in pairs if not is_missing(value))
    several = sum(count > 1 for count in counts.values())
    occur = f"{plural(len(counts), 'patient')} {'occurs' if several == 1 else 'occur'}"
    return f"{several} of {occur} with several values of {what}" if several else ""


def is_rounded(text: str) -> bool:
    """Whether a number is in scientific notation, with a positive exponent."""
    return _ROUNDED.fullmatch(text) is not None


def describe_rounding(identifiers: Sequence[str]) -> str:
    """Return a warning that a spreadsheet rounded patient identifiers, or ""."""
    rounded = sum(map(is_rounded, distinct(identifiers)))
    text = (
        f"{plural(rounded, 'patient identifier')} in scientific notation, such as 1.0E+05, into which spreadsheets "
        f"round long numbers: different patients may have the same identifier. Export the table again with this "
        f"column as text."
    )
    return text if rounded else ""


def note_keys(columns: Mapping[str, Sequence[str]], unused: Sequence[str], together: Sequence[str]) -> list[str]:
    """Return a note on unused columns whose values repeat like identifiers and are spread over several groups.

    `together` is the group of each row, which stays in one split; "" for a row without a group.
    """
    known = sum(map(bool, together)) > len(together) / 2
    found = [
        name
        for name in unused
        if (key_role(name) == "patient" if known else may_be_key(name) or _looks_like_key(name, columns[name]))
        and _groups_rows(columns[name])
        and _is_divided(columns[name], together)
    ]
    if not found:
        return []
    named = [f"'{name}' ({len(distinct(columns[name]))} values on {len(columns[name])} rows)" for name in found]
    return [
        f"Not used, although their values repeat like identifiers of patients or studies: {shorten(named, 3)}. If "
        f"images with the same value belong together, --patient-col {quoted(found[0])} keeps them in one split."
    ]


def _count_values(cells: Sequence[str]) -> Counter[str]:
    """Count the cells per value, in any spelling, without missing ones."""
    counts = Counter[str]()
    for cell, n in TextColumn.of(cells).counts().items():
        if not is_missing(cell):
            counts[normalize_identifier(cell)] += n
    return counts


def _groups_rows(cells: Sequence[str]) -> bool:
    """Whether there are at least three values, some of them on several rows, and few rows per value on average."""
    counts = _count_values(cells)
    total = counts.total()
    return 2 < len(counts) < total <= _MOST_PER_KEY * len(counts) and not looks_like_flags(cells, words=True)


def _looks_like_key(name: str, cells: Sequence[str]) -> bool:
    """Whether values repeat like identifiers and are no measurements, small or broken numbers, dates or sentences."""
    counts = _count_values(cells)
    total = counts.total()
    return (
        len(counts) >= _LEAST_KEYS
        and 3 * len(counts) <= 2 * total
        and max(counts.values()) <= _MOST_PER_KEY
        and 2 * sum(count for count in counts.values() if count > 1) >= total
        and max(map(len, counts)) <= _LONGEST_KEY
        and not any(map(_NUMBER_OR_DATE.fullmatch, counts))
        and not (has_word(name, MEASURED) and any(map(str.isdigit, counts)))
    )


def _is_divided(cells: Sequence[str], together: Sequence[str]) -> bool:
    """Whether some value is on rows of several groups; each row without a group counts as a group of its own."""
    values = TextColumn.of(cells).replace(str.strip)
    owners = TextColumn.of(together)
    alone = owners.map_array(lambda owner: not owner, np.bool_)
    groups = np.where(alone, len(owners.texts) + np.arange(len(alone)), owners.codes)
    missing = values.map_array(is_missing, np.bool_)
    pairs = np.unique(np.stack([values.codes[~missing].astype(np.int64), groups[~missing]]), axis=1)
    return bool((np.bincount(pairs[0]) > 1).any())
