"""`--ema`: the network is validated and saved with the moving average of its weights."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.config import EMA_DECAY, Config
from xrayfast.errors import RunError
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.training.checkpoint import AVERAGE, Checkpoint
from xrayfast.learning.training.optional.averaging import AverageWeights

DECAY = 0.6


@pytest.fixture(scope="module")
def dls(data_dir):
    return xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu", workers=0)


def make(dls, **options):
    return xf.learner(dls, arch="tiny_resnet", weights="none", precision="fp32", **options)


def state(model):
    return {name: tensor.numpy().astype(np.float64) for name, tensor in model.state_dict().items()}


class Trace(Callback):
    """Records the network after each step and while it is validated."""

    def __init__(self):
        self.steps, self.validated = [], []

    def before_batch(self):
        if self.training and not self.steps:
            self.steps.append(state(self.model))

    def after_step(self):
        self.steps.append(state(self.model))

    def before_validate(self):
        self.validated.append((len(self.steps), state(self.model)))


def averages(weights, decay):
    """Yield the average after each step, computed in numpy."""
    average = weights[0]
    yield average
    for step, now in enumerate(weights[1:]):
        kept = min(decay, (1 + step) / (10 + step))
        average = {name: kept * average[name] + (1 - kept) * now[name] for name in now}
        yield average


def assert_close(found, expected, but=()):
    for name, values in expected.items():
        if "num_batches" not in name:
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("unfrozen", [False, True])
def test_the_average_equals_that_of_a_numpy_loop(dls, unfrozen):
    learn, trace = make(dls, ema=DECAY, precise_bn=False), Trace()  # batch statistics are averaged like everything else
    if unfrozen:
        learn.unfreeze()
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-3, cbs=[trace])
    expected = list(averages(trace.steps, DECAY))
    assert len(expected) == 2 * len(dls.train) + 1
    for steps, found in trace.validated:
        assert_close(found, expected[steps - 1])
    assert_close(state(learn.model), expected[-1])
    moved = [name for name in expected[0] if not np.array_equal(trace.steps[0][name], expected[-1][name])]
    of_backbone = [name for name in moved if name.startswith("0.")]
    assert bool(of_backbone) == unfrozen and any("running_var" in name for name in moved)
    assert not learn.average.others and learn.average.steps == 0


def test_a_range_test_and_an_interrupted_fit_restore_the_learner(dls):
    learn = make(dls, ema=True)
    before = state(learn.model)
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=10, show_plot=False)
    assert_close(state(learn.model), before)

    class Stop(Callback):
        def after_step(self):
            if self.iter == 2:
                raise KeyboardInterrupt

    trace = Trace()
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=[trace, Stop()])
    assert_close(state(learn.model), list(averages(trace.steps, EMA_DECAY))[-1])
    trace = Trace()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=[trace])  # restarts from the current weights of the network
    assert_close(state(learn.model), list(averages(trace.steps, EMA_DECAY))[-1])


def test_the_decay_is_in_the_settings():
    given = [Config().updated({"ema": value}).train.ema for value in (True, False, None, 0.9)]
    assert given == [EMA_DECAY, None, None, 0.9]


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A run with one frozen epoch and two epochs of all layers, and its last checkpoint."""
    kept = {}

    class Keep(Callback):
        order = 100

        def after_epoch(self):
            path = runs / "r" / "checkpoint"
            kept.update({p.name: p.read_bytes() for p in path.iterdir()})

    runs = tmp_path_factory.mktemp("ema")
    options = SMALL | {"unfreeze": True, "epochs": 2, "ema": DECAY}
    return xf.fit(data_dir, runs=runs, name="r", cbs=[Keep()], **options), kept


def test_validation_best_epoch_and_predictions_use_the_average(run, tmp_path):
    run, kept = run
    rows = run.predictions("valid")
    loss = -np.log((rows.raw * rows.truth).sum(axis=1)).mean()
    assert abs(run.history["valid_loss"][run.info.best_epoch - 1] - loss) < 1e-4
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    assert kept["model.safetensors"] != kept[AVERAGE]
    assert Checkpoint.read(tmp_path, checksums=True).state.averaged_steps == 8
    (tmp_path / AVERAGE).unlink()
    with pytest.raises(RunError, match=r"lacks average\.safetensors"):
        Checkpoint.read(tmp_path, checksums=True)
    assert f"| Moving average of the weights | decay {DECAY} |" in run.model_card_path.read_text()
    assert xf.load(run).average.decay == DECAY and Path(run.path / "config.yaml").read_text().count(f"ema: {DECAY}")


def test_a_restored_average_goes_on_after_its_steps():
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    average = AverageWeights(0.9)
    average.learn = SimpleNamespace(model=model)
    average.restore({"weight": torch.full((1, 2), 3.0)}, 5)
    average.before_train()
    assert model.weight.tolist() == [[3.0, 3.0]]
    average.after_step()  # the average of step 6 keeps 6 / 15
    average.after_train()
    assert model.weight.flatten().tolist() == pytest.approx([0.4 * 1 + 0.6 * 3] * 2)
    assert average.steps == 6
