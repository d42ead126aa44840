"""Report on a run from its saved predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from typing_extensions import Unpack

from xrayfast.config import ResultsOptions
from xrayfast.data.cache.image_cache import open_images
from xrayfast.errors import RunError
from xrayfast.files import write_csv
from xrayfast.metrics.classification import defined
from xrayfast.report import figures
from xrayfast.report.html.figure_blocks import history_plot, result_blocks
from xrayfast.report.html.results import SplitReport
from xrayfast.report.html.run_page import ReportData, write_page
from xrayfast.report.interpretation import IMAGE_SIZE, Interpretation
from xrayfast.report.markdown.claim import write_claim
from xrayfast.report.markdown.model_card import write_model_card
from xrayfast.report.overlays import SaliencyCase, overlays_figure
from xrayfast.run import PredictedSplit, Run
from xrayfast.workflows.data import own_data
from xrayfast.workflows.results import refit_decision

if TYPE_CHECKING:
    from xrayfast.learning.interpretation import RadiographInterpretation


def interpret(
    run: Run | Path | str,
    *,
    split: PredictedSplit | None = None,
    top: int = 12,
    saliency: int = 0,
    **options: Unpack[ResultsOptions],
) -> RadiographInterpretation:
    """Write a run's figures, tables, model card and `report.html`, without running the network again.

    Args:
        run: the run or its folder.
        split: the part to return and to draw in `figures/`; default the test split, where there is one. The report
            shows every part that was predicted.
        top: images with the largest losses to show.
        saliency: on how many of them to show where the network looks; this runs the network on those.
        options: any field of ResultsConfig, such as target_sensitivity=0.95: thresholds and calibration are chosen anew
            on the validation split, and all parts are measured anew.

    Returns:
        The interpretation of that split; a fastai ClassificationInterpretation.

    Raises:
        ConfigError: an option is wrong.
        RunError: the run is not complete, or lacks a file.
        WriteError: the folder can't be written to.
    """
    from xrayfast.learning.interpretation import RadiographInterpretation

    return RadiographInterpretation.of(write_report(run, split=split, top=top, saliency=saliency, **options))


def write_report(
    run: Run | Path | str,
    *,
    split: PredictedSplit | None = None,
    top: int = 12,
    saliency: int = 0,
    **options: Unpack[ResultsOptions],
) -> Interpretation:
    """What `interpret` does, without the seconds that importing torch and fastai takes; only `saliency` needs them.

    Args:
        run: as for `interpret`.
        split: as for `interpret`.
        top: as for `interpret`.
        saliency: as for `interpret`.
        options: as for `interpret`.

    Returns:
        The interpretation of that split.

    Raises:
        ConfigError: an option is wrong.
        RunError: the run is not complete, or lacks a file.
        WriteError: the folder can't be written to.
    """
    run = Run.of(run)
    if options or not _is_measured(run):
        _require_splits(run)
        refit_decision(run, options)
    found = read_interpretations(run)
    chosen = split or list(found)[-1]
    if chosen not in found:
        run.predictions(chosen)  # says which there are
    cases, notes = _explained(run, found[chosen], saliency)
    splits = tuple(_split(run, split, one, top) for split, one in found.items())
    _keep(run, chosen, cases, notes, {split.name: split.cases for split in splits})
    _write_tables(run, found[chosen], top)
    splits = tuple(
        replace(split, saliency=cases, saliency_notes=notes) if split.name == chosen else split for split in splits
    )
    report = _report(run, splits)
    _write_figures(run, report, chosen)
    write_page(report, run.report_path)
    write_model_card(run)
    write_claim(run)
    return found[chosen]


def read_interpretations(run: Run) -> dict[PredictedSplit, Interpretation]:
    """An interpretation of each split that was predicted, valid before test.

    Raises:
        RunError: there is none, because the run is not complete.
    """
    splits = _require_splits(run)
    metrics, decision = run.metrics, run.decision
    # Images come from the run's own data alone: names in a stranger's predictions could point anywhere.
    data = own_data(run)
    paths = (
        {}
        if data is None
        else {image: Path(path) for image, path in zip(data.table["image"], data.table["path"], strict=True)}
    )
    side = run.config.model.size
    images = open_images(run.config.data, side) if side >= IMAGE_SIZE // 2 else None
    return {
        split: Interpretation(
            run.predictions(split), run.task, paths, images=images, decision=decision, summary=metrics.get(split)
        )
        for split in splits
    }


_SHOWN = {
    "single": {"scored", "notes", "most_confused", "confusion", "most_common"},
    "multi": {"scored", "notes", "most_confused", "confusion_per_label", "cooccurrence"},
}
"""What the report shows of a summary and older versions did not write."""


def _require_splits(run: Run) -> tuple[PredictedSplit, ...]:
    splits = run.predicted_splits
    if not splits:
        raise RunError(
            f"{run.path}: has no predictions; they are saved when a run completes, and this one's status is "
            f"'{run.info.status}'. "
            f"'xrayfast fit --resume {run.path}' goes on with an interrupted run."
        )
    return splits


def _is_measured(run: Run) -> bool:
    """Whether `metrics.json` is there, whole, of the run's labels, and of this version."""
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


def _explained(
    run: Run, interpretation: Interpretation, count: int
) -> tuple[tuple[SaliencyCase, ...], tuple[str, ...]]:
    """What speaks for the most probable label of the images with the largest losses."""
    if not count:
        return (), ()
    from xrayfast.workflows.explain import Asked, saliency_cases

    paths = interpretation.paths
    asked = [
        Asked(case.image, paths.get(case.image), case.actual, case.predicted, None)
        for case in interpretation.cases(count)
    ]
    return saliency_cases(run, asked)


def _keep(
    run: Run,
    split: PredictedSplit,
    explained: tuple[SaliencyCase, ...],
    notes: tuple[str, ...],
    failures: Mapping[str, tuple[figures.Case, ...]],
) -> None:
    """What the report says of single images stands in `metrics.json` too."""
    before = run.metrics
    metrics = {name: value for name, value in before.items() if name not in ("saliency", "failures")}
    metrics["failures"] = {
        split: [
            {
                "image": case.image,
                "actual": case.actual,
                "predicted": case.predicted,
                "probability": defined(case.probability),
                "loss": defined(case.loss),
            }
            for case in cases
        ]
        for split, cases in failures.items()
    }
    if explained or notes:
        rows = [
            {"image": one.image, "label": one.label, "probability": one.probability, "outside": defined(one.outside)}
            for one in explained
        ]
        metrics["saliency"] = {"split": split, "cases": rows, "notes": list(notes)}
    if metrics != before:
        run.write_metrics(metrics)


def _write_figures(run: Run, report: ReportData, chosen: PredictedSplit) -> None:
    """The page's figures of a part as files too, and its single images."""
    shown = next(split for split in report.splits if split.name == chosen)
    plots = [plot for block in shown.blocks or () for plot in block.figures]
    for plot in [*plots, *([report.curves] if report.curves else [])]:
        plot.save(run.figure_path(plot.name))
    if report.curves is None:
        figures.save(figures.loss_and_metric_curves(report.history), run.figure_path("curves"))
    figures.save(figures.top_losses_figure(shown.cases), run.figure_path("top_losses"))
    if shown.saliency:
        figures.save(overlays_figure(shown.saliency), run.figure_path("saliency"))


def _write_tables(run: Run, interpretation: Interpretation, top: int) -> None:
    tables = {
        "per_label": interpretation.label_table().reset_index(),
        "most_confused": pd.DataFrame(interpretation.most_confused(), columns=["actual", "predicted", "count"]),
        "top_losses": interpretation.top_losses_table(top),
    }
    if run.task == "single":
        tables["confusion"] = (
            pd.DataFrame(interpretation.confusion_matrix(), index=interpretation.vocab, columns=interpretation.vocab)
            .rename_axis("actual")
            .reset_index()
        )
    else:
        tables["cooccurrence"] = (
            pd.DataFrame(interpretation.cooccurrence(), index=interpretation.vocab, columns=interpretation.vocab)
            .rename_axis("actual")
            .reset_index()
        )
    for name, table in tables.items():
        write_csv(run.table_path(name), table, "%.6g")


def _split(run: Run, split: PredictedSplit, interpretation: Interpretation, top: int) -> SplitReport:
    weights = "of the best epoch" if run.info.best_epoch else "as they were saved"
    return SplitReport(
        split,
        interpretation.summary,
        interpretation.cases(top),
        f"From the weights {weights}" + (", averaged over augmented views." if run.config.train.tta else "."),
        predictions=interpretation.predictions,
        blocks=result_blocks(split, interpretation.summary, run.task, interpretation.predictions),
    )


def _report(run: Run, splits: tuple[SplitReport, ...]) -> ReportData:
    info, config = run.info, run.config
    return ReportData(
        run_name=run.path.name,
        created=info.finished[:16].replace("T", " ") + " UTC",
        command=info.command,
        facts=_facts(run),
        task=run.task,
        labels=run.labels,
        counts=pd.DataFrame(info.counts),
        data_notes=tuple(info.data_notes),
        history=run.history,
        best_epoch=info.best_epoch,
        splits=splits,
        warnings=tuple(info.remarks),
        decision=run.decision,
        flow=info.flow,
        audit=info.audit,
        source=str(config.data.source),
        curves=history_plot(run.history, info.best_epoch),
    )


def _facts(run: Run) -> dict[str, str]:
    info, config = run.info, run.config
    train, model = config.train, config.model
    phases = [f"{phase.name} ({phase.epochs})" for phase in info.phases or ()]
    versions = {"xrayfast": info.xrayfast, **info.versions}
    return {
        "arch": model.arch,
        "weights": model.weights,
        "parameters": f"{info.parameters or 0:,}",
        "size": f"{model.size} px",
        "batch size": str(run.global_batch),
        "phases (epochs)": ", ".join(phases) or "by hand",
        "lr": "by hand" if info.lr is None else f"{info.lr:.2g}",
        "schedule": train.schedule,
        "optimizer": train.optimizer,
        "wd": str(train.wd),
        "loss": info.loss or train.loss,
        "class weights": train.class_weights,
        "tta": "yes" if train.tta else "no",
        "precision": info.precision or train.precision,
        "device": f"{info.device} ({info.device_name})",
        "seed": f"{train.seed} (split {config.data.split_seed})",
        "training time": f"{info.seconds or 0:.0f} s",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
