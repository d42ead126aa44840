"""Sensitivity at a fixed specificity, and specificity at a fixed sensitivity."""

import numpy as np
import pytest
import sklearn.metrics as skm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from tests.metrics.cases import many_labels
from xrayfast.metrics.operating_points.fixed_rates import TITLES, fixed_rate_rows
from xrayfast.metrics.proportions import wilson


def by_scikit_learn(truth, score):
    false, true, _ = skm.roc_curve(truth, score, drop_intermediate=False)
    at_specificity = [true[1 - false >= rate - 1e-9].max() for rate in (0.9, 0.95)]
    return [*at_specificity, *((1 - false)[true >= rate - 1e-9].max() for rate in (0.9, 0.95))]


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 40))
def test_the_rates_equal_those_of_the_roc_curve(seed, n, levels):
    rng = np.random.default_rng(seed)
    truth = rng.integers(2, size=n)
    truth[:2] = 0, 1
    score = np.clip(rng.integers(levels, size=n) + truth, 0, levels) / levels
    [row] = fixed_rate_rows(truth[:, None], score[:, None], ["a"])
    assert [row[name] for name in TITLES] == pytest.approx(by_scikit_learn(truth, score))


def test_masked_cells_are_left_out_and_a_label_with_one_class_has_no_rates():
    truth, probability = many_labels(hidden=0.3)
    truth[:, 2] = np.minimum(truth[:, 2], 0)
    rows = fixed_rate_rows(truth, probability, list("abcd"), resamples=50)
    known = truth[:, 1] >= 0
    assert [rows[1][name] for name in TITLES] == pytest.approx(by_scikit_learn(truth[known, 1], probability[known, 1]))
    assert rows[2] == {"label": "c", **dict.fromkeys(TITLES), "intervals": {}}


def test_perfect_ranking_has_an_interval_according_to_the_number_of_patients():
    truth = np.repeat([-1, 1, 0], [20, 20, 60])
    groups = np.r_[100:120, np.arange(80) // 2]  # masked images are of other patients
    [row] = fixed_rate_rows(truth[:, None], truth[:, None] * 0.4 + 0.5, ["a"], groups, resamples=100)
    assert [row[name] for name in TITLES] == [1, 1, 1, 1]
    found = row["intervals"]
    low, high = wilson(10, 10)
    assert found["sensitivity_at_specificity_90"] == pytest.approx({"low": float(low), "high": float(high)})
    # Of ten patients, one is beyond 0.9, and none beyond 0.95.
    assert found["specificity_at_sensitivity_90"] == {"low": None, "high": None}
    # Of 30 patients, 3 are beyond 0.9, and 1.5 beyond 0.95.
    assert found["sensitivity_at_specificity_95"] == {"low": None, "high": None}


def test_an_interval_is_not_narrower_than_that_of_as_many_patients_as_images():
    """The threshold is the same in every resample, and both patients with the label have nearly the same rate."""
    score = np.r_[np.full(19, 0.9), 0.1, np.full(18, 0.9), np.full(2 + 40, 0.1)]
    truth, groups = (np.arange(80) < 40).astype(int), np.r_[np.repeat([0, 1], 20), 2:42]
    [row] = fixed_rate_rows(truth[:, None], score[:, None], ["a"], groups, resamples=50)
    low, high = wilson(37, 40)
    found = row["intervals"]["sensitivity_at_specificity_90"]
    assert (found["low"], found["high"]) == pytest.approx((float(low), float(high)))


def test_the_draws_do_not_depend_on_the_other_labels():
    truth, probability = many_labels()
    rows = fixed_rate_rows(truth, probability, list("abcd"), resamples=40, seed=3)
    assert fixed_rate_rows(truth[:, [2]], probability[:, [2]], ["c"], resamples=40, seed=3) == [rows[2]]


def test_a_rate_of_one_that_is_lower_in_some_resamples_has_an_interval():
    """Three of 30 images without the label are above all others: in a resample they can be four."""
    truth, score = np.repeat([1, 0, 0], [30, 3, 27]), np.repeat([0.5, 0.9, 0.1], [30, 3, 27])
    rows = [fixed_rate_rows(truth[:, None], score[:, None], ["a"], resamples=40, seed=seed)[0] for seed in (0, 1)]
    found, other = (row["intervals"]["sensitivity_at_specificity_90"] for row in rows)
    assert rows[0]["sensitivity_at_specificity_90"] == 1 and 0 < found["low"] < found["high"] == 1
    assert found["low"] != other["low"], "the seed draws other resamples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "m", "images", "area"),
    [(5, 195, 1, 0.9), (10, 100, 1, 0.8), (20, 200, 1, 0.95), (50, 50, 1, 0.8), (200, 200, 1, 0.8), (30, 60, 4, 0.85)],
)
def test_the_intervals_cover_the_rates_at_the_true_threshold(n, m, images, area):
    """Normal scores of two classes; if patients have several images, these share half of the variance."""
    rng, covered, studies = np.random.default_rng(0), 0, 400
    gap = np.sqrt(2) * norm.ppf(area)
    true = norm.sf(norm.ppf(0.9) - gap)
    group = np.repeat(np.arange(n + m), images)
    truth = (group < n).astype(int)
    for study in range(studies):
        noise = rng.normal(size=n + m)[group]
        if images > 1:
            noise = np.sqrt(0.5) * (noise + rng.normal(size=len(group)))
        score = norm.cdf(noise + gap * truth)
        [row] = fixed_rate_rows(truth[:, None], score[:, None], ["a"], group, resamples=200, seed=study)
        ends = row["intervals"]["sensitivity_at_specificity_90"]
        covered += ends["low"] <= true <= ends["high"]
    assert 0.925 <= covered / studies <= 0.99, covered / studies
