"""Report on a run from its saved predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
from pydantic import Field
from typing_extensions import Unpack

from xrayfast.config import PredictedSplit, ResultsOptions, Unit
from xrayfast.data.splits.words import Split
from xrayfast.errors import RunError
from xrayfast.errors.arguments import check_arguments
from xrayfast.files.atomic import write_text
from xrayfast.files.csv_tables import write_csv
from xrayfast.metrics.classification import nan_to_none
from xrayfast.own_code import require_own_arch
from xrayfast.progress import StageProgress, show_progress
from xrayfast.reporting.case import Case
from xrayfast.reporting.figures import encoding, top_losses, training_curves
from xrayfast.reporting.figures.overlays import SaliencyCase, overlays_figure
from xrayfast.reporting.html.pages.run_page import ReportData, render_run_page, training_facts
from xrayfast.reporting.html.plots import Plot, batches_plot, figure_blocks, headline_plot, history_plot
from xrayfast.reporting.html.split_section import SplitReport
from xrayfast.reporting.interpretation import RIGHT_SHOWN, Interpretation
from xrayfast.reporting.markdown.methods import describe_methods
from xrayfast.reporting.overfitting import overfitting_in_final_metrics, overfitting_in_history
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.evaluation.files import operating_rows
from xrayfast.workflows.steps.predictions.own import add_own_columns, add_studies, read_interpretations
from xrayfast.workflows.steps.results import (
    DECISION_SPLIT,
    complete_metrics,
    refit_decision,
    update_results,
    write_cards,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xrayfast.learning.fastai_interpretation import RadiographInterpretation


@check_arguments()
def interpret(
    run: Run | Path | str,
    *,
    split: PredictedSplit | None = None,
    top: Annotated[int, Field(ge=0, le=1000)] = 12,
    saliency: Annotated[int, Field(ge=0, le=1000)] = 0,
    by: Sequence[str] | str = (),
    figure_format: Sequence[str] | str = "png",
    arch: Callable[..., Any] | None = None,
    progress: bool | None = None,
    **options: Unpack[ResultsOptions],
) -> RadiographInterpretation:
    """Write a run's figures, tables, model card and `report.html`, without running the network again.

    Args:
        run: the run or its folder. For an ensemble, the averaged predictions are reported; for a cross-validation, the
            out-of-fold predictions.
        split: the split to return and to draw in `figures/`; default the test split if there is one, else "valid"; for
            a cross-validation "valid", its out-of-fold predictions. The report shows every split that was predicted.
        top: number of images with the largest losses to show.
        saliency: number of images to show with saliency maps, half of them predicted correctly; this runs the network
            on these images.
        by: columns of the data set's table with at most 20 values, such as hospital. They are saved with the
            predictions, and later reports include the metrics of their subgroups, as they do for sex, age and view if
            these are known.
        figure_format: format of the files in `figures/`: "png", "svg", "pdf", or several as in "png,svg".
        arch: the run's `arch`, if it is code of your own; needed only for `saliency`.
        progress: whether to display progress; by default only in a notebook or a terminal.
        options: any field of ResultsConfig, such as target_sensitivity=0.95: calibration and thresholds are chosen
            again on the validation split, and the metrics of all splits are computed again.

    Returns:
        The interpretation of the split, a fastai ClassificationInterpretation.

    Raises:
        ConfigError: an option is wrong, `arch` is given for a run that has none of your own, or a column does not exist
            or has too many values.
        DataError: the data set's table can't be read; or results are to be per study or patient, and none is known or
            images of one of them have different classes.
        RunError: the run is not complete or lacks a file, or another process writes to it.
        WriteError: the folder can't be written to.
    """
    from xrayfast.learning.fastai_interpretation import RadiographInterpretation

    run = Run.of(run)
    with run.lock(), show_progress(progress) as reporter:
        report = write_report(run, split, top, saliency, options, by, arch, reporter.preparing, figure_format)
        return RadiographInterpretation.of(report)


def write_report(
    run: Run,
    split: PredictedSplit | None,
    top: int,
    saliency: int,
    options: ResultsOptions,
    by: Sequence[str] | str = (),
    arch: Callable[..., Any] | None = None,
    progress: StageProgress = lambda stage, done, total: None,
    figure_format: Sequence[str] | str = "png",
) -> Interpretation:
    """Do the work of `interpret`, importing torch and fastai, which takes seconds, only for `saliency`.

    Arguments and errors are those of `interpret`. The caller holds the run's lock.
    """
    formats = encoding.parse_formats(figure_format)
    if arch is not None:
        require_own_arch(run.config.model.arch, run.path)
    cv = CrossValidation(run.path) if CrossValidation.is_there(run.path) else None
    columns = [by] if isinstance(by, str) else by
    if cv is not None and (by or options or not _has_current_metrics(cv)):
        _join_again(cv, options, columns)
    elif by or options or not _has_current_metrics(run):
        predicted_splits = run.require_predictions()
        splits: list[Split] = list(dict.fromkeys([DECISION_SPLIT, *predicted_splits]))
        splits += ["train"] if run.has_train_predictions else []
        found = add_studies(run, {split: run.predictions(split) for split in splits}, _unit(run, options))
        for predicted in predicted_splits if columns else ():
            found[predicted] = add_own_columns(run, found[predicted], columns)
        refit_decision(run, options, found)
    complete_metrics(run)
    interpretations = read_interpretations(run)
    chosen = split or list(interpretations)[0 if cv else -1]
    if cv and saliency and chosen == DECISION_SPLIT:
        raise RunError(
            f"{run.path}: images in folds are explained by the network that was not trained on them. Use a fold, "
            f"such as {cv.runs[0].path}, or --split test, where all networks explain the images."
        )
    if chosen not in interpretations:
        run.predictions(chosen)  # raises an error that names the available splits
    images = sum(len(of_split.predictions) for of_split in interpretations.values())
    progress("writing the report", 0, images)
    explained, notes = _explain(run, interpretations[chosen], saliency, arch)
    last = list(interpretations)[-1]
    reports = {
        split: _split_report(run, split, of_split, top, split in (last, chosen))
        for split, of_split in interpretations.items()
    }
    _write_cases(run, chosen, explained, notes, {split: report.cases for split, report in reports.items()})
    _write_tables(run, interpretations[chosen], top)
    headline = _headline(reports[chosen], run)
    reports[chosen] = replace(reports[chosen], saliency=explained, saliency_notes=notes, headline=headline)
    report = _report_data(run, tuple(reports.values()))
    _write_figures(run, report, reports[chosen], formats)
    if cv is None:
        write_text(run.report_path, render_run_page(report))
        write_cards(run)
    else:
        from xrayfast.workflows.steps.cross_validation.folds import write_page_and_card  # it imports torch

        write_page_and_card(cv)
    progress("writing the report", images, images)
    return interpretations[chosen]


def _join_again(cv: CrossValidation, options: ResultsOptions, by: Sequence[str]) -> None:
    """Compute the results of a cross-validation again from its folds' predictions, after adding the columns to them."""
    if not cv.is_finished:
        cv.require_predictions()
    from xrayfast.workflows.steps.cross_validation.folds import join

    unit = _unit(cv, options)
    found = {(fold, split): fold.predictions(split) for fold in cv.runs for split in fold.predicted_splits}
    changed = {
        (fold, split): add_own_columns(fold, predictions, by)
        for (fold, split), predictions in (add_studies(cv, found, unit).items() if by or unit == "study" else ())
    }
    [chosen_on] = add_studies(cv, {DECISION_SPLIT: cv.predictions(DECISION_SPLIT)}, unit).values()
    config = update_results(cv, options, chosen_on)
    for (fold, split), predictions in changed.items():
        fold.write_predictions(split, predictions)
    join(cv, config.results)


def _unit(run: Run, options: ResultsOptions) -> Unit:
    return options.get("unit", run.config.results.unit)


_SHOWN = {
    "single": {"scored", "notes", "reliability", "most_confused", "confusion", "most_common"},
    "multi": {"scored", "notes", "reliability", "most_confused", "confusion_per_label", "cooccurrence"},
}
"""Keys of a split's summary that the report needs and older versions did not write."""


def _has_current_metrics(run: Run) -> bool:
    """Whether `metrics.json` is valid, has the run's labels, and has all keys that this version writes."""
    try:
        metrics = run.metrics
    except RunError:
        return False
    return "decision" in metrics and all(
        split in metrics
        and _SHOWN[run.task] <= metrics[split].keys()
        and [row["label"] for row in metrics[split]["per_label"]] == list(run.labels)
        for split in run.predicted_splits
    )


def _explain(
    run: Run, interpretation: Interpretation, count: int, arch: Callable[..., Any] | None
) -> tuple[tuple[SaliencyCase, ...], tuple[str, ...]]:
    """Return saliency maps of the images with the largest losses and of correctly predicted ones, and notes on them."""
    if not count:
        return (), ()
    from xrayfast.workflows.explain import explain_cases

    right = interpretation.right_cases(count // 2)
    cases = (*interpretation.cases(count - len(right)), *right)
    return explain_cases(run, cases, interpretation.paths, arch=arch)


def _write_cases(
    run: Run,
    split: PredictedSplit,
    explained: tuple[SaliencyCase, ...],
    notes: tuple[str, ...],
    failures: Mapping[str, tuple[Case, ...]],
) -> None:
    before: Mapping[str, Any] = run.metrics
    metrics = {name: value for name, value in before.items() if name not in ("saliency", "failures")}
    fields = ("image", "actual", "predicted", "probability", "loss")
    metrics["failures"] = {split: _to_json(cases, fields) for split, cases in failures.items()}
    if explained or notes:
        cases = _to_json(explained, ("image", "label", "probability", "outside"))
        metrics["saliency"] = {"split": split, "cases": cases, "notes": list(notes)}
    if metrics != before:
        run.write_metrics(metrics)


def _to_json(cases: Iterable[Any], fields: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: nan_to_none(getattr(case, name)) for name in fields} for case in cases]


def _write_figures(run: Run, report: ReportData, shown: SplitReport, formats: Sequence[str]) -> None:
    """Write the figures of a split, the training curves and the shown images in each format.

    Figures that an earlier report wrote in other formats are removed.
    """
    plots = [plot for block in shown.blocks or () for plot in block.figures]
    drawn: dict[str, Plot | Figure] = {
        plot.name: plot for plot in filter(None, [*plots, report.curves, report.batches])
    }
    if report.curves is None and not report.info.members:
        drawn["curves"] = training_curves.loss_and_metric_curves(report.history)
    if shown.headline is not None:
        drawn["headline"] = shown.headline
    drawn["top_losses"] = top_losses.top_losses_figure(shown.cases)
    if shown.saliency:
        drawn["saliency"] = overlays_figure(shown.saliency)
    for name, one in drawn.items():
        for kind in encoding.FORMATS:
            path = run.figure_path(name, kind)
            if kind not in formats:
                path.unlink(missing_ok=True)
            elif isinstance(one, Plot):
                one.save(path)
            else:
                encoding.save(one, path)


def _write_tables(run: Run, interpretation: Interpretation, top: int) -> None:
    single, labels = run.task == "single", interpretation.vocab
    matrix = interpretation.confusion_matrix() if single else interpretation.cooccurrence()
    counts = pd.DataFrame(matrix, index=labels, columns=labels).rename_axis("actual").reset_index()
    tables = {
        "operating": pd.DataFrame(operating_rows(interpretation.summary)),
        "per_label": interpretation.label_table().reset_index(),
        "most_confused": pd.DataFrame(interpretation.most_confused(), columns=["actual", "predicted", "count"]),
        "top_losses": interpretation.top_losses_table(top),
        "confusion" if single else "cooccurrence": counts,
    }
    for name, table in tables.items():
        write_csv(run.table_path(name), table, "%.6g")
    units = run.table_path("units")
    if interpretation.predictions.unit == "image":
        units.unlink(missing_ok=True)  # an earlier report may have written it
    else:
        interpretation.predictions.write(units)


def _split_report(
    run: Run, split: PredictedSplit, interpretation: Interpretation, top: int, shows_right: bool
) -> SplitReport:
    weights = "From the weights of the best epoch" if run.info.best_epoch else "From the weights as they were saved"
    if members := run.info.members:
        weights = f"The mean of the probabilities of {len(members)} networks"
    return SplitReport(
        split,
        interpretation.summary,
        interpretation.cases(top),
        weights + (", averaged over augmented views." if run.config.train.tta else "."),
        predictions=interpretation.predictions,
        blocks=figure_blocks(split, interpretation.summary, run.task, interpretation.predictions),
        right=interpretation.right_cases(min(top, RIGHT_SHOWN)) if shows_right else (),
    )


def _headline(report: SplitReport, run: Run) -> Plot | None:
    if report.predictions is None or not report.summary["scored"]:
        return None
    return headline_plot(report.name, report.summary, run.task, report.predictions, report.examples)


def _report_data(run: Run, splits: tuple[SplitReport, ...]) -> ReportData:
    network = run.first_network if run.info.phases else run  # members that were trained apart have their own pages
    history, best_epoch, unit = network.history, network.info.best_epoch, run.config.results.unit
    info = run.info.model_copy(update={"best_epoch": best_epoch})
    return ReportData(
        run_name=run.path.name,
        info=info,
        model_facts=training_facts(run),
        task=run.task,
        labels=run.labels,
        counts=pd.DataFrame(info.counts),
        history=history,
        splits=splits,
        decision=run.decision,
        source=run.config.data.shown,
        curves=history_plot(history, best_epoch),
        batches=batches_plot(network.batches) if network.has_batches else None,
        methods=describe_methods(run),
        training_images=network.training_images,
        overfitting=(
            overfitting_in_final_metrics(network.metrics, best_epoch, run.task, run.config.train.tta, unit)
            if network.has_train_predictions and best_epoch is not None
            else overfitting_in_history(history, best_epoch, run.task, info.history_unit or unit)
        ),
    )
