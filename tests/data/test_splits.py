from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrayfast.data.splits import PARTS, part_name, stratified_split
from xrayfast.errors import ConfigError, DataError

FRACTIONS = st.sampled_from(
    [
        {"train": 0.8, "valid": 0.2},
        {"train": 0.7, "valid": 0.2, "test": 0.1},
        {"train": 0.9, "valid": 0.05, "test": 0.05},
        {"train": 0.3, "valid": 0.3, "test": 0.4},
        {"train": 0.2, "valid": 0.8},
    ]
)


def one_hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(int(classes.max()) + 1, dtype=np.uint8)[classes]


def covered(targets: np.ndarray, groups: np.ndarray, parts: np.ndarray, part: str, label: int) -> bool:
    """Whether a label in two groups or more is in the part; true for rarer ones."""
    holders = targets[:, label] == 1
    return len(set(groups[holders])) < 2 or bool((parts[holders] == part).any())


@pytest.mark.parametrize(
    ("text", "part"),
    [("train", "train"), ("Training", "train"), ("VAL", "valid"), ("valid", "valid"), ("Validation", "valid"),
     ("dev", "valid"), (" Test ", "test"), ("testing", "test"), ("covid-19", None), ("", None),
     ("trainer", None)],
)  # fmt: skip
def test_part_names(text, part):
    assert part_name(text) == part


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), FRACTIONS, st.integers(0, 99))
def test_single_label_without_groups_is_within_one_of_its_share(sizes, fractions, seed):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    parts = stratified_split(one_hot(classes), None, fractions, seed)
    assert set(parts) <= set(fractions)
    for label, size in enumerate(sizes):
        for part, fraction in fractions.items():
            assert abs((parts[classes == label] == part).sum() - fraction * size) <= 1 + 1e-9
        if size >= 2:
            assert {"train", "valid"} <= set(parts[classes == label])


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


@given(problems, FRACTIONS, st.integers(0, 99))
def test_no_group_is_shared_and_no_label_is_lost(problem, fractions, seed):
    targets, groups = problem
    parts = stratified_split(targets, groups, fractions, seed)
    assert parts.shape == (len(targets),) and set(parts) <= set(fractions)
    for group in set(groups):
        assert len(set(parts[groups == group])) == 1
    for label in range(targets.shape[1]):
        assert covered(targets, groups, parts, "train", label)
    again = stratified_split(targets, groups, fractions, seed)
    assert np.array_equal(parts, again)


@settings(max_examples=30)
@given(st.integers(0, 999), st.booleans(), FRACTIONS)
def test_shares_are_near_the_fractions(seed, grouped, fractions):
    rng = np.random.default_rng(seed)
    targets = (rng.random((1200, 5)) < [0.02, 0.05, 0.1, 0.2, 0.4]).astype(np.uint8)
    groups = rng.integers(0, 500, 1200) if grouped else None
    parts = stratified_split(targets, groups, fractions, seed)
    for part, fraction in fractions.items():
        there = parts == part
        assert abs(there.mean() - fraction) < 0.02
        assert np.abs(targets[there].sum(0) - fraction * targets.sum(0)).max() <= 4
        assert covered(targets, np.arange(1200) if groups is None else groups, parts, part, 0)


def test_a_large_group_goes_where_it_fits():
    targets = np.ones((100, 1), np.uint8)
    groups = np.array([0] * 70 + list(range(1, 31)))
    parts = stratified_split(targets, groups, {"train": 0.8, "valid": 0.2}, 0)
    assert set(parts[:70]) == {"train"}
    assert (parts == "valid").sum() == 20


def test_all_parts_get_patients_of_all_sizes():
    sizes = np.random.default_rng(0).geometric(0.3, 1500)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    targets = one_hot(np.random.default_rng(1).integers(0, 3, len(groups)))
    parts = stratified_split(targets, groups, {"train": 0.7, "valid": 0.2, "test": 0.1}, 0)
    means = [(parts == part).sum() / len(set(groups[parts == part])) for part in PARTS]
    assert max(means) - min(means) < 0.25


def test_images_without_a_label_are_shared_out_too():
    targets = np.zeros((200, 2), np.uint8)
    targets[:20, 0] = 1
    parts = stratified_split(targets, None, {"train": 0.8, "valid": 0.2}, 3)
    assert (parts[20:] == "valid").sum() == 36 and (parts[:20] == "valid").sum() == 4


def test_a_label_reaches_train_and_valid_though_rarer_ones_pull_it_away():
    targets = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 1, 0]], np.uint8)
    for seed in range(20):
        parts = stratified_split(targets, None, {"train": 0.9, "valid": 0.1}, seed)
        assert {"train", "valid"} == set(parts[2:])
        assert "train" in parts[:3]


def test_what_validation_lacks_comes_from_the_part_that_has_too_much():
    """Ten images make 9, 0.5 and 0.5: the one that test may get is the one that validation needs."""
    for seed in range(10):
        parts = stratified_split(np.ones((10, 1), np.uint8), None, {"train": 0.9, "valid": 0.05, "test": 0.05}, seed)
        assert [(parts == part).sum() for part in PARTS] == [9, 1, 0]


def test_ties_are_broken_at_random():
    one = np.ones((1, 1), np.uint8)
    parts = {stratified_split(one, None, {"train": 0.5, "valid": 0.5}, seed)[0] for seed in range(20)}
    assert parts == {"train", "valid"}


def test_seeds_differ_and_leave_the_global_generator_alone():
    targets = one_hot(np.repeat([0, 1], 50))
    before = np.random.get_state()[1].copy()
    first, other = (stratified_split(targets, None, {"train": 0.8, "valid": 0.2}, seed) for seed in (0, 1))
    assert not np.array_equal(first, other)
    assert np.array_equal(before, np.random.get_state()[1])


def test_the_order_of_fractions_and_zeros_do_not_matter():
    targets = one_hot(np.repeat([0, 1], 50))
    expected = stratified_split(targets, None, {"train": 0.8, "valid": 0.2}, 0)
    assert np.array_equal(expected, stratified_split(targets, None, {"test": 0, "valid": 0.2, "train": 0.8}, 0))


def test_no_images_no_parts():
    assert stratified_split(np.zeros((0, 3), np.uint8), None, {"train": 0.8, "valid": 0.2}, 0).shape == (0,)
    assert len(stratified_split(np.zeros((0, 3), np.uint8), np.array([], int), {"train": 1.0}, 0)) == 0


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.2, "valid": -0.2}, {"train": 0.9, "valid": 0.2}])
def test_fractions_that_are_none(fractions):
    with pytest.raises(ConfigError, match="sum of 1"):
        stratified_split(np.ones((4, 1), np.uint8), None, fractions, 0)


def test_groups_of_another_length():
    with pytest.raises(DataError, match="3 groups for 4 images"):
        stratified_split(np.ones((4, 1), np.uint8), np.arange(3), {"train": 1.0}, 0)
