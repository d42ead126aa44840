"""Runs with images and frozen features on the device give the same numbers as runs that read batch by batch."""

import pytest
import torch

import xrayfast as xf
from tests.conftest import SMALL, StopAfter, record_writers
from xrayfast.errors import Interrupted, WriteError
from xrayfast.learning.dataloaders import device_data
from xrayfast.learning.training import frozen_features
from xrayfast.learning.training.checkpoint import Snapshot, TensorCopies
from xrayfast.runs.history import History
from xrayfast.workflows.steps import training

OPTIONS = SMALL | {"epochs": 2, "unfreeze": True, "freeze_epochs": 3, "mixup": 0.0, "resamples": 0, "seed": 5}
pytestmark = pytest.mark.usefixtures("quick")


def numbers(run):
    files = ["model.safetensors", "batches.csv", "predictions/valid.csv", "predictions/test.csv"]
    history = run.history.drop(columns="seconds").to_csv()
    return [(run.path / name).read_bytes() for name in files] + [history]


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir, test_fraction=0.2)


@pytest.fixture(scope="module")
def usual(data, tmp_path_factory):
    """A run with frozen features in memory, then images read batch by batch."""
    return xf.fit(data, runs=tmp_path_factory.mktemp("usual"), **OPTIONS)


@pytest.mark.parametrize("way", ["on", "read ahead"])
def test_a_run_has_the_numbers_of_one_that_reads_its_images_batch_by_batch(data, usual, way, tmp_path, monkeypatch):
    placed = []
    if way == "read ahead":
        monkeypatch.setattr(device_data.DeviceFeed, "_load", lambda self: pytest.fail("all images were read"))
        feed = device_data.DeviceFeed.__init__
        monkeypatch.setattr(device_data.DeviceFeed, "__init__", lambda self, *a: feed(self, *a[:-1], False))
    else:  # frozen features too
        monkeypatch.setattr(device_data.Placement, "fits", lambda self, size: placed.append(size) or True)
        monkeypatch.setattr(frozen_features, "_allocate", lambda *a: pytest.fail("features were put elsewhere"))
    run = xf.fit(data, runs=tmp_path, data_on_device="on", **OPTIONS)
    assert numbers(run) == numbers(usual)
    assert bool(placed) == (way == "on")


def test_it_resumes_to_the_same_numbers(data, usual, tmp_path):
    with pytest.raises(Interrupted):  # in the fourth epoch, the first with unfrozen layers
        xf.fit(data, runs=tmp_path, name="r", data_on_device="on", interrupted=StopAfter(13), **OPTIONS)
    assert 0 < len(xf.Run(tmp_path / "r").history) < 5
    assert numbers(xf.resume(tmp_path / "r")) == numbers(usual)


def test_checkpoints_written_in_a_thread_equal_those_written_directly(data, usual, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "writes_in_thread", lambda device: True)
    wrote = record_writers(monkeypatch)
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(13), **OPTIONS)
    assert len(wrote) == len(xf.Run(tmp_path / "r").history) + 1  # the checkpoint within the epoch
    run = xf.resume(tmp_path / "r")
    assert numbers(run) == numbers(usual)
    assert len(wrote) == 6 and all(name.startswith("checkpoint") for name in wrote)


def test_a_checkpoint_that_a_thread_cannot_write_ends_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "writes_in_thread", lambda device: True)
    epochs = []

    def full(folder, snapshot, best):
        epochs.append(len(snapshot.rows))
        raise WriteError(f"{folder}: can't be written (no space).")

    monkeypatch.setattr(training, "save_checkpoint", full)
    with pytest.raises(WriteError, match="no space"):
        xf.fit(data, runs=tmp_path, name="r", **OPTIONS)
    assert epochs == [1]
    assert xf.Run(tmp_path / "r").info.status == "failed"


def test_a_snapshot_stays_as_it_was_while_training_goes_on(data):
    learn = xf.learner(xf.dataloaders(data, size=32, batch_size=8, device="cpu"), weights="none", ema=0.9)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        learn.average.others = {name: t.detach().clone() for name, t in learn.model.named_parameters()}
        history = History([{"epoch": 1}], 1)
        ways = {True: TensorCopies(torch.device("cpu")), False: None}
        taken = {copy: Snapshot.of(learn, history, copies=copies) for copy, copies in ways.items()}
        before = {f: {k: t.clone() for k, t in of.items()} for f, of in taken[False].tensors.items()}
        history.rows.append({"epoch": 2})
        with torch.no_grad():
            for tensor in (*learn.model.state_dict().values(), *learn.average.others.values()):
                tensor.add_(1)
            for entry in learn.opt.state_dict()["state"]:
                [value.add_(1) for value in entry.values() if isinstance(value, torch.Tensor)]
    assert taken[True].rows == [{"epoch": 1}]
    copied = taken[True].on_cpu()
    for file, tensors in before.items():
        assert tensors and all(torch.equal(copied[file][name], t) for name, t in tensors.items())
        assert not any(torch.equal(taken[False].tensors[file][name], t) for name, t in tensors.items()), file


def test_one_note_says_that_images_are_on_the_device(data, tmp_path, capsys):
    said = []
    xf.find_lr(data, steps=20, data_on_device="on", note=said.append, **{**SMALL, "resamples": 100})
    assert [text for text in said if "kept on cpu" in text] == ["All images are kept on cpu, where they take 0.00 GB."]
