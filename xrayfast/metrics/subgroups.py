"""Metrics of subgroups of a split, such as women and men, and the largest differences between subgroups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.config import Task, Unit
from xrayfast.errors import plural, plural_noun, shorten
from xrayfast.metrics.claims.gap_test import permutation_p, permuted_metrics
from xrayfast.metrics.claims.headline import FEW_PATIENTS
from xrayfast.metrics.classification import Floats, nan_to_none
from xrayfast.metrics.inputs import Bools, DrawnCounts, Indices, count_patients
from xrayfast.metrics.intervals.bootstrap import MAX_UNDEFINED, MIN_FOR_MEAN_PRECISION, MIN_UNITS
from xrayfast.metrics.intervals.confidence_limits import bca
from xrayfast.metrics.intervals.paired_tests import holm
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.intervals.resampling import block_size, draws, left_out
from xrayfast.metrics.registry import EXACT_MATCH, headline_metrics, label_metrics, metric_phrase, overall_metrics
from xrayfast.metrics.resamples import Resamples
from xrayfast.metrics.summary import summarize

AGES = {"0-17": 0.0, "18-39": 18.0, "40-59": 40.0, "60-79": 60.0, "80+": 80.0}
"""The age bands, and the age in years at which each begins."""

GAP_METRICS = ("auroc", "recall", "specificity")
"""The metrics by which subgroups are compared, per label and as a mean over the labels. The metric of
`registry.EXACT_MATCH` is compared too."""

NEEDS_BOTH = ("auroc", "balanced_accuracy")
"""The metrics that are undefined for a subgroup, by label and overall, if fewer than `FEW_PATIENTS` of its patients
have the label, or fewer are without it."""

_KEPT = ("positive", "unit", "images", "patients", "scored", "overall", "per_label", "intervals", "notes")


def age_bands(age: ArrayLike) -> NDArray[np.str_]:
    """Return the band of each age (N,), a name of `AGES`; "" where the age is NaN.

    >>> age_bands([17.9, 18, 90, float("nan")]).tolist()
    ['0-17', '18-39', '80+', '']
    """
    years = np.asarray(age, dtype=np.float64)
    place = np.searchsorted(list(AGES.values()), years, side="right")
    return np.array(["", *AGES])[np.where(np.isnan(years), 0, place)]


def subgroups(
    truth: NDArray[Any],
    probability: NDArray[Any],
    labels: Sequence[str],
    task: Task,
    values: Mapping[str, ArrayLike],
    *,
    threshold: float | NDArray[Any] = 0.5,
    groups: NDArray[Any] | None = None,
    prevalence: float | NDArray[Any] | None = None,
    resamples: int = 0,
    seed: int = 0,
    positive: str | None = None,
    unit: Unit = "image",
) -> list[dict[str, Any]]:
    """Summarize each subgroup as `summary.summarize` does for a split, and find the largest gaps between subgroups.

    `values` maps each attribute that divides the images to (N,) texts, "" where missing: `{"sex": ["F", "M", ...]}`.
    The other arguments are those of `summarize`.

    Returns:
        One dictionary per attribute. `by`: the attribute. `missing`: the number of images without a value. `groups`:
        one summary per subgroup, with its `value` and `with_auroc`, the number of labels that the macro AUROC is the
        mean of. `notes`. `gaps`, largest first, each with `metric`; `label`, or None for the exact match and for a mean
        over labels, which also has their number, `labels`; the two subgroups, `highest` and `lowest`, their values,
        `highest_value` and `lowest_value`, and the `difference`; `pairs`, the number of pairs of subgroups that were
        compared; the interval `low` to `high`, if there is only one pair; and if there are resamples, the p-value of
        the permutation test of `claims.gap_test`, `p`, and `p_corrected` for the number of gaps (Holm). Undefined
        numbers are None.

    Raises:
        ValueError: As in `ResampledMetrics`; an attribute does not have N values.
    """
    split = ResampledMetrics(truth, probability, task, groups, threshold)

    def summary(rows: Bools) -> dict[str, Any]:
        of_rows = truth[rows], probability[rows], labels, task
        patients = None if groups is None else groups[rows]
        options: dict[str, Any] = {"prevalence": prevalence, "resamples": resamples, "seed": seed}
        options |= {"positive": positive, "unit": unit}
        found = summarize(*of_rows, threshold=threshold, groups=patients, **options)
        few: Bools = np.min(count_patients(truth[rows], split.unit[rows]), axis=1) < FEW_PATIENTS
        if few.any():
            _leave_out_uncertain(found, split.select(rows), few, resamples, seed)
        with_auroc = sum(row["auroc"] is not None for row in found["per_label"])
        return {"with_auroc": with_auroc, **{name: found[name] for name in _KEPT if name in found}}

    found = []
    for by, column in ((by, np.asarray(column, dtype=np.str_)) for by, column in values.items()):
        if column.shape != (len(truth),):
            raise ValueError(f"{by} has shape {column.shape}; expected one value for each of {len(truth)} images")
        members = {value: column == value for value in np.unique(column).tolist() if value}
        gaps, notes = _gaps(split, labels, members, resamples, seed, positive) if len(members) > 1 else ([], [])
        missing = int((column == "").sum())
        if missing:
            notes.insert(0, f"{missing} {plural_noun(unit)} whose {by} is unknown are in none of these groups.")
        summaries = [{"value": name, **summary(rows)} for name, rows in members.items()]
        notes += _missing_intervals(summaries, task)
        found.append({"by": by, "missing": missing, "groups": summaries, "gaps": gaps, "notes": notes})
    return found


def _leave_out_uncertain(
    summary: dict[str, Any], split: ResampledMetrics, few: Bools, resamples: int, seed: int
) -> None:
    """Remove the metrics `NEEDS_BOTH` of labels with few patients from a subgroup's summary and from its means."""
    ends = summary.get("intervals", {"overall": {}, "per_label": {}})
    nothing = {"low": None, "high": None, "undefined": 0.0}
    for row, is_few in zip(summary["per_label"], few.tolist(), strict=True):
        for name in NEEDS_BOTH if is_few else ():
            row[name] = None
            if row["label"] in ends["per_label"]:
                ends["per_label"][row["label"]][name].update(nothing)
    rest: dict[str, Any] = {"overall": {}}
    if split.task == "multi" and not few.all():
        columns = split.truth[:, ~few], split.probability[:, ~few]
        names = [row["label"] for row, is_few in zip(summary["per_label"], few.tolist(), strict=True) if not is_few]
        patients = split.unit if split.by == "patient" else None
        options: dict[str, Any] = {"threshold": split.thresholds[~few], "groups": patients}
        rest = summarize(columns[0], columns[1], names, "multi", resamples=resamples, seed=seed, **options)
    for name in summary["overall"]:
        if name.removesuffix("_macro") in NEEDS_BOTH:
            summary["overall"][name] = rest["overall"].get(name)
            if ends["overall"]:
                ends["overall"][name].update(rest.get("intervals", {"overall": {}})["overall"].get(name, nothing))


@dataclass(frozen=True)
class _Contrast:
    """Two subgroups and the difference of a metric between them, averaged over some labels.

    Attributes:
        labels: the indices of these labels; (0,) for the exact match.
        high: index of the subgroup with the higher value.
        pairs: the number of pairs of subgroups that were compared; this pair has the largest difference.
    """

    metric: str
    labels: tuple[int, ...]
    high: int
    low: int
    difference: float
    pairs: int = 1

    def differences(self, values_by_metric: Mapping[str, Floats]) -> Floats:
        """Return the (B,) differences, from the (G, B, L) values of G subgroups."""
        values = values_by_metric[self.metric][:, :, list(self.labels)].mean(axis=2)
        return values[self.high] - values[self.low]


def _gaps(
    split: ResampledMetrics,
    labels: Sequence[str],
    members: Mapping[str, Bools],
    resamples: int,
    seed: int,
    positive: str | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the largest gaps between subgroups, and notes; `members` maps the subgroups' names to their rows."""
    names, samples = list(members), [split.select(rows) for rows in members.values()]
    # Resample the patients of the whole split, so that a patient in two subgroups is drawn for both together.
    own = [np.unique(split.unit[rows]) for rows in members.values()]
    values = _compute(samples, own, iter([np.ones((1, split.n_units), np.int16)]))
    enough = _enough(split, list(members.values()))
    if positive is not None:  # the other class has the same gaps
        for name in GAP_METRICS:
            enough[name] = enough[name] & (np.array(labels) == positive)
    contrasts = _contrasts(values, enough)
    ends = dict.fromkeys(contrasts, (math.nan, math.nan))
    # The interval of the largest of several differences would be above 0 by chance alone.
    named = [one for one in contrasts if one.pairs == 1]
    if resamples and named:
        block = block_size(max(samples, key=lambda sample: sample.truth.size))
        drawn = _compute(samples, own, draws(split.n_units, resamples, seed, block))
        without = _compute(samples, own, left_out(split.n_units, seed, block))
        ends |= {one: _interval(one.differences(drawn), one.difference, one.differences(without)) for one in named}
    gaps = [_gap_json(one, names, labels, values, *ends[one]) for one in contrasts]
    if resamples and contrasts:
        code = np.full(len(split.truth), -1, np.int16)
        for i, rows in enumerate(members.values()):
            code[rows] = i
        permuted = permuted_metrics(split, code, enough, resamples, seed)
        p = [
            permutation_p(one.difference, _largest_gaps(permuted[one.metric], enough[one.metric], one))
            for one in contrasts
        ]
        for gap, value, corrected in zip(gaps, p, holm(p).tolist(), strict=True):
            gap |= {"p": value, "p_corrected": corrected}
    return sorted(gaps, key=lambda gap: -gap["difference"]), _notes(split.by, names, enough, contrasts, resamples)


def _largest_gaps(values: Floats, enough: Bools, one: _Contrast) -> Floats:
    """Return the (B,) largest difference between any two subgroups in (G, B, L) values: for the contrast's label, or
    for the mean over the labels that both subgroups have enough patients for.
    """
    if len(one.labels) == 1:
        compared = values[enough[:, one.labels[0]], :, one.labels[0]]
        return compared.max(axis=0) - compared.min(axis=0)
    gaps = [
        np.abs((values[a][:, shared] - values[b][:, shared]).mean(axis=1))
        for a, b in combinations(range(len(enough)), 2)
        if (shared := enough[a] & enough[b]).sum() > 1
    ]
    return np.max(gaps, axis=0)


def _compute(
    samples: Sequence[ResampledMetrics], own: Sequence[Indices], counts: Iterator[DrawnCounts]
) -> dict[str, Floats]:
    """Compute (G, B, L) values of each metric in `GAP_METRICS`, and the exact match as (G, B, 1), by name."""
    task = samples[0].task
    exact, by_label = overall_metrics(task)[EXACT_MATCH[task]], label_metrics()
    found: dict[str, list[Floats]] = {name: [] for name in (*GAP_METRICS, exact.name)}
    for block in counts:
        groups = [Resamples(sample, block[:, columns]) for sample, columns in zip(samples, own, strict=True)]
        for name in GAP_METRICS:
            found[name].append(np.stack([group.of_labels(by_label[name].compute) for group in groups]))
        found[exact.name].append(np.stack([exact.compute(group)[:, None] for group in groups]))
    return {name: np.concatenate(blocks, axis=1) for name, blocks in found.items()}


def _enough(split: ResampledMetrics, members: Sequence[Bools]) -> dict[str, Bools]:
    """Return, per metric, (G, L) whether a subgroup has enough patients for a label; (G, 1) for the exact match."""

    def counted(cells: Bools) -> Bools:
        counts = [[len(np.unique(split.unit[column & rows])) for column in cells.T] for rows in members]
        return np.array(counts) >= FEW_PATIENTS

    unmasked = np.asarray((split.truth >= 0).any(axis=1, keepdims=True))
    positive, negative = counted(split.truth == 1), counted(split.truth == 0)
    exact = EXACT_MATCH[split.task]
    return {"auroc": positive & negative, "recall": positive, "specificity": negative, exact: counted(unmasked)}


def _contrasts(values: Mapping[str, Floats], enough: Mapping[str, Bools]) -> list[_Contrast]:
    """Find the two subgroups with the largest difference, for each metric and label, and for its mean over labels."""
    found = []
    for name, there in enough.items():
        both = {(a, b): there[a] & there[b] for a, b in combinations(range(len(there)), 2)}
        candidates = [[(pair, (i,)) for pair, shared in both.items() if shared[i]] for i in range(there.shape[1])]
        several = [(pair, tuple(np.flatnonzero(shared).tolist())) for pair, shared in both.items() if shared.sum() > 1]
        for pairs in [*candidates, several]:
            contrasts = [_contrast(values[name][:, 0], name, pair, labels) for pair, labels in pairs]
            if contrasts:
                largest = max(contrasts, key=lambda one: one.difference)
                found.append(replace(largest, pairs=len(contrasts)))
    return found


def _contrast(values: Floats, metric: str, pair: tuple[int, int], labels: tuple[int, ...]) -> _Contrast:
    """Return the contrast of a pair of subgroups, from (G, L) values."""
    a, b = pair
    difference = float(values[a, list(labels)].mean() - values[b, list(labels)].mean())
    high, low = (a, b) if difference >= 0 else (b, a)
    return _Contrast(metric, labels, high, low, abs(difference))


def _gap_json(
    one: _Contrast, names: Sequence[str], labels: Sequence[str], values: Mapping[str, Floats], low: float, high: float
) -> dict[str, Any]:
    of_label, together = one.metric in GAP_METRICS, len(one.labels) > 1
    high_value, low_value = values[one.metric][[one.high, one.low], 0][:, list(one.labels)].mean(axis=1).tolist()
    return {
        "metric": f"{one.metric}_macro" if together else one.metric,
        "label": labels[one.labels[0]] if of_label and not together else None,
        **({"labels": len(one.labels)} if together else {}),
        "highest": names[one.high],
        "highest_value": high_value,
        "lowest": names[one.low],
        "lowest_value": low_value,
        "difference": one.difference,
        "pairs": one.pairs,
        "low": nan_to_none(low),
        "high": nan_to_none(high),
    }


def _notes(
    unit: str, names: Sequence[str], enough: Mapping[str, Bools], contrasts: Sequence[_Contrast], resamples: int
) -> list[str]:
    few = [name for i, name in enumerate(names) if not any(there[i].any() for there in enough.values())]
    notes = [
        f"Groups are compared where they have at least {FEW_PATIENTS} {unit}s with the label (recall), without it "
        "(specificity), or both (AUROC); means over labels are over the labels for which both groups have enough. "
        "AUROC and balanced accuracy have no value for a group with fewer."
    ]
    if few:
        notes.append(f"Too small to be compared at all: {shorten(few)}.")
    pairs = sum(one.pairs for one in contrasts)
    if pairs > 1:
        notes.append(
            f"The largest of many differences is usually overestimated: of {plural(len(contrasts), 'metric')} "
            f"{plural(pairs, 'pair')} of groups were compared, and the largest gap of each is given."
        )
    if contrasts and resamples:
        notes.append(
            "p is the probability of a gap this large between any two groups if the groups do not differ, from "
            f"{resamples:,} permutations of the groups among {unit}s, corrected for "
            f"{plural(len(contrasts), 'metric')} (Holm). Judge a gap by p: each interval is for one gap alone and is "
            "not corrected."
        )
    return notes


def _missing_intervals(summaries: Sequence[Mapping[str, Any]], task: Task) -> list[str]:
    """Explain in notes why headline metrics have a value but no interval in some subgroups."""
    groups_of: dict[tuple[str, str], list[str]] = {}
    for summary in (summary for summary in summaries if "intervals" in summary):
        found, metrics_of = summary["intervals"], dict[str, list[str]]()
        for name in headline_metrics(task):
            interval = found["overall"][name]
            if interval["low"] is not None or summary["overall"][name] is None:
                continue
            if found["units"] < MIN_UNITS:
                reason = f"fewer than {MIN_UNITS} {found['by']}s are too few to resample"
            elif name == "ap_macro" and interval["undefined"] <= MAX_UNDEFINED:
                reason = (
                    f"average precision is biased upward with fewer than {MIN_FOR_MEAN_PRECISION} {found['by']}s "
                    "with a label"
                )
            elif interval["undefined"] > MAX_UNDEFINED:
                cell = "a class" if task == "single" else "some label"
                reason = f"{cell} has no image, or every image, in more than {MAX_UNDEFINED:.0%} of the resamples"
            else:
                reason = "every resample has the same value"
            metrics_of.setdefault(reason, []).append(metric_phrase(name))
        for reason, titles in metrics_of.items():
            groups_of.setdefault((", ".join(titles), reason), []).append(summary["value"])
    return [
        f"No interval for {', '.join(groups)} ({titles}): {reason}." for (titles, reason), groups in groups_of.items()
    ]


def _interval(drawn: Floats, difference: float, without: Floats) -> tuple[float, float]:
    """Return the BCa interval of a difference; NaN if it is undefined in too many resamples."""
    if np.isnan(drawn).mean() > MAX_UNDEFINED:
        return math.nan, math.nan
    return bca(drawn, difference, without)
