"""From what a layout says of its images to labels in order, their targets, and the task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xrayfast.config import DataConfig, Task
from xrayfast.data.labels.implications import apply_implications, check_implications, parse_implications
from xrayfast.data.labels.label_map import read_label_map
from xrayfast.data.labels.names import NO_FINDING, is_no_finding, sort_labels
from xrayfast.data.labels.policies import apply_policies, fill_no_finding_rows, parse_policy
from xrayfast.data.labels.targets import Targets, infer_task, merge_labels, not_single_label
from xrayfast.data.sources.records import ImageRecords
from xrayfast.errors import ConfigError, DataError, shorten


def resolve_labels(
    images: ImageRecords, config: DataConfig, *, keep_absent: bool = False
) -> tuple[list[str], Targets, Task]:
    """From the raw matrix to the labels in order, their targets, and the task.

    Args:
        images: of a layout; what is inferred is added to its notes.
        config: the settings.
        keep_absent: keep labels that no image has, where it is known of some that they lack them.
    """
    raw, notes = fill_no_finding_rows(images.raw, images.labels) if images.from_table else (images.raw, [])
    label_map = read_label_map(config.label_map) if config.label_map else None
    policies = [parse_policy("uncertain", config.uncertain), parse_policy("blank", config.blank, images.blank)]
    mapped = label_map.rename(images.labels) if label_map else ()
    labels = images.labels
    matrix, told = apply_policies(raw, labels, policies, mapped)
    images.notes += notes + told
    if label_map:
        images.notes += label_map.notes(labels)
    labels, matrix = merge_labels(matrix, mapped or labels)
    task = _settle_task(images, labels, matrix, config)
    if task == "multi" and images.from_table and not config.keep_no_finding:
        labels, matrix = _without_no_finding(images, labels, matrix)
    if closure := parse_implications(config.imply):
        check_implications(closure, [label for label, one in zip(labels, (matrix == 1).any(0), strict=True) if one])
        labels, matrix = apply_implications(matrix, labels, closure)
    tells = (matrix == 1) | (keep_absent & (matrix == 0))
    present = [label for label, some_are in zip(labels, tells.any(0), strict=True) if some_are]
    if len(present) < len(labels):
        images.notes.append(
            f"Labels without a single 1 are left out: {shorten(sort_labels(set(labels).difference(present)))}."
        )
    ordered = sort_labels(present)
    return ordered, np.ascontiguousarray(matrix[:, [labels.index(label) for label in ordered]]), task


def _settle_task(images: ImageRecords, labels: Sequence[str], matrix: Targets, config: DataConfig) -> Task:
    inferred: Task = "multi" if config.imply or images.several else infer_task(matrix)
    if config.task == "auto":
        found = "Each image has one label" if inferred == "single" else "Images have several labels or none"
        reason = "Labels imply others" if config.imply else found
        images.notes.append(f"{reason}: a {inferred}-label task.")
        return inferred
    if config.task == "single" and config.imply:
        raise ConfigError("found imply with task single; expected task multi. Leave out one of the two.")
    if config.task == "single" and len(strange := not_single_label(matrix)):
        i = int(strange[0])
        has = [label for label, value in zip(labels, matrix[i].tolist(), strict=True) if value == 1]
        unknown = "" if np.isin(matrix[i], (0, 1)).all() else " and some that nobody knows"
        found = f"{len(has)} labels ({', '.join(has) or 'none'}){unknown}"
        raise DataError(f"{images.where(i)}: found {found}; a single-label task expects 1. Use --task multi.")
    return config.task


def _without_no_finding(images: ImageRecords, labels: list[str], matrix: Targets) -> tuple[list[str], Targets]:
    """In a multi-label table 'No Finding' means that no label applies."""
    none = np.array([is_no_finding(label) for label in labels], np.bool_)
    if not none.any():
        return labels, matrix
    beside = int(((matrix[:, none] == 1).any(1) & (matrix[:, ~none] == 1).any(1)).sum())
    if beside:
        images.notes.append(f"{beside} images have '{NO_FINDING}' beside other labels, which count.")
    images.notes.append(f"'{NO_FINDING}' means none of the labels.")
    return [label for label, drop in zip(labels, none.tolist(), strict=True) if not drop], matrix[:, ~none]
