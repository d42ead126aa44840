"""The table of all metrics, one row per metric, from which all other code reads them.

To add a metric, write a pure function in this folder and one row in `METRICS`. The metric is then in `metrics.json`
with its interval (from `bootstrap`), in the tables of the report, in `compare` and `--order`, and, if its row says so,
in the training history, among the headline metrics and in the model card.
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
"""Whether a metric is computed over all labels, for each label against the rest, or for each label at a stated
prevalence."""

Average = Literal["macro", "micro", "weighted"]
"""How a metric per label is averaged: its mean over the labels, its value for the pooled cells of all labels, or its
mean weighted by the number of images with each label."""

Denominator = Literal["unmasked", "positive", "negative", "predicted positive", "predicted negative"]
"""The cells that a proportion is counted over: all unmasked cells, or those with the label, without it, predicted
positive or predicted negative.
"""

SINGLE: tuple[Task, ...] = ("single",)
MULTI: tuple[Task, ...] = ("multi",)
BOTH: tuple[Task, ...] = ("single", "multi")

EXACT_MATCH: dict[Task, str] = {"single": "accuracy", "multi": "subset_accuracy"}
"""For each task, the metric that is the share of images on which every label is predicted correctly."""


@dataclass(frozen=True)
class Metric:
    """One metric: how it is computed, and where it is shown.

    Attributes:
        name: key in `metrics.json` and column name in tables; a name used in two scopes has the same title in both.
        title: the name shown to people.
        compute: computes the metric from resamples; the simplest is `from_counts` of a function of 2x2 matrices.
        scope: "overall", "label" or "prevalence".
        tasks: tasks for which it is reported over all labels, as itself (scope "overall") or as its averages.
        averages: for a metric per label, the averages over labels that are reported, as NAME_AVERAGE.
        higher_is_better: whether higher values are better.
        denominator: for a proportion, the cells that it is counted over, from which its interval is computed by
            formula; None for other metrics.
        depends_on: the aspect of a prediction that it depends on: the predicted labels ("decision"), the order of the
            images ("order") or the probability itself.
        headline: whether it is among the metrics shown first. For the scope "label", this field and those below are
            about the macro average.
        meaning: a headline metric explained in one sentence.
        epochs: tasks for which it is computed after each epoch on the validation split, and can choose the best epoch.
        train: tasks for which it is computed in each epoch on the training batches as well as on the validation split.
        short: an abbreviated name, for a line with several metrics; "" for the title.
        hub_name: the name on the Hugging Face Hub; "" for none.
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

    def __reduce__(self) -> tuple[Callable[[str], Metric], tuple[str]]:
        """Pickle a metric of the history, which a learner has, by its name: `compute` can't be pickled."""
        return _history_metric, (self.name,)

    @cached_property
    def over_all_labels(self) -> tuple[Metric, ...]:
        """The rows with the scope "overall": the metric itself, or one for each of its averages."""
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


# Functions that make a `Metric.compute`.


def from_counts(function: Callable[[Floats], Floats]) -> Compute:
    """Make a metric per label from a function of the (..., 2, 2) counts of each label against the rest."""
    return lambda resamples: function(resamples.cells)


def from_confusion(function: Callable[[Floats], Floats]) -> Compute:
    """Make an overall metric of single-label tasks from a function of the (..., C, C) confusion matrix."""
    return lambda resamples: function(resamples.confusion)


def from_scores(function: ScoreFunction) -> Compute:
    """Make a metric per label from a function of (K,) truth and probabilities.

    The function has to be fast, because it is called for each resample and label.
    """
    return lambda resamples: resamples.scores(function)


def mean_over_cells(function: CellFunction) -> Compute:
    """Make a metric per label: the mean over unmasked cells of an (N, L) function of truth and probability."""
    return lambda resamples: ratio(resamples.cell_sum(function), resamples.unmasked)


def mean_over_images(function: ImageFunction) -> Compute:
    """Make an overall metric: the mean over unmasked images of an (N,) function of (N, L) truth, probability and
    predicted labels.
    """
    return lambda resamples: ratio(resamples.image_sum(function), resamples.images)


def macro(name: str) -> Compute:
    """Make an overall metric: the mean over the labels of the metric per label with this name."""
    return lambda resamples: resamples.mean(_by_label(name))


@dataclass(frozen=True)
class AbsoluteSum:
    """A metric that is the sum of the absolute values of (B, K) or (B, L, K) terms, such as a calibration error.

    Noise biases such a sum upward, so its interval is computed by test inversion (`confidence_limits.norm_limits`).
    """

    terms: Compute

    def __call__(self, resamples: Resamples) -> Floats:
        """Return the (B,) or (B, L) sums."""
        return np.abs(self.terms(resamples)).sum(axis=-1)


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
    return ((predicted == truth) | (truth < 0)).all(axis=1)


def _class_squared_errors(truth: NDArray[np.int8], probability: Floats, predicted: NDArray[np.int8]) -> NDArray[Any]:
    return squared_errors(truth, probability).sum(axis=1)


def _class_log_losses(truth: NDArray[np.int8], probability: Floats, predicted: NDArray[np.int8]) -> NDArray[Any]:
    return np.take_along_axis(log_losses(truth, probability), truth.argmax(axis=1)[:, None], axis=1)[:, 0]


def _at_prevalence(resamples: Resamples) -> tuple[Floats, Floats]:
    prevalence = resamples.split.prevalence
    assert prevalence is not None  # `label_metrics` includes these rows only if a prevalence is stated
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
        meaning="Share of the images that are classified correctly.",
    ),
    Metric(
        "subset_accuracy", "Subset accuracy", mean_over_images(_exact_match), "overall", MULTI,
        denominator="unmasked", epochs=MULTI, train=MULTI, short="subset acc.", hub_name="accuracy",
        meaning="Share of the images with exactly the right set of labels.",
    ),
    Metric(
        "balanced_accuracy", "Balanced accuracy", macro("recall"), "overall", SINGLE, headline=True,
        meaning="Mean of the sensitivities of the classes, so that rare classes count as much as common ones.",
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
        meaning=f"Chance that an image with the label scores above one without, {LABELS_MEAN}; 0.5 is chance.",
    ),
    Metric(
        "ap", "Average precision", lambda resamples: resamples.ranked[1],
        averages=("macro", "micro"), depends_on="order", headline=True, epochs=MULTI, short="mean AP",
        hub_name="average_precision",
        meaning=f"Area under each label's precision-recall curve, {LABELS_MEAN}; by chance it is the prevalence of "
        "the label.",
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
"""All metrics, in the order of `metrics.json` and of tables."""


def overall_metrics(task: Task) -> dict[str, Metric]:
    """Return the metrics over all labels, by name."""
    return {each.name: each for row in METRICS for each in row.over_all_labels if task in each.tasks}


def label_metrics(*, prevalence: bool = False) -> dict[str, Metric]:
    """Return the metrics per label, by name; `prevalence` adds the metrics at a stated prevalence."""
    scopes = ("label", "prevalence") if prevalence else ("label",)
    return {metric.name: metric for metric in METRICS if metric.scope in scopes}


def prevalence_metrics() -> dict[str, Metric]:
    """Return the metrics per label at a stated prevalence, by name."""
    return {metric.name: metric for metric in METRICS if metric.scope == "prevalence"}


def headline_metrics(task: Task) -> dict[str, Metric]:
    """Return the metrics over all labels that are shown first, by name; for multi-label tasks, metrics of the ranking
    come before the others.
    """
    found = {name: metric for name, metric in overall_metrics(task).items() if metric.headline}
    return dict(sorted(found.items(), key=lambda one: task == "multi" and one[1].depends_on != "order"))


def epoch_metrics(*tasks: Task) -> dict[str, Metric]:
    """Return the metrics over all labels that epochs are compared by, by name; without a task, those of either task."""
    return {name: metric for name, metric in history_metrics(*tasks).items() if set(metric.epochs) & set(tasks or BOTH)}


def train_metrics(*tasks: Task) -> dict[str, Metric]:
    """Return the metrics computed on the training batches of each epoch, by name; without a task, those of either task.

    None of them needs the order of all images.
    """
    return {name: metric for name, metric in history_metrics(*tasks).items() if set(metric.train) & set(tasks or BOTH)}


def history_metrics(*tasks: Task) -> dict[str, Metric]:
    """Return the metrics in the training history, on the validation split or on both splits, by name; without a task,
    those of either task.
    """
    found = (metric for row in METRICS for metric in row.over_all_labels)
    return {metric.name: metric for metric in found if set(metric.epochs + metric.train) & set(tasks or BOTH)}


def _history_metric(name: str) -> Metric:
    return history_metrics()[name]


def history_column(split: Literal["train", "valid"], name: str) -> str:
    """Return the name of the column of `history.csv` that holds a metric of a split.

    >>> history_column("valid", "accuracy")
    'valid_accuracy'
    """
    return f"{split}_{name}"


def further_columns(columns: Iterable[str]) -> dict[str, str]:
    """Return the columns of `history.csv` that hold metrics of the user's own, with the names of these metrics.

    >>> further_columns(["epoch", "valid_loss", "valid_accuracy", "valid_error_rate"])
    {'valid_error_rate': 'error_rate'}
    """
    ours = {history_column("valid", name) for name in ("loss", *history_metrics())}
    return {name: name.removeprefix("valid_") for name in columns if name.startswith("valid_") and name not in ours}


LabelTable = Literal["narrow", "wide", "page", "full"]
"""The width of a table by label: a narrow terminal, a wide terminal, a printed page, or no limit."""

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
    """Return the names of the most used metrics per label that a table of this width has room for, in its order."""
    return tuple(name for name, tables in _LABEL_COLUMNS.items() if table in tables)


AT_THRESHOLD = tuple(name for name in _LABEL_COLUMNS if label_metrics()[name].denominator)
"""The metrics of each class at its own threshold in single-label tasks: the proportions among the most used metrics."""


def metric_title(name: str) -> str:
    """Return the title of a metric; the name itself if there is no such metric."""
    every = {**label_metrics(prevalence=True), **overall_metrics("single"), **overall_metrics("multi")}
    return every[name].title if name in every else name


def metric_phrase(name: str) -> str:
    """Return the title of a metric as in the middle of a sentence.

    >>> metric_phrase("auroc_macro"), metric_phrase("kappa_macro"), metric_phrase("accuracy")
    ('macro AUROC', "macro Cohen's kappa", 'accuracy')
    """
    title, _, which = metric_title(name).partition(", ")
    first = title.partition(" ")[0]
    if first[1:].islower() and first not in ("Brier", "Cohen's", "Matthews'"):  # neither an acronym nor a person
        title = title[0].lower() + title[1:]
    return f"{which} {title}" if which else title
