"""Layers that are computed once give what layers that are computed every epoch give."""

import os

import numpy as np
import pytest
import torch

import xrayfast as xf
from xrayfast.errors import WriteError
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.model.backbones import BACKBONES
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training import frozen_features as frozen
from xrayfast.learning.training.frozen_features import cuts, keep, key, training_on_features
from xrayfast.learning.training.phases import Phase, unfreeze_blocks_of


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir)


def learner(data, *, arch="resnet18", size=32, precision="fp32", seed=0):
    dls = xf.dataloaders(data, size=size, batch_size=8, device="cpu")
    return xf.learner(dls, arch=arch, weights="none", precision=precision, seed=seed)


def phase(learn, thawed=0):
    blocks = len(learn.model[0])
    return Phase("some", 1, blocks - thawed, (1e-3,) * (blocks + 1))


# Every network at one cut and one at every cut; the rest is slow.
CUTS = [
    pytest.param(arch, thawed, marks=[pytest.mark.slow] * (arch != "resnet18" and thawed != 1), id=f"{arch}-{thawed}")
    for arch in BACKBONES
    for thawed in (0, 1, 2)
]


@pytest.mark.parametrize(("arch", "thawed"), CUTS)
def test_kept_values_lead_to_the_network_s_own_outputs_at_any_cut(data, arch, thawed):
    learn = learner(data, arch=arch)
    unfreeze_blocks_of(learn, phase(learn, thawed))
    kept = keep(learn, phase(learn, thawed).frozen, 1)
    x = torch.cat([torch.Tensor(x) for x, _ in learn.dls.valid])
    learn.model.eval()
    with torch.no_grad():
        expected = torch.Tensor(learn.model(x))
        with training_on_features(learn, kept):
            found = torch.Tensor(learn.model(kept.valid.float()))
        again = torch.Tensor(learn.model(x))
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=5e-3 * scale, rtol=0)  # float16 has 11 bits
    assert torch.equal(again, expected), "afterwards the network is whole again"


def test_targets_and_rows_stay_together(data):
    learn = learner(data)
    kept = keep(learn, 5, 3)
    assert kept.train.shape[:2] == (3, len(learn.dls.train_ds)) and kept.valid.shape[0] == len(learn.dls.valid_ds)
    assert kept.train.dtype == kept.valid.dtype == torch.float16
    assert kept.targets[0].tolist() == data.subset("train").targets.argmax(axis=1).tolist()
    assert kept.targets[1].tolist() == data.subset("valid").targets.argmax(axis=1).tolist()
    first, *others = kept.train
    assert all(not torch.equal(first, other) for other in others), "further views are augmented"
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


def test_training_on_kept_values_is_training_the_slow_way(data):
    """In the same order, the same losses and weights, to float16's rounding."""

    def trained(fast):
        learn = learner(data)
        # Without augmentation and dropout, so that both see the same.
        for layer in learn.model[1]:
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        for transform in list(learn.dls.train.after_batch.fs):
            if getattr(transform, "split_idx", None) == 0:
                learn.dls.train.after_batch.fs.remove(transform)
        unfreeze_blocks_of(learn, phase(learn))
        order = Order()
        kept = keep(learn, 5, 1)
        learn.dls.train.rng.seed(5)
        with isolated_rng(1), learn.no_bar(), learn.no_logging():
            if fast:
                with training_on_features(learn, kept):
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
        else:  # Adam steps by its rate wherever rounding decides a gradient's sign
            gap = (fast_weights[name] - weight).abs().float()
            assert gap.mean() < 0.01 * weight.abs().float().mean() + 1e-4, name


def test_frozen_layers_are_not_run_while_training(data):
    learn = learner(data)
    unfreeze_blocks_of(learn, phase(learn))
    kept = keep(learn, 5, 2)
    calls = []
    learn.model[0][0].register_forward_hook(lambda *_: calls.append(1))
    with training_on_features(learn, kept), learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert not calls


def test_the_key_names_all_that_values_depend_on(data, multi_dir):
    learn = learner(data)
    before = key(learn, 5, 2)
    assert before == key(learner(data), 5, 2)
    assert before != key(learn, 4, 2) and before != key(learn, 5, 3)
    assert before != key(learner(data, size=48), 5, 2)
    assert before != key(learner(data, precision="bf16"), 5, 2)
    assert before != key(learner(xf.open_data(multi_dir)), 5, 2)
    with torch.no_grad():
        learn.model[0][0].conv1.weight[0, 0, 0, 0] += 1e-3
    assert before != key(learn, 5, 2)
    head = learner(data)
    with torch.no_grad():
        head.model[1][-1].weight += 1
    assert before == key(head, 5, 2), "the head is not among the frozen layers"


def test_more_than_memory_takes_goes_into_a_file_without_a_name(data, monkeypatch, tmp_path):
    learn = learner(data)
    expected = keep(learn, 4, 2)
    monkeypatch.setattr(frozen, "MEMORY_BYTES", 0)
    kept = keep(learn, 4, 2, folder=tmp_path / "cache")
    assert torch.equal(kept.train, expected.train) and torch.equal(kept.valid, expected.valid)
    assert not list((tmp_path / "cache").iterdir())


def test_a_full_disk_is_told_with_what_to_do(data, monkeypatch, tmp_path):
    monkeypatch.setattr(frozen, "MEMORY_BYTES", 0)
    monkeypatch.setattr(frozen, "room", lambda _: 10)
    with pytest.raises(WriteError, match=r"found 0\.0 GB free.*--reuse-frozen off"):
        keep(learner(data), 4, 2, folder=tmp_path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="POSIX only")
def test_a_disk_that_fills_up_meanwhile_is_told_too(data, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen, "MEMORY_BYTES", 0)
    monkeypatch.setattr(frozen.os, "posix_fallocate", full)
    with pytest.raises(WriteError, match="No space left"):
        keep(learner(data), 4, 2, folder=tmp_path)


def test_values_beyond_float16_are_saturated_not_infinite(data):
    learn = learner(data)
    with torch.no_grad():
        learn.model[0][4][1].bn2.weight.fill_(1e6)
        learn.model[0][4][1].bn2.bias.fill_(1e6)
    kept = keep(learn, 5, 1)
    assert kept.train.isfinite().all() and float(kept.train.max()) == 65504.0


def test_an_interruption_stops_between_two_batches(data):
    told = []
    with pytest.raises(KeyboardInterrupt):
        keep(learner(data), 5, 2, progress=lambda *a: told.append(a), interrupted=lambda: len(told) == 2)
    assert len(told) == 2


def test_room_that_is_needed_is_known_before(data):
    learn = learner(data)
    for cut in (3, 5):
        kept = keep(learn, cut, 2)
        assert frozen.bytes_needed(learn, cut, 2) == 2 * (kept.train.numel() + kept.valid.numel())


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
def test_which_phases_keep_what(plan, mode, views, expected):
    assert cuts(phases(*plan), mode, views) == expected
