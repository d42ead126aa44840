"""Shared fixtures: the figures of pages are left empty, because tests/reporting tests the figures."""

import pytest

from tests.conftest import add_tiny_vgg
from xrayfast.workflows import interpret


@pytest.fixture(scope="module", autouse=True)
def _empty_figures(empty_figures):
    """Apply `empty_figures` in every module."""


@pytest.fixture(scope="module")
def tiny_vgg_arch():
    """Register the backbone of `add_tiny_vgg` for a module and yield its name."""
    with pytest.MonkeyPatch.context() as patch:
        yield add_tiny_vgg(patch)


@pytest.fixture
def no_page(monkeypatch):
    """Skip the page of `interpret`, which takes longer than everything else that it does."""
    monkeypatch.setattr(interpret, "figure_blocks", lambda *_: [])
    monkeypatch.setattr(interpret, "render_run_page", lambda *_: "")
