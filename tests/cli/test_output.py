"""Output to a terminal, a pipe and a file."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest

from xrayfast.audit.findings import Finding
from xrayfast.cli.commands.check import show_problems
from xrayfast.cli.output import Output
from xrayfast.cli.results import show_metrics
from xrayfast.errors import format_cell, format_estimate
from xrayfast.metrics.summary import summarize

ROWS = [("images/00001601_012.jpg", "0.953 (0.930 to 0.971)", "−0.012 (−0.031 to +0.008)", 1200)]


@pytest.fixture
def printed(monkeypatch):
    """Return a function that prints a table to standard output, optionally of a given width, and returns its lines."""

    def show(width=None, columns=("image", "value", "difference", "images"), rows=ROWS, text_columns=1):
        stream = io.StringIO()
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.delenv("COLUMNS", raising=False)
        if width:
            monkeypatch.setenv("COLUMNS", str(width))
        Output().table("Title", columns, rows, text_columns)
        return [line.strip() for line in stream.getvalue().splitlines()[2:]]

    return show


def test_names_are_not_truncated_in_a_pipe(printed):
    assert printed()[1:] == ["images/00001601_012.jpg  0.953 (0.930 to 0.971)  −0.012 (−0.031 to +0.008)   1,200"]


def test_a_table_as_wide_as_the_terminal_is_printed_side_by_side(printed):
    assert printed(11, ("label", "size"), [("a", "0.99")]) == ["label  size", "a      0.99"]


def test_several_notes_on_images_are_one_line(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    of_images = [Finding("dark", "note", f"{n} images nearly black", "Check them.", n, ("a.png",)) for n in (2, 3, 4)]
    others = [Finding("shortcut", "warning", "A shortcut", "Balance it.", 1), Finding("rare", "note", "Rare", "", 1)]
    show_problems(Output(), [*others, *of_images])
    assert stream.getvalue().splitlines() == [
        "Warning: A shortcut. Balance it.",
        "Note: Rare.",
        "Note: 2 images nearly black; 3 images nearly black; 4 images nearly black. "
        "The page says what to do about each.",
    ]
    show_problems(Output(), of_images[:2])
    assert stream.getvalue().endswith(
        "Note: 2 images nearly black. Check them.\nNote: 3 images nearly black. Check them.\n"
    )


def test_a_narrow_table_breaks_a_value_before_its_interval(printed):
    _, first, second = printed(73)
    assert "0.953" in first and "−0.012" in first and "(" not in first
    assert second.split("  ") == ["(0.930 to 0.971)", " (−0.031 to +0.008)"]


def test_a_narrow_table_wraps_the_columns_of_short_words_and_breaks_no_interval(printed):
    columns = ["run", "metric", "difference", "p", "p, corrected", "significant"]
    row = ("resnet18-1", "AUROC pneumonia", "−0.006 (−0.199 to +0.196)", "0.960", "1.000", "no")
    assert [line.split() for line in printed(80, columns, [row])[1:]] == [
        ["resnet18-1", "AUROC", "−0.006", "0.960", "1.000", "no"],
        ["pneumonia", "(−0.199", "to", "+0.196)"],
    ]


def test_if_the_words_of_a_row_do_not_fit_side_by_side_each_cell_gets_a_line(printed):
    assert printed(36, rows=[*ROWS, ("b.jpg", "0.9", None, 5)]) == [
        "image       images/00001601_012.jpg",
        "value       0.953 (0.930 to 0.971)",
        "difference  −0.012",
        "(−0.031 to +0.008)",
        "images      1,200",
        "",
        "image       b.jpg",
        "value       0.9",
        "difference  –",
        "images      5",
    ]


def test_a_confusion_matrix_that_does_not_fit_is_divided_by_columns(printed):
    labels = [f"class-{i}" for i in range(10)]
    matrix = [(label, *(10 * row + i for i in range(10))) for row, label in enumerate(labels)]
    groups = "\n".join(printed(40, ["actual", *labels], matrix)).split("\n\n")
    assert len(groups) == 4
    found = [list(zip(*(line.split() for line in group.splitlines()), strict=True)) for group in groups]
    assert all(columns[0] == ("actual", *labels) for columns in found)
    columns = [column for columns in found for column in columns[1:]]
    assert [name for name, *_ in columns] == labels
    assert [[int(cell) for cell in cells] for _, *cells in columns] == [list(range(i, 100, 10)) for i in range(10)]


def test_a_divided_table_repeats_only_the_columns_that_tell_its_rows_apart(printed):
    words, numbers = [f"word-{i}" for i in range(5)], [f"number-{i}" for i in range(5)]
    rows = [("one", *"abcd", *range(5)), ("two", *"abcd", *range(5))]
    assert " ".join(printed(40, [*words, *numbers], rows, 5)).count("word-1") == 1
    of_pairs = [("one", name, *range(9)) for name in ("x", "y")]
    groups = "\n".join(printed(40, ["by", "run", *words, *numbers[:4]], of_pairs, 2)).split("\n\n")
    assert len(groups) > 1 and all(group.split()[:2] == ["by", "run"] for group in groups)


def test_if_a_whole_interval_does_not_fit_lines_break_between_numbers(printed):
    header, *lines = printed(60)
    assert header.split() == ["image", "value", "difference", "images"]
    text = " ".join(lines)
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


def test_a_width_of_0_does_not_hide_the_output(printed):
    assert printed("0")[1:] == ["images/00001601_012.jpg  0.953 (0.930 to 0.971)  −0.012 (−0.031 to +0.008)   1,200"]


def test_a_width_of_0_does_not_hide_help_and_errors():
    command = [sys.executable, "-m", "xrayfast", "fit", "--nonsense"]
    ended = subprocess.run(command, env=os.environ | {"COLUMNS": "0"}, capture_output=True, text=True)
    assert (ended.returncode, "No such option: --nonsense" in ended.stderr) == (2, True)
