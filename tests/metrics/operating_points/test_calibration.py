import numpy as np
import pytest
import sklearn.metrics as skm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from tests.metrics.cases import calibration_error, many_labels
from xrayfast.metrics.classification import auroc
from xrayfast.metrics.operating_points.calibration import (
    FEW_UNITS,
    LEAST_SLOPE,
    Scaling,
    apply_scalings,
    apply_temperature,
    fit_scaling,
    fit_scalings,
    fit_slope_and_bias,
    fit_temperature,
    share_of_two,
)


def overconfident(n=4000, classes=4, by=2.0, seed=0):
    """Return classes drawn from the softmax of logits, and the probabilities from logits `by` times as large."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    chance = softmax(logits, axis=1).cumsum(axis=1)
    drawn = (rng.random((n, 1)) > chance).sum(axis=1).clip(max=classes - 1)
    return np.eye(classes, dtype=int)[drawn], softmax(by * logits, axis=1)


def test_the_temperature_that_was_applied_is_recovered():
    truth, probability = overconfident()
    found = fit_temperature(truth, probability)
    assert found.temperature == pytest.approx(2, rel=0.06)
    assert found.reason == ""


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(2, 5), st.floats(0.3, 4))
def test_no_other_temperature_has_less_log_loss(seed, classes, by):
    truth, probability = overconfident(200, classes, by, seed)
    found = fit_temperature(truth, probability)

    def loss(temperature):
        actual, labels = truth.argmax(axis=1), range(truth.shape[1])
        return skm.log_loss(actual, apply_temperature(probability, temperature), labels=labels)

    assert found.reason == ""
    at_best = loss(found.temperature)
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2):
        assert loss(found.temperature * factor) >= at_best - 1e-12
    # The minimum is flat to the ninth digit.
    step = 1e-4
    slope = (loss(found.temperature * (1 + step)) - loss(found.temperature * (1 - step))) / (2 * step)
    assert abs(slope) < 1e-6


def test_a_temperature_keeps_the_class_and_the_sum():
    _, probability = overconfident(300)
    cooler = apply_temperature(probability, 3.0)
    assert (cooler.argmax(axis=1) == probability.argmax(axis=1)).all()
    np.testing.assert_allclose(cooler.sum(axis=1), 1)
    np.testing.assert_allclose(apply_temperature(probability, 1.0), probability, atol=1e-9)
    certain = apply_temperature([[1.0, 0.0], [0.0, 1.0]], 2.0)
    np.testing.assert_allclose(certain, [[1, 0], [0, 1]], atol=1e-5)
    with pytest.raises(ValueError, match="temperature is 0"):
        apply_temperature(probability, 0)


@pytest.mark.parametrize(
    ("truth", "probability", "temperature", "reason"),
    [
        (np.empty((0, 2), dtype=int), np.empty((0, 2)), 1, "no image"),
        (np.full((3, 2), -1), np.full((3, 2), 0.5), 1, "no image"),
        ([[1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8]], 1, "all images are classified correctly by a wide margin"),
        ([[1, 0], [0, 1]], [[0.5, 0.5], [0.5, 0.5]], 1, "all probabilities are equal"),
        ([[1, 0], [0, 1]], [[0.1, 0.9], [0.8, 0.2]], 20, "little or no information"),
        ([[1, 0], [0, 1]], [[0.0, 1.0], [1.0, 0.0]], 20, "little or no information"),
    ],
)
def test_if_no_temperature_can_be_fitted_it_is_1_or_the_largest(truth, probability, temperature, reason):
    found = fit_temperature(truth, probability)
    assert found.temperature == temperature
    assert reason in found.reason


def test_a_confident_network_that_knows_nothing_gets_the_largest_temperature():
    rng = np.random.default_rng(0)
    truth = np.eye(3, dtype=int)[rng.integers(3, size=600)]
    raw = softmax(8 * rng.normal(size=(600, 3)), axis=1)

    def loss(probability):
        return skm.log_loss(truth.argmax(axis=1), probability)

    found = fit_temperature(truth, raw)
    # Less than with any smaller temperature, and near the loss of equal probabilities, log 3.
    losses = [loss(apply_temperature(raw, temperature)) for temperature in (1, 2, 5, 10, found.temperature)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 4
    assert losses[-1] == pytest.approx(np.log(3), abs=0.1)


def platt_by_scikit_learn(truth, probability):
    """The same optimum by unpenalized logistic regression: each image once as 1 and once as 0, weighted."""
    n_positive, n_negative = truth.sum(), (1 - truth).sum()
    targets = np.where(truth == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    z = logit(probability)[:, None]
    model = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky", max_iter=1000)
    model.fit(np.vstack([z, z]), np.repeat([1, 0], len(z)), sample_weight=np.concatenate([targets, 1 - targets]))
    return model.coef_[0, 0], model.intercept_[0]


@pytest.mark.parametrize("seed", range(4))
def test_a_scaling_equals_logistic_regression(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(-3, 2, 400)
    truth = (rng.random(400) < expit(0.5 * z + 0.7)).astype(int)
    found = fit_scaling(truth, expit(z))
    assert (found.slope, found.bias) == pytest.approx(platt_by_scikit_learn(truth, expit(z)), abs=1e-7)
    assert found.reason == ""


def test_a_scaling_improves_the_log_loss_and_keeps_the_order():
    rng = np.random.default_rng(0)
    z = rng.normal(-1, 2, (5000, 2))
    truth = (rng.random(z.shape) < expit(z)).astype(int)
    off = expit(2.5 * z + 1)
    scalings = fit_scalings(truth, off)
    scaled = apply_scalings(off, scalings)
    for i in range(2):
        assert scalings[i].slope == pytest.approx(0.4, rel=0.1)
        assert calibration_error(truth[:, i], scaled[:, i]) < 0.03 < calibration_error(truth[:, i], off[:, i])
        assert auroc(truth[:, i], scaled[:, i]) == pytest.approx(auroc(truth[:, i], off[:, i]), abs=1e-12)
    np.testing.assert_allclose(apply_scalings(off, [Scaling(1.0, 0.0)] * 2), off, atol=1e-9)


def test_certain_probabilities_and_a_perfectly_separated_label():
    found = fit_scaling([1] * 10 + [0] * 14, [1.0] * 10 + [0.0] * 14)
    assert 0 < found.slope < 1
    after = apply_scalings([[1.0], [0.0]], [found])[:, 0]
    # Platt's targets: (10 + 1) / (10 + 2), and 1 / (14 + 2).
    assert after == pytest.approx([11 / 12, 1 / 16], abs=1e-9)


def intercept_by_search(truth, logits, slope):
    """Return the bias with the least log loss for a fixed slope."""
    return minimize_scalar(lambda bias: skm.log_loss(truth, expit(slope * logits + bias)), bounds=(-30, 30)).x


@pytest.mark.parametrize(("with_label", "slope"), [(1, 2), (3, 2), (9, 1), (191, 1)])
def test_with_few_images_of_a_class_only_the_bias_is_fitted(with_label, slope):
    rng = np.random.default_rng(with_label)
    truth = np.zeros(200, dtype=int)
    truth[:with_label] = 1
    z = rng.normal(size=200) + slope * truth - 0.3
    found = fit_scaling(truth, expit(z))
    assert found.slope == 1
    assert found.bias == pytest.approx(intercept_by_search(truth, z, 1), abs=1e-4)
    assert expit(z + found.bias).mean() == pytest.approx(with_label / 200)
    assert found.reason == (
        f"fewer than 10 images {'with' if with_label < 10 else 'without'} the label: only the bias was fitted"
    )


def test_patients_are_counted_if_they_are_known():
    rng = np.random.default_rng(0)
    truth = np.append(-1, np.arange(200) < 30).astype(int)
    raw = expit(rng.normal(size=201) + 2 * truth)
    of_one = np.append(7, np.maximum(np.arange(200), 29))
    found = fit_scaling(truth, raw, of_one)
    assert (found.slope, found.reason) == (1, "fewer than 10 patients with the label: only the bias was fitted")
    assert fit_scaling(truth, raw, np.arange(201)) == fit_scaling(truth, raw)
    assert fit_scaling(truth, raw).reason == ""


def test_masked_images_are_left_out_with_their_patients():
    truth = np.repeat([-1, 1, 0], [50, 30, 120])
    raw = expit(np.random.default_rng(0).normal(size=200) + 2 * truth)
    groups = np.where(truth == 1, 7, np.arange(100, 300))  # one patient has all positives
    found = fit_scaling(truth, raw, groups)
    assert found.reason == "fewer than 10 patients with the label: only the bias was fitted"
    assert fit_scalings(truth[:, None], raw[:, None], groups) == [found]


def test_the_share_of_one_of_two_classes():
    assert share_of_two([[0.3, 0.6], [1e-20, 1.0]], 1)[:, 0].tolist() == pytest.approx([2 / 3, 1.0])
    assert share_of_two([[0.3, 0.6], [0.5, 0.5]], 0)[:, 0].tolist() == pytest.approx([1 / 3, 0.5])


def test_from_ten_images_on_the_slope_is_fitted():
    truth, z = (np.arange(200) < 10).astype(int), np.random.default_rng(0).normal(size=200)
    z += 1.5 * truth - 2
    found = fit_scaling(truth, expit(z))
    assert (found.slope, found.bias) == pytest.approx(platt_by_scikit_learn(truth, expit(z)), abs=1e-7)


@pytest.mark.parametrize(("positives", "images"), [(0, 400), (1, 400), (9, 400), (22, 400), (200, 200)])
def test_a_label_that_is_ranked_no_better_than_chance_gets_its_prevalence_and_keeps_the_order(positives, images):
    rng = np.random.default_rng(0)
    truth = (np.arange(images) < positives).astype(int)
    # As after focal loss: 0.42 to 0.50 for any prevalence, and here lower with the label.
    raw = expit(rng.normal(-0.2, 0.1, images) - 0.1 * truth)
    share = positives / images if 0 < positives < images else (positives + 1) / (images + 2)
    found = fit_scaling(truth, raw)
    after = apply_scalings(raw[:, None], [found])[:, 0]
    assert after.mean() == pytest.approx(share)
    np.testing.assert_allclose(after, share, rtol=0.02)
    assert (np.argsort(after) == np.argsort(raw)).all()
    lacking = f"no image {'without' if positives else 'with'} the label"
    assert ("no better than chance" if 0 < positives < images else lacking) in found.reason


def test_an_auroc_of_exactly_half_is_chance_whatever_the_slope():
    """Half of the positives rank above all negatives, and further from them than the other half ranks below."""
    raw = np.repeat([0.95, 0.3, 0.5], [10, 10, 20])
    found = fit_scaling(np.repeat([1, 0], 20), raw)
    assert found.slope == LEAST_SLOPE and "no better than chance" in found.reason


def test_a_slope_below_zero_would_reverse_the_order():
    """The AUROC is 20/23, but three positives are far below all others."""
    found = fit_scaling(np.repeat([1, 0], [23, 20]), np.repeat([0.6, 1e-9, 0.5], [20, 3, 20]))
    assert found.slope == LEAST_SLOPE and "no better than chance" in found.reason


@pytest.mark.parametrize(
    ("truth", "probability", "expected", "reason"),
    [
        ([], [], (1, 0), "no image with or without the label"),
        ([-1, -1], [0.1, 0.3], (1, 0), "no image with or without the label"),
        ([0, 0, 0, 1], [0.8] * 4, (1, logit(1 / 4) - logit(0.8)), "all probabilities are equal"),
        ([1] * 10 + [0] * 10, [0.1 + 0.2] * 10 + [0.3] * 10, (1, -logit(0.3)), "all probabilities are equal"),
    ],
)
def test_if_nothing_can_be_fitted_the_reason_is_given(truth, probability, expected, reason):
    found = fit_scaling(truth, probability)
    assert (found.slope, found.bias) == pytest.approx(expected)
    assert reason in found.reason


def test_masked_cells_are_ignored_and_labels_are_counted():
    truth, probability = many_labels(hidden=0.3)
    known = truth[:, 1] >= 0
    assert fit_scalings(truth, probability)[1] == fit_scaling(truth[known, 1], probability[known, 1])
    with pytest.raises(ValueError, match="3 scalings for 4 labels"):
        apply_scalings(probability, [Scaling(1.0, 0.0)] * 3)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(4, 60), st.floats(0.02, 0.98), st.floats(0.1, 12))
def test_every_fit_ends(seed, n, share, spread):
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < share).astype(int)
    found = fit_scaling(truth, expit(rng.normal(0, spread, n)))
    assert "did not converge" not in found.reason
    assert found.slope > 0


@pytest.mark.slow
@pytest.mark.parametrize("area", [0.7, 0.8, 0.9])
def test_with_fewer_than_ten_images_a_bias_alone_has_less_log_loss_on_new_images(area):
    """The logits of the network differ from calibrated ones by a shift, as with class weights or another prevalence."""
    rng = np.random.default_rng(0)
    gap = np.sqrt(2) * norm.ppf(area)
    for positives in range(1, FEW_UNITS):
        losses = []
        for _ in range(150):
            n = 20 * positives
            y, new = (np.arange(n) < positives).astype(int), (np.arange(4000) < 200).astype(int)
            z, on_new = (gap * (rng.normal(size=len(x)) + gap * x - gap / 2) - 1 for x in (y, new))
            targets = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (n - positives + 2))
            slope, bias, _ = fit_slope_and_bias(z, targets)
            found = fit_scaling(y, expit(z))
            if slope <= 0:
                slope, bias = 0.0, logit(positives / n)
            losses.append(
                [skm.log_loss(new, expit(a * on_new + b)) for a, b in ((found.slope, found.bias), (slope, bias))]
            )
        alone, both = np.mean(losses, axis=0)
        assert alone < both, positives


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0, 300.0])
def test_slope_and_bias_have_the_least_log_loss_however_large_the_logits_are(spread):
    rng = np.random.default_rng(0)
    z = rng.normal(2.0, spread, 60)
    truth = rng.random(60) < expit(0.5 * (z - 2) / spread)
    model = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit((z[:, None] - 2) / spread, truth)
    slope, bias, ended = fit_slope_and_bias(z, truth.astype(float))
    assert ended and slope * spread == pytest.approx(model.coef_[0, 0], rel=1e-6)
    assert bias + 2 * slope == pytest.approx(model.intercept_[0], rel=1e-6)
