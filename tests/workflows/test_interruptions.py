"""Signals, kills, a second writer, and data that change during training."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import xrayfast as xf
from tests.conftest import SMALL, StopAfter
from tests.workflows.test_fit import assert_same_numbers
from xrayfast.config import Config
from xrayfast.errors import Interrupted, RunError
from xrayfast.errors.signals import STOP_SIGNALS, Stopped
from xrayfast.files import run_lock
from xrayfast.learning.model.network import StartingWeights
from xrayfast.progress import NullReporter
from xrayfast.workflows.steps import finishing, network
from xrayfast.workflows.steps.provenance import describe_replay

OPTIONS = SMALL | {"epochs": 2, "reuse_frozen": "off", "seed": 7}
BATCHES = 5
"""Batches per epoch: four training batches and one validation batch."""


class CallAfter(StopAfter):
    """Calls a function once after a number of batches, and never asks to stop."""

    def __init__(self, batches, function):
        super().__init__(batches - 1)
        self.function = function

    def __call__(self):
        if super().__call__() and self.function:
            function, self.function = self.function, None
            function()
        return False


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def data(data_dir, tmp_path_factory):
    """The data set of a copy that tests may change."""
    return xf.open_data(shutil.copytree(data_dir, tmp_path_factory.mktemp("copy") / "data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return xf.fit(data, runs=tmp_path_factory.mktemp("whole"), **OPTIONS)


@pytest.fixture
def stopped(data, tmp_path):
    """A run that was stopped in its second epoch."""
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(BATCHES + 2), **OPTIONS)
    return xf.Run(tmp_path / "r")


@pytest.mark.parametrize(
    ("number", "code", "batches", "epochs"),
    [
        pytest.param(signal.SIGHUP, 129, BATCHES - 1, 0, marks=pytest.mark.slow),
        (signal.SIGTERM, 143, BATCHES, 1),  # the epoch is complete, so it is saved first
        pytest.param(signal.SIGTERM, 143, 2 * BATCHES, 2, marks=pytest.mark.slow),  # only predictions are left to do
    ],
)
def test_a_signal_stops_training_after_the_batch_and_the_run_resumes(
    data, whole, tmp_path, number, code, batches, epochs
):
    before = [signal.getsignal(n) for n in STOP_SIGNALS]
    message = rf"Stopped after {epochs} finished epoch.*xf\.resume\("
    with pytest.raises(Interrupted, match=message) as caught:
        xf.fit(data, runs=tmp_path, name="r", interrupted=CallAfter(batches, send(number)), **OPTIONS)
    assert caught.value.exit_code == code
    assert [signal.getsignal(n) for n in STOP_SIGNALS] == before
    run = xf.Run(tmp_path / "r")
    assert run.info.status == "interrupted"
    assert not (run.path / "run.lock").exists()
    assert_same_numbers(whole, xf.resume(run))


def test_a_signal_before_or_after_training_stops_at_once(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(network, "prepare", lambda *_: send(signal.SIGTERM)())
        with pytest.raises(Stopped, match="SIGTERM"):
            xf.fit(data, runs=tmp_path, name="r", **OPTIONS)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(finishing, "predict_split", lambda *_, **__: send(signal.SIGTERM)())
        said = r"after 1 finished epoch; the computation of the results will start over\. Resume"
        with pytest.raises(Interrupted, match=said) as caught:
            xf.fit(data, runs=tmp_path, name="r", **OPTIONS | {"epochs": 1})
    assert caught.value.exit_code == 143
    resumed = xf.resume(tmp_path / "r").info
    assert resumed.status == "completed"
    assert "learned nothing" not in "".join(resumed.remarks)  # no step was left to do


def test_a_second_signal_stops_at_once_and_the_message_says_what_is_lost(data, tmp_path):
    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    said = r"0 finished epochs, immediately: work since the last checkpoint is lost, and .* will resume at epoch 1\. R"
    with pytest.raises(Interrupted, match=said):
        xf.fit(data, runs=tmp_path, name="twice", interrupted=CallAfter(2, twice), **OPTIONS)
    said = r"0 finished epochs; the computation of frozen features will start over\. Resume"
    with pytest.raises(Interrupted, match=said):
        xf.fit(data, runs=tmp_path, name="features", interrupted=StopAfter(0), **OPTIONS | {"reuse_frozen": "on"})
    stopped = xf.Run(tmp_path / "features").info.stopped
    assert stopped == "0 finished epochs; the computation of frozen features will start over"


def test_stopped_while_its_checkpoint_is_removed_a_run_stays_complete(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(xf.Run, "remove_leftovers", lambda run: shutil.rmtree(run.checkpoint) or send(signal.SIGTERM)())
        with pytest.raises(Interrupted, match=r"1 finished epoch and all results\. Resume"):
            xf.fit(data, runs=tmp_path, name="r", **OPTIONS | {"epochs": 1})
    assert xf.Run(tmp_path / "r").info.status == "completed"


def test_an_error_caused_by_a_signal_counts_as_an_interruption(data, tmp_path):
    def fail():
        """Fail as if SIGTERM also ended a worker, or SIGHUP came because the terminal is gone."""
        send(signal.SIGTERM)()
        raise OSError(5, "Input/output error")

    with pytest.raises(
        Interrupted, match=r"0 finished epochs; the next step will start over.*Input/output error\. Resume"
    ):
        xf.fit(data, runs=tmp_path, name="r", interrupted=CallAfter(2, fail), **OPTIONS)
    assert xf.Run(tmp_path / "r").info.status == "interrupted"


def test_a_library_s_error_caused_by_a_signal_counts_as_an_interruption(data, tmp_path, monkeypatch):
    def import_of_a_library(*_, **__):
        try:
            send(signal.SIGTERM)()
        except BaseException:
            raise ImportError("no metrics") from None

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "predict_split", import_of_a_library)
        with pytest.raises(Interrupted, match="after 1 finished epoch") as caught:
            xf.fit(data, runs=tmp_path, name="r", **OPTIONS | {"epochs": 1})
    assert caught.value.exit_code == 143
    assert xf.Run(tmp_path / "r").info.status == "interrupted"


def test_two_processes_never_write_to_one_run(data, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    refusals = []

    def write_too():
        run = tmp_path / "r"
        for write in (xf.resume, xf.interpret, lambda run: xf.evaluate(run, data)):
            with pytest.raises(
                RunError, match=rf"^{run}: another process is writing to this run \(process {os.getpid()}"
            ):
                write(run)
            refusals.append(write)

    run = xf.fit(data, runs=tmp_path, name="r", interrupted=CallAfter(BATCHES + 1, write_too), **OPTIONS)
    assert len(refusals) == 3
    assert_same_numbers(whole, run)


def test_the_lock_of_a_killed_process_is_taken_over_with_a_note(stopped, whole):
    holder = {"host": os.uname().nodename, "pid": 2147483646, "start": 1e9, "since": "2026", "command": "xrayfast fit"}
    (stopped.path / "run.lock").write_text(json.dumps(holder))
    notes = []
    assert_same_numbers(whole, xf.resume(stopped, reporter=NullReporter(note=notes.append)))
    assert "ended before it was finished (process 2147483646" in notes[0]


@pytest.mark.parametrize("at", ["write_cards", pytest.param("finalize_results", marks=pytest.mark.slow)])
def test_a_run_killed_at_its_end_is_resumed_to_its_end(data, tmp_path, monkeypatch, at):
    with monkeypatch.context() as patch:
        patch.setattr(finishing, at, lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit, match="killed"):
            xf.fit(data, runs=tmp_path, name="r", **OPTIONS | {"epochs": 1})
    run = xf.resume(tmp_path / "r")
    assert run.info.status == "completed"
    assert run.claim_path.is_file() and not run.leftovers()


def test_resuming_a_complete_run_finishes_what_a_kill_left_undone(tiny_run, tmp_path):
    run = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "tiny"))
    (run.path / "checkpoint.old").mkdir()
    (run.path / "predictions" / ".test.csv.01234567.tmp").touch()
    being_written = run.path / "evaluations" / "x" / ".metrics.json.01234567.tmp"
    being_written.parent.mkdir(parents=True)
    being_written.touch()
    run.claim_path.unlink()
    notes = []
    xf.resume(run, reporter=NullReporter(note=notes.append))
    assert notes == [
        f"{run.path} was complete except for its last step, which is now done: removed checkpoint.old, "
        "removed predictions/.test.csv.01234567.tmp, "
        "wrote model_card.md and claim.md."
    ]
    assert run.claim_path.read_text() == tiny_run.claim_path.read_text()
    assert being_written.is_file() and not run.leftovers()
    with pytest.raises(RunError, match="nothing to resume"):
        xf.resume(run)


def other_pixels(path):
    """Replace an image with another of the same file size."""
    pixels = np.array(Image.open(path))
    Image.fromarray(pixels[::-1]).save(path, compress_level=0)


@pytest.fixture
def uncompressed(data_dir, tmp_path):
    """A data set of uncompressed files: a replaced image keeps its size, and with it the fingerprint."""
    folder = shutil.copytree(data_dir, tmp_path / "data")
    for path in folder.rglob("*.png"):
        Image.open(path).save(path, compress_level=0)
    return xf.open_data(folder)


def paths_of(data, split):
    return data.subset(split).table["path"].tolist()


@pytest.mark.parametrize("cache", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_images_replaced_while_training_are_named_in_the_results(uncompressed, tmp_path, cache):
    data, notes = xf.open_data(uncompressed.config.source, cache=cache), []
    changed = [paths_of(data, "valid")[0], paths_of(data, "train")[3]]

    def replace():
        for path in changed:
            other_pixels(path)
        os.utime(paths_of(data, "train")[1])  # the same pixels

    run = xf.fit(
        data,
        runs=tmp_path,
        reporter=NullReporter(note=notes.append),
        interrupted=CallAfter(2, replace),
        **OPTIONS | {"epochs": 1},
    )
    (remark,) = (remark for remark in run.info.remarks if "changed while" in remark)
    names = sorted(data.table["image"][data.table["path"].isin(changed)])
    assert remark.startswith("2 images changed while the network was trained: ") and all(n in remark for n in names)
    assert remark in notes
    assert "changed while the network was trained" in run.model_card_path.read_text()


def test_a_run_whose_images_changed_is_not_resumed(uncompressed, tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        xf.fit(uncompressed, runs=tmp_path, name="r", interrupted=StopAfter(BATCHES + 2), **OPTIONS)
    path = paths_of(uncompressed, "train")[0]
    before = Path(path).read_bytes()
    other_pixels(path)
    name = uncompressed.table["image"][uncompressed.table["path"] == path].item()
    with pytest.raises(RunError, match=rf"1 image of .* changed since the run began: {name}; expected the same pixels"):
        xf.resume(tmp_path / "r")
    Path(path).write_bytes(before)
    notes = []
    xf.Run(tmp_path / "r").update_info(threads=torch.get_num_threads() + 1)
    xf.resume(tmp_path / "r", reporter=NullReporter(note=notes.append))
    threads = torch.get_num_threads()
    assert notes == [
        f"This process computes with {threads} thread{'s' * (threads != 1)}, but the run used {threads + 1}: "
        f"sums are rounded differently, so results will differ. OMP_NUM_THREADS={threads + 1} sets the same number."
    ]


def test_a_note_says_that_another_version_may_have_decoded_images_differently(stopped):
    table = pd.read_csv(stopped.split_path, dtype=str)
    stopped.write_split(table.assign(digest="0" * 32))
    stopped.update_info(xrayfast="0.3.0")
    notes = []
    xf.resume(stopped, reporter=NullReporter(note=notes.append))
    assert notes[0].startswith("36 images of ")
    assert ", or xrayfast 0.3.0 decoded them differently: results will differ." in notes[0]


def test_the_number_of_threads_is_recorded_and_noted_on_replay(whole, tmp_path):
    threads = torch.get_num_threads()
    assert whole.info.threads == threads
    learn = SimpleNamespace(start=None, settings={"weights": "none"})
    config = whole.path / "config.yaml"
    alone = shutil.copy(config, tmp_path)
    assert not any(describe_replay(one, learn) for one in (Config(), Config.read(config), Config.read(alone)))
    run = xf.Run(shutil.copytree(whole.path, tmp_path / "r"))
    run.update_info(threads=threads + 2)
    (note,) = describe_replay(run.config, learn)
    assert f"but the run {run.path} used {threads + 2}" in note
    run.update_info(device="cuda:0")
    assert not describe_replay(run.config, learn)
    # A change of the starting weights is noted.
    run.write_config(run.config.updated({"weights": str(tmp_path / "w.pth")}))
    run.update_info(weights_sha256="0" * 64)
    for weights, digest, noted in (("w.pth", "1", True), ("w.pth", "0", False), ("v.pth", "1", False)):
        learn = SimpleNamespace(start=StartingWeights("", digest * 64), settings={"weights": str(tmp_path / weights)})
        assert ["w.pth: has changed since the run" in text for text in describe_replay(run.config, learn)] == [
            True
        ] * noted
