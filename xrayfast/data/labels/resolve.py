"""`resolve_labels`, which turns raw labels into sorted labels, their targets and the task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from xrayfast.config import DataConfig, Task
from xrayfast.data.labels.implications import apply_implications, check_implications, parse_implications
from xrayfast.data.labels.label_map import read_label_map
from xrayfast.data.labels.names import (
    NO_FINDING,
    drop_invisible,
    find_spelling,
    is_no_finding,
    normalize_label,
    sort_labels,
)
from xrayfast.data.labels.policies import apply_policies, fill_no_finding_rows, parse_policy
from xrayfast.data.labels.spellings import join_spellings, note_odd_names, spelling_keys
from xrayfast.data.labels.targets import RawLabels, Targets, Where, infer_task, merge_labels, not_single_label
from xrayfast.data.labels.words import denies, is_normal
from xrayfast.errors import ConfigError, DataError, did_you_mean, plural, shorten


@dataclass(frozen=True)
class ResolvedLabels:
    """The labels to train on.

    Attributes:
        names: the L labels, sorted.
        targets: (N, L) targets.
        task: as in the config, or inferred.
        notes: sentences on what was inferred.
    """

    names: list[str]
    targets: Targets
    task: Task
    notes: list[str]


def resolve_labels(
    raw: RawLabels, config: DataConfig, where: Where, *, keep_absent: bool = False, known: Collection[str] = ()
) -> ResolvedLabels:
    """Apply the policies on cells, the label map and implications, join spellings, and infer the task.

    Labels without a single 1 are left out; with `keep_absent`, only labels without a single 1 or 0 are. `known` labels
    keep their spelling.

    Raises:
        DataError: the labels do not fit the task, columns for one label contradict each other, or no image has the
            label of an implication.
        ConfigError: a policy, a label map or an implication can't be used.
    """
    if raw.flags and not config.exact_labels:
        raw = replace(raw, matrix=_agree(raw, where, known, is_replayed=bool(known) and not keep_absent))
    matrix, notes = fill_no_finding_rows(raw.matrix, raw.names)
    label_map = read_label_map(config.label_map) if config.label_map else None
    if label_map and known:
        label_map.require_direction(known)
    policies = [parse_policy("uncertain", config.uncertain), parse_policy("blank", config.blank, raw.blank)]
    mapped = label_map.rename(raw.names) if label_map else raw.names
    matrix, policy_notes = apply_policies(matrix, raw.names, policies, mapped)
    notes += policy_notes + (label_map.notes(raw.names) if label_map else [])
    notes += _note_differing(raw, mapped) if raw.flags else []
    if not config.exact_labels:
        mapped, joined = join_spellings(mapped, raw.matrix == 1, known)
        notes += joined
    else:
        mapped = list(map(drop_invisible, mapped))
    labels, matrix = merge_labels(matrix, mapped)
    notes += note_odd_names(labels)
    task, task_notes = _resolve_task(raw, labels, matrix, config, where)
    notes += task_notes
    if task == "multi" and not (raw.keep_no_finding or config.keep_no_finding):
        labels, matrix, none_notes = _drop_no_finding(labels, matrix)
        notes += none_notes
    notes += _note_contradictions(labels, matrix, where) + (_note_opposites(labels, matrix) if task == "multi" else [])
    labels, matrix, implied = _add_implied(labels, matrix, config)
    notes += implied
    kept = (matrix == 1).any(0) | (keep_absent & (matrix == 0).any(0))
    present = [label for label, keep in zip(labels, kept.tolist(), strict=True) if keep]
    if len(present) < len(labels):
        absent = shorten(sort_labels(set(labels).difference(present)))
        notes.append(f"Labels without a single 1 are left out: {absent}.")
    names = sort_labels(present)
    order = [labels.index(label) for label in names]
    # A copy of ten million rows takes half a gigabyte.
    targets = np.ascontiguousarray(matrix if order == list(range(len(labels))) else matrix[:, order])
    return ResolvedLabels(names, targets, task, notes)


def _add_implied(labels: list[str], matrix: Targets, config: DataConfig) -> tuple[list[str], Targets, list[str]]:
    """Apply the rules of `imply`; return the labels, their targets, and notes on labels that only the rules name."""
    if not (closure := parse_implications(config.imply, labels)):
        return labels, matrix, []  # without a copy of the targets
    check_implications(closure, [label for label, any_1 in zip(labels, (matrix == 1).any(0), strict=True) if any_1])
    names, targets = apply_implications(matrix, labels, closure)
    new = names[len(labels) :]
    return names, targets, [f"The label '{name}' comes only from --imply.{did_you_mean(name, labels)}" for name in new]


def _agree(raw: RawLabels, where: Where, known: Collection[str], is_replayed: bool) -> Targets:
    """Return the raw matrix, with blank cells filled from other columns that are spellings of the same label.

    Raises:
        DataError: such columns contradict each other, unless `is_replayed`: a run was already made with this data.
    """
    groups: dict[tuple[str | None, str], list[int]] = {}
    for j, (name, key) in enumerate(zip(raw.names, spelling_keys(raw.names), strict=True)):
        groups.setdefault((find_spelling(name, known), key), []).append(j)
    several = [columns for columns in groups.values() if len(columns) > 1]
    matrix: Targets = raw.matrix.copy() if several else raw.matrix
    for columns in several:
        cells = raw.matrix[:, columns]
        low, high = np.fmin.reduce(cells, axis=1), np.fmax.reduce(cells, axis=1)
        differ = low < high
        if differ.any() and not is_replayed:
            i = int(differ.argmax())
            found = " and ".join(
                f"'{raw.names[j]}' is {raw.matrix[i, j]:g}" for j in columns if not np.isnan(raw.matrix[i, j])
            )
            raise DataError(
                f"{where(i)}: found that {found}, although both are spellings of one label; expected equal cells. "
                f"Rows like this: {int(differ.sum())}. Fix them, or name the columns to use with "
                "--label-col, or keep the spellings as separate labels with --exact-labels."
            )
        filled = np.isnan(cells) & ~differ[:, None]
        matrix[:, columns] = np.where(filled, low[:, None], cells)
    return matrix


def _note_differing(raw: RawLabels, mapped: Sequence[str]) -> list[str]:
    """Return notes on images with both 1 and 0 in columns that a label map joins."""
    notes = []
    for label in dict.fromkeys(mapped):
        cells = raw.matrix[:, [name == label for name in mapped]]
        if rows := int(((cells == 1).any(1) & (cells == 0).any(1)).sum()):
            names = shorten(repr(name) for name, other in zip(raw.names, mapped, strict=True) if other == label)
            notes.append(f"{names} are joined, but differ (1 and 0) on {plural(rows, 'image')}: 1 is used.")
    return notes


def _note_contradictions(labels: Sequence[str], matrix: Targets, where: Where) -> list[str]:
    """Return notes on images that have a label and also one that denies it, such as "normal" or "no mass"."""
    keys, notes = list(map(normalize_label, labels)), []
    for j, label in enumerate(labels):
        denied = [denies(keys[j], key) for key in keys]
        if is_normal(label):
            denied = [not is_normal(other) for other in labels]
        both = (matrix[:, j] == 1) & (matrix[:, denied] == 1).any(1)
        if both.any():
            others = shorten(
                other for other, has in zip(labels, (matrix[both] == 1).any(0) & denied, strict=True) if has
            )
            notes.append(
                f"'{label}' contradicts {others} on {plural(int(both.sum()), 'image')}, which have both labels: both "
                f"are kept. The first is {where(int(both.argmax()))}."
            )
    return notes


def _note_opposites(labels: Sequence[str], matrix: Targets) -> list[str]:
    """Return a note on pairs of labels of which each image has exactly one, such as "mass_1" and "mass_0"."""
    counts = [int(column.sum()) if np.isin(column, (0, 1)).all() else 0 for column in matrix.T]
    pairs = [
        f"'{labels[i]}' and '{labels[j]}'"
        for i, j in combinations(range(len(labels)), 2)
        if counts[i] and counts[j] and counts[i] + counts[j] == len(matrix) and (matrix[:, i] != matrix[:, j]).all()
    ]
    if len(labels) < 3 or not pairs:
        return []
    return [
        f"Each image has exactly one of two labels: {shorten(pairs, 3)}. If one label only means that the other is "
        f"absent, leave it out: name the columns of the other labels with --label-col."
    ]


def _resolve_task(
    raw: RawLabels, labels: Sequence[str], matrix: Targets, config: DataConfig, where: Where
) -> tuple[Task, list[str]]:
    if config.task == "auto":
        task: Task = "multi" if config.imply or raw.multi_label else infer_task(matrix)
        found = "Each image has one label" if task == "single" else "Images have several labels or none"
        if task == "multi" and raw.flags and len(labels) == 1 and not config.imply:
            return task, [
                f"'{labels[0]}' is the only label: this is a binary task, run as a multi-label task with one label."
            ]
        return task, [f"{'Labels imply others' if config.imply else found}: a {task}-label task."]
    if config.task == "single" and config.imply:
        raise ConfigError("imply needs a multi-label task, but task is single. Leave out one of the two options.")
    if config.task == "single" and len(rows := not_single_label(matrix)):
        i = int(rows[0])
        present = [label for label, value in zip(labels, matrix[i].tolist(), strict=True) if value == 1]
        masked = "" if np.isin(matrix[i], (0, 1)).all() else " and masked ones"
        found = f"{len(present)} labels ({', '.join(present) or 'none'}){masked}"
        raise DataError(f"{where(i)}: found {found}; a single-label task expects 1. Use --task multi.")
    return config.task, []


def _drop_no_finding(labels: list[str], matrix: Targets) -> tuple[list[str], Targets, list[str]]:
    """Drop 'No Finding', which in a multi-label table means that no label applies."""
    none = np.array([is_no_finding(label) for label in labels], np.bool_)
    if not none.any():
        return labels, matrix, []
    notes = [f"'{NO_FINDING}' means none of the labels."]
    if both := int(((matrix[:, none] == 1).any(1) & (matrix[:, ~none] == 1).any(1)).sum()):
        notes.insert(0, f"{plural(both, 'image')} with '{NO_FINDING}' and other labels: the other labels are used.")
    return [label for label, drop in zip(labels, none.tolist(), strict=True) if not drop], matrix[:, ~none], notes
