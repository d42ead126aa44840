"""Tests that need a GPU: precision, asynchronous copies, resuming, NCCL, and running out of memory.

pytest -m cuda
"""

import subprocess
import sys

import numpy as np
import pytest
import torch

import xrayfast as xf
from tests.conftest import SMALL, StopAfter, record_writers
from xrayfast.errors import Interrupted
from xrayfast.learning.distributed.rows import split_rows
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.checkpoint import TensorCopies
from xrayfast.workflows.steps import training

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

OPTIONS = SMALL | {"device": "cuda", "workers": None, "epochs": 2, "unfreeze": True, "freeze_epochs": 3, "resamples": 0}


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir, test_fraction=0.2)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run with images and frozen features on the device, in fp32."""
    return xf.fit(data, runs=tmp_path_factory.mktemp("cuda"), **OPTIONS)


def loaders(data, **options):
    return xf.dataloaders(data, **{"size": 64, "batch_size": 8, "device": "cuda", **options})


def epoch(dl):
    with isolated_rng(3), dl.dataset.set_split_idx(0):
        return [(torch.Tensor(x.cpu()), y.cpu()) for x, y in dl]


@pytest.mark.parametrize("way", ["device", "read ahead", "processes", "cpu"])
def test_batches_are_the_same_however_they_are_read(data, way):
    expected = epoch(loaders(data, data_on_device="off", workers=0).train)
    dls = loaders(data, device="cpu") if way == "cpu" else loaders(data, **{"workers": 2} if way == "processes" else {})
    if way == "read ahead":
        dls.train.feed.resident = False
    for (x, y), (x2, y2) in zip(epoch(dls.train), expected, strict=True):
        assert y.tolist() == y2.tolist()
        torch.testing.assert_close(x, x2, atol=1e-5 if way != "cpu" else 1e-3, rtol=1e-4)


def test_asynchronous_copies_are_complete(data):
    """Copies are queued behind work on the device while threads refill the host buffers."""
    dls = loaders(data, batch_size=4)
    dls.train.feed.resident = False
    work, paths = torch.randn(4096, 4096, device="cuda"), data.subset("train").table["path"].tolist()
    for _ in range(3):
        order, kept = np.random.default_rng(0).permutation(len(paths)).tolist(), []
        for pixels, *_ in dls.train.feed.batches(split_rows(order, 4, None)):
            for _ in range(20):
                work = (work @ work).clamp(-1, 1)
            kept.append(pixels.as_subclass(torch.Tensor).clone())
        found = torch.cat(kept)[:, 0].cpu().numpy()
        assert (found == dls.images.batch([paths[i] for i in order])).all()


def test_copies_for_a_checkpoint_do_not_wait_and_are_consistent():
    """The copies are queued behind work on the device, and the tensors change immediately after."""
    copies, work = TensorCopies(torch.device("cuda")), torch.randn(4096, 4096, device="cuda")
    of = [torch.zeros(n, 3, 4, 4, device="cuda").to(memory_format=torch.channels_last) for n in range(1, 200)]
    of += [torch.zeros((), dtype=torch.long, device="cuda") for _ in range(20)]
    copies.take(of)  # allocates the buffers
    for round_ in range(1, 4):
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                work = (work @ work).clamp(-1, 1)
            torch._foreach_add_(of, 1)
            copies.take(of)
            torch._foreach_mul_(of, -1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all((t == round_).all() and t.device.type == "cpu" for t in copies.fetch())
        torch._foreach_mul_(of, -1)


class RefuseToWait(Callback):
    """Makes waiting for the device an error, from the second training batch of an epoch to its last."""

    order = 100

    def after_batch(self):
        torch.cuda.set_sync_debug_mode("error" if self.training and self.iter + 1 < self.n_iter else "default")

    def after_fit(self):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", [{}, {"mixup": 0.4}, {"ema": 0.9, "accumulate": 2}, {"optimizer": "sgd"}])
@pytest.mark.parametrize("resident", [True, False])
def test_no_batch_waits_for_the_device(data, options, resident):
    dls = loaders(data, batch_size=4)
    dls.train.feed.resident = resident
    learn = xf.learner(dls, weights="none", precision="bf16", **options)
    learn.unfreeze()
    try:
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)  # allocates everything that is allocated once
            learn.fit(1, cbs=[RefuseToWait()])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_trains_in_each_precision_as_on_the_cpu(data, tmp_path, precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # torch's default, which changes the loss by 0.3%
    options = OPTIONS | {"freeze_epochs": 0, "epochs": 1, "augment": False, "lr": 1e-4, "mixup": 0.0, "dropout": 0.0}
    cpu = xf.fit(data, runs=tmp_path, name="cpu", **options | {"device": "cpu"})
    found = xf.fit(data, runs=tmp_path, name=precision, **options | {"precision": precision})
    assert found.info.precision == precision
    first = [run.batches["loss"].iloc[0] for run in (cpu, found)]
    assert first[1] == pytest.approx(first[0], rel=1e-3 if precision == "fp32" else 0.05)
    assert np.isfinite(found.history["valid_loss"]).all()


def test_images_and_frozen_features_lie_on_the_device(data, run, tmp_path, monkeypatch):
    found, cache = [], training.cache_features
    monkeypatch.setattr(training, "cache_features", lambda *a, **k: found.append(cache(*a, **k)) or found[-1])
    said = []
    xf.find_lr(data, steps=20, note=said.append, **{**SMALL, "device": "cuda", "workers": None})
    assert any("All images are kept on cuda" in text for text in said)
    again = xf.fit(data, runs=tmp_path, **OPTIONS)
    assert [of.train.device.type for of in found] == ["cuda"]
    close(again, run)


def close(found, expected):
    """Check that runs agree up to rounding, because the GPU adds in another order."""
    columns = ["train_loss", "valid_loss"]
    np.testing.assert_allclose(found.history[columns], expected.history[columns], rtol=2e-2, atol=1e-3)
    a, b = (run.predictions("valid").probability for run in (found, expected))
    np.testing.assert_allclose(a, b, atol=2e-2)


def test_it_resumes_and_a_thread_has_written_the_epochs(data, run, tmp_path, monkeypatch):
    wrote = record_writers(monkeypatch)
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(13), **OPTIONS)
    finished = len(xf.Run(tmp_path / "r").history)
    assert 0 < finished < 5
    close(xf.resume(tmp_path / "r"), run)
    assert len(wrote) == 5 + 1 and all(name.startswith("checkpoint") for name in wrote)  # one where the run stopped


def test_predictions_are_those_of_the_cpu(data, run):
    files = data.subset("test").table["path"].tolist()
    tables = [xf.predict(run, files, device=device) for device in ("cuda", "cpu")]
    numbers = [table.select_dtypes("number").to_numpy() for table in tables]
    np.testing.assert_allclose(*numbers, atol=5e-3)


NCCL = """
import sys, torch, torch.distributed as dist, xrayfast as xf
from torch import nn
from xrayfast.learning.distributed.world import World, all_reduce, join_process_group
from xrayfast.learning.training.train_as_rank import synchronize_batch_norms, train_as_rank
dist.init_process_group("cpu:gloo,cuda:nccl", init_method="file://" + sys.argv[2], rank=0, world_size=1)
with join_process_group("cuda") as world:
    assert (world.rank, world.world_size) == (0, 1)
    assert all_reduce(torch.ones(3, device="cuda")).tolist() == [1, 1, 1]
    own = world.own_rows()
    own.total = 3
    assert own.gather(torch.arange(3, dtype=torch.uint8, device="cuda")).tolist() == [0, 1, 2]
    world.barrier()
    # Of one rank, by all that several do.
    learn = xf.learner(xf.dataloaders(xf.open_data(sys.argv[1]), size=64, batch_size=8, device="cuda"),
                       arch="resnet18", weights="none", precision="fp16")
    learn.unfreeze()
    for sync in (True, False):
        with train_as_rank(learn, World(0, 1, world.group), sync, always=True), learn.no_bar(), learn.no_logging():
            learn.fit(1)
        assert all(torch.tensor(row[:2]).isfinite().all() for row in learn.recorder.values)
    assert type(synchronize_batch_norms(learn.model).popitem()[0]) is nn.SyncBatchNorm
run = xf.fit(sys.argv[1], runs=sys.argv[3], arch="resnet18", weights="none", size=64, batch_size=8, device="cuda",
             epochs=1, unfreeze=True, freeze_epochs=0, resamples=0)
dist.destroy_process_group()
print(run.info.status)
"""

OUT_OF_MEMORY = """
import sys, torch, xrayfast as xf
from xrayfast.errors import TrainingError
total = torch.cuda.get_device_properties(0).total_memory
torch.cuda.set_per_process_memory_fraction(200e6 / total)
try:
    xf.fit(sys.argv[1], runs=sys.argv[3], arch="resnet18", weights="none", size=512, batch_size=24, device="cuda",
           epochs=1, unfreeze=True, freeze_epochs=0, resamples=0, precision="fp32")
except TrainingError as error:
    print(error)
"""


@pytest.mark.parametrize(("code", "said"), [(NCCL, ["completed"]), (OUT_OF_MEMORY, [
    "is out of memory", "batch_size=", "data_on_device='off'"])])  # fmt: skip
def test_in_a_process_of_its_own(data_dir, tmp_path, code, said):
    words = [sys.executable, "-W", "ignore", "-c", code, data_dir, tmp_path / "store", tmp_path / "runs"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(word in done.stdout for word in said), done.stdout
