"""Calibration intercept and slope, observed/expected ratio and Brier skill score, with their intervals."""

import numpy as np
import pytest
import sklearn.metrics as skm
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression

from tests.metrics.cases import many_labels
from xrayfast.metrics.operating_points.calibration_metrics import TITLES, calibration_rows


def drawn(n=600, slope=0.6, shift=0.8, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1.5, n)
    return (rng.random(n) < expit(slope * z + shift)).astype(int), expit(z)


def test_the_values_equal_those_of_logistic_regression_and_scikit_learn():
    truth, probability = drawn()
    [row] = calibration_rows(truth[:, None], probability[:, None], ["a"])
    z = logit(probability)
    model = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(z[:, None], truth)
    assert row["calibration_slope"] == pytest.approx(model.coef_[0, 0], abs=1e-6)
    best = minimize_scalar(lambda shift: skm.log_loss(truth, expit(z + shift)), bounds=(-5, 5))
    assert row["calibration_intercept"] == pytest.approx(best.x, abs=1e-5)
    assert row["observed_over_expected"] == pytest.approx(truth.sum() / probability.sum())
    reference = skm.brier_score_loss(truth, np.full(len(truth), truth.mean()))
    assert row["brier_skill"] == pytest.approx(1 - skm.brier_score_loss(truth, probability) / reference)
    # It equals R2 of the probabilities.
    assert row["brier_skill"] == pytest.approx(skm.r2_score(truth, probability))


def test_the_standard_errors_equal_those_of_the_sandwich_and_the_jackknife():
    truth, probability = drawn(400)
    groups = np.arange(400) // 4
    [row] = calibration_rows(truth[:, None], probability[:, None], ["a"], groups)
    patients = min(len(np.unique(groups[truth == value])) for value in (0, 1))
    quantile = student.ppf(0.975, patients - 1)
    # The sandwich estimator of the logistic regression, written out.
    z = logit(probability)
    design = np.stack([np.ones_like(z), z], axis=1)
    model = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(z[:, None], truth)
    p = model.predict_proba(z[:, None])[:, 1]
    bread = np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)
    scores = np.add.reduceat(design * (truth - p)[:, None], np.arange(0, 400, 4))
    error = np.sqrt((bread @ scores.T @ scores @ bread)[1, 1])
    ends = row["intervals"]["calibration_slope"]
    assert (ends["high"] - ends["low"]) / 2 == pytest.approx(quantile * error, rel=1e-5)
    # The jackknife over patients, which the influence functions approximate.
    names = list(TITLES)
    left_out = np.array(
        [
            [one[name] for name in names]
            for patient in range(100)
            for one in calibration_rows(
                truth[groups != patient, None], probability[groups != patient, None], ["a"], with_intervals=False
            )
        ]
    )
    left_out[:, names.index("observed_over_expected")] = np.log(left_out[:, names.index("observed_over_expected")])
    jackknife = np.sqrt(99 / 100 * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    for name, expected in zip(names, jackknife, strict=True):
        low, high = row["intervals"][name]["low"], row["intervals"][name]["high"]
        half = np.log(high / low) / 2 if name == "observed_over_expected" else (high - low) / 2
        assert half / quantile == pytest.approx(expected, rel=0.05), name
        assert low < row[name] < high


def test_undefined_values_are_none():
    truth, probability = many_labels(hidden=0.3)
    truth[:, 2] = np.minimum(truth[:, 2], 0)
    rows = calibration_rows(truth, probability, list("abcd"))
    known = truth[:, 0] >= 0
    assert rows[0] == calibration_rows(truth[known, :1], probability[known, :1], ["a"])[0]
    assert rows[2] == {"label": "c", **dict.fromkeys(TITLES), "intervals": {}}
    groups = np.arange(len(truth)) // 3
    by_patient, of_known = (
        calibration_rows(truth, probability, list("abcd"), groups)[0],
        (truth[known, :1], groups[known]),
    )
    assert by_patient == calibration_rows(of_known[0], probability[known, :1], ["a"], of_known[1])[0]
    assert calibration_rows(np.ones((9, 1), int), probability[:9, :1], ["c"]) == [rows[2]]
    # A perfectly separated label has no slope, and a label of two patients no intervals.
    [perfect] = calibration_rows(np.repeat([1, 0], [8, 9])[:, None], np.repeat([0.8, 0.2], [8, 9])[:, None], ["a"])
    assert perfect["calibration_slope"] is None and perfect["intervals"]["calibration_slope"]["low"] is None
    assert perfect["intervals"]["brier_skill"]["low"] is not None
    [few] = calibration_rows(np.array([[1], [1], [0], [0], [0]]), np.full((5, 1), 0.3), ["a"])
    assert few["observed_over_expected"] == pytest.approx(2 / 1.5)
    assert few["intervals"]["observed_over_expected"] == {"low": None, "high": None}
    [none] = calibration_rows(np.array([[1], [0], [0]]), np.full((3, 1), 1e-320), ["a"])
    assert none["observed_over_expected"] is None  # not infinite, which JSON can't hold
    assert calibration_rows(truth, probability, list("abcd"), with_intervals=False)[0]["intervals"] == {}


def test_probabilities_of_0_and_1_have_no_intercept_and_no_slope_but_a_reason():
    truth = np.repeat([1, 0, 1, 0], [45, 80, 5, 20])
    answers = np.repeat([1.0, 0.0, 0.0, 1.0], [45, 80, 5, 20])
    [row] = calibration_rows(truth[:, None], answers[:, None], ["a"])
    for name in ("calibration_intercept", "calibration_slope"):
        assert row[name] is None and row["intervals"][name] == {"low": None, "high": None}
    assert row["observed_over_expected"] == pytest.approx(50 / 65)
    assert row["reason"] == "most probabilities are 0 or 1"
    half = np.where(np.arange(150) % 2, answers, 0.3)
    [row] = calibration_rows(truth[:, None], half[:, None], ["a"])
    assert row["calibration_intercept"] is not None and "reason" not in row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patients", "images", "share"), [(100, 1, 0.1), (200, 1, 0.1), (400, 1, 0.1), (60, 5, 0.2), (30, 10, 0.3)]
)
def test_the_intervals_cover_the_values_of_many_images(patients, images, share):
    gap, gain, studies = np.sqrt(2) * norm.ppf(0.8), 1.3, 400

    def study(rng, patients):
        group = np.repeat(np.arange(patients), images)
        truth = (rng.random(patients) < share).astype(int)[group]
        noise = rng.normal(size=patients)[group]
        if images > 1:
            noise = np.sqrt(0.5) * (noise + rng.normal(size=len(group)))
        z = gain * (gap * (noise + gap * truth) - gap**2 / 2 + logit(share)) - 0.3
        return truth[:, None], expit(z)[:, None], ["a"], group

    [true] = calibration_rows(*study(np.random.default_rng(1), 400_000 // images), with_intervals=False)
    rng, covered = np.random.default_rng(0), {name: [] for name in TITLES}
    for _ in range(studies):
        [row] = calibration_rows(*study(rng, patients))
        for name, found in covered.items():
            ends = row["intervals"].get(name)
            if ends and ends["low"] is not None:
                found.append(ends["low"] <= true[name] <= ends["high"])
    for name, found in covered.items():
        assert len(found) > studies / 2
        assert 0.905 <= np.mean(found) <= 0.995, (name, np.mean(found))
