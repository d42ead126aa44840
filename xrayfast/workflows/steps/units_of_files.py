"""New files by study or patient: which are of one, and the thresholds that decide on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.config import Config, DataConfig, Unit, UnitJoin
from xrayfast.data.labels.targets import RawLabels
from xrayfast.data.sources.columns import is_column_name
from xrayfast.data.sources.patients import find_patients
from xrayfast.data.sources.records import FilePaths, ImageRecords
from xrayfast.errors import ConfigError, DataError, plural, plural_noun
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.ensembles import average_splits
from xrayfast.workflows.steps.evaluation.exported_run import ExportedRun
from xrayfast.workflows.steps.own_predictions import RunByUnit, add_studies
from xrayfast.workflows.steps.results import DECISION_SPLIT, choose_decision, joined_by


@dataclass(frozen=True)
class UnitsOfFiles:
    """Studies or patients, of which N files are.

    Attributes:
        unit: "study" or "patient".
        how: their images' probabilities are joined.
        decision: with thresholds for such units.
        numbers: (N,) of the unit of each file, from 0, in the order of their first files.
        notes: in sentences.
    """

    unit: Unit
    how: UnitJoin
    decision: Decision
    numbers: NDArray[np.intp]
    notes: tuple[str, ...]


def find_units(
    files: Sequence[str],
    names: Sequence[str],
    runs: Sequence[Run] | ExportedRun,
    unit: Unit,
    unit_join: UnitJoin | None,
    patient_col: str | None,
    study_col: str | None,
) -> UnitsOfFiles:
    """The studies or patients of files, by their names or DICOM headers, and the thresholds of the runs for these.

    A file whose study or patient is unknown is a unit of its own.

    Args:
        files: their paths.
        names: what messages call them; a path on the web may be signed.
        runs: that predict together, or an exported file.
        unit: "study" or "patient".
        unit_join: how probabilities are joined; None for the run's way.
        patient_col: as of `open_data`, but for columns; None for the run's way, else what names and headers tell.
        study_col: likewise.

    Raises:
        ConfigError: an option names a column, or joins as the task does not allow.
        DataError: the unit of no file is known.
        RunError: a file of a run is damaged, or its studies are not recorded and its data are gone.
    """
    first = runs if isinstance(runs, ExportedRun) else runs[0]
    own = RunByUnit.of(cast(Run, first), unit, unit_join)  # what that reads of a run, a file has too
    decision, notes = own.decision, own.notes
    if not isinstance(runs, ExportedRun) and len(runs) > 1:
        together = {DECISION_SPLIT: average_splits(runs)["valid"]}
        [chosen_on] = add_studies(runs[0], together, unit).values()
        decision, notes = choose_decision(chosen_on, own.run.task, own.settings), ()
    given = {"patient_col": patient_col, "study_col": study_col}
    if columns := [name for name, way in given.items() if way is not None and is_column_name(way)]:
        raise ConfigError(
            f"{columns[0]} is '{given[columns[0]]}', a column, and predict reads files, and of a table their "
            "names alone; expected dicom:KEYWORD or name:REGEX."
        )
    numbers, found = _identify(files, names, unit, first.config.data, given)
    return UnitsOfFiles(unit, joined_by(own.settings), decision, numbers, (*notes, *found))


def _identify(
    files: Sequence[str], names: Sequence[str], unit: Unit, of_run: DataConfig, given: dict[str, str | None]
) -> tuple[NDArray[np.intp], list[str]]:
    """The number of each file's unit, and notes."""
    for name, way in given.items():
        known = getattr(of_run, name)
        given = given | {name: known if way is None and known and not is_column_name(known) else way}
    nothing = RawLabels([], np.zeros((len(files), 0), np.float32))
    slashed = [name.replace("\\", "/") for name in names]
    records = ImageRecords(slashed, FilePaths(files), nothing, where=lambda i: names[i])
    find_patients(records, Config().updated(given).data, to_split=False)
    ids = np.array([*((records.patients if unit == "patient" else records.studies) or [""] * len(files))], object)
    if not (ids != "").any():
        option, keyword = ("--study-col", "StudyInstanceUID") if unit == "study" else ("--patient-col", "PatientID")
        raise DataError(
            f"unit is {unit}, and no file's {unit} is known; expected names or DICOM headers that tell it. "
            f"{option} dicom:{keyword} reads a header, and {option} 'name:({unit}[0-9]+)' a pattern of names. Or leave "
            "out --unit."
        )
    keys = np.where(ids != "", ids, [f" {row}" for row in range(len(ids))])  # no identifier begins with a space
    numbers = pd.factorize(keys)[0].astype(np.intp)
    if alone := int((ids == "").sum()):
        each = "each taken" if alone > 1 else "taken"
        records.notes.append(f"{plural(alone, 'file')} of unknown {unit}, {each} for one of its own.")
    kinds = f"{plural(len(files), 'file')} of {plural(int(numbers.max()) + 1, unit)}"
    return numbers, [*records.notes, f"{kinds}: one row for each of the {plural_noun(unit)}."]
