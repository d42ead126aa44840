"""The predictions to evaluate: those that a run saved of its own data, or new ones on other data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xrayfast.config import Config, Device
from xrayfast.data.cache.image_cache import open_images
from xrayfast.data.labels.names import is_no_finding
from xrayfast.data.manifest import Manifest
from xrayfast.data.open_manifest import open_manifest
from xrayfast.data.splits.words import SPLITS, Split
from xrayfast.errors import ConfigError, DataError, RunError, shorten
from xrayfast.exported.onnx_model import VIEWS_LEFT_OUT
from xrayfast.learning.inference.reading import reading
from xrayfast.metrics.scoring import mean_log_loss
from xrayfast.option_effects import EvaluationFacts, check_effects, check_tta
from xrayfast.progress import StageProgress
from xrayfast.reporting.case import Case
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.predictions import Predictions, image_attributes, truth_of
from xrayfast.workflows.steps.data.images import describe_reading
from xrayfast.workflows.steps.data.opening import opened_with_notes, unused_data_settings
from xrayfast.workflows.steps.evaluation.exported_run import EvaluatedRun, ExportedRun, knows_images
from xrayfast.workflows.steps.evaluation.files import shown_cases
from xrayfast.workflows.steps.evaluation.population import known_attributes, note_other_population
from xrayfast.workflows.steps.label_match import match_labels
from xrayfast.workflows.steps.predictions.own import RunByUnit, with_columns
from xrayfast.workflows.steps.seen import exclude_seen


@dataclass(frozen=True, eq=False)
class EvaluatedData:
    """The predictions to evaluate, and where they come from.

    Attributes:
        left_out: pairs of a reason to leave images out and the number of images.
        own_test: number of images that are in the run's own test split.
        labels: the labels that are used, those that the network does not have and those that the data lack, as in
            `metrics.json`.
        cases: the images with the largest losses, and some that were predicted correctly.
    """

    predictions: Predictions
    left_out: tuple[tuple[str, int], ...]
    own_test: int
    labels: dict[str, Any]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    info: dict[str, Any]
    cases: tuple[tuple[Case, ...], tuple[Case, ...]] = ((), ())


def read_own(own: RunByUnit, split: Split | None, by: Sequence[str]) -> EvaluatedData:
    """Read the saved predictions of a split of the run's own data, by default its test split."""
    run, chosen = own.run, split or "test"
    if chosen == "train":
        raise ConfigError(
            "split is train; expected test or valid: results on the images that a network was trained on say little."
        )
    if run.predicted_splits and chosen not in run.predicted_splits:
        other = "--split valid evaluates the validation split, which was also used to choose epoch and thresholds"
        if CrossValidation.is_there(run.path):
            other = "--split valid evaluates the out-of-fold predictions"
        raise RunError(
            f"{run.path}: has no predictions of a {chosen} split. Training with --test-fraction 0.15 creates a test "
            f"split, 'xrayfast evaluate {run.path} DATA' tests on other data, and {other}."
        )
    predictions = own.join(own.images(chosen, by))
    return EvaluatedData(
        predictions,
        left_out=(),
        own_test=predictions.n_images if chosen == "test" else 0,
        labels={"used": list(run.labels), "unknown": [], "lacking": []},
        warnings=(),
        notes=(),
        info={"tta": run.config.train.tta},
    )


def open_external(
    run: EvaluatedRun, data: Manifest | Path | str | None, config: Config | None, split: Split | None
) -> Manifest:
    """Open a data set for evaluation: no split is drawn, and one image is enough."""
    config = config or Config()
    settings = data.config if isinstance(data, Manifest) else config.data
    changed: dict[str, Any] = {"window": run.config.data.window if settings.window == "auto" else settings.window}
    if "views" not in settings.model_fields_set:
        changed["views"] = run.config.data.views
    if isinstance(data, Manifest):
        changed.pop("views", None)  # it was opened with its own
        return replace(opened_with_notes(data, config), config=settings.model_copy(update=changed))
    if data is not None:
        changed["source"] = Config().updated({"source": data}).data.source
    if settings.task == "auto":
        # `match_labels` decides what the labels mean; a table of a few images may look single-label.
        changed["task"] = "multi"
    if any(map(is_no_finding, run.labels)):
        changed["keep_no_finding"] = True
    # The fields changed here don't count as given by the user.
    opened = type(settings).model_construct(settings.model_fields_set, **dict(settings) | changed)
    found = open_manifest(opened, to_train=False, known_labels=run.labels)
    idle = check_effects(opened, EvaluationFacts(one_split=split is not None))
    return replace(found, notes=(*found.notes, *idle, *unused_data_settings(data, config)))


def predict_external(
    own: RunByUnit,
    data: Manifest,
    split: Split | None,
    by: Sequence[str],
    *,
    tta: bool | None,
    arch: Callable[..., Any] | None,
    device: Device,
    batch_size: int,
    progress: StageProgress,
) -> EvaluatedData:
    """Decode the images, leave out those that can't be evaluated, and predict on the rest."""
    run = own.run
    if split is not None:
        data = _subset(data, split)
    known = with_columns(
        by, image_attributes(data.table), data.config, data.table["image"].tolist(), str(data.config.source)
    )
    matched = match_labels(data, run.labels, run.task, run.config.data.imply)
    # Raise an error before images are decoded if their studies or patients are not known.
    truth = truth_of(data, run.labels, matched.truth)
    own.join(truth)
    images = open_images(data.config, run.config.model.size)
    unseen = exclude_seen(run if knows_images(run) else None, data, matched, images, progress)
    rows = unseen.rows
    paths = data.table["path"].to_numpy()[rows].tolist()
    predictor, used = _open_predictor(run, tta, arch, device)
    with reading(paths, images.image) as lazy:
        found = [
            predictor.probabilities_and_spread(chunk, tta=tta, batch_size=batch_size)[0].raw
            for chunk in lazy.chunks(partial(progress, "predicting"))
        ]
    raw = np.concatenate(found).astype(np.float64)
    predictions = replace(
        truth.select(rows),
        probability=raw,
        loss=mean_log_loss(matched.truth[rows], raw, run.task == "single"),
        raw=raw,
        attributes={name: values[rows] for name, values in known.items()},
    ).calibrated(own.decision)
    joined = own.join(predictions)
    return EvaluatedData(
        joined,
        left_out=unseen.left_out,
        own_test=unseen.own_test,
        labels={
            "used": list(matched.used),
            "unknown": [list(pair) for pair in matched.unknown],
            "lacking": list(matched.lacking),
        },
        warnings=unseen.warnings,
        notes=(
            *filter(None, [describe_splits(data) if split is None else ""]),
            *matched.notes,
            *note_other_population(known_attributes(run), predictions.attributes),
            *unseen.looked,
            *([VIEWS_LEFT_OUT] if isinstance(run, ExportedRun) and run.model.metadata.averaged_views else []),
            *check_tta(tta, run.config.train),
            *describe_reading(predictions.images.tolist(), images.infos(paths), images.side),
        ),
        info={
            **used,
            "data_notes": list(data.notes),
            "unreadable": unseen.unreadable,
        },
        cases=shown_cases(own.decision, joined, dict(zip(predictions.images.tolist(), paths, strict=True)), images),
    )


def _open_predictor(
    run: EvaluatedRun, tta: bool | None, arch: Callable[..., Any] | None, device: Device
) -> tuple[Any, dict[str, Any]]:
    """Return the predictor, and the items of `evaluation.json` that describe how it predicts."""
    if isinstance(run, ExportedRun):
        known = run.model.metadata.model_dump(include={"run", "fingerprint", "created", "precision"})
        return run.model, {"tta": False, "device": "cpu", "exported": known}
    # Torch takes seconds to import, and neither saved predictions nor exported files need it.
    from xrayfast.learning.inference.predictor import predictor_of_run

    predictor = predictor_of_run(run, device, arch)
    return predictor, {"tta": predictor.tta if tta is None else tta, "device": predictor.device.type}


def describe_splits(data: Manifest) -> str:
    """Return a note on the splits that the data give, which are evaluated on together; "" if they give one or none."""
    counts = data.table["split"][~data.drawn].value_counts(sort=False)
    given = ", ".join(f"{name} {counts[name]}" for name in SPLITS if name in counts)
    return f"The images of all splits of the data ({given}) are evaluated; --split chooses one." * (len(counts) > 1)


def _subset(data: Manifest, split: Split) -> Manifest:
    there = [name for name in SPLITS if (data.table["split"] == name).any()]
    if split not in there:
        raise DataError(
            f"{data.config.shown}: has no {split} split; found {shorten(there)}. Leave out --split to use all."
        )
    return data.subset(split)
