"""The result of a comparison of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xrayfast.config import PredictedSplit, Task, Unit, UnitJoin
from xrayfast.display.overview import HasOverview
from xrayfast.errors import plural_noun, shorten
from xrayfast.errors.escapes import escape_hidden
from xrayfast.metrics.classification import nan_to_none
from xrayfast.metrics.registry import overall_metrics
from xrayfast.reporting.wording import SPLIT_TITLES


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(HasOverview):
    """The result of `workflows.compare`.

    Attributes:
        table: one row per run, best first: `run`, how it was trained, `images`, `patients`, and three columns for each
            metric of `registry.overall_metrics`: NAME, NAME_low and NAME_high (95% interval).
        differences: one row per run, metric and label, compared with the reference on the same images: `run`,
            `reference`, `images`, `patients`, `metric`, `label` ("" for all), `difference` (run minus reference),
            `low`, `high` (95%, not corrected), `test` ("DeLong", "McNemar", "resampled t" or ""), `p`, `p_corrected`
            (see `compare`) and `significant` (p_corrected below 0.05, and 0 outside the interval; None
            without a test).
        notes: sentences on what was compared and how.
        split: the split on which the runs are compared, "valid" or "test".
        metrics: the metrics shown first: those computed after each epoch, and `order`.
        tests: how many p-values were corrected together.
        warnings: the headline warnings of the runs, and reasons why values on this split can mislead.
        population: sex, age and views of the reference's images, see `Predictions.population`.
        subgroups: rows as in `differences`, over all labels and without tests, for each requested subgroup, which the
            columns `by` and `value` name; None if no subgroups were requested.
        out_of_fold: whether all runs are cross-validations; "valid" then means the out-of-fold predictions.
        unit: what was compared: images, studies or patients; the columns `images` count these units.
        unit_join: how the probabilities of the images of a study or patient were joined.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    notes: tuple[str, ...]
    task: Task
    split: PredictedSplit
    order: str
    reference: str
    metrics: tuple[str, ...]
    tests: int
    warnings: tuple[str, ...] = ()
    page: Path | None = None
    population: Mapping[str, Any] | None = None
    subgroups: pd.DataFrame | None = None
    out_of_fold: bool = False
    unit: Unit = "image"
    unit_join: UnitJoin = "mean"

    @property
    def units(self) -> str:
        """The unit of comparison in the plural, such as "images"."""
        return plural_noun(self.unit)

    @property
    def split_title(self) -> str:
        """The split's title in reports."""
        return SPLIT_TITLES["folds" if self.out_of_fold else self.split]

    def __repr__(self) -> str:
        runs = escape_hidden(shorten(self.table["run"]))
        return f"Comparison({runs}; {self.split} split, by {self.order})"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a dict for JSON; undefined values are None."""
        runs = records(self.table)
        for row in runs:
            row["metrics"] = {
                name: {"value": row.pop(name), "low": row.pop(f"{name}_low"), "high": row.pop(f"{name}_high")}
                for name in overall_metrics(self.task)
                if name in row
            }
        return {
            "task": self.task,
            "split": self.split,
            "order": self.order,
            **({} if self.unit == "image" else {"unit": self.unit, "unit_join": self.unit_join}),
            "reference": self.reference,
            "runs": runs,
            "differences": records(self.differences),
            "population": None if self.population is None else dict(self.population),
            "subgroups": [] if self.subgroups is None else records(self.subgroups),
            "tests": self.tests,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "page": None if self.page is None else str(self.page),
        }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dicts of plain Python values; undefined values are None."""
    return [{str(name): nan_to_none(value) for name, value in row.items()} for row in table.to_dict("records")]


def interval_columns(row: Mapping[str, Any], metric: str) -> dict[str, float | None]:
    """Return the interval of a metric in a row of `Comparison.table` as `low` and `high`."""
    return {end: row[f"{metric}_{end}"] for end in ("low", "high")}
