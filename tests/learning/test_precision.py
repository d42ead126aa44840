"""What a network computes in."""

from contextlib import nullcontext

import pytest
import torch

import xrayfast as xf
from xrayfast.errors import ConfigError
from xrayfast.learning import precision
from xrayfast.learning.backbones import BACKBONES, load_body
from xrayfast.learning.fastai_api import Callback, MixedPrecision
from xrayfast.learning.precision import Autocast, exact, folded, resolved

CPU = torch.device("cpu")


def test_auto_is_bf16_only_where_the_cpu_has_units_for_it(monkeypatch):
    monkeypatch.setattr(precision, "has_amx", lambda: True)
    assert resolved("auto", CPU) == "bf16"
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    assert resolved("auto", CPU) == "fp32"
    assert resolved("bf16", CPU) == "bf16"
    assert resolved("auto", torch.device("mps")) == "fp32"
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        resolved("fp16", CPU)


@pytest.mark.parametrize("arch", list(BACKBONES))
def test_folding_leaves_every_network_s_output_as_it_is_and_the_network_too(arch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = load_body(arch).as_network()
        for module in body.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        x = torch.rand(2, 3, 64, 64)
        whole = torch.nn.Sequential(body, torch.nn.Flatten()).eval()
        with torch.no_grad():
            expected = whole(x)
            found = folded(whole)(x)
            again = whole(x)
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
    assert torch.equal(again, expected)


def test_folding_folds():
    body = load_body("resnet18").as_network()
    with torch.random.fork_rng():
        whole = folded(torch.nn.Sequential(body, torch.nn.Flatten()))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in whole.modules())


def test_a_learner_is_as_before_whatever_happens_while_it_predicts(films):
    learn = xf.learner(
        xf.dataloaders(xf.open_data(films), size=32, batch_size=8, device="cpu"), weights="none", precision="bf16"
    )
    model, callbacks = learn.model, [type(callback) for callback in learn.cbs.sorted("order")]
    with pytest.raises(RuntimeError, match="mine"), exact(learn):
        inner = learn.model
        with exact(learn):
            assert learn.model is inner, "folded once"
        assert learn.model is inner
        raise RuntimeError("mine")
    assert learn.model is model
    assert [type(callback) for callback in learn.cbs.sorted("order")] == callbacks


def test_predictions_are_fp32_whatever_a_learner_trains_in(films):
    dls = xf.dataloaders(xf.open_data(films), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, weights="none", precision="bf16")
    model, types = learn.model, []
    with exact(learn):
        assert not any(isinstance(callback, Autocast) for callback in learn.cbs)
        learn.model.register_forward_hook(lambda *a: types.append(a[2].dtype))
        with learn.no_bar(), learn.no_logging():
            learn.get_preds()
    assert set(types) == {torch.float32}
    assert learn.model is model
    assert any(isinstance(callback, Autocast) for callback in learn.cbs)


class Scaled(MixedPrecision):
    """fastai's fp16, which is hard-coded to CUDA, in float32: what is left of it is the scaler, and it starts with a
    scale under which float32's gradients overflow.
    """

    def before_fit(self):
        """The scaler and an empty context."""
        self.autocast = nullcontext()
        self.learn.scaler = torch.amp.GradScaler("cpu", init_scale=LARGEST)
        self.scales = []


LARGEST = 2.0**127


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_fp16_skips_a_step_whose_gradients_overflow_and_goes_on_with_a_smaller_scale(films, optimizer):
    dls = xf.dataloaders(xf.open_data(films), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, weights="none", precision="fp32", optimizer=optimizer)
    learn.add_cb(Scaled())
    before = [p.detach().clone() for p in learn.model.parameters()]
    scale, unchanged = [], []

    class Watch(Callback):
        def after_batch(self):
            if self.training:
                scale.append(self.scaler.get_scale())
                now = self.model.parameters()
                unchanged.append(all(torch.equal(p, b) for p, b in zip(now, before, strict=True)))

    learn.unfreeze()
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(Watch()):
        learn.fit(4, 1e-3)
    assert unchanged[0], "the first step was skipped"
    assert scale[0] == LARGEST / 2
    assert not unchanged[-1], "later ones were not"
    skipped = sum(a > b for a, b in zip([LARGEST, *scale], scale, strict=False))
    assert skipped >= sum(unchanged)
    for parameter, state in learn.opt.state.items():
        assert all(torch.isfinite(torch.as_tensor(value)).all() for value in state.values())
        assert torch.isfinite(parameter).all()
        if "step" in state:
            assert state["step"] == len(scale) - skipped
