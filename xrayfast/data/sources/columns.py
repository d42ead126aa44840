"""Which column of a table holds what, resolved once."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xrayfast.config import DataConfig
from xrayfast.data.labels.cells import looks_like_flags
from xrayfast.data.sources.datasets.spec import DatasetSpec
from xrayfast.data.sources.tables import Table
from xrayfast.data.splits.stratify import parse_split
from xrayfast.errors import ConfigError, DataError, did_you_mean, shorten

# In order of preference; letter case and all characters but letters and digits are ignored.
_USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "path": ("image", "file", "filename", "path", "imagepath", "filepath", "imageindex", "imageid", "imagename"),
    "labels": ("labels", "label", "findinglabels", "findings", "finding", "class", "diagnosis", "target"),
    "split": ("split", "set", "subset", "partition"),
    "patient": ("patient", "patientid", "subject", "subjectid"),
    "study": ("study", "studyid", "studyuid", "studyinstanceuid"),
    "sex": ("sex", "gender", "patientsex", "patientgender", "patientsexdicom"),
    "age": ("age", "patientage"),
    "view": ("view", "projection", "viewposition", "appa", "viewpositiondicom", "frontallateral"),
}

_FLAG_SHARE = 0.5
"""A column is taken for a label where this share of its cells that are not blank is 1, 0 or -1; the rest are errors."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table by what they hold; an empty tuple where none holds it.

    Attributes:
        path: of which an image's path is made: one column of paths, or those in `path_template`.
        path_template: the path with columns in braces; "" where `path` is one column.
        is_folder: whether the path is that of a folder of images, which share the row.
        labels: one column of label names, or a column of 1, 0, -1 and blank per label.
        are_flags: which of the two.
        split, patient, study, sex: one column each.
        age: one column of ages, or the spec's `age_columns`.
        view: columns, the preferred first.
    """

    path: tuple[str, ...]
    path_template: str
    is_folder: bool
    labels: tuple[str, ...]
    are_flags: bool
    split: tuple[str, ...]
    patient: tuple[str, ...]
    study: tuple[str, ...]
    sex: tuple[str, ...]
    age: tuple[str, ...]
    view: tuple[str, ...]

    def __str__(self) -> str:
        """As "images from 'image'; labels from 'Mass', 'Edema'; patients from 'patient'"."""
        contents = ("images", "labels", "splits", "patients", "studies", "sex", "age", "views")
        fields = (self.path, self.labels, self.split, self.patient, self.study, self.sex, self.age, self.view)
        found = [(what, names) for what, names in zip(contents, fields, strict=True) if names]
        return "; ".join(f"{what} from {quote(names)}" for what, names in found)


def resolve_columns(table: Table, spec: DatasetSpec, config: DataConfig) -> Columns:
    """The columns that the config names, else those of the spec, else those with usual names.

    Raises:
        DataError: a named column is missing, or none is known to hold image paths or labels.
        ConfigError: a column of labels is named twice.
    """
    path, template, is_folder = _path_columns(table, spec, config.path_col)
    usual = {role: usual_columns(table.columns, role) for role in _USUAL_NAMES}
    split = _named_or_first(table, config.split_col, usual["split"])
    if not config.split_col and split and not any(map(parse_split, set(table.columns[split[0]]))):
        split = ()  # a column of that name that holds something else
    no_patients = config.patient_col and not is_column_name(config.patient_col)
    patient = () if no_patients else _named_or_first(table, config.patient_col, usual["patient"])
    study, sex, age = (tuple(usual[role][:1]) for role in ("study", "sex", "age"))
    if not age and all(name in table.columns for name in spec.age_columns):
        age = spec.age_columns
    view = tuple(usual["view"])
    taken = {*path, *split, *patient, *study, *sex, *age, *view}
    labels, are_flags = _label_columns(table, spec, config, [name for name in table.columns if name not in taken])
    return Columns(path, template, is_folder, labels, are_flags, split, patient, study, sex, age, view)


def usual_columns(columns: Iterable[str], role: str) -> list[str]:
    """The columns that have one of a role's usual names, the preferred first.

    >>> usual_columns(["AP/PA", "Patient ID", "Frontal/Lateral"], "view")
    ['AP/PA', 'Frontal/Lateral']
    """
    names = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(list(columns))}
    return [names[name] for name in _USUAL_NAMES[role] if name in names]


def is_column_name(patient_col: str) -> bool:
    """Whether the option names a column, and not another way to tell patients apart."""
    return patient_col not in ("none", "name") and not patient_col.startswith("dicom:")


def template_fields(template: str) -> tuple[str, ...]:
    """The columns that a template names in braces."""
    return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name))


def quote(names: Iterable[str]) -> str:
    """Names in quotes, comma separated."""
    return shorten((f"'{name}'" for name in names), 20)


def _path_columns(table: Table, spec: DatasetSpec, chosen: str | None) -> tuple[tuple[str, ...], str, bool]:
    """The columns of an image's path, its template, and whether it is that of a folder."""
    if chosen:
        return (_require_column(table, chosen),), "", False
    fields = template_fields(spec.image_path)
    if fields and all(name in table.columns for name in fields):
        return fields, spec.image_path, False
    if usual := usual_columns(table.columns, "path"):
        return (usual[0],), "", False
    if spec.study_folder:
        return template_fields(spec.study_folder), spec.study_folder, True
    raise DataError(
        f"{table.file}: found the columns {', '.join(table.columns)}, none of which is known to hold image "
        "paths; expected one like 'image' or 'file'. Name it with --path-col."
    )


def _label_columns(
    table: Table, spec: DatasetSpec, config: DataConfig, free: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """The columns of labels, and whether they are columns of 1, 0, -1 and blank; guessed from those that are free."""
    chosen = [_require_column(table, name) for name in config.label_col]
    if twice := next((name for name in chosen if chosen.count(name) > 1), None):
        raise ConfigError(f"label_col: found '{twice}' twice; expected each column once.")
    if not chosen and spec.label_column:
        chosen = [spec.label_column]
    chosen = chosen or [name for name in spec.flag_columns if name in table.columns]
    chosen = chosen or [name for name in usual_columns(table.columns, "labels") if name in free][:1]
    if len(chosen) == 1 and (config.task == "single" or not looks_like_flags(table.columns[chosen[0]])):
        return tuple(chosen), False
    chosen = chosen or [name for name in free if looks_like_flags(table.columns[name], _FLAG_SHARE)]
    if not chosen:
        raise DataError(
            f"{table.file.name}: found the columns {', '.join(table.columns)}, none of which is known to hold "
            "labels; expected one like 'labels', or columns of 0 and 1. Name it or them with --label-col."
        )
    return tuple(chosen), True


def _named_or_first(table: Table, chosen: str | None, usual: Sequence[str]) -> tuple[str, ...]:
    return (_require_column(table, chosen),) if chosen else tuple(usual[:1])


def _require_column(table: Table, name: str) -> str:
    if name not in table.columns:
        raise DataError(
            f"{table.file.name}: found no column '{name}'; expected one of {', '.join(table.columns)}."
            f"{did_you_mean(name, table.columns)}"
        )
    return name
