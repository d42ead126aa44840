"""Figures as pixels and as the bytes of files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from xrayfast.errors import ConfigError
from xrayfast.files.atomic import write_bytes

DPI = 160

MARGIN = 0.12
"""Around what is drawn, in inches."""

PNG_LEVEL = 3
"""Of zlib: a radiograph takes half the time of the usual 6, and an eighth more bytes."""

FORMATS = ("png", "svg", "pdf")
"""In which figures can be written to files."""


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
    shown_on, canvas = figure.canvas, FigureCanvasAgg(figure)
    for around in (1, 4, 16):  # some legends are outside of their figure
        width, height = (round(side * DPI) + 2 * around * DPI for side in figure.get_size_inches())
        # Half a pixel more, since matplotlib rounds down.
        box, buffer = Bbox.from_bounds(-around, -around, (width + 0.5) / DPI, (height + 0.5) / DPI), io.BytesIO()
        figure.savefig(buffer, format="rgba", dpi=DPI, bbox_inches=box, **background)
        image = Image.fromarray(np.frombuffer(buffer.getbuffer(), np.uint8).reshape(height, width, 4))
        left, top, right, bottom = image.getbbox() or (1, 1, 1, 1)
        if left > 0 and top > 0 and right < width and bottom < height:
            break
    figure.set_canvas(shown_on)
    # The texts of a figure keep what they were last drawn with, and that keeps all pixels.
    canvas.renderer.__init__(1, 1, DPI)
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
