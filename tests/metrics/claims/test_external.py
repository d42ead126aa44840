"""External data compared with the run: prior correction, prevalence, differences of independent samples."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from xrayfast.metrics.claims import external
from xrayfast.metrics.claims.external import (
    compare_prevalence,
    compare_with_internal,
    correct_prior,
    corrected_labels,
    difference_interval,
    external_warnings,
)


def shifted(n=4000, prior=0.5, here=0.1, seed=0):
    """Return truth with prevalence `here`, and probabilities that are calibrated for the prevalence `prior`."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < here).astype(int)
    x = rng.normal(size=n) + 1.5 * truth
    odds = prior / (1 - prior) * np.exp(1.5 * x - 1.5**2 / 2)
    return truth, odds / (1 + odds)


@pytest.mark.parametrize("was", [0.5, 0.3])
def test_the_estimated_prevalence_maximizes_the_likelihood(was):
    truth, p = shifted(prior=was)
    both, prior = np.column_stack([p, 1 - p]), np.array([was, 1 - was])
    found, corrected = correct_prior(both, prior)
    likelihood = lambda q: -np.log(p * q / was + (1 - p) * (1 - q) / (1 - was)).sum()  # noqa: E731 - for scipy
    expected = minimize_scalar(likelihood, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-9}).x
    assert found[0] == pytest.approx(expected, abs=1e-4)
    assert found[0] == pytest.approx(truth.mean(), abs=0.02) and found.sum() == pytest.approx(1)
    odds = p / (1 - p) * (1 - was) / was * found[0] / found[1]
    np.testing.assert_allclose(corrected[:, 0], odds / (1 + odds), atol=1e-6)
    assert log_loss(truth, corrected[:, 0]) < log_loss(truth, p) - 0.02


def test_labels_are_corrected_one_by_one_and_classes_jointly():
    (a, p), (_, q) = shifted(here=0.1), shifted(here=0.7, seed=1)
    shares, corrected = corrected_labels(np.column_stack([p, q]), np.array([0.5, 0.5]), "multi")
    assert shares == pytest.approx([0.1, 0.7], abs=0.03)
    one = correct_prior(np.column_stack([p, 1 - p]), np.array([0.5, 0.5]))[1][:, 0]
    np.testing.assert_allclose(corrected[:, 0], one)
    shares, corrected = corrected_labels(np.column_stack([p, 1 - p]), np.array([0.5, 0.5]), "single")
    assert shares.sum() == pytest.approx(1) and corrected.sum(axis=1) == pytest.approx(np.ones(len(a)))
    three = np.column_stack([p, 0.6 * (1 - p), 0.4 * (1 - p)])
    shares, corrected = corrected_labels(three, np.array([0.5, 0.3, 0.2]), "single")
    assert shares.sum() == pytest.approx(1) and corrected.sum(axis=1) == pytest.approx(np.ones(len(a)))
    shares, corrected = corrected_labels(three, np.array([0.5, 0.5, 0.0]), "multi")  # a label that validation lacks
    assert np.isfinite(shares).all() and np.isfinite(corrected).all()


def test_only_a_prevalence_outside_the_interval_of_validation_gives_a_warning():
    truth, p = shifted()
    same, q = shifted(here=0.5, seed=2)
    truth, masked = np.column_stack([truth, same, np.full(4000, -1)]), np.full(4000, 0.5)
    half, labels = np.tile([[0], [1]], (50, 3)), ("rare", "same", "lacking")
    rows = compare_prevalence(labels, (half, None), (truth, None), np.column_stack([p, q, masked]), "multi")
    assert [(row["label"], row["outside"]) for row in rows] == [("rare", True), ("same", False)]
    rare = rows[0]
    assert (rare["low"], rare["high"]) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Wilson, 50 of 100
    assert rare["here"] == truth[:, 0].mean() and rare["log_loss"] == pytest.approx(log_loss(truth[:, 0], p))
    assert rare["log_loss_corrected"] < rare["log_loss"]
    (warning,) = external_warnings(rows, [])
    assert warning.code == "prevalence" and "rare" in warning.text and "same" not in warning.text
    assert "--correct-prior" in warning.advice
    # No advice if the correction worsens the log loss, or if the estimate is 0, 1, or not different from validation.
    for changed in ({"log_loss_corrected": 2.774}, {"estimated": 0.0}, {"estimated": 1.0}, {"estimate_differs": False}):
        (warning,) = external_warnings([rows[0] | changed], [])
        assert "--correct-prior" not in warning.advice, changed


def test_an_estimate_from_few_images_or_patients_is_not_said_to_differ():
    half = np.tile([[0], [1]], (50, 1))
    for n, differs in ((4000, True), (12, False)):
        truth, p = shifted(n=n, here=0.3)
        (row,) = compare_prevalence(("a",), (half, None), (truth[:, None], None), p[:, None], "multi")
        assert row["estimate_differs"] is differs
    # Repeating the same 12 images adds no patients.
    again = np.tile(truth, 300)[:, None], np.tile(np.arange(12), 300)
    (row,) = compare_prevalence(("a",), (half, None), again, np.tile(p, 300)[:, None], "multi")
    assert row["estimate_differs"] is False


@pytest.mark.parametrize(("images", "labels"), [(1, 1), (10, 1), (1, 8)])
def test_equal_prevalence_gives_a_warning_in_at_most_five_to_seven_percent(images, labels, monkeypatch):
    """2,000 validation images, and external data of 100 patients; all images of a patient have the same labels."""
    monkeypatch.setattr(external, "corrected_labels", lambda probability, prior, task: (prior, probability))
    rng = np.random.default_rng(0)
    names, found = [str(i) for i in range(labels)], 0
    patient = np.repeat(np.arange(100), images)
    for _ in range(200):
        own, other = ((rng.random((n, labels)) < 0.3).astype(int) for n in (2000, 100))
        other = other[patient]
        rows = compare_prevalence(names, (own, None), (other, patient), np.full(other.shape, 0.3), "multi")
        found += any(row["outside"] for row in rows)
    assert found <= 14


def metric_row(metric, label, a, b, error):
    """Return the result `a` of the run and the external result `b`, whose standard error is twice `error`."""
    return {"metric": metric, "label": label, "internal": a, "internal_low": a - 1.96 * error,
            "external": b, "difference": b - a, "high": b - a + 1.96 * error * 5**0.5}  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "labels"),
    [(("auroc",), 20), (("auroc",), 1), (("recall", "specificity"), 1), (("recall", "specificity"), 14)],
)
def test_equal_results_are_called_lower_in_at_most_five_to_seven_percent(metrics, labels):
    """All labels have the same true value; the intervals are normal."""
    rng, error, found = np.random.default_rng(0), 0.03, 0
    for _ in range(500):
        rows = [
            metric_row(name, str(i), rng.normal(0.8, error), rng.normal(0.8, 2 * error), error)
            for i in range(labels)
            for name in metrics
        ]
        found += bool(external_warnings([], rows))
    assert found <= 35


def test_a_lower_recall_or_specificity_gives_a_warning_after_holm_correction():
    def codes(recall, specificity, error=0.04):
        differences = {"auroc": 0.0, "recall": recall, "specificity": specificity}
        rows = [metric_row(name, "a", 0.9, 0.9 + change, error / 5**0.5) for name, change in differences.items()]
        return [(one.code, one.text) for one in external_warnings([], rows)]

    ((code, text),) = codes(-0.3, 0.05)
    assert code == "rates below internal"
    assert "recall (sensitivity) of a 0.600, below" in text and "pecificity" not in text and "AUROC" not in text
    ((_, text),) = codes(-0.3, -0.3)
    assert "recall (sensitivity) of a 0.600" in text and "specificity of a 0.600" in text
    # 1.7 and 1.9 standard errors: p-values 0.045 and 0.029, neither of which is significant after correction for two.
    assert codes(-1.7 * 0.04, 0) == codes(-1.9 * 0.04, 0) == codes(-1.7 * 0.04, -1.9 * 0.04) == []
    # 2.1 standard errors of one suffice, and then 1.7 suffice for the other.
    assert "pecificity" not in codes(-2.1 * 0.04, 0)[0][1]
    assert "specificity of a" in codes(-2.1 * 0.04, -1.7 * 0.04)[0][1]
    assert codes(0.3, 0.3) == []


def test_rates_of_an_external_test_are_compared_by_their_intervals():
    """90 of 100 images with the label are found in the run's own data, and 70 of 100 in the external data."""
    own, here = (summary(0.9, 0.85, 0.95, recall=recall, specificity=0.8, positive="a") for recall in (0.9, 0.7))
    for found, ends in ((own, (0.826, 0.945)), (here, (0.604, 0.781))):
        found["intervals"]["per_label"]["a"]["recall"] = dict(zip(("low", "high"), ends, strict=True))
    (warning,) = external_warnings([], compare_with_internal(own, here, "single", True))
    assert (warning.code, warning.text.partition(": ")[2]) == (
        "rates below internal",
        "recall (sensitivity) of a 0.700, below 0.826.",
    )


def test_with_two_classes_only_the_positive_class_has_rows():
    truth, p = shifted(n=100)
    both, q = np.column_stack([truth, 1 - truth]), np.column_stack([p, 1 - p])
    rows = compare_prevalence(("a", "b"), (both, None), (both, None), q, "single", "b")
    assert [row["label"] for row in rows] == ["b"]
    of_two = summary(0.9, 0.85, 0.95), {"positive": "a", **summary(0.8, 0.7, 0.88)}
    rows = compare_with_internal(*of_two, "single", True)
    assert [row["metric"] for row in rows] == ["accuracy", "auroc", "recall", "specificity"]


def test_the_interval_of_a_difference_equals_newcombes():
    """56 of 70 and 48 of 80: Newcombe 1998, table II, example (a), method 10: 0.0524 to 0.3339."""
    a, b = (0.6918, 0.8769), (0.4904, 0.7005)  # Wilson's
    found = difference_interval(56 / 70, a, 48 / 80, b)
    assert found == pytest.approx((0.0524, 0.3339), abs=2e-4)


def summary(auroc, low, high, **row):
    end = {"low": low, "high": high}
    return {
        "overall": {"auroc_macro": auroc, "accuracy": 0.8},
        "per_label": [{"label": "a", "support": 9, "negatives": 9, "auroc": auroc, "recall": 0.5, **row}],
        "intervals": {"overall": {"auroc_macro": end}, "per_label": {"a": {"auroc": end}}},
    }


def test_results_below_the_interval_of_the_run_give_a_warning():
    rows = compare_with_internal(summary(0.9, 0.85, 0.95), summary(0.8, 0.7, 0.88), "single", True)
    first = rows[0]
    assert (first["metric"], first["label"], first["difference"]) == ("auroc_macro", None, pytest.approx(-0.1))
    assert (first["low"], first["high"]) == pytest.approx((-0.1 - np.hypot(0.1, 0.05), -0.1 + np.hypot(0.08, 0.05)))
    (warning,) = external_warnings([], rows)
    assert warning.code == "below internal" and "macro AUROC 0.800, below 0.850" in warning.text
    above = compare_with_internal(summary(0.9, 0.85, 0.95), summary(0.86, 0.7, 0.88), "single", True)
    assert external_warnings([], above) == []


def test_missing_results_have_a_reason_and_labels_in_only_one_data_set_are_not_compared():
    here = summary(0.8, 0.7, 0.9, specificity=0.5)
    here["per_label"][0]["auroc"] = None
    here["per_label"].append({"label": "b", "support": 0, "negatives": 0})
    rows = compare_with_internal(summary(0.9, 0.85, 0.95), here, "single", False)
    auroc, recall, specificity = rows
    assert {row["label"] for row in rows} == {"a"}
    assert specificity["reason"].startswith("not defined in the run's own data")
    assert auroc["difference"] is None and auroc["reason"].startswith("not defined here")
    assert recall["difference"] == 0 and recall["low"] is None and recall["reason"] == "no interval in the run"
