import numpy as np
import pytest

from tests.reporting.samples import MANY, noise, predictions, shows_all
from xrayfast.metrics.summary import summarize
from xrayfast.reporting.case import Case
from xrayfast.reporting.figures.encoding import png_bytes
from xrayfast.reporting.figures.headline import headline_figure

BAD = r"_$\frac{$ ^" + "\u202e"


def drawn(task, labels, n=80, examples=(), **settings):
    sample = predictions(task, labels, n)
    summary = summarize(sample.truth, sample.probability, labels, task, groups=sample.groups, resamples=20, **settings)
    return headline_figure(summary, task, sample, examples), summary


@pytest.mark.parametrize(("labels", "curves"), [(("covid", BAD), 1), (("a", "b", "c"), 3), (tuple("abcdefg"), 5)])
def test_single_label_has_roc_confusion_and_calibration(labels, curves):
    settings = {"positive": "covid"} if len(labels) == 2 else {}
    figure, summary = drawn("single", labels, **settings)
    roc, confusion, calibration = figure.axes
    assert len([line for line in roc.lines if line.get_gid() == "curve"]) == curves
    assert len([one for one in roc.collections if one.get_gid() == "band"]) == (curves if len(labels) < 6 else 0)
    counts = [text.get_text().split("\n")[0] for text in confusion.texts]
    assert len(counts) == len(labels) ** 2
    if len(labels) < 6:
        assert counts == [str(count) for row in summary["confusion"] for count in row]
    shown = calibration.get_title("left")
    assert shown == f"Calibration: {'covid' if len(labels) == 2 else 'most likely class'}"
    assert png_bytes(figure) and shows_all(figure)


def test_multi_label_has_a_forest_plot_and_the_calibration_of_all_labels():
    figure, _ = drawn("multi", MANY)
    assert [axes.get_title("left") for axes in figure.axes] == [
        *("AUROC", "Average precision"),
        "Calibration: all labels together",
    ]
    assert {text.get_text() for text in figure.texts} >= set(MANY)


def test_with_many_labels_the_most_frequent_are_shown_with_examples_below():
    labels = (*MANY, *(f"label {i}" for i in range(10)))
    examples = [Case("a.png", BAD, "", 0.9, 1.0, noise((60, 50))), Case("b.png", "a", "b", 0.9, 1.0, None)]
    figure, summary = drawn("multi", labels, examples=examples)
    shown = {text.get_text() for text in figure.texts} & set(labels)
    support = {row["label"]: row["support"] for row in summary["per_label"]}
    assert len(shown) == 20
    assert min(support[label] for label in shown) >= max(support[label] for label in set(labels) - shown)
    assert len(figure.axes) == 5 and len(figure.axes[3].images) == 1
    assert np.all([axes.get_position().y0 >= 0 for axes in figure.axes])
    assert shows_all(figure)
