"""Reports on the predictions of any tool: columns are recognized, and metrics equal those of scikit-learn."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as skm
from typer.testing import CliRunner

import xrayfast as xf
from xrayfast.cli import app
from xrayfast.errors import ConfigError, DataError, RunError, WriteError
from xrayfast.files import run_lock
from xrayfast.files.checksums import start_checksums
from xrayfast.files.run_lock import lock_output
from xrayfast.workflows.report import report

RNG = np.random.default_rng(0)
N = 60
CLASSES = ["covid", "normal", "tb"]


def single():
    truth = RNG.integers(0, 3, N)
    logits = RNG.normal(size=(N, 3)) + 1.5 * np.eye(3)[truth]
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    columns = {f"prob_{name}": probability[:, i].round(5) for i, name in enumerate(CLASSES)}
    return pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(N)],
            "patient_id": [f"p{i // 2}" for i in range(N)],
            "sex": ["F", "M"] * (N // 2),
            "truth": [CLASSES[i] for i in truth],
            **columns,
        }
    )


def multi():
    truth = RNG.integers(0, 2, (N, 2))
    probability = (0.3 * truth + 0.7 * RNG.random((N, 2))).round(5)
    return pd.DataFrame(
        {
            "File Name": [f"{i}.png" for i in range(N)],
            "truth_Mass": truth[:, 0],
            "truth_Pleural Effusion": truth[:, 1],
            "probability_Mass": probability[:, 0],
            "probability_Pleural_Effusion": probability[:, 1],
        }
    )


def test_numbers_of_one_class_per_image_are_scikit_learn_s():
    table = single()
    found = report(table, resamples=20)
    probability = table[[f"prob_{name}" for name in CLASSES]].to_numpy()
    actual, predicted = table["truth"].tolist(), [CLASSES[i] for i in probability.argmax(axis=1)]
    overall = found.metrics["overall"]
    assert found.task == "single" and found.predictions.labels == tuple(CLASSES)
    assert overall["accuracy"] == skm.accuracy_score(actual, predicted)
    assert overall["f1_macro"] == pytest.approx(skm.f1_score(actual, predicted, average="macro"))
    scaled = probability / probability.sum(axis=1, keepdims=True)
    assert overall["auroc_macro"] == pytest.approx(skm.roc_auc_score(actual, scaled, multi_class="ovr"))
    assert found.metrics["patients"] == N // 2 and found.metrics["intervals"]["by"] == "patient"


def test_numbers_of_several_labels_are_scikit_learn_s_and_masked_cells_are_left_out():
    table = multi()
    table["truth_Mass"] = table["truth_Mass"].astype(object)
    table.loc[:9, "truth_Mass"] = None
    found = report(table, resamples=0)
    rows = {row["label"]: row for row in found.metrics["per_label"]}
    assert found.task == "multi" and set(rows) == {"Mass", "Pleural_Effusion"}
    kept = table.iloc[10:]
    auroc = skm.roc_auc_score(kept["truth_Mass"].astype(int), kept["probability_Mass"])
    assert rows["Mass"]["auroc"] == pytest.approx(auroc)
    auroc = skm.roc_auc_score(table["truth_Pleural Effusion"], table["probability_Pleural_Effusion"])
    assert rows["Pleural_Effusion"]["auroc"] == pytest.approx(auroc)
    (unknown,) = [one for one in found.metrics["warnings"] if one["code"] == "patients unknown"]
    assert unknown["advice"] == "Set --patient-col to the column of patients."


def test_one_probability_is_that_of_a_single_label():
    truth = RNG.integers(0, 2, N)
    table = pd.DataFrame({"y_true": truth, "y_score": (0.5 * truth + 0.5 * RNG.random(N)).round(5)})
    found = report(table, resamples=0)
    assert found.task == "single" and found.metrics["positive"] == "positive"
    assert found.metrics["per_label"][1]["auroc"] == pytest.approx(skm.roc_auc_score(truth, table["y_score"]))
    assert "No column contains image names" in " ".join(found.notes)


def test_images_without_truth_are_left_out():
    table = single()
    table.loc[:9, "truth"] = ""
    found = report(table, resamples=0)
    assert found.task == "single" and len(found.predictions) == N - 10
    assert "10 images without truth left out. Use task='multi' to count such images as having no label." in found.notes
    assert found.metrics["overall"] == report(table.iloc[10:], resamples=0).metrics["overall"]
    assert len(report(table, task="multi", resamples=0).predictions) == N


def test_thresholds_decide():
    table = multi()
    found = report(table, resamples=0, threshold=["0.3", "Mass=0.8"])
    rows = {row["label"]: row for row in found.metrics["per_label"]}
    for label, threshold in {"Mass": 0.8, "Pleural_Effusion": 0.3}.items():
        truth = table[f"truth_{label}" if label == "Mass" else "truth_Pleural Effusion"]
        assert rows[label]["recall"] == skm.recall_score(truth, table[f"probability_{label}"] >= threshold)
    one = table[["truth_Mass", "probability_Mass"]]
    binary = report(one, resamples=0, threshold=0.4)
    assert binary.task == "single" and binary.metrics["positive"] == "Mass"
    accuracy = skm.accuracy_score(one["truth_Mass"], one["probability_Mass"] >= 0.4)
    assert binary.metrics["overall"]["accuracy"] == accuracy
    with pytest.raises(ConfigError, match="threshold: found '3'; expected a share"):
        report(one, threshold="3")


def test_one_of_two_classes_is_positive():
    p = RNG.random(N).round(5)
    table = pd.DataFrame(
        {"truth": np.where(RNG.random(N) < p, "pneumonia", "normal"), "prob_normal": 1 - p, "prob_pneumonia": p}
    )
    found = report(table, resamples=0)
    assert found.metrics["positive"] == "pneumonia"
    assert report(table, resamples=0, positive="normal").metrics["positive"] == "normal"
    with pytest.raises(ConfigError, match=r"positive is 'norml'.*Did you mean 'normal'"):
        report(table, positive="norml")


def test_the_saved_predictions_of_a_run_give_its_own_metrics(tiny_run, tmp_path):
    file = shutil.copy(tiny_run.path / "predictions" / "test.csv", tmp_path)
    found = report(file, resamples=0)
    for name, value in tiny_run.metrics["test"]["overall"].items():
        assert found.metrics["overall"][name] == pytest.approx(value, abs=1e-7), name


def test_the_command_writes_a_page_and_compares_with_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = single()
    table.to_csv("a.csv", index=False)
    other = table.assign(prob_covid=table["prob_normal"], prob_normal=table["prob_covid"])
    other.iloc[:-5].to_csv("b.csv", index=False, sep=";")
    done = CliRunner().invoke(app, ["report", "a.csv", "b.csv", "--by", "sex", "--resamples", "50"])
    assert done.exit_code == 0, done.output
    page = Path("report/report.html").read_text(encoding="utf-8")
    for words in (
        "a.csv",
        "Paired differences from the first",
        "b.csv",
        "not for diagnosis",
        "This page was made with",
    ):
        assert words in page
    written = json.loads(Path("report/metrics.json").read_text(encoding="utf-8"))
    assert [by["by"] for by in written["result"]["subgroups"]] == ["sex"]
    differences = pd.read_csv("report/differences.csv")
    row = differences[differences["metric"] == "accuracy"].iloc[0]
    right = [frame["truth"] == frame[[f"prob_{c}" for c in CLASSES]].idxmax(axis=1).str[5:] for frame in (other, table)]
    assert row["difference"] == pytest.approx(right[0][:-5].mean() - right[1][:-5].mean())
    assert (row["low"] <= row["difference"] <= row["high"]) and row["images"] == N - 5


def test_braces_in_the_name_of_a_label_stay_in_notes_of_a_comparison():
    one = multi()
    one = one.rename(columns={name: name.replace("Mass", "Mass {left}") for name in one})
    other = one.drop(columns=[name for name in one if "Pleural" in name])
    other = other.assign(
        **{"truth_{a}": one["truth_Pleural Effusion"], "probability_{a}": one["probability_Mass {left}"]}
    )
    notes = " ".join(report([one, other], resamples=1).notes)
    assert "compared with DataFrame" in notes and "{a}" in notes


def test_subgroups_are_groups_and_ages_are_in_bands():
    table = single().assign(age=[20, 70] * (N // 2), site=[f"s{i}" for i in range(N)])
    (ages,) = report(table, by="age", resamples=0).metrics["subgroups"]
    assert [group["images"] for group in ages["groups"]] == [N // 2, N // 2]
    with pytest.raises(ConfigError, match="'site' of DataFrame has 60 values for these images; expected 1 to 20"):
        report(table, by="site")
    with pytest.raises(DataError, match="row 0: age is 'old'; expected years"):
        report(table.assign(age="old"), by="age")


def test_what_is_left_out_or_odd_is_noted():
    table = multi()
    notes = report(table.drop(columns="probability_Mass"), resamples=0).notes
    assert "Left out, because they have truth but no probabilities: truth_Mass." in notes
    one = single()
    one.loc[:2, "truth"] = "covid|tb"
    said = "Probabilities add up to 1, but not every image has one label: 3 images with none or several."
    assert said in report(one, resamples=0).notes
    with pytest.raises(ConfigError, match="positive is 'tb', which has no effect"):
        report(single(), positive="tb")
    with pytest.raises(ConfigError, match="threshold has no effect: with more than two classes"):
        report(single(), threshold=0.3)
    truth = np.where(RNG.random(N) < 0.5, "normal", "tb")
    named = pd.DataFrame({"truth": truth, "prob_tb": RNG.random(N).round(3)})
    assert report(named, resamples=0).metrics["per_label"][1]["support"] == (truth == "tb").sum()
    with pytest.raises(DataError, match="the column 'sex' twice"):
        report(single().rename(columns={"patient_id": "sex"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prob_tb": 1.7}, r"row 0|row 1: prob_tb is '1.7'; expected a probability from 0 to 1. Apply a sigmoid"),
        ({"prob_tb": "high"}, "prob_tb is 'high'; expected a probability"),
        ({"truth": "cancer"}, r"truth has 'cancer'; expected covid, normal, tb"),
        ({"truth": "covd"}, "Did you mean 'covid'"),
        ({"image": "same.png"}, r"the image 'same.png' is in several rows; expected one row per image"),
    ],
)
def test_cells_that_are_wrong_are_named(change, message):
    with pytest.raises(DataError, match=message):
        report(single().assign(**change))


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(DataError, match=r"found no probabilities among the columns image, .*expected prob_LABEL"):
        report(single()[["image", "truth"]])
    with pytest.raises(DataError, match="found no truth among the columns image"):
        report(single().drop(columns="truth"))
    with pytest.raises(DataError, match="has probabilities of 'Mass' but no truth"):
        report(multi().drop(columns="truth_Mass"))
    with pytest.raises(DataError, match="has no column 'hospital'"):
        report(single(), by="hospital")
    with pytest.raises(DataError, match=r"task is single, but row 0 has .*expected one label, and a sum of 1"):
        report(multi(), task="single")
    with pytest.raises(DataError, match="has no rows"):
        report(single().iloc[:0])
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file: can't be written \(it is a file\)"):
        report(single(), tmp_path / "file" / "x")


def test_it_is_public_whatever_was_imported_before():
    assert xf.report is report


def test_the_population_is_read_from_columns(tmp_path):
    table = single().assign(**{"Patient Age": ["61", "", "011M"] * 20, "View Position": ["PA"] * 50 + ["ap"] * 10})
    found = report(table, tmp_path, resamples=2)
    population = found.metrics["population"]
    assert population["patients"] and population["sex"] == {"F": 30} and population["view"] == {"AP": 10, "PA": 50}
    assert population["age"]["unknown"] == 10 and population["age"]["q3"] == 61
    assert "subgroups" not in found.metrics
    page = " ".join(found.path.read_text().split())
    assert "Patients: 100.0% female, median age 31" in page and "Of 60 images of 30 patients, " in page
    assert "xternal test" not in page


def test_the_page_names_a_class_without_images(tmp_path):
    table = pd.DataFrame({"prob": RNG.random(N), "truth": 0})
    page = report(table, tmp_path, resamples=2).path.read_text()
    assert "AUROC for positive is not defined, since no image has the label." in page
    table = single().replace({"truth": {"tb": "covid"}})
    assert "Mean AUROC over the 2 classes" in report(table, tmp_path, resamples=2).path.read_text()


def test_a_difference_without_an_interval_has_none_on_the_page(tmp_path):
    table = single()
    probability = table.filter(like="prob_")
    sharper = (probability**2).div((probability**2).sum(axis=1), axis=0)
    found = report([table, table.assign(**sharper)], tmp_path, resamples=20)
    assert found.differences["low"].isna().any()
    assert "nan" not in re.sub('(?s)<(style|script).*?</.*?>|base64,[^"]*', "", found.path.read_text()).lower()


def test_a_report_replaces_neither_its_input_nor_the_files_of_a_run(tmp_path):
    table = tmp_path / "differences.csv"
    single().to_csv(table, index=False)
    with pytest.raises(WriteError, match=r"differences\.csv: is an input of this command"):
        report(table, output=tmp_path)
    assert len(pd.read_csv(table)) == N
    (tmp_path / "run").mkdir()
    start_checksums(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WriteError, match=r"metrics\.json: is in the folder of a run"):
        report(table, output=tmp_path / "run")


def test_an_output_that_another_command_writes_is_refused(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    with lock_output(tmp_path / "out") as folder:
        for command in (
            lambda: report(single(), folder),
            lambda: xf.check(data_dir, size=64, output=folder),
            lambda: xf.review("nowhere", folder),
        ):
            with pytest.raises(RunError, match=r"out: another process is writing to this folder"):
                command()
        assert [path.name for path in folder.iterdir()] == ["output.lock"]


def test_probabilities_are_not_read_from_decisions_beside_them():
    truth = RNG.integers(0, 2, N)
    score = (0.5 * truth + 0.7 * RNG.random(N)).round(5) / 1.2
    auroc = skm.roc_auc_score(truth, score)
    names = {"y_prob": "pred_class", "prob": "pred_label", "score": "p_id", "p": "pred_label"}
    for name, other in names.items():
        found = report(pd.DataFrame({"true_label": truth, other: score > 0.5, name: score}), resamples=0)
        assert found.metrics["overall"]["auroc_macro"] == pytest.approx(auroc)
        assert f"Probabilities are read from '{name}', not from '{other}'." in found.notes
    one = report(pd.DataFrame({"truth": truth, "prob_0": 1 - score}), resamples=0)  # the probability of class 0
    assert one.metrics["overall"]["auroc_macro"] == pytest.approx(auroc)
    decisions = report(pd.DataFrame({"truth": truth, "pred": (score > 0.5).astype(int)}), resamples=0)
    assert "All probabilities are 0 or 1. If these are decisions" in " ".join(decisions.notes)
    both = " ".join(report(multi().assign(truth="Mass", score_Mass=0.5), resamples=0).notes)
    assert "The truth is read from 'truth', not from 'truth_Mass', 'truth_Pleural Effusion'." in both
    assert "not from 'score_Mass'." in both


def test_minus_one_is_unknown_only_beside_zero():
    table = multi()
    known = table["truth_Mass"].to_numpy()
    found = report(table.assign(truth_Mass=np.where(np.arange(N) < 9, -1, known)), resamples=0)
    assert "9 cells of -1 in 'truth_Mass' left out: -1 means that the truth is not known." in found.notes
    with pytest.raises(DataError, match="truth_Mass has -1 but no 0; expected 0 where the label is absent"):
        report(table.assign(truth_Mass=np.where(known == 1, 1, -1)))
    with pytest.raises(DataError, match="y has -1 but no 0"):
        report(pd.DataFrame({"y": np.where(known == 1, 1, -1), "prob": RNG.random(N)}))


def test_splits_and_patients_in_the_table_are_noted():
    table = single()
    found = report(table.assign(fold=["train"] * 40 + ["test"] * (N - 40)), resamples=0)
    said = f"according to 'fold': train (40), test ({N - 40}). All are counted together"
    assert said in " ".join(found.notes)
    assert "according to" not in " ".join(report(table.assign(fold="test"), resamples=0).notes)
    patients = [f"{i // 2:03d}" if i % 2 else f"{i // 2}.0" for i in range(N - 6)] + ["unknown"] * 3 + [""] * 3
    found = report(table.assign(patient_id=patients), resamples=0)
    assert found.metrics["patients"] == (N - 6) // 2
    assert "6 images without a patient: each counts as a patient of its own." in found.notes


def test_a_table_given_twice_is_noted():
    table = single()
    [note] = [note for note in xf.report([table, table], resamples=0).notes if "equal" in note]
    assert note == "DataFrame 2: all its probabilities are equal to those of DataFrame 1: it may be a copy."


def test_a_run_is_no_table_of_predictions(tmp_path):
    (tmp_path / "run.json").touch()
    with pytest.raises(DataError, match=rf"{tmp_path}: is a run's folder.*interpret"):
        report(tmp_path)
