"""Output to a terminal, a pipe and a file."""

import io

import numpy as np
import pytest

from xrayfast.cli.output import Output
from xrayfast.cli.results import show_metrics
from xrayfast.errors import format_cell, format_estimate
from xrayfast.metrics.summary import summarize

ROWS = [("images/00001601_012.jpg", "0.953 (0.930 to 0.971)", "−0.012 (−0.031 to +0.008)", 1200)]


@pytest.fixture
def printed(monkeypatch):
    """Return a function that prints a table to standard output, optionally of a given width, and returns its lines."""

    def show(columns=None):
        stream = io.StringIO()
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
        Output().table("Title", ["image", "value", "difference", "images"], ROWS)
        return [line.strip() for line in stream.getvalue().splitlines()[3:]]

    return show


def test_names_are_not_truncated_in_a_pipe(printed):
    assert printed() == ["images/00001601_012.jpg  0.953 (0.930 to 0.971)  −0.012 (−0.031 to +0.008)   1,200"]


def test_a_narrow_table_breaks_a_value_before_its_interval(printed):
    first, second = printed(75)
    assert "0.953" in first and "−0.012" in first and "(" not in first
    assert second.endswith("(0.930 to 0.971)     (−0.031 to +0.008)")


def test_if_a_whole_interval_does_not_fit_lines_break_between_numbers(printed):
    text = " ".join(printed(50))
    assert "\ue000" not in text
    for number in ("0.930", "0.971)", "−0.031", "+0.008)"):
        assert number in text


def test_cells():
    assert [format_cell(cell) for cell in (-0.5, 1234567, True, float("nan"), "a")] == [
        "−0.500",
        "1,234,567",
        "True",
        "–",
        "a",
    ]


def test_with_two_classes_the_headline_shows_auroc_and_average_precision_of_the_positive_class(capsys):
    score = np.linspace(0.02, 0.98, 40)
    actual = (np.arange(40) * 7 % 40 < 20 + np.arange(40) / 4).astype(int)
    both = np.column_stack([score, 1 - score])
    truth = np.column_stack([actual, 1 - actual])
    result = summarize(truth, both, ("covid", "normal"), "single", positive="covid", resamples=50)
    show_metrics(Output(), result, "single")
    text = " ".join(capsys.readouterr().out.split())
    (row, _), ends = result["per_label"], result["intervals"]["per_label"]["covid"]
    assert f"AUROC of covid {format_estimate(row['auroc'], ends['auroc'])}" in text
    assert f"Average precision of covid {format_estimate(row['ap'], ends['ap'])}" in text
    assert "AUROC, macro" not in text and "Mean average precision" not in text
