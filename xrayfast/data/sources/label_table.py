"""Read the images that a label table lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xrayfast.config import DataConfig
from xrayfast.data.arrays import Places
from xrayfast.data.demographics import (
    names_other_region,
    parse_ages,
    parse_sexes,
    parse_views,
    sex_in_name,
    sexes_from_flags,
    view_in_description,
)
from xrayfast.data.labels.cells import (
    LIST,
    is_list,
    mark_uncertain,
    note_delimiters,
    parse_label_cells,
    resolve_delimiter,
)
from xrayfast.data.labels.flags import SOFT_LABELS, are_fractions, looks_like_flags, note_missing, parse_flags
from xrayfast.data.labels.label_map import names_in_map
from xrayfast.data.labels.names import LABEL_JOIN, NO_FINDING, clean_label, normalize_label
from xrayfast.data.labels.targets import UNCERTAIN, RawLabels, Where, not_single_label
from xrayfast.data.labels.words import is_missing
from xrayfast.data.sources.column_words import BIRTH, BODY_PART, MODALITY, RADIOGRAPHY, is_called, usual_columns
from xrayfast.data.sources.columns import Columns, describe_label_columns, require_column, resolve_columns
from xrayfast.data.sources.competing import note_other_files, note_other_folders, note_other_labels
from xrayfast.data.sources.datasets.registry import read_dataset_table
from xrayfast.data.sources.datasets.spec import GENERIC, DatasetSpec
from xrayfast.data.sources.identifiers import (
    blank_placeholders,
    name_studies,
    note_contradictions,
    note_keys,
    note_origins,
)
from xrayfast.data.sources.locate import RowFiles, locate_files
from xrayfast.data.sources.records import NO_FILE, ImageRecords
from xrayfast.data.sources.tables.table import Table
from xrayfast.data.splits.words import (
    Split,
    note_split_words,
    parse_split,
    parse_split_flag,
    parse_split_flags,
    parse_splits,
)
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError, plural, shorten, truncate
from xrayfast.errors.advice import quoted

_VALUES_IN_NAME = re.compile(r"\s*[(\[]([01\s/|,;:=-]|yes|no|y/n|binary|flag)+[)\]]$", re.IGNORECASE)
"""The suffix of a 0/1 column's name that says which values it holds, as in "Effusion (0/1)"."""

_QUOTED = re.compile(r"(['\"\[])([^'\"\[\]]+)['\"\]]")
"""A name in quotes or brackets."""


def read_label_table(file: Path, root: Path, config: DataConfig, known: Collection[str] = ()) -> ImageRecords:
    """Read the table, resolve its columns, locate the files, parse the labels, and build the records.

    Files are looked up first under `root`, the source folder's absolute path. A cell that equals one of the `known`
    labels, the labels of a run, is that label.

    Raises:
        DataError: the file can't be read as a table, a column is missing, a cell can't be parsed, or an image is not
            found, could be one of several, or has two rows.
        ConfigError: a column of labels is named twice.
    """
    table, spec = read_dataset_table(file)
    of_run, known = bool(known), {*known, *names_in_map(config.label_map)}
    columns = resolve_columns(table, spec, config, known)
    files = locate_files(table, columns, spec, root, config.missing)
    if files.missing:
        kept = np.unique(files.rows)
        table = table.select(kept.tolist())
        files = replace(files, rows=np.searchsorted(kept, files.rows), first=np.searchsorted(kept, files.first))
    raw, label_notes = _parse_labels(table, columns, spec, config, known, of_run)
    records = ImageRecords(
        files.names,
        files.paths,
        replace(raw, matrix=files.merge_rows(raw.matrix)),
        where=lambda i: table.where(int(files.first[i])),
        companions=table.companions,
        describe_columns=lambda: describe_label_columns(table, columns),
        notes=[*table.notes],
    )
    if spec is not GENERIC:
        records.notes.append(f"The columns of {file.name} are those of {spec.name}. {spec.note}".rstrip())
    records.notes += [f"Columns of {file.name}: {columns}.", *files.notes, *columns.notes, *label_notes]
    if spec is GENERIC:
        if not config.label_col:
            records.notes += note_other_labels(table, columns, raw.names, raw.matrix, may_choose=of_run)
        if not config.path_col:
            records.notes += note_other_files(table, columns, files, spec, root, may_choose=of_run)
        records.notes += note_other_folders(records, raw.names)
    records.notes += _note_unusual(table, columns, files.first)
    _note_rows(records, files, file.name)
    if (config.ignore_split or config.split_file) and columns.split:
        records.splits, columns = [None] * len(records.names), replace(columns, split=())
    _add_metadata(records, table, columns, spec, files.first)
    if shared := {*columns.patient} & {*columns.sex, *columns.age, *columns.view}:
        records.notes.append(
            f"{quoted(shared.pop())} is the column of patients, but looks like one of sex, age or view: images with "
            f"the same value count as one patient's. If that is wrong, name another column with --patient-col."
        )
    if records.patients and config.patient_col is None and spec is not GENERIC and not spec.patient_in_path:
        records.archive = spec.name
    if config.patient_col is None:
        records.notes += _note_keys(records, table, columns, files.first)
    spec.complete_records(records, file)
    if records.splits is None and config.split_file is None:
        records.notes += _note_test_list(file, spec)
    return records


def _note_rows(records: ImageRecords, files: RowFiles, table: str) -> None:
    """Note rows that are left out because they have no file, and rows that are merged because they share one."""
    if files.missing:
        records.notes.append(
            f"{plural(len(files.missing), 'row')} of {table} left out, because the image file is missing: "
            f"{shorten(files.missing)}."
        )
        records.left_out.append((NO_FILE, files.missing))
    if len(files.names) < len(files.rows):
        records.notes.append(
            f"{len(files.rows):,} rows describe {plural(len(files.names), 'image')}: the rows of an image are merged, "
            f"and a label is 1 if it is 1 in any of them."
        )


def _note_test_list(file: Path, spec: DatasetSpec) -> list[str]:
    """Return a note on a list of the data set's own test images next to its table."""
    if not (spec.test_list and (listed := file.with_name(spec.test_list)).is_file()):
        return []
    return [
        f"{listed.name} next to {file.name} lists the data set's own test split: to use it, give --split-file "
        f"{quoted(listed)}."
    ]


def read_further_columns(file: Path, root: Path, config: DataConfig, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read further columns of the table as cells by column and then by image name, stripped and "" if missing.

    If an image has several rows, its first row counts.
    """
    table, spec = read_dataset_table(file)
    cells = {name: table.columns[require_column(table, name)] for name in names}
    # All columns count as known labels, so that none is rejected as a label; only the path columns matter here.
    files = locate_files(table, resolve_columns(table, spec, config, table.columns), spec, root, "skip")
    pairs = list(zip(files.names, files.first.tolist(), strict=True))
    return {
        name: {image: texts[row] for image, row in pairs}
        for name, texts in ((name, column.replace(_strip)) for name, column in cells.items())
    }


def _parse_labels(
    table: Table, columns: Columns, spec: DatasetSpec, config: DataConfig, known: Collection[str], of_run: bool
) -> tuple[RawLabels, list[str]]:
    """Parse the labels of the rows, and return notes; `of_run` says whether `known` includes the labels of a run."""
    if columns.are_flags:
        plain = {
            name: clean_label(_QUOTED.sub(r"\2", _VALUES_IN_NAME.sub("", name)) or name) for name in columns.labels
        }
        plain = plain if len(set(plain.values())) == len(plain) else dict(zip(plain, plain, strict=True))
        cells_of = {spec.flag_columns.get(name, plain[name]): table.columns[name] for name in columns.labels}
        names, alone = list(cells_of), len(cells_of) == 1
        matrix = parse_flags(cells_of, table.where)
        raw = RawLabels(names, matrix, spec.multi_label or alone, blank=spec.blank, flags=True)
        notes = [*note_missing(cells_of, are_flags=True), *note_delimiters(names, "", "column")]
        return raw, notes
    column = columns.labels[0]
    cells = table.columns[column]
    if not of_run and are_fractions(cells, known):
        if usual_columns([column], "age"):
            raise DataError(f"{table.file}: found ages, not labels. {describe_label_columns(table, columns)}")
        raise DataError(f"{table.file}: found scores, such as fractions between 0 and 1, in '{column}'. {SOFT_LABELS}")
    delim = resolve_delimiter(cells.texts, config.label_delim)
    names, certain = parse_label_cells(cells, delim, table.where, blank_allowed=bool(config.blank), known=known)
    names, matrix, uncertain = mark_uncertain(names, certain, known)
    if uncertain and not (of_run or config.uncertain or config.task == "multi" or len(not_single_label(certain))):
        row = int((matrix == UNCERTAIN).any(1).argmax())
        raise DataError(
            f"{table.where(row)}: found '{cells[row].strip()}', which is an uncertain label, and "
            f"{plural(sum(uncertain.values()) - 1, 'more row')} like it ({shorten(map(repr, uncertain))}), in a "
            f"column of one label per cell; expected certain labels. --uncertain ones reads them as the label that "
            f"they name; --uncertain ignore masks that label, which makes the task multi-label; a line of "
            f"--label-map, such as '{next(iter(uncertain))} = {next(iter(uncertain))}', makes them separate labels."
        )
    if spec.no_finding != NO_FINDING:
        own_name = normalize_label(spec.no_finding)
        names = [NO_FINDING if normalize_label(name) == own_name else name for name in names]
    notes = note_missing({column: cells}, known)
    if config.label_delim == "auto" and delim != LABEL_JOIN:
        notes.append(f"Labels in '{column}' are {'lists' if delim == LIST else f'separated by {delim!r}'}.")
    elif config.label_delim != "auto" and not any(delim in cell for cell in cells.texts):
        notes.append(f"label_delim ({delim}) has no effect: no cell of '{column}' contains it.")
    if delim != LIST and (lists := int(cells.map_array(is_list, np.bool_).sum())):
        notes.append(f"Cells of '{column}' that contain lists of labels: {lists}.")
    if uncertain:
        listed = shorten((f"{name!r} ({rows})" for name, rows in uncertain.items()), 20)
        notes.append(f"Read as uncertain (-1): {listed}. --uncertain sets how they are used.")
    notes += note_delimiters([name for name in names if name not in known], delim)
    return RawLabels(names, matrix, spec.multi_label, blank=spec.blank), notes


def _add_metadata(records: ImageRecords, table: Table, columns: Columns, spec: DatasetSpec, rows: Places) -> None:
    """Add split, patient, study, sex, age and view from each image's first row."""

    def cells(names: Sequence[str]) -> list[TextColumn]:
        return _of_images(table, names, rows)

    def identifiers(names: Sequence[str]) -> list[TextColumn]:
        """Return the columns stripped, with "" for words such as "nan", which must not group images."""
        found = cells(names)
        records.notes += note_missing(dict(zip(names, found, strict=True)))
        return [column.replace(_strip) for column in found]

    if split := cells(columns.split):
        records.splits = _parse_split_columns(dict(zip(columns.split, split, strict=True)), records.where)
        records.notes += note_split_words(split[0].texts)
    for column in identifiers(columns.patient):
        records.patients = column if any(column.texts) else None
    for column in identifiers(columns.study):
        records.studies = name_studies(columns.study[0], column, records.patients)
    for column in cells(columns.sex):
        sex = sex_in_name(columns.sex[0])
        records.sexes, notes = parse_sexes(sexes_from_flags(column, sex) if sex else column)
        records.notes += notes
    if age := cells(columns.age):
        records.ages, notes = parse_ages(spec.ages_of(*age) if columns.age == spec.age_columns else age[0])
        records.notes += notes
    if view := identifiers(columns.view):
        records.views = parse_views(*view)


def _note_keys(records: ImageRecords, table: Table, columns: Columns, rows: Places) -> list[str]:
    """Return notes on unused identifier-like columns with values that are on images of several patients or splits."""
    cells = dict(zip(columns.unused, _of_images(table, columns.unused, rows), strict=True))
    together: Sequence[str] = records.patients or records.studies or [""] * len(rows)
    patients, _ = blank_placeholders(records.patients or [""] * len(rows))
    noted = note_origins(cells, columns.unused, patients)
    for name in (name for name in columns.unused if is_called(name, BIRTH)):
        noted += note_contradictions(cells[name], patients, f"'{name}'")
    if records.splits:
        together = [owner or split or "" for owner, split in zip(together, records.splits, strict=True)]
    return noted + note_keys(cells, columns.unused, together)


_UNUSUAL: tuple[tuple[re.Pattern[str], Callable[[str], bool], str], ...] = (
    (MODALITY, lambda cell: not RADIOGRAPHY.search(cell), "of another modality than radiography"),
    (BODY_PART, names_other_region, "of another part of the body than the chest"),
    (BODY_PART, lambda cell: view_in_description(cell) == "LATERAL", "with a lateral view"),
)
"""Which columns by name and which of their cells say that an image is no frontal chest radiograph, and what it is."""


def _note_unusual(table: Table, columns: Columns, rows: Places) -> list[str]:
    """Return notes on images that are no frontal chest radiographs according to an unused column."""
    notes = []
    for meant, says_so, what in _UNUSUAL:
        names = [name for name in columns.unused if is_called(name, meant)]
        for name, cells in zip(names, _of_images(table, names, rows), strict=True):
            others = {text: n for text, n in cells.counts().items() if not is_missing(text) and says_so(text.strip())}
            if others:
                listed = shorten((f"{truncate(text.strip(), 30)} {n}" for text, n in others.items()), 5)
                notes.append(
                    f"{plural(sum(others.values()), 'image')} {what} according to '{name}' ({listed}): used like the "
                    f"others. If these are not meant, remove their rows from the table."
                )
    return notes


def _of_images(table: Table, names: Sequence[str], rows: Places) -> list[TextColumn]:
    """Return the cells of some columns in the images' first rows."""
    found = [table.columns[name] for name in names]
    return found if len(rows) == len(table) else [column.take(rows) for column in found]


def _strip(cell: str) -> str:
    """Return the cell without surrounding spaces; "" if it is a word for a missing value."""
    return "" if is_missing(cell) else cell.strip()


def _parse_split_columns(columns: Mapping[str, TextColumn], where: Where) -> Sequence[Split | None]:
    """Parse splits from one column of words, or from 0/1 columns that are named for splits."""
    flag_of = {parse_split_flag(name) or parse_split(name): name for name in columns}
    if any(not looks_like_flags(cells, words=True) for cells in columns.values()) or None in flag_of:
        name, cells = next(iter(columns.items()))
        return parse_splits(cells, name, where)
    matrix = parse_flags(columns, where)
    # In a column without a 0, every cell but a 1 counts as 0, like an unchecked box; a word such as "unknown" does not.
    filled = np.column_stack([cells.map_array(lambda cell: bool(cell.strip()), np.bool_) for cells in columns.values()])
    matrix[~(matrix == 0).any(0) & (matrix != 1) & ~(np.isnan(matrix) & filled)] = 0
    return parse_split_flags({split: matrix[:, j] for j, split in enumerate(flag_of) if split}, where)
