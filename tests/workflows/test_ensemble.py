"""Ensembles average probabilities, and are calibrated on images that no member was trained on."""

import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import SMALL, UNCHECKED
from tests.decisions import fit_decision
from xrayfast import __version__
from xrayfast.cli import app
from xrayfast.errors import ConfigError, RunError
from xrayfast.files.csv_tables import read_csv
from xrayfast.files.file_names import relative_path
from xrayfast.learning.inference.predictor import predictor_of_run
from xrayfast.metrics.operating_points.calibration import Temperature
from xrayfast.reporting.markdown.methods import describe_methods
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.predictions import Predictions
from xrayfast.workflows.ensemble import _join_splits
from xrayfast.workflows.steps.predictions import ensembles
from xrayfast.workflows.steps.predictions.ensembles import average_by_image, average_splits, require_alike


@pytest.fixture(scope="module")
def pair(data_dir, tiny_run, tmp_path_factory):
    """Two runs with the same split and different seeds, and their ensemble."""
    folder = tmp_path_factory.mktemp("pair")
    first = xf.Run(shutil.copytree(tiny_run.path, folder / "first"))
    second = xf.fit(config=first.config, runs=folder, name="second", seed=5)
    return first, second, xf.ensemble([first, second], folder=folder, name="both")


@pytest.fixture(scope="module")
def images(data_dir):
    return sorted(data_dir.glob("normal/*.png"))[:4]


def test_probabilities_are_the_mean_of_the_members_and_calibrated_on_validation(pair, images):
    first, second, both = pair
    for split in ("valid", "test"):
        raws = [run.predictions(split).raw for run in (first, second)]
        assert np.allclose(both.predictions(split).raw, np.mean(raws, axis=0), atol=1e-8)
    valid = both.predictions("valid")
    decision = fit_decision(valid.truth, valid.raw, valid.labels, "single", rule=None, groups=valid.groups)
    assert both.decision.calibration.temperature == pytest.approx(decision.calibration.temperature, rel=1e-6)
    uncalibrated = [xf.predict(replaced(run), images) for run in (first, second)]
    columns = [f"prob_{label}" for label in both.labels]
    raw = [table[columns].to_numpy(float) for table in uncalibrated]
    table = xf.predict(both, images)
    assert np.allclose(table[columns].to_numpy(float), decision.calibrated(np.mean(raw, axis=0)), atol=1e-6)
    copy = xf.Run(shutil.copytree(both.path, both.path.with_name("calibrated"), ignore=UNCHECKED))
    copy.write_decision(replace(both.decision, calibration=Temperature(3.0)))
    assert predictor_of_run(copy, "cpu").decision == copy.decision != both.decision, "not that of its first member"
    spread = table[[f"spread_{label}" for label in both.labels]].to_numpy(float)
    assert np.allclose(spread, np.std(raw, axis=0, ddof=1), atol=1e-6) and (spread > 0).all()


def replaced(run):
    """Return a copy of the run without calibration."""
    copy = xf.Run(shutil.copytree(run.path, run.path.with_name(f"{run.path.name}-raw"), dirs_exist_ok=True))
    copy.write_decision(replace(copy.decision, calibration=None))
    return copy


def test_a_note_names_runs_calibrated_without_the_augmented_views_asked_for(pair, images, tmp_path):
    """One run was trained with augmented views, the other without; both orders are tested."""
    first, second, _ = pair
    views = xf.Run(shutil.copytree(first.path, tmp_path / "views", ignore=UNCHECKED))
    views.write_config(views.config.updated({"tta": True}))
    for runs in ([views, second], [second, views]):
        notes = list[str]()
        xf.predict(runs, images[:1], tta=True, note=notes.append)
        (said,) = [note for note in notes if note.startswith("--tta")]
        assert "on which the run's calibration and thresholds were fitted are made without augmented views" in said


def test_several_runs_in_one_call_are_predicted_as_their_ensemble(pair, images, monkeypatch, tmp_path):
    first, second, both = pair
    expected = xf.predict(both, images)
    pd.testing.assert_frame_equal(xf.predict([first, second], images), expected)
    output = tmp_path / "answers.csv"
    words = ["predict", first.path, second.path, *images, "-o", output, "--device", "cpu"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    found = pd.read_csv(output)
    assert np.allclose(found[expected.columns[2:8]].to_numpy(float), expected[expected.columns[2:8]].to_numpy(float))


def test_the_folder_holds_no_weights_and_loads_again_without_code(pair, images):
    first, second, both = pair
    again = xf.Run(both.path)
    assert [run.path.resolve() for run in again.members] == [first.path.resolve(), second.path.resolve()]
    own, infos = both.info, [first.info, second.info]
    assert own.parameters == sum(info.parameters for info in infos) and own.fingerprint == first.info.fingerprint
    assert own.seconds == pytest.approx(sum(info.seconds for info in infos), abs=0.1)
    assert own.remarks == list(dict.fromkeys([*infos[0].remarks, *infos[1].remarks]))
    assert own.counts == {split: first.info.counts[split] for split in ("valid", "test")}
    with pytest.raises(ConfigError, match="found this run 2 times"):
        xf.ensemble([both, first])  # its members are averaged, not itself
    kinds = {path.suffix for path in both.path.rglob("*") if path.is_file() and "evaluations" not in path.parts}
    assert kinds <= {".json", ".yaml", ".csv", ".txt"}
    for use in (xf.load, xf.resume):
        with pytest.raises(RunError, match="averages 2 runs and has no network"):
            use(both)


def test_the_methods_text_describes_all_networks_and_their_training(pair):
    first, _, both = pair
    text = describe_methods(both)
    assert "The probabilities of 2 networks were averaged, which differ in seed; network and training are" in text
    assert "phases head: 1 epoch" in text and "not recorded" not in text and "epochs 0" not in text
    assert f"training {first.info.counts['train']['images']} images" in text and "torch " in text
    assert "Of each network the weights of the best epoch were kept, by macro AUROC on the validation split." in text
    assert f"{first.info.parameters:,} parameters in all" in text, "of one network"


def test_saliency_is_the_mean_of_the_members_maps(pair, images):
    first, second, both = pair
    table, hot = xf.predict(both, images), 0
    for label in both.labels:
        maps = [xf.explain(run, images, label=label, device="cpu") for run in (first, second)]
        found = xf.explain(both, images, label=label, device="cpu")
        for i, (one, *others) in enumerate(zip(found, *maps, strict=True)):
            mean = np.mean([other.heat for other in others], axis=0)
            np.testing.assert_allclose(one.heat, mean / (mean.max() or 1), atol=1e-6)
            assert one.probabilities[label] == pytest.approx(table[f"prob_{label}"][i], abs=1e-6)
            hot += one.heat.any()
    assert hot


def test_it_is_interpreted_on_the_test_split_of_its_averaged_predictions(pair, tmp_path):
    _, _, both = pair
    copy = xf.Run(shutil.copytree(both.path, both.path.with_name("interpreted")))
    found = xf.interpret(copy, top=2, saliency=2)
    assert found.predictions.images.tolist() == both.predictions("test").images.tolist()
    assert np.array_equal(found.predictions.raw, both.predictions("test").raw)
    page = copy.report_path.read_text()
    assert "averaged over 2 networks" in page and "No epoch was finished" not in page
    assert (copy.path / "figures" / "saliency.png").is_file() and not (copy.path / "figures" / "curves.png").exists()
    with pytest.warns(UserWarning, match="no effect"):
        again = xf.interpret(copy, split="valid", thresholds="half", resamples=0)
    assert np.array_equal(again.predictions.raw, both.predictions("valid").raw)


def test_it_is_evaluated_and_compared_like_a_run(pair, tmp_path):
    first, _, both = pair
    own = xf.evaluate(both)
    assert own.metrics["result"]["overall"] == pytest.approx(both.metrics["test"]["overall"])
    members = [run.predictions("test") for run in pair[:2]]
    held_back, labels = own.predictions, list(range(len(both.labels)))
    truth = held_back.truth.argmax(1)
    assert log_loss(truth, held_back.raw, labels=labels) < np.mean(
        [log_loss(truth, member.raw, labels=labels) for member in members]
    )
    brier = [((found.raw - found.truth) ** 2).sum(1).mean() for found in (held_back, *members)]
    assert brier[0] < np.mean(brier[1:]), "at least as good as the mean of its members"
    other = tmp_path / "other"
    xf.synth(other, images=18, size=64, seed=99)
    found = xf.evaluate(both, other, device="cpu").predictions
    table = xf.predict(both, [other / image for image in found.images])
    assert np.allclose(table[[f"prob_{label}" for label in both.labels]].to_numpy(float), found.probability, atol=1e-6)
    compared = xf.compare([first, both], split="test", resamples=20)
    assert set(compared.table["run"]) == {"first", "both"} and len(compared.differences)


def test_images_that_a_member_was_trained_on_are_left_out_of_its_evaluation(pair):
    first, _, both = pair
    with pytest.raises(xf.XrayfastError, match="seen in training"):
        xf.evaluate(both, xf.open_data(first.config.data.source, split_file=first.split_path).subset("train"))


def test_runs_that_differ_or_are_too_few_are_refused(pair, tiny_multi_run, tmp_path):
    first, *_ = pair
    copy = shutil.copytree(first.path, tmp_path / "copy")
    for runs, words in (
        ([first], "at least two"),
        ([first, first], "found this run 2 times"),
        ([first, copy], "copy: has the same weights as .*first, so it may be a copy"),
        ([first, tiny_multi_run], "task"),
    ):
        with pytest.raises(ConfigError, match=words):
            xf.ensemble(runs)


def test_an_image_is_averaged_over_the_predictions_that_include_it(pair):
    found = pair[0].predictions("valid")
    half, other = found.select(np.arange(3)), replace(found, raw=1 - found.raw)
    averaged, counts = average_by_image([half, other])
    assert averaged.images.tolist() == found.images.tolist() and counts.tolist() == [2] * 3 + [1] * (len(found) - 3)
    assert np.allclose(averaged.raw[:3], 0.5) and np.allclose(averaged.raw[3:], other.raw[3:])
    changed = found.truth.copy()
    changed[1, 0] ^= 1
    with pytest.raises(RunError, match=f"'{found.images[1]}' has other labels"):
        average_by_image([found, replace(found, truth=changed)])


def predicted(images, losses, studies=None, **attributes):
    """Return predictions of images named by the letters of `images`, with raw probabilities equal to the losses."""
    n, values = len(images), np.array(losses, float)
    names, truth = np.array([*images], object), np.ones((n, 1), np.int64)
    found = Predictions(("a",), names, np.full(n, "", object), truth, values[:, None], values, values[:, None])
    return replace(found, studies=studies and np.array(studies, object), attributes=attributes)


def test_losses_are_averaged_like_probabilities_and_an_image_has_the_first_study_that_is_known():
    first = predicted("ab", [0.2, 0.4], ["", "S1"], sex=np.array(["F", "M"]), age=np.array([50.0, 60]))
    other = predicted("cab", [0.7, 0.6, 0.8], ["S3", "S2", "S9"], sex=np.array(["", "F", "M"]))
    averaged, counts = average_by_image([first, other, predicted("b", [0.0], sex=np.array(["M"]))])
    assert (averaged.images.tolist(), counts.tolist()) == (["a", "b", "c"], [2, 3, 1])
    for found in (averaged.loss, averaged.raw[:, 0], averaged.probability[:, 0]):
        assert found.tolist() == pytest.approx([0.4, 0.4, 0.7])
    assert averaged.studies.tolist() == ["S2", "S1", "S3"]
    assert {name: values.tolist() for name, values in averaged.attributes.items()} == {"sex": ["F", "M", ""]}


def test_runs_whose_labels_are_in_another_order_or_whose_size_or_window_differ_are_refused(tmp_path):
    def run(name, labels="ab", size=64, window="auto"):
        config = SimpleNamespace(model=SimpleNamespace(size=size), data=SimpleNamespace(window=window))
        file = tmp_path / name / "model.safetensors"
        return SimpleNamespace(
            path=file.parent, model_path=file, new_model_path=file, labels=labels, task="multi", config=config
        )

    for other, words in ((run("b", "ba"), "labels ba; expected ab"), (run("b", size=32), "size 32; expected 64"),
                         (run("b", window="full"), "window full; expected auto")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            require_alike([run("a"), other])
    require_alike([run("a"), run("b")])


def stand_in(path, table, **splits):
    """Return what is read of a run: its split.csv with the columns of `table`, and predictions of splits."""
    path.mkdir()
    pd.DataFrame(table).to_csv(path / "split.csv", index=False)
    info = RunInfo(xrayfast=__version__)
    return SimpleNamespace(
        path=path, split_path=path / "split.csv", predicted_splits=(*splits,), predictions=splits.__getitem__, info=info
    )


def test_of_test_images_only_those_that_all_runs_have_are_averaged_and_of_validation_images_all(tmp_path, monkeypatch):
    runs = [
        stand_in(tmp_path / f"{i}", {"image": [*"abcxyz"]}, valid=valid, test=test)
        for i, (valid, test) in enumerate(
            (
                (predicted("ab", [0.1, 0.2]), predicted("xy", [0.3, 0.5])),
                (predicted("c", [0.6]), predicted("yz", [0.7, 0.9])),
            )
        )
    ]
    read = list[str]()
    monkeypatch.setattr(ensembles, "read_csv", lambda path, *args, **options: read.append(path) or read_csv(path))
    found = average_splits(runs)
    assert read == [run.split_path for run in runs]  # once
    assert {split: one.images.tolist() for split, one in found.items()} == {"valid": ["a", "b", "c"], "test": ["y"]}
    assert found["test"].raw[:, 0].tolist() == pytest.approx([0.6])
    runs[1].predicted_splits = ("valid",)
    assert [*average_splits(runs)] == ["valid"]
    apart = stand_in(tmp_path / "apart", {"image": [*"abcxyz"]}, valid=predicted("c", [0]), test=predicted("z", [0]))
    assert [*average_splits([runs[0], apart])] == ["valid"]
    runs[0].predicted_splits = ()
    with pytest.raises(KeyError):  # of a run, predictions that are missing are an error
        average_splits([stand_in(tmp_path / "none", {"image": [*"abcxyz"]}), apart])


def test_folds_of_the_same_data_keep_their_patients_and_studies_and_unknown_ones_stay_unknown(tmp_path):
    table = {"image": [*"abcd"], "patient": ["P1", "P2", "P1", ""], "digest": ["", "bb", "", ""]}

    def fold(name, images, patients, studies, digests=None, info=None):
        valid = replace(predicted(images, [0.5] * len(images), studies), patients=np.array(patients, object))
        of_run = table if digests is None else table | {"digest": digests, "image": [*images], "patient": patients}
        run = stand_in(tmp_path / name, of_run, valid=valid)
        run.info = info or run.info
        return run

    one, other = fold("one", "ab", ["P1", "P2"], ["S1", "S2"]), fold("other", "cd", ["P1", ""], ["S1", ""])
    valid = average_splits([one, other])["valid"]
    assert (valid.patients.tolist(), valid.studies.tolist()) == (["P1", "P2", "P1", ""], ["S1", "S2", "S1", ""])
    # Data of only some of these images, with their own numbers; an image whose patient is known only there.
    for digest, info in (("bb", None), ("other", RunInfo(xrayfast=__version__, versions={"pillow": "1"}))):
        some = fold(f"some{digest}", "dbe", ["", "P1", ""], ["S1", "S2", ""], ["dd", digest, ""], info)
        valid = average_splits([one, some])["valid"]
        assert valid.images.tolist() == [*"abde"] and valid.patients.tolist() == ["P1", "P2", "", ""]
    subset = fold("subset", "db", ["P1", "P2"], ["S1", "S2"], ["", "bb"])
    valid = average_splits([one, subset])["valid"]
    assert (valid.patients.tolist(), valid.studies.tolist()) == (["P1", "P2", "P1-2"], ["S1", "S2", "S1-2"])
    first = fold("first", "ad", ["P1", ""], None, ["", ""])
    unknown = fold("unknown", "ab", ["", ""], None, ["", ""])
    assert average_splits([first, unknown])["valid"].patients.tolist() == ["P1", "", ""]


def test_patients_and_studies_of_different_data_are_kept_apart_and_images_of_one_name_too(tmp_path):
    """Each data set has its own P00001 and S00001; an image in both tells which are the same."""
    one = predicted("ab", [0.1, 0.2], ["S1", "S2"])
    other = predicted("bcde", [0.3, 0.4, 0.5, 0.6], ["S1", "S2", "S1", ""])
    runs = [
        stand_in(
            tmp_path / f"{i}",
            {"image": images, "patient": patients, "digest": [image * 2 for image in images]},
            valid=replace(found, patients=np.array(shown, object)),
        )
        for i, (found, images, patients, shown) in enumerate(
            (
                (one, [*"abt"], ["P1", "P2", "P3"], ["P1", "P2"]),
                (other, [*"bctde"], ["P1", "P2", "P4", "P4", ""], ["P1", "P2", "P4", ""]),
            )
        )
    ]
    valid = average_splits(runs)["valid"]
    assert (valid.images.tolist(), valid.patients.tolist()) == ([*"abcde"], ["P1", "P2", "P2-2", "P3", ""])
    assert valid.studies.tolist() == ["S1", "S2", "S2-2", "S2", ""]
    table = pd.read_csv(runs[1].split_path)
    table.assign(digest=table["digest"].replace("tt", "uu")).to_csv(runs[1].split_path, index=False)
    with pytest.raises(RunError, match="1: 't' has other pixels"):
        average_splits(runs)
    runs[1].info = RunInfo(xrayfast="0.17.0")  # which may have decoded it in another way
    assert average_splits(runs)["valid"].images.tolist() == [*"abcde"]
    runs[1].split_path.unlink()  # as in a run from the Hub
    valid = average_splits(runs)["valid"]
    assert (valid.images.tolist(), valid.patients.tolist()) == ([*"abcde"], ["P1", "P2", "P2-2", "P4", ""])


def test_an_image_of_several_splits_was_seen_in_the_first_of_train_valid_and_test(tmp_path):
    splits = {"abcd": ["test", "valid", "train", "valid"], "dfa": ["valid", "test", "valid"]}
    patients = {"abcd": ["P1", "P1", "P2", "P3"], "dfa": ["P1", "P2", "P4"]}
    members = [
        stand_in(tmp_path / name, {"image": [*name], "split": splits[name], "patient": patients[name]})
        for name in splits
    ]
    tables = [pd.read_csv(member.split_path, keep_default_na=False) for member in members]
    joined = _join_splits(tables)
    assert joined[["image", "split", "patient"]].to_numpy().tolist() == [
        ["b", "valid", "P1"], ["c", "train", "P2"], ["d", "valid", "P3"], ["f", "test", "P2-2"], ["a", "valid", "P1"],
    ]  # fmt: skip
    back = _join_splits(tables[::-1]).sort_values("image")["split"]
    assert back.tolist() == ["valid", "valid", "train", "valid", "test"]


@pytest.mark.slow
def test_a_cross_validation_is_an_ensemble(data_dir, images, tmp_path):
    data = xf.open_data(data_dir, labels=data_dir / "labels.csv")
    cv = xf.cross_validate(data, folds=2, test_fraction=0.2, runs=tmp_path, epochs=1, **SMALL)
    assert xf.ensemble(cv) is cv
    made = xf.ensemble(cv.runs, folder=tmp_path)
    for split, own in (("valid", cv.out_of_fold), ("test", cv.predictions("test"))):
        other = made.predictions(split)
        place = {image: row for row, image in enumerate(other.images)}
        assert np.allclose(other.raw[[place[image] for image in own.images]], own.raw, atol=1e-8)
    columns = [f"prob_{label}" for label in cv.labels]
    one, other = xf.predict(cv, images), xf.predict(made, images)
    assert np.allclose(one[columns].to_numpy(float), other[columns].to_numpy(float), atol=1e-3)
    with pytest.raises(xf.XrayfastError, match="seen in"):
        xf.evaluate(cv, data.subset("train"))


def test_the_path_of_a_member_is_absolute_if_it_is_on_another_drive(tmp_path, monkeypatch):
    assert relative_path(tmp_path / "runs" / "a", tmp_path / "runs" / "ensemble") == "../a"

    def refuse(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", refuse)
    assert relative_path(tmp_path / "a", tmp_path / "b") == (tmp_path / "a").as_posix()
