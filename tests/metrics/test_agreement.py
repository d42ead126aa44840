import numpy as np
import pytest
import sklearn.metrics as skm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xrayfast.metrics.agreement import (
    accuracy,
    kappa,
    matthews,
    predictive_values,
)
from xrayfast.metrics.classification import confusion_matrix, negative_predictive_value
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics

graded = st.integers(2, 5).flatmap(
    lambda c: st.tuples(
        st.just(c),
        st.integers(1, 40).flatmap(lambda n: hnp.arrays(np.int64, (2, n), elements=st.integers(0, c - 1))),
    )
)


@given(graded)
def test_agreement_equals_scikit_learn(case):
    classes, (actual, predicted) = case
    matrix = confusion_matrix(actual, predicted, classes)
    assert accuracy(matrix) == pytest.approx(skm.accuracy_score(actual, predicted), abs=1e-12)
    if len(set(actual) | set(predicted)) > 1:
        labels = list(range(classes))
        for ours, weights in (("none", None), ("quadratic", "quadratic")):
            expected = skm.cohen_kappa_score(actual, predicted, labels=labels, weights=weights)
            assert kappa(matrix, ours) == pytest.approx(expected, abs=1e-9)
    if len(set(actual)) > 1:
        assert matthews(matrix) == pytest.approx(skm.matthews_corrcoef(actual, predicted), abs=1e-9)
        if set(predicted) <= set(actual):  # otherwise scikit-learn warns
            expected = skm.balanced_accuracy_score(actual, predicted)
            split = ResampledMetrics(np.eye(classes, dtype=int)[actual], np.eye(classes)[predicted], "single")
            assert split.overall["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)


@given(graded)
def test_a_stack_of_matrices_gives_each_metric_per_matrix(case):
    classes, (actual, predicted) = case
    stack = np.stack([confusion_matrix(actual, predicted, classes), confusion_matrix(predicted, actual, classes)])
    for metric in (accuracy, kappa, matthews):
        np.testing.assert_array_equal(metric(stack), [metric(matrix) for matrix in stack])


@given(graded)
def test_kappa_and_matthews_are_the_same_from_either_side(case):
    classes, (actual, predicted) = case
    there, back = confusion_matrix(actual, predicted, classes), confusion_matrix(predicted, actual, classes)
    np.testing.assert_allclose(kappa(there), kappa(back), atol=1e-12)
    if len(set(actual)) > 1 and len(set(predicted)) > 1:
        np.testing.assert_allclose(matthews(there), matthews(back), atol=1e-12)


def test_published_kappas():
    # Two readers of 50 proposals, the example of Cohen's kappa in most textbooks.
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    # With two classes, the weights change nothing.
    assert kappa(np.array([[20, 5], [10, 15]]), "quadratic") == pytest.approx(0.4)


def test_one_class_or_one_answer():
    one_class = np.array([[5, 0], [0, 0]])
    assert accuracy(one_class) == 1
    assert np.isnan(kappa(one_class))
    assert np.isnan(matthews(one_class))
    one_answer = np.array([[5, 0], [3, 0]])
    assert kappa(one_answer) == 0
    assert matthews(one_answer) == 0
    empty = np.zeros((2, 2), dtype=int)
    for metric in (accuracy, kappa, matthews, negative_predictive_value):
        assert np.isnan(metric(empty))


def test_matthews_of_a_million_images_does_not_overflow():
    matrix = np.array([[900_000, 50_000], [20_000, 30_000]]) * 1000
    assert matthews(matrix) == pytest.approx(matthews(matrix // 1000), abs=1e-12)


def test_predictive_values_at_the_prevalence_of_the_sample_equal_the_samples():
    tn, fp, fn, tp = 70, 10, 5, 15
    ppv, npv = predictive_values(tp / (tp + fn), tn / (tn + fp), (tp + fn) / 100)
    assert ppv == pytest.approx(tp / (tp + fp), abs=1e-12)
    assert npv == pytest.approx(tn / (tn + fn), abs=1e-12)
    assert negative_predictive_value(np.array([[tn, fp], [fn, tp]])) == pytest.approx(npv)


def test_predictive_values_by_hand_and_at_the_ends():
    # Sensitivity 90% and specificity 95% at a prevalence of 1%: 0.009 true positives, 0.0495 false positives.
    ppv, npv = predictive_values([0.9, 0.9, 0.9, np.nan], 0.95, [0.01, 0.0, 1.0, 0.5])
    np.testing.assert_allclose(ppv, [0.009 / 0.0585, 0, 1, np.nan], atol=1e-12)
    np.testing.assert_allclose(npv, [0.9405 / 0.9415, 1, 0, np.nan], atol=1e-12)
    never_called, _ = predictive_values(0.0, 1.0, 0.3)
    assert np.isnan(never_called)
    with pytest.raises(ValueError, match="between 0 and 1"):
        predictive_values(0.9, 0.9, 10)
