"""Draw no real figures here: tests/reporting tests figures, and tests/workflows those of runs."""

import pytest

from tests.conftest import draw_nothing, draw_one_pixel

DRAWN = {
    "test_the_main_commands_work_as_documented": lambda monkeypatch: None,  # as a user runs it
    "test_figures_are_written_only_in_the_requested_formats": draw_one_pixel,
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
