"""The features of one image."""

import numpy as np
import pytest
from PIL import Image

from tests.audit.sets import SIDE, Shown, cropped, film, jpeg, manifest, resized, shown
from xrayfast.audit.features import THUMB, compute_features
from xrayfast.data.images.reader import filled_area, fit_square


@pytest.mark.parametrize(
    ("width", "height"), [(100, 100), (300, 200), (200, 300), (1000, 3), (3, 1000), (1, 1), (64, 63), (127, 128)]
)
@pytest.mark.parametrize("side", [64, 96, 225])
def test_the_padding_that_fit_square_adds_is_removed(width, height, side):
    square = fit_square(np.full((height, width), 200, np.uint8), side)
    inner = square[filled_area(width, height, side)]
    assert inner.min() == 200
    assert inner.size == (square == 200).sum()


def features(*data_dir, **options):
    data = manifest(np.zeros((len(data_dir), 1)))
    return compute_features(data.table["path"].tolist(), np.arange(len(data_dir)), shown(data, data_dir, **options))


def test_the_aspect_does_not_change_the_thumbnail_nor_the_padding_the_brightness():
    square = film(0)
    found = features(square, resized(square, 1, 2), resized(square, 2, 1))
    assert found.thumbs.shape == (3, THUMB, THUMB)
    assert np.abs(found.thumbs.astype(int) - found.thumbs[0]).mean() < 2
    np.testing.assert_allclose(found.brightness, found.brightness[[0]].repeat(3, 0), atol=0.03)
    np.testing.assert_allclose(found.border, found.border[[0]].repeat(3, 0), atol=0.08)


def test_brightness_equals_numpys():
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    found = features(pixels)
    mean, deviation, *percentiles = found.brightness[0]
    assert mean == pytest.approx(pixels.mean() / 255, abs=1e-5)
    assert deviation == pytest.approx(pixels.std() / 255, abs=1e-5)
    wanted = np.percentile(pixels, [5, 25, 50, 75, 95], method="inverted_cdf") / 255
    np.testing.assert_allclose(percentiles, wanted, atol=1 / 255)
    np.testing.assert_allclose(found.histogram[0], np.histogram(pixels, 16, (0, 256))[0] / pixels.size, atol=1e-6)


def test_the_border_distinguishes_the_sides():
    pixels = np.full((SIDE, SIDE), 255, np.uint8)
    pixels[:, -10:] = 0
    mean, black = features(pixels).border.reshape(4, 2).T
    assert mean[1] == 0
    assert black[1] == 1
    assert mean[3] == 1
    assert black[3] == 0
    assert 0 < black[0] == black[2] < 0.2


@pytest.mark.parametrize("lines", [1, 2])
def test_an_image_of_one_or_two_lines_has_nothing_inside_its_margins(lines):
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[40 : 40 + lines, 10:90] = np.random.default_rng(0).integers(100, 255, (lines, 80))
    assert features(pixels, pixels.T).thumb_rows.tolist() == [[0, 0], [1, 1]]


def test_each_image_is_loaded_once_and_only_those_asked_for():
    data = manifest(np.zeros((4, 1)))
    images = shown(data, [film(i) for i in range(4)])
    told = []
    found = compute_features(
        data.table["path"].tolist(),
        np.array([1, 3]),
        images,
        lambda stage, done, total: told.append((stage, done, total)),
    )
    assert images.looked == ["/films/i0001.png", "/films/i0003.png"]
    assert found.rows.tolist() == [1, 3]
    assert told == [("inspecting", 2, 2)]


def test_without_images_there_are_no_features():
    found = compute_features([], np.zeros(0, np.intp), Shown({}))
    assert len(found) == 0
    assert found.thumbs.shape == (0, THUMB, THUMB)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_the_second_thumbnail_has_no_margins(value):
    square = film(0)
    framed = jpeg(np.pad(square, ((0, 20), (10, 30)), constant_values=value), 85)
    found = features(square, framed, np.full((SIDE, SIDE), value, np.uint8), np.pad(square, SIDE))
    assert found.thumb_rows.tolist() == [[0, 0], [1, 4], [2, 2], [3, 3]]  # half of the side is left at least
    assert np.abs(found.thumbs[4].astype(int) - found.thumbs[0]).mean() < 5
    assert np.abs(found.thumbs[1].astype(int) - found.thumbs[0]).mean() > 20


def test_a_thumbnail_is_an_area_mean():
    """Nearest-neighbor sampling would give two sizes of one image different thumbnails."""
    pixels = film(1, size=256)
    wanted = np.asarray(Image.fromarray(pixels).resize((THUMB, THUMB), Image.Resampling.BOX))
    for side in (96, 224):
        assert np.abs(features(pixels, side=side).thumbs[0].astype(int) - wanted).mean() < 3
    assert np.abs(features(cropped(pixels, left=0.2)).thumbs[0].astype(int) - wanted).mean() > 10
