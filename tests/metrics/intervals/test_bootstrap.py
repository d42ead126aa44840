import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats
from sklearn.metrics import average_precision_score

from tests.metrics.cases import many_labels, one_class
from xrayfast.metrics import ranking, resamples
from xrayfast.metrics.intervals import bootstrap, estimates, resampling
from xrayfast.metrics.intervals.bootstrap import (
    MIN_FOR_MEAN_PRECISION,
    MIN_UNITS,
    Interval,
    Intervals,
    intervals,
    paired_differences,
)
from xrayfast.metrics.intervals.formulas import METHODS, estimate_auroc, newcombe_auroc
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.intervals.resampling import draws, left_out
from xrayfast.metrics.registry import label_metrics, metric_phrase, overall_metrics

TASKS = {"single": one_class, "multi": many_labels}


def every(found):
    yield from found.overall.items()
    for name, row in found.per_label.items():
        yield from ((f"{name} {i}", interval) for i, interval in enumerate(row))


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_has_an_interval_around_its_value(task):
    truth, probability = TASKS[task]()
    found = intervals(ResampledMetrics(truth, probability, task, np.arange(120) // 2, prevalence=0.1), resamples=300)
    assert list(found.overall) == list(overall_metrics(task))
    assert list(found.per_label) == list(label_metrics(prevalence=True))
    assert (found.n_units, found.by) == (60, "patient")
    for name, interval in every(found):
        assert interval.low <= interval.value <= interval.high, name
        assert 0.01 < interval.high - interval.low < 0.8, name
        assert interval.undefined == 0, name
        assert interval.method in METHODS
        assert (interval.method == "inversion") == ("ece" in name), name
        assert interval.method != "expanded-bca" or not re.match("(recall|specificity|npv|precision) |.*accuracy", name)
    assert (found.notes("abcd") == []) == (min(found.rarer) >= 20)


@pytest.mark.parametrize("task", TASKS)
def test_an_estimate_by_formula_has_the_value_of_its_metric_although_cells_are_masked(task):
    truth, probability = TASKS[task]()
    truth[::7] = -1
    if task == "multi":
        truth[1::5, 1] = truth[2::5, 2] = -1
    split = ResampledMetrics(truth, probability, task, np.arange(120) // 2)
    found, names = estimates.SplitEstimates(split), set()
    for name, metric in split.overall_metrics.items():
        if estimate := found.overall(metric):
            assert estimate.value == pytest.approx(split.overall[name]), name
            names.add(name)
    for name, metric in split.label_metrics.items():
        for i, value in enumerate(split.per_label[name]):
            if estimate := found.label(metric, i):
                assert estimate.value == pytest.approx(value), (name, i)
                names.add(name)
    assert {"precision", "npv", "recall", "specificity", "auroc", "ap", "auroc_macro", "auroc_micro"} <= names
    assert {"single": "accuracy", "multi": "subset_accuracy"}[task] in names


@pytest.mark.parametrize("many", [0, 2**22])
def test_a_micro_auroc_of_few_patients_has_newcombes_interval_over_all_cells(many, monkeypatch):
    """At most 12 of 300 images lack a label."""
    monkeypatch.setattr(estimates, "_MANY_CELLS", many)
    truth, probability = many_labels(n=300)
    truth[12:] = 1
    found = intervals(ResampledMetrics(truth, probability, "multi"), resamples=30).overall["auroc_micro"]
    unit = np.repeat(np.arange(300), truth.shape[1])
    expected = estimate_auroc(truth.ravel() == 1, probability.ravel(), unit, 300)
    assert (found.low, found.high, found.method) == (expected.low, expected.high, "newcombe")


def test_ranking_metrics_count_patients_of_the_rarer_class_and_probability_metrics_all_patients(monkeypatch):
    truth, probability = many_labels(n=90)
    truth[:60, 0] = 0
    rests_on = dict[float, int]()

    def record(drawn, value, without, patients):
        rests_on[value] = patients
        return value - 0.1, value + 0.1

    monkeypatch.setattr(bootstrap, "bca", record)
    split = ResampledMetrics(truth, probability, "multi")
    found = intervals(split, resamples=20)
    rarer = found.rarer[0]
    assert rarer < 30 < found.n_units == 90
    assert rests_on[float(split.per_label["ap"][0])] == rarer
    assert rests_on[float(split.per_label["brier"][0])] == 90


def test_the_result_depends_on_the_seed_and_not_on_the_memory(monkeypatch):
    truth, probability = many_labels(n=50)
    found = intervals(ResampledMetrics(truth, probability, "multi"), resamples=60)
    monkeypatch.setattr(resampling, "_CELLS", 200 * 7)
    assert intervals(ResampledMetrics(truth, probability, "multi"), resamples=60) == found
    assert intervals(ResampledMetrics(truth, probability, "multi"), resamples=60, seed=1) != found
    blocks = list(draws(9, 20, seed=3, block=6))
    assert [len(block) for block in blocks] == [6, 6, 6, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), next(draws(9, 20, seed=3, block=20)))
    assert (np.concatenate(blocks).sum(axis=1) == 9).all()
    # NumPy's global generator is not touched.
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    intervals(ResampledMetrics(truth, probability, "multi"), resamples=5)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("task", TASKS)
def test_work_in_chunks_gives_the_same_result(task, monkeypatch):
    truth, probability = TASKS[task](n=90)
    truth[::7] = -1
    groups = np.arange(90) // 2
    whole = intervals(ResampledMetrics(truth, probability, task, groups, prevalence=0.1), resamples=40)
    for module, name, size in (
        (resamples, "_ROWS", 7),
        (ranking, "_AT_ONCE", 200),
        (ranking, "_PIECE", 5),
        (estimates, "_MANY_CELLS", 0),
    ):
        monkeypatch.setattr(module, name, size)
    parts = intervals(ResampledMetrics(truth, probability, task, groups, prevalence=0.1), resamples=40)
    for (name, one), (_, other) in zip(every(whole), every(parts), strict=True):
        assert (one.low, one.value, one.high) == pytest.approx((other.low, other.value, other.high), abs=1e-12), name


@pytest.mark.parametrize("few_errors", [0, 1])
def test_differences_of_many_cells_equal_those_of_few(few_errors, monkeypatch):
    draw = np.random.default_rng(0)
    truth = (draw.random((600, 3)) < 0.3).astype(int)
    noise = draw.normal(size=truth.shape)
    models = [special.expit(by * (truth - 0.5) + noise) for by in (1.5, 6)]
    a, b = (ResampledMetrics(truth, models[i], "multi") for i in (few_errors, 1 - few_errors))
    found = paired_differences(a, b, resamples=20)
    assert {each.method for each in found.per_label["auroc"]} == {"paired"}
    monkeypatch.setattr(estimates, "_MANY_CELLS", 0)
    a, b = (ResampledMetrics(truth, models[i], "multi") for i in (few_errors, 1 - few_errors))
    assert repr(paired_differences(a, b, resamples=20)) == repr(found)


def test_each_patient_is_left_out_once():
    alone = np.concatenate(list(left_out(5, seed=0, block=2)))
    assert sorted((1 - alone).argmax(axis=1)) == [0, 1, 2, 3, 4]
    assert ((1 - alone).sum(axis=1) == 1).all()
    shares = np.concatenate(list(left_out(1003, seed=0, block=64)))
    assert len(shares) == resampling.SHARES
    assert ((1 - shares).sum(axis=0) == 1).all()
    assert set((1 - shares).sum(axis=1)) == {5, 6}
    other = np.concatenate(list(left_out(1003, seed=1, block=64)))
    neighbors = [(np.diff(np.flatnonzero(one == 0)) == 1).all() for one in shares]
    assert (shares != other).any() and not any(neighbors), "groups are drawn, since the order may mean something"


def test_notes_are_on_labels_that_are_shown_and_begin_below_the_limits():
    fixed, clear = Interval(1, math.nan, math.nan, 0, fixed=True), Interval(1, 0.5, 1, 0)
    found = Intervals({"ece": clear}, {"f1": (clear, fixed)}, MIN_UNITS, "image", 9, 0, (19, 20))
    few, _, same = found.notes("ab")
    assert "Fewer than 20 images in the rarer class of a (19)" in few and same.endswith("value: b (F1).")
    assert found.notes("ab", "b")[1:] == [same] and not any("same value" in note for note in found.notes("ab", "a"))


def test_images_that_all_have_the_label_have_no_biased_mean():
    """The average precision of few images with the label is biased, unless there is none."""
    found = intervals(ResampledMetrics(np.ones((6, 1), int), np.linspace(0.2, 0.8, 6)[:, None], "multi"), resamples=9)
    for name, interval in every(found):
        assert not math.isnan(interval.value) or math.isnan(interval.low), name
        assert not (interval.biased and math.isnan(interval.value)), name
    rare = np.eye(60, 1, dtype=int) + np.eye(60, 1, -1, dtype=int)
    perfect = intervals(ResampledMetrics(rare, rare * 0.8 + 0.1, "multi"), resamples=9).overall["ap_macro"]
    assert (perfect.value, perfect.biased, perfect.fixed) == (1, True, False)


def test_a_label_that_is_often_not_drawn_is_counted_and_noted():
    truth, probability = many_labels(n=60)
    truth[:, 1] = 0
    truth[:2, 1] = 1
    found = intervals(ResampledMetrics(truth, probability, "multi"), resamples=400)
    assert found.per_label["auroc"][1].method == "newcombe"
    assert found.overall["auroc_macro"].method == "combined"
    rare = found.per_label["f1"][1]
    # Neither of the two images is drawn in (1 - 2/60) ** 60 of the resamples.
    assert rare.undefined == pytest.approx((1 - 2 / 60) ** 60, abs=0.05)
    assert rare.low <= rare.value <= rare.high
    assert found.overall["f1_macro"].undefined == rare.undefined
    assert found.per_label["f1"][0].undefined == 0
    few, _, note = found.notes(["a", "b", "c", "d"])
    assert "Fewer than 20 images in the rarer class of b (2)" in few
    assert "more than 5%" in note
    lacking = [metric_phrase(name) for name, each in found.overall.items() if each.undefined > 0.05]
    assert {"macro F1", "macro Matthews' correlation"} <= set(lacking)
    assert f"overall ({', '.join(lacking)})" in note
    truth[:2, 1] = 0
    absent = intervals(ResampledMetrics(truth, probability, "multi"), resamples=50)
    assert np.isnan([absent.per_label["auroc"][1].low, absent.per_label["auroc"][1].high]).all()
    assert absent.overall["auroc_macro"].undefined == 0
    (note,) = absent.notes("abcd")
    assert re.fullmatch(r"No interval, because every resample has the same value: b \(Cohen's kappa\b[^()]*\)\.", note)


def test_a_proportion_of_one_gets_the_interval_of_its_patients():
    truth = np.eye(2, dtype=int)[np.arange(60) % 2]
    patients = np.arange(60) // 3
    found = intervals(ResampledMetrics(truth, truth.astype(float), "single", patients), resamples=50)
    expected = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert (found.overall["accuracy"].low, found.overall["accuracy"].high) == pytest.approx(tuple(expected))
    assert found.overall["accuracy"].method == "wilson-effective"
    # Half of the 20 patients of a class have two images of it: 30**2 / (10 * 2**2 + 10) images if these were copies.
    assert found.per_label["recall"][0].low == pytest.approx(stats.binomtest(18, 18).proportion_ci(method="wilson").low)
    wrong = intervals(ResampledMetrics(truth, 1.0 - truth, "single", patients), resamples=50)
    assert wrong.overall["accuracy"].high == pytest.approx(1 - expected.low)
    auroc = found.per_label["auroc"][0]
    assert (auroc.low, auroc.high, auroc.method) == (*newcombe_auroc(1.0, 20, 20), "newcombe")
    assert 0.89 < found.overall["auroc_macro"].low < 1
    # F1 is not a proportion of trials: it has no interval, and a note says so.
    assert np.isnan([found.overall["f1_macro"].low, found.overall["f1_macro"].high]).all()
    assert found.overall["f1_macro"].fixed
    assert "every resample has the same value" in found.notes("ab")[-1]
    fixed = [metric_phrase(name) for name, each in found.per_label.items() if each[1].fixed]
    assert {"F1", "Cohen's kappa", "Matthews' correlation"} <= set(fixed)
    assert f"b ({', '.join(fixed[:4])} and {len(fixed) - 4} more)" in found.notes("ab")[-1]


@pytest.mark.parametrize(
    ("with_label", "biased"), [(MIN_FOR_MEAN_PRECISION - 1, True), (MIN_FOR_MEAN_PRECISION, False)]
)
def test_a_mean_average_precision_over_a_label_of_fewer_than_10_images_has_no_interval_and_a_note_says_why(
    with_label, biased
):
    truth, probability = many_labels(n=60, labels=2)
    truth[:, 1] = np.arange(60) < with_label
    found = intervals(ResampledMetrics(truth, probability, "multi"), resamples=50)
    mean, label = found.overall["ap_macro"], found.per_label["ap"][1]
    assert mean.value == pytest.approx(np.mean(average_precision_score(truth, probability, average=None)))
    assert (mean.biased, math.isnan(mean.low), math.isnan(label.low)) == (biased, biased, False)
    said = (
        "No interval, because average precision is biased upward for labels with fewer than 10 positive images, and so "
        "is its mean: overall (mean average precision)."
    )
    assert (said in found.notes(["a", "b"])) is biased


def test_there_is_no_interval_where_too_many_resamples_have_no_value():
    """The remaining resamples contain the rare image too often, so the interval would be too narrow."""
    truth, probability = many_labels(n=60, labels=2)
    truth[:, 1] = 0
    truth[:1, 1] = 1
    found = intervals(ResampledMetrics(truth, probability, "multi"), resamples=200)
    rare = found.per_label["f1"][1]
    assert rare.undefined > 0.3
    assert not np.isnan(rare.value)
    assert np.isnan([rare.low, rare.high, found.overall["f1_macro"].low]).all()
    assert not np.isnan(found.per_label["f1"][0].low)
    # The formula gives an interval even with a single image.
    assert found.per_label["auroc"][1].high - found.per_label["auroc"][1].low > 0.3
    assert any("No interval, because a class was not drawn in more than 20%" in note for note in found.notes("ab"))


@pytest.mark.parametrize("task", TASKS)
def test_one_patient_or_no_image_gives_values_and_no_interval(task):
    truth, probability = TASKS[task](n=20)
    found = intervals(ResampledMetrics(truth, probability, task, np.zeros(20, dtype=int)))
    assert found.notes("abcd") == ["No intervals, because fewer than 5 patients are too few to resample."]
    four = intervals(ResampledMetrics(truth, probability, task, np.arange(20) % 4))
    assert all(np.isnan(interval.low) for _, interval in every(four))
    for name, interval in every(found):
        assert not np.isnan(interval.value), name
        assert np.isnan([interval.low, interval.high]).all(), name
    few = intervals(ResampledMetrics(truth, probability, task, np.arange(20)), resamples=20)
    assert "Fewer than 20 patients in the rarer class" in few.notes("abcd")[0]
    assert "With 20 to 60 patients" in few.notes("abcd")[1]
    nothing = intervals(ResampledMetrics(truth[:0], probability[:0], task))
    assert np.isnan([interval.value for _, interval in every(nothing)]).all()


@pytest.mark.parametrize("task", TASKS)
def test_differences_of_a_model_from_itself_are_zero_without_an_interval_of_zero_width(task):
    truth, probability = TASKS[task](n=40)
    for split in (ResampledMetrics(truth, probability, task), ResampledMetrics(truth, truth.astype(float), task)):
        found = paired_differences(split, split, resamples=40)
        for name, interval in every(found):
            assert interval.value == 0, name
            assert interval.fixed or interval.low < 0 < interval.high, name
        assert found.overall["accuracy" if task == "single" else "subset_accuracy"].method == "paired"
        assert found.per_label["recall"][0].method == "paired"


def test_differences_change_sign_with_the_order_of_models_and_are_narrow_if_errors_agree():
    truth, a = many_labels(n=150, labels=2)
    b = np.clip(a + np.random.default_rng(1).normal(0, 0.05, a.shape), 0, 1)
    splits = [ResampledMetrics(truth, model, "multi") for model in (a, b)]
    found, back = (paired_differences(*pair, resamples=300) for pair in (splits, splits[::-1]))
    for (name, one), (_, other) in zip(every(found), every(back), strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9), name
    first, second = (intervals(split, resamples=300) for split in splits)
    difference = found.per_label["auroc"][0]
    assert difference.value == pytest.approx(first.per_label["auroc"][0].value - second.per_label["auroc"][0].value)
    alone = first.per_label["auroc"][0].high - first.per_label["auroc"][0].low
    assert difference.high - difference.low < alone / 2


def test_the_difference_of_two_average_precisions_is_resampled_however_few_the_patients_are():
    """Their intervals on the logit scale do not tell how far the two are correlated."""
    truth, probability = many_labels(n=60, labels=1)
    truth[:, 0] = np.arange(60) < 12
    splits = [ResampledMetrics(truth, model, "multi") for model in (probability, probability**2 / 2)]
    assert intervals(splits[0], resamples=20).per_label["ap"][0].method == "logit"
    found = paired_differences(*splits, resamples=20)
    assert (found.per_label["ap"][0].method, found.per_label["auroc"][0].method) == ("expanded-bca", "paired")


def test_differences_of_few_patients_have_their_sign_and_those_of_four_have_no_interval():
    truth, probability = many_labels(n=40, labels=1)
    flat = np.where(truth == 1, 0.6, 0.4)  # two values: fewer bins of equal counts than the other model has
    for groups, low in ((None, 0), (np.arange(40) % 4, None)):
        sides = [ResampledMetrics(truth, model, "multi", groups) for model in (flat, probability**4)]
        recall = paired_differences(*sides, resamples=9).per_label["recall"][0]
        assert recall.value > 0 and (math.isnan(recall.low) if low is None else recall.low < recall.value < recall.high)


def test_what_cannot_be_resampled_is_refused():
    truth, probability = one_class(n=10)
    with pytest.raises(ValueError, match="resamples is 0"):
        intervals(ResampledMetrics(truth, probability, "single"), resamples=0)
    with pytest.raises(ValueError, match="shape"):
        ResampledMetrics(truth, probability[:, :2], "single")


# Not ru_maxrss, which starts at the peak of the parent process.
SPEED = """
import re, time, numpy as np
from pathlib import Path
from xrayfast.metrics.intervals.bootstrap import intervals
from xrayfast.metrics.intervals.formulas import METHODS, newcombe_auroc
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
rng = np.random.default_rng(0)
truth = (rng.random((10_000, 14)) < rng.uniform(0.02, 0.5, 14)).astype(int)
probability = 1 / (1 + np.exp(-(rng.normal(size=truth.shape) + 2 * truth - 1)))
start = time.process_time()
intervals(ResampledMetrics(truth, probability, "multi", np.arange(10_000) // 2))
kilobytes = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(time.process_time() - start, int(kilobytes) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is asked of Linux")
def test_a_thousand_resamples_of_ten_thousand_images_and_fourteen_labels():
    done = subprocess.run([sys.executable, "-c", SPEED], capture_output=True, text=True, timeout=300, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 20
    assert megabytes < 1500
