"""Mixup and CutMix, together with the other options that change targets and losses."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

import xrayfast as xf
from tests.conftest import SMALL, StopAfter
from xrayfast.errors import ConfigError, Interrupted
from xrayfast.learning.dataloaders.augment import mixup
from xrayfast.learning.training.optional.mixing import MixImages

SETTINGS = SMALL | {
    "unfreeze_blocks": 1,
    "epochs": 3,
    "seed": 4,
    "mixup": 0.4,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "class_weights": "effective",
}


@pytest.fixture(scope="module")
def masked(data_dir, tmp_path_factory):
    """Multi-label data with masked cells."""
    table = pd.read_csv(data_dir / "labels.csv")
    for i, name in enumerate(("covid-19", "pneumonia")):
        table[name] = (table["labels"] == name).astype(int).astype(str).where(table.index % 5 != i, "")
    file = tmp_path_factory.mktemp("masked") / "labels.csv"
    table.drop(columns="labels").to_csv(file, index=False)
    return xf.open_data(data_dir, labels=file)


@pytest.fixture(scope="module")
def whole(masked, tmp_path_factory):
    """A run that was not interrupted: one epoch of the head, three of the last block."""
    return xf.fit(masked, runs=tmp_path_factory.mktemp("whole"), name="whole", **SETTINGS)


def batch(target, **options):
    """Return the mixed images, the targets, and the images before mixing."""
    images = torch.rand(len(target), 3, 8, 8)
    learn = SimpleNamespace(xb=(images,), yb=(target,))
    mixing = MixImages(**options)
    mixing.learn = learn
    mixing.before_batch()
    return learn.xb[0], learn.yb, images


def test_a_batch_has_the_targets_of_both_images_and_their_shares():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        mixed, (target, other, share), images = batch(torch.arange(6), mixup=0.4, cutmix=0.0)
        assert target.tolist() == list(range(6)) and sorted(other.tolist()) == list(range(6))
        torch.testing.assert_close(mixed, mixup(images, images[other], share))
        assert len(share.unique()) == 6, "each image has its own share"
        shares = {True: [], False: []}
        for _ in range(20):
            mixed, (_, other, share), images = batch(torch.arange(6), mixup=1e4, cutmix=1.0)
            from_either = (mixed == images) | (mixed == images[other])
            shares[bool(from_either.all())] += share.tolist()
            if from_either.all():
                mixed_with_another = other != torch.arange(6)
                own = (mixed == images).float().mean(dim=(1, 2, 3))
                torch.testing.assert_close(own[mixed_with_another], share[mixed_with_another])
        assert shares[False] == pytest.approx([0.5] * len(shares[False]), abs=0.05), "Beta(1e4, 1e4) is near 0.5"
        assert 0 < len(shares[False]) < 120 and min(shares[True]) < 0.3 and max(shares[True]) > 0.7
        nan = torch.nan
        _, (target, other, _), _ = batch(torch.tensor([[1.0, nan], [nan, 0.0], [1.0, 0.0]]), mixup=0.4, cutmix=0.0)
        assert target.isnan()[other.isnan()].all()


def test_a_mixed_run_is_the_same_after_an_interruption_to_the_byte(masked, whole, tmp_path):
    with pytest.raises(Interrupted):
        xf.fit(masked, runs=tmp_path, name="r", interrupted=StopAfter(9), **SETTINGS)
    assert len(xf.Run(tmp_path / "r").history) == 2
    run = xf.resume(tmp_path / "r")
    assert np.isnan(masked.targets).any()
    for name in ("model.safetensors", "batches.csv", "predictions/valid.csv"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_a_mixed_run_has_no_metrics_of_training_and_no_cached_features(whole):
    history = whole.history
    assert np.isfinite(history["train_loss"]).all() and np.isfinite(history["valid_auroc_macro"]).all()
    assert [name for name in history if name.startswith("train_")] == ["train_loss"]
    assert whole.info["frozen_feature_groups"] == [0, 0]
    assert (whole.config.train.mixup, whole.config.train.cutmix) == (0.4, 1.0)
    xf.interpret(whole)
    card = whole.model_card_path.read_text()
    assert "mixed with another of its batch (mixup 0.4, cutmix 1)" in card and "label_smoothing 0.1" in card


def test_mixing_needs_a_loss_per_image(masked):
    dls = xf.dataloaders(masked, size=32, workers=0, device="cpu")

    def loss(logits, target):
        return F.binary_cross_entropy_with_logits(logits, target.nan_to_num())

    with pytest.raises(ConfigError, match=r"loss .*does not return one loss per image"):
        xf.learner(dls, arch="resnet18", weights="none", loss=loss, mixup=0.2)


def test_images_of_the_validation_split_are_not_mixed(masked):
    dls = xf.dataloaders(masked, size=32, batch_size=8, device="cpu")
    mixing, plain = (xf.learner(dls, arch=SMALL["arch"], weights="none", mixup=a) for a in (0.4, 0.0))
    with mixing.no_bar(), plain.no_bar():
        assert mixing.validate()[0] == pytest.approx(plain.validate()[0], rel=1e-6)


def test_shares_that_are_all_about_one_half_are_noted(masked):
    dls = xf.dataloaders(masked, size=32, batch_size=8, device="cpu")
    with pytest.warns(UserWarning, match=r"mixup is 50: 95% of the shares .* are within 0.5 ± 0.098") as caught:
        xf.learner(dls, arch=SMALL["arch"], weights="none", mixup=50.0, cutmix=8.0)
    assert not any("cutmix is" in str(warning.message) for warning in caught)
    low, high = stats.beta(50, 50).interval(0.95)
    assert (high - low) / 2 == pytest.approx(0.098, abs=0.002)
