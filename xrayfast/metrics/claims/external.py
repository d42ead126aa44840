"""Comparison of results on external data with those on the run's own data: prevalence, prior correction, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Task
from xrayfast.errors import format_interval, shorten
from xrayfast.metrics.claims.headline import HeadlineWarning
from xrayfast.metrics.classification import Floats, nan_to_none
from xrayfast.metrics.inputs import ALPHA
from xrayfast.metrics.intervals.formulas import Estimate, estimate_proportion
from xrayfast.metrics.intervals.paired_tests import holm
from xrayfast.metrics.registry import EXACT_MATCH, metric_phrase
from xrayfast.metrics.scoring import log_losses
from xrayfast.metrics.summary import interval_of

COMPARED = ("auroc", "recall", "specificity")
"""The metrics per label that are compared with those of the run's own data."""

AT_END = 0.001
"""An estimated prevalence closer to 0 or 1 than this is not used: it would make each image's probability 0 or 1."""

_ITERATIONS, _TOLERANCE = 10_000, 1e-9


def correct_prior(probability: Floats, prior: Floats) -> tuple[Floats, Floats]:
    """Estimate the prevalence of classes from probabilities of unlabeled images, and correct the probabilities for it.

    The correction is valid if images of a class have the same distribution in both data sets (label shift) and the
    probabilities are calibrated for the prior.

    The (N, C) probabilities are of mutually exclusive classes; `prior` is their (C,) prevalence, above 0, in the data
    on which the probabilities were calibrated. The result has the same shapes.

    Saerens, Latinne and Decaestecker 2002: expectation-maximization, which finds the maximum-likelihood estimate.
    """
    found = prior / prior.sum()
    ratio = probability / found
    for _ in range(_ITERATIONS):
        posterior = ratio * found
        posterior /= posterior.sum(axis=1, keepdims=True)
        before, found = found, posterior.mean(axis=0)
        if np.abs(found - before).max() < _TOLERANCE:
            break
    return found, posterior


def corrected_labels(probability: Floats, prior: Floats, task: Task) -> tuple[Floats, Floats]:
    """Apply `correct_prior` to the classes (single-label), or to each label by itself (multi-label).

    Returns:
        (L,) prevalences and (N, L) probabilities.
    """
    prior = np.clip(prior, 1e-6, 1 - 1e-6)
    if task == "single":
        return correct_prior(probability, prior)
    both = [
        correct_prior(np.column_stack([column, 1 - column]), np.array([share, 1 - share]))
        for column, share in zip(probability.T, prior.tolist(), strict=True)
    ]
    return np.array([share[0] for share, _ in both]), np.column_stack([posterior[:, 0] for _, posterior in both])


def compare_prevalence(
    labels: Sequence[str],
    validation: tuple[NDArray[np.int64], NDArray[np.int64] | None],
    here: tuple[NDArray[np.int64], NDArray[np.int64] | None],
    probability: Floats,
    task: Task,
    positive: str | None = None,
) -> list[dict[str, Any]]:
    """Compare the prevalence of each label here with that on validation, and evaluate a correction for the difference.

    `validation` and `here` are truth and patient numbers of the two data sets, as `summary.summarize` takes them, and
    `probability` (N, L) is that of these data, calibrated on validation. With a `positive` class, only it has a row.

    Returns:
        One row for each label that has unmasked cells both here and on validation: `label`; the prevalences `here` and
        on `validation`, the latter with its interval by patient, `low` to `high`; `outside`, whether the interval of
        their difference, corrected for the number of labels, excludes 0 (`here` is outside validation's interval
        then); `estimated`, the prevalence here as estimated by `correct_prior`, without the labels; `estimate_differs`,
        whether it differs significantly from validation's; and the log loss here, without the correction (`log_loss`)
        and with it (`log_loss_corrected`).
    """
    truth, known = here[0], (here[0] >= 0).sum(axis=0)
    known_there = (validation[0] >= 0).sum(axis=0)
    there = (known > 0) & (known_there > 0)
    if not there.any():
        return []
    prior = np.where(there, (validation[0] == 1).sum(axis=0) / np.maximum(known_there, 1), 0.5)
    estimated, corrected = corrected_labels(probability, prior, task)
    losses = [
        np.where(truth >= 0, log_losses(truth.astype(np.int8), values), 0).sum(axis=0) / np.maximum(known, 1)
        for values in (probability, corrected)
    ]
    shown = [i for i in np.flatnonzero(there).tolist() if positive in (None, labels[i])]
    level, rows = 1 - ALPHA / max(1, len(shown)), []
    for i in shown:
        wide, own = _share(validation, i, level), _share(validation, i)
        other = _share(here, i, level)
        low, high = difference_interval(other.value, (other.low, other.high), wide.value, (wide.low, wide.high))
        rows.append(
            {
                "label": labels[i],
                "here": other.value,
                "validation": own.value,
                "low": own.low,
                "high": own.high,
                "outside": not low <= 0 <= high,
                "estimated": float(estimated[i]),
                "estimate_differs": _estimate_differs(float(estimated[i]), corrected[:, i], here[1], own),
                "log_loss": float(losses[0][i]),
                "log_loss_corrected": float(losses[1][i]),
            }
        )
    return rows


def _unit(groups: NDArray[np.int64] | None, n: int) -> NDArray[np.int64]:
    return np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]


def _share(sample: tuple[NDArray[np.int64], NDArray[np.int64] | None], i: int, level: float = 0.95) -> Estimate:
    """Estimate the prevalence of label i, with its interval by patient."""
    cells, unit = sample[0][:, i], _unit(sample[1], len(sample[0]))
    known = cells >= 0
    return estimate_proportion(cells[known] == 1, unit[known], int(unit.max()) + 1, level)


def _estimate_differs(estimated: float, corrected: Floats, groups: NDArray[np.int64] | None, own: Estimate) -> bool:
    """Whether a prevalence estimated by `correct_prior` differs significantly from validation's.

    Its standard error is computed from the derivatives of the log-likelihood, summed by patient. Near 0 and 1
    (`AT_END`) it cannot be computed, and the answer is False.
    """
    if not AT_END < estimated < 1 - AT_END:
        return False
    slopes = corrected / estimated - (1 - corrected) / (1 - estimated)
    by_patient = np.bincount(_unit(groups, len(slopes)), weights=slopes)
    half = NormalDist().inv_cdf(0.975) * float(np.sqrt((by_patient**2).sum()) / max((slopes**2).sum(), 1e-12))
    ends = estimated - half, estimated + half
    low, high = difference_interval(estimated, ends, own.value, (own.low, own.high))
    return not low <= 0 <= high


def difference_interval(
    a: float, a_ends: tuple[float, float], b: float, b_ends: tuple[float, float]
) -> tuple[float, float]:
    """Compute the interval of a minus b from the intervals of a and b, which come from independent samples.

    Newcombe 1998 (Stat Med 17:873, method 10) for proportions; Zou and Donner 2008 (MOVER) in general.
    """
    low = a - b - float(np.hypot(a - a_ends[0], b_ends[1] - b))
    high = a - b + float(np.hypot(a_ends[1] - a, b - b_ends[0]))
    return low, high


def compare_with_internal(
    internal: Mapping[str, Any], external: Mapping[str, Any], task: Task, same_labels: bool
) -> list[dict[str, Any]]:
    """Compare the metrics on other data with those on the run's own data.

    Returns:
        One row per metric: `metric`; `label` (None for a metric over all labels); `internal` and the lower limit of its
        interval, `internal_low`; `external`; the `difference`, external minus internal, and its interval, `low` to
        `high`; and `reason`, why one of these is missing.
    """

    def ends(summary: Mapping[str, Any], metric: str, label: str | None) -> tuple[float, float] | None:
        end = interval_of(summary, metric, label)
        return None if not end or end["low"] is None or end["high"] is None else (end["low"], end["high"])

    def row(metric: str, label: str | None, a: float | None, b: float | None) -> dict[str, Any]:
        own, other = ends(internal, metric, label), ends(external, metric, label)
        low = high = None
        reason = ""
        if a is None or b is None:
            where = "in the run's own data" if a is None else "here"
            reason = f"not defined {where}, where images with the label or without it are missing"
        elif own is None or other is None:
            reason = f"no interval {'in the run' if own is None else 'here'}"
        else:
            low, high = difference_interval(b, other, a, own)
        return {
            "metric": metric,
            "label": label,
            "internal": a,
            "internal_low": own[0] if own else None,
            "external": b,
            "difference": None if a is None or b is None else nan_to_none(b - a),
            "low": low,
            "high": high,
            "reason": reason,
        }

    rows = []
    positive = external.get("positive")
    means = (EXACT_MATCH[task],) if positive else ("auroc_macro", EXACT_MATCH[task])
    for name in means if same_labels else ():
        rows.append(row(name, None, internal["overall"].get(name), external["overall"].get(name)))
    theirs = {one["label"]: one for one in internal["per_label"]}
    for one in external["per_label"]:
        if (one["support"] or one["negatives"]) and one["label"] in theirs and positive in (None, one["label"]):
            own = theirs[one["label"]]
            rows += [row(name, one["label"], own.get(name), one.get(name)) for name in COMPARED]
    return rows


def _lower_results(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the results that are significantly lower than on the run's own data, in words.

    These are the results for which the interval of the difference, corrected for the number of results (Holm), is below
    0; they are then also below the interval of the result on the run's own data.
    """
    judged = [row for row in rows if row["high"] is not None]
    normal = NormalDist()
    reach = normal.inv_cdf(0.975)
    p = [
        normal.cdf(reach * row["difference"] / (row["high"] - row["difference"])) if row["difference"] < 0 else 1.0
        for row in judged
    ]
    corrected = holm([*p, 1.0] if len(p) == 1 else p)  # a single p is doubled: an interval has 2.5% on each side
    return [
        f"{metric_phrase(row['metric'])}{'' if row['label'] is None else ' of ' + row['label']} "
        f"{row['external']:.3f}, below {row['internal_low']:.3f}"
        for row, lower in zip(judged, corrected[: len(judged)] < ALPHA, strict=True)
        if lower
    ]


def external_warnings(
    prevalence: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[HeadlineWarning]:
    """Return the warnings that the rows of `compare_prevalence` and `compare_with_internal` give rise to: about ranking
    and accuracy, about rates at the run's thresholds, and about prevalence.
    """
    found = []
    ranking = [row["label"] is None or row["metric"] == "auroc" for row in rows]
    if below := _lower_results([row for row, one in zip(rows, ranking, strict=True) if one]):
        found.append(
            HeadlineWarning(
                "below internal",
                f"Results here are below the interval of the run's own data: {shorten(below)}.",
                "The network performs worse on these data than on its own.",
            )
        )
    if below := _lower_results([row for row, one in zip(rows, ranking, strict=True) if not one]):
        found.append(
            HeadlineWarning(
                "rates below internal",
                "At the thresholds of the run, rates here are below the interval of the run's own data: "
                f"{shorten(below)}.",
                "More images with the label are missed (recall), or more without it are called positive (specificity); "
                "check the thresholds on images of this site before use.",
            )
        )
    outside = [
        f"{row['label']} {row['here']:.3f}, validation {row['validation']:.3f} "
        f"({format_interval(row['low'], row['high'])})"
        for row in prevalence
        if row["outside"]
    ]
    if outside:
        helps = (
            all(AT_END < row["estimated"] < 1 - AT_END for row in prevalence)
            and sum(row["log_loss_corrected"] - row["log_loss"] for row in prevalence) < 0
            and any(
                row["outside"] and row["estimate_differs"] and row["log_loss_corrected"] < row["log_loss"]
                for row in prevalence
            )
        )
        found.append(
            HeadlineWarning(
                "prevalence",
                f"Prevalence here differs from that of the validation images: {shorten(outside)}.",
                "Probabilities and predictive values are biased by this"
                + (
                    "; --correct-prior corrects probabilities for the prevalence here, which it estimates without the "
                    "labels."
                    if helps
                    else ", and a correction that estimates the prevalence without the labels does not help here."
                ),
            )
        )
    return found
