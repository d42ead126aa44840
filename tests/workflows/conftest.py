"""Shared fixtures: reports of runs have figures of one pixel; tests/reporting tests how figures look."""

import pytest

from tests.conftest import add_tiny_vgg, draw_one_pixel
from xrayfast.workflows import interpret


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


@pytest.fixture
def no_page(monkeypatch):
    """Skip the page of `interpret`, which takes longer than the rest of it, in tests of what it computes."""
    monkeypatch.setattr(interpret, "figure_blocks", lambda *_: [])
    monkeypatch.setattr(interpret, "render_run_page", lambda *_: "")
