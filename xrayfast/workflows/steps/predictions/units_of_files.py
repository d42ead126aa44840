"""Group new files by study or patient, and find the thresholds for these units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.config import Config, DataConfig, Unit, UnitJoin
from xrayfast.data.labels.names import find_spelling
from xrayfast.data.labels.targets import RawLabels
from xrayfast.data.sources.column_words import usual_columns
from xrayfast.data.sources.columns import is_column_name
from xrayfast.data.sources.datasets.webdataset import read_keys
from xrayfast.data.sources.identifiers import name_studies
from xrayfast.data.sources.patients.find import find_patients
from xrayfast.data.sources.records import FilePaths, ImageRecords
from xrayfast.errors import ConfigError, DataError, plural, shorten
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.evaluation.exported_run import ExportedRun
from xrayfast.workflows.steps.predictions.ensembles import average_splits
from xrayfast.workflows.steps.predictions.own import RunByUnit, add_studies
from xrayfast.workflows.steps.results import DECISION_SPLIT, choose_decision, effective_unit_join


@dataclass(frozen=True)
class UnitsOfFiles:
    """The studies or patients that N files belong to.

    Attributes:
        how: how the probabilities of a unit's images are joined.
        decision: calibration, and thresholds for such units.
        numbers: (N,) the number of each file's unit, from 0, in the order of the units' first files.
        notes: sentences on thresholds and on how units were found.
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
    """Find the studies or patients of files, and the thresholds of the runs for such units.

    They are found in the `.json` files next to images in shards, in file names or in DICOM headers. A file whose study
    or patient is unknown is a unit of its own.

    Args:
        files: the paths of the files.
        names: the files' names for messages; a web address may contain a signature that must not be shown.
        runs: the runs that predict together, or an exported file.
        unit: "study" or "patient".
        unit_join: how probabilities are joined; None for the run's setting.
        patient_col: as in `open_data`, except that a column is a key of the `.json` files; None for the run's setting,
            else inferred from `.json` files, names and headers.
        study_col: as `patient_col`, for studies.

    Raises:
        ConfigError: an option names a column that is not a key, or the task does not allow `unit_join`.
        DataError: the unit of no file is known, or a `.json` file can't be read.
        RunError: a file of a run is damaged, or its studies are not recorded and its data are gone.
    """
    first = runs if isinstance(runs, ExportedRun) else runs[0]
    own = RunByUnit.of(cast(Run, first), unit, unit_join)  # an ExportedRun has all attributes that this reads
    decision, notes = own.decision, own.notes
    if not isinstance(runs, ExportedRun) and len(runs) > 1:
        together = {DECISION_SPLIT: average_splits(runs)["valid"]}
        [chosen_on] = add_studies(runs[0], together, unit).values()
        decision, notes = choose_decision(chosen_on, own.run.task, own.settings), ()
    given = {"patient_col": patient_col, "study_col": study_col}
    numbers, found = _identify(files, names, unit, first.config.data, given)
    return UnitsOfFiles(unit, effective_unit_join(own.settings), decision, numbers, (*notes, *found))


def _identify(
    files: Sequence[str], names: Sequence[str], unit: Unit, of_run: DataConfig, given: dict[str, str | None]
) -> tuple[NDArray[np.intp], list[str]]:
    """Return the number of each file's unit, and notes."""
    told = read_keys(files)
    ways = {name: getattr(of_run, name) if way is None else way for name, way in given.items()}
    keys = {name: _find_key(told, name, way, named=given[name] is not None) for name, way in ways.items()}
    nothing = RawLabels([], np.zeros((len(files), 0), np.float32))
    slashed = [name.replace("\\", "/") for name in names]
    records = ImageRecords(slashed, FilePaths(files), nothing, where=lambda i: names[i])
    records.patients = told.get(keys["patient_col"])
    if (key := keys["study_col"]) in told:
        records.studies = name_studies(key, told[key], records.patients)
    others = {name: None if way and is_column_name(way) else way for name, way in ways.items()}
    find_patients(records, Config().updated(others).data, to_split=False)
    ids = np.array([*((records.patients if unit == "patient" else records.studies) or [""] * len(files))], object)
    if not (ids != "").any():
        option, keyword = ("--study-col", "StudyInstanceUID") if unit == "study" else ("--patient-col", "PatientID")
        raise DataError(
            f"--unit {unit}: no file's {unit} is known; expected file names or DICOM headers that contain it. "
            f"{option} dicom:{keyword} reads it from headers, and {option} 'name:({unit}[0-9]+)' from file names. "
            "Or leave out --unit."
        )
    owners = np.where(ids != "", ids, [f" {row}" for row in range(len(ids))])  # no identifier begins with a space
    numbers = pd.factorize(owners)[0].astype(np.intp)
    if alone := int((ids == "").sum()):
        each = "each counted" if alone > 1 else "counted"
        records.notes.append(f"{plural(alone, 'file')} of unknown {unit}, {each} as a {unit} of its own.")
    kinds = f"{plural(len(files), 'file')} of {plural(int(numbers.max()) + 1, unit)}"
    return numbers, [*records.notes, f"{kinds}: one row per {unit}."]


def _find_key(told: Mapping[str, Sequence[str]], option: str, way: str | None, *, named: bool) -> str:
    """Return the key of the `.json` files that holds patients or studies: the given one, or one with a usual name.

    Return "" if there is none, or if headers or names are to be used.
    """
    if way and not is_column_name(way):
        return ""
    key = find_spelling(way, told) if way else None
    if named and not key:
        raise ConfigError(
            f"{option} is '{way}', a column, but predict reads no table; expected dicom:KEYWORD or name:REGEX, or a "
            f"key of the .json files in shards: {shorten(told) if told else 'there are none'}."
        )
    filled = {name: cells for name, cells in told.items() if any(cells)}
    return key or next(iter(usual_columns(filled, option.removesuffix("_col"))), "")
