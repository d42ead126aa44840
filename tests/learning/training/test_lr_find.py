"""The suggestions of the range test."""

import numpy as np
import torch

from xrayfast.learning.training.lr_find import _suggestions

LRS = torch.from_numpy(np.geomspace(1e-7, 10, 100))


def test_steep_is_where_the_curve_falls_and_not_a_noisy_step_at_its_beginning():
    """A fall of 1 around 1e-3, a step of 0.2 at 1e-6 that the next loss takes back, an explosion above 1."""
    losses = 2 - 1 / (1 + (1e-3 / LRS) ** 2) + 5 * (LRS > 1)
    losses[13] -= 0.2
    found = _suggestions(LRS, losses, 100)
    assert 4e-4 < found["steep"] < 2e-3
    assert 1e-4 < found["valley"] < 1


def test_steep_is_none_where_the_curve_is_steepest_at_an_end_or_does_not_fall():
    falling_at_once = 1 / (1 + LRS / 1e-7)
    assert _suggestions(LRS, falling_at_once, 100)["steep"] is None
    assert _suggestions(LRS, torch.linspace(1, 2, 100).double(), 100)["steep"] is None
    assert _suggestions(LRS[:12], falling_at_once[:12], 100)["steep"] is None
