"""Heat maps laid over radiographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from xrayfast.display.figure_style import INK, MUTED, SMALL
from xrayfast.reporting.figures import layout

COLORS = ListedColormap(colormaps["inferno"](np.linspace(0.2, 0.85, 256)))
"""Colormap from purple to orange: perceptually uniform, and still from dark to bright when printed in gray.

It leaves out the ends of inferno, which look like the radiograph's own black and white.
"""

OPACITY = 0.6
"""Opacity where the heat is highest; the anatomy must show through."""

SIDE, CAPTION, GAP, LEGEND = 2.3, 1.02, 0.22, 0.55
"""Sizes in inches: side of an image, height of the text below it, gap, and height of the figure's legend."""


@dataclass(frozen=True, eq=False)
class SaliencyCase:
    """One image with the saliency map of a label.

    Attributes:
        pixels: (S, S) uint8, the whole image padded with black as the network sees it, at any size.
        heat: (h, w) in [0, 1] over that square.
        outside: the share of the heat outside the central thorax; NaN where there is no heat.
        thorax: top, left, bottom and right edge of the central thorax as fractions of the square; None to draw none.
    """

    image: str
    label: str
    probability: float
    actual: str | None
    predicted: str
    pixels: NDArray[np.uint8]
    heat: NDArray[Any]
    outside: float
    thorax: tuple[float, float, float, float] | None = None


def overlay(pixels: NDArray[np.uint8], heat: NDArray[Any]) -> NDArray[np.uint8]:
    """Blend a radiograph with its heat map in color; it is unchanged where there is no heat.

    Args:
        pixels: (H, W) uint8.
        heat: (h, w) in [0, 1] over the same area; resized to (H, W) by bilinear interpolation.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = pixels.shape
    coarse = Image.fromarray(np.asarray(heat, dtype=np.float32))
    fine = np.clip(np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR)), 0, 1)
    color = 255 * COLORS(fine)[..., :3]
    opacity = OPACITY * fine[..., None]
    return np.rint((1 - opacity) * pixels[..., None] + opacity * color).astype(np.uint8)


def overlays_figure(cases: Sequence[SaliencyCase]) -> Figure:
    """Plot radiographs beside their overlays, two pairs per row, with file name, labels and heat outside the thorax."""
    if not cases:
        return layout.message_figure("No images to explain")
    figure, places = layout.grid_figure(len(cases), 2, 2 * SIDE + 2 * GAP, SIDE + CAPTION, GAP, LEGEND)
    for case, (left, top) in zip(cases, places, strict=True):
        _pair(figure, case, left, top)
    _legend(figure)
    return figure


def _pair(figure: Figure, case: SaliencyCase, left: float, top: float) -> None:
    """Draw a radiograph and its overlay with the caption below, at the given position in inches."""
    plain, heated = (layout.axes_at(figure, left + x, top - SIDE, SIDE, SIDE) for x in (0.0, SIDE + 0.06))
    layout.hide_axes(plain)
    plain.imshow(case.pixels, cmap="gray", vmin=0, vmax=255)
    layout.write_caption(plain, _caption_lines(case))
    draw_overlay(heated, case)


def draw_overlay(axes: Axes, case: SaliencyCase) -> None:
    """Draw the radiograph with its heat map, and the central thorax dashed."""
    layout.hide_axes(axes)
    axes.imshow(overlay(case.pixels, case.heat))
    if case.thorax is None:
        return
    # imshow's first pixel is centered on 0.
    rows, columns = case.pixels.shape
    top, left, bottom, right = case.thorax
    place = (left * columns - 0.5, top * rows - 0.5), (right - left) * columns, (bottom - top) * rows
    axes.add_patch(Rectangle(*place, fill=False, edgecolor="white", linewidth=0.7, linestyle=(0, (4, 4)), gid="thorax"))


def _caption_lines(case: SaliencyCase) -> list[str]:
    """Return the lines of a caption: file name, explained label, actual and predicted labels, share of heat outside."""
    actual = ""
    if case.actual is not None:
        actual = f"Actual: {layout.wrap_names('', case.actual or 'no label', '', 40, 1)[0]}. "
    outside = "no heat" if math.isnan(case.outside) else f"{case.outside:.0%}"
    return [
        layout.fitting(case.image, 64),
        f"Explained: {layout.fitting(case.label, 56)} ({case.probability:.2f})",
        *layout.wrap_names(f"{actual}Predicted: ", case.predicted or "no label", "", 76, 2),
        f"Heat outside the central thorax: {outside}",
    ]


def _legend(figure: Figure) -> None:
    """Explain the colors and the dashed line at the foot of the figure."""
    width, height = figure.get_size_inches()
    bar = layout.axes_at(figure, GAP, 0.24, 1.3, 0.09)
    scale = figure.colorbar(ScalarMappable(cmap=COLORS), cax=bar, orientation="horizontal", ticks=[0, 1])
    scale.outline.set_visible(False)
    scale.ax.tick_params(length=0, labelsize=SMALL - 1, labelcolor=INK, pad=2)
    none, most = scale.ax.set_xticklabels(["none", "most"])
    none.set_horizontalalignment("left")
    most.set_horizontalalignment("right")
    words = "Heat: contribution to the explained label,\nscaled to the maximum of each image. Dashed: central thorax."
    style: dict[str, Any] = {"fontsize": SMALL - 1, "color": MUTED, "linespacing": 1.3}
    figure.text((GAP + 1.3 + 0.2) / width, 0.28 / height, words, va="center", **style)
