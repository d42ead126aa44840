"""`xrayfast compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from xrayfast.cli.options import DrawSeed, Json, choice_option, out_option, split_columns
from xrayfast.cli.output import Output
from xrayfast.config import DEFAULT_METRIC, MAX_RESAMPLES, PREDICTED_SPLITS, Unit, UnitJoin
from xrayfast.errors import format_cell, format_estimate
from xrayfast.progress.terminal import reporting

if TYPE_CHECKING:
    import pandas as pd

    from xrayfast.reporting.comparison import Comparison

MOST_TESTS = 20
"""Largest number of tests to show; --csv and --json have all of them."""


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or folders that contain them.")
    ],
    split: Annotated[
        str | None,
        choice_option(PREDICTED_SPLITS, show_default="test, if every run has one", help="Split to compare on."),
    ] = None,
    order: Annotated[
        str,
        typer.Option(
            metavar="METRIC", help="Metric to sort the runs by, best first, such as accuracy, f1_macro or brier."
        ),
    ] = DEFAULT_METRIC,
    reference: Annotated[
        str | None, typer.Option(metavar="RUN", show_default="the best", help="Run that the others are compared with.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN[,...]", help="Also compare by subgroup: sex, age, view, or a column of the table of labels."
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        out_option(
            metavar="FILE",
            help="Write the table, with all metrics, to a CSV file such as all.csv, and the differences beside it: "
            "all-differences.csv and, with --by, all-subgroups.csv.",
        ),
    ] = None,
    page: Annotated[Path | None, out_option(metavar="FILE", help="Write the comparison as one HTML page.")] = None,
    resamples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_RESAMPLES,
            help="Number of bootstrap resamples of patients for the 95% intervals.",
        ),
    ] = 1000,
    seed: DrawSeed = 0,
    unit: Annotated[
        str | None,
        choice_option(
            get_args(Unit),
            show_default="the runs'",
            help="Compare by image, or by study or patient, whose images' probabilities are joined.",
        ),
    ] = None,
    unit_join: Annotated[
        str | None,
        choice_option(get_args(UnitJoin), show_default="the runs'", help="How --unit joins the probabilities."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs on the same images: a table with intervals, paired differences and tests."""
    from xrayfast.files.csv_tables import write_csv
    from xrayfast.files.writable import require_text_file
    from xrayfast.workflows.compare import compare as work

    out = Output(as_json)
    if csv:
        for path in (csv, *(_further_csv(csv, what) for what in ("differences", "subgroups"))):
            require_text_file(path, columns=("run",))
    with reporting(out) as reporter:
        found = work(
            runs,
            split=split,  # type: ignore[arg-type]
            order=order,
            reference=reference,
            by=split_columns(by),
            resamples=resamples,
            seed=seed,
            unit=unit,  # type: ignore[arg-type]
            unit_join=unit_join,  # type: ignore[arg-type]
            page=page,
            progress=reporter.preparing,
        )
    show_comparison(out, found)
    if csv is not None:
        tables = {"Table": (csv, found.table), "Differences": (_further_csv(csv, "differences"), found.differences)}
        if found.subgroups is not None:
            tables["Subgroups"] = _further_csv(csv, "subgroups"), found.subgroups
        for title, (path, table) in tables.items():
            write_csv(path, table)
            out.done(title, path)
    if page is not None:
        out.done("Page", page)
    out.json(found.to_json())


def _further_csv(csv: Path, what: str) -> Path:
    return csv.with_name(f"{csv.stem}-{what}.csv")


def show_comparison(out: Output, found: Comparison) -> None:
    """Print a comparison: the runs, best first, how they were trained, differences and tests, and notes."""
    from xrayfast.metrics.registry import metric_phrase, metric_title
    from xrayfast.reporting.comparison import interval_columns, records

    for warning in found.warnings:
        text, _, advice = warning.partition(". ")
        out.finding("warning", text.rstrip("."), advice)
    titles = {name: metric_title(name) for name in found.metrics}
    joined = "" if found.unit == "image" else f" (joined by {found.unit_join})"
    table = records(found.table)
    out.table(
        f"{_split_images(found, found.table)} {found.units}{joined}, with 95% intervals; sorted by "
        f"{metric_phrase(found.order)}",
        ["run", *titles.values()],
        [(row["run"], *(format_estimate(row[name], interval_columns(row, name)) for name in titles)) for row in table],
    )
    head = ["head"] if len({row["head"] for row in table}) > 1 else []
    words = ["run", "arch", *head, "trained", "loss"]
    out.table(
        "How they were trained",
        [*words, "size", "epochs", "parameters", "seconds"],
        [(*(row[word] for word in words), *_sizes(row)) for row in table],
        text_columns=len(words),
    )
    rows = records(found.differences)
    if rows:
        _show_differences(out, found, rows, titles)
        _show_subgroups(out, found, titles)
    out.line()
    for note in found.notes:
        out.note(note)


def _show_differences(out: Output, found: Comparison, rows: list[dict[str, Any]], titles: dict[str, str]) -> None:
    by_run: dict[str, dict[str, str]] = {}
    for row in rows:
        if not row["label"]:
            by_run.setdefault(row["run"], {})[row["metric"]] = _difference(row)
    out.table(
        f"Difference from {found.reference} on the {_split_images(found, found.differences)} {found.units} in common, "
        "with 95% intervals",
        ["run", *titles.values()],
        [(run, *(cells[name] for name in titles)) for run, cells in by_run.items()],
    )
    tested = [row for row in rows if row["test"]]
    by_fold = "; others: resampled t, over folds" if any(row["test"] == "resampled t" for row in tested) else ""
    if too_many := len(tested) > MOST_TESTS:
        tested = sorted(tested, key=lambda row: 1.0 if row["p"] is None else row["p"])[:MOST_TESTS]
    out.table(
        f"Tests against {found.reference} (accuracy: McNemar, AUROC: DeLong{by_fold}), p also corrected for "
        f"{found.tests} tests" + (f"; the {MOST_TESTS} smallest p" if too_many else ""),
        ["run", "metric", "difference", "p", "p, corrected", "significant"],
        [
            (
                row["run"],
                f"AUROC {row['label']}" if row["label"] else titles[row["metric"]],
                _difference(row),
                _p(row["p"]),
                _p(row["p_corrected"]),
                None if row["significant"] is None else "yes" if row["significant"] else "no",
            )
            for row in tested
        ],
        text_columns=2,
    )


def _show_subgroups(out: Output, found: Comparison, titles: dict[str, str]) -> None:
    rows: dict[str, dict[tuple[str, str, int], dict[str, str]]] = {}
    from xrayfast.reporting.comparison import records

    for row in [] if found.subgroups is None else records(found.subgroups):
        group = row["value"], row["run"], row["images"]
        rows.setdefault(row["by"], {}).setdefault(group, {})[row["metric"]] = _difference(row)
    for by, groups in rows.items():
        out.table(
            f"Difference from {found.reference} by {by}, with 95% intervals, not corrected for their number",
            [by, "run", "images", *titles.values()],
            [(*group, *(cells[name] for name in titles)) for group, cells in groups.items()],
            text_columns=2,
        )


def _split_images(found: Comparison, table: pd.DataFrame) -> str:
    """Return the number of images in a table and their split: `60 test`, or `55 to 60 test` if the rows differ."""
    counts = sorted(set(table["images"]))
    split = "test" if found.split == "test" else "validation"
    return f"{' to '.join(f'{count:,}' for count in dict.fromkeys((counts[0], counts[-1])))} {split}"


def _difference(row: dict[str, Any]) -> str:
    return format_estimate(row["difference"], row, "+.3f")


def _sizes(row: dict[str, Any]) -> tuple[str, int, str | None, str | None]:
    parameters, seconds = row["parameters"], row["seconds"]
    return (
        str(row["size"]),
        row["epochs"],
        None if parameters is None else f"{parameters / 1e6:.3g} M",
        None if seconds is None else f"{seconds:.0f}",
    )


def _p(value: float | None) -> str:
    """Format a p-value with three decimals, "<0.001" if it is smaller, or a dash if it is not defined.

    >>> _p(0.0004), _p(0.0312), _p(None)
    ('<0.001', '0.031', '–')
    """
    return "<0.001" if value is not None and value < 0.001 else format_cell(value)
