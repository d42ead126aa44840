"""Label names: which are allowed, which are equal, and their order."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterable
from decimal import Context
from typing import TypeAlias
from urllib.parse import unquote

from xrayfast.errors import LONGEST_NAME, DataError, truncate

LabelSet: TypeAlias = tuple[str, ...]

LABEL_JOIN = "|"
"""Joins the labels of one image in the tables that xrayfast writes."""

NO_FINDING = "No Finding"
"""In multi-label tables: none of the labels applies."""

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_PAIRS = ("''", '""', "``", "\u2018\u2019", "\u201c\u201d", "\u00ab\u00bb", "[]", "()", "{}", "<>")
_CONSTRUCTOR = re.compile(
    r"(?:(?:np|numpy|torch)\.\w+|tensor|array|Index|Categorical|(?:Pure)?(?:Posix|Windows)?Path|(?:frozen)?set)"
    r"\((.+?)(?:,\s*(?:dtype|device|name)=[^()]*)?\)",
    re.DOTALL,
)
"""A value as Python, NumPy, pandas and PyTorch print it; the first group is the value itself."""

_PERCENT, _BACKSLASH_U = re.compile(r"%[0-9A-Fa-f]{2}"), re.compile(r"\\u([0-9a-fA-F]{4})")
_CYRILLIC_AND_GREEK = (
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
)
_LATIN = "ABEKMHOPCTYXIABEZHIKNOPTYX"
_LOOK_ALIKE = str.maketrans(
    _CYRILLIC_AND_GREEK + _CYRILLIC_AND_GREEK.lower() + "\u2018\u2019\u02bc", _LATIN + _LATIN.lower() + "'''"
)
"""Apostrophes, and letters whose capitals look like Latin ones. Small letters go with their capitals, so that case does
not matter. Greek mu is left out, because it stands for micro."""

_SEPARATORS = r"[\s_\-\u2010-\u2015\u2212]+"

_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d{1,2})?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")
"""Numbers whose commas may separate thousands, or be a decimal comma."""


def clean_label(text: str) -> str:
    """Return the label without surrounding spaces.

    Raises:
        DataError: it is empty, longer than `LONGEST_NAME`, or contains '|', which joins labels in the tables of a run.
    """
    label = text.strip()
    if not drop_invisible(label):
        raise DataError("found an empty label; expected a name.")
    if len(label) > LONGEST_NAME:
        start = truncate(label, 60)
        raise DataError(f"found a label of {len(label):,} characters, '{start}'; expected at most {LONGEST_NAME}.")
    if LABEL_JOIN in label:
        raise DataError(f"found the label '{label}'; expected a name without '{LABEL_JOIN}', which joins labels.")
    return label


def drop_invisible(text: str) -> str:
    """Return the text without surrounding spaces and invisible characters, such as soft hyphens."""
    return _INVISIBLE.sub("", text).strip()


def normalize_label(name: str) -> str:
    """Return the key of a label; all of its spellings have the same key, wherever labels are read or compared.

    The key does not depend on case, wrong encoding, Unicode form, script of digits and of letters that look alike,
    invisible characters, surrounding quotes or brackets, and punctuation at the end. It has no spaces, underscores and
    hyphens, except a hyphen that is not between letters or digits ("covid-", "-1") and one between two digits ("1-2" is
    not "12"). Numbers within a name lose leading zeros and decimals that are all zero. A name that is a number is
    compared by value, with a decimal point or comma, unless its commas may separate thousands.

    >>> normalize_label("Pleural_Thickening") == normalize_label("['pleural-thickening']")
    True
    >>> [normalize_label(text) for text in ("1.50", "+1,5", "15e-1", "-1.0", "1,500")]
    ['1.5', '1.5', '1.5', '-1', '1,500']
    """
    text = fold_look_alikes(drop_invisible(repair_encoding(_decode_escapes(name)))).strip()
    while (inner := _unwrap(text)) != text:
        text = inner
    text = re.sub(r"[.,;:\s]+$", "", text) or text
    if may_be_thousands(text):
        return text
    if len(text) <= LONGEST_NAME and _NUMBER.fullmatch(text):
        exact = Context(prec=LONGEST_NAME)
        return format(exact.plus(exact.normalize(exact.create_decimal(text.replace(",", ".")))), "f")
    text = re.sub(r"(?<![\d.,])0+(?=\d)", "", text)
    text = re.sub(r"(?<![\d.,])(\d+)(?:\.0+|,00?)(?![\d.,])", r"\1", text)
    text = re.sub(rf"(?<=\d){_SEPARATORS}(?=\d)", "-", text)
    text = re.sub(rf"(?<=[^\W_]){_SEPARATORS}(?=[^\W\d_])|(?<=[^\W\d_]){_SEPARATORS}(?=[^\W_])", "", text)
    return (re.sub(r"[\s_]+", "", text) or text).casefold()


def fold_look_alikes(text: str) -> str:
    r"""Return the text in NFKC, with Latin letters for those that look alike, and the digits of other scripts as
    0 to 9.

    >>> fold_look_alikes("\u0421\u0422 \u0661\u0662"), fold_look_alikes("\uff23\uff34 1")
    ('CT 12', 'CT 1')
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text).translate(_LOOK_ALIKE)
    return "".join(str(unicodedata.decimal(sign, sign)) for sign in text)


def repair_encoding(text: str) -> str:
    r"""Return the original text if it was written in UTF-8 and read in another encoding, once or twice.

    >>> repair_encoding("Neumon\xc3\xada"), repair_encoding("p\xe9n\xe9tration")
    ('Neumon\xeda', 'p\xe9n\xe9tration')
    """
    for _ in range(0 if text.isascii() else 2):
        for encoding in ("cp1252", "latin-1"):
            with contextlib.suppress(UnicodeError):
                text = text.encode(encoding).decode()
                break
    return text


def is_number(name: str) -> bool:
    """Whether a label is a number; numbers are compared by value."""
    return bool(_NUMBER.fullmatch(name.strip()))


def may_be_thousands(name: str) -> bool:
    """Whether the commas of a number may separate thousands or be a decimal comma: "1,000" is 1000 or 1."""
    return bool(_THOUSANDS.fullmatch(name.strip()))


def plain_spelling(name: str) -> str:
    r"""Return the name in NFKC, with its encoding repaired, without surrounding quotes or brackets and invisible
    characters.

    >>> plain_spelling("'pleural\xa0effusion'")
    'pleural effusion'
    """
    return unicodedata.normalize("NFKC", _unwrap(drop_invisible(repair_encoding(_decode_escapes(name)))))


def drop_constructor(text: str) -> str:
    """Return the value in a text that NumPy, pandas, PyTorch or Python printed with its type.

    >>> drop_constructor("np.str_('mass')"), drop_constructor("b'mass'"), drop_constructor("array(['a'], dtype=object)")
    ("'mass'", "'mass'", "['a']")
    """
    if text in ("set()", "frozenset()"):
        return "()"
    if match := _CONSTRUCTOR.fullmatch(text):
        return match[1].strip()
    return text[1:] if re.fullmatch(r"b(['\"]).*\1", text) else text


def _decode_escapes(text: str) -> str:
    r"""Return the text with the escapes of URLs and JSON, such as "%20" and "\u00e9", replaced by their characters."""
    text = unquote(text) if _PERCENT.search(text) else text
    return _BACKSLASH_U.sub(lambda code: chr(int(code[1], 16)), text) if "\\u" in text else text


def _unwrap(text: str) -> str:
    """Return the text without its type, see `drop_constructor`, and a pair of quotes or brackets around all of it."""
    text = drop_constructor(text)
    if text[:1] + text[-1:] in _PAIRS and len(text) > 2 and not {text[0], text[-1]} & set(text[1:-1]):
        return text[1:-1].strip()
    return text


def find_spelling(name: str, known: Iterable[str]) -> str | None:
    """Return the known label of which a name is a spelling; None if there is none, or more than one."""
    listed = list(known)
    if name in listed:
        return name
    key = normalize_label(name)
    found = list(dict.fromkeys(label for label in listed if normalize_label(label) == key))
    return found[0] if len(found) == 1 else None


def is_no_finding(label: str) -> bool:
    """Whether the label is "No Finding", in any spelling."""
    return normalize_label(label) == normalize_label(NO_FINDING)


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels sorted by name, ignoring case, numbers by value: the order of labels everywhere.

    >>> sort_labels(["grade 10", "Grade 2", "normal"])
    ['Grade 2', 'grade 10', 'normal']
    """
    return sorted(set(labels), key=_natural)


def _natural(label: str) -> tuple[list[tuple[int, int, str]], str]:
    pieces = filter(None, re.split(r"([0-9]+)", label.casefold()))
    numbers = [(piece, piece.lstrip("0")) for piece in pieces]  # not int(piece): at most 4,300 digits
    return [(0, len(n), n) if piece.isdecimal() else (1, 0, piece) for piece, n in numbers], label


def parse_delimited(text: str, delim: str) -> LabelSet:
    """Return the distinct labels of a delimited text, in its order."""
    return tuple(dict.fromkeys(clean_label(label) for label in text.split(delim)))


def parse_folder_name(name: str) -> LabelSet:
    """Return the labels in the name of a class folder, which joins them with '+'.

    >>> parse_folder_name("covid-19+pneumonia")
    ('covid-19', 'pneumonia')
    """
    try:
        return parse_delimited(name, "+")
    except DataError as error:
        raise DataError(f"class folder '{name}': {error} Rename the folder.") from error
