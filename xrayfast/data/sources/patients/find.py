"""Find the patient and study of each image from columns, file names or DICOM headers, and give them pseudonyms."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from xrayfast.config import DataConfig
from xrayfast.data.arrays import Places
from xrayfast.data.demographics import parse_sexes, parse_views
from xrayfast.data.images.names import AUGMENTED, ORIGINAL, image_beside, split_words
from xrayfast.data.images.reader import IMAGE_SUFFIXES
from xrayfast.data.sources.column_words import tells_birth
from xrayfast.data.sources.datasets import registry
from xrayfast.data.sources.identifiers import (
    blank_placeholders,
    join_spellings,
    normalize_identifier,
    note_blank,
    note_contradictions,
    note_dates,
    note_forms,
    note_keys,
)
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.splits.words import parse_split
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import ConfigError, DataError, ReadError, plural, shorten
from xrayfast.files.virtual.addresses import is_remote, suffix_of

if TYPE_CHECKING:
    from xrayfast.data.images.dicom.metadata import Header

_UNIQUE = re.compile(r"\d{6}|\d\.\d+\.\d")
"""Matches study identifiers that are unique across data sets: a long number, or three components of a UID."""

_MOST_IN_STUDY = 20  # maximum number of images in a study of chest radiographs; most studies have 1 to 3

_TELLS_PATIENT = r"((?:[Pp]atient|[Pp]erson|[Ss]ubject|[Pp]articipant|sub|pat|PAT|pt)[-_ ]?[0-9]+|sub-[A-Za-z0-9]+)"
_PATIENT_PATTERNS = (
    _TELLS_PATIENT,
    *(rf"([^/]+){part}\.\w+$" for part in ("[-_ ][^-_ /]+", "(?:[-_ ][^-_ /]+){2}", "(?:[-_ ][^-_ /]+){3}")),
    r"([^/]*\d)[A-Za-z]{1,4}\d{0,2}\.\w+$",
    r"([^/]*\d\)?)\.\d{1,3}\.\w+$",
    r"\d{8}[-_ ]([^/]+)\.\w+$",
)
"""Regular expressions whose first group may be the patient in a file name: a word for patients with a number, the name
without its last parts, or what follows a date."""

_MOST_HEADERS = 200  # that are compared with a table's patients; each takes about a millisecond
_IN_A_ROW = 10  # of them, in the order of patients
_LOOKED_AT = 20_000  # names that are searched before all are
_LEAST_PATIENTS = 8  # fewest that a part of the names without a word for patients must tell apart
_DATE = re.compile(r"(^|\D)(19|20)\d\d(\d{4})?$|\d{4}-\d\d-\d\d")

_CALLED_ALIKE = 0.1
"""Share of images with the name of their patient above which a note mentions them."""

_SEARCH_SECONDS = 10.0
_SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
search = re.compile(pattern).search
json.dump([(match[1] or "") if (match := search(name)) else "" for name in names], sys.stdout)
"""

_COPY = re.compile(
    r"(([-_. ]+(aug(mented)?|augmentation|[hv]?flip(ped)?|mirror(ed)?|rot(ated?|ation)?|noisy?|noise|shift(ed)?"
    r"|zoom(ed)?|bright(er|ness)?|dark(er)?|contrast"
    r"|invert(ed)?|gr[ae]y(scale)?|blur(red)?|copy|crop(ped)?|lungs?|left|right|roi|patch|clahe|enhanced)[-_. ]*\d*)+"
    r"|[-_. ]+(frontal|lateral|pa|ap|lat)|_(jpe?g|png)\.rf\.\w+)$",
    re.IGNORECASE,
)
"""Endings of the names of augmented copies, crops and views; the last alternative is Roboflow's."""

_WORD_OR_SIZE = re.compile(r"[^\W\d_]|^(128|224|256|299|320|384|512|1024)$")
"""Matches what is added to the name of an image if it does not only number the next one."""

_NO_DIGITS = str.maketrans("", "", "0123456789")

_NUMBERED_COPY = re.compile(r" ?\(\d+\)$")
"""The suffix that file managers add to copies. Without an unnumbered original, such files are different images."""


def find_patients(records: ImageRecords, config: DataConfig, *, to_split: bool = True) -> None:
    """Fill in patients that no column holds, from file names, else from DICOM headers; then the studies of `study_col`.

    Headers that are read also fill in study, sex, age and view. Reading one takes milliseconds, so headers are not read
    for these alone, except for the view if `views` selects by it; only some are compared with patients of a column.
    Unless images are `to_split`, all may be of one patient.

    Raises:
        DataError: names or headers were asked for and hold no patient, or no study.
        ConfigError: the header's keyword is not one of DICOM, or a pattern for names is wrong.
    """
    from_column = records.patients is not None
    _find_patients(records, config, to_split)
    if config.views != "all" and records.views is None:
        headers = _headers(records, "PatientID")
        records.views = parse_views(_values(headers, "view")) if headers else None
    _find_studies(records, config.study_col)
    _complete_by_study(records)
    if records.patients and records.sexes:
        records.notes += note_contradictions(records.sexes, records.patients, "the sex")
    if from_column:
        records.notes += note_blank(records.patients or ()) + _note_other_headers(records)


def _find_patients(records: ImageRecords, config: DataConfig, to_split: bool) -> None:
    chosen = config.patient_col
    if chosen == "none":
        records.notes.append("Patients are not identified, because patient_col is none.")
        return
    way, _, rest = (chosen or "").partition(":")
    keyword = rest if way == "dicom" else None
    if way == "name" and rest:
        records.patients = _match_names(records, rest, "patient")
    elif records.patients is None and keyword is None:
        _read_names(records, to_split)
    if records.patients is None and way != "name":
        _read_headers(records, keyword or "PatientID")
    for step in (blank_placeholders, join_spellings):
        if records.patients:
            records.patients, notes = step(records.patients)
            records.notes += notes
    if records.patients:
        _note_names_of_images(records)
        records.notes += note_forms(records.patients)
        records.notes += [] if tells_birth(chosen or "") else note_dates(records.patients)
    if way not in ("name", "dicom"):
        _note_patients_in_names(records)
    if records.patients is None and (chosen == "name" or keyword):
        examples = ", ".join(f"{spec.path_example} ({spec.name})" for spec in registry.SPECS if spec.path_example)
        found = (
            f"headers; expected DICOM files with {keyword}" if keyword else f"names; expected names such as {examples}"
        )
        raise DataError(f"found no patients in the images' {found}. Leave out --patient-col, or name a column.")


def _note_names_of_images(records: ImageRecords) -> None:
    """Add a note if many patients have the name of their only image, and none with the name of an image has several."""
    patients: Sequence[str] = records.patients or ()
    counts = TextColumn.of(patients).counts()

    def images_of_namesakes(step: int) -> list[int]:
        pairs = islice(zip(records.names, patients, strict=True), 0, None, step)
        return [counts[patient] for name, patient in pairs if patient and _is_name_of(name, patient)]

    step = max(1, len(patients) // _LOOKED_AT)
    images = images_of_namesakes(step)
    if step > 1 and images:  # of millions of names most are looked at only where some of them are so called
        images = images_of_namesakes(1)
    called = len(images) if images == [1] * len(images) else 0
    if called > max(1, _CALLED_ALIKE * len(patients)):
        which = "all" if called == len(patients) else f"{called:,} of {len(patients):,} images"
        records.notes.append(
            f"Patient identifiers are the same as the image names, one per image, on {which}: images of the same "
            f"patient are not kept together."
        )


def _is_name_of(name: str, patient: str) -> bool:
    """Whether a patient's identifier equals an image's name, with or without suffix, after normalization."""
    base = name.rpartition("/")[2]
    return normalize_identifier(patient) in map(normalize_identifier, (name, base, base.rpartition(".")[0]))


def _note_patients_in_names(records: ImageRecords) -> None:
    """Add a note on the first pattern that finds patients in names, or fewer than are known, one on each image.

    There is none if the studies of most images are known.
    """
    n = len(records.names)
    known = TextColumn.of(records.patients or ()).counts()
    known.pop("", None)
    if 2 * sum(map(bool, records.studies or ())) > n or max(known.values(), default=0) > 1:
        return
    for pattern in _PATIENT_PATTERNS:
        if _count_matches(pattern, records.names[:_LOOKED_AT]) and (found := _count_matches(pattern, records.names)):
            if known and len(found) >= len(known):
                return
            records.notes.append(
                f"File or folder names may contain patient IDs, as in {records.names[0]}: --patient-col "
                f"'name:{pattern}' finds {plural(len(found), 'patient')} on {found.total()} of {n} images."
            )
            return


def _count_matches(pattern: str, names: Sequence[str]) -> Counter[str]:
    """Return the number of names with each first group of a pattern; nothing if these do not look like patients.

    They do if half of the names have a word for patients, or share the group with a few others.
    """
    search = re.compile(pattern).search
    found = Counter(match[1].lower() for name in names if (match := search(name)))
    has_word = pattern == _TELLS_PATIENT and len(found) > 1
    repeat = len(found) >= _LEAST_PATIENTS and max(found.values()) <= _MOST_IN_STUDY
    known = found.total() if has_word else sum(n for n in found.values() if n > 1) * repeat
    return found if 2 * known > len(names) and not all(map(_DATE.search, found)) else Counter()


def _find_studies(records: ImageRecords, chosen: str | None) -> None:
    """Fill in the studies according to `study_col`, unless it names a column, which was read with the table.

    Raises:
        DataError: no study is found.
        ConfigError: the header's keyword is not one of DICOM, or the pattern for names is wrong.
    """
    way, _, rest = (chosen or "").partition(":")
    if chosen == "none":
        records.studies = None
        records.notes.append("Studies are not used, because study_col is none.")
    elif way == "name":
        records.studies = _match_names(records, rest, "study")
    elif way == "dicom":
        records.studies = _values(_headers(records, rest), "patient")
        if not any(records.studies):
            raise DataError(
                f"found no studies in the images' headers; expected DICOM files with {rest}. Leave out --study-col, "
                f"or name a column."
            )
        records.notes.append(
            f"Studies from the DICOM headers ({rest}): {len(set(filter(None, records.studies)))} on "
            f"{sum(map(bool, records.studies))} of {plural(len(records.names), 'image')}."
        )
    elif chosen and not any(records.studies or ()):
        records.notes.append(f"No studies are known: '{chosen}' is blank in all rows.")


def _complete_by_study(records: ImageRecords) -> None:
    """Give images without a patient the patient of their study; add a note on studies with more than one patient."""
    if not records.patients or not records.studies:
        return
    owners: dict[str, set[str]] = {}
    for patient, study in zip(records.patients, records.studies, strict=True):
        owners.setdefault(study, set()).add(patient)
    known = {study: found - {""} for study, found in owners.items() if study}
    pairs = zip(records.patients, records.studies, strict=True)
    completed = [
        next(iter(known[study])) if not patient and len(known.get(study, ())) == 1 else patient
        for patient, study in pairs
    ]
    if count := sum(old != new for old, new in zip(records.patients, completed, strict=True)):
        records.notes.append(
            f"{plural(count, 'image')} without a patient: the patient of the other images in the same study is used."
        )
    records.patients = TextColumn.of(completed)
    if several := sum(len(found) > 1 for found in known.values()):
        records.notes.append(
            f"{plural(several, 'study')} with images of more than one patient: some identifiers must be wrong, and "
            f"images of one study may be in several splits."
        )


def _match_names(records: ImageRecords, pattern: str, what: Literal["patient", "study"]) -> list[str]:
    """Return the first group of a regular expression in each image's name: its patient or study; "" without a match.

    Raises:
        ConfigError: the pattern is invalid.
        DataError: it matches no name.
    """
    option = f"{what}_col"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{option}: '{pattern}' is not a regular expression ({error}).") from error
    if not compiled.groups:
        raise ConfigError(
            f"{option}: '{pattern}' has no group; expected one around the {what}, such as '({what[0]}[0-9]+)'."
        )
    found = _search(pattern, records.names, option)
    if what == "study" and records.patients:  # the number of a study may start again for each patient
        found = [study and f"{owner} {study}" for owner, study in zip(records.patients, found, strict=True)]
    unmatched = [name for name, identifier in zip(records.names, found, strict=True) if not identifier]
    if len(unmatched) == len(records.names):
        raise DataError(
            f"{option}: found no match of '{pattern}' in any image name; expected one in names such as "
            f"{shorten(unmatched, 2)}."
        )
    kinds = {"patient": "Patients", "study": "Studies"}[what]
    records.notes.append(
        f"{kinds} from file names by '{pattern}': {len(set(filter(None, found)))} on "
        f"{len(records.names) - len(unmatched):,} of {len(records.names):,} images"
        + (f"; none in {shorten(unmatched, 3)}." if unmatched else ".")
    )
    return found


def _search(pattern: str, names: Sequence[str], option: str) -> list[str]:
    """Return the first group of a regular expression in each name, "" without a match; runs in a killable process.

    Raises:
        ConfigError: the search takes more than `_SEARCH_SECONDS` plus a second per 10,000 names. Nested repeats can
            take longer than the age of the universe.
    """
    limit = _SEARCH_SECONDS + len(names) / 10_000
    command = [sys.executable, "-I", "-c", _SEARCH]
    try:
        done = subprocess.run(
            command,
            input=json.dumps([pattern, list(names)]),
            capture_output=True,
            encoding="ascii",  # of JSON
            timeout=limit,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{option}: '{pattern}' takes more than {limit:.0f} s on {plural(len(names), 'name')}; expected a "
            f"pattern without nested repeats, such as (a+)+, and without several .* in a row."
        ) from None
    found: list[str] = json.loads(done.stdout)
    return found


def _search_names(names: Sequence[str]) -> tuple[list[str], list[str], Counter[str]]:
    """Return patients and studies in names that follow the patterns of public data sets, "" in others; and the number
    of names per data set.
    """
    patterns = {spec.name: spec.patient_in_path for spec in registry.SPECS if spec.patient_in_path}
    patients, studies, counts = [""] * len(names), [""] * len(names), Counter[str]()
    for i, name in enumerate(names):
        for origin, pattern in patterns.items():
            if match := pattern.search(name):
                patients[i] = f"{origin} {match[1]}"
                studies[i] = f"{patients[i]} {match[2]}" if pattern.groups > 1 else ""
                counts[origin] += 1
                break
    return patients, studies, counts


def _are_reused(names: Sequence[str], counts: Counter[str]) -> bool:
    """Whether names of `counts` may be of several patients: Kermany's, if some are in several folders."""
    if not counts["Kermany"]:
        return False
    repeated = Counter(os.path.basename(name) for name in names)  # noqa: PTH119 - a Path for each of 400,000 files takes seconds
    return max(repeated.values()) > 1


def patients_in_public_names(names: Sequence[str]) -> list[str]:
    """Return (N,) the patient of each name that follows a public data set's pattern, with the data set's name; else "".

    Equal patients are the same person, whatever the source of the names.
    """
    patients, _, counts = _search_names(names)
    return [""] * len(names) if _are_reused(names, counts) else patients


def _read_names(records: ImageRecords, to_split: bool) -> None:
    """Fill in patients and studies from file names that follow the patterns of public data sets."""
    n = len(records.names)
    patients, studies, counts = _search_names(records.names)
    if not counts:
        _group_copies(records)
        return
    if to_split and len(set(filter(None, patients))) == 1 and n > 1:
        records.notes.append(
            "Patients are not read from file names, because these would make all images those of one patient."
        )
        return
    if _are_reused(records.names, counts):
        records.notes.append("Patients are not read from file names, because some names are in several folders.")
        return
    records.patients = patients
    if records.studies is None and any(studies):
        records.studies = studies
    named = " and ".join(spec.name for spec in registry.SPECS if counts[spec.name])
    records.notes.append(
        f"Patients from the {named} file names: {len(set(filter(None, patients)))} on {counts.total()} of {n} images; "
        "--patient-col none ignores them."
    )


def _group_copies(records: ImageRecords) -> None:
    """Group copies and views of one image, recognized by name, as a study if no patients or studies are known."""
    if records.patients or records.studies:
        return
    stems = [os.path.splitext(name)[0].rpartition("/")[::2] for name in records.names]  # noqa: PTH122
    # Copies may be in folders of different splits, or in folders of their own.
    plain = {
        folder: "/".join(part for part in folder.split("/") if not (parse_split(part) or _is_of_copies(part)))
        for folder, _ in set(stems)
    }
    files = Counter(stems)  # one stem with two suffixes is one image
    original_of = _originals(files)
    originals = [original_of.get(pair, pair[1]) for pair in stems]
    keys = [f"{plain[folder]}/{_COPY.sub('', one)}" for one, (folder, _) in zip(originals, stems, strict=True)]
    sizes = Counter(keys)
    copies = {
        name: key
        for name, pair, key in zip(records.names, stems, keys, strict=True)
        if sizes[key] > 1
        and (
            pair in original_of
            or files[pair] > 1
            or _COPY.search(pair[1])
            or any(map(AUGMENTED.fullmatch, split_words(pair[0])))
        )
    }
    if not copies:
        return
    grouped = {*copies.values()}
    records.studies = [key if key in grouped else "" for key in keys]
    records.notes.append(
        f"{plural(len(copies), 'image')} with the name of an augmented copy, a crop or another view of an image, "
        f"kept in the same split as that image: {shorten(copies, 3)}. If they are not radiographs, leave them out."
    )


def _originals(files: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Map files to the original in their folder, whose name they extend by a number in brackets, a word or a size."""
    found = dict[tuple[str, str], str]()
    paths = {f"{folder}/{stem}" for folder, stem in files}
    are_alike = len({stem.translate(_NO_DIGITS) for _, stem in files}) == 1  # but for numbers, as millions are
    for folder, stem in sorted(files, key=lambda pair: len(pair[1])):
        one = _NUMBERED_COPY.sub("", stem)
        if not are_alike:
            other, added = image_beside(f"{folder}/{stem}", paths)
            one = other.rpartition("/")[2] if _WORD_OR_SIZE.search(added) else one
        if one != stem and f"{folder}/{one}" in paths:
            found[folder, stem] = found.get((folder, one), one)
    return found


def _is_of_copies(folder: str) -> bool:
    """Whether a folder's name says that it holds augmented copies or their originals."""
    words = split_words(folder)
    return bool(words) and (any(map(AUGMENTED.fullmatch, words)) or all(map(ORIGINAL.fullmatch, words)))


def _read_headers(records: ImageRecords, keyword: str) -> None:
    """Fill in patients, and other metadata that is still missing, from DICOM headers."""
    headers = _headers(records, keyword)
    found = [header for header in headers if header is not None]
    if any(header.patient for header in found):
        records.patients = _values(headers, "patient")
        on, people = sum(map(bool, records.patients)), len(set(filter(None, records.patients)))
        # An identifier that is on all files identifies no patient.
        records.patient_shown = f" '{records.patients[0]}' ({keyword} of their DICOM headers)" if people == 1 else ""
        records.notes.append(
            f"Patients from the DICOM headers ({keyword}): {people:,} on {on:,} of {len(found):,} files."
        )
        if keyword == "PatientID":
            records.notes += _note_issuers(found)
    if not found:
        return
    grouped = records.studies or [""] * len(headers)  # by name, as for copies
    records.studies = [study or group for study, group in zip(_values(headers, "study"), grouped, strict=True)]
    records.sexes = records.sexes or parse_sexes(_values(headers, "sex"))[0]
    records.views = records.views or parse_views(_values(headers, "view"))
    if records.ages is None:
        records.ages = [header.age if header else np.nan for header in headers]
    if not any(header.patient for header in found):
        # Studies of one image each, as anonymization makes them, keep nothing together.
        together = records.studies if len({*records.studies}) < len(headers) else [""] * len(headers)
        further = {
            f"dicom:{name}": [header.further.get(name, "") if header else "" for header in headers]
            for name in found[0].further
        }
        records.notes += note_keys(further, list(further), together)


def _values(headers: Sequence[Header | None], name: str) -> list[str]:
    """Return one attribute of each header; "" where there is no header."""
    return [getattr(header, name, "") for header in headers]


def _note_other_headers(records: ImageRecords) -> list[str]:
    """Return a note on DICOM files whose PatientID contradicts the patient that the table gives, among up to 200 files.

    It does if most of the others are equal; or, as tables often have pseudonyms, if a patient of the table has several
    PatientIDs or a PatientID several patients. One PatientID on all files, or another on each, says nothing.
    """
    if not records.patients or is_remote(records.paths[0]):
        return []
    some = replace(records.select(_sample_by_patient(records.patients)), notes=[])
    found = blank_placeholders(_values(_headers(some, "PatientID"), "patient"))[0]
    pairs = {
        name: (normalize_identifier(patient), normalize_identifier(header))
        for name, patient, header in zip(some.names, some.patients or (), found, strict=False)
        if patient and header
    }
    of_patient, of_header = dict[str, set[str]](), dict[str, set[str]]()
    for patient, header in pairs.values():
        of_patient.setdefault(patient, set()).add(header)
        of_header.setdefault(header, set()).add(patient)
    if 2 * sum(patient == header for patient, header in pairs.values()) > len(pairs):
        wrong = [name for name, (patient, header) in pairs.items() if patient != header]
    elif 1 < len(of_header) < len(pairs):
        wrong = [name for name, (a, b) in pairs.items() if max(len(of_patient[a]), len(of_header[b])) > 1]
    else:
        return []
    return [
        f"The PatientID of {plural(len(wrong), 'DICOM file')}, of {len(pairs)} looked at, contradicts the table's "
        f"patient: {shorten(wrong, 3)}. The table is used; --patient-col dicom:PatientID uses the headers."
    ] * bool(wrong)


def _sample_by_patient(patients: Sequence[str]) -> list[int]:
    """Return up to `_MOST_HEADERS` rows, in runs of rows that follow each other if they are sorted by patient."""
    order = np.argsort(TextColumn.of(patients).codes, kind="stable")
    starts = np.linspace(0, max(len(order) - _IN_A_ROW, 0), _MOST_HEADERS // _IN_A_ROW, dtype=int)
    places = np.unique(starts[:, None] + np.arange(_IN_A_ROW)) if len(order) > _MOST_HEADERS else np.arange(len(order))
    found: list[int] = np.sort(order[places]).tolist()
    return found


def _note_issuers(headers: Sequence[Header]) -> list[str]:
    """Return a note on identifiers that several issuers gave, perhaps to different patients."""
    issuers: dict[str, set[str]] = {}
    for header in headers:
        if header.patient and header.issuer:
            issuers.setdefault(header.patient, set()).add(header.issuer)
    if not (several := sum(len(found) > 1 for found in issuers.values())):
        return []
    return [
        f"{plural(several, 'PatientID')} with several values of IssuerOfPatientID. Each PatientID is treated as one "
        "patient; if issuers assign the same numbers, different patients are treated as one: give --labels a table "
        f"whose patient column has the issuer before the identifier."
    ]


def _headers(records: ImageRecords, keyword: str) -> list[Header | None]:
    """Return each image's DICOM header; None if it has none.

    Files with the suffix of another image format are not opened, and remote files only if they have a DICOM suffix.
    """
    may_be = [
        (suffix := suffix_of(path)) in (".dcm", ".dicom") or not (suffix in IMAGE_SUFFIXES or is_remote(path))
        for path in records.paths
    ]
    if not any(may_be):
        return []
    from xrayfast.data.images.dicom.metadata import read_header  # pydicom loads slowly, and few data sets need it

    headers: list[Header | None] = []
    damaged = []
    for name, path, likely in zip(records.names, records.paths, may_be, strict=True):
        try:
            headers.append(read_header(path, keyword) if likely else None)
        except ReadError:
            headers.append(None)
            damaged.append(name)
    if damaged:
        records.notes.append(
            f"The headers of {plural(len(damaged), 'file')} can't be read, so their patients are unknown: "
            f"{shorten(damaged)}."
        )
    return headers


def group_images(patients: Sequence[str | None] | None, studies: Sequence[str | None] | None) -> Places | None:
    """Return (N,) one integer per patient, else per study, else per image; None if no patient or study is known."""
    if not studies:
        return group_patients(patients)
    alone = studies_without_patient(patients, studies)
    owners = patients or [None] * len(alone)
    return group_patients([owner or (study and f"study {study}") for owner, study in zip(owners, alone, strict=True)])


def studies_without_patient(
    patients: Sequence[str | None] | None, studies: Sequence[str | None] | None
) -> list[str | None]:
    """Return (N,) the study of each image whose patient is unknown; None for the other images.

    More than `_MOST_IN_STUDY` images of unknown patients under one study number don't count as a study: the number was
    probably reused for different patients.
    """
    if not studies:
        return [None] * len(patients or ())
    pairs = zip(patients or [None] * len(studies), studies, strict=True)
    found = [study or None if not owner else None for owner, study in pairs]
    sizes = Counter(found)
    return [study if sizes[study] <= _MOST_IN_STUDY else None for study in found]


def studies_everywhere(patients: Sequence[str | None] | None, studies: Sequence[str | None] | None) -> list[str]:
    """Return (N,) the study of each image if its identifier is unique across data sets, such as a UID; else ""."""
    if not studies:
        return []
    pairs = zip(patients or [None] * len(studies), studies, strict=True)
    return [
        study if study and not (owner and study.startswith(f"{owner} ")) and _UNIQUE.search(study) else ""
        for owner, study in pairs
    ]


def hash_identifiers(identifiers: Sequence[str] | None, n: int) -> npt.NDArray[np.uint64]:
    """Return (N,) a hash of each of N identifiers, used to compare two data sets; 0 where unknown.

    Different spellings have equal hashes, as in `normalize_identifier`.
    """

    def hash_one(text: str) -> int:
        key = normalize_identifier(text).encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") if text else 0

    return TextColumn.of(identifiers).map_array(hash_one, np.uint64) if identifiers else np.zeros(n, np.uint64)


def group_patients(patients: Sequence[str | None] | None) -> Places | None:
    """Return (N,) one integer per patient, and one per image of unknown patient; None if all patients are unknown."""
    codes, known = _number(patients)
    if not known:
        return None
    unknown = codes < 0
    codes[unknown] = known + np.arange(unknown.sum())
    return codes


def pseudonymize(identifiers: Sequence[str] | None, letter: str) -> npt.NDArray[np.object_] | None:
    """Return (N,) names such as P00001 in order of first appearance, None where blank; None if all are blank."""
    codes, known = _number(identifiers)
    names = np.array([*(f"{letter}{i:05d}" for i in range(1, known + 1)), None], dtype=object)
    return names[codes] if known else None  # -1, for blank, selects the last name


def count_shared(identifiers: Sequence[str | None] | None, splits: Sequence[str]) -> tuple[int, int]:
    """Return how many identifiers are on images of several splits, and how many identifiers there are."""
    codes, known = _number(identifiers)
    if not known:
        return 0, 0
    of_split = TextColumn.of(splits)
    there = np.zeros((known + 1, len(of_split.texts)), np.bool_)
    there[codes, of_split.codes] = True  # -1, for blank, selects the last row
    return int((there[:known].sum(1) > 1).sum()), known


def _number(identifiers: Sequence[str | None] | None) -> tuple[Places, int]:
    """Return (N,) the number of each identifier in order of first appearance, -1 where blank; and their count."""
    cells = identifiers if isinstance(identifiers, TextColumn) else (one or "" for one in identifiers or ())
    column = TextColumn.of(cells)
    known = np.array([text != "" for text in column.texts], np.bool_)
    return np.where(known, known.cumsum() - 1, -1)[column.codes], int(known.sum())
