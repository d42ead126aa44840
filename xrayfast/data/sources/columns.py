"""Decide, once per table, which column holds what."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from xrayfast.config import DataConfig
from xrayfast.data.demographics import sex_in_name
from xrayfast.data.images.reader import IMAGE_SUFFIXES
from xrayfast.data.labels.flags import (
    SOFT_LABELS,
    are_flags,
    are_fractions,
    are_grades,
    describe_grades,
    have_comments,
    looks_like_flags,
)
from xrayfast.data.labels.names import find_spelling
from xrayfast.data.labels.spellings import spelling_keys
from xrayfast.data.labels.words import is_missing, is_unusable
from xrayfast.data.sources.column_words import (
    DOUBTFUL,
    FOLDS,
    LEFT_OUT,
    READER,
    USUAL_NAMES,
    are_public_and_private,
    describe_no_label,
    has_word,
    is_called,
    is_measured,
    may_be_grade,
    may_tell_split,
    sound_like_splits,
    sounds_like_split,
    tells_split,
    usual_columns,
)
from xrayfast.data.sources.datasets.spec import DatasetSpec
from xrayfast.data.sources.identifiers import key_columns, starts_again
from xrayfast.data.sources.tables.table import Table
from xrayfast.data.splits.words import (
    SPLITS,
    Split,
    parse_split,
    parse_split_flag,
    parse_split_words,
    split_without_flag,
)
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import ConfigError, DataError, did_you_mean, shorten
from xrayfast.errors.advice import quoted
from xrayfast.files.virtual.addresses import suffix_of

_FLAG_SHARE = 0.5
"""A column is read as a label if at least this share of its non-blank cells is 1, 0 or -1; other cells are errors."""

_MOST_REMARKS = 2_000  # distinct cells of a column that are read as remarks
_LONGEST_REMARK = 40  # letters of such a cell


@dataclass(frozen=True)
class Columns:
    """The columns of a table by what they hold; an empty tuple if no column holds it.

    Attributes:
        path_template: an image's path with the `path` columns in braces; "" if it is the cell of one column.
        is_folder: whether the path is that of a folder of images that share the row.
        are_flags: True if there is one column of 1, 0, -1 and blank per label, False if one column holds label names.
        split: one column of train, valid and test, or up to three 0/1 columns: see `parse_split_flag`.
        sex: one column; a 0/1 column if its name says which sex 1 stands for (see `sex_in_name`).
        age: one column, or the spec's `age_columns`.
        view: columns of views, preferred first.
        unused: all other columns that have a name.
        notes: on columns that look as if they hold something that they are not used for.
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
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return text such as "images from 'image'; labels from 'Mass', 'Edema'; patients from 'patient'"."""
        known = {"images": self.path, "labels": self.labels, "splits": self.split, "patients": self.patient}
        known |= {"studies": self.study, "sex": self.sex, "age": self.age, "views": self.view}
        used = "; ".join(f"{what} from {quote(names)}" for what, names in known.items() if names)
        return used + (f"; not used: {quote(self.unused)}" if self.unused else "")


def resolve_columns(table: Table, spec: DatasetSpec, config: DataConfig, known: Collection[str]) -> Columns:
    """Choose the columns that the config names, else the spec's, else those with usual names or contents.

    Columns named like one of the `known` labels, the labels of a run, are labels.

    Raises:
        DataError: a named column is missing, or none is known to hold image paths or labels.
        ConfigError: a column of labels is named twice.
    """
    path, template, is_folder = _path_columns(table, spec, config.path_col)
    filled = [name for name, cells in table.columns.items() if not _is_blank(cells)]
    usual = {role: usual_columns(filled, role) for role in USUAL_NAMES}
    patient, study, sex, age = (tuple(usual[role][:1]) for role in ("patient", "study", "sex", "age"))
    if config.patient_col:
        patient = (require_column(table, config.patient_col),) if is_column_name(config.patient_col) else ()
    if config.study_col:
        study = (require_column(table, config.study_col),) if is_column_name(config.study_col) else ()
    if not age and all(name in table.columns for name in spec.age_columns):
        age = spec.age_columns
    view = tuple(usual["view"])
    taken = {*path, *chain(patient, study, sex, age, view), *known, *spec.flag_columns, spec.label_column}
    taken |= {find_spelling(name, table.columns) or name for name in config.label_col}
    free = [name for name in table.columns if name not in taken and name not in usual["labels"]]
    if config.patient_col is None:
        patient = patient or tuple(key_columns(table.columns, free, "patient")[:1])
    if config.study_col is None:
        keys = key_columns(table.columns, free, "study")
        study = study or tuple(name for name in keys if patient or not starts_again(table.columns[name]))[:1]
    taken |= {*patient, *study}
    split, notes = _split_columns(table, config, [name for name in table.columns if name not in taken])
    if not sex:
        flags = [name for name in table.columns if name not in {*taken, *split} and sex_in_name(name)]
        sex = tuple(name for name in flags if looks_like_flags(table.columns[name], words=True))[:1]
    further = (split, patient, study, sex, age, view)
    taken = {*path, *chain(*further)} - {*known}
    labels, are_flags, label_notes = _label_columns(
        table, spec, config, [name for name in table.columns if name not in taken], known
    )
    taken |= set(labels)
    unused = tuple(name for name in table.columns if name not in taken)
    notes += [
        f"{quote([name])} may mark images to leave out, but is not used: remove their rows from the table."
        for name in unused
        if len(texts := table.columns[name].texts) > 1
        and (is_called(name, LEFT_OUT) or any(map(_says_unusable, texts[:_MOST_REMARKS])))
    ]
    return Columns(path, template, is_folder, labels, are_flags, *further, unused, (*notes, *label_notes))


def _says_unusable(cell: str) -> bool:
    """Whether a part of a remark, such as "copy - delete", says that an image is not to be used."""
    return len(cell) <= _LONGEST_REMARK and any(map(is_unusable, re.split(r"[^\w' ]+", cell)))


def _split_columns(table: Table, config: DataConfig, free: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the column of splits, or the 0/1 columns of splits, and notes on other columns that may hold splits.

    If no column has a usual name for splits, a column is used only if each of its cells is a split and some are train.
    """
    if config.split_col:
        return (require_column(table, config.split_col),), []
    words, mixed, flags, bare = _sort_split_columns(table, free)
    if not flags and "train" in map(parse_split, bare) and _are_exclusive([table.columns[name] for name in bare]):
        flags, bare = bare, []
    by_flag = dict[Split, str]()
    for name in flags:
        if split := parse_split_flag(name) or parse_split(name):
            by_flag.setdefault(split, name)
    found = words[:1] or list(by_flag.values())
    notes = [
        f"{quote([name])} may contain folds, which are not used: --split-col needs a column of train, valid and test."
        for name in free
        if is_called(name, FOLDS) and name not in {*words, *mixed}
    ]
    notes += [
        f"{quote([name])} may contain the split too, but is not used: to use it, give --split-col {quoted(name)}"
        + (
            f", after replacing {shorten(map(repr, sorted(table.columns[name].texts)), 3)} with train, valid and test."
            if name in mixed
            else "."
        )
        for name in [*words, *flags, *mixed, *bare]
        if name not in found
    ]
    if by_flag and not words:
        meaning = ", ".join(f"1 in '{name}' is {split}" for split, name in by_flag.items())
        rest = f"; images without a 1 are {split_without_flag(by_flag)}" if len(by_flag) < len(SPLITS) else ""
        notes.append(f"Splits: {meaning}{rest}.")
    return tuple(found), notes


def _sort_split_columns(table: Table, free: Sequence[str]) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the columns whose cells are all splits; those that may hold splits among others; columns of 1 and 0 named
    for a split as flags; and those named like a split only.
    """
    usual = usual_columns(free, "split")[:1]
    words, mixed, flags, bare = list[str](), list[str](), list[str](), list[str]()
    for name in free:
        cells = table.columns[name].texts
        in_two = parse_split_words(cells) if name in usual or may_tell_split(name) else {}
        splits = {in_two.get(cell) or parse_split(cell) for cell in cells}
        if name in usual and splits - {None}:
            words.insert(0, name)
        elif name in usual:
            mixed.append(name)
        elif "train" in splits and name not in usual_columns(free, "labels"):
            (mixed if None in splits else words).append(name)
        elif looks_like_flags(table.columns[name], words=True):
            if parse_split_flag(name):
                flags.append(name)
            elif parse_split(name) and not tells_split(name):
                bare.append(name)
            elif may_tell_split(name):
                mixed.append(name)
        elif (
            tells_split(name)
            or parse_split_flag(name)
            or sound_like_splits(cells)
            or are_public_and_private(name, cells)
            or (may_tell_split(name) and any(map(sounds_like_split, cells)))
        ):
            mixed.append(name)
    return words, mixed, flags, bare


def _are_exclusive(columns: Sequence[TextColumn]) -> bool:
    """Whether there are several 0/1 columns and no row has a 1 in more than one of them."""
    ones = [column.map_array(lambda cell: cell.strip().lower() in ("1", "1.0", "true"), np.bool_) for column in columns]
    return len(columns) > 1 and bool((np.sum(ones, axis=0) < 2).all())


def is_column_name(chosen: str) -> bool:
    """Whether `patient_col` or `study_col` is a column name, not another way to identify patients or studies."""
    return chosen not in ("none", "name") and not chosen.startswith(("dicom:", "name:"))


def quote(names: Iterable[str]) -> str:
    """Return names in quotes, separated by commas."""
    return shorten((f"'{name}'" for name in names), 20)


def _path_columns(table: Table, spec: DatasetSpec, chosen: str | None) -> tuple[tuple[str, ...], str, bool]:
    """Return the columns of an image's path, the path's template, and whether the path is that of a folder."""
    if chosen:
        return (require_column(table, chosen),), "", False
    in_image_path, in_study_folder = (
        tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name))
        for template in (spec.image_path, spec.study_folder)
    )
    if in_image_path and table.columns.keys() >= set(in_image_path):
        return in_image_path, spec.image_path, False
    if usual := usual_columns(table.columns, "path"):
        return (min(usual, key=lambda name: _is_blank(table.columns[name])),), "", False
    if spec.study_folder:
        return in_study_folder, spec.study_folder, True
    if unread := usual_columns(table.unread, "path"):
        raise _cannot_be_read(table, unread[0])
    by_cells = [name for name, cells in table.columns.items() if _hold_image_names(cells)]
    headless = any(suffix_of(name) in IMAGE_SUFFIXES for name in by_cells)
    if len(by_cells) == 1 and not headless:
        return (by_cells[0],), "", False
    found = f" {quote(by_cells)} hold names of images." if by_cells else ""
    found += " The first line holds an image too: put a line of column names before it." if headless else ""
    raise DataError(
        f"{table.file}: found the columns {', '.join(table.columns)}, but no column of image paths; expected a name "
        f"such as 'image' or 'file'.{found} Name the column with --path-col."
    )


def _is_blank(cells: TextColumn, known: Collection[str] = ()) -> bool:
    """Whether all cells are blank or words for missing values; `known` labels are not."""
    return all(is_missing(cell, known) for cell in cells.texts)


def _hold_image_names(cells: TextColumn) -> bool:
    """Whether most values of a column are different and all end as the names of image files do."""
    names = [text for text in cells.texts if text.strip()]
    return 2 * len(names) > len(cells) and all(suffix_of(name.strip()) in IMAGE_SUFFIXES for name in names)


def _label_columns(
    table: Table, spec: DatasetSpec, config: DataConfig, free: Sequence[str], known: Collection[str]
) -> tuple[tuple[str, ...], bool, list[str]]:
    """Return the label columns, either from the config and spec or guessed among the `free` columns.

    A column whose name says that it holds something else (see `describe_no_label`) is only used if it is a known label.
    Return also whether these are columns of 1, 0, -1 and blank; and notes on columns whose names decided on their use.
    """
    chosen = [require_column(table, name) for name in config.label_col]
    if twice := next((name for name in chosen if chosen.count(name) > 1), None):
        raise ConfigError(f"label_col: found '{twice}' twice; expected each column once.")
    if not chosen and spec.label_column:
        chosen = [spec.label_column]
    chosen = chosen or [name for name in spec.flag_columns if name in table.columns]
    usual = [name for name in usual_columns(table.columns, "labels") if name in free]
    filled = [name for name in usual if not _is_blank(table.columns[name], known)]
    if not any(looks_like_flags(table.columns[name]) for name in free):
        filled = filled or usual
    chosen = chosen or filled[:1]
    if len(chosen) == 1 and (config.task == "single" or not looks_like_flags(table.columns[chosen[0]], known=known)):
        return tuple(chosen), False, []
    no_label = {name: "" if name in known else describe_no_label(name) for name in free}
    if chosen:
        others = [name for name in free if name not in chosen and not no_label[name] and not has_word(name, DOUBTFUL)]
        others = [name for name in others if looks_like_flags(table.columns[name])]
        is_guess = not (config.label_col or known or spec.label_column or spec.flag_columns)
        note = f"Labels are read from {quote(chosen)}; other columns contain 1 and 0 too: {quote(others)}."
        advice = "Name the columns to use with --label-col."
        return tuple(chosen), True, [f"{note} {advice}"] if others and is_guess else []
    labels, are_flags, notes = _guess_label_columns(table, free, no_label, known)
    if usual:
        notes.append(f"Not used as labels, because all cells are blank: {quote(usual)}.")
    return labels, are_flags, notes


def _guess_label_columns(
    table: Table, free: Sequence[str], no_label: Mapping[str, str], known: Collection[str]
) -> tuple[tuple[str, ...], bool, list[str]]:
    """Return the columns of 1 and 0 that hold labels by their names, as `_label_columns` does."""
    chosen = list[str]()
    for words in (False, True):
        flags = [name for name in free if looks_like_flags(table.columns[name], _FLAG_SHARE, words=words)]
        chosen = chosen or [name for name in flags if not no_label[name]]
    if not known:  # other spellings without a 1: they may contradict these or fill their blank cells
        keys = dict(zip(free, spelling_keys(free), strict=True))
        others = [
            name for name in free if keys[name] in {keys[one] for one in chosen} and are_flags(table.columns[name])
        ]
        chosen = [name for name in free if name in {*chosen, *others}]
    notes = _note_unused(table, free, chosen, flags, no_label)
    if not chosen:
        if unread := usual_columns(table.unread, "labels"):
            raise _cannot_be_read(table, unread[0])
        raise DataError(
            f"{table.file}: found the columns {', '.join(table.columns)}, but no column of labels; expected one such "
            f"as 'labels', or columns of 0 and 1. Name the columns of labels with --label-col.",
            *notes,
        )
    doubtful = [name for name in chosen if name not in known and has_word(name, DOUBTFUL)]
    if doubtful and len(chosen) > len(doubtful):
        notes.append(
            "Used as labels, because they contain 1 and 0, although their names suggest a patient's sex, history or "
            f"outcome, the origin of the images, or a single reader: {quote(doubtful)}. If they are not labels, name "
            "only the columns of labels with --label-col."
        )
    elif len(doubtful) > 1 and all(has_word(name, READER) for name in doubtful):
        notes.append(
            f"The names of {quote(doubtful)} suggest readers, and each column is used as a label of its own. If they "
            "are readings of one label, join them, such as by majority, in one column, and name that with --label-col."
        )
    return tuple(chosen), True, notes


def _note_unused(
    table: Table, free: Sequence[str], chosen: Sequence[str], flags: Sequence[str], no_label: Mapping[str, str]
) -> list[str]:
    """Return notes on the columns that hold scores, grades or no 1, or something else than labels by their names.

    `free` columns may hold labels and `chosen` ones do; `no_label` gives what else a column holds by its name, or "".
    """
    notes = list[str]()
    if worded := [name for name in flags if not no_label[name] and name not in chosen]:
        notes.append(
            f"Not used as labels, because they contain words and other columns contain 1 and 0: {quote(worded)}. To "
            f"use both, name them with --label-col."
        )
    if soft := [name for name in free if not is_measured(name, no_label[name]) and are_fractions(table.columns[name])]:
        notes.append(
            f"Not used as labels, because they contain scores, such as fractions between 0 and 1: {quote(soft)}. "
            f"{SOFT_LABELS}"
        )
    others = [name for name in free if name not in {*chosen, *flags}]
    if grades := [n for n in others if may_be_grade(n, no_label[n]) and are_grades(table.columns[n])]:
        notes.append(
            f"Not used as a label, because its values look like grades: {quote(grades[:1])}. To use it, "
            f"{describe_grades(grades[0])}"
            if len(grades) == 1
            else f"Not used as labels, because their values look like grades: {quote(grades)}. To use them, make "
            f"columns of 1 and 0 with a threshold, such as 1 for values of 2 or more."
        )
    if no_1 := [name for name in others if not no_label[name] and are_flags(table.columns[name])]:
        notes.append(f"Not used as labels, because they contain 0 but no 1: {quote(no_1)}.")
    if commented := [name for name in others if not no_label[name] and have_comments(table.columns[name])]:
        notes.append(
            f"Not used as labels, because some cells have words beside 1, 0, yes or no: {quote(commented)}. To use "
            f"them, write 1, 0, -1 (uncertain) or nothing into these cells."
        )
    if left_out := [f"'{name}' ({no_label[name]})" for name in flags if no_label[name] not in ("", "the split")]:
        notes.append(
            f"Not used as labels, because of their names: {shorten(left_out, 20)}. To use one, name it with "
            f"--label-col."
        )
    return notes


def describe_label_columns(table: Table, columns: Columns) -> str:
    """Return a sentence on which column was read as labels, and which unused columns look like labels."""
    usual = usual_columns(columns.unused, "labels")
    flags = [
        name
        for name in columns.unused
        if not describe_no_label(name) and not has_word(name, DOUBTFUL) and looks_like_flags(table.columns[name])
    ]
    others = [name for name in columns.unused if name in {*usual, *flags}]
    found = f"these columns look like labels: {quote(others)}" if others else "no other column looks like labels"
    return f"Labels are read from {quote(columns.labels)}; {found}. Name the columns of labels with --label-col."


def require_column(table: Table, name: str) -> str:
    """Return the column with this name, or with another spelling of it; raise a DataError if there is none."""
    if found := find_spelling(name, table.columns):
        return found
    if unread := find_spelling(name, table.unread):
        raise _cannot_be_read(table, unread)
    if "," in name and all(find_spelling(part.strip(), table.columns) for part in name.split(",")):
        raise DataError(
            f"{table.file}: found no column '{name}', but columns of the names in it; expected a list of columns: "
            f"--label-col {shlex.quote(','.join(part.strip() for part in name.split(',')))}."
        )
    raise DataError(
        f"{table.file}: found no column '{name}'; expected one of {', '.join(table.columns)}."
        f"{did_you_mean(name, table.columns)}"
    )


def _cannot_be_read(table: Table, name: str) -> DataError:
    """Return the error for a needed column whose cells can't be read as text."""
    return DataError(
        f"{table.file}: found {table.unread[name]} in '{name}'; expected texts or numbers. Save images as files and "
        f"write their paths into the table; write labels as texts, lists of texts, or columns of 1 and 0. The "
        f"guide's page on tables shows the code."
    )
