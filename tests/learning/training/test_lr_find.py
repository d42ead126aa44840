"""The display of the result of a range test."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import xrayfast as xf
from xrayfast.errors import ConfigError
from xrayfast.learning.training.lr_find import LRCurve

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
