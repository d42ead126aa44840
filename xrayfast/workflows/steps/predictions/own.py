"""Read a run's own predictions for its results: add columns for subgroups, join by study or patient, interpret them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import SECTIONS, DataConfig, PredictedSplit, ResultsConfig, Unit, UnitJoin
from xrayfast.data.cache.image_cache import open_images
from xrayfast.data.labels.names import normalize_label
from xrayfast.data.sources.class_folders.read import read_folder_groups
from xrayfast.data.sources.folder_tree import absolute
from xrayfast.data.sources.label_table import read_further_columns
from xrayfast.errors import ConfigError, DataError, RunError, plural, plural_noun, shorten
from xrayfast.errors.escapes import warn
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.option_effects import check_effects
from xrayfast.reporting.interpretation import IMAGE_SIZE, Interpretation
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.predictions import (
    ATTRIBUTES,
    PREDICTION_COLUMNS,
    PROBABILITY_PREFIX,
    RAW_PREFIX,
    Predictions,
    image_studies,
)
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.data.reopening import find_data
from xrayfast.workflows.steps.results import (
    DECISION_SPLIT,
    by_unit,
    check_results,
    choose_thresholds,
    compute_metrics,
    effective_unit_join,
)

FOLDER = "folder"
"""The name of the attribute that holds the folder above an image's class folder, such as a hospital."""

MAX_GROUPS = 20
"""Maximum number of values of a column that forms subgroups; a column with more is numeric or identifies patients."""


def with_columns(
    by: Sequence[str], known: Mapping[str, NDArray[Any]], config: DataConfig, images: Sequence[str], where: str
) -> dict[str, NDArray[Any]]:
    """Return the known attributes of images, and those in `by` that are columns of the data set's table, or `FOLDER`.

    Raises:
        ConfigError: there is no table, or no folder above the class folders, or a column has too many values or the
            name of a column of predictions; the message names the predictions as in `where`.
        DataError: the table can't be read, or lacks a column.
    """
    further = [name for name in by if name not in known]
    if not further:
        return dict(known)
    there = shorten(known) or f"none of {', '.join(ATTRIBUTES)}"
    groups = read_folder_groups(absolute(config.source), config) if config.labels is None and FOLDER in further else {}
    if config.labels is None and (further != [FOLDER] or not any(groups.values())):
        raise ConfigError(
            f"by: {where} do not contain {' and '.join(further)}; they contain {there}. Add such a column to a table "
            "of labels; sex, age and view are also read from DICOM headers."
        )
    columns = {FOLDER: groups}
    if config.labels is not None:
        columns = read_further_columns(config.labels, absolute(config.source), config, further)
    found, origin = dict(known), (config.labels or config.source).name
    for name in further:
        if name in PREDICTION_COLUMNS or name.startswith((PROBABILITY_PREFIX, RAW_PREFIX)):
            raise ConfigError(f"by: '{name}' is already a column of the predictions. Rename the column of {origin}.")
        found[name] = read_groups(name, [columns[name].get(image, "") for image in images], origin)
    return found


def read_groups(name: str, cells: Sequence[str], origin: str) -> NDArray[np.object_]:
    """Return the values of a column that forms subgroups; different spellings of a group are joined, with a warning.

    Raises:
        ConfigError: there are no values, or too many.
    """
    values = _join_spellings(name, cells)
    distinct = set(values.tolist()) - {""}
    if not 1 <= len(distinct) <= MAX_GROUPS:
        raise ConfigError(
            f"by: '{name}' of {origin} has {plural(len(distinct), 'value')} for these images; expected 1 to "
            f"{MAX_GROUPS} groups, such as hospitals or devices."
        )
    return values


def _join_spellings(name: str, cells: Sequence[str]) -> NDArray[np.object_]:
    """Return the values of a column, in which different spellings of a group are joined, with a warning."""
    counts = Counter(filter(None, cells))
    spellings: dict[str, list[str]] = {}
    for value, _ in counts.most_common():
        spellings.setdefault(normalize_label(value), []).append(value)
    if joined := [f"'{first}' (also {shorten(map(repr, others))})" for first, *others in spellings.values() if others]:
        warn(
            f"by: groups of '{name}' whose names differ only in spelling are merged: {shorten(joined)}. To be sure, "
            "use one spelling per group."
        )
    first_of = {value: listed[0] for listed in spellings.values() for value in listed}
    return np.array([first_of.get(cell, "") for cell in cells], dtype=object)


def read_interpretations(run: Run, *, find_images: bool = True) -> dict[PredictedSplit, Interpretation]:
    """Return an interpretation of each split that was predicted, valid before test.

    With `find_images`, the run's data are opened, so that the images of single cases can be shown.
    """
    splits = run.require_predictions()
    metrics, decision, settings = run.metrics, run.decision, run.config.results
    # Images come only from the run's own data: names in a foreign predictions file could point anywhere.
    data = find_data(run) if find_images else None
    paths = {} if data is None else dict(zip(data.table["image"], map(Path, data.table["path"]), strict=True))
    side = run.config.model.size
    images = open_images(run.config.data, side) if side >= IMAGE_SIZE // 2 else None
    return {
        split: Interpretation(
            by_unit(run.predictions(split), settings, decision),
            run.task,
            paths,
            images=images,
            decision=decision,
            summary=metrics.get(split),
            split="folds" if split == "valid" and isinstance(run, CrossValidation) else split,
        )
        for split in splits
    }


def add_own_columns(run: Run, predictions: Predictions, by: Sequence[str]) -> Predictions:
    """Add columns of a run's table to its own predictions."""
    images, where = predictions.images.tolist(), f"{run.path}: the saved predictions"
    return replace(predictions, attributes=with_columns(by, predictions.attributes, run.config.data, images, where))


Key = TypeVar("Key")


def add_studies(run: Run, found: Mapping[Key, Predictions], unit: Unit) -> dict[Key, Predictions]:
    """Add the studies of a run's data to its own predictions, if results are per study and no studies are recorded.

    Raises:
        RunError: the data are needed, and are gone or have changed.
    """
    if unit != "study" or all(one.studies is not None for one in found.values()):
        return dict(found)
    data = find_data(run)
    if data is None:
        raise RunError(
            f"{run.path}: its predictions do not say which images belong to one study, and its data in "
            f"{run.config.data.source} have been moved, deleted or changed. Put them back, or leave out --unit."
        )
    known = image_studies(data.table)
    study_of = {} if known is None else dict(zip(data.table["image"].tolist(), known.tolist(), strict=True))
    return {
        key: replace(one, studies=np.array([study_of.get(image, "") for image in one.images.tolist()], dtype=object))
        for key, one in found.items()
    }


def require_known_units(run: Run, images: Predictions, unit: Unit) -> None:
    """Raise a DataError if results are by study or patient, but none of a run's own `images` is known."""
    ids = {"patient": images.patients, "study": images.studies}.get(unit)
    if unit != "image" and (ids is None or not (ids != "").any()):
        option = "--study-col" if unit == "study" else "--patient-col"
        raise DataError(
            f"--unit {unit}: no {unit} of the images that {run.path} was trained and validated on is known, so its "
            f"thresholds and results can't be by {unit}. Leave out --unit, or train with {option}."
        )


@dataclass(frozen=True, eq=False)
class RunByUnit:
    """A run with results per image, study or patient, as requested.

    Attributes:
        settings: the run's settings of results, with the requested `unit` and `unit_join`.
        decision: the run's calibration and thresholds; for another unit, the thresholds are chosen again.
        notes: sentences on thresholds that were chosen again.
    """

    run: Run
    settings: ResultsConfig
    decision: Decision
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Run, unit: Unit | None, unit_join: UnitJoin | None) -> RunByUnit:
        """Return the run with results per `unit`, by default the run's own unit.

        Raises:
            ConfigError: the two options contradict each other or the run's task.
            DataError: the unit of no image is known, or images of one unit have different classes.
            RunError: a file is damaged, or studies are not recorded and the run's data are gone.
        """
        given = {name: value for name, value in (("unit", unit), ("unit_join", unit_join)) if value is not None}
        back = {"unit_join": "mean"} if unit == "image" and unit_join is None else {}
        nothing: dict[str, set[str]] = {name: set() for name in SECTIONS}
        settings = run.config.updated(back).with_given(nothing).updated(given).results
        if given:
            check_effects(settings)
            check_results(settings, run.task, run.labels)
        own = run.decision
        other = replace(own, unit=settings.unit, unit_join=effective_unit_join(settings))
        if own == other or own.rule is None:
            return cls(run, settings, other)
        there = f"the run's thresholds are for {plural_noun(own.unit)}"
        there += f" (joined by {own.unit_join})" if own.unit != "image" else ""
        if DECISION_SPLIT not in run.predicted_splits:
            note = (
                f"Thresholds were not chosen again, although {there}: the run has no predictions of the validation "
                "split to choose them on."
            )
            return cls(run, settings, other, (note,))
        [chosen_on] = add_studies(run, {DECISION_SPLIT: run.predictions(DECISION_SPLIT)}, settings.unit).values()
        require_known_units(run, chosen_on, settings.unit)
        decision = choose_thresholds(own, chosen_on, settings, own.rule, own.target, own.confidence)
        units = plural_noun(settings.unit)
        return cls(
            run, settings, decision, (f"Thresholds were chosen again on the validation {units}, because {there}.",)
        )

    @property
    def is_changed(self) -> bool:
        """Whether the unit or its join differs from that of the run's own results."""
        own = self.run.config.results
        return (own.unit, own.unit_join) != (self.settings.unit, self.settings.unit_join)

    def images(self, split: str, by: Sequence[str] = ()) -> Predictions:
        """Return the saved predictions of the images of a split, with columns of the run's table.

        Raises:
            RunError: the run has no such predictions, or studies are not recorded and its data are gone.
        """
        [found] = add_studies(self.run, {split: self.run.predictions(split)}, self.settings.unit).values()
        return add_own_columns(self.run, found, by)

    def join(self, images: Predictions, named_by: Collection[str] = ()) -> Predictions:
        """Join calibrated predictions of images per unit, as in `Predictions.by_unit`."""
        return by_unit(images, self.settings, self.decision, named_by)

    def metrics(self, split: PredictedSplit) -> Mapping[str, Any]:
        """Return the summary of a split: from `metrics.json` or, for another unit, computed now."""
        if not self.is_changed:
            return self.run.metrics[split]
        images, seed = self.images(split), self.run.config.train.seed
        return compute_metrics(self.join(images), self.decision, resamples=self.settings.resamples, seed=seed, by=())
