"""Everything that is reported about one split, as one plain dictionary: what `metrics.json` holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Task
from xrayfast.metrics.classification import (
    auroc,
    average_precision,
    binary_counts,
    confusion_matrix,
    cooccurrence,
    nanmean,
    rates,
)

OVERALL: dict[Task, dict[str, str]] = {
    "single": {
        "accuracy": "Accuracy",
        "f1_macro": "F1, macro",
        "auroc_macro": "AUROC, macro",
    },
    "multi": {
        "subset_accuracy": "Subset accuracy",
        "f1_macro": "F1, macro",
        "auroc_macro": "AUROC, macro",
        "ap_macro": "Mean average precision",
    },
}
"""The metrics of an epoch and of a split, with the names that people read, by task."""

PER_LABEL = {
    "support": "Images",
    "precision": "Precision",
    "recall": "Recall (sensitivity)",
    "specificity": "Specificity",
    "f1": "F1",
    "auroc": "AUROC",
    "ap": "Average precision",
}
"""The columns of the table by label, with the names that people read."""


def decide(probability: NDArray[Any], task: Task, threshold: float | NDArray[Any] = 0.5) -> NDArray[np.int64]:
    """Predicted labels as 0/1: the most likely class (single), or each label at or above the threshold (multi).

    Args:
        probability: (N, L) in [0, 1].
        task: "single" or "multi".
        threshold: for "multi", one number or (L,).

    Returns:
        (N, L) of 0 and 1.
    """
    if task == "multi":
        return (probability >= threshold).astype(np.int64)
    chosen = np.zeros(probability.shape, dtype=np.int64)
    chosen[np.arange(len(probability)), probability.argmax(axis=1)] = 1
    return chosen


def label_table(truth: NDArray[Any], probability: NDArray[Any], task: Task) -> dict[str, NDArray[np.float64]]:
    """The columns of `PER_LABEL`, each (L,); undefined cells are NaN.

    Args:
        truth: (N, L) of 1, 0, and -1 where nobody knows.
        probability: (N, L) in [0, 1].
        task: "single" or "multi".
    """
    counts = binary_counts(truth, decide(probability, task))
    known = [(column[column >= 0], score[column >= 0]) for column, score in zip(truth.T, probability.T, strict=True)]
    return {
        "support": (truth == 1).sum(axis=0).astype(np.float64),
        **rates(counts),
        "auroc": np.array([auroc(column, score) for column, score in known]),
        "ap": np.array([average_precision(column, score) for column, score in known]),
    }


def overall(truth: NDArray[Any], probability: NDArray[Any], task: Task) -> dict[str, float]:
    """The numbers named in `OVERALL[task]`; a macro mean is over the labels for which the metric is defined.

    Cells that nobody knows count nowhere: an image's set of labels is right where its known ones are, and an image of
    which nothing is known is left out.

    Args:
        truth: (N, L) of 1, 0, and -1 where nobody knows.
        probability: (N, L) in [0, 1].
        task: "single" or "multi".

    Returns:
        One float a metric, NaN where it is defined for no label.
    """
    table = label_table(truth, probability, task)
    known = truth >= 0
    right = ((decide(probability, task) == truth) | ~known).all(axis=1)[known.any(axis=1)]
    exact = float(right.mean()) if len(right) else math.nan
    means = {
        "f1_macro": nanmean(table["f1"]),
        "auroc_macro": nanmean(table["auroc"]),
        "ap_macro": nanmean(table["ap"]),
    }
    values = {"accuracy": exact, "subset_accuracy": exact, **means}
    return {name: values[name] for name in OVERALL[task]}


def absent_labels(truth: NDArray[Any], labels: Sequence[str]) -> list[str]:
    """The labels that no image of (N, L) `truth` carries: their AUROC and average precision are undefined."""
    return [label for label, count in zip(labels, (truth == 1).sum(axis=0), strict=True) if count == 0]


def summarise(truth: NDArray[Any], probability: NDArray[Any], labels: Sequence[str], task: Task) -> dict[str, Any]:
    """Everything that is reported about one split, ready for JSON: undefined numbers are None.

    Args:
        truth: (N, L) of 1, 0, and -1 where nobody knows.
        probability: (N, L) in [0, 1].
        labels: the L names.
        task: "single" or "multi".

    Returns:
        `images`; `scored`, those of which something is known; `unknown`, the images left out by label, where any are;
        `overall` and `per_label` (a row a label) with the keys of `OVERALL` and `PER_LABEL`;
        `confusion` (single), or `confusion_per_label` and `cooccurrence` (multi); `most_confused`; `notes`.
    """
    table = label_table(truth, probability, task)
    predicted = decide(probability, task)
    absent = absent_labels(truth, labels)
    notes = []
    if absent:
        notes.append(
            f"No image of this split carries {', '.join(absent)}: AUROC, average precision, recall and F1 have no "
            f"value there, and macro means are over the other {len(labels) - len(absent)} of {len(labels)} labels."
        )
    unknown = {label: int(n) for label, n in zip(labels, (truth < 0).sum(axis=0), strict=True) if n}
    if unknown:
        notes.append(
            "Left out, because nobody knows whether the image has the label: "
            + ", ".join(f"{label} {n}" for label, n in unknown.items())
            + "."
        )
    summary: dict[str, Any] = {
        "images": len(truth),
        "scored": int((truth >= 0).any(axis=1).sum()),
        "unknown": unknown,
        "overall": {name: _json(value) for name, value in overall(truth, probability, task).items()},
        "per_label": [
            {"label": label, **{name: _json(column[i]) for name, column in table.items()}}
            for i, label in enumerate(labels)
        ],
        "notes": notes,
    }
    for row in summary["per_label"]:
        row["support"] = int(row["support"])
    if task == "single":
        matrix = confusion_matrix(truth.argmax(axis=1), predicted.argmax(axis=1), len(labels))
        summary["confusion"] = matrix.tolist()
    else:
        counts = binary_counts(truth, predicted)
        summary["confusion_per_label"] = {label: counts[i].tolist() for i, label in enumerate(labels)}
        summary["cooccurrence"] = cooccurrence(truth, predicted).tolist()
    summary["most_confused"] = most_confused(truth, predicted, labels)
    return summary


def most_confused(
    truth: NDArray[Any], predicted: NDArray[Any], labels: Sequence[str], min_count: int = 1
) -> list[dict[str, Any]]:
    """Which label was taken for which, most often first.

    Args:
        truth: (N, L) of 1, 0, and -1 where nobody knows.
        predicted: (N, L) of 0 and 1.
        labels: the L names.
        min_count: images that a pair needs to be listed.

    Returns:
        Pairs as actual, predicted and count: the images on which `actual` was missed and `predicted` wrongly given.
        With one label an image these are the cells beside the diagonal of the confusion matrix.
    """
    missed = ((truth == 1) & (predicted == 0)).astype(np.int64)
    invented = ((truth == 0) & (predicted == 1)).astype(np.int64)
    counts = missed.T @ invented
    pairs = [
        {"actual": labels[i], "predicted": labels[j], "count": int(counts[i, j])}
        for i, j in zip(*np.nonzero(counts >= min_count), strict=True)
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])


def _json(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
