import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from xrayfast.metrics.proportions import clopper_pearson, wilson

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_intervals_equal_scipy(case, level):
    x, n = case
    for interval, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        expected = stats.binomtest(x, n).proportion_ci(level, method)
        assert np.array(interval(x, n, level)) == pytest.approx([expected.low, expected.high], abs=1e-9)


@pytest.mark.parametrize(
    ("x", "n", "by_wilson", "exact"),
    [
        # Newcombe 1998, table I.
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_published_intervals(x, n, by_wilson, exact):
    assert np.array(wilson(x, n)) == pytest.approx(by_wilson, abs=5e-5)
    assert np.array(clopper_pearson(x, n)) == pytest.approx(exact, abs=5e-5)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_ends_empty_counts_and_arrays(interval):
    low, high = interval([0, 7, 0], [7, 7, 0])
    assert low[0] == 0
    assert high[1] == 1
    assert low[1] == pytest.approx(1 - high[0])
    assert np.isnan([low[2], high[2]]).all()


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_impossible_counts_are_refused(interval):
    with pytest.raises(ValueError, match="successes"):
        interval(3, 2)
    with pytest.raises(ValueError, match="level is 95"):
        interval(1, 2, level=95)
