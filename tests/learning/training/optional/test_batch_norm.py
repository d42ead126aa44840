"""Batch norm statistics after an epoch are those of the current weights on the last images."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.optional import batch_norm
from xrayfast.learning.training.optional.batch_norm import batch_norms, estimate_statistics


def statistics_by_hand(network, norms, batches):
    """Return each norm's input mean and unbiased variance, averaged over batches by size; norms are in train mode."""
    network, seen = copy.deepcopy(network).eval(), {}
    for name in norms:
        norm = network.get_submodule(name)
        norm.train()
        norm.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0].detach().double()))
    with torch.no_grad():
        for batch in batches:
            network(batch)
    flat = {name: [x.transpose(0, 1).flatten(1) for x in inputs] for name, inputs in seen.items()}
    averages = {}
    for name, inputs in flat.items():
        sizes = [x.shape[1] for x in inputs]
        averages[name] = [np.average([getattr(x, value)(1) for x in inputs], 0, sizes) for value in ("mean", "var")]
    return averages


def test_statistics_are_averages_over_batches_and_nothing_else_changes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    network.train()[0].eval()
    batches = [torch.rand(n, 3, 9, 9) for n in (8, 8, 4)]
    expected = statistics_by_hand(network, ("1", "4"), batches)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    estimate_statistics(network, batch_norms(network), [((batch,), len(batch)) for batch in batches])
    for name, (mean, variance) in expected.items():
        norm = network.get_submodule(name)
        np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(norm.running_var, variance, rtol=1e-5)
        assert norm.momentum == 0.1
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.endswith(("weight", "bias")), name
    assert [module.training for module in network] == [False, True, True, True, True]
    assert torch.equal(state, torch.get_rng_state())


@pytest.fixture(scope="module")
def dls(data_dir):
    return xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu", workers=0)


class EndAfter(Callback):
    """Ends training after a number of batches."""

    def __init__(self, batches):
        self.batches = batches

    def after_batch(self):
        self.batches -= 1
        if not self.batches:
            raise KeyboardInterrupt


def fitted(dls, monkeypatch, frozen=0, arch=SMALL["arch"], epochs=2, **options):
    """Return a trained learner and the arguments of `estimate_statistics` in each epoch."""
    learn = xf.learner(dls, arch=arch, weights="none", precision="fp32", **options)
    given, estimate = [], batch_norm.estimate_statistics

    def watched(model, norms, batches):
        batches = list(batches)
        names = [name for name, module in model.named_modules() if module in set(norms)]
        given.append((copy.deepcopy(model), names, [batch for (batch,), _ in batches]))
        estimate(model, norms, batches)

    monkeypatch.setattr(batch_norm, "estimate_statistics", watched)
    learn.freeze_to(frozen)
    dls.train.rng = random.Random(0)
    with isolated_rng(0), learn.no_bar(), learn.no_logging():
        learn.fit(epochs, 1e-3)
    return learn, given


def test_a_learner_has_the_statistics_of_its_last_images(dls, monkeypatch):
    monkeypatch.setattr(batch_norm, "IMAGES", 10)
    learn, given = fitted(dls, monkeypatch)
    assert len(given) == 2
    network, names, batches = given[-1]
    assert [len(batch) for batch in batches] == [8, 5]  # the smallest number of batches with 10 images
    assert len(names) == 20 + 2
    for name, (mean, variance) in statistics_by_hand(network, names, batches).items():
        norm = learn.model.get_submodule(name)
        np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(norm.running_var, variance, rtol=1e-3, atol=1e-5)
    running, _ = fitted(dls, monkeypatch, precise_bn=False)
    for ours, theirs in zip(learn.model.parameters(), running.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)  # training itself is the same
    assert not torch.equal(learn.model[1][2].running_mean, running.model[1][2].running_mean)


@pytest.mark.parametrize(("frozen", "arch"), [(-1, SMALL["arch"]), pytest.param(0, "vgg16", marks=pytest.mark.slow)])
def test_without_trained_batch_norm_in_the_backbone_nothing_changes(dls, monkeypatch, frozen, arch):
    learn, given = fitted(dls, monkeypatch, frozen, arch=arch)
    running, _ = fitted(dls, monkeypatch, frozen, arch=arch, precise_bn=False)
    assert given == [] and batch_norms(learn.model[1])
    for name, value in running.model.state_dict().items():
        assert torch.equal(learn.model.state_dict()[name], value), name


def test_frozen_blocks_keep_their_statistics(dls, monkeypatch):
    learn, given = fitted(dls, monkeypatch, frozen=-2)
    start = xf.learner(dls, arch=SMALL["arch"], weights="none", precision="fp32")
    now = learn.model.state_dict()
    changed = {name for name, value in start.model.state_dict().items() if not torch.equal(now[name], value)}
    assert {name.rpartition(".")[0] for name in changed if "running" in name} == set(given[-1][1])
    assert len(given[-1][1]) == 5 + 2  # of the last block and the head


def test_a_range_test_computes_nothing_and_an_interrupted_epoch_adds_no_batches_to_the_next(dls, monkeypatch):
    learn, given = fitted(dls, monkeypatch, epochs=0)
    learn.lr_find(suggest_funcs=(), show_plot=False, num_it=3)
    assert given == [] and not learn.precise_batch_norm.batches
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3, cbs=EndAfter(2))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
    assert [[len(batch) for batch in batches] for *_, batches in given] == [[8, 8, 8, 5]]
    assert not learn.precise_batch_norm.batches
