"""How the training split is augmented: by name, not at all, or by custom code."""

import pytest
import torch
from fastai.vision.augment import Brightness, RandomErasing, Rotate
from torch import nn

import xrayfast as xf
from xrayfast.config import AUGMENTATIONS, Config
from xrayfast.errors import ConfigError
from xrayfast.learning.dataloaders.augment import denormalize
from xrayfast.learning.dataloaders.transforms import ChestAugmentation


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir)


def batches(data, augment):
    """Return the first batch of training and of validation, gray in [0, 1]."""
    dls = xf.dataloaders(data, size=32, batch_size=8, workers=0, device="cpu", augment=augment)
    torch.manual_seed(0)
    return [denormalize(dl.one_batch()[0].as_subclass(torch.Tensor))[:, :1] for dl in dls]


@pytest.fixture(scope="module")
def plain(data):
    return batches(data, False)


def as_bytes(images):
    return images * 255


def test_values_out_of_range_are_noted(data):
    with pytest.warns(UserWarning, match=r"augment as_bytes returns values from .* to 255 for images in \[0, 1\]"):
        batches(data, [as_bytes])


class Negative(nn.Module):
    def forward(self, images):
        assert type(images) is torch.Tensor and images.shape[1:] == (1, 32, 32)
        return 1 - images


def flip(images):
    return images.flip(3)


def test_custom_transforms_augment_only_training_in_the_given_order(data, plain):
    train, valid = batches(data, [Negative(), flip])
    torch.testing.assert_close(train, (1 - plain[0]).flip(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(valid, plain[1])
    torch.testing.assert_close(batches(data, flip)[0], plain[0].flip(3))


@pytest.mark.parametrize("transform", [Brightness(0.4, p=1.0), RandomErasing(p=1.0, sl=0.2), Rotate(30, p=1.0)])
def test_a_transform_of_fastai_is_accepted(data, plain, transform):
    train, valid = batches(data, [transform])
    assert train.shape == plain[0].shape
    assert (train - plain[0]).abs().mean() > 0.005
    torch.testing.assert_close(valid, plain[1])


def test_names_have_their_ranges(data, plain):
    distances = [float((batches(data, name)[0] - plain[0]).abs().mean()) for name in ("mild", "default", "strong")]
    assert 0 < distances[0] < distances[1] < distances[2]
    for name, ranges in AUGMENTATIONS.items():
        dls = xf.dataloaders(data, size=32, augment=name)
        assert [t.ranges for t in dls.train.after_batch.fs if isinstance(t, ChestAugmentation)] == [ranges]
    assert Config().updated({"augment": False}).train.augment == "off"
    assert Config().updated({"augment": "off"}).train.augmentation is None


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            [flip, lambda x: x[:, :, 1:]],
            r"augment <lambda> returns torch.float32 of shape torch.Size\(\[4, 1, 31, 32\]\)",
        ),
        ([lambda x: None], "augment <lambda> returns NoneType of shape None"),
        ([lambda x: x / 0 + y], r"augment <lambda> fails for a batch of shape \(4, 1, 32, 32\): name 'y'"),  # noqa: F821
        (torch.zeros_like, "zeros_like returns the same for different images in place 1 of a batch of 4"),
        (torch.Tensor.zero_, "zero_ returns the same for different images"),
        ([flip, torch.rand_like], "rand_like returns the same for different images"),
        (lambda x: x.flip(0), "augment <lambda> returns the same for different images in place 1"),
        (lambda x: x[torch.randperm(len(x))], "augment <lambda> returns the same for different images in place"),
        (lambda x: x[:1].expand_as(x), "augment <lambda> returns the same for different images in place 2"),
        ("wild", "augment is 'wild'; expected 'mild', 'default', 'strong' or 'off'"),
    ],
)
def test_unusable_transforms_are_refused_by_name(data, augment, message):
    with pytest.raises(ConfigError, match=message):
        xf.dataloaders(data, size=32, augment=augment)


def test_a_transform_that_treats_dark_and_bright_alike_is_accepted(data):
    xf.dataloaders(data, size=32, augment=lambda images: (images - 0.5).abs())


def test_without_augmentation_there_are_no_augmented_views(data, tmp_path):
    options = {"arch": "resnet18", "weights": "none", "size": 32, "batch_size": 8, "resamples": 0, "device": "cpu"}
    run = xf.fit(data, augment=False, runs=tmp_path, epochs=2, reuse_frozen="on", **options)
    assert (run.config.train.augment, run.info.frozen_feature_views) == ("off", 1)
    assert "Training images are not augmented." in run.model_card_path.read_text()
    with pytest.raises(ConfigError, match="augment is off, so there are no views"):
        xf.load(run).tta()
    with pytest.raises(ConfigError, match="tta is true, and augment of the run is off"):
        xf.predict(run, data.table["path"][0], tta=True)


def test_a_learner_takes_another_augmentation_than_its_data_loaders(data, plain, tmp_path):
    dls = xf.dataloaders(data, size=32, batch_size=8, workers=0, device="cpu", augment=False)
    learn = xf.learner(dls, weights="none", augment=[flip])
    torch.manual_seed(0)
    train, valid = [denormalize(dl.one_batch()[0].as_subclass(torch.Tensor))[:, :1] for dl in learn.dls]
    torch.testing.assert_close(train, plain[0].flip(3))
    torch.testing.assert_close(valid, plain[1])
    assert xf.save(learn, runs=tmp_path, name="r").config.train.augment == "own:flip"
    again = xf.learner(learn.dls, weights="none", augment="strong").dls.train.after_batch
    assert [t.ranges for t in again.fs if isinstance(t, ChestAugmentation)] == [AUGMENTATIONS["strong"]]
    assert "flip" not in str(again) and not any(isinstance(t, ChestAugmentation) for t in dls.train.after_batch.fs)
    own = xf.learner(dls, weights="none").dls
    assert own is dls
    with pytest.raises(ConfigError, match=r"augment is .storng.; .*Did you mean 'strong'"):
        xf.learner(dls, weights="none", augment="storng")
