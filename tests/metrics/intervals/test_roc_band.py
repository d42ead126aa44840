import numpy as np
import pytest
from sklearn.metrics import roc_curve

from xrayfast.metrics.intervals.resampling import draws
from xrayfast.metrics.intervals.roc_band import FALSE_RATES, roc_band


def sample(n, seed=0, patients=None):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, n)
    return truth, random.normal(size=n) + truth, patients and random.integers(0, patients, n)


def _sensitivity(rate, false, true):
    """Interpolate between two points of the curve; where it is vertical, return its upper end."""
    last = np.flatnonzero(false <= rate + 1e-12)[-1]
    if last == len(false) - 1:
        return true[last]
    step = (rate - false[last]) / (false[last + 1] - false[last])
    return true[last] + step * (true[last + 1] - true[last])


def test_the_band_is_the_percentiles_of_scikit_learn_s_curves_of_the_same_resamples():
    truth, score, groups = sample(60, patients=25)
    low, high = roc_band(truth, score, groups, resamples=40, seed=3)
    _, unit = np.unique(groups, return_inverse=True)
    rates = []
    for counts in np.concatenate(list(draws(unit.max() + 1, 40, 3, 7))):
        weight = counts[unit]
        false, true, _ = roc_curve(truth[weight > 0], score[weight > 0], sample_weight=weight[weight > 0])
        rates.append([_sensitivity(rate, false, true) for rate in FALSE_RATES])
    expected = np.quantile(rates, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([low, high], expected, atol=1e-6)


def test_masked_cells_are_left_out_and_one_class_has_no_band():
    truth, score, _ = sample(40)
    masked = np.r_[truth, [-1, -1]], np.r_[score, [9.0, -9.0]]
    for one, two in zip(roc_band(*masked, np.r_[np.arange(40), [0, 1]]), roc_band(truth, score), strict=True):
        np.testing.assert_array_equal(one, two)
    assert roc_band([1, 1, -1], [0.1, 0.2, 0.3]) is None and roc_band([], []) is None


@pytest.mark.slow
def test_the_band_contains_the_true_curve_at_a_point_in_about_95_percent():
    from scipy.stats import norm

    true = norm.sf(norm.isf(0.3) - 1)
    inside = []
    for seed in range(400):
        truth, score, _ = sample(200, seed)
        low, high = roc_band(truth, score, resamples=200, seed=seed)
        inside.append(low[30] <= true <= high[30])
    assert 0.91 < np.mean(inside) < 0.98
