"""Net benefit."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from tests.metrics.cases import many_labels
from tests.metrics.intervals.test_coverage import study
from xrayfast.metrics.operating_points.decision_curve import (
    THRESHOLDS,
    net_benefit,
    net_benefit_limits,
    net_benefits,
    treat_all,
)


def test_net_benefit_by_hand():
    # At 0.25 a false positive costs a third of a true positive: 2 of 3 positives are called, and 1 of 2 negatives.
    found = net_benefit([1, 1, 1, 0, 0, -1], [0.9, 0.3, 0.1, 0.25, 0.2, 0.9], [0.25])
    assert found == pytest.approx([(2 - 1 / 3) / 5])
    assert treat_all(0.6, [0.25]) == pytest.approx([0.6 - 0.4 / 3])


def test_net_benefit_equals_that_of_the_counts_at_each_threshold():
    truth, probability = many_labels(hidden=0.2)
    truth[:, 3] = -1
    found = net_benefits(truth, probability, list("abcd"))
    assert list(found["labels"]) == ["a", "b", "c"] and found["thresholds"] == list(THRESHOLDS)
    for i, label in enumerate("abc"):
        known = truth[:, i] >= 0
        for k in (0, 9, 49, 98):
            limit, n = THRESHOLDS[k], known.sum()
            ((_, false), (_, true)) = confusion_matrix(truth[known, i], probability[known, i] >= limit, labels=[0, 1])
            expected = true / n - false / n * limit / (1 - limit)
            assert found["labels"][label]["model"][k] == pytest.approx(expected, abs=1e-6)
            share = truth[known, i].mean()
            assert found["labels"][label]["all"][k] == pytest.approx(
                share - (1 - share) * limit / (1 - limit), abs=1e-6
            )


def test_a_probability_of_one_for_all_equals_treating_all_and_of_zero_treating_none():
    truth = np.repeat([1, 0], [3, 7])
    np.testing.assert_allclose(net_benefit(truth, np.ones(10)), treat_all(0.3), atol=1e-12)
    assert (net_benefit(truth, np.zeros(10)) == 0).all()
    assert np.isnan(net_benefit([-1], [0.5])).all()


def test_the_interval_equals_that_of_drawn_patients():
    rng = np.random.default_rng(0)
    groups, truth = rng.integers(30, size=90), rng.integers(-1, 2, size=90)
    probability = rng.random(90).round(2)  # some equal a threshold
    low, high = net_benefit_limits(truth, probability, groups, resamples=50, seed=3)
    again, drawn = np.random.default_rng(3), []
    names = np.unique(groups)
    for _ in range(50):
        rows = np.concatenate(
            [np.flatnonzero(groups == name) for name in names[again.integers(len(names), size=len(names))]]
        )
        drawn.append(net_benefit(truth[rows], probability[rows]))
    np.testing.assert_allclose((low, high), np.quantile(drawn, [0.025, 0.975], axis=0), atol=1e-12)
    found = net_benefits(truth[:, None], probability[:, None], ["a"], groups, resamples=50, seed=3)["labels"]["a"]
    np.testing.assert_allclose((found["low"], found["high"]), (low, high), atol=1e-6)
    assert "low" not in net_benefits(truth[:, None], probability[:, None], ["a"])["labels"]["a"]
    assert np.isnan(net_benefit_limits([-1, -1], [0.5, 0.5], resamples=5)).all()


@pytest.mark.slow
@pytest.mark.parametrize("patients", [60, 200])
def test_coverage_of_the_interval(patients):
    chosen, studies, held = [9, 29, 49], 600, np.zeros(3)
    truth, probability, _, _ = study(np.random.default_rng(1), 100_000, 6)
    known = net_benefit(truth[:, 0], probability[:, 0])[chosen]
    for i in range(studies):
        truth, probability, groups, _ = study(np.random.default_rng(i + 2), patients, 6)
        low, high = net_benefit_limits(truth[:, 0], probability[:, 0], groups, resamples=400, seed=i)
        held += (low[chosen] <= known) & (known <= high[chosen])
    print(f"net benefit at 0.1, 0.3, 0.5, {patients} patients: {(held / studies).round(3)}")
    assert (held / studies >= 0.92).all() and (held / studies <= 0.97).all()
