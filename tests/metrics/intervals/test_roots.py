"""Roots beside those that scipy finds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from xrayfast.metrics.intervals.roots import find_root

FUNCTIONS = [
    lambda x: x**3 - 2 * x - 5,
    lambda x: math.exp(x) - 50,
    lambda x: math.tanh(20 * (x - 1.3)),
    lambda x: math.copysign(math.sqrt(abs(x - 2.2)), x - 2.2),
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("ends", [(-3.0, 5.0), (5.0, -3.0)])
def test_roots_are_scipys(function, ends):
    calls = []
    found = find_root(lambda x: calls.append(x) or function(x), *ends)
    assert found == pytest.approx(brentq(function, *ends, xtol=1e-12), abs=2e-12)
    assert len(calls) < 60


@given(root=st.floats(-1e6, 1e6), below=st.floats(1e-3, 1e6), above=st.floats(1e-3, 1e6))
def test_a_root_is_found_wherever_it_is(root, below, above):
    found = find_root(lambda x: math.atan(x - root), root - below, root + above)
    assert found == pytest.approx(root, rel=1e-14, abs=1e-12)


def test_an_end_may_be_the_root_and_equal_signs_have_none():
    assert find_root(lambda x: x, 0, 1) == 0 == find_root(lambda x: x, -1, 0)
    with pytest.raises(ValueError, match="no change of sign"):
        find_root(lambda x: x, 1, 2)
