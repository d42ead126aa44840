"""Assign each image to a split: given splits are kept, missing ones are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xrayfast.config import DataConfig
from xrayfast.data.arrays import Bools, Integers, Ints, Places
from xrayfast.data.splits.stratify import k_folds, stratified_split
from xrayfast.data.splits.words import SPLITS, Split
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import ConfigError, plural

NO_PATIENTS = "by image, because no patients are known: give --patient-col COLUMN or --patient-col 'name:REGEX'"

DRAWN = "Split drawn with seed"
"""The beginning of the note on a drawn split."""


@dataclass(frozen=True)
class SplitAssignment:
    """The splits of N images.

    Attributes:
        names: the split of each image.
        drawn: (N,) whether each image's split was drawn.
        notes: how the splits were drawn.
    """

    names: TextColumn
    drawn: Bools
    notes: list[str]


def assign_splits(
    given: Sequence[Split | None],
    positives: npt.NDArray[np.uint8],
    groups: Integers | None,
    config: DataConfig,
    unit: str = "patient",
) -> SplitAssignment:
    """Keep a given valid or test split, and draw the one that is missing from the remaining images.

    If the split file is a table that gives train and valid but lacks some images, its train images stay in train too:
    see `_extend_splits`.

    Args:
        given: N splits, None for images without one. Splits are drawn from the images with None or train.
        positives: (N, L) 1 where the image has the label.
        groups: (N,) integers, equal for images that must stay together; None for no groups.
        config: fractions, folds and split_seed.
        unit: what a group is, for the note.

    Raises:
        ConfigError: the fractions leave nothing to train on, `fold` is set without `folds` or exceeds it, or there are
            folds although the validation split is given.
    """
    held_out: set[Split | None] = set(given) - {None, "train"}
    test = 0.0 if "test" in held_out else config.test_fraction
    valid = 0.0 if "valid" in held_out else config.valid_fraction
    _require_consistent(config, held_out, valid, test)
    if {None, "train", "valid"} <= set(given) and config.split_file and not is_split_list(config.split_file):
        return _extend_splits(given, positives, groups, test, config, unit)
    drawn = np.array([split in (None, "train") for split in given], np.bool_)
    if not (test or valid):
        return SplitAssignment(TextColumn.of(split or "train" for split in given), np.zeros(len(drawn), np.bool_), [])
    pool = np.flatnonzero(drawn)
    names = np.array([split or "train" for split in given], "<U5")
    names[pool] = draw_splits(positives[pool], None if groups is None else groups[pool], valid, test, config)
    by = "stratified by label, " + _describe_unit(groups, unit)
    shares = [
        *([f"fold {config.fold or 1} of {config.folds} as valid"] if config.folds else []),
        *([f"{valid:.0%} valid"] if valid and not config.folds else []),
        *([f"{test:.0%} test"] if test else []),
    ]
    note = f"{DRAWN} {config.split_seed}: {' and '.join(shares)}, {by}."
    return SplitAssignment(_to_column(names), drawn, [note])


def assign_folds(
    given: Sequence[Split | None],
    positives: npt.NDArray[np.uint8],
    groups: Integers | None,
    config: DataConfig,
    repeats: int = 1,
    *,
    by_image: bool = False,
) -> Ints:
    """Return the fold of each image in each of R repeats, (N, R): from 1, and 0 for images of the test split.

    The first repeat has the folds that `assign_splits` draws for `fold` 1, 2 and so on; each later one uses the next
    seed. With `by_image`, folds may divide groups, but the test split never does.
    """
    names = assign_splits(given, positives, groups, config).names
    rest = np.flatnonzero(names.map_array(lambda split: split != "test", np.bool_))
    folds = np.zeros((len(names), repeats), np.int64)
    own = None if by_image or groups is None else groups[rest]
    for repeat in range(repeats):
        folds[rest, repeat] = 1 + k_folds(positives[rest], own, config.folds or 0, config.split_seed + repeat)
    return folds


def _describe_unit(groups: Integers | None, unit: str) -> str:
    return NO_PATIENTS if groups is None else f"by {unit}"


def is_split_list(file: Path) -> bool:
    """Whether a split file is a list of the images of one split, and not a table of images and splits."""
    return file.suffix.lower() == ".txt"


def _extend_splits(
    given: Sequence[Split | None],
    positives: npt.NDArray[np.uint8],
    groups: Integers | None,
    test: float,
    config: DataConfig,
    unit: str,
) -> SplitAssignment:
    """Keep all given splits; an image without one joins the split of its group, or else is assigned to one.

    `stratified_split` assigns with the shares of the given splits as fractions, reduced to make room for `test`, the
    fraction of a test split that is not given. If a group has several given splits, its images without one join the
    first of train, valid and test, so that none is added to valid or test while others are in train.
    """
    own = np.arange(len(given)) if groups is None else groups
    split_of: dict[int, Split] = {}
    for split in reversed(SPLITS):
        split_of |= {group: split for group, one in zip(own.tolist(), given, strict=True) if one == split}
    known = [split or split_of.get(group) for split, group in zip(given, own.tolist(), strict=True)]
    counts = Counter(filter(None, given))
    fractions = {split: (1 - test) * n / counts.total() for split, n in counts.items()}
    fractions |= {"test": test} if test else {}
    free = np.array([split is None for split in known], np.bool_)
    # Each image whose split is known is a group of its own, because the file may divide a patient.
    names = stratified_split(
        positives, np.where(free, own, -1 - np.arange(len(own))), fractions, config.split_seed, known
    )
    drawn = np.array([split is None for split in given], np.bool_)
    assigned = Counter(names[free].tolist())
    dealt = ", ".join(f"{assigned[split]} {split}" for split in SPLITS if split in fractions)
    aim = ", ".join(f"{fractions[split]:.0%} {split}" for split in SPLITS if split in fractions)
    note = (
        f"The split file's splits are kept for {plural(counts.total(), 'image')}. Images missing from it: "
        f"{int((drawn & ~free).sum())} joined the split of their {unit.partition(',')[0]}, {int(free.sum())} assigned "
        f"with seed {config.split_seed} ({dealt}) to bring the whole data set as close as possible to {aim}, "
        f"stratified by label, {_describe_unit(groups, unit)}. To draw all splits anew, leave out --split-file."
    )
    return SplitAssignment(_to_column(names), drawn, [note])


def keep_given_splits(given: Sequence[Split | None]) -> SplitAssignment:
    """Return the given splits, with test for images without one: for data that is used only for testing."""
    return SplitAssignment(TextColumn.of(split or "test" for split in given), np.zeros(len(given), np.bool_), [])


def _to_column(names: npt.NDArray[np.str_]) -> TextColumn:
    """Return the splits as a text column: as Python strings, one per image, ten million take half a gigabyte."""
    return TextColumn.merged(SPLITS, np.select([names == split for split in SPLITS], range(len(SPLITS))))


def _require_consistent(config: DataConfig, held_out: set[Split | None], valid: float, test: float) -> None:
    if config.folds is None and config.fold is not None:
        raise ConfigError(f"found fold {config.fold} without folds; expected the number of folds as well. Set --folds.")
    if config.folds is not None and (config.fold or 1) > config.folds:
        raise ConfigError(f"found fold {config.fold} of {config.folds}; expected one from 1 to {config.folds}.")
    if config.folds is not None and "valid" in held_out:
        named = "--split-file" if config.split_file else "--split-col" if config.split_col else ""
        advice = f"Replace {named} with --ignore-split" if named else "Use --ignore-split"
        raise ConfigError(
            f"found folds for a data set whose validation split is given. {advice} to draw folds, or train with the "
            "given split: 'xrayfast fit', without --folds."
        )
    if config.folds is None and valid + test >= 1 - 1e-9:
        raise ConfigError(
            f"valid_fraction {valid:g} and test_fraction {test:g} leave nothing to train on; expected a sum below 1."
        )


def draw_splits(
    positives: npt.NDArray[np.uint8], groups: Integers | None, valid: float, test: float, config: DataConfig
) -> npt.NDArray[np.str_]:
    """Draw the splits (N,), stratified by label, without dividing groups; every fold has the same test split.

    `positives` and `groups` are as in `assign_splits`; `valid` and `test` are fractions. With folds, `valid` is not
    used.
    """
    if config.folds is None:
        fractions = {"train": 1 - valid - test, "valid": valid, "test": test}
        return stratified_split(positives, groups, fractions, config.split_seed)
    splits = np.full(len(positives), "train", "<U5")
    if test:
        splits = stratified_split(positives, groups, {"train": 1 - test, "test": test}, config.split_seed).astype("<U5")
    rest = np.flatnonzero(splits == "train")
    folds = k_folds(positives[rest], None if groups is None else groups[rest], config.folds, config.split_seed)
    splits[rest[folds == (config.fold or 1) - 1]] = "valid"
    return splits


def connect_groups(*groupings: Integers | None) -> Places | None:
    """Merge groupings: images that share a group in any of them, directly or through other images, form one group.

    Each grouping is (N,) integers, or None for no groups. Returns (N,) integers, or None if there are no groups at all.

    >>> connect_groups(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])).tolist()
    [0, 0, 0, 3]
    """
    known = [np.unique(groups, return_index=True, return_inverse=True) for groups in groupings if groups is not None]
    if not known:
        return None
    n = len(known[0][2])
    return connect_pairs(n, np.concatenate([np.column_stack([np.arange(n), first[of]]) for _, first, of in known]))


def connect_pairs(n: int, pairs: Integers) -> Places:
    """Return (n,) the smallest index to which each index is connected by (P, 2) pairs, directly or through others."""
    numbers = np.arange(n)
    while True:
        while (numbers != (least := numbers[numbers])).any():
            numbers = least
        ends = numbers[pairs]
        apart = ends[ends[:, 0] != ends[:, 1]]
        if not len(apart):
            return numbers
        np.minimum.at(numbers, apart.max(axis=1), apart.min(axis=1))
