"""Frozen layers that run once give the same as frozen layers that run in each epoch."""

import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torchvision.ops import StochasticDepth

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.errors import WriteError
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.model.backbones import BACKBONES
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training import frozen_features as frozen
from xrayfast.learning.training.frozen_features import (
    cache_features,
    cache_key,
    frozen_group_counts,
    training_on_features,
)
from xrayfast.learning.training.phases import Phase


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir)


def learner(data, *, arch=SMALL["arch"], size=32, precision="fp32", seed=0, head="fastai"):
    dls = xf.dataloaders(data, size=size, batch_size=8, device="cpu")
    return xf.learner(dls, arch=arch, weights="none", precision=precision, seed=seed, head=head)


def phase(learn, unfrozen=0):
    blocks = len(learn.model[0])
    return Phase("some", 1, blocks - unfrozen, (1e-3,) * (blocks + 1))


# One unfrozen block with every network except the largest, and every number of blocks with one; others are slow.
CASES = [
    pytest.param(
        arch,
        unfrozen,
        marks=[pytest.mark.slow] * (arch != "resnet18" and (unfrozen != 1 or arch.startswith("vgg16"))),
        id=f"{arch}-{unfrozen}",
    )
    for arch in BACKBONES
    for unfrozen in (0, 1, 2)
]


@pytest.mark.parametrize(("arch", "unfrozen"), CASES)
def test_features_of_any_number_of_blocks_give_the_outputs_of_the_network(data, arch, unfrozen):
    learn = learner(data, arch=arch)
    learn.freeze_to(phase(learn, unfrozen).frozen_groups)
    features = cache_features(learn, phase(learn, unfrozen).frozen_groups, 1)
    x = torch.cat([torch.Tensor(x) for x, _ in learn.dls.valid])
    learn.model.eval()
    with torch.no_grad():
        expected = torch.Tensor(learn.model(x))
        with training_on_features(learn, features):
            found = torch.Tensor(learn.model(features.valid.float()))
        again = torch.Tensor(learn.model(x))
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=5e-3 * scale, rtol=0)  # float16 has 11 bits
    assert torch.equal(again, expected), "afterwards the network is whole again"


@pytest.mark.parametrize(("unfrozen", "shape"), [(0, (16,)), (1, (2, 1, 1)), (2, (4, 2, 2))])
def test_features_behind_a_frozen_classifier_of_the_network_s_own(data, tiny_vgg, unfrozen, shape):
    learn = learner(data, arch=tiny_vgg, head="classifier")
    learn.freeze_to(phase(learn, unfrozen).frozen_groups)
    features = cache_features(learn, phase(learn, unfrozen).frozen_groups, 1)
    assert features.shapes == (shape,)
    learn.model.eval()
    x = torch.cat([torch.Tensor(x) for x, _ in learn.dls.valid])
    with torch.no_grad():
        expected = torch.Tensor(learn.model(x))
        with training_on_features(learn, features):
            found = torch.Tensor(learn.model(features.valid.float()))
    torch.testing.assert_close(found, expected, atol=5e-3 * float(expected.abs().max()), rtol=0)


def test_targets_and_rows_stay_together(data):
    learn = learner(data)
    features = cache_features(learn, 5, 3)
    assert features.train.shape[:2] == (3, len(learn.dls.train_ds)) and features.valid.shape[0] == len(
        learn.dls.valid_ds
    )
    assert features.train.dtype == features.valid.dtype == torch.float16
    assert features.targets[0].tolist() == data.subset("train").targets.argmax(axis=1).tolist()
    assert features.targets[1].tolist() == data.subset("valid").targets.argmax(axis=1).tolist()
    first, *others = features.train
    assert all(not torch.equal(first, other) for other in others), "further views are augmented"
    assert not torch.equal(*others), "each in its own way"
    plain = learn.dls.train.new(shuffle=False, drop_last=False)
    with plain.dataset.set_split_idx(1):
        x = torch.cat([torch.Tensor(x) for x, _ in plain])
    with torch.no_grad():
        pooled = learn.model[1][:2](learn.model[0].eval()(x))
    torch.testing.assert_close(first.float(), torch.Tensor(pooled), atol=1e-2, rtol=1e-2)


class Order(Callback):
    def __init__(self):
        self.targets, self.losses = [], []

    def after_batch(self):
        if self.training:
            self.targets.append(self.yb[0].tolist())
            self.losses.append(float(self.loss.detach()))


def without_augmentation(learn):
    """Remove augmentation, dropout and stochastic depth, so that training sees the same with and without a cache."""
    for layer in learn.model.modules():
        if isinstance(layer, torch.nn.Dropout | StochasticDepth):
            layer.p = 0.0
    for transform in list(learn.dls.train.after_batch.fs):
        if getattr(transform, "split_idx", None) == 0:
            learn.dls.train.after_batch.fs.remove(transform)


def test_training_on_features_is_training_without_a_cache(data):
    """With the same order, losses and weights are the same up to float16 rounding."""

    def trained(fast):
        learn = learner(data, arch="resnet18")  # with few channels, rounding would show in the losses
        without_augmentation(learn)
        learn.freeze_to(phase(learn).frozen_groups)
        order = Order()
        features = cache_features(learn, 5, 1)
        learn.dls.train.rng.seed(5)
        with isolated_rng(1), learn.no_bar(), learn.no_logging():
            if fast:
                with training_on_features(learn, features):
                    learn.fit(2, 1e-3, cbs=order)
            else:
                learn.fit(2, 1e-3, cbs=order)
        return order, learn.model.state_dict()

    (fast, fast_weights), (slow, slow_weights) = trained(True), trained(False)
    assert fast.targets == slow.targets
    np.testing.assert_allclose(fast.losses, slow.losses, atol=2e-3)
    for name, weight in slow_weights.items():
        if name.startswith("0."):
            assert torch.equal(fast_weights[name], weight), name
        else:  # Adam steps by its rate, 1e-3, even if rounding decides the sign of a gradient
            gap = (fast_weights[name] - weight).abs().float()
            assert gap.mean() < 0.01 * weight.abs().float().mean() + 3e-4, name


# Splits within a residual block, a dense block and inverted bottlenecks.
LAYERS = {"resnet18": 2, "vgg16": 2, "densenet121": 4, "mobilenet_v2": 3, "efficientnet_b0": 3, "convnext_tiny": 2}
SLOW = {"vgg16", "densenet121", "efficientnet_b0", "convnext_tiny"}


@pytest.mark.parametrize("arch", [pytest.param(arch, marks=[pytest.mark.slow] * (arch in SLOW)) for arch in LAYERS])
def test_training_on_the_features_of_layers_is_training_without_a_cache(data, arch, monkeypatch):
    """In float32 and without fused batch norm, losses and weights are the same up to rounding in other batch sizes."""
    monkeypatch.setattr(frozen, "fuse_batch_norm", lambda network: network)
    monkeypatch.setattr(frozen, "_allocate", lambda shape, folder: torch.empty(shape))

    def trained(fast):
        dls = xf.dataloaders(data, size=32 if arch == "vgg16" else 64, batch_size=8, device="cpu")
        learn = xf.learner(
            dls, arch=arch, weights="none", precision="fp32", groups="layers", optimizer="sgd", lr=1e-3, seed=3
        )
        without_augmentation(learn)
        # Otherwise the features of a random network vanish, and batch norm magnifies rounding errors.
        with torch.no_grad():
            for norm in (m for m in learn.model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
                norm.momentum, norm.eps = 1.0, 0.01
            learn.model.train()(torch.cat([torch.Tensor(x) for x, _ in learn.dls.valid]))
        learn.freeze_to(-LAYERS[arch] - 1)
        features = cache_features(learn, learn.opt.frozen_idx, 1)
        order = Order()
        learn.dls.train.rng.seed(5)
        on_features = training_on_features(learn, features) if fast else nullcontext()
        with isolated_rng(1), learn.no_bar(), learn.no_logging(), on_features:
            learn.fit(1, cbs=order)
        return order, learn, features

    (fast, learn, features), (slow, other, _) = trained(True), trained(False)
    assert fast.targets == slow.targets
    np.testing.assert_allclose(fast.losses, slow.losses, rtol=1e-3)
    frozen_parameters = {id(p) for group in learn.groups[: features.n_frozen] for p in group.parameters}
    weights = other.model.state_dict()
    for name, weight in learn.model.state_dict(keep_vars=True).items():
        if id(weight) in frozen_parameters:
            assert torch.equal(weight, weights[name]), name
        else:
            torch.testing.assert_close(weight.detach(), weights[name], rtol=1e-2, atol=1e-4)


def test_frozen_layers_are_not_run_while_training(data):
    learn = learner(data)
    learn.freeze_to(phase(learn).frozen_groups)
    features = cache_features(learn, 5, 2)
    calls = []
    learn.model[0][0].register_forward_hook(lambda *_: calls.append(1))
    with training_on_features(learn, features), learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert not calls


def test_a_batch_has_a_random_view_of_each_of_its_images_and_their_targets(data):
    loader = learner(data).dls.train.new(drop_last=True)
    images = torch.arange(len(loader.dataset))
    features = images[:, None] + 100.0 * torch.arange(3)[:, None, None]
    batches = list(frozen.FeatureLoader(loader, features, images))
    assert [len(targets) for _, targets in batches] == [8] * (len(images) // 8)
    x, y = torch.cat([x.squeeze(1) for x, _ in batches]), torch.cat([y for _, y in batches])
    assert torch.equal(x % 100, y.float()) and len(set(y.tolist())) == len(y)
    assert set((x // 100).tolist()) == {0, 1, 2}


def test_the_key_depends_on_everything_that_features_depend_on(data, multi_dir):
    learn = learner(data)
    before = cache_key(learn, 5, 2)
    assert before == cache_key(learner(data), 5, 2)
    assert before != cache_key(learn, 4, 2) and before != cache_key(learn, 5, 3)
    assert before != cache_key(learner(data, size=48), 5, 2)
    assert before != cache_key(learner(data, precision="bf16"), 5, 2)
    assert before != cache_key(learner(xf.open_data(multi_dir)), 5, 2)
    splits = data.table["split"].tolist()
    splits[splits.index("valid")] = "test"
    assert before != cache_key(learner(data.with_splits(splits, "")), 5, 2)
    with torch.no_grad():
        learn.model[0][0].conv1.weight[0, 0, 0, 0] += 1e-3
    assert before != cache_key(learn, 5, 2)
    head = learner(data)
    with torch.no_grad():
        head.model[1][-1].weight += 1
    assert before == cache_key(head, 5, 2), "the head is not among the frozen layers"


def test_a_cache_too_large_for_memory_is_an_unnamed_file(data, monkeypatch, tmp_path):
    learn = learner(data)
    expected = cache_features(learn, 4, 2)
    monkeypatch.setattr(frozen, "MEMORY_BYTES", 0)
    features = cache_features(learn, 4, 2, folder=tmp_path / "cache")
    assert torch.equal(features.train, expected.train) and torch.equal(features.valid, expected.valid)
    assert not list((tmp_path / "cache").iterdir())


def test_a_full_disk_is_an_error_that_says_what_to_do(data, monkeypatch, tmp_path):
    monkeypatch.setattr(frozen, "MEMORY_BYTES", 0)
    monkeypatch.setattr(frozen, "free_disk_bytes", lambda _: 10)
    with pytest.raises(WriteError, match=r"found 0\.0 GB free.*reuse_frozen='off'"):
        cache_features(learner(data), 4, 2, folder=tmp_path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="POSIX only")
def test_a_disk_that_fills_up_during_writing_is_an_error_too(data, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen, "MEMORY_BYTES", 0)
    monkeypatch.setattr(frozen.os, "posix_fallocate", full)
    with pytest.raises(WriteError, match="No space left"):
        cache_features(learner(data), 4, 2, folder=tmp_path)


def test_features_beyond_float16_are_clipped_not_infinite(data):
    learn = learner(data)
    with torch.no_grad():
        learn.model[0][4][1].bn2.weight.fill_(1e6)
        learn.model[0][4][1].bn2.bias.fill_(1e6)
    features = cache_features(learn, 5, 1)
    assert features.train.isfinite().all() and float(features.train.max()) == 65504.0


def test_an_interruption_stops_between_two_batches(data):
    done = []
    with pytest.raises(KeyboardInterrupt):
        cache_features(learner(data), 5, 2, progress=lambda *a: done.append(a), interrupted=lambda: len(done) == 2)
    assert len(done) == 2


def test_the_size_of_a_cache_is_known_before(data):
    learn = learner(data)
    for n_frozen in (3, 5):
        features = cache_features(learn, n_frozen, 2)
        assert frozen.cache_bytes(learn, n_frozen, 2) == 2 * (features.train.numel() + features.valid.numel())


def phases(*frozen_and_epochs):
    return [Phase("", epochs, frozen, ()) for frozen, epochs in frozen_and_epochs]


@pytest.mark.parametrize(
    ("plan", "mode", "views", "expected"),
    [
        ([(5, 6)], "auto", 2, (5,)),
        ([(5, 2)], "auto", 2, (0,)),
        ([(5, 1), (0, 6)], "auto", 2, (0, 0)),
        ([(5, 1), (4, 6)], "auto", 2, (4, 4)),
        ([(5, 3), (3, 6)], "auto", 2, (5, 3)),
        ([(5, 1), (4, 6)], "off", 2, (0, 0)),
        ([(5, 1), (0, 6)], "on", 2, (5, 0)),
        ([(0, 6)], "on", 2, (0,)),
    ],
)
def test_which_phases_cache_which_blocks(plan, mode, views, expected):
    assert frozen_group_counts(phases(*plan), mode, views) == expected


def test_learners_of_the_same_images_split_otherwise_share_features_to_the_bit(data, monkeypatch, tmp_path):
    monkeypatch.setattr(frozen, "_CHUNK_SIZE", 4)
    real, passed = frozen.to_channels_last, []

    def counting(network, device):
        layers = real(network, device)
        layers.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
        return layers

    monkeypatch.setattr(frozen, "to_channels_last", counting)
    names = np.arange(len(data)) % 3
    folds = [data.with_splits(np.where(names == fold, "valid", "train").tolist(), "") for fold in range(3)]
    expected = [cache_features(learner(fold), 5, 2) for fold in folds]
    counts, total = [], len(data)
    for fold, alone in zip(folds, expected, strict=True):
        passed.clear()
        done = []
        found = cache_features(
            learner(fold), 5, 2, shared=tmp_path / "shared", progress=lambda *a, done=done: done.append(a)
        )
        assert torch.equal(found.train, alone.train) and torch.equal(found.valid, alone.valid)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found.targets, alone.targets, strict=True))
        assert done[-1] == (total + len(fold.subset("train")), total + len(fold.subset("train")))
        counts.append(sum(passed) - len(fold.subset("train")))  # without those of the augmented view
    assert counts[0] == total and max(counts[1:]) <= 4 * 4  # at most two small chunks and two that are padded
    assert not list((tmp_path / "shared").glob(".*"))
    other = learner(folds[0])
    with torch.no_grad():
        other.model[0][0].conv1.weight[0, 0, 0, 0] += 1e-3
    passed.clear()
    cache_features(other, 5, 1, shared=tmp_path / "shared")
    assert sum(passed) == total, "of other weights"
    monkeypatch.setattr(frozen, "__version__", "0.1")
    passed.clear()
    cache_features(learner(folds[0]), 5, 1, shared=tmp_path / "shared")
    assert sum(passed) == total, "of another version"


def test_the_last_smaller_chunk_of_a_split_is_computed_even_if_its_images_are_known():
    images = [b"%d" % i for i in range(40)]
    assert frozen._rows_to_compute(images, dict.fromkeys(images)) == list(range(32, 40))
