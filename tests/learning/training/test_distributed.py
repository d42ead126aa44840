"""Two processes train as one with twice the batch."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.training import GradientClip
from sklearn import metrics as skm
from torch import nn

import xrayfast as xf
from tests.conftest import SMALL, add_tiny_resnet
from xrayfast.errors import ConfigError, Interrupted, TrainingError
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training import distributed
from xrayfast.learning.training.distributed import World, _OwnRows, _use_whole_batch, join_process_group, train_as_rank

ROOT = Path(__file__).resolve().parents[2]
WORLD_SIZE = 2
SETTINGS = SMALL | {"unfreeze": True, "epochs": 2, "seed": 7, "batch_size": 16, "lr": 5e-6}
"""One frozen and two unfrozen epochs; of the batches of 16 images the last one has 13, 7 and 6 for the ranks.

With smaller batches, or rates that one would train with, rounding alone, such as that of another convolution kernel in
one process, moves the losses of so small a network by 0.01 within three epochs.
"""

SINGLE = {"balanced_sampling": True, "accumulate": 2, "clip_grad": 1.0, "ema": 0.9, "dropout": 0.3}


def mean_logit(outputs, targets):
    """A metric that every batch is weighted in by its images."""
    return outputs.mean()


class Norms(Callback):
    """The norms of the gradient that GradientClip gets, of all ranks' images."""

    order = 9.75  # after SplitBatches

    def __init__(self):
        self.norms = []

    def before_step(self):
        self.norms.append(
            float(torch.cat([p.grad.flatten() for p in self.model.parameters() if p.requires_grad]).norm())
        )


MULTI = {
    "mixup": 0.4,
    "cutmix": 1.0,
    "loss": "focal",
    "class_weights": "auto",
    "epochs": 1,
    "metrics": [mean_logit, partial(skm.f1_score, average="macro", zero_division=0)],
}


def partly_masked(folder):
    """Multi-label data with masked cells."""
    data = xf.open_data(folder)
    targets = data.targets.copy()
    targets[::5, 0] = np.nan
    targets[3] = np.nan
    return replace(data, targets=targets)


class StopLast:
    """Asks the last rank alone to stop after a number of batches."""

    def __init__(self, rank, batches):
        self.rank, self.left = rank, batches

    def __call__(self):
        self.left -= 1
        return self.rank == WORLD_SIZE - 1 and self.left < 0


class EndLast(StopLast):
    """Ends the last rank instead, without an error."""

    def __call__(self):
        if super().__call__():
            os._exit(0)
        return False


def run_two(*arguments):
    """This file, in two world, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(WORLD_SIZE)}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "tests.learning.training.test_distributed", *map(str, arguments)]
    started = [
        subprocess.Popen(
            command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(WORLD_SIZE)
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * WORLD_SIZE, said


def in_one_of_two(data_dir, multi_dir, out):
    """What each of the two ranks does."""
    small = SETTINGS | {"batch_size": SETTINGS["batch_size"] // WORLD_SIZE}
    rank = int(os.environ["RANK"])
    with join_process_group("cpu") as world:
        assert (world.rank, world.world_size) == (rank, WORLD_SIZE)
        np.savez(out / f"norm{rank}.npz", **by_two(world))
        np.save(out / f"double{rank}.npy", in_float64(data_dir, world))
        with pytest.raises(Interrupted):
            xf.fit(data_dir, runs=out, name="single", interrupted=StopLast(rank, batches=4), **small | SINGLE)
        run = xf.resume(out / "single")
        assert run.path == out / "single"
        assert run.info["status"] == "completed"
        norms = Norms()
        xf.fit(partly_masked(multi_dir), runs=out, name="multi", cbs=[norms, GradientClip(1e-3)], **small | MULTI)
        np.save(out / f"norms{rank}.npy", norms.norms)
        with pytest.raises(TrainingError, match=r"Rank 0 of 2 lost the others.*Its own message says why"):
            xf.fit(data_dir, runs=out, name="lost", interrupted=EndLast(rank, batches=2), **small)
        assert xf.Run(out / "lost").info["status"] == "failed"


class InDouble(Callback):
    """Images in float64."""

    def before_batch(self):
        self.learn.xb = tuple(torch.Tensor(x).double() for x in self.xb)


def in_float64(data_dir, world):
    """The losses of three unfrozen epochs at a rate that one would train with, in a type whose rounding is too small to
    grow into any difference within them.
    """
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=SETTINGS["batch_size"], device="cpu", seed=7)
    learn = xf.learner(dls, arch=SMALL["arch"], weights="none", precision="fp32", seed=7)
    learn.model.double()
    learn.unfreeze()
    learn.add_cb(InDouble())
    with isolated_rng(7, "fit"), train_as_rank(learn, world), learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3, 2e-3)
    return np.array([row[:2] for row in learn.recorder.values], dtype=float)


def layers():
    """A small network of all layers that mix or draw by batch, and a batch of 7 for it."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.LazyLinear(6),
        nn.BatchNorm1d(6),
    )  # fmt: skip
    x = torch.randn(7, 3, 6, 6) * 3 + 10
    net(x[:2])
    return net, x, torch.randn(7, 6)


def trained(net, x, weights, rows):
    """Two passes: outputs, gradients of weights and inputs, running statistics."""
    x = x[rows].requires_grad_()
    torch.manual_seed(2)
    for _ in range(2):
        out = net(x)
    (out * weights[rows]).sum().backward()
    found = {name: p.grad for name, p in net.named_parameters()} | {"out": out, "x": x.grad} | dict(net.named_buffers())
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def by_two(world):
    """`trained` on this rank's rows."""
    net, x, weights = layers()
    keys = list(net.state_dict())
    own = _OwnRows(world)
    own.total = len(x)
    replaced = _use_whole_batch(net, own)
    assert len(replaced) == 3
    assert list(net.state_dict()) == keys
    return trained(net, x, weights, world.rows(len(x)))


@pytest.fixture(scope="module")
def two(data_dir, multi_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    run_two(data_dir, multi_dir, out)
    return out


def assert_same_curve(run, reference, within=1e-4):
    mine, other = run.history, reference.history
    columns = [name for name in other.columns if name != "seconds"]
    assert list(mine.columns) == list(other.columns)
    for name in columns:
        if name == "phase":
            assert list(mine[name]) == list(other[name])
        else:
            assert np.nanmax(np.abs(mine[name] - other[name])) < within, (name, mine[name], other[name])
    assert np.abs(run.batches - reference.batches).to_numpy().max() < within
    assert run.info["best_epoch"] == reference.info["best_epoch"]


def test_two_processes_train_as_one_with_twice_the_batch(two, multi_dir, tmp_path):
    norms = Norms()
    cbs = [norms, GradientClip(1e-3)]
    reference = xf.fit(partly_masked(multi_dir), runs=tmp_path, cbs=cbs, **SETTINGS | MULTI)
    for rank in range(WORLD_SIZE):
        np.testing.assert_allclose(np.load(two / f"norms{rank}.npy"), norms.norms, rtol=0.02)
    assert_same_curve(xf.Run(two / "multi"), reference)
    assert reference.history[["valid_mean_logit", "valid_f1_score"]].notna().all(axis=None)
    mine, other = (run.predictions("valid").raw for run in (xf.Run(two / "multi"), reference))
    assert np.abs(mine - other).max() < 1e-4


def test_stopped_in_one_of_two_they_resume_to_the_numbers_of_one_that_was_not(two, data_dir, tmp_path):
    assert_same_curve(xf.Run(two / "single"), xf.fit(data_dir, runs=tmp_path, **SETTINGS | SINGLE))


def test_at_any_rate_they_differ_from_one_by_rounding_alone(two, data_dir):
    """In float32 rounding grows, as it does between one process of one thread and one of two."""
    with join_process_group("cpu") as alone:
        expected = in_float64(data_dir, alone)
    assert expected.shape == (3, 2)
    for rank in range(WORLD_SIZE):
        np.testing.assert_allclose(np.load(two / f"double{rank}.npy"), expected, atol=1e-6)


def test_the_run_records_the_world_size_and_is_written_once(two):
    arrays = ["double0.npy", "double1.npy", "norm0.npz", "norm1.npz", "norms0.npy", "norms1.npy"]
    assert sorted(path.name for path in two.iterdir()) == sorted([*arrays, "lost", "multi", "single"])
    run = xf.Run(two / "single")
    assert run.info["world_size"] == WORLD_SIZE
    assert run.global_batch == SETTINGS["batch_size"]
    assert f"| Batch size | {SETTINGS['batch_size']} |" in run.model_card_path.read_text()
    assert run.config.train.batch_size == SETTINGS["batch_size"] // WORLD_SIZE
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml", "run.json", "labels.json", "model.safetensors", "split.csv", "history.csv",
        "batches.csv", "metrics.json", "checksums.txt", "training_images.json",
        "predictions", "model_card.md", "claim.md",
    }  # fmt: skip


def test_batch_norm_and_dropout_are_those_of_the_whole_batch(two):
    net, x, weights = layers()
    whole = trained(net, x, weights, slice(None))
    parts = [np.load(two / f"norm{rank}.npz") for rank in range(WORLD_SIZE)]
    for name, value in whole.items():
        if name in ("out", "x"):
            found = np.concatenate([part[name] for part in parts])
        elif name in dict(net.named_buffers()):
            assert np.array_equal(parts[0][name], parts[1][name])
            found = parts[0][name]
        else:
            found = sum(part[name] for part in parts)
        assert np.abs(found - value).max() < 2e-5 * max(np.abs(value).max(), 1), name


def test_every_row_is_of_one_rank():
    for total in (0, 1, 2, 5, 8):
        rows = [np.arange(total)[World(rank, 3).rows(total)] for rank in range(3)]
        assert np.array_equal(np.concatenate(rows), np.arange(total))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_a_single_process_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with join_process_group("cpu") as world:
        assert (world.is_rank_zero, world.world_size) == (True, 1)
        assert world.broadcast_number(0.5) == 0.5
        assert world.any(bool) is bool
        world.barrier()


@pytest.mark.parametrize(
    ("kind", "message"),
    [("mps", "Use device='cpu', or start one process"), ("cuda", "Found 1 CUDA devices for 2 processes")],
)
def test_devices_on_which_ranks_cannot_train_are_refused(monkeypatch, kind, message):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(distributed, "torch_device", lambda name: torch.device(kind))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=message), join_process_group("auto"):
        pass


@pytest.mark.slow
def test_torchrun_trains_one_run_and_says_once_what_is_wrong(data_dir, tmp_path):
    options = ["--weights", "none", "--size", "32", "--batch-size", "4", "--device", "cpu", "--resamples", "0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "xrayfast", "fit"]
    command += [
        str(data_dir),
        *options,
        "--lr",
        "auto",
        "--epochs",
        "1",
        "--runs",
        str(tmp_path / "runs"),
        "--name",
        "a",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1 (head)") == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]
    assert xf.Run(tmp_path / "runs" / "a").info["lr"] > 0
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 1
    assert again.stderr.count("exists already, and a run never overwrites. Choose another --name.") == 1


if __name__ == "__main__":
    add_tiny_resnet()
    in_one_of_two(*map(Path, sys.argv[1:]))
    os._exit(0)  # to take torch apart takes 3 s
