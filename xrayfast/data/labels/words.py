"""Words in cells and folder names that mean a missing or an uncertain label, no findings, or a copy.

The patterns match keys of `names.normalize_label`, except those for uncertain labels, copies and columns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache

from xrayfast.data.folder_words import DOUBTFUL, LEFT_OUT
from xrayfast.data.foreign_words import foreign_meaning
from xrayfast.data.labels.names import normalize_label

_LONGEST_WORD = 24  # letters of a word for a missing label

_TWO_DIGITS = re.compile(r"\d\d")

_UNLABELED = re.compile(
    r"un(label(l?ed)|known|sure|certain|clear|classified|annotated|reported|determined|specified|assigned|reviewed|rated)|"
    r"(not|no|never)(label(l?ed)?s?|annotated|reported|specified|available|applicable|known|sure|assessed|determined|done)|"
    r"tbd|tba|tobe(determined|label(l?ed)|done|confirmed|reviewed)|tolabel|todo|(pending|awaiting)(report|review)?|missing|"
    r"maybe|(for|to|needs?)?review|illegible|see(comments?|notes?|report)"
)
"""Cells and folders whose images have no label yet."""

_EMPTY = re.compile(
    r"|na|nan|-nan|nat|null|none|\\n|n[/.]a|n[/.]k|unk|undefined|undef|blank|empty|"
    r"(ref|value|div/0|name|null|num|spill|calc|field|blocked|unknown|connect|busy|error|n/a|na)[!?]|"
    r"#[\u00a1\u00bf]?[^\W\d][\w/]*[!?]|#[^\W\d]/[^\W\d]|#(na|nv|yok|brak|gettingdata)|loading|err:\d{3}|n/a\(.*\)|x{2,}|"
    r"[-\u2010-\u2015\u2212._~*?/\\\u2026]+"
)
"""Texts that stand for an empty cell in pandas.read_csv, in spreadsheets and in people's tables."""

_SURENESS = (
    r"(?:is )?(?:poss(?:ibl[ey]|\.)?|prob(?:abl[ey]|\.)?)|likely|presumed|suspect(?:ed)?|susp\.?|questionable|"
    "equivocal|un(?:certain|sure)|query"
)

_UNCERTAIN = (
    re.compile(
        rf"(?:{_SURENESS}|suspicio(?:n|us)[\s_-]+(?:of|for)|(?:concern(?:ing)?|evaluate|eval)[\s_-]+for|r[\s_]?[/.][\s_]?o\.?|"
        r"rule[\s_-]*out|(?:cannot|can't|can[\s_]not)[\s_-]+(?:exclude|rule[\s_-]out)|"
        r"(?:could|may|might)[\s_-]+(?:be|represent))[\s_:-]+(?P<label>.+)",
        re.IGNORECASE,
    ),
    re.compile(r"(?:~|\u00b1|\+/-)\s*(?P<label>.+)"),
    re.compile(r"\?+\s*(?P<label>.*\w.*)"),
    re.compile(
        rf"(?P<label>.+?)(?:\s*(?:\?+|\u00b1|\+/-)|\s*[(\[](?:\?+|{_SURENESS})[)\]]|"
        rf"[\s_,:-]+(?:{_SURENESS}|can(?:no|')t be (?:excluded|ruled out)))",
        re.IGNORECASE,
    ),
)
"""Labels that are not certain, such as "pneumonia?", "r/o pneumonia" and "pneumonia (possible)"."""

_QUESTION = re.compile(r"\s*(\u00bf|(do|does|is|are|was|were|has|have)\b).*\?\s*", re.IGNORECASE)
"""A question, as forms have it in the name of a column."""

_UNUSABLE = re.compile(
    rf"{LEFT_OUT.pattern}|(un|non|not)-?(usable|gradable|readable|interpretable|diagnostic|assessable)|invalid|retake|"
    r"(can'?t|cannot)(tell|say|read|grade|assess|interpret)|(bad|poor|low|insufficient)(image|quality|film|scan)+|do(no|n')tuse"
)
"""Labels and cells that say that an image is not to be used."""

_UNDECIDED = re.compile("indeterminate|equivocal|inconclusive|borderline|doubtful|suspicious")

_DATE = re.compile(
    r"\d{1,2}[-./ ](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*([-./ ]\d{2,4})?|"
    r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[-./ ]\d{2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|"
    r"\d{4}[-./]\d{1,2}[-./]\d{1,2}([ T][\d:.]+)?|(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])",
    re.IGNORECASE,
)

_COPY = r"(?:copy|kopie|copie|copia)"

_COPIES = (
    re.compile(rf"{_COPY}\s*(?:\(\d+\))?[\s_]+(?:of|von|de|di)[\s_]+(?P<label>.+)", re.IGNORECASE),
    re.compile(rf"(?P<label>.+?)[\s_-]+{_COPY}(?:[\s_-]*\(?\d+\)?)?", re.IGNORECASE),
    re.compile(rf"(?P<label>.+?)\s*\((?:\d+|(?:another |\d+(?:st|nd|rd|th) )?{_COPY}(?: \d+)?)\)", re.IGNORECASE),
    re.compile(r"(?P<label>.*[^\W\d])\.\d{1,2}"),
)
"""Names of copies, as file managers and pandas make them: "Copy of mass", "mass (1)", "mass.1"."""

_OF_COLUMNS = (
    re.compile(r"(?:has|is|y|label)[\s_-]+(?P<label>.+)", re.IGNORECASE),
    re.compile(r"(?P<label>.+?)[\s_-]+(?:present|label|flag|yn|binary|gt|truth|true)", re.IGNORECASE),
)
"""Names of columns that consist of a label and a word that adds nothing, such as "has_mass" and "mass_gt"."""

_NORMAL = re.compile(
    r"(looks|appears|within)?(normal|healthy|clear|unremarkable)(limits?|study|exam(ination)?|film|image|scan|appearance|"
    r"subject|chest|cxr|x?-?ray|radiograph|lungs?(fields?)?)?|lungs?(fields?)?(are)?(clear|normal)|chest(is)?(clear|normal)|"
    r"negative|wnl|nad|nf|nfs|nsf|control|unaffected|(none|nothing)(found|seen|detected|abnormal|ofnote|acute)?|"
    r"(no|without)(acute|active|significant|focal|obvious|evidenceof|other)*(cardiopulmonary|pulmonary|cardiac|lung|chest|"
    r"thoracic)*(findings?|abnormalit(y|ies)|abnormal|disease|patholog(y|ies)|process|lesions?|change)(found|seen|detected)?"
)
"""Labels that say "No Finding" in other words."""


@lru_cache(maxsize=1 << 14)
def _is_empty_word(text: str) -> bool:
    key = normalize_label(text)
    return bool(_EMPTY.fullmatch(key) or _UNLABELED.fullmatch(key)) or foreign_meaning(text) == "missing"


def is_missing(cell: str, known: Collection[str] = ()) -> bool:
    """Whether a cell has no label: it is blank, or a word such as "nan" that is no spelling of a known label."""
    text = cell.strip()
    # Decided early: a cell with two digits in a row is a number or an identifier, and a table may have millions.
    if len(text) > _LONGEST_WORD or (_TWO_DIGITS.search(text) and not text.lower().startswith("err:")):
        return False
    return not text or (_is_empty_word(text) and not _is_known(text, known))


def _is_known(name: str, known: Collection[str]) -> bool:
    return bool(known) and (name in known or normalize_label(name) in map(normalize_label, known))


def looks_like_date(text: str) -> bool:
    """Whether a text is a date, also one into which spreadsheets convert texts such as 1-2.

    >>> [looks_like_date(text) for text in ("2-Jan", "2020-01-05", "20200105", "20200199")]
    [True, True, True, False]
    """
    return bool(_DATE.fullmatch(text.strip()))


def find_unlabeled(folders: Iterable[str], known: Collection[str] = ()) -> list[str]:
    """Return the folder names that mean images without a label or not to be used, except spellings of known labels."""

    def says_so(name: str) -> bool:
        key = _class_key(name)
        says = _UNLABELED.fullmatch(key) or LEFT_OUT.fullmatch(key) or foreign_meaning(name) == "missing"
        return bool(says) and not _is_known(name, known)

    return list(filter(says_so, folders))


def may_be_no_class(folder: str) -> bool:
    """Whether the name of a folder says that it has copies, images of any class, or images without a label."""
    return is_missing(folder) or bool(DOUBTFUL.fullmatch(_class_key(folder)))


def _class_key(folder: str) -> str:
    """Return the key of a folder's name without a leading number and trailing words for images."""
    about = r"^[\d\W_]+(?=\w)|[\s_-]+(images?|imgs?|data|files|cases|folder)$"
    return normalize_label(re.sub(about, "", folder.lower()))


def uncertain_label(name: str) -> str:
    """Return the label that a name calls uncertain, such as "pneumonia" for "r/o pneumonia"; "" if there is none.

    >>> uncertain_label("pneumonia?"), uncertain_label("Possible_Mass"), uncertain_label("unlikely mass")
    ('pneumonia', 'Mass', '')
    """
    found = next(filter(None, (pattern.fullmatch(name.strip()) for pattern in _UNCERTAIN)), None)
    return found["label"].strip() if found and not _QUESTION.fullmatch(name) else ""


def is_unusable(text: str) -> bool:
    """Whether a label or a cell says that an image is not to be used.

    >>> [is_unusable(text) for text in ("Skip", "can't tell", "poor quality", "poor inspiration")]
    [True, True, True, False]
    """
    return bool(_UNUSABLE.fullmatch(normalize_label(text)))


def is_undecided(name: str) -> bool:
    """Whether a label says that the reader did not decide, as "indeterminate" does."""
    return bool(_UNDECIDED.fullmatch(normalize_label(name)))


def copied_label(name: str) -> str:
    """Return the name that `name` is a copy of, such as "normal" for "normal - Copy (2)"; "" if it is no copy.

    >>> copied_label("Copy of normal"), copied_label("normal (1)"), copied_label("stage 1.2")
    ('normal', 'normal', '')
    """
    found = next(filter(None, (pattern.fullmatch(name.strip()) for pattern in _COPIES)), None)
    return (copied_label(found["label"]) or found["label"].strip()) if found else ""


def plain_label(name: str) -> str:
    """Return the label in the name of a copy or of a column, such as "has_mass"; "" if `name` is neither.

    >>> plain_label("has_mass"), plain_label("Mass_gt"), plain_label("Mass - Copy")
    ('mass', 'Mass', 'Mass')
    """
    found = next(filter(None, (pattern.fullmatch(name.strip()) for pattern in _OF_COLUMNS)), None)
    return copied_label(name) or (found["label"] if found else "")


def denies(key: str, other: str) -> bool:
    """Whether a label says that another is absent, as "no mass" does of "mass"; both are keys of `normalize_label`."""
    before = ("no", "non", "not", "without", "absent", "absenceof", "negativefor", "noevidenceof", "freeof", "w/o")
    return key in (*(word + other for word in before), *(other + word for word in ("absent", "negative", "excluded")))


def is_normal(label: str) -> bool:
    """Whether a label says that there are no findings, as "normal" does."""
    return bool(_NORMAL.fullmatch(normalize_label(label))) or foreign_meaning(label) == "normal"
