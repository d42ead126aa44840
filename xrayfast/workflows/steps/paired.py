"""Paired differences of two runs on the same images, with intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.config import PredictedSplit
from xrayfast.errors import RunError, plural, plural_noun, shorten
from xrayfast.files.csv_tables import read_csv
from xrayfast.metrics.inputs import ALPHA, count_known, sampling_units
from xrayfast.metrics.intervals.bootstrap import Interval, paired_differences
from xrayfast.metrics.intervals.delong import delong_test
from xrayfast.metrics.intervals.paired_tests import holm, mcnemar, resampled_t_test
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.thresholds import decide
from xrayfast.metrics.registry import EXACT_MATCH
from xrayfast.metrics.subgroups import NEEDS_BOTH
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.names import SPLIT_FILE
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.predictions.own import RunByUnit
from xrayfast.workflows.steps.results import patients_by_label, subgroup_values

FEW = 10
"""If fewer patients (or images) than this have, or lack, a label, DeLong's p-value is approximate."""

_Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class RunPredictions:
    """A run's predictions, with the data that match their images to those of another run.

    Attributes:
        hashes: the hash of each image's pixels, keyed by the image's name; empty for runs of older versions.
        window: the window that DICOM files were read with before hashing.
    """

    predictions: Predictions
    decision: Decision
    hashes: Mapping[str, str] = field(default_factory=dict)
    window: str = "auto"

    @classmethod
    def of(cls, own: RunByUnit, predictions: Predictions) -> RunPredictions:
        """Return predictions of a run with the hashes and the window from its folder."""
        run, hashes = own.run, dict[str, str]()
        if (run.path / SPLIT_FILE).exists():
            table = read_csv(run.split_path, ("image",), dtype=str, keep_default_na=False)
            if "digest" in table:  # older runs lack them
                hashes = dict(zip(table["image"], table["digest"], strict=True))
        return cls(predictions, own.decision, hashes, run.config.data.window)

    def shared_labels(self, other: RunPredictions) -> list[str]:
        """Return the labels that both have; if single-label, none unless both have exactly the same labels."""
        mine, theirs = self.predictions.labels, other.predictions.labels
        shared = [label for label in mine if label in theirs]
        return shared if self.decision.task == "multi" or len(shared) == len(mine) == len(theirs) else []

    def decided(self, labels: Sequence[str]) -> tuple[Predictions, NDArray[np.float64]]:
        """Return the predictions of some labels, and their thresholds."""
        columns = [self.predictions.labels.index(label) for label in labels]
        return self.predictions.of_labels(labels), self.decision.thresholds[columns]


def read_distinct(own: RunByUnit, split: PredictedSplit) -> Predictions:
    """Read a run's saved predictions of the images of a split, whose names must be distinct."""
    run, predictions = own.run, own.images(split)
    if not len(predictions):
        raise RunError(f"{run.path}: its predictions of split '{split}' are empty. Leave the run out.")
    images = pd.Index(predictions.images)
    if images.has_duplicates:
        raise RunError(
            f"{run.path}: '{images[images.duplicated()][0]}' is more than once in its predictions of split "
            f"'{split}'; expected one row per image. Leave the run out, or train it again."
        )
    return predictions


def compare_pair(
    one: RunPredictions, other: RunPredictions, metrics: Sequence[str], resamples: int, seed: int, reference: str = ""
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compute the metrics of one run minus those of another, on their shared images and, if multi-label, shared labels.

    The notes call the other run by the name `reference`.

    Returns:
        One row per difference, as in `Comparison.differences` without corrected p-values, or no rows if the two can't
        be compared; and notes, as ends of sentences.
    """
    labels, task = one.shared_labels(other), one.decision.task
    aligned = align(one, other, labels)
    if isinstance(aligned, str):
        return [], [f"not compared with {reference}: {aligned}."]
    (a, thresholds_a), (b, thresholds_b) = one.decided(labels), other.decided(labels)
    notes = []
    if len(aligned[0]) < max(len(a), len(b)):
        notes.append(
            f"compared with {reference} on the {len(aligned[0])} {plural_noun(a.unit)} that both have, of {len(a)} "
            f"and {len(b)}; the table's values are over all {plural_noun(a.unit)} of each."
        )
    if alone := sorted({*one.predictions.labels, *other.predictions.labels} - {*labels}):
        notes.append(
            f"compared with {reference} on the {plural(len(labels), 'label')} that both have, without "
            f"{shorten(alone, 20)}; the table's values are over all labels of each."
        )
    a, b = a.select(aligned[0]), b.select(aligned[1])
    if np.array_equal(a.probability, b.probability):
        notes.append(f"all its probabilities are equal to those of {reference}: it may be a copy.")
    groups = a.groups if b.groups is None else b.groups
    found = paired_differences(
        ResampledMetrics(a.truth, a.probability, task, groups, thresholds_a),
        ResampledMetrics(a.truth, b.probability, task, groups, thresholds_b),
        resamples,
        seed=seed,
    )
    size = {"images": len(a), "patients": count_known(groups)}
    rows = []
    for name in metrics:
        test: dict[str, Any] = {"test": "", "p": math.nan}
        if name in EXACT_MATCH.values():  # these count correctly predicted images
            predicted = decide(a.probability, task, thresholds_a), decide(b.probability, task, thresholds_b)
            test = {"test": "McNemar", "p": _mcnemar(a.truth, *predicted, groups)}
        rows.append({**size, "metric": name, "label": "", **_interval_columns(found.overall[name]), **test})
    for i, label in enumerate(labels):
        if one.decision.positive not in (None, label):  # two classes, whose probabilities sum to one, share an AUROC
            continue
        p = delong_test(a.truth[:, i], a.probability[:, i], b.probability[:, i], groups).p
        numbers = _interval_columns(found.per_label["auroc"][i])
        rows.append({**size, "metric": "auroc", "label": label, **numbers, "test": "DeLong", "p": p})
    overall = {name: found.overall[name] for name in metrics}
    shown = replace(found, overall=overall, per_label={"auroc": found.per_label["auroc"]})
    remarks = shown.notes(labels) + _few_patients_note(a, groups)
    return rows, notes + [f"difference from {reference}: {remark}" for remark in remarks]


def compare_subgroups(
    sides: Mapping[str, RunPredictions],
    reference: str,
    names: Iterable[str],
    by: Sequence[str],
    metrics: Sequence[str],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Run `compare_pair` for each run and the reference in each subgroup of the reference's images, over all labels.

    Returns:
        A row for each column, subgroup, run and metric: `by`, `value`, `run`, `reference` and the columns of
        `compare_pair` except those of tests. Metrics whose name begins with one of `NEEDS_BOTH` are NaN if fewer than
        `FEW` patients (or images) of a subgroup have a label, or lack it.
    """
    rows: list[dict[str, Any]] = []
    own = sides[reference].predictions
    for column, values in subgroup_values(own, by).items():
        for value in sorted(set(values.tolist()) - {""}):
            of_group = replace(sides[reference], predictions=own.select(values == value))
            patients = patients_by_label(of_group.predictions)
            for name in names:
                if name == reference:
                    continue
                few = any(min(patients[label]) < FEW for label in of_group.shared_labels(sides[name]))
                for row in compare_pair(sides[name], of_group, metrics, resamples, seed)[0]:
                    if row["label"]:
                        continue
                    lacking = few and row["metric"].startswith(NEEDS_BOTH)
                    numbers = dict.fromkeys(("difference", "low", "high"), math.nan) if lacking else {}
                    kept = {key: cell for key, cell in row.items() if key not in ("label", "test", "p")}
                    rows.append({"by": column, "value": value, "run": name, "reference": reference, **kept, **numbers})
    return rows


def compare_folds(one: Run, other: Run, rows: Sequence[dict[str, Any]], reference: str) -> list[str]:
    """Test paired differences of two cross-validations with the corrected resampled t-test over folds.

    Args:
        one: a run.
        other: the reference.
        rows: the rows of `compare_pair`; "test" and "p" of those without a test are set in place.
        reference: the reference's name.

    Returns:
        Notes, as ends of sentences; none unless both runs are cross-validations.
    """
    if not (CrossValidation.is_there(one.path) and CrossValidation.is_there(other.path)):
        return []
    if {*one.labels} != {*other.labels}:
        return [f"has other labels than {reference}: no test over folds was made."]
    pair = CrossValidation(one.path), CrossValidation(other.path)
    (images, numbers), (others, other_numbers) = (cv.images_in_folds() for cv in pair)
    if images != others or not np.array_equal(numbers, other_numbers):
        return [f"has other folds than {reference}: no test over folds was made."]
    folds = pair[0].folds
    tables = [[row["overall"] for row in cv.metrics["folds"]] for cv in pair]
    for row in rows:
        values = [[fold.get(row["metric"]) for fold in table] for table in tables]
        if not row["test"] and not row["label"] and all(value is not None for table in values for value in table):
            differences = np.subtract(*np.array(values, np.float64))
            trained_on = (folds.folds - 1) * (1 - folds.inner_valid)
            row |= {"test": "resampled t", "p": resampled_t_test(differences, 1 / trained_on)}
    return [
        f"differences from {reference} in metrics that have no other test are tested over {len(tables[0])} folds "
        "with the corrected resampled t-test (Nadeau and Bengio 2003)."
    ]


def correct_p_values(rows: Sequence[Mapping[str, Any]], chosen_from: int = 2) -> tuple[pd.DataFrame, int]:
    """Return the differences as a table with corrected p-values, and the number of tests that they are corrected for.

    Args:
        rows: the rows of `compare_pair`, with "run" and "reference" added.
        chosen_from: the number of runs from which the reference was chosen for its result on these images. Choosing the
            best favors differences that arise by chance. With more than 2, p-values are therefore corrected for the
            tests of every pair of runs, with Bonferroni's method. With 2, as for a reference named beforehand, they are
            corrected for the tests in `rows`, with Holm's method.
    """
    columns = ["run", "reference", "images", "patients", "metric", "label", "difference", "low", "high", "test", "p"]
    table = pd.DataFrame(list(rows), columns=columns)
    p = table["p"].to_numpy(dtype=np.float64)
    tests = int((~np.isnan(p)).sum())
    if chosen_from > 2:  # `rows` are chosen_from - 1 of chosen_from * (chosen_from - 1) / 2 pairs
        tests = tests * chosen_from // 2
        p = np.minimum(p * tests, 1.0)
    else:
        p = holm(p)
    table["p_corrected"] = p
    significant = (p < ALPHA) & ((table["low"] > 0) | (table["high"] < 0))
    table["significant"] = significant.astype(object).where(~np.isnan(p), None)
    return table, tests


def align(one: RunPredictions, other: RunPredictions, labels: Sequence[str]) -> tuple[_Rows, _Rows] | str:
    """Return the rows of the shared images in each, or the reason why the two can't be compared on these labels."""
    a, b = one.predictions, other.predictions
    if not labels:
        return f"its labels differ ({shorten(a.labels)}, not {shorten(b.labels)})"
    place = pd.Index(b.images).get_indexer(pd.Index(a.images))
    rows_a = np.flatnonzero(place >= 0)
    rows_b, images = place[rows_a], a.images[rows_a]
    if not len(images):
        return "they have no image in common"
    cells_a, cells_b = a.of_labels(labels).truth[rows_a], b.of_labels(labels).truth[rows_b]
    differs = (cells_a != cells_b).any(axis=1)
    count = f"of the {len(images):,} images of the same name"
    if differs.any() and ((cells_a == cells_b) | (np.minimum(cells_a, cells_b) < 0)).all():
        return (
            f"{differs.sum()} {count} have cells that are masked in only one of the two runs, "
            f"'{images[np.argmax(differs)]}' among them: the runs' --uncertain or --blank differ"
        )
    if differs.any():
        return f"{differs.sum()} {count} have different labels, '{images[np.argmax(differs)]}' among them"
    if one.window == other.window:  # equal names may be different images: many data sets have a normal/1.png
        hashes = [(image, one.hashes.get(image), other.hashes.get(image)) for image in images]
        different = [image for image, hash_a, hash_b in hashes if hash_a and hash_b and hash_a != hash_b]
        if different:
            return f"{len(different)} {count} have different pixels: {shorten(different)}"
    return rows_a, rows_b


def _few_patients_note(predictions: Predictions, groups: NDArray[np.int64] | None) -> list[str]:
    units, _ = sampling_units(groups, len(predictions))
    found = []
    for label, truth in zip(predictions.labels, predictions.truth.T, strict=True):
        fewest = min(len(np.unique(units[truth == value])) for value in (0, 1))
        if fewest < FEW:
            found.append(f"{label} ({fewest})")
    kind = plural_noun(predictions.unit) if groups is None else "patients"
    text = (
        f"fewer than {FEW} {kind} with or without {shorten(found, 20)}: DeLong's p is only approximate for these "
        "labels."
    )
    return [text] if found else []


def _mcnemar(
    truth: NDArray[np.int64],
    predicted_a: NDArray[np.int8],
    predicted_b: NDArray[np.int8],
    groups: NDArray[np.int64] | None,
) -> float:
    """Return McNemar's p-value for the numbers of images whose unmasked labels are all predicted correctly."""
    unmasked = truth >= 0
    rows = unmasked.any(axis=1)
    right_a, right_b = (
        ((predicted == truth) | ~unmasked).all(axis=1)[rows] for predicted in (predicted_a, predicted_b)
    )
    return mcnemar(right_a, right_b, None if groups is None else groups[rows]).p


def _interval_columns(interval: Interval) -> dict[str, float]:
    return {"difference": interval.value, "low": interval.low, "high": interval.high}
