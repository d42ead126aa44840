"""Patients and studies in DICOM headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from xrayfast.data.demographics import parse_sexes, parse_views
from xrayfast.data.images.reader import IMAGE_SUFFIXES
from xrayfast.data.sources.identifiers import (
    blank_placeholders,
    normalize_identifier,
    note_contradictions,
    note_keys,
    note_shared_numbers,
)
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import ReadError, plural, shorten
from xrayfast.files.virtual.addresses import is_remote, suffix_of

if TYPE_CHECKING:
    from xrayfast.data.images.dicom.metadata import Header

_MOST_HEADERS = 200  # that are compared with a table's patients; each takes about a millisecond
_IN_A_ROW = 10  # of them, in the order of patients


def read_headers(records: ImageRecords, keyword: str) -> None:
    """Fill in patients, and other metadata that is still missing, from DICOM headers."""
    headers = headers_of(records, keyword)
    found = [header for header in headers if header is not None]
    if any(header.patient for header in found):
        records.patients = values_of(headers, "patient")
        on, people = sum(map(bool, records.patients)), len(set(filter(None, records.patients)))
        # An identifier that is on all files identifies no patient.
        records.patient_shown = f" '{records.patients[0]}' ({keyword} of their DICOM headers)" if people == 1 else ""
        records.notes.append(
            f"Patients from the DICOM headers ({keyword}): {people:,} on {on:,} of {len(found):,} files."
        )
        if keyword == "PatientID":
            records.notes += _note_issuers(found)
        if people > 1:
            records.notes += _note_doubtful(headers, records.patients)
    if not found:
        return
    grouped = records.studies or [""] * len(headers)  # by name, as for copies
    records.studies = [study or group for study, group in zip(values_of(headers, "study"), grouped, strict=True)]
    records.sexes = records.sexes or parse_sexes(values_of(headers, "sex"))[0]
    records.views = records.views or parse_views(values_of(headers, "view"))
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


def values_of(headers: Sequence[Header | None], name: str) -> list[str]:
    """Return one attribute of each header; "" where there is no header."""
    return [getattr(header, name, "") for header in headers]


def note_other_headers(records: ImageRecords) -> list[str]:
    """Return a note on DICOM files whose PatientID contradicts the patient that the table gives, among up to 200 files.

    It does if most of the others are equal; or, as tables often have pseudonyms, if a patient of the table has several
    PatientIDs or a PatientID several patients. One PatientID on all files, or another on each, says nothing.
    """
    if not records.patients or is_remote(records.paths[0]):
        return []
    some = replace(records.select(_sample_by_patient(records.patients)), notes=[])
    found = blank_placeholders(values_of(headers_of(some, "PatientID"), "patient"))[0]
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
    return np.sort(order[places]).tolist()


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


def _note_doubtful(headers: Sequence[Header | None], patients: Sequence[str]) -> list[str]:
    """Return notes on patients whom other elements of the headers contradict."""

    def cells(keyword: str) -> list[str]:
        return [header.compared.get(keyword, "") if header else "" for header in headers]

    names, images = cells("PatientName"), cells("SOPInstanceUID")
    notes = note_contradictions(cells("PatientBirthDate"), patients, "the birth date")
    notes += note_contradictions(list(map(normalize_identifier, names)), patients, "PatientName")
    notes += note_shared_numbers(cells("InstitutionName"), patients, "InstitutionName")
    if len({*patients}) == len(patients):
        notes += note_keys({"dicom:PatientName": names}, ["dicom:PatientName"], patients)
    pairs = {pair for pair in zip(images, patients, strict=True) if all(pair)}
    several = len(pairs) - len({image for image, _ in pairs})
    if 0 < several <= len(pairs) / 2:  # if most are equal, anonymization made them so
        notes.append(
            f"{plural(several, 'file')} with the SOP Instance UID of a file of another patient: files are copies, or "
            f"identifiers are wrong."
        )
    return notes


def headers_of(records: ImageRecords, keyword: str) -> list[Header | None]:
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
