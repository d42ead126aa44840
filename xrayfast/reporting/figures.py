"""Figures of a run: pure functions to a matplotlib `Figure`, in the style of `figure_style`.

Names of labels and files are foreign texts: none is read as TeX (a `$` in a label would be), and each is cut in its
middle where it would not fit; of several in a caption, those that fit are shown whole.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from xrayfast.display.figure_style import (
    BOUNDARY,
    GRID,
    INK,
    MARKERS,
    MUTED,
    SERIES,
    SMALL,
    TEXT,
    legend_above,
    style_axes,
)
from xrayfast.display.notebook_figure import NotebookFigure
from xrayfast.errors import ConfigError
from xrayfast.errors.escapes import escape_hidden
from xrayfast.files.atomic import write_bytes
from xrayfast.metrics.registry import further_columns, history_column, history_metrics
from xrayfast.reporting.interpretation import Case as Case

DPI = 160
MARGIN = 0.12
"""Around what is drawn, in inches."""
PNG_LEVEL = 3
"""Of zlib: a radiograph takes half the time of the usual 6, and an eighth more bytes."""
LABEL_CHARACTERS = 30

FORMATS = ("png", "svg", "pdf")
"""In which figures can be written to files."""


def loss_and_metric_curves(history: pd.DataFrame, best_epoch: int | None = None) -> Figure:
    """Losses (left) and metrics (right) by epoch, those of the training split dashed, with the phases named and the
    best epoch ringed.

    Args:
        history: one row per epoch: `epoch` (1-based over all phases), `phase`, `train_loss`, `valid_loss` and
            the columns of `metrics.registry.history_metrics` of both splits and of metrics of the user's own; cells may
            be NaN.
        best_epoch: the epoch whose weights were kept, or None.
    """
    figure = NotebookFigure(figsize=(10, 4.1))
    # By hand, as matplotlib's own layout takes as long as drawing: room for two rows of a legend.
    places = {"left": 0.06, "right": 0.99, "bottom": 0.11, "top": 0.8, "wspace": 0.18}
    losses, metrics = figure.subplots(1, 2, gridspec_kw=places)
    draw_loss_curves(losses, history, best_epoch)
    draw_metric_curves(metrics, history, best_epoch)
    return figure


def draw_loss_curves(axes: Axes, history: pd.DataFrame, best_epoch: int | None = None) -> None:
    """Draw the losses of `loss_and_metric_curves`."""
    _curves(axes, history, {"train_loss": "Training loss", "valid_loss": "Validation loss"}, best_epoch)
    axes.set_ylabel("Loss", fontsize=TEXT, color=MUTED)


def draw_metric_curves(axes: Axes, history: pd.DataFrame, best_epoch: int | None = None) -> None:
    """Draw the metrics of `loss_and_metric_curves`."""
    titles = {history_column("valid", name): metric.title for name, metric in history_metrics().items()}
    metric_names = {name: title for name, title in titles.items() if name in history} | further_columns(history.columns)
    _curves(axes, history, metric_names, best_epoch)
    trained = [name for name in map(_train_column, metric_names) if name in history]
    split = "Validation images; dashed: training images" if trained else "On the validation images"
    axes.set_ylabel(split, fontsize=TEXT, color=MUTED)
    values = history[[*metric_names, *trained]].to_numpy(dtype=float)
    if np.isfinite(values).any():
        lowest = math.floor(float(np.nanmin(values)) * 10) / 10
        axes.set_ylim(min(lowest, 0.9) - 0.02, max(1.0, float(np.nanmax(values))) + 0.02)


def top_losses_figure(cases: Sequence[Case], columns: int = 4) -> Figure:
    """A grid of images with file name, actual and predicted labels and loss, in the order given.

    Args:
        cases: what to show; pixels that are None give an empty panel that says so.
        columns: images in a row.
    """
    if not cases:
        return message_figure("No predictions to show")
    side, caption, gap = 2.3, 1.15, 0.22
    figure, places = grid_figure(len(cases), columns, side + gap, side + caption, gap)
    for case, (left, top) in zip(cases, places, strict=True):
        axes = axes_at(figure, left, top - side, side, side)
        draw_image(axes, case)
        write_caption(axes, _caption_lines(case))
    return figure


def lr_figure(lrs: ArrayLike, losses: ArrayLike, suggestions: Mapping[str, float | None]) -> Figure:
    """`draw_range_test` in a figure of its own."""
    figure = NotebookFigure(figsize=(7, 4.2), layout="constrained")
    draw_range_test(figure.add_subplot(), lrs, losses, suggestions)
    return figure


def draw_range_test(axes: Axes, lrs: ArrayLike, losses: ArrayLike, suggestions: Mapping[str, float | None]) -> None:
    """Draw the learning-rate range test: loss against learning rate, with the suggestions marked on the curve.

    Args:
        axes: where to draw.
        lrs: (N,) increasing, above 0.
        losses: (N,) as fastai's recorder keeps them, which has smoothed them already.
        suggestions: learning rate by the name of its rule, or None where the rule found none.
    """
    rates, values = np.asarray(lrs, dtype=float), np.asarray(losses, dtype=float)
    known = np.isfinite(values) & (rates > 0)
    rates, values = rates[known], values[known]
    style_axes(axes, grid=True)
    axes.set_xscale("log")
    axes.plot(rates, values, color=INK, linewidth=1.6, marker="o" if len(rates) == 1 else None)
    for (name, rate), colour, marker in zip(suggestions.items(), cycle(SERIES), cycle(MARKERS), strict=False):
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": ""}
        if rate is None or not rate > 0 or not len(rates):
            axes.plot([], [], label=f"{name}: none found", **style)
            continue
        height = float(np.interp(math.log(rate), np.log(rates), values))
        axes.axvline(rate, color=colour, linewidth=0.8, alpha=0.5)
        axes.plot([rate], [height], markersize=9, label=f"{name}: {rate:.2g}", **style)
    axes.set_xlabel("Learning rate", fontsize=TEXT, color=MUTED)
    axes.set_ylabel("Training loss, smoothed", fontsize=TEXT, color=MUTED)
    if len(values):
        # The test ends where the loss explodes; drawn whole, that would flatten the part that matters.
        lowest = values.min()
        fall = values[: max(1, len(values) // 10)].max() - lowest
        top = min(values.max(), lowest + 2 * fall) if fall > 0 else values.max()
        room = 0.06 * (top - lowest) or 0.1
        axes.set_ylim(lowest - room, top + room)
    legend_above(axes, columns=2)


def rasterize(figure: Figure, transparent: bool = False) -> Image.Image:
    """The figure as RGBA pixels, 160 per inch, without a background, cut to what is drawn and a margin.

    `savefig` would draw it once more to find where to cut, and encode it. What begins more than an inch outside of the
    figure is not seen.

    Args:
        figure: what to draw.
        transparent: without the background of its axes too.
    """
    return _cut(_draw(figure, transparent)[0])


def rasterize_without_foot(figure: Figure, foot: float) -> tuple[Image.Image, Image.Image]:
    """As `rasterize`, without any background and drawn once: the figure without so many inches at its foot, and all."""
    image, around = _draw(figure, transparent=True)
    return _cut(image.crop((0, 0, image.width, image.height - round((around + foot) * DPI)))), _cut(image)


def _draw(figure: Figure, transparent: bool) -> tuple[Image.Image, int]:
    """The pixels of a figure and of some inches around it, and how many inches."""
    background: dict[str, Any] = {"transparent": True} if transparent else {"facecolor": "none"}
    for around in (1, 4, 16):  # some legends are outside of their figure
        width, height = (round(side * DPI) + 2 * around * DPI for side in figure.get_size_inches())
        # Half a pixel more, since matplotlib rounds down.
        box, buffer = Bbox.from_bounds(-around, -around, (width + 0.5) / DPI, (height + 0.5) / DPI), io.BytesIO()
        figure.savefig(buffer, format="rgba", dpi=DPI, bbox_inches=box, **background)
        image = Image.fromarray(np.frombuffer(buffer.getbuffer(), np.uint8).reshape(height, width, 4))
        left, top, right, bottom = image.getbbox() or (1, 1, 1, 1)
        if left > 0 and top > 0 and right < width and bottom < height:
            break
    return image, around


def _cut(image: Image.Image) -> Image.Image:
    """What is not transparent, and a margin."""
    margin, (left, top, right, bottom) = round(MARGIN * DPI), image.getbbox() or (1, 1, 1, 1)
    return image.crop((left - margin, top - margin, right + margin, bottom + margin))


def png_on_white(image: Image.Image) -> bytes:
    """Pixels of `rasterize` as a PNG on white."""
    white, buffer = Image.new("RGB", image.size, "white"), io.BytesIO()
    white.paste(image, mask=image)
    white.save(buffer, "PNG", dpi=(DPI, DPI), compress_level=PNG_LEVEL)
    return buffer.getvalue()


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG of 160 dots per inch, cut to what is drawn; the same figure gives the same bytes."""
    return png_on_white(rasterize(figure))


def save(figure: Figure, path: Path) -> None:
    """Write the figure, whole or not at all, in the format of the path's ending, one of `FORMATS`.

    Raises:
        WriteError: the file can't be written.
    """
    write_bytes(path, png_bytes(figure) if path.suffix == ".png" else _vector_bytes(figure, path.suffix[1:]))


def parse_formats(found: Sequence[str] | str) -> tuple[str, ...]:
    """The formats of figures as a tuple, from one or several, or joined as in "png,svg".

    Raises:
        ConfigError: one is none of `FORMATS`, or there is none.

    >>> parse_formats("png,svg")
    ('png', 'svg')
    """
    texts = [found] if isinstance(found, str) else found
    chosen = tuple(dict.fromkeys(one.strip().lower() for text in texts for one in text.split(",")))
    if not chosen or not set(chosen) <= set(FORMATS):
        raise ConfigError(f"figure_format is '{', '.join(chosen)}'; expected {', '.join(FORMATS)}, or several of them.")
    return chosen


def _vector_bytes(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    # Else ids in the file would differ from one time to the next.
    with rc_context({"svg.hashsalt": "xrayfast"}):
        figure.savefig(buffer, format=kind, bbox_inches="tight", pad_inches=MARGIN, metadata=date)
    return buffer.getvalue()


def zoom(figure: Figure, figsize: Sequence[float] | None) -> Figure:
    """The figure zoomed to fit into so many inches, its texts too; as it is where that is None."""
    if figsize is not None:
        width, height = figure.get_size_inches()
        factor = min(figsize[0] / width, figsize[1] / height)
        figure.set_size_inches(factor * width, factor * height)
        for text in figure.findobj(Text):
            text.set_fontsize(factor * text.get_fontsize())
    return figure


def fitting(text: str, width: int = LABEL_CHARACTERS) -> str:
    """At most `width` characters, cut in the middle: names that share a beginning stay distinct."""
    text = escape_hidden(text)
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def wrap_names(before: str, names: str, after: str, width: int, lines: int) -> list[str]:
    """`before`, names joined by ", ", and `after`, wrapped; where they need too many lines, the first names alone and
    how many more there are. A name that is too long by itself is cut in its middle.
    """
    every = escape_hidden(names).split(", ")
    for count in range(len(every), 0, -1):
        more = f", … {len(every) - count} more" if count < len(every) else ""
        wrapped = textwrap.wrap(f"{before}{', '.join(every[:count])}{more}{after}", width)
        if len(wrapped) <= lines:
            return wrapped
    for room in range(len(every[0]) - 1, 0, -1):
        wrapped = textwrap.wrap(f"{before}{fitting(every[0], room)}{more}{after}", width)
        if len(wrapped) <= lines:
            break
    return wrapped


def write_caption(axes: Axes, lines: Sequence[str]) -> None:
    """Write lines below an image, the first in bold."""
    style: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "color": INK, "fontsize": 7.5}
    axes.text(0, -0.03, lines[0], fontweight="bold", parse_math=False, **style)
    axes.text(0, -0.10, "\n".join(lines[1:]), linespacing=1.3, parse_math=False, **style)


def grid_figure(n: int, columns: int, width: float, height: float, gap: float, foot: float = 0.0) -> tuple[Figure, Any]:
    """A figure for n cells in rows, and the left and top of each.

    Args:
        n: above 0.
        columns: cells in a row, at most.
        width: of a cell with the gap beside it, in inches.
        height: of a cell, in inches.
        gap: around all cells, in inches.
        foot: what is left free at the foot, in inches.
    """
    columns = max(1, min(columns, n))
    top = math.ceil(n / columns) * height + gap + foot
    places = [(gap + i % columns * width, top - gap - i // columns * height) for i in range(n)]
    return NotebookFigure(figsize=(columns * width + gap, top)), places


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place of a figure, all in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _curves(axes: Axes, history: pd.DataFrame, names: Mapping[str, str], best_epoch: int | None) -> None:
    """Lines of one panel; a series without any value stays in the legend and says so."""
    style_axes(axes, grid=True)
    epochs = history["epoch"].to_numpy(dtype=float)
    series = {column: history[column].to_numpy(dtype=float) for column in names}
    for (column, values), colour, marker in zip(series.items(), cycle(SERIES), cycle(MARKERS), strict=False):
        label = names[column] if np.isfinite(values).any() else f"{names[column]} (not defined)"
        axes.plot(epochs, values, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=label)
        if (other := _train_column(column)) in history and other not in names:
            style: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.1, "gid": "train"}
            axes.plot(epochs, history[other].to_numpy(dtype=float), color=colour, marker=marker, markersize=3, **style)
    best = epochs == best_epoch
    ringed = [column for column, values in series.items() if column != "train_loss" and np.isfinite(values[best]).any()]
    ring: dict[str, Any] = {"marker": "o", "markersize": 11, "markeredgecolor": INK, "markeredgewidth": 1.2}
    for column in ringed:
        ring["label"] = f"Best epoch ({best_epoch})" if column == ringed[0] else None
        axes.plot(epochs[best], series[column][best], linestyle="", markerfacecolor="none", gid="best-epoch", **ring)
    axes.set_xlabel("Epoch", fontsize=TEXT, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs):
        axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        _name_phases(axes, epochs, [str(phase) for phase in history["phase"]])
    legend_width = sum(len(label) for label in map(str, (line.get_label() for line in axes.lines)) if label[0] != "_")
    legend_above(axes, columns=3 if legend_width < 60 else 2)


def _train_column(valid_column: str) -> str:
    return "train_" + valid_column.removeprefix("valid_")


def _name_phases(axes: Axes, epochs: NDArray[np.float64], phases: Sequence[str]) -> None:
    """A line where the phase changes, and each phase's name above its range of the panel."""
    starts = [0] + [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    ends = [*starts[1:], len(phases)]
    # A panel is some 60 characters of this size wide.
    fits = [(end - start) / len(phases) * 60 > len(phases[start]) + 1 for start, end in zip(starts, ends, strict=True)]
    style: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "fontsize": SMALL, "color": MUTED}
    for index, start in enumerate(starts):
        left = epochs[start] - 0.5
        if index:
            axes.axvline(left, gid="phase", **BOUNDARY)
        # The first may reach out to the left instead; a narrow one between two others goes under the frame.
        outwards = index == 0 and not fits[0] and len(starts) > 1
        inside = 0 < index < len(starts) - 1 and not fits[index]
        name, side = (f"{phases[start]} ", "right") if outwards else (f" {phases[start]}", "left")
        place = epochs[starts[1]] - 0.5 if outwards else left, 0.985 if inside else 1.01
        axes.text(*place, name, ha=side, va="top" if inside else "bottom", parse_math=False, **style)


def message_figure(text: str) -> Figure:
    """A small figure of one line of text, in place of an empty one."""
    figure = NotebookFigure(figsize=(5, 1.2))
    figure.add_axes((0, 0, 1, 1)).set_axis_off()  # matplotlib's inline backend shows no figure without axes
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=TEXT, color=MUTED)
    return figure


def draw_image(axes: Axes, case: Case) -> None:
    """Draw the pixels in a black square, whatever their aspect."""
    axes.set_axis_off()
    if case.pixels is None:
        axes.add_patch(Rectangle((0, 0), 1, 1, color=GRID))
        axes.text(0.5, 0.5, "can no longer\nbe read", ha="center", va="center", fontsize=TEXT, color=MUTED)
        return
    sides = case.pixels.shape
    square = np.zeros((max(sides), max(sides)), np.uint8)
    top, left = ((max(sides) - side) // 2 for side in sides)
    square[top : top + sides[0], left : left + sides[1]] = case.pixels
    axes.imshow(square, cmap="gray", vmin=0, vmax=255)


def _caption_lines(case: Case) -> list[str]:
    """File name; then actual, predicted (two lines each at most) and loss."""
    certain = "" if math.isnan(case.probability) else f" ({case.probability:.2f})"
    lines = [fitting(case.image, 32)]
    for name, text in (("Actual", case.actual), ("Predicted", case.predicted)):
        lines += wrap_names(f"{name}: ", text or "no label", certain if name == "Predicted" else "", 36, 2)
    return [*lines, f"Loss: {case.loss:.3f}"]
