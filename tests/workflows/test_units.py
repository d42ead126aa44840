"""Results per study and patient, from `fit` to `compare`, checked against pandas and scikit-learn."""

import json
import shutil
import tarfile

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
from PIL import Image

import xrayfast as xf
from tests.cli.test_cli import call
from tests.conftest import SMALL, add_tiny_resnet, with_other_weights
from xrayfast.errors import ConfigError, DataError, RunError, TrainingError
from xrayfast.learning.training.metrics import ValidationUnits
from xrayfast.runs.run import Run

OPTIONS = SMALL | {"epochs": 1, "resamples": 20}


def write_studies(folder, n_patients=24, labels=("Edema", "Pneumonia"), seed=0, first=0):
    """Write a CheXpert data set: two studies per patient, most with two views; brightness shows the first label."""
    random, rows = np.random.default_rng(seed), []
    for patient in range(first, first + n_patients):
        for study in (1, 2):
            cells = {label: int(random.random() < 0.5) for label in labels}
            for number, view in enumerate(["Frontal", "Lateral"][: 2 if patient % 3 else 1], 1):
                name = f"patient{patient:05d}/study{study}/view{number}_{view.lower()}.jpg"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                pixels = random.random((40, 40)) * 90 + 80 * cells[labels[0]] * random.random()
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
                rows.append({"Path": name, "Frontal/Lateral": view, **cells})
    pd.DataFrame(rows).to_csv(folder / "train.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return write_studies(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def runs(studies, tmp_path_factory):
    """Two runs of the same network: one with results per image, one per study."""
    add_tiny_resnet()
    folder = tmp_path_factory.mktemp("runs")
    data = xf.open_data(studies, test_fraction=0.3, valid_fraction=0.3)
    return {unit: xf.fit(data, runs=folder, name=unit, unit=unit, **OPTIONS) for unit in ("image", "study")}


def joined(run, split, how="mean"):
    """Join a run's saved predictions of images by study with pandas; return truth and probabilities."""
    table = pd.read_csv(run.path / "predictions" / f"{split}.csv", keep_default_na=False)
    table["key"] = table["image"].str.rpartition("/")[0]
    for label in run.labels:
        table[label] = [label in cell.split("|") for cell in table["truth"]]
    probability = table.groupby("key")[[f"prob_{label}" for label in run.labels]].agg(how)
    return table.groupby("key")[list(run.labels)].max().astype(int), probability


def require_best_f1(truth, probability, threshold):
    """Check that no other threshold gives a higher F1."""
    found = [skm.f1_score(truth, probability >= one) for one in (threshold, *probability)]
    assert found[0] == pytest.approx(max(found), abs=1e-12)


def test_a_fit_by_study_has_metrics_thresholds_and_files_of_studies(runs):
    run, of_images = runs["study"], runs["image"]
    assert run.config.results.unit == "study"
    truth, probability = joined(run, "test")
    summary = run.metrics["test"]
    unit = summary["unit"]
    assert (unit["name"], unit["join"], unit["images"]) == ("study", "mean", len(run.predictions("test")))
    assert 0 < unit["of_one_image"] < len(truth) and unit["of_different_labels"] == 0
    assert summary["images"] == len(truth) < len(run.predictions("test"))
    valid_truth, valid = joined(run, "valid")
    for i, row in enumerate(summary["per_label"]):
        cells, p = truth.iloc[:, i], probability.iloc[:, i]
        assert row["auroc"] == pytest.approx(skm.roc_auc_score(cells, p), abs=1e-9)
        assert row["f1"] == pytest.approx(skm.f1_score(cells, p >= row["threshold"]), abs=1e-9)
        require_best_f1(valid_truth.iloc[:, i], valid.iloc[:, i], row["threshold"])
    assert summary["intervals"]["by"] == "patient"
    assert run.decision.unit == "study"
    # The calibration of images does not depend on the unit.
    assert run.decision.calibration == of_images.decision.calibration
    np.testing.assert_array_equal(run.predictions("test").probability, of_images.predictions("test").probability)


def test_the_epoch_is_chosen_by_studies(runs):
    run = runs["study"]
    last = run.history.iloc[-1]
    truth, raw = joined(run, "valid"), run.predictions("valid").raw
    table = pd.DataFrame(raw).groupby([image.rpartition("/")[0] for image in run.predictions("valid").images]).mean()
    expected = skm.roc_auc_score(truth[0], table, average="macro")
    assert last["valid_auroc_macro"] == pytest.approx(expected, abs=1e-6)
    of_images = runs["image"].history.iloc[-1]
    assert last["valid_loss"] == of_images["valid_loss"]
    assert last["valid_auroc_macro"] != of_images["valid_auroc_macro"]


def test_results_by_image_are_as_they_were(runs):
    run = runs["image"]
    assert "study" not in (run.path / "predictions" / "test.csv").read_text().splitlines()[0].split(",")
    for name in ("metrics.json", "labels.json"):
        assert '"unit"' not in (run.path / name).read_text()


def test_interpret_changes_the_unit_of_the_run(runs, tmp_path):
    shutil.copytree(runs["image"].path, tmp_path / "run")
    xf.interpret(tmp_path / "run", unit="study")
    again, fitted = Run(tmp_path / "run"), runs["study"]
    assert again.config.results.unit == "study"
    assert (again.decision.unit, again.decision.rule) == ("study", fitted.decision.rule)
    np.testing.assert_allclose(again.decision.thresholds, fitted.decision.thresholds, atol=1e-6)
    for split in ("valid", "test"):
        for name in ("unit", "images"):
            assert again.metrics[split][name] == fitted.metrics[split][name], name
        assert again.metrics[split]["overall"] == pytest.approx(fitted.metrics[split]["overall"], abs=1e-6)
    page = again.report_path.read_text()
    assert "test studies" in page and "By study: the probability of each study is the mean" in page
    xf.interpret(again, unit="image")
    assert again.metrics["test"]["overall"] == pytest.approx(runs["image"].metrics["test"]["overall"], abs=1e-6)
    assert "study" not in (again.path / "predictions" / "test.csv").read_text().splitlines()[0].split(",")


@pytest.mark.parametrize("how", ["max", "noisy-or"])
def test_evaluate_by_another_unit_chooses_thresholds_for_it(runs, how):
    run = runs["image"]
    found = xf.evaluate(run, unit="study", unit_join=how, name=f"by-{how}")
    function = (lambda p: 1 - np.prod(1 - p)) if how == "noisy-or" else how
    truth, probability = joined(run, "test", function)
    valid_truth, valid = joined(run, "valid", function)
    result = found.metrics["result"]
    for i, row in enumerate(result["per_label"]):
        assert row["auroc"] == pytest.approx(skm.roc_auc_score(truth.iloc[:, i], probability.iloc[:, i]), abs=1e-9)
        require_best_f1(valid_truth.iloc[:, i], valid.iloc[:, i], row["threshold"])
    assert any("chosen again on the validation studies" in note for note in found.metrics["notes"])
    assert len(found.predictions) == len(truth) == result["images"]
    assert found.metrics["images"]["evaluated"] == found.predictions.n_images == len(run.predictions("test"))
    assert run.config.results.unit == "image"


def test_evaluate_on_other_data(runs, tmp_path):
    other = write_studies(tmp_path / "other", n_patients=12, seed=1, first=30)
    found = xf.evaluate(runs["study"], other)
    assert found.metrics["result"]["unit"]["name"] == "study"
    assert (found.metrics["result"]["images"], found.metrics["images"]["evaluated"]) == (24, 40)
    assert found.metrics["internal"]["rows"]
    by_patient = xf.evaluate(runs["study"], other, unit="patient")
    assert by_patient.metrics["result"]["images"] == by_patient.metrics["result"]["patients"] == 12
    page = by_patient.report_path.read_text()
    assert "12 external patients" in page or "12 patients" in page
    table = pd.read_csv(other / "train.csv").drop(columns="Frontal/Lateral")
    table["Path"] = [f"{i}.jpg" for i in range(len(table))]
    for i, name in enumerate(pd.read_csv(other / "train.csv")["Path"]):
        (other / name).rename(other / f"{i}.jpg")
    table.to_csv(other / "train.csv", index=False)
    with pytest.raises(DataError, match="unit='study': no image's study is known"):
        xf.evaluate(runs["study"], other)


@pytest.mark.parametrize(("unit", "how"), [("study", "mean"), ("study", "noisy-or"), ("patient", "max")])
def test_predict_by_unit_joins_as_evaluate_does(runs, studies, unit, how):
    run, notes = runs["image"], []
    files = sorted(studies.rglob("patient0000[0-5]/**/*.jpg"))
    images = xf.predict(run, files)
    found = xf.predict(run, files, unit=unit, unit_join=how, note=notes.append, abstain_below=0.6)
    images["key"] = images["file"].str.extract(r"(patient\d+)" if unit == "patient" else r"(patient\d+/study\d)")
    columns = [f"prob_{label}" for label in run.labels]
    expected = images.groupby("key")[columns].agg(lambda p: 1 - (1 - p).prod() if how == "noisy-or" else p.agg(how))
    np.testing.assert_allclose(found[columns], expected, rtol=1e-9)
    assert found[f"images_of_{unit}"].tolist() == images.groupby("key").size().tolist()
    assert found["files"].tolist() == images.groupby("key")["file"].agg("|".join).tolist()
    assert found["file"].tolist() == images.groupby("key")["file"].min().tolist()
    evaluated = xf.evaluate(run, unit=unit, unit_join=how, name=f"thresholds-{unit}-{how}")
    points = evaluated.metrics["decision"]["operating_points"]["labels"]
    certain = xf.predict(run, files, unit=unit, unit_join=how, note=notes.append)["predicted"]
    for row, text in zip(expected.to_numpy(), certain, strict=True):
        assert text == "|".join(point["label"] for point, p in zip(points, row, strict=True) if p >= point["threshold"])
    assert any(f"Thresholds were chosen again on the validation {unit[:4]}" in note for note in notes)
    assert list(found.columns)[2:4] == ["predicted", "abstained"]


def test_predict_by_unit_keeps_unreadable_files_and_refuses_options_without_effect(runs, studies, tmp_path):
    folder = shutil.copytree(studies / "patient00001", tmp_path / "patient00001")
    bad, (alone, *_) = folder / "study1" / "view2_lateral.jpg", sorted((studies / "patient00003").rglob("*.jpg"))
    bad.write_bytes(b"no image")
    (folder / "study2" / "view1_frontal.jpg").write_bytes(b"no image")
    (folder / "study2" / "view2_lateral.jpg").unlink()
    shutil.copy(alone, tmp_path / "unnamed.jpg")
    notes = []
    found = xf.predict(runs["study"], [folder, tmp_path / "unnamed.jpg"], unit="study", note=notes.append)
    assert found["images_of_study"].tolist() == [1, 0, 1] and found["predicted"].isna().tolist() == [False, True, False]
    assert str(bad) in found["error"][0] and found["error"][2] == ""
    said = call("predict", runs["study"].path, folder, "--unit", "study", "-o", tmp_path / "out.csv", code=1).output
    assert "1 of 2 studies predicted, 1 of them without the files that can't be read" in " ".join(said.split())
    assert "1 file of unknown study, counted as a study of its own." in " ".join(notes)
    assert not any("Thresholds" in note for note in notes)
    single = xf.predict(runs["study"], folder / "study1" / "view1_frontal.jpg", unit="study")
    np.testing.assert_allclose(single.filter(like="prob_"), found.filter(like="prob_")[:1], atol=1e-6)
    with pytest.raises(DataError, match="unit='study': no file's study is known"):
        xf.predict(runs["study"], tmp_path / "unnamed.jpg", unit="study")
    with pytest.raises(ConfigError, match=r"study_col is 'study', a column, .* no table; .* there are none"):
        xf.predict(runs["study"], folder, unit="study", study_col="study")
    with pytest.raises(ConfigError, match=r"patient_col is none, which has no effect.*unit='patient'"):
        xf.predict(runs["study"], folder, unit="image", patient_col="none")
    for options in ({"unit_join": "max"}, {"study_col": "name:(a)"}, {"patient_col": "none"}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} is .*, which has no effect"):
            xf.predict(runs["study"], folder, **options)


def test_predict_by_unit_reads_patients_and_studies_from_json_files_in_shards(runs, studies, tmp_path):
    """The names of images don't identify studies, and each patient's studies are numbered from 1."""
    files = sorted((studies / "patient00001").rglob("*.jpg")) + sorted((studies / "patient00002").rglob("*.jpg"))
    with tarfile.open(tmp_path / "data-0.tar", "w") as shard:
        for i, file in enumerate(files):
            shard.add(file, f"x{i}.jpg")
            told = {"patient_id": file.parts[-3], "visit": int(file.parts[-2][-1])}
            (tmp_path / "told.json").write_text(json.dumps(told))
            shard.add(tmp_path / "told.json", f"x{i}.json")
        shard.add(tmp_path / "told.json", "alone.json")
    for unit, options in (("study", {"study_col": "visit"}), ("patient", {})):
        expected, notes = xf.predict(runs["study"], files, unit=unit, note=lambda _: None), list[str]()
        found = xf.predict(runs["study"], tmp_path / "data-0.tar", unit=unit, note=notes.append, **options)
        assert len(found) == (4 if unit == "study" else 2)
        assert notes[0] == f"1 file left out, because hidden or not an image: {tmp_path / 'data-0.tar' / 'alone.json'}."
        by_image = list[str]()
        xf.predict(runs["study"], tmp_path / "data-0.tar", note=by_image.append)
        assert notes[0] in by_image
        pd.testing.assert_frame_equal(found.filter(like="_"), expected.filter(like="_"))
    with pytest.raises(ConfigError, match=r"a column, .* in shards: patient_id, visit\."):
        xf.predict(runs["study"], tmp_path / "data-0.tar", unit="study", study_col="study")


def test_a_loaded_run_by_study_validates_by_study(runs, studies, tmp_path):
    learn = xf.load(runs["study"])
    values = dict(zip([m.name for m in learn.metrics], learn.validate()[1:], strict=True))
    truth, _ = joined(runs["study"], "valid")
    raw = pd.read_csv(runs["study"].path / "predictions" / "valid.csv")
    raw["key"] = raw["image"].str.rpartition("/")[0]
    network = raw.groupby("key")[[f"raw_{label}" for label in runs["study"].labels]].mean()
    assert values["auroc_macro"] == pytest.approx(skm.roc_auc_score(truth, network), abs=1e-6)
    saved = xf.save(learn, runs=tmp_path, name="saved")
    assert (saved.config.results.unit, saved.info.history_unit) == ("study", "study")
    assert saved.metrics["valid"]["unit"]["name"] == "study" and runs["image"].info.history_unit == "image"
    without = xf.open_data(studies, study_col="none", patient_col="none")
    with pytest.warns(UserWarning, match="has results by study, but the learner's validation metrics are by image"):
        assert xf.load(runs["study"], without).validation_units is None


def test_compare_by_study(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"different units: image by image, study by study"):
        xf.compare([runs["image"], runs["study"]])
    found = xf.compare([runs["image"], runs["study"]], unit="study", resamples=20, page=tmp_path / "page.html")
    table = found.table.set_index("run")
    assert (table.loc["image", "images"], found.unit) == (runs["study"].metrics["test"]["images"], "study")
    assert table.loc["image", "auroc_macro"] == table.loc["study", "auroc_macro"]
    assert (found.differences["difference"] == 0).all() and len(found.differences)
    with pytest.raises(ConfigError, match="unit_join is max, which has no effect"):
        xf.compare([runs["image"]] * 2 + [runs["study"]], unit="image", unit_join="max")
    assert "Studies in common" in (tmp_path / "page.html").read_text()


def test_compare_a_run_of_frontal_views_with_one_of_all(studies, runs, tmp_path):
    frontal = xf.open_data(studies, test_fraction=0.3, valid_fraction=0.3, views="frontal",
                           split_file=runs["study"].split_path)  # fmt: skip
    run = xf.fit(frontal, runs=tmp_path, name="frontal", unit="study", **OPTIONS)
    found = xf.compare([run, runs["study"]], resamples=20)
    n = runs["study"].metrics["test"]["images"]
    assert set(found.differences["images"]) == {n} and run.metrics["test"]["unit"]["of_one_image"] == n


@pytest.mark.slow
def test_a_cross_validation_and_an_ensemble_by_study(studies, runs, tmp_path):
    data = xf.open_data(studies)
    cv = xf.cross_validate(data, folds=2, runs=tmp_path, name="cv", unit="study", unit_join="max", **OPTIONS)
    truth, probability = joined(cv, "valid", "max")
    assert cv.metrics["valid"]["images"] == len(truth) == 48
    for i, row in enumerate(cv.metrics["valid"]["per_label"]):
        assert row["auroc"] == pytest.approx(skm.roc_auc_score(truth.iloc[:, i], probability.iloc[:, i]), abs=1e-9)
    assert sum(row["images"] for row in cv.metrics["folds"]) == 48
    xf.interpret(cv, unit="patient")
    assert cv.metrics["valid"]["images"] == 24
    same = with_other_weights(runs["image"], tmp_path / "same", factor=1 + 1e-6)
    both = xf.ensemble([runs["study"], same], folder=tmp_path)
    assert both.metrics["test"]["unit"]["name"] == "study"
    alone = runs["study"].metrics["test"]["overall"]
    assert both.metrics["test"]["overall"] == pytest.approx(alone, abs=1e-6)  # the two networks are nearly the same


def test_missing_studies_are_an_error_that_asks_for_study_col(runs, studies, data_dir, tmp_path):
    with pytest.raises(DataError, match=r"no image's study is known.*Name a column with study_col="):
        xf.fit(data_dir, runs=tmp_path, unit="study", **OPTIONS)
    with pytest.raises(ConfigError, match="unit_join is max, which has no effect: each image counts for itself"):
        xf.fit(studies, runs=tmp_path, unit_join="max", **OPTIONS)
    with pytest.raises(ConfigError, match="unit_join is noisy-or, which is for labels that apply independently"):
        xf.fit(xf.open_data(data_dir), runs=tmp_path, unit="patient", unit_join="noisy-or", **OPTIONS)
    assert not list(tmp_path.iterdir())
    copy = tmp_path / "copy"
    shutil.copytree(runs["image"].path, copy)
    config = (copy / "config.yaml").read_text()
    (copy / "checksums.txt").unlink()
    (copy / "config.yaml").write_text(config.replace(str(studies), str(tmp_path / "gone")))
    with pytest.raises(RunError, match="do not say which images belong to one study"):
        xf.evaluate(copy, unit="study")
    with pytest.raises(RunError, match="do not say which images belong to one study"):
        xf.interpret(copy, unit="study")
    assert json.loads((copy / "metrics.json").read_text()) == dict(runs["image"].metrics)


def test_validation_images_in_another_order_are_noticed(runs):
    run = runs["study"]
    predictions = run.predictions("valid")
    units = ValidationUnits(predictions, run.config.results, "multi", None)
    truth, probability = units.join(predictions.truth, predictions.raw)
    expected = predictions.by_unit("study", "mean", "multi")
    np.testing.assert_array_equal(truth, expected.truth)
    np.testing.assert_array_equal(probability, expected.raw)
    for wrong in (predictions.truth[:-1], predictions.truth[::-1]):
        with pytest.raises(TrainingError, match="once each and in order"):
            units.join(wrong, predictions.raw[: len(wrong)])


def test_classes_that_differ_within_a_study_are_found_before_training(studies, tmp_path):
    table = pd.read_csv(studies / "train.csv")[["Path"]]
    table["patient"] = [name.split("/")[0] for name in table["Path"]]
    table["label"] = [["a", "b", "c"][i % 3] for i in range(len(table))]
    table.to_csv(tmp_path / "labels.csv", index=False)
    data = xf.open_data(studies, labels=tmp_path / "labels.csv", path_col="Path", study_col="name:(study[12])")
    with pytest.raises(DataError, match=r"unit='study': \d+ studies with images of several classes: the study of"):
        xf.fit(data, runs=tmp_path / "runs", unit="study", **OPTIONS)


def test_the_command_line(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    run = tmp_path / "run"
    shutil.copytree(runs["image"].path, run)
    done = call("evaluate", run, "--unit", "study", "--unit-join", "max", "--resamples", 0)
    n, images = runs["study"].metrics["test"]["images"], len(runs["image"].predictions("test"))
    assert f"{n} test studies ({images} images) of" in done.stdout
    assert "By study: the probability of each study is the largest of the probabilities of its images" in done.stdout
    assert "Thresholds were chosen on validation for the highest F1 of studies." in done.stdout
    done = call("compare", run, runs["study"].path, "--unit", "study", "--resamples", 20)
    assert f"{n} test studies (joined by mean)" in done.stdout
    done = call("interpret", run, "--unit", "patient", "--resamples", 0)
    assert f"{n // 2} test patients ({images} images)" in done.stdout
    assert len(pd.read_csv(run / "tables" / "units.csv")) == n // 2
    done = call("evaluate", run, "--unit", "person", code=2)
    assert "'person'" in done.stderr and "patient" in done.stderr
    done = call("evaluate", run, "--unit", "image", "--unit-join", "max", code=2)
    assert "--unit-join is max, which has no effect" in done.stderr
