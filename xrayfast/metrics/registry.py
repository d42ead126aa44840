"""Every metric, one row each; all other code reads this table.

To add a metric, write a pure function in this folder and one row in `METRICS`. It is then in `metrics.json` with its
interval (from `bootstrap`), in the tables of the report, in `compare` and `--order`, and, as its row says, in the
history of training, among the headline metrics and in the model card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Task
from xrayfast.metrics import agreement, classification
from xrayfast.metrics.calibration_gaps import label_gaps, macro_gaps, top_label_gaps
from xrayfast.metrics.classification import Floats, ratio
from xrayfast.metrics.reliability import Binning
from xrayfast.metrics.resamples import CellFunction, Compute, ImageFunction, Resamples, ScoreFunction
from xrayfast.metrics.scoring import log_losses, squared_errors

Scope = Literal["overall", "label", "prevalence"]
"""Over all labels, of each label against the rest, or of each label at a prevalence that is stated."""

Average = Literal["macro", "micro", "weighted"]
"""Of a metric by label: its mean over the labels, its value for all their cells together, its mean weighted by their
images."""

Denominator = Literal["unmasked", "positive", "negative", "predicted positive", "predicted negative"]
"""Which cells a proportion is counted over: of those not masked, all, those with or without the label, or those
predicted positive or negative.
"""

SINGLE: tuple[Task, ...] = ("single",)
MULTI: tuple[Task, ...] = ("multi",)
BOTH: tuple[Task, ...] = ("single", "multi")

EXACT_MATCH: dict[Task, str] = {"single": "accuracy", "multi": "subset_accuracy"}
"""The share of images of which everything is right."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: its key in `metrics.json` and column in tables; the same name in two scopes has the same title.
        title: what people read.
        compute: how it is computed, most simply `from_counts` of a function of 2x2 matrices.
        scope: "overall", "label" or "prevalence".
        tasks: tasks for which it is reported over all labels, itself (scope "overall") or by its averages.
        averages: of a metric by label, reported over all labels as NAME_AVERAGE.
        higher_is_better: whether a good network has much of it.
        denominator: of a proportion; its interval is exact where it is 0 or 1 in every resample.
        depends_on: of a prediction: which labels are predicted, the order of images, or the probability itself.
        headline: whether it is among those shown first; this and what follows is of the macro average where the scope
            is "label".
        meaning: of a headline metric, in one sentence.
        epochs: the tasks for which it is computed after each epoch, on the validation split.
        train: the tasks for which it is computed of each epoch's training batches as well, and so on both splits.
        short: its name on one line with others; "" for the title.
        hub_name: what the Hugging Face Hub calls it; "" for nothing.
    """

    name: str
    title: str
    compute: Compute
    scope: Scope = "label"
    tasks: tuple[Task, ...] = BOTH
    averages: tuple[Average, ...] = ()
    higher_is_better: bool = True
    denominator: Denominator | None = None
    depends_on: Literal["decision", "order", "probability"] = "decision"
    headline: bool = False
    meaning: str = ""
    epochs: tuple[Task, ...] = ()
    train: tuple[Task, ...] = ()
    short: str = ""
    hub_name: str = ""

    @cached_property
    def over_all_labels(self) -> tuple[Metric, ...]:
        """The metric itself, or those of its averages, with the scope "overall"."""
        every = [self] if self.scope == "overall" else []
        for average in self.averages:
            name = f"{self.name}_{average}"
            title = "Mean average precision" if name == "ap_macro" else f"{self.title}, {average}"
            found = replace(self, name=name, title=title, compute=_average(self, average), scope="overall", averages=())
            if average == "macro":
                every.append(replace(found, denominator=None))
            else:
                denominator = self.denominator if average == "micro" else None
                found = replace(found, headline=False, epochs=(), train=(), hub_name="")
                every.append(replace(found, denominator=denominator))
        return tuple(every)


# How metrics are computed.


def from_counts(function: Callable[[Floats], Floats]) -> Compute:
    """By label: of the (..., 2, 2) matrices of counts of each label against the rest."""
    return lambda resamples: function(resamples.cells)


def from_confusion(function: Callable[[Floats], Floats]) -> Compute:
    """Overall, single-label: of the (..., C, C) confusion matrix."""
    return lambda resamples: function(resamples.confusion)


def from_scores(function: ScoreFunction) -> Compute:
    """By label: of (K,) truth and probabilities. Computed for each resample and label, so that it has to be quick."""
    return lambda resamples: resamples.scores(function)


def mean_over_cells(function: CellFunction) -> Compute:
    """By label: the mean over unmasked cells of an (N, L) function of truth and probability."""
    return lambda resamples: ratio(resamples.cell_sum(function), resamples.unmasked)


def mean_over_images(function: ImageFunction) -> Compute:
    """Overall: the mean over unmasked images of an (N,) function of (N, L) truth, probability and predicted labels."""
    return lambda resamples: ratio(resamples.image_sum(function), resamples.images)


def macro(name: str) -> Compute:
    """Overall: the mean over the labels of a metric by label."""
    return lambda resamples: resamples.mean(_by_label(name))


@dataclass(frozen=True)
class AbsoluteSum:
    """The sum of the absolute values of (B, K) or (B, L, K) terms, such as a calibration error: noise only makes it
    larger, and its interval is found by inversion (`confidence_limits.norm_limits`).
    """

    terms: Compute

    def __call__(self, resamples: Resamples) -> Floats:
        """The sums."""
        total: Floats = np.abs(self.terms(resamples)).sum(axis=-1)
        return total


def _average(metric: Metric, average: Average) -> Compute:
    if isinstance(metric.compute, AbsoluteSum):
        terms = metric.compute.terms
        return AbsoluteSum(lambda resamples: macro_gaps(resamples, terms(resamples)))
    if average == "macro":
        return lambda resamples: resamples.mean(metric.compute)
    if average == "micro":
        return lambda resamples: metric.compute(resamples.pooled)[:, 0]
    return lambda resamples: resamples.mean(metric.compute, resamples.cells[..., 1, :].sum(axis=-1))


def _calibration_error(gaps: Callable[[Resamples, Binning], Floats], binning: Binning) -> Compute:
    return AbsoluteSum(lambda resamples: gaps(resamples, binning))


def _exact_match(truth: NDArray[np.int8], probability: Floats, predicted: NDArray[np.int8]) -> NDArray[Any]:
    exact: NDArray[np.bool_] = ((predicted == truth) | (truth < 0)).all(axis=1)
    return exact


def _class_squared_errors(truth: NDArray[np.int8], probability: Floats, predicted: NDArray[np.int8]) -> NDArray[Any]:
    total: Floats = squared_errors(truth, probability).sum(axis=1)
    return total


def _class_log_losses(truth: NDArray[np.int8], probability: Floats, predicted: NDArray[np.int8]) -> NDArray[Any]:
    return np.take_along_axis(log_losses(truth, probability), truth.argmax(axis=1)[:, None], axis=1)[:, 0]


def _at_prevalence(resamples: Resamples) -> tuple[Floats, Floats]:
    prevalence = resamples.split.prevalence
    assert prevalence is not None  # these rows are only there where one is stated
    recall, specificity = (resamples.of_labels(_by_label(name)) for name in ("recall", "specificity"))
    return agreement.predictive_values(recall, specificity, prevalence)


def _by_label(name: str) -> Compute:
    return label_metrics()[name].compute


_quadratic_kappa = partial(agreement.kappa, weights="quadratic")
_probability_error = partial(Metric, higher_is_better=False, depends_on="probability")
LABELS_MEAN = "then the mean over the labels"

METRICS: tuple[Metric, ...] = (
    Metric(
        "accuracy", "Accuracy", from_confusion(agreement.accuracy), "overall", SINGLE,
        denominator="unmasked", headline=True, epochs=SINGLE, train=SINGLE, short="accuracy", hub_name="accuracy",
        meaning="Share of the images that are given the right class.",
    ),
    Metric(
        "subset_accuracy", "Subset accuracy", mean_over_images(_exact_match), "overall", MULTI,
        denominator="unmasked", epochs=MULTI, train=MULTI, short="subset acc.", hub_name="accuracy",
        meaning="Share of the images with exactly the right set of labels.",
    ),
    Metric(
        "balanced_accuracy", "Balanced accuracy", macro("recall"), "overall", SINGLE, headline=True,
        meaning="Mean over the classes of the share that is found, so that rare classes count as much.",
    ),
    Metric("balanced_accuracy_macro", "Balanced accuracy, macro", macro("balanced_accuracy"), "overall", MULTI),
    Metric(
        "precision", "Precision", from_counts(classification.precision),
        averages=("macro", "micro", "weighted"), denominator="predicted positive", train=SINGLE,
    ),
    Metric(
        "recall", "Recall (sensitivity)", from_counts(classification.recall),
        averages=("macro", "micro", "weighted"), denominator="positive",
    ),
    Metric(
        "specificity", "Specificity", from_counts(classification.specificity),
        averages=("macro", "micro", "weighted"), denominator="negative",
    ),
    Metric(
        "npv", "Negative predictive value", from_counts(classification.negative_predictive_value),
        denominator="predicted negative",
    ),
    Metric(
        "f1", "F1", from_counts(classification.f1),
        averages=("macro", "micro", "weighted"), headline=True, epochs=BOTH, train=BOTH, short="F1", hub_name="f1",
        meaning=f"Harmonic mean of precision and recall of each label, {LABELS_MEAN}.",
    ),
    Metric("accuracy", "Accuracy", from_counts(agreement.accuracy), denominator="unmasked"),
    Metric("balanced_accuracy", "Balanced accuracy", from_counts(agreement.mean_of_recall_and_specificity)),
    Metric("kappa", "Cohen's kappa", from_counts(agreement.kappa)),
    Metric("matthews", "Matthews' correlation", from_counts(agreement.matthews)),
    Metric(
        "auroc", "AUROC", lambda resamples: resamples.ranked[0],
        averages=("macro", "micro"), depends_on="order", headline=True, epochs=BOTH, short="AUROC", hub_name="roc_auc",
        meaning=f"Chance that an image with the label scores above one without, {LABELS_MEAN}; 0.5 is guessing.",
    ),
    Metric(
        "ap", "Average precision", lambda resamples: resamples.ranked[1],
        averages=("macro", "micro"), depends_on="order", headline=True, epochs=MULTI, short="mean AP",
        hub_name="average_precision",
        meaning=f"Area under each label's precision-recall curve, {LABELS_MEAN}; guessing gives the label's share of "
        "the images.",
    ),
    Metric("kappa", "Cohen's kappa", from_confusion(agreement.kappa), "overall", SINGLE),
    Metric("kappa_quadratic", "Kappa, quadratic weights", from_confusion(_quadratic_kappa), "overall", SINGLE),
    Metric(
        "matthews", "Matthews' correlation", from_confusion(agreement.matthews), "overall", SINGLE,
        hub_name="matthews_correlation",
    ),
    Metric("kappa_macro", "Cohen's kappa, macro", macro("kappa"), "overall", MULTI),
    Metric("matthews_macro", "Matthews' correlation, macro", macro("matthews"), "overall", MULTI),
    _probability_error(
        "brier", "Brier score", mean_over_images(_class_squared_errors), "overall", SINGLE, hub_name="brier_score"
    ),
    _probability_error("brier", "Brier score", mean_over_cells(squared_errors), tasks=MULTI, averages=("macro",)),
    _probability_error("log_loss", "Log loss", mean_over_images(_class_log_losses), "overall", SINGLE),
    _probability_error("log_loss", "Log loss", mean_over_cells(log_losses), tasks=MULTI, averages=("macro",)),
    _probability_error(
        "ece", "Calibration error", _calibration_error(top_label_gaps, "width"), "overall", SINGLE, headline=True,
        meaning="Mean distance between the probability of the most likely class and how often it is right; 0 is best.",
    ),
    _probability_error(
        "ece", "Calibration error", _calibration_error(label_gaps, "width"), tasks=MULTI, averages=("macro",),
        headline=True,
        meaning=f"Mean distance between a label's probability and how often it is there, {LABELS_MEAN}; 0 is best.",
    ),
    _probability_error(
        "ece_mass", "Calibration error, equal mass", _calibration_error(top_label_gaps, "mass"), "overall", SINGLE
    ),
    _probability_error(
        "ece_mass", "Calibration error, equal mass", _calibration_error(label_gaps, "mass"), tasks=MULTI,
        averages=("macro",),
    ),
    Metric("ppv_at_prevalence", "PPV at the stated prevalence", lambda r: _at_prevalence(r)[0], "prevalence"),
    Metric("npv_at_prevalence", "NPV at the stated prevalence", lambda r: _at_prevalence(r)[1], "prevalence"),
)  # fmt: skip
"""In the order of `metrics.json` and of tables."""


def overall_metrics(task: Task) -> dict[str, Metric]:
    """The metrics over all labels, by name."""
    return {each.name: each for row in METRICS for each in row.over_all_labels if task in each.tasks}


def label_metrics(*, prevalence: bool = False) -> dict[str, Metric]:
    """The metrics by label, by name; `prevalence` adds those at a stated prevalence."""
    scopes = ("label", "prevalence") if prevalence else ("label",)
    return {metric.name: metric for metric in METRICS if metric.scope in scopes}


def prevalence_metrics() -> dict[str, Metric]:
    """The metrics by label at a stated prevalence, by name."""
    return {metric.name: metric for metric in METRICS if metric.scope == "prevalence"}


def headline_metrics(task: Task) -> dict[str, Metric]:
    """The metrics over all labels that are shown first, by name; multi-label, those of the ranking before those that
    depend on thresholds.
    """
    found = {name: metric for name, metric in overall_metrics(task).items() if metric.headline}
    return dict(sorted(found.items(), key=lambda one: task == "multi" and one[1].depends_on != "order"))


def epoch_metrics(*tasks: Task) -> dict[str, Metric]:
    """The metrics over all labels by which epochs are compared, by name; without a task those of either."""
    return {name: metric for name, metric in history_metrics(*tasks).items() if set(metric.epochs) & set(tasks or BOTH)}


def train_metrics(*tasks: Task) -> dict[str, Metric]:
    """Those of the training batches of each epoch, likewise: none that needs the order of all images."""
    return {name: metric for name, metric in history_metrics(*tasks).items() if set(metric.train) & set(tasks or BOTH)}


def history_metrics(*tasks: Task) -> dict[str, Metric]:
    """Those in the history of training, on the validation split or on both, likewise."""
    found = (metric for row in METRICS for metric in row.over_all_labels)
    return {metric.name: metric for metric in found if set(metric.epochs + metric.train) & set(tasks or BOTH)}


def history_column(split: Literal["train", "valid"], name: str) -> str:
    """The column of `history.csv` that holds a metric of a split.

    >>> history_column("valid", "accuracy")
    'valid_accuracy'
    """
    return f"{split}_{name}"


def further_columns(columns: Iterable[str]) -> dict[str, str]:
    """Those columns of `history.csv` that hold metrics of the user's own, with their names.

    >>> further_columns(["epoch", "valid_loss", "valid_accuracy", "valid_error_rate"])
    {'valid_error_rate': 'error_rate'}
    """
    ours = {history_column("valid", name) for name in ("loss", *history_metrics())}
    return {name: name.removeprefix("valid_") for name in columns if name.startswith("valid_") and name not in ours}


LabelTable = Literal["narrow", "wide", "page", "full"]
"""How wide a table by label is: a narrow terminal, a wide one, a printed page, or as wide as it needs."""

_LABEL_COLUMNS: dict[str, tuple[LabelTable, ...]] = {
    "auroc": ("narrow", "wide", "page", "full"),
    "ap": ("page", "full"),
    "recall": ("narrow", "wide", "page", "full"),
    "specificity": ("narrow", "wide", "page", "full"),
    "precision": ("page", "full"),
    "npv": ("full",),
    "f1": ("wide", "page", "full"),
}


def label_columns(table: LabelTable) -> tuple[str, ...]:
    """The names of the most used metrics by label, those for which such a table has room, in its order."""
    return tuple(name for name, tables in _LABEL_COLUMNS.items() if table in tables)


AT_THRESHOLD = tuple(name for name in _LABEL_COLUMNS if label_metrics()[name].denominator)
"""Single-label, the metrics of each class at a threshold of its own: the proportions among the most used."""


def metric_title(name: str) -> str:
    """What people read for a metric's name; the name itself where there is no such metric."""
    every = {**label_metrics(prevalence=True), **overall_metrics("single"), **overall_metrics("multi")}
    return every[name].title if name in every else name
