"""Sentences, lists and tables that describe a run, for both its model card and its CLAIM checklist.

Nothing is made up: what no file holds is "not recorded", and an undefined number is a dash. Paths are cut to the last
name, since the documents are passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xrayfast.config import DEFAULT_METRIC, OWN_WEIGHTS
from xrayfast.errors import plural, shorten
from xrayfast.metrics.claims.headline import optimism
from xrayfast.metrics.operating_points.calibration import Temperature
from xrayfast.metrics.operating_points.decision import MOST_LIKELY_STAYS
from xrayfast.metrics.registry import metric_phrase
from xrayfast.own_code import is_own, show_setting
from xrayfast.reporting.markdown.markup import DASH, UNRECORDED, Markdown, escape, markdown_table
from xrayfast.reporting.markdown.metric_blocks import (
    format_number,
    headline_markdown,
    interval_note,
    labels_markdown,
    subgroup_blocks,
    threshold_blocks,
)
from xrayfast.reporting.markdown.run_facts import RunFacts
from xrayfast.reporting.wording import (
    NOT_CALIBRATED,
    SPLIT_TITLES,
    external_tables,
    hidden_layers,
    images_of_patients,
    other_remarks,
    percent,
    population_text,
    warning_sentences,
)
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.metrics_types import EvaluationMetrics


def arch(facts: RunFacts) -> str:
    """Return the network's name."""
    return show_setting(facts.info.arch or facts.config.model.arch)


def external_tests(facts: RunFacts) -> list[tuple[str, EvaluationMetrics]]:
    """Return the evaluations on data other than the run's own data or copies of them."""
    own = facts.config.data.source.absolute()
    return [
        (name, metrics)
        for name, metrics in facts.evaluations
        if Path(str(metrics.get("source"))).absolute() != own
        and metrics.get("images", {}).get("own_test", 0) < metrics.get("images", {}).get("evaluated", 1)
    ]


def source_name(evaluation: EvaluationMetrics) -> str:
    """Return the name of an evaluation's data, without the folders above it."""
    return Path(evaluation.get("source") or UNRECORDED).name


def data_name(facts: RunFacts) -> str:
    """Return the name of the run's data, without the folders above it, with the name of the table of labels."""
    labels = facts.config.data.labels
    return f"'{facts.config.data.source.name}'" + (f" with the table {labels.name}" if labels else "")


def split_phrase(split: str | None) -> str:
    """Name a split, as in "validation split"; "all images" without a split."""
    return f"{SPLIT_TITLES.get(split, split).lower()} split" if split else "all images"


def network(facts: RunFacts) -> str:
    """Describe architecture, input, output and size of the network."""
    config, parameters = facts.config.model, facts.info.parameters
    start = {
        "fastai": "without its classifier, then fastai's head: average and maximum pooling",
        "linear": "without its classifier, then its own average pooling and one linear layer",
        "mlp": "without its classifier, then its own average pooling",
        "classifier": "with its own classifier but for the last layer",
        "none": "with its own head",
    }[config.head]
    layers = ", ".join(filter(None, [start, hidden_layers(config)]))
    activation = "a sigmoid for each label" if facts.task == "multi" else "a softmax over the classes"
    networks = facts.config.train.members
    several = f" {networks} such networks, with different seeds, are averaged." if networks > 1 else ""
    size = f"{plural(parameters, 'parameter')} in all" if parameters else f"The number of parameters is {UNRECORDED}"
    return (
        f"{_maker(facts)} {arch(facts)} {layers}, and {plural(len(facts.labels), 'output')}, {activation}. Input: one "
        f"gray image of {config.size} x {config.size} px, repeated over three channels. {size}.{several}"
    )


def _maker(facts: RunFacts) -> str:
    arch = facts.config.model.arch
    return "the user's own" if is_own(arch) else "timm's" if arch.startswith("timm:") else "torchvision's"


def initial_weights(facts: RunFacts) -> str:
    """Describe the weights that training started from."""
    weights = facts.config.model.weights
    if facts.info.starting_weights:
        return facts.info.starting_weights
    if weights == "none":
        return "All weights were drawn at random."
    if weights == OWN_WEIGHTS:
        return "The network was given with its weights; where they come from is not recorded."
    kept, rest = ("its own classifier", "layers after it") if facts.config.model.head == "classifier" else ("", "head")
    source = f"{_maker(facts)} ImageNet weights of {arch(facts)}"
    if weights != "imagenet":
        digest = facts.info.weights_sha256
        source = f"the weights in the file {Path(weights).name}{digest and f' (SHA-256 {digest})'}"
    return f"The backbone{kept and f' and {kept}'} started from {source}, the {rest} from random weights."


def preparation(facts: RunFacts) -> str:
    """Describe how a file becomes the network's input."""
    whose = "its weights' own" if facts.config.model.arch.startswith("timm:") else "ImageNet's"
    window = facts.config.data.window
    return (
        f"Each file is read as one gray 8-bit image (16-bit values scaled to the bit depth that they use, DICOM "
        f"through its modality and VOI transformations with the window '{window}', MONOCHROME1 inverted), fitted whole "
        f"into a square of {facts.config.model.size} px, padded with black, and normalized by {whose} mean and "
        "standard deviation."
    )


def augmentation(facts: RunFacts) -> str:
    """Describe augmentation in training and, with test-time augmentation, in prediction."""
    train = facts.config.train
    if ranges := train.augmentation:
        text = (
            f"Some training images are rotated by up to {ranges.rotation:g} degrees or scaled down to {ranges.zoom:g}, "
            "most are varied in brightness and contrast; none is flipped."
        )
    elif train.augment == "off":
        text = "Training images are not augmented."
    else:
        text = f"Training images are augmented by {show_setting(train.augment)}."
    mixing = [f"{name} {value:g}" for name in ("mixup", "cutmix") if (value := getattr(train, name))]
    if mixing:
        text += f" In training each one is mixed with another of its batch ({', '.join(mixing)})."
    views = facts.info.frozen_feature_views
    if views:
        text += f" Where frozen layers were run once, it was for {plural(views, 'view')} of each training image, " + (
            f"itself and {plural(views - 1, 'augmented one')}." if views > 1 else "itself, not augmented."
        )
    return text + (" Predictions are averaged over augmented views." if facts.config.train.tta else "")


def hyperparameters(facts: RunFacts) -> list[tuple[str, str]]:
    """Return the hyperparameters by name; for a run that was trained by hand, those that are known."""
    train, info = facts.config.train, facts.info
    rows = [
        ("Loss", train.describe_loss(info.loss or train.loss)),
        ("Class weights", train.class_weights),
        ("Optimizer", train.optimizer),
        ("Momentum", f"{train.momentum:g}"),
        *(
            (name, f"{value:g}")
            for name, value in (("Beta 2", train.beta2), ("Epsilon", train.eps))
            if value is not None
        ),
        ("Weight decay", f"{train.wd:g}"),
        *train.loop_options.items(),
        ("Batch size", str(facts.global_batch)),
        ("Floating-point precision", info.precision or train.precision),
        ("Seed", str(train.seed)),
    ]
    if info.phases is None:
        return [*rows, ("Schedule and learning rate", UNRECORDED), ("Epochs", str(facts.epochs))]
    first = "first block" if train.unfreeze_layers is None else "first unfrozen layer"
    phases = "; ".join(
        f"{phase.name}: {plural(phase.epochs, 'epoch')}, peak learning rate {min(phase.lrs):.2g}"
        + (f" ({first}) to {max(phase.lrs):.2g} (head)" if min(phase.lrs) < max(phase.lrs) else "")
        for phase in info.phases
    )
    if len(facts.sizes) > 1:
        rows.append(("Sizes of the images", ", then ".join(f"{size} px" for size in facts.sizes)))
    stop = f"after {plural(train.early_stop, 'epoch')} without gain" if train.early_stop else "none"
    return [*rows, ("Schedule", train.schedule), ("Phases", phases), ("Early stopping", stop)]


def epoch_selection(facts: RunFacts) -> str:
    """Describe which epoch's weights were kept, and why."""
    best, members = facts.info.best_epoch, facts.info.members
    if members:
        return f"{_kept_by(facts)} the validation split. {optimism()}"
    if not facts.planned:
        return "The weights at the time of saving were kept; no epoch was chosen."
    if best is None:
        return f"Which epoch's weights were kept is {UNRECORDED}."
    best_by = f"the best according to {monitored(facts)} on the validation split"
    return f"The weights of epoch {best} of {facts.epochs} were kept, {best_by}. {optimism()}"


def monitored(facts: RunFacts) -> str:
    """Name the loss or metric that chooses the epoch; it is the loss if the metric is undefined there."""
    monitor = facts.config.train.monitor
    if monitor == "valid_loss":
        return "loss"
    name = DEFAULT_METRIC if monitor == "auto" else monitor
    undefined = "valid" in facts.results and facts.results["valid"]["overall"].get(name, 0) is None
    return f"loss, since {metric_phrase(name)} is undefined," if undefined else metric_phrase(name)


def folds(cv: CrossValidation) -> str:
    """Describe how the images of a cross-validation were assigned to folds."""
    return f"Images were divided into {cv.dealt}; each was predicted by networks that were not trained on it."


def fold_epochs(cv: CrossValidation, facts: RunFacts) -> str:
    """Describe which epoch's weights were kept for each network of a cross-validation."""
    held_back = f"{percent(cv.folds.inner_valid)} of the images of the other folds, which were held back for it"
    where = held_back if cv.folds.inner_valid else f"the fold that it predicts. {optimism(cv.chosen_on)}"
    return f"{_kept_by(facts)} {where}".removesuffix(".") + "."


def averaging(networks: int) -> str:
    """Say that the probabilities of several networks are averaged."""
    return f"The probabilities of {plural(networks, 'network')} were averaged."


def _kept_by(facts: RunFacts) -> str:
    return f"Of each network the weights of the best epoch were kept, by {monitored(facts)} on"


def split_overlap(facts: RunFacts) -> list[str]:
    """Describe at which level the splits are disjoint, according to `split.csv`."""
    split = facts.split
    if split is None:
        return [f"The split is {UNRECORDED}: there is no split.csv."]
    known = split[split["patient"] != ""]
    if known.empty:
        people = "By image: no patients are known, so that images of one patient may be in several splits."
    else:
        several = int((known.groupby("patient")["split"].nunique() > 1).sum())
        people = (
            f"By patient as far as patients are known, which is on {len(known):,} of {plural(len(split), 'image')}: "
            f"{'none is' if not several else f'{several:,} of {known.patient.nunique():,} are'} in more than one "
            "split."
        )
    if "digest" not in split:
        return [people]
    copies = int((split[split["digest"] != ""].groupby("digest")["split"].nunique() > 1).sum())
    images = "No image is" if not copies else plural(copies, "image") + (" is" if copies == 1 else " are")
    return [people, f"{images} in more than one split, by a hash of the decoded pixels."]


def counts_markdown(facts: RunFacts) -> Markdown | None:
    """Return images, patients and labels by split; None if the counts are not recorded."""
    counts = {split: facts.info.counts.get(split, {}) for split in SPLIT_TITLES}
    counts = {split: column for split, column in counts.items() if column.get("images")}
    if not counts:
        return None
    rows = (("All images", "images"), ("Patients", "patients"), *zip(facts.labels, facts.labels, strict=True))
    cells = [(title, *(format_number(column.get(key), ",d") for column in counts.values())) for title, key in rows]
    return markdown_table(("", *(SPLIT_TITLES[split] for split in counts)), cells)


def flow_markdown(facts: RunFacts) -> Markdown | None:
    """Return the steps from the images found to the images used; None if they are not recorded."""
    rows = [(step, format_number(images, ",d")) for step, images in facts.info.flow]
    return markdown_table(("Step", "Images"), rows) if rows else None


def decision_blocks(facts: RunFacts, chosen_on: str = "validation") -> list[str]:
    """Describe calibration and thresholds, and the images that they were chosen on."""
    decision, calibration = facts.decision, facts.decision.calibration
    where = [] if chosen_on == "validation" else [chosen_on]
    if calibration is None:
        blocks = [NOT_CALIBRATED]
    elif isinstance(calibration, Temperature):
        why = f" ({calibration.reason})" if calibration.reason else ""
        blocks = [f"Calibrated by a temperature of {calibration.temperature:.3g}, fitted on {chosen_on}{why}."]
    else:
        scalings = [
            (label, format_number(scaling.slope), format_number(scaling.bias), scaling.reason or DASH)
            for label, scaling in decision.scaling_of.items()
        ]
        blocks = [
            f"Calibrated on {chosen_on} by slope and bias of {decision.whose_logit} (Platt scaling).",
            markdown_table(("Label", "Slope", "Bias", "Remark"), scalings),
        ]
    if decision.rule is None:
        rule = "The most likely class is predicted."
        return [*blocks, rule if facts.task == "single" else "A label is predicted at 0.5 and above."]
    rule = f"Thresholds were chosen on {chosen_on} for {decision.purpose}. {optimism(*where)} There:"
    points = []
    for label, point in decision.point_of.items():
        threshold = "0.5, as none could be chosen" if point.threshold is None else f"{point.threshold:.4g}"
        rates = format_number(point.sensitivity), format_number(point.specificity)
        points.append((label, threshold, *rates, point.reason or DASH))
    if decision.is_one_vs_rest:
        rule = f"{MOST_LIKELY_STAYS} {rule}"
    table = markdown_table(("Label", "Threshold", "Sensitivity", "Specificity", "Remark"), points)
    return [*blocks, rule, table, *filter(None, [decision.shortfall])]


def versions(facts: RunFacts) -> str:
    """List the software with its versions."""
    known = {"xrayfast": facts.info.xrayfast, **facts.info.versions}
    return ", ".join(f"{name} {version}" for name, version in known.items() if version) or UNRECORDED


def hardware(facts: RunFacts) -> str:
    """Name the device that the network was trained on."""
    return ", ".join(filter(None, (facts.info.device, facts.info.device_name))) or UNRECORDED


def duration(facts: RunFacts) -> str:
    """Format the wall-clock time of training."""
    seconds = facts.info.seconds
    return f"{seconds:,.0f} s ({seconds / 3600:.2f} h)" if seconds else UNRECORDED


def limitations(facts: RunFacts) -> list[str]:
    """Return the limitations that the run itself shows, starting with its remarks."""
    found = other_remarks(facts.info.remarks, *([facts.main_split[1]] if facts.main_split else []))
    if "test" not in facts.results and not any("no test " in remark for remark in found):
        found.append("No test split was evaluated.")
    if not external_tests(facts):
        found.append(
            "It was not evaluated on other data. Performance is usually lower at other hospitals, with other devices "
            "and in other patients."
        )
    if not any(summary.get("subgroups") for summary in facts.results.values()):
        found.append("Results on subgroups, such as by sex or age, were not computed.")
    if facts.damaged:
        found.append(f"Evaluations that can't be read are left out here: {shorten(facts.damaged)}.")
    return found


def result_blocks(facts: RunFacts, summary: Mapping[str, Any]) -> list[str]:
    """Return the warnings, images and metrics of a split: overall, by label and by subgroup."""
    return [
        *(Markdown(f"> **Warning.** {escape(text)}") for text in warning_sentences(summary)),
        f"{images_of_patients(summary).capitalize()}. {population_text(summary)} {interval_note(summary)}",
        headline_markdown(summary, facts.task),
        labels_markdown(summary),
        *threshold_blocks(summary),
        *subgroup_blocks(summary, facts.task),
        *summary.get("notes", ()),
    ]


def evaluation_blocks(facts: RunFacts, evaluation: EvaluationMetrics) -> list[str]:
    """Describe an evaluation: its data, what was left out of them, and its results."""
    images, labels = evaluation.get("images", {}), evaluation.get("labels", {})
    left_out = [f"{format_number(n, ',d')} left out ({why})" for why, n in images.get("left_out", ())]
    found = "; ".join([f"{format_number(images.get('found'), ',d')} images found", *left_out])
    blocks = [
        f"Data: {source_name(evaluation)}, {split_phrase(evaluation.get('split'))}.",
        f"{found}; {format_number(images.get('evaluated'), ',d')} evaluated.",
    ]
    if labels.get("unknown"):
        names = ", ".join(f"{label} ({plural(n, 'image')})" for label, n in labels["unknown"])
        blocks.append(f"Labels of the data that the network does not have: {names}.")
    if labels.get("lacking"):
        blocks.append(f"Labels of the network that the data do not have: {', '.join(labels['lacking'])}.")
    before, now = evaluation.get("decision") or {}, facts.decision.to_json()
    if any(before.get(name) != now[name] for name in ("calibration", "operating_points")):
        blocks.append("Computed with other thresholds or another calibration than the run has now.")
    beside = [markdown_table(columns, rows) for _, columns, rows in external_tables(evaluation)]
    return [*blocks, *evaluation.get("notes", ()), *result_blocks(facts, evaluation["result"]), *beside]


def saliency_notes(facts: RunFacts) -> list[str]:
    """Describe which images were explained by saliency maps, and what was found; empty if there are none."""
    found = facts.saliency
    if not found or not found["cases"]:
        return []
    shown = f"{plural(len(found['cases']), 'image')} ({split_phrase(found.get('split'))})"
    return [f"Grad-CAM on the last feature map, of {shown}.", *found.get("notes", ())]
