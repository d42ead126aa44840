"""A run that starts from the weights of another: its folder says so and which images were seen before."""

import shutil

import pandas as pd
import pytest
import torch

import xrayfast as xf
from tests.conftest import SMALL, StopAfter
from xrayfast.data.cache.image_cache import open_images
from xrayfast.errors import ConfigError, Interrupted, RunError, WeightsError
from xrayfast.files.checksums import file_digest
from xrayfast.learning.model.weights import read_weights
from xrayfast.metrics.claims.headline import Remark
from xrayfast.workflows.steps.seen import describe_seen

REASONS = (("train", "training"), ("valid", "validation"))


@pytest.fixture(scope="module")
def again(data_dir, tiny_run, tmp_path_factory):
    """A run that starts from tiny_run's weights on another split of the same data, and the data set."""
    data = xf.open_data(data_dir, test_fraction=0.2, split_seed=1)
    folder = tmp_path_factory.mktemp("runs")
    return xf.fit(data, runs=folder, name="again", epochs=2, **SMALL | {"weights": tiny_run}), data


def test_the_folder_names_the_starting_weights_and_images_seen_before(again, tiny_run):
    run = again[0]
    assert run.config.model.weights == str(tiny_run.path)
    assert run.info.weights_sha256 == file_digest(tiny_run.model_path)
    assert "because the labels are the same" in run.info.starting_weights
    assert run.info.starting_weights in run.model_card_path.read_text().replace("\\", "")
    (remark,) = [text for text in run.info.remarks if Remark.of(text) is Remark.SEEN_BEFORE]
    table = pd.read_csv(run.split_path)
    before = pd.read_csv(tiny_run.split_path).set_index("image")["split"]
    for split, reasons in (("valid", REASONS[:1]), ("test", REASONS)):
        names = table["image"][table["split"] == split]
        seen = before[names].value_counts()
        found = "; ".join(f"{seen[of]} seen in {word}" for of, word in reasons if of in seen)
        assert found and f"of {len(names)} images in the {split} split: {found}" in remark
    for split in ("valid", "test"):
        (warning,) = [w for w in run.metrics[split]["warnings"] if w["code"] == "seen before"]
        assert warning["text"] == remark and "--split-file" in warning["advice"]


def test_the_same_split_has_not_been_seen(tiny_run, data_dir):
    data = xf.open_data(data_dir, split_file=tiny_run.split_path)
    assert describe_seen(tiny_run, data, open_images(data.config, 32)) == []


def test_patients_and_copies_seen_before_are_counted(tiny_run, data_dir, tmp_path):
    data = xf.open_data(data_dir, split_file=tiny_run.split_path)
    folder = shutil.copytree(data_dir, tmp_path / "other")
    copies = data.table[data.table["split"] == "train"].head(2)
    for number, path in enumerate(copies["path"]):
        shutil.copy(path, folder / "normal" / f"copy{number}.png")
    table = data.table[["image", "labels", "split"]]
    table = pd.concat([table, pd.DataFrame({"image": [f"normal/copy{n}.png" for n in range(2)], "labels": "normal",
                                            "split": "test"})])  # fmt: skip
    table.to_csv(tmp_path / "table.csv", index=False)
    new = xf.open_data(folder, labels=tmp_path / "table.csv", patient_col="none")
    (remark,) = describe_seen(tiny_run, new, open_images(new.config, 32))
    total = int((new.table["split"] == "test").sum())
    assert remark.endswith(f"{tiny_run.path}, of {total} images in the test split: 2 seen in training.")


def test_weights_that_do_not_fit_are_refused_before_images_are_decoded(tiny_run, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("xrayfast.workflows.fit.decode", None)
    for options in ({"arch": "resnet34"}, {"head": "linear"}):
        with pytest.raises(WeightsError, match=r"tiny: (is a tiny_resnet|found the head fastai)"):
            xf.fit(data_dir, runs=tmp_path, **SMALL | {"weights": tiny_run.path} | options)
    with pytest.raises(WeightsError, match=r"none: found no such file or folder; .* a run's folder"):
        xf.fit(data_dir, runs=tmp_path, **SMALL | {"weights": tmp_path / "none"})
    (tmp_path / "w.pth").write_bytes(b"no weights")
    for path, words in ((tmp_path / "w.pth", "not a plain state dict"), (tiny_run.model_path, "does not fit resnet34")):
        with pytest.raises(WeightsError, match=words):
            xf.fit(data_dir, runs=tmp_path, **SMALL | {"weights": path, "arch": "resnet34"})


def test_settings_that_do_not_fit_the_data_are_refused_before_images_are_decoded(data_dir, tmp_path, monkeypatch):
    for module in ("fit", "cross_validate", "find_lr"):
        monkeypatch.setattr(f"xrayfast.workflows.{module}.decode", None)
    for options, words in (
        ({"loss": "asl"}, r"loss asl is for multi-label data.*Use loss='ce' or 'focal'"),
        ({"loss": "focal", "alpha": (1.0, 2.0)}, "alpha has 2 values; expected one, or one for each of: covid-19"),
        ({"monitor": "ap_macro"}, "monitor is 'ap_macro'"),
        ({"unfreeze_blocks": 40}, "unfreeze_blocks is 40"),
        ({"prevalence": "mass=0.1"}, "the label 'mass'"),
        ({"target_sensitivity": 0.9, "target_confidence": 0.999}, "target_confidence is 0.999"),
    ):
        for function in (xf.fit, xf.cross_validate, xf.find_lr):
            with pytest.raises(ConfigError, match=words):
                function(data_dir, **SMALL | options)


@pytest.mark.slow
def test_it_resumes_with_the_same_weights(again, tiny_run, tmp_path):
    run, data = again
    options = SMALL | {"weights": str(tiny_run.path)}
    for batches in (1, 4):
        with pytest.raises(Interrupted):
            xf.fit(data, runs=tmp_path, name=str(batches), epochs=2, interrupted=StopAfter(batches), **options)
        resumed = xf.resume(tmp_path / str(batches))
        for key, tensor in read_weights(run.model_path).items():
            assert torch.equal(tensor, read_weights(resumed.model_path)[key]), (batches, key)


@pytest.mark.slow
def test_weights_that_have_changed_before_the_first_epoch_are_refused(tiny_run, data_dir, tmp_path):
    copy = shutil.copytree(tiny_run.path, tmp_path / "copy", ignore=shutil.ignore_patterns("checksums.txt"))
    with pytest.raises(Interrupted):
        xf.fit(data_dir, runs=tmp_path, name="r", epochs=2, interrupted=StopAfter(1), **SMALL | {"weights": copy})
    shutil.rmtree(tmp_path / "r/checkpoint")
    state = read_weights(copy / "model.safetensors")
    xf.learning.model.weights.save_tensors(state | {"1.8.weight": state["1.8.weight"] + 1}, copy / "model.safetensors")
    with pytest.raises(RunError, match=r"the weights that it started from, .*copy, have changed since"):
        xf.resume(tmp_path / "r")


@pytest.mark.slow
def test_the_range_test_starts_from_a_run_too(tiny_run, data_dir):
    notes = []
    curve = xf.find_lr(data_dir, steps=20, note=notes.append, **SMALL | {"weights": tiny_run.path})
    other = xf.find_lr(data_dir, steps=20, note=notes.append, **SMALL)
    assert any("starts from the run" in note for note in notes)
    assert curve.losses[0] != other.losses[0]
