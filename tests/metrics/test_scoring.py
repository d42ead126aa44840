import numpy as np
import pytest
import sklearn.metrics as skm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.metrics.cases import many_labels
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.scoring import mean_log_loss, one_class


def brier(truth, probability):
    return ResampledMetrics(truth, probability, "multi").per_label["brier"]


def log_loss(truth, probability):
    return ResampledMetrics(truth, probability, "multi").per_label["log_loss"]


certain = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, (n, 1), elements=st.integers(0, 1)),
        # 0 and 1 are among them.
        hnp.arrays(np.float64, (n, 1), elements=st.integers(0, 4).map(lambda k: k / 4)),
    )
)


@given(certain)
def test_one_label_equals_scikit_learn(case):
    truth, probability = case
    actual, given_ = truth[:, 0], probability[:, 0]
    assert brier(truth, probability)[0] == pytest.approx(skm.brier_score_loss(actual, given_, labels=[0, 1]), abs=1e-12)
    assert log_loss(truth, probability)[0] == pytest.approx(skm.log_loss(actual, given_, labels=[0, 1]), abs=1e-9)


def test_masked_cells_and_images_are_ignored():
    truth, probability = many_labels(hidden=0.4)
    known = truth[:, 1] >= 0
    expected = skm.brier_score_loss(truth[known, 1], probability[known, 1])
    assert brier(truth, probability)[1] == pytest.approx(expected, abs=1e-12)
    expected = skm.log_loss(truth[known, 1], probability[known, 1])
    assert log_loss(truth, probability)[1] == pytest.approx(expected, abs=1e-12)


def test_without_images_there_is_no_score():
    truth = np.array([[1, -1], [0, -1]])
    found = brier(truth, np.full((2, 2), 0.5))
    assert found[0] == 0.25
    assert np.isnan(found[1])
    assert np.isnan(log_loss(truth, np.full((2, 2), 0.5))[1])


def test_a_certain_mistake_costs_a_lot_but_not_infinitely_much():
    assert log_loss([[1]], [[0.0]])[0] == pytest.approx(36.04, abs=0.01)
    assert log_loss([[1]], [[1.0]])[0] == pytest.approx(0, abs=1e-12)


def test_the_loss_of_an_image_is_the_mean_over_its_unmasked_labels_or_that_of_its_class():
    probability = np.array([[0.8, 0.3, 0.9], [0.4, 0.5, 0.1], [0.5, 0.5, 0.5]])
    found = mean_log_loss(np.array([[1, 0, -1], [0, -1, -1], [-1, -1, -1]]), probability, single=False)
    np.testing.assert_allclose(found, [-(np.log(0.8) + np.log(0.7)) / 2, -np.log(0.6), np.nan])
    np.testing.assert_allclose(mean_log_loss(np.eye(3, dtype=int), probability, single=True), -np.log([0.8, 0.5, 0.5]))


def test_an_image_has_one_class_if_no_other_is_possible():
    truth = np.array([[1, 0, 0], [1, -1, 0], [1, 1, 0], [0, 0, 0], [-1, -1, -1]])
    assert one_class(truth).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("truth", "probability", "message"),
    [
        ([[1, 0]], [[0.5]], "shape"),
        ([1, 0], [0.5, 0.5], "shape"),
        ([[2]], [[0.5]], "truth holds 2"),
        ([[1]], [[1.5]], "holds 1.5"),
        ([[1]], [[np.nan]], "holds nan"),
    ],
)
def test_an_invalid_table_of_probabilities_is_refused(truth, probability, message):
    with pytest.raises(ValueError, match=message):
        brier(truth, probability)


def test_a_softmax_that_sums_to_slightly_more_than_one_is_accepted():
    assert brier([[1]], [[np.float32(1.0000001)]])[0] == 0
