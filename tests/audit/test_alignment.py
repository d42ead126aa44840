"""The similarity of two thumbnails: pure functions."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tests.audit.sets import film, gamma
from xrayfast.audit.alignment import aligned_correlation, halve, normalize_contrast, warp
from xrayfast.audit.features import thumbnail


def thumbs(*data_dir):
    return np.stack([thumbnail(one) for one in data_dir])


def test_the_same_image_is_alike_and_noise_is_not():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, 40, 40)).astype(np.uint8)
    data_dir = thumbs(*(film(i) for i in range(4)))
    np.testing.assert_allclose(aligned_correlation(data_dir, data_dir)[0], 1, atol=1e-3)
    assert aligned_correlation(noise, noise[[1, 2, 3, 0]])[0].max() < 0.5
    assert aligned_correlation(data_dir, noise)[0].max() < 0.5


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_images_are_like_no_other(value):
    flat = np.full((1, 40, 40), value, np.uint8)
    assert aligned_correlation(flat, flat)[0][0] < 0.5
    assert aligned_correlation(flat, thumbs(film(0)))[0][0] < 0.5


def test_the_inverted_image_is_not_alike():
    one = thumbs(film(0))
    assert aligned_correlation(one, 255 - one)[0][0] < 0


def test_similarity_hardly_depends_on_the_order_of_the_pair():
    a, b = thumbs(*(film(i) for i in range(6))), thumbs(*(gamma(film(i, 1), 1.3) for i in range(6)))
    here, there = aligned_correlation(a, b)[0], aligned_correlation(b, a)[0]
    near = np.maximum(here, there) > 0.9  # below 0.9 the coarse search may rule out either order
    assert near.sum() >= 3
    np.testing.assert_allclose(here[near], there[near], atol=0.03)


def test_pairs_do_not_influence_each_other():
    a, b = thumbs(*(film(i) for i in range(9))), thumbs(*(film(i, 1) for i in range(9)))
    together, _ = aligned_correlation(np.tile(a, (20, 1, 1)), np.tile(b, (20, 1, 1)))
    np.testing.assert_allclose(together, np.tile(aligned_correlation(a, b)[0], 20), atol=1e-4)
    assert aligned_correlation(a[:0], b[:0])[0].shape == (0,)


def test_structure_does_not_depend_on_brightness_and_contrast():
    one = thumbs(film(0)).astype(np.float32)
    np.testing.assert_allclose(normalize_contrast(one, 2.0), normalize_contrast(one + 30, 2.0), atol=1e-3)
    wanted = one - gaussian_filter(one, (0, 2, 2), mode="nearest")
    inside = np.s_[:, 10:-10, 10:-10]
    assert np.corrcoef(normalize_contrast(one, 2.0)[inside].ravel(), wanted[inside].ravel())[0, 1] > 0.8


def test_halved_and_moved():
    one = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    np.testing.assert_array_equal(halve(one)[0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_allclose(warp(one, np.zeros((1, 4), np.float32)), one)
    # 0.5 of half the side is one pixel of four: each value comes from the pixel to its right.
    np.testing.assert_allclose(warp(one, np.array([[0, 0.5, 0, 0]], np.float32))[0, :, :3], one[0, :, 1:])
