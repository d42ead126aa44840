import numpy as np
import pytest
from matplotlib.patches import Rectangle

from tests.reporting.samples import shows_all, texts
from xrayfast.reporting.figures import overlays
from xrayfast.reporting.figures.encoding import png_bytes
from xrayfast.reporting.figures.overlays import SaliencyCase, overlay, overlays_figure

FILM = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)


def case(**changed):
    shown = {
        "image": "a.png", "label": "pneumonia", "probability": 0.876, "actual": "normal", "predicted": "pneumonia",
        "pixels": FILM, "heat": np.eye(4), "outside": 0.345, "thorax": (0.1, 0.2, 0.9, 0.8),
    }  # fmt: skip
    return SaliencyCase(**(shown | changed))


def test_without_heat_the_radiograph_is_unchanged():
    radiograph = np.random.default_rng(1).integers(0, 256, (30, 50), dtype=np.uint8)
    plain = overlay(radiograph, np.zeros((3, 5)))
    assert plain.shape == (30, 50, 3) and plain.dtype == np.uint8
    assert (plain == radiograph[..., None]).all()
    heat = np.zeros((3, 5))
    heat[0, 4] = 1
    laid = overlay(radiograph, heat)
    assert (laid[:, :30] == radiograph[:, :30, None]).all()
    assert (laid[20:] == radiograph[20:, :, None]).all()
    assert (laid[:5, 45:] != radiograph[:5, 45:, None]).any(axis=2).all()


@pytest.mark.parametrize("shape", [(40, 80), (80, 40)])
@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_only_the_hot_corner_is_colored(shape, corner):
    heat = np.zeros((5, 4))
    heat[corner] = 1
    laid = overlay(np.full(shape, 128, np.uint8), heat).astype(int)
    color = laid.max(axis=2) - laid.min(axis=2)
    hottest = np.unravel_index(color.argmax(), shape)
    for place, side, at in zip(hottest, shape, corner, strict=True):
        assert place < side / 5 if at == 0 else place >= side - side / 5
    assert color[shape[0] // 2, shape[1] // 2] == 0


def test_opacity_grows_with_heat_up_to_its_limit():
    """With uniform heat h: (1 - 0.6 h) gray + 0.6 h color(h)."""
    for heat in (0.25, 0.5, 1.0):
        laid = overlay(np.full((8, 8), 100, np.uint8), np.full((2, 2), heat))
        opacity = overlays.OPACITY * heat
        expected = (1 - opacity) * 100 + opacity * 255 * np.array(overlays.COLORS(heat)[:3])
        assert np.abs(laid - expected).max() <= 0.51
    brightness = overlays.COLORS(np.linspace(0, 1, 50))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) > 0).all()


def test_heat_is_enlarged_by_linear_interpolation():
    heat = np.tile([0.0, 1.0], (2, 1))
    laid = overlay(np.zeros((8, 8), np.uint8), heat)
    # The centers of the two cells are at 2 and 6 of 8 pixels: 0 before, 1 after, linear in between.
    fine = np.array([0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1])
    expected = overlays.OPACITY * fine[:, None] * 255 * overlays.COLORS(fine)[:, :3]
    assert np.abs(laid[3] - expected).max() <= 1


def test_each_case_is_shown_next_to_its_overlay_with_its_caption():
    figure = overlays_figure([case(), case(image="b.png", actual="", predicted="", outside=float("nan"))])
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert [image.shape for image in images] == [(40, 40), (40, 40, 3)] * 2
    assert (images[1] == overlay(FILM, np.eye(4))).all()
    first, shown, second, other = texts(figure)
    assert (first, second) == ("a.png", "b.png")
    assert shown.splitlines() == [
        "Explained: pneumonia (0.88)",
        "Actual: normal. Predicted: pneumonia",
        "Heat outside the central thorax: 34%",
    ]
    assert other.splitlines()[1:] == [
        "Actual: no label. Predicted: no label",
        "Heat outside the central thorax: no heat",
    ]
    assert "Dashed: central thorax" in figure.texts[0].get_text()


def test_with_many_labels_whole_names_are_shown_and_the_rest_is_counted():
    figure = overlays_figure([case(predicted=", ".join(f"Pleural_Thickening_{i}" for i in range(9)))])
    lines = texts(figure)[1].splitlines()
    assert lines[1] == "Actual: normal. Predicted: Pleural_Thickening_0, Pleural_Thickening_1,"
    assert lines[2] == "Pleural_Thickening_2, Pleural_Thickening_3, Pleural_Thickening_4, … 4 more"


def test_a_masked_label_is_not_shown_as_absent():
    assert "Actual" not in texts(overlays_figure([case(actual=None)]))[1]


def test_the_central_thorax_is_outlined_only_on_the_overlay():
    figure = overlays_figure([case()])
    boxes = [[p for p in axes.patches if p.get_gid() == "thorax"] for axes in figure.axes[:2]]
    assert boxes[0] == []
    (box,) = boxes[1]
    assert isinstance(box, Rectangle)
    assert (*box.get_xy(), box.get_width(), box.get_height()) == pytest.approx((7.5, 3.5, 24, 32))
    assert not any(axes.patches for axes in overlays_figure([case(thorax=None)]).axes[:2])


def test_pairs_do_not_overlap_nor_leave_the_figure():
    figure = overlays_figure([case(predicted=", ".join(["a long name of a finding"] * 5))] * 5)
    figure.draw_without_rendering()
    edges = figure.bbox
    boxes = [axes.get_window_extent() for axes in figure.axes]
    for axes in figure.axes[:-1]:
        boxes += [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 5 * 4 + 1
    for i, one in enumerate(boxes):
        assert edges.x0 <= one.x0 and one.x1 <= edges.x1 and edges.y0 <= one.y0 and one.y1 <= edges.y1
        assert not any(one.overlaps(two) for two in boxes[i + 1 :])


def test_text_from_strangers_is_not_read_as_tex_and_is_truncated():
    bad = r"$\frac{$ _^ \udcff" + "\udcff\n\x00\u202e"
    figure = overlays_figure([case(image=bad, label=bad, actual=bad, predicted=bad)])
    assert png_bytes(figure) and shows_all(figure)
    name = "x" * 300 + "-end.png"
    shown = texts(overlays_figure([case(image=name)]))[0]
    assert len(shown) == 64 and shown.endswith("-end.png") and "…" in shown


def test_without_cases_the_figure_says_so():
    assert "No images" in overlays_figure([]).texts[0].get_text()
