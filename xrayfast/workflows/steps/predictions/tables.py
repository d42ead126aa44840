"""Read a table of truth and probabilities, written by any tool, as `Predictions`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.config import Task
from xrayfast.data.demographics import parse_ages, parse_sexes, parse_views
from xrayfast.data.labels.names import LABEL_JOIN, find_spelling
from xrayfast.data.labels.words import is_normal
from xrayfast.data.sources.column_words import key_role, simplify_column_name, usual_columns
from xrayfast.data.sources.identifiers import blank_placeholders, join_spellings
from xrayfast.data.sources.tables import read_table
from xrayfast.data.sources.tables.table import Table
from xrayfast.data.splits.words import parse_split
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError, did_you_mean, plural, shorten
from xrayfast.metrics.scoring import mean_log_loss
from xrayfast.runs.predictions import MAX_AGE, Predictions
from xrayfast.workflows.steps.predictions.own import read_groups

PROBABILITY_WORDS = ("prob", "probability", "proba", "score", "p", "pred")
"""Words that name probabilities, preferred first: `prob` or `y_prob` for a single label, `prob_LABEL` for each label.

Several columns of one word are preferred to one, because one may be of something else, such as `pred_label`.
"""

TRUTH_PREFIXES = ("truth_", "true_", "target_", "y_true_", "actual_", "gt_", "y_", "label_")
"""Prefixes of the columns of truth, 1 or 0 per label; without such columns, one column names the labels of a row."""

_TRUTH = (
    "truth", "ytrue", "truelabel", "truelabels", "trueclass", "actual", "groundtruth", "gt", "target", "label",
    "labels", "y", "class",
)  # fmt: skip
_POSITIVE = "positive"
_CELLS = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "0": 0, "0.0": 0, "false": 0, "no": 0}
_MINUS_ONE = ("-1", "-1.0")
_MASKED = ("", "nan", *_MINUS_ONE)
_SUM_TOLERANCE = 0.02
"""How far the sum of the classes' probabilities may be from 1, to allow for rounding."""


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """The content of a table of predictions.

    Attributes:
        predictions: the given probabilities, both as `raw` and as calibrated; the log loss of each image.
        task: the given task; by default "single" if each image has one class and probabilities add up to 1, else
            "multi".
    """

    predictions: Predictions
    task: Task
    notes: tuple[str, ...]


def read_prediction_table(
    source: pd.DataFrame | Path, task: Task | None = None, patient_col: str | None = None, by: Sequence[str] = ()
) -> PredictionTable:
    """Read predictions of any tool.

    Columns, in any order: the image (`image`, `file`, ...); the patient (`patient`, ...), if known; probabilities in
    [0, 1]: `prob_LABEL` for each label, or one column such as `prob` for a single label; the truth: one column that
    names the labels of the image, joined with '|', or `truth_LABEL` for each label, with 1, 0, or nothing if masked.
    The files in `predictions/` of a run's folder have this form. Sex, age and view are read from columns of these
    names.
    """
    table = _from_frame(source) if isinstance(source, pd.DataFrame) else read_table(source)
    where, notes = str(table.file), list(table.notes)
    by_label = _probability_columns(table, notes)
    labels = tuple(by_label)
    probability = np.column_stack([_probabilities(table, name) for name in by_label.values()])
    if np.isin(probability, (0, 1)).all():
        notes.append(
            "All probabilities are 0 or 1. If these are decisions, only accuracy, recall and the like have a meaning, "
            "not AUROC, calibration and thresholds."
        )
    truth = _truth(table, labels, set(by_label.values()), notes)
    if len(labels) == 1 and task is None:
        labels, probability, truth = _two_classes(labels[0], probability, truth)
    table, probability, truth = _leave_out_blank(table, probability, truth, task, notes)
    single = len(labels) > 1 and bool(((truth == 1).sum(axis=1) == 1).all() and (truth >= 0).all())
    sums = probability.sum(axis=1)
    complete = bool((abs(sums - 1) <= _SUM_TOLERANCE).all())
    if task == "single" and not (single and complete):
        row = int(np.argmax((abs(sums - 1) > _SUM_TOLERANCE) | ((truth == 1).sum(axis=1) != 1)))
        raise DataError(
            f"{where}: task is single, but {table.where(row)} has {plural(int((truth[row] == 1).sum()), 'label')} "
            f"and probabilities that add up to {sums[row]:.3g}; expected one label, and a sum of 1. Include all "
            "classes, or use task multi."
        )
    chosen: Task = task or ("single" if single and complete else "multi")
    if task is None:
        kind = "one class (single-label)" if chosen == "single" else "any number of labels (multi-label)"
        notes.append(f"Each image is assumed to have {kind}: {shorten(labels, 20)}. Use --task to change this.")
        if single and not complete:
            notes.append("Each image has one label, but its probabilities do not add up to 1.")
        elif complete and len(labels) > 1 and not single:
            others = plural(int(((truth == 1).sum(axis=1) != 1).sum()), "image")
            notes.append(
                f"Probabilities add up to 1, but not every image has one label: {others} with none or several."
            )
    if chosen == "single":
        probability = probability / sums[:, None]
    images = _images(table, notes)
    patients = _patients(table, patient_col, notes)
    notes += _splits(table)
    return PredictionTable(
        Predictions(
            labels=labels,
            images=images,
            patients=patients,
            truth=truth,
            probability=probability,
            loss=mean_log_loss(truth, probability, chosen == "single"),
            raw=probability,
            attributes=_people(table) | {name: _groups(table, name) for name in by},
        ),
        chosen,
        tuple(notes),
    )


def _from_frame(frame: pd.DataFrame) -> Table:
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"the DataFrame has the column '{twice}' twice; expected each column once. Rename one of them.")
    cells = {
        str(name): TextColumn.of(
            "" if missing else str(cell) for cell, missing in zip(column, column.isna(), strict=True)
        )
        for name, column in frame.items()
    }
    if not len(frame) or not cells:
        raise DataError("the DataFrame has no rows; expected one for each image.")
    return Table(Path("DataFrame"), cells, lambda i: f"row {i}")


def _column(columns: Mapping[str, Sequence[str]], name: str, where: str) -> Sequence[str]:
    if name not in columns:
        raise DataError(f"{where}: has no column '{name}'; found {shorten(columns, 20)}.{did_you_mean(name, columns)}")
    return columns[name]


def _prefixed(columns: Iterable[str], prefix: str) -> dict[str, str]:
    """Return the columns with a prefix, keyed by the rest of their names."""
    return {
        name[len(prefix) :]: name for name in columns if name.lower().startswith(prefix) and len(name) > len(prefix)
    }


def _named(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the column whose simplified name is the first in `names` that occurs; None if none occurs."""
    found = {simplify_column_name(name): name for name in reversed(list(columns))}
    return next((found[name] for name in names if name in found), None)


def _probability_columns(table: Table, notes: list[str]) -> dict[str, str]:
    """Return the columns of probabilities, keyed by label."""
    found: list[dict[str, str]] = []
    for word in PROBABILITY_WORDS:
        names = (word,) if word == "pred" else (word, f"y{word}")  # y_pred usually holds decisions
        if one := _named(table.columns, names):
            found.append({_POSITIVE: one})
        found.append(_prefixed(table.columns, f"{word}_"))
    chosen = next((columns for columns in found if len(columns) > 1), next(filter(None, found), None))
    if chosen is None:
        raise DataError(
            f"{table.file}: found no probabilities among the columns {shorten(table.columns, 20)}; expected prob_LABEL "
            "for each label, or prob for a single one."
        )
    _note_choice("Probabilities are", chosen.values(), (name for columns in found for name in columns.values()), notes)
    return chosen


def _note_choice(read: str, used: Iterable[str], candidates: Iterable[str], notes: list[str]) -> None:
    """Note which columns are read, if there were others whose names suggest the same content."""
    used = list(used)
    if others := [name for name in dict.fromkeys(candidates) if name not in used]:
        listed = [shorten((f"'{name}'" for name in names), 20) for names in (used, others)]
        notes.append(f"{read} read from {listed[0]}, not from {listed[1]}.")


def _probabilities(table: Table, name: str) -> NDArray[np.float64]:
    values = np.empty(len(table))
    for row, cell in enumerate(table.columns[name]):
        try:
            values[row] = float(cell)
        except ValueError:
            values[row] = math.nan
        if not 0 <= values[row] <= 1:
            raise DataError(
                f"{table.where(row)}: {name} is '{cell}'; expected a probability from 0 to 1. Apply a "
                "sigmoid or softmax to logits, and divide per cent by 100."
            )
    return values


def _truth(table: Table, labels: Sequence[str], taken: set[str], notes: list[str]) -> NDArray[np.int64]:
    """Return the truth, (N, L): 1, 0, or -1 where masked."""
    free = [name for name in table.columns if name not in taken]
    groups = [_prefixed(free, prefix) for prefix in TRUTH_PREFIXES]
    columns = next(filter(None, groups), {})
    named = _named(free, _TRUTH)
    candidates = [name for group in groups for name in group.values()] + ([named] if named else [])
    if columns and not (named and set(columns) != set(labels)):
        _note_choice("The truth is", columns.values(), candidates, notes)
        return _truth_of_flags(table, labels, columns, notes)
    if named is None:
        raise DataError(
            f"{table.file}: found no truth among the columns {shorten(free, 20)}; expected a column truth with the "
            "labels of each image, or truth_LABEL for each label."
        )
    _note_choice("The truth is", [named], candidates, notes)
    if len(labels) == 1:
        _check_minus_one(table, named, notes)
    return _truth_of_names(table, labels, named)


def _truth_of_flags(
    table: Table, labels: Sequence[str], columns: Mapping[str, str], notes: list[str]
) -> NDArray[np.int64]:
    """Return the truth from one column of 1 and 0 per label; `columns` are keyed by the labels in their names."""
    truth, left = np.zeros((len(table), len(labels)), dtype=np.int64), dict(columns)
    for i, label in enumerate(labels):
        key = label if label in left else find_spelling(label, left)
        if key is None:
            raise DataError(
                f"{table.file}: has probabilities of '{label}' but no truth; found truth of {shorten(columns, 20)}."
            )
        name = left.pop(key)
        _check_minus_one(table, name, notes)
        truth[:, i] = [_cell(table, row, f"truth of {label}", cell) for row, cell in enumerate(table.columns[name])]
    if left:
        notes.append(f"Left out, because they have truth but no probabilities: {shorten(left.values())}.")
    return truth


def _truth_of_names(table: Table, labels: Sequence[str], column: str) -> NDArray[np.int64]:
    """Return the truth from a column of the names of each image's labels, and from the column `masked` of a run."""
    truth = np.zeros((len(table), len(labels)), dtype=np.int64)
    for row, cell in enumerate(table.columns[column]):
        if len(labels) == 1 and find_spelling(cell, labels) is None:
            value = 0 if is_normal(cell) else _cell(table, row, column, cell)
            truth[row, 0] = min(value, 0) if labels[0] in _CELLS else value  # "prob_0" beside 1: the other class
            continue
        for name in filter(None, map(str.strip, cell.split(LABEL_JOIN))):
            key = name if name in labels else find_spelling(name, labels)
            if key is None:
                raise DataError(
                    f"{table.where(row)}: {column} has '{name}'; expected {shorten(labels, 20)}; several are "
                    f"separated by '{LABEL_JOIN}'.{did_you_mean(name, labels)}"
                )
            truth[row, labels.index(key)] = 1
    for row, cell in enumerate(table.columns.get("masked", ())):
        truth[row, [labels.index(name) for name in cell.split(LABEL_JOIN) if name in labels]] = -1
    return truth


def _check_minus_one(table: Table, name: str, notes: list[str]) -> None:
    """Note cells of -1, which mask; refuse -1 beside 1 without a 0, where it may mean that the label is absent."""
    counts = {text.strip().lower(): count for text, count in table.columns[name].counts().items()}
    if not (masked := sum(counts.get(text, 0) for text in _MINUS_ONE)):
        return
    if not any(_CELLS.get(text) == 0 or is_normal(text) for text in counts):
        raise DataError(
            f"{table.file}: {name} has -1 but no 0; expected 0 where the label is absent, and -1 or an empty cell only "
            "where the truth is not known. Write 0 instead of -1, or clear these cells."
        )
    notes.append(f"{plural(masked, 'cell')} of -1 in '{name}' left out: -1 means that the truth is not known.")


def _cell(table: Table, row: int, name: str, cell: str) -> int:
    text = cell.strip().lower()
    if text in _MASKED:
        return -1
    if text not in _CELLS:
        raise DataError(f"{table.where(row)}: {name} is '{cell}'; expected 1, 0, or an empty cell if it is not known.")
    return _CELLS[text]


def _images(table: Table, notes: list[str]) -> NDArray[np.object_]:
    column = next(iter(usual_columns(table.columns, "path")), None)
    if column is None:
        notes.append(
            "No column contains image names: images are numbered by row, and each row counts as a different image."
        )
        return np.array([f"row {i + 1}" for i in range(len(table))], dtype=object)
    names = pd.Index(table.columns[column])
    if names.has_duplicates:
        twice = str(names[names.duplicated()][0])
        raise DataError(
            f"{table.file}: the image '{twice}' is in several rows; expected one row per image. Average its "
            "predictions."
        )
    return np.array(table.columns[column], dtype=object)


def _two_classes(
    label: str, probability: NDArray[np.float64], truth: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.int64]]:
    """Turn a single label into two classes: its absence and its presence."""
    negative = "negative" if label == _POSITIVE else f"no {label}"
    both = np.hstack([np.where(truth < 0, 0, 1 - truth), np.where(truth < 0, 0, truth)])
    return (negative, label), np.hstack([1 - probability, probability]), both


def _leave_out_blank(
    table: Table, probability: NDArray[np.float64], truth: NDArray[np.int64], task: Task | None, notes: list[str]
) -> tuple[Table, NDArray[np.float64], NDArray[np.int64]]:
    """Leave out images without truth, if all others have exactly one class and probabilities that add up to 1."""
    labeled = (truth == 1).sum(axis=1)
    blank = (labeled == 0) & (truth >= 0).all(axis=1)
    if task == "multi" or not blank.any() or blank.all() or truth.shape[1] < 2 or (labeled > 1).any():
        return table, probability, truth
    if (abs(probability.sum(axis=1) - 1) > _SUM_TOLERANCE).any():
        return table, probability, truth
    notes.append(
        f"{plural(int(blank.sum()), 'image')} without truth left out. Use --task multi to count such images as "
        "having no label."
    )
    rows = np.flatnonzero(~blank)
    return table.select(rows.tolist()), probability[rows], truth[rows]


def _people(table: Table) -> dict[str, NDArray[Any]]:
    read: dict[str, Callable[[Sequence[str]], Sequence[Any]]]
    read = {"sex": lambda cells: parse_sexes(cells)[0], "age": lambda cells: parse_ages(cells)[0], "view": parse_views}
    found: dict[str, NDArray[Any]] = {}
    for name, parse in read.items():
        for column in list(usual_columns(table.columns, name))[:1]:
            values = pd.Series(list(parse(table.columns[column])))
            if values.notna().any():
                found[name] = (
                    np.minimum(values.to_numpy(float), MAX_AGE) if name == "age" else values.fillna("").to_numpy(object)
                )
    return found


def _groups(table: Table, name: str) -> NDArray[Any]:
    """Return a column that forms subgroups; ages as numbers, NaN if blank."""
    cells = _column(table.columns, name, str(table.file))
    if name != "age":
        return read_groups(name, cells, table.file.name)
    given = pd.Series(cells, dtype=object).replace("", None)
    ages: NDArray[np.float64] = pd.to_numeric(given, errors="coerce").to_numpy(np.float64)
    for row, (age, cell) in enumerate(zip(ages.tolist(), cells, strict=True)):
        if cell.strip() and not 0 <= age <= 150:
            raise DataError(f"{table.where(row)}: age is '{cell}'; expected years.")
    return np.minimum(ages, MAX_AGE)


def _patients(table: Table, patient_col: str | None, notes: list[str]) -> NDArray[np.object_]:
    if patient_col == "none":
        return np.full(len(table), "", dtype=object)
    column = patient_col or next((name for name in table.columns if key_role(name) == "patient"), None)
    if column is None:
        return np.full(len(table), "", dtype=object)
    cells = [cell.strip() for cell in _column(table.columns, column, str(table.file))]
    if patient_col is None:
        notes.append(f"Patients are read from the column '{column}'. Use --patient-col to choose another.")
    known, said = blank_placeholders(cells)
    known, joined = join_spellings(known)
    notes += said + joined
    if 0 < (blank := list(known).count("")) < len(known):
        notes.append(f"{plural(blank, 'image')} without a patient: each counts as a patient of its own.")
    return np.array(list(known), dtype=object)


def _splits(table: Table) -> list[str]:
    """Return a note on columns according to which some images are not of a validation or test split alone."""
    notes: list[str] = []
    for name, cells in table.columns.items():
        splits = Counter[str | None]()
        for text, count in cells.counts().items():
            if text.strip():
                splits[parse_split(text)] += count
        if splits and None not in splits and splits.keys() not in ({"valid"}, {"test"}):
            found = ", ".join(f"{split} ({count})" for split, count in splits.items())
            notes.append(
                f"The images are of several splits or were trained on, according to '{name}': {found}. All are counted "
                "together; for one split, keep only its rows."
            )
    return notes
