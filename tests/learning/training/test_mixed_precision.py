"""The precision that a learner trains in."""

import copy
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from fastai.learner import load_learner
from torch.nn import functional as F

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.errors import ConfigError
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.model import precision
from xrayfast.learning.training import build_learner, mixed_precision
from xrayfast.learning.training.mixed_precision import Float16


def small(data_dir, **options):
    """Return a learner with few training images."""
    data = xf.open_data(data_dir, valid_fraction=0.6)
    return xf.learner(
        xf.dataloaders(data, size=32, batch_size=8, device="cpu"), arch=SMALL["arch"], weights="none", **options
    )


@pytest.fixture
def with_units(monkeypatch):
    """Simulate a CPU with bfloat16 units."""
    monkeypatch.setattr(precision, "has_amx", lambda: True)


@pytest.mark.parametrize(("error", "decided"), [(0.03, "bf16"), (0.2, "fp32"), (math.nan, "fp32")])
def test_auto_is_decided_once_by_the_error_of_bf16_logits(data_dir, with_units, monkeypatch, error, decided):
    learn = small(data_dir)
    tried = []
    monkeypatch.setattr(mixed_precision, "bf16_logit_error", lambda learn: tried.append(learn) or error)
    types = set()
    learn.model[1][-1].register_forward_hook(lambda *a: types.add(a[2].dtype))
    for _ in range(2):
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
    assert types == {torch.bfloat16 if decided == "bf16" else torch.float32}
    assert mixed_precision.training_precision(learn) == decided
    assert tried == [learn]


def test_an_explicit_precision_is_used_unchanged(data_dir, with_units, monkeypatch):
    monkeypatch.setattr(mixed_precision, "bf16_logit_error", lambda learn: pytest.fail("tried"))
    assert mixed_precision.training_precision(small(data_dir, precision="bf16")) == "bf16"
    assert mixed_precision.training_precision(small(data_dir, precision="fp32")) == "fp32"


def test_a_loss_gets_the_outputs_of_bf16_in_float32(data_dir):
    types = set()

    def own(logits, target):
        types.add(logits.dtype)
        return F.cross_entropy(logits, target)

    learn = small(data_dir, precision="bf16", loss=own)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert types == {torch.float32}


@pytest.mark.parametrize("batch", [3, 8])
def test_the_error_of_bf16_logits_is_computed_on_training_images_and_leaves_no_trace(data_dir, with_units, batch):
    learn = small(data_dir)
    learn.dls.train.bs = batch
    network = learn.model.train()
    torch.nn.init.ones_([m for m in network.modules() if isinstance(m, torch.nn.BatchNorm1d)][-1].bias)  # logits' mean
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    error = mixed_precision.bf16_logit_error(learn)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert learn.model is network and all(module.training for module in network.modules())
    # The reference: all training images, as they are fewer than IMAGES_TRIED, loaded like validation images.
    assert len(learn.dls.train_ds) <= mixed_precision.IMAGES_TRIED
    x = next(iter(learn.dls.test_dl(list(learn.dls.train_ds.items))))[0].as_subclass(torch.Tensor)
    for module in network.modules():
        module.training = isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))
    batches = [torch.from_numpy(part) for part in np.array_split(x.numpy(), len(x) // batch)]
    assert all(len(part) >= batch for part in batches)
    with torch.no_grad():
        full = torch.cat([network(batch) for batch in batches])
        with torch.autocast("cpu", torch.bfloat16):
            reduced = torch.cat([network(batch).float() for batch in batches])
    expected = ((reduced - full).square().sum() / (full - full.mean(0)).square().sum()).sqrt()
    assert error == pytest.approx(float(expected), rel=1e-3)
    assert 0 < error < 1


def test_bf16_is_not_tried_for_predictions_nor_on_foreign_data(data_dir, with_units, tmp_path):
    learn = small(data_dir)
    with learn.no_bar(), learn.no_logging():
        learn.predict(next(data_dir.rglob("*.png")))
        learn.get_preds()
    assert learn.precision is None
    learn.export(tmp_path / "learner.pkl")
    exported = load_learner(tmp_path / "learner.pkl")
    with exported.no_bar(), exported.no_logging():
        exported.predict(next(data_dir.rglob("*.png")))
    assert mixed_precision.training_precision(exported) == "fp32", "an exported learner has no images"


@pytest.mark.parametrize(("recorded", "followed"), [("bf16", "bf16"), ("fp32", "fp32"), ("fp16", "fp32"), (None, None)])
def test_a_resumed_network_uses_the_recorded_precision_or_float32_if_bf16_was_not_tried(
    data_dir, with_units, recorded, followed
):
    learn = small(data_dir)
    mixed_precision.restore_precision(learn, recorded)
    assert learn.precision == followed
    explicit = small(data_dir, precision="bf16")
    mixed_precision.restore_precision(explicit, "fp32")
    assert explicit.precision == "bf16"


class Depth:
    """A context that counts how often it is entered."""

    depth = 0

    def __enter__(self):
        self.depth += 1

    def __exit__(self, *error):
        self.depth -= 1


def test_autocast_is_left_after_fp16_was_aborted_in_a_batch(data_dir):
    learn = small(data_dir, precision="fp32")
    mixed = Float16()
    learn.add_cb(mixed)
    mixed_precision.leave_autocast(learn)  # nothing was trained yet
    mixed.autocast = context = Depth()
    for _ in range(2):  # the second batch begins where the first was aborted
        mixed.before_batch()
        assert context.depth == 1
    for _ in range(2):
        mixed_precision.leave_autocast(learn)
        assert context.depth == 0
    mixed.before_batch()
    mixed.after_loss()
    assert context.depth == 0


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "tolerates"), [("resnet18", True), ("mobilenet_v2", False)])
def test_which_networks_tolerate_bf16_on_radiographs_and_none_with_its_first_convolution_in_bf16(
    arch, tolerates, shared, monkeypatch, tmp_path
):
    monkeypatch.setenv("TORCH_HOME", str(shared / "torch"))
    data = xf.open_data(shared / "data" / "darkcovid", cache_dir=tmp_path)
    dls = xf.dataloaders(data, size=128, batch_size=8, device="cpu")
    learn = xf.learner(dls, arch=arch)
    assert (mixed_precision.bf16_logit_error(learn) < mixed_precision.TOLERANCE) == tolerates
    monkeypatch.setattr(build_learner, "first_conv_in_fp32", lambda model: model)
    assert mixed_precision.bf16_logit_error(xf.learner(dls, arch=arch)) > mixed_precision.TOLERANCE


def test_one_image_is_not_enough_to_try_bf16(tiny_run, with_units, monkeypatch):
    monkeypatch.setattr("xrayfast.workflows.load.find_data", lambda run: None)
    learn = xf.load(tiny_run, device="cpu")
    learn.precision = None
    assert mixed_precision.training_precision(learn) == "fp32"


def test_a_learner_s_first_convolution_is_in_float32_and_an_error_leaves_autocast_on(data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    first = xf.learner(dls, weights="none", precision="bf16").model[0][0].conv1
    with torch.autocast("cpu", torch.bfloat16):
        assert first(torch.rand(1, 3, 8, 8)).dtype == torch.float32
        with pytest.raises(RuntimeError, match="channels"):
            first(torch.rand(1, 4, 8, 8))
        assert torch.is_autocast_enabled("cpu")


class Scaled(Float16):
    """fastai's fp16, which is hard-coded to CUDA, in float32.

    Only the scaler remains, and it starts with a scale at which float32 gradients overflow.
    """

    def before_fit(self):
        """Create the scaler and an empty context."""
        self.autocast = nullcontext()
        self.learn.scaler = torch.amp.GradScaler("cpu", init_scale=LARGEST)
        self.scales = []


LARGEST = 2.0**127


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_fp16_skips_a_step_whose_gradients_overflow_and_goes_on_with_a_smaller_scale(data_dir, optimizer):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, arch=SMALL["arch"], weights="none", precision="fp32", optimizer=optimizer)
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


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (lambda: torch.autocast("cpu", dtype=torch.bfloat16), r"code outside of torch\.autocast"),
        (torch.inference_mode, r"torch.set_grad_enabled\(True\) and code outside of torch\.inference_mode"),
        (lambda: torch.device("meta"), r"expected torch\.set_default_device\('cpu'\) \(device= sets where"),
        (torch.no_grad, r"expected torch\.set_grad_enabled\(True\)"),
    ],
)
def test_nothing_is_trained_with_other_settings_of_torch(data_dir, tmp_path, setting, words):
    learn = small(data_dir)
    with setting():
        with pytest.raises(ConfigError, match=words):
            xf.fit(data_dir, runs=tmp_path, **SMALL)
        with pytest.raises(ConfigError, match=words):
            learn.fit(1)
    assert not list(tmp_path.iterdir())


def test_nothing_is_predicted_in_another_default_type(tiny_run, data_dir, monkeypatch):
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    with pytest.raises(ConfigError, match=r"expected torch.set_default_dtype\(torch.float32\)"):
        xf.predict(tiny_run, data_dir / "normal")


def test_nothing_is_predicted_on_the_meta_device(tiny_run, data_dir):
    with torch.device("meta"), pytest.raises(ConfigError, match=r"expected torch.set_default_device\('cpu'\)"):
        xf.predict(tiny_run, data_dir / "normal")
