"""Which parameters are trained, and with which learning rates."""

import numpy as np
import pytest
import torch
from torchvision.ops import StochasticDepth

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.config import TrainConfig
from xrayfast.errors import ConfigError
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.training.callbacks.preparation import FrozenInference
from xrayfast.learning.training.phases import plan_phases, run_phase

NET = {k: SMALL[k] for k in ("arch", "weights")}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [("head", 6, 5)]),
        ({"unfreeze": True}, [("head", 1, 5), ("all", 6, 0)]),
        ({"unfreeze": True, "freeze_epochs": 0, "epochs": 2}, [("all", 2, 0)]),
        ({"unfreeze_blocks": 1}, [("head", 1, 5), ("last block", 6, 4)]),
        ({"unfreeze_blocks": 2, "freeze_epochs": 3}, [("head", 3, 5), ("last 2 blocks", 6, 3)]),
        ({"unfreeze_blocks": 5}, [("head", 1, 5), ("all", 6, 0)]),
        ({"unfreeze_layers": 1}, [("head", 1, 5), ("last layer", 6, 4)]),
        ({"unfreeze_layers": 3, "freeze_epochs": 0}, [("last 3 layers", 6, 2)]),
        ({"unfreeze_layers": 5}, [("head", 1, 5), ("all", 6, 0)]),
        (
            {"unfreeze_blocks": 3, "gradual_unfreeze": 2},
            [("head", 1, 5), ("last block", 2, 4), ("last 2 blocks", 2, 3), ("last 3 blocks", 6, 2)],
        ),
        (
            {"unfreeze_layers": 2, "gradual_unfreeze": 3, "freeze_epochs": 0, "epochs": 1},
            [("last layer", 3, 4), ("last 2 layers", 1, 3)],
        ),
        (
            {"unfreeze": True, "gradual_unfreeze": 1},
            [
                ("head", 1, 5),
                ("last block", 1, 4),
                *[(f"last {n} blocks", 1, 5 - n) for n in (2, 3, 4)],
                ("all", 6, 0),
            ],
        ),
    ],
)
def test_the_plan(settings, expected):
    phases = plan_phases(TrainConfig(**settings), groups=6, lr=1e-3, pretrained=True)
    assert [(p.name, p.epochs, p.frozen_groups) for p in phases] == expected


def test_learning_rates_are_discriminative():
    head, everything = plan_phases(TrainConfig(unfreeze=True, lr_div=16), groups=5, lr=1e-2, pretrained=True)
    assert head.lrs == (1e-2,) * 5
    assert everything.lrs == pytest.approx([5e-3 / 16, 5e-3 / 8, 5e-3 / 4, 5e-3 / 2, 5e-3])
    assert plan_phases(TrainConfig(unfreeze=True), 5, 1e-2, pretrained=True)[1].lrs[0] == pytest.approx(5e-4)
    assert plan_phases(TrainConfig(unfreeze=True), 5, 1e-2, pretrained=False)[1].lrs == pytest.approx([5e-3] * 5)


def test_learning_rates_of_layers_are_spread_over_those_that_are_unfrozen():
    head, last = plan_phases(TrainConfig(unfreeze_layers=2, lr_div=16), groups=6, lr=1e-2, pretrained=True)
    assert head.lrs == (1e-2,) * 6
    assert last.lrs == pytest.approx([5e-3 / 16] * 4 + [5e-3 / 4, 5e-3])
    assert last.lrs[last.frozen_groups :] == pytest.approx([5e-3 / 16, 5e-3 / 4, 5e-3])


@pytest.mark.parametrize("option", ["unfreeze_blocks", "unfreeze_layers"])
@pytest.mark.parametrize("freeze_epochs", [0, 1])
def test_the_rates_of_gradual_unfreezing_equal_those_of_unfreezing_the_same_blocks_at_once(option, freeze_epochs):
    settings = {"freeze_epochs": freeze_epochs, "lr_div": 50}
    gradual = plan_phases(TrainConfig(**{option: 4}, gradual_unfreeze=2, **settings), 6, 1e-2, pretrained=True)
    at_once = [plan_phases(TrainConfig(**{option: n}, **settings), 6, 1e-2, pretrained=True)[-1] for n in range(1, 5)]
    assert [phase.lrs for phase in gradual[-4:]] == [phase.lrs for phase in at_once]
    assert len({phase.lrs for phase in gradual}) == (1 if option == "unfreeze_blocks" else 4) + freeze_epochs


def test_the_learning_rate_is_halved_only_after_a_head_phase():
    (only,) = plan_phases(TrainConfig(unfreeze=True, freeze_epochs=0), 5, 1e-2, pretrained=False)
    assert only.lrs == pytest.approx([1e-2] * 5)


def test_impossible_plans_are_refused():
    with pytest.raises(ConfigError, match="has only 5 blocks"):
        plan_phases(TrainConfig(unfreeze_blocks=6), 6, 1e-3, pretrained=True)
    with pytest.raises(ConfigError, match=r"unfreeze_layers is 6.*only 5 layers; see 'xrayfast models --layers ARCH'"):
        plan_phases(TrainConfig(unfreeze_layers=6), 6, 1e-3, pretrained=True)
    for settings, found in (({}, "nothing is"), ({"unfreeze_blocks": 1}, "only one block or layer is")):
        with pytest.raises(ConfigError, match=f"gradual_unfreeze is 2, but {found} to be unfrozen. Use it with"):
            plan_phases(TrainConfig(gradual_unfreeze=2, **settings), 6, 1e-3, pretrained=True)
    with pytest.raises(ConfigError, match="use one of the three"):
        plan_phases(TrainConfig(unfreeze_blocks=1, unfreeze_layers=1), 6, 1e-3, pretrained=True)
    with pytest.raises(ConfigError, match="use one of the three"):
        plan_phases(TrainConfig(unfreeze=True, unfreeze_blocks=1), 6, 1e-3, pretrained=True)


@pytest.fixture
def learn(data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learner = xf.learner(dls, **NET)
    with learner.no_bar(), learner.no_logging():
        yield learner


def snapshot(learn):
    return [{name: t.clone() for name, t in block.state_dict().items()} for block in [*learn.model[0], learn.model[1]]]


def moved(before, after):
    return [any(not torch.equal(b[k], a[k]) for k in b) for b, a in zip(before, after, strict=True)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [False] * 5 + [True]),
        ({"unfreeze_blocks": 2}, [False] * 3 + [True] * 3),
        ({"unfreeze": True}, [True] * 6),
    ],
)
def test_only_unfrozen_groups_and_their_buffers_change(learn, settings, expected):
    phase = plan_phases(TrainConfig(epochs=1, freeze_epochs=0, **settings), 6, 1e-3, pretrained=True)[-1]
    before = snapshot(learn)
    learn.freeze_to(phase.frozen_groups)
    run_phase(learn, phase, schedule="one-cycle", momentum=0.9, callbacks=[])
    assert moved(before, snapshot(learn)) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [False] * 6 + [True]),
        ({"unfreeze_blocks": 1}, [False] * 5 + [True] * 2),
        ({"unfreeze_blocks": 2}, [False] * 4 + [True] * 3),
        ({"unfreeze": True, "lr_div": 64}, [True] * 7),
    ],
)
def test_the_network_s_own_classifier_is_a_block_and_a_layer_group(data_dir, tiny_vgg, settings, expected):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, arch=tiny_vgg, weights="none", head="classifier")
    plan = plan_phases(TrainConfig(epochs=1, freeze_epochs=0, **settings), 7, 1e-2, pretrained=True)[-1]
    before = snapshot(learn)
    learn.freeze_to(plan.frozen_groups)
    with learn.no_bar(), learn.no_logging():
        run_phase(learn, plan, schedule="constant", momentum=0.9, callbacks=[])
    after = snapshot(learn)
    assert moved(before, after) == expected
    assert all(not torch.equal(before[5][key], after[5][key]) for key in before[5]) == expected[5]
    if "lr_div" in settings:
        assert learn.opt.hypers[5]["lr"] == pytest.approx(1e-2 / 2), "64 ^ (1/6) is 2"


def test_only_unfrozen_layers_change_at_their_rates_and_frozen_batch_norm_stays(data_dir):
    """The split is within a residual block: batch norm of the first convolution is frozen, of the second it is not."""
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, groups="layers", **NET)
    train = TrainConfig(unfreeze_layers=3, freeze_epochs=0, epochs=1, lr_div=8)
    (phase,) = plan_phases(train, len(learn.groups), 1e-3, pretrained=True)
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    learn.freeze_to(phase.frozen_groups)
    in_training, frozen_idx = set(), learn.opt.frozen_idx

    class Watch(Callback):
        order = 100

        def before_batch(self):
            if self.training:
                in_training.update(name for name, module in self.model.named_modules() if module.training)

    with learn.no_bar(), learn.no_logging():
        run_phase(learn, phase, schedule="constant", momentum=0.9, callbacks=[Watch()])
        after = learn.model.state_dict()
        changed = {name.rsplit(".", 1)[0] for name, tensor in after.items() if not torch.equal(before[name], tensor)}
        assert changed == {f"0.4.{name}" for name in ("0.conv2", "0.bn2", "1.conv1", "1.bn1", "1.conv2", "1.bn2")} | {
            f"1.{number}" for number in (2, 4, 6, 8)
        }
        assert not in_training & {"0.4.0.bn1", "0.4.0.downsample.1", "0.0.bn1"} and "0.4.0.bn2" in in_training
        assert [hyper["lr"] for hyper in learn.opt.hypers][-4:] == pytest.approx([1e-3 / 8, 1e-3 / 4, 1e-3 / 2, 1e-3])
        learn.freeze_to(-4)
        assert learn.opt.frozen_idx == frozen_idx == 14


def test_a_fully_connected_layer_of_the_network_s_own_classifier_is_unfrozen_alone(data_dir, tiny_vgg):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, arch=tiny_vgg, weights="none", head="classifier", groups="layers")
    assert [group.name for group in learn.groups[-3:]] == ["classifier.fc1", "classifier.fc2", "head"]
    (phase,) = plan_phases(TrainConfig(unfreeze_layers=1, freeze_epochs=0, epochs=1), len(learn.groups), 1e-2, True)
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    learn.freeze_to(phase.frozen_groups)
    with learn.no_bar(), learn.no_logging():
        run_phase(learn, phase, schedule="constant", momentum=0.9, callbacks=[])
    changed = {name for name, tensor in learn.model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert {name for name in changed if name.startswith("0.")} == {"0.5.fc2.weight", "0.5.fc2.bias"}


def test_stochastic_depth_of_frozen_layers_is_off(data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, arch="convnext_tiny", weights="none", groups="layers")
    learn.freeze_to(-2)
    learn.model.train()
    frozen_inference = next(callback for callback in learn.cbs if isinstance(callback, FrozenInference))
    frozen_inference.before_train()
    depths = [module for module in learn.model.modules() if isinstance(module, StochasticDepth)]
    assert [depth.training for depth in depths] == [False] * 17 + [True]


def test_a_frozen_block_stays_frozen_although_an_unfrozen_phase_left_gradients(learn):
    everything = plan_phases(TrainConfig(unfreeze=True, freeze_epochs=0, epochs=1), 6, 1e-3, pretrained=True)[0]
    learn.freeze_to(everything.frozen_groups)
    run_phase(learn, everything, schedule="constant", momentum=0.9, callbacks=[])
    before = snapshot(learn)
    head = plan_phases(TrainConfig(epochs=1), 6, 1e-3, pretrained=True)[0]
    learn.freeze_to(head.frozen_groups)
    run_phase(learn, head, schedule="constant", momentum=0.9, callbacks=[])
    assert moved(before, snapshot(learn)) == [False] * 5 + [True]


def cosine(start, end, position):
    return start + (end - start) * (1 - np.cos(np.pi * position)) / 2


SHAPES = {
    "one-cycle": lambda x: cosine(1 / 25, 1, x / 0.25) if x < 0.25 else cosine(1, 1e-5, (x - 0.25) / 0.75),
    "flat-cos": lambda x: 1 if x < 0.75 else cosine(1, 1e-5, (x - 0.75) / 0.25),
    "constant": lambda x: 1,
}


@pytest.mark.parametrize("schedule", list(SHAPES))
def test_the_schedules_equal_fastais_and_reach_each_group(learn, schedule):
    rates, momenta = [], []

    class Watch(Callback):
        order = 100

        def before_batch(self):
            if self.training:
                rates.append([hyper["lr"] for hyper in self.opt.hypers])
                momenta.append(self.opt.hypers[-1]["mom"])

    phase = plan_phases(TrainConfig(unfreeze=True, freeze_epochs=0, epochs=2, lr_div=10), 6, 2e-3, pretrained=True)[0]
    learn.freeze_to(phase.frozen_groups)
    run_phase(learn, phase, schedule=schedule, momentum=0.9, callbacks=[Watch()])
    rates = np.array(rates)
    np.testing.assert_allclose(rates[:, 0] * 10, rates[:, -1])
    done = np.arange(len(rates)) / len(rates)
    np.testing.assert_allclose(rates[:, -1], [phase.lrs[-1] * SHAPES[schedule](x) for x in done], rtol=1e-4)
    falls = {x: cosine(0.95, 0.85, x / 0.25) if x < 0.25 else cosine(0.85, 0.95, (x - 0.25) / 0.75) for x in done}
    np.testing.assert_allclose(momenta, [falls[x] if schedule == "one-cycle" else 0.9 for x in done])


@pytest.mark.parametrize("schedule", ["one-cycle", "flat-cos"])
def test_a_resumed_phase_continues_at_its_place_in_the_schedule(learn, schedule):
    rates = {}

    class Watch(Callback):
        order = 100

        def before_batch(self):
            if self.training:
                rates.setdefault(self.epoch, []).append(self.opt.hypers[-1]["lr"])

    phase = plan_phases(TrainConfig(epochs=2), 6, 1e-3, pretrained=True)[0]
    learn.freeze_to(phase.frozen_groups)
    run_phase(learn, phase, schedule=schedule, momentum=0.9, callbacks=[Watch()])
    whole = rates.pop(1)
    rates.clear()
    run_phase(learn, phase, schedule=schedule, momentum=0.9, callbacks=[Watch()], start_epoch=1)
    assert rates == {1: pytest.approx(whole)}


def test_a_network_is_on_its_device_before_training_begins(data_dir):
    """fastai moves the network when training begins, but features of frozen layers are computed before that."""
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    dls.device = torch.device("meta")
    learn = xf.learner(dls, weights="none", precision="fp32")
    assert {tensor.device.type for tensor in learn.model.state_dict().values()} == {"meta"}
