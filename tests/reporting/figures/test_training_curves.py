"""Losses and metrics by epoch, and the range test."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from tests.reporting.samples import lines, texts
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


def test_metrics_of_the_training_split_are_dashed_in_the_colour_of_the_validation_split():
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


def test_a_metric_without_values_is_named_as_not_defined_and_not_ringed():
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
    # The explosion at the end does not flatten the rest.
    assert axes.get_ylim()[1] < 3
    assert encoding.png_bytes(training_curves.lr_figure([], [], {"valley": 1e-3}))


def test_metrics_of_the_user_s_own_are_drawn_by_their_names():
    table = history().assign(**{"valid_$x_$": 1.2})
    metrics = training_curves.loss_and_metric_curves(table, best_epoch=3).axes[1]
    assert "$x_$" in [line.get_label() for line in metrics.lines] and metrics.get_ylim()[1] > 1.2
    assert encoding.png_bytes(metrics.figure)
