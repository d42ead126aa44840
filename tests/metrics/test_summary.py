import json

import numpy as np
import pytest
import sklearn.metrics as skm

from xrayfast.metrics.classification import nan_to_none
from xrayfast.metrics.intervals.bootstrap import intervals
from xrayfast.metrics.intervals.delong import delong
from xrayfast.metrics.intervals.formulas import logit_limits
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.operating_points.thresholds import decide
from xrayfast.metrics.registry import epoch_metrics, label_metrics, overall_metrics
from xrayfast.metrics.reliability import reliability
from xrayfast.metrics.summary import MOST_LIKELY, compute_epoch_metrics, most_confused, summarize

RNG = np.random.default_rng(1)


def single(n=80, classes=3):
    truth = np.eye(classes, dtype=int)[RNG.integers(0, classes, n)]
    logits = RNG.normal(size=(n, classes)) + 1.5 * truth
    return truth, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def multi(n=80, labels=4):
    truth = RNG.integers(0, 2, (n, labels))
    return truth, 1 / (1 + np.exp(-(RNG.normal(size=(n, labels)) + 2 * truth - 1)))


def test_single_label_metrics_equal_scikit_learn():
    truth, probability = single()
    actual, guess = truth.argmax(1), probability.argmax(1)
    found = compute_epoch_metrics(truth, probability, "single")
    assert found["accuracy"] == skm.accuracy_score(actual, guess)
    assert found["f1_macro"] == pytest.approx(skm.f1_score(actual, guess, average="macro"), abs=1e-9)
    expected = skm.roc_auc_score(actual, probability, multi_class="ovr", average="macro")
    assert found["auroc_macro"] == pytest.approx(expected, abs=1e-9)


def test_multi_label_metrics_equal_scikit_learn():
    truth, probability = multi()
    guess = probability >= 0.5
    found = compute_epoch_metrics(truth, probability, "multi")
    assert found["subset_accuracy"] == skm.accuracy_score(truth, guess)
    assert found["f1_macro"] == pytest.approx(skm.f1_score(truth, guess, average="macro"), abs=1e-9)
    assert found["auroc_macro"] == pytest.approx(skm.roc_auc_score(truth, probability), abs=1e-9)
    assert found["ap_macro"] == pytest.approx(skm.average_precision_score(truth, probability), abs=1e-9)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_summary_is_json_with_the_named_keys(task):
    truth, probability = single() if task == "single" else multi(labels=3)
    summary = summarize(truth, probability, ["a", "b", "c"], task)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert list(summary["overall"]) == list(overall_metrics(task))
    counted = {"label", "support", "negatives", *(["threshold"] if task == "multi" else [])}
    assert set(summary["per_label"][0]) == counted | set(label_metrics())
    assert set(epoch_metrics(task)) <= set(overall_metrics(task))
    assert "intervals" not in summary
    assert summary["images"] == 80
    if task == "single":
        assert np.trace(summary["confusion"]) / 80 == summary["overall"]["accuracy"]
    else:
        assert set(summary["confusion_per_label"]) == {"a", "b", "c"}
        supports = [row["support"] for row in summary["per_label"]]
        assert supports == truth.sum(axis=0).tolist()


def test_an_absent_class_leaves_its_cells_empty_and_says_so():
    truth, probability = single()
    kept = truth[:, 2] == 0
    summary = summarize(truth[kept], probability[kept], ["a", "b", "c"], "single")
    row = summary["per_label"][2]
    assert row["support"] == 0
    assert row["auroc"] is None
    assert row["recall"] is None
    assert summary["overall"]["auroc_macro"] == pytest.approx(
        np.mean([skm.roc_auc_score(truth[kept][:, i], probability[kept][:, i]) for i in range(2)])
    )
    assert "has c" in summary["notes"][0]
    assert "2 of 3" in summary["notes"][0]


def test_masked_cells_are_ignored():
    truth, probability = multi()
    hidden = RNG.random(truth.shape) < 0.4
    hidden[:5] = True  # images with only masked cells
    masked = np.where(hidden, -1, truth)
    summary = summarize(masked, probability, ["a", "b", "c", "d"], "multi")
    guess = probability >= 0.5
    for i, row in enumerate(summary["per_label"]):
        kept = ~hidden[:, i]
        actual, score, called = truth[kept, i], probability[kept, i], guess[kept, i]
        assert row["support"] == actual.sum()
        assert row["auroc"] == pytest.approx(skm.roc_auc_score(actual, score), abs=1e-9)
        assert row["ap"] == pytest.approx(skm.average_precision_score(actual, score), abs=1e-9)
        assert row["f1"] == pytest.approx(skm.f1_score(actual, called), abs=1e-9)
        assert row["specificity"] == pytest.approx(skm.recall_score(1 - actual, ~called), abs=1e-9)
        assert summary["confusion_per_label"][row["label"]] == skm.confusion_matrix(actual, called).tolist()
    some_known = ~hidden.all(axis=1)
    exact = ((guess == truth) | hidden).all(axis=1)[some_known].mean()
    assert summary["overall"]["subset_accuracy"] == pytest.approx(exact)
    assert summary["masked"] == dict(zip("abcd", hidden.sum(axis=0).tolist(), strict=True))
    assert "masked" in summary["notes"][-1]
    # The prediction for a masked cell changes nothing.
    elsewhere = np.where(hidden, 1 - probability, probability)
    again = summarize(masked, elsewhere, ["a", "b", "c", "d"], "multi")
    assert again["overall"] == summary["overall"]
    assert again["most_confused"] == summary["most_confused"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_if_everything_is_masked_nothing_is_claimed():
    summary = summarize(np.full((6, 2), -1), np.full((6, 2), 0.5), ["a", "b"], "multi")
    assert set(summary["overall"].values()) == {None}


def test_the_most_common_class_has_its_share_of_the_images_that_have_a_class():
    truth = np.eye(3, dtype=int)[[0, 0, 0, 1, 2]]
    truth[4] = -1
    found = summarize(truth, np.full((5, 3), 1 / 3), ["a", "b", "c"], "single")
    assert found["most_common"] == {"label": "a", "share": 0.75}


def test_decisions():
    probability = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    assert decide(probability, "single").tolist() == [[1, 0, 0], [0, 0, 1]]
    assert decide(probability, "multi").tolist() == [[1, 0, 0], [0, 0, 1]]
    assert decide(probability, "multi", threshold=0.25).tolist() == [[1, 1, 0], [0, 0, 1]]


def test_most_confused_counts_missed_against_invented_labels():
    truth = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    guess = np.array([[0, 1, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    assert most_confused(truth, guess, ["a", "b", "c"]) == [
        {"actual": "a", "predicted": "b", "count": 2},
        {"actual": "b", "predicted": "c", "count": 1},
    ]


@pytest.mark.parametrize("task", ["single", "multi"])
def test_intervals_delong_and_reliability_equal_those_of_their_functions(task):
    truth, probability = single() if task == "single" else multi(labels=3)
    groups, raw = np.arange(80) // 2, np.clip(probability * 0.9, 0, 1)
    thresholds = np.array([0.3, 0.5, 0.7])
    summary = summarize(
        truth, probability, ["a", "b", "c"], task, threshold=thresholds, groups=groups, prevalence=0.1, resamples=50,
        seed=3, raw=raw,
    )  # fmt: skip
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    found = intervals(ResampledMetrics(truth, probability, task, groups, thresholds, 0.1), resamples=50, seed=3)
    told = summary["intervals"]
    assert (told["by"], told["units"], told["resamples"], told["level"], told["seed"]) == ("patient", 40, 50, 0.95, 3)
    assert summary["patients"] == 40
    for name, one in found.overall.items():
        assert summary["overall"][name] == one.value
        assert (told["overall"][name]["low"], told["overall"][name]["high"]) == (one.low, one.high)
    for i, row in enumerate(summary["per_label"]):
        for name in label_metrics(prevalence=True):
            one = found.per_label[name][i]
            assert row[name] == one.value
            assert told["per_label"][row["label"]][name]["low"] == nan_to_none(one.low)
            assert told["per_label"][row["label"]][name]["method"] == one.method
        assert row["negatives"] == (truth[:, i] == 0).sum()
        formula = delong(truth[:, i], probability[:, i], groups)
        assert told["delong"][row["label"]]["low"] == logit_limits(formula.auroc, formula.error)[0]
        assert row.get("threshold") == (thresholds[i] if task == "multi" else None)
        for when, values in (("before", raw), ("after", probability)):
            bins = reliability(truth[:, i], values[:, i])
            assert [one["count"] for one in summary["reliability"][when][row["label"]]] == [one.count for one in bins]
    assert (MOST_LIKELY in summary["reliability"]["after"]) == (task == "single")


def test_images_without_a_known_class_are_in_no_cell_of_the_confusion_matrix():
    truth, probability = single()
    truth[:30] = -1
    summary = summarize(truth, probability, ["a", "b", "c"], "single")
    assert np.sum(summary["confusion"]) == summary["scored"] == 50


def test_a_split_with_one_class_only_has_no_ranking_metrics_and_says_why():
    truth, probability = single()
    kept = truth[:, 1] == 1
    summary = summarize(truth[kept], probability[kept], ["a", "b", "c"], "single", resamples=20)
    assert [row[name] for row in summary["per_label"] for name in ("auroc", "ap")] == [None] * 6
    assert [summary["overall"][name] for name in ("auroc_macro", "ap_macro")] == [None] * 2
    assert summary["intervals"]["overall"]["ap_macro"]["low"] is None
    assert "No image in this split has a, c" in summary["notes"][0]
    assert "Every unmasked image in this split has b, for which AUROC, average precision and" in summary["notes"][1]


def test_with_two_classes_notes_name_only_the_positive_class():
    truth, probability = single(classes=2)
    few = np.flatnonzero((truth[:, 0] == 1) | (np.arange(len(truth)) % 3 == 0))
    truth, probability = truth[few], probability[few]
    labels, positives = ("normal", "tb"), int(truth[:, 1].sum())
    assert 0 < positives < 20 < len(truth)
    notes = summarize(truth, probability, labels, "single", resamples=20, positive="tb")["notes"]
    assert any(f"in the rarer class of tb ({positives}): their intervals" in note for note in notes)
    both = " ".join(summarize(truth, probability, labels, "single", resamples=20)["notes"])
    assert f"normal ({positives}), tb ({positives})" in both
    absent = truth[:, 0] == 1
    (note, *_) = summarize(truth[absent], probability[absent], labels, "single", positive="tb")["notes"]
    assert note == ("No image in this split has tb, for which AUROC, average precision, recall and F1 are not defined.")
