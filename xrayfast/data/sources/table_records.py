"""The images that a table lists: which columns hold what, where each file lies, and what its rows say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xrayfast.config import DataConfig
from xrayfast.data.labels.names import LABEL_JOIN, LIST, NO_FINDING, clean_label, detect_delimiter, normalize_label
from xrayfast.data.labels.targets import Targets, looks_like_flags, parse_flag_columns, parse_label_cells
from xrayfast.data.sources.datasets.forms import PLAIN, DatasetSpec, form_of, usual_columns
from xrayfast.data.sources.datasets.side_tables import add_mimic_tables, with_covidx_sister
from xrayfast.data.sources.locate import chosen_column, locate, quoted, row_paths
from xrayfast.data.sources.patients import ages, ages_at_study, is_column_name, sexes, views
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.sources.split_files import split_of_cell
from xrayfast.data.sources.tables import Table, read_table
from xrayfast.data.splits.stratify import Split
from xrayfast.errors import ConfigError, DataError

_FLAG_SHARE = 0.5
"""A column is taken for a label where this share of its cells that are not blank is 1, 0 or -1; the rest are errors."""

_WORDS = {"split": "parts", "patient": "patients", "study": "studies", "sex": "sex", "age": "age", "view": "views"}


def from_table(file: Path, root: Path, config: DataConfig) -> ImageRecords:
    """The images that a table lists.

    Args:
        file: the table.
        root: the source folder's absolute path, where files are looked for first.
        config: the settings; columns that it doesn't name are known by the table's form, or by their usual names.

    Raises:
        DataError: the file can't be read as a table, a column is missing, a cell means nothing, or an image is not
            found, could be one of several, or has two rows.
        ConfigError: a column of labels is named twice.
    """
    table = with_covidx_sister(read_table(file))
    form = form_of(table.columns)
    paths = row_paths(table, form, config)
    roles = _roles(table, form, config)
    found = locate(table, paths, form, root)
    labels = _labels(table, form, config, taken={*paths.columns, *(name for names in roles.values() for name in names)})
    images = ImageRecords(
        found.names,
        found.paths,
        labels.names,
        found.by_image(labels.raw),
        where=lambda i: table.where(int(found.first[i])),
        from_table=True,
        several=form.several or labels.several,
        blank=form.blank,
        notes=[*table.notes],
    )
    if form is not PLAIN:
        images.notes.append(f"{file.name} is a table of {form.name}, by its columns. {form.note}".rstrip())
    used = {"images": paths.columns, "labels": labels.columns, **{_WORDS[role]: names for role, names in roles.items()}}
    told = [f"{what} from {quoted(names)}" for what, names in used.items()]
    images.notes += [f"Columns of {file.name}: {'; '.join(told)}.", *labels.notes]
    if len(found.names) < len(found.rows):
        images.notes.append(f"{len(found.rows)} rows are about {len(found.names)} images: those of one are joined.")
    _add_facts(images, table, form, roles, found.first)
    if form.study:
        add_mimic_tables(images, file)
    if images.splits is None and config.split_file is None:
        images.notes += [
            f"{name} beside {file.name} names the set's own test split: --split-file {file.with_name(name)} keeps it."
            for name in form.test_lists
            if file.with_name(name).is_file()
        ]
    return images


# Columns


def _roles(table: Table, form: DatasetSpec, config: DataConfig) -> dict[str, list[str]]:
    """The columns that tell the split, the patient and what else is known of an image, where there are some."""
    usual = {role: usual_columns(table.columns, role)[: None if role == "view" else 1] for role in _WORDS}
    if config.split_col:
        usual["split"] = [chosen_column(table, config.split_col)]
    elif usual["split"] and not any(map(split_of_cell, set(table.columns[usual["split"][0]]))):
        usual["split"] = []  # a column of that name which holds something else
    if config.patient_col:
        usual["patient"] = [chosen_column(table, config.patient_col)] if is_column_name(config.patient_col) else []
    if form.birth and not usual["age"] and all(name in table.columns for name in form.birth):
        usual["age"] = list(form.birth)
    return {role: names for role, names in usual.items() if names}


def _add_facts(
    images: ImageRecords, table: Table, form: DatasetSpec, roles: Mapping[str, list[str]], rows: npt.NDArray[np.intp]
) -> None:
    """What columns tell of each image beside its labels."""

    def cells(role: str) -> list[list[str]]:
        columns = [table.columns[name] for name in roles.get(role, ())]
        return columns if len(rows) == len(table) else [[column[row] for row in rows] for column in columns]

    for column in cells("split"):
        images.splits = _split_cells(column, roles["split"][0], images)
    for column in cells("patient"):
        patients = [cell.strip() for cell in column]
        images.patients = patients if any(patients) else None
    for column in cells("study"):
        # Studies may be numbered anew for each patient.
        whose = images.patients or [""] * len(column)
        images.studies = [cell and f"{patient} {cell}" for patient, cell in zip(whose, column, strict=True)]
    for column in cells("sex"):
        images.sexes, notes = sexes(column)
        images.notes += notes
    if age := cells("age"):
        images.ages, notes = ages_at_study(*age) if len(age) > 1 else ages(age[0])
        images.notes += notes
    if view := cells("view"):
        images.views = views(*view)


def _split_cells(cells: Sequence[str], column: str, images: ImageRecords) -> list[Split | None]:
    splits: dict[str, Split | None] = {cell: split_of_cell(cell) for cell in set(cells)}
    if None in splits.values():
        i = next(i for i, cell in enumerate(cells) if splits[cell] is None)
        raise DataError(f"{images.where(i)}: {column} is '{cells[i]}'; expected train, valid or test. Mend the cell.")
    return [splits[cell] for cell in cells]


# Labels


@dataclass(frozen=True)
class _Labels:
    """The labels of a table's rows, and the columns they are from."""

    columns: Sequence[str]
    names: list[str]
    raw: Targets
    several: bool = False
    notes: list[str] = field(default_factory=list)


def _labels(table: Table, form: DatasetSpec, config: DataConfig, taken: set[str]) -> _Labels:
    """One column holds the names of labels, or is a label itself; several are labels, and so are those guessed."""
    chosen = [chosen_column(table, name) for name in config.label_col]
    if twice := next((name for name in chosen if chosen.count(name) > 1), None):
        raise ConfigError(f"label_col: found '{twice}' twice; expected each column once.")
    if not chosen and form.label_column:
        chosen = [form.label_column]
    chosen = chosen or [name for name in form.flags if name in table.columns]
    chosen = chosen or [name for name in usual_columns(table.columns, "labels") if name not in taken][:1]
    if len(chosen) == 1 and (config.task == "single" or not looks_like_flags(table.columns[chosen[0]])):
        return _named_labels(table, chosen[0], form, config)
    columns = chosen or _flag_columns(table, taken)
    names = [clean_label(form.flags.get(name, name)) for name in columns]
    raw = parse_flag_columns(
        {name: table.columns[column] for name, column in zip(names, columns, strict=True)}, table.where
    )
    one = len(columns) == 1
    return _Labels(columns, names, raw, one, [f"'{names[0]}' is the only label: there or not."] if one else [])


def _named_labels(table: Table, column: str, form: DatasetSpec, config: DataConfig) -> _Labels:
    cells = table.columns[column]
    delim = detect_delimiter(set(cells), config.label_delim)
    names, raw = parse_label_cells(cells, delim, table.where, blank_allowed=bool(config.blank))
    if form.no_finding != NO_FINDING:
        names = [NO_FINDING if normalize_label(name) == normalize_label(form.no_finding) else name for name in names]
    notes = []
    if config.label_delim == "auto" and delim != LABEL_JOIN:
        notes = [f"Labels in '{column}' are {'lists' if delim == LIST else f'separated by {delim!r}'}."]
    return _Labels([column], names, raw, notes=notes)


def _flag_columns(table: Table, taken: set[str]) -> list[str]:
    columns = table.columns.items()
    flags = [name for name, cells in columns if name not in taken and looks_like_flags(cells, _FLAG_SHARE)]
    if not flags:
        raise DataError(
            f"{table.file.name}: found the columns {', '.join(table.columns)}, none of which is known to hold "
            "labels; expected one like 'labels', or columns of 0 and 1. Name it or them with --label-col."
        )
    return flags
