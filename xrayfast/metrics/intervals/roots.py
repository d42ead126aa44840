"""A root finder for functions of one variable, used instead of scipy.optimize, which takes half a second to import."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable


def find_root(function: Callable[[float], float], low: float, high: float, tolerance: float = 1e-12) -> float:
    """Find a root of a continuous function between two points at which it has different signs, up to `tolerance`.

    A function with the same sign at both points, or that is not a number somewhere, is a ValueError.

    The method is inverse quadratic interpolation where it can be trusted, otherwise bisection (Chandrupatla 1997, doi
    10.1016/S0965-9978(96)00051-8).

    >>> round(find_root(lambda x: x * x - 2, 0, 2), 9)
    1.414213562
    """
    new, old = low, high
    at_new, at_old = function(new), function(old)
    # Not by the sign of the product, which underflows to 0 for two small values.
    if not (at_new <= 0 <= at_old or at_old <= 0 <= at_new):
        raise ValueError(f"the function is {at_new:.3g} at {low:.6g} and {at_old:.3g} at {high:.6g}: no change of sign")
    share = 0.5
    while True:
        best = new if abs(at_new) < abs(at_old) else old
        if not at_new or not at_old:
            return best
        least = (2 * sys.float_info.epsilon * abs(best) + tolerance / 2) / abs(old - new)
        if least > 0.5:
            return best
        step = new + min(1 - least, max(least, share)) * (old - new)
        at_step = function(step)
        if math.isnan(at_step):
            raise ValueError(f"the function is not a number at {step:.6g}")
        if (at_step > 0) == (at_new > 0):
            third, at_third = new, at_new
        else:
            third, at_third, old, at_old = old, at_old, new, at_new
        new, at_new = step, at_step
        x, y = (new - old) / (third - old), (at_new - at_old) / (at_third - at_old)
        share = 0.5
        if 1 - math.sqrt(1 - x) < y < math.sqrt(x):
            share = at_new / (at_old - at_new) * at_third / (at_old - at_third)
            share += (third - new) / (old - new) * at_new / (at_third - at_new) * at_old / (at_third - at_old)
