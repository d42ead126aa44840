"""The page of a comparison is complete and safe, and shows the numbers of the result."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import xrayfast as xf
from tests.metrics.cases import many_labels, one_class
from tests.workflows.test_compare import better, kept, told
from xrayfast.errors import format_value
from xrayfast.metrics.registry import metric_phrase
from xrayfast.metrics.summary import summarize
from xrayfast.reporting.html.pages import comparison_page
from xrayfast.reporting.html.pages.comparison_page import WARNINGS_OPEN, answer, render_comparison_page

HOSTILE = "<script>alert(1)<{0}\u202e"

PEOPLE = {"sex": np.array(["F", "M"] * 30, dtype=object), "age": np.full(60, 50.0)}

FEW = {"code": "few patients", "text": "Fewer than 10 patients: <b>.", "advice": "Take more."}
CHANCE = {"code": "chance", "text": "AUROC {reference} is not above chance.", "advice": ""}
CHOSEN = {"code": "chosen here", "text": "Chosen on these images.", "advice": ""}


class Page(HTMLParser):
    """Parses a page: tables by id as rows of cell texts, the texts of items and paragraphs, and all start tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.tables, self.items = [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "caption":
            self.rows = self.tables[attrs.get("id")] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag in ("li", "p"):
            self.items.append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data
        if self.items:
            self.items[-1] += data

    def handle_endtag(self, tag):
        if tag == "table":
            self.rows = []

    def body(self, id):
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[id][1:]]


def add_warnings(run, split, warnings):
    valid = run.predictions(split)
    summary = summarize(valid.truth, valid.probability, valid.labels, run.task, groups=valid.groups, resamples=20)
    run.write_metrics({split: summary | {"warnings": warnings}})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A comparison of three runs, one with a hostile name, with warnings raised by three, two or one of them."""
    root = tmp_path_factory.mktemp("page")
    truth, probability = one_class(n=60)
    labels = ("covid-19", "normal", "pneumonia", "<i>tumour")
    for name, share, warnings in (
        (HOSTILE, 0.05, [CHOSEN, FEW, CHANCE]),
        ("b", 0.0, [CHOSEN, FEW, CHANCE]),
        ("c", 0.3, [CHOSEN, FEW]),
    ):
        predictions = replace(told(truth, better(probability, truth, share), labels), attributes=PEOPLE)
        run = kept(root / "runs", name, valid=predictions)
        add_warnings(run, "valid", warnings)
    page = root / "comparison.html"
    found = xf.compare(root / "runs", resamples=30, seed=2, page=page, by="sex")
    return found, page.read_text("utf-8")


def test_the_page_describes_the_population_and_compares_by_subgroup(made):
    found, text = made
    page = Page(text)
    assert "Patients: 50.0% female, 50.0% male, median age 50, quartiles 50 and 50. Not known: view." in text
    rows = page.body("by-0")
    assert [row[:3] for row in rows] == [
        [sex, run, "30"] for sex in "FM" for run in ("<script>alert(1)<{0}\\u202e", "b")
    ]  # fmt: skip
    record = found.subgroups.iloc[0]
    ends = " to ".join(format_value(record[end], "+.3f") for end in ("low", "high"))
    assert rows[0][3] == f"{format_value(record['difference'], '+.3f')} {ends}"
    assert "not corrected for multiple comparisons" in text and "--by sex" in text


def test_the_answer_names_what_is_significant(made):
    found, _ = made
    clear = found.differences[found.differences["significant"].isin([True])]
    told = answer(found)[-1]
    assert (
        len(clear)
        and f"{len(clear)} are significant after correction for multiple testing: " in told
        and metric_phrase(clear["metric"].iloc[0]) in told
    )
    none = answer(replace(found, differences=found.differences.assign(significant=False)))[-1]
    assert none == "Of 15 tests, none is significant after correction for multiple testing."


def test_the_tables_contain_the_numbers_of_the_result(made):
    found, text = made
    page = Page(text)
    rows = page.body("runs")
    assert [row[0] for row in rows] == ["c reference", "<script>alert(1)<{0}\\u202e", "b"]
    for row, record in zip(rows, found.table.to_dict("records"), strict=True):
        assert row[1] == "60"
        for cell, name in zip(row[2:], found.metrics, strict=True):
            ends = (format_value(record[f"{name}_{end}"]) for end in ("low", "high"))
            assert cell == f"{format_value(record[name])} {' to '.join(ends)}"
    differences = found.differences
    whole = differences[differences["label"] == ""]
    shown = page.body("differences")
    assert len(shown) == 2
    for row in shown:
        record = whole[(whole["run"].str[0] == row[0][0]) & (whole["metric"] == "accuracy")].iloc[0]
        assert row[1:3] == ["60", " ".join([format_value(record["difference"], "+.3f"),
                            " to ".join(format_value(record[end], "+.3f") for end in ("low", "high"))])]  # fmt: skip
    tests = page.body("by-label")
    assert len(tests) == 2 * 4 == (differences["label"] != "").sum()
    record = differences[(differences["run"] == "b") & (differences["label"] == "normal")].iloc[0]
    row = next(row for row in tests if row[:2] == ["b", "AUROC, normal"])
    p, corrected = (f"{x:.3f}" if x >= 0.001 else "<0.001" for x in (record["p"], record["p_corrected"]))
    assert row[3:] == ["DeLong", p, corrected, "yes" if record["significant"] else "no"]
    assert len(page.body("tests")) == 2 and "corrected for 15 tests" in text


def test_each_warning_is_shown_once_before_the_tables_with_the_runs_that_raise_it(made):
    found, text = made
    assert found.warnings[0].startswith("These are validation images.")
    assert found.warnings[1:] == (
        "Every run: Fewer than 10 patients: <b>. Take more.",
        f"{HOSTILE}, b: AUROC {{reference}} is not above chance.",
    )
    start, end = text.index('<ul class="warnings">'), text.index('id="runs-section"')
    assert start < end
    shown = Page(text[start:end]).items
    for warning in found.warnings:
        assert sum(warning[:60].replace("\u202e", "\\u202e") in item for item in shown) == 1
    assert "Warnings are not known" not in text
    assert found.warnings[2].replace("\u202e", "\\u202e") in "".join(Page(found._repr_html_()).items)


def test_many_warnings_are_folded(made):
    found, _ = made
    text = render_comparison_page(replace(found, warnings=tuple(f"w{i}." for i in range(9))), "today", "x")
    assert f"Further warnings ({9 - WARNINGS_OPEN})" in text


def test_runs_without_a_list_of_warnings_are_named(tmp_path):
    truth, probability = one_class(n=30)
    for name in "ab":
        run = kept(tmp_path, name, test=told(truth, probability))
    add_warnings(run, "test", [])
    found = xf.compare(tmp_path, resamples=10)
    assert not found.warnings
    assert "Warnings are not known for a, because an older version wrote the results" in found.notes[-1]


def test_names_from_strangers_are_escaped_and_the_page_loads_nothing(made):
    _, text = made
    assert "<script>alert" not in text and "<i>tumour" not in text and "\u202e" not in text
    assert "&lt;script&gt;alert(1)&lt;" in text and "&lt;i&gt;tumour" in text
    page = Page(text)
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith(("data:", "#")), (tag, attrs)
    assert "default-src &#39;none&#39;" in text and "not for diagnosis" in text
    targets = {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"}
    assert targets <= {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert len(re.findall("<script", text)) == 1


def test_the_command_in_the_page_reproduces_it(made):
    found, text = made
    command = re.search(r"(?s)<pre[^>]*><code>(.*?)</code>", text)[1]
    assert command.startswith("xrayfast compare ")
    for words in ("--split valid", "--order auroc_macro", "--resamples 30", "--seed 2", f"--page {found.page}"):
        assert words in command
    assert "--reference" not in command  # the reference was chosen by its result, as the notes say


def test_the_answer_counts_intervals_without_zero_and_significant_tests(made):
    found, _ = made
    pairs = found.differences
    whole = pairs[(pairs["metric"] == "auroc_macro") & (pairs["label"] == "")].assign(
        low=[-0.3, -0.1], high=[-0.1, 0.1]
    )
    labels = pairs[pairs["label"] != ""]
    labels = labels.assign(significant=[True, True, True, *[False] * (len(labels) - 3)])
    first, second, third = answer(replace(found, differences=pd.concat([whole, labels])))
    value = format_value(found.table["auroc_macro"][0])
    assert first.startswith(f"Of 3 runs, c has the best macro AUROC: {value} (")
    assert "the difference from c excludes 0 for 1 of 2 other runs: " in second and second.endswith(
        "−0.300 to −0.100)."
    )
    assert third.startswith("Of 15 tests, 3 are significant after correction for multiple testing: ")
    alone = replace(found, differences=pairs.iloc[:0], tests=0)
    assert answer(alone)[1:] == ["No other run could be compared with c on the same images."]
    assert "No other run could be compared" in render_comparison_page(alone, "today", "x")
    undefined = replace(found, table=found.table.assign(auroc_macro=np.nan))
    assert answer(undefined) == ["Macro AUROC is not defined for any run."]
    assert render_comparison_page(undefined, "today", "x")


def test_a_multi_label_comparison_with_masked_cells_has_all_labels(tmp_path):
    truth, probability = many_labels(n=60, labels=14, hidden=0.1)
    labels = [f"label-{i}" for i in range(14)]
    for name, share in (("a", 0.0), ("b", 0.3)):
        values = better(probability, np.where(truth < 0, 0.5, truth), share)
        kept(tmp_path, name, "multi", [0.5] * 14, test=told(truth, values, labels))
    xf.compare(tmp_path, resamples=10, page=tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    assert [row[1] for row in page.body("by-label")] == [f"AUROC, {label}" for label in labels]
    assert len(page.body("runs")) == 2


def test_a_forest_plot_shows_each_run_with_its_interval(made, monkeypatch):
    found, text = made
    assert [tag for tag, attrs in Page(text).tags if attrs.get("class") == "plot wide"] == ["img"]
    drawn = []
    monkeypatch.setattr(comparison_page, "plot", lambda figure, *words: drawn.append(figure))
    comparison_page.forest_plot(found)
    names = ("auroc_macro", "accuracy", "f1_macro")
    for axes, name in zip(drawn[0].axes, names, strict=True):
        ends = [line.get_xdata() for line in axes.lines if line.get_gid() == "interval"]
        np.testing.assert_allclose(ends, found.table[[f"{name}_low", f"{name}_high"]])
        values = [line.get_xdata()[0] for line in axes.lines if line.get_gid() == "value"]
        np.testing.assert_allclose(values, found.table[name])
