import numpy as np
import pytest

from tests.report.samples import shows_all
from xrayfast.report.curves import Curve
from xrayfast.report.figures import png_bytes
from xrayfast.report.probabilities import BINS, NetBenefit, decision_curve_figure, histogram_figure


def test_the_histogram_has_the_shares_of_both_classes_and_leaves_masked_cells_out():
    truth, score = np.array([1, 1, 1, 1, 0, 0, -1, -1]), np.array([0.97, 0.96, 0.52, 1.0, 0.01, 0.52, 0.3, 0.3])
    figure = histogram_figure([Curve("a", truth, score, threshold=0.4), Curve("none", np.full(8, -1), score)])
    (axes, empty) = figure.axes
    shares = {one.get_gid(): one.get_data().values for one in axes.patches if one.get_gid()}
    assert shares["with"][-1] == pytest.approx(0.75) and shares["with"][10] == pytest.approx(0.25)
    assert shares["without"][0] == shares["without"][10] == pytest.approx(0.5)
    assert all(len(one) == BINS and one.sum() == pytest.approx(1) for one in shares.values())
    assert [line.get_xdata()[0] for line in axes.lines if line.get_gid() == "threshold"] == [0.4]
    assert "masked on all\nimages" in [text.get_text() for text in empty.texts]


def test_the_decision_curve_is_drawn_beside_all_and_none():
    thresholds = [0.1, 0.5, 0.9]
    curve = NetBenefit("$x_$", thresholds, np.array([0.4, 0.3, 0.1]), np.array([0.44, 0.0, -4.0]))
    figure = decision_curve_figure([curve])
    drawn = {line.get_gid(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert drawn["model"] == [[0.1, 0.4], [0.5, 0.3], [0.9, 0.1]] and drawn["all"][0] == [0.1, 0.44]
    assert drawn["guessing"][0][1] == 0
    # The steep fall of calling all positive does not flatten the rest.
    assert figure.axes[0].get_ylim()[0] > -0.2
    assert png_bytes(figure) and shows_all(figure)
