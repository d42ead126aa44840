"""Evaluate a run on the test split of its own data, or a run or an exported file on other data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from pydantic import Field

from xrayfast._version import __version__
from xrayfast.config import MAX_BATCH_SIZE, Config, Device, PredictedSplit, Unit, UnitJoin, field_types
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.words import Split
from xrayfast.errors import ConfigError, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.exported.onnx_model import require_no_network_options, require_no_views
from xrayfast.metrics.claims.external import (
    compare_prevalence,
    compare_with_internal,
    corrected_labels,
    external_warnings,
)
from xrayfast.metrics.claims.headline import HeadlineWarning
from xrayfast.own_code import names_of_code, require_code
from xrayfast.progress import StageProgress, show_progress
from xrayfast.runs.evaluation import Evaluation
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import Run, now
from xrayfast.workflows.steps.evaluation.evaluated_data import EvaluatedData, open_external, predict_external, read_own
from xrayfast.workflows.steps.evaluation.exported_run import EvaluatedRun, ExportedRun, open_evaluated
from xrayfast.workflows.steps.evaluation.files import write_page, write_tables
from xrayfast.workflows.steps.predictions.own import RunByUnit, require_known_units
from xrayfast.workflows.steps.results import (
    DECISION_SPLIT,
    compute_metrics,
    parse_prevalences,
    warn_of_run,
    write_cards,
)


@check_arguments(field_types)
def evaluate(
    run: EvaluatedRun | Path | str,
    data: Manifest | Path | str | None = None,
    *,
    config: Config | None = None,
    by: Sequence[str] | str = (),
    split: Split | None = None,
    name: str | None = None,
    output: Path | str | None = None,
    tta: bool | None = None,
    correct_prior: bool = False,
    prevalence: Sequence[str] | str | None = None,
    resamples: int | None = None,
    unit: Unit | None = None,
    unit_join: UnitJoin | None = None,
    arch: Callable[..., Any] | None = None,
    device: Device = "auto",
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)] = 32,
    command: str = "",
    progress: bool | StageProgress | None = None,
) -> Evaluation:
    """Evaluate a run on the test split of its own data, or on another data set, with its calibration and thresholds.

    On other data, labels are matched by name. Images that the run was trained or selected on are left out: those with
    the same pixels, near duplicates, and other images of the same patients or studies. An exported file does not record
    which images it was trained on.

    Args:
        run: the run or its folder; or an ONNX file of `export`, which is evaluated on other `data` with onnxruntime,
            without importing torch.
        data: a Manifest, or the folder or table of a data set. If neither `data` nor `config` is
            given, the run's own saved predictions are evaluated, without running the network.
        config: settings of the data set; its `source` is the data if `data` is not given. If its window is "auto", the
            run's window is used.
        by: subgroups to compare: "sex", "age" (in bands), "view", or any column of the table of labels that has at most
            20 values, such as hospital.
        split: for the run's own data "test" (default) or "valid"; for other data one of its splits, default all images.
        name: name of the evaluation's folder; default the name of the data.
        output: for an exported file, the folder of its evaluations; default NAME-evaluations beside NAME.onnx.
        tta: average over augmented views, which depend only on the run's seed and the image; by default as in the run's
            own predictions, which its calibration and thresholds were fitted to.
        correct_prior: correct the probabilities on other data for its prevalence, estimated without its labels (Saerens
            2002); `metrics.json` always has the effect that this would have.
        prevalence: prevalences to compute predictive values at, as "0.05" or "Edema=0.02"; default the run's settings.
        resamples: number of bootstrap resamples, 0 for no intervals; default the run's settings.
        unit: "image"; or "study" or "patient" to join the probabilities of their images. Default the run's settings.
            The run's thresholds are chosen again if they were chosen for another unit.
        unit_join: how to join them: "mean", "max" or "noisy-or"; default the run's settings.
        arch: the run's `arch`, if it is code of your own.
        device: the device to compute on.
        batch_size: images per batch.
        command: the command line, recorded in `evaluation.json`.
        progress: whether to display progress, by default only in a notebook or a terminal; or a function to call with
            the stage, the images done and the total.

    Returns:
        The Evaluation, a new folder in the run's folder or in `output`: `.metrics`, `.predictions`, `.path`.

    Raises:
        DataError: the data can't be used or share no label with the run, or none of their images can be evaluated.
        ConfigError: an option is wrong, or the data lack the column of a subgroup.
        RunError: the run is not complete, lacks the split, or is being trained in another process; the file is damaged
            or was not written by `export`; or the name is taken.
        WeightsError: the weights are not those of the network that the folder describes.
    """
    run = open_evaluated(run)
    began, started = time.perf_counter(), now()
    output = None if output is None else Path(output)
    if isinstance(run, ExportedRun):
        _require_options_of_file(run, data is not None or config is not None, tta, correct_prior, arch, device)
    own = RunByUnit.of(cast("Run", run), unit, unit_join)  # an ExportedRun has all attributes that this reads
    settings, decision = own.settings, own.decision
    if isinstance(run, Run) and DECISION_SPLIT in run.predicted_splits:
        require_known_units(run, own.images(DECISION_SPLIT), settings.unit)
    items = (prevalence,) if isinstance(prevalence, str) else settings.prevalence if prevalence is None else prevalence
    shares = parse_prevalences(items, run.labels)
    resamples = settings.resamples if resamples is None else resamples
    by = tuple(dict.fromkeys([by] if isinstance(by, str) else by))
    external = None if data is None and config is None else open_external(run, data, config, split)
    if external is None:
        _require_no_network_options(tta, correct_prior, arch, device, batch_size)
    elif arch is None and isinstance(run, Run):  # before images are decoded
        require_code(names_of_code({"arch": run.config.model.arch}), {}, str(run.path))
    own_split = (split or "test") if external is None else None
    stem = (own_split if external is None else external.config.source.absolute().name) or "data"
    run.require_new_evaluation(name, output)
    beside: dict[str, Any] = {}
    with show_progress(progress) as reporter:
        if external is None:
            evaluated = read_own(own, split, by)
        else:
            evaluated = predict_external(
                own,
                external,
                split,
                by,
                tta=tta,
                arch=arch,
                device=device,
                batch_size=batch_size,
                progress=reporter.preparing,
            )
            if isinstance(run, Run) and DECISION_SPLIT in run.predicted_splits:
                beside["prevalence"] = _compare_prevalence(own, evaluated.predictions)
            else:
                text = (
                    f"The prevalence is not compared with the validation split's, because {run.path} has no "
                    "predictions of that split."
                )
                evaluated = replace(evaluated, notes=(*evaluated.notes, text))
        if correct_prior:
            evaluated = _correct_prior(own, evaluated)
        predictions = evaluated.predictions
        reporter.preparing("computing metrics", 0, len(predictions))
        result = compute_metrics(
            predictions, decision, prevalence=shares, resamples=resamples, seed=run.config.train.seed, by=by
        )
        if external is not None and evaluated.own_test == 0 and isinstance(run, Run):
            beside["internal"] = _compare_with_internal(own, evaluated, result)
        result["warnings"] = warn_of_run(
            run,
            result,
            predictions,
            own_split,
            notes=evaluated.notes,
            further=[
                *(HeadlineWarning("data", text) for text in evaluated.warnings),
                *external_warnings(beside.get("prevalence", ()), beside.get("internal", {}).get("rows", ())),
            ],
        )
        reporter.preparing("computing metrics", len(predictions), len(predictions))
        metrics = _describe(own, external, own_split or split, evaluated) | beside | {"result": result}
        of_data = [] if isinstance(data, Manifest) else evaluated.info.get("data_notes", [])
        for note in (*of_data, *metrics["notes"]):
            reporter.note(note)

    def write(evaluation: Evaluation) -> None:
        evaluation.write_predictions(predictions)
        evaluation.write_info(
            {
                "run": run.name,
                "command": command,
                "xrayfast": __version__,
                "started": started,
                "seconds": round(time.perf_counter() - began, 1),
                **evaluated.info,
            }
        )
        write_tables(evaluation, result)
        write_page(run, decision, evaluation, metrics, started, command, evaluated.cases)
        evaluation.write_metrics(metrics)

    evaluation = run.create_evaluation(name, stem, write, output)
    if isinstance(run, Run) and not run.downloaded:
        write_cards(run)
    return evaluation


def _require_options_of_file(
    run: ExportedRun, has_data: bool, tta: bool | None, correct_prior: bool, arch: object, device: Device
) -> None:
    """Raise a ConfigError, before images are decoded, if an exported file does not support an option."""
    if not has_data:
        raise ConfigError(f"{run.path}: an exported file has no images to evaluate on: give DATA too.")
    require_no_network_options(arch, device)
    require_no_views(tta)
    if correct_prior:
        raise ConfigError(
            f"correct_prior is true, but {run.path} does not contain the prevalence in the validation split. Leave "
            "it out, or use the run."
        )


def _require_no_network_options(
    tta: bool | None, correct_prior: bool, arch: object, device: str, batch_size: int
) -> None:
    """Raise a ConfigError if an option of the network is given although saved predictions are evaluated."""
    of_network = {
        "tta": tta is not None,
        "correct_prior": correct_prior,
        "arch": arch is not None,
        "device": device != "auto",
        "batch_size": batch_size != 32,
    }
    if any(of_network.values()):
        given = " and ".join(name for name, is_given in of_network.items() if is_given)
        raise ConfigError(
            f"found {given} without data. The run's own predictions are saved, so the network is not run. Give data, "
            f"or leave out {given}."
        )


def _compare_prevalence(own: RunByUnit, predictions: Predictions) -> list[dict[str, Any]]:
    run, validation = own.run, own.join(own.images(DECISION_SPLIT))
    return compare_prevalence(
        run.labels,
        (validation.truth, validation.groups),
        (predictions.truth, predictions.groups),
        predictions.probability,
        run.task,
        run.decision.positive,
    )


def _compare_with_internal(own: RunByUnit, evaluated: EvaluatedData, result: dict[str, Any]) -> dict[str, Any]:
    """Compare the metrics on the data with those on the run's own test split, or else its validation split."""
    run = own.run
    split: PredictedSplit = "test" if "test" in run.metrics else DECISION_SPLIT
    same = set(evaluated.labels["used"]) == set(run.labels)
    return {"split": split, "rows": compare_with_internal(own.metrics(split), result, run.task, same)}


def _describe(
    own: RunByUnit, external: Manifest | None, split: Split | None, evaluated: EvaluatedData
) -> dict[str, Any]:
    """Return the description of what was evaluated, for `metrics.json`."""
    source = own.run.config.data if external is None else external.config
    found = evaluated.predictions.n_images
    return {
        "source": str(source.source),
        "table": source.labels and source.labels.name,
        "split": split,
        "own": external is None,
        "images": {
            "found": found + sum(n for _, n in evaluated.left_out),
            "left_out": [list(pair) for pair in evaluated.left_out],
            "evaluated": found,
            "own_test": evaluated.own_test,
        },
        "labels": evaluated.labels,
        "notes": [*evaluated.notes, *own.notes],
        "decision": own.decision.to_json(),
    }


def _correct_prior(own: RunByUnit, evaluated: EvaluatedData) -> EvaluatedData:
    """Correct the probabilities for the prevalence in the data, estimated from the probabilities themselves."""
    predictions, run = evaluated.predictions, own.run
    rows = own.metrics(DECISION_SPLIT)["per_label"]
    prior = np.array([row["support"] / max(1, row["support"] + row["negatives"]) for row in rows])
    shares, probability = corrected_labels(predictions.probability, prior, run.task)
    found = shorten([f"{label} {share:.3f}" for label, share in zip(run.labels, shares.tolist(), strict=True)])
    note = (
        "Probabilities are corrected for the prevalence in these data, which is estimated from the probabilities "
        f"without the labels: {found}."
    )
    return replace(evaluated, predictions=replace(predictions, probability=probability), notes=(*evaluated.notes, note))
