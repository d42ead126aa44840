import numpy as np
import pytest
import sklearn.metrics as skm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binom, norm

from tests.metrics.cases import many_labels
from xrayfast.metrics.operating_points.thresholds import (
    choose_threshold,
    choose_thresholds,
    decide,
    images_needed,
    share_needed,
    threshold_array,
)

_ONLY_ALL = "a sensitivity of 1 is reached only if every image without the label is called positive too"
RULES = [("f1", None), ("youden", None), ("sensitivity", 0.8), ("specificity", 0.8)]
scored = st.integers(2, 30).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, n, elements=st.integers(0, 1)),
        hnp.arrays(np.float64, n, elements=st.integers(0, 8).map(lambda k: k / 8)),
    )
)


def at(truth, score, threshold):
    called = score >= threshold
    return called[truth == 1].mean(), 1 - called[truth == 0].mean(), skm.f1_score(truth, called, zero_division=0)


@given(scored, st.sampled_from(RULES))
def test_no_other_threshold_is_better(case, rule_and_target):
    rule, target = rule_and_target
    truth, score = case
    point = choose_threshold(truth, score, rule, target)
    assert (point.positives, point.negatives) == (truth.sum(), (1 - truth).sum())
    if len(set(truth)) < 2 or len(set(score)) < 2:
        assert point.threshold is None
        assert point.reason
        return
    # Every way to divide the images, except the one in which none is called positive.
    others = [at(truth, score, value) for value in np.unique(score)]
    reached = {
        "f1": others,
        "youden": [each for each in others if each[0] + each[1] > 1 + 1e-9],
        "sensitivity": [each for each in others if each[0] >= 0.8 and each[1] > 0],
        "specificity": [each for each in others if each[1] >= 0.8 and each[0] > 0],
    }[rule]
    if point.threshold is None:
        assert not reached
        assert np.isnan([point.sensitivity, point.specificity]).all()
        return
    sensitivity, specificity, f1 = at(truth, score, point.threshold)
    assert (point.sensitivity, point.specificity) == pytest.approx((sensitivity, specificity))
    goodness = {
        "f1": lambda each: each[2],
        "youden": lambda each: each[0] + each[1],
        "sensitivity": lambda each: each[1],
        "specificity": lambda each: (each[0], each[1]),
    }[rule]
    assert goodness((sensitivity, specificity, f1)) == pytest.approx(max(map(goodness, reached)))
    assert (sensitivity, specificity) in [each[:2] for each in reached]


@pytest.mark.parametrize(("rule", "target"), RULES)
def test_a_threshold_is_halfway_between_the_scores_on_its_two_sides(rule, target):
    point = choose_threshold([0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.7, 0.9], rule, target)
    if rule == "sensitivity":
        target = 1.0
    assert point.threshold == pytest.approx(0.45)
    assert (point.sensitivity, point.specificity, point.reason) == (1, 1, "")


def test_named_cases():
    truth = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 0])
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert choose_threshold(truth, score, "f1").threshold == pytest.approx(0.55)
    assert choose_threshold(truth, score, "youden").threshold == pytest.approx(0.55)
    assert choose_threshold(truth, score, "sensitivity", 0.75).threshold == pytest.approx(0.55)
    assert choose_threshold(truth, score, "sensitivity", 0.76).threshold == pytest.approx(0.25)
    assert choose_threshold(truth, score, "specificity", 1.0).threshold == pytest.approx(0.85)
    # One false positive among six negatives is 0.8333: 0.83 allows it, 0.84 does not.
    assert choose_threshold(truth, score, "specificity", 0.83).threshold == pytest.approx(0.65 - 0.1)
    assert choose_threshold(truth, score, "specificity", 0.84).threshold == pytest.approx(0.85)


def test_specificity_is_not_given_away_for_nothing():
    # Calling the second image positive would still reach the target, but find no more positives.
    point = choose_threshold([1, 0, 0, 0, 0, 0], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], "specificity", 0.8)
    assert point.threshold == pytest.approx(0.85)
    assert point.specificity == 1


def test_a_target_that_is_met_exactly_is_met():
    truth = np.repeat([1, 0], [20, 20])
    score = np.concatenate([np.linspace(0.5, 0.9, 20), np.linspace(0.1, 0.6, 20)])
    for hits in range(1, 21):
        assert choose_threshold(truth, score, "sensitivity", hits / 20).sensitivity == pytest.approx(hits / 20)


def test_of_equally_good_thresholds_the_highest_is_taken():
    # F1 is 2/3 if the first is called positive, and also if all four are.
    truth, score = np.array([1, 0, 0, 1]), np.array([0.9, 0.8, 0.7, 0.6])
    point = choose_threshold(truth, score, "f1")
    assert point.threshold == pytest.approx(0.85)
    tie = choose_threshold([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6], "youden")
    assert tie.threshold == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("truth", "score", "rule", "target", "reason"),
    [
        ([0, 0], [0.1, 0.2], "f1", None, "no image with the label"),
        ([1, 1, -1], [0.1, 0.2, 0.3], "youden", None, "no image without the label"),
        ([], [], "f1", None, "no image with the label"),
        ([1, 0], [0.5, 0.5], "f1", None, "all probabilities are equal"),
        ([0, 1], [0.9, 0.1], "youden", None, "better than chance"),
        ([1, 0], [0.1, 0.9], "sensitivity", 0.95, "0.95 is reached only if every image"),
        ([1, 0], [0.1, 0.9], "specificity", 0.99, "0.99 is reached only if no image"),
    ],
)
def test_if_no_threshold_can_be_chosen_the_reason_is_given(truth, score, rule, target, reason):
    point = choose_threshold(truth, score, rule, target)
    assert point.threshold is None
    assert reason in point.reason


def test_a_label_is_predicted_at_its_threshold_and_the_class_furthest_above_its_own():
    assert decide(np.array([[0.5, 0.4]]), "multi").tolist() == [[1, 0]]
    assert decide(np.array([[0.3, 0.3]]), "multi", np.array([0.3, 0.31])).tolist() == [[1, 0]]
    assert decide(np.array([[0.5, 0.3, 0.2]]), "single", np.array([0.3, 0.15, 0.5])).tolist() == [[1, 0, 0]]
    assert decide(np.array([[0.5, 0.3, 0.2]]), "single", np.array([0.45, 0.2, 0.5])).tolist() == [[0, 1, 0]]


def test_patients_of_masked_images_do_not_count():
    truth, groups = np.repeat([-1, 1, 0], [50, 30, 40]), np.arange(120)
    groups[truth == 1], groups[truth == 0] = 7, groups[truth == 0] // 2
    point = choose_threshold(truth, np.linspace(1, 0, 120), "youden", groups=groups)
    assert (point.positive_patients, point.negative_patients) == (1, 20)


def test_each_label_with_masked_cells_and_a_fallback():
    truth, probability = many_labels(hidden=0.3)
    truth[:, 2] = np.minimum(truth[:, 2], 0)
    points = choose_thresholds(truth, probability, "youden")
    known = truth[:, 0] >= 0
    assert points[0] == choose_threshold(truth[known, 0], probability[known, 0], "youden")
    assert points[2].threshold is None
    thresholds = threshold_array(points)
    assert thresholds[2] == 0.5
    called = decide(probability, "multi", thresholds)
    assert called[(truth[:, 0] == 1), 0].mean() == pytest.approx(points[0].sensitivity)


def test_neighboring_scores_and_zero():
    just_above = np.nextafter(0.5, 1)
    point = choose_threshold([1, 0], [just_above, 0.5], "f1")
    assert point.threshold == just_above
    everything = choose_threshold([1, 1, 1, 0, 1], [0.9, 0.8, 0.7, 0.3, 0.0], "f1")
    assert everything.threshold == 0
    assert choose_threshold([1, 0, 1], [0.9, 0.8, 0.6], "f1").threshold == 0.3
    assert everything.sensitivity == 1


@pytest.mark.parametrize(
    ("rule", "target", "message"),
    [
        ("best", None, "one of f1, youden"),
        ("sensitivity", None, "needs a target"),
        ("f1", 0.9, "has no target"),
        ("specificity", 95, "target is 95"),
        ("specificity", 0.0, "target is 0"),
    ],
)
def test_impossible_rules_and_targets_are_refused(rule, target, message):
    with pytest.raises(ValueError, match=message):
        choose_threshold([0, 1], [0.1, 0.2], rule, target)


@pytest.mark.parametrize(("target", "confidence", "needed"), [(0.95, 0.95, 59), (0.9, 0.95, 29), (0.99, 0.95, 299)])
def test_the_number_of_images_needed_for_a_target_with_a_confidence(target, confidence, needed):
    """Published in tables of nonparametric tolerance limits: 59 for 95% / 95%, 29 for 90%, 299 for 99%."""
    assert images_needed(target, confidence) == needed
    assert share_needed(target, confidence, needed) == 1
    assert share_needed(target, confidence, needed - 1) is None


@pytest.mark.parametrize("n", [93, 124, 200, 1000])
def test_the_share_needed_is_the_smallest_that_has_the_confidence(n):
    k = round(share_needed(0.95, 0.95, n) * n)
    # It must be improbable that fewer than k of n new scores are above the threshold that 95% of all exceed.
    assert binom.sf(k - 1, n, 0.95) <= 0.05 < binom.sf(k - 2, n, 0.95)


def test_the_expected_rate_on_new_images_after_a_choice_on_twenty():
    """With 20 images with the label, the true sensitivity is below 0.95 in 73.6% of the choices."""
    truth = np.repeat([1, 0], [20, 100])
    score = np.concatenate([np.linspace(0.5, 0.9, 20), np.linspace(0, 0.8, 100)])
    point = choose_threshold(truth, score, "sensitivity", 0.95)
    assert point.sensitivity == 0.95
    mean, below = point.expected("sensitivity", 0.95)
    assert mean == pytest.approx(19 / 21)
    assert below == pytest.approx(binom.sf(18, 20, 0.95))
    # 10 patients with two images each count as 10.
    groups = np.concatenate([np.repeat(np.arange(10), 2), 10 + np.arange(100)])
    of_patients = choose_threshold(truth, score, "sensitivity", 0.95, groups=groups)
    assert (of_patients.positive_patients, of_patients.negative_patients) == (10, 100)
    assert of_patients.expected("sensitivity", 0.95)[0] == pytest.approx(9.5 / 11)
    assert choose_threshold(truth, score, "sensitivity", 0.95).positive_patients is None
    # The other rate is counted on the images without the label.
    other = choose_threshold(1 - truth, 1 - score, "specificity", 0.95, groups=groups)
    assert other.expected("specificity", 0.95) == of_patients.expected("sensitivity", 0.95)
    assert other.interval("specificity") == of_patients.interval("sensitivity")
    assert choose_threshold(1 - truth, 1 - score, "specificity", 0.95).expected("specificity", 0.95)[0] == mean


def test_too_few_images_or_known_patients_for_the_confidence_are_counted():
    truth = np.repeat([1, 0], [60, 60])
    score = np.random.default_rng(0).random(120) / 2 + truth / 2
    assert choose_threshold(truth, score, "sensitivity", 0.95, 0.95).sensitivity == 1
    found = choose_threshold(truth, score, "sensitivity", 0.95, 0.95, groups=np.arange(120) // 2)
    # Below the lowest score with the label: 30 patients only show 0.05 ** (1 / 30) with 95% confidence.
    assert max(score[truth == 0]) <= found.threshold <= min(score[truth == 1]) and found.sensitivity == 1
    assert found.reason == (
        "a sensitivity of 0.95 with 95% confidence needs 59 patients with the label; with 30, at most 0.9 is possible"
    )
    above = choose_threshold(truth, score, "specificity", 0.95, 0.99)
    assert above.reason.endswith("without the label; with 60, at most 0.93 is possible") and above.specificity == 1
    few_with_it = choose_threshold(truth[50:], score[50:], "specificity", 0.95, 0.99)
    assert few_with_it.reason == above.reason, "only images without the label count"
    nowhere = choose_threshold([1, 0, 0], [0.1, 0.2, 0.3], "sensitivity", 0.9, 0.95)
    assert nowhere.threshold is None and nowhere.reason.endswith("at most 0.05 is possible; " + _ONLY_ALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "n", "images"),
    [("sensitivity", 60, 1), ("sensitivity", 150, 1), ("specificity", 150, 1), ("sensitivity", 80, 4)],
)
def test_with_a_confidence_the_target_is_reached_in_that_share_of_choices(rule, n, images):
    """Scores are normal, so that the true rates are known; the images of a patient share half of the variance."""
    rng, reached, plain = np.random.default_rng(0), [], []
    for _ in range(1500):
        group = np.arange(2 * n * images) // images
        truth = (group < n).astype(int)
        noise = rng.normal(size=2 * n)[group]
        noise = noise if images == 1 else np.sqrt(0.5) * (noise + rng.normal(size=len(group)))
        score = norm.cdf(noise + 2 * truth)
        for confidence, found in ((0.95, reached), (None, plain)):
            point = choose_threshold(truth, score, rule, 0.9, confidence, group if images > 1 else None)
            height = norm.ppf(point.threshold)
            found.append((norm.sf(height - 2) if rule == "sensitivity" else norm.cdf(height)) >= 0.9)
    assert np.mean(plain) < 0.75
    assert np.mean(reached) >= 0.94


def test_with_two_classes_the_one_above_its_threshold_is_predicted():
    probability = np.array([[0.95, 0.05], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert decide(probability, "single", np.array([0.85, 0.15])).argmax(axis=1).tolist() == [0, 0, 1, 1]
    assert decide(probability, "single", 0.5).argmax(axis=1).tolist() == [0, 0, 0, 1]
