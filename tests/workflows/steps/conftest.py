"""Figures are left empty: these tests are about numbers."""

import pytest

from tests.conftest import draw_nothing


@pytest.fixture(scope="module", autouse=True)
def _empty_figures():
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield
