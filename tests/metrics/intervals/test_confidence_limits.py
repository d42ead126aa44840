import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from xrayfast.metrics.intervals.confidence_limits import _quantile, bca, norm_limits


def skewness(data):
    return ((data - data.mean()) ** 3).mean() / data.std() ** 3


@pytest.mark.parametrize("statistic", [np.mean, np.std, skewness])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bca_equals_scipy(statistic, level):
    data = np.random.default_rng(0).exponential(size=40)
    found = stats.bootstrap(
        (data,),
        statistic,
        n_resamples=2000,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(1),
        vectorized=False,
    )
    without = np.array([statistic(np.delete(data, i)) for i in range(40)])
    low, high = bca(found.bootstrap_distribution, statistic(data), without, level)
    assert (low, high) == pytest.approx(tuple(found.confidence_interval), abs=1e-9)


def test_quantiles_are_numpy_s_to_the_bit():
    random = np.random.default_rng(0)
    for values in map(random.normal, [0.0] * 60, [1.0] * 60, [1, 2, 3, 7, 20, 100] * 10):
        for share in (0.0, 0.025, 0.5, 0.975, 1.0, random.random()):
            assert _quantile(np.sort(values), share) == np.quantile(values, share)


def test_without_bias_and_acceleration_it_is_the_percentile_interval():
    values = np.linspace(-1, 1, 1001)
    low, high = bca(values, 0.0, np.array([-1.0, 0.0, 1.0]))
    assert (low, high) == pytest.approx((-0.95, 0.95), abs=1e-9)


@pytest.mark.parametrize("patients", [2, 10, 200])
def test_for_few_patients_the_interval_is_expanded_by_student_s_t(patients):
    values, without = np.linspace(-1, 1, 1001), np.array([-1.0, 0.0, 1.0])
    reach = np.sqrt(patients / (patients - 1)) * stats.t.ppf(0.975, patients - 1)
    end = 2 * stats.norm.cdf(reach) - 1
    assert bca(values, 0.0, without, patients=patients) == pytest.approx((-end, end), abs=1e-9)
    assert bca(values, 0.0, without, patients=1) == bca(values, 0.0, without, patients=2)


tenths = st.integers(-50, 50).map(lambda k: k / 10)


@given(st.lists(tenths, min_size=1, max_size=30), tenths, st.lists(tenths, max_size=9))
def test_a_bca_interval_is_within_its_resamples_and_flips_with_the_sign(values, value, without):
    drawn, left_out = np.array(values), np.array(without)
    low, high = bca(drawn, value, left_out)
    assert min(values) <= low <= high <= max(values)
    assert bca(-drawn, -value, -left_out) == pytest.approx((-high, -low), abs=1e-9)


def test_resamples_without_a_value_are_left_out():
    values, without = np.arange(100.0), np.array([1.0, 2.0, 4.0])
    expected = bca(values, 50, without)
    assert bca(np.append(values, [np.nan] * 20), 50, np.append(without, np.nan)) == expected
    assert np.isnan(bca(np.full(5, np.nan), 1.0, without)).all()
    assert np.isnan(bca(values, np.nan, without)).all()
    assert bca(np.ones(9), 1.0, np.ones(3)) == (1, 1)


def test_an_error_that_may_be_noise_has_an_interval_from_zero():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (2000, 15))
    low, high = norm_limits(rng.normal(0, 0.01, 15), noise + 0.0)
    assert low == 0
    assert high > 0.05
    gaps = np.full(15, 0.05)
    low, high = norm_limits(gaps, gaps + noise)
    # Far from zero the norm is a sum, and its noise is that of 15 normal numbers.
    half = 1.96 * 0.01 * np.sqrt(15)
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.01)


def test_noise_that_raises_a_norm_in_resamples_raised_it_in_the_sample_too():
    assert norm_limits(np.array([0.3]), np.full((20, 1), 0.5)) == pytest.approx((0.1, 0.3), abs=1e-6)


def test_limits_of_a_norm_at_the_edges():
    gaps = np.array([0.1, -0.2])
    exact = np.tile(gaps, (50, 1))
    assert norm_limits(gaps, exact) == pytest.approx((0.3, 0.3), abs=1e-6)
    assert norm_limits(np.zeros(3), np.zeros((9, 3))) == pytest.approx((0, 0), abs=1e-9)
    broken = np.vstack([exact, [[np.nan, 0.0]]])
    assert norm_limits(gaps, broken) == norm_limits(gaps, exact)
    assert np.isnan(norm_limits(gaps, np.full((4, 2), np.nan))).all()
    assert np.isnan(norm_limits(np.array([np.nan]), np.zeros((4, 1)))).all()
