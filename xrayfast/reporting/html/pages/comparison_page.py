"""The page of a comparison of runs as one self-contained file, and its tables, which notebooks show too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xrayfast.errors import format_estimate, format_interval, format_value, plural, shorten
from xrayfast.metrics.registry import metric_phrase, metric_title, overall_metrics
from xrayfast.reporting.comparison import Comparison, interval_columns, records
from xrayfast.reporting.figures.forest import GUESS, Estimate, ForestRow, forest_figure
from xrayfast.reporting.html.plots import Plot, plot
from xrayfast.reporting.html.render import render_template
from xrayfast.reporting.html.tables import Cell, Table, number_cell
from xrayfast.reporting.wording import population_text

WARNINGS_OPEN = 6


def render_comparison_page(found: Comparison, created: str, command: str) -> str:
    """Return the page as one self-contained HTML document."""
    runs, pairs = records(found.table), records(found.differences)
    by_label = [row for row in pairs if row["label"]]
    return render_template(
        "comparison.html.j2",
        {
            "title": f"Comparison of {plural(len(runs), 'run')}",
            "names": shorten(found.table["run"], 3),
            "created": created,
            "command": command,
            "split": found.split_title,
            "population": "" if found.population is None else population_text({"population": found.population}),
            "answer": answer(found),
            "warnings": [(text, "") for text in found.warnings[:WARNINGS_OPEN]],
            "further_warnings": [(text, "") for text in found.warnings[WARNINGS_OPEN:]],
            "forest": forest_plot(found),
            "facts": _facts(found),
            "runs": runs_table(found, found.metrics),
            "all_metrics": runs_table(found, list(overall_metrics(found.task))),
            "trained": trained_table(found),
            "reference": found.reference,
            "differences": differences_table(found),
            "subgroups": subgroup_tables(found),
            "tests": tests_table(found, [row for row in pairs if row["test"] and not row["label"]], "tests"),
            "by_label": tests_table(found, by_label, "by-label") if by_label else None,
            "notes_on_result": found.notes,
        },
    )


def answer(found: Comparison) -> list[str]:
    """Describe the result of the comparison in sentences."""
    best, title = records(found.table)[0], metric_phrase(found.order)
    if best[found.order] is None:
        return [f"{title[:1].upper()}{title[1:]} is not defined for any run."]
    value = format_estimate(best[found.order], interval_columns(best, found.order))
    told = [f"Of {plural(len(found.table), 'run')}, {best['run']} has the best {title}: {value}."]
    pairs = records(found.differences)
    known = [row for row in pairs if row["metric"] == found.order and not row["label"] and row["low"] is not None]
    if not pairs:
        return [*told, f"No other run could be compared with {found.reference} on the same {found.units}."]
    apart = [row for row in known if row["low"] > 0 or row["high"] < 0]
    differences = (
        f"{row['run']} ({format_value(row['difference'], '+.3f')}; {format_interval(row['low'], row['high'], '+.3f')})"
        for row in apart
    )
    described = shorten(differences, 5)
    beyond = f"{len(apart) or 'none'} of {plural(len(known), 'other run')}" + (f": {described}" if apart else "")
    told.append(
        f"On the same {found.units}, the 95% interval of the difference from {found.reference} excludes 0 for {beyond}."
    )
    if found.tests:
        titled = [
            (row, metric_phrase(row["metric"]) + (f" of {row['label']}" if row["label"] else "")) for row in pairs
        ]
        clear = [f"{row['run']} ({title})" for row, title in titled if row["significant"] is True]
        verb = "are" if len(clear) > 1 else "is"
        count = f"{len(clear) or 'none'} {verb} significant after correction for multiple testing"
        which = f": {shorten(clear, 5)}" if clear else ""
        told.append(f"Of {plural(found.tests, 'test')}, {count}{which}.")
    return told


def forest_plot(found: Comparison) -> Plot:
    """Plot the first metrics of each run with intervals, starting with the metric that orders the runs."""
    names = list(dict.fromkeys([found.order, *found.metrics]))[:3]
    titles = [metric_title(name) for name in names]
    title = f"{', '.join(titles)} of each run, with 95% intervals"
    rows = [
        ForestRow(
            row["run"],
            f"{row['images']:,}",
            [Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], GUESS.get(name)) for name in names],
        )
        for row in records(found.table)
    ]
    return plot(forest_figure(rows, titles, 12.6), "runs", title, f"{title}; the numbers are in the table below.")


def _facts(found: Comparison) -> list[tuple[str, str]]:
    shared, units = found.differences if len(found.differences) else found.table, found.units.capitalize()
    facts = [
        ("Split", found.split_title),
        (f"{units} in common" if len(found.differences) else units, _span(shared["images"])),
        ("Patients", _span(shared["patients"])),
        ("Joined by", "" if found.unit == "image" else found.unit_join),
        ("Order", f"{metric_phrase(found.order)}, best first"),
        ("Compared with", found.reference),
        ("Data", shorten(dict.fromkeys(found.table["data"]), 3)),
    ]
    return [(name, value) for name, value in facts if value]


def _span(counts: Any) -> str:
    """Format counts as "60", or as "55 to 60" if they differ; "" if none is known."""
    known = sorted(set(counts.dropna().astype(int)))
    return " to ".join(f"{count:,}" for count in dict.fromkeys(known[:1] + known[-1:]))


def runs_table(found: Comparison, metrics: Any) -> Table:
    """Return one row per run, best first: images, and metrics with their intervals."""
    names = [name for name in metrics if name in found.table]
    rows = [
        [
            Cell(row["run"], aside="reference" if row["run"] == found.reference else ""),
            number_cell(row["images"], ",d"),
            *(number_cell(row[name], interval=interval_columns(row, name)) for name in names),
        ]
        for row in records(found.table)
    ]
    columns = ["Run", found.units.capitalize(), *map(metric_title, names)]
    id = "runs" if tuple(metrics) == found.metrics else "all-metrics"
    return Table(id, f"Sorted by {metric_phrase(found.order)}, with 95% intervals", columns, rows, sortable=True)


def trained_table(found: Comparison) -> Table:
    """Return how each run was trained."""
    words, numbers = ("arch", "head", "trained", "loss"), ("size", "epochs", "seconds")
    rows = [
        [
            Cell(row["run"]),
            *(Cell(str(row[name])) for name in words),
            *(number_cell(row[name], ",.0f") for name in numbers),
            number_cell(None if row["parameters"] is None else row["parameters"] / 1e6, ".3g"),
        ]
        for row in records(found.table)
    ]
    columns = ["Run", *(name.capitalize() for name in (*words, *numbers)), "Parameters, millions"]
    return Table("trained", "How they were trained", columns, rows, words=[name.capitalize() for name in words])


def differences_table(found: Comparison) -> Table:
    """Return one row per run: each metric minus that of the reference, on the images that both have."""
    by_run: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in records(found.differences):
        if not row["label"]:
            by_run.setdefault(row["run"], {})[row["metric"]] = row
    rows = [
        [
            Cell(run),
            number_cell(next(iter(cells.values()))["images"], ",d"),
            *(number_cell(cells[name]["difference"], "+.3f", cells[name]) for name in found.metrics),
        ]
        for run, cells in by_run.items()
    ]
    columns = ["Run", f"{found.units.capitalize()} in common", *map(metric_title, found.metrics)]
    caption = f"Run minus {found.reference}, on the {found.units} that both have, with 95% intervals"
    return Table("differences", caption, columns, rows)


def subgroup_tables(found: Comparison) -> list[Table]:
    """Return a table per column that forms subgroups: a row per subgroup and run, each metric minus the reference's."""
    tables: dict[str, dict[tuple[str, str], dict[str, Mapping[str, Any]]]] = {}
    for row in [] if found.subgroups is None else records(found.subgroups):
        tables.setdefault(row["by"], {}).setdefault((row["value"], row["run"]), {})[row["metric"]] = row
    titles = ["Run", f"{found.units.capitalize()} in common", *map(metric_title, found.metrics)]
    return [
        Table(
            f"by-{i}",
            f"Run minus {found.reference} by {by}, with 95% intervals",
            [by.capitalize(), *titles],
            [
                [
                    Cell(value),
                    Cell(run),
                    number_cell(next(iter(cells.values()))["images"], ",d"),
                    *(number_cell(cells[name]["difference"], "+.3f", cells[name]) for name in found.metrics),
                ]
                for (value, run), cells in groups.items()
            ],
            words=["Run"],
        )
        for i, (by, groups) in enumerate(tables.items())
    ]


def tests_table(found: Comparison, rows: list[dict[str, Any]], id: str, caption: str = "") -> Table:
    """Return a table of rows of `Comparison.differences` with their tests."""
    answers = {True: "yes", False: "no", None: None}
    cells = [
        [
            Cell(row["run"]),
            Cell(metric_title(row["metric"]) + (f", {row['label']}" if row["label"] else "")),
            number_cell(row["difference"], "+.3f", row),
            Cell(row["test"] or None),
            _p_cell(row["p"]),
            _p_cell(row["p_corrected"]),
            Cell(answers[row["significant"]]),
        ]
        for row in rows
    ]
    corrected = f"p, corrected for {plural(found.tests, 'test')}"
    columns = ["Run", "Metric", "Difference", "Test", "p", corrected, "Significant"]
    words = ("Metric", "Test", "Significant")
    caption = caption or f"Differences from {found.reference}, with 95% intervals and p"
    return Table(id, caption, columns, cells, sortable=bool(id), words=words)


def _p_cell(p: float | None) -> Cell:
    return Cell("<0.001", p) if p is not None and p < 0.001 else number_cell(p)
