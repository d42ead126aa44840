"""Test a run: on the part of its own data that it has not seen, or on other data."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrayfast._version import __version__
from xrayfast.config import Config, Device
from xrayfast.data.cache.image_cache import DecodedImages, open_images
from xrayfast.data.labels.names import is_no_finding
from xrayfast.data.manifest import Manifest, open_manifest
from xrayfast.data.splits.stratify import SPLITS, Split
from xrayfast.errors import ConfigError, DataError, RunError, did_you_mean, plural, shorten
from xrayfast.evaluation import Evaluation
from xrayfast.metrics.bootstrap import FEW_UNITS
from xrayfast.metrics.scoring import log_losses
from xrayfast.predictions import ATTRIBUTES, Predictions, image_attributes
from xrayfast.report.figures import Case
from xrayfast.report.markdown.claim import write_claim
from xrayfast.report.markdown.model_card import write_model_card
from xrayfast.run import Run, now
from xrayfast.workflows.evaluation_files import worst_cases, write_page, write_tables
from xrayfast.workflows.label_match import match_labels
from xrayfast.workflows.results import compute_metrics, parse_prevalences
from xrayfast.workflows.seen import Progress, exclude_seen

CHUNK = 256
"""Images in memory at a time."""

PATIENTS_UNKNOWN = "Whether patients of these data were among those of training is not known; images were compared."


@dataclass(frozen=True, eq=False)
class _Tested:
    """Predictions of a test, and how they came about.

    Attributes:
        found: images that there were.
        left_out: why some were not measured, and how many.
        labels: which are used, unknown to the network and lacking in the data, as `metrics.json` has them.
        warnings: why the numbers may be too good, in sentences.
        notes: what was taken for what, in sentences.
        facts: for `evaluation.json`.
        own_test: images that stand in the run's own test split.
        cases: the images that went most wrong.
    """

    predictions: Predictions
    found: int
    left_out: tuple[tuple[str, int], ...]
    labels: dict[str, Any]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    facts: dict[str, Any]
    own_test: int
    cases: tuple[Case, ...] = ()


def evaluate(
    run: Run | Path | str,
    data: Manifest | Path | str | None = None,
    *,
    config: Config | None = None,
    by: Sequence[str] | str = (),
    split: Split | None = None,
    name: str | None = None,
    tta: bool = False,
    prevalence: Sequence[str] | str | None = None,
    resamples: int | None = None,
    device: Device = "auto",
    batch_size: int = 32,
    command: str = "",
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a run on the test split of its own data, or on another data set, with its own calibration and thresholds.

    Of other data, images that the run was trained on or chosen by are left out, known by their pixels; labels are
    matched by name as `label_match.match_labels` says.

    Args:
        run: the run or its folder.
        data: a Manifest, or the folder or table of a data set, of which one image is enough; where neither it nor
            `config` is given, the run's own saved predictions are measured, without running the network.
        config: settings of the data set; its `source` is the data where `data` is not given. The window "auto" is the
            one that the run was trained with.
        by: by what to look at subgroups: "sex", "age" (in bands), "view".
        split: of the run's own data "test" (where not given) or "valid"; of other data one of its splits, all where not
            given.
        name: of the evaluation's folder; by default that of the data.
        tta: average over augmented views.
        prevalence: at which predictive values are given, as "0.05" or "Edema=0.02"; by default as the run's settings.
        resamples: how often patients are drawn for intervals, 0 for none; by default as the run's settings.
        device: where to run.
        batch_size: images a batch.
        command: the command line, kept in `evaluation.json`.
        progress: called with what is being done, the images done and the images in all.

    Returns:
        The Evaluation, a new folder in the run's: `.metrics`, `.predictions`, `.path`.

    Raises:
        DataError: the data can't be used, share no label with the run, or nothing of them is left to measure on.
        ConfigError: an option that can't be right, or a subgroup of which nothing is known.
        RunError: the run is not complete, has no such part, or the name is taken.
    """
    run = Run.of(run)
    began, started = time.perf_counter(), now()
    settings = run.config.results
    items = (prevalence,) if isinstance(prevalence, str) else settings.prevalence if prevalence is None else prevalence
    shares = parse_prevalences(items, run.labels)
    resamples = settings.resamples if resamples is None else resamples
    by = _known_columns([by] if isinstance(by, str) else by)
    opened = None if data is None and config is None else _opened(run, data, config)
    if opened is None and tta:
        raise ConfigError("found tta without data; the run's own predictions are saved as they were made.")
    with _new_folder(run, name, split or "test" if opened is None else _stem(opened)) as evaluation:
        if opened is None:
            tested = _own(run, split, by)
        else:
            tested = _elsewhere(
                run, opened, split, by, tta=tta, device=device, batch_size=batch_size, progress=progress
            )
        if progress is not None:
            progress("measuring", 0, len(tested.predictions))
        result = compute_metrics(
            tested.predictions,
            run.decision,
            prevalence=shares,
            resamples=resamples,
            seed=run.config.train.seed,
            by=by,
        )
        if progress is not None:
            progress("measuring", len(tested.predictions), len(tested.predictions))
        evaluation.write_predictions(tested.predictions)
        evaluation.write_info(
            {
                "run": run.path.name,
                "command": command,
                "xrayfast": __version__,
                "started": started,
                "seconds": round(time.perf_counter() - began, 1),
                **tested.facts,
            }
        )
        metrics = {
            "source": str((run.config.data if opened is None else opened.config).source),
            "split": split or ("test" if opened is None else None),
            "own": opened is None,
            "images": {
                "found": tested.found,
                "left_out": [list(one) for one in tested.left_out],
                "evaluated": len(tested.predictions),
                "own_test": tested.own_test,
            },
            "labels": tested.labels,
            "warnings": [*tested.warnings, *_few(result)],
            "notes": list(tested.notes),
            "decision": run.decision.to_json(),
            "result": result,
        }
        write_tables(evaluation, result)
        write_page(run, evaluation, metrics, started, command, tested.cases)
        evaluation.write_metrics(metrics)
    write_model_card(run)
    write_claim(run)
    return evaluation


def _few(result: Mapping[str, Any]) -> list[str]:
    """A warning where there is little to measure on."""
    units = result.get("intervals", {}).get("units", result["images"])
    if units >= FEW_UNITS:
        return []
    return [f"There are only {plural(result['images'], 'image')} here: the results say little."]


# On the run's own data


def _own(run: Run, split: Split | None, by: Sequence[str]) -> _Tested:
    """The saved predictions of a part."""
    chosen = split or "test"
    if chosen == "train":
        raise ConfigError(
            "split is train; expected test or valid: a network's results on what it has learned say little."
        )
    if run.predicted_splits and chosen not in run.predicted_splits:
        other = "'--split valid' measures the validation split, which has also chosen epoch and thresholds"
        raise RunError(
            f"{run.path}: has no predictions of a {chosen} split. '--test-fraction 0.15' of 'xrayfast fit' makes one, "
            f"'xrayfast evaluate {run.path} DATA' tests on other data, and {other}."
        )
    predictions = run.predictions(chosen)
    _require(by, predictions.attributes, f"{run.path}: the saved predictions")
    chosen_on = "The best epoch, calibration and thresholds were chosen on these images: the results are too good."
    warnings = (chosen_on,) if chosen == "valid" else ()
    labels = {"used": list(run.labels), "unknown": [], "lacking": []}
    facts = {"tta": run.config.train.tta}
    own_test = len(predictions) if chosen == "test" else 0
    return _Tested(predictions, len(predictions), (), labels, warnings, (), facts, own_test)


# On other data


def _opened(run: Run, data: Manifest | Path | str | None, config: Config | None) -> Manifest:
    """The data set, opened to be measured on: nothing is drawn, and one image is enough."""
    if isinstance(data, Manifest):
        return replace(data, config=data.config.model_copy(update={"window": _window(run, data.config.window)}))
    settings = (config or Config()).data
    if data is not None:
        settings = settings.model_copy(update={"source": Path(data)})
    changed: dict[str, Any] = {"window": _window(run, settings.window)}
    if settings.task == "auto":
        # What the labels mean is for `match_labels` to say; a table of a few images may look like one class each.
        changed["task"] = "multi"
    if any(map(is_no_finding, run.labels)):
        changed["keep_no_finding"] = True
    return open_manifest(settings.model_copy(update=changed), to_train=False)


def _window(run: Run, chosen: str) -> str:
    return run.config.data.window if chosen == "auto" else chosen


def _stem(data: Manifest) -> str:
    return data.config.source.absolute().name or "data"


def _elsewhere(
    run: Run,
    data: Manifest,
    split: Split | None,
    by: Sequence[str],
    *,
    tta: bool,
    device: Device,
    batch_size: int,
    progress: Progress | None,
) -> _Tested:
    """Decode, leave out what can't be measured, predict."""
    if split is not None:
        data = _split(data, split)
    known = image_attributes(data.table)
    _require(by, known, str(data.config.source))
    matched = match_labels(data, run.labels, run.task, run.config.data.imply)
    images = open_images(data.config, run.config.model.size)
    sifted = exclude_seen(run, data, matched, images, progress)
    rows = sifted.rows
    paths = data.table["path"].to_numpy()[rows].tolist()
    raw, computed = _predicted(run, paths, images, tta=tta, device=device, batch_size=batch_size, progress=progress)
    truth = matched.truth[rows]
    predictions = Predictions(
        labels=run.labels,
        images=data.table["image"].to_numpy(dtype=object)[rows],
        patients=data.table["patient"].fillna("").to_numpy(dtype=object)[rows],
        truth=truth,
        probability=raw,
        loss=_log_loss(truth, raw, run.task == "single"),
        raw=raw,
        attributes={name: values[rows] for name, values in known.items()},
    ).calibrated(run.decision)
    labels = {
        "used": list(matched.used),
        "unknown": [list(one) for one in matched.unknown],
        "lacking": list(matched.lacking),
    }
    facts = {"tta": tta, "device": computed, "data_notes": list(data.notes), "unreadable": sifted.unreadable}
    files = dict(zip(predictions.images.tolist(), paths, strict=True))
    cases = worst_cases(run, predictions, files, images)
    notes = (*matched.notes, PATIENTS_UNKNOWN)
    left_out, warnings, own_test = sifted.left_out, sifted.warnings, sifted.own_test
    return _Tested(predictions, len(data), left_out, labels, warnings, notes, facts, own_test, cases)


def _split(data: Manifest, split: Split) -> Manifest:
    there = [name for name in SPLITS if (data.table["split"] == name).any()]
    if split not in there:
        raise DataError(
            f"{data.config.source}: has no {split} split; found {shorten(there)}. Leave out --split to use all."
        )
    return data.subset(split)


def _predicted(
    run: Run,
    paths: Sequence[str],
    images: DecodedImages,
    *,
    tta: bool,
    device: Device,
    batch_size: int,
    progress: Progress | None,
) -> tuple[NDArray[np.float64], str]:
    """(N, L) probabilities as the network gives them, and where they were computed."""
    # torch and fastai take seconds to load, and saved predictions need neither.
    from xrayfast.learning.inference.predictor import new_probability
    from xrayfast.learning.training.mixed_precision import fp32_inference
    from xrayfast.workflows.load import load_to_predict

    learn = load_to_predict(run, device)
    found = []
    with fp32_inference(learn):
        for start in range(0, len(paths), CHUNK):
            chunk = list(images.batch(paths[start : start + CHUNK]))
            found.append(new_probability(learn, chunk, batch_size=batch_size, tta=tta, seed=run.config.train.seed))
            if progress is not None:
                progress("predicting", min(start + CHUNK, len(paths)), len(paths))
    return np.concatenate(found).astype(np.float64), str(learn.dls.device)


def _log_loss(truth: NDArray[np.int64], raw: NDArray[np.float64], single: bool) -> NDArray[np.float64]:
    """(N,) log loss of each image: of its class, or the mean over the labels that are known."""
    costs = log_losses(truth.astype(np.int8), raw)
    if single:
        chosen: NDArray[np.float64] = costs[np.arange(len(truth)), truth.argmax(axis=1)]
        return chosen
    mean: NDArray[np.float64] = costs.sum(axis=1) / (truth >= 0).sum(axis=1)
    return mean


# Both


@contextlib.contextmanager
def _new_folder(run: Run, name: str | None, stem: str) -> Iterator[Evaluation]:
    """A new evaluation, which is gone again where the block fails or is interrupted."""
    evaluation = run.new_evaluation(name, stem)
    try:
        yield evaluation
    except BaseException:
        shutil.rmtree(evaluation.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # there are other evaluations
            evaluation.path.parent.rmdir()
        raise


def _known_columns(by: Sequence[str]) -> tuple[str, ...]:
    for name in by:
        if name not in ATTRIBUTES:
            raise ConfigError(
                f"by: found '{name}'; expected some of {', '.join(ATTRIBUTES)}.{did_you_mean(name, ATTRIBUTES)}"
            )
    return tuple(dict.fromkeys(by))


def _require(by: Sequence[str], known: Iterable[str], where: str) -> None:
    missing = [name for name in by if name not in known]
    if missing:
        there = shorten(known)
        told = f"they tell {there}" if there else "they tell none of sex, age and view"
        raise ConfigError(
            f"by: {where} do not tell {' and '.join(missing)}; {told}. A table of labels with such a "
            "column tells, and so do DICOM headers."
        )
