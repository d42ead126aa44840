"""Each figure is shown once in a notebook, with and without pyplot, and can be drawn on given axes."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.reporting.figures.test_training_curves import history
from tests.reporting.samples import LABELS, MANY, explained, split_report
from xrayfast.errors import ConfigError
from xrayfast.reporting.figures import top_losses, training_curves
from xrayfast.reporting.figures.overlays import overlays_figure
from xrayfast.reporting.interpretation import Interpretation
from xrayfast.runs.batches import empty_batches


def interpretation(task, labels=None):
    split, decision = split_report(task, labels or LABELS[task], resamples=0, divided=False)
    return Interpretation(split.predictions, task, {}, decision=decision, summary=split.summary)


@pytest.fixture(scope="module")
def single():
    return interpretation("single")


@pytest.fixture(scope="module")
def multi():
    return interpretation("multi")


def drawn(single, multi):
    return {
        "confusion": single.plot_confusion_matrix(),
        "confusion by label": multi.plot_confusion_matrix(normalize=True),
        "cooccurrence": multi.plot_cooccurrence(),
        "top losses": single.plot_top_losses(3),
        "roc": single.plot_roc(),
        "pr": multi.plot_pr("Effusion"),
        "calibration": single.plot_calibration(),
        "history": training_curves.loss_and_metric_curves(history(), 2),
        "range test": training_curves.lr_figure([1e-4, 1e-3], [2.0, 1.0], {"valley": 1e-3}),
        "nothing": top_losses.top_losses_figure([]),
        "explanation": overlays_figure(explained(1, ("a",))),
        "batches": training_curves.batches_figure(empty_batches()),
    }


def test_every_figure_is_one_image_in_a_shell_with_and_without_matplotlib_s_inline_formatter(single, multi):
    formatter = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    inline = pytest.importorskip("IPython.core.pylabtools")
    shell = type("Shell", (), {"display_formatter": formatter})
    before = plt.get_fignums()
    found = drawn(single, multi)
    for select in (lambda: None, lambda: inline.select_figure_formats(shell, {"png"})):
        select()
        for name, figure in found.items():
            shown, _ = formatter.format(figure)
            assert {kind for kind in shown if kind.startswith("image/")} == {"image/png"}, name
    assert plt.get_fignums() == before  # otherwise the inline backend would show them again


def test_given_axes_are_drawn_on_and_returned(single, multi):
    draws = [
        single.plot_confusion_matrix,
        lambda ax: multi.plot_confusion_matrix(labels="Hernia", ax=ax),
        single.plot_roc,
        lambda ax: multi.plot_pr(["Effusion", "Hernia"], ax=ax),
        lambda ax: single.plot_calibration("most likely class", ax=ax),
    ]
    for draw in draws:
        figure = Figure()
        axes = figure.add_subplot()
        assert draw(ax=axes) is axes
        assert figure.axes == [axes] and axes.has_data()


def test_legends_are_inside_given_axes(single, multi):
    figure = Figure()
    panels = figure.subplots(2, 2).ravel()
    single.plot_roc(ax=panels[0])
    single.plot_pr(ax=panels[1])
    multi.plot_roc(ax=panels[2])
    single.plot_calibration("most likely class", ax=panels[3])
    figure.draw_without_rendering()
    for panel in panels:
        (left, low), (right, high) = panel.bbox.padded(6).get_points()  # pixels
        box = panel.get_legend().get_window_extent()
        assert left <= box.x0 and box.x1 <= right and low <= box.y0 and box.y1 <= high


def test_a_curve_on_given_axes_equals_that_of_the_figure(single):
    axes = Figure().add_subplot()
    single.plot_roc(ax=axes)
    own = single.plot_roc().axes[0]
    for one, other in zip(axes.lines, own.lines, strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [text.get_text() for text in single.plot_roc().legends[0].get_texts()]


def test_labels_are_chosen_by_name(multi):
    panels = multi.plot_confusion_matrix(labels=["Hernia", "Effusion"]).axes
    assert [panel.get_title() for panel in panels] == ["Hernia", "Effusion"]
    counts = np.array(multi.summary["confusion_per_label"]["Hernia"]).ravel()
    assert [int(text.get_text().split()[1]) for text in panels[0].texts] == counts.tolist()
    reliability = multi.plot_calibration("Effusion").axes
    assert [text.get_text() for text in reliability[0].texts] == ["Effusion"]


def test_a_figure_that_does_not_fit_on_given_axes_is_an_error_with_a_remedy(single, multi):
    axes = Figure().add_subplot()
    with pytest.raises(ConfigError, match=r"4 labels; one ax takes 1. Name them, as in labels=\['Effusion'\]"):
        multi.plot_confusion_matrix(ax=axes)
    with pytest.raises(ConfigError, match="14 labels; one ax takes 5"):
        interpretation("multi", MANY).plot_roc(ax=axes)
    with pytest.raises(ConfigError, match=r"labels has 'Efusion'.*Did you mean 'Effusion'"):
        multi.plot_pr("Efusion")
    for plot in (single.plot_roc, single.plot_calibration, multi.plot_confusion_matrix, multi.plot_pr):
        with pytest.raises(ConfigError, match=r"ax is .*; expected an Axes \(from matplotlib's plt.subplots\)"):
            plot(ax=Figure().subplots(1, 2))
    for k in (0, -1, "9", True, 2.5):
        with pytest.raises(ConfigError, match="k is "):
            single.plot_top_losses(k)
    for k in ([0, 60], [-1], range(40, 50)):
        with pytest.raises(ConfigError, match=r"k has the place .*; expected 0 to "):
            single.plot_top_losses(k)
    with pytest.raises(ConfigError, match=r"single-label task has one matrix"):
        single.plot_confusion_matrix(labels="pneumonia")


def test_figsize_scales_a_figure_with_its_texts(single):
    plain, small = single.plot_confusion_matrix(), single.plot_confusion_matrix(figsize=(2, 9))
    factor = 2 / plain.get_size_inches()[0]
    np.testing.assert_allclose(small.get_size_inches(), factor * plain.get_size_inches())
    sizes = [[text.get_fontsize() for text in figure.axes[0].texts] for figure in (plain, small)]
    np.testing.assert_allclose(sizes[1], factor * np.array(sizes[0]))


def test_top_losses_show_names_and_probabilities_in_rows_that_do_not_overlap(single):
    figure = single.plot_top_losses(9)
    panels = figure.axes
    assert len({round(panel.get_position().x0, 3) for panel in panels}) == 3
    for panel, i in zip(panels, single.ranked(9), strict=True):
        name, text = (one.get_text() for one in panel.texts[-2:])
        assert name == single.predictions.images[i]
        assert f"({single.predictions.probability[i].max():.2f})" in text
    figure.draw_without_rendering()
    boxes = [panel.get_tightbbox() for panel in panels]
    assert not [1 for i, one in enumerate(boxes) for two in boxes[:i] if one.overlaps(two)]


def test_a_history_is_drawn_on_one_or_two_given_axes(tiny_run):
    from xrayfast.learning.training.lr_find import LRCurve  # torch, which the kernel below would have to load

    assert isinstance(tiny_run.plot_history(), Figure)
    losses, metrics = pair = Figure().subplots(1, 2)
    assert tiny_run.plot_history(ax=pair) is pair
    assert losses.get_ylabel() == "Loss" and "validation" in metrics.get_ylabel().lower()
    axes = Figure().add_subplot()
    assert isinstance(tiny_run.plot_history(ax=axes), Axes) and axes.get_ylabel() == "Loss"
    with pytest.raises(ConfigError, match="3 Axes; expected one, or two"):
        tiny_run.plot_history(ax=Figure().subplots(1, 3))
    for plot in (tiny_run.plot_history, tiny_run.plot_batches, LRCurve([1e-3], [1.0], {}).plot):
        with pytest.raises(ConfigError, match=r"ax is .*; expected (one matplotlib|an) Axes.* plt\.subplots"):
            plot(ax=Figure().subplots(2, 2))


KERNEL_CELLS = (
    "from tests.reporting.test_notebook_figures import interpretation; found = interpretation('single')",
    "found.plot_roc()",
    "found.plot_top_losses(2)",
    "from matplotlib import pyplot as plt; found.plot_calibration()",
    "found.plot_confusion_matrix()",
    "figure, ax = plt.subplots(); found.plot_roc(ax=ax);",
    "found.plot_pr();",
    "kept = found.plot_pr()\nprint('after')",
    "found.plot_roc()\nfound.plot_pr()\nfound.plot_calibration();",
    "display(kept)",
    "%matplotlib inline",
    "found.plot_pr()",
    "found.plot_pr();",
    "found.plot_roc()\nkept",
    "kept = found.plot_roc()\nplt.title('own')\nassert kept.axes[0].get_title() == 'own' and plt.get_fignums() == [1]",
    "assert not plt.get_fignums()",
    "found",
)


def test_each_call_shows_one_image_in_a_fresh_kernel(monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in KERNEL_CELLS])
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute()
    kinds = [[set(output.data) & {"image/png", "text/html"} for output in cell.outputs if "data" in output]
             for cell in book.cells]  # fmt: skip
    image = {"image/png"}
    assert kinds == [
        [],
        *[[image]] * 7,
        [image] * 3,
        [image],
        [],
        [image],
        [image],
        [image] * 2,
        [image],
        [],
        [{"text/html"}],
    ]
