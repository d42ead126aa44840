"""Roots compared with scipy's."""

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


SHAPES = [
    lambda x: x,
    lambda x: x**9,  # flat at the root
    lambda x: math.copysign(abs(x) ** 0.1, x),  # steep there
    lambda x: 1.0 if x > 0 else -1e-300,  # a jump between values of very different size
    lambda x: math.expm1(min(x, 700.0)),
    lambda x: x + math.sin(3 * x) / 4,
    lambda x: math.copysign(math.inf, x) if abs(x) > 1 else x,
]


@given(
    shape=st.sampled_from(SHAPES), root=st.floats(-30, 30), below=st.floats(1e-9, 1e3), above=st.floats(1e-9, 1e3),
    scale=st.sampled_from([1e-250, 1e-3, 1.0, 1e250]),
)  # fmt: skip
def test_roots_of_functions_of_any_shape_and_scale_equal_scipys_and_the_search_ends(shape, root, below, above, scale):
    calls = []

    def function(x):
        calls.append(x)
        return scale * shape(x - root)

    found = find_root(function, root - below, root + above)
    assert len(calls) < 150
    assert min(calls) >= root - below and max(calls) <= root + above
    expected = brentq(function, root - below, root + above, xtol=1e-12, maxiter=1000)
    either_side = function(found - 4e-12) <= 0 <= function(found + 4e-12)
    assert function(found) == 0 or either_side or found == pytest.approx(expected, abs=4e-12)


def test_an_end_may_be_the_root_and_equal_signs_or_nan_have_none():
    assert find_root(lambda x: x, 0, 1) == 0 == find_root(lambda x: x, -1, 0)
    assert find_root(lambda x: x, 0, 0) == 0
    for function in (lambda x: x, lambda x: 1e-200 * x, lambda x: -1e-200 * x, lambda x: math.nan):
        with pytest.raises(ValueError, match="no change of sign"):
            find_root(function, 1, 2)
    with pytest.raises(ValueError, match="no change of sign"):
        find_root(lambda x: x if x < 1 else math.nan, -1, 2)
    with pytest.raises(ValueError, match="not a number at"):
        find_root(lambda x: x if abs(x) == 1 else math.nan, -1, 1)
