"""Augmentation and normalisation against fastai's own and torch's."""

import math

import numpy as np
import pytest
import torch
from fastai.vision.core import imagenet_stats
from torch.nn import functional as F

from xrayfast.learning import augment
from xrayfast.learning.augment import denormalize, jitter_lighting, normalize, random_affine, shrink


@pytest.fixture
def images():
    return torch.rand(16, 1, 40, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_the_grid_is_torch_s():
    matrix = torch.randn(3, 2, 3)
    expected = F.affine_grid(matrix, [3, 1, 20, 30], align_corners=True)
    torch.testing.assert_close(augment._grid(matrix, 20, 30), expected, atol=1e-6, rtol=1e-6)


def test_images_that_are_not_drawn_are_untouched(images, monkeypatch):
    monkeypatch.setattr(augment, "P_AFFINE", 0.3)
    out = random_affine(images)
    same = [torch.equal(a, b) for a, b in zip(images, out, strict=True)]
    assert 0 < sum(same) < len(same)
    monkeypatch.setattr(augment, "P_AFFINE", 0.0)
    assert torch.equal(random_affine(images), images)


def test_rotation_is_by_the_angle_about_the_centre(monkeypatch):
    """A bar through the centre, turned: its direction by moments is the drawn angle."""
    image = torch.zeros(8, 1, 101, 101)
    image[:, :, 48:53, 10:91] = 1.0
    monkeypatch.setattr(augment, "P_AFFINE", 1.0)
    monkeypatch.setattr(augment, "MIN_ZOOM", 1.0)
    angles = []
    monkeypatch.setattr(augment, "_draw", lambda *a, real=augment._draw: angles.append(real(*a)) or angles[-1])
    out = random_affine(image)[:, 0].numpy()
    y, x = np.mgrid[-50:51, -50:51]
    for turned, angle in zip(out, angles[0], strict=True):
        direction = 0.5 * math.atan2(2 * (turned * x * y).sum(), (turned * (x**2 - y**2)).sum())
        assert abs(math.degrees(direction)) == pytest.approx(abs(float(angle)), abs=0.05)
        assert abs(float(angle)) <= augment.MAX_ROTATION


def test_zoom_shrinks_an_image_by_the_drawn_factor_and_keeps_it_in_the_frame(monkeypatch):
    image = torch.ones(32, 1, 101, 101)
    monkeypatch.setattr(augment, "P_AFFINE", 1.0)
    monkeypatch.setattr(augment, "MAX_ROTATION", 0.0)
    drawn = []
    monkeypatch.setattr(augment, "_draw", lambda *a, real=augment._draw: drawn.append(real(*a)) or drawn[-1])
    area = random_affine(image).mean(dim=(1, 2, 3))
    torch.testing.assert_close(area, drawn[1] ** 2, atol=0.02, rtol=0)
    assert float(drawn[1].min()) >= augment.MIN_ZOOM


def test_lighting_is_fastai_s_formula(images, monkeypatch):
    drawn = []
    monkeypatch.setattr(augment, "_draw", lambda *a, real=augment._draw: drawn.append(real(*a)) or drawn[-1])
    out = jitter_lighting(images)
    brightness, contrast = drawn[0].view(-1, 1, 1, 1), drawn[1].exp().view(-1, 1, 1, 1)
    # fastai: x = sigmoid((logit(x) + logit(brightness)) * contrast)
    expected = torch.sigmoid((torch.logit(images, 1e-7) + torch.logit(brightness)) * contrast)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


def test_draws_are_uniform_between_their_bounds_as_often_as_asked():
    values = augment._draw(20_000, 0.75, 2.0, 4.0, 7.0)
    chosen = values[values != 7.0]
    assert len(chosen) / len(values) == pytest.approx(0.75, abs=0.02)
    assert float(chosen.mean()) == pytest.approx(3.0, abs=0.02)
    assert 2.0 <= float(chosen.min()) < 2.01 and 3.99 < float(chosen.max()) <= 4.0


def test_normalised_by_imagenet_and_back(images):
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
