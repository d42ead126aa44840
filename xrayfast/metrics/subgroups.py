"""The metrics of subgroups of a split, such as women and men, and the largest differences between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.config import Task
from xrayfast.errors import shorten
from xrayfast.metrics.classification import Floats, defined
from xrayfast.metrics.inputs import Bools, Indices, sampling_units
from xrayfast.metrics.intervals.bootstrap import MAX_UNDEFINED
from xrayfast.metrics.intervals.confidence_limits import bca
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics, Resamples
from xrayfast.metrics.intervals.resampling import block_size, draws, left_out
from xrayfast.metrics.registry import EXACT_MATCH, overall_metrics
from xrayfast.metrics.summary import summarise

AGES = {"0-17": 0.0, "18-39": 18.0, "40-59": 40.0, "60-79": 60.0, "80+": 80.0}
"""The bands of age, and the years that each begins with."""

MIN_PATIENTS = 10
"""Patients (or images) with the label, and without it, that a subgroup needs to be compared with others."""

GAP_METRICS = ("auroc", "recall", "specificity")
"""What subgroups are compared by, per label and as a mean over the labels; also by `registry.EXACT_MATCH`."""

_KEPT = ("images", "patients", "scored", "overall", "per_label", "intervals", "notes")


def age_bands(age: ArrayLike) -> NDArray[np.str_]:
    """The band of each age.

    Args:
        age: (N,) years, NaN where missing.

    Returns:
        (N,) names of `AGES`, "" where missing.

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
) -> list[dict[str, Any]]:
    """What `summary.summarise` gives, for each subgroup by itself, and the largest gaps between two of them.

    Args:
        truth: (N, L) of 1, 0, and -1 where masked.
        probability: (N, L) in [0, 1].
        labels: the L names.
        task: "single" or "multi".
        values: (N,) texts per attribute to divide the images by, "" where missing: `{"sex": ["F", "M", ...]}`.
        threshold: a label is called at or above it ("multi"), one number or (L,).
        groups: (N,) patient numbers, or None where none is known.
        prevalence: at which predictive values are given, one number or (L,), or None for none.
        resamples: how often patients (or images) are drawn for the intervals; 0 for no intervals.
        seed: of the draws.

    Returns:
        Per attribute: `by`; `missing`, the images without a value; `groups`, a summary each with its
        `value` and `with_auroc`, the number of labels that macro AUROC is the mean of; `gaps`, largest first:
        `metric`, `label` (None for a mean over `labels` labels), the values `highest`
        and `lowest`, the metric there (`highest_value`, `lowest_value`), their `difference` and its interval
        `low` to `high`; `notes`. Undefined numbers are None.

    Raises:
        ValueError: As `ResampledMetrics`; a column without N values.
    """
    split = _Split(truth, probability, tuple(labels), task, threshold, groups, prevalence, resamples, seed)
    return [split.compare(by, np.asarray(column, dtype=np.str_)) for by, column in values.items()]


@dataclass(frozen=True)
class _Contrast:
    """Two subgroups and the difference of a metric between them, averaged over some labels.

    Attributes:
        metric: of `GAP_METRICS`, or the exact match.
        labels: their indices; (0,) for the exact match.
        high: index of the subgroup with the higher value.
        low: of the other.
        difference: at least 0.
    """

    metric: str
    labels: tuple[int, ...]
    high: int
    low: int
    difference: float

    def differences(self, values_by_metric: Mapping[str, Floats]) -> Floats:
        """(B,) differences from the (G, B, L) values of G subgroups."""
        values = values_by_metric[self.metric][:, :, list(self.labels)].mean(axis=2)
        difference: Floats = values[self.high] - values[self.low]
        return difference


@dataclass(frozen=True)
class _Split:
    truth: NDArray[Any]
    probability: NDArray[Any]
    labels: tuple[str, ...]
    task: Task
    threshold: float | NDArray[Any]
    patients: NDArray[Any] | None
    prevalence: float | NDArray[Any] | None
    resamples: int
    seed: int

    def compare(self, by: str, column: NDArray[np.str_]) -> dict[str, Any]:
        if column.shape != (len(self.truth),):
            raise ValueError(f"{by} has shape {column.shape}; expected one value for each of {len(self.truth)} images")
        names = [value for value in np.unique(column).tolist() if value]
        members = [column == name for name in names]
        gaps, notes = self._gaps(names, members) if len(names) > 1 else ([], [])
        missing = int((column == "").sum())
        if missing:
            notes.insert(0, f"{missing} images whose {by} is unknown are in none of these groups.")
        return {
            "by": by,
            "missing": missing,
            "groups": [{"value": name, **self._summary(rows)} for name, rows in zip(names, members, strict=True)],
            "gaps": gaps,
            "notes": notes,
        }

    def _summary(self, rows: Bools) -> dict[str, Any]:
        found = summarise(
            self.truth[rows],
            self.probability[rows],
            self.labels,
            self.task,
            threshold=self.threshold,
            groups=None if self.patients is None else self.patients[rows],
            prevalence=self.prevalence,
            resamples=self.resamples,
            seed=self.seed,
        )
        defined = sum(row["auroc"] is not None for row in found["per_label"])
        return {"with_auroc": defined, **{name: found[name] for name in _KEPT if name in found}}

    # Gaps

    def _gaps(self, names: Sequence[str], members: Sequence[Bools]) -> tuple[list[dict[str, Any]], list[str]]:
        unit, n_units = sampling_units(self.patients, len(self.truth))
        samples = [
            ResampledMetrics(self.truth[rows], self.probability[rows], self.task, unit[rows], self.threshold)
            for rows in members
        ]
        # The patients of the whole split are drawn, so that one who is in two subgroups is drawn for both at once.
        own = [np.unique(unit[rows]) for rows in members]
        values = self._compute(samples, own, iter([np.ones((1, n_units))]))
        enough = self._enough(unit, members)
        contrasts = self._contrasts(values, enough)
        ends = [(math.nan, math.nan)] * len(contrasts)
        if self.resamples and n_units > 1 and contrasts:
            block = block_size(max(samples, key=lambda sample: sample.truth.size))
            drawn = self._compute(samples, own, draws(n_units, self.resamples, self.seed, block))
            without = self._compute(samples, own, left_out(n_units, self.seed, block))
            ends = [_interval(one.differences(drawn), one.difference, one.differences(without)) for one in contrasts]
        gaps = [self._gap_json(one, names, values, *end) for one, end in zip(contrasts, ends, strict=True)]
        return sorted(gaps, key=lambda gap: -gap["difference"]), self._notes(names, enough, len(gaps))

    def _compute(
        self, samples: Sequence[ResampledMetrics], own: Sequence[Indices], counts: Iterator[Floats]
    ) -> dict[str, Floats]:
        """(G, B, L) by the names of `GAP_METRICS`, and the share of images with everything right as (G, B, 1)."""
        exact = overall_metrics(self.task)[EXACT_MATCH[self.task]]
        found: dict[str, list[Floats]] = {name: [] for name in (*GAP_METRICS, exact.name)}
        for block in counts:
            groups = [Resamples(sample, block[:, columns]) for sample, columns in zip(samples, own, strict=True)]
            for name in GAP_METRICS:
                found[name].append(np.stack([group.label(name) for group in groups]))
            found[exact.name].append(np.stack([exact.compute(group)[:, None] for group in groups]))
        return {name: np.concatenate(blocks, axis=1) for name, blocks in found.items()}

    def _enough(self, unit: Indices, members: Sequence[Bools]) -> dict[str, Bools]:
        """(G, L) whether a subgroup has enough patients for a metric of a label; (G, 1) for the share of images."""

        def patients(cells: Bools) -> list[int]:
            return [len(np.unique(unit[column])) for column in cells.T]

        def counted(cells: Bools) -> Bools:
            counts: Bools = np.array([patients(cells & rows[:, None]) for rows in members]) >= MIN_PATIENTS
            return counts

        known = np.asarray((self.truth >= 0).any(axis=1, keepdims=True))
        positive, negative = counted(self.truth == 1), counted(self.truth == 0)
        both = positive & negative
        return {"auroc": both, "recall": positive, "specificity": negative, EXACT_MATCH[self.task]: counted(known)}

    def _contrasts(self, values: Mapping[str, Floats], enough: Mapping[str, Bools]) -> list[_Contrast]:
        """The two subgroups that lie furthest apart, for each metric per label, and for its mean over labels."""
        found = []
        for name, there in enough.items():
            sets = [(i,) for i in range(there.shape[1])]
            for labels in sets:
                pairs = combinations(np.flatnonzero(there[:, labels[0]]).tolist(), 2)
                found.append(_largest_contrast(values[name][:, 0], name, [(pair, labels) for pair in pairs]))
            if len(sets) > 1:
                shared = [(pair, _labels_of_both(there, pair)) for pair in combinations(range(len(there)), 2)]
                several = [(pair, both) for pair, both in shared if len(both) > 1]
                found.append(_largest_contrast(values[name][:, 0], name, several))
        return [one for one in found if one is not None]

    def _gap_json(
        self, one: _Contrast, names: Sequence[str], values: Mapping[str, Floats], low: float, high: float
    ) -> dict[str, Any]:
        of_images, together = one.metric == EXACT_MATCH[self.task], len(one.labels) > 1
        high_value, low_value = values[one.metric][[one.high, one.low], 0][:, list(one.labels)].mean(axis=1).tolist()
        return {
            "metric": f"{one.metric}_macro" if together else one.metric,
            "label": None if of_images or together else self.labels[one.labels[0]],
            **({"labels": len(one.labels)} if together else {}),
            "highest": names[one.high],
            "highest_value": high_value,
            "lowest": names[one.low],
            "lowest_value": low_value,
            "difference": one.difference,
            "low": defined(low),
            "high": defined(high),
        }

    def _notes(self, names: Sequence[str], enough: Mapping[str, Bools], n_gaps: int) -> list[str]:
        unit = "images" if self.patients is None else "patients"
        few = [name for i, name in enumerate(names) if not any(there[i].any() for there in enough.values())]
        notes = [
            f"Groups are compared where they have at least {MIN_PATIENTS} {unit} with the label (recall), without it "
            "(specificity), or both (AUROC); means over labels are over those of which both groups have enough."
        ]
        if few:
            notes.append(f"Too small to be compared at all: {shorten(few)}.")
        if n_gaps > 1:
            notes.append(
                f"The largest of many differences looks larger than it is: {n_gaps} were looked at, each of the two "
                "groups that lie furthest apart. The intervals hold for a difference that was named beforehand."
            )
        return notes


def _interval(drawn: Floats, difference: float, without: Floats) -> tuple[float, float]:
    """The interval of a difference; NaN where too many resamples have none."""
    if np.isnan(drawn).mean() > MAX_UNDEFINED:
        return math.nan, math.nan
    return bca(drawn, difference, without)


def _largest_contrast(
    values: Floats, metric: str, candidates: Sequence[tuple[tuple[int, int], tuple[int, ...]]]
) -> _Contrast | None:
    """The pair of subgroups that differs most among the candidates, by (G, L) values."""
    best: _Contrast | None = None
    for (a, b), labels in candidates:
        difference = float(values[a, list(labels)].mean() - values[b, list(labels)].mean())
        if best is None or abs(difference) > best.difference:
            high, low = (a, b) if difference >= 0 else (b, a)
            best = _Contrast(metric, labels, high, low, abs(difference))
    return best


def _labels_of_both(there: Bools, pair: tuple[int, int]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(there[pair[0]] & there[pair[1]]).tolist())
