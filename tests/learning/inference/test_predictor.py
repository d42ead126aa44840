"""The predictor compared with fastai's inference, its seeds, and the cost of its import."""

import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import xrayfast as xf
from xrayfast.config import AUGMENTATIONS
from xrayfast.errors import ConfigError, WeightsError
from xrayfast.learning.dataloaders.transforms import ChestAugmentation
from xrayfast.learning.inference.predictor import EnsemblePredictor, Predictor, predict_split
from xrayfast.metrics.operating_points.calibration import Scaling
from xrayfast.metrics.operating_points.decision import Decision, Probabilities

pytestmark = pytest.mark.usefixtures("quick")

IMAGES = list(np.random.default_rng(0).integers(0, 256, (7, 50, 40), dtype=np.uint8))


@pytest.fixture(params=["single", "multi"])
def run(request, tiny_run, tiny_multi_run):
    return tiny_run if request.param == "single" else tiny_multi_run


def quiet(learn):
    learn.remove_cb(learn.progress)
    return learn


@pytest.mark.parametrize("tta", [False, True])
def test_probabilities_equal_fastais(run, tta):
    learn = quiet(xf.load(run, device="cpu"))
    dl = learn.dls.test_dl(IMAGES, rm_type_tfms=0, bs=3, num_workers=0)
    expected = (learn.tta(dl=dl) if tta else learn.get_preds(dl=dl))[0].numpy()
    assert [t.view for t in dl.after_batch.fs if isinstance(t, ChestAugmentation)] == [None], "training draws at random"
    found = Predictor.from_run(run, "cpu").probabilities(IMAGES, tta=tta, batch_size=3)
    np.testing.assert_allclose(found.raw, expected, atol=1e-5)
    np.testing.assert_array_equal(found.calibrated, run.decision.calibrated(found.raw))


def test_a_batch_holds_an_image(tiny_run):
    with pytest.raises(ConfigError, match="batch_size is 0; expected at least 1"):
        Predictor.from_run(tiny_run, "cpu").logits(IMAGES, batch_size=0)


def test_raw_probabilities_are_softmax_or_sigmoid_of_the_logits(run):
    predictor = Predictor.from_run(run, "cpu")
    logits = predictor.logits(IMAGES)
    assert (logits.shape, logits.dtype) == ((7, len(run.labels)), np.float32)
    odds = np.exp(logits)
    expected = odds / odds.sum(axis=1, keepdims=True) if run.task == "single" else odds / (1 + odds)
    np.testing.assert_allclose(predictor.probabilities(IMAGES).raw, expected, rtol=1e-5)
    np.testing.assert_allclose(predictor.logits(IMAGES, batch_size=2), logits, atol=1e-5)
    assert predictor.probabilities([], tta=True).calibrated.shape == (0, len(run.labels))


def test_a_learner_and_its_run_predict_the_same_to_the_bit(run):
    learn, plain = xf.load(run, device="cpu"), Predictor.from_run(run, "cpu").probabilities(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):  # as interrupted training may leave it
        found = Predictor.from_learner(learn).probabilities(IMAGES)
    assert np.array_equal(found.raw, plain.raw) and np.array_equal(found.calibrated, found.raw)
    saved = run.predictions("valid")
    again = predict_split(learn, "valid")
    assert again.images.tolist() == saved.images.tolist()
    np.testing.assert_allclose(again.raw, saved.raw, rtol=1e-8)
    np.testing.assert_allclose(again.loss, saved.loss, rtol=1e-8)


def test_the_augmented_views_of_an_image_depend_only_on_the_image_and_the_seed_of_the_run(tiny_run, tmp_path):
    run = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    run.write_config(run.config.updated({"seed": 7, "tta": True, "augment": "strong"}))

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    predictor = Predictor.from_run(run, "cpu")
    own = predictor.probabilities(IMAGES).raw
    others = [IMAGES[3], *IMAGES[::-1], IMAGES[3]]
    again = predictor.probabilities(others, batch_size=2).raw
    assert states() == before
    np.testing.assert_allclose(again, own[[3, *range(6, -1, -1), 3]], atol=1e-6)
    assert not np.allclose(predictor.probabilities(IMAGES, tta=False).raw, own, atol=1e-6)
    predictor.seed = 8
    assert not np.allclose(predictor.probabilities(IMAGES).raw, own, atol=1e-6)
    learn = quiet(xf.load(run, device="cpu"))
    of_learner = Predictor.from_learner(learn)
    assert of_learner.augmentation == predictor.augmentation == AUGMENTATIONS["strong"]
    np.testing.assert_allclose(of_learner.probabilities(IMAGES, tta=True).raw, own, atol=1e-6)
    predictor.augmentation = None  # augment "off"
    assert np.array_equal(predictor.probabilities(IMAGES).raw, predictor.probabilities(IMAGES, tta=False).raw)


def test_an_ensemble_averages_what_its_members_give_for_the_same_options():
    class Member:
        size, device, tta, asked = 32, "cpu", False, []

        def probabilities(self, images, **options):
            self.asked.append(options)
            raw = np.full((len(images), 2), 0.2 * len(self.asked), np.float32)
            return Probabilities(raw, 1 - raw)

    decision = Decision("multi", ("a", "b"), (Scaling(2.0, 0.5), Scaling(1.0, 0.0)))
    ensemble = EnsemblePredictor([Member(), Member()], decision)
    found, spread = ensemble.probabilities_and_spread(IMAGES, tta=True, batch_size=3)
    assert Member.asked == [{"tta": True, "batch_size": 3}] * 2
    np.testing.assert_allclose(found.raw, np.full((7, 2), 0.3), rtol=1e-6)
    np.testing.assert_allclose(found.calibrated, decision.calibrated(np.full((7, 2), 0.3)), rtol=1e-6)
    np.testing.assert_allclose(spread, np.full((7, 2), np.std([0.2, 0.4], ddof=1)), rtol=1e-6)


def test_the_network_is_evaluated_in_float32_with_fused_batch_norm(tiny_run):
    predictor = Predictor.from_run(tiny_run, "cpu")
    assert not any(module.training for module in predictor.network.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in predictor.network.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in predictor.fused.modules())
    batch = predictor.inputs(IMAGES)
    assert (batch.dtype, tuple(batch.shape)) == (torch.float32, (7, 3, 32, 32))
    with torch.no_grad():
        logits = predictor.network(batch).numpy()
    np.testing.assert_allclose(predictor.logits(IMAGES), logits, atol=1e-4)


def test_a_learner_predicts_in_float32_and_is_unchanged_for_any_training_precision(data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, weights="none", precision="bf16")
    model, callbacks, types = learn.model, list(learn.cbs), []
    predictor = Predictor.from_learner(learn)
    for module in predictor.fused.modules():
        module.register_forward_hook(lambda *a: types.append(a[2].dtype))
    predictor.probabilities(IMAGES)
    assert set(types) == {torch.float32}
    assert learn.model is model and list(learn.cbs) == callbacks


def test_weights_of_another_network_are_refused(tiny_run, tmp_path):
    run = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    run.write_decision(Decision("single", ("a", "b")))
    with pytest.raises(WeightsError, match="contains another network than config"):
        Predictor.from_run(run, "cpu")
