"""Metrics compared with scikit-learn, named cases by hand, and invariances."""

import numpy as np
import pytest
import sklearn.metrics as skm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xrayfast.metrics.classification import (
    auroc,
    average_precision,
    binary_counts,
    confusion_matrix,
    cooccurrence,
    f1,
    precision,
    recall,
    specificity,
)

scored = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, n, elements=st.integers(0, 1)),
        # Few distinct values, so that ties are common.
        hnp.arrays(np.float64, n, elements=st.integers(0, 8).map(lambda k: k / 8)),
    )
)


@given(scored)
def test_auroc_and_average_precision_equal_scikit_learn(case):
    truth, score = case
    if 0 < truth.sum() < len(truth):
        assert auroc(truth, score) == pytest.approx(skm.roc_auc_score(truth, score), abs=1e-12)
        assert average_precision(truth, score) == pytest.approx(skm.average_precision_score(truth, score), abs=1e-12)
    else:
        assert np.isnan([auroc(truth, score), average_precision(truth, score)]).all()


@given(scored)
def test_auroc_is_unchanged_by_a_monotone_map_and_mirrored_by_a_falling_one(case):
    truth, score = case
    if 0 < truth.sum() < len(truth):
        assert auroc(truth, np.exp(3 * score)) == pytest.approx(auroc(truth, score), abs=1e-12)
        assert auroc(truth, -score) == pytest.approx(1 - auroc(truth, score), abs=1e-12)


@pytest.mark.parametrize(
    ("truth", "score", "expected"),
    [([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75), ([0, 1], [0.5, 0.5], 0.5), ([1, 1], [0.1, 0.2], None)],
)
def test_auroc_of_named_cases(truth, score, expected):
    found = auroc(truth, score)
    assert np.isnan(found) if expected is None else found == pytest.approx(expected)


def test_a_score_of_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        auroc([0, 1], [0.1, np.nan])
    with pytest.raises(ValueError, match="shape"):
        auroc([0, 1], [0.1])


def test_counts_and_rates_equal_scikit_learn():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 2, (60, 4)), rng.integers(0, 2, (60, 4))
    counts = binary_counts(truth, guess)
    assert (counts == skm.multilabel_confusion_matrix(truth, guess)).all()
    expected = skm.precision_recall_fscore_support(truth, guess)
    np.testing.assert_allclose(precision(counts), expected[0])
    np.testing.assert_allclose(recall(counts), expected[1])
    np.testing.assert_allclose(f1(counts), expected[2])
    np.testing.assert_allclose(specificity(counts), skm.recall_score(1 - truth, 1 - guess, average=None))


def test_rates_without_a_denominator_are_nan():
    never_predicted = np.array([[5, 0], [3, 0]])
    assert precision(never_predicted) == 0
    assert f1(never_predicted) == 0
    absent = np.array([[8, 0], [0, 0]])
    assert np.isnan(recall(absent))
    assert np.isnan(precision(absent))
    assert specificity(absent) == 1
    invented = np.array([[6, 2], [0, 0]])
    assert np.isnan(f1(invented))
    assert precision(invented) == 0


def test_matrices():
    actual, predicted = np.array([0, 1, 2, 2, 1]), np.array([0, 2, 2, 1, 1])
    assert (confusion_matrix(actual, predicted, 3) == skm.confusion_matrix(actual, predicted)).all()
    truth, guess = np.array([[1, 1, 0], [0, 1, 0]]), np.array([[1, 0, 1], [0, 1, 1]])
    assert cooccurrence(truth, guess).tolist() == [[1, 0, 1], [1, 1, 2], [0, 0, 0]]


def test_the_area_under_a_curve_refuses_masked_cells():
    for metric in (auroc, average_precision):
        assert metric([True, False], [0.6, 0.4]) == 1
        with pytest.raises(ValueError, match="truth holds values other than 0 and 1"):
            metric([1, -1, 0], [0.6, 0.5, 0.4])


def test_cooccurrence_counts_no_masked_cell():
    truth, guess = np.array([[1, -1, -1], [1, 1, 0], [-1, 1, 1]]), np.ones((3, 3), dtype=int)
    assert cooccurrence(truth, guess).tolist() == [[2, 1, 1], [1, 2, 2], [0, 1, 1]]
    pairs = [[((truth[:, i] == 1) & (truth[:, j] >= 0)).sum() for j in range(3)] for i in range(3)]
    assert (cooccurrence(truth, guess) == pairs).all()
