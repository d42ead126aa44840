"""The summary of a split in `metrics.json`: metrics, intervals, confusion matrices, reliability and notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Task, Unit
from xrayfast.errors import plural, plural_noun
from xrayfast.metrics.classification import (
    binary_counts,
    confusion_matrix,
    cooccurrence,
    count_pairs,
    nan_to_none,
)
from xrayfast.metrics.inputs import LEVEL, count_known
from xrayfast.metrics.intervals.bootstrap import Interval, Intervals, intervals
from xrayfast.metrics.intervals.delong import delong
from xrayfast.metrics.intervals.formulas import logit_limits
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.operating_points.thresholds import decide
from xrayfast.metrics.registry import AT_THRESHOLD, Metric, history_metrics
from xrayfast.metrics.reliability import reliability, top_label
from xrayfast.metrics.resamples import SingleSample, Split

MOST_LIKELY = "most likely class"
"""The key of the most likely class in `reliability`, whose other keys are the labels."""


def compute_epoch_metrics(
    truth: NDArray[Any], probability: NDArray[Any], task: Task, metrics: Mapping[str, Metric] | None = None
) -> dict[str, float]:
    """Compute an epoch's metrics, default `history_metrics`, at a threshold of 0.5; NaN if no label has a value."""
    sample = SingleSample(Split(truth, probability, task))
    chosen = history_metrics(task) if metrics is None else metrics
    return {name: float(metric.compute(sample)[0]) for name, metric in chosen.items()}


def labels_lacking(cell: Literal[0, 1], truth: NDArray[Any], labels: Sequence[str]) -> list[str]:
    """Return the labels without a positive (1) or a negative (0) in (N, L) `truth`; AUROC and average precision need
    both.
    """
    return [label for label, count in zip(labels, (truth == cell).sum(axis=0), strict=True) if count == 0]


def summarize(
    truth: NDArray[Any],
    probability: NDArray[Any],
    labels: Sequence[str],
    task: Task,
    *,
    threshold: float | NDArray[Any] = 0.5,
    groups: NDArray[Any] | None = None,
    prevalence: float | NDArray[Any] | None = None,
    resamples: int = 0,
    seed: int = 0,
    raw: NDArray[Any] | None = None,
    positive: str | None = None,
    unit: Unit = "image",
) -> dict[str, Any]:
    """Summarize the predictions of one split, ready for JSON: undefined values are None.

    `threshold` and `prevalence` are those of `resamples.Split`, and `raw` is the probabilities before calibration, for
    the reliability diagram. In `groups`, each image of an unknown patient has a negative number of its own. `unit` says
    what a row is: an image, a study or a patient. "Images" below means these rows.

    Returns:
        A dictionary. `images` and `patients` (or None): their numbers. `scored`: the number of images with an unmasked
        label. `masked`: the number of masked images, for each label that has any. `positive`, if given: pages show only
        the numbers of this class, from which those of the other follow. `overall` and `per_label`: the metrics of
        `registry.overall_metrics` and `label_metrics`; a row of `per_label` also has `label`, `support` (the number of
        images with the label), `negatives` (without it), and the `threshold` if there is one. `intervals`, if there are
        resamples. `prevalence`: the stated prevalence by label, if any. `reliability`: the bins of
        `reliability.reliability` by label and for the most likely class (single-label), or for the positive class
        alone. `confusion` and `most_common` (single-label), or `confusion_per_label` and `cooccurrence` (multi-label).
        `most_confused`. `notes`. `unit` with its `name`, if it is not "image".
    """
    predicted = decide(probability, task, threshold)
    split = ResampledMetrics(truth, probability, task, groups, threshold, prevalence)
    found = intervals(split, resamples, seed=seed) if resamples else None
    per_label = {name: column.tolist() for name, column in split.per_label.items()}
    shares = {} if split.prevalence is None else dict(zip(labels, split.prevalence.tolist(), strict=True))
    stated = {label: share for label, share in shares.items() if not math.isnan(share)}
    shown = [i for i, label in enumerate(labels) if positive in (None, label)]
    notes = _notes(truth[:, shown], [labels[i] for i in shown], stated, unit)
    summary: dict[str, Any] = {
        **({} if positive is None else {"positive": positive}),
        "images": len(truth),
        "patients": count_known(groups),
        "scored": int((truth >= 0).any(axis=1).sum()),
        "masked": _count_masked(truth, labels),
        "overall": {name: nan_to_none(value) for name, value in split.overall.items()},
        "per_label": [
            {
                "label": label,
                "support": int((truth[:, i] == 1).sum()),
                "negatives": int((truth[:, i] == 0).sum()),
                **{name: nan_to_none(column[i]) for name, column in per_label.items()},
                **({"threshold": float(split.thresholds[i])} if task == "multi" or positive else {}),
            }
            for i, label in enumerate(labels)
        ],
        "reliability": {
            **({} if raw is None else {"before": _reliability(truth, raw, labels, task, positive)}),
            "after": _reliability(truth, probability, labels, task, positive),
        },
        "most_confused": most_confused(truth, predicted, labels),
        "notes": notes,
    }
    if stated:
        summary["prevalence"] = stated
    if found is not None:
        summary["intervals"] = {**_intervals_json(found, labels), "delong": _delong(truth, probability, labels, groups)}
        if groups is None:
            summary["intervals"]["by"] = unit
        without = 0 if groups is None else int((groups < 0).sum())
        if without:
            notes.append(f"Resampled as if from a separate patient each: {plural(without, unit)} of unknown patients.")
        notes += found.notes(labels, positive)
    if task == "single":
        unmasked = (truth >= 0).any(axis=1)
        matrix = confusion_matrix(truth[unmasked].argmax(axis=1), predicted[unmasked].argmax(axis=1), len(labels))
        summary["confusion"] = matrix.tolist()
        summary["most_common"] = _most_common(summary["per_label"], summary["scored"])
    else:
        counts = binary_counts(truth, predicted)
        summary["confusion_per_label"] = {label: counts[i].tolist() for i, label in enumerate(labels)}
        summary["cooccurrence"] = cooccurrence(truth, predicted).tolist()
    if unit != "image":
        summary["unit"] = {"name": unit}
    return summary


def one_vs_rest(
    truth: NDArray[Any],
    probability: NDArray[Any],
    labels: Sequence[str],
    threshold: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Evaluate each class against the rest, predicted at its own threshold instead of if it is the most likely class
    (single-label).

    A row of `truth` is one-hot or entirely -1; `threshold` is (L,). The other arguments are those of `summarize`.

    Returns:
        One row per class: `label`, `threshold`, the metrics `AT_THRESHOLD`, and their `intervals`, empty without
        resamples.
    """
    split = ResampledMetrics(truth, probability, "multi", groups, threshold)
    per_label = {name: split.per_label[name].tolist() for name in AT_THRESHOLD}
    ends = _intervals_json(intervals(split, resamples, seed=seed), labels)["per_label"] if resamples else {}
    return [
        {
            "label": label,
            "threshold": float(threshold[i]),
            **{name: nan_to_none(per_label[name][i]) for name in AT_THRESHOLD},
            "intervals": {name: ends[label][name] for name in AT_THRESHOLD} if ends else {},
        }
        for i, label in enumerate(labels)
    ]


def interval_of(summary: Mapping[str, Any], metric: str, label: str | None = None) -> Mapping[str, Any] | None:
    """Return the interval of a metric over all labels, or of one label; None if there is none."""
    intervals = summary.get("intervals", {})
    by_metric = intervals.get("overall", {}) if label is None else intervals.get("per_label", {}).get(label, {})
    return by_metric.get(metric)


def most_confused(truth: NDArray[Any], predicted: NDArray[Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Count how often one label was predicted in place of another, most frequent pairs first.

    Returns:
        Pairs with `actual`, `predicted` and `count`: the number of images on which `actual` is a false negative and
        `predicted` a false positive. For single-label tasks these are the off-diagonal cells of the confusion matrix.
    """
    counts = count_pairs((truth == 1) & (predicted == 0), (truth == 0) & (predicted == 1))
    pairs = [
        {"actual": labels[i], "predicted": labels[j], "count": int(counts[i, j])}
        for i, j in zip(*np.nonzero(counts), strict=True)
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])


def _notes(truth: NDArray[Any], labels: Sequence[str], stated: Mapping[str, float], unit: Unit) -> list[str]:
    """Return notes on labels that are absent or masked, and on the stated prevalence."""
    notes = []
    absent, masked = labels_lacking(1, truth, labels), _count_masked(truth, labels)
    no_negatives = [label for label in labels_lacking(0, truth, labels) if label not in absent]
    if absent:
        others = f", and macro means are over the other {len(labels) - len(absent)} of {len(labels)} labels"
        notes.append(
            f"No {unit} in this split has {', '.join(absent)}, for which AUROC, average precision, recall and F1 are "
            f"not defined{others * (len(labels) > 1)}."
        )
    if no_negatives:
        notes.append(
            f"Every unmasked {unit} in this split has {', '.join(no_negatives)}, for which AUROC, average precision "
            "and specificity are not defined."
        )
    if masked:
        left_out = ", ".join(f"{label} {n}" for label, n in masked.items())
        units = plural_noun(unit).capitalize()
        notes.append(f"{units} left out per label, because the label is masked: {left_out}.")
    if stated:
        by_label = ", ".join(f"{label} {share:g}" for label, share in stated.items())
        shares = set(stated.values())
        shown = by_label if len(shares) > 1 else f"{shares.pop():g}"
        notes.append(f"Predictive values at a stated prevalence are for: {shown}.")
    return notes


def _most_common(rows: Sequence[Mapping[str, Any]], scored: int) -> dict[str, Any] | None:
    """Return the most common class, and its share of the images: the accuracy of always predicting it."""
    row = max(rows, key=lambda row: row["support"])
    return {"label": row["label"], "share": row["support"] / scored} if scored else None


def _count_masked(truth: NDArray[Any], labels: Sequence[str]) -> dict[str, int]:
    return {label: int(n) for label, n in zip(labels, (truth < 0).sum(axis=0), strict=True) if n}


def _intervals_json(found: Intervals, labels: Sequence[str]) -> dict[str, Any]:
    def to_json(interval: Interval) -> dict[str, Any]:
        ends = {"low": nan_to_none(interval.low), "high": nan_to_none(interval.high)}
        return {**ends, "method": interval.method, "undefined": interval.undefined}

    return {
        "level": LEVEL,
        "resamples": found.resamples,
        "seed": found.seed,
        "by": found.by,
        "units": found.n_units,
        "overall": {name: to_json(interval) for name, interval in found.overall.items()},
        "per_label": {
            label: {name: to_json(row[i]) for name, row in found.per_label.items()} for i, label in enumerate(labels)
        },
    }


def _delong(
    truth: NDArray[Any], probability: NDArray[Any], labels: Sequence[str], groups: NDArray[Any] | None
) -> dict[str, dict[str, float | None]]:
    """Compute each AUROC and its logit interval from DeLong's standard error, as a check of the reported interval.

    There is no interval at 0 and 1.
    """
    found = {}
    for label, cells, scores in zip(labels, truth.T, probability.T, strict=True):
        one = delong(cells, scores, groups)
        low, high = logit_limits(one.auroc, one.error)
        found[label] = {name: nan_to_none(end) for name, end in (("auroc", one.auroc), ("low", low), ("high", high))}
    return found


def _reliability(
    truth: NDArray[Any], probability: NDArray[Any], labels: Sequence[str], task: Task, positive: str | None
) -> dict[str, list[dict[str, float | None]]]:
    """Return the bins of each label, or of the positive class alone; otherwise in single-label tasks, those of the most
    likely class come first.
    """
    shown = labels if positive is None else [positive]
    bins = {label: reliability(truth[:, i], probability[:, i]) for i, label in enumerate(labels) if label in shown}
    if task == "single" and positive is None:
        right, confidence, _ = top_label(truth, probability)
        bins = {MOST_LIKELY: reliability(right, confidence), **bins}
    return {
        label: [{name: nan_to_none(value) for name, value in asdict(one).items()} for one in row]
        for label, row in bins.items()
    }
