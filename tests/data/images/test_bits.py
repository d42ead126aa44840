"""A surround is the lowest or highest value, far from all others."""

import numpy as np
import pytest

from xrayfast.data.images.bits import corner_pixels, find_surround

OTHERS = np.arange(50, 151)  # a range of 100


@pytest.mark.parametrize(
    ("value", "pixels", "at_corners", "expected"),
    [
        (0, 50, 2, True),  # half the range below the others, on two corners
        (0, 50, 1, False),
        (30, 50, 4, False),  # less than a quarter of the range
        (-60, 50, 0, True),  # more than the range
        (0, 3, 4, False),  # on few pixels
        (200, 50, 4, False),  # half the range above the others
        (260, 50, 0, True),
    ],
)
def test_a_surround_is_on_many_pixels_and_far_from_all_others(value, pixels, at_corners, expected):
    values, counts = np.append(OTHERS, value), np.append(np.ones(len(OTHERS), int), pixels)
    order = np.random.default_rng(0).permutation(len(values))
    corners = np.where(np.arange(4) < at_corners, value, 100)
    place = find_surround(values[order], counts[order], corners)
    assert (place is not None) == expected
    assert place is None or values[order][place] == value


def test_the_corners_of_an_image():
    assert corner_pixels(np.arange(12).reshape(3, 4)).tolist() == [0, 3, 8, 11]
