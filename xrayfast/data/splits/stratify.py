"""Drawing of splits and folds: seeded, stratified by label, with all images of a patient in the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Floats, Integers, Ints, Places
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import ConfigError, DataError

_MOVES = 100
"""Maximum number of moves and swaps after the assignment; 6676 NIH images took 10 for three splits, 23 for twenty
folds."""

_TRIED = 20
"""Number of groups of each split that are tried for a swap with each other split."""

_GAIN = 1e-5
"""Smallest decrease in chi-squared for which groups are moved: what one image too many adds where 100,000 are due."""


def stratified_split(
    targets: npt.ArrayLike,
    groups: Integers | None,
    fractions: Mapping[str, float],
    seed: int,
    given: Sequence[str | None] | None = None,
) -> npt.NDArray[np.str_]:
    """Assign images to splits so that each label has nearly the same share in all of them.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, ECML PKDD) of groups instead of images. The label
    with the fewest unassigned groups goes first. Its groups are taken in descending order of size, and in random order
    where sizes are equal; each goes to the split that it fits best, with ties broken at random. "Any image" counts as a
    label, so that the splits get the right sizes too. Then each split that lacks a label gets a group with that label,
    first train, then valid, then test, unless this takes the last group with some label out of an earlier split.
    Finally, groups are moved or swapped as long as this improves the overall fit and takes no split's last group with
    some label.

    The fit is the chi-squared distance between the number of images with each label and the number due, summed over the
    group's labels. The paper instead chooses the split that lacks the most images with the current label, which gives
    all large groups to the largest split: on 6676 NIH images, train then had 4.0 images per patient, valid 2.2 and test
    1.6. Here they have 2.9 to 3.1, the sizes are exact, and each label is within 1.1 images of its share.

    Args:
        targets: (N, L) of 0 and 1 in any numeric type, 1 where the image has the label.
        groups: (N,) integers, equal for images that must stay together (one patient's); None for no groups.
        fractions: the fraction of each split; they add up to 1. Names other than train, valid and test rank after
            these, alphabetically.
        seed: the same seed gives the same splits.
        given: N splits that images keep, equal within a group, and None for images to assign; given and assigned images
            together then come as close to the fractions as possible. By default all images are assigned.

    Returns:
        (N,) names of splits.

    Raises:
        ConfigError: a negative fraction, or fractions that do not add up to 1.
        DataError: targets and groups differ in length, or a target is neither 0 nor 1.
    """
    shares = _shares(fractions)
    counts, group_of = _grouped(targets, groups)
    names = list(shares)
    place = np.full(len(counts), -1, np.int64)
    if given is not None:
        place[group_of] = [names.index(split) if split else -1 for split in given]
    filled = np.stack([counts[place == split].sum(0) for split in range(len(names))], axis=1)
    free = place < 0
    waiting = counts if free.all() else counts[free]
    place[free] = _assign_groups(waiting, np.array(list(shares.values())), range(len(names)), seed, filled)
    return np.array(names).take(place[group_of])


def k_folds(targets: npt.ArrayLike, groups: Integers | None, k: int, seed: int) -> Ints:
    """Assign images to k folds of equal size with the method of `stratified_split`.

    A fold that lacks a label gets a group with that label, unless this takes the last group with some label out of
    another fold.

    Return (N,) folds from 0 to k - 1; none is empty.
    """
    if k < 2:
        raise ConfigError(f"found {k} as the number of folds; expected 2 or more.")
    counts, group_of = _grouped(targets, groups)
    if len(counts) < k:
        what = "images" if groups is None else "patients (groups of images that stay together)"
        raise DataError(f"found {len(counts)} {what} for {k} folds; expected {k} or more. Ask for fewer folds.")
    filled = np.zeros((counts.shape[1], k))
    return _assign_groups(counts, np.full(k, 1 / k), [k] * k, seed, filled)[group_of]


def _shares(fractions: Mapping[str, float]) -> dict[str, float]:
    """Return the fractions above 0: those of train, valid and test, then the others sorted by name."""
    if min(fractions.values(), default=0) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ConfigError(f"found the fractions {dict(fractions)}; expected fractions of 0 or more with a sum of 1.")
    names = [*SPLITS, *sorted(set(fractions).difference(SPLITS))]
    return {name: fractions[name] for name in names if fractions.get(name, 0) > 0}


def _grouped(targets: npt.ArrayLike, groups: Integers | None) -> tuple[Floats, Places]:
    """Return the number of images per group and label, (G, L + 1), and each image's group, (N,).

    The last column counts all images of the group.
    """
    matrix = np.asarray(targets)
    if ((matrix != 0) & (matrix != 1)).any():
        raise DataError("found a target that is neither 0 nor 1; expected 1 if an image has the label, else 0.")
    if groups is not None and len(groups) != len(matrix):
        raise DataError(f"found {len(groups):,} groups for {len(matrix):,} images; expected one group per image.")
    if groups is None or not len(matrix):
        return np.hstack([matrix, np.ones((len(matrix), 1))]), np.arange(len(matrix))
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    # One label at a time: all labels of ten million rows as float64 take more than a gigabyte.
    columns = [np.bincount(group_of, label, len(sizes)) for label in matrix.T]
    return np.column_stack([*columns, sizes.astype(np.float64)]), group_of


def _assign_groups(counts: Floats, shares: Floats, kept: Sequence[int], seed: int, filled: Floats) -> Ints:
    """Assign each group to a split (G,), move groups to splits that lack a label, and balance.

    Args:
        counts: (G, L) number of images per group and label, the last label being "any image".
        shares: (P,) fraction of each split.
        kept: (P,) how many of the first splits keep their last group with a label when this split lacks the label.
        seed: of the random order.
        filled: (L, P) number of images per label that each split already has, without those of the groups.
    """
    moves = _Moves(counts, shares, _assign_by_label(counts, shares, np.random.default_rng(seed), filled), filled)
    for split, first in enumerate(kept):
        moves.bring_missing_labels(split, first)
    moves.even_out()
    return moves.place


def _assign_by_label(counts: Floats, shares: Floats, rng: np.random.Generator, before: Floats) -> Ints:
    """Return the split of each group, (G,), assigned label by label, the rarest label first."""
    place = np.full(len(counts), -1, np.int64)
    # Lists, not arrays: a loop over single numbers is four times faster on lists.
    filled = before.T.tolist()
    totals, has = counts.sum(0) + before.sum(1), counts > 0
    left = has.sum(0)
    while left.any():
        label = int(np.argmin(np.where(left > 0, left, np.inf)))
        waiting = rng.permutation(np.flatnonzero(has[:, label] & (place < 0)))
        waiting = waiting[np.argsort(-counts[waiting, -1], kind="stable")]
        place[waiting] = _assign_in_order(counts[waiting], totals, filled, shares, rng)
        left -= has[waiting].sum(0)
    return place


def _assign_in_order(
    counts: Floats, totals: Floats, filled: Sequence[list[float]], shares: Floats, rng: np.random.Generator
) -> list[int]:
    """Return for each group the split where it adds least to chi-squared, the sum of (count - due)^2 / due over labels.

    Adding c to a count f adds 2 (f + c / 2) c / due, minus a term that is the same for all splits. Updates `filled`.
    """
    rows, columns = np.nonzero(counts)
    images = counts[rows, columns]
    weights = images / totals[columns]
    halves = np.bincount(rows, images * weights / 2).tolist()
    cells = list(zip(columns.tolist(), images.tolist(), weights.tolist(), strict=True))
    ends = np.searchsorted(rows, np.arange(len(counts)), side="right").tolist()
    chances = rng.random((len(counts), len(shares))).tolist()
    splits = list(enumerate(zip(filled, shares.tolist(), strict=True)))
    places, start = list[int](), 0
    for end, half, chance in zip(ends, halves, chances, strict=True):
        own = cells[start:end]
        start = end
        if len(own) == 1:  # most groups have no label
            column, _, weight = own[0]
            fits = [((counted[column] * weight + half) / share, chance[p], p) for p, (counted, share) in splits]
        else:
            fits = [
                ((sum([counted[column] * weight for column, _, weight in own]) + half) / share, chance[p], p)
                for p, (counted, share) in splits
            ]
        places.append(min(fits)[2])
        for column, count, _ in own:
            filled[places[-1]][column] += count
    return places


class _Moves:
    """Groups that are moved between splits after the assignment.

    Attributes:
        place: (G,) the split of each group.
        due: (L, P) number of images per label that each split should have.
        filled: (L, P) number of images per label that each split has.
        held: (L, P) number of groups per label that each split has, all given images counted as one group.
        own: (G, P) sum of count^2 / due over the labels of each group, for each split.
    """

    def __init__(self, counts: Floats, shares: Floats, place: Ints, before: Floats) -> None:
        self.counts, self.has = counts, counts > 0
        self.place: Ints = place.copy()
        there = (place[:, None] == np.arange(len(shares))).astype(float)
        groups = [self.has[place == split].sum(0) for split in range(len(shares))]
        self.filled, self.held = before + counts.T @ there, (before > 0) + np.stack(groups, axis=1).astype(float)
        self.due = np.maximum(counts.sum(0) + before.sum(1), 1)[:, None] * shares
        self.own = counts**2 @ (1 / self.due)

    def bring_missing_labels(self, split: int, kept: int) -> None:
        """Move a group of each label that a split lacks into it.

        The group that is the last with the fewest labels in its split is chosen; among equals, the one that fits best.
        The first `kept` splits never lose their last group with a label.
        """
        for label in np.argsort(self.held.sum(1), kind="stable"):
            if self.held[label, split] or self.held[label].sum() < 2:
                continue
            holders = np.flatnonzero(self.has[:, label])
            lost = self._lost(holders)
            order = np.lexsort((self._change(holders)[:, split], lost))
            free = order[(lost[order] == 0) | (self.place[holders[order]] >= kept)]
            if len(free):
                self._move(holders[free[0]], split)

    def even_out(self) -> None:
        """Move or swap groups while this lowers chi-squared, the best move first.

        No split loses its last group with a label.
        """
        groups = np.arange(len(self.place))
        for _ in range(_MOVES if len(groups) else 0):
            change = np.where(self._lost(groups)[:, None] == 0, self._change(groups), np.inf)
            group, split = divmod(int(change.argmin()), change.shape[1])
            if change[group, split] < -_GAIN:
                self._move(group, split)
            elif not self._swap(change):
                return

    def _swap(self, change: Floats) -> bool:
        """Swap the two groups whose swap lowers chi-squared most, and return whether any does.

        Only the groups that are best to move are tried.
        """
        best, pair = -_GAIN, None
        for a, b in combinations(range(change.shape[1]), 2):
            x, y = self._best_to_move(change, a, b), self._best_to_move(change, b, a)
            meet = (self.counts[x] * (1 / self.due[:, a] + 1 / self.due[:, b])) @ self.counts[y].T
            both = np.round(change[x, b][:, None] + change[y, a] - 2 * meet, 9)
            if both.min(initial=0) < best:
                i, j = divmod(int(both.argmin()), len(y))
                best, pair = both[i, j], (x[i], b, y[j], a)
        if pair:
            self._move(*pair[:2])
            self._move(*pair[2:])
        return pair is not None

    def _best_to_move(self, change: Floats, split: int, to: int) -> Places:
        """Return the groups of `split` that are best to move to the split `to`, the best first."""
        groups = np.flatnonzero(self.place == split)
        return groups[np.argsort(change[groups, to], kind="stable")[:_TRIED]]

    def _move(self, group: int, split: int) -> None:
        for sums, of in ((self.filled, self.counts), (self.held, self.has)):
            sums[:, self.place[group]] -= of[group]
            sums[:, split] += of[group]
        self.place[group] = split

    def _change(self, groups: Places) -> Floats:
        """Return what moving each group to each split adds to chi-squared, (len(groups), P); 0 for its own split."""
        level, own = self.counts[groups] @ (2 * self.filled / self.due), self.own[groups]
        here = np.arange(len(groups)), self.place[groups]
        # Rounded, so that equal moves are equal whatever the order of the additions in a matrix product.
        change: Floats = np.round(level + own - (level - own)[here][:, None], 9)
        change[here] = 0
        return change

    def _lost(self, groups: Places) -> Ints:
        """Return for how many labels each group is the last one in its split, (len(groups),)."""
        last = self.held == 1
        labels = np.flatnonzero(last.any(1))
        return (self.has[np.ix_(groups, labels)] & last.T[self.place[groups]][:, labels]).sum(1)
