"""Coverage of nominal 95% intervals if patients have several images that resemble each other.

The true values are known exactly: a patient's images share a random effect, and the score is normal in each class.
`python -m tests.metrics.intervals.test_coverage 1000 200 6 500` prints the figures; its arguments are the numbers of
studies, of patients, of images per patient at most, and of resamples.
"""

import numpy as np
import pytest
from scipy import integrate, stats

from xrayfast.metrics.intervals.bootstrap import intervals, paired_differences
from xrayfast.metrics.intervals.delong import delong
from xrayfast.metrics.intervals.estimates import SplitEstimates
from xrayfast.metrics.intervals.formulas import difference_of
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics

PREVALENCE, APART, ALIKE = 0.3, 2.0, 0.7
"""Prevalence of the label; distance of the class means in standard deviations; share of the variance of the score that
is between patients."""


def study(rng, patients, most_images):
    """Return truth (N, 1), calibrated probabilities (N, 1), patient numbers (N,), and worse probabilities (N, 1)."""
    groups = np.repeat(np.arange(patients), rng.integers(1, most_images + 1, patients))
    n = len(groups)
    # Nine of ten images have the label of the patient, the others one drawn with the prevalence.
    ill = (rng.random(patients) < PREVALENCE)[groups]
    truth = np.where(rng.random(n) < 0.9, ill, rng.random(n) < PREVALENCE).astype(int)
    noise = np.sqrt(ALIKE) * rng.normal(size=patients)[groups] + np.sqrt(1 - ALIKE) * rng.normal(size=n)
    score = APART * (truth - 0.5) + noise
    other = 0.75 * APART * (truth - 0.5) + 0.8 * noise + 0.6 * rng.normal(size=n)
    return truth[:, None], chance(score)[:, None], groups, chance(other)[:, None]


def chance(score):
    return 1 / (1 + (1 - PREVALENCE) / PREVALENCE * np.exp(-APART * score))


def truths():
    """Return the metrics of an infinite number of images, computed from the two normal distributions."""
    cut = np.log((1 - PREVALENCE) / PREVALENCE) / APART
    recall, specificity = stats.norm.sf(cut - APART / 2), stats.norm.cdf(cut + APART / 2)
    tp, fn = PREVALENCE * recall, PREVALENCE * (1 - recall)
    tn, fp = (1 - PREVALENCE) * specificity, (1 - PREVALENCE) * (1 - specificity)
    expected_agreement = (tp + fp) * PREVALENCE + (tn + fn) * (1 - PREVALENCE)

    def ill(x):
        return PREVALENCE * stats.norm.pdf(x - APART / 2)

    def well(x):
        return (1 - PREVALENCE) * stats.norm.pdf(x + APART / 2)

    def mean(of_ill, of_well):
        return integrate.quad(lambda x: of_ill(x) * ill(x) + of_well(x) * well(x), -9, 9, limit=200)[0]

    def precision(x):
        called_ill, called_well = PREVALENCE * stats.norm.sf(x - APART / 2), stats.norm.sf(x + APART / 2)
        return called_ill / (called_ill + (1 - PREVALENCE) * called_well)

    return {
        "precision": tp / (tp + fp),
        "recall": recall,
        "specificity": specificity,
        "npv": tn / (tn + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "accuracy": tp + tn,
        "balanced_accuracy": (recall + specificity) / 2,
        "kappa": 1 - (fp + fn) / (1 - expected_agreement),
        "matthews": (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tn + fn) * PREVALENCE * (1 - PREVALENCE)),
        "auroc": stats.norm.cdf(APART / np.sqrt(2)),
        "ap": mean(precision, lambda x: 0.0) / PREVALENCE,
        "brier": mean(lambda x: (1 - chance(x)) ** 2, lambda x: chance(x) ** 2),
        "log_loss": mean(lambda x: -np.log(chance(x)), lambda x: -np.log(1 - chance(x))),
        "ece": 0.0,
        "ece_mass": 0.0,
    }


def coverage(studies, patients, most_images, resamples, seed=0):
    """Return the share of studies whose interval contains the true value, by patient and by image.

    The difference of two models is only computed by patient.
    """
    known = truths()
    difference = known["auroc"] - stats.norm.cdf(0.75 * APART / np.sqrt(2))
    rng = np.random.default_rng(seed)
    hits = {name: np.zeros(2) for name in [*known, "delong", "auroc_difference"]}
    for i in range(studies):
        truth, probability, patient, other = study(rng, patients, most_images)
        for by, groups in enumerate((patient, None)):
            found = intervals(ResampledMetrics(truth, probability, "multi", groups), resamples=resamples, seed=i)
            for name, value in known.items():
                interval = found.per_label[name][0]
                hits[name][by] += interval.low <= value <= interval.high
            formula = delong(truth[:, 0], probability[:, 0], groups)
            hits["delong"][by] += formula.low <= known["auroc"] <= formula.high
        pair = (ResampledMetrics(truth, of_model, "multi", patient) for of_model in (probability, other))
        paired = paired_differences(*pair, resamples=resamples, seed=i)
        interval = paired.per_label["auroc"][0]
        hits["auroc_difference"] += interval.low <= difference <= interval.high
    return {name: tuple((counts / studies).tolist()) for name, counts in hits.items()}


def test_the_known_truths_agree_with_many_images():
    truth, probability, _, other = study(np.random.default_rng(0), 40_000, 1)
    found = intervals(ResampledMetrics(truth, probability, "multi"), resamples=50).per_label
    for name, value in truths().items():
        tolerance = 0.02 if "ece" in name else 0.012
        assert found[name][0].value == pytest.approx(value, abs=tolerance), name
    assert delong(truth[:, 0], other[:, 0]).auroc == pytest.approx(stats.norm.cdf(0.75 * APART / np.sqrt(2)), abs=0.01)


def test_intervals_by_patient_hold_the_truth_and_those_by_image_fall_short():
    found = coverage(studies=24, patients=100, most_images=6, resamples=100)
    by_patient = np.array([patient for patient, _ in found.values()])
    by_image = np.array([image for _, image in found.values()])
    # So few studies distinguish 95% from 75%, but not from 93%, as the slow test does.
    assert by_patient.min() >= 0.8
    assert by_patient.mean() >= 0.92
    assert by_image.mean() <= 0.85


@pytest.mark.slow
def test_nominal_95_percent_is_93_to_97_by_patient():
    found = coverage(studies=800, patients=200, most_images=6, resamples=400)
    assert 0.93 <= found.pop("auroc_difference")[0] <= 0.97
    # An error that is truly 0 can only be missed by the upper tail: the interval is designed for 97.5%.
    for name in ("ece", "ece_mass"):
        assert 0.95 <= found.pop(name)[0] <= 0.99, name
    # DeLong's interval is not transformed: a cross-check, and too narrow at its upper end for an AUROC of 0.92.
    assert 0.89 <= found.pop("delong")[0] <= 0.97
    for name, (by_patient, by_image) in found.items():
        assert 0.93 <= by_patient <= 0.97, name
        assert by_image < 0.87, name


def hits(name, value, *splits):
    """Whether the formula's interval of a label's metric, or of its difference between two splits, contains `value`."""
    found = [SplitEstimates(split).label(split.label_metrics[name], 0) for split in splits]
    one = found[0] if len(found) == 1 else difference_of(*found)
    return one.few and one.low <= value <= one.high


def few_positives(rng, positives, auroc=0.85):
    truth = (rng.permutation(200) < positives).astype(int)
    score = rng.normal(size=200) + np.sqrt(2) * stats.norm.ppf(auroc) * truth
    return truth[:, None], stats.norm.cdf(score - 2)[:, None]


def clustered(rng, patients, images, apart):
    """Return patients of one class each, whose images are correlated by one half."""
    groups = np.repeat(np.arange(patients), images)
    truth = (np.arange(patients) < patients * 0.3)[groups].astype(int)
    noise = np.sqrt(0.5) * (rng.normal(size=patients)[groups] + rng.normal(size=len(groups)))
    return truth[:, None], stats.norm.cdf(noise + apart * (truth - 0.5))[:, None], groups


@pytest.mark.slow
@pytest.mark.parametrize("positives", [2, 3, 5, 8])
def test_coverage_of_an_auroc_with_few_positives(positives):
    rng, studies = np.random.default_rng(positives), 600
    held = 0
    for _ in range(studies):
        held += hits("auroc", 0.85, ResampledMetrics(*few_positives(rng, positives), "multi"))
    print(f"AUROC, {positives} positives of 200: {held / studies:.3f}")
    assert 0.93 <= held / studies <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "auroc"), [(30, 0.983), (20, 0.9), (40, 0.9)])
def test_coverage_of_clustered_images(patients, auroc):
    rng, studies = np.random.default_rng(patients), 2000
    apart = np.sqrt(2) * stats.norm.ppf(auroc)
    rate = stats.norm.cdf(apart / 2)
    known = {"auroc": auroc, "recall": rate, "specificity": rate, "accuracy": rate}
    held = dict.fromkeys(known, 0)
    for _ in range(studies):
        truth, probability, groups = clustered(rng, patients, 10, apart)
        split = ResampledMetrics(truth, probability, "multi", groups)
        for name, value in known.items():
            held[name] += hits(name, value, split)
    print(patients, auroc, {name: count / studies for name, count in held.items()})
    for name, count in held.items():
        assert 0.93 <= round(count / studies, 2) <= 0.98, name


@pytest.mark.slow
def test_coverage_of_a_paired_difference_of_recall_with_5_positives():
    rng, studies, held = np.random.default_rng(0), 600, 0
    truth = (np.arange(200) < 5).astype(int)[:, None]
    for _ in range(studies):
        shared, own = rng.normal(size=200), rng.normal(size=(2, 200))
        scores = [
            np.sqrt(0.5) * (shared + each) + apart * truth[:, 0] for each, apart in zip(own, (1.5, 0.7), strict=True)
        ]
        pair = [ResampledMetrics(truth, stats.norm.cdf(score - 0.5)[:, None], "multi") for score in scores]
        expected = stats.norm.cdf(1.0) - stats.norm.cdf(0.2)
        held += hits("recall", expected, *pair)
    print(f"paired recall, 5 positives: {held / studies:.3f}")
    assert 0.93 <= held / studies <= 0.98


if __name__ == "__main__":
    import sys

    for name, (by_patient, by_image) in coverage(*map(int, sys.argv[1:])).items():
        print(f"{name:20} {by_patient:.3f} {by_image:.3f}")
