"""Cross-validation on tiny images: each image is predicted once, out of fold; metrics are pooled by patient."""

import html
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import xrayfast as xf
from tests.conftest import INTERVALS, SMALL, TINY, UNCHECKED, StopAfter
from tests.data.builders import table as write_table
from tests.decisions import fit_decision
from xrayfast.errors import ConfigError, Interrupted, RunError
from xrayfast.metrics.claims.headline import Remark, optimism
from xrayfast.progress import NullReporter
from xrayfast.reporting.markdown.methods import describe_cross_validation
from xrayfast.workflows.steps.cross_validation.fold_processes import FoldProcess, FoldWatch
from xrayfast.workflows.steps.cross_validation.folds import pool_folds, spread
from xrayfast.workflows.steps.predictions.ensembles import average_by_image

SAME = ("model.safetensors", "split.csv", "labels.json", "predictions/valid.csv", "predictions/test.csv")
FOLDS = 2
OPTIONS = SMALL | INTERVALS


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir, labels=data_dir / "labels.csv")


@pytest.fixture(scope="module")
def crossed(data, tmp_path_factory):
    """A cross-validation with two folds and a test split, trained without interruption."""
    runs = tmp_path_factory.mktemp("crossed")
    return xf.cross_validate(data, folds=FOLDS, test_fraction=0.2, runs=runs, name="whole", epochs=1, **OPTIONS)


def bytes_of(cv):
    """Return the files with numbers of a cross-validation and of its folds, without the times in them."""
    found = {}
    for path in [cv.path, *(run.path for run in cv.runs)]:
        for file in path.rglob("*"):
            name = file.relative_to(cv.path).as_posix()
            if name.endswith(SAME) or file.name == "out_of_fold.csv":
                found[name] = file.read_bytes()
            elif file.name == "metrics.json":
                lines = file.read_text().splitlines()
                found[name] = "\n".join(line for line in lines if '"seconds"' not in line)
    return found


def test_every_image_is_predicted_once_by_a_network_that_was_not_trained_on_it(crossed):
    table = pd.read_csv(crossed.path / "out_of_fold.csv", dtype={"patient": str})
    split = pd.read_csv(crossed.path / "split.csv", dtype=str, keep_default_na=False)
    dealt = split[split["fold"] != ""]
    assert table["image"].tolist() == dealt["image"].tolist() and len(set(table["image"])) == len(table)
    assert set(split["image"]) - set(table["image"]) == set(split.loc[split["split"] == "test", "image"])
    assert (table.groupby("patient")["fold"].nunique() == 1).all() and set(table["fold"]) == {1, 2}
    for fold, run in enumerate(crossed.runs, 1):
        own = run.predictions("valid")
        rows = table.set_index("image").loc[own.images]
        assert (rows["fold"] == fold).all()
        assert np.array_equal(rows[[f"raw_{label}" for label in run.labels]].to_numpy(), own.raw)
        trained = pd.read_csv(run.split_path).query("split == 'train'")["image"]
        assert not set(trained) & set(own.images)


def test_pooled_metrics_spread_and_decision_are_those_of_the_out_of_fold_predictions(crossed):
    found, metrics = crossed.out_of_fold, crossed.metrics
    pooled = metrics["valid"]
    reference = roc_auc_score(found.truth.argmax(1), found.probability, multi_class="ovr")
    assert pooled["overall"]["auroc_macro"] == pytest.approx(reference)
    assert pooled["intervals"]["by"] == "patient" and pooled["intervals"]["units"] == len(set(found.patients))
    decision = fit_decision(found.truth, found.raw, found.labels, "single", rule=None, groups=found.groups)
    assert np.allclose(decision.calibrated(found.raw), found.probability, atol=1e-8)
    assert crossed.decision.to_json() == decision.to_json()
    for row, run in zip(metrics["folds"], crossed.runs, strict=True):
        own = run.predictions("valid").calibrated(decision)
        assert row["overall"]["auroc_macro"] == pytest.approx(
            roc_auc_score(own.truth.argmax(1), own.probability, multi_class="ovr")
        )
        assert row["images"] == len(own) and row["patients"] == len(set(own.patients))
    values = [row["overall"]["accuracy"] for row in metrics["folds"]]
    assert metrics["spread"]["accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert metrics["spread"]["accuracy"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert crossed.fold_table["accuracy"].tolist() == values
    codes = [warning["code"] for warning in pooled["warnings"]]
    assert "chosen here" in codes and "leaks" not in codes


def test_the_test_split_is_in_no_fold_and_predicted_by_the_mean_of_all_networks(crossed):
    raws = [run.predictions("test").raw for run in crossed.runs]
    found = crossed.predictions("test")
    assert np.allclose(found.raw, np.mean(raws, axis=0), atol=1e-8)
    assert not set(found.images) & set(crossed.out_of_fold.images)
    assert crossed.info.counts["test"]["images"] == len(found)


def test_repr_and_html_of_a_cross_validation(crossed):
    assert repr(crossed) == f"CrossValidation('{crossed.path}')"
    assert [run.path.name for run in crossed.runs] == ["fold1", "fold2"]
    html = crossed._repr_html_()
    assert "CrossValidation" in html and "fold2" in html and "NaN" not in html


def test_the_report_shows_folds_spread_and_test_split(crossed):
    page = re.sub(r"\s+", " ", crossed.report_path.read_text())
    assert "2 folds by patient: each image is predicted by a network that was not trained on it" in page
    for row in crossed.metrics["folds"]:
        assert f">{row['run']}<" in page and f"{row['overall']['auroc_macro']:.3f}" in page
    assert f"standard deviation {crossed.metrics['spread']['auroc_macro']['sd']:.3f}" in page
    assert "fitted on the out-of-fold predictions" in page and "calibrated on the out-of-fold predictions" in page
    assert "Nothing was chosen on the test split" in page and "Results: test" in page
    assert "By image and by patient" not in page and "Largest losses" in page


def test_an_evaluation_says_which_predictions_calibration_was_chosen_on(crossed, tmp_path):
    copy = shutil.copytree(crossed.path, tmp_path / "copy")
    found = xf.evaluate(copy, split="valid", resamples=0)
    (text,) = [one["text"] for one in found.metrics["result"]["warnings"] if one["code"] == "chosen here"]
    assert text == optimism("the out-of-fold predictions")
    page = re.sub(r"\s+", " ", found.report_path.read_text())
    assert f"{len(crossed.out_of_fold)} out-of-fold images" in page and "validation images" not in page
    assert "Both were chosen on the out-of-fold predictions of the run" in page


def test_the_methods_text_describes_folds_instead_of_a_split(crossed):
    text = describe_cross_validation(crossed)
    pooled, images = crossed.metrics["valid"], len(crossed.out_of_fold)
    assert f"test {crossed.info.counts['test']['images']} images" in text
    assert f"out-of-fold {images} images of {pooled['patients']} patients" in text
    assert "Images were divided into 2 folds by patient; each was predicted by networks that were not" in text
    assert "the best epoch were kept, by macro AUROC on the fold that it predicts. Results on the" in text
    assert "calibrated by temperature scaling on the out-of-fold predictions." in text
    assert (
        "Main metrics on the out-of-fold images: " in text and "validation" not in text and "not recorded" not in text
    )
    assert text in html.unescape(crossed.report_path.read_text())


def test_the_model_card_describes_all_networks_and_out_of_fold_predictions(crossed):
    card = crossed.model_card_path.read_text()
    pooled, tested = (crossed.metrics[split]["overall"]["auroc_macro"] for split in ("valid", "test"))
    own = card.partition("### Training data")[2]
    assert "### Out-of-fold" in card and "### Test" in card and f"{pooled:.3f}" in card and f"{tested:.3f}" in card
    assert "Images were divided into 2 folds by patient" in card and "on the fold that it predicts" in card
    assert "fitted on the out-of-fold predictions" in card and "alidation" not in own.replace("cross-validation", "")
    assert 'xf.load(run + "/fold1")' in card and f"# Model card for {crossed.path.name}" in card


def test_without_a_test_split_its_evaluation_names_the_out_of_fold_predictions(crossed, tmp_path):
    cv = xf.CrossValidation(shutil.copytree(crossed.path, tmp_path / "cv"))
    (cv.path / "predictions" / "test.csv").unlink()
    with pytest.raises(RunError, match=r"test_fraction=0\.15 creates .*split='valid' evaluates the out-of-fold pred"):
        xf.evaluate(cv)


def test_a_wrong_fold_is_reported_before_a_missing_name(data):
    with pytest.raises(ConfigError, match="fold is 3; expected one from 1 to 2, the number of folds"):
        xf.cross_validate(data, folds=2, fold=3)


def test_it_is_interpreted_from_its_out_of_fold_predictions(crossed, tmp_path):
    copy = xf.CrossValidation(shutil.copytree(crossed.path, tmp_path / "cv"))
    before = bytes_of(crossed)
    copy.model_card_path.unlink()
    found = xf.interpret(copy, top=2)
    assert "### Out-of-fold" in copy.model_card_path.read_text()
    assert np.array_equal(found.predictions.raw, crossed.out_of_fold.raw) and found.vocab == list(copy.labels)
    assert (copy.path / "figures" / "headline.png").is_file() and (copy.path / "tables" / "per_label.csv").is_file()
    assert {name: content for name, content in bytes_of(copy).items() if not name.endswith("metrics.json")} == {
        name: content for name, content in before.items() if not name.endswith("metrics.json")
    }
    assert "2 folds by patient" in copy.report_path.read_text()
    tested = xf.interpret(copy, split="test", top=2, calibrate=False)
    assert np.array_equal(tested.predictions.raw, crossed.predictions("test").raw)
    assert copy.decision.calibration is None and copy.metrics["folds"] != crossed.metrics["folds"]
    for row, run in zip(copy.metrics["folds"], copy.runs, strict=True):
        own = run.predictions("valid")
        expected = roc_auc_score(own.truth.argmax(1), own.raw, multi_class="ovr")
        assert row["overall"]["auroc_macro"] == pytest.approx(expected)
    with pytest.raises(RunError, match=r"explained by the network that was not trained on them\. Use a fold"):
        xf.interpret(copy, saliency=1)


def test_stopped_within_a_fold_it_resumes_to_the_same_bytes(data, crossed, tmp_path):
    whole = bytes_of(crossed)
    stop = StopAfter(3)  # each fold has two training batches and one validation batch, so this is in the second fold
    options = {"folds": FOLDS, "test_fraction": 0.2, "runs": tmp_path, "name": "whole", "epochs": 1, **OPTIONS}
    said = "1 finished fold of 2, in fold2 after 0 finished epochs and 1 of 2 batches of epoch 1. Resume with: xf"
    with pytest.raises(Interrupted, match=re.escape(said)):
        xf.cross_validate(data, interrupted=stop, **options)
    cv = xf.CrossValidation(tmp_path / "whole")
    assert cv.info.status == "interrupted" and [run.info.status for run in cv.runs] == ["completed", "interrupted"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrayfast.workflows.steps.network._train", lambda training: None)
        notes = []
        xf.resume(cv.runs[1], reporter=NullReporter(note=notes.append))
        assert notes[-1].startswith(
            f"This is one fold of a cross-validation. 'xrayfast cross-validate --resume {cv.path}' trains"
        )
    again = xf.resume_cross_validation(cv)
    assert bytes_of(again) == whole and again.info.status == "completed"
    with pytest.raises(RunError, match="nothing to resume"):
        xf.resume_cross_validation(cv)


@pytest.mark.slow
def test_folds_share_frozen_features_and_give_the_same_bytes_without(data, tmp_path, monkeypatch):
    from xrayfast.learning.training import frozen_features as frozen
    from xrayfast.workflows.steps import training

    monkeypatch.setattr(frozen, "_CHUNK_SIZE", 2)
    options = {"folds": 3, "epochs": 3, "augment": "off", "name": "cv", **SMALL}
    real, folders = training.cache_features, []

    def recording(*given, shared, **more):
        folders.append((shared, len(list(shared.glob("*.npy"))) if shared and shared.exists() else 0))
        return real(*given, shared=shared, **more)

    monkeypatch.setattr(training, "cache_features", recording)
    one = xf.cross_validate(data, runs=tmp_path / "shared", **options)
    assert [number for _, number in folders] == [0, 2, folders[2][1]] and {path for path, _ in folders} == {
        one.features_folder
    }
    assert not one.features_folder.exists() and one.is_finished
    monkeypatch.setattr(training, "cache_features", lambda *given, shared, **more: real(*given, **more))
    assert bytes_of(xf.cross_validate(data, runs=tmp_path / "alone", **options)) == bytes_of(one)


@pytest.mark.slow
def test_folds_trained_one_by_one_are_joined_to_the_same_bytes(data, crossed, tmp_path):
    options = {"folds": FOLDS, "test_fraction": 0.2, "runs": tmp_path, "name": "whole", "epochs": 1, **OPTIONS}
    for fold in (2, 1):
        with pytest.raises(ConfigError, match="Give name="):
            xf.cross_validate(data, fold=fold, **options | {"name": None})
        with pytest.raises(Interrupted, match=rf"Resume with: .* and fold={fold}"):
            xf.cross_validate(data, fold=fold, interrupted=StopAfter(0), **options)
        cv = xf.cross_validate(data, fold=fold, **options)
        if fold == 2:
            assert [run.path.name for run in cv.runs] == ["fold2"]
            with pytest.raises(RunError, match="1 fold not complete: fold1"):
                xf.join_folds(cv)
            with pytest.raises(ConfigError, match="other settings: epochs"):
                xf.cross_validate(data, fold=1, **options | {"epochs": 2})
    assert bytes_of(xf.join_folds(cv)) == bytes_of(crossed)


@pytest.mark.slow
def test_folds_trained_at_the_same_time_give_the_same_bytes(data, tmp_path):
    options = {"folds": FOLDS, "test_fraction": 0.2, "runs": tmp_path, "name": "whole", "epochs": 1, **TINY}
    crossed = xf.cross_validate(data, **options | {"runs": tmp_path / "one by one"})
    for wrong in ({"fold": 1}, {"cbs": [lambda: None]}):
        with pytest.raises(ConfigError):
            xf.cross_validate(data, jobs=2, **options | wrong)
    stages, tables = [], []
    reporter = NullReporter(lambda *stage: stages.append(stage))
    reporter.folds = tables.append
    cv = xf.cross_validate(data, jobs=2, reporter=reporter, **options)
    assert bytes_of(cv) == bytes_of(crossed) and cv.is_finished
    assert ("training folds", 29, 29) in stages
    assert [fold.status for fold in tables[0]] == ["starting"] * 2
    assert [(fold.name, fold.status, len(fold.rows), fold.epochs, fold.best_epoch) for fold in tables[-1]] == [
        ("fold 1", "done", 1, 1, 1), ("fold 2", "done", 1, 1, 1),
    ]  # fmt: skip
    with pytest.raises(Interrupted, match="0 finished folds of 2"):
        xf.cross_validate(data, jobs=2, interrupted=StopAfter(3), **options | {"name": "stopped"})
    notes = []
    reporter = NullReporter(note=notes.append)
    assert bytes_of(xf.resume_cross_validation(tmp_path / "stopped", jobs=9, reporter=reporter)) == bytes_of(crossed)
    assert "jobs is 9, but there are 2 folds to train, so fewer are trained at once." in notes


def test_progress_of_folds_is_read_from_their_folders(crossed, tmp_path):
    cv = xf.CrossValidation(shutil.copytree(crossed.path, tmp_path / "cv", ignore=UNCHECKED))
    first, second = cv.runs
    first.history.assign(epoch=2, valid_auroc_macro=np.nan).to_csv(tmp_path / "more.csv", index=False)
    more = (tmp_path / "more.csv").read_text().splitlines()[1]
    file = second.path / "history.csv"
    file.write_text(file.read_text() + more + "\n")
    second.update_info(status="running")
    watch = FoldWatch(cv)
    assert watch.look({2}) and not watch.look({2})
    done, training = watch.folds
    assert (done.status, training.status) == ("done", "training")
    assert len(training.rows) == 2 and training.best_epoch == 1 and training.rows[1]["valid_auroc_macro"] is None
    assert training.rows[0]["valid_auroc_macro"] == pytest.approx(crossed.runs[1].history["valid_auroc_macro"][0])
    file.write_text("half")
    assert watch.look(()) is False and watch.folds == [done, training], "a file that is half written"
    shutil.rmtree(second.path)
    assert watch.look(()) and watch.folds[1].status == "waiting" and watch.share == 0.5


@pytest.mark.slow
def test_a_folds_settings_replayed_by_fit_train_the_same_network(crossed, tmp_path):
    config = xf.Config.read(crossed.path / "fold2" / "config.yaml")
    again = xf.fit(config=config, runs=tmp_path)
    assert again.model_path.read_bytes() == crossed.runs[1].model_path.read_bytes()


@pytest.mark.slow
def test_each_repeat_has_new_folds_and_predicts_each_image_once(data, tmp_path):
    cv = xf.cross_validate(data, folds=2, repeats=2, runs=tmp_path, epochs=1, **SMALL)
    assert [run.path.name for run in cv.runs] == [f"repeat{r}-fold{f}" for r in (1, 2) for f in (1, 2)]
    table = pd.read_csv(cv.path / "out_of_fold.csv")
    assert not table.duplicated(["repeat", "image"]).any() and len(table) == 2 * len(data)
    assert table.groupby("patient")["fold"].nunique().max() == 2  # across repeats; within a repeat:
    assert (table.groupby(["repeat", "patient"])["fold"].nunique() == 1).all()
    folds = table.pivot(index="image", columns="repeat", values="fold")
    assert (folds[1] != folds[2]).any()
    found = cv.out_of_fold
    label = cv.labels[0]
    means = table.groupby("image")[f"raw_{label}"].mean()
    assert np.allclose(means.loc[found.images], found.raw[:, 0], atol=1e-8)
    assert len(found) == len(data) == cv.metrics["valid"]["images"] and len(cv.metrics["repeats"]) == 2


@pytest.mark.slow
def test_random_folds_divide_patients_and_say_so(data, crossed):
    options = {"folds": FOLDS, "test_fraction": 0.2, "runs": crossed.path.parent, "epochs": 1, **OPTIONS}
    cv = xf.cross_validate(data, random_folds=True, **options)
    table = pd.read_csv(cv.path / "out_of_fold.csv")
    divided = int((table.groupby("patient")["fold"].nunique() > 1).sum())
    assert divided
    (remark,) = [one for one in cv.info.remarks if Remark.of(one) is Remark.LEAKS_ALLOWED]
    assert f"{divided} patients (or groups of duplicates)" in remark
    assert cv.metrics["valid"]["warnings"][0]["code"] == "leaks"
    assert cv.metrics["by_patient"] == {"name": "whole", "overall": crossed.metrics["valid"]["overall"]}
    assert "By patient (whole)" in cv.report_path.read_text()


@pytest.mark.slow
def test_with_an_inner_validation_split_nothing_is_chosen_on_the_fold(data, crossed, tmp_path):
    options = {"folds": FOLDS, "test_fraction": 0.2, "runs": tmp_path, "epochs": 1, **OPTIONS}
    cv = xf.cross_validate(data, inner_valid=0.3, **options)
    split = pd.read_csv(crossed.path / "split.csv", dtype=str, keep_default_na=False).set_index("image")
    found, tested = cv.out_of_fold, cv.predictions("test")
    assert found.images.tolist() == crossed.out_of_fold.images.tolist()
    assert sorted(tested.images) == sorted(crossed.predictions("test").images)
    for fold, run in enumerate(cv.runs, 1):
        own = pd.read_csv(run.split_path, dtype=str, keep_default_na=False).set_index("image")
        inside = split["fold"] == str(fold)
        assert (own.loc[inside.index, "split"] == "test").equals((inside | (split["fold"] == "")).rename("split"))
        inner = own[own["split"] != "test"]
        assert 0.15 < (inner["split"] == "valid").mean() < 0.45
        assert (inner.groupby("patient")["split"].nunique() == 1).all()
        theirs = run.predictions("test")
        rows = np.isin(found.images, theirs.images)
        place = {image: row for row, image in enumerate(theirs.images)}
        assert np.array_equal(found.raw[rows], theirs.raw[[place[image] for image in found.images[rows]]])
    inner = average_by_image([run.predictions("valid") for run in cv.runs])[0]
    decision = fit_decision(inner.truth, inner.raw, inner.labels, "single", rule=None, groups=inner.groups)
    assert cv.decision.calibration.temperature == pytest.approx(decision.calibration.temperature, rel=1e-6)
    assert "chosen here" not in [warning["code"] for warning in cv.metrics["valid"]["warnings"]]
    page = re.sub(r"\s+", " ", cv.report_path.read_text())
    assert "on 30.0% of the images of the other folds" in page and "fitted on the inner validation predictions" in page
    assert "on 30.0% of the images of the other folds, which were held back for it." in describe_cross_validation(cv)
    found = xf.evaluate(cv, split="valid", resamples=0)
    assert "chosen here" not in [one["code"] for one in found.metrics["result"]["warnings"]]
    own = re.sub(r"\s+", " ", found.report_path.read_text())
    assert "Both were chosen on the inner validation predictions of the run" in own and "validation images" not in own
    assert not xf.compare([cv, cv.runs[0]], split="valid", resamples=2).out_of_fold


@pytest.mark.slow
def test_two_cross_validations_are_compared_over_their_folds(data, crossed):
    other = xf.cross_validate(data, folds=FOLDS, test_fraction=0.2, runs=crossed.path.parent, epochs=2, **OPTIONS)
    found = xf.compare([crossed, other], split="valid", reference=crossed, resamples=20)
    rows = found.differences.set_index(["metric", "label"])
    row = rows.loc[("f1_macro", "")]
    one, two = (np.array([fold["overall"]["f1_macro"] for fold in cv.metrics["folds"]]) for cv in (other, crossed))
    assert row["test"] == "resampled t"
    difference = one - two  # J = 2 folds, as many test as training images: 1/J + 1; one degree of freedom
    t = difference.mean() / np.sqrt((1 / 2 + 1) * (difference[0] - difference[1]) ** 2 / 2)
    assert row["p"] == pytest.approx(1 - 2 / np.pi * np.arctan(abs(t)))
    assert rows.loc[("accuracy", ""), "test"] == "McNemar"
    assert any("Nadeau and Bengio" in note for note in found.notes)
    assert found.out_of_fold and found.split_title == "Out-of-fold"
    assert f"These are out-of-fold predictions. {optimism('the out-of-fold predictions')}" in found.warnings[0]


def test_a_given_validation_split_is_refused(tmp_path):
    rows = [f"{i}.png,{'ab'[i % 2]},{'train' if i < 8 else 'valid'}" for i in range(12)]
    for i in range(12):
        (tmp_path / f"{i}.png").write_text(str(i))
    file = write_table(tmp_path, "\n".join(["image,label,split", *rows]))
    with pytest.raises(ConfigError, match="ignore_split=True"):
        xf.cross_validate(xf.open_data(tmp_path, labels=file), folds=2, runs=tmp_path / "runs")


def test_missing_or_repeated_images_in_folds_are_refused(crossed):
    first, second = (run.predictions("valid") for run in crossed.runs)
    images = [*first.images, *second.images]
    pooled = pool_folds(images[::-1], [first, second])
    assert pooled.images.tolist() == images[::-1] and np.array_equal(
        pooled.raw[::-1], np.vstack([first.raw, second.raw])
    )
    for folds in ([first, first], [first], [first, second, second]):
        with pytest.raises(RunError, match="each once"):
            pool_folds(images, folds)


def test_spread_leaves_out_folds_in_which_a_metric_is_not_defined():
    found = spread([{"a": None}, {"a": None}, {"a": 0.25}])["a"]
    assert found == {"folds": 1, "mean": 0.25, "sd": None, "lowest": 0.25, "highest": 0.25}
    assert spread([{"a": None}])["a"]["mean"] is None


def test_the_process_of_a_fold_imports_nothing_from_the_working_folder(tmp_path, monkeypatch):
    for name in ("secrets", "typing_extensions", "torch", "xrayfast"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    process = FoldProcess(tmp_path / "no_such_folder", 1, place=0, jobs=1)
    assert process.popen.wait() == 1
    with pytest.raises(RunError, match=r"Error: .*no_such_folder"):
        process.has_ended()
    assert not (tmp_path / "ran").exists()
