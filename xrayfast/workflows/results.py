"""From a run's predictions to its results: what validation chooses, and every part measured with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import ResultsConfig, Task
from xrayfast.errors import ConfigError, did_you_mean
from xrayfast.metrics.decision import Decision, choose
from xrayfast.metrics.subgroups import age_bands, subgroups
from xrayfast.metrics.summary import one_vs_rest, summarise
from xrayfast.metrics.thresholds import Rule
from xrayfast.predictions import Predictions
from xrayfast.run import PredictedSplit, Run

CHOSEN_ON: PredictedSplit = "valid"
"""The part that calibration and thresholds are chosen on."""


def finalize_results(
    run: Run, predictions: Mapping[PredictedSplit, Predictions], settings: ResultsConfig, seed: int
) -> None:
    """Choose calibration and thresholds on validation, and write decision, predictions and metrics.

    Args:
        run: whose history and `run.json` are written already.
        predictions: by split, "valid" among them; only their raw probabilities count.
        settings: what to choose, and how to measure.
        seed: of the intervals' draws.

    Raises:
        ConfigError: a prevalence that means nothing.
    """
    chosen_on = predictions[CHOSEN_ON]
    rule, target = rule_of(settings, run.task)
    decision = choose(
        chosen_on.truth,
        chosen_on.raw,
        run.labels,
        run.task,
        rule=rule,
        target=target,
        calibrate=settings.calibrate,
    )
    prevalence = prevalences(settings.prevalence, run.labels)
    found = {split: told.calibrated(decision) for split, told in predictions.items()}
    metrics: dict[str, Any] = {
        split: measure(told, decision, prevalence=prevalence, resamples=settings.resamples, seed=seed)
        for split, told in found.items()
    }
    run.write_decision(decision)
    for split, told in found.items():
        run.write_predictions(split, told)
    run.write_metrics({**metrics, "decision": decision.to_json(), **run_context(run)})


def refit_decision(run: Run, options: Mapping[str, Any]) -> None:
    """Choose and measure anew from a run's saved predictions, as `options` say and else as the run's settings do.

    What is chosen becomes the run's own settings, for all later commands; the number of resamples holds for this time.

    Args:
        run: a completed run.
        options: fields of ResultsConfig; a rule for thresholds takes the place of the run's own.

    Raises:
        ConfigError: an option is wrong.
        RunError: the run has no predictions.
    """
    config = run.config
    rules = {"thresholds": "auto", "target_sensitivity": None, "target_specificity": None}
    config = config.updated({**(rules if rules.keys() & options.keys() else {}), **options})
    prevalences(config.results.prevalence, run.labels)
    if CHOSEN_ON not in run.predicted_splits:
        run.predictions(CHOSEN_ON)  # says which there are
    own = {"resamples": run.config.results.resamples}
    run.write_config(config.updated(own))
    found = {split: run.predictions(split) for split in run.predicted_splits}
    finalize_results(run, found, config.results, config.train.seed)


def measure(
    predictions: Predictions,
    decision: Decision,
    *,
    prevalence: NDArray[np.float64] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    by: Iterable[str] | None = None,
) -> dict[str, Any]:
    """What `metrics.summary.summarise` says of predictions, and of their subgroups as `subgroups`.

    Of one class an image also what `one_vs_rest` says, where thresholds were chosen, as `at_thresholds`.

    Args:
        predictions: calibrated by the decision.
        decision: gives task and thresholds.
        prevalence: (L,) at which predictive values are given, NaN for labels without; or None.
        resamples: how often patients are drawn; 0 for no intervals.
        seed: of the draws.
        by: the columns of `predictions.about` to look at; all of them where None.
    """
    told, thresholds = predictions, decision.thresholds
    summary = summarise(
        told.truth,
        told.probability,
        told.labels,
        decision.task,
        threshold=thresholds,
        groups=told.groups,
        prevalence=prevalence,
        resamples=resamples,
        seed=seed,
        raw=told.raw,
    )
    if decision.task == "single" and decision.points:
        summary["at_thresholds"] = one_vs_rest(
            told.truth,
            told.probability,
            told.labels,
            thresholds,
            groups=told.groups,
            resamples=resamples,
            seed=seed,
        )
    values = subgroup_values(told, by)
    if values:
        summary["subgroups"] = subgroups(
            told.truth,
            told.probability,
            told.labels,
            decision.task,
            values,
            threshold=thresholds,
            groups=told.groups,
            prevalence=prevalence,
            resamples=resamples,
            seed=seed,
        )
    return summary


def subgroup_values(predictions: Predictions, by: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
    """The subgroup of each image by each column, ages in bands; "" where unknown."""
    chosen = predictions.about if by is None else {name: predictions.about[name] for name in by}
    return {name: age_bands(column) if name == "age" else column for name, column in chosen.items()}


def rule_of(settings: ResultsConfig, task: Task) -> tuple[Rule | None, float | None]:
    """What thresholds are chosen for, and the target of that; None where none are chosen."""
    if settings.target_sensitivity is not None:
        return "sensitivity", settings.target_sensitivity
    if settings.target_specificity is not None:
        return "specificity", settings.target_specificity
    if settings.thresholds == "auto":
        return ("f1" if task == "multi" else None), None
    return (None if settings.thresholds == "half" else settings.thresholds), None


def prevalences(items: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64] | None:
    """The stated prevalence of each label: (L,), NaN for labels without; None where none is stated.

    Args:
        items: texts such as "0.05" (all labels) or "Edema=0.02" (one).
        labels: the L names.

    Raises:
        ConfigError: an unknown label, or a number that is no share.

    >>> prevalences(["0.05", "b=0.2"], ["a", "b"]).tolist()
    [0.05, 0.2]
    """
    if not items:
        return None
    found: dict[str, float] = {}
    for item in items:
        label, _, text = item.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise ConfigError(
                f"prevalence: found '{item}'; expected a share between 0 and 1 such as 0.05, or LABEL=0.05."
            )
        if label and label not in labels:
            raise ConfigError(
                f"prevalence: found the label '{label}'; expected one of {', '.join(labels)}."
                f"{did_you_mean(label, labels)}"
            )
        found[label] = value
    return np.array([found.get(label, found.get("", math.nan)) for label in labels])


def run_context(run: Run) -> dict[str, Any]:
    """The numbers of the report that are no results: data and training, as `run.json` and `history.csv` have them."""
    info, history = run.info, run.history
    rows = history.astype(object).where(history.notna(), None).to_dict("records")
    return {
        "data": {
            "source": str(run.config.data.source),
            "counts": info.counts,
            "flow": [list(step) for step in info.flow],
            "audit": info.audit,
        },
        "training": {
            "epochs": len(rows),
            "best_epoch": info.best_epoch,
            "seconds": info.seconds,
            "history": rows,
        },
    }
