"""Figures as pixels and as files."""

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
from PIL.PngImagePlugin import PngInfo

from xrayfast.errors import ConfigError
from xrayfast.files.atomic import write_bytes

DPI = 160

MARGIN = 0.12
"""Margin around the drawing, in inches."""

PNG_LEVEL = 3
"""Compression level of zlib: a radiograph takes half the time of the default 6, and an eighth more bytes."""

FORMATS = ("png", "svg", "pdf")
"""File formats of figures."""


def rasterize(figure: Figure, transparent: bool = False) -> Image.Image:
    """Return the figure as RGBA pixels, 160 per inch, without a background, cropped to the drawing and a margin.

    `savefig` would draw the figure twice to find the crop, and encode it. An element that begins more than an inch
    outside the figure can be missed.
    """
    return _cut(_draw(figure, transparent)[0])


def rasterize_without_foot(figure: Figure, foot: float) -> tuple[Image.Image, Image.Image]:
    """Draw the figure once, without any background; return it without its lowest `foot` inches, and whole.

    Both are cropped as in `rasterize`.
    """
    image, around = _draw(figure, transparent=True)
    return _cut(image.crop((0, 0, image.width, image.height - round((around + foot) * DPI)))), _cut(image)


def _draw(figure: Figure, transparent: bool) -> tuple[Image.Image, int]:
    """Return the pixels of a figure with a border around it, and the width of the border in inches."""
    background: dict[str, Any] = {"transparent": True} if transparent else {"facecolor": "none"}
    shown_on, canvas = figure.canvas, FigureCanvasAgg(figure)
    for around in (1, 4, 16):  # some legends are outside their figure
        width, height = (round(side * DPI) + 2 * around * DPI for side in figure.get_size_inches())
        # Half a pixel more, since matplotlib rounds down.
        box, buffer = Bbox.from_bounds(-around, -around, (width + 0.5) / DPI, (height + 0.5) / DPI), io.BytesIO()
        figure.savefig(buffer, format="rgba", dpi=DPI, bbox_inches=box, **background)
        image = Image.fromarray(np.frombuffer(buffer.getbuffer(), np.uint8).reshape(height, width, 4))
        left, top, right, bottom = image.getbbox() or (1, 1, 1, 1)
        if left > 0 and top > 0 and right < width and bottom < height:
            break
    figure.set_canvas(shown_on)
    # The texts of a figure keep a reference to the renderer, which would keep all pixels in memory.
    canvas.renderer.__init__(1, 1, DPI)
    return image, around


def _cut(image: Image.Image) -> Image.Image:
    """Crop to what is not transparent, and a margin."""
    margin, (left, top, right, bottom) = round(MARGIN * DPI), image.getbbox() or (1, 1, 1, 1)
    return image.crop((left - margin, top - margin, right + margin, bottom + margin))


def png_on_white(image: Image.Image) -> bytes:
    """Encode pixels of `rasterize` as a PNG on white."""
    white, buffer, info = Image.new("RGB", image.size, "white"), io.BytesIO(), PngInfo()
    white.paste(image, mask=image)
    info.add_text("Software", "xrayfast")  # by which `files.writable` recognizes it
    white.save(buffer, "PNG", dpi=(DPI, DPI), compress_level=PNG_LEVEL, pnginfo=info)
    return buffer.getvalue()


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as a PNG of 160 dots per inch, cropped to the drawing; the same figure gives the same bytes."""
    return png_on_white(rasterize(figure))


def save(figure: Figure, path: Path) -> None:
    """Write the figure atomically, in the format of the path's suffix, one of `FORMATS`.

    Raises:
        WriteError: the file can't be written.
        ConfigError: the path has another ending.
    """
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise ConfigError(f"{path}: found the ending '{path.suffix}'; expected .{', .'.join(FORMATS)}.")
    write_bytes(path, png_bytes(figure) if kind == "png" else _vector_bytes(figure, kind))


def parse_formats(found: Sequence[str] | str) -> tuple[str, ...]:
    """Return the formats of figures as a tuple, from one name, several, or names joined as in "png,svg".

    Raises:
        ConfigError: a name is not in `FORMATS`, or there is none.

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
    # Without a fixed salt, the ids in the file would differ each time.
    with rc_context({"svg.hashsalt": "xrayfast"}):
        figure.savefig(buffer, format=kind, bbox_inches="tight", pad_inches=MARGIN, metadata=date)
    return buffer.getvalue()
