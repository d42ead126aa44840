"""Runs are reported here many times over; figures are tested in tests/reporting, those of runs in tests/workflows."""

import pytest

from tests.conftest import draw_nothing, draw_one_pixel

DRAWN = {
    "test_the_main_job_as_written": lambda monkeypatch: None,  # as a person goes it
    "test_figures_are_written_in_the_formats_asked_for_alone": draw_one_pixel,
}


@pytest.fixture(autouse=True)
def _figures(request, monkeypatch):
    """Empty ones, but for tests that are about them."""
    DRAWN.get(request.function.__name__, draw_nothing)(monkeypatch)


@pytest.fixture
def at(tmp_path, monkeypatch):
    """A new working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
