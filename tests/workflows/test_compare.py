"""The table of compared runs and the differences between them."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats import norm
from sklearn import metrics as sk

import xrayfast as xf
from tests.metrics.cases import many_labels, one_class
from xrayfast.config import Config
from xrayfast.errors import ConfigError, RunError
from xrayfast.metrics.claims.headline import optimism
from xrayfast.metrics.intervals.bootstrap import paired_differences
from xrayfast.metrics.intervals.delong import delong_test
from xrayfast.metrics.intervals.paired_tests import mcnemar, resampled_t_test
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.thresholds import OperatingPoint
from xrayfast.metrics.registry import overall_metrics
from xrayfast.metrics.summary import summarize
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import Run
from xrayfast.workflows.steps import paired
from xrayfast.workflows.steps.paired import RunPredictions, align, compare_folds, compare_pair, correct_p_values

LABELS = ("covid-19", "normal", "pneumonia", "tumour")


def told(truth, probability, labels=LABELS, images=None, patients=None):
    """Return predictions; without `patients`, each image has its own patient."""
    names = [f"{i}.png" for i in range(len(truth))] if images is None else images
    owners = [f"P{i}" for i in range(len(truth))] if patients is None else patients
    return Predictions(
        labels=tuple(labels),
        images=np.array(names, dtype=object),
        patients=np.array(owners, dtype=object),
        truth=truth.astype(np.int64),
        probability=probability,
        loss=np.zeros(len(truth)),
        raw=probability,
    )


def kept(root, name, task="single", thresholds=None, options=None, info=None, **splits):
    """Create a run's folder without a network: settings, labels and predictions."""
    config = Config().updated(options or {})
    facts = {"status": "completed", "phases": [], "parameters": 1000, "seconds": 2.5, **(info or {})}
    run = Run.create(root, name, "x", config, facts)
    predictions = next(iter(splits.values()), None)
    labels = LABELS if predictions is None else predictions.labels
    points = tuple(OperatingPoint(t, "", 0.5, 0.5, 1, 1) for t in thresholds or ())
    run.write_decision(Decision(task, labels, None, points, "f1" if points else None))
    run.write_history([{"epoch": i, "phase": "all", "train_loss": 1.0, "valid_loss": 1.0} for i in (1, 2, 3)])
    for split, what in splits.items():
        run.write_predictions(split, what)
    run.write_metrics({split: {"overall": {}} for split in splits})  # no intervals, as in older versions
    return run


def better(probability, truth, share):
    """Return the probabilities moved towards the truth by `share`, from 0 to 1."""
    return (1 - share) * probability + share * truth


def pick(found, run, metric, label=""):
    rows = found.differences
    row = rows[(rows["run"] == run) & (rows["metric"] == metric) & (rows["label"] == label)]
    assert len(row) == 1
    return row.iloc[0]


@pytest.fixture
def three(tmp_path):
    """Three single-label runs on the same 40 images: c is the best, b the worst."""
    truth, probability = one_class(n=40)
    for name, share in (("a", 0.05), ("b", 0.0), ("c", 0.2)):
        kept(tmp_path, name, valid=told(truth, better(probability, truth, share)))
    return tmp_path


def test_values_are_those_of_scikit_learn_and_scipy(three):
    found = xf.compare([three / name for name in "abc"], resamples=100)
    assert found.table["run"].tolist() == ["c", "a", "b"]
    assert (found.task, found.split, found.reference, found.order) == ("single", "valid", "c", "auroc_macro")
    told_by = {name: Run(three / name).predictions("valid") for name in "abc"}
    truth = told_by["a"].truth
    actual = truth.argmax(axis=1)
    right = {name: one.probability.argmax(axis=1) == actual for name, one in told_by.items()}
    for row in found.table.to_dict("records"):
        probability = told_by[row["run"]].probability
        called = probability.argmax(axis=1)
        assert row["accuracy"] == pytest.approx(sk.accuracy_score(actual, called), abs=1e-9)
        assert row["f1_macro"] == pytest.approx(sk.f1_score(actual, called, average="macro"), abs=1e-9)
        assert row["auroc_macro"] == pytest.approx(sk.roc_auc_score(truth, probability), abs=1e-9)
        assert row["log_loss"] == pytest.approx(sk.log_loss(actual, probability), abs=1e-9)
        for name in overall_metrics("single"):
            if name == "ap_macro":  # a class has fewer than 10 patients
                assert np.isnan(row[f"{name}_low"])
            else:
                assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], name
        assert (row["images"], row["patients"], row["epochs"], row["parameters"]) == (40, 40, 3, 1000)
    for name in "ab":
        accuracy = pick(found, name, "accuracy")
        assert accuracy["difference"] == pytest.approx(right[name].mean() - right["c"].mean(), abs=1e-12)
        assert accuracy["low"] <= accuracy["difference"] <= accuracy["high"]
        only, other = (right[name] & ~right["c"]).sum(), (right["c"] & ~right[name]).sum()
        assert accuracy["p"] == pytest.approx(stats.binomtest(int(only), int(only + other)).pvalue, abs=1e-9)
        for i, label in enumerate(LABELS):
            row = pick(found, name, "auroc", label)
            scores = told_by[name].probability[:, i], told_by["c"].probability[:, i]
            aurocs = [sk.roc_auc_score(truth[:, i], score) for score in scores]
            assert row["difference"] == pytest.approx(aurocs[0] - aurocs[1], abs=1e-9)
            assert row["p"] == pytest.approx(delong_test(truth[:, i], *scores).p, abs=1e-9)
    tested = found.differences["p"].notna()
    assert found.tests == 3 * (1 + len(LABELS)) == tested.sum() * 3 / 2
    np.testing.assert_allclose(
        found.differences["p_corrected"][tested],
        np.minimum(found.differences["p"][tested] * found.tests, 1),
        atol=1e-12,
    )
    assert (found.differences["test"] == "").eq(~tested).all()
    assert any("15 tests, corrected by Bonferroni's method over every pair of runs" in note for note in found.notes)


def test_significance_needs_the_corrected_p_and_the_interval():
    p = [0.001, 0.001, 0.04, np.nan]
    low, high = [0.1, -0.1, 0.1, 0.1], [0.3, 0.3, 0.3, 0.3]
    rows = [{"run": "a", "p": one, "low": left, "high": right} for one, left, right in zip(p, low, high, strict=True)]
    table, tests = correct_p_values([*rows, {"run": "b", "p": 0.03, "low": -0.3, "high": -0.1}])
    assert tests == 4
    np.testing.assert_allclose(table["p_corrected"], [0.004, 0.004, 0.06, np.nan, 0.06], atol=1e-12)
    assert table["significant"].tolist() == [True, False, False, None, False]
    assert correct_p_values([{"run": "b", "p": 0.03, "low": -0.3, "high": -0.1}])[0]["significant"].tolist() == [True]


def test_a_reference_chosen_as_the_best_of_many_raises_no_false_alarms():
    """Simulate runs that are equally good, and count how often one differs significantly from the best of them."""
    rng, alarms = np.random.default_rng(0), {True: 0, False: 0}
    studies, runs = 400, 20
    for _ in range(studies):
        results = rng.normal(size=runs)
        z = (np.delete(results, results.argmax()) - results.max()) / np.sqrt(2)
        rows = [{"run": str(i), "p": 2 * norm.sf(-one), "low": -2.0, "high": -1.0} for i, one in enumerate(z)]
        for corrected in alarms:
            table, tests = correct_p_values(rows, runs if corrected else 2)
            alarms[corrected] += bool(table["significant"].any())
        assert tests == runs - 1
    assert alarms[True] / studies <= 0.05 < 0.08 < alarms[False] / studies
    assert correct_p_values(rows, runs)[1] == runs * (runs - 1) // 2


def test_intervals_come_from_metrics_json_where_it_has_them(three):
    run = Run(three / "a")
    valid = run.predictions("valid")
    summary = summarize(valid.truth, valid.probability, valid.labels, "single", groups=valid.groups, resamples=50)
    summary["intervals"]["overall"]["f1_macro"] = {"low": 0.125, "high": 0.875, "method": "bca", "undefined": 0.0}
    run.write_metrics({"valid": summary})
    Run(three / "b").write_metrics({"valid": {"overall": {"accuracy": 0.0}}})  # as written by older versions
    table = xf.compare(three, resamples=50).table.set_index("run")
    assert table.loc["a", ["f1_macro_low", "f1_macro_high"]].tolist() == [0.125, 0.875]
    assert table.loc["b", "accuracy"] > 0
    expected = summary["intervals"]["overall"]["kappa"]
    assert table.loc["a", ["kappa_low", "kappa_high"]].tolist() == [expected["low"], expected["high"]]


@pytest.mark.parametrize(("order", "first"), [("accuracy", "c"), ("brier", "c"), ("log_loss", "c"), ("ece", "c")])
def test_runs_are_ordered_best_first_also_if_lower_is_better(three, order, first):
    found = xf.compare(three, order=order, resamples=20)
    values = found.table[order].tolist()
    assert values == sorted(values, reverse=order == "accuracy")
    assert order in found.metrics
    if order != "ece":
        assert found.table["run"][0] == found.reference == first


def test_an_undefined_metric_comes_last(tmp_path):
    truth, probability = one_class(n=40)
    kept(tmp_path, "a", valid=told(truth[:1], probability[:1]))
    kept(tmp_path, "b", valid=told(truth, probability))
    found = xf.compare(tmp_path, resamples=20)
    assert found.table["run"].tolist() == ["b", "a"]
    assert json.dumps(found.to_json(), allow_nan=False)


def test_images_are_matched_by_name_and_labels_by_name(tmp_path):
    truth, probability = many_labels(n=60, hidden=0.1)
    thresholds = [0.3, 0.5, 0.6, 0.7]
    other = better(probability, np.where(truth < 0, 0.5, truth), 0.1)
    kept(tmp_path, "a", "multi", thresholds, test=told(truth, probability))
    kept(tmp_path, "b", "multi", [0.6, 0.4, 0.5, 0.3], test=told(truth, other))
    plain = xf.compare(tmp_path, reference="b", resamples=50)
    order, columns = np.random.default_rng(1).permutation(60), [2, 0, 3, 1]
    kept(
        tmp_path / "again",
        "a",
        "multi",
        [thresholds[i] for i in columns],
        test=told(
            truth[order][:, columns],
            probability[order][:, columns],
            [LABELS[i] for i in columns],
            [f"{i}.png" for i in order],
            [f"P{i}" for i in order],
        ),
    )
    shuffled = xf.compare([tmp_path / "again" / "a", tmp_path / "b"], reference="b", resamples=50)
    assert plain.split == shuffled.split == "test"
    for metric in plain.metrics:
        assert pick(shuffled, "a", metric)["difference"] == pytest.approx(
            pick(plain, "a", metric)["difference"], abs=1e-12
        )
        assert pick(shuffled, "a", metric)["p"] == pytest.approx(pick(plain, "a", metric)["p"], nan_ok=True)
    for label in LABELS:
        assert pick(shuffled, "a", "auroc", label)["p"] == pytest.approx(pick(plain, "a", "auroc", label)["p"])


def test_each_run_s_own_thresholds_decide(tmp_path):
    truth, probability = many_labels()
    low, high = [0.2] * 4, [0.7] * 4
    kept(tmp_path, "low", "multi", low, valid=told(truth, probability))
    kept(tmp_path, "high", "multi", high, valid=told(truth, probability))
    found = xf.compare(tmp_path, reference="high", resamples=50)
    right = [((probability >= t) == truth).all(axis=1) for t in (0.2, 0.7)]
    row = pick(found, "low", "subset_accuracy")
    assert row["difference"] == pytest.approx(right[0].mean() - right[1].mean(), abs=1e-12)
    only, other = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
    assert row["p"] == pytest.approx(stats.binomtest(int(only), int(only + other)).pvalue, abs=1e-9)
    f1 = [sk.f1_score(truth, probability >= t, average="macro") for t in (0.2, 0.7)]
    assert pick(found, "low", "f1_macro")["difference"] == pytest.approx(f1[0] - f1[1], abs=1e-9)
    assert pick(found, "low", "auroc_macro")["difference"] == 0


def test_equal_runs_have_differences_of_zero(tmp_path):
    truth, probability = one_class()
    for name in "ab":
        kept(tmp_path, name, valid=told(truth, probability))
    found = xf.compare(tmp_path, resamples=50)
    assert any("all its probabilities are equal to those of a: it may be a copy" in note for note in found.notes)
    rows = found.differences
    assert (rows["difference"] == 0).all()
    # Intervals have a width above 0, or there is none.
    assert ((rows["low"] < 0) & (rows["high"] > 0) | rows["low"].isna()).all()
    assert rows["low"].notna().any()
    assert (rows["p"].dropna() == 1).all()
    assert (rows["p_corrected"].dropna() == 1).all()
    assert not rows["significant"].dropna().any()


def test_more_images_of_the_same_patients_add_no_evidence(tmp_path):
    """Copies of images add no evidence: p and intervals remain those of the 40 patients."""
    truth, probability = one_class(n=40)
    other = better(probability, truth, 0.15)
    for name, values in (("a", probability), ("b", other)):
        kept(tmp_path / "once", name, valid=told(truth, values))
        copies = [np.repeat(table, 5, axis=0) for table in (truth, values)]
        kept(tmp_path / "five", name, valid=told(*copies, patients=np.repeat([f"P{i}" for i in range(40)], 5)))
    once, five = (xf.compare(tmp_path / folder, resamples=40) for folder in ("once", "five"))
    row = five.differences.iloc[0]
    assert (row["images"], row["patients"]) == (200, 40)
    assert five.differences["p"].tolist() == pytest.approx(once.differences["p"].tolist(), abs=1e-9, nan_ok=True)
    accuracy = five.differences["metric"] == "accuracy"
    for name in ("low", "high"):
        ends, expected = five.differences[name], once.differences[name]
        assert ends[~accuracy].tolist() == pytest.approx(expected[~accuracy].tolist(), abs=1e-9, nan_ok=True)
        # Wilson's interval for the effective number of images of 40 patients is slightly wider than for 40 images.
        assert 0 <= (ends - expected)[accuracy].item() * (-1 if name == "low" else 1) < 0.03


def test_patients_that_only_one_run_knows_count_for_both():
    truth, probability = many_labels(n=40)
    owners = np.repeat([f"P{i}" for i in range(20)], 2)
    known = RunPredictions(told(truth, probability, patients=owners), Decision("multi", LABELS))
    calibrated = replace(told(truth, probability**2, patients=[""] * 40), raw=1 - probability)
    unknown = RunPredictions(calibrated, Decision("multi", LABELS))
    for one, other in ((known, unknown), (unknown, known)):
        rows, _ = compare_pair(one, other, ["subset_accuracy"], 5, 0)
        assert [row["patients"] for row in rows] == [20] * 5
        right = [((each.predictions.probability >= 0.5) == truth).all(axis=1) for each in (one, other)]
        assert rows[0]["p"] == mcnemar(*right, np.arange(40) // 2).p
        scores = one.predictions.probability[:, 2], other.predictions.probability[:, 2]
        assert rows[3]["p"] == delong_test(truth[:, 2], *scores, np.arange(40) // 2).p


def test_pixels_are_compared_only_if_both_runs_read_dicom_files_with_the_same_window():
    truth, probability = many_labels(n=3)
    runs = [
        RunPredictions(told(truth, probability), Decision("multi", LABELS), {"1.png": digest}, window)
        for digest, window in (("x", "auto"), ("y", "auto"), ("y", "full"))
    ]
    assert align(runs[0], runs[1], LABELS) == "1 of the 3 images of the same name have different pixels: 1.png"
    for one, other in ((0, 2), (1, 2)):
        assert [rows.tolist() for rows in align(runs[one], runs[other], LABELS)] == [[0, 1, 2]] * 2


def test_masked_labels_do_not_decide_whether_an_image_is_right():
    truth, probability = many_labels(n=80, hidden=0.4)
    truth[::10] = -1
    sides = [RunPredictions(told(truth, p), Decision("multi", LABELS)) for p in (probability, probability**2)]
    (row, *_), _ = compare_pair(*sides, ["subset_accuracy"], 5, 0)
    kept = (truth >= 0).any(axis=1)
    a, b = (((side.predictions.probability >= 0.5) == truth) | (truth < 0) for side in sides)
    only, other = (a.all(1) & ~b.all(1))[kept].sum(), (b.all(1) & ~a.all(1))[kept].sum()
    assert min(only, other) > 0
    assert row["p"] == pytest.approx(stats.binomtest(int(only), int(only + other)).pvalue)


def test_folds_are_tested_with_the_share_of_images_that_their_networks_were_trained_on(monkeypatch):
    values = {"a": [0.7, 0.8, 0.9, 0.6, 0.8], "b": [0.6, 0.7, 0.85, 0.65, 0.7]}
    folds, numbers = SimpleNamespace(folds=5, inner_valid=0.25), {name: np.arange(10)[:, None] % 5 for name in "ab"}

    def stand_in(name):
        metrics = [{"overall": {"f1_macro": x, "kappa": None if i else x}} for i, x in enumerate(values[name])]
        return SimpleNamespace(
            metrics={"folds": metrics}, folds=folds, images_in_folds=lambda: ([*"abcdefghij"], numbers[name])
        )

    stand_in.is_there = lambda path: path != "run"
    monkeypatch.setattr(paired, "CrossValidation", stand_in)
    one, other, alone = (SimpleNamespace(path=path, labels=LABELS) for path in ("a", "b", "run"))
    cells = (("f1_macro", "", ""), ("kappa", "", ""), ("accuracy", "", "McNemar"), ("auroc", "normal", ""))
    rows = [{"metric": metric, "label": label, "test": test, "p": math.nan} for metric, label, test in cells]
    (note,) = compare_folds(one, other, rows, "b")
    assert "tested over 5 folds" in note
    assert [row["test"] for row in rows] == ["resampled t", "", "McNemar", ""]
    share = (2 / 10) / (8 / 10 * 0.75)  # predicted by a fold, over trained on by its network
    assert rows[0]["p"] == pytest.approx(resampled_t_test(np.subtract(values["a"], values["b"]), share))
    assert compare_folds(one, alone, rows, "run") == compare_folds(alone, one, rows, "a") == []
    assert "has other labels" in compare_folds(one, SimpleNamespace(path="b", labels=LABELS[:2]), rows, "b")[0]
    numbers["b"] = np.roll(numbers["b"], 1)
    assert compare_folds(one, other, rows, "b") == ["has other folds than b: no test over folds was made."]


def test_only_shared_images_are_compared_and_the_notes_say_how_many(tmp_path):
    truth, probability = one_class()
    kept(tmp_path, "a", valid=told(truth, better(probability, truth, 0.2)))
    kept(tmp_path, "b", valid=told(truth[:90], probability[:90]))
    found = xf.compare(tmp_path, resamples=50)
    assert found.differences["images"].unique().tolist() == [90]
    assert found.table["images"].tolist() == [120, 90]
    assert any("b: compared with a on the 90 images that both have, of 90 and 120" in note for note in found.notes)
    right = [Run(tmp_path / n).predictions("valid").probability[:90].argmax(axis=1) == truth[:90].argmax(axis=1)
             for n in "ba"]  # fmt: skip
    assert pick(found, "b", "accuracy")["difference"] == pytest.approx(right[0].mean() - right[1].mean(), abs=1e-12)


def test_runs_are_compared_in_subgroups_of_the_reference_by_the_images_there(tmp_path):
    truth, probability = one_class(n=120)
    ages = np.where(np.arange(120) < 40, 30.0, np.where(np.arange(120) < 110, 70.0, np.nan))
    attributes = {"sex": np.array(["F", "M", ""] * 40, dtype=object), "age": ages}
    for name, share in (("a", 0.3), ("b", 0.0)):
        kept(tmp_path, name, valid=replace(told(truth, better(probability, truth, share)), attributes=attributes))
    found = xf.compare(tmp_path, resamples=40, by=["sex", "age"])
    rows = found.subgroups
    assert rows[["by", "value"]].drop_duplicates().to_numpy().tolist() == [
        ["sex", "F"], ["sex", "M"], ["age", "18-39"], ["age", "60-79"],
    ]  # fmt: skip
    a, b = (Run(tmp_path / name).predictions("valid") for name in "ab")
    for sex in "FM":
        there = attributes["sex"] == sex
        alone = [ResampledMetrics(one.truth[there], one.probability[there], "single") for one in (b, a)]
        expected = paired_differences(*alone, 40, seed=0).overall["accuracy"]
        row = rows[(rows["value"] == sex) & (rows["metric"] == "accuracy")].iloc[0]
        assert (row["run"], row["reference"], row["images"]) == ("b", "a", 40)
        right = [(one.probability.argmax(axis=1) == one.truth.argmax(axis=1))[there].mean() for one in (b, a)]
        assert row["difference"] == pytest.approx(right[0] - right[1])
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    # There is no AUROC if a class has fewer than ten images in the subgroup.
    few = {value: min(truth[attributes["sex"] == value].sum(axis=0)) < 10 for value in "FM"}
    shown = {
        value: rows[(rows["value"] == value) & (rows["metric"] == "auroc_macro")]["difference"].isna().item()
        for value in "FM"
    }
    assert shown == few
    assert found.to_json()["subgroups"][0]["by"] == "sex" and found.population["sex"] == {"": 40, "F": 40, "M": 40}
    assert xf.compare(tmp_path, resamples=40).subgroups is None
    with pytest.raises(ConfigError, match="device"):
        xf.compare(tmp_path, resamples=40, by="device")


DIFFERENT = {
    "images": ({"images": [f"other/{i}" for i in range(60)]}, "no image in common"),
    "labels": ({"labels": ("covid-19", "normal", "pneumonia", "fracture")}, "its labels differ"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_runs_on_other_data_are_listed_without_tests_and_a_note_says_why(tmp_path, case):
    truth, probability = one_class(n=60)
    kept(tmp_path, "a", valid=told(truth, better(probability, truth, 0.3)))
    kept(tmp_path, "b", valid=told(truth, better(probability, truth, 0.2)))
    changed, why = DIFFERENT[case]
    kept(tmp_path, "odd", valid=told(truth, probability, **changed))
    found = xf.compare(tmp_path, resamples=20)
    assert set(found.table["run"]) == {"a", "b", "odd"}
    assert set(found.differences["run"]) == {"b"}
    assert any("odd: not compared with a: " in note and why in note for note in found.notes)


def test_runs_that_mask_other_cells_are_not_paired_and_the_note_names_the_options(tmp_path):
    truth, probability = many_labels(n=60)
    masked = truth.copy()
    masked[[3, 8], 1] = -1
    kept(tmp_path, "a", "multi", valid=told(truth, probability))
    kept(tmp_path, "b", "multi", valid=told(masked, probability))
    text = " ".join(xf.compare(tmp_path, resamples=20).notes)
    assert (
        "2 of the 60 images of the same name have cells that are masked in only one of the two runs, '3.png' a" in text
    )
    assert "the runs' --uncertain or --blank differ" in text


def test_images_of_one_name_with_other_labels_or_pixels_are_not_paired(tmp_path):
    truth, probability = one_class(n=60)
    changed = truth.copy()
    changed[7] = np.roll(changed[7], 1)
    for name, labels in (("a", truth), ("b", truth), ("mended", changed), ("other", truth)):
        run = kept(tmp_path, name, valid=told(labels, better(probability, truth, 0.3 if name == "a" else 0.1)))
        digests = [f"{name if name == 'other' and i < 2 else 'same'}{i}" for i in range(60)]
        split = pd.DataFrame({"image": [f"{i}.png" for i in range(60)], "patient": "", "split": "valid"})
        run.write_split(split.assign(digest=digests) if name != "b" else split)
    found = xf.compare(tmp_path, resamples=20)
    assert set(found.differences["run"]) == {"b"}  # b has no digests of its images, like older runs
    text = " ".join(found.notes)
    assert "mended: not compared with a: 1 of the 60 images of the same name have different labels, '7.png'" in text
    assert "other: not compared with a: 2 of the 60 images of the same name have different pixels: 0.png, 1.png" in text


def test_two_classes_have_one_auroc(tmp_path):
    truth, probability = one_class(n=60, classes=2)
    for name, share in (("a", 0.0), ("b", 0.2)):
        kept(tmp_path, name, valid=told(truth, better(probability, truth, share), LABELS[:2]))
    found = xf.compare(tmp_path, resamples=20)
    assert found.tests == 2
    assert found.differences["label"].tolist().count("") == len(found.metrics)


def test_labels_of_few_patients_are_named(tmp_path):
    truth, probability = many_labels()
    truth[:, 2] = 0
    truth[:4, 2] = 1
    for name, share in (("a", 0.0), ("b", 0.2)):
        kept(tmp_path, name, "multi", valid=told(truth, better(probability, truth, share)))
    notes = xf.compare(tmp_path, resamples=20).notes
    assert any(
        "fewer than 10 patients with or without pneumonia (4): DeLong's p is only approximate" in n for n in notes
    )


def test_how_runs_were_trained(tmp_path):
    truth, probability = one_class(n=30)
    cases = {
        "head": ({}, "head", "ce"),
        "one": ({"loss": "focal"}, "last block", "focal, gamma 2"),
        "two": ({"arch": "vgg16"}, "last 2 blocks", "ce"),
        "all": ({"size": 64, "head": "classifier", "head_width": (500, 100)}, "all", "ce"),
    }
    for name, (options, trained, _) in cases.items():
        phases = [{"name": phase, "epochs": 1, "lrs": [1e-3]} for phase in dict.fromkeys(["head", trained])]
        kept(tmp_path, name, options=options, info={"phases": phases}, valid=told(truth, probability))
    table = xf.compare(tmp_path, resamples=20).table.set_index("run")
    for name, (_, trained, loss) in cases.items():
        assert table.loc[name, ["trained", "loss"]].tolist() == [trained, loss]
    assert table.loc["two", "arch"] == "vgg16"
    assert table.loc["all", "size"] == 64
    assert table["head"].to_dict() == dict.fromkeys(cases, "fastai 512") | {"all": "classifier 500 100"}
    assert table["seconds"].tolist() == [2.5] * 4


def test_runs_are_compared_on_test_if_all_have_it_else_on_validation_with_a_note(tmp_path):
    truth, probability = one_class(n=20)
    split = told(truth, probability)
    kept(tmp_path, "a", valid=split, test=split)
    kept(tmp_path, "b", valid=split, test=split)
    found = xf.compare(tmp_path, resamples=20)
    assert found.split == "test"
    assert not found.warnings
    assert xf.compare(tmp_path, split="valid", resamples=20).split == "valid"
    kept(tmp_path, "c", valid=split)
    found = xf.compare(tmp_path, resamples=20)
    assert found.split == "valid"
    assert optimism() in found.warnings[0]
    assert "no test split in c" in found.warnings[0]
    with pytest.raises(RunError, match="no predictions of split 'test'"):
        xf.compare(tmp_path, split="test", resamples=20)


def test_runs_named_twice_and_unfinished_ones_in_a_folder_are_left_out_with_a_note(three):
    kept(three, "unfinished", info={"status": "interrupted"})
    found = xf.compare([three / "a", three, three / "a"], resamples=20)
    assert sorted(found.table["run"]) == ["a", "b", "c"]
    assert "Given twice and compared once" in found.notes[0]
    assert "unfinished" in found.notes[1]


def test_runs_of_one_name_are_distinguished_by_their_paths(three):
    valid = Run(three / "a").predictions("valid")
    other = kept(three / "elsewhere", "a", valid=valid)
    found = xf.compare([three / "a", other, three / "b"], reference=other, resamples=20)
    assert set(found.table["run"]) == {str(three / "a"), str(other.path), "b"}
    assert found.reference == str(other.path)


def test_errors_say_what_to_do(three, tmp_path):
    with pytest.raises(RunError, match=r"needs two or more runs, but only .*a was found\. Given twice"):
        xf.compare([three / "a", three / "a"])
    with pytest.raises(RunError, match="no such run"):
        xf.compare([three / "a", three / "nothing"])
    (three / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty: is not a run's folder .* and contains none"):
        xf.compare([three / "a", three / "empty"])
    kept(three, "unfinished", info={"status": "interrupted"})
    with pytest.raises(RunError, match=r"status is 'interrupted'.*xf\.resume\("):
        xf.compare([three / "a", three / "unfinished"])
    truth, probability = many_labels()
    kept(three, "multi", "multi", valid=told(truth, probability))
    with pytest.raises(RunError, match=r"Single-label runs \(a\) and multi-label runs \(multi\)"):
        xf.compare([three / "a", three / "multi"])
    with pytest.raises(ConfigError, match=r"order is 'auroc'.*Did you mean"):
        xf.compare([three / "a", three / "b"], order="auroc")
    with pytest.raises(ConfigError, match="reference is 'd'"):
        xf.compare([three / "a", three / "b"], reference="d")
    with pytest.raises(ConfigError, match="split is 'train'"):
        xf.compare([three / "a", three / "b"], split="train")
    doubled = told(truth, probability, images=["x.png"] * len(truth))
    kept(three, "doubled", "multi", valid=doubled)
    with pytest.raises(RunError, match=r"'x\.png' is more than once in its predictions of split 'valid'"):
        xf.compare([three / "multi", three / "doubled"])


def test_json_holds_all_of_it_and_no_nan(three):
    found = xf.compare(three, resamples=20)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [row["run"] for row in content["runs"]] == found.table["run"].tolist()
    assert set(content["runs"][0]["metrics"]) == set(overall_metrics("single"))
    first = content["runs"][0]["metrics"]["accuracy"]
    assert list(first.values()) == found.table.loc[0, ["accuracy", "accuracy_low", "accuracy_high"]].tolist()
    assert len(content["differences"]) == len(found.differences)
    assert content["tests"] == found.tests
    shown = found._repr_html_()
    assert all(note[:20] in shown for note in found.notes) and f">{first['value']:.3f}</span>" in shown
    assert repr(found) == f"Comparison({', '.join(found.table['run'])}; {found.split} split, by {found.order})"
    untested = next(row for row in content["differences"] if not row["test"])
    assert untested["p"] is untested["significant"] is None
    assert math.isfinite(untested["low"])


def test_the_same_draws_give_the_same_intervals(three):
    first, second, other = (xf.compare(three, resamples=50, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first.differences, second.differences)
    assert (first.differences["low"] != other.differences["low"]).any()


def test_a_comparison_needs_draws(three):
    with pytest.raises(ConfigError, match="resamples is 0; expected at least 1"):
        xf.compare(three, resamples=0)


def test_runs_with_different_labels_are_compared_on_the_common_ones(tmp_path):
    truth, probability = many_labels(n=60)
    worse = better(probability, 1 - truth, 0.3)
    order = [2, 0]  # without labels 1 and 3, and in another order
    kept(tmp_path, "all", "multi", thresholds=[0.2, 0.4, 0.6, 0.5], valid=told(truth, probability))
    few = told(truth[:, order], worse[:, order], [LABELS[i] for i in order])
    kept(tmp_path, "few", "multi", thresholds=[0.3, 0.7], valid=few)
    found = xf.compare(tmp_path, reference="all", resamples=50)
    assert set(found.differences["label"]) == {"", LABELS[0], LABELS[2]}
    for i in order:
        difference = sk.roc_auc_score(truth[:, i], worse[:, i]) - sk.roc_auc_score(truth[:, i], probability[:, i])
        assert pick(found, "few", "auroc", LABELS[i])["difference"] == pytest.approx(difference)
    predicted = {"few": worse[:, order] >= [0.3, 0.7], "all": probability[:, order] >= [0.6, 0.2]}
    right = {name: (one == (truth[:, order] == 1)).all(axis=1) for name, one in predicted.items()}
    expected = right["few"].mean() - right["all"].mean()
    assert pick(found, "few", "subset_accuracy")["difference"] == pytest.approx(expected)
    text = "few: compared with all on the 2 labels that both have, without normal, tumour; the table's values are over"
    assert any(text in note for note in found.notes)
