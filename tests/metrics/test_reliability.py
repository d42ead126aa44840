from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.calibration import calibration_curve

from tests.metrics.cases import calibration_error, one_class
from xrayfast.metrics.reliability import inner_edges, reliability, top_label

BINNINGS = {"width": "uniform", "mass": "quantile"}
scored = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, n, elements=st.integers(0, 1)),
        hnp.arrays(np.float64, n, elements=st.integers(0, 10).map(lambda k: k / 10)),
    )
)


def labels(n=500, seed=0):
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.6, 1.4, n)
    return (rng.random(n) < probability**1.5).astype(int), probability


@pytest.mark.parametrize("binning", BINNINGS)
@pytest.mark.parametrize("bins", [1, 5, 15])
def test_bins_equal_scikit_learn(binning, bins):
    truth, probability = labels()
    observed, predicted = calibration_curve(truth, probability, n_bins=bins, strategy=BINNINGS[binning])
    found = [each for each in reliability(truth, probability, bins, binning) if each.count]
    np.testing.assert_allclose([each.observed for each in found], observed, atol=1e-12)
    np.testing.assert_allclose([each.predicted for each in found], predicted, atol=1e-12)
    weights = np.array([each.count for each in found]) / 500
    expected = (weights * np.abs(observed - predicted)).sum()
    assert calibration_error(truth, probability, bins, binning) == pytest.approx(expected, abs=1e-12)


@given(scored, st.sampled_from(sorted(BINNINGS)))
def test_each_image_is_in_one_bin_between_its_ends(case, binning):
    truth, probability = case
    found = reliability(truth, probability, 6, binning)
    assert sum(each.count for each in found) == len(truth)
    assert found[0].low == 0
    assert found[-1].high == 1
    for left, right in pairwise(found):
        assert left.high == right.low
    for i, each in enumerate(found):
        inside = (probability <= each.high) & ((probability > each.low) | (i == 0))
        assert each.count == inside.sum()
        if each.count:
            assert each.low - 1e-12 <= each.predicted <= each.high + 1e-12
            assert each.observed_low <= each.observed <= each.observed_high
        else:
            assert np.isnan([each.predicted, each.observed, each.observed_low]).all()
    error = calibration_error(truth, probability, 6, binning)
    # A single bin would have the gap of the means; finer bins can only have more.
    assert abs(truth.mean() - probability.mean()) - 1e-12 <= error <= 1


def test_the_interval_of_a_bin_is_wilsons():
    truth, probability = labels()
    for each in reliability(truth, probability, 5):
        hits = round(each.observed * each.count)
        expected = stats.binomtest(hits, each.count).proportion_ci(method="wilson")
        assert (each.observed_low, each.observed_high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_masked_cells_ties_and_edges_of_bins():
    truth, probability = np.array([1, 0, -1, 1]), np.array([1.0, 0.0, 0.7, 1.0])
    assert calibration_error(truth, probability) == 0
    assert calibration_error([0, 1, -1, 0], probability) == 1
    assert sum(each.count for each in reliability(truth, probability)) == 3
    assert np.isnan(calibration_error([-1, -1], [0.1, 0.2]))
    assert np.isnan(calibration_error([], []))
    constant = reliability([1, 0, 0, 0], [0.25] * 4, 10, "mass")
    assert [(each.low, each.high, each.count) for each in constant] == [(0, 1, 4)]
    assert calibration_error([1, 0, 0, 0], [0.25] * 4, 10, "mass") == 0
    assert len(reliability([], [], 10, "mass")) == 1
    with pytest.raises(ValueError, match="bins is 0"):
        inner_edges([0.5], bins=0)


def test_equal_mass_bins_have_the_same_number_of_images():
    _, probability = labels()
    counts = [each.count for each in reliability(np.zeros(500, dtype=int), probability, 10, "mass")]
    assert max(counts) - min(counts) <= 1


def test_top_label_is_the_chosen_class_and_its_probability():
    truth, probability = one_class()
    hidden = truth.copy()
    hidden[3] = -1
    right, confidence, rows = top_label(hidden, probability)
    assert list(rows) == [i for i in range(120) if i != 3]
    assert (confidence == probability[rows].max(axis=1)).all()
    assert (right == (probability.argmax(axis=1) == truth.argmax(axis=1))[rows]).all()
