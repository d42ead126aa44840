"""Columns of a data set's table by which subgroups are formed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import DataConfig
from xrayfast.data.labels.names import normalize_label
from xrayfast.data.sources.class_folders.read import read_folder_groups
from xrayfast.data.sources.file_matching import absolute
from xrayfast.data.sources.label_table import read_further_columns
from xrayfast.errors import ConfigError, shorten
from xrayfast.errors.escapes import warn
from xrayfast.predictions import ATTRIBUTES, PREDICTION_COLUMNS, PROBABILITY_PREFIX, RAW_PREFIX, Predictions
from xrayfast.run import Run

FOLDER = "folder"
"""The attribute that the folders above class folders are, such as hospitals."""

MAX_GROUPS = 20
"""Values of a column that forms subgroups; one with more is a number or names patients."""


def with_columns(
    by: Sequence[str], known: Mapping[str, NDArray[Any]], config: DataConfig, images: Sequence[str], where: str
) -> dict[str, NDArray[Any]]:
    """The known attributes of images, and those of `by` that are columns of the data set's table, or `FOLDER`.

    Raises:
        ConfigError: there is no table, or no folder above those of classes, or a column has too many values or
            another's name; `where` says of what.
        DataError: the table can't be read, or lacks a column.
    """
    further = [name for name in by if name not in known]
    if not further:
        return dict(known)
    there = shorten(known) or f"none of {', '.join(ATTRIBUTES)}"
    groups = read_folder_groups(absolute(config.source), config) if config.labels is None and FOLDER in further else {}
    if config.labels is None and (further != [FOLDER] or not any(groups.values())):
        raise ConfigError(
            f"by: {where} do not give {' and '.join(further)}; they give {there}. Add such a column to a table of "
            "labels; DICOM headers give sex, age and view too."
        )
    columns = {FOLDER: groups}
    if config.labels is not None:
        columns = read_further_columns(config.labels, absolute(config.source), config, further)
    found, origin = dict(known), (config.labels or config.source).name
    for name in further:
        if name in PREDICTION_COLUMNS or name.startswith((PROBABILITY_PREFIX, RAW_PREFIX)):
            raise ConfigError(f"by: '{name}' is a column of predictions already. Rename that of {origin}.")
        found[name] = read_groups(name, [columns[name].get(image, "") for image in images], origin)
    return found


def read_groups(name: str, cells: Sequence[str], origin: str) -> NDArray[np.object_]:
    """The values of a column that forms subgroups, of which spellings of one group are joined, with a warning.

    Raises:
        ConfigError: there are none, or too many.
    """
    values = _join_spellings(name, cells)
    distinct = set(values.tolist()) - {""}
    if not 1 <= len(distinct) <= MAX_GROUPS:
        raise ConfigError(
            f"by: '{name}' of {origin} has {len(distinct)} values on these images; expected 1 to {MAX_GROUPS} groups, "
            "such as hospitals or devices."
        )
    return values


def _join_spellings(name: str, cells: Sequence[str]) -> NDArray[np.object_]:
    """The values of a column, of which spellings of one group are joined, with a warning."""
    counts = Counter(filter(None, cells))
    spellings: dict[str, list[str]] = {}
    for value, _ in counts.most_common():
        spellings.setdefault(normalize_label(value), []).append(value)
    if joined := [f"'{first}' (also {shorten(map(repr, others))})" for first, *others in spellings.values() if others]:
        warn(f"by: spellings of one group of '{name}' are joined: {shorten(joined)}. Write them alike to be sure.")
    first_of = {value: listed[0] for listed in spellings.values() for value in listed}
    return np.array([first_of.get(cell, "") for cell in cells], dtype=object)


def add_own_columns(run: Run, predictions: Predictions, by: Sequence[str]) -> Predictions:
    """A run's own predictions, with columns of its table."""
    images, where = predictions.images.tolist(), f"{run.path}: the saved predictions"
    return replace(predictions, attributes=with_columns(by, predictions.attributes, run.config.data, images, where))
