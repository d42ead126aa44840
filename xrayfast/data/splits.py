"""Training, validation and test parts: seeded, stratified by label, and never one patient in two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.errors import ConfigError, DataError

Part: TypeAlias = Literal["train", "valid", "test"]

PARTS: tuple[Part, ...] = ("train", "valid", "test")

_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}


def part_name(text: str) -> Part | None:
    """The part that a folder's name or a cell means, in any case; None where it means none.

    >>> part_name("Validation"), part_name("covid-19")
    ('valid', None)
    """
    return _NAMES.get(text.strip().lower())


def stratified_split(
    targets: npt.NDArray[np.uint8],
    groups: npt.NDArray[np.integer] | None,
    fractions: Mapping[Part, float],
    seed: int,
) -> npt.NDArray[np.str_]:
    """Deal images into parts so that each label's share is nearly the same in all of them.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, ECML PKDD), dealing groups in place of
    images: the label left in fewest groups goes first; its groups, larger ones first and otherwise in random
    order, each go to the part where they fit best; ties go to the part that is emptiest for its share, then
    at random. Images without a label are treated as having a label of their own. At last a label in two or
    more groups that training lacks is brought there, and to validation where that takes no other label's last
    group out of training.

    The fit is the chi-squared distance between each label's counts and its shares, summed over the group's
    labels; for one label without groups that is Webster's rule of apportionment, which keeps within 1 of the
    share. The paper's own rule, to the part that wants most of the one label in absolute numbers, gives the
    larger part all large groups: on 6676 NIH images training then had 4.0 images a patient, validation 2.2
    and test 1.6; here they have 2.9 to 3.1, and each label is within 1.3 images of its share.

    Args:
        targets: (N, L) uint8, 1 where the image has the label.
        groups: (N,) integers, equal for images that must stay together (one patient's); None for no groups.
        fractions: the share of each part, above 0 where the part is wanted; they add up to 1.
        seed: the same seed gives the same parts.

    Returns:
        (N,) names of parts.

    Raises:
        ConfigError: a negative fraction, or fractions that do not add up to 1.
        DataError: targets and groups differ in length.
    """
    shares = _shares(fractions)
    if groups is not None and len(groups) != len(targets):
        raise DataError(f"found {len(groups)} groups for {len(targets)} images; expected one for each.")
    counts, sizes, group_of = _grouped(targets, groups)
    deal = _Deal(counts, sizes, np.array(list(shares.values())), np.random.default_rng(seed))
    deal.all_labels()
    for place, part in enumerate(shares):
        if part in ("train", "valid"):
            deal.bring_missing_labels(place, keep=None if part == "train" else _place(shares, "train"))
    parts: npt.NDArray[np.str_] = np.array(list(shares))[deal.place[group_of]]
    return parts


def _shares(fractions: Mapping[Part, float]) -> dict[Part, float]:
    """The wanted parts, training first."""
    if min(fractions.values(), default=0) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ConfigError(f"found the fractions {dict(fractions)}; expected none below 0 and a sum of 1.")
    return {part: fractions[part] for part in PARTS if fractions.get(part, 0) > 0}


def _place(shares: Mapping[Part, float], part: Part) -> int | None:
    return list(shares).index(part) if part in shares else None


def _grouped(
    targets: npt.NDArray[np.uint8], groups: npt.NDArray[np.integer] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """Images a label and in all, by group: (G, L + 1) counts, (G,) sizes; and each image's group, (N,).

    The last column counts the images without a label.
    """
    none = targets.sum(1, keepdims=True) == 0
    rows = np.hstack([targets, none]).astype(np.int64)
    if groups is None:
        return rows, np.ones(len(rows), np.int64), np.arange(len(rows))
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if not len(rows):
        return rows, sizes, group_of
    order = np.argsort(group_of, kind="stable")
    starts = np.cumsum(sizes) - sizes
    return np.add.reduceat(rows[order], starts), sizes, group_of


@dataclass
class _Deal:
    """Groups on their way into parts.

    Attributes:
        counts: (G, L) images of each label in each group.
        sizes: (G,) images in each group.
        shares: (P,) fraction of each part.
        rng: breaks ties.
    """

    counts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float64]
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.place = np.full(len(self.counts), -1)
        # Lists, not arrays: the dealing is a loop over single numbers, four times faster on lists.
        self.filled = [[0] * len(self.shares) for _ in range(self.counts.shape[1])]
        self.used = [0] * len(self.shares)

    def all_labels(self) -> None:
        """Deal all groups, label by label, the rarest first."""
        has, totals = self.counts > 0, self.counts.sum(0)
        while (left := has[self.place < 0].sum(0)).any():
            label = int(np.argmin(np.where(left > 0, left, np.iinfo(left.dtype).max)))
            waiting = np.flatnonzero(has[:, label] & (self.place < 0))
            waiting = self.rng.permutation(waiting)
            self._deal(waiting[np.argsort(-self.sizes[waiting], kind="stable")], totals)

    def _deal(self, waiting: npt.NDArray[np.intp], totals: npt.NDArray[np.int64]) -> None:
        """Deal groups, each where it adds least to chi-squared, the sum of (count - due)^2 / due over labels.

        Adding c to a count of f adds 2 (f + c / 2) c / due, less the same for all parts.
        """
        counts = self.counts[waiting]
        rows, columns = np.nonzero(counts)
        images = counts[rows, columns]
        weights = (images / totals[columns]).tolist()
        cells = list(zip(columns.tolist(), images.tolist(), weights, strict=True))
        ends = np.searchsorted(rows, np.arange(len(waiting)), side="right").tolist()
        chances = self.rng.random((len(waiting), len(self.shares))).tolist()
        shares, filled, used = self.shares.tolist(), self.filled, self.used
        places, start = [], 0
        for size, end, chance in zip(self.sizes[waiting].tolist(), ends, chances, strict=True):
            own = cells[start:end]
            start = end
            _, _, _, best = min(
                (
                    sum([(filled[column][p] + count / 2) * weight for column, count, weight in own]) / share,
                    (used[p] + size / 2) / share,
                    chance[p],
                    p,
                )
                for p, share in enumerate(shares)
            )
            places.append(best)
            used[best] += size
            for column, count, _ in own:
                filled[column][best] += count
        self.place[waiting] = places

    def bring_missing_labels(self, place: int, keep: int | None) -> None:
        """Bring one group of each label that a part lacks there, but no label's last out of part `keep`.

        The group comes from the part that has most of the label over its share, the smallest there.
        """
        has = self.counts > 0
        for label in np.argsort(has.sum(0)):
            holders = np.flatnonzero(has[:, label])
            if len(holders) < 2 or (self.place[holders] == place).any():
                continue
            if keep is not None:
                kept = has[self.place == keep].sum(0)
                holders = holders[(self.place[holders] != keep) | ((kept > 1) | ~has[holders]).all(1)]
            if len(holders):
                over = np.array(self.filled[label]) - self.shares * self.counts[:, label].sum()
                order = np.lexsort((self.sizes[holders], -over[self.place[holders]]))
                self._move(int(holders[order[0]]), place)

    def _move(self, group: int, place: int) -> None:
        for column in np.flatnonzero(self.counts[group]):
            self.filled[column][self.place[group]] -= int(self.counts[group, column])
            self.filled[column][place] += int(self.counts[group, column])
        self.place[group] = place
