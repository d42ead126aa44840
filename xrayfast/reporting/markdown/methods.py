"""The methods of a run as one paragraph to paste into a paper: data, splits, training, metrics, intervals, software."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xrayfast.errors import plural, plural_noun
from xrayfast.metrics.operating_points.calibration import Temperature
from xrayfast.metrics.registry import headline_metrics
from xrayfast.reporting.markdown import descriptions as say
from xrayfast.reporting.markdown.metric_blocks import interval_note
from xrayfast.reporting.markdown.run_facts import RunFacts, read_cross_validation_facts, read_run_facts
from xrayfast.reporting.wording import SPLIT_TITLES, joining_text, unit_of
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.run import Run


def describe_methods(run: Run) -> str:
    """Return the methods paragraph of a run; what its files do not hold is left out."""
    facts = read_run_facts(run)
    if members := run.members:
        return _describe_ensemble(facts, [read_run_facts(member) for member in members], run.chosen_on)
    return _paragraph(facts, _apart(facts), say.epoch_selection(facts), run.chosen_on)


def _apart(facts: RunFacts) -> list[str]:
    """Describe whether patients are in more than one split."""
    split = facts.split
    if split is not None and (split["patient"] != "").all() and split.groupby("patient")["split"].nunique().max() == 1:
        return ["No patient was in more than one split."]
    return say.split_overlap(facts)


def _describe_ensemble(facts: RunFacts, members: Sequence[RunFacts], chosen_on: str) -> str:
    """Return the paragraph of an ensemble; network and training are described for its first member."""
    first, *others = members
    differing = {
        name.replace("_", " ")
        for other in others
        for section in ("model", "train")
        for name, value in getattr(other.config, section)
        if value != getattr(getattr(first.config, section), name)
    }
    same_split = len({one.info.fingerprint for one in members}) == 1
    details = [*sorted(differing), *([] if same_split else ["training images"])]
    how = say.averaging(len(members))
    if details:
        differ = f"which differ in {', '.join(details)}; network and training are described for the first."
        how = f"{how.removesuffix('.')}, {differ}"
    selection = say.epoch_selection(replace(first, info=facts.info))
    counts = first.info.counts if same_split else facts.info.counts
    facts = replace(
        first, info=first.info.model_copy(update={"counts": counts}), results=facts.results, decision=facts.decision
    )
    return _paragraph(facts, [*(_apart(first) if same_split else []), how], selection, chosen_on)


def describe_cross_validation(cv: CrossValidation) -> str:
    """Return the methods paragraph of a cross-validation; network and training are described for the first fold."""
    facts = read_cross_validation_facts(cv)
    facts = replace(facts, results={"folds": facts.results["folds"]})
    return _paragraph(facts, [say.folds(cv)], say.fold_epochs(cv, facts), cv.chosen_on)


def _paragraph(facts: RunFacts, apart: Sequence[str], selection: str, chosen_on: str) -> str:
    sentences = (
        *_data(facts),
        *apart,
        say.preparation(facts),
        f"The network was {say.network(facts)}",
        say.initial_weights(facts),
        *_training(facts),
        selection,
        *_decision(facts, chosen_on),
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
        f"Each chest radiograph of the data set {say.data_name(facts)} was assigned {kind} {', '.join(facts.labels)}."
    ]
    if used:
        sentences.append(f"Images by split: {'; '.join(used)}.")
    return sentences


def _images_and_patients(column: dict[str, int]) -> str:
    patients = column.get("patients")
    return plural(column["images"], "image") + (f" of {plural(patients, 'patient')}" if patients else "")


def _training(facts: RunFacts) -> list[str]:
    rows = "; ".join(f"{name[0].lower()}{name[1:]} {value}" for name, value in say.hyperparameters(facts))
    return [say.augmentation(facts), f"Hyperparameters: {rows}."]


def _decision(facts: RunFacts, chosen_on: str) -> list[str]:
    decision = facts.decision
    if decision.calibration is None:
        sentences = ["Probabilities were not calibrated."]
    else:
        scaling = "temperature" if isinstance(decision.calibration, Temperature) else "Platt"
        sentences = [f"Probabilities were calibrated by {scaling} scaling on {chosen_on}."]
    if decision.rule is not None:
        return [*sentences, f"Thresholds were chosen on {chosen_on} for {decision.purpose}."]
    rule = (
        "The most likely class was predicted." if facts.task == "single" else "A label was predicted at 0.5 and above."
    )
    return [*sentences, rule]


def _metrics(facts: RunFacts) -> list[str]:
    if facts.main_split is None:
        return []
    split, summary = facts.main_split
    names = [metric.title for key, metric in headline_metrics(facts.task).items() if key in summary["overall"]]
    return [
        f"Main metrics on the {SPLIT_TITLES[split].lower()} {plural_noun(unit_of(summary))}: {'; '.join(names)}.",
        *filter(None, [joining_text(summary).rpartition(" A radiograph that is shown")[0]]),
        interval_note(summary),
    ]
