"""Metrics by subgroup, and the gaps between them."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from xrayfast.metrics.claims.headline import FEW_PATIENTS
from xrayfast.metrics.intervals.confidence_limits import bca
from xrayfast.metrics.intervals.paired_tests import holm
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.intervals.resampling import draws, left_out
from xrayfast.metrics.subgroups import _Contrast, _gaps, _largest_gaps, age_bands, subgroups
from xrayfast.metrics.summary import summarize
from xrayfast.reporting.wording import gap_test

LABELS = ("a", "b", "c")


def case(seed=0, patients=120, task="multi", images=3):
    """Return images with three labels, a sex per patient and a view per image; women are ranked less well."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(patients), images)
    n = len(group)
    sex = np.where(rng.random(patients) < 0.5, "F", "M")[group]
    view = np.where(rng.random(n) < 0.4, "AP", "PA")
    if task == "single":
        truth = np.eye(3, dtype=np.int64)[rng.integers(3, size=n)]
    else:
        truth = (rng.random((n, 3)) < [0.4, 0.3, 0.5]).astype(np.int64)
    signal = np.where(sex == "F", 0.6, 2.0)[:, None]
    score = truth * signal + rng.normal(size=(patients, 3))[group] * 0.5 + rng.normal(size=(n, 3))
    probability = 1 / (1 + np.exp(1 - score))
    if task == "single":
        probability = probability / probability.sum(axis=1, keepdims=True)
    return truth, probability, sex, view, group


def test_bands_of_age():
    ages = [0, 17.99, 18, 39, 40, 59.5, 60, 79, 80, 90, 120, math.nan, -1]
    expected = ["0-17", "0-17", "18-39", "18-39", "40-59", "40-59", "60-79", "60-79", "80+", "80+", "80+", "", ""]
    assert age_bands(ages).tolist() == expected
    assert age_bands([]).tolist() == []


def test_a_headline_metric_without_an_interval_has_its_reason():
    """One of the 40 images of M has the label c: (1 - 1 / 40) ** 40 of the resamples, 36%, lack it."""
    n = 40
    rng = np.random.default_rng(0)
    truth = np.zeros((2 * n + 3, 2), np.int64)
    truth[::2, 0] = 1
    truth[:n:3, 1] = 1
    truth[n + 1, 1] = 1
    sex = np.array(["F"] * n + ["M"] * n + ["X"] * 3)
    (by,) = subgroups(truth, rng.random(truth.shape), ("a", "c"), "multi", {"sex": sex}, resamples=300)
    women, men, _ = by["groups"]
    assert women["intervals"]["overall"]["f1_macro"]["low"] is not None
    assert men["intervals"]["overall"]["f1_macro"]["low"] is None
    assert men["intervals"]["overall"]["f1_macro"]["undefined"] == pytest.approx((1 - 1 / n) ** n, abs=0.1)
    missing = [note for note in by["notes"] if note.startswith("No interval")]
    assert [note.partition(" (")[0] for note in missing] == ["No interval for M"] * 2 + ["No interval for X"]
    of_mean, of_f1 = sorted(missing[:2], key=lambda note: "F1 macro" in note)
    few = "average precision is biased upward with fewer than 10 images with a label."
    assert of_mean == f"No interval for M (mean average precision): {few}"
    assert of_f1.endswith("some label has no image, or every image, in more than 20% of the resamples.")
    assert missing[2].endswith("fewer than 5 images are too few to resample.")


@pytest.mark.parametrize("task", ["single", "multi"])
def test_metrics_of_a_group_equal_scikit_learns_on_its_rows(task):
    truth, probability, sex, _, group = case(task=task)
    (by,) = subgroups(truth, probability, LABELS, task, {"sex": sex}, threshold=0.4, groups=group)
    assert (by["by"], by["missing"], [one["value"] for one in by["groups"]]) == ("sex", 0, ["F", "M"])
    for found in by["groups"]:
        rows = sex == found["value"]
        assert (found["images"], found["patients"]) == (rows.sum(), len(np.unique(group[rows])))
        if task == "multi":
            called = probability[rows] >= 0.4
        else:
            called = np.eye(3, dtype=bool)[probability[rows].argmax(axis=1)]
        for i, row in enumerate(found["per_label"]):
            assert row["support"] == truth[rows, i].sum()
            assert row["auroc"] == pytest.approx(sk.roc_auc_score(truth[rows, i], probability[rows, i]), abs=1e-12)
            assert row["recall"] == pytest.approx(sk.recall_score(truth[rows, i], called[:, i]), abs=1e-12)
            specificity = sk.recall_score(1 - truth[rows, i], ~called[:, i])
            assert row["specificity"] == pytest.approx(specificity, abs=1e-12)
        right = sk.accuracy_score(truth[rows], called)
        assert found["overall"]["accuracy" if task == "single" else "subset_accuracy"] == pytest.approx(right)


def test_intervals_of_a_group_equal_those_of_a_split_with_only_that_group():
    truth, probability, sex, _, group = case()
    given = {"threshold": np.array([0.3, 0.4, 0.5]), "prevalence": 0.1, "resamples": 50, "seed": 3}
    (by,) = subgroups(truth, probability, LABELS, "multi", {"sex": sex}, groups=group, **given)
    rows = sex == "M"
    alone = summarize(truth[rows], probability[rows], LABELS, "multi", groups=group[rows], **given)
    found = by["groups"][1]
    own = {"value", "with_auroc"}
    assert {name: found[name] for name in found if name not in own} == {
        name: alone[name] for name in found if name not in own
    }
    assert found["with_auroc"] == sum(row["auroc"] is not None for row in alone["per_label"])
    assert found["intervals"]["by"] == "patient" and "ppv_at_prevalence" in found["per_label"][0]


def by_loop(counts, truth, probability, called, first, second, group, metric):
    """Return a metric of one label in `first` minus that in `second`, with rows repeated according to `counts`."""
    differences = []
    for drawn in counts:
        ends = []
        for rows in (first, second):
            again = np.repeat(np.flatnonzero(rows), drawn[group[rows]].astype(int))
            t, p, c = truth[again], probability[again], called[again]
            ends.append(
                {
                    "auroc": lambda t=t, p=p: sk.roc_auc_score(t, p),
                    "recall": lambda t=t, c=c: sk.recall_score(t, c),
                    "specificity": lambda t=t, c=c: sk.recall_score(1 - t, 1 - c),
                }[metric]()
            )
        differences.append(ends[0] - ends[1])
    return np.array(differences)


@pytest.mark.parametrize("by", ["sex", "view"])
def test_the_interval_of_a_gap_equals_that_of_a_plain_loop_over_drawn_patients(by):
    """Both views have the same patients, who are drawn once for both."""
    truth, probability, sex, view, group = case(patients=60)
    column = {"sex": sex, "view": view}[by]
    (found,) = subgroups(truth, probability, LABELS, "multi", {by: column}, groups=group, resamples=60, seed=5)
    called = (probability >= 0.5).astype(int)
    drawn = np.concatenate(list(draws(60, 60, 5, 7)))
    without = np.concatenate(list(left_out(60, 5, 7)))
    looked = [gap for gap in found["gaps"] if gap["label"] == "b"]
    assert len(looked) == 3
    for gap in looked:
        given = (truth[:, 1], probability[:, 1], called[:, 1], column == gap["highest"], column == gap["lowest"], group)
        (value,) = by_loop(np.ones((1, 60)), *given, gap["metric"])
        assert gap["difference"] == pytest.approx(value, abs=1e-12) and value >= 0
        assert gap["highest_value"] - gap["lowest_value"] == pytest.approx(value, abs=1e-12)
        low, high = bca(by_loop(drawn, *given, gap["metric"]), value, by_loop(without, *given, gap["metric"]))
        assert (gap["low"], gap["high"]) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_gaps_are_in_descending_order_and_show_the_planted_ones():
    truth, probability, sex, _, group = case(patients=300)
    (by,) = subgroups(truth, probability, LABELS, "multi", {"sex": sex}, groups=group, resamples=100)
    differences = [gap["difference"] for gap in by["gaps"]]
    assert differences == sorted(differences, reverse=True)
    auroc = {gap["label"]: gap for gap in by["gaps"] if gap["metric"] == "auroc"}
    for gap in auroc.values():
        assert (gap["highest"], gap["lowest"]) == ("M", "F")
        assert gap["low"] > 0.1
    (macro,) = [gap for gap in by["gaps"] if gap["metric"] == "auroc_macro"]
    assert macro["labels"] == 3 and macro["label"] is None
    mean = np.mean([gap["difference"] for gap in auroc.values()])
    assert macro["difference"] == pytest.approx(mean, abs=1e-12)
    overall = [group["overall"]["auroc_macro"] for group in by["groups"]]
    assert macro["difference"] == pytest.approx(overall[1] - overall[0], abs=1e-12)
    assert {gap["metric"] for gap in by["gaps"] if gap["label"] is None} == {
        "auroc_macro",
        "recall_macro",
        "specificity_macro",
        "subset_accuracy",
    }
    assert any("of 13 metrics 13 pairs of groups were compared" in note for note in by["notes"])
    assert all(gap["p"] == pytest.approx(1 / 101) and gap["pairs"] == 1 for gap in auroc.values())


def test_of_several_groups_the_two_furthest_apart_are_named():
    truth, probability, _, _, group = case(patients=200)
    third = np.array(["x", "y", "z"])[np.random.default_rng(1).integers(3, size=200)][group]
    (by,) = subgroups(truth, probability, LABELS, "multi", {"third": third}, groups=group)
    recall = {one["value"]: one["per_label"][0]["recall"] for one in by["groups"]}
    (gap,) = [gap for gap in by["gaps"] if (gap["metric"], gap["label"]) == ("recall", "a")]
    assert gap["highest"] == max(recall, key=recall.get) and gap["lowest"] == min(recall, key=recall.get)
    assert gap["low"] is None and gap["high"] is None and gap["pairs"] == 3
    assert "p" not in gap  # no permutation was drawn


def test_the_largest_of_several_gaps_has_a_test_and_no_interval():
    truth, probability, _, _, group = case(patients=200)
    third = np.array(["x", "y", "z"])[np.random.default_rng(1).integers(3, size=200)][group]
    given = truth, probability, LABELS, "multi", {"third": third}
    by, again = (subgroups(*given, groups=group, resamples=50)[0] for _ in range(2))
    assert by["gaps"] and all(gap["low"] is None and 1 / 51 <= gap["p"] <= gap["p_corrected"] for gap in by["gaps"])
    assert by["gaps"] == again["gaps"]
    expected = holm([gap["p"] for gap in by["gaps"]])
    assert [gap["p_corrected"] for gap in by["gaps"]] == pytest.approx(expected.tolist())
    assert "50 permutations of the groups among patients, corrected for 13 metrics (Holm)" in " ".join(by["notes"])


@pytest.mark.parametrize(("patients", "has"), [(FEW_PATIENTS, True), (FEW_PATIENTS - 1, False)])
def test_auroc_and_balanced_accuracy_need_ten_patients_of_each_class(patients, has):
    """So many women have the label a; the other labels are common, so the means over them remain."""
    truth, probability, sex, _, group = case(patients=100)
    rows = sex == "F"
    truth[rows, 0] = np.isin(group, np.unique(group[rows])[:patients])[rows]
    given = {"threshold": np.array([0.3, 0.4, 0.5]), "groups": group, "resamples": 20}
    (by,) = subgroups(truth, probability, LABELS, "multi", {"sex": sex}, **given)
    found, other = by["groups"]
    row, ends = found["per_label"][0], found["intervals"]["per_label"]["a"]
    for name in ("auroc", "balanced_accuracy"):
        assert (row[name] is not None, ends[name]["low"] is not None) == (has, has)
        assert other["per_label"][0][name] is not None
    assert row["recall"] is not None and row["specificity"] is not None
    kept = [i for i in range(3) if i or has]
    mean = np.mean([sk.roc_auc_score(truth[rows, i], probability[rows, i]) for i in kept])
    assert found["with_auroc"] == len(kept)
    assert found["overall"]["auroc_macro"] == pytest.approx(mean, abs=1e-12)
    end = found["intervals"]["overall"]["auroc_macro"]
    assert end["low"] < mean < end["high"]


def test_without_ten_patients_of_a_class_a_single_label_group_has_no_auroc_at_all():
    truth, probability, sex, _, group = case(task="single", patients=100)
    rows = np.flatnonzero(sex == "F")
    truth[rows] = np.eye(3, dtype=np.int64)[np.arange(len(rows)) % 2]
    truth[rows[group[rows] == group[rows[0]]]] = [0, 0, 1]
    (by,) = subgroups(truth, probability, LABELS, "single", {"sex": sex}, groups=group)
    women = by["groups"][0]
    assert women["overall"]["auroc_macro"] is None and women["overall"]["balanced_accuracy"] is None
    assert [row["auroc"] is None for row in women["per_label"]] == [False, False, True]
    assert women["overall"]["accuracy"] is not None


@pytest.mark.slow
def test_ten_groups_that_do_not_differ_have_a_significant_gap_in_five_percent():
    """Patients have one to three images with correlated errors, and the label is more common in some groups.

    With 400 studies, the share of those with any corrected p-value below 0.05 has a standard error of 1.1%.
    """
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        own = rng.integers(10, size=500)
        group = np.repeat(np.arange(500), rng.integers(1, 4, 500))
        truth = (rng.random(500) < np.linspace(0.3, 0.6, 10)[own]).astype(int)[group][:, None]
        score = 1.5 * truth[:, 0] + rng.normal(size=500)[group] + 0.5 * rng.normal(size=len(group))
        split = ResampledMetrics(truth, 1 / (1 + np.exp(0.7 - score[:, None])), "multi", group)
        members = {str(i): own[group] == i for i in range(10)}
        gaps, _ = _gaps(split, ["a"], members, 199, seed, None)
        found.append(min(gap["p_corrected"] for gap in gaps) < 0.05)
    assert 0.02 <= np.mean(found) <= 0.08, np.mean(found)


def test_an_interval_that_the_test_contradicts_is_described_as_that_of_one_gap():
    gap = {"p_corrected": 0.73, "pairs": 1, "low": 0.017, "high": 0.214}
    assert gap_test(gap) == "p 0.73, so it may be chance (the interval is of this gap alone)"
    assert gap_test({**gap, "p_corrected": 0.01}) == "p 0.01" and gap_test({**gap, "low": -0.1}) == "p 0.73"
    assert gap_test({**gap, "low": None, "pairs": 3}) == "p 0.73, the largest of 3 pairs"
    truth, probability, sex, _, group = case()
    (by,) = subgroups(truth, probability, LABELS, "multi", {"sex": sex}, groups=group, resamples=20)
    assert by["notes"][2].endswith("Judge a gap by p: each interval is for one gap alone and is not corrected.")


def test_small_groups_are_noted_and_not_compared():
    truth, probability, sex, _, group = case(patients=60)
    few = sex.astype("<U5").copy()
    few[group < FEW_PATIENTS - 1] = "other"
    few[group == FEW_PATIENTS - 1] = ""
    (by,) = subgroups(truth, probability, LABELS, "multi", {"sex": few}, groups=group, resamples=20)
    assert [one["value"] for one in by["groups"]] == ["F", "M", "other"]
    assert by["missing"] == 3
    assert by["gaps"] and not [gap for gap in by["gaps"] if "other" in (gap["highest"], gap["lowest"])]
    assert "3 images whose sex is unknown are in none of these groups." in by["notes"]
    assert "Too small to be compared at all: other." in by["notes"]


@pytest.mark.parametrize(("rare", "compared"), [(1, "specificity"), (0, "recall")])
def test_a_metric_is_compared_if_there_are_enough_patients(rare, compared):
    """Only nine women have the label, or lack it: too few for AUROC and one of the rates, enough for the other."""
    truth, probability, sex, _, group = case(patients=100)
    truth[(sex == "F") & ~np.isin(group, np.unique(group[sex == "F"])[: FEW_PATIENTS - 1]), 0] = 1 - rare
    (by,) = subgroups(truth, probability, LABELS, "multi", {"sex": sex}, groups=group)
    assert [gap["metric"] for gap in by["gaps"] if gap["label"] == "a"] == [compared]
    together = {gap["metric"]: gap["labels"] for gap in by["gaps"] if gap["metric"].endswith("_macro")}
    assert together == {"auroc_macro": 2, "recall_macro": 2, "specificity_macro": 2, f"{compared}_macro": 3}


def test_the_largest_gap_of_means_is_over_the_labels_that_both_groups_have_enough_patients_for():
    enough = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]], bool)
    values = np.where(enough[:, None], np.random.default_rng(0).random((3, 20, 4)), np.nan)
    gaps = [values[0][:, :2].mean(1) - values[1][:, :2].mean(1), values[0][:, 1:].mean(1) - values[2][:, 1:].mean(1)]
    found = _largest_gaps(values, enough, _Contrast("recall", (0, 1), 0, 1, 0.1))
    np.testing.assert_allclose(found, np.abs(gaps).max(axis=0))


def test_many_images_of_few_patients_count_as_few():
    truth, probability, sex, _, group = case(patients=2 * FEW_PATIENTS - 4, images=12)
    (by,) = subgroups(truth, probability, LABELS, "multi", {"sex": sex}, groups=group)
    assert by["gaps"] == []
    (by,) = subgroups(truth, probability, LABELS, "multi", {"sex": sex})  # each image counts as a patient
    assert len(by["gaps"]) == 13


def test_masked_cells_are_ignored():
    truth, probability, sex, _, group = case()
    truth[:, 1] = -1  # masked
    truth[sex == "F", 2] = -1  # masked for women
    (by,) = subgroups(truth, probability, LABELS, "multi", {"sex": sex}, groups=group, resamples=20)
    assert {gap["label"] for gap in by["gaps"]} == {"a", None}
    assert {gap["metric"] for gap in by["gaps"] if gap["label"] is None} == {"subset_accuracy"}
    assert by["groups"][0]["per_label"][2]["auroc"] is None


def test_single_label():
    truth, probability, sex, _, group = case(task="single")
    (by,) = subgroups(truth, probability, LABELS, "single", {"sex": sex}, groups=group, resamples=20)
    names = {gap["metric"] for gap in by["gaps"] if gap["label"] is None}
    assert names == {"accuracy", "auroc_macro", "recall_macro", "specificity_macro"}
    assert all(gap["low"] <= gap["difference"] <= gap["high"] for gap in by["gaps"])


def test_one_group_or_none():
    truth, probability, sex, _, _ = case()
    all_women, nobody = np.full(len(sex), "F"), np.full(len(sex), "")
    one, none = subgroups(truth, probability, LABELS, "multi", {"sex": all_women, "view": nobody})
    assert (len(one["groups"]), one["gaps"], one["notes"]) == (1, [], [])
    assert (none["groups"], none["gaps"], none["missing"]) == ([], [], len(sex))
    with pytest.raises(ValueError, match="expected one value for each of"):
        subgroups(truth, probability, LABELS, "multi", {"sex": ["F"]})


def test_with_two_classes_each_gap_is_named_once():
    truth, probability, sex, _, group = case(task="single", patients=200)
    truth = np.stack([truth[:, 0] + truth[:, 1], truth[:, 2]], axis=1)
    probability = np.stack([probability[:, 0] + probability[:, 1], probability[:, 2]], axis=1)
    of_two = truth, probability, ("covid", "normal"), "single", {"sex": sex}
    (by,) = subgroups(*of_two, groups=group, positive="covid")
    names = [(gap["metric"], gap["label"]) for gap in by["gaps"]]
    assert sorted(names, key=str) == [
        ("accuracy", None), ("auroc", "covid"), ("recall", "covid"), ("specificity", "covid")
    ]  # fmt: skip
    assert all(group["positive"] == "covid" for group in by["groups"])
    (twice,) = subgroups(*of_two, groups=group)
    same = {(gap["metric"], gap["label"]): gap for gap in twice["gaps"]}
    assert all(same[gap["metric"], gap["label"]] == gap for gap in by["gaps"])
