"""Overviews of results for notebooks: pieces of HTML without scripts, light or dark as the notebook is.

Text from outside is escaped as in the pages. Missing or damaged files are named in the overview and raise no error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.audit.check import Audit
from xrayfast.config import Task
from xrayfast.data.cache.image_cache import UncachedImages
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ConfigError, RunError, plural
from xrayfast.errors.advice import name_arguments
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.comparison import Comparison, records
from xrayfast.reporting.figures.overlays import SaliencyCase, overlay
from xrayfast.reporting.figures.training_curves import lr_figure
from xrayfast.reporting.html.pages.check_page import SEVERITY_NAMES
from xrayfast.reporting.html.pages.comparison_page import answer, runs_table, tests_table, trained_table
from xrayfast.reporting.html.pages.run_page import task_text, training_facts
from xrayfast.reporting.html.plots import Plot, history_plot, plot
from xrayfast.reporting.html.render import image_view, outlined, render_fragment
from xrayfast.reporting.html.results_tables import FORMS, column_title, fold_table, headline_table, label_table
from xrayfast.reporting.html.split_section import intervals_text
from xrayfast.reporting.html.tables import Cell, Table, counts_table, number_cell
from xrayfast.reporting.interpretation import Interpretation, LabelTable
from xrayfast.reporting.wording import (
    SPLIT_TITLES,
    images_of_patients,
    other_remarks,
    percent,
    warning_sentences,
)
from xrayfast.runs.cross_validation import OUT_OF_FOLD, CrossValidation
from xrayfast.runs.evaluation import METRICS_FILE as EVALUATION_METRICS
from xrayfast.runs.evaluation import PREDICTIONS_FILE, Evaluation
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.names import CONFIG_FILE, FOLDS_FILE, HISTORY_FILE, METRICS_FILE, SPLIT_FILE
from xrayfast.runs.run import Run

T = TypeVar("T")

THUMBNAILS, THUMBNAIL_SIDE = 6, 112
FOUND_SHOWN, NOTES_OPEN = 12, 4
TESTS_SHOWN = 20


@dataclass(frozen=True, eq=False)
class Overview:
    """The content of an overview, from top to bottom.

    Attributes:
        kind: the kind of result, such as "Run".
        lead: a line of description.
        status: the status of a run that is not complete; otherwise "".
        tiles: names and cells of the main numbers.
        aside: a sentence below the tiles.
        warnings: sentences that must be read.
        found: severity, name of the severity, title and text of each problem that an audit found.
        images: views of images, each with a `caption` and an `aside`.
        tables: tables, shown without ids and sort buttons.
        facts: names and values, folded.
        notes: sentences, folded if there are many.
        links: names and addresses of files.
    """

    kind: str
    title: str = ""
    lead: str = ""
    status: str = ""
    tiles: Sequence[tuple[str | None, Cell]] = ()
    aside: str = ""
    warnings: Sequence[str] = ()
    found: Sequence[tuple[str, str, str, str]] = ()
    plot: Plot | None = None
    images: Sequence[Mapping[str, Any]] = ()
    tables: Sequence[Table] = ()
    facts: Mapping[str, str] | None = None
    notes: Sequence[str] = ()
    links: Sequence[tuple[str, str]] = ()


def render_overview(shown: Any) -> str:
    """Return the HTML of an `Overview`, or of a result that `overview_of` takes."""
    found = shown if isinstance(shown, Overview) else overview_of(shown)
    tables = [replace(table, id="", sortable=False) for table in found.tables]
    warnings, notes = ([*map(name_arguments, texts)] for texts in (found.warnings, found.notes))
    shown = replace(found, tables=tables, warnings=warnings, notes=notes)
    return render_fragment({"overview": shown, "open": NOTES_OPEN})


@singledispatch
def overview_of(shown: Any) -> Overview:
    """Return the overview of a result.

    Raises:
        TypeError: results of this type have no overview.
    """
    raise TypeError(f"no overview of {type(shown).__name__}")


@overview_of.register
def _(data: Manifest) -> Overview:
    counts = data.counts()
    patients = int(data.table["patient"].nunique())
    left_out = [f"{plural(len(names), 'image')} left out: {why}." for why, names in data.left_out]
    counts = counts.loc[:, counts.iloc[len(data.labels)].to_numpy() > 0]  # by position: a label may be named "images"
    return Overview(
        "Manifest",
        data.config.source.absolute().name,
        f"{images_of_patients({'images': len(data), 'patients': patients})}. {task_text(data.task, data.labels)}.",
        images=_thumbnails(data),
        tables=[counts_table(counts, data.labels, data.task)],
        notes=[*left_out, *data.notes],
    )


def _thumbnails(data: Manifest) -> list[dict[str, Any]]:
    """Return views of the first image of each of the first labels, then of further images, `THUMBNAILS` in all."""
    first = [int(column.argmax()) for column in (data.targets == 1).T[:THUMBNAILS] if column.any()]
    rows = list(dict.fromkeys([*first, *range(min(len(data), 2 * THUMBNAILS))]))[:THUMBNAILS]
    images = UncachedImages(THUMBNAIL_SIDE, data.config.window)
    return [
        {
            **image_view(images.image_or_none(cells["path"]), THUMBNAIL_SIDE),
            "caption": cells["image"],
            "aside": cells["labels"] or "no label",
        }
        for cells in data.table.iloc[rows].to_dict("records")
    ]


@overview_of.register
def _(audit: Audit) -> Overview:
    data, findings = audit.data, audit.findings
    counted = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITY_NAMES}
    more = len(findings) - FOUND_SHOWN
    return Overview(
        "Audit",
        data.config.source.absolute().name,
        "Validation and test are not independent of training."
        if audit.leaks
        else "No patient, study or image was found in more than one split.",
        tiles=[
            ("Images", number_cell(len(data), ",d")),
            ("Patients", number_cell(int(data.table["patient"].nunique()) or None, ",d")),
            *((f"{name}s", number_cell(counted[severity], ",d")) for severity, name in SEVERITY_NAMES.items()),
        ],
        found=[(one.severity, SEVERITY_NAMES[one.severity], one.title, one.text) for one in findings[:FOUND_SHOWN]],
        notes=[f"{more} more in .findings."] * (more > 0)
        + ["xf.check(data, output='FOLDER') writes check.html, with the images of each pair of duplicates."],
    )


@overview_of.register
def _(run: Run) -> Overview:
    problems: list[str] = []

    def attempt(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (ConfigError, RunError) as error:
            problems.append(str(error))
            return None

    info = attempt(lambda: run.info)
    if info is None:
        return Overview("Run", run.path.name, warnings=problems)
    complete = info.status == "completed"
    history = attempt(lambda: run.history) if (run.path / HISTORY_FILE).is_file() else None
    metrics = attempt(lambda: run.metrics) if complete else None
    split = next((name for name in ("test", "valid") if metrics and name in metrics), None)
    summary: Mapping[str, Any] | None = metrics[split] if metrics and split else None
    task, labels, facts = attempt(lambda: run.task), attempt(lambda: run.labels), attempt(lambda: training_facts(run))
    epochs = 0 if history is None else len(history)
    lead = [task_text(task, labels or ())] if task else []
    lead += [plural(len(info.members), "network") if info.members else plural(epochs, "epoch")]
    lead += [f"epoch {info.best_epoch} was kept"] if info.best_epoch else []
    if summary is not None:
        lead.append(f"{SPLIT_TITLES[str(split)].lower()} split: {images_of_patients(summary)}")
    return Overview(
        "Run",
        run.path.name,
        "; ".join(lead) + ".",
        "" if complete else info.status,
        tiles=_tiles(summary),
        aside=intervals_text(summary) if summary is not None else "",
        warnings=[
            *_next_step(run, info, epochs),
            *problems,
            *warning_sentences(summary or {}),
            *other_remarks(info.remarks, summary or {}),
        ],
        plot=None if history is None else history_plot(history, info.best_epoch),
        facts=facts,
        links=_links(
            run.path,
            [run.report_path, run.model_card_path, run.claim_path]
            + [run.path / name for name in (METRICS_FILE, HISTORY_FILE, CONFIG_FILE, SPLIT_FILE, "predictions")],
        ),
    )


@overview_of.register
def _(cv: CrossValidation) -> Overview:
    try:
        info, folds, summary = cv.info, cv.folds, None
        how = f"{plural(folds.folds, 'fold')} by {'image' if folds.by_image else 'patient'}"
        lead = [task_text(cv.task, cv.labels), how + (f", {folds.repeats} times" if folds.repeats > 1 else "")]
        if not cv.is_finished:
            done = sum(run.is_finished for run in cv.runs)
            again = f"{plural(done, 'fold')} finished; xf.resume_cross_validation({str(cv.path)!r}) resumes it."
            return Overview("CrossValidation", cv.path.name, "; ".join(lead) + ".", info.status, warnings=[again])
        metrics = cv.metrics
        summary = metrics["valid"]
        tables = [fold_table(metrics, cv.task, "")]
    except RunError as error:
        return Overview("CrossValidation", cv.path.name, warnings=[str(error)])
    lead.append(f"out of fold: {images_of_patients(summary)}")
    return Overview(
        "CrossValidation",
        cv.path.name,
        "; ".join(lead) + ".",
        tiles=_tiles(summary),
        aside=intervals_text(summary),
        warnings=[*warning_sentences(summary), *other_remarks(info.remarks, summary)],
        tables=tables,
        links=_links(
            cv.path,
            [cv.report_path]
            + [cv.path / name for name in (METRICS_FILE, OUT_OF_FOLD, CONFIG_FILE, SPLIT_FILE, FOLDS_FILE)],
        ),
    )


def _next_step(run: Run, info: RunInfo, epochs: int) -> list[str]:
    """Say how to continue a run that is not complete."""
    if info.status == "completed":
        return []
    if not (run.path / SPLIT_FILE).is_file():
        return ["It ended before training began."]
    when = "if no process is training it, " if info.status == "running" else ""
    if info.members:
        return [f"Not all networks are finished; {when}xf.resume({str(run.path)!r}) trains the others."]
    how = "resumes it" if epochs else "starts it again"
    return [f"{plural(epochs, 'epoch')} finished; {when}xf.resume({str(run.path)!r}) {how}."]


@overview_of.register
def _(evaluation: Evaluation) -> Overview:
    links = [evaluation.report_path, evaluation.path / EVALUATION_METRICS, evaluation.path / PREDICTIONS_FILE]
    try:
        metrics: Mapping[str, Any] = evaluation.metrics
    except RunError as error:
        return Overview("Evaluation", evaluation.path.name, warnings=[str(error)])
    summary = metrics["result"]
    source = [str(metrics["source"])] if metrics.get("source") else []
    source += [f"{name} {metrics[name]}" for name in ("table", "split") if metrics.get(name)]
    left_out = [f"{plural(n, 'image')} left out: {why}." for why, n in metrics.get("images", {}).get("left_out", ())]
    return Overview(
        "Evaluation",
        evaluation.path.name,
        f"{', '.join([*source, images_of_patients(summary)])}.",
        tiles=_tiles(summary),
        aside=intervals_text(summary),
        warnings=warning_sentences(summary),
        tables=[label_table("", "By label", summary)],
        notes=[*left_out, *metrics.get("notes", ()), *summary.get("notes", ())],
        links=_links(evaluation.path, [*links, evaluation.path / "tables"]),
    )


@overview_of.register
def _(found: Interpretation) -> Overview:
    summary = found.summary
    return Overview(
        "Interpretation",
        "",
        f"{images_of_patients(summary, found.split)}. {task_text(found.task, found.vocab)}.",
        tiles=_tiles(summary),
        aside=intervals_text(summary),
        warnings=warning_sentences(summary),
        tables=[label_table("", "By label", summary)],
        notes=[
            *summary.get("notes", ()),
            "Figures: .plot_confusion_matrix(), .plot_top_losses(9), .plot_roc(), "
            ".plot_pr(), .plot_calibration(). Tables: .label_table(), .top_losses_table(), .most_confused().",
        ],
    )


@overview_of.register
def _(table: LabelTable) -> Overview:
    names = list(map(str, table.columns))
    rows = [
        [Cell(str(label))]
        + [
            number_cell(value, FORMS.get(name, ".3f").replace("d", ".0f"), interval_of(table.summary, name, str(label)))
            if isinstance(value, int | float | np.number)
            else Cell(str(value))
            for name, value in zip(names, values, strict=True)
        ]
        for label, values in zip(table.index, table.itertuples(index=False), strict=True)
    ]
    columns = ["Label", *map(column_title, names)]
    return Overview("Labels", tables=[Table("", intervals_text(table.summary), columns, rows)])


@overview_of.register
def _(found: Comparison) -> Overview:
    pairs = records(found.differences)
    tested = sorted(pairs, key=lambda row: (row["p"] is None, row["p"] or 0.0))[:TESTS_SHOWN]
    shown = f", the {TESTS_SHOWN} with the lowest p of {len(pairs)}" if len(pairs) > TESTS_SHOWN else ""
    caption = f"Paired differences from {found.reference}, on the same {found.units}{shown}"
    return Overview(
        "Comparison",
        "",
        f"{plural(len(found.table), 'run')} on the {found.split_title.lower()} split, best first.",
        aside=" ".join(answer(found)),
        warnings=found.warnings,
        tables=[
            runs_table(found, found.metrics),
            trained_table(found),
            *([tests_table(found, tested, "", caption)] if tested else []),
        ],
        notes=found.notes,
        links=[] if found.page is None else _links(found.page.parent, [found.page]),
    )


def range_test_overview(lrs: ArrayLike, losses: ArrayLike, suggestions: Mapping[str, float | None]) -> Overview:
    """Return the overview of a learning-rate range test with its suggestions; arguments as in `draw_range_test`."""
    count = len(np.asarray(lrs))
    alt = f"Training loss by learning rate over {plural(count, 'step')}, with the suggestions marked."
    return Overview(
        "LRCurve",
        "",
        alt,
        tiles=[(name, number_cell(rate, ".2g")) for name, rate in suggestions.items()],
        plot=plot(lr_figure(lrs, losses, suggestions), "lr", "Learning-rate range test", alt),
    )


def explanation_overview(case: SaliencyCase, probabilities: Mapping[str, float]) -> Overview:
    """Return the overview of an image with its heat map, and the probability of each label."""
    heat = overlay(case.pixels, case.heat)
    framed = heat if case.thorax is None else outlined(heat, case.thorax)
    outside = "no heat" if case.outside != case.outside else percent(case.outside)
    rows = [
        [Cell(label), number_cell(value)] for label, value in sorted(probabilities.items(), key=lambda one: -one[1])
    ]
    side = 2 * THUMBNAIL_SIDE
    return Overview(
        "Explanation",
        case.image,
        f"Explained: {case.label}. Predicted: {case.predicted or 'no label'}. Heat outside the central thorax "
        f"(framed): {outside}.",
        images=[
            {**image_view(case.pixels, side), "caption": "Radiograph", "aside": ""},
            {**image_view(framed, side), "caption": "With its heat map", "aside": case.label},
        ],
        tables=[Table("", "Calibrated probabilities", ("Label", "Probability"), rows)],
    )


def _tiles(summary: Mapping[str, Any] | None) -> list[tuple[str | None, Cell]]:
    """Return the headline metrics of a split's summary."""
    if summary is None:
        return []
    task: Task = "multi" if "confusion_per_label" in summary else "single"
    return [(row[0].text, row[1]) for row in headline_table("", summary, task).rows]


def _links(folder: Path, paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Return the names and addresses of existing files, relative to the working directory as in notebook links."""
    found = []
    for path in paths:
        if path.exists():
            try:
                address = quote(Path(os.path.relpath(path)).as_posix(), errors="surrogateescape")
            except ValueError:  # on another drive (Windows)
                address = path.absolute().as_uri()
            found.append((path.relative_to(folder).as_posix(), address))
    return found
