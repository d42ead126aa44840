"""A run against CLAIM, the checklist for articles on artificial intelligence in medical imaging, as updated in 2024.

Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300. Numbers and sections are the checklist's; what an
item asks for is said in other words. It is filled where a run's files hold the answer, and else left to the author.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from xrayfast.errors import plural
from xrayfast.files import write_text
from xrayfast.metrics.registry import label_metrics, overall_metrics
from xrayfast.report.markdown import sentences as say
from xrayfast.report.markdown.facts import (
    DASH,
    PURPOSE,
    SPLIT_TITLES,
    Facts,
    filled,
    interval_note,
    label_table,
    number,
    overall_table,
    share,
    subgroup_blocks,
    table,
)
from xrayfast.run import Run

Status = Literal["filled", "partly", "author"]

_MISTAKES = 5
"""Pairs of labels that are listed as most confused."""


class Answer(NamedTuple):
    """What a run says to an item, and what is left for the author to write; either may be empty."""

    given: tuple[str, ...] = ()
    todo: str = ""

    @property
    def status(self) -> Status:
        """Whether the run fills the item."""
        return ("partly" if self.todo else "filled") if self.given else "author"


@dataclass(frozen=True)
class Item:
    """One item of the checklist.

    Attributes:
        number: 1 to 44.
        section: of the checklist.
        asks: what is to be reported.
        answer: what a run says to it, or what the author is to write where a run can't know.
    """

    number: int
    section: str
    asks: str
    answer: Callable[[Facts], Answer] | str

    def of(self, facts: Facts) -> Answer:
        """The answer that a run gives."""
        return Answer(todo=self.answer) if isinstance(self.answer, str) else self.answer(facts)


def write_claim(run: Run) -> Path:
    """Write `claim.md` into the run's folder.

    Raises:
        RunError: a file of the run is damaged.
        WriteError: the checklist can't be written.
    """
    write_text(run.claim_path, render(run))
    return run.claim_path


def render(run: Run) -> str:
    """The checklist of a run, as Markdown.

    Raises:
        RunError: a file of the run is damaged.
    """
    return filled(run, "claim.md.j2", _view)


def _view(facts: Facts) -> dict[str, Any]:
    """What the template shows."""
    answers = [(item, item.of(facts)) for item in ITEMS]
    counts = {name: sum(answer.status == name for _, answer in answers) for name in ("filled", "partly", "author")}
    sections = [(name, list(rows)) for name, rows in groupby(answers, key=lambda row: row[0].section)]
    return {"name": facts.name, "purpose": PURPOSE, "items": len(answers), "counts": counts, "sections": sections}


# What a run says


def _kind(facts: Facts) -> Answer:
    text = f"Supervised deep learning: a convolutional network ({say.arch(facts)}) classifies chest radiographs."
    return Answer((text,), "the title and abstract that say so.")


def _sources(facts: Facts) -> Answer:
    images = sum(column.get("images", 0) for column in (facts.info.counts).values())
    labels = facts.config.data.labels
    given = f"The data set '{facts.config.data.source.name}'" + (f" with the table {labels.name}" if labels else "")
    given += f", {plural(images, 'image')}" if images else ""
    mark = facts.info.fingerprint
    return Answer(
        (given + (f"; fingerprint of names, labels, parts and sizes: {mark}." if mark else "."),),
        "where, when and from whom the images come, a link, their license, and how well they match the people and the "
        "setting that the network is meant for.",
    )


def _criteria(facts: Facts) -> Answer:
    flow = say.flow_table(facts)
    todo = "who was eligible and who was not, and how, where and when they were found."
    return Answer(("Among the files that were there:", flow), todo) if flow else Answer(todo=todo)


def _prepared(facts: Facts) -> Answer:
    return Answer((say.preparation(facts),))


def _subset(facts: Facts) -> Answer:
    given = "Each image was used whole: no region was cut out."
    return Answer((given,), "whether the images are a selection from a larger collection, and how they were chosen.")


def _deidentified(facts: Facts) -> Answer:
    split = facts.split
    known = split is not None and (split["patient"] != "").any()
    given = ("xrayfast names patients by pseudonyms (P00001, ...) in all files of the run; file names are kept.",)
    return Answer(given if known else (), "how the images and their file names were de-identified before.")


def _missing(facts: Facts) -> Answer:
    data, given = facts.config.data, []
    for what, policies in (("Uncertain", data.uncertain), ("Blank", data.blank)):
        if policies:
            given.append(f"{what} cells of the labels: {', '.join(policies)}.")
    for split, summary in facts.results.items():
        if summary.get("masked"):
            told = ", ".join(f"{label} {count:,}" for label, count in summary["masked"].items())
            given.append(f"{SPLIT_TITLES[split]}: images left out of a label's metrics because it is unknown: {told}.")
    if facts.results and not given:
        given.append("No label of an image that was measured is unknown.")
    return Answer(tuple(given), "why data are missing, and what was done about images or records that lack.")


def _reference(facts: Facts) -> Answer:
    labels = facts.config.data.labels
    origin = f"the table {labels.name}" if labels else "the data set"
    kind = "one label an image" if facts.task == "single" else "several labels an image, or none"
    given = f"Labels were taken as given by {origin}: {kind}, of {', '.join(facts.labels)}."
    implied = facts.config.data.imply
    return Answer(
        (given, *([f"Labels that imply another: {', '.join(implied)}."] if implied else [])),
        "how these labels came about, in enough detail to do it again.",
    )


def _test_labels(facts: Facts) -> Answer:
    todo = "by whom, with which instructions and which software the test images were labelled."
    if "test" not in facts.results:
        return Answer(todo=todo)
    return Answer(("The test split's labels come from the same source as those of the other splits.",), todo)


def _assigned(facts: Facts) -> Answer:
    words = ("drawn", "part", "split", "fold", "fraction")
    notes = facts.info.data_notes
    notes = [note for note in notes if any(word in note.lower() for word in words)]
    counts = say.counts_table(facts)
    given = (*notes, *([counts] if counts else []))
    return Answer(given, "" if notes and counts else "how images were assigned to training, validation and test.")


def _disjoint(facts: Facts) -> Answer:
    sentences, split = tuple(say.disjoint(facts)), facts.split
    if split is None:
        return Answer(todo="at which level the splits are disjoint.")
    todo = "" if (split["patient"] != "").all() else "whether images of one patient can stand in more than one split."
    return Answer(sentences, todo)


def _model(facts: Facts) -> Answer:
    return Answer((say.network(facts), *say.decision_blocks(facts)))


def _software(facts: Facts) -> Answer:
    given = f"{say.versions(facts)}. Hardware: {say.hardware(facts)}; platform: {facts.info.platform or DASH}."
    return Answer((given,), "" if facts.info.versions else "the versions of the libraries.")


def _start(facts: Facts) -> Answer:
    weights = facts.config.model.weights
    file = weights not in ("imagenet", "none")
    return Answer((say.start(facts),), "where this file comes from, and what it was trained on." if file else "")


def _training(facts: Facts) -> Answer:
    todo = "" if facts.planned else "the schedule and the learning rates, which are not recorded."
    rows = table(("Setting", "Value"), say.settings(facts))
    return Answer((say.augmentation(facts), rows, f"Time: {say.duration(facts)}."), todo)


def _selected(facts: Facts) -> Answer:
    return Answer((say.selection(facts),), "how many other runs were tried, and how this one was chosen among them.")


def _ensemble(facts: Facts) -> Answer:
    views = " Its predictions are averaged over augmented views of an image." if facts.config.train.tta else ""
    return Answer((f"None: one network.{views}",))


def _metrics(facts: Facts) -> Answer:
    if facts.main is None:
        return Answer(todo="the metrics, and why these.")
    summary = facts.main[1]
    names = [metric.title for key, metric in overall_metrics(facts.task).items() if key in summary["overall"]]
    rows = summary["per_label"]
    of_labels = [metric.title for key, metric in label_metrics().items() if any(key in row for row in rows)]
    given = (f"Overall: {'; '.join(names)}.", f"For each label against the rest: {'; '.join(of_labels)}.")
    return Answer(given, "which of these is the main one, and why it fits the use.")


def _statistics(facts: Facts) -> Answer:
    notes = [f"{SPLIT_TITLES[split]}: {interval_note(summary)}" for split, summary in facts.results.items()]
    certain = bool(notes) and all(summary.get("intervals") for summary in facts.results.values())
    return Answer(tuple(notes), "" if certain else "how uncertain the results are, such as by 95 % intervals.")


def _robust(facts: Facts) -> Answer:
    splits = [(split, subgroup_blocks(facts, summary)) for split, summary in facts.results.items()]
    blocks = [text for split, found in splits if found for text in (f"{SPLIT_TITLES[split]} split.", *found)]
    todo = "how results change with what may change in use: devices, views, thresholds, who is examined."
    return Answer(tuple(blocks), todo)


def _explained(facts: Facts) -> Answer:
    sentences = tuple(say.examination(facts))
    if not sentences:
        return Answer(todo="the methods, if any (xrayfast interpret --saliency makes Grad-CAM maps).")
    return Answer(sentences, "what readers concluded from the maps.")


def _internal(facts: Facts) -> Answer:
    given = tuple(f"{SPLIT_TITLES[split]} split: {share(summary)}." for split, summary in facts.results.items())
    if "test" in facts.results:
        todo = "" if facts.planned else "whether the test split was looked at while the network was trained by hand."
        return Answer((*given, "Calibration and thresholds were chosen on the validation split alone."), todo)
    return Answer(given, "a test on images that chose nothing: the validation split also chose the model.")


def _external(facts: Facts) -> Answer:
    tests = say.external(facts)
    if not tests:
        return Answer(todo="a test on other data (xrayfast evaluate), or that there was none, and why.")
    blocks = [block for name, test in tests for block in (f"Evaluation {name}.", *say.test_blocks(facts, test))]
    return Answer(tuple(blocks), "how these data differ from those of training.")


def _participants(facts: Facts) -> Answer:
    flow, counts = say.flow_table(facts), say.counts_table(facts)
    given = tuple(block for block in (flow, counts) if block)
    return Answer(given, "" if flow and counts else "numbers included and excluded by each criterion, as a flowchart.")


def _characteristics(facts: Facts) -> Answer:
    counts = say.counts_table(facts)
    given: list[str] = [counts] if counts else []
    for split, summary in facts.results.items():
        for by in summary.get("subgroups") or ():
            told = [f"{group['value']} {number(group.get('images'), ',d')}" for group in by["groups"]]
            missing = f", unknown {by['missing']:,}" if by.get("missing") else ""
            given.append(f"{SPLIT_TITLES[split]}, images by {by['by']}: {', '.join(told)}{missing}.")
    return Answer(tuple(given), "age, sex and clinical characteristics in each split, as far as they are not here.")


def _performance(facts: Facts) -> Answer:
    given = [
        block
        for split, summary in facts.results.items()
        for block in (
            f"{SPLIT_TITLES[split]}, {share(summary)}. {interval_note(summary)}",
            overall_table(facts, summary),
        )
    ]
    certain = all(summary.get("intervals") for summary in facts.results.values())
    return Answer(tuple(given), "" if given and certain else "the results, with their uncertainty.")


def _diagnostic(facts: Facts) -> Answer:
    if facts.main is None:
        return Answer(todo="sensitivity, specificity and their precision.")
    split, summary = facts.main
    todo = "" if summary.get("intervals") else "the precision of these estimates."
    return Answer(
        (f"{SPLIT_TITLES[split]}, each label against the rest. {interval_note(summary)}", label_table(summary)), todo
    )


def _failures(facts: Facts) -> Answer:
    if facts.main is None:
        return Answer(todo="which images are wrong, and why.")
    split, summary = facts.main
    pairs = (summary.get("most_confused") or ())[:_MISTAKES]
    rows = [(pair["actual"], pair["predicted"], number(pair["count"], ",d")) for pair in pairs]
    found: tuple[str, ...] = (f"{SPLIT_TITLES[split]}: no label was missed for another.",)
    if rows:
        found = (f"{SPLIT_TITLES[split]}, most frequent mistakes:", table(("Actual", "Predicted", "Images"), rows))
    return Answer(
        (*found, "The images with the largest losses are shown by xrayfast interpret."), "what these have in common."
    )


def _limitations(facts: Facts) -> Answer:
    return Answer(tuple(say.limits(facts)), "limitations of the study, such as bias in how images were collected.")


def _protocol(facts: Facts) -> Answer:
    given = (
        "Technical details are in the run's folder: config.yaml (all settings; xrayfast fit --config replays them), "
        "split.csv, history.csv, metrics.json and model_card.md."
    )
    return Answer((given,), "where the protocol of the study is found.")


def _available(facts: Facts) -> Answer:
    release = facts.info.xrayfast
    given = f"Software: xrayfast {release}".rstrip() + ", MIT license. Weights: model.safetensors of this run."
    return Answer((given,), "where weights and data can be had, and under which conditions.")


_DESIGN, _DATA, _TRUTH = "Methods: study design", "Methods: data", "Methods: reference standard"
_PARTS, _SIZE, _NET = "Methods: data partitions", "Methods: testing data", "Methods: model"
_FIT, _TEST = "Methods: training", "Methods: evaluation"
_CASES, _DONE, _OTHER = "Results: data", "Results: model performance", "Other information"

ITEMS: tuple[Item, ...] = (
    Item(1, "Title", "The work is named as one on AI, with the kind of technique", _kind),
    Item(2, "Abstract", "Design, methods, results and conclusions in short", "the abstract."),
    Item(3, "Introduction", "What is known, and the role that the AI is meant for", "background and intended role."),
    Item(4, "Introduction", "What the study wants to find out", "aims, objectives and hypotheses."),
    Item(5, _DESIGN, "Data collected for the study, or before it", "whether it is prospective or retrospective."),
    Item(6, _DESIGN, "Purpose of the study", "such as a new model, a feasibility study or a comparison."),
    Item(7, _DATA, "Where the data come from", _sources),
    Item(8, _DATA, "Who was eligible and who was not", _criteria),
    Item(9, _DATA, "What is done to images before the network sees them", _prepared),
    Item(10, _DATA, "Choice of some of the images, or of parts of them", _subset),
    Item(11, _DATA, "How patients' identities were removed", _deidentified),
    Item(12, _DATA, "What was done where data are missing", _missing),
    Item(13, _DATA, "How images were acquired", "devices, projections, exposure, and how images were stored."),
    Item(14, _TRUTH, "How the reference standard was obtained", _reference),
    Item(15, _TRUTH, "Why this reference standard", "reasons for it, and its known errors."),
    Item(16, _TRUTH, "Who or what made the annotations", "number, training and experience of readers, or the tool."),
    Item(17, _TRUTH, "How the test images were annotated", _test_labels),
    Item(18, _TRUTH, "Agreement of readers with each other and themselves", "measures, and how they were reconciled."),
    Item(19, _PARTS, "How images came into training, validation and test", _assigned),
    Item(20, _PARTS, "At which level the splits share nothing", _disjoint),
    Item(21, _SIZE, "How many cases were planned", "the size of the test set that was intended, and why."),
    Item(22, _NET, "The model, so that it could be built again", _model),
    Item(23, _NET, "Software, with versions", _software),
    Item(24, _NET, "Weights at the start", _start),
    Item(25, _FIT, "How the model was trained", _training),
    Item(26, _FIT, "How the final model was picked", _selected),
    Item(27, _FIT, "Whether and how several models are combined", _ensemble),
    Item(28, _TEST, "How performance is measured", _metrics),
    Item(29, _TEST, "How significance and uncertainty are measured", _statistics),
    Item(30, _TEST, "How far results hold under other conditions", _robust),
    Item(31, _TEST, "How the model's answers are explained", _explained),
    Item(32, _TEST, "Evaluation on data of the same source", _internal),
    Item(33, _TEST, "Test on data of another source", _external),
    Item(34, _TEST, "Registration as a clinical trial", "register and number, or that there is none."),
    Item(35, _CASES, "How many patients or images were included and excluded", _participants),
    Item(36, _CASES, "Who the patients of each split are", _characteristics),
    Item(37, _DONE, "Results, with their uncertainty", _performance),
    Item(38, _DONE, "Diagnostic performance by label, and its precision", _diagnostic),
    Item(39, _DONE, "Analysis of wrong answers", _failures),
    Item(40, "Discussion", "Limitations", _limitations),
    Item(41, "Discussion", "What follows for practice", "intended use and clinical role, or that there is none yet."),
    Item(42, _OTHER, "Where protocol and technical details are found", _protocol),
    Item(43, _OTHER, "Whether software, weights and data can be had", _available),
    Item(44, _OTHER, "Funding, and what part funders had", "sources of funding and support, and the funders' role."),
)
