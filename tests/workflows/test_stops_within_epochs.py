"""A run that is stopped within an epoch resumes at the next batch, and ends with the same bytes."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
import warnings
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

import xrayfast as xf
from tests.conftest import SMALL, StopAfter, record_writers
from tests.workflows.test_interruptions import CallAfter, send
from tests.workflows.test_resume import assert_same, flip
from xrayfast.errors import Interrupted, RunError, WriteError
from xrayfast.learning.dataloaders import radiograph_loader
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.training import position
from xrayfast.learning.training.checkpoint import find_checkpoint
from xrayfast.runs.info_types import CheckpointState
from xrayfast.runs.run import Run
from xrayfast.workflows.steps import training

SETTINGS = SMALL | {"unfreeze": True, "freeze_epochs": 0, "epochs": 2, "seed": 4, "ema": 0.9, "head_width": 8}
BATCHES, VALID = 4, 1
"""Training and validation batches per epoch; training batches have 8, 8, 8 and 5 images."""

OPTIONS = {
    "head and layers": {"freeze_epochs": 1, "epochs": 1, "reuse_frozen": "off", "ema": None},
    "cached features": {"freeze_epochs": 2, "epochs": 1, "reuse_frozen": "on", "balanced_sampling": True},
    "steps of three batches": {"accumulate": 3, "clip_grad": 0.5, "loss": "focal", "class_weights": "auto"},
    "mixed images": {"mixup": 0.3, "cutmix": 0.5, "size": 48, "progressive": (32, 48)},
    "workers": {"workers": 2, "epochs": 1},
    "on the device": {"data_on_device": "on", "epochs": 1, "optimizer": "sgd", "lr": 0.01},
    "bf16": {"precision": "bf16", "epochs": 1, "schedule": "flat-cos", "precise_bn": False},
}


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return xf.fit(data, runs=tmp_path_factory.mktemp("whole"), name="whole", **SETTINGS)


@pytest.fixture
def read(monkeypatch):
    """A list that collects the number of images of each training or validation batch that is read."""
    found, real = [], radiograph_loader._read_batch

    def read_batch(images, paths):
        found.append(len(paths))
        return real(images, paths)

    monkeypatch.setattr(radiograph_loader, "_read_batch", read_batch)
    return found


def test_stopped_again_and_again_a_run_has_the_same_numbers_and_reads_no_batch_twice(data, whole, tmp_path, read):
    """The run is stopped in its first batch, twice more in that epoch, and in the second epoch."""
    with pytest.raises(Interrupted, match=r"Stopped after 0 finished epochs and 1 of 4 batches of epoch 1\. Resume"):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(0), **SETTINGS)
    run = Run(tmp_path / "r")
    assert run.info.status == "interrupted" and not run.has_epochs
    for after, said in (
        (1, "0 finished epochs and 3 of 4 batches of epoch 1"),
        (0, "0 finished epochs and 4 of 4 batches of epoch 1"),
        (VALID + 1, "1 finished epoch and 2 of 4 batches of epoch 2"),
    ):
        with pytest.raises(Interrupted, match=f"Stopped after {said}. Resume"):
            xf.resume(run, interrupted=StopAfter(after))
    trained = [8, 8, 8, 5, 7] * 2  # the validation split is one batch of 7
    assert read == trained[:7]
    assert_same(xf.resume(run), whole)
    assert read[:10] == trained
    assert whole.history["seconds"].gt(0).all() and run.history["seconds"].gt(0).all()


def test_a_run_stopped_during_validation_repeats_the_validation(data, tmp_path, read):
    options = SETTINGS | {"epochs": 1, "batch_size": 3}  # ten training and two validation batches
    with pytest.raises(Interrupted, match=r"10 of 10 batches of epoch 1; its validation will start over\. Resume"):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(10), **options)
    before = len(read)
    run = xf.resume(tmp_path / "r")
    assert read[before : before + 2] == [6, 1] and 3 not in read[before:]
    assert_same(run, xf.fit(data, runs=tmp_path, name="whole", **options))


@pytest.fixture
def stopped(data, tmp_path):
    """A run that was stopped in both epochs; its older checkpoint is from the end of the first."""
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(1), **SETTINGS)
    with pytest.raises(Interrupted):
        xf.resume(tmp_path / "r", interrupted=StopAfter(3))
    return Run(tmp_path / "r")


def test_if_the_position_is_damaged_the_epoch_begins_again(stopped, whole):
    flip(stopped.checkpoint / "position.safetensors", 3000)
    with pytest.warns(UserWarning, match=r"position\.safetensors: has changed.*checkpoint\.old: epoch 2 was lost"):
        assert_same(xf.resume(stopped), whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "generators.torch"}, "'torch'"),
        (lambda t: t | {"generators.torch": t["generators.torch"][:9]}, "RNG"),
        (lambda t: t | {"batches.lrs": t["batches.lrs"][:0]}, r"for 1 batches"),
    ],
)
def test_a_position_without_a_checksum_is_checked_before_training(stopped, monkeypatch, change, said):
    path = stopped.checkpoint / "position.safetensors"
    safetensors.torch.save_file(change(safetensors.torch.load_file(path)), path)
    (stopped.checkpoint / "checksums.txt").unlink()
    shutil.rmtree(stopped.checkpoint.with_name("checkpoint.old"))
    (stopped.path / "checksums.txt").unlink()
    monkeypatch.setattr(training, "run_phase", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(RunError, match=f"position.safetensors: can't be read as the state of an epoch .*{said}"):
        xf.resume(stopped)


def test_before_the_first_epoch_ends_a_damaged_checkpoint_begins_it_again(data, whole, tmp_path):
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(1), **SETTINGS)
    flip(tmp_path / "r/checkpoint/optimizer.safetensors", 3000)
    with pytest.warns(UserWarning, match=r"optimizer\.safetensors: has changed.*No epoch was finished: training"):
        assert_same(xf.resume(tmp_path / "r"), whole)


class Nothing(Callback):
    """A user's callback that does nothing."""


def test_with_own_callbacks_an_epoch_begins_again_and_a_message_says_so(data, tmp_path):
    options = SETTINGS | {"accumulate": 3}
    with pytest.raises(
        Interrupted, match=r"0 finished epochs; epoch 1 will start over, .*callbacks.*: Nothing\. Resume"
    ):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(1), cbs=Nothing, **options)
    assert not Run(tmp_path / "r").checkpoint.exists()


def test_if_the_disk_is_full_an_epoch_begins_again_and_a_message_says_so(data, tmp_path, monkeypatch):
    def full(folder, *_):
        raise WriteError(f"{folder}: can't be written (no space).")

    monkeypatch.setattr(training, "save_checkpoint", full)
    for in_thread in (False, True):
        monkeypatch.setattr(training, "writes_in_thread", lambda device, found=in_thread: found)
        with pytest.raises(Interrupted, match=r"0 finished epochs; .*saved: .*no space\)\. Resume with"):
            stop = CallAfter(1, send(signal.SIGTERM))
            xf.fit(data, runs=tmp_path, name=f"r{in_thread}", interrupted=stop, **SETTINGS)


def test_killed_in_a_long_epoch_a_run_goes_on_from_the_last_checkpoint_within_it(data, whole, tmp_path, monkeypatch):
    calls = StopAfter(2)

    def kill():
        if calls():
            raise SystemExit("killed")

    monkeypatch.setattr(position, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    monkeypatch.setattr(position, "IMAGES", 6)  # with as few images left in the epoch, none is written
    monkeypatch.setattr(training, "writes_in_thread", lambda device: True)
    wrote = record_writers(monkeypatch)
    with pytest.raises(SystemExit, match="killed"):
        xf.fit(data, runs=tmp_path, name="r", interrupted=kill, **SETTINGS)
    checkpoint, _ = find_checkpoint(tmp_path / "r/checkpoint", checksums=True)
    assert checkpoint.place == "epoch 1 after its batch 2"
    run = xf.resume(tmp_path / "r")
    assert len(wrote) == 2 + 1 + 3
    assert_same(run, whole)


def test_the_scale_of_gradients_in_fp16_goes_on():
    of_cpu = [torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=7) for scale in (2.0, 8.0)]
    written = json.loads(json.dumps({"scaler": of_cpu[0].state_dict(), "rows": [], "best_epoch": None, "batches": 1}))
    state = CheckpointState.model_validate(written | {"optimizer": []})
    callback = position.EpochPosition(None, lambda: False, None, True, None, state.scaler)
    callback.learn = SimpleNamespace(scaler=of_cpu[1])
    callback.before_train()
    assert of_cpu[1].state_dict() == of_cpu[0].state_dict()
    of_cpu[1].scale(torch.ones(()))
    of_cpu[1].update(4.0)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_wherever_it_is_stopped_a_run_ends_with_the_same_bytes(data, tmp_path, options):
    """The run is stopped after each batch, and again after the next one."""
    calls, given = [], SETTINGS | OPTIONS[options]
    whole = xf.fit(data, runs=tmp_path, name="whole", interrupted=lambda: calls.append(1) or False, **given)
    for batches in range(len(calls)):
        run = tmp_path / f"r{batches}"
        with pytest.raises(Interrupted):
            xf.fit(data, runs=tmp_path, name=run.name, interrupted=StopAfter(batches), **given)
        if Run(run).checkpoint.exists():  # there is none while frozen features are computed
            with contextlib.suppress(Interrupted):
                xf.resume(run, interrupted=StopAfter(1))
        if not Run(run).is_finished:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                xf.resume(run)
        assert_same(Run(run), whole)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="tells who sent a signal")
def test_workers_finish_the_batch_after_a_signal_to_the_whole_job(data, tmp_path):
    """SLURM, systemd and `kill -- -GROUP` signal all processes of a job."""

    def stop():
        workers = [str(child.pid) for child in multiprocessing.active_children()]
        subprocess.run(["kill", "-TERM", str(os.getpid()), *workers], check=True)
        time.sleep(0.3)
        counts.extend([len(workers), len(multiprocessing.active_children())])

    counts, options = [], SETTINGS | {"workers": 2, "batch_size": 3}
    with pytest.raises(Interrupted, match="0 finished epochs and 2 of 10 batches of epoch 1") as caught:
        xf.fit(data, runs=tmp_path, name="r", interrupted=CallAfter(2, stop), **options)
    assert caught.value.exit_code == 143
    assert counts == [2, 2]
    assert not multiprocessing.active_children()


def test_older_versions_refuse_a_checkpoint_within_an_epoch(stopped):
    """They would read `rows` and train the epoch from its start with weights from its middle."""
    of_whole, within = (
        json.loads((stopped.path / name / "state.json").read_text()) for name in ("checkpoint.old", "checkpoint")
    )
    assert "rows" in of_whole and "batches" not in of_whole
    assert "rows" not in within and within["rows_before"] == of_whole["rows"] and within["batches"] == 1
