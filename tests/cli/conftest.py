"""Draw no real figures here: tests/reporting tests figures, and tests/workflows those of runs."""

import pytest

from tests.conftest import draw_nothing, draw_one_pixel

DRAWN = {
    "test_the_main_job_as_written": lambda monkeypatch: None,  # as a user runs it
    "test_figures_are_written_in_the_formats_asked_for_alone": draw_one_pixel,
}


@pytest.fixture(autouse=True)
def _figures(request, monkeypatch):
    """Replace figures with empty ones, except in tests about figures."""
    DRAWN.get(request.function.__name__, draw_nothing)(monkeypatch)


@pytest.fixture
def at(tmp_path, monkeypatch):
    """Change into a new working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
