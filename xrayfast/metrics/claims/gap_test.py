"""A permutation test, by patient, of whether the largest gap between subgroups is larger than expected by chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Bools, Indices
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.registry import EXACT_MATCH

Codes: TypeAlias = NDArray[np.int16]

_BLOCK = 2_000_000  # the maximum number of cells (permutations times pieces) at a time


@dataclass(frozen=True)
class _Pieces:
    """The pieces that are permuted: the images of one patient in one subgroup form a piece and stay together.

    Attributes:
        of_image: (N,) the piece of each image.
        group: (P,) the subgroup of each piece.
        unit: (P,) the patient (or image) of each piece.
    """

    of_image: Indices
    group: Codes
    unit: Indices

    @classmethod
    def of(cls, group: Codes, unit: Indices) -> _Pieces:
        """Make the pieces of N images from their subgroups and units."""
        both, of_image = np.unique(np.column_stack([group, unit]), axis=0, return_inverse=True)
        return cls(of_image.ravel(), both[:, 0].astype(np.int16), both[:, 1].astype(np.intp))

    def orders(self, permutations: int, rng: np.random.Generator) -> Iterator[Indices]:
        """Yield the pieces in random orders, in blocks (B, P); the pieces of one patient are side by side."""
        n_units, block = int(self.unit.max(initial=0)) + 1, max(1, _BLOCK // max(1, len(self.unit)))
        for start in range(0, permutations, block):
            keys = rng.random((min(block, permutations - start), n_units))
            yield np.argsort(keys[:, self.unit], axis=1, kind="stable")

    def exchange(self, order: Indices, rows: Bools) -> tuple[Indices, Indices]:
        """Exchange subgroups among the pieces that have images in some rows.

        Returns:
            (B, K) the K pieces, in the order of the places that they take, and (K,) the subgroup of each place,
            ascending. With the same `order`, a patient takes about the same place whichever rows are chosen.
        """
        there = np.zeros(len(self.unit), np.bool_)
        there[self.of_image[rows]] = True
        return order[there[order]].reshape(len(order), -1), np.sort(self.group[there])


def permuted_metrics(
    split: ResampledMetrics, group: Codes, enough: Mapping[str, Bools], permutations: int, seed: int
) -> dict[str, Floats]:
    """Compute metrics under the null hypothesis that subgroups do not differ: subgroups are permuted among patients.

    For recall they are permuted among the patients with the label, for specificity among the patients without it, for
    AUROC within each of these two, and for the exact match among all patients. Subgroups therefore keep their numbers
    of patients with and without the label, and a prevalence that differs between subgroups does not count as a gap. All
    metrics use the same orders of the patients, which preserves the correlation between labels. A patient with images
    in several subgroups counts as several patients, side by side in the order.

    Args:
        split: the split, with N images.
        group: (N,) the subgroup of each image, from 0; -1 for images in none.
        enough: the subgroups that are compared: (G, L) for "auroc", "recall" and "specificity", (G, 1) for the exact
            match.
        permutations: B, the number of permutations.
        seed: the seed of the permutations.

    Returns:
        (G, B, L) values by metric, (G, B, 1) for the exact match; NaN where a subgroup is not compared.

    Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses, ch. 3.
    """
    grouped = group >= 0
    pieces = _Pieces.of(group[grouped], split.unit[grouped])
    truth, predicted, scores = split.truth[grouped], split.predicted[grouped], split.probability[grouped]
    right = ((truth == predicted) | (truth < 0)).all(axis=1)
    unmasked = (truth >= 0).any(axis=1)
    code = group[grouped]
    rng = np.random.default_rng([seed, 1])
    blocks: dict[str, list[Floats]] = {name: [] for name in enough}
    for order in pieces.orders(permutations, rng):
        for name, there in enough.items():
            found = np.full((len(there), len(order), there.shape[1]), np.nan)
            for i in np.flatnonzero(there.sum(axis=0) > 1).tolist():
                chosen = there[code, i]
                if name == "auroc":
                    cells = truth[:, i], scores[:, i]
                    found[:, :, i] = _aurocs(pieces, order, chosen, *cells, len(there))
                    continue
                rows, hit = {
                    "recall": (truth[:, i] == 1, predicted[:, i] == 1),
                    "specificity": (truth[:, i] == 0, predicted[:, i] == 0),
                    EXACT_MATCH[split.task]: (unmasked, right),
                }[name]
                values, groups = _shares(pieces, order, chosen & rows, hit)
                found[groups, :, i] = values
            blocks[name].append(found)
    return {name: np.concatenate(found, axis=1) for name, found in blocks.items()}


def _shares(pieces: _Pieces, order: Indices, rows: Bools, hit: Bools) -> tuple[Floats, Indices]:
    """Return (K, B) the share of hits among the chosen rows of each of K subgroups, and (K,) the subgroups."""
    chosen, places = pieces.exchange(order, rows)
    groups, starts = np.unique(places, return_index=True)
    counts = np.bincount(pieces.of_image[rows], minlength=len(pieces.unit))
    hits = np.bincount(pieces.of_image[rows & hit], minlength=len(pieces.unit))
    sums = [np.add.reduceat(values[chosen], starts, axis=1) for values in (hits, counts)]
    return (sums[0] / sums[1]).T, groups.astype(np.intp)


def _aurocs(
    pieces: _Pieces, order: Indices, chosen: Bools, truth: NDArray[np.int8], scores: Floats, n_groups: int
) -> Floats:
    """Return the (G, B) AUROCs of G subgroups, with positives and negatives permuted separately.

    NaN for a subgroup without positives or without negatives.
    """
    rows = np.flatnonzero(chosen & (truth >= 0))
    rows = rows[np.argsort(scores[rows], kind="stable")]
    positive = truth[rows] == 1
    codes = np.empty((len(order), len(rows)), np.int16)
    for cells in (truth == 1, truth == 0):
        taking, places = pieces.exchange(order, chosen & cells)
        of_piece = np.zeros((len(order), len(pieces.unit)), np.int16)
        np.put_along_axis(of_piece, taking, places[None], axis=1)
        own = cells[rows]
        codes[:, own] = of_piece[:, pieces.of_image[rows[own]]]
    # Averaging over both orders of ties counts the negatives that score lower, and half of those that score the same.
    tied = np.unique(scores[rows], return_inverse=True)[1]
    first = np.lexsort((positive, tied))
    below = [
        _concordant_shares(codes[:, place], positive[place], n_groups)
        for place in (first, np.lexsort((~positive, tied)))
    ]
    return np.mean(below, axis=0).T


def _concordant_shares(codes: Codes, positive: Bools, n_groups: int) -> Floats:
    """Return (B, G) the share of pairs of a positive and a negative of the same subgroup whose negative comes first.

    `codes` (B, n) are the subgroups and `positive` (n,) is the truth, both in ascending order of scores.
    """
    n_draws, shape = len(codes), (len(codes), n_groups)
    order = np.argsort(codes, axis=1, kind="stable")
    cell = (np.take_along_axis(codes, order, axis=1) + n_groups * np.arange(n_draws)[:, None]).ravel()
    is_positive = positive[order]
    before = np.cumsum(~is_positive, axis=1)

    def total(weights: NDArray[np.generic]) -> Floats:
        sums = np.bincount(cell, weights.ravel().astype(np.float64), n_draws * n_groups)
        return np.asarray(sums, np.float64).reshape(shape)

    positives, negatives, pairs = total(is_positive), total(~is_positive), total(is_positive * before)
    earlier = np.cumsum(negatives, axis=1) - negatives
    with np.errstate(invalid="ignore", divide="ignore"):
        return (pairs - earlier * positives) / (positives * negatives)


def permutation_p(largest: float, permuted: Floats) -> float:
    """Return the share of (B,) permutations with a gap at least as large, counting the data themselves as one of them.

    Phipson and Smyth 2010.
    """
    return float((1 + (permuted >= largest - 1e-12).sum()) / (1 + len(permuted)))
