"""Runs are reported here many times over; how figures look is tested in tests/reporting."""

import pytest


@pytest.fixture(autouse=True)
def _figures_of_one_pixel(request):
    """But for the one test of the whole way, as a person goes it."""
    if request.function.__name__ != "test_the_main_job_as_written":
        request.getfixturevalue("quick")


@pytest.fixture
def at(tmp_path, monkeypatch):
    """A new working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
