"""The figure of images with their predictions."""

import numpy as np
from matplotlib.axis import Tick

from tests.reporting.figures.test_training_curves import history
from tests.reporting.samples import shows_all, texts
from xrayfast.reporting.case import Case
from xrayfast.reporting.figures import encoding, top_losses, training_curves


def test_text_from_strangers_is_not_read_as_tex():
    bad = r"$\frac{$ _^ \udcff" + "\udcff\n\x00\u202e"
    case = Case(bad, bad, bad, 0.5, 1.0, None)
    for figure in (
        top_losses.top_losses_figure([case]),
        training_curves.loss_and_metric_curves(history().assign(phase="$x$ $")),
    ):
        assert encoding.png_bytes(figure) and shows_all(figure)


def test_top_losses_name_file_labels_and_loss():
    pixels = np.zeros((30, 20), np.uint8)
    cases = [
        Case("a.png", "normal", "covid-19", 0.93, 2.5, pixels),
        Case("b.png", "x", "", float("nan"), 1.0, None),
    ]
    first, second = top_losses.top_losses_figure(cases).axes
    assert "\n".join(texts(first)) == "a.png\nActual: normal\nPredicted: covid-19 (0.93)\nLoss: 2.500"
    assert len(first.images) == 1 and not second.images
    assert not first.findobj(Tick)  # a tenth of the time of a report
    assert "can no longer" in "\n".join(texts(second))
    assert "Predicted: no label\n" in "\n".join(texts(second))
    assert "No predictions" in top_losses.top_losses_figure([]).texts[0].get_text()


def test_with_many_predicted_labels_whole_names_are_shown_and_the_rest_is_counted():
    names = ["Cardiomegaly 0.50", "Pleural_Thickening 0.31", *(f"Label{i} 0.{i}1" for i in range(1, 8))]
    case = Case("a.png", "Effusion, Mass", ", ".join(names), float("nan"), 1.0, None)
    shown = texts(top_losses.top_losses_figure([case]).axes[0])[-1]
    assert shown.splitlines() == [
        "Actual: Effusion, Mass",
        "Predicted: Cardiomegaly 0.50,",
        "Pleural_Thickening 0.31, … 7 more",
        "Loss: 1.000",
    ]


def test_top_losses_wrap_into_rows():
    cases = [Case("a.png", "a", "b", 0.9, 1.0, None)] * 5
    positions = {axes.get_position().y0 for axes in top_losses.top_losses_figure(cases, columns=2).axes}
    assert len(positions) == 3
