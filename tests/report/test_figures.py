import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xrayfast.errors import WriteError
from xrayfast.files import write_bytes
from xrayfast.report import figures
from xrayfast.report.figures import Case


def history(epochs=4, metrics=("accuracy", "f1_macro", "auroc_macro")):
    steps = np.arange(1, epochs + 1)
    table = {"epoch": steps, "phase": ["head"] + ["last 2 blocks"] * (epochs - 1)}
    table |= {"train_loss": 1 / steps, "valid_loss": 1.1 / steps}
    table |= {name: 0.5 + 0.1 * i + steps / 100 for i, name in enumerate(metrics)}
    return pd.DataFrame(table | {"lr": 1e-3, "seconds": 2.0})


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def lines(axes: Axes, gid: str):
    return [line for line in axes.lines if line.get_gid() == gid]


def test_curves_show_losses_metrics_phases_and_the_best_epoch():
    losses, metrics = figures.loss_and_metric_curves(history(), best_epoch=3).axes
    assert legend(losses) == ["Training loss", "Validation loss", "Best epoch (3)"]
    assert legend(metrics) == ["Accuracy", "F1, macro", "AUROC, macro", "Best epoch (3)"]
    assert [text.strip() for text in texts(losses)] == ["head", "last 2 blocks"]
    for axes, rings in ((losses, 1), (metrics, 3)):
        assert [line.get_xdata()[0] for line in lines(axes, "phase")] == [1.5]
        assert [line.get_xdata()[0] for line in lines(axes, "best-epoch")] == [3] * rings


def test_the_metrics_of_a_multi_label_history_are_drawn():
    names = ("subset_accuracy", "f1_macro", "auroc_macro", "ap_macro")
    metrics = figures.loss_and_metric_curves(history(metrics=names)).axes[1]
    assert legend(metrics) == ["Subset accuracy", "F1, macro", "AUROC, macro", "Mean average precision"]


def test_one_epoch_is_visible_as_a_marker_inside_the_panel():
    losses = figures.loss_and_metric_curves(history(1), best_epoch=1).axes[0]
    line = losses.lines[0]
    low, high = losses.get_xlim()
    assert line.get_marker() == "o" and low < 1 < high


def test_a_metric_without_values_is_named_as_not_defined_and_not_ringed():
    table = history().assign(auroc_macro=np.nan)
    metrics = figures.loss_and_metric_curves(table, best_epoch=2).axes[1]
    assert "AUROC, macro (not defined)" in legend(metrics)
    assert len(lines(metrics, "best-epoch")) == 2


def test_no_epoch_and_no_best_epoch_still_draw():
    assert figures.png_bytes(figures.loss_and_metric_curves(history().iloc[:0]))
    assert not lines(figures.loss_and_metric_curves(history(), best_epoch=99).axes[0], "best-epoch")


def test_confusion_shows_counts_with_the_share_of_the_row():
    axes = figures.confusion_figure([[3, 1], [0, 0]], ["a", "b"]).axes[0]
    assert texts(axes)[:4] == ["3\n75%", "1\n25%", "0\n—", "0\n—"]
    assert axes.get_ylabel() == "Actual" and axes.get_xlabel() == "Predicted"
    # The first row is on top.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert texts(figures.confusion_figure([[3, 1], [0, 0]], ["a", "b"], normalize=True).axes[0])[1] == "25%"


def test_a_share_that_is_not_quite_none_or_all_does_not_say_so():
    assert texts(figures.confusion_figure([[999, 1], [0, 5]], ["a", "b"]).axes[0])[:2] == [
        "999\n>99%",
        "1\n<1%",
    ]


@pytest.mark.parametrize("n", [1, 20])
def test_long_labels_do_not_overlap(n):
    labels = [f"a label of thirty letters {i:04d}" for i in range(n)]
    figure = figures.confusion_figure(np.eye(n, dtype=int), labels)
    figure.draw_without_rendering()  # lays the texts out
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert not any(one.overlaps(two) for one, two in itertools.pairwise(boxes))
    slanted = axes.get_xticklabels()
    # Parallel slanted lines are apart by the cell's side times the sine of the slant.
    side = axes.get_window_extent().width / n
    height = slanted[0].get_fontsize() * figure.dpi / 72
    assert side * np.sin(np.radians(slanted[0].get_rotation())) > height
    assert [text.get_text() for text in slanted] == labels


def test_longer_labels_are_cut_in_the_middle():
    labels = ["x" * 40 + "-left", "x" * 40 + "-right"]
    axes = figures.confusion_figure(np.eye(2, dtype=int), labels).axes[0]
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert all(len(text) == figures.LABEL_CHARACTERS and "…" in text for text in shown)
    assert shown[0].endswith("-left") and shown[1].endswith("-right")


def test_text_from_strangers_is_not_read_as_tex():
    bad = r"$\frac{$ _^ \udcff" + "\udcff\n\x00"
    case = Case(bad, bad, bad, 0.5, 1.0, None)
    for figure in (
        figures.confusion_figure([[1]], [bad]),
        figures.cooccurrence_figure([[1]], [bad]),
        figures.binary_figure({bad: [[1, 2], [3, 4]]}),
        figures.top_losses_figure([case]),
        figures.loss_and_metric_curves(history().assign(phase="$x$ $")),
    ):
        assert figures.png_bytes(figure)


def test_binary_has_one_panel_a_label_with_named_cells():
    counts = {f"label {i}": [[10, 1], [2, 7]] for i in range(7)}
    panels = figures.binary_figure(counts).axes
    assert [panel.get_title() for panel in panels] == list(counts)
    assert texts(panels[0]) == ["TN\n10\n91%", "FP\n1\n9%", "FN\n2\n22%", "TP\n7\n78%"]


def test_cooccurrence_has_actual_rows_and_predicted_columns():
    axes = figures.cooccurrence_figure([[5, 2], [0, 3]], ["a", "b"]).axes[0]
    assert texts(axes)[:4] == ["5", "2", "0", "3"]
    assert figures.png_bytes(figures.cooccurrence_figure([[0, 0], [0, 0]], ["a", "b"]))


def test_top_losses_name_file_labels_and_loss():
    pixels = np.zeros((30, 20), np.uint8)
    cases = [
        Case("a.png", "normal", "covid-19", 0.93, 2.5, pixels),
        Case("b.png", "x", "", float("nan"), 1.0, None),
    ]
    first, second = figures.top_losses_figure(cases).axes
    assert "\n".join(texts(first)) == "a.png\nActual: normal\nPredicted: covid-19 (0.93)\nLoss: 2.500"
    assert len(first.images) == 1 and not second.images
    assert "can no longer" in "\n".join(texts(second))
    assert "Predicted: no label\n" in "\n".join(texts(second))
    assert "No predictions" in figures.top_losses_figure([]).texts[0].get_text()


def test_top_losses_wrap_into_rows():
    cases = [Case("a.png", "a", "b", 0.9, 1.0, None)] * 5
    positions = {axes.get_position().y0 for axes in figures.top_losses_figure(cases, columns=2).axes}
    assert len(positions) == 3


def test_lr_marks_each_suggestion_on_the_curve():
    lrs = np.geomspace(1e-6, 1, 50)
    losses = np.where(lrs < 0.1, 1 - 0.1 * np.log10(lrs / 1e-6), 100.0)
    losses[-1] = np.nan
    axes = figures.lr_figure(lrs, losses, {"valley": 1e-3, "steep": None}).axes[0]
    assert axes.get_xscale() == "log"
    assert legend(axes) == ["valley: 0.001", "steep: none found"]
    marked = next(line for line in axes.lines if line.get_label() == "valley: 0.001")
    assert marked.get_ydata()[0] == pytest.approx(1 - 0.1 * 3)
    # The explosion at the end does not flatten the rest.
    assert axes.get_ylim()[1] < 3
    assert figures.png_bytes(figures.lr_figure([], [], {"valley": 1e-3}))


def test_no_global_state_is_touched_and_pngs_are_the_same_twice():
    before = dict(matplotlib.rcParams)
    one, two = (figures.png_bytes(figures.confusion_figure([[1, 2], [3, 4]], ["a", "b"])) for _ in range(2))
    assert one == two and one.startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before


def test_save_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figures.save(Figure(figsize=(1, 1)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_a_failed_move_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(WriteError, match=r"figure\.png: can't be written \(Permission denied\)"):
        figures.save(Figure(figsize=(1, 1)), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_a_missing_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(WriteError, match="Check that its folder"):
        write_bytes(tmp_path / "nowhere" / "a.png", b"")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="Check that its folder"):
        write_bytes(tmp_path / "file" / "a.png", b"")
