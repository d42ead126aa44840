"""Figures as pixels and image files."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from xrayfast.errors import ConfigError, WriteError
from xrayfast.reporting.case import Case
from xrayfast.reporting.figures import encoding, top_losses
from xrayfast.reporting.figures.layout import message_figure
from xrayfast.reporting.figures.matrices import confusion_figure


def test_no_global_state_is_touched_and_pngs_are_reproducible():
    before = dict(matplotlib.rcParams)
    one, two = (encoding.png_bytes(confusion_figure([[1, 2], [3, 4]], ["a", "b"])) for _ in range(2))
    assert one == two and one.startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before


def test_text_is_drawn_without_tex_even_if_a_matplotlibrc_asks_for_it(monkeypatch, tmp_path):
    def png():
        return encoding.png_bytes(confusion_figure([[1, 2], [3, 4]], [r"\input{a_b}", "50%"]))

    plain = png()
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    assert png() == plain
    encoding.save(confusion_figure([[1, 2], [3, 4]], ["a_b", "c"]), tmp_path / "a.pdf")


def test_a_figure_is_drawn_once_and_cropped_to_its_content(monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "draw", lambda self, *args, real=Figure.draw: drawn.append(real(self, *args)))
    pixels = np.zeros((30, 20), np.uint8)
    figure = top_losses.top_losses_figure([Case("a" * 200, "normal", "covid-19", 0.93, 2.5, pixels)])
    found = Image.open(io.BytesIO(encoding.png_bytes(figure)))
    assert len(drawn) == 1 and figure.dpi == Figure().dpi
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=encoding.DPI)
    whole = Image.open(buffer).convert("RGB")
    box, margin = ImageOps.invert(whole).getbbox(), round(encoding.MARGIN * encoding.DPI)
    expected = ImageOps.expand(whole.crop(box), margin, "white")
    np.testing.assert_allclose(np.asarray(found).astype(int), np.asarray(expected).astype(int), atol=2)


def test_content_outside_the_figure_is_drawn_too():
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, "within")
    assert max(encoding.rasterize(figure).size) < encoding.DPI
    figure.text(0.5, 0.5, "to the right " * 8 + "\n" * 24 + "below", va="top")
    width, height = encoding.rasterize(figure).size
    assert 5 * encoding.DPI < width < 8 * encoding.DPI and 3 * encoding.DPI < height < 5 * encoding.DPI
    figure.clear()
    assert encoding.rasterize(figure).getextrema()[-1] == (0, 0)


def test_a_drawn_figure_keeps_no_pixels_and_draws_the_same_again():
    figure = message_figure("No images")
    canvas, first = figure.canvas, encoding.rasterize(figure)
    assert figure.canvas is canvas
    assert figure.texts[0]._renderer.width == 1, "as large as the drawing"
    assert encoding.rasterize(figure) == first


def test_save_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    encoding.save(Figure(figsize=(1, 1)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_formats_are_one_or_several():
    assert encoding.parse_formats("png") == ("png",)
    assert encoding.parse_formats(["svg", "pdf, PNG", "svg"]) == ("svg", "pdf", "png")
    for wrong in ("", "jpg", ["png", "tif"], []):
        with pytest.raises(ConfigError, match=r"expected png, svg, pdf"):
            encoding.parse_formats(wrong)


def test_a_failed_move_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(WriteError, match=r"figure\.png: can't be written \(Permission denied\)"):
        encoding.save(Figure(figsize=(1, 1)), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]
