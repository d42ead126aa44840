"""Calibration and thresholds are chosen on the validation split, kept in labels.json, and used everywhere."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import xrayfast as xf
from tests.conftest import INTERVALS, SMALL
from tests.decisions import fit_decision
from xrayfast.config import ResultsConfig, TrainConfig
from xrayfast.errors import ConfigError
from xrayfast.metrics.operating_points.calibration_metrics import TITLES as CALIBRATION
from xrayfast.metrics.operating_points.calibration_metrics import calibration_rows
from xrayfast.metrics.operating_points.fixed_rates import TITLES as FIXED
from xrayfast.metrics.operating_points.fixed_rates import fixed_rate_rows
from xrayfast.metrics.operating_points.thresholds import threshold_array
from xrayfast.progress import NullReporter
from xrayfast.reporting.figures.curves import label_curves
from xrayfast.reporting.html.results_tables import delong_table, label_tables
from xrayfast.workflows.predict import check_abstention
from xrayfast.workflows.steps.results import parse_prevalences, resolve_monitor, threshold_rule


@pytest.fixture
def run(tiny_run, tmp_path):
    return xf.Run(shutil.copytree(tiny_run.path, tmp_path / "single"))


@pytest.fixture
def multi(tiny_multi_run, tmp_path):
    return xf.Run(shutil.copytree(tiny_multi_run.path, tmp_path / "multi"))


def test_a_run_s_thresholds_are_chosen_on_validation_only(tiny_multi_run):
    told = tiny_multi_run.predictions("valid")
    expected = fit_decision(told.truth, told.raw, told.labels, "multi", rule="f1", groups=told.groups)
    found = tiny_multi_run.decision
    np.testing.assert_allclose(found.thresholds, expected.thresholds, rtol=1e-6)
    for split in tiny_multi_run.predicted_splits:
        here = tiny_multi_run.predictions(split)
        np.testing.assert_allclose(here.probability, found.calibrated(here.raw), atol=1e-8)
        called = here.probability >= found.thresholds
        counts = np.array(list(tiny_multi_run.metrics[split]["confusion_per_label"].values()))
        assert counts[:, 1, 1].tolist() == (called & (here.truth == 1)).sum(axis=0).tolist()


def test_metrics_hold_the_context_of_the_run_too(tiny_run):
    metrics = tiny_run.metrics
    assert metrics["decision"] == tiny_run.decision.to_json()
    assert metrics["data"]["counts"] == tiny_run.info["counts"]
    flow = metrics["data"]["flow"]
    assert [text for text, _ in flow][:2] == ["Image files", "Images used"]
    assert flow[1][1] == 36 == sum(n for text, n in flow if text.startswith("Split "))
    assert metrics["training"]["best_epoch"] == tiny_run.info["best_epoch"]
    assert [row["epoch"] for row in metrics["training"]["history"]] == tiny_run.history["epoch"].tolist()
    assert any("near duplicates" in sentence for sentence in metrics["data"]["audit"])


@pytest.mark.usefixtures("no_page")
def test_thresholds_can_be_chosen_anew_without_training(multi):
    before = multi.decision
    xf.interpret(multi, target_sensitivity=0.9)
    again = multi.decision
    assert (again.rule, again.target) == ("sensitivity", 0.9)
    for one, other in zip(again.calibration, before.calibration, strict=True):  # predictions are saved with nine digits
        assert (one.slope, one.bias) == pytest.approx((other.slope, other.bias), rel=1e-5)
    assert multi.config.results.target_sensitivity == 0.9
    told = multi.predictions("valid")
    for i, point in enumerate(again.points):
        if point.threshold is not None:
            assert (told.probability[told.truth[:, i] == 1, i] >= point.threshold).mean() >= 0.9
    assert multi.metrics["decision"]["operating_points"]["target"] == 0.9
    # A new rule replaces the previous one.
    xf.interpret(multi, thresholds="youden", resamples=20)
    assert multi.config.results.target_sensitivity is None
    assert multi.decision.rule == "youden"
    assert multi.metrics["valid"]["intervals"]["resamples"] == 20


@pytest.mark.usefixtures("no_page")
def test_calibration_can_be_left_out(run):
    xf.interpret(run, calibrate=False)
    told = run.predictions("valid")
    assert (told.probability == told.raw).all()
    assert json.loads((run.path / "labels.json").read_text())["calibration"] is None


def test_metrics_of_an_older_run_are_computed_when_it_is_first_reported(run):
    """An older run has no decision in labels.json, no raw probabilities and no intervals."""
    for file in run.path.rglob("checksums.txt"):
        file.unlink()
    (run.path / "labels.json").write_text(json.dumps({"task": "single", "labels": list(run.labels), "threshold": None}))
    (run.path / "metrics.json").write_text(json.dumps({"valid": {}, "test": {}}))
    for split in run.predicted_splits:
        path = run.path / "predictions" / f"{split}.csv"
        table = pd.read_csv(path, keep_default_na=False)
        table.drop(columns=[name for name in table if name.startswith("raw_")]).to_csv(path, index=False)
    assert run.decision.calibration is None
    xf.interpret(run)
    assert run.decision.calibration is not None
    assert "intervals" in run.metrics["test"]


@pytest.mark.usefixtures("no_page")
def test_a_single_label_run_flags_each_class_at_its_threshold(run, data_dir):
    files = sorted(data_dir.rglob("*.png"))[:8]
    assert "above_threshold" not in xf.predict(run, files)
    xf.interpret(run, target_sensitivity=1.0)
    table = xf.predict(run, files)
    probability = table.filter(like="prob_").to_numpy(dtype=float)
    for row, text in zip(probability, table["above_threshold"], strict=True):
        above = zip(run.labels, row, threshold_array(run.decision.points), strict=True)
        assert text == "|".join(label for label, p, threshold in above if p >= threshold)
    assert table["predicted"].tolist() == [run.labels[i] for i in probability.argmax(axis=1)]


def test_predict_abstains_where_the_answer_is_not_probable_enough(run, multi, data_dir, multi_dir):
    plain = xf.predict(run, data_dir)
    probability = plain.filter(like="prob_").to_numpy(dtype=float)
    limit = float(np.median(probability.max(axis=1)))
    table = xf.predict(run, data_dir, abstain_below=limit)
    unsure = probability.max(axis=1) < limit
    assert 0 < unsure.sum() < len(table)
    assert table["predicted"].where(~unsure, "").tolist() == table["predicted"].tolist()
    assert table["abstained"].tolist() == plain["predicted"].where(unsure, "").tolist()

    said: list[str] = []
    table = xf.predict(multi, multi_dir, abstain_below=0.7, note=said.append)
    low = [x for x, threshold in zip(multi.labels, multi.decision.thresholds, strict=True) if threshold < 0.7]
    assert low and any(f"above the threshold of {low[0]} (" in text for text in said)
    probability = table.filter(like="prob_").to_numpy(dtype=float)
    called = probability >= multi.decision.thresholds
    sure = np.where(called, probability, 1 - probability) >= 0.7
    assert (~sure).any()
    for row, predicted, abstained in zip(range(len(table)), table["predicted"], table["abstained"], strict=True):
        assert predicted == "|".join(x for j, x in enumerate(multi.labels) if called[row, j] and sure[row, j])
        assert abstained == "|".join(x for j, x in enumerate(multi.labels) if not sure[row, j])
    assert not check_abstention(run.decision, 0.34) and "at least 0.33" in check_abstention(run.decision, 0.33)[0]
    with pytest.raises(ConfigError, match="abstain_below is 2"):
        xf.predict(run, data_dir, abstain_below=2)


@pytest.mark.parametrize(
    ("options", "single", "several"),
    [
        ({}, (None, None), ("f1", None)),
        ({"thresholds": "half"}, (None, None), (None, None)),
        ({"thresholds": "youden"}, ("youden", None), ("youden", None)),
        ({"target_specificity": 0.9}, ("specificity", 0.9), ("specificity", 0.9)),
    ],
)
def test_rules(options, single, several):
    settings = ResultsConfig(**options)
    assert threshold_rule(settings, "single") == single
    assert threshold_rule(settings, "multi") == several


def test_prevalences():
    assert parse_prevalences([], ["a", "b"]) is None
    np.testing.assert_array_equal(parse_prevalences(["a=0.1"], ["a", "b"]), [0.1, np.nan])
    share = "above 0 and below 1"
    for wrong, said in (("1.5", share), ("0", share), ("a=1", share), ("c=0.1", "expected one of a, b"), ("a=", share)):
        with pytest.raises(ConfigError, match=said):
            parse_prevalences([wrong], ["a", "b"])
    for twice, said in ((["0.1", "0.2"], "for all labels; .*Remove '0.2'"), (["a=0.1", "A=0.2"], "'a'; .*'A=0.2'")):
        with pytest.raises(ConfigError, match=f"^threshold: found two values.*{said}"):
            parse_prevalences(twice, ["a", "b"], "threshold")
    assert parse_prevalences(["A=0.1", "a=0.2"], ["a", "A"]).tolist() == [0.2, 0.1]


@pytest.mark.usefixtures("no_page")
def test_a_stated_prevalence_gives_predictive_values(run):
    xf.interpret(run, prevalence=["0.05"])
    row = run.metrics["test"]["per_label"][0]
    recall, specificity = row["recall"], row["specificity"]
    if recall and specificity not in (None, 1.0):
        expected = recall * 0.05 / (recall * 0.05 + (1 - specificity) * 0.95)
        assert row["ppv_at_prevalence"] == pytest.approx(expected)
    with pytest.raises(ConfigError, match="expected one of"):
        xf.interpret(run, prevalence=["nothing=0.1"])


def test_each_class_is_measured_against_the_rest_at_its_threshold(run):
    assert "at_thresholds" not in run.metrics["test"]
    xf.interpret(run, target_sensitivity=1.0)
    told, thresholds = run.predictions("test"), threshold_array(run.decision.points)
    for i, row in enumerate(run.metrics["test"]["at_thresholds"]):
        called = told.probability[:, i] >= thresholds[i]
        assert row["label"] == run.labels[i]
        assert row["threshold"] == pytest.approx(thresholds[i])
        assert row["recall"] == pytest.approx(called[told.truth[:, i] == 1].mean())
        assert row["specificity"] == pytest.approx((~called[told.truth[:, i] == 0]).mean())
        assert {"low", "high"} <= row["intervals"]["recall"].keys()
    for path in (run.report_path, run.model_card_path):
        text = path.read_text()
        assert "remains the most likely one" in text
        assert "against the rest" in text


def test_the_stated_prevalence_is_noted(run):
    xf.interpret(run, prevalence=["0.05", f"{run.labels[0]}=0.2"])
    summary = run.metrics["test"]
    assert summary["prevalence"] == {run.labels[0]: 0.2, run.labels[1]: 0.05, run.labels[2]: 0.05}
    assert f"Predictive values at a stated prevalence are for: {run.labels[0]} 0.2, " in " ".join(summary["notes"])


@pytest.mark.usefixtures("no_page")
def test_the_number_of_resamples_holds_for_once(run):
    xf.interpret(run, resamples=0)
    assert "intervals" not in run.metrics["test"]
    assert run.config.results.resamples == 100


@pytest.mark.usefixtures("no_page")
def test_failures_of_the_report_are_in_the_metrics(run):
    found = xf.interpret(run, top=3)
    kept = run.metrics["failures"]["test"]
    assert [row["image"] for row in kept] == [case.image for case in found.cases(3)]
    assert kept[0]["loss"] == pytest.approx(found.predictions.loss.max())


@pytest.mark.usefixtures("no_page")
def test_cards_leave_out_a_damaged_evaluation_and_mention_other_thresholds(multi):
    xf.evaluate(multi, split="valid", name="first")
    assert "other thresholds" not in multi.model_card_path.read_text()
    bad = multi.path / "evaluations" / "bad"
    bad.mkdir()
    (bad / "metrics.json").write_text(json.dumps({"result": [1, 2]}))
    xf.interpret(multi, thresholds="youden")
    card = multi.model_card_path.read_text()
    assert "Computed with other thresholds or another calibration than the run has now." in card
    assert "first" in card
    assert "Evaluations that can't be read are left out here: bad." in card


def test_quality_of_thresholds_and_calibration_is_in_metrics_tables_and_report(multi):
    xf.interpret(multi)
    for split in multi.predicted_splits:
        summary, told = multi.metrics[split], multi.predictions(split)
        given = told.truth, told.probability, told.labels, told.groups
        resamples = multi.config.results.resamples
        assert summary["fixed_rates"] == fixed_rate_rows(*given, resamples=resamples, seed=multi.config.train.seed)
        assert list(summary["calibration"]) == ["before", "after"]
        for when, probability in (("before", told.raw), ("after", told.probability)):
            expected = calibration_rows(told.truth, probability, told.labels, told.groups)
            for row, other in zip(summary["calibration"][when], expected, strict=True):  # files have nine digits
                for name in CALIBRATION:
                    wanted = other[name]
                    assert row[name] == (wanted and pytest.approx(wanted, rel=1e-5, abs=1e-6))
        assert summary["net_benefit"]["labels"].keys() == set(multi.labels)
    table = pd.read_csv(multi.path / "tables" / "operating.csv")
    assert set(table["metric"]) == {*CALIBRATION, *FIXED}
    assert set(table["label"]) == set(multi.labels)
    for title in ("Sensitivity at 90% specificity", "Observed / expected", "Brier skill"):
        assert title in multi.report_path.read_text()


def test_without_calibration_there_are_no_metrics_before_calibration(run):
    xf.interpret(run, calibrate=False, resamples=0)
    summary = run.metrics["test"]
    assert list(summary["calibration"]) == ["after"]
    assert all(row["intervals"] == {} for row in [*summary["calibration"]["after"], *summary["fixed_rates"]])


# Two classes


@pytest.fixture(scope="module")
def two_classes(data_dir, tmp_path_factory):
    """A completed run on two class folders, and the notes of `fit`."""
    folder, notes = tmp_path_factory.mktemp("two"), []
    for name in ("covid-19", "normal"):
        shutil.copytree(data_dir / name, folder / "data" / name)
    data = xf.open_data(folder / "data", test_fraction=0.3)
    run = xf.fit(data, runs=folder, name="two", epochs=1, reporter=NullReporter(note=notes.append), **SMALL | INTERVALS)
    return run, notes


@pytest.fixture
def binary(two_classes, tmp_path):
    return xf.Run(shutil.copytree(two_classes[0].path, tmp_path / "binary"))


def test_a_task_of_two_classes_has_one_positive_class_that_is_noted(two_classes, binary):
    assert binary.decision.positive == "covid-19"
    assert json.loads((binary.path / "labels.json").read_text())["positive"] == "covid-19"
    [note] = [note for note in two_classes[1] if "positive class" in note]
    assert "covid-19" in note and "--positive 'normal'" in note
    # For an older run it is derived in the same way.
    (binary.path / "labels.json").write_text(json.dumps({"task": "single", "labels": ["covid-19", "normal"]}))
    (binary.path / "checksums.txt").unlink()
    assert binary.decision.positive == "covid-19"


def test_with_two_classes_one_curve_and_one_row_are_shown(binary):
    found = xf.interpret(binary)
    summary = found.summary
    assert list(summary["reliability"]["after"]) == ["covid-19"]
    assert [row["label"] for row in summary["per_label"]] == ["covid-19", "normal"]  # metrics.json has both
    for curve in label_curves(summary, "single", found.predictions):
        assert [one.label for one in curve] == ["covid-19"]
    by_label, further = label_tables("test", summary)
    for table in (by_label, *further, delong_table("test", summary)):
        assert [row[0].text for row in table.rows] == ["covid-19"]
    card = binary.model_card_path.read_text()
    assert "| covid-19 |" in card and "| normal |" not in card.split("## ")[-1]
    assert "at_thresholds" not in summary
    for rows in (*summary["calibration"].values(), summary["fixed_rates"]):
        assert [row["label"] for row in rows] == ["covid-19"]
    assert list(summary["net_benefit"]["labels"]) == ["covid-19"]


def test_an_older_run_of_two_classes_gets_what_is_lacking_and_keeps_its_numbers(binary):
    old = {name: value for name, value in binary.metrics.items() if name != "failures"}
    new = ("positive", "calibration", "fixed_rates", "net_benefit", "warnings", "population")
    for split in binary.predicted_splits:
        old[split] = {name: value for name, value in old[split].items() if name not in new}
        bins = old[split]["reliability"]["after"]["covid-19"]
        old[split]["reliability"] = {"after": {"most likely class": bins, "covid-19": bins, "normal": bins}}
    (binary.path / "metrics.json").write_text(json.dumps(old))
    (binary.path / "checksums.txt").unlink()
    xf.interpret(binary)
    for split in binary.predicted_splits:
        summary = binary.metrics[split]
        assert {name: summary[name] for name in ("overall", "per_label", "intervals")} == {
            name: old[split][name] for name in ("overall", "per_label", "intervals")
        }
        assert summary["positive"] == "covid-19" and list(summary["reliability"]["after"]) == ["covid-19"]
        assert set(new) <= summary.keys()


@pytest.mark.usefixtures("no_page")
def test_with_two_classes_the_positive_class_can_be_chosen(binary):
    before = binary.metrics["test"]["overall"]
    xf.interpret(binary, positive="normal")
    assert binary.decision.positive == binary.config.results.positive == binary.metrics["test"]["positive"] == "normal"
    assert binary.metrics["test"]["overall"] == pytest.approx(before, abs=1e-8)
    with pytest.raises(ConfigError, match="positive is 'covid'; expected one of"):
        xf.interpret(binary, positive="covid")


@pytest.mark.usefixtures("no_page")
def test_with_two_classes_a_target_applies_to_the_positive_class_and_decides(binary):
    xf.interpret(binary, target_sensitivity=0.5, resamples=0)
    [point] = binary.decision.points
    for split in binary.predicted_splits:
        told = binary.predictions(split)
        called = told.probability[:, 0] >= point.threshold
        matrix = np.array(binary.metrics[split]["confusion"])
        assert matrix.sum(axis=0).tolist() == [called.sum(), (~called).sum()]
        assert "at_thresholds" not in binary.metrics[split]
        rows = {row["label"]: row for row in binary.metrics[split]["per_label"]}
        assert rows["covid-19"]["recall"] == rows["normal"]["specificity"]
        assert rows["covid-19"]["threshold"] == pytest.approx(point.threshold)
    assert rows is not None and point.sensitivity == 0.5
    assert "the expected sensitivity on new images is: covid-19" in binary.model_card_path.read_text()
    # Predictions on new images use it, too.
    files = sorted((binary.config.data.source).rglob("*.png"))[:6]
    table = xf.predict(binary, files)
    assert (table["predicted"] == "covid-19").tolist() == (table["prob_covid-19"] >= point.threshold).tolist()
    assert "above_threshold" not in table


def test_a_confidence_that_validation_has_too_few_images_for_is_an_error_before_anything_is_written(binary, data_dir):
    before = (binary.path / "config.yaml").read_text()
    said = (
        r"target_confidence is 0\.95: a sensitivity of 0\.9 needs 29 validation images with the label, but covid-19 "
        r"has 2\. With 2, at most 0\.22 is possible\. Lower the target"
    )
    with pytest.raises(ConfigError, match=said):
        xf.interpret(binary, target_sensitivity=0.9, target_confidence=0.95)
    assert (binary.path / "config.yaml").read_text() == before
    with pytest.raises(ConfigError, match="needs 29 validation"):
        xf.fit(data_dir, target_specificity=0.9, target_confidence=0.95, **SMALL)
    xf.interpret(binary, target_sensitivity=0.5, target_confidence=0.6, resamples=0)
    assert binary.decision.confidence == 0.6
    assert "on new images, with 60% confidence" in binary.report_path.read_text()
    # A new rule drops the confidence; a new confidence keeps the rule.
    xf.interpret(binary, target_specificity=0.5, resamples=0)
    assert binary.decision.confidence is None
    xf.interpret(binary, target_confidence=0.6, resamples=0)
    assert (binary.decision.rule, binary.decision.confidence) == ("specificity", 0.6)


def test_no_positive_class_of_three(run, data_dir):
    with pytest.raises(ConfigError, match="positive is normal, which has no effect: only a task of two classes"):
        xf.interpret(run, positive="normal")
    with pytest.raises(ConfigError, match="positive is normal, which has no effect"):
        xf.fit(data_dir, positive="normal", **SMALL)


def test_the_monitor_must_fit_the_task():
    assert resolve_monitor(TrainConfig(), "single") == "valid_auroc_macro"
    assert resolve_monitor(TrainConfig(monitor="ap_macro"), "multi") == "valid_ap_macro"
    assert resolve_monitor(TrainConfig(monitor="valid_loss"), "multi") == "valid_loss"
    with pytest.raises(ConfigError, match=r"'subset_accuracy'.*accuracy"):
        resolve_monitor(TrainConfig(monitor="subset_accuracy"), "single")
