"""Find the patient and study of each image from columns, file names or DICOM headers."""

from __future__ import annotations

from collections import Counter

from xrayfast.config import DataConfig
from xrayfast.data.demographics import parse_views
from xrayfast.data.sources.column_words import BIRTH, is_called
from xrayfast.data.sources.datasets import registry
from xrayfast.data.sources.identifiers import (
    MOST_IN_STUDY,
    blank_placeholders,
    join_spellings,
    note_blank,
    note_contradictions,
    note_dates,
    note_folders_of_others,
    note_forms,
)
from xrayfast.data.sources.patients.copies import group_copies
from xrayfast.data.sources.patients.headers import headers_of, note_other_headers, read_headers, values_of
from xrayfast.data.sources.patients.image_names import (
    match_names,
    note_names_of_images,
    note_patients_in_names,
    read_names,
)
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError, plural


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
        headers = headers_of(records, "PatientID")
        records.views = parse_views(values_of(headers, "view")) if headers else None
    _find_studies(records, config.study_col)
    _complete_by_study(records)
    _note_large_studies(records)
    if records.patients and records.sexes:
        records.notes += note_contradictions(records.sexes, records.patients, "the sex")
    if from_column:
        records.notes += note_blank(records.patients or ()) + note_other_headers(records)
        records.notes += note_folders_of_others(records.folders, records.patients) if records.patients else []


def _find_patients(records: ImageRecords, config: DataConfig, to_split: bool) -> None:
    chosen = config.patient_col
    if chosen == "none":
        records.notes.append("Patients are not identified, because patient_col is none.")
        return
    way, _, rest = (chosen or "").partition(":")
    keyword = rest if way == "dicom" else None
    by_convention = False
    if way == "name" and rest:
        records.patients = match_names(records, rest, "patient")
    elif records.patients is None and keyword is None:
        read_names(records, to_split)
        by_convention = records.patients is not None
        group_copies(records)
    if records.patients is None and way != "name":
        read_headers(records, keyword or "PatientID")
    for step in (blank_placeholders, join_spellings):
        if records.patients:
            records.patients, notes = step(records.patients)
            records.notes += notes
    if records.patients:
        note_names_of_images(records)
        records.notes += note_forms(records.patients)
        records.notes += [] if is_called(chosen or "", BIRTH) else note_dates(records.patients)
    if way not in ("name", "dicom") and not by_convention:
        note_patients_in_names(records)
    if records.patients is None and (chosen == "name" or keyword):
        examples = ", ".join(f"{spec.path_example} ({spec.name})" for spec in registry.SPECS if spec.path_example)
        found = (
            f"headers; expected DICOM files with {keyword}" if keyword else f"names; expected names such as {examples}"
        )
        raise DataError(f"found no patients in the images' {found}. Leave out --patient-col, or name a column.")


def _find_studies(records: ImageRecords, chosen: str | None) -> None:
    """Fill in the studies according to `study_col`, unless it names a column, which was read with the table."""
    way, _, rest = (chosen or "").partition(":")
    if chosen == "none":
        records.studies = None
        records.notes.append("Studies are not used, because study_col is none.")
    elif way == "name":
        records.studies = match_names(records, rest, "study")
    elif way == "dicom":
        records.studies = values_of(headers_of(records, rest), "patient")
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


def _note_large_studies(records: ImageRecords) -> None:
    """Add a note on images of unknown patients whose study is too large, see `groups.studies_without_patient`."""
    patients, studies = records.patients or [""] * len(records.names), records.studies or ()
    counts = Counter(study for study, patient in zip(studies, patients, strict=False) if study and not patient)
    if large := [n for n in counts.values() if n > MOST_IN_STUDY]:
        records.notes.append(
            f"{plural(sum(large), 'image')} without a patient in {plural(len(large), 'study')} or, by name, copies of "
            f"one image, of more than {MOST_IN_STUDY} images: not kept in one split, because such identifiers are "
            f"mostly those of different patients. If they belong together, give --patient-col 'name:REGEX' or a column."
        )


def _complete_by_study(records: ImageRecords) -> None:
    """Give images without a patient the patient of their study; add a note on studies with more than one patient."""
    if not records.patients or not records.studies:
        return
    owners: dict[str, set[str]] = {}
    for patient, study in zip(records.patients, records.studies, strict=True):
        owners.setdefault(study, set()).add(patient)
    known = {study: found - {""} for study, found in owners.items() if study}
    alone = {study: next(iter(found)) for study, found in known.items() if len(found) == 1}
    completed = [
        patient or alone.get(study, "") for patient, study in zip(records.patients, records.studies, strict=True)
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
