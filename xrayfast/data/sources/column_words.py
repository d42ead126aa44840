"""What a column's name says about its cells: words for files, labels, splits, patients and non-label columns."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from xrayfast.data.demographics import sex_in_name
from xrayfast.data.foreign_words import fold_letters, stem_of_split
from xrayfast.data.splits.words import parse_split, parse_split_flag

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "path": ("image", "file", "filename", "path", "imagepath", "filepath", "imageindex", "imageid", "imagename"),
    "labels": ("labels", "label", "findinglabels", "findings", "finding", "class", "diagnosis", "target", "classname"),
    "split": ("split", "set", "subset", "partition"),
    "patient": (
        *(f"{who}{end}" for who in ("patient", "subject", "person", "participant") for end in ("", "id")),
        "mrn",
        "pid",
    ),
    "study": (
        "study",
        "studyid",
        "studyuid",
        "studyinstanceuid",
        "accession",
        "accessionnumber",
        "exam",
        "examid",
        "seriesinstanceuid",
        "seriesuid",
    ),
    "sex": (
        *("sex", "gender", "patientsex", "patientgender", "patientsexdicom"),
        *("sexo", "sexe", "sesso", "geschlecht", "geslacht", "cinsiyet"),
    ),
    "age": ("age", "patientage"),
    "view": (
        "view",
        "projection",
        "viewposition",
        "appa",
        "viewpositiondicom",
        "frontallateral",
        "projektion",
        "incidence",
    ),
}
"""The usual column names per role, preferred first, in lower case and reduced to letters and digits."""

FOLDS = re.compile(r"(cv|k)?folds?(id|no|nr|number|idx|index)?")

_NUMBERED = (
    r"(identifier|u?u?id|no|nr|num|number|key|code|hash|index|idx|instance|unique|anon(ymi[sz]ed)?|new|old"
    r"|nummer|numero|codigo|de|del|do|du|n|编号|号|番号|번호|номер"
)
"""Start of a regular expression for words that appear next to the word for an identifier, such as "id" or "number"."""

_KEYS = {
    "patient": re.compile(
        rf"{_NUMBERED}|medical|hospital|dicom)*(patient|pat|pt|subject|subj|person|participant|individual|proband|donor|"
        rf"member|case|mrn|record|chart|hn|nhs|chi|ssn|paciente|patienten?|pazient[ei]|pacjent|hasta|病人|患者|환자"
        rf"|пациент){_NUMBERED}|name)*"
    ),
    "study": re.compile(
        rf"{_NUMBERED}|dicom)*(study|exam|examination|accession|visit|encounter|series|session|episode|admission|acquisition|"
        rf"scan|untersuchung|estudio|esame|检查|検査){_NUMBERED})*"
    ),
}
"""Names of identifier columns, as `fold_letters` returns them, by what they identify; see also `USUAL_NAMES`."""

_MOST_SPLITS = 8  # distinct values in a column of splits
_MOST_FOLDERS = 64  # distinct folders in a column of paths that may tell splits

_TELLS_SPLIT = re.compile(r"splits?|splitting|partitions?|subsets?|holdout|heldout|tvt|ttv")
_SPLIT_CELL = re.compile(
    r"eval(uation)?|fit|derivation|discovery|(in|ex)ternal|inference|tr|te|ts|va|public.*|private.*|(un)?seen"
)
_PUBLIC_PRIVATE = ({"public", "private"}, {"public", "private", "ignored"})  # the parts of Kaggle's test split
_OWNERSHIP = re.compile(r"insur(ance|ed|er)|pay(er|or|ment)|funding|sector|ownership|owner|access|licen[cs]e|type|care")
_MAY_TELL_SPLIT = re.compile(
    r"((in|ex)ternal(test|validation|data)?|(data)?set|cohort|phase|stage|usage|purpose|role|mode|fold|eval(uation)?)"
    r"(type|name|label|id|code|no|flag)?|(not?|non)(in)?(train(ing)?|test(ing)?|val(idation)?)|(un)?seen"
    r"|(train(ing)?|test(ing)?|val(id|idation)?|holdout)(fold|part|sample|portion|member|membership)"
)


_ANY_IMAGE = r"is|was|has|not?|of|the|image|img|film|scan|x|ray|xray|cxr|study|exam|file|data|label|patient|flag"

_COUNTED = r"findings?|labels?|diseases?|images?|views?"

_NOT_LABELS: tuple[tuple[str, str, str], ...] = (
    (
        "an identifier or a count",
        rf"{FOLDS.pattern}\d*|id|index|idx|unnamed|(n|num|number|nr|count|total)(of)?({_COUNTED})?",
        rf"\d+|of|{_COUNTED}",
    ),
    ("the view", r"frontal|lateral|ap|pa|portable|supine|erect|upright|bedside|mobile", r"is|view|position|image"),
    (
        "a prediction",
        r"y?pred(s|icted|ictions?)?|y?prob(s|as?|ability|abilities)?|y?scores?|logits?|ai|model|conf(idences?)?|sigmoid|softmax",
        "",
    ),
    (
        "the quality of images or what was done with them",
        r"quality|qc|qa|ok|okay|valid|invalid|usable|unusable|readable|unreadable|good|bad|poor|accept(ed)?|reject(ed)?|"
        r"include[d]?|exclude[d]?|inclusion|exclusion|keep|drop|discard(ed)?|use[d]?|skip(ped)?|reviewed|verified|checked|"
        r"validated|duplicated?|corrupt(ed)?|blurr(y|ed)|cropped|inverted|rotated|flipped|augmented|synthetic|"
        r"label(l?ed)|annotated|segmented|available|exists?|downloaded|complete[d]?|done|masks?|bbox(es)?|boxes|reports?",
        _ANY_IMAGE,
    ),
    (
        "what is known of a label",
        r"masks?|bbox(es)?|box(es)?|seg|segmentations?|contours?|uncertain(ty)?|votes?|agreement|correct|errors?|weights?",
        "",
    ),
)
"""What 0/1 columns hold that are not used as labels unless the user names them; a word of their names; and the words
that may be beside it. If these are "", any may be, but it must be the first or last word."""

MEASURED = re.compile(
    r"weight|height|size|width|length|area|distance|spacing|x|y|w|h|x?m(in|ax)|kvp?|mas|exposure|dose|sid|temp(erature)?|"
    r"spo2|sao2|pao2|bp|hr|pulse|rate|time|days?|weeks?|months?|years?|dates?|hours?|visits?|count|number|level|index|"
    r"score|lat(itude)?|lon(gitude)?|rows?|columns?|bits?|pixels?|mean|std|sd|ratio|percentile"
)
"""Words in the name of a numeric column that mean its numbers are measurements, not scores of a label."""

_GRADED = re.compile(r"severity|grad(e|ing)|scores?|level|stag(e|ing)|likert|rale|brixia")
"""Words in the name of a column with few distinct integers that mean they are grades."""

BOX = re.compile(
    r"(bbox|box)?([xy](min|max|[0-4]|center)?|(min|max|center)[xy]|w|h|width|height|left|top|right|bottom)|bbox|boxes"
)

ORIGIN = re.compile(
    r"hospital|site|cent(er|re)|clinic|institut(e|ion)|source|data(set|base)|db|collection|country|origin"
)

READER = re.compile(r"reader\d*|rater\d*|annotator\d*|radiologist\d*|r\d|labell?er\d*|chexpert|chexbert|negbio")

DOUBTFUL = re.compile(
    r"diabet(es|ic)|smok(er|ing|ed)|alcohol|obes(e|ity)|hypertensi(on|ve)|pregnan(t|cy)|hiv|vaccinated|fever|cough|"
    r"dyspno?ea|a?symptom(s|atic)|(rt)?pcr|comorbidity|deceased|dead|died|death|alive|surviv(al|ed|or)|mortality|icu|"
    r"intubat(ed|ion)|ventilat(ed|or|ion)|inpatient|outpatient|emergency|hospitali[sz](ed|ation)|(re)?admi(tted|ssion)|"
    r"discharged?|followup|baseline|treat(ed|ment)|surgery|race|ethnicity|white|black|asian|hispanic|insured|married|"
    r"m|f|hospital|site|cent(er|re)|clinic|ward|device|scanner|vendor|manufacturer|year|month|date|season|shift|night|"
    r"priority|urgent|bmi|age|weekend|batch|source|dataset|cohort|group|obese|overweight|"
    r"adult|child|p(a)?ediatric|elderly|" + READER.pattern
)
"""Words in a column name that may stand for a patient's sex, history or outcome, the images' origin, or one reader."""


LEFT_OUT = re.compile(
    r"(is|to|image|film|study)*((in|ex)clude[ds]?|(in|ex)clusion|keep|kept|drop(ped)?|removed?|discard(ed)?|reject(ed)?|bad|"
    r"skip(ped)?|ignored?|(un)?usable|(in)?valid|corrupt(ed)?|duplicated?|q[ac]|ausschluss|ausgeschlossen|excluir|exclu(re)?|"
    r"(bad|poor)?quality)(image|film|study|flag|yn|yesno|01|status|reason|check|passed|pass|ok)*"
)
"""Simplified name of a column that says which images not to use."""


BIRTH = re.compile(r"dob|yob|.*birth(day|date|year)|.*(date|year|day)ofbirth|geburts(datum|jahr)")

MODALITY = re.compile(r"(imag(e|ing)|study|series|exam|dicom|scan)?modality(dicom|code|type)?")
BODY_PART = re.compile(
    r".*(body|anatom)\w*|(study|series|exam(ination)?|procedure|protocol)(description|name)?|region|organ"
)
RADIOGRAPHY = re.compile(r"\b(cr|dr|dx|xr|rg|px|cxr)s?\b|x[-_ ]?ray|r(o|ö|oe)ntgen|radiogra|film", re.IGNORECASE)


def simplify_column_name(name: str) -> str:
    """Return the letters and digits of a name in lower case, as in `USUAL_NAMES`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def split_column_name(name: str) -> list[str]:
    """Return the words of a name in lower case, split at non-alphanumeric characters and at changes of case.

    >>> split_column_name("isValid_image2"), split_column_name("MASS (prob)")
    (['is', 'valid', 'image2'], ['mass', 'prob'])
    """
    return re.findall(r"[^\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())


def usual_columns(columns: Iterable[str], role: str) -> list[str]:
    """Return the columns that have one of a role's usual names, preferred first.

    >>> usual_columns(["AP/PA", "Patient ID", "Frontal/Lateral"], "view")
    ['AP/PA', 'Frontal/Lateral']
    """
    names = {simplify_column_name(name): name for name in reversed(list(columns))}
    return [names[name] for name in USUAL_NAMES[role] if name in names]


def is_called(name: str, pattern: re.Pattern[str]) -> bool:
    """Whether a whole name, simplified, matches one of the patterns above.

    >>> is_called("is_excluded", LEFT_OUT), is_called("Image quality", LEFT_OUT), is_called("Effusion", LEFT_OUT)
    (True, True, False)
    """
    return pattern.fullmatch(simplify_column_name(name)) is not None


def has_word(name: str, pattern: re.Pattern[str]) -> bool:
    """Whether a word of a name matches one of the patterns above."""
    return any(map(pattern.fullmatch, split_column_name(name)))


def is_first_choice(name: str) -> bool:
    """Whether a label column's name is unambiguous, so that it takes precedence over names such as "diagnosis"."""
    return simplify_column_name(name) in ("labels", "label", "findinglabels")


def tells_split(name: str) -> bool:
    """Whether a column's name says that it holds splits, in any wording: "data_split", "tvt", "train/test"."""
    return has_word(name, _TELLS_SPLIT) or sum(map(bool, map(parse_split, split_column_name(name)))) > 1


def may_tell_split(name: str) -> bool:
    """Whether a column's name says that it holds splits, or is ambiguous: "cohort", "Stage", "exclude_from_train"."""
    says_train = "train" in map(parse_split, split_column_name(name))
    return says_train or tells_split(name) or is_called(name, _MAY_TELL_SPLIT)


def sounds_like_split(cell: str) -> bool:
    """Whether a cell of a column that may hold splits names a split, in any wording."""
    return bool(parse_split(cell) or stem_of_split(cell) or _SPLIT_CELL.fullmatch(cell.strip().lower()))


def sound_like_splits(cells: Collection[str]) -> bool:
    """Whether few distinct cells, or folders of paths in them, have words of train and of another split.

    Examples are "jeu de test", "uczący zbiór" and "old/train/1.png".
    """
    if len(cells) > _MOST_SPLITS:
        if not any(re.search(r"[/\\]", cell) for cell in islice(cells, _MOST_FOLDERS)):  # of millions, not all
            return False
        cells = {cell.replace("\\", "/").rpartition("/")[0] for cell in cells}
        if len(cells) > _MOST_FOLDERS:
            return False
    stems = set(map(stem_of_split, cells))
    return "train" in stems and len(stems - {""}) > 1


def are_public_and_private(name: str, cells: Collection[str]) -> bool:
    """Whether a column holds the two parts of a competition's test split, and not who owns a hospital or pays.

    >>> are_public_and_private("lb", ["Public", "Private"]), are_public_and_private("insurance", ["public", "private"])
    (True, False)
    """
    if len(cells) > max(map(len, _PUBLIC_PRIVATE)) + 1 or has_word(name, ORIGIN):
        return False
    found = {cell.strip().lower() for cell in cells} - {""}
    return found in _PUBLIC_PRIVATE and not has_word(name, _OWNERSHIP)


def key_role(name: str) -> str:
    """Return what a column identifies according to its name: "patient", "study", or "" for neither.

    >>> key_role("Case"), key_role("pat_no"), key_role("PatientName"), key_role("visit_id"), key_role("patient_age")
    ('patient', 'patient', 'patient', 'study', '')
    """
    key = fold_letters(name)
    return next((role for role, names in _KEYS.items() if names.fullmatch(key) or key in USUAL_NAMES[role]), "")


def may_be_key(name: str) -> bool:
    """Whether a column's name suggests an identifier that several images may share."""
    *_, last = "", *split_column_name(name)
    ends = r"\w*(id|identifier|key|no|nr|n[uú]m(mer|ber|ero)|folder|directory)"
    return bool(key_role(name) or re.fullmatch(ends, last) or is_called(name, BIRTH))


def describe_no_label(name: str) -> str:
    """Return what a 0/1 column holds if its name says it is not a label ("the sex", "a prediction", ...); else ""."""
    if parse_split(name) or parse_split_flag(name) or may_tell_split(name):
        return "the split"
    if sex_in_name(name):
        return "the sex"
    words = split_column_name(name)
    for what, word, others in _NOT_LABELS:
        telling = words if others else (*words[:1], *words[-1:])
        is_told = any(re.fullmatch(word, one) for one in telling)
        if is_told and all(re.fullmatch(f"{word}|{others or '.*'}", one) for one in words):
            return what
    return ""


def is_measured(name: str, no_label: str) -> bool:
    """Whether the name of a numeric column suggests that it holds something other than scores of a label."""
    return bool(no_label) or has_word(name, DOUBTFUL) or has_word(name, MEASURED)


def may_be_grade(name: str, no_label: str) -> bool:
    """Whether the name of a column with few distinct integers suggests that it holds grades of a label."""
    return has_word(name, _GRADED) or not is_measured(name, no_label)
