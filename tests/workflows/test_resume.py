"""Damage to any file of a run or checkpoint is found before training resumes."""

import gc
import json
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import xrayfast as xf
from tests.conftest import SMALL, TINY, UNCHECKED, StopAfter
from xrayfast.errors import Interrupted, RunError, WeightsError, XrayfastError
from xrayfast.learning.fastai_api import Learner
from xrayfast.learning.training.checkpoint import Checkpoint, find_checkpoint
from xrayfast.runs.run import Run
from xrayfast.workflows.steps import network, training

pytestmark = pytest.mark.usefixtures("tiny_vgg_arch")

SETTINGS = SMALL | {
    "arch": "tiny_vgg",
    "unfreeze": True,
    "freeze_epochs": 0,
    "epochs": 3,
    "seed": 4,
    "head": "classifier",
}

READERS = {
    "config.yaml": lambda run: run.config,
    "run.json": lambda run: run.info,
    "labels.json": lambda run: run.labels,
    "model.safetensors": lambda run: run.model_path,
    "split.csv": lambda run: run.split_path,
    "history.csv": lambda run: run.history,
    "batches.csv": lambda run: run.batches,
    "metrics.json": lambda run: run.metrics,
    "predictions/valid.csv": lambda run: run.predictions("valid"),
}
CHECKPOINT = ("state.json", "model.safetensors", "optimizer.safetensors", "batches.csv", "best.safetensors")


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of three epochs that was not interrupted."""
    return xf.fit(data, runs=tmp_path_factory.mktemp("whole"), name="whole", **SETTINGS)


@pytest.fixture(scope="module")
def interrupted(data, tmp_path_factory):
    """The same run, interrupted after its second epoch."""
    runs = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Interrupted):
        xf.fit(data, runs=runs, name="r", interrupted=StopAfter(9), **SETTINGS)
    run = Run(runs / "r")
    assert len(run.history) == 2
    return run


@pytest.fixture
def stopped(interrupted, tmp_path):
    return Run(shutil.copytree(interrupted.path, tmp_path / "r"))


def assert_same(run, whole):
    """Check that two runs have equal numbers, bit by bit."""
    for name in ("history.csv", "batches.csv"):
        mine, other = (
            [line.rsplit(",", 1)[0] for line in (r.path / name).read_text().splitlines()] for r in (run, whole)
        )
        assert mine == other  # without the last column of the history, the time
    assert run.model_path.read_bytes() == whole.model_path.read_bytes()
    assert (run.path / "predictions/valid.csv").read_bytes() == (whole.path / "predictions/valid.csv").read_bytes()


def flip(path, at, bits=1):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bits]))


def places(path, most=12):
    """Return some byte offsets of a file, with its first and last bytes."""
    size = path.stat().st_size
    return sorted({*range(min(3, size)), *np.linspace(0, size - 1, most).astype(int).tolist()})


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_byte_of_a_run_is_an_error_that_names_the_file(whole, tmp_path, name):
    run = Run(shutil.copytree(whole.path, tmp_path / "r"))
    READERS[name](run)
    for at in places(run.path / name):
        flip(run.path / name, at, 4)
        with pytest.raises(RunError, match=rf"/{name}: has changed since it was written.*checksums\.txt"):
            READERS[name](run)
        flip(run.path / name, at, 4)
    READERS[name](run)
    checksums = (run.path / name).parent / "checksums.txt"
    [line] = [n for n in checksums.read_text().splitlines() if n.endswith(f"  {Path(name).name}")][-1:]
    checksums.write_text(checksums.read_text().replace(line, line.replace("  ", " ")))
    for digest in {n.split()[0] for n in checksums.read_text().splitlines() if n.endswith(f"  {Path(name).name}")}:
        checksums.write_text(checksums.read_text().replace(digest, "0" * 64))
    with pytest.raises(RunError, match=rf"/{name}: "):
        READERS[name](run)
    checksums.unlink()  # as in runs of versions before 0.4, and after a deliberate change
    READERS[name](run)


def test_files_rewritten_by_interpret_and_evaluate_have_valid_checksums(whole, tmp_path, quick):
    run = Run(shutil.copytree(whole.path, tmp_path / "r"))
    xf.interpret(run, calibrate=False)
    for use in READERS.values():
        use(run)
    evaluation = xf.evaluate(run, split="valid", resamples=0)
    run.claim_path.write_text("by hand")
    xf.interpret(run)
    for name in ("predictions.csv", "metrics.json", "evaluation.json"):
        flip(evaluation.path / name, 20)
        with pytest.raises(RunError, match=rf"/{name}: has changed"):
            _ = evaluation.predictions, evaluation.metrics, evaluation.info
        flip(evaluation.path / name, 20)


@pytest.mark.parametrize("damage", ["flip", "remove"])
@pytest.mark.parametrize("name", [*CHECKPOINT, "checksums.txt"])
def test_after_any_damage_to_a_checkpoint_the_one_before_is_used(interrupted, stopped, name, damage):
    """Without training: this calls the function with which `resume` finds its checkpoint."""
    path = stopped.checkpoint / name

    def found():
        checkpoint, problem = find_checkpoint(stopped.checkpoint, checksums=True)
        return checkpoint.path.name, len(checkpoint.state.rows), problem

    assert found() == ("checkpoint", 2, "")
    if damage == "remove":
        path.unlink()
        assert found()[:2] == ("checkpoint.old", 1) and f"checkpoint: lacks {name}" in found()[2]
        return
    exhaustive = range(path.stat().st_size) if path.suffix in (".txt", ".json", ".csv") else places(path)
    for at in exhaustive:
        flip(path, at)
        folder, epochs, problem = found()
        assert (folder, epochs) == ("checkpoint.old", 1)
        assert name == "checksums.txt" or f"checkpoint/{name}: has changed since it was written" in problem
        flip(path, at)
    assert found() == ("checkpoint", 2, "")


def test_resumed_from_the_checkpoint_before_a_run_has_the_same_numbers(stopped, whole):
    optimizer = stopped.checkpoint / "optimizer.safetensors"
    for at in places(optimizer, 8)[-8:]:
        flip(optimizer, at)
    with pytest.warns(UserWarning, match=r"optimizer\.safetensors: has changed.*checkpoint\.old: epoch 2 was lost"):
        run = xf.resume(stopped)
    assert_same(run, whole)


def test_if_both_checkpoints_are_damaged_nothing_is_trained(stopped):
    for folder in (stopped.checkpoint, stopped.checkpoint.with_name("checkpoint.old")):
        flip(folder / "model.safetensors", 3000)
    with pytest.raises(RunError, match=r"/model\.safetensors: has changed.*Start a new run"):
        xf.resume(stopped)
    assert len(stopped.history) == 2 and stopped.info.status == "interrupted"


def test_a_run_whose_checkpoint_is_gone_does_not_start_again(stopped):
    shutil.rmtree(stopped.checkpoint)
    with pytest.warns(UserWarning, match=r"checkpoint: lacks .*state\.json.*epoch 2 was lost"):
        xf.resume(shutil.copytree(stopped.path, stopped.path.with_name("other")))
    shutil.rmtree(stopped.checkpoint.with_name("checkpoint.old"))
    with pytest.raises(RunError, match=r"epochs were finished, but checkpoint is missing.*config=.*config\.yaml"):
        xf.resume(stopped)


def test_a_run_without_a_finished_epoch_starts_again_and_says_so(data, tmp_path):
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(1), **SETTINGS | {"epochs": 1})
    shutil.rmtree(tmp_path / "r/checkpoint")
    with pytest.warns(UserWarning, match="No epoch was finished: training starts at epoch 1"):
        assert len(xf.resume(tmp_path / "r").history) == 1


@pytest.mark.parametrize("moment", [pytest.param("publish", marks=pytest.mark.slow), "rename"])
def test_killed_while_an_epoch_is_saved_a_run_resumes_to_the_same_numbers(data, whole, tmp_path, monkeypatch, moment):
    """The kill comes between the checkpoint and the run's own files, or between the two renames of a checkpoint."""

    def killed(run, rows):
        if moment == "publish" and len(rows) == 3:
            raise KeyboardInterrupt
        real(run, rows)

    real = training.publish_epochs
    stop = StopAfter(9 if moment == "rename" else 99)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(training, "publish_epochs", killed)
        xf.fit(data, runs=tmp_path, name="r", interrupted=stop, **SETTINGS)
    run = Run(tmp_path / "r")
    assert len(run.history) == 2
    if moment == "rename":
        run.checkpoint.rename(run.checkpoint.with_name("checkpoint.new"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert_same(xf.resume(run), whole)
    assert ("epoch 2 was lost" in " ".join(str(w.message) for w in said)) == (moment == "rename")


def test_a_run_of_a_version_without_checksums_resumes_to_the_same_numbers(interrupted, whole, tmp_path):
    run = Run(shutil.copytree(interrupted.path, tmp_path / "r", ignore=UNCHECKED))
    (run.checkpoint / "best.safetensors").unlink()
    shutil.rmtree(run.checkpoint.with_name("checkpoint.old"))
    assert_same(xf.resume(run), whole)


def without(tensors, count):
    return dict(list(tensors.items())[count:])


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("optimizer.safetensors", lambda t: without(t, 10), r"lacks 0\.grad_avg"),
        ("optimizer.safetensors", lambda t: {**t, "0.grad_avg": torch.zeros(3)}, r"0\.grad_avg has shape \(3,\)"),
        ("optimizer.safetensors", lambda t: {**t, "0.step": torch.tensor(torch.nan)}, r"0\.step has .*finite"),
        ("optimizer.safetensors", lambda t: {**t, "99.grad_avg": torch.zeros(3)}, "can't be read as the state"),
        ("optimizer.safetensors", lambda t: {"nonsense": torch.zeros(3)}, "can't be read as the state"),
        ("model.safetensors", lambda t: without(t, 1), "another network"),
        ("best.safetensors", lambda t: without(t, 1), "another network"),
        ("best.safetensors", lambda t: {k: v * torch.nan for k, v in t.items()}, "NaN"),
        ("state.json", lambda s: s | {"optimizer": s["optimizer"][1:]}, r"the state of \d+ parameters"),
        ("state.json", lambda s: s | {"optimizer": 3}, "optimizer is 3"),
        ("state.json", lambda s: s | {"best_epoch": 3}, "a best_epoch of at most 2"),
        ("state.json", lambda s: s | {"best_epoch": None}, "best_epoch is None"),
        ("state.json", lambda s: s | {"rows": []}, "rows is"),
        ("state.json", lambda s: s | {"rows": s["rows"][1:]}, "the epochs 1, 2, 3"),
        ("state.json", lambda s: s | {"rows": [{"epoch": 1}]}, r"rows\.0 is"),
        ("state.json", lambda s: s | {"rows": [r | {"lr": "x"} for r in s["rows"]]}, "expected float under 'lr'"),
        ("state.json", lambda s: [s], "expected a JSON object"),
        ("../run.json", lambda s: s | {"global_batch": "many"}, "global_batch is 'many'"),
        ("../run.json", lambda s: s | {"global_batch": -8}, "global_batch is -8"),
        ("../run.json", lambda s: s | {"global_batch": 10**20}, r"global_batch is 10{20}; expected less than or equal"),
        ("../run.json", lambda s: s | {"frozen_feature_groups": [0] * 9}, "according to config.yaml the phases have"),
        ("../run.json", lambda s: s | {"frozen_feature_groups": [99] * 2}, "according to config.yaml the phases have"),
        ("../run.json", lambda s: s | {"lr": 0}, "lr is 0"),
        ("../run.json", lambda s: s | {"precision": "fp7"}, "precision is 'fp7'"),
        ("../run.json", lambda s: s | {"status": "done"}, "status is 'done'"),
        ("../labels.json", lambda s: s | {"labels": s["labels"][::-1]}, r"labels\.json has other labels"),
        ("../labels.json", lambda s: s | {"labels": s["labels"][1:]}, r"labels\.json has other labels"),
    ],
)
def test_what_resume_needs_is_checked_before_training(interrupted, tmp_path, monkeypatch, file, change, said):
    """Without checksums: each file could have been written by a version that had none."""
    run = Run(shutil.copytree(interrupted.path, tmp_path / "r", ignore=UNCHECKED))
    shutil.rmtree(run.checkpoint.with_name("checkpoint.old"))
    path = run.checkpoint / file
    if path.suffix == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    else:
        safetensors.torch.save_file(change(safetensors.torch.load_file(path)), path)
    monkeypatch.setattr(training, "run_phase", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises((RunError, WeightsError), match=said):
        xf.resume(run)


def test_the_header_of_the_checkpoint_is_read_before_the_network_is_built(interrupted, tmp_path, monkeypatch):
    run = Run(shutil.copytree(interrupted.path, tmp_path / "r", ignore=UNCHECKED))
    text = (run.path / "config.yaml").read_text()
    assert "head_width: []" in text
    (run.path / "config.yaml").write_text(text.replace("head_width: []", "head_width: [10000, 10000]"))
    monkeypatch.setattr(network, "prepare", lambda *a, **k: pytest.fail("built"))
    with pytest.raises(
        WeightsError, match=r"checkpoint/model\.safetensors: contains another network than config\.yaml"
    ):
        xf.resume(run)


def test_the_best_weights_of_an_old_run_are_checked_before_training(interrupted, tmp_path, monkeypatch):
    run = Run(shutil.copytree(interrupted.path, tmp_path / "r", ignore=UNCHECKED))
    (run.checkpoint / "best.safetensors").unlink()
    run.new_model_path.unlink()
    monkeypatch.setattr(training, "run_phase", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(XrayfastError, match=r"lacks model\.safetensors"):
        xf.resume(run)


def test_a_checkpoint_needs_no_hard_links(data, interrupted, tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError("not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(9), **SETTINGS)
    for name in CHECKPOINT[1:]:
        assert (tmp_path / "r/checkpoint" / name).read_bytes() == (interrupted.checkpoint / name).read_bytes()
    assert Checkpoint.read(tmp_path / "r/checkpoint", checksums=True)


OPTIONAL = SETTINGS | {
    "head": "fastai",
    "head_width": 8,
    "freeze_epochs": 2,
    "epochs": 2,
    "reuse_frozen": "on",
    "dropout": 0.3,
    "balanced_sampling": True,
    "ema": 0.9,
    "clip_grad": 0.5,
    "accumulate": 3,  # the last step of an epoch has one batch
}
"""Options of the training loop, in a phase on cached features and one of all layers."""


def test_a_run_with_options_of_the_training_loop_resumes_to_the_same_numbers(data, tmp_path):
    """The run is interrupted within the first phase, between the phases, and within the second."""
    expected = xf.fit(data, runs=tmp_path, name="whole", **OPTIONAL)
    assert list(expected.history["phase"]) == ["head"] * 2 + ["all"] * 2
    # Three batches to compute features; then four training batches and one validation batch per epoch.
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(3 + 5 + 1), **OPTIONAL)
    for epochs, batches in ((2, 3 + 1), (3, 5 + 1)):
        with pytest.raises(Interrupted):
            xf.resume(tmp_path / "r", interrupted=StopAfter(batches))
        assert len(Run(tmp_path / "r").history) == epochs
    assert_same(xf.resume(tmp_path / "r"), expected)


@pytest.mark.slow
def test_learners_of_earlier_runs_are_freed(interrupted, tmp_path):
    """They used to stay in memory until garbage collection, after dozens of runs: 25 MB or more per run of resnet18."""

    def count():
        return sum(isinstance(thing, Learner) for thing in gc.get_objects())

    copies = [shutil.copytree(interrupted.path, tmp_path / name) for name in "abc"]
    gc.collect()
    before = count()
    gc.disable()
    try:
        for copy in copies:
            xf.resume(copy)
            assert count() <= before + 1
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the resident memory is read as Linux has it")
def test_memory_stays_flat_over_the_epochs(data_dir, tmp_path):
    """In a new process, so other tests have not changed the heap."""
    code = f"""
        import xrayfast as xf

        class Resident:
            def __getattr__(self, name):
                return lambda *a, **k: None

            def epoch(self, row, best):
                with open("/proc/self/status") as status:
                    print([line.split()[1] for line in status if line.startswith("VmRSS")][0], flush=True)

        settings = {TINY | {"size": 64, "unfreeze": True, "epochs": 40, "precision": "bf16"}}
        xf.fit(xf.open_data({str(data_dir)!r}), runs={str(tmp_path)!r}, reporter=Resident(), **settings)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    resident = [int(line) for line in done.stdout.split()]
    assert len(resident) == 41 and max(resident[2:]) < 1.02 * resident[2]
