"""Truth and probabilities for tests of metrics."""

import numpy as np

from xrayfast.metrics.reliability import reliability


def one_class(n=120, classes=4, seed=0):
    """Return one-hot truth and the softmax of logits that predict it above chance; both (n, classes)."""
    rng = np.random.default_rng(seed)
    truth = np.eye(classes, dtype=int)[rng.integers(0, classes, n)]
    logits = rng.normal(size=(n, classes)) + 1.5 * truth
    return truth, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def many_labels(n=120, labels=4, seed=0, hidden=0.0):
    """Return truth of independent labels, a share `hidden` masked, and probabilities with ties; both (n, labels)."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (n, labels))
    probability = 1 / (1 + np.exp(-(rng.normal(size=(n, labels)) + 2 * truth - 1)))
    return np.where(rng.random(truth.shape) < hidden, -1, truth), probability.round(2)


def calibration_error(truth, probability, bins=15, binning="width"):
    """Return the mean distance, over images, of a bin's mean probability from its share of positives."""
    filled = [each for each in reliability(truth, probability, bins, binning) if each.count]
    gaps = [each.count * abs(each.observed - each.predicted) for each in filled]
    return sum(gaps) / sum(each.count for each in filled) if filled else float("nan")
