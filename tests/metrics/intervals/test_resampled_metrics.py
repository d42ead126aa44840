"""Every metric of a split compared with scikit-learn, and those of resamples with repeated rows."""

import numpy as np
import pytest
import sklearn.metrics as skm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.metrics.cases import calibration_error, many_labels, one_class
from xrayfast.metrics.agreement import predictive_values
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.operating_points.thresholds import decide
from xrayfast.metrics.registry import epoch_metrics, history_metrics, label_metrics, overall_metrics, prevalence_metrics
from xrayfast.metrics.reliability import top_label
from xrayfast.metrics.resamples import SingleSample
from xrayfast.metrics.summary import compute_epoch_metrics

TASKS = {"single": one_class, "multi": many_labels}


def micro_specificity(truth, guess):
    return skm.recall_score(1 - truth.ravel(), 1 - guess.ravel())


def of_averages(truth, guess, probability):
    """Return the averages of both tasks from (N, L) truth and predictions of 0 and 1, and (N, L) probabilities."""
    expected = {}
    for name, score in (("precision", skm.precision_score), ("recall", skm.recall_score), ("f1", skm.f1_score)):
        for average in ("macro", "micro", "weighted"):
            expected[f"{name}_{average}"] = score(truth, guess, average=average)
    specificity = skm.recall_score(1 - truth, 1 - guess, average=None)
    expected["specificity_macro"] = specificity.mean()
    expected["specificity_micro"] = micro_specificity(truth, guess)
    expected["specificity_weighted"] = np.average(specificity, weights=truth.sum(axis=0))
    for average in ("macro", "micro"):
        expected[f"auroc_{average}"] = skm.roc_auc_score(truth, probability, average=average)
        expected[f"ap_{average}"] = skm.average_precision_score(truth, probability, average=average)
    return expected


def of_one_label(truth, guess, probability):
    return {
        "precision": skm.precision_score(truth, guess),
        "recall": skm.recall_score(truth, guess),
        "specificity": skm.recall_score(1 - truth, 1 - guess),
        "npv": skm.precision_score(1 - truth, 1 - guess),
        "f1": skm.f1_score(truth, guess),
        "accuracy": skm.accuracy_score(truth, guess),
        "balanced_accuracy": skm.balanced_accuracy_score(truth, guess),
        "kappa": skm.cohen_kappa_score(truth, guess),
        "matthews": skm.matthews_corrcoef(truth, guess),
        "auroc": skm.roc_auc_score(truth, probability),
        "ap": skm.average_precision_score(truth, probability),
        "brier": skm.brier_score_loss(truth, probability),
        "log_loss": skm.log_loss(truth, probability),
        "ece": calibration_error(truth, probability),
        "ece_mass": calibration_error(truth, probability, binning="mass"),
    }


def test_single_label_equals_scikit_learn():
    truth, probability = one_class()
    guess = decide(probability, "single")
    actual, chosen = truth.argmax(axis=1), probability.argmax(axis=1)
    right, confidence, _ = top_label(truth, probability)
    expected = {
        **of_averages(truth, guess, probability),
        "accuracy": skm.accuracy_score(actual, chosen),
        "balanced_accuracy": skm.balanced_accuracy_score(actual, chosen),
        "kappa": skm.cohen_kappa_score(actual, chosen),
        "kappa_quadratic": skm.cohen_kappa_score(actual, chosen, weights="quadratic"),
        "matthews": skm.matthews_corrcoef(actual, chosen),
        "brier": skm.brier_score_loss(actual, probability, labels=range(4), scale_by_half=False),
        "log_loss": skm.log_loss(actual, probability),
        "ece": calibration_error(right, confidence),
        "ece_mass": calibration_error(right, confidence, binning="mass"),
    }
    found = ResampledMetrics(truth, probability, "single")
    assert found.overall == pytest.approx(expected, abs=1e-9)
    assert found.overall["accuracy"] == pytest.approx(found.overall["f1_micro"])
    for i in range(4):
        of_label = {name: values[i] for name, values in found.per_label.items()}
        assert of_label == pytest.approx(of_one_label(truth[:, i], guess[:, i], probability[:, i]), abs=1e-9)


def test_multi_label_equals_scikit_learn():
    truth, probability = many_labels()
    threshold = np.array([0.2, 0.4, 0.5, 0.7])
    guess = (probability >= threshold).astype(int)
    labels = [of_one_label(truth[:, i], guess[:, i], probability[:, i]) for i in range(4)]
    names = ("balanced_accuracy", "kappa", "matthews", "brier", "log_loss", "ece", "ece_mass")
    expected = {
        **of_averages(truth, guess, probability),
        "subset_accuracy": skm.accuracy_score(truth, guess),
        **{f"{name}_macro": np.mean([label[name] for label in labels]) for name in names},
    }
    found = ResampledMetrics(truth, probability, "multi", threshold=threshold)
    assert found.overall == pytest.approx(expected, abs=1e-9)
    for i, label in enumerate(labels):
        assert {name: values[i] for name, values in found.per_label.items()} == pytest.approx(label, abs=1e-9)


def test_masked_cells_are_ignored():
    truth, probability = many_labels(hidden=0.4)
    truth[:5] = -1
    found = ResampledMetrics(truth, probability, "multi")
    for i in range(4):
        known = truth[:, i] >= 0
        guess = (probability[known, i] >= 0.5).astype(int)
        expected = of_one_label(truth[known, i], guess, probability[known, i])
        assert {name: values[i] for name, values in found.per_label.items()} == pytest.approx(expected, abs=1e-9)
    cells = truth >= 0
    guess = (probability >= 0.5)[cells]
    assert found.overall["f1_micro"] == pytest.approx(skm.f1_score(truth[cells], guess), abs=1e-9)
    expected = skm.roc_auc_score(truth[cells], probability[cells])
    assert found.overall["auroc_micro"] == pytest.approx(expected, abs=1e-9)
    elsewhere = ResampledMetrics(truth, np.where(cells, probability, 1 - probability), "multi")
    assert elsewhere.overall == found.overall


def test_images_without_a_class_are_ignored():
    truth, probability = one_class()
    hidden = truth.copy()
    hidden[:30] = -1
    assert ResampledMetrics(hidden, probability, "single").overall == pytest.approx(
        ResampledMetrics(truth[30:], probability[30:], "single").overall, abs=1e-12
    )


@pytest.mark.parametrize("task", TASKS)
def test_names_equal_the_registrys_and_a_single_sample_has_the_same_values(task):
    truth, probability = TASKS[task]()
    found = ResampledMetrics(truth, probability, task)
    assert list(found.overall) == list(overall_metrics(task))
    assert list(found.per_label) == list(label_metrics())
    assert epoch_metrics(task).keys() <= history_metrics(task).keys() <= overall_metrics(task).keys()
    epoch = compute_epoch_metrics(truth, probability, task)
    assert {name: found.overall[name] for name in history_metrics(task)} == pytest.approx(epoch)
    truth[:, 1] = -1 if task == "multi" else truth[:, 1]
    found = ResampledMetrics(truth, probability, task)
    sample = SingleSample(found)
    for name, metric in overall_metrics(task).items():
        np.testing.assert_allclose(found.overall[name], metric.compute(sample)[0], atol=1e-12)
    for name, metric in label_metrics().items():
        np.testing.assert_allclose(found.per_label[name], sample.of_labels(metric.compute)[0], atol=1e-12)


def test_predictive_values_are_computed_if_requested():
    truth, probability = many_labels()
    found = ResampledMetrics(truth, probability, "multi", prevalence=[0.1, 0.2, 0.3, 0.4]).per_label
    assert list(found) == list(label_metrics(prevalence=True))
    expected = predictive_values(found["recall"], found["specificity"], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal([found[name] for name in prevalence_metrics()], expected)


@pytest.mark.parametrize("task", TASKS)
def test_an_absent_class_has_no_metrics_and_is_in_no_mean(task):
    truth, probability = TASKS[task]()
    kept = truth[:, 2] == 0
    truth, probability = truth[kept], probability[kept]
    found = ResampledMetrics(truth, probability, task)
    assert np.isnan([found.per_label[name][2] for name in ("recall", "f1", "auroc", "ap", "matthews")]).all()
    others = [i for i in range(4) if i != 2]
    expected = np.mean([skm.roc_auc_score(truth[:, i], probability[:, i]) for i in others])
    assert found.overall["auroc_macro"] == pytest.approx(expected, abs=1e-9)
    weights = truth.sum(axis=0)[others]
    expected = np.average(found.per_label["f1"][others], weights=weights)
    assert found.overall["f1_weighted"] == pytest.approx(expected, abs=1e-9)
    assert not np.isnan(list(found.overall.values())).any()


def test_a_label_that_is_masked_everywhere_is_in_no_mean():
    truth, probability = many_labels()
    truth[:, 2] = -1
    found = ResampledMetrics(truth, probability, "multi")
    others = ResampledMetrics(truth[:, [0, 1, 3]], probability[:, [0, 1, 3]], "multi")
    assert found.overall == pytest.approx(others.overall, abs=1e-12)
    assert np.isnan([values[2] for values in found.per_label.values()]).all()


@pytest.mark.parametrize("task", TASKS)
def test_resamples_have_the_metrics_of_their_repeated_rows(task):
    truth, probability = TASKS[task](n=60)
    if task == "multi":
        truth = np.where(np.random.default_rng(3).random(truth.shape) < 0.2, -1, truth)
    groups = np.random.default_rng(4).integers(10, 35, 60)
    sample = ResampledMetrics(truth, probability, task, groups, prevalence=0.1)
    counts = np.random.default_rng(5).integers(0, 3, (4, sample.n_units)).astype(float)
    found = sample.resampled(counts)
    for i, times in enumerate(counts):
        rows = np.repeat(np.arange(60), times[sample.unit].astype(int))
        again = ResampledMetrics(truth[rows], probability[rows], task, prevalence=0.1)
        for name, value in again.overall.items():
            if "mass" not in name:  # its bins are computed on the split
                assert found.overall[name][i] == pytest.approx(value, abs=1e-12), name
        for name, values in again.per_label.items():
            if "mass" not in name:
                np.testing.assert_allclose(found.per_label[name][i], values, atol=1e-12, err_msg=name)


def test_a_resample_that_lacks_a_class_has_no_mean_over_the_others():
    truth, probability = many_labels(n=40)
    truth[:, 1] = 0
    truth[7, 1] = 1
    sample = ResampledMetrics(truth, probability, "multi")
    counts = np.ones((2, 40))
    counts[0, 7] = 0
    found = sample.resampled(counts)
    for name in ("auroc_macro", "f1_macro", "recall_macro"):
        assert np.isnan(found.overall[name][0])
        assert found.overall[name][1] == sample.overall[name]
    # Its weight is 0 in that resample, so the weighted mean and the metrics of the other labels are defined.
    assert not np.isnan(found.overall["f1_weighted"][0])
    assert np.isnan(found.per_label["auroc"][0]).tolist() == [False, True, False, False]


@settings(max_examples=30)
@given(
    st.sampled_from(sorted(TASKS)),
    st.integers(0, 10),
    hnp.arrays(np.int64, 40, elements=st.integers(0, 39), unique=True),
    st.integers(1, 7),
)
def test_the_order_of_images_and_the_numbering_of_patients_do_not_matter(task, seed, order, factor):
    truth, probability = TASKS[task](n=40, seed=seed)
    groups = np.arange(40) // 2
    found = ResampledMetrics(truth, probability, task, groups)
    other = ResampledMetrics(truth[order], probability[order], task, (groups * factor - 5)[order])
    assert other.n_units == found.n_units
    assert other.overall == pytest.approx(found.overall, abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_without_images_there_is_no_metric(task):
    nothing = ResampledMetrics(np.empty((0, 3), dtype=int), np.empty((0, 3)), task)
    assert np.isnan(list(nothing.overall.values())).all()
    assert np.isnan(list(nothing.per_label.values())).all()
    unknown = ResampledMetrics(np.full((4, 3), -1), np.full((4, 3), 0.3), task)
    assert np.isnan(list(unknown.overall.values())).all()


def test_constant_and_certain_probabilities():
    truth, _ = many_labels(n=30)
    flat = ResampledMetrics(truth, np.full(truth.shape, 0.5), "multi")
    assert (flat.per_label["auroc"] == 0.5).all()
    np.testing.assert_allclose(flat.per_label["ap"], truth.mean(axis=0))
    sure = ResampledMetrics(truth, truth.astype(float), "multi").overall
    expected = {name: float(metric.higher_is_better) for name, metric in overall_metrics("multi").items()}
    assert sure == pytest.approx(expected, abs=1e-9)


def test_invalid_input_is_refused():
    truth, probability = one_class(n=10)
    with pytest.raises(ValueError, match=r"truth row 3 is \[1, 1, 1, 1\]; expected one class"):
        ResampledMetrics(np.where(np.arange(10)[:, None] == 3, 1, truth), probability, "single")
    with pytest.raises(ValueError, match="threshold is"):
        ResampledMetrics(truth, probability, "multi", threshold=[0.5, 0.5])
    with pytest.raises(ValueError, match="threshold is nan"):
        ResampledMetrics(truth, probability, "multi", threshold=np.nan)
    assert np.isnan(
        ResampledMetrics(truth, probability, "multi", prevalence=np.nan).per_label[next(iter(prevalence_metrics()))]
    ).all()
    with pytest.raises(ValueError, match="groups has shape"):
        ResampledMetrics(truth, probability, "single", groups=[1, 2])
    with pytest.raises(ValueError, match="groups holds float64"):
        ResampledMetrics(truth, probability, "single", groups=np.full(10, np.nan))
    with pytest.raises(ValueError, match="between 0 and 1"):
        ResampledMetrics(truth, probability, "single", prevalence=2)


@pytest.mark.parametrize(("groups", "by"), [(None, "image"), (np.arange(200) // 2, "patient")])
def test_a_part_of_a_split_is_resampled_as_the_split(groups, by):
    truth, probability = many_labels()
    split = ResampledMetrics(truth, probability, "multi", None if groups is None else groups[: len(truth)])
    assert split.select(np.arange(len(truth)) < 9).by == by
