"""Patients and studies in the names of images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Literal

from xrayfast.data.sources.datasets import registry
from xrayfast.data.sources.identifiers import MOST_IN_STUDY, normalize_identifier
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import ConfigError, DataError, plural, shorten

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
_PADDED = re.compile(r"(?<!\d)0\d+(?=\.\w+$)")  # a number at the end of a name that begins with 0
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


def note_names_of_images(records: ImageRecords) -> None:
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


def note_patients_in_names(records: ImageRecords) -> None:
    """Add a note on the first pattern that finds patients in names, or fewer than are known, one on each image.

    There is none if the studies of most images are known.
    """
    n = len(records.names)
    known = TextColumn.of(records.patients or ()).counts()
    known.pop("", None)
    if 2 * sum(map(bool, records.studies or ())) > n or max(known.values(), default=0) > 1:
        return
    for pattern in (*_PATIENT_PATTERNS, *_patterns_of_digits(records.names[:_LOOKED_AT])):
        if _count_matches(pattern, records.names[:_LOOKED_AT]) and (found := _count_matches(pattern, records.names)):
            if known and len(found) >= len(known):
                return
            records.notes.append(
                f"File or folder names may contain patient IDs, as in {records.names[0]}: --patient-col "
                f"'name:{pattern}' finds {plural(len(found), 'patient')} on {found.total()} of {n} images."
            )
            return


def _patterns_of_digits(names: Sequence[str]) -> list[str]:
    """Return a pattern for names in which further digits number the images of one, as s0012 beside s001 does."""
    lengths = dict[str, set[int]]()  # by folder and first letters: others may write numbers in another way
    for name in names:
        if match := _PADDED.search(name):
            lengths.setdefault(name[: match.start()], set()).add(len(match[0]))
    shortest = min((min(found) for found in lengths.values() if len(found) > 1), default=0)
    return [rf"([^/]*?(?<!\d)\d{{{shortest}}})\d*\.\w+$"] if shortest > 1 else []


def _count_matches(pattern: str, names: Sequence[str]) -> Counter[str]:
    """Return the number of names with each first group of a pattern; nothing if these do not look like patients.

    They do if half of the names have a word for patients, or share the group with a few others.
    """
    search = re.compile(pattern).search
    found = Counter(match[1].lower() for name in names if (match := search(name)))
    has_word = pattern == _TELLS_PATIENT and len(found) > 1
    repeat = len(found) >= _LEAST_PATIENTS and max(found.values()) <= MOST_IN_STUDY
    known = found.total() if has_word else sum(n for n in found.values() if n > 1) * repeat
    return found if 2 * known > len(names) and not all(map(_DATE.search, found)) else Counter()


def match_names(records: ImageRecords, pattern: str, what: Literal["patient", "study"]) -> list[str]:
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
    return json.loads(done.stdout)


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


def read_names(records: ImageRecords, to_split: bool) -> None:
    """Fill in patients and studies from file names that follow the patterns of public data sets."""
    n = len(records.names)
    patients, studies, counts = _search_names(records.names)
    if not counts:
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
