"""The methods of a run as one paragraph to paste into a paper: data, splits, training, metrics, intervals, software."""

from __future__ import annotations

from xrayfast.errors import plural
from xrayfast.metrics.operating_points.calibration import Temperature
from xrayfast.metrics.registry import headline_metrics
from xrayfast.reporting.markdown import descriptions as say
from xrayfast.reporting.markdown.metric_blocks import interval_note
from xrayfast.reporting.markdown.run_facts import RunFacts, read_run_facts
from xrayfast.reporting.wording import SPLIT_TITLES
from xrayfast.run import Run


def describe_methods(run: Run) -> str:
    """The paragraph; what the run's files do not hold is left out, never made up.

    Raises:
        RunError: a file of the run is damaged.
    """
    facts = read_run_facts(run)
    sentences = (
        *_data(facts),
        say.preparation(facts),
        f"The network was {say.network(facts)}",
        say.initial_weights(facts),
        *_training(facts),
        *_decision(facts),
        *_metrics(facts),
        f"Software: {say.versions(facts)}; hardware: {say.hardware(facts)}.",
    )
    return " ".join(sentences)


def _data(facts: RunFacts) -> list[str]:
    counts = facts.info.counts
    sizes = {split: counts.get(split, {}) for split in SPLIT_TITLES}
    used = [
        f"{SPLIT_TITLES[split].lower()} {_images_and_patients(column)}"
        for split, column in sizes.items()
        if column.get("images")
    ]
    kind = "one of the classes" if facts.task == "single" else "any of the labels"
    sentences = [
        f"Each chest radiograph of the data set {facts.config.data.source.name} was assigned {kind} "
        f"{', '.join(facts.labels)}."
    ]
    if used:
        sentences.append(f"Images by split: {'; '.join(used)}.")
    split = facts.split
    if split is not None and (split["patient"] != "").all() and split.groupby("patient")["split"].nunique().max() == 1:
        return [*sentences, "No patient was in more than one split."]
    return [*sentences, *say.split_overlap(facts)]


def _images_and_patients(column: dict[str, int]) -> str:
    patients = column.get("patients")
    return plural(column["images"], "image") + (f" of {plural(patients, 'patient')}" if patients else "")


def _training(facts: RunFacts) -> list[str]:
    rows = "; ".join(f"{name[0].lower()}{name[1:]} {value}" for name, value in say.hyperparameters(facts))
    return [say.augmentation(facts), f"Hyperparameters: {rows}.", say.epoch_selection(facts)]


def _decision(facts: RunFacts) -> list[str]:
    decision = facts.decision
    if decision.calibration is None:
        sentences = ["Probabilities were not calibrated."]
    else:
        scaling = "temperature" if isinstance(decision.calibration, Temperature) else "Platt"
        sentences = [f"Probabilities were calibrated by {scaling} scaling on the validation split."]
    if decision.rule is not None:
        return [*sentences, f"Thresholds were chosen on the validation split for {decision.purpose}."]
    rule = (
        "The most likely class was predicted." if facts.task == "single" else "A label was predicted at 0.5 and above."
    )
    return [*sentences, rule]


def _metrics(facts: RunFacts) -> list[str]:
    if facts.main_split is None:
        return []
    split, summary = facts.main_split
    names = [metric.title for key, metric in headline_metrics(facts.task).items() if key in summary["overall"]]
    return [f"Main metrics on the {SPLIT_TITLES[split].lower()} split: {'; '.join(names)}.", interval_note(summary)]
