"""Permutation of groups among patients, compared with plain loops and exact enumeration."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from xrayfast.metrics.claims.gap_test import _aurocs, _Pieces, permutation_p, permuted_metrics
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics

NAMES = ("auroc", "recall", "specificity", "subset_accuracy")


def enough(groups, names=NAMES):
    return {name: np.ones((groups, 1), bool) for name in names}


def test_the_p_value_of_two_proportions_follows_the_hypergeometric_distribution():
    """6 of 12 and 15 of 18 positives are found: Fisher's exact test, ordered by the size of the difference."""
    code = np.repeat([0, 1], [12, 18]).astype(np.int16)
    hit = np.r_[np.arange(12) < 6, np.arange(18) < 15]
    split = ResampledMetrics(np.ones((30, 1), int), np.where(hit, 0.9, 0.1)[:, None], "multi")
    permuted = permuted_metrics(split, code, enough(2, ["recall"]), 20_000, 0)["recall"][:, :, 0]
    found = permutation_p(abs(6 / 12 - 15 / 18), np.abs(permuted[0] - permuted[1]))
    counts = np.arange(3, 13)
    gaps = np.abs(counts / 12 - (21 - counts) / 18)
    exact = stats.hypergeom(30, 21, 12).pmf(counts)[gaps >= abs(6 / 12 - 15 / 18) - 1e-12].sum()
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_each_permuted_auroc_equals_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(40), rng.integers(1, 4, 40))
    n = len(unit)
    code, truth = rng.integers(3, size=40)[unit].astype(np.int16), (rng.random(n) < 0.5).astype(np.int8)
    scores = np.round(rng.random(n) + 0.3 * truth, 1)
    pieces = _Pieces.of(code, unit)
    order = next(pieces.orders(20, np.random.default_rng(1)))
    found = _aurocs(pieces, order, np.ones(n, bool), truth, scores, 3)
    for b in range(20):
        given = np.empty(n, int)
        for cell in (0, 1):
            rows = truth == cell
            taking, places = pieces.exchange(order[b : b + 1], rows)
            place = dict(zip(taking[0].tolist(), places.tolist(), strict=True))
            given[rows] = [place[piece] for piece in pieces.of_image[rows].tolist()]
        expected = [roc_auc_score(truth[given == g], scores[given == g]) for g in range(3)]
        np.testing.assert_allclose(found[:, b], expected, atol=1e-12)


def test_images_of_a_patient_stay_together_and_each_group_keeps_its_patients():
    unit = np.repeat(np.arange(30), 3)
    code = (np.arange(30) % 3).astype(np.int16)[unit]
    pieces = _Pieces.of(code, unit)
    taking, places = pieces.exchange(next(pieces.orders(50, np.random.default_rng(0))), np.ones(90, bool))
    assert (len(pieces.unit), taking.shape) == (30, (50, 30))
    assert np.bincount(places).tolist() == [10, 10, 10]
    assert (np.sort(taking, axis=1) == np.arange(30)).all() and len(np.unique(taking, axis=0)) == 50


def test_only_the_compared_groups_exchange_patients():
    """All positives of the third group are missed; the others get none of its patients, as it is not compared."""
    code = np.repeat([0, 1, 2], 20).astype(np.int16)
    split = ResampledMetrics(np.ones((60, 1), int), np.where(code < 2, 0.9, 0.1)[:, None], "multi")
    there = {"recall": np.array([[True], [True], [False]])}
    found = permuted_metrics(split, code, there, 50, 0)["recall"][:, :, 0]
    assert (found[:2] == 1).all() and np.isnan(found[2]).all()


def test_a_different_prevalence_is_no_gap_and_blocks_are_one_draw(monkeypatch):
    """Recall of 20 positives varies as a draw from 220 without replacement, whatever the negatives are."""
    rng = np.random.default_rng(3)
    code = np.repeat([0, 1], [400, 400]).astype(np.int16)
    truth = np.r_[np.arange(400) < 20, np.arange(400) < 200].astype(int)[:, None]
    split = ResampledMetrics(truth, rng.random((800, 1)), "multi")
    whole = permuted_metrics(split, code, enough(2), 200, 5)
    share = split.predicted[truth == 1].mean()
    expected = np.sqrt(share * (1 - share) / 20 * 200 / 219)
    assert whole["recall"][0, :, 0].std() == pytest.approx(expected, rel=0.15)
    monkeypatch.setattr("xrayfast.metrics.claims.gap_test._BLOCK", 800 * 7)
    again = permuted_metrics(split, code, enough(2), 200, 5)
    for name in NAMES:
        np.testing.assert_array_equal(whole[name], again[name])


def test_masked_cells_count_as_right_in_the_exact_match():
    """Two groups of equally many images: the mean of their shares is that of all images, whatever is permuted."""
    rng = np.random.default_rng(2)
    truth = np.where(rng.random((60, 3)) < 0.3, -1, rng.integers(0, 2, (60, 3)))
    truth[(truth < 0).all(axis=1)] = 0
    split = ResampledMetrics(truth, rng.random((60, 3)), "multi")
    code = np.repeat([0, 1], 30).astype(np.int16)
    found = permuted_metrics(split, code, enough(2, ["subset_accuracy"]), 30, 0)["subset_accuracy"]
    assert found.mean(axis=0) == pytest.approx(split.overall["subset_accuracy"])


def test_the_data_themselves_are_one_of_the_permutations():
    assert permutation_p(0.5, np.array([0.1, 0.5, 0.2])) == pytest.approx(2 / 4)
    assert permutation_p(0.6, np.zeros(99)) == pytest.approx(0.01)
