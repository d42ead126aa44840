"""Losses and metrics per epoch, losses per batch, and the range test."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from tests.reporting.samples import lines, texts
from tests.runs.test_batches import table_of
from xrayfast.errors import ConfigError
from xrayfast.reporting.figures import encoding, training_curves


def history(epochs=4, metrics=("accuracy", "f1_macro", "auroc_macro")):
    steps = np.arange(1, epochs + 1)
    table = {"epoch": steps, "phase": ["head"] + ["last 2 blocks"] * (epochs - 1)}
    table |= {"train_loss": 1 / steps, "valid_loss": 1.1 / steps}
    table |= {f"valid_{name}": 0.5 + 0.1 * i + steps / 100 for i, name in enumerate(metrics)}
    return pd.DataFrame(table | {"lr": 1e-3, "seconds": 2.0})


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_curves_show_losses_metrics_phases_and_the_best_epoch():
    losses, metrics = training_curves.loss_and_metric_curves(history(), best_epoch=3).axes
    assert legend(losses) == ["Training loss", "Validation loss", "Best epoch (3)"]
    assert legend(metrics) == ["Accuracy", "F1, macro", "AUROC, macro", "Best epoch (3)"]
    assert [text.strip() for text in texts(losses)] == ["head", "last 2 blocks"]
    for axes, rings in ((losses, 1), (metrics, 3)):
        assert [line.get_xdata()[0] for line in lines(axes, "phase")] == [1.5]
        assert [line.get_xdata()[0] for line in lines(axes, "best-epoch")] == [3] * rings


def test_the_metrics_of_a_multi_label_history_are_drawn():
    names = ("subset_accuracy", "f1_macro", "auroc_macro", "ap_macro")
    metrics = training_curves.loss_and_metric_curves(history(metrics=names)).axes[1]
    assert legend(metrics) == ["Subset accuracy", "F1, macro", "AUROC, macro", "Mean average precision"]


def test_metrics_of_the_training_split_are_dashed_in_the_color_of_the_validation_split():
    table = history(metrics=("accuracy", "f1_macro"))
    table["train_accuracy"], table["train_f1_macro"] = [0.2, 0.7, 0.8, 0.9], 0.95
    metrics = training_curves.loss_and_metric_curves(table, best_epoch=3).axes[1]
    assert legend(metrics) == ["Accuracy", "F1, macro", "Best epoch (3)"]
    assert "dashed: training images" in metrics.get_ylabel()
    first, second = lines(metrics, "train")
    assert first.get_ydata().tolist() == [0.2, 0.7, 0.8, 0.9] and second.get_ydata().tolist() == [0.95] * 4
    solid = {line.get_label(): line.get_color() for line in metrics.lines}
    assert [first.get_color(), second.get_color()] == [solid["Accuracy"], solid["F1, macro"]]
    assert metrics.get_ylim()[0] < 0.2
    assert "dashed" not in training_curves.loss_and_metric_curves(history()).axes[1].get_ylabel()


def test_one_epoch_is_visible_as_a_marker_inside_the_panel():
    losses = training_curves.loss_and_metric_curves(history(1), best_epoch=1).axes[0]
    line = losses.lines[0]
    low, high = losses.get_xlim()
    assert line.get_marker() == "o" and low < 1 < high


def test_a_metric_without_values_is_marked_undefined_and_has_no_best_epoch():
    table = history().assign(valid_auroc_macro=np.nan)
    metrics = training_curves.loss_and_metric_curves(table, best_epoch=2).axes[1]
    assert "AUROC, macro (not defined)" in legend(metrics)
    assert len(lines(metrics, "best-epoch")) == 2


def test_no_epoch_and_no_best_epoch_still_draw():
    assert encoding.png_bytes(training_curves.loss_and_metric_curves(history().iloc[:0]))
    assert not lines(training_curves.loss_and_metric_curves(history(), best_epoch=99).axes[0], "best-epoch")


def test_lr_marks_each_suggestion_on_the_curve():
    lrs = np.geomspace(1e-6, 1, 50)
    losses = np.where(lrs < 0.1, 1 - 0.1 * np.log10(lrs / 1e-6), 100.0)
    losses[-1] = np.nan
    axes = training_curves.lr_figure(lrs, losses, {"valley": 1e-3, "steep": None}).axes[0]
    assert axes.get_xscale() == "log"
    assert legend(axes) == ["valley: 0.001", "steep: none found"]
    marked = next(line for line in axes.lines if line.get_label() == "valley: 0.001")
    assert marked.get_ydata()[0] == pytest.approx(1 - 0.1 * 3)
    # The divergence at the end does not flatten the rest.
    assert axes.get_ylim()[1] < 3
    assert encoding.png_bytes(training_curves.lr_figure([], [], {"valley": 1e-3}))


def test_custom_metrics_are_drawn_under_their_names():
    table = history().assign(**{"valid_$x_$": 1.2})
    metrics = training_curves.loss_and_metric_curves(table, best_epoch=3).axes[1]
    assert "$x_$" in [line.get_label() for line in metrics.lines] and metrics.get_ylim()[1] > 1.2
    assert encoding.png_bytes(metrics.figure)


def by_line(figure, gid):
    return [line for axes in figure.axes for line in lines(axes, gid)]


def test_smoothing_is_corrected_for_its_start():
    losses = pd.Series([4.0, 2.0, 1.0])
    keep = 1 - 2 / 6  # a span of 5
    expected = [4.0, (2 + 4 * keep) / (1 + keep), (1 + 2 * keep + 4 * keep**2) / (1 + keep + keep**2)]
    np.testing.assert_allclose(training_curves.smoothed_losses(losses), expected)


def test_the_figure_marks_epochs_and_shows_one_by_its_batches():
    table = table_of([[3.0, 2.0, 1.0, 2.0], [1.0, 0.5, 0.8, 0.2], [0.4, 0.2, 0.3, 0.1]])
    figure = training_curves.batches_figure(table)
    [raw], [smooth] = by_line(figure, "batches"), by_line(figure, "smoothed")
    assert raw.get_ydata().tolist() == table["loss"].tolist()
    assert raw.get_xdata().tolist() == [i / 4 for i in range(1, 13)]
    assert raw.get_linewidth() < smooth.get_linewidth()
    assert [line.get_xdata()[0] for line in by_line(figure, "epoch")] == [1, 2]
    assert by_line(figure, "lr")[0].get_ydata().tolist() == table["lr"].tolist()
    assert len(by_line(figure, "lr-lowest")) == 1
    one = training_curves.batches_figure(table, epoch=2)
    assert by_line(one, "batches")[0].get_xdata().tolist() == [1, 2, 3, 4]
    assert by_line(one, "batches")[0].get_ydata().tolist() == [1.0, 0.5, 0.8, 0.2]
    assert not by_line(one, "epoch")
    assert "epoch 2" in one.axes[-1].get_xlabel()
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"epoch is 4; this run has the batches of epochs 1 to 3"):
        training_curves.batches_figure(table, epoch=4)


def test_the_figure_of_a_thinned_table_says_so():
    table = table_of([list(np.random.default_rng(0).random(64))] * 2, most_rows=40)
    text = [text.get_text() for text in training_curves.batches_figure(table).axes[0].get_legend().get_texts()]
    assert text[0] == "Lowest and highest of each 8 batches"
