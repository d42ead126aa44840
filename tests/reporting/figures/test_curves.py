import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from tests.reporting.samples import MANY, lines, predictions, shows_all
from xrayfast.metrics.operating_points.decision_curve import net_benefits
from xrayfast.metrics.reliability import reliability
from xrayfast.reporting.figures.curves import (
    PRECISION_RECALL,
    ROC,
    TOGETHER,
    Curve,
    curves_figure,
    decision_curve_figure,
    precision_recall_points,
    reliability_figure,
    roc_points,
)
from xrayfast.reporting.figures.encoding import png_bytes
from xrayfast.reporting.html.plots import _drawn_labels


@pytest.fixture(params=["ties", "distinct", "masked"])
def drawn(request):
    """Truth and scores: with many ties, with none, and with about a third of the cells masked."""
    random = np.random.default_rng(1)
    truth = random.integers(0, 2, 200)
    score = random.random(200) + 0.3 * truth
    score = np.round(score, 1) if request.param == "ties" else score
    if request.param == "masked":
        truth[random.random(200) < 0.3] = -1
    return truth, score


def test_roc_points_equal_scikit_learns(drawn):
    truth, score = drawn
    known = truth >= 0
    false, true, _ = roc_curve(truth[known], score[known], drop_intermediate=False)
    points = roc_points(truth, score)
    np.testing.assert_allclose(points[0], false, atol=1e-15)
    np.testing.assert_allclose(points[1], true, atol=1e-15)
    assert auc(*points) == pytest.approx(roc_auc_score(truth[known], score[known]), abs=1e-12)


def test_precision_recall_points_equal_scikit_learns(drawn):
    truth, score = drawn
    known = truth >= 0
    # The last point, precision 1 at recall 0, belongs to no threshold.
    precision, recall, _ = precision_recall_curve(truth[known], score[known], drop_intermediate=False)
    points = precision_recall_points(truth, score)
    np.testing.assert_allclose(points[0], recall[:-1][::-1], atol=1e-15)
    np.testing.assert_allclose(points[1], precision[:-1][::-1], atol=1e-15)
    area = (np.diff(points[0], prepend=0) * points[1]).sum()
    assert area == pytest.approx(average_precision_score(truth[known], score[known]), abs=1e-12)


@pytest.mark.parametrize("truth", [[-1, -1], [0, -1], []])
def test_without_a_positive_there_is_no_curve(truth):
    score = [0.5] * len(truth)
    assert roc_points(truth, score) is None and precision_recall_points(truth, score) is None


def test_without_a_negative_there_is_no_curve():
    assert roc_points([1, 1, -1], [0.1, 0.2, 0.3]) is None
    assert precision_recall_points([1, 1, -1], [0.1, 0.2, 0.3]) is None


def curves(labels=("a", "b", "c"), n=60):
    random = np.random.default_rng(0)
    truth = random.integers(-1, 2, (n, len(labels)))
    truth[:, -1] = np.minimum(truth[:, -1], 0)
    said = "AUROC 0.5 (0.4 to 0.6)"
    return [Curve(label, truth[:, i], random.random(n), said, (0.2, 0.7)) for i, label in enumerate(labels)]


def texts(figure):
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [*found, *(text.get_text() for legend in figure.legends for text in legend.get_texts())]


@pytest.mark.parametrize("kind", [ROC, PRECISION_RECALL])
def test_a_few_labels_share_a_panel_and_differ_by_more_than_color(kind):
    figure = curves_figure(curves(("a", "b", "_c", "no one has it")), kind)
    (axes,) = figure.axes
    drawn = lines(axes, "curve")
    width, height = figure.get_size_inches()
    assert len(drawn) == 3 and 0.8 < width / height < 1.25
    assert len({line.get_color() for line in drawn}) == len({str(line._unscaled_dash_pattern) for line in drawn}) == 3
    legend = texts(figure)[-4:]
    assert legend[0] == "a: AUROC 0.5 (0.4 to 0.6)" and legend[2].startswith("_c")
    assert legend[3] == "no one has it: no image with the label"


@pytest.mark.parametrize("kind", [ROC, PRECISION_RECALL])
def test_many_labels_have_a_panel_each_and_an_absent_one_says_so(kind):
    labels = [f"label {i}" for i in range(TOGETHER + 1)]
    figure = curves_figure(curves(labels), kind)
    assert [len(lines(axes, "curve")) for axes in figure.axes] == [1] * TOGETHER + [0]
    assert {text for text in texts(figure) if text.startswith("label")} == set(labels)
    assert any("no image with" in text for text in texts(figure))
    # No area is given without a curve.
    assert texts(figure).count("AUROC 0.5 (0.4 to 0.6)") == TOGETHER
    assert all(line.get_xydata().tolist() == [[0.2, 0.7]] for line in lines(figure.axes[0], "threshold"))


def test_the_drawn_lines_are_the_points():
    one = curves()[0]
    roc = lines(curves_figure([one], ROC).axes[0], "curve")[0]
    np.testing.assert_array_equal(roc.get_xdata(), roc_points(one.truth, one.score)[0])
    line = lines(curves_figure([one], PRECISION_RECALL).axes[0], "curve")[0]
    recall, precision = precision_recall_points(one.truth, one.score)
    np.testing.assert_array_equal(line.get_xdata(), [0, *recall])
    np.testing.assert_array_equal(line.get_ydata(), [precision[0], *precision])


def bins(truth, score):
    return [vars(one) for one in reliability(truth, score)]


def test_reliability_shows_each_bin_that_holds_images_with_its_interval():
    sample = predictions("single", ("a", "b", "c"), 120)
    after = {"a": bins(sample.truth[:, 0], sample.raw[:, 0]), "none known": bins([-1, -1], [0.1, 0.2])}
    figure = reliability_figure(after, after)
    square, strip, empty, _ = figure.axes
    points = {one.get_gid(): one.get_offsets() for one in square.collections if one.get_gid()}
    held = [one for one in after["a"] if one["count"] >= 10]
    few = [one for one in after["a"] if 0 < one["count"] < 10]
    assert len(held) > 1 and len(few) > 1
    for gid in ("before", "after"):
        np.testing.assert_allclose(points[gid], [(one["predicted"], one["observed"]) for one in held])
    np.testing.assert_allclose(points["few"], [(one["predicted"], one["observed"]) for one in few])
    (whiskers,) = [one for one in square.collections if one.get_gid() is None]
    ends = [segment[:, 1].tolist() for segment in whiskers.get_segments()]
    assert ends == [[one["observed_low"], one["observed_high"]] for one in held]
    heights = [bar.get_height() for bar in strip.patches]
    # A bin with few images has neither an interval nor a bar.
    assert heights == [one["count"] for one in held] * 2
    assert "masked on all\nimages" in [text.get_text() for text in empty.texts]
    names = ["before calibration", "after calibration", "small: fewer than 10 in the bin"]
    assert texts(figure)[-3:] == names
    assert texts(reliability_figure(after))[-2:] == ["as reported", names[-1]]


def test_text_from_strangers_is_not_read_as_tex():
    bad = r"_$\frac{$ ^ \udcff" + "\udcff\n\x00\u202e"
    few, many = curves((bad, "b")), curves([f"{bad}{i}" for i in range(TOGETHER + 1)])
    one = {bad: bins([1, 0], [0.2, 0.7])}
    for figure in (curves_figure(few, ROC), curves_figure(many, PRECISION_RECALL), reliability_figure(one, one)):
        assert png_bytes(figure) and shows_all(figure)


def test_panels_of_many_labels_do_not_run_into_each_other():
    figure = curves_figure(curves(MANY), ROC)
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert not [1 for i, one in enumerate(boxes) for two in boxes[:i] if one.overlaps(two)]


def test_a_decision_curve_is_drawn_against_treating_all_and_none():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=(80, 2))
    score = np.clip(0.3 * truth + 0.6 * rng.random((80, 2)), 0, 1)
    found = net_benefits(truth, score, ["a", "b$x$"])
    figure = decision_curve_figure(found)
    for axes, label in zip(figure.axes, ("a", "b$x$"), strict=True):
        [line] = lines(axes, "curve")
        assert line.get_ydata().tolist() == found["labels"][label]["model"]
        assert line.get_xdata().tolist() == found["thresholds"]
        assert lines(axes, "all")[0].get_ydata()[0] == pytest.approx(truth[:, "ab".index(label[0])].mean(), abs=0.01)
        low, high = axes.get_ylim()
        assert low < 0 and high > max(line.get_ydata())
    assert {"network", "treat all", "treat none", "b$x$"} <= set(texts(figure))


def test_with_many_labels_the_best_and_the_worst_ranked_are_drawn():
    labels = tuple(f"label {i}" for i in range(30))
    rows = [{"label": label, "auroc": None if i == 3 else i / 30} for i, label in enumerate(labels)]
    drawn, said = _drawn_labels({"per_label": rows})
    assert drawn == [*labels[:12], *labels[18:]] and "Of 30 labels, the 12" in said
    assert _drawn_labels({"per_label": rows[:24]}) == (list(labels[:24]), "")
