"""Truth and predicted probabilities of images, studies or patients: the table in `predictions/*.csv`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.config import Task, Unit, UnitJoin
from xrayfast.data.labels.names import LABEL_JOIN
from xrayfast.errors import ConfigError, DataError, RunError, did_you_mean, plural, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.files.csv_tables import read_csv, write_csv
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.units import join_probabilities, join_truth

if TYPE_CHECKING:
    from xrayfast.data.manifest import Manifest

PROBABILITY_PREFIX, RAW_PREFIX = "prob_", "raw_"
"""The prefixes of the columns of calibrated probabilities and of the network's own; with them, no label can have the
name of another column."""

PREDICTION_COLUMNS = ("image", "patient", "study", "images_of_study", "images_of_patient", "truth", "masked", "loss")
"""The other columns, apart from attributes."""

ATTRIBUTES: dict[str, type] = {"sex": object, "age": np.float64, "view": object}
"""The columns by which subgroups are formed, and their types."""

MAX_AGE = 90.0
"""Higher ages are written as this age, because together with the year of the image they could identify a patient."""

_PER_IMAGE = ("images", "patients", "truth", "probability", "loss", "raw", "studies", "counts", "differ")


def join_row_labels(row: NDArray[np.integer], labels: Sequence[str], between: str = LABEL_JOIN) -> str:
    """Join the labels of one row whose cells are 1 into text: `covid-19|pneumonia`, or "" for none.

    >>> join_row_labels(np.array([1, 0, 1, -1]), ["a", "b", "c", "d"])
    'a|c'
    """
    return between.join(label for label, cell in zip(labels, row, strict=True) if cell == 1)


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """Truth and probabilities of L labels for N images, or for N studies or patients.

    Attributes:
        labels: the L names.
        images: (N,) image ids, as in the manifest; for studies and patients, the id of one of their images.
        patients: (N,) pseudonyms, "" where unknown.
        truth: (N, L) int64 of 1, 0, and -1 where masked.
        probability: (N, L) float64 in [0, 1], calibrated.
        loss: (N,) float64, the training loss of each image.
        raw: (N, L) float64 in [0, 1], the network's own probabilities.
        attributes: (N,) columns: those by which an evaluation forms subgroups, and those of `ATTRIBUTES` that are
            known: `sex` ("F", "M" or ""), `age` (float years, at most `MAX_AGE`, NaN where unknown) and `view` (""
            where unknown).
        studies: (N,) pseudonyms, "" where unknown; None if studies are not recorded.
        unit: what a row is: an image, a study or a patient; see `by_unit`.
        counts: (N,) number of images of each row; None if each row is an image.
        differ: (N,) bool, whether the images of a row have different labels; None if that is not known.
    """

    labels: tuple[str, ...]
    images: NDArray[np.object_]
    patients: NDArray[np.object_]
    truth: NDArray[np.int64]
    probability: NDArray[np.float64]
    loss: NDArray[np.float64]
    raw: NDArray[np.float64]
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    studies: NDArray[np.object_] | None = None
    unit: Unit = "image"
    counts: NDArray[np.int64] | None = None
    differ: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Return the number of rows: images, studies or patients."""
        return len(self.images)

    def __repr__(self) -> str:
        return f"Predictions({plural(len(self), self.unit)}, {plural(len(self.labels), 'label')})"

    @property
    def n_images(self) -> int:
        """The number of images, also if rows are studies or patients."""
        return len(self) if self.counts is None else int(self.counts.sum())

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """(N,) patient numbers from 0, with a different negative number for each image of an unknown patient.

        None if no patient is known.
        """
        known = self.patients != ""
        if not known.any():
            return None
        numbers, _ = pd.factorize(np.where(known, self.patients, ""))
        return np.where(known, numbers, -1 - np.arange(len(numbers))).astype(np.int64)

    def population(self) -> dict[str, Any]:
        """Describe the population of the images, as far as it is known.

        Returns:
            `patients`, whether sex and age are counted per patient, from the first image of each, instead of per image;
            `sex`, the number of each ("" where unknown); `age`, with its `median`, its quartiles `q1` and `q3`, and how
            many are `unknown`; and `view`, the number of images of each.
        """
        groups, found = self.groups, dict[str, Any]()
        first = slice(None) if groups is None else np.unique(groups, return_index=True)[1]
        for name, rows in (("sex", first), ("view", slice(None))):
            if name in self.attributes:
                cells = self.attributes[name][rows]
                found[name] = {str(value): int(n) for value, n in pd.Series(cells).value_counts().sort_index().items()}
        ages = self.attributes.get("age", np.full(len(self), np.nan))[first]
        if (known := ages[~np.isnan(ages)]).size:
            q1, median, q3 = np.percentile(known, [25, 50, 75]).tolist()
            found["age"] = {"q1": q1, "median": median, "q3": q3, "unknown": len(ages) - len(known)}
        return {"patients": groups is not None, **found}

    @check_arguments()
    def calibrated(self, decision: Decision) -> Predictions:
        """Return a copy whose probabilities are calibrated with a decision."""
        return replace(self, probability=decision.calibrated(self.raw))

    def select(self, rows: NDArray[Any]) -> Predictions:
        """Return a copy with some of the rows.

        Args:
            rows: (N,) bool, or (K,) row numbers.

        Raises:
            ConfigError: they are neither.
        """
        rows = np.asarray(rows) if np.size(rows) else np.zeros(0, np.intp)
        is_mask = rows.dtype == bool and rows.shape == (len(self),)
        is_numbers = rows.dtype.kind in "iu" and rows.ndim == 1 and np.isin(rows, np.arange(len(self))).all()
        if not (is_mask or is_numbers):
            raise ConfigError(
                f"rows is {shorten(rows.ravel().tolist())}; expected {len(self)} booleans, or numbers of rows below it."
            )
        columns = {name: values[rows] for name in _PER_IMAGE if (values := getattr(self, name)) is not None}
        return replace(self, **columns, attributes={name: values[rows] for name, values in self.attributes.items()})

    @check_arguments()
    def of_labels(self, labels: Sequence[str]) -> Predictions:
        """Return a copy with some of the labels, in the order given.

        Raises:
            ConfigError: there are none, or one is unknown.
        """
        if unknown := [label for label in labels or [""] if label not in self.labels]:
            hint = did_you_mean(unknown[0], self.labels)
            raise ConfigError(f"labels has '{unknown[0]}'; expected one or more of {shorten(self.labels)}.{hint}")
        columns = [self.labels.index(label) for label in labels]
        cells = {name: getattr(self, name)[:, columns] for name in ("truth", "probability", "raw")}
        return replace(self, labels=tuple(labels), **cells)

    def by_unit(
        self,
        unit: Unit,
        how: UnitJoin,
        task: Task,
        positive: str | None = None,
        named_by: Collection[str] = (),
    ) -> Predictions:
        """Return the predictions of studies or patients, with the labels and probabilities of their images joined as in
        `metrics.operating_points.units`. For the unit "image", return these predictions.

        An image whose study or patient is unknown is a unit of its own. Units are in the order of their first images.
        A unit has the image id and the patient of its alphabetically first image. Its loss is the mean loss of its
        images, and its age the mean of their known ages; values of other attributes are joined by "+", as in
        "LATERAL+PA".

        Args:
            unit: "image", "study" or "patient".
            how: "mean", "max" or "noisy-or".
            task: "single" or "multi".
            positive: the positive class of a single-label task with two classes.
            named_by: images that a unit is named after if it has one of them, so that it has the same name as in other
                predictions.

        Raises:
            DataError: no study, or no patient, is known, or the images of one have several classes.
        """
        if unit == "image":
            return self
        ids = self.patients if unit == "patient" else self.studies
        if ids is None or not (ids != "").any():
            option, keyword = ("--study-col", "StudyInstanceUID") if unit == "study" else ("--patient-col", "PatientID")
            raise DataError(
                f"--unit {unit}: no image's {unit} is known; expected the {unit} of at least some images. Name a "
                f"column with {option}, or a DICOM element as in {option} dicom:{keyword}, or a pattern of file names "
                f"as in {option} 'name:({unit}[0-9]+)'. Or leave out --unit."
            )
        order = np.argsort(self.images, kind="stable")
        if named_by:
            order = order[np.argsort([image not in named_by for image in self.images[order]], kind="stable")]
        keys = np.where(ids != "", ids, [f" {row}" for row in range(len(ids))])  # no pseudonym begins with a space
        units = pd.factorize(keys)[0][order]
        truth = join_truth(self.truth[order], units, task, None if positive is None else self.labels.index(positive))
        first = order[np.unique(units, return_index=True)[1]]
        if task == "single" and (several := (truth == 1).sum(axis=1) > 1).any():
            row = int(np.argmax(several))
            classes = [label for label, cell in zip(self.labels, truth[row], strict=True) if cell == 1]
            kind = plural(int(several.sum()), unit)
            raise DataError(
                f"--unit {unit}: {kind} with images of several classes: the {unit} of '{self.images[first[row]]}' has "
                f"{' and '.join(classes)}; expected one class. Correct the labels, use --task multi, or leave out "
                "--unit."
            )
        counts = np.bincount(units)
        differ = np.bincount(units, (self.truth[order] != self.truth[first][units]).any(axis=1)) > 0
        return replace(
            self,
            images=self.images[first],
            patients=self.patients[first],
            truth=truth,
            probability=join_probabilities(self.probability[order], units, how, task),
            raw=join_probabilities(self.raw[order], units, how, task),
            loss=_mean_by_unit(self.loss[order], units, counts),
            attributes={
                name: _mean_by_unit(values[order], units, counts)
                if name == "age"
                else _joined_texts(values[order], units)
                for name, values in self.attributes.items()
            },
            studies=None if self.studies is None else self.studies[first],
            unit=unit,
            counts=counts.astype(np.int64),
            differ=differ,
        )

    def table(self) -> pd.DataFrame:
        """Return the columns of the CSV: image, patient, truth, loss, a calibrated and a raw probability per label, and
        the attributes.

        There is a column `study` if studies are recorded, a column such as `images_of_study` with the number of images
        if rows are studies or patients, and a column `masked` with the masked labels if cells are masked.
        """
        masked = self.truth < 0
        return pd.DataFrame(
            {
                "image": self.images,
                "patient": self.patients,
                **({} if self.studies is None else {"study": self.studies}),
                **({} if self.counts is None else {f"images_of_{self.unit}": self.counts}),
                "truth": [join_row_labels(row, self.labels) for row in self.truth],
                **({"masked": [join_row_labels(row, self.labels) for row in masked]} if masked.any() else {}),
                "loss": self.loss,
                **{PROBABILITY_PREFIX + label: self.probability[:, i] for i, label in enumerate(self.labels)},
                **{RAW_PREFIX + label: self.raw[:, i] for i, label in enumerate(self.labels)},
                **self.attributes,
            }
        )

    def write(self, path: Path) -> None:
        """Write the CSV of `table`, with nine digits, which are enough for float32."""
        write_csv(path, self.table(), "%.9g")

    @classmethod
    def read(cls, path: Path, labels: Sequence[str]) -> Predictions:
        """Read the CSV back.

        Older runs were not calibrated and have no raw probabilities; their column of masked labels is named `unknown`.

        Raises:
            RunError: a column is missing, or a cell is invalid.
        """
        try:
            columns = [PROBABILITY_PREFIX + label for label in labels]
            own = [RAW_PREFIX + label for label in labels]
            named = read_csv(path, nrows=0).columns
            text = dict.fromkeys(set(named) - {*columns, *own, "loss", "age"}, str)
            calibrated = not set(own).isdisjoint(named)  # then the raw probabilities of every label are there too
            expected = ("image", "patient", "truth", "loss", *columns, *(own if calibrated else ()))
            missing = {"age": [""], "loss": [""]}
            table = read_csv(path, expected, dtype=text, keep_default_na=False, na_values=missing)
            table = table.rename(columns={"unknown": "masked"})
            positive = _label_sets(table["truth"])
            masked = _label_sets(table["masked"]) if "masked" in table else [set()] * len(table)
            probability = table[columns].to_numpy(dtype=np.float64)
            raw = table[own].to_numpy(dtype=np.float64) if calibrated else probability
            loss = table["loss"].to_numpy(dtype=np.float64)
            further = [name for name in table if name not in {*PREDICTION_COLUMNS, *expected, *own}]
            attributes = {name: table[name].to_numpy(dtype=ATTRIBUTES.get(name, object)) for name in further}
            units: list[Unit] = [unit for unit in get_args(Unit) if f"images_of_{unit}" in table]
            counts = table[f"images_of_{units[0]}"].to_numpy(dtype=np.int64) if units else None
            for values in (probability, raw):
                if not ((values >= 0) & (values <= 1)).all():
                    raise ValueError("a probability is not a number from 0 to 1")
            if np.isinf(loss).any() or np.isinf(attributes.get("age", loss)).any():
                raise ValueError("a loss or an age is infinite")
        except (ValueError, OverflowError) as error:
            raise RunError(f"{path}: can't be read as predictions ({error}).") from error
        foreign = sorted(set().union(*positive, *masked) - set(labels))
        if foreign:
            raise RunError(f"{path}: contains labels that the run does not have: {shorten(foreign)}.")
        truth = [
            [-1 if label in hidden else int(label in row) for label in labels]
            for row, hidden in zip(positive, masked, strict=True)
        ]
        return cls(
            labels=tuple(labels),
            images=table["image"].to_numpy(dtype=object),
            patients=table["patient"].to_numpy(dtype=object),
            truth=np.array(truth, dtype=np.int64).reshape(-1, len(labels)),
            probability=probability,
            loss=loss,
            raw=raw,
            attributes=attributes,
            studies=table["study"].to_numpy(dtype=object) if "study" in table else None,
            unit=units[0] if units else "image",
            counts=counts,
        )


def _mean_by_unit(
    values: NDArray[np.float64], units: NDArray[np.intp], counts: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the mean of each unit's values that are not NaN; NaN if all are NaN."""
    known = ~np.isnan(values)
    totals, ns = (
        np.bincount(units, np.where(known, values, 0.0), len(counts)),
        np.bincount(units[known], minlength=len(counts)),
    )
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = totals / ns
    return means


def _joined_texts(values: NDArray[Any], units: NDArray[np.intp]) -> NDArray[np.object_]:
    """Join the distinct nonempty texts of each unit by "+"."""
    found: list[set[str]] = [set() for _ in range(int(units.max()) + 1)]
    for unit, value in zip(units.tolist(), values.tolist(), strict=True):
        found[unit].add(value)
    return np.array(["+".join(sorted(texts - {""})) for texts in found], dtype=object)


def image_studies(table: pd.DataFrame) -> NDArray[np.object_] | None:
    """Return the studies of a manifest's table, "" where unknown; None if it has no such column."""
    return table["study"].fillna("").to_numpy(object) if "study" in table else None


def truth_of(
    data: Manifest, labels: tuple[str, ...] | None = None, truth: NDArray[np.int64] | None = None
) -> Predictions:
    """Return the labels of a data set, or other labels of its images, as predictions whose probabilities are 0."""
    truth = data.truth.astype(np.int64) if truth is None else truth
    nothing = np.zeros(truth.shape)
    return Predictions(
        labels or data.labels,
        data.table["image"].to_numpy(object),
        data.table["patient"].fillna("").to_numpy(object),
        truth,
        probability=nothing,
        loss=nothing[:, 0],
        raw=nothing,
        studies=image_studies(data.table),
    )


def image_attributes(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Return the columns of `ATTRIBUTES` that a manifest's table has, with ages limited to `MAX_AGE`."""
    found: dict[str, NDArray[Any]] = {}
    for name in filter(table.__contains__, ATTRIBUTES):
        column = table[name]
        found[name] = (
            np.minimum(column.to_numpy(float), MAX_AGE) if name == "age" else column.fillna("").to_numpy(object)
        )
    return found


def _label_sets(cells: Iterable[str]) -> list[set[str]]:
    return [set(filter(None, cell.split(LABEL_JOIN))) for cell in cells]
