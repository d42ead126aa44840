"""The suggestions of a range test, and the display of its result."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import xrayfast as xf
from xrayfast.errors import ConfigError, TrainingError
from xrayfast.learning.fastai_api import SuggestionMethod
from xrayfast.learning.training.lr_find import METHODS, LRCurve, _suggestions

CURVE = LRCurve(np.array([1e-4, 1e-3, 1e-2]), np.array([1.0, 0.5, 2.0]), {"valley": 1e-3, "steep": None})


def test_a_curve_shows_itself_and_its_suggestions():
    assert repr(CURVE) == "LRCurve(3 steps; valley 0.001, steep none)"
    assert CURVE._repr_html_().count('<img class="plot') == 1 and ">0.001<" in CURVE._repr_html_()


def test_a_curve_is_drawn_on_given_axes_too():
    axes = Figure().add_subplot()
    assert CURVE.plot(ax=axes) is axes
    for one, other in zip(axes.lines, CURVE.plot().axes[0].lines, strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_fewer_steps_than_a_range_test_needs_are_an_error():
    with pytest.raises(ConfigError, match="steps is 5"):
        xf.find_lr(steps=5)


def test_a_curve_is_written_to_a_path_or_a_text(tmp_path):
    for path in (tmp_path / "a.csv", str(tmp_path / "b.csv")):
        CURVE.to_csv(path)
        assert pd.read_csv(path)["lr"].tolist() == [1e-4, 1e-3, 1e-2]
    with pytest.raises(ConfigError, match="path is None"):
        CURVE.to_csv(None)


RATES = torch.logspace(-7, 1, 100, dtype=torch.float64)
STEPS = torch.arange(100, dtype=torch.float64)
FALL = 3 - torch.tanh((STEPS - 50) / 12) + 0.002 * (STEPS - 75).clamp(min=0) ** 2
"""The losses of 100 steps: they fall fastest at step 50, and rise from step 75 on."""


@pytest.mark.parametrize("diverged_at", [None, 97, 90])
def test_suggestions_are_fastai_s_without_the_ends_and_from_the_first_loss_that_is_not_finite(diverged_at):
    losses = FALL.clone()
    losses[:10], losses[95:] = 0.1 * (10 - STEPS[:10]), 0.0  # the lowest and the steepest, which are left out
    if diverged_at:
        losses[diverged_at:] = torch.inf if diverged_at == 97 else torch.nan
    end = 90 if diverged_at == 90 else 95
    found, rates, losses = _suggestions(RATES, losses, 100), RATES[10:end], losses[10:end]
    for method in (SuggestionMethod.Valley, SuggestionMethod.Slide, SuggestionMethod.Minimum):
        assert found[method.__name__] == float(method(rates, losses, 100)[0])
    assert found["minimum"] == pytest.approx(float(RATES[10 + losses.argmin()]) / 10)
    assert found["steep"] == float(RATES[50])
    assert tuple(found) == METHODS


def test_the_steepest_rate_is_that_of_a_tenth_of_the_curve_and_not_of_one_noisy_step():
    losses = FALL.clone()
    losses[30] += 0.2  # the steepest single step is that after it
    assert _suggestions(RATES, losses, 100)["steep"] == float(RATES[50])


@pytest.mark.parametrize(
    "losses",
    [(STEPS - 50) ** 3 / 1e4 + STEPS, torch.exp(-STEPS / 10), -torch.exp(STEPS / 10)],
    ids=["rises", "falls first", "falls last"],
)
def test_a_curve_that_is_steepest_at_an_end_or_never_falls_has_no_steepest_rate(losses):
    assert _suggestions(RATES, losses, 100)["steep"] is None


def test_a_curve_that_diverges_at_once_has_no_suggestions():
    losses = torch.full_like(STEPS, torch.nan)
    assert _suggestions(RATES, losses, 100) == dict.fromkeys(METHODS)
    with pytest.raises(TrainingError, match="gave no usable curve"):
        _ = LRCurve(RATES.numpy(), losses.numpy(), dict.fromkeys(METHODS)).best
