"""The warnings shown beside the headline metrics of a split; all of them are decided here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from xrayfast.config import Task
from xrayfast.errors import format_interval, plural, plural_noun, shorten
from xrayfast.metrics.registry import EXACT_MATCH

FEW_PATIENTS = 10
"""With fewer patients (or images) with a label, or without it, the metrics of the label say little."""

FEW_UNITS = 30
"""With fewer patients (or images) in all, every interval is wide."""


class Remark(Enum):
    """How the remarks of a run that headline warnings are about begin; `run.json` holds their text."""

    LEAKS_ALLOWED = "Trained with leaks allowed"
    SEEN_BEFORE = "The weights that training started from have seen these data"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def of(cls, text: str) -> Remark | None:
        """Return which remark a text is; None if another. The names of folds may precede it: "fold1, fold2: ..."."""
        return next((one for one in cls if re.match(rf"([^:]+: )?{one}\b", text)), None)


NO_PATIENTS_KNOWN = "Patients are not known"
"""The beginning of the remark on unknown patients, also in runs of older versions, which word the rest otherwise."""

PATIENTS_UNKNOWN = (
    f"{NO_PATIENTS_KNOWN}: if a patient has images in several splits, results are optimistic, and intervals are too "
    "narrow."
)

PATIENTS_UNKNOWN_THERE = (
    f"{NO_PATIENTS_KNOWN}: whether they were also in the training data was not checked, and intervals are too narrow "
    "if a patient has several images."
)

VALIDATION_IMAGES = "the validation images"


def optimism(chosen_on: str = VALIDATION_IMAGES) -> str:
    """Return the remark shown beside results on the images that epoch, calibration and thresholds were chosen on."""
    return f"Results on {chosen_on} are optimistic, since they were used to choose epoch, calibration or thresholds."


@dataclass(frozen=True)
class HeadlineWarning:
    """A reason not to take a headline metric at face value.

    Attributes:
        code: names the condition: "leaks", "seen before", "chosen here", "chance", "reversed", "constant",
            "few patients", "few images", "shortcut", "patients unknown", "blank images", "below internal",
            "rates below internal", "prevalence", "data".
        text: what was found, in sentences.
        advice: what to do; "" if there is nothing to do.
    """

    code: str
    text: str
    advice: str = ""


@dataclass(frozen=True)
class HeadlineFacts:
    """The facts about a split that its warnings depend on.

    Attributes:
        counts: the number of patients (or images) with and without each label, see `count_patients`.
        remarks: remarks of the run, which mention leaks.
        blank: remarks on images in which little can be seen.
        shortcuts: for the run's own data, the AUROC with which image properties that have nothing to do with the lungs
            predict each label, where above chance.
        chosen_on: this split in words, if epoch, calibration and thresholds were chosen on it; else "".
        external: whether the data are not the run's own.
        of_table: whether the data are predictions in a table, which has no file names to identify patients by.
    """

    summary: Mapping[str, Any]
    task: Task
    counts: Mapping[str, tuple[int, int]]
    remarks: Sequence[str] = ()
    blank: Sequence[str] = ()
    shortcuts: Mapping[str, float] | None = None
    chosen_on: str = ""
    external: bool = False
    of_table: bool = False
    further: Sequence[HeadlineWarning] = ()


def headline_warnings(facts: HeadlineFacts) -> list[dict[str, str]]:
    """Return the warnings of a split for its summary, as JSON, the most serious first."""
    found = [
        *_independence_warnings(facts),
        *facts.further,
        *_ranking_warnings(facts),
        *_accuracy_warnings(facts),
        *_shortcut_warnings(facts),
        *_sample_size_warnings(facts),
    ]
    return [asdict(one) for one in found]


def _independence_warnings(facts: HeadlineFacts) -> Iterator[HeadlineWarning]:
    """Yield warnings about leaks, choices made on these images, and unknown patients."""
    if not facts.external:
        for remark in facts.remarks:
            if Remark.of(remark) is Remark.LEAKS_ALLOWED:
                advice = "Remove the copies or fix the split, and train again; --ignore-split draws a new split."
                yield HeadlineWarning("leaks", remark, advice)
            if Remark.of(remark) is Remark.SEEN_BEFORE:
                advice = (
                    "Use that run's split for the new run (--split-file RUN/split.csv), or start from other weights."
                )
                yield HeadlineWarning("seen before", remark, advice)
    if facts.chosen_on:
        advice = "Report a test split (--test-fraction) or an external test ('xrayfast evaluate RUN DATA')."
        yield HeadlineWarning("chosen here", optimism(facts.chosen_on), advice)
    if facts.summary.get("patients") is None:
        pattern = "" if facts.of_table else ", or with 'name:REGEX' to a pattern of file names"
        advice = f"Set --patient-col to the column of patients{pattern}."
        yield HeadlineWarning(
            "patients unknown", PATIENTS_UNKNOWN_THERE if facts.external else PATIENTS_UNKNOWN, advice
        )


def _ranking_warnings(facts: HeadlineFacts) -> Iterator[HeadlineWarning]:
    """Yield warnings about AUROCs that are at chance or below."""
    summary, rows = facts.summary, facts.summary["per_label"]
    intervals = summary.get("intervals", {})
    overall, by_label = intervals.get("overall", {}), intervals.get("per_label", {})
    positive = summary.get("positive")
    mean = summary["overall"]["auroc_macro"], overall.get("auroc_macro")
    values = {} if positive else {"the mean over labels": mean}
    if positive or len(rows) > 2 or facts.task == "multi":  # two exclusive classes have the same AUROC
        values |= {
            row["label"]: (row["auroc"], by_label.get(row["label"], {}).get("auroc"))
            for row in rows
            if positive in (None, row["label"])
        }
    at_chance: list[str] = []
    below: list[str] = []
    for name, (auroc, end) in values.items():
        if end and end["low"] is not None:
            if end["low"] <= 0.5:
                shown = f"{name} ({format_interval(end['low'], end['high'])})"
                (below if end["high"] < 0.5 else at_chance).append(shown)
        elif auroc is not None and auroc <= 0.5:
            at_chance.append(f"{name} ({auroc:.3f}, no interval)")
    if below:
        yield HeadlineWarning(
            "reversed",
            f"The whole interval of AUROC is below chance, 0.5, so the ranking is reversed: {shorten(below)}.",
            "Check whether columns, classes, or 0 and 1 of the labels are swapped.",
        )
    if at_chance:
        yield HeadlineWarning(
            "chance",
            f"AUROC is not shown to be above chance, 0.5: {shorten(at_chance)}.",
            "Do not rely on the ranking there; more patients narrow the interval.",
        )


def _accuracy_warnings(facts: HeadlineFacts) -> Iterator[HeadlineWarning]:
    """Yield a warning if always giving the most common answer would be as accurate."""
    summary, rows = facts.summary, facts.summary["per_label"]
    common, exact = summary.get("most_common"), EXACT_MATCH[facts.task]
    if facts.task == "multi" and len(rows) == 1 and (known := rows[0]["support"] + rows[0]["negatives"]):
        share = rows[0]["support"] / known
        answer = rows[0]["label"] if share >= 0.5 else f"no {rows[0]['label']}"
        common = {"label": answer, "share": max(share, 1 - share)}
    accuracy = summary["overall"].get(exact)
    if common and accuracy is not None:
        end = summary.get("intervals", {}).get("overall", {}).get(exact)
        sure = end is not None and end["low"] is not None
        if (end["low"] if sure else accuracy) <= common["share"]:
            shown = f"{accuracy:.3f}" + (f" ({format_interval(end['low'], end['high'])})" if sure else "")
            yield HeadlineWarning(
                "constant",
                f"Accuracy {shown} is not shown to be above {common['share']:.3f}, the accuracy of always predicting "
                f"'{common['label']}'.",
                "Use AUROC and the recall of each class instead.",
            )


def _shortcut_warnings(facts: HeadlineFacts) -> Iterator[HeadlineWarning]:
    """Yield a warning if a simple model of features beside the content reaches the network's AUROC."""
    if facts.external or not facts.shortcuts:
        return
    positive = facts.summary.get("positive")
    reached = [
        f"{row['label']} ({facts.shortcuts[row['label']]:.2f}, the network {row['auroc']:.2f})"
        for row in facts.summary["per_label"]
        if row["label"] in facts.shortcuts and row["auroc"] is not None
        if facts.shortcuts[row["label"]] >= row["auroc"] and positive in (None, row["label"])
    ]
    if reached:
        yield HeadlineWarning(
            "shortcut",
            "A simple model of size, coding, border, brightness, texture, view or notes on reading reaches the "
            f"network's AUROC: {shorten(reached)}.",
            "'xrayfast check' shows which of them; test on images of another site ('xrayfast evaluate RUN DATA').",
        )


def _sample_size_warnings(facts: HeadlineFacts) -> Iterator[HeadlineWarning]:
    """Yield warnings about few images, few patients of a class, and blank images."""
    summary = facts.summary
    units, by = summary["images"], summary.get("unit", {}).get("name", "image")
    if found := summary.get("intervals"):
        units, by = found["units"], found["by"]
    if units < FEW_UNITS:
        yield HeadlineWarning("few images", f"There are only {plural(units, by)}, so the results are very uncertain.")
    positive = summary.get("positive")  # the other class has the same counts, swapped
    few = [
        f"{label} ({n} {word} it)"
        for label, pair in facts.counts.items()
        if positive in (None, label)
        for n, word in zip(pair, ("with", "without"), strict=True)
        if n < FEW_PATIENTS
    ]
    if few:
        unit = summary.get("unit", {}).get("name", "image")
        what = plural_noun(unit) if summary.get("patients") is None else "patients"
        yield HeadlineWarning(
            "few patients",
            f"Fewer than {FEW_PATIENTS} {what}: {shorten(few)}.",
            "Metrics of these labels, and means over them, are very uncertain.",
        )
    for remark in facts.blank:
        yield HeadlineWarning("blank images", remark, "Look at them, and remove them or read them with --window.")
