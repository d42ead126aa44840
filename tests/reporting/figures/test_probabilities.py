import numpy as np
import pytest

from xrayfast.reporting.figures.curves import Curve
from xrayfast.reporting.figures.probabilities import BINS, histogram_figure


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
