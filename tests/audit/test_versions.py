"""Versions of thumbnails: without margins, upright, not inverted, mirrored."""

import itertools

import numpy as np
import pytest

from tests.audit.sets import film
from xrayfast.audit.features import thumbnail
from xrayfast.audit.versions import BARE, CHANGES, INVERTED, Versions, find_versions


def changed(pixels, turns, *, inverted, mirrored):
    pixels = np.rot90(pixels, turns)
    pixels = 255 - pixels if inverted else pixels
    return np.fliplr(pixels) if mirrored else pixels


WAYS = list(itertools.product(range(4), (False, True)))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
def test_differences_are_those_between_the_images_of_equal_versions(first, second, mirrored):
    a = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    same = changed(a, first[0], inverted=first[1], mirrored=False)
    # The second image, of which the second version, mirrored or not, equals the first version of the first.
    b = changed(changed(same, 0, inverted=False, mirrored=mirrored), -second[0], inverted=second[1], mirrored=False)
    changes = np.array([2 * turns + INVERTED * inverted for turns, inverted in (first, second)])
    versions = Versions(np.stack([a, b]), np.arange(2), changes, np.arange(2))
    shown = versions.pixels(np.arange(2), np.array([False, mirrored]))
    np.testing.assert_array_equal(shown[0], same)
    np.testing.assert_array_equal(shown[1], same)
    bits = int(versions.differences(np.array([[0, 1]]), np.array([mirrored]))[0])
    names = [name for bit, name in CHANGES.items() if bits & bit]
    ways = [
        way for way in itertools.product(range(4), (False, True), (False, True))
        if (changed(a, way[0], inverted=way[1], mirrored=way[2]) == b).all()
    ]  # fmt: skip
    ((turns, inverted, is_mirrored),) = ways
    turned = {0: [], 1: ["rotated by 90°"], 2: ["rotated by 180°"], 3: ["rotated by 90°"]}[turns]
    assert names == ["mirrored"] * is_mirrored + turned + ["inverted"] * inverted


def test_images_without_margins_or_not_upright_have_more_versions():
    upright, other = (thumbnail(film(i, size=256)) for i in range(2))
    thumbs = np.stack([upright, np.rot90(other), 255 - other, other])
    versions = find_versions(thumbs, np.array([[0, 3], [1, 1], [2, 2]]))
    assert versions.members.tolist() == [0, 1, 2, 0, 1, 2]
    assert (versions.changes > 0).tolist() == [False] * 3 + [True] * 3 and versions.changes[3] == BARE
    for shown in versions.pixels(np.arange(3, 6)):
        np.testing.assert_array_equal(shown, other)
