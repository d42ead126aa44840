"""A run against CLAIM, the checklist for articles on artificial intelligence in medical imaging, as updated in 2024.

Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300. Numbers and sections are the checklist's; what an
item asks for is said in other words. It is filled where a run's files hold the answer, and else left to the author.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

from xrayfast.errors import plural
from xrayfast.metrics.registry import label_metrics, overall_metrics
from xrayfast.report.markdown import descriptions as say
from xrayfast.report.markdown.markup import DASH, PURPOSE, markdown_table, render_markdown
from xrayfast.report.markdown.metric_blocks import (
    format_number,
    headline_markdown,
    interval_note,
    labels_markdown,
    subgroup_blocks,
)
from xrayfast.report.markdown.run_facts import RunFacts, read_run_facts
from xrayfast.report.wording import SPLIT_TITLES, images_of_patients
from xrayfast.run import Run

Status = Literal["filled", "partly", "author"]

_MISTAKES = 5
"""Pairs of labels that are listed as most confused."""


class Answer(NamedTuple):
    """What a run's files say to an item, and what is left for the author to write; either may be empty."""

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
        answer: from a run's files, or what the author is to write where these can't know.
    """

    number: int
    section: str
    asks: str
    answer: Callable[[RunFacts], Answer] | str

    def of(self, facts: RunFacts) -> Answer:
        """The answer that a run gives."""
        return Answer(todo=self.answer) if isinstance(self.answer, str) else self.answer(facts)


def render_claim(run: Run) -> str:
    """The checklist of a run, as Markdown.

    Raises:
        RunError: a file of the run is damaged.
    """
    return render_markdown("claim.md.j2", _context(read_run_facts(run)))


def _context(facts: RunFacts) -> dict[str, Any]:
    """The variables of the template."""
    answers = [(item, item.of(facts)) for item in ITEMS]
    counts = {name: sum(answer.status == name for _, answer in answers) for name in ("filled", "partly", "author")}
    sections = [(name, list(rows)) for name, rows in groupby(answers, key=lambda row: row[0].section)]
    return {"name": facts.name, "purpose": PURPOSE, "items": len(answers), "counts": counts, "sections": sections}


# The answers


def _kind(facts: RunFacts) -> Answer:
    text = f"Supervised deep learning: a convolutional network ({say.arch(facts)}) classifies chest radiographs."
    return Answer((text,), "the title and abstract that say so.")


def _sources(facts: RunFacts) -> Answer:
    images = sum(column.get("images", 0) for column in facts.info.counts.values())
    labels = facts.config.data.labels
    given = f"The data set '{facts.config.data.source.name}'" + (f" with the table {labels.name}" if labels else "")
    given += f", {plural(images, 'image')}" if images else ""
    mark = facts.info.fingerprint
    return Answer(
        (given + (f"; fingerprint of names, labels, splits and sizes: {mark}." if mark else "."),),
        "where, when and from whom the images come, a link, their license, and how well they match the people and the "
        "setting that the network is meant for.",
    )


def _criteria(facts: RunFacts) -> Answer:
    flow = say.flow_markdown(facts)
    todo = "who was eligible and who was not, and how, where and when they were found."
    return Answer(("Among the files that were there:", flow), todo) if flow else Answer(todo=todo)


def _prepared(facts: RunFacts) -> Answer:
    return Answer((say.preparation(facts),))


def _subset(facts: RunFacts) -> Answer:
    given = "Each image was used whole: no region was cut out."
    return Answer((given,), "whether the images are a selection from a larger collection, and how they were chosen.")


def _deidentified(facts: RunFacts) -> Answer:
    split = facts.split
    known = split is not None and (split["patient"] != "").any()
    given = ("xrayfast names patients by pseudonyms (P00001, ...) in all files of the run; file names are kept.",)
    return Answer(given if known else (), "how the images and their file names were de-identified before.")


def _missing(facts: RunFacts) -> Answer:
    data, given = facts.config.data, []
    for what, policies in (("Uncertain", data.uncertain), ("Blank", data.blank)):
        if policies:
            given.append(f"{what} cells of the labels: {', '.join(policies)}.")
    for split, summary in facts.results.items():
        if summary.get("masked"):
            masked = ", ".join(f"{label} {count:,}" for label, count in summary["masked"].items())
            given.append(f"{SPLIT_TITLES[split]}: images left out of a label's metrics, as it is masked: {masked}.")
    if facts.results and not given:
        given.append("No label of an evaluated image is masked.")
    return Answer(tuple(given), "why data are missing, and what was done about images or records that lack.")


def _reference(facts: RunFacts) -> Answer:
    labels = facts.config.data.labels
    origin = f"the table {labels.name}" if labels else "the data set"
    kind = "one label per image" if facts.task == "single" else "several labels or none per image"
    given = f"Labels were taken as given by {origin}: {kind}, of {', '.join(facts.labels)}."
    implied = facts.config.data.imply
    return Answer(
        (given, *([f"Labels that imply another: {', '.join(implied)}."] if implied else [])),
        "how these labels were made, in enough detail to do it again.",
    )


def _test_labels(facts: RunFacts) -> Answer:
    todo = "by whom, with which instructions and which software the test images were labelled."
    if "test" not in facts.results:
        return Answer(todo=todo)
    return Answer(("The test split's labels come from the same source as those of the other splits.",), todo)


def _assigned(facts: RunFacts) -> Answer:
    words = ("drawn", "part", "split", "fold", "fraction")  # runs of older versions say "part"
    notes = facts.info.data_notes
    notes = [note for note in notes if any(word in note.lower() for word in words)]
    counts = say.counts_markdown(facts)
    given = (*notes, *([counts] if counts else []))
    return Answer(given, "" if notes and counts else "how images were assigned to training, validation and test.")


def _disjoint(facts: RunFacts) -> Answer:
    sentences, split = tuple(say.split_overlap(facts)), facts.split
    if split is None:
        return Answer(todo="at which level the splits are disjoint.")
    todo = "" if (split["patient"] != "").all() else "whether images of one patient can be in more than one split."
    return Answer(sentences, todo)


def _model(facts: RunFacts) -> Answer:
    return Answer((say.network(facts), *say.decision_blocks(facts)))


def _software(facts: RunFacts) -> Answer:
    given = f"{say.versions(facts)}. Hardware: {say.hardware(facts)}; platform: {facts.info.platform or DASH}."
    return Answer((given,), "" if facts.info.versions else "the versions of the libraries.")


def _start(facts: RunFacts) -> Answer:
    weights = facts.config.model.weights
    file = weights not in ("imagenet", "none")
    return Answer(
        (say.initial_weights(facts),), "where this file comes from, and what it was trained on." if file else ""
    )


def _training(facts: RunFacts) -> Answer:
    todo = "" if facts.planned else "the schedule and the learning rates, which are not recorded."
    rows = markdown_table(("Setting", "Value"), say.hyperparameters(facts))
    return Answer((say.augmentation(facts), rows, f"Time: {say.duration(facts)}."), todo)


def _selected(facts: RunFacts) -> Answer:
    return Answer(
        (say.epoch_selection(facts),), "how many other runs were tried, and how this one was chosen among them."
    )


def _ensemble(facts: RunFacts) -> Answer:
    views = " Its predictions are averaged over augmented views of an image." if facts.config.train.tta else ""
    return Answer((f"None: one network.{views}",))


def _metrics(facts: RunFacts) -> Answer:
    if facts.main_split is None:
        return Answer(todo="the metrics, and why these.")
    summary = facts.main_split[1]
    names = [metric.title for key, metric in overall_metrics(facts.task).items() if key in summary["overall"]]
    rows = summary["per_label"]
    of_labels = [metric.title for key, metric in label_metrics().items() if any(key in row for row in rows)]
    given = (f"Overall: {'; '.join(names)}.", f"For each label against the rest: {'; '.join(of_labels)}.")
    return Answer(given, "which of these is the main one, and why it fits the use.")


def _statistics(facts: RunFacts) -> Answer:
    notes = [f"{SPLIT_TITLES[split]}: {interval_note(summary)}" for split, summary in facts.results.items()]
    certain = bool(notes) and all(summary.get("intervals") for summary in facts.results.values())
    return Answer(tuple(notes), "" if certain else "how uncertain the results are, such as by 95 % intervals.")


def _robust(facts: RunFacts) -> Answer:
    splits = [(split, subgroup_blocks(summary, facts.task)) for split, summary in facts.results.items()]
    blocks = [text for split, found in splits if found for text in (f"{SPLIT_TITLES[split]} split.", *found)]
    todo = "how results change with what may change in use: devices, views, thresholds, who is examined."
    return Answer(tuple(blocks), todo)


def _explained(facts: RunFacts) -> Answer:
    sentences = tuple(say.saliency_notes(facts))
    if not sentences:
        return Answer(todo="the methods, if any (xrayfast interpret --saliency makes Grad-CAM maps).")
    return Answer(sentences, "what readers concluded from the maps.")


def _internal(facts: RunFacts) -> Answer:
    given = tuple(
        f"{SPLIT_TITLES[split]} split: {images_of_patients(summary)}." for split, summary in facts.results.items()
    )
    if "test" in facts.results:
        todo = "" if facts.planned else "whether the test split was looked at while the network was trained by hand."
        return Answer((*given, "Calibration and thresholds were chosen on the validation split alone."), todo)
    return Answer(given, "a test on images that chose nothing: the validation split also chose the model.")


def _external(facts: RunFacts) -> Answer:
    tests = say.external_tests(facts)
    if not tests:
        return Answer(todo="a test on other data (xrayfast evaluate), or that there was none, and why.")
    blocks = [
        block for name, metrics in tests for block in (f"Evaluation {name}.", *say.evaluation_blocks(facts, metrics))
    ]
    return Answer(tuple(blocks), "how these data differ from those of training.")


def _participants(facts: RunFacts) -> Answer:
    flow, counts = say.flow_markdown(facts), say.counts_markdown(facts)
    given = tuple(block for block in (flow, counts) if block)
    return Answer(given, "" if flow and counts else "numbers included and excluded by each criterion, as a flowchart.")


def _characteristics(facts: RunFacts) -> Answer:
    counts = say.counts_markdown(facts)
    given: list[str] = [counts] if counts else []
    for split, summary in facts.results.items():
        for by in summary.get("subgroups") or ():
            groups = [f"{group['value']} {format_number(group.get('images'), ',d')}" for group in by["groups"]]
            missing = f", unknown {by['missing']:,}" if by.get("missing") else ""
            given.append(f"{SPLIT_TITLES[split]}, images by {by['by']}: {', '.join(groups)}{missing}.")
    return Answer(tuple(given), "age, sex and clinical characteristics in each split, as far as they are not here.")


def _performance(facts: RunFacts) -> Answer:
    given = [
        block
        for split, summary in facts.results.items()
        for block in (
            f"{SPLIT_TITLES[split]}, {images_of_patients(summary)}. {interval_note(summary)}",
            headline_markdown(summary, facts.task),
        )
    ]
    certain = all(summary.get("intervals") for summary in facts.results.values())
    return Answer(tuple(given), "" if given and certain else "the results, with their uncertainty.")


def _diagnostic(facts: RunFacts) -> Answer:
    if facts.main_split is None:
        return Answer(todo="sensitivity, specificity and their precision.")
    split, summary = facts.main_split
    todo = "" if summary.get("intervals") else "the precision of these estimates."
    return Answer(
        (f"{SPLIT_TITLES[split]}, each label against the rest. {interval_note(summary)}", labels_markdown(summary)),
        todo,
    )


def _failures(facts: RunFacts) -> Answer:
    if facts.main_split is None:
        return Answer(todo="which images are wrong, and why.")
    split, summary = facts.main_split
    pairs = (summary.get("most_confused") or ())[:_MISTAKES]
    rows = [(pair["actual"], pair["predicted"], format_number(pair["count"], ",d")) for pair in pairs]
    found: tuple[str, ...] = (f"{SPLIT_TITLES[split]}: no label was missed for another.",)
    if rows:
        found = (
            f"{SPLIT_TITLES[split]}, most frequent mistakes:",
            markdown_table(("Actual", "Predicted", "Images"), rows),
        )
    return Answer(
        (*found, "The images with the largest losses are shown by xrayfast interpret."), "what these have in common."
    )


def _limitations(facts: RunFacts) -> Answer:
    return Answer(tuple(say.limitations(facts)), "limitations of the study, such as bias in how images were collected.")


def _protocol(facts: RunFacts) -> Answer:
    given = (
        "Technical details are in the run's folder: config.yaml (all settings; xrayfast fit --config replays them), "
        "split.csv, history.csv, metrics.json and model_card.md."
    )
    return Answer((given,), "where the protocol of the study is found.")


def _available(facts: RunFacts) -> Answer:
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
    Item(10, _DATA, "Choice of some of the images, or of regions of them", _subset),
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
