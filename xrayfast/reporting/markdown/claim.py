"""CLAIM, the checklist for artificial intelligence in medical imaging (2024 update), filled in for a run.

Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300. Numbers and sections are those of the checklist;
the items are paraphrased. An item is filled in if the run's files hold the answer, and left to the author otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Literal, NamedTuple

from xrayfast.errors import plural
from xrayfast.metrics.registry import label_metrics, overall_metrics
from xrayfast.reporting.markdown import descriptions as say
from xrayfast.reporting.markdown.markup import DASH, markdown_table, render_markdown
from xrayfast.reporting.markdown.metric_blocks import (
    format_number,
    headline_markdown,
    interval_note,
    labels_markdown,
    subgroup_blocks,
)
from xrayfast.reporting.markdown.run_facts import RunFacts
from xrayfast.reporting.wording import SPLIT_TITLES, images_of_patients, population_text

_MISTAKES = 5
"""How many pairs of labels are listed as most confused."""


class Answer:
    """What is left to the author ("" for nothing), and what the run's files say; blocks that are None are dropped."""

    def __init__(self, todo: str, *given: str | None) -> None:
        self.todo, self.given = todo, [block for block in given if block is not None]

    @property
    def status(self) -> Literal["filled", "partly", "author"]:
        """Whether the run fills in the item, fills it in partly, or leaves it to the author."""
        return ("partly" if self.todo else "filled") if self.given else "author"


class Item(NamedTuple):
    """One item of the checklist: what it asks for, and a function that answers it, or what is left to the author."""

    number: int
    section: str
    asks: str
    answer: Callable[[RunFacts], Answer] | str


def render_claim(facts: RunFacts) -> str:
    """Return the checklist of a run as Markdown."""
    answers = [(item, Answer(item.answer) if isinstance(item.answer, str) else item.answer(facts)) for item in ITEMS]
    counts = {name: sum(answer.status == name for _, answer in answers) for name in ("filled", "partly", "author")}
    sections = [(name, list(rows)) for name, rows in groupby(answers, key=lambda row: row[0].section)]
    context = {"name": facts.name, "items": len(answers), "counts": counts, "sections": sections}
    return render_markdown("claim.md.j2", context)


# The answers


def _kind(facts: RunFacts) -> Answer:
    text = f"Supervised deep learning: a convolutional network ({say.arch(facts)}) classifies chest radiographs."
    return Answer("the title and abstract that say so.", text)


def _sources(facts: RunFacts) -> Answer:
    images = sum(column.get("images", 0) for column in facts.info.counts.values())
    mark = facts.info.fingerprint
    given = f"The data set {say.data_name(facts)}"
    given += f", {plural(images, 'image')}" if images else ""
    given += f"; fingerprint of names, labels, splits and sizes: {mark}." if mark else "."
    todo = (
        "where, when and from whom the images were collected, a link, their license, and how well they match the "
        "intended patients and setting of the network."
    )
    return Answer(todo, given)


def _criteria(facts: RunFacts) -> Answer:
    flow = say.flow_markdown(facts)
    todo = "who was eligible and who was not, and how, where and when patients were recruited or selected."
    return Answer(todo, "Among the files of the data set:" if flow else None, flow)


def _subset(facts: RunFacts) -> Answer:
    todo = "whether the images are a selection from a larger collection, and how they were chosen."
    return Answer(todo, "Whole images were used, without selecting regions.")


def _deidentified(facts: RunFacts) -> Answer:
    known = facts.split is not None and (facts.split["patient"] != "").any()
    given = "xrayfast names patients by pseudonyms (P00001, ...) in all files of the run; file names are kept."
    return Answer("how the images and their file names were de-identified beforehand.", given if known else None)


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
    return Answer("why data are missing, and how missing images or records were handled.", *given)


def _reference(facts: RunFacts) -> Answer:
    labels, implied = facts.config.data.labels, facts.config.data.imply
    origin = f"the table {labels.name}" if labels else "the data set"
    kind = "one label per image" if facts.task == "single" else "several labels or none per image"
    given = f"Labels were taken as given by {origin}: {kind}, of {', '.join(facts.labels)}."
    more = f"Labels that imply another: {', '.join(implied)}." if implied else None
    return Answer("how these labels were made, in enough detail to replicate it.", given, more)


def _test_labels(facts: RunFacts) -> Answer:
    given = "The test split's labels come from the same source as those of the other splits."
    todo = "by whom, with which instructions and with which software the test images were labeled."
    return Answer(todo, given if "test" in facts.results else None)


def _assigned(facts: RunFacts) -> Answer:
    words = ("drawn", "part", "split", "fold", "fraction")  # runs of older versions say "part"
    notes = [note for note in facts.info.data_notes if any(word in note.lower() for word in words)]
    counts = say.counts_markdown(facts)
    todo = "" if notes and counts else "how images were assigned to training, validation and test."
    return Answer(todo, *notes, counts)


def _disjoint(facts: RunFacts) -> Answer:
    if facts.split is None:
        return Answer("at which level the splits are disjoint.")
    known = (facts.split["patient"] != "").all()
    todo = "" if known else "whether images of one patient can be in more than one split."
    return Answer(todo, *say.split_overlap(facts))


def _model(facts: RunFacts) -> Answer:
    return Answer("", say.network(facts), *say.decision_blocks(facts))


def _software(facts: RunFacts) -> Answer:
    given = f"{say.versions(facts)}. Hardware: {say.hardware(facts)}; platform: {facts.info.platform or DASH}."
    return Answer("" if facts.info.versions else "the versions of the libraries.", given)


def _start(facts: RunFacts) -> Answer:
    known = facts.config.model.weights in ("imagenet", "none") or facts.info.starting_weights
    todo = "" if known else "where this file comes from, and what it was trained on."
    return Answer(todo, say.initial_weights(facts))


def _training(facts: RunFacts) -> Answer:
    todo = "" if facts.planned else "the schedule and the learning rates, which are not recorded."
    rows = markdown_table(("Setting", "Value"), say.hyperparameters(facts))
    return Answer(todo, say.augmentation(facts), rows, f"Time: {say.duration(facts)}.")


def _selected(facts: RunFacts) -> Answer:
    todo = "how many other runs were tried, and how this one was chosen among them."
    return Answer(todo, say.epoch_selection(facts))


def _ensemble(facts: RunFacts) -> Answer:
    views = " Its predictions are averaged over augmented views of an image." if facts.config.train.tta else ""
    networks = say.averaging(len(facts.info.members)) if facts.info.members else "None: one network."
    return Answer("", f"{networks}{views}")


def _metrics(facts: RunFacts) -> Answer:
    if facts.main_split is None:
        return Answer("the metrics, and why these.")
    summary = facts.main_split[1]
    names = [metric.title for key, metric in overall_metrics(facts.task).items() if key in summary["overall"]]
    rows = summary["per_label"]
    of_labels = [metric.title for key, metric in label_metrics().items() if any(key in row for row in rows)]
    given = (f"Overall: {'; '.join(names)}.", f"For each label against the rest: {'; '.join(of_labels)}.")
    return Answer("which of these is the main one, and why it fits the use.", *given)


def _statistics(facts: RunFacts) -> Answer:
    notes = [f"{SPLIT_TITLES[split]}: {interval_note(summary)}" for split, summary in facts.results.items()]
    return Answer("" if _certain(facts) else "how uncertain the results are, such as by 95% intervals.", *notes)


def _robust(facts: RunFacts) -> Answer:
    splits = [(split, subgroup_blocks(summary, facts.task)) for split, summary in facts.results.items()]
    blocks = [text for split, found in splits if found for text in (f"{SPLIT_TITLES[split]} split.", *found)]
    return Answer("how results change with conditions of use: devices, views, thresholds, patient population.", *blocks)


def _explained(facts: RunFacts) -> Answer:
    sentences = say.saliency_notes(facts)
    without = "the methods, if any (xrayfast interpret --saliency makes Grad-CAM maps)."
    return Answer("what readers concluded from the maps." if sentences else without, *sentences)


def _internal(facts: RunFacts) -> Answer:
    given = [f"{SPLIT_TITLES[split]} split: {images_of_patients(summary)}." for split, summary in facts.results.items()]
    if "test" not in facts.results:
        return Answer("a test on images that were not used to choose the model, as the validation split was.", *given)
    todo = "" if facts.planned else "whether the test split was looked at while the network was trained by hand."
    return Answer(todo, *given, "Calibration and thresholds were chosen on the validation split alone.")


def _external(facts: RunFacts) -> Answer:
    tests = say.external_tests(facts)
    blocks = [
        block for name, metrics in tests for block in (f"Evaluation {name}.", *say.evaluation_blocks(facts, metrics))
    ]
    without = "a test on other data (xrayfast evaluate), or that there was none, and why."
    return Answer("how these data differ from those of training." if tests else without, *blocks)


def _participants(facts: RunFacts) -> Answer:
    flow, counts = say.flow_markdown(facts), say.counts_markdown(facts)
    todo = "" if flow and counts else "numbers included and excluded by each criterion, as a flowchart."
    return Answer(todo, flow, counts)


def _characteristics(facts: RunFacts) -> Answer:
    given = []
    for split, summary in facts.results.items():
        given.append(f"{SPLIT_TITLES[split]}: {population_text(summary)}")
        for by in summary.get("subgroups") or ():
            groups = [f"{group['value']} {format_number(group.get('images'), ',d')}" for group in by["groups"]]
            missing = f", unknown {by['missing']:,}" if by.get("missing") else ""
            given.append(f"{SPLIT_TITLES[split]}, images by {by['by']}: {', '.join(groups)}{missing}.")
    todo = "age, sex and clinical characteristics in each split, as far as they are not here."
    return Answer(todo, say.counts_markdown(facts), *given)


def _performance(facts: RunFacts) -> Answer:
    given: list[str] = []
    for split, summary in facts.results.items():
        given.append(f"{SPLIT_TITLES[split]}, {images_of_patients(summary)}. {interval_note(summary)}")
        given.append(headline_markdown(summary, facts.task))
    return Answer("" if _certain(facts) else "the results, with their uncertainty.", *given)


def _diagnostic(facts: RunFacts) -> Answer:
    if facts.main_split is None:
        return Answer("sensitivity, specificity and their precision.")
    split, summary = facts.main_split
    todo = "" if summary.get("intervals") else "the precision of these estimates."
    given = f"{SPLIT_TITLES[split]}, each label against the rest. {interval_note(summary)}"
    return Answer(todo, given, labels_markdown(summary))


def _failures(facts: RunFacts) -> Answer:
    if facts.main_split is None:
        return Answer("which images are misclassified, and why.")
    split, summary = facts.main_split
    pairs = (summary.get("most_confused") or ())[:_MISTAKES]
    rows = [(pair["actual"], pair["predicted"], format_number(pair["count"], ",d")) for pair in pairs]
    mistakes = ", most frequent errors:" if rows else ": no label was mistaken for another."
    table = markdown_table(("Actual", "Predicted", "Images"), rows) if rows else None
    worst = "The images with the largest losses are shown by xrayfast interpret."
    return Answer("what these have in common.", f"{SPLIT_TITLES[split]}{mistakes}", table, worst)


def _limitations(facts: RunFacts) -> Answer:
    todo = "limitations of the study, such as bias in how images were collected."
    return Answer(todo, *say.limitations(facts))


def _protocol(facts: RunFacts) -> Answer:
    given = (
        "Technical details are in the run's folder: config.yaml (all settings; xrayfast fit --config replays them), "
        "split.csv, history.csv, metrics.json and model_card.md."
    )
    return Answer("where the protocol of the study is found.", given)


def _available(facts: RunFacts) -> Answer:
    release = facts.info.xrayfast
    given = f"Software: xrayfast {release}".rstrip() + ", MIT license. Weights: model.safetensors of this run."
    return Answer("where weights and data are available, and under which conditions.", given)


def _certain(facts: RunFacts) -> bool:
    """Whether there are results and all have intervals."""
    return bool(facts.results) and all(summary.get("intervals") for summary in facts.results.values())


_DESIGN, _DATA, _TRUTH = "Methods: study design", "Methods: data", "Methods: reference standard"
_PARTS, _SIZE, _NET = "Methods: data partitions", "Methods: testing data", "Methods: model"
_FIT, _TEST = "Methods: training", "Methods: evaluation"
_CASES, _DONE, _OTHER = "Results: data", "Results: model performance", "Other information"

ITEMS: tuple[Item, ...] = (
    Item(1, "Title", "Identification as a study of AI, with the type of technique", _kind),
    Item(2, "Abstract", "Summary of design, methods, results and conclusions", "the abstract."),
    Item(3, "Introduction", "Scientific background, and intended role of the AI", "background and intended role."),
    Item(4, "Introduction", "Aims and hypotheses of the study", "aims, objectives and hypotheses."),
    Item(5, _DESIGN, "Prospective or retrospective design", "whether it is prospective or retrospective."),
    Item(6, _DESIGN, "Purpose of the study", "such as a new model, a feasibility study or a comparison."),
    Item(7, _DATA, "Sources of the data", _sources),
    Item(8, _DATA, "Criteria of inclusion and exclusion", _criteria),
    Item(9, _DATA, "Preprocessing of the images", lambda facts: Answer("", say.preparation(facts))),
    Item(10, _DATA, "Selection of images, or of regions of images", _subset),
    Item(11, _DATA, "De-identification", _deidentified),
    Item(12, _DATA, "Handling of missing data", _missing),
    Item(13, _DATA, "How images were acquired", "devices, projections, exposure, and how images were stored."),
    Item(14, _TRUTH, "How the reference standard was obtained", _reference),
    Item(15, _TRUTH, "Reasons for this reference standard", "reasons for it, and its known errors."),
    Item(16, _TRUTH, "Source of the annotations", "number, training and experience of readers, or the tool."),
    Item(17, _TRUTH, "How the test images were annotated", _test_labels),
    Item(18, _TRUTH, "Agreement between and within readers", "measures, and how they were reconciled."),
    Item(19, _PARTS, "Assignment of images to training, validation and test", _assigned),
    Item(20, _PARTS, "Level at which the splits are disjoint", _disjoint),
    Item(21, _SIZE, "Planned sample size", "the size of the test set that was intended, and why."),
    Item(22, _NET, "Description of the model, in enough detail to rebuild it", _model),
    Item(23, _NET, "Software, with versions", _software),
    Item(24, _NET, "Initial weights", _start),
    Item(25, _FIT, "How the model was trained", _training),
    Item(26, _FIT, "How the final model was selected", _selected),
    Item(27, _FIT, "Whether and how several models are combined", _ensemble),
    Item(28, _TEST, "How performance is measured", _metrics),
    Item(29, _TEST, "How significance and uncertainty are measured", _statistics),
    Item(30, _TEST, "Robustness, or sensitivity to other conditions", _robust),
    Item(31, _TEST, "Methods to explain the model's outputs", _explained),
    Item(32, _TEST, "Internal evaluation, on data of the same source", _internal),
    Item(33, _TEST, "External test, on data of another source", _external),
    Item(34, _TEST, "Registration as a clinical trial", "register and number, or that there is none."),
    Item(35, _CASES, "How many patients or images were included and excluded", _participants),
    Item(36, _CASES, "Characteristics of the patients in each split", _characteristics),
    Item(37, _DONE, "Results, with their uncertainty", _performance),
    Item(38, _DONE, "Diagnostic performance by label, and its precision", _diagnostic),
    Item(39, _DONE, "Analysis of errors", _failures),
    Item(40, "Discussion", "Limitations", _limitations),
    Item(41, "Discussion", "Implications for practice", "intended use and clinical role, or that there is none yet."),
    Item(42, _OTHER, "Availability of protocol and technical details", _protocol),
    Item(43, _OTHER, "Availability of software, weights and data", _available),
    Item(44, _OTHER, "Funding, and role of the funders", "sources of funding and support, and the funders' role."),
)
