"""One row per metric: complete, with the right direction and denominator, and enough to use it everywhere."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

import xrayfast as xf
from tests.metrics.cases import many_labels, one_class
from tests.workflows.test_compare import kept, told
from xrayfast.config import Monitor
from xrayfast.metrics import registry
from xrayfast.metrics.classification import auroc, recall, specificity
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.registry import (
    AT_THRESHOLD,
    BOTH,
    EXACT_MATCH,
    METRICS,
    Metric,
    epoch_metrics,
    from_counts,
    from_scores,
    headline_metrics,
    label_columns,
    label_metrics,
    mean_over_cells,
    metric_title,
    overall_metrics,
)
from xrayfast.metrics.resamples import Resamples
from xrayfast.metrics.summary import compute_epoch_metrics, summarize
from xrayfast.progress.terminal import format_epoch
from xrayfast.reporting.html.results_tables import all_metrics_table, headline_table, label_tables
from xrayfast.reporting.markdown.model_card import metadata, render_model_card
from xrayfast.reporting.markdown.run_facts import read_run_facts

CASES = {"single": one_class, "multi": many_labels}


def youden(counts):
    return recall(counts) + specificity(counts) - 1


YOUDEN = Metric(
    "youden",
    "Youden's index",
    from_counts(youden),
    averages=("macro",),
    headline=True,
    meaning="Sensitivity and specificity together, less 1.",
    epochs=BOTH,
    short="J",
    hub_name="youden",
)


@pytest.fixture
def with_youden(monkeypatch):
    monkeypatch.setattr(registry, "METRICS", (*METRICS, YOUDEN))


@pytest.mark.parametrize("task", CASES)
def test_one_row_is_enough_for_a_metric_to_be_everywhere(with_youden, tmp_path, task):
    truth, probability = CASES[task](n=60)
    labels = [f"label {i}" for i in range(4)]
    summary = summarize(truth, probability, labels, task, resamples=30)
    row = summary["per_label"][2]
    assert row["youden"] == pytest.approx(row["recall"] + row["specificity"] - 1)
    assert summary["overall"]["youden_macro"] == pytest.approx(np.mean([row["youden"] for row in summary["per_label"]]))
    for intervals in (
        summary["intervals"]["overall"]["youden_macro"],
        summary["intervals"]["per_label"]["label 2"]["youden"],
    ):
        assert intervals["low"] < intervals["high"]
    # The report.
    assert "Youden's index, macro" in [row[0].text for row in all_metrics_table("valid", summary, task).rows]
    headline = headline_table("valid", summary, task).rows[-1][0]
    assert (headline.text, headline.aside) == ("Youden's index, macro", YOUDEN.meaning)
    assert "Youden's index" in [column for table in label_tables("valid", summary)[1] for column in table.columns]
    # Each epoch.
    epoch = compute_epoch_metrics(truth, probability, task)
    assert epoch["youden_macro"] == pytest.approx(summary["overall"]["youden_macro"])
    assert "  J 0.250" in format_epoch(
        {"epoch": 1, "phase": "head", "seconds": 1.0, "valid_youden_macro": 0.25}, best=False
    )
    # Comparison, and the model card.
    run = kept(tmp_path, "a", task, valid=told(truth, probability))
    run.write_metrics({"valid": summary})
    kept(tmp_path, "b", task, valid=told(truth, 0.05 + 0.9 * probability[:, ::-1]))
    compared = xf.compare(tmp_path, order="youden_macro", resamples=30)
    assert compared.table["run"].tolist() == ["a", "b"]
    assert "youden_macro" in compared.metrics
    assert "Youden's index, macro" in render_model_card(read_run_facts(run))
    results = metadata(read_run_facts(run))["model-index"][0]["results"][0]["metrics"]
    assert {"type": "youden", "name": "Youden's index, macro"}.items() <= results[-1].items()


def test_compare_puts_the_smallest_first_if_lower_is_better(monkeypatch, tmp_path):
    missed = Metric(
        "missed", "Missed", from_counts(lambda counts: 1 - recall(counts)), averages=("macro",), higher_is_better=False
    )
    monkeypatch.setattr(registry, "METRICS", (*METRICS, missed))
    truth, probability = one_class(n=60)
    kept(tmp_path, "a", valid=told(truth, probability[::-1]))
    kept(tmp_path, "b", valid=told(truth, probability))
    values = xf.compare(tmp_path, order="missed_macro", resamples=20).table["missed_macro"]
    assert values.is_monotonic_increasing
    assert values[0] < values[1]


@pytest.mark.parametrize("task", CASES)
def test_every_row_is_complete(task):
    for name, metric in headline_metrics(task).items():
        assert metric.meaning.endswith("."), name
    for name, metric in {**overall_metrics(task), **label_metrics(prevalence=True)}.items():
        assert metric_title(name) == metric.title  # the same in every scope
        assert metric.name == name
    names = [metric.name for row in METRICS for metric in row.over_all_labels if task in metric.tasks]
    assert len(set(names)) == len(names)
    assert EXACT_MATCH[task] in overall_metrics(task)
    assert metric_title("nothing") == "nothing"


def test_the_monitored_metrics_are_those_per_epoch_for_which_higher_is_better():
    assert get_args(Monitor) == ("auto", "valid_loss", *epoch_metrics())
    assert all(metric.higher_is_better and metric.short for metric in epoch_metrics().values())


def test_tables_by_label_show_the_most_used_metrics_that_they_have_room_for():
    tables = [label_columns(table) for table in ("narrow", "wide", "page", "full")]
    assert all(set(small) < set(large) for small, large in pairwise(tables))
    assert tables[0] == ("auroc", "recall", "specificity")
    assert set(tables[-1]) <= set(label_metrics())
    assert AT_THRESHOLD == ("recall", "specificity", "precision", "npv")


@pytest.mark.parametrize("task", CASES)
def test_the_direction_is_right(task):
    truth, _ = CASES[task](n=80)
    other = np.roll(truth, 1, axis=1) if task == "single" else 1 - truth
    good, bad = (
        ResampledMetrics(truth, 0.97 * called + 0.03 / truth.shape[1], task, prevalence=0.2)
        for called in (truth, other)
    )
    for name, metric in overall_metrics(task).items():
        assert (good.overall[name] > bad.overall[name]) == metric.higher_is_better, name
    for name, metric in label_metrics(prevalence=True).items():
        assert ((good.per_label[name] > bad.per_label[name]) == metric.higher_is_better).all(), name


@pytest.mark.parametrize("task", CASES)
def test_a_proportion_is_counted_over_its_denominator(task):
    truth, probability = CASES[task](n=97)
    truth[:3] = -1
    split = ResampledMetrics(truth, probability, task)
    cells = {
        "unmasked": truth >= 0,
        "positive": truth == 1,
        "negative": truth == 0,
        "predicted positive": (truth >= 0) & (split.predicted == 1),
        "predicted negative": (truth >= 0) & (split.predicted == 0),
    }
    for name, metric in label_metrics().items():
        if metric.denominator:
            count = split.per_label[name] * cells[metric.denominator].sum(axis=0)
            np.testing.assert_allclose(count, count.round(), atol=1e-9, err_msg=name)
    for name, metric in overall_metrics(task).items():
        if metric.denominator:
            cell = cells[metric.denominator]
            count = split.overall[name] * (cell.sum() if name.endswith("_micro") else cell.any(axis=1).sum())
            assert count == pytest.approx(round(count), abs=1e-9), name


def test_a_function_of_scores_is_called_for_each_resample_and_label():
    truth, probability = many_labels(n=50, hidden=0.2)
    split = ResampledMetrics(truth, probability, "multi", np.arange(50) // 2)
    resamples = Resamples(split, np.random.default_rng(0).integers(0, 3, (5, split.n_units)).astype(float))
    slow = Metric("slow", "Slow", from_scores(auroc), averages=("micro",))
    np.testing.assert_allclose(slow.compute(resamples), label_metrics()["auroc"].compute(resamples), atol=1e-12)
    (micro,) = slow.over_all_labels
    np.testing.assert_allclose(
        micro.compute(resamples), overall_metrics("multi")["auroc_micro"].compute(resamples), atol=1e-12
    )


def test_a_micro_average_is_over_the_cells_of_all_labels():
    truth, probability = many_labels(n=50, hidden=0.2)
    split = ResampledMetrics(truth, probability, "multi", np.arange(50) // 2)
    drawn = np.random.default_rng(0).integers(0, 3, (5, split.n_units))
    squared = Metric("squared", "Squared", mean_over_cells(lambda t, p: (t - p) ** 2), averages=("micro",))
    (micro,) = squared.over_all_labels
    times = drawn[:, split.unit][..., None] * (truth >= 0)
    np.testing.assert_allclose(
        micro.compute(Resamples(split, drawn)),
        (times * (truth - probability) ** 2).sum(axis=(1, 2)) / times.sum(axis=(1, 2)),
    )
