"""`xrayfast evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.output import Output
from xrayfast.cli.progress import reporting

if TYPE_CHECKING:
    from xrayfast.config import Config
    from xrayfast.run import Run

# Those that draw parts have no place where nothing is trained.
_OPENING = ("source", "valid_fraction", "test_fraction", "folds", "fold", "split_seed")
_RESULTS = {name: o.RESULTS_SETTINGS[name] for name in ("prevalence", "resamples")}


@o.takes(o.DATA_SETTINGS, _RESULTS, without=_OPENING)
def evaluate(
    given: dict[str, Any],
    run: o.RunFolder = None,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            show_default="the run's own test split",
            help="Other images to test on: class folders, or a CSV file.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by", metavar="sex,age,view", show_default=False, help="Tables by subgroup, and the largest gaps."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="train|valid|test",
            show_default="test of the run's own data, all of DATA",
            help="Part to measure.",
        ),
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over augmented views.")] = False,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|cuda|mps", rich_help_panel=o.MACHINE, show_default="auto", help="Where to compute."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "-b", min=1, rich_help_panel=o.MACHINE, show_default="32", help="Images a batch."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", rich_help_panel=o.OUT, show_default="that of the data", help="Of its folder."),
    ] = None,
    config: o.ConfigFile = None,
    runs: o.Runs = Path("runs"),
    as_json: o.Json = False,
) -> None:
    """Test a run on its own test split, or on other data, with its own calibration and thresholds.

    Of other data, images that the run was trained on or chosen by are found by their pixels and left out. Synonyms of
    labels are joined by --label-map.
    """
    o.require_one_of(split, ("train", *o.PREDICTED_SPLITS), "--split")
    o.require_one_of(device, o.DEVICES, "--device")
    results = {key: given.pop(key) for key in _RESULTS if key in given}
    if data is None:
        others = {"config": config, "device": device, "batch_size": batch_size, "tta": tta or None}
        wrong = [*given, *(option for option, value in others.items() if value is not None)]
        if wrong:
            raise typer.BadParameter(
                "is for other data: name DATA too. The run's own predictions are saved, and need no network.",
                param_hint=f"--{wrong[0].replace('_', '-')}",
            )
    from xrayfast.run import Run

    out = Output(as_json)
    chosen = Run.newest(runs) if run is None else Run(run)
    from xrayfast.cli.commands.fit import command_line
    from xrayfast.workflows.evaluate import evaluate as work

    with reporting(out) as reporter:
        found = work(
            chosen,
            config=None if data is None else _settings(config, given, data),
            by=[column.strip() for column in by.split(",")] if by else (),
            split=split,  # type: ignore[arg-type]
            name=name,
            tta=tta,
            device=device or "auto",  # type: ignore[arg-type]
            batch_size=batch_size or 32,
            command=command_line(),
            progress=reporter.preparing,
            prevalence=results.get("prevalence"),
            resamples=results.get("resamples"),
        )
    metrics = found.metrics
    show_evaluation(out, chosen, metrics)
    out.line()
    out.done("Evaluation", found.path)
    if found.report_path.is_file():
        out.done("Report", found.report_path)
    out.json({"run": str(chosen.path), "evaluation": str(found.path), **metrics})


def _settings(config: Path | None, given: Mapping[str, Any], data: Path) -> Config:
    from xrayfast.cli.commands.fit import read_settings

    return read_settings(config, {**given, "source": data})


def show_evaluation(out: Output, run: Run, metrics: Mapping[str, Any]) -> None:
    """What was measured and left out, the results, the subgroups with their gaps, and the notes."""
    from xrayfast.cli.results import show_decision, show_measures, show_subgroups

    result, task = metrics["result"], run.task
    _show_images(out, run, metrics)
    show_measures(out, result, task, metrics["labels"]["lacking"] if task == "multi" else [])
    out.line()
    show_decision(out, run.decision)
    for one in result.get("subgroups", []):
        show_subgroups(out, one, task)
    out.line()
    for note in [*metrics["warnings"], *metrics["notes"], *result["notes"]]:
        out.note(note)


def _show_images(out: Output, run: Run, metrics: Mapping[str, Any]) -> None:
    images, labels = metrics["images"], metrics["labels"]
    split = f", part {metrics['part']}" if metrics["part"] else ""
    out.table(
        f"{run.path.name} on {metrics['source']}{split}",
        ["", "images"],
        [
            ("found", images["found"]),
            *((f"left out: {why}", n) for why, n in images["left_out"]),
            ("measured", images["evaluated"]),
        ],
    )
    if labels["unknown"]:
        out.table("Labels that the network does not know", ["label", "images"], labels["unknown"])
    if labels["lacking"]:
        out.line()
        out.line(f"Labels of the network that the data do not tell: {', '.join(labels['lacking'])}")
