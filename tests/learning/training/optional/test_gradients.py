"""`--accumulate` and `--clip-grad`: the step equals that of one large batch, clipped as by torch."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import xrayfast as xf
from xrayfast.data.labels.targets import join_labels
from xrayfast.learning.fastai_api import Callback, CancelBatchException
from xrayfast.learning.training.phases import Phase, run_phase


class Gradients(Callback):
    """Records the gradients of each step after accumulation and clipping."""

    order = 20

    def __init__(self):
        self.steps = []

    def before_step(self):
        self.steps.append([p.grad.clone() for p in self.model.parameters() if p.grad is not None])


def net(n_out):
    """Return a network without batch norm and dropout."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(16, n_out),
    )  # fmt: skip


def trained(data, batch_size, loss="auto", **options):
    """Return the weights after two epochs, the gradients of each step, and the learner."""
    dls = xf.dataloaders(data, size=32, batch_size=batch_size, device="cpu", workers=0, augment=False, seed=1)
    options = {"optimizer": "sgd", "precision": "fp32", "loss": loss} | options
    learn, gradients = xf.learner(dls, arch=net(len(data.labels)), **options), Gradients()
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging():
        run_phase(learn, Phase("", 2, 0, (0.1,) * len(learn.groups)), schedule="constant", momentum=0.9,
                  callbacks=[gradients])  # fmt: skip
    return [p.detach().clone() for p in learn.model.parameters()], gradients.steps, learn


@pytest.fixture(scope="module")
def single(data_dir):
    return xf.open_data(data_dir)  # 29 training images: 8 + 8 + 8 + 5


@pytest.fixture(scope="module")
def multi(multi_dir):
    """Data whose batches have different numbers of masked cells, with images that are masked entirely."""
    data = xf.open_data(multi_dir)
    targets = data.targets.copy()
    targets[::3, 0] = np.nan
    targets[::5] = np.nan
    table = data.table.assign(labels=join_labels(targets == 1, data.labels))
    return replace(data, targets=targets, table=table)


def assert_close(found, expected, rtol=1e-4):
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=1e-6)


CASES = [
    ("single", {}),
    ("single", {"class_weights": "auto"}),
    ("single", {"loss": "focal", "class_weights": "auto"}),
    ("multi", {"loss": "bce"}),
    ("multi", {"loss": "focal", "class_weights": "auto"}),
    ("single", {"loss": nn.CrossEntropyLoss}),
]


@pytest.mark.parametrize(("task", "options"), CASES)
def test_accumulated_batches_equal_one_large_batch(task, options, single, multi):
    """Two epochs of 29 images: steps of 24 and 5 images."""
    data = {"single": single, "multi": multi}[task]
    weights, steps, _ = trained(data, 24, **options)
    found, mine, learn = trained(data, 8, accumulate=3, **options)
    assert len(steps) == len(mine) == 4
    for a, b in zip(mine, steps, strict=True):
        assert_close(a, b)
    assert_close(found, weights)
    assert len(learn.recorder.lrs) == 8


def test_gradients_are_clipped_as_by_torch(single):
    _, free, _ = trained(single, 8)
    limit = float(torch.cat([g.flatten() for g in free[0]]).norm()) / 2
    _, clipped, _ = trained(single, 8, clip_grad=limit)
    expected = [nn.Parameter(torch.zeros_like(g)) for g in free[0]]
    for parameter, gradient in zip(expected, free[0], strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(expected, limit)
    assert_close(clipped[0], [p.grad for p in expected])
    assert not torch.equal(clipped[0][0], free[0][0])
    # With several batches, the norm of their mean is clipped.
    _, whole, _ = trained(single, 24, clip_grad=limit)
    _, parts, _ = trained(single, 8, clip_grad=limit, accumulate=3)
    for a, b in zip(parts, whole, strict=True):
        assert_close(a, b)


def test_a_skipped_last_batch_leaves_nothing_for_the_next_epoch(single):
    class SkipLast(Callback):
        def before_batch(self):
            if self.training and self.iter + 1 == self.n_iter:
                raise CancelBatchException

    dls = xf.dataloaders(single, size=32, batch_size=8, device="cpu", workers=0, augment=False)
    learn, seen = xf.learner(dls, arch=net(3), accumulate=2, precision="fp32"), SimpleNamespace(left=[])

    class Look(Callback):
        order = 30

        def before_batch(self):
            if self.training and self.iter == 0:
                seen.left.append(any(p.grad is not None for p in self.model.parameters()))

    learn.unfreeze()
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, cbs=[SkipLast(), Look()])
    assert seen.left == [False, False]
