"""A decision: what is chosen on validation, and how it is applied, written and read."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from tests.decisions import fit_decision
from xrayfast.metrics.operating_points.calibration import (
    LEAST_SLOPE,
    Scaling,
    Temperature,
    fit_scalings,
    fit_temperature,
)
from xrayfast.metrics.operating_points.decision import Decision, with_thresholds
from xrayfast.metrics.operating_points.thresholds import choose_thresholds, decide

LABELS = ("a", "b", "c")


def drawn(task, n=600, sharp=3.0):
    """Return truth and overconfident probabilities."""
    random = np.random.default_rng(5)
    logits = random.normal(size=(n, 3))
    if task == "single":
        truth = np.eye(3, dtype=int)[[random.choice(3, p=row) for row in softmax(logits, axis=1)]]
        return truth, softmax(sharp * logits, axis=1)
    return (random.random((n, 3)) < expit(logits)).astype(int), expit(sharp * logits - 1)


def test_thresholds_are_chosen_on_calibrated_probabilities():
    truth, raw = drawn("multi")
    decision = fit_decision(truth, raw, LABELS, "multi", rule="youden")
    assert decision.calibration == tuple(fit_scalings(truth, raw))
    assert decision.points == tuple(choose_thresholds(truth, decision.calibrated(raw), "youden"))
    assert decision.thresholds.tolist() == [point.threshold for point in decision.points]
    # An independent check that the slope undoes the sharpening.
    assert [one.slope for one in decision.calibration] == pytest.approx([1 / 3] * 3, abs=0.12)


def test_one_temperature_for_single_label():
    truth, raw = drawn("single")
    decision = fit_decision(truth, raw, LABELS, "single", rule=None)
    assert decision.calibration == fit_temperature(truth, raw)
    assert decision.calibration.temperature == pytest.approx(3, rel=0.3)
    np.testing.assert_allclose(
        decision.calibrated(raw), softmax(np.log(raw) / decision.calibration.temperature, axis=1), atol=1e-9
    )
    assert decision.points == ()
    assert decision.thresholds.tolist() == [0.5] * 3


@pytest.mark.parametrize("column", [0, 1])
def test_two_classes_get_slope_and_bias_of_the_log_odds(column):
    rng = np.random.default_rng(2)
    logits = rng.normal(-1.5, 2, size=4000)
    positive = rng.random(4000) < expit(logits)
    raw = softmax(np.stack([np.zeros(4000), 2.5 * logits + 12], axis=1), axis=1).astype(np.float32)
    truth = np.stack([~positive, positive], axis=1).astype(int)
    raw, truth = (raw, truth) if column else (raw[:, ::-1], truth[:, ::-1])
    decision = fit_decision(truth, raw, ("a", "b"), "single", rule=None, positive=("a", "b")[column])
    [scaling] = decision.calibration
    assert scaling.slope == pytest.approx(1 / 2.5, abs=0.03) and scaling.bias == pytest.approx(-12 / 2.5, abs=0.3)
    # scikit-learn's regression on the log odds, which float32 represents even where the probability rounds to 1.
    odds = np.log(raw[:, column].astype(float)) - np.log(raw[:, 1 - column].astype(float))
    plain = LogisticRegression(C=np.inf, tol=1e-10).fit(odds[:, None], positive)
    calibrated = decision.calibrated(raw)
    np.testing.assert_allclose(calibrated[:, column], plain.predict_proba(odds[:, None])[:, 1], atol=2e-3)
    assert len(np.unique(calibrated[raw[:, column] == 1, column])) > 50
    assert (calibrated.sum(axis=1) == 1).all() and calibrated[:, column].mean() == pytest.approx(
        positive.mean(), abs=1e-3
    )
    assert json.loads(json.dumps(decision.to_json()))["calibration"]["labels"][0]["label"] == ("a", "b")[column]


def test_images_of_one_patient_count_once_for_the_slope():
    truth, raw = drawn("multi")
    groups = np.where(truth[:, 0] == 1, 7, np.arange(600) + 10)
    scalings = [fit_decision(truth, raw, LABELS, "multi", rule=None, groups=groups).calibration[0]]
    two = np.stack([truth[:, 0], 1 - truth[:, 0]], axis=1), np.stack([raw[:, 0], 1 - raw[:, 0]], axis=1)
    decision = fit_decision(*two, ("a", "b"), "single", rule=None, positive="a", groups=groups)
    assert decision.whose_logit == "the logit of a"
    assert replace(decision, positive="b").whose_logit == "the logit of b"
    for found in (*scalings, *decision.calibration):
        assert found.slope == 1 and "fewer than 10 patients with the label" in found.reason


def test_two_classes_with_few_validation_images_get_a_bias_or_the_prevalence():
    rng = np.random.default_rng(0)
    truth = np.eye(2, dtype=int)[(np.arange(200) < 6).astype(int)]
    informed = softmax(truth + rng.normal(size=(200, 2)) + [0, 3], axis=1)
    for raw, slope, reason in (
        (informed, 1.0, "only the bias"),
        (informed[:, ::-1], LEAST_SLOPE, "no better than chance"),
    ):
        decision = fit_decision(truth, raw, ("normal", "mass"), "single", rule=None, positive="mass")
        assert decision.calibration[0].slope == slope and reason in decision.calibration[0].reason
        assert decision.calibrated(raw).mean(axis=0) == pytest.approx([0.97, 0.03])
        assert decision.uncalibrated == {decision.calibration[0].reason: ["mass"]}


def test_without_calibration_the_probabilities_of_the_network_stay():
    truth, raw = drawn("multi")
    decision = fit_decision(truth, raw, LABELS, "multi", rule=None, calibrate=False)
    assert decision == Decision("multi", LABELS)
    np.testing.assert_array_equal(decision.calibrated(raw), raw)
    np.testing.assert_array_equal(decision.decide(raw), raw >= 0.5)


@pytest.mark.parametrize(
    ("task", "rule", "target"),
    [("single", None, None), ("single", "sensitivity", 0.95), ("multi", "f1", None), ("multi", "specificity", 0.9)],
)
def test_a_written_decision_reads_back_equal(task, rule, target):
    truth, raw = drawn(task)
    truth[:, 2] = 0 if task == "multi" else truth[:, 2]  # a label without a possible threshold
    decision = fit_decision(truth, raw, LABELS, task, rule=rule, target=target)
    content = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    again = Decision.from_json(content, task, LABELS)
    assert again.to_json() == decision.to_json()
    assert [*again.uncalibrated.values()] == ([["c"]] if task == "multi" else [])
    by_patient = with_thresholds(decision, truth, raw, rule, target, unit="patient", unit_join="max")
    read = Decision.from_json(json.loads(json.dumps(by_patient.to_json())), task, LABELS)
    assert (read.unit, read.unit_join) == ("patient", "max")
    np.testing.assert_array_equal(again.calibrated(raw), decision.calibrated(raw))
    np.testing.assert_array_equal(again.decide(raw), decide(raw, task, decision.thresholds))
    assert (again.rule, again.target) == (rule, target)


@pytest.mark.parametrize(("positive", "confidence"), [("normal", None), ("covid", None), ("covid", 0.9)])
def test_with_two_classes_the_positive_class_has_the_threshold(positive, confidence):
    rng = np.random.default_rng(0)
    truth = np.eye(2, dtype=int)[rng.integers(2, size=300)]
    raw = softmax(2 * truth + rng.normal(size=(300, 2)), axis=1)
    labels, groups = ("covid", "normal"), np.arange(300) // 2
    chosen = {"rule": "sensitivity", "target": 0.95, "confidence": confidence, "positive": positive, "groups": groups}
    decision = fit_decision(truth, raw, labels, "single", **chosen)
    i = labels.index(positive)
    probability = decision.calibrated(raw)
    [point] = decision.points
    assert point == choose_thresholds(truth[:, [i]], probability[:, [i]], "sensitivity", 0.95, confidence, groups)[0]
    assert (decision.decide(probability)[:, i] == (probability[:, i] >= point.threshold)).all()
    assert (decision.decide(probability).sum(axis=1) == 1).all()
    assert decision.thresholds[i] == point.threshold != 0.5
    np.testing.assert_allclose(
        decision.certainty(probability)[:, 0], probability[decision.decide(probability) == 1], rtol=1e-15
    )
    again = Decision.from_json(json.loads(json.dumps(decision.to_json())), "single", labels)
    assert again == decision
    # One half if none is chosen.
    plain = fit_decision(truth, raw, labels, "single", rule=None, positive=positive)
    assert (plain.decide(probability)[:, i] == (probability[:, i] >= 0.5)).all()


def test_two_classes_of_an_older_run_keep_thresholds_that_decide_nothing():
    row = {"threshold": 0.2, "sensitivity": 0.9, "specificity": 0.8, "positives": 3, "negatives": 4}
    points = {"rule": "youden", "target": None, "labels": [{"label": label} | row for label in "ab"]}
    points["labels"][0]["threshold"] = 0.9
    for positive in ({}, {"positive": "b"}):
        content = {"calibration": None, "operating_points": points, **positive}
        decision = Decision.from_json(content, "single", "ab")
        assert decision.is_one_vs_rest and [point.threshold for point in decision.points] == [0.9, 0.2]
        assert decision.decide(np.array([[0.7, 0.3]])).tolist() == [[1, 0]]


def test_expected_rates_are_stated_with_the_confidence_that_raises_them():
    truth = np.repeat([[1], [0]], [20, 80], axis=0)
    raw = np.linspace(0.9, 0.1, 100)[:, None]
    found = fit_decision(truth, raw, ("mass",), "multi", rule="sensitivity", target=0.95)
    assert found.shortfall == (
        "For a target of 0.95, the expected sensitivity on new images is: mass 0.905, with a 74% chance of being below "
        "the target (20 images). --target-confidence 0.95 chooses thresholds with a 5% chance, but needs 59 patients "
        "(or images) per label."
    )
    assert fit_decision(truth, raw, ("mass",), "multi", rule="f1").shortfall == ""
    both = np.hstack([truth, 1 - truth]), np.hstack([raw, 1 - raw])
    sure = fit_decision(*both, ("mass", "none"), "multi", rule="sensitivity", target=0.95, confidence=0.95)
    assert sure.shortfall.startswith(
        "The target is not reached for mass (a sensitivity of 0.95 with 95% confidence needs 59 images with the label; "
        "with 20, at most 0.86 is possible). For a target of 0.95, the expected sensitivity on new images is: mass "
        "0.952"
    )
    assert sure.thresholds[0] != 0.5 and sure.points[1].reason == "" and "--target" not in sure.shortfall
    assert sure.purpose == "the best specificity at a sensitivity of at least 0.95 on new images, with 95% confidence"
    assert replace(found, unit="patient").purpose.endswith("0.95 of patients")
    assert replace(sure, unit="patient").purpose.endswith("0.95 on new patients, with 95% confidence")
    all_of_them = fit_decision(truth, raw, ("mass",), "multi", rule="sensitivity", target=1.0)
    assert "For a target of 1" in all_of_them.shortfall and "--target" not in all_of_them.shortfall
    other = fit_decision(1 - truth, 1 - raw, ("mass",), "multi", rule="specificity", target=0.95)
    assert "mass 0.952, with a 36% chance of being below the target (20 images)" in other.shortfall
    none = fit_decision(0 * truth, raw, ("mass",), "multi", rule="sensitivity", target=0.95)
    assert none.shortfall == "The target is not reached for mass (no image with the label)."


def test_a_label_without_a_chosen_threshold_uses_one_half():
    truth, raw = drawn("multi")
    truth[:, 2] = 0
    decision = fit_decision(truth, raw, LABELS, "multi", rule="f1")
    assert decision.thresholds[2] == 0.5
    assert decision.points[2].reason
    assert decision.calibration[2].reason


def test_an_older_file_has_no_decision():
    content = {"task": "multi", "labels": list(LABELS), "threshold": 0.5}
    assert Decision.from_json(content, "multi", LABELS) == Decision("multi", LABELS)


def scaled(**changed):
    row = {"slope": 1.0, "bias": 0.0} | changed
    return {"calibration": {"method": "scaling", "labels": [{"label": label} | row for label in LABELS]}}


def pointed(**changed):
    row = {"threshold": 0.5, "sensitivity": 0.9, "specificity": 0.8, "positives": 3, "negatives": 4} | changed
    return {"operating_points": {"rule": "f1", "labels": [{"label": label} | row for label in LABELS]}}


@pytest.mark.parametrize(
    ("task", "content", "said"),
    [
        ("single", {"calibration": []}, "objects or null"),
        ("single", {"calibration": {"method": "temperature", "temperature": 0}}, "from 0.001 to 1000"),
        ("single", {"calibration": {"method": "temperature", "temperature": 10**400}}, "expected a number"),
        ("single", {"calibration": {"method": "temperature", "temperature": 1e-320}}, "expected a number"),
        ("multi", scaled(slope=-5), "slope is -5"),
        ("multi", scaled(slope=1e308), "slope is 1e"),
        ("multi", scaled(bias=float("nan")), "bias is nan"),
        ("multi", pointed(threshold=7), "threshold is 7"),
        ("multi", pointed(threshold=True), "threshold is True"),
        (
            "multi",
            {"calibration": {"method": "scaling", "labels": [{"label": x, "slope": 1, "bias": 0} for x in "bac"]}},
            "in another order",
        ),
        ("multi", pointed(sensitivity=40), "sensitivity is 40"),
        ("multi", pointed(positives=-3), "positives is -3"),
        ("multi", pointed(negatives=1e300), "negatives is 1e"),
        ("single", {"calibration": {"method": "temperature", "temperature": "1"}}, "expected a number"),
        ("multi", {"calibration": {"method": "temperature", "temperature": 1}}, "multi-label"),
        ("multi", {"calibration": {"method": "scaling", "labels": [{"label": "a"}]}}, "are for other labels"),
        ("multi", {"calibration": {"method": "scaling", "labels": 3}}, "a row for each label"),
        ("multi", {"operating_points": {"rule": "best", "labels": []}}, "rule 'best'"),
        ("multi", {"operating_points": {"rule": "f1", "labels": [{"label": x} for x in "abc"]}}, "positives is None"),
        ("single", {"positive": "a"}, "expected one of two classes"),
        ("single", scaled(), "method 'scaling' in a single-label run"),
        ("multi", pointed(positive_patients=-1), "positive_patients is -1"),
    ],
)
def test_a_damaged_file_is_refused(task, content, said):
    with pytest.raises(ValueError, match=said):
        Decision.from_json(content, task, LABELS)


def test_certainty_is_the_probability_of_the_answer():
    multi = Decision("multi", ("a", "b"))
    np.testing.assert_allclose(multi.certainty(np.array([[0.9, 0.2], [0.5, 0.4]])), [[0.9, 0.8], [0.5, 0.6]])
    single = Decision("single", ("a", "b"), Temperature(2.0))
    np.testing.assert_allclose(single.certainty(np.array([[0.9, 0.1], [0.4, 0.6]])), [[0.9, 0.9], [0.6, 0.6]])


def test_scalings_are_applied_per_label():
    decision = Decision("multi", ("a", "b"), (Scaling(2.0, 1.0), Scaling(1.0, 0.0)))
    raw = np.array([[0.2, 0.7]])
    np.testing.assert_allclose(decision.calibrated(raw), [[expit(2 * np.log(0.2 / 0.8) + 1), 0.7]], atol=1e-12)


def test_rates_of_operating_points_have_exact_intervals():
    truth, raw = drawn("multi")
    decision = fit_decision(truth, raw, LABELS, "multi", rule="sensitivity", target=0.9)
    for i, row in enumerate(decision.to_json()["operating_points"]["labels"]):
        called = decision.calibrated(raw)[:, i] >= row["threshold"]
        for rate, cells in (("sensitivity", called[truth[:, i] == 1]), ("specificity", ~called[truth[:, i] == 0])):
            assert row[rate] == pytest.approx(cells.mean())
            expected = binomtest(int(cells.sum()), len(cells)).proportion_ci(0.95, "exact")
            assert (row["intervals"][rate]["low"], row["intervals"][rate]["high"]) == pytest.approx(expected)
