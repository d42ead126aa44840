"""`xrayfast evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.common import choose_run, command_line, read_settings
from xrayfast.cli.output import Output
from xrayfast.config import PREDICTED_SPLITS
from xrayfast.progress.terminal import reporting

if TYPE_CHECKING:
    from xrayfast.workflows.steps.evaluation.exported_run import EvaluatedRun

SPLITS = ("train", *PREDICTED_SPLITS)

# DATA is a separate argument, and no split is drawn because nothing is trained.
_WITHOUT = ("source", "valid_fraction", "test_fraction", "folds", "fold", "split_seed", "unreadable")
_OWN = ("prevalence", "resamples", "unit", "unit_join")
_PREDICTION = ("tta", "batch_size", "device")


@o.takes("data", *_OWN, *_PREDICTION, without=_WITHOUT, of_run=(*_OWN, "tta", "window", "views"))
def evaluate(
    given: dict[str, Any],
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            show_default="the newest under runs/",
            help="Folder of a run, ONNX file of 'xrayfast export', or hf:ORG/NAME[@REVISION].",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            show_default="the run's own test split",
            help="Other data to test on: a folder of class folders, or a table.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN[,...]",
            help="Also report by subgroup, with the largest gaps: sex, age, view, or a column of the table of labels.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        o.choice_option(SPLITS, show_default="test of the run's own data; all of DATA", help="Split to evaluate on."),
    ] = None,
    name: Annotated[
        str | None,
        o.out_option(metavar="NAME", show_default="the name of the data", help="Name of the evaluation's folder."),
    ] = None,
    output: Annotated[
        Path | None,
        o.out_option(
            "--output",
            "-o",
            metavar="DIR",
            show_default="NAME-evaluations beside NAME.onnx",
            help="Folder for the evaluations of an ONNX file; those of a run are in the run's folder.",
        ),
    ] = None,
    correct_prior: Annotated[
        bool,
        typer.Option(
            "--correct-prior",
            help="Adapt probabilities to the prevalence in DATA, which is estimated without its labels (Saerens 2002).",
        ),
    ] = False,
    config: o.ConfigFile = None,
    runs: o.Runs = None,
    as_json: o.Json = False,
) -> None:
    """Test a run on its own test split or on other data, with the run's calibration and thresholds.

    Images of DATA that the run was trained or validated on are left out. They are recognized by their pixels and, while
    the run's own data can be read, also as near duplicates and by patient. --label-map merges synonyms of labels.

    An ONNX file is tested on DATA without torch. It does not record which images the network was trained on.
    """
    out = Output(as_json)
    results = {key: given.pop(key) for key in _OWN if key in given}
    if data is None:
        wrong = [*given, *(["correct_prior"] if correct_prior else []), *(["config"] if config is not None else [])]
        if wrong:
            raise typer.BadParameter(
                "applies only to other data: give DATA too. The run's own predictions are saved, so the network is "
                "not run.",
                param_hint=f"--{wrong[0].replace('_', '-')}",
            )
    prediction = {key: given.pop(key) for key in _PREDICTION if key in given}
    from xrayfast.exported.onnx_model import is_model_file
    from xrayfast.workflows.steps.evaluation.exported_run import ExportedRun

    chosen = ExportedRun(run) if run is not None and is_model_file(run) else choose_run(run, runs)
    from xrayfast.workflows.evaluate import evaluate as work

    with reporting(out) as reporter:
        found = work(
            chosen,
            config=None if data is None else read_settings(config, {**given, "source": data}),
            by=o.split_columns(by),
            correct_prior=correct_prior,
            split=split,  # type: ignore[arg-type]
            name=name,
            output=output,
            command=command_line(),
            progress=reporter.preparing,
            **results,
            **prediction,
        )
    metrics = found.metrics
    show_evaluation(out, chosen, metrics)
    out.line()
    out.done("Evaluation", found.path)
    if found.report_path.is_file():
        out.done("Report", found.report_path)
    out.json({"run": str(getattr(chosen, "downloaded", None) or chosen.path), "evaluation": str(found.path), **metrics})


def show_evaluation(out: Output, run: EvaluatedRun, metrics: Mapping[str, Any]) -> None:
    """Print which images were evaluated, the results, the subgroups with their gaps, and the notes on them."""
    from xrayfast.cli.results import show_decision, show_metrics, show_subgroups
    from xrayfast.metrics.operating_points.decision import Decision
    from xrayfast.reporting.wording import external_tables

    result, task = metrics["result"], run.task
    _show_images(out, run, metrics)
    split = (metrics["split"] if metrics["own"] else None) or "table"
    show_metrics(out, result, task, split, metrics["labels"]["lacking"] if task == "multi" else [])
    for title, columns, rows in external_tables(metrics):
        out.table(title, columns, rows)
    out.line()
    show_decision(out, Decision.from_json(metrics["decision"], task, run.labels))
    for grouping in result.get("subgroups", []):
        show_subgroups(out, grouping, task)
    out.line()
    for note in result["notes"]:
        out.note(note)


def _show_images(out: Output, run: EvaluatedRun, metrics: Mapping[str, Any]) -> None:
    images, labels = metrics["images"], metrics["labels"]
    where = [metrics["source"], *(f"{name} {metrics[name]}" for name in ("table", "split") if metrics[name])]
    out.table(
        f"{run.name} on {', '.join(where)}",
        ["", "images"],
        [
            ("found", images["found"]),
            *((f"left out: {why}", n) for why, n in images["left_out"]),
            ("evaluated", images["evaluated"]),
        ],
    )
    if labels["unknown"]:
        out.table("Labels of the data that the network lacks", ["label", "images"], labels["unknown"])
    if labels["lacking"]:
        out.line()
        out.line(f"Labels of the network that the data lack: {', '.join(labels['lacking'])}")
