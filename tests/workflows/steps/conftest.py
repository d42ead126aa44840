"""Figures are left empty: these tests are about numbers."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _empty_figures(empty_figures):
    """Apply `empty_figures` in every module."""
