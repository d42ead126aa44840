"""The optimism of F1 at a threshold that was chosen for F1."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import f1_score

from xrayfast.metrics.claims import optimism
from xrayfast.metrics.claims.optimism import f1_optimism
from xrayfast.metrics.intervals.resampling import draws


def sample(rng, n=200, positives=8):
    truth = (np.arange(n) < positives).astype(int)
    return truth, rng.normal(size=n) + 1.2 * truth


def test_optimism_equals_that_of_a_plain_loop_over_drawn_patients(monkeypatch):
    monkeypatch.setattr(optimism, "RESAMPLES", 20)
    truth, score = sample(np.random.default_rng(0), 60, 12)
    score, unit = np.round(score, 1), np.arange(60) // 2
    thresholds = np.unique(score)[::-1]
    actual, called = [], []
    for counts in np.concatenate(list(draws(30, 20, 4, 7))):
        again = np.repeat(np.arange(60), counts[unit].astype(int))
        best = thresholds[int(np.argmax([f1_score(truth[again], score[again] >= t) for t in thresholds]))]
        rest = counts[unit] == 0
        actual.append(truth[rest])
        called.append(score[rest] >= best)
    apparent = max(f1_score(truth, score >= t) for t in thresholds)
    expected = apparent - f1_score(np.concatenate(actual), np.concatenate(called))
    assert f1_optimism(truth, score, unit, 4) == pytest.approx(expected, abs=1e-12)
    masked = np.r_[truth, -1, -1], np.r_[score, 9, 9], np.r_[unit, 40, 41]
    assert f1_optimism(*masked, 4) == pytest.approx(expected, abs=1e-12)
    assert f1_optimism(np.zeros(60, int), score, unit) is None


@pytest.mark.slow
def test_optimism_is_the_mean_drop_of_f1_on_new_images():
    rng = np.random.default_rng(1)
    foretold, lost = [], []
    for seed in range(150):
        truth, score = sample(rng)
        order = np.argsort(-score)
        hits = np.cumsum(truth[order])
        f1 = 2 * hits / (np.arange(1, 201) + 8)
        threshold = score[order][f1.argmax()]
        found, false = 0.04 * norm.sf(threshold - 1.2), 0.96 * norm.sf(threshold)
        lost.append(f1.max() - 2 * found / (found + false + 0.04))
        foretold.append(f1_optimism(truth, score, np.arange(200), seed))
    assert np.mean(lost) > 0.1
    assert np.mean(foretold) == pytest.approx(np.mean(lost), abs=0.03)
