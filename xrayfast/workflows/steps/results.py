"""Compute a run's results from its predictions: calibration and thresholds on validation, then metrics of each split.

Predictions are made and calibrated per image. `by_unit` then joins those of a study or patient; thresholds, metrics and
reports are computed from the joined predictions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import DEFAULT_METRIC, Config, PredictedSplit, ResultsConfig, Task, TrainConfig, UnitJoin
from xrayfast.data.images.notes import is_about_blank_images
from xrayfast.data.labels.names import find_spelling
from xrayfast.data.labels.policies import second_value
from xrayfast.data.labels.positive_class import positive_class
from xrayfast.data.splits.words import Split
from xrayfast.errors import ConfigError, did_you_mean, plural, plural_noun, shorten
from xrayfast.errors.escapes import warn
from xrayfast.files.atomic import write_text
from xrayfast.metrics.claims.headline import HeadlineFacts, HeadlineWarning, headline_warnings
from xrayfast.metrics.claims.optimism import f1_optimism
from xrayfast.metrics.inputs import count_patients, sampling_units
from xrayfast.metrics.operating_points.calibration_metrics import calibration_rows
from xrayfast.metrics.operating_points.decision import Decision, fit_calibration, with_thresholds
from xrayfast.metrics.operating_points.decision_curve import net_benefits
from xrayfast.metrics.operating_points.fixed_rates import fixed_rate_rows
from xrayfast.metrics.operating_points.thresholds import Rule, images_needed, threshold_array
from xrayfast.metrics.registry import epoch_metrics, history_column
from xrayfast.metrics.subgroups import age_bands, subgroups
from xrayfast.metrics.summary import one_vs_rest, summarize
from xrayfast.option_effects import DecisionFacts, check_effects
from xrayfast.reporting.markdown.claim import render_claim
from xrayfast.reporting.markdown.model_card import render_model_card
from xrayfast.reporting.markdown.run_facts import read_run_facts
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.evaluation.exported_run import EvaluatedRun

DECISION_SPLIT: PredictedSplit = "valid"
"""The split on which calibration and thresholds are chosen."""

_OF_FIRST_NETWORK = (
    "versions", "platform", "device", "device_name", "precision", "threads", "parameters", "loss", "global_batch", "lr",
    "phases",
)  # fmt: skip


def info_of_networks(infos: Sequence[RunInfo], *further: str) -> dict[str, Any]:
    """Return the items of `run.json` that a run of several networks takes from them: fields of the first one, also
    `further` ones, and the time of all.
    """
    first = infos[0].model_dump()
    return {
        **{name: first[name] for name in (*_OF_FIRST_NETWORK, *further)},
        "seconds": round(sum(info.seconds or 0 for info in infos), 1),
    }


def finalize_results(
    run: Run,
    predictions: Mapping[Split, Predictions],
    settings: ResultsConfig,
    seed: int,
    decision: Decision | None = None,
) -> None:
    """Choose calibration and thresholds on validation, and write decision, predictions and metrics.

    Args:
        run: the run, whose history and `run.json` must be written already.
        predictions: predictions of images, keyed by split and including "valid"; only their raw probabilities are used.
            "train" gets no intervals, since the network has seen these images.
        settings: which thresholds to choose, and how to compute metrics.
        seed: seed of the bootstrap.
        decision: calibration and thresholds that were chosen before; None to choose them.

    Raises:
        ConfigError: a prevalence is not between 0 and 1, or is given for an unknown label.
    """
    rule, _ = threshold_rule(settings, run.task)
    decision = decision or choose_decision(predictions[DECISION_SPLIT], run.task, settings)
    prevalence = parse_prevalences(settings.prevalence, run.labels)
    calibrated = {split: raw.calibrated(decision) for split, raw in predictions.items()}
    metrics: dict[str, Any] = {}
    for split, of_images in calibrated.items():
        found = by_unit(of_images, settings, decision)
        resamples = 0 if split == "train" else settings.resamples
        metrics[split] = compute_metrics(found, decision, prevalence=prevalence, resamples=resamples, seed=seed)
        if split != "train":
            if split == DECISION_SPLIT and rule == "f1" and resamples and not run.info.chosen_inside:
                metrics[split]["notes"] += _f1_notes(found, decision, seed)
            metrics[split]["warnings"] = warn_of_run(run, metrics[split], found, split)
    if "train" in calibrated:
        metrics["loss"] = {split: float(np.nanmean(found.loss)) for split, found in calibrated.items()}
    run.write_decision(decision)
    for split, found in calibrated.items():
        run.write_predictions(split, found if settings.unit == "study" else replace(found, studies=None))
    run.write_metrics({**metrics, "decision": decision.to_json(), **run_context(run)})


def choose_decision(chosen_on: Predictions, task: Task, settings: ResultsConfig) -> Decision:
    """Fit the calibration on the raw probabilities of images, and choose thresholds on their predictions per unit."""
    decision = fit_calibration(
        chosen_on.truth,
        chosen_on.raw,
        chosen_on.labels,
        task,
        positive=positive_class(task, chosen_on.labels, settings.positive),
        groups=chosen_on.groups,
        calibrate=settings.calibrate,
    )
    rule, target = threshold_rule(settings, task)
    return choose_thresholds(decision, chosen_on, settings, rule, target, settings.target_confidence)


def choose_thresholds(
    decision: Decision,
    chosen_on: Predictions,
    settings: ResultsConfig,
    rule: Rule | None,
    target: float | None,
    confidence: float | None,
) -> Decision:
    """Return a decision with the same calibration, and thresholds chosen on predictions per unit."""
    found = by_unit(chosen_on.calibrated(decision), settings, decision)
    return with_thresholds(
        decision,
        found.truth,
        found.probability,
        rule,
        target,
        confidence,
        groups=found.groups,
        unit=settings.unit,
        unit_join=effective_unit_join(settings),
    )


def effective_unit_join(settings: ResultsConfig) -> UnitJoin:
    """Return how images are joined; "mean" if the unit is the image."""
    return settings.unit_join if settings.unit != "image" else "mean"


def by_unit(
    predictions: Predictions, settings: ResultsConfig, decision: Decision, named_by: Collection[str] = ()
) -> Predictions:
    """Join calibrated predictions of images per unit of the settings; see `Predictions.by_unit`."""
    return predictions.by_unit(settings.unit, settings.unit_join, decision.task, decision.positive, named_by)


def update_results(run: Run, options: Mapping[str, Any], chosen_on: Predictions) -> Config:
    """Write options to the run's own settings, for all later commands, except the number of resamples.

    Args:
        run: a completed run.
        options: fields of ResultsConfig, which override the run's settings; a rule for thresholds replaces the run's
            own rule and target.
        chosen_on: the predictions of images on which thresholds are chosen.

    Returns:
        The settings, including the number of resamples.
    """
    config = run.config
    rules = {"thresholds": "auto", "target_sensitivity": None, "target_specificity": None}
    if rules.keys() & options.keys():
        options = {**rules, "target_confidence": None, **options}
    config = config.updated(options)
    most_likely = run.task == "single" and run.decision.rule is None
    notes = check_effects(config.results) + check_results(config.results, run.task, run.labels, most_likely)
    for note in notes if options.keys() & {"thresholds", "target_confidence", "positive"} else ():
        warn(note)
    require_enough_images(config.results, run.task, chosen_on)
    run.write_config(config.updated({"resamples": run.config.results.resamples}))
    return config


def refit_decision(run: Run, options: Mapping[str, Any], found: Mapping[Split, Predictions]) -> None:
    """Choose calibration and thresholds and compute metrics again from a run's saved predictions, and write them.

    Without options the run keeps its calibration and thresholds, even if this version would choose others.
    """
    config = update_results(run, options, found[DECISION_SPLIT])
    before, positive = run.decision, positive_class(run.task, run.labels, config.results.positive)
    keeps = not options and before.calibration is not None and before.positive == positive
    finalize_results(run, found, config.results, config.train.seed, before if keeps else None)


def compute_metrics(
    predictions: Predictions,
    decision: Decision,
    *,
    prevalence: NDArray[np.float64] | None = None,
    resamples: int,
    seed: int,
    by: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Compute the metrics of predictions: the result of `metrics.summary.summarize`, with further items.

    These are the result of `operating_results`, `population`, `subgroups` if there are any and, if
    `Decision.is_one_vs_rest`, `at_thresholds`, the result of `one_vs_rest`. For studies or patients, `unit` also has
    how their images' probabilities were joined (`join`), the number of `images`, the number of units
    `of_one_image` and, if known, the number of units whose images are `of_different_labels`.
    """
    arrays = predictions.truth, predictions.probability, predictions.labels
    bootstrap: dict[str, Any] = {"groups": predictions.groups, "resamples": resamples, "seed": seed}
    options: dict[str, Any] = {"threshold": decision.thresholds, "prevalence": prevalence, **bootstrap}
    options["unit"] = predictions.unit
    summary = summarize(*arrays, decision.task, raw=predictions.raw, positive=decision.positive, **options)
    if decision.is_one_vs_rest:
        summary["at_thresholds"] = one_vs_rest(*arrays, threshold_array(decision.points), **bootstrap)
    summary |= operating_results(predictions, decision, resamples=resamples, seed=seed)
    summary["population"] = predictions.population()
    if (counts := predictions.counts) is not None:
        summary["unit"] |= {
            "join": decision.unit_join,
            "images": predictions.n_images,
            "of_one_image": int((counts == 1).sum()),
            **({} if predictions.differ is None else {"of_different_labels": int(predictions.differ.sum())}),
        }
    values = subgroup_values(predictions, by)
    if values:
        summary["subgroups"] = subgroups(*arrays, decision.task, values, positive=decision.positive, **options)
    return summary


def operating_results(
    predictions: Predictions, decision: Decision, *, resamples: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Evaluate probabilities and thresholds for each label or, with two classes, for the positive class alone.

    Returns:
        `calibration`, with `calibration_metrics.calibration_rows` "after" the calibration and, if there is one,
        "before"; `fixed_rates`, from `fixed_rates.fixed_rate_rows`; `net_benefit`, from `decision_curve.net_benefits`.
    """
    shown = [i for i, label in enumerate(predictions.labels) if decision.positive in (None, label)]
    truth, labels = predictions.truth[:, shown], [predictions.labels[i] for i in shown]
    probability, groups = predictions.probability[:, shown], predictions.groups
    both = {"before": predictions.raw[:, shown], "after": probability}
    return {
        "calibration": {
            when: calibration_rows(truth, values, labels, groups, with_intervals=bool(resamples))
            for when, values in both.items()
            if when == "after" or decision.calibration is not None
        },
        "fixed_rates": fixed_rate_rows(truth, probability, labels, groups, resamples=resamples, seed=seed),
        "net_benefit": net_benefits(truth, probability, labels, groups, resamples=resamples, seed=seed),
    }


def _f1_notes(predictions: Predictions, decision: Decision, seed: int) -> list[str]:
    """Return a note on the optimism of F1 with thresholds that were chosen for it on the same predictions."""
    unit, _ = sampling_units(predictions.groups, len(predictions))
    flattered: dict[str, tuple[float, int]] = {}
    for label in decision.point_of:
        i = predictions.labels.index(label)
        truth = predictions.truth[:, i]
        if (found := f1_optimism(truth, predictions.probability[:, i], unit, seed)) is not None and found > 0:
            flattered[label] = found, int((truth == 1).sum())
    if not flattered:
        return []
    most = sorted(flattered.items(), key=lambda item: -item[1][0])
    listed = shorten([f"{label} {by:.2f} ({plural(n, predictions.unit)} with it)" for label, (by, n) in most], 10)
    return [
        f"F1 is optimistic here, because its thresholds were chosen on the same {plural_noun(predictions.unit)}; on "
        f"new ones it is lower, on average by about: {listed} (leave-one-out bootstrap of patients)."
    ]


def complete_metrics(run: Run) -> None:
    """Add to a run's metrics what older versions did not compute; existing metrics stay as they are.

    Before version 0.6 these are the positive class, `operating_results` and the warnings; before 0.8, the population.
    """
    metrics, decision = dict[str, Any](run.metrics), run.decision
    known = {"warnings", "net_benefit"}
    lacking = [split for split in run.predicted_splits if not known | {"population"} <= metrics[split].keys()]
    for split in lacking:
        predictions = run.predictions(split)
        metrics[split] = summary = {**metrics[split], "population": predictions.population()}
        if known <= summary.keys():
            continue
        if decision.positive is not None:
            summary["positive"] = decision.positive
            summary["reliability"] = {
                when: {label: bins for label, bins in by_label.items() if label == decision.positive}
                for when, by_label in summary["reliability"].items()
            }
        options = {"resamples": run.config.results.resamples, "seed": run.config.train.seed}
        summary |= operating_results(predictions, decision, **options)
        metrics[split] = {**summary, "warnings": warn_of_run(run, summary, predictions, split)}
    if lacking:
        run.write_metrics(metrics)


def warn_of_run(
    run: EvaluatedRun,
    summary: Mapping[str, Any],
    predictions: Predictions,
    split: Split | None,
    *,
    notes: Sequence[str] = (),
    further: Sequence[HeadlineWarning] = (),
) -> list[dict[str, str]]:
    """Return the warnings next to the headline of predictions of a run, whose `run.json` must be written already.

    `split` is None for other data; `notes` are then those on reading its images.
    """
    info = run.info
    remarks = notes if split is None else info.remarks
    return headline_warnings(
        HeadlineFacts(
            summary,
            run.task,
            patients_by_label(predictions),
            remarks,
            [*filter(is_about_blank_images, remarks)],
            info.shortcuts,
            chosen_on=run.chosen_on if split == DECISION_SPLIT and not info.chosen_inside else "",
            external=split is None,
            further=further,
        )
    )


def patients_by_label(predictions: Predictions) -> dict[str, tuple[int, int]]:
    """Return, for each label, the numbers of patients (images, if patients are unknown) with and without it."""
    unit, _ = sampling_units(predictions.groups, len(predictions))
    counts = count_patients(predictions.truth, unit).tolist()
    return {label: (positive, negative) for label, (positive, negative) in zip(predictions.labels, counts, strict=True)}


def subgroup_values(predictions: Predictions, by: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return the subgroup of each image, keyed by column; ages are in bands, and "" is unknown."""
    chosen = predictions.attributes if by is None else {name: predictions.attributes[name] for name in by}
    return {name: age_bands(column) if name == "age" else column for name, column in chosen.items()}


def resolve_monitor(train: TrainConfig, task: Task) -> str:
    """Return the column of the history that decides which epoch is best; "auto" is `config.DEFAULT_METRIC`."""
    if train.monitor == "auto":
        return history_column("valid", DEFAULT_METRIC)
    choices = ("valid_loss", *epoch_metrics(task))
    if train.monitor not in choices:
        raise ConfigError(f"monitor is '{train.monitor}', and {task}-label data has one of: {', '.join(choices)}.")
    return train.monitor if train.monitor == "valid_loss" else history_column("valid", train.monitor)


def check_results(
    settings: ResultsConfig, task: Task, labels: Sequence[str], most_likely: bool | None = None
) -> list[str]:
    """Return notes on settings that have no effect for the task and labels."""
    parse_prevalences(settings.prevalence, labels)
    if task == "single" and settings.unit != "image" and settings.unit_join == "noisy-or":
        raise ConfigError(
            "unit_join is noisy-or, which is for labels that apply independently, but in these data exactly one "
            "class applies. Use --unit-join mean or max."
        )
    binary = positive_class(task, labels, settings.positive) is not None
    return check_effects(settings, DecisionFacts(task == "single" if most_likely is None else most_likely, binary))


def require_enough_images(settings: ResultsConfig, task: Task, images: Predictions) -> None:
    """Check that at least one label has enough validation images, or units, for the confidence in a target."""
    positive = positive_class(task, images.labels, settings.positive)
    validation = images.by_unit(settings.unit, settings.unit_join, task, positive)
    labels, truth = validation.labels, validation.truth
    rule, target = threshold_rule(settings, task)
    if settings.target_confidence is None or target is None:
        return
    units, kind = validation.groups, validation.unit if validation.groups is None else "patient"
    cells = truth == (1 if rule == "sensitivity" else 0)
    found = {
        label: int(column.sum()) if units is None else len(set(units[column]))
        for label, column in zip(labels, cells.T, strict=True)
        if positive in (None, label)
    }
    label = max(found, key=lambda label: found[label])
    needed, n = images_needed(target, settings.target_confidence), found[label]
    if n >= needed:
        return
    which = "with" if rule == "sensitivity" else "without"
    highest = f"With {n}, at most {(1 - settings.target_confidence) ** (1 / n):.2g} is possible. " if n else ""
    raise ConfigError(
        f"target_confidence is {settings.target_confidence:g}: a {rule} of {target:g} needs {needed} validation "
        f"{kind}s {which} the label, but {label} has {n}. {highest}Lower the target or the confidence, or use a "
        "larger --valid-fraction."
    )


def threshold_rule(settings: ResultsConfig, task: Task) -> tuple[Rule | None, float | None]:
    """Return the rule for choosing thresholds, None to choose none, and its target, None if the rule has no target."""
    if settings.target_sensitivity is not None:
        return "sensitivity", settings.target_sensitivity
    if settings.target_specificity is not None:
        return "specificity", settings.target_specificity
    if settings.thresholds == "auto":
        return ("f1" if task == "multi" else None), None
    return (None if settings.thresholds == "half" else settings.thresholds), None


def parse_prevalences(
    items: Sequence[str], labels: Sequence[str], name: str = "prevalence"
) -> NDArray[np.float64] | None:
    """Parse stated prevalences, or thresholds: (L,), NaN for labels without one; None where none is stated.

    >>> parse_prevalences(["0.05", "b=0.2"], ["a", "b"]).tolist()
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
        if not 0 < value < 1:
            raise ConfigError(
                f"{name}: found '{item}'; expected a share above 0 and below 1 such as 0.05, or LABEL=0.05."
            )
        label = find_spelling(label, labels) or label
        if label and label not in labels:
            raise ConfigError(
                f"{name}: found the label '{label}'; expected one of {', '.join(labels)}.{did_you_mean(label, labels)}"
            )
        if label in found:
            raise second_value(name, label, item)
        found[label] = value
    return np.array([found.get(label, found.get("", math.nan)) for label in labels])


def run_context(run: Run) -> dict[str, Any]:
    """Return the facts on data and training in `run.json` and `history.csv` that the report shows with the metrics."""
    info = run.info
    training: dict[str, Any] = {"members": info.members, "seconds": info.seconds}
    if not info.members:
        history = run.history
        rows = history.astype(object).where(history.notna(), None).to_dict("records")
        training = {"epochs": len(rows), "best_epoch": info.best_epoch, "seconds": info.seconds, "history": rows}
    return {
        "data": {
            "source": str(run.config.data.source),
            "counts": info.counts,
            "flow": [list(step) for step in info.flow],
            "audit": info.audit,
        },
        "training": training,
    }


def write_cards(run: Run) -> None:
    """Write `model_card.md` and `claim.md`, unless the run averages others, which were trained apart from it."""
    if run.info.members and not run.info.phases:
        return
    facts = read_run_facts(run)
    write_text(run.model_card_path, render_model_card(facts))
    write_text(run.claim_path, render_claim(facts))
