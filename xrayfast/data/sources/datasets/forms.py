"""The forms in which chest radiographs are published, and the usual names of columns: facts, no code but look-ups."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

CHEXPERT_LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)

# In the order in which they are preferred; letter case and all signs but letters and digits make no difference.
USUAL_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("image", "file", "filename", "path", "imagepath", "filepath", "imageindex", "imageid", "imagename"),
    "labels": ("labels", "label", "findinglabels", "findings", "finding", "class", "diagnosis", "target"),
    "split": ("split", "set", "subset", "partition"),
    "patient": ("patient", "patientid", "subject", "subjectid"),
    "study": ("study", "studyid", "studyuid", "studyinstanceuid"),
    "sex": ("sex", "gender", "patientsex", "patientgender", "patientsexdicom"),
    "age": ("age", "patientage"),
    "view": ("view", "projection", "viewposition", "appa", "viewpositiondicom", "frontallateral"),
}


@dataclass(frozen=True)
class DatasetSpec:
    """How one published data set writes its labels. What it does not say is as in any table.

    Attributes:
        name: as the data set is called.
        columns: sets of columns; a table that has all of one set is of this form.
        files: matches the name of the file, of several of this form, that is meant when none is named.
        path: an image's path, with columns in braces; the usual columns where empty or where it names one that the
            table lacks.
        study: where neither gives a path, the folder whose images a row is about, likewise.
        least: how many components at the end of a path tell files apart.
        label_column: the column of label names.
        flags: columns of 1, 0, -1 and blanks, of those in the table, and what the label is called.
        no_finding: what it calls 'No Finding'.
        several: whether images have several labels, whatever the rows at hand show.
        blank: the policy on blank cells.
        repeats: whether several rows may be about one image.
        birth: the columns of the year of birth and of the study's date, which give the age.
        test_lists: names of files beside the table that list the set's own test split.
        note: what a user must know.
    """

    name: str
    columns: tuple[frozenset[str], ...] = ()
    files: str = ""
    path: str = ""
    study: str = ""
    least: int = 1
    label_column: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    no_finding: str = "No Finding"
    several: bool = False
    blank: str = "ignore"
    repeats: bool = False
    birth: tuple[str, str] | None = None
    test_lists: tuple[str, ...] = ()
    note: str = ""


_MIMIC_STUDY = "files/p{subject_id:.2}/p{subject_id}/s{study_id}"

PLAIN = DatasetSpec("plain")
"""A table of no known form."""

FORMS = (
    DatasetSpec(
        "NIH ChestX-ray14",
        (frozenset({"Image Index", "Finding Labels"}),),
        files=r"Data_Entry_2017.*\.csv",
        path="{Image Index}",
        label_column="Finding Labels",
        test_lists=("test_list.txt",),
    ),
    DatasetSpec(
        "CheXpert",
        (frozenset({"Path", "Frontal/Lateral"}), frozenset({"Path", *CHEXPERT_LABELS})),
        files=r"train\.csv",
        path="{Path}",
        least=3,  # patient, study, view: each study has a view1_frontal.jpg
        flags={label: label for label in CHEXPERT_LABELS},
        several=True,
        blank="zeros",
    ),
    DatasetSpec(
        "MIMIC-CXR",
        tuple(frozenset({"subject_id", "study_id", label}) for label in CHEXPERT_LABELS),
        files=r".*chexpert\.csv(\.gz)?",
        path=_MIMIC_STUDY + "/{dicom_id}",
        study=_MIMIC_STUDY,
        flags={label: label for label in CHEXPERT_LABELS},
        several=True,
        blank="zeros",
    ),
    DatasetSpec(
        "RSNA Pneumonia",
        (frozenset({"patientId", "x", "y", "width", "height", "Target"}),),
        files=r"stage_2_train_labels\.csv",
        path="{patientId}",
        flags={"Target": "Lung Opacity"},
        several=True,
        repeats=True,
        note="patientId names an image: whether two are of one person is not known.",
    ),
    DatasetSpec(
        "RSNA Pneumonia (classes)",
        (frozenset({"patientId", "class"}),),
        path="{patientId}",
        label_column="class",
        repeats=True,
        note="patientId names an image: whether two are of one person is not known.",
    ),
    DatasetSpec(
        "COVIDx",
        (frozenset({"patientid", "filename", "class", "source"}),),
        files=r"train.*\.txt",
        path="{split}/{filename}",
        label_column="class",
    ),
    DatasetSpec(
        "PadChest",
        (frozenset({"ImageID", "ImageDir", "Labels"}),),
        files=r"PADCHEST_.*\.csv(\.gz)?",
        path="{ImageDir}/{ImageID}",
        label_column="Labels",
        no_finding="normal",
        several=True,
        birth=("PatientBirth", "StudyDate_DICOM"),
    ),
)


def form_of(columns: Collection[str]) -> DatasetSpec:
    """The form of a table with these columns; `PLAIN` where none is known."""
    return next((form for form in FORMS if any(needed <= set(columns) for needed in form.columns)), PLAIN)


def usual_columns(columns: Iterable[str], role: str) -> list[str]:
    """The columns that have one of a role's usual names, the preferred first.

    >>> usual_columns(["AP/PA", "Patient ID", "Frontal/Lateral"], "view")
    ['AP/PA', 'Frontal/Lateral']
    """
    names = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(list(columns))}
    return [names[name] for name in USUAL_COLUMNS[role] if name in names]
