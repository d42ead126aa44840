"""Runs are reported here for their numbers; figures are drawn of other runs in the tests of workflows."""

import pytest

from tests.conftest import draw_nothing


@pytest.fixture(scope="module", autouse=True)
def _empty_figures():
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield
