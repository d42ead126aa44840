import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from tests.reporting.samples import lines, shows_all, texts
from xrayfast.errors import ConfigError, WriteError
from xrayfast.reporting import figures
from xrayfast.reporting.figures import Case
from xrayfast.reporting.matrices import confusion_figure


def history(epochs=4, metrics=("accuracy", "f1_macro", "auroc_macro")):
    steps = np.arange(1, epochs + 1)
    table = {"epoch": steps, "phase": ["head"] + ["last 2 blocks"] * (epochs - 1)}
    table |= {"train_loss": 1 / steps, "valid_loss": 1.1 / steps}
    table |= {f"valid_{name}": 0.5 + 0.1 * i + steps / 100 for i, name in enumerate(metrics)}
    return pd.DataFrame(table | {"lr": 1e-3, "seconds": 2.0})


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


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


def test_metrics_of_the_training_split_are_dashed_in_the_colour_of_the_validation_split():
    table = history(metrics=("accuracy", "f1_macro"))
    table["train_accuracy"], table["train_f1_macro"] = [0.2, 0.7, 0.8, 0.9], 0.95
    metrics = figures.loss_and_metric_curves(table, best_epoch=3).axes[1]
    assert legend(metrics) == ["Accuracy", "F1, macro", "Best epoch (3)"]
    assert "dashed: training images" in metrics.get_ylabel()
    first, second = lines(metrics, "train")
    assert first.get_ydata().tolist() == [0.2, 0.7, 0.8, 0.9] and second.get_ydata().tolist() == [0.95] * 4
    solid = {line.get_label(): line.get_color() for line in metrics.lines}
    assert [first.get_color(), second.get_color()] == [solid["Accuracy"], solid["F1, macro"]]
    assert metrics.get_ylim()[0] < 0.2
    assert "dashed" not in figures.loss_and_metric_curves(history()).axes[1].get_ylabel()


def test_one_epoch_is_visible_as_a_marker_inside_the_panel():
    losses = figures.loss_and_metric_curves(history(1), best_epoch=1).axes[0]
    line = losses.lines[0]
    low, high = losses.get_xlim()
    assert line.get_marker() == "o" and low < 1 < high


def test_a_metric_without_values_is_named_as_not_defined_and_not_ringed():
    table = history().assign(valid_auroc_macro=np.nan)
    metrics = figures.loss_and_metric_curves(table, best_epoch=2).axes[1]
    assert "AUROC, macro (not defined)" in legend(metrics)
    assert len(lines(metrics, "best-epoch")) == 2


def test_no_epoch_and_no_best_epoch_still_draw():
    assert figures.png_bytes(figures.loss_and_metric_curves(history().iloc[:0]))
    assert not lines(figures.loss_and_metric_curves(history(), best_epoch=99).axes[0], "best-epoch")


def test_text_from_strangers_is_not_read_as_tex():
    bad = r"$\frac{$ _^ \udcff" + "\udcff\n\x00\u202e"
    case = Case(bad, bad, bad, 0.5, 1.0, None)
    for figure in (
        figures.top_losses_figure([case]),
        figures.loss_and_metric_curves(history().assign(phase="$x$ $")),
    ):
        assert figures.png_bytes(figure) and shows_all(figure)


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


def test_of_many_predicted_labels_whole_ones_are_shown_and_the_rest_is_counted():
    names = ["Cardiomegaly 0.50", "Pleural_Thickening 0.31", *(f"Label{i} 0.{i}1" for i in range(1, 8))]
    case = Case("a.png", "Effusion, Mass", ", ".join(names), float("nan"), 1.0, None)
    shown = texts(figures.top_losses_figure([case]).axes[0])[-1]
    assert shown.splitlines() == [
        "Actual: Effusion, Mass",
        "Predicted: Cardiomegaly 0.50,",
        "Pleural_Thickening 0.31, … 7 more",
        "Loss: 1.000",
    ]


@pytest.mark.parametrize("names", ["x" * 90, f"{'word ' * 20}0.50, other 0.41", "a b, c", f"{'x' * 90} 0.50, b 0.40"])
def test_names_never_take_more_lines_than_given(names):
    lines = figures.wrap_names("Predicted: ", names, " (0.93)", 36, 2)
    assert len(lines) <= 2 and max(map(len, lines)) <= 36
    assert lines[0].startswith("Predicted:") and lines[-1].endswith("(0.93)")
    assert ("1 more" in lines[-1]) == (names.count(", ") == 1 and len(names) > 20)


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
    one, two = (figures.png_bytes(confusion_figure([[1, 2], [3, 4]], ["a", "b"])) for _ in range(2))
    assert one == two and one.startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before


def test_a_figure_is_drawn_once_and_cut_to_what_is_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "draw", lambda self, *args, real=Figure.draw: drawn.append(real(self, *args)))
    pixels = np.zeros((30, 20), np.uint8)
    figure = figures.top_losses_figure([Case("a" * 200, "normal", "covid-19", 0.93, 2.5, pixels)])
    found = Image.open(io.BytesIO(figures.png_bytes(figure)))
    assert len(drawn) == 1 and figure.dpi == Figure().dpi
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figures.DPI)
    whole = Image.open(buffer).convert("RGB")
    box, margin = ImageOps.invert(whole).getbbox(), round(figures.MARGIN * figures.DPI)
    expected = ImageOps.expand(whole.crop(box), margin, "white")
    np.testing.assert_allclose(np.asarray(found).astype(int), np.asarray(expected).astype(int), atol=2)


def test_what_is_beside_a_figure_is_drawn_too():
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, "within")
    assert max(figures.rasterize(figure).size) < figures.DPI
    figure.text(0.5, 0.5, "to the right " * 8 + "\n" * 24 + "below", va="top")
    width, height = figures.rasterize(figure).size
    assert 5 * figures.DPI < width < 8 * figures.DPI and 3 * figures.DPI < height < 5 * figures.DPI
    figure.clear()
    assert figures.rasterize(figure).getextrema()[-1] == (0, 0)


def test_save_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figures.save(Figure(figsize=(1, 1)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_formats_are_one_or_several():
    assert figures.parse_formats("png") == ("png",)
    assert figures.parse_formats(["svg", "pdf, PNG", "svg"]) == ("svg", "pdf", "png")
    for wrong in ("", "jpg", ["png", "tif"], []):
        with pytest.raises(ConfigError, match=r"expected png, svg, pdf"):
            figures.parse_formats(wrong)


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


def test_metrics_of_the_user_s_own_are_drawn_by_their_names():
    table = history().assign(**{"valid_$x_$": 1.2})
    metrics = figures.loss_and_metric_curves(table, best_epoch=3).axes[1]
    assert "$x_$" in [line.get_label() for line in metrics.lines] and metrics.get_ylim()[1] > 1.2
    assert figures.png_bytes(metrics.figure)
