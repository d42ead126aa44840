import numpy as np
import pytest

from tests.reporting.samples import MANY, lines, predictions, shows_all
from xrayfast.metrics.summary import summarize
from xrayfast.reporting.figures.encoding import png_bytes
from xrayfast.reporting.figures.forest import Estimate, ForestRow, forest_figure, group_forest, label_forest


def texts(figure):
    return [text.get_text() for text in (*figure.texts, *(text for axes in figure.axes for text in axes.texts))]


def test_each_row_has_its_value_interval_and_chance_level_in_each_column():
    rows = [
        ForestRow("Edema", "12", [Estimate(0.8, 0.7, 0.9, 0.5), Estimate(0.3, 0.1, 0.6, 0.05)]),
        ForestRow("Hernia", "0", [Estimate(None, guess=0.5), Estimate(None, guess=0.0)]),
    ]
    figure = forest_figure(rows, ("AUROC", "Average precision"))
    auroc, ap = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["AUROC", "Average precision"]
    assert [line.get_xydata().tolist() for line in lines(auroc, "interval")] == [[[0.7, 0], [0.9, 0]]]
    assert [line.get_xydata().tolist() for line in lines(ap, "value")] == [[[0.3, 0]]]
    # The chance level is one line if it is the same for all rows, and otherwise a mark in each row.
    assert [line.get_xdata()[0] for line in lines(auroc, "guessing")] == [0.5]
    assert [line.get_xydata().tolist() for line in lines(ap, "guessing")] == [[[0.05, 0]], [[0.0, 1]]]
    assert {"Edema", "Hernia", "12", "0", "0.800 (0.700 to 0.900)", "not defined"} <= set(texts(figure))
    assert auroc.get_ylim() == (1.5, -0.5)


@pytest.fixture(scope="module")
def summary():
    sample = predictions("multi", MANY, 60)
    return summarize(sample.truth, sample.probability, MANY, "multi", groups=sample.groups, resamples=20)


def test_the_rows_of_labels_have_the_values_of_the_summary(summary):
    rows = label_forest(summary, ("auroc", "ap"))
    assert [row.name for row in rows] == list(MANY)
    for row, of_label in zip(rows, summary["per_label"], strict=True):
        assert [one.value for one in row.estimates] == [of_label["auroc"], of_label["ap"]]
        interval = summary["intervals"]["per_label"][row.name]["auroc"]
        assert (row.estimates[0].low, row.estimates[0].high) == (interval["low"], interval["high"])
        known = of_label["support"] + of_label["negatives"]
        assert row.estimates[1].guess == pytest.approx(of_label["support"] / known)


def test_the_rows_of_groups_have_their_values_and_names_are_not_read_as_tex(summary):
    bad = r"_$\frac{$ ^" + "\u202e\n"
    of_two = {**summary, "value": "F", "positive": "Mass"}
    (auroc, recall) = group_forest([of_two], ("auroc_macro", "recall_macro"))[0].estimates
    row = summary["per_label"][MANY.index("Mass")]
    assert (auroc.value, recall.value) == (row["auroc"], row["recall"])
    assert auroc.low == summary["intervals"]["per_label"]["Mass"]["auroc"]["low"]
    rows = group_forest([{**summary, "value": bad}, {**summary, "value": "M"}], ("auroc_macro", "f1_macro"))
    assert [row.aside for row in rows] == ["60", "60"]
    assert rows[1].estimates[1].value == summary["overall"]["f1_macro"]
    figure = forest_figure(rows, ("AUROC", "F1"))
    assert png_bytes(figure) and shows_all(figure)


def test_rows_of_many_labels_do_not_run_into_each_other(summary):
    figure = forest_figure(label_forest(summary, ("auroc", "ap")), ("AUROC", "AP"))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes += [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    across = np.array([[one.overlaps(two) for one in boxes] for two in boxes]) & ~np.eye(len(boxes), dtype=bool)
    assert not across.any()
