"""Compare runs: one table of all metrics, and paired differences on the same images."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from xrayfast.config import (
    DEFAULT_LOSS,
    DEFAULT_METRIC,
    MAX_RESAMPLES,
    PredictedSplit,
    Task,
    Unit,
    UnitJoin,
    field_types,
    hidden_units,
)
from xrayfast.errors import ConfigError, RunError, did_you_mean, plural_noun, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.files.atomic import write_text
from xrayfast.files.intact import INFO_FILE
from xrayfast.files.writable import require_text_file
from xrayfast.metrics.claims.headline import optimism
from xrayfast.metrics.inputs import ALPHA, count_known
from xrayfast.metrics.intervals.bootstrap import Interval, intervals
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.registry import epoch_metrics, metric_phrase, overall_metrics
from xrayfast.own_code import show_setting
from xrayfast.progress import StageProgress, show_progress
from xrayfast.reporting.comparison import Comparison
from xrayfast.reporting.html.pages.comparison_page import render_comparison_page
from xrayfast.reporting.wording import warning_sentences
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import Run, now
from xrayfast.workflows.steps.paired import (
    RunPredictions,
    compare_folds,
    compare_pair,
    compare_subgroups,
    correct_p_values,
    read_distinct,
)
from xrayfast.workflows.steps.predictions.own import RunByUnit, add_own_columns
from xrayfast.workflows.steps.results import effective_unit_join, warn_of_run


@check_arguments(field_types)
def compare(
    runs: Sequence[Run | Path | str] | Run | Path | str,
    *,
    split: PredictedSplit | None = None,
    order: str = DEFAULT_METRIC,
    reference: Run | Path | str | None = None,
    by: Sequence[str] | str = (),
    resamples: Annotated[int, Field(ge=1, le=MAX_RESAMPLES)] = 1000,
    seed: int = 0,
    unit: Unit | None = None,
    unit_join: UnitJoin | None = None,
    page: Path | str | None = None,
    progress: bool | StageProgress | None = None,
) -> Comparison:
    """Put runs into one table, and compare each with the best one, or with `reference`, on the same images.

    Differences are paired: both runs are evaluated on the same resampled patients. Accuracy (or subset accuracy) is
    tested with McNemar's exact test and the AUROC of each label with DeLong's test, both clustered by patient if
    patients are known. For two cross-validations with the same folds, other metrics are tested with the corrected
    resampled t-test over folds (Nadeau and Bengio 2003). All p-values are corrected together with Holm's method. With
    three or more runs and no `reference`, Bonferroni's method corrects for the tests of every pair of runs instead,
    since the best run is chosen on these images.

    Args:
        runs: runs, their folders, or folders of runs.
        split: the split to compare on; default test if every run has a test split, else valid.
        order: the metric that orders the table, best run first, such as "accuracy", "f1_macro" or "brier".
        reference: the run that the others are compared with, one of `runs` or its name; default the first row of the
            table.
        by: subgroups to compare the runs in as well: "sex", "age" (in bands), "view", or any column of the reference's
            table of labels that has at most 20 values.
        resamples: number of bootstrap resamples for the differences, and for the intervals of runs whose
            `metrics.json` has none.
        seed: seed of the bootstrap.
        unit: "image"; or "study" or "patient" to join the probabilities of their images. Default the setting that all
            runs share. A run's thresholds are chosen again if they were chosen for another unit.
        unit_join: how to join them: "mean", "max" or "noisy-or"; default the setting that all runs share.
        page: an HTML file to write the comparison to.
        progress: whether to display progress, by default only in a notebook or a terminal; or a function to call with
            the stage, the images done and the total.

    Returns:
        The Comparison: `.table`, `.differences`, `.subgroups`, `.warnings`, `.notes`, `.page`, `.to_json()`.

    Raises:
        RunError: there are fewer than two runs, a folder is not a run's, a run has no predictions, or tasks differ.
        ConfigError: the metric or the reference is unknown, the data lack a subgroup's column, or no resample can be
            drawn.
        WriteError: the page can't be written, or would replace a file that is not an earlier page.
    """
    if page is not None:
        require_text_file(Path(page), is_page=True)
    groups = (by,) if isinstance(by, str) else tuple(by)
    found, notes = _collect_runs(runs)
    task = _common_task(found)
    known = overall_metrics(task)
    if order not in known:
        raise ConfigError(f"order is '{order}'; expected one of {', '.join(known)}.{did_you_mean(order, known)}")
    reference_name = None if reference is None else _reference_name(reference, found)
    chosen, split_warnings = _choose_split(found, split)
    unit, chosen_join = _common_unit(found, unit, unit_join)
    asked = unit_join if unit == "image" else chosen_join  # images are not joined: a given unit_join is an error
    by_unit = {name: RunByUnit.of(run, unit, asked) for name, run in found.items()}
    images = {name: read_distinct(own, chosen) for name, own in by_unit.items()}
    notes += [f"{name}: {note}" for name, own in by_unit.items() for note in own.notes]
    shared = set[str]() if unit == "image" else set.intersection(*(set(one.images) for one in images.values()))
    predictions = {name: own.join(images[name], shared) for name, own in by_unit.items()}
    total, done = 2 * sum(map(len, predictions.values())), 0
    rows, pairs, remarks = [], [], {}
    with show_progress(progress) as reporter:
        for name, own in by_unit.items():
            rows.append(_run_row(name, own, chosen, predictions[name], resamples, seed))
            done += len(predictions[name])
            reporter.preparing("computing metrics", done, total)
        table = pd.DataFrame(rows).sort_values(
            order, ascending=not known[order].higher_is_better, na_position="last", kind="stable", ignore_index=True
        )
        reference_name = reference_name or str(table["run"][0])
        of_reference = add_own_columns(found[reference_name], images[reference_name], groups)
        predictions[reference_name] = by_unit[reference_name].join(of_reference, shared)
        sides = {name: RunPredictions.of(own, predictions[name]) for name, own in by_unit.items()}
        metrics = tuple(dict.fromkeys([*epoch_metrics(task), order]))
        for name in table["run"]:
            if name != reference_name:
                other = sides[reference_name]
                compared, lines = compare_pair(sides[name], other, metrics, resamples, seed, reference_name)
                if chosen == "valid" and not (by_unit[name].is_changed or by_unit[reference_name].is_changed):
                    lines += compare_folds(found[name], found[reference_name], compared, reference_name)
                remarks[name] = lines
                pairs += [{"run": name, "reference": reference_name, **row} for row in compared]
            done += len(predictions[name])
            reporter.preparing("comparing runs", done, total)
        grouped = compare_subgroups(sides, reference_name, table["run"], groups, metrics, resamples, seed)
    chosen_from = len(found) if reference is None else 2
    difference_table, tests = correct_p_values(pairs, chosen_from)
    notes += _merge_lines(remarks, "Every other run") + _test_notes(tests, chosen_from, reference is None, order)
    warnings, warning_notes = _headline_warnings(by_unit, predictions, chosen)
    compared_runs = Comparison(
        table=table,
        differences=difference_table,
        notes=(*notes, *warning_notes),
        task=task,
        split=chosen,
        order=order,
        reference=reference_name,
        metrics=metrics,
        tests=tests,
        warnings=(*split_warnings, *warnings),
        page=None if page is None else Path(page),
        population=predictions[reference_name].population(),
        subgroups=pd.DataFrame(grouped) if grouped else None,
        out_of_fold=chosen == "valid" and all(run.has_folds for run in found.values()),
        unit=unit,
        unit_join=chosen_join,
    )
    if compared_runs.page is not None:
        named = None if reference is None else found[reference_name]
        command = _command_line(compared_runs, found.values(), named, groups, resamples, seed)
        write_text(compared_runs.page, render_comparison_page(compared_runs, now(), command))
    return compared_runs


def _command_line(
    made: Comparison, runs: Iterable[Run], reference: Run | None, by: Sequence[str], resamples: int, seed: int
) -> str:
    """Return the command line that makes the same comparison."""
    words = ["xrayfast", "compare", *(str(run.path) for run in runs), "--split", made.split, "--order", made.order]
    words += [] if reference is None else ["--reference", str(reference.path)]
    words += ["--by", ",".join(by)] if by else []
    words += [] if made.unit == "image" else ["--unit", made.unit, "--unit-join", made.unit_join]
    return shlex.join([*words, "--resamples", str(resamples), "--seed", str(seed), "--page", str(made.page)])


# Choosing runs, split and unit.


def _collect_runs(given: Sequence[Run | Path | str] | Run | Path | str) -> tuple[dict[str, Run], list[str]]:
    """Return the runs keyed by name, and notes on those that were left out."""
    found: dict[Path, Run] = {}
    notes, twice, without = [], [], []
    for item in [given] if isinstance(given, (str, Path, Run)) else given:
        inside = _runs_in(item)
        for run in inside:
            if run.path.resolve() in found:
                twice.append(run.path)
            elif inside != [item] and len(inside) > 1 and not run.predicted_splits:
                without.append(run.path)
            else:
                found[run.path.resolve()] = run
    if twice:
        notes.append(f"Given twice and compared once: {shorten(twice)}.")
    if without:
        notes.append(f"Left out, because they are not complete and have no predictions: {shorten(without)}.")
    if len(found) < 2:
        there = f"only {next(iter(found.values())).path} was found" if found else "none was found"
        raise RunError(
            f"A comparison needs two or more runs, but {there}. {' '.join(notes)}".rstrip()
            + " Give their folders, or a folder of runs: 'xrayfast compare runs'."
        )
    names = [run.path.name for run in found.values()]
    return {run.path.name if names.count(run.path.name) == 1 else str(run.path): run for run in found.values()}, notes


def _runs_in(item: Run | Path | str) -> list[Run]:
    """Return the run itself, or the runs in a folder, sorted by name."""
    if isinstance(item, Run):
        return [item]
    path = Path(item)
    if path.is_dir() and not (path / INFO_FILE).is_file():
        inside = sorted(info.parent for info in path.glob(f"*/{INFO_FILE}"))
        if not inside:
            raise RunError(
                f"{path}: is not a run's folder (it lacks {INFO_FILE}), and contains none. Runs are made by "
                "'xrayfast fit'."
            )
        return [Run(folder) for folder in inside]
    return [Run(path)]


def _common_task(found: dict[str, Run]) -> Task:
    single, multi = ([name for name, run in found.items() if run.task == task] for task in ("single", "multi"))
    if single and multi:
        raise RunError(
            f"Single-label runs ({shorten(single)}) and multi-label runs ({shorten(multi)}) have no metric in common. "
            "Compare them separately."
        )
    return "single" if single else "multi"


def _choose_split(found: dict[str, Run], split: PredictedSplit | None) -> tuple[PredictedSplit, list[str]]:
    """Return the split to compare on, and warnings about it."""
    for run in found.values():
        run.require_predictions()
    lacking = [name for name, run in found.items() if "test" not in run.predicted_splits]
    chosen: PredictedSplit = split or ("valid" if lacking else "test")
    notes = []
    if chosen == "valid":
        why = f" They are used because there is no test split in {shorten(lacking)}." if split is None else ""
        what = "out-of-fold predictions" if all(run.has_folds for run in found.values()) else "validation images"
        chosen_on = shorten(dict.fromkeys(run.chosen_on for run in found.values() if not run.info.chosen_inside))
        if chosen_on:
            notes.append(f"These are {what}. {optimism(chosen_on)} The optimism differs between runs.{why}")
        elif why:
            notes.append(f"These are {what}.{why}")
    return chosen, notes


def _common_unit(found: Mapping[str, Run], unit: Unit | None, unit_join: UnitJoin | None) -> tuple[Unit, UnitJoin]:
    """Return the given unit and the way its images are joined; by default the settings that all runs share."""
    every = [run.config.results for run in found.values()]
    units: set[Unit] = {settings.unit for settings in every} if unit is None else {unit}
    if len(units) > 1:
        listed = shorten([f"{name} by {run.config.results.unit}" for name, run in found.items()])
        raise ConfigError(f"found results with different units: {listed}; expected one unit. Choose it with --unit.")
    [chosen] = units
    joins: set[UnitJoin] = {effective_unit_join(settings) for settings in every if settings.unit == chosen} or {"mean"}
    if unit_join is None and len(joins) > 1:
        raise ConfigError(
            f"found {plural_noun(chosen)} joined by {' and '.join(sorted(joins))}; expected one way to join them. "
            "Choose it with --unit-join."
        )
    return chosen, unit_join or joins.pop()


def _reference_name(reference: Run | Path | str, found: dict[str, Run]) -> str:
    if isinstance(reference, str) and reference in found:
        return reference
    path = (reference.path if isinstance(reference, Run) else Path(reference)).resolve()
    for name, run in found.items():
        if run.path.resolve() == path:
            return name
    raise ConfigError(
        f"reference is '{reference}', which is not one of the compared runs: {shorten(found)}."
        + did_you_mean(str(reference), found)
    )


# The table.


def _run_row(
    name: str, own: RunByUnit, split: PredictedSplit, predictions: Predictions, resamples: int, seed: int
) -> dict[str, Any]:
    """Return one row of the table: how a run was trained, and its metrics with their intervals."""
    run = own.run
    info, config = run.info, run.config
    groups = predictions.groups
    row: dict[str, Any] = {
        "run": name,
        "arch": show_setting(config.model.arch),
        "head": " ".join(map(str, [config.model.head, *hidden_units(config.model.head, config.model.head_width)])),
        "trained": info.phases[-1].name if info.phases else "by hand",
        "loss": config.train.describe_loss(
            DEFAULT_LOSS[run.task] if config.train.loss == "auto" else show_setting(config.train.loss)
        ),
        "size": config.model.size,
        "epochs": len(run.first_network.history),
        "best_epoch": info.best_epoch,
        "parameters": info.parameters,
        "seconds": info.seconds,
        "images": len(predictions),
        "patients": count_known(groups),
        "data": config.data.shown,
        "path": str(run.path),
    }
    names = list(dict.fromkeys([*epoch_metrics(run.task), *overall_metrics(run.task)]))
    values = None if own.is_changed else _read_metrics(run, split, names)
    if values is None:
        table = ResampledMetrics(predictions.truth, predictions.probability, run.task, groups, own.decision.thresholds)
        values = intervals(table, resamples, seed=seed).overall
    for metric in names:
        interval = values[metric]
        row |= {metric: interval.value, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
    return row


def _read_summary(run: Run, split: PredictedSplit) -> Mapping[str, Any]:
    """Return the section of a split in `metrics.json`; empty if it is missing or can't be read."""
    try:
        return run.metrics.get(split, {})
    except RunError:
        return {}


def _read_metrics(run: Run, split: PredictedSplit, names: Sequence[str]) -> dict[str, Interval] | None:
    """Return the metrics and intervals in `metrics.json`; None if it can't be read or an older version lacks some."""
    try:
        summary = _read_summary(run, split)
        overall, ends = summary["overall"], summary["intervals"]["overall"]
        rows = [(overall[name], ends[name]["low"], ends[name]["high"]) for name in names]
    except KeyError:
        return None
    rows = np.array(rows, dtype=np.float64).tolist()  # None becomes NaN
    return {name: Interval(value, low, high, 0.0) for name, (value, low, high) in zip(names, rows, strict=True)}


# Notes.


def _headline_warnings(
    by_unit: Mapping[str, RunByUnit], predictions: Mapping[str, Predictions], split: PredictedSplit
) -> tuple[list[str], list[str]]:
    """Return the warnings next to the runs' headlines, as sentences, and a note on runs that recorded no warnings."""
    lines, without = {}, []
    for name, own in by_unit.items():
        summary = own.metrics(split) if own.is_changed else _read_summary(own.run, split)
        if own.is_changed:
            summary = {**summary, "warnings": warn_of_run(own.run, summary, predictions[name], split)}
        if "warnings" not in summary:  # an older version wrote it
            without.append(name)
        others = [one for one in summary.get("warnings", ()) if one["code"] != "chosen here"]  # in split_warnings
        lines[name] = warning_sentences({"warnings": others})
    text = (
        f"Warnings are not known for {shorten(without)}, because an older version wrote the results; 'xrayfast "
        "interpret RUN' finds them."
    )
    return _merge_lines(lines, "Every run"), [text] if without else []


def _merge_lines(lines_of: dict[str, list[str]], every: str) -> list[str]:
    """Return the lines with the names of their runs in front; a line on several runs comes once."""
    runs: dict[str, list[str]] = {}
    for name, lines in lines_of.items():
        for line in lines:
            runs.setdefault(line, []).append(name)
    return [f"{every if len(names) == len(lines_of) > 1 else shorten(names)}: {line}" for line, names in runs.items()]


def _test_notes(tests: int, chosen_from: int, chosen: bool, order: str) -> list[str]:
    if not tests:
        return []
    how = "by Bonferroni's method over every pair of runs" if chosen_from > 2 else "by Holm's method"
    notes = [
        f"{tests} tests, corrected {how}. A difference is significant if its corrected p is below {ALPHA} and its "
        "interval, which is not corrected, excludes 0; other differences may still exist, as large as their intervals."
    ]
    if chosen:
        notes.append(
            f"The reference was chosen by its result on these images ({metric_phrase(order)}), so the comparison is "
            "biased in its favor; --reference names one beforehand."
        )
    return notes
