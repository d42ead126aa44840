"""Truths and probabilities for the tests of metrics."""

import numpy as np

from xrayfast.metrics.reliability import reliability


def one_class(n=120, classes=4, seed=0):
    """Logits that know something of the class, as softmax; (n, classes) twice."""
    rng = np.random.default_rng(seed)
    truth = np.eye(classes, dtype=int)[rng.integers(0, classes, n)]
    logits = rng.normal(size=(n, classes)) + 1.5 * truth
    return truth, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def many_labels(n=120, labels=4, seed=0, hidden=0.0):
    """Labels by themselves, a share of the cells unknown, with ties among the probabilities; (n, labels) twice."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (n, labels))
    probability = 1 / (1 + np.exp(-(rng.normal(size=(n, labels)) + 2 * truth - 1)))
    return np.where(rng.random(truth.shape) < hidden, -1, truth), probability.round(2)


def calibration_error(truth, probability, bins=15, binning="width"):
    """The mean distance between a bin's mean probability and its share of positives, from the reliability diagram."""
    filled = [each for each in reliability(truth, probability, bins, binning) if each.count]
    gaps = [each.count * abs(each.observed - each.predicted) for each in filled]
    return sum(gaps) / sum(each.count for each in filled) if filled else float("nan")
