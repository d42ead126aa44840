"""Two runs on the same images: how far apart they are, with intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.errors import shorten
from xrayfast.metrics.bootstrap import Interval, Intervals, paired_differences
from xrayfast.metrics.comparison import holm, mcnemar
from xrayfast.metrics.decision import Decision
from xrayfast.metrics.delong import delong_test
from xrayfast.predictions import Predictions

LEVEL = 0.05
"""A difference is called clear where its corrected p-value lies below, and its 95 % interval on one side of 0."""

FEW = 10
"""With fewer patients (or images) that have a label, or that have it not, DeLong's p-value is rough."""

_COUNT_RIGHT_IMAGES = ("accuracy", "subset_accuracy")
"""The metrics that McNemar's test is about."""

_Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Side:
    """One of two runs.

    Attributes:
        predictions: of a split, each image once.
        decision: how the run calls labels.
        hashes: of the images' content by image; empty where unknown, as in older runs.
        window: with which DICOM files were read, and so hashed.
    """

    predictions: Predictions
    decision: Decision
    hashes: Mapping[str, str] = field(default_factory=dict)
    window: str = "auto"


def differences(
    one: Side, other: Side, metrics: Sequence[str], resamples: int, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """How much higher the metrics of one run are than those of the other, on the images that both have.

    Args:
        one: the one run.
        other: the other.
        metrics: names of `registry.overall_metrics`; of each label the AUROC is compared too.
        resamples: how often patients are drawn.
        seed: of the draws.

    Returns:
        A row for each difference, as in `Comparison.differences` but uncorrected, none where the two can't be
        compared; and what a reader must know, as ends of sentences in which "{reference}" stands for the other's name.
    """
    a, b = one.predictions, other.predictions
    decision_a, decision_b = one.decision, other.decision
    aligned = _aligned(one, other)
    if isinstance(aligned, str):
        return [], [f"not compared with {{reference}}: {aligned}."]
    rows_a, rows_b, columns = aligned
    notes = []
    if len(rows_a) < max(len(a), len(b)):
        notes.append(
            f"compared with {{reference}} on the {len(rows_a)} images that both have, of {len(a)} and {len(b)}; the "
            "table's values are over all images of each."
        )
    a, b = a.select(rows_a), b.select(rows_b)
    groups = a.groups if b.groups is None else b.groups
    thresholds = decision_a.thresholds, decision_b.thresholds[columns]
    probability = a.probability, b.probability[:, columns]
    found = paired_differences(
        a.truth, *probability, decision_a.task, groups, *thresholds, resamples=resamples, seed=seed
    )
    size = {"images": len(a), "patients": None if groups is None else len(np.unique(groups[groups >= 0]))}
    rows = []
    for name in metrics:
        test: dict[str, Any] = {"test": "", "p": math.nan}
        if name in _COUNT_RIGHT_IMAGES:
            called = decision_a.decide(a.probability), decision_b.decide(b.probability)[:, columns]
            test = {"test": "McNemar", "p": _mcnemar(a.truth, *called, groups)}
        rows.append({**size, "metric": name, "label": "", **_numbers(found.overall[name]), **test})
    for i, label in _told_apart(a.labels, decision_a):
        p = delong_test(a.truth[:, i], probability[0][:, i], probability[1][:, i], groups).p
        numbers = _numbers(found.per_label["auroc"][i])
        rows.append({**size, "metric": "auroc", "label": label, **numbers, "test": "DeLong", "p": p})
    remarks = _shown(found, metrics).notes(a.labels) + _few(a, groups)
    return rows, notes + [f"difference from {{reference}}: {remark}" for remark in remarks]


def corrected(rows: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, int]:
    """The differences with p-values corrected by Holm's method for all tests among them, and how many these are."""
    columns = ["run", "reference", "images", "patients", "metric", "label", "difference", "low", "high", "test", "p"]
    table = pd.DataFrame(list(rows), columns=columns)
    p = holm(table["p"].to_numpy(dtype=np.float64))
    table["p_corrected"] = p
    one_sided = (table["low"] > 0) | (table["high"] < 0)
    clear = [
        None if math.isnan(value) else bool(value < LEVEL and apart) for value, apart in zip(p, one_sided, strict=True)
    ]
    table["clear"] = pd.Series(clear, dtype=object)
    return table, int((~np.isnan(p)).sum())


def _aligned(one: Side, other: Side) -> tuple[_Rows, _Rows, _Rows] | str:
    """The rows of the shared images in each, and for the one's labels the columns of the other; or why there is no
    comparison.
    """
    a, b = one.predictions, other.predictions
    if set(a.labels) != set(b.labels):
        return f"its labels are others ({shorten(a.labels)}, not {shorten(b.labels)})"
    columns = np.array([b.labels.index(label) for label in a.labels], dtype=np.intp)
    place = pd.Index(b.images).get_indexer(pd.Index(a.images))
    rows_a = np.flatnonzero(place >= 0)
    rows_b = place[rows_a]
    if not len(rows_a):
        return "they have no image in common"
    differing = (a.truth[rows_a] != b.truth[rows_b][:, columns]).any(axis=1)
    if differing.any():
        first = a.images[rows_a[np.argmax(differing)]]
        count = f"{int(differing.sum())} of the {len(rows_a)} images of the same name"
        return f"{count} have another truth, '{first}' among them"
    strange = [] if one.window != other.window else _other_images(a.images[rows_a], one.hashes, other.hashes)
    if strange:
        return f"{len(strange)} of the {len(rows_a)} images of the same name are other images: {shorten(strange)}"
    return rows_a, rows_b, columns


def _other_images(images: NDArray[np.object_], a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """The images whose images differ, by the hashes that both sides have: names such as normal/1.png stand in many
    data sets.
    """
    return [image for image in images if a.get(image) and b.get(image) and a[image] != b[image]]


def _few(predictions: Predictions, groups: NDArray[np.int64] | None) -> list[str]:
    """A warning of labels that few patients have, or have not."""
    units = np.arange(len(predictions)) if groups is None else groups
    found = []
    for label, truth in zip(predictions.labels, predictions.truth.T, strict=True):
        fewest = min(len(np.unique(units[truth == value])) for value in (0, 1))
        if fewest < FEW:
            found.append(f"{label} ({fewest})")
    kind = "images" if groups is None else "patients"
    return (
        [f"fewer than {FEW} {kind} with, or without, {shorten(found, 20)}: DeLong's p is rough there."] if found else []
    )


def _told_apart(labels: Sequence[str], decision: Decision) -> Iterator[tuple[int, str]]:
    """The labels with an AUROC of their own: that of two classes, whose probabilities sum to one, is the same."""
    both_alike = decision.task == "single" and len(labels) == 2
    yield from enumerate(labels[:1] if both_alike else labels)


def _mcnemar(
    truth: NDArray[np.int64],
    called_a: NDArray[np.int64],
    called_b: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
) -> float:
    """Of which run has more images right, in all that is known of an image."""
    known = truth >= 0
    rows = known.any(axis=1)
    right_a, right_b = (((called == truth) | ~known).all(axis=1)[rows] for called in (called_a, called_b))
    return mcnemar(right_a, right_b, None if groups is None else groups[rows]).p


def _numbers(interval: Interval) -> dict[str, float]:
    return {"difference": interval.value, "low": interval.low, "high": interval.high}


def _shown(found: Intervals, metrics: Sequence[str]) -> Intervals:
    """Only the intervals that the rows hold."""
    overall = {name: found.overall[name] for name in metrics}
    return replace(found, overall=overall, per_label={"auroc": found.per_label["auroc"]})
