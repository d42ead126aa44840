from __future__ import annotations

import itertools
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrayfast.data.splits.stratify import k_folds, stratified_split
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import ConfigError, DataError

FRACTIONS = st.sampled_from(
    [
        {"train": 0.8, "valid": 0.2},
        {"train": 0.7, "valid": 0.2, "test": 0.1},
        {"train": 0.9, "valid": 0.05, "test": 0.05},
        {"train": 0.3, "valid": 0.3, "test": 0.4},
        {"train": 0.2, "valid": 0.8},
        {"east": 0.5, "north": 0.25, "west": 0.25},
    ]
)
SEEDS = st.integers(0, 99)


def one_hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(int(classes.max()) + 1, dtype=np.uint8)[classes]


def ranked(fractions: dict[str, float]) -> list[str]:
    """Return the splits in the order in which they get rare labels, which is the order of the dicts above."""
    return list(fractions)


problems = st.builds(
    lambda n, labels, patients, rate, seed: (
        (np.random.default_rng(seed).random((n, labels)) < rate).astype(np.uint8),
        np.random.default_rng(seed + 1).integers(0, patients, n),
    ),
    st.integers(1, 120),
    st.integers(1, 6),
    st.integers(1, 60),
    st.sampled_from([0.02, 0.1, 0.5]),
    st.integers(0, 999),
)


# Properties of splits


@given(problems, FRACTIONS, SEEDS)
def test_no_group_is_shared_between_splits_and_the_first_split_has_every_label(problem, fractions, seed):
    targets, groups = problem
    splits = stratified_split(targets, groups, fractions, seed)
    assert splits.shape == (len(targets),) and set(splits) <= set(fractions)
    for group in set(groups):
        assert len(set(splits[groups == group])) == 1
    for holders in targets.T == 1:
        assert len(set(groups[holders])) < 2 or (splits[holders] == ranked(fractions)[0]).any()
    assert np.array_equal(splits, stratified_split(targets, groups, fractions, seed))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), FRACTIONS, SEEDS)
def test_single_label_without_groups_is_near_its_share(sizes, fractions, seed):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    splits = stratified_split(one_hot(classes), None, fractions, seed)
    for label, size in enumerate(sizes):
        if size > 1:
            assert set(splits[classes == label]) >= set(ranked(fractions)[:size])
        # A split that gets a rare label makes the others deviate; with three splits, one may deviate by two images.
        if min(fractions.values()) * min(sizes) >= 1:
            for split, fraction in fractions.items():
                off = abs((splits[classes == label] == split).sum() - fraction * size)
                assert off <= (1 if len(fractions) == 2 else 2) + 1e-9


@given(problems, FRACTIONS, st.integers(0, 5), SEEDS)
def test_a_label_with_enough_groups_is_in_each_split(problem, fractions, spare, seed):
    targets, groups = with_own_groups(*problem, count=len(fractions) + spare)
    splits = stratified_split(targets, groups, fractions, seed)
    assert all(set(splits[holders]) == set(fractions) for holders in targets.T == 1)


def with_own_groups(targets: np.ndarray, groups: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the data with `count` more images of each label, each image in a new group and without other labels."""
    more = np.repeat(np.eye(targets.shape[1], dtype=np.uint8), count, axis=0)
    return np.vstack([targets, more]), np.concatenate([groups, 1000 + np.arange(len(more))])


@settings(max_examples=30)
@given(st.integers(0, 999), st.booleans(), FRACTIONS)
def test_shares_are_near_the_fractions(seed, grouped, fractions):
    rng = np.random.default_rng(seed)
    targets = (rng.random((1200, 5)) < [0.02, 0.05, 0.1, 0.2, 0.4]).astype(np.uint8)
    groups = rng.integers(0, 500, 1200) if grouped else None
    splits = stratified_split(targets, groups, fractions, seed)
    for split, fraction in fractions.items():
        there = splits == split
        assert abs(there.sum() - fraction * 1200) <= 2
        assert np.abs(targets[there].sum(0) - fraction * targets.sum(0)).max() <= 2
        assert targets[there].any(0).all()


# Properties of folds


@given(problems, st.integers(2, 8), SEEDS)
def test_no_group_is_shared_between_folds_and_none_is_empty(problem, k, seed):
    targets, groups = problem
    if len(set(groups)) < k:
        with pytest.raises(DataError, match=rf"found {len(set(groups))} patients .* for {k} folds"):
            k_folds(targets, groups, k, seed)
        return
    folds = k_folds(targets, groups, k, seed)
    assert folds.shape == (len(targets),) and folds.dtype == np.int64
    assert set(folds.tolist()) == set(range(k))
    for group in set(groups):
        assert len(set(folds[groups == group])) == 1
    assert np.array_equal(folds, k_folds(targets, groups, k, seed))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(2, 8), SEEDS)
def test_folds_of_a_single_label_without_groups_differ_by_one_at_most(sizes, k, seed):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    if len(classes) < k:
        return
    folds = k_folds(one_hot(classes), None, k, seed)
    assert np.ptp(np.bincount(folds, minlength=k)) <= 1
    for label in range(len(sizes)):
        assert np.ptp(np.bincount(folds[classes == label], minlength=k)) <= 1


@given(problems, st.integers(2, 6), st.integers(0, 5), SEEDS)
def test_a_label_with_enough_groups_is_in_each_fold(problem, k, spare, seed):
    targets, groups = with_own_groups(*problem, count=k + spare)
    folds = k_folds(targets, groups, k, seed)
    assert all(set(folds[holders]) == set(range(k)) for holders in targets.T == 1)


@settings(max_examples=30)
@given(st.integers(0, 999), st.booleans(), st.integers(2, 10), st.permutations(range(5)))
def test_folds_are_balanced_for_any_order_of_labels(seed, grouped, k, order):
    rng = np.random.default_rng(seed)
    targets = (rng.random((1200, 5)) < [0.02, 0.05, 0.1, 0.2, 0.4]).astype(np.uint8)[:, order]
    groups = rng.integers(0, 500, 1200) if grouped else None
    folds = k_folds(targets, groups, k, seed)
    assert np.ptp(np.bincount(folds)) <= 2
    counts = np.array([targets[folds == fold].sum(0) for fold in range(k)])
    assert np.ptp(counts, axis=0).max() <= 3 and counts.min() > 0


def test_two_groups_are_swapped_if_no_move_helps():
    """Assigned by size, 3, 2 and 2 face 3 and 2; swapping a 3 and a 2 makes them equal."""
    groups = np.repeat(np.arange(5), [3, 3, 2, 2, 2])
    for seed in range(10):
        assert np.bincount(k_folds(np.ones((12, 1)), groups, 2, seed)).tolist() == [6, 6]


# Properties of splits and folds


def deals(targets, groups, seed=0):
    return [
        stratified_split(targets, groups, {"train": 0.7, "valid": 0.2, "test": 0.1}, seed),
        k_folds(targets, groups, 5, seed),
    ]


def test_global_random_generators_are_neither_changed_nor_used():
    targets, groups = one_hot(np.repeat([0, 1, 2], 40)), np.arange(120) // 2
    before, plain = np.random.get_state(), random.getstate()
    first = deals(targets, groups)
    now = np.random.get_state()
    assert all(np.array_equal(old, new) for old, new in zip(before, now, strict=True))
    assert random.getstate() == plain
    np.random.seed(7)
    random.seed(7)
    try:
        assert all(np.array_equal(a, b) for a, b in zip(first, deals(targets, groups), strict=True))
    finally:
        np.random.set_state(before)
        random.setstate(plain)


def test_different_seeds_give_different_splits():
    targets = one_hot(np.repeat([0, 1], 50))
    for one, other in zip(deals(targets, None, 0), deals(targets, None, 1), strict=True):
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", [bool, np.int8, np.int64, np.float32, np.float64])
def test_targets_of_any_numeric_type(kind):
    targets, groups = one_hot(np.arange(60) % 3), np.arange(60) // 2
    for expected, found in zip(deals(targets, groups), deals(targets.astype(kind), groups), strict=True):
        assert np.array_equal(expected, found)


@pytest.mark.parametrize("wrong", [np.nan, 0.5, 2, -1])
def test_targets_that_are_neither_0_nor_1(wrong):
    targets = np.ones((20, 2), np.float32)
    targets[3, 1] = wrong
    for deal in (lambda: stratified_split(targets, None, {"train": 1.0}, 0), lambda: k_folds(targets, None, 2, 0)):
        with pytest.raises(DataError, match="neither 0 nor 1"):
            deal()


def test_groups_of_another_length():
    with pytest.raises(DataError, match="3 groups for 4 images"):
        stratified_split(np.ones((4, 1), np.uint8), np.arange(3), {"train": 1.0}, 0)
    with pytest.raises(DataError, match="3 groups for 4 images"):
        k_folds(np.ones((4, 1), np.uint8), np.arange(3), 2, 0)


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.2, "valid": -0.2}, {"train": 0.9, "valid": 0.2}])
def test_invalid_fractions_are_refused(fractions):
    with pytest.raises(ConfigError, match="sum of 1"):
        stratified_split(np.ones((4, 1), np.uint8), None, fractions, 0)


@pytest.mark.parametrize("k", [-1, 0, 1])
def test_invalid_numbers_of_folds_are_refused(k):
    with pytest.raises(ConfigError, match=f"found {k} as the number of folds"):
        k_folds(np.ones((4, 1), np.uint8), None, k, 0)


def test_more_folds_than_images():
    with pytest.raises(DataError, match="found 4 images for 5 folds; expected 5 or more"):
        k_folds(np.ones((4, 1), np.uint8), None, 5, 0)


# Cases of splits


def test_a_large_group_goes_where_it_fits():
    targets = np.ones((100, 1), np.uint8)
    groups = np.array([0] * 70 + list(range(1, 31)))
    splits = stratified_split(targets, groups, {"train": 0.8, "valid": 0.2}, 0)
    assert set(splits[:70]) == {"train"}
    assert (splits == "valid").sum() == 20


def test_all_splits_get_patients_of_all_sizes():
    sizes = np.random.default_rng(0).geometric(0.3, 1500)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    targets = one_hot(np.random.default_rng(1).integers(0, 3, len(groups)))
    splits = stratified_split(targets, groups, {"train": 0.7, "valid": 0.2, "test": 0.1}, 0)
    means = [(splits == split).sum() / len(set(groups[splits == split])) for split in SPLITS]
    assert max(means) - min(means) < 0.25


def test_images_without_a_label_are_distributed_too():
    targets = np.zeros((200, 2), np.uint8)
    targets[:20, 0] = 1
    splits = stratified_split(targets, None, {"train": 0.8, "valid": 0.2}, 3)
    assert (splits[20:] == "valid").sum() == 36 and (splits[:20] == "valid").sum() == 4


def test_a_label_reaches_train_and_valid_though_rarer_ones_pull_it_away():
    targets = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 1, 0]], np.uint8)
    for seed in range(20):
        splits = stratified_split(targets, None, {"train": 0.9, "valid": 0.1}, seed)
        assert {"train", "valid"} == set(splits[2:])
        assert "train" in splits[:3]


@pytest.mark.parametrize(("images", "expected"), [(2, [1, 1, 0]), (3, [1, 1, 1]), (10, [8, 1, 1]), (20, [18, 1, 1])])
def test_the_first_images_of_a_rare_label_go_to_train_then_valid_then_test(images, expected):
    targets = np.zeros((200, 2), np.uint8)
    targets[:images, 0] = targets[images:, 1] = 1
    for seed in range(10):
        splits = stratified_split(targets, None, {"train": 0.9, "valid": 0.05, "test": 0.05}, seed)
        assert [(splits[:images] == split).sum() for split in SPLITS] == expected


def test_test_gets_no_label_at_the_cost_of_another_in_train_or_valid():
    """Label 0 has four patients; train and valid keep the two who hold half of labels 1 and 2."""
    targets = np.zeros((60, 4), np.uint8)
    targets[:4, 0] = targets[[0, 4], 1] = targets[[1, 5], 2] = targets[6:, 3] = 1
    for seed in range(20):
        splits = stratified_split(targets, None, {"train": 0.9, "valid": 0.05, "test": 0.05}, seed)
        for holders in targets.T == 1:
            assert {"train", "valid"} <= set(splits[holders])
        assert "test" in splits[2:4]


def test_splits_of_other_names_come_after_the_usual_ones():
    splits = stratified_split(np.ones((3, 1)), None, {"a": 0.05, "test": 0.05, "train": 0.9}, 0)
    assert sorted(splits) == ["a", "test", "train"]
    for seed in range(10):
        splits = stratified_split(np.ones((2, 1)), None, {"a": 0.05, "test": 0.05, "train": 0.9}, seed)
        assert sorted(splits) == ["test", "train"]


def test_ties_are_broken_at_random():
    one = np.ones((1, 1), np.uint8)
    splits = {stratified_split(one, None, {"train": 0.5, "valid": 0.5}, seed)[0] for seed in range(20)}
    assert splits == {"train", "valid"}


def test_the_order_of_fractions_and_zeros_do_not_matter():
    targets = one_hot(np.repeat([0, 1], 50))
    expected = stratified_split(targets, None, {"train": 0.8, "valid": 0.2}, 0)
    assert np.array_equal(expected, stratified_split(targets, None, {"test": 0, "valid": 0.2, "train": 0.8}, 0))
    expected = stratified_split(targets, None, {"a": 0.8, "b": 0.2}, 0)
    assert np.array_equal(expected, stratified_split(targets, None, {"b": 0.2, "a": 0.8}, 0))


def test_without_images_there_are_no_splits():
    assert stratified_split(np.zeros((0, 3), np.uint8), None, {"train": 0.8, "valid": 0.2}, 0).shape == (0,)
    assert len(stratified_split(np.zeros((0, 3), np.uint8), np.array([], int), {"train": 1.0}, 0)) == 0


# Compared with scikit-learn and iterative-stratification on real data


def balance(targets, folds, shares) -> tuple[float, float, float]:
    """Return three distances of folds from their shares, all 0 at best.

    LD and ED of Sechidis et al. 2011: the mean distance of a label's odds in a fold from its odds in all images,
    and the mean distance of a fold's size from its share of the images; then the largest deviation of a label's share.
    """
    there = folds == np.arange(len(shares))[:, None]
    counts, sizes = there @ targets.astype(int), there.sum(1)
    totals = targets.sum(0, dtype=int)
    odds = counts / (sizes[:, None] - counts)
    label_distribution = np.abs(odds - totals / (len(targets) - totals)).mean()
    examples = np.abs(sizes - shares * len(targets)).mean()
    largest = np.abs(counts / totals - shares[:, None]).max()
    return float(label_distribution), float(examples), float(largest)


def assert_no_worse(targets, ours, theirs, shares):
    """Compare medians over seeds.

    If both round each label's share to whole images, which folds get one more is chance, and changes LD by up to 1%
    on these data.
    """
    mine, other = (
        np.median([balance(targets, folds, np.array(shares)) for folds in dealt], 0) for dealt in (ours, theirs)
    )
    assert (mine <= other * [1.01, 1, 1] + 1e-9).all(), f"LD, ED and largest: {mine}, theirs {other}"


def numbers_of_folds(splitter, targets, classes, groups, k, seeds):
    """Yield the folds of a scikit-learn splitter in the form of `k_folds`."""
    for seed in seeds:
        folds = np.zeros(len(targets), int)
        for number, (_, rows) in enumerate(
            splitter(k, shuffle=True, random_state=seed).split(targets, classes, groups)
        ):
            folds[rows] = number
        yield folds


@pytest.fixture(scope="module")
def darkcovid(shared):
    """One-hot classes and patients; images without a patient are separate groups."""
    table = pd.read_csv(shared / "data" / "darkcovid" / "manifest.csv")
    patients = table["patient_id"].fillna(table["file"])
    return one_hot(pd.factorize(table["class"])[0]), pd.factorize(patients)[0]


@pytest.fixture(scope="module")
def nih(shared):
    """14 labels, patients, and the first label of each image as the class of a single-label task."""
    table = pd.read_csv(shared / "data" / "nih_multilabel" / "labels.csv")
    findings = table["labels"].str.get_dummies("|").drop(columns="No Finding").to_numpy(np.uint8)
    assert findings.shape == (6676, 14)
    first = np.unique(table["labels"].str.split("|").str[0], return_inverse=True)[1]
    return findings, table["patient_id"].to_numpy(), first


SEEDS_COMPARED = range(5)


@pytest.mark.parametrize("k", [5, 10])
def test_folds_of_darkcovid_are_no_worse_than_stratified_group_k_fold(darkcovid, k):
    from sklearn.model_selection import StratifiedGroupKFold

    targets, patients = darkcovid
    theirs = numbers_of_folds(StratifiedGroupKFold, targets, targets.argmax(1), patients, k, SEEDS_COMPARED)
    ours = [k_folds(targets, patients, k, seed) for seed in SEEDS_COMPARED]
    assert_no_worse(targets, ours, theirs, [1 / k] * k)


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("k", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_folds_of_nih_are_no_worse_than_stratified_group_k_fold(nih, k):
    """Single-label with patients; scikit-learn has no method for multi-label."""
    from sklearn.model_selection import StratifiedGroupKFold

    _, patients, first = nih
    targets = one_hot(first)
    theirs = numbers_of_folds(StratifiedGroupKFold, targets, first, patients, k, range(3))
    ours = [k_folds(targets, patients, k, seed) for seed in range(3)]
    assert_no_worse(targets, ours, theirs, [1 / k] * k)


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_of_nih_findings_by_patient_are_no_worse_than_those_of_label_sets(nih):
    """For multi-label, StratifiedGroupKFold can only treat each set of labels as a class."""
    from sklearn.model_selection import StratifiedGroupKFold

    targets, patients, _ = nih
    sets = np.unique(targets, axis=0, return_inverse=True)[1]
    theirs = numbers_of_folds(StratifiedGroupKFold, targets, sets, patients, 5, range(3))
    ours = [k_folds(targets, patients, 5, seed) for seed in range(3)]
    assert_no_worse(targets, ours, theirs, [0.2] * 5)


@pytest.mark.parametrize(("name", "k"), list(itertools.product(["darkcovid", "nih"], [5, 10])))
def test_folds_are_no_worse_than_iterative_stratification(request, name, k):
    """Without patients, which iterative-stratification does not support."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    targets = request.getfixturevalue(name)[0]
    theirs = numbers_of_folds(MultilabelStratifiedKFold, targets, targets, None, k, SEEDS_COMPARED)
    ours = [k_folds(targets, None, k, seed) for seed in SEEDS_COMPARED]
    assert_no_worse(targets, ours, theirs, [1 / k] * k)


@pytest.mark.parametrize(("name", "fraction"), list(itertools.product(["darkcovid", "nih"], [0.1, 0.2, 0.3])))
def test_splits_are_no_worse_than_iterative_stratification(request, name, fraction):
    """At the same size, because iterative-stratification rounds a fraction up instead of to the nearest."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    targets = request.getfixturevalue(name)[0]
    size = round(fraction * len(targets))
    shares = {"train": 1 - size / len(targets), "valid": size / len(targets)}
    theirs = []
    for seed in SEEDS_COMPARED:
        splitter = MultilabelStratifiedShuffleSplit(1, test_size=size, random_state=seed)
        theirs.append(np.isin(np.arange(len(targets)), next(splitter.split(targets, targets))[1]).astype(int))
    ours = [(stratified_split(targets, None, shares, seed) == "valid").astype(int) for seed in SEEDS_COMPARED]
    assert_no_worse(targets, ours, theirs, list(shares.values()))


def test_patients_cost_little_balance(nih):
    """With 2212 patients, each label is still within 2 images of its share in three splits."""
    targets, patients, _ = nih
    fractions = {"train": 0.7, "valid": 0.2, "test": 0.1}
    for seed in SEEDS_COMPARED:
        splits = stratified_split(targets, patients, fractions, seed)
        for split, fraction in fractions.items():
            there = splits == split
            assert abs(there.sum() - fraction * len(targets)) <= 1
            assert np.abs(targets[there].sum(0) - fraction * targets.sum(0)).max() <= 2
