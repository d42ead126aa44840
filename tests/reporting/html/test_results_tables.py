"""Every number in a table of results is in `metrics.json`, with the same value."""

import dataclasses
import re

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from tests.decisions import fit_decision
from tests.reporting.samples import LABELS, evaluation, numbers, report, split_report, visible
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.registry import metric_title
from xrayfast.reporting.html.decision_section import decision_section
from xrayfast.reporting.html.pages.evaluation_page import render_evaluation_page
from xrayfast.reporting.html.pages.run_page import render_run_page
from xrayfast.reporting.html.results_tables import (
    all_metrics_table,
    binary_table,
    by_patient_table,
    confused_table,
    delong_table,
    fold_table,
    label_tables,
    thresholds_table,
)
from xrayfast.reporting.html.split_section import intervals_text, split_section
from xrayfast.reporting.html.subgroup_tables import subgroup_sections
from xrayfast.reporting.html.tables import number_cell
from xrayfast.reporting.wording import interval_methods

CELL = re.compile(r'(?s)<td class="num"(?: data-value="([^"]*)")?>(.*?)</td>')


@pytest.fixture(scope="module", params=["single", "multi"])
def task(request):
    return request.param


@pytest.fixture(scope="module")
def made(task):
    return split_report(task, LABELS[task], n=120)


def number(text):
    """Parse a displayed number."""
    return float(text.replace(",", "").replace("−", "-"))


def tables(page):
    """Return the cells of each table by its id, as (value, text, stored limits, displayed limits)."""
    found = {}
    for table in re.findall(r"(?s)<table.*?</table>", page):
        id = re.search('<caption id="([^"]*)"', table)[1]
        cells = []
        for value, content in CELL.findall(table):
            text = re.sub(r'(?s)<span class="(interval|aside)".*', "", content)
            ends = re.findall('data-(?:low|high)="([^"]*)"', content)
            shown = re.search(r'(?s)class="interval"[^>]*>(.*?)<', content)
            cells.append((value, visible(text).strip(), ends, shown[1].split(" to ") if shown else []))
        found[id] = cells
    return found


@pytest.mark.parametrize("kind", ["report", "evaluation"])
def test_every_number_of_the_results_is_in_the_metrics(undrawn, task, kind):
    if kind == "report":
        data = report(task, splits=("valid", "test"), n=60)
        page, splits = render_run_page(data), data.splits
    else:
        data = evaluation(task, n=60)
        page, splits = render_evaluation_page(data), [data.split]
    stored = {"decision": numbers(data.decision.to_json())}
    stored |= {split.name: numbers(split.summary) for split in splits}
    seen = 0
    for id, cells in tables(page).items():
        there = stored.get(id.split("-")[0], stored["decision"])
        if id in ("counts", "epochs", "train-and-valid"):  # from run.json and history.csv
            continue
        for value, text, ends, shown in cells:
            if not value:
                assert text.startswith("—"), (id, text)
                continue
            assert float(value) in there, (id, value)
            digits = len(text.partition(".")[2])
            assert number(text) == pytest.approx(float(value), abs=0.5001 * 10**-digits), (id, text)
            assert {float(end) for end in ends} <= there, (id, ends)
            assert [number(end) for end in shown] == pytest.approx([float(end) for end in ends], abs=0.00051)
            seen += 1 + len(ends)
    assert seen > 300


def test_the_overall_table_has_all_metrics_and_the_first_table_has_a_few(undrawn, made, task):
    summary = made[0].summary
    everything = all_metrics_table("valid", summary, task)
    values = [row[1].value for row in everything.rows]
    assert values == list(summary["overall"].values())
    assert len(split_section(made[0], task)["tiles"]) <= 6 < 20 < len(everything.rows)
    assert {row[2].text for row in everything.rows} >= {
        "expanded BCa bootstrap",
        "bootstrap test inversion",
        "Wilson with effective sample size",
    }


def test_all_metrics_of_each_label_are_in_one_table(made):
    summary = made[0].summary
    first, others = label_tables("valid", summary)
    shown = sum(len(table.columns) - 1 for table in (first, *others))
    assert shown == len(summary["per_label"][0]) - 1
    assert all(len(table.columns) <= 9 for table in (first, *others))


def test_intervals_are_described_once_with_their_units(made):
    summary = made[0].summary
    units = summary["intervals"]["units"]
    assert intervals_text(summary) == (
        f"95% confidence intervals ({interval_methods(summary)}) from {units} patients; "
        "bootstrap intervals are from 25 resamples."
    )
    by_image = {"level": 0.9, "resamples": 1000, "units": 1200, "by": "image"}
    assert intervals_text({"intervals": by_image}) == (
        "90% confidence intervals (bootstrap) from 1,200 images; bootstrap intervals are from 1,000 resamples. "
        "Patients are not known, so images were resampled."
    )
    assert intervals_text({}) == ""


def test_delong_is_shown_next_to_the_bootstrap(made):
    summary = made[0].summary
    rows = delong_table("valid", summary).rows
    assert len(rows) == len(summary["per_label"])
    first = summary["intervals"]["delong"][summary["per_label"][0]["label"]]
    assert (rows[0][2].interval.low, rows[0][2].interval.high) == (first["low"], first["high"])
    assert rows[0][1].interval != rows[0][2].interval


def test_operating_points_have_exact_intervals_of_their_counts():
    stats = pytest.importorskip("scipy.stats")
    truth = np.array([[1, 0, 1]] * 9 + [[0, 0, 1]] * 11)
    raw = np.linspace(0.9, 0.1, 20)[:, None].repeat(3, axis=1)
    decision = fit_decision(truth, raw, ("a", "none", "all"), "multi", rule="youden", calibrate=False)
    first, none, every = thresholds_table(decision).rows
    matrix = confusion_matrix(truth[:, 0], raw[:, 0] >= first[1].value)
    assert (first[2].value, first[3].value) == (matrix[1, 1] / 9, matrix[0, 0] / 11)
    for cell, images in ((first[2], 9), (first[3], 11)):
        exact = stats.binomtest(images, images).proportion_ci()
        assert (cell.interval.low, cell.interval.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert [cell.text for cell in first[4:]] == ["9", "11", "chosen"]
    assert none[1].text is None and none[1].aside == "0.5 is used" and none[6].text == "no image with the label"
    assert every[6].text == "no image without the label"


def test_counts_are_below_their_titles_and_mistakes_are_shares_of_the_actual_class():
    truth, predicted = np.array([1] * 3 + [0] * 9), np.array([1, 0, 0] + [1] * 4 + [0] * 5)
    table = binary_table("valid", {"a": confusion_matrix(truth, predicted).tolist()})
    assert dict(zip(table.columns[1:], (cell.value for cell in table.rows[0][1:]), strict=True)) == {
        "True negative": 5, "False positive": 4, "False negative": 2, "True positive": 1,
    }  # fmt: skip
    mistakes = [{"actual": "rare", "predicted": "frequent", "count": 3}]
    supports = [{"label": "rare", "support": 4}, {"label": "frequent", "support": 600}]
    table = confused_table("valid", {"per_label": supports, "most_confused": mistakes})
    assert [cell.text for cell in table.rows[0]] == ["rare", "frequent", "3"] and table.rows[0][2].aside == "75.0%"


def test_folds_are_summarized_below_their_titles_and_by_image_minus_by_patient():
    spread = {"accuracy": {"folds": 2, "mean": 0.7, "sd": 0.14, "lowest": 0.6, "highest": 0.8}}
    folds = [
        {
            "fold": i,
            "repeat": 1,
            "run": f"fold{i}",
            "images": 9,
            "patients": 4,
            "best_epoch": i,
            "overall": {"accuracy": v},
        }
        for i, v in ((1, 0.6), (2, 0.8))
    ]
    overall = {"accuracy": 0.7}
    metrics = {"folds": folds, "repeats": [overall], "spread": spread, "valid": {"overall": overall}}
    table = fold_table(metrics, "single", "folds")
    assert {row[0].text: row[5].value for row in (*table.rows, *table.totals)} == {
        "1": 0.6, "2": 0.8, "Mean": 0.7, "Standard deviation": 0.14, "Lowest": 0.6, "Highest": 0.8,
    }  # fmt: skip
    beside = by_patient_table({**metrics, "by_patient": {"name": "cv", "overall": {"accuracy": 0.6}}}, "single")
    (row,) = (row for row in beside.rows if row[0].text == metric_title("accuracy"))
    assert [cell.value for cell in row[1:]] == pytest.approx([0.7, 0.6, 0.1])


@pytest.mark.parametrize("calibrate", [True, False])
def test_calibration_and_thresholds_are_described_in_words(task, calibrate):
    shown = split_report(task, LABELS[task])[0].predictions
    rule = "sensitivity" if task == "multi" else None
    target = 0.9 if task == "multi" else None
    decision = fit_decision(shown.truth, shown.raw, shown.labels, task, rule=rule, target=target, calibrate=calibrate)
    view = decision_section(decision)
    words = (
        {"single": "Temperature scaling", "multi": "Platt"}[task] if calibrate else "Probabilities were not calibrated"
    )
    assert words in view["calibration_text"]
    assert ("at least 0.9" in view["thresholds_text"]) == (task == "multi")
    assert (view["scalings"] is not None) == (task == "multi" and calibrate)
    plain = decision_section(Decision("multi", ("a", "b")))
    assert "probability of 0.5 or more" in plain["thresholds_text"] and plain["thresholds"] is None


def test_subgroups_have_a_table_each_and_the_largest_gaps_in_words(made, task):
    found = made[0].summary["subgroups"]
    by_sex, by_view = subgroup_sections("valid", found, task)
    assert [row[0].text for row in by_sex["table"].rows] == ["F", "M"]
    assert [row[1].value for row in by_view["table"].rows] == [group["images"] for group in found[1]["groups"]]
    gap = found[0]["gaps"][0]
    assert by_sex["gaps_text"].startswith("The largest gaps: ")
    assert f"{gap['highest_value']:.3f} for {gap['highest']} and {gap['lowest_value']:.3f}" in by_sex["gaps_text"]
    clear = sum(one["p_corrected"] < 0.05 for one in found[0]["gaps"])
    assert f" {clear} of {len(found[0]['gaps'])} gaps have a p below 0.05, corrected" in by_sex["gaps_text"]
    assert f"; p {gap['p_corrected']:.2g})" in by_sex["gaps_text"]
    assert "whose sex is unknown" in by_sex["notes"][0]
    assert by_sex["by_label"][0].columns[1] == "F" and len(by_sex["by_label"][0].rows) == len(LABELS[task])
    nothing = subgroup_sections("valid", [{**found[0], "gaps": []}], task)[0]
    assert nothing["gaps"] is None and nothing["gaps_text"].startswith("No two groups")


def test_a_number_without_a_value_has_no_interval():
    assert number_cell(None, interval={"low": 0.1, "high": 0.2}).interval is None
    assert number_cell(0.5, interval={"low": None, "high": None}).interval is None
    cell = number_cell(0.5, ".2f", {"low": 0.4, "high": 0.61})
    assert (cell.text, cell.interval.text) == ("0.50", "0.40 to 0.61")


def test_a_fully_masked_split_is_described_as_masked(undrawn):
    split, _ = split_report("multi", LABELS["multi"], divided=False, resamples=0)
    empty = dataclasses.replace(split, summary={**split.summary, "scored": 0})
    assert "masked" in split_section(empty, "multi")["words"]
