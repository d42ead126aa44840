import itertools

import numpy as np
import pytest

from tests.reporting.samples import shows_all, texts
from xrayfast.reporting.figures import matrices
from xrayfast.reporting.figures.encoding import png_bytes
from xrayfast.reporting.figures.layout import LABEL_CHARACTERS


def test_confusion_shows_counts_with_the_share_of_the_row():
    axes = matrices.confusion_figure([[3, 1], [0, 0]], ["a", "b"]).axes[0]
    assert texts(axes)[:4] == ["3\n75%", "1\n25%", "0\n—", "0\n—"]
    assert axes.get_ylabel() == "Actual" and axes.get_xlabel() == "Predicted"
    # The first row is at the top.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert texts(matrices.confusion_figure([[3, 1], [0, 0]], ["a", "b"], normalize=True).axes[0])[1] == "25%"


def test_a_share_close_to_0_or_100_percent_is_not_rounded_to_it():
    assert texts(matrices.confusion_figure([[999, 1], [0, 5]], ["a", "b"]).axes[0])[:2] == [
        "999\n>99%",
        "1\n<1%",
    ]


@pytest.mark.parametrize("n", [1, 20])
def test_long_labels_do_not_overlap(n):
    labels = [f"a label of thirty letters {i:04d}" for i in range(n)]
    figure = matrices.confusion_figure(np.eye(n, dtype=int), labels)
    figure.draw_without_rendering()  # lays out the texts
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert not any(one.overlaps(two) for one, two in itertools.pairwise(boxes))
    slanted = axes.get_xticklabels()
    # The distance of parallel slanted lines is the side of a cell times the sine of the angle.
    side = axes.get_window_extent().width / n
    height = slanted[0].get_fontsize() * figure.dpi / 72
    assert side * np.sin(np.radians(slanted[0].get_rotation())) > height
    assert [text.get_text() for text in slanted] == labels


def test_longer_labels_are_truncated_in_the_middle():
    labels = ["x" * 40 + "-left", "x" * 40 + "-right"]
    axes = matrices.confusion_figure(np.eye(2, dtype=int), labels).axes[0]
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert all(len(text) == LABEL_CHARACTERS and "…" in text for text in shown)
    assert shown[0].endswith("-left") and shown[1].endswith("-right")


def test_text_from_strangers_is_not_read_as_tex():
    bad = r"$\frac{$ _^ \udcff" + "\udcff\n\x00\u202e"
    for figure in (
        matrices.confusion_figure([[1]], [bad]),
        matrices.cooccurrence_figure([[1]], [bad]),
        matrices.binary_figure({bad: [[1, 2], [3, 4]]}),
    ):
        assert png_bytes(figure) and shows_all(figure)


def test_binary_has_one_panel_per_label_with_named_cells():
    counts = {f"label {i}": [[10, 1], [2, 7]] for i in range(7)}
    panels = matrices.binary_figure(counts).axes
    assert [panel.get_title() for panel in panels] == list(counts)
    assert texts(panels[0]) == ["TN\n10\n91%", "FP\n1\n9%", "FN\n2\n22%", "TP\n7\n78%"]


def test_cooccurrence_has_actual_rows_and_predicted_columns():
    axes = matrices.cooccurrence_figure([[5, 2], [0, 3]], ["a", "b"]).axes[0]
    assert texts(axes)[:4] == ["5", "2", "0", "3"]
    assert png_bytes(matrices.cooccurrence_figure([[0, 0], [0, 0]], ["a", "b"]))


def test_with_many_classes_those_with_few_images_are_merged():
    random = np.random.default_rng(0)
    counts = random.integers(0, 9, (6, 6)) + np.diag([50, 10, 40, 30, 5, 20])
    merged, labels = matrices.merge_rare(counts, list("abcdef"), 4)
    assert labels == ["a", "c", "d", "3 others"]
    groups = [[0], [2], [3], [1, 4, 5]]
    assert merged.tolist() == [[int(counts[np.ix_(i, j)].sum()) for j in groups] for i in groups]
    same, labels = matrices.merge_rare(counts, list("abcdef"), 6)
    assert same.tolist() == counts.tolist() and labels == list("abcdef")
