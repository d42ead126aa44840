"""Runs are reported here many times over; how figures look is tested in tests/reporting."""

import pytest

from tests.conftest import add_tiny_vgg, draw_one_pixel


@pytest.fixture(scope="module", autouse=True)
def _figures_of_one_pixel():
    with pytest.MonkeyPatch.context() as patch:
        draw_one_pixel(patch)
        yield


@pytest.fixture(scope="module")
def tiny_vgg_arch():
    """See `add_tiny_vgg`."""
    with pytest.MonkeyPatch.context() as patch:
        yield add_tiny_vgg(patch)
