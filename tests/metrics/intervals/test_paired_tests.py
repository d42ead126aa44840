from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from xrayfast.metrics.intervals.paired_tests import holm, mcnemar, resampled_t_test


def images(only_a, only_b, both=5):
    right_a = np.repeat([1, 0, 1], [only_a, only_b, both])
    right_b = np.repeat([0, 1, 1], [only_a, only_b, both])
    return right_a, right_b


@given(st.integers(0, 40), st.integers(0, 40))
def test_without_patients_the_p_value_is_that_of_the_binomial_test(only_a, only_b):
    found = mcnemar(*images(only_a, only_b))
    assert (found.only_a, found.only_b) == (only_a, only_b)
    n = only_a + only_b
    expected = stats.binomtest(only_a, n).pvalue if n else 1
    assert found.p == pytest.approx(expected, abs=1e-9)


def test_published_p_values():
    # Bentur et al. 2009 in Fagerland, Lydersen and Laake 2013: 1 against 7 children.
    found = mcnemar(*images(7, 1))
    assert found.p == pytest.approx(0.0703, abs=5e-5)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=25))
def test_with_patients_the_p_value_is_the_share_among_all_sign_flips(rows):
    groups, a, b = (np.array(column) for column in zip(*rows, strict=True))
    balance = np.array([(a[groups == g].astype(int) - b[groups == g]).sum() for g in range(5)])
    sums = np.array([np.dot(signs, balance) for signs in product([-1, 1], repeat=5)])
    found = mcnemar(a, b, groups)
    if balance.any():
        away = abs(balance.sum())
        assert found.p == pytest.approx((np.abs(sums) >= away).mean(), abs=1e-12)
    else:
        assert found.p == 1


def test_copies_of_an_image_are_no_evidence():
    a, b = images(9, 2, both=0)
    copies = mcnemar(np.repeat(a, 4), np.repeat(b, 4), np.repeat(np.arange(11), 4))
    assert copies.p == pytest.approx(mcnemar(a, b).p, abs=1e-12)
    assert mcnemar(np.repeat(a, 4), np.repeat(b, 4)).p < copies.p / 10


def test_many_images_and_none():
    found = mcnemar(*images(5200, 5000))
    assert found.p == pytest.approx(stats.binomtest(5200, 10200).pvalue, abs=1e-9)
    assert mcnemar([], []).p == 1
    with pytest.raises(ValueError, match="shape"):
        mcnemar([1], [1, 0])


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], atol=1e-12)
    np.testing.assert_allclose(holm([0.2, np.nan, 0.9, 0.02]), [0.4, np.nan, 0.9, 0.06], atol=1e-12)
    assert holm([0.8, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_stepwise_rule_rejects(p):
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[i] * (len(p) - step) > level:
                break
            rejected.add(i)
        assert rejected == set(np.flatnonzero(adjusted <= level))


@pytest.mark.parametrize(("folds", "repeats"), [(5, 1), (10, 10), (2, 5)])
def test_the_resampled_t_test_is_the_paired_one_with_a_larger_variance(folds, repeats):
    """Nadeau and Bengio 2003: 1/J + n_test/n_train instead of 1/J."""
    differences = np.random.default_rng(folds).normal(0.02, 0.03, folds * repeats)
    naive = stats.ttest_1samp(differences, 0).statistic
    larger = (1 / len(differences) + 1 / (folds - 1)) * len(differences)
    p = 2 * stats.t.sf(abs(naive) / np.sqrt(larger), len(differences) - 1)
    assert resampled_t_test(differences, 1 / (folds - 1)) == pytest.approx(p)
    assert resampled_t_test(differences, 0) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_the_resampled_t_test_by_hand():
    """Differences 1, 2, 3: mean 2, s 1; t = 2 / sqrt(1/3 + 1/2) = 2.19089, p with 2 degrees of freedom 0.1598."""
    t = 2 / np.sqrt(1 / 3 + 1 / 2)
    assert resampled_t_test([1, 2, 3], 1 / 2) == pytest.approx(1 - t / np.sqrt(2 + t**2))  # closed form for 2 degrees
    with np.errstate(all="raise"):
        assert np.isnan(resampled_t_test([0.1], 0.5)) and np.isnan(resampled_t_test([], 0.5))
    assert resampled_t_test([0, 0, 0], 0.5) == 1 and resampled_t_test([1, 1, 1], 0.5) == 0
