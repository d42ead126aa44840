import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from xrayfast.metrics.intervals.delong import delong
from xrayfast.metrics.intervals.formulas import (
    METHODS,
    Estimate,
    are_few,
    difference_of,
    estimate_auroc,
    estimate_average_precision,
    estimate_proportion,
    logit_limits,
    mean_of,
    newcombe_auroc,
)
from xrayfast.metrics.proportions import wilson


def pair(a, b, c, d):
    """Return two estimates on the same images: `a` both right, `b` only the first, `c` only the second, `d` neither."""
    first = np.repeat([1, 1, 0, 0], [a, b, c, d]).astype(bool)
    second = np.repeat([1, 0, 1, 0], [a, b, c, d]).astype(bool)
    unit = np.arange(a + b + c + d)
    return tuple(estimate_proportion(each, unit, len(unit)) for each in (first, second))


def ends(found):
    return found.low, found.high


@pytest.mark.parametrize(
    ("auroc", "positives", "negatives", "expected"),
    [(1.0, 20, 20, (0.899, 1.0)), (0.0, 20, 20, (0.0, 0.101)), (0.5, 1, 1, (0.055, 0.945))],
)
def test_newcombes_method_5(auroc, positives, negatives, expected):
    assert newcombe_auroc(auroc, positives, negatives) == pytest.approx(expected, abs=5e-4)


@given(st.floats(0, 1), st.integers(1, 400), st.integers(1, 400))
def test_newcombes_limits_are_the_aurocs_at_the_edge_of_the_score_test(auroc, m, n):
    low, high = newcombe_auroc(auroc, m, n)
    assert 0 <= low <= auroc + 1e-12
    assert auroc - 1e-12 <= high <= 1
    assert high - low > 0
    wider = newcombe_auroc(auroc, m, n, 0.99)
    assert wider[0] <= low + 1e-9
    assert high <= wider[1] + 1e-9
    for end in (low, high):
        if 1e-6 < end < 1 - 1e-6 and abs(end - auroc) > 1e-6:  # limits are found to 2e-12
            # Hanley and McNeil's variance with the mean of both counts instead of each count.
            common = (m + n) / 2 - 1
            q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
            variance = (end * (1 - end) + common * (q1 + q2 - 2 * end**2)) / (m * n)
            assert abs(auroc - end) / math.sqrt(variance) == pytest.approx(stats.norm.ppf(0.975), rel=1e-5)
    assert newcombe_auroc(1 - auroc, m, n) == pytest.approx((1 - high, 1 - low), abs=1e-8)


def test_newcombe_divides_the_counts_by_the_design_effect():
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.4
    score = rng.normal(size=60) + 1.5 * truth
    alone = estimate_auroc(truth, score, np.arange(60), 60)
    assert ends(alone) == newcombe_auroc(alone.value, truth.sum(), (~truth).sum())
    copies = estimate_auroc(np.repeat(truth, 4), np.repeat(score, 4), np.repeat(np.arange(60), 4), 60)
    # Four copies of each image carry no more information than one.
    assert ends(copies) == pytest.approx(ends(alone), abs=0.01)
    perfect = estimate_auroc(np.repeat(truth, 4), np.repeat(truth, 4) * 1.0, np.repeat(np.arange(60), 4), 60)
    assert ends(perfect) == newcombe_auroc(1.0, truth.sum(), (~truth).sum())
    assert np.sqrt(alone.influence @ alone.influence) == pytest.approx(delong(truth, score).error, rel=0.03)


def test_the_images_of_a_patient_count_at_least_as_one():
    """Patients differ in how well both classes are told apart, so that their images vary more than equal ones."""
    unit, positive = np.repeat(np.arange(10), 10), np.tile([True, False], 50)
    quality = np.linspace(-1, 3, 10)[unit]
    found = estimate_auroc(positive, np.where(positive, quality, -quality), unit, 10)
    assert ends(found) == pytest.approx(newcombe_auroc(found.value, 10, 10))


def test_images_of_a_patient_that_differ_more_than_by_chance_do_not_count_as_more():
    found = estimate_proportion(np.tile([True, False], 20), np.repeat(np.arange(20), 2), 20)
    assert ends(found) == pytest.approx(tuple(map(float, wilson(20, 40))))


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.integers(2, 5))
def test_a_proportion_of_single_images_is_wilsons_and_copies_add_nothing(counts, copies):
    x, n = counts
    right = np.arange(n) < x
    found = estimate_proportion(right, np.arange(n), n)
    assert ends(found) == pytest.approx(tuple(map(float, wilson(x, n))))
    assert found.method == "wilson"
    repeated = estimate_proportion(np.repeat(right, copies), np.repeat(np.arange(n), copies), n)
    assert repeated.method == "wilson-effective"
    assert repeated.low <= found.low + 1e-9
    assert found.high <= repeated.high + 1e-9
    assert repeated.low <= x / n <= repeated.high
    if x in (0, n):  # each patient counts as one image
        assert ends(repeated) == pytest.approx(ends(found))


def test_wilsons_interval_on_effective_images_by_hand():
    # Three patients with 4, 4 and 2 images, of which 4, 3 and 0 are right: the deviations from 0.7 are 1.2, 0.2, -1.4.
    right = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0], dtype=bool)
    found = estimate_proportion(right, np.repeat([0, 1, 2], [4, 4, 2]), 3)
    design_effect = (1.2**2 + 0.2**2 + 1.4**2) / 100 * 3 / 2 / (0.7 * 0.3 / 10)
    # Two patients have wrong images; if all images of a patient agreed, the effect would be (16 + 16 + 4) / 10.
    size = 10 / ((2 * design_effect + 0.5 * 3.6) / 2.5)
    assert found.size == pytest.approx(size)
    interval = stats.binomtest(70, 100).proportion_ci(method="wilson")  # the same share with another size
    assert found.low < interval.low < interval.high < found.high
    for end in ends(found):  # where the score test of a limit is just significant
        assert abs(0.7 - end) / math.sqrt(end * (1 - end) / size) == pytest.approx(1.959964, rel=1e-5)


def test_near_1_the_images_of_one_patient_never_count_as_many():
    """One wrong image of 120 must not make the interval much narrower than no wrong image does."""
    unit = np.repeat(np.arange(12), 10)
    none, one = np.ones(120, dtype=bool), np.arange(120) > 0
    low = [estimate_proportion(right, unit, 12).low for right in (none, one)]
    assert low == pytest.approx([float(wilson(12, 12)[0]), 0.87], abs=0.02)


def by_table(a, b, c, d):
    """Newcombe's method 10 for a table, with the correlation computed after adding 1 to each cell."""
    n, cells = a + b + c + d, np.array([a, b, c, d]) + 1
    p, q = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = (map(float, wilson(x, n)) for x in (a + b, a + c))
    products = cells[0] * cells[3] - cells[1] * cells[2]
    phi = products / math.sqrt(math.prod(cells[i] + cells[j] for i, j in ((0, 1), (2, 3), (0, 2), (1, 3))))
    low = math.sqrt((p - l1) ** 2 - 2 * phi * (p - l1) * (u2 - q) + (u2 - q) ** 2)
    return p - q - low, p - q + math.sqrt((q - l2) ** 2 - 2 * phi * (q - l2) * (u1 - p) + (u1 - p) ** 2)


@given(st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(any))
def test_a_difference_of_paired_proportions_is_newcombes_with_1_added_to_each_cell(cells):
    assert ends(difference_of(*pair(*cells))) == pytest.approx(by_table(*cells), abs=1e-9)


def test_a_difference_of_paired_proportions_is_near_the_published_one():
    # Bentur et al. 2009 in Fagerland, Lydersen and Laake 2014 (Statistics in Medicine 33:2850): -0.507 to -0.026 with
    # Newcombe's continuity correction.
    assert ends(difference_of(*pair(1, 1, 7, 12))) == pytest.approx((-0.507, -0.026), abs=0.012)


def test_the_difference_of_two_perfect_models_has_an_interval_that_depends_on_the_number_of_images():
    found = difference_of(*pair(5, 0, 0, 0))
    assert found.value == 0
    # z^2 / (n + z^2), as in Tango 1998.
    assert ends(found) == pytest.approx((-0.4345, 0.4345), abs=1e-4)


def test_paired_proportions_hold_the_truth_by_exact_enumeration():
    n = 5
    tables = [cells for cells in itertools.product(range(n + 1), repeat=4) if sum(cells) == n]
    limits = np.array([ends(difference_of(*pair(*cells))) for cells in tables])
    for p, q, alike in itertools.product([0.5, 0.7, 0.9], [0.5, 0.8], [0.3, 0.6, 0.9]):
        both = alike * min(p, q) + (1 - alike) * p * q
        chances = stats.multinomial.pmf(tables, n, [both, p - both, q - both, 1 - p - q + both])
        held = (limits[:, 0] <= p - q + 1e-9) & (p - q - 1e-9 <= limits[:, 1])
        assert chances @ held >= 0.93
    # The case that the slow test simulates: 0.987 with Newcombe's continuity correction.
    p, q = stats.norm.cdf([1.0, 0.2])
    both = stats.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]]).cdf([1.0, 0.2])
    chances = stats.multinomial.pmf(tables, n, [both, p - both, q - both, 1 - p - q + both])
    held = (limits[:, 0] <= p - q) & (p - q <= limits[:, 1])
    assert chances @ held == pytest.approx(0.953, abs=1e-3)


@given(st.lists(st.integers(0, 12), min_size=4, max_size=4).filter(any))
def test_the_interval_of_a_difference_contains_its_value_has_a_width_and_flips_with_the_order(cells):
    a, b = pair(*cells)
    found, back = difference_of(a, b), difference_of(b, a)
    assert found.low <= found.value <= found.high
    assert found.high - found.low > 0.01
    assert ends(back) == pytest.approx((-found.high, -found.low))
    assert found.low >= -1
    assert found.high <= 1


def test_the_mean_of_one_label_is_unchanged_and_that_of_many_is_narrower():
    rng = np.random.default_rng(0)
    truth = rng.random((8, 80)) < 0.1
    truth[:, :2] = True
    scores = rng.normal(size=(8, 80)) + 2 * truth
    found = [estimate_auroc(cells, score, np.arange(80), 80) for cells, score in zip(truth, scores, strict=True)]
    assert ends(mean_of(found[:1])) == pytest.approx(ends(found[0]))
    # The same label twice carries no more information than once.
    assert ends(mean_of([found[0], found[0]])) == pytest.approx(ends(found[0]), abs=0.03)
    together = mean_of(found)
    assert together.low <= together.value <= together.high
    assert together.high - together.low < 0.6 * np.mean([one.high - one.low for one in found])
    assert together.value == pytest.approx(np.mean([one.value for one in found]))


def test_the_mean_of_two_independent_estimates_by_hand():
    one = Estimate(0.9, 0.8, 0.94, np.array([0.1, 0.0]), "newcombe")  # half-width 0.07, shift -0.03
    other = Estimate(0.6, 0.5, 0.72, np.array([0.0, 0.2]), "newcombe")  # half-width 0.11, shift 0.01
    middle = 0.75 + (0.07**2 * -0.03 + 0.11**2 * 0.01) / (0.07**2 + 0.11**2) / 2
    half = math.sqrt(0.07**2 + 0.11**2) / 2
    assert ends(mean_of([one, other])) == pytest.approx((middle - half, middle + half))


def test_limits_of_a_logit():
    low, high = logit_limits(0.8, 0.05)
    assert math.log(high / (1 - high)) - math.log(4) == pytest.approx(1.959964 * 0.05 / 0.16)
    assert math.log(4) - math.log(low / (1 - low)) == pytest.approx(1.959964 * 0.05 / 0.16)
    assert np.isnan([*logit_limits(1.0, 0.0), *logit_limits(0.5, math.nan)]).all()


def test_average_precision_by_logit():
    found = estimate_average_precision(0.5, 16, 3)
    assert ends(found) == pytest.approx((1 / (1 + math.exp(0.979982)), 1 / (1 + math.exp(-0.979982))), abs=1e-6)
    assert found.few
    assert not estimate_average_precision(0.5, 20, 3).few
    assert estimate_average_precision(1.0, 40, 3).few
    assert estimate_average_precision(1.0, 4, 3).low == pytest.approx(0.025 ** (1 / 4))
    assert math.isnan(estimate_average_precision(math.nan, 0, 3).low)


def test_a_metric_without_a_value_has_no_interval():
    assert math.isnan(estimate_proportion(np.zeros(0, dtype=bool), np.zeros(0, dtype=int), 3).low)
    assert math.isnan(estimate_auroc(np.ones(3, dtype=bool), np.arange(3.0), np.arange(3), 3).low)


def test_few_patients_or_few_errors_in_either_direction_are_too_few_for_a_bootstrap():
    assert are_few(19, 0.5) and not are_few(20, 0.5)
    assert are_few(30, 0.91) and not are_few(30, 0.89)
    assert are_few(30, 0.09) and not are_few(30, 0.11)


def test_every_method_has_a_description():
    used = {estimate.method for estimate in pair(1, 1, 1, 1)} | {difference_of(*pair(1, 1, 1, 1)).method}
    assert used <= set(METHODS)
