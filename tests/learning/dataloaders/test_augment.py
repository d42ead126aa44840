"""Augmentation and normalization compared with fastai's and torch's."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.vision.core import imagenet_stats
from torch.nn import functional as F

from xrayfast.config import AUGMENTATIONS
from xrayfast.learning.dataloaders import augment
from xrayfast.learning.dataloaders.augment import (
    DEFAULT,
    denormalize,
    jitter_lighting,
    normalize,
    random_affine,
    shrink,
)


@pytest.fixture
def images():
    return torch.rand(16, 1, 40, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


each_name = pytest.mark.parametrize("ranges", AUGMENTATIONS.values(), ids=AUGMENTATIONS)


def test_the_grid_equals_torchs():
    matrix = torch.randn(3, 2, 3)
    expected = F.affine_grid(matrix, [3, 1, 20, 30], align_corners=True)
    torch.testing.assert_close(augment._grid(matrix, 20, 30), expected, atol=1e-6, rtol=1e-6)


def test_images_that_are_not_drawn_are_unchanged(images):
    out = random_affine(images, torch.rand(6, 16), replace(DEFAULT, p_affine=0.3))
    same = [torch.equal(a, b) for a, b in zip(images, out, strict=True)]
    assert 0 < sum(same) < len(same)
    assert torch.equal(random_affine(images, torch.rand(6, 16), replace(DEFAULT, p_affine=0.0)), images)


@each_name
def test_rotation_is_by_the_angle_about_the_center(ranges, monkeypatch):
    """A bar through the center is rotated: its direction, computed from moments, is the drawn angle."""
    image = torch.zeros(8, 1, 101, 101)
    image[:, :, 48:53, 10:91] = 1.0
    angles = []
    monkeypatch.setattr(augment, "_scale", lambda *a, real=augment._scale: angles.append(real(*a)) or angles[-1])
    out = random_affine(image, torch.rand(6, 8), replace(ranges, p_affine=1.0, zoom=1.0))[:, 0].numpy()
    y, x = np.mgrid[-50:51, -50:51]
    for turned, angle in zip(out, angles[0], strict=True):
        direction = 0.5 * math.atan2(2 * (turned * x * y).sum(), (turned * (x**2 - y**2)).sum())
        assert abs(math.degrees(direction)) == pytest.approx(abs(float(angle)), abs=0.05)
        assert abs(float(angle)) <= ranges.rotation


@each_name
def test_zoom_shrinks_an_image_by_the_drawn_factor_and_keeps_it_in_the_frame(ranges, monkeypatch):
    image = torch.ones(32, 1, 101, 101)
    drawn = []
    monkeypatch.setattr(augment, "_scale", lambda *a, real=augment._scale: drawn.append(real(*a)) or drawn[-1])
    area = random_affine(image, torch.rand(6, 32), replace(ranges, p_affine=1.0, rotation=0.0)).mean(dim=(1, 2, 3))
    torch.testing.assert_close(area, drawn[1] ** 2, atol=0.02, rtol=0)
    assert float(drawn[1].min()) >= ranges.zoom


def test_lighting_follows_fastais_formula(images, monkeypatch):
    drawn = []
    monkeypatch.setattr(augment, "_scale", lambda *a, real=augment._scale: drawn.append(real(*a)) or drawn[-1])
    out = jitter_lighting(images, torch.rand(4, 16))
    brightness, contrast = drawn[0].view(-1, 1, 1, 1), drawn[1].exp().view(-1, 1, 1, 1)
    # fastai: x = sigmoid((logit(x) + logit(brightness)) * contrast)
    expected = torch.sigmoid((torch.logit(images, 1e-7) + torch.logit(brightness)) * contrast)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


def test_draws_are_uniform_between_their_bounds_as_often_as_asked():
    values = augment._scale(torch.rand(2, 20_000), 0.75, 2.0, 4.0, 7.0)
    chosen = values[values != 7.0]
    assert len(chosen) / len(values) == pytest.approx(0.75, abs=0.02)
    assert float(chosen.mean()) == pytest.approx(3.0, abs=0.02)
    assert 2.0 <= float(chosen.min()) < 2.01 and 3.99 < float(chosen.max()) <= 4.0


def test_draws_of_a_view_are_uniform_and_those_of_its_image(images):
    images = (images * 255).round() / 255
    draws = [augment.draws_of_view(images, seed, view) for seed in range(20) for view in range(10)]
    values = torch.stack(draws).flatten()
    assert 0 <= float(values.min()) < 0.001 and 0.999 < float(values.max()) < 1
    counts = torch.histc(values, 20, 0, 1) / len(values)
    torch.testing.assert_close(counts, torch.full((20,), 0.05), atol=0.005, rtol=0)
    assert len(values.unique()) > 0.99 * len(values), "each seed, view, image and row has its own"
    found = augment.draws_of_view(images[5:6], 7, 3)
    assert torch.equal(found, augment.draws_of_view(images.flip(0), 7, 3)[:, 10:11])
    # SHAKE-128 of the pixels and "7 3", in 24-bit words
    content = (images[5] * 255).numpy().round().astype(np.uint8).tobytes() + b"7 3"
    words = np.frombuffer(hashlib.shake_128(content).digest(40), np.uint32) // 256
    np.testing.assert_array_equal(found[:, 0], words / 2**24)
    changed = images[5:6].clone()
    changed[0, 0, 0, 0] = 1 - changed[0, 0, 0, 0]
    assert not torch.equal(augment.draws_of_view(changed, 7, 3), found)


def test_imagenet_normalization_is_reversible(images):
    out = normalize(images)
    mean, std = (np.array(values)[None, :, None, None] for values in imagenet_stats)
    np.testing.assert_allclose(out.numpy(), (images.numpy() - mean) / std, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(denormalize(out).numpy(), np.broadcast_to(images, (16, 3, 40, 40)), atol=1e-6)


def test_shrinking_averages(images):
    assert shrink(images, None) is images and shrink(images, 40) is images
    out = shrink(images, 20)
    assert tuple(out.shape) == (16, 1, 20, 20)
    np.testing.assert_allclose(out.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=0.01)
    assert float(out.std()) < 0.75 * float(images.std()), "noise of single pixels is smoothed, not sampled"


def test_an_image_that_is_rotated_or_scaled_keeps_its_place_in_the_batch():
    values = torch.arange(1, 9) / 10
    draws = torch.rand(augment.AFFINE_DRAWS, 8)
    draws[1] = draws[3] = torch.tensor([0.999, 0.0] * 4)  # every other image
    draws[2] = 0.0
    out = augment.random_affine(values.view(8, 1, 1, 1).expand(8, 1, 20, 20).contiguous(), draws)
    torch.testing.assert_close(out[:, 0, 10, 10], values)
    changed = (out != values.view(8, 1, 1, 1)).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True] * 4


def test_mixup_is_the_weighted_mean(images):
    share = torch.tensor([0.0, 1.0, 0.25, 0.5] * 4)
    expected = share.numpy()[:, None, None, None] * images.numpy()
    expected += (1 - share.numpy())[:, None, None, None] * images.flip(0).numpy()
    np.testing.assert_allclose(augment.mixup(images, images.flip(0), share), expected, atol=1e-6)


def test_cutmix_pastes_one_box_and_its_share_is_what_was_pasted():
    share, draws = torch.rand(64), torch.rand(2, 64)
    share[:2] = torch.tensor([0.0, 1.0])
    mixed, own = augment.cutmix(torch.zeros(64, 3, 30, 41), torch.ones(64, 3, 30, 41), share, draws)
    torch.testing.assert_close(1 - mixed.mean(dim=(1, 2, 3)), own, atol=1e-6, rtol=0)
    assert (own >= share - 0.05).all()  # the part of the box beyond the edges is not pasted
    assert own[1] == 1 and mixed[1].sum() == 0
    for pixels, (row, column) in zip(mixed, draws.T, strict=True):
        inside = pixels[0].bool()
        assert torch.equal(pixels[0].bool(), inside.any(1)[:, None] & inside.any(0)[None, :])  # a box, in each channel
        assert torch.equal(pixels[0], pixels[2])
        assert not inside.any() or inside[int(row * 30), int(column * 41)]


def test_cutmix_leaves_as_much_of_an_image_as_the_paper_s_box_does():
    """The sides of the box are sqrt(1 - share), cut off at the edges, up to whole pixels."""
    share, draws, side = torch.rand(500), torch.rand(2, 500), 100
    _, own = augment.cutmix(*torch.zeros(2, 500, 1, side, side), share, draws)
    half = np.sqrt(1 - share.double().numpy()) / 2
    lengths = np.clip(draws.numpy() + half, 0, 1) - np.clip(draws.numpy() - half, 0, 1)
    error = own.numpy() - (1 - lengths.prod(axis=0))
    assert np.abs(error).max() < 3 / side and abs(error.mean()) < 0.3 / side
