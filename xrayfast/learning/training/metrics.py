"""The metrics of an epoch for fastai: of xrayfast, of scikit-learn and of the user.

xrayfast's metrics are computed once, on the whole split. Values are read from the device at the end of the epoch.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xrayfast.config import ResultsConfig, Task
from xrayfast.data.labels.targets import to_truth
from xrayfast.errors import ConfigError, TrainingError
from xrayfast.learning.fastai_api import L, Metric, Metrics, mk_metric
from xrayfast.learning.model.losses import to_probability
from xrayfast.metrics import registry
from xrayfast.metrics.summary import compute_epoch_metrics
from xrayfast.runs.predictions import Predictions


@dataclass(frozen=True, eq=False)
class ValidationUnits:
    """The studies or patients of the validation split, for metrics per study or patient, like those of the results.

    Attributes:
        images: labels, studies and patients of the images, in the order in which they are predicted.
    """

    images: Predictions
    settings: ResultsConfig
    task: Task
    positive: str | None

    def join(self, truth: NDArray[Any], probability: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Join images into studies or patients, and return their truth and probabilities: (U, L) each.

        Raises:
            TrainingError: the images were not predicted once each, in order.
        """
        if not np.array_equal(truth, self.images.truth):
            raise TrainingError(
                f"Metrics are computed by {self.settings.unit}, but found predictions of {len(truth):,} images; "
                f"expected the {len(self.images):,} images of the validation split, once each and in order. Leave out "
                "the callback that skips or reorders them, or --unit."
            )
        found = replace(self.images, probability=probability, raw=probability)
        units = found.by_unit(self.settings.unit, self.settings.unit_join, self.task, self.positive)
        return units.truth, units.probability


class EpochOutputs:
    """Outputs and targets of one pass over a split, on the device until it ends: 8 bytes per label and image.

    Args:
        validation: studies or patients of the validation split, if metrics are per study or patient.
    """

    def __init__(
        self,
        task: Task,
        n_labels: int,
        metrics: Mapping[str, registry.Metric],
        validation: ValidationUnits | None = None,
    ) -> None:
        self.task: Task = task
        self.n_labels, self.metrics, self.validation = n_labels, metrics, validation
        self.clear()

    def clear(self) -> None:
        """Forget all batches."""
        self.outputs: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []
        self._values: dict[str, float | None] | None = None

    def add(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch: a copy, because a metric of the user's may change its arguments in place."""
        self.outputs.append(output.detach().clone())
        self.targets.append(target.detach().clone())

    def values(self) -> dict[str, float | None]:
        """Return the metrics by name: None if undefined, and all None if `arrays` is None."""
        if self._values is None:
            self._values = self._compute()
        return self._values

    def arrays(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return truth (1, 0, or -1 for masked) and probabilities, (N, L) each.

        None if there were no batches, or if the network has diverged: it then has no metrics, and the loss shows it.
        """
        if not self.outputs:
            return None
        logits = torch.cat([batch.as_subclass(torch.Tensor) for batch in self.outputs]).float().cpu()
        target = torch.cat([batch.as_subclass(torch.Tensor) for batch in self.targets]).cpu().numpy()
        if not bool(torch.isfinite(logits).all()):
            return None
        probability = to_probability(logits, self.task).numpy()
        truth = np.eye(self.n_labels, dtype=np.int64)[target] if self.task == "single" else to_truth(target)
        return (truth, probability) if self.validation is None else self.validation.join(truth, probability)

    def _compute(self) -> dict[str, float | None]:
        arrays = self.arrays()
        if arrays is None:
            return dict.fromkeys(self.metrics)
        return {name: finite(v) for name, v in compute_epoch_metrics(*arrays, self.task, self.metrics).items()}


def to_number(name: str, value: Any) -> float:
    """Return the value of a metric as a float, NaN if it is None."""
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor of several values
        found = f"an array of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"{value!r:.80}"
        raise TrainingError(f"The metric {name} gave {found}; expected one number.") from error


def finite(value: float) -> float | None:
    """Return a value for the history: None if it is not finite."""
    return value if math.isfinite(value) else None


class _OfOutputs(Metric):
    """Base class of metrics that share the outputs of a whole split; the first metric collects them for all."""

    def __init__(self, name: str, outputs: EpochOutputs, first: bool = False) -> None:
        self._name, self._outputs, self._first = name, outputs, first

    def reset(self) -> None:
        """Forget the last pass."""
        if self._first:
            self._outputs.clear()

    def accumulate(self, learn: Any) -> None:
        """Add the outputs of this batch; the first metric does so for all."""
        if self._first:
            self._outputs.add(learn.pred, learn.yb[0])

    @property
    def name(self) -> str:
        """The name of the metric."""
        return self._name


class EpochMetric(_OfOutputs):
    """One of `metrics.registry.history_metrics` as a fastai Metric; NaN if undefined."""

    @property
    def value(self) -> float:
        """The metric over all batches since `reset`."""
        value = self._outputs.values()[self._name]
        return math.nan if value is None else value  # not None, since fastai's callbacks compare it with numbers


class SklearnMetric(_OfOutputs):
    """A function of `sklearn.metrics` as a fastai Metric, computed on a whole split.

    The function gets the truth, and probabilities if its second argument is `y_score`, `y_prob` or `y_proba` or it is
    `log_loss`, else decisions. Single-label: truth and decisions are (N,) class indices; probabilities are (N, L), or
    with two classes (N,), those of the second class. Multi-label: arrays are (N, L), or (N,) with one label, without
    the images that have a masked cell; decisions are 0 or 1 at a threshold of 0.5.

    Args:
        function: function of truth, and of probabilities or decisions.
        outputs: outputs of the split, which the first EpochMetric collects.
    """

    def __init__(self, function: Callable[..., Any], name: str, outputs: EpochOutputs) -> None:
        super().__init__(name, outputs)
        self._function = function
        self._of_probabilities = name in _OF_PROBABILITIES or not _OF_PROBABILITIES.isdisjoint(
            list(inspect.signature(function).parameters)[:2]
        )

    @property
    def value(self) -> float:
        """The metric; NaN if there are no images for it."""
        arrays = self._outputs.arrays()
        if arrays is None:
            return math.nan
        truth, probability = arrays
        if self._outputs.task == "single":
            scores = probability if probability.shape[1] > 2 else probability[:, -1]
            given = truth.argmax(axis=1), scores if self._of_probabilities else probability.argmax(axis=1)
        else:
            rows = (truth >= 0).all(axis=1)
            truth, probability = truth[rows].squeeze(axis=1) if truth.shape[1] == 1 else truth[rows], probability[rows]
            probability = probability.reshape(truth.shape)
            given = truth, probability if self._of_probabilities else (probability >= 0.5).astype(np.int64)
        return self._function(*given) if len(given[0]) else math.nan


_OF_PROBABILITIES = frozenset({"y_score", "y_prob", "y_proba", "log_loss"})
"""Names of arguments that are probabilities. `log_loss` is a function: in old versions its argument is `y_pred`."""


class OwnMetric(Metric):
    """The user's own metric; an error in it becomes a TrainingError that names the metric."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def reset(self) -> None:
        """Reset the metric before a split."""
        self._call(self.metric.reset)

    def accumulate(self, learn: Any) -> None:
        """Add a batch."""
        self._call(self.metric.accumulate, learn)

    @property
    def value(self) -> Any:
        """The metric of the split so far."""
        return self._call(lambda: self.metric.value)

    @property
    def name(self) -> str:
        """Its name."""
        return self.metric.name

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:  # whatever the user's code raises
            raise TrainingError(f"The metric {self.name} failed with {type(error).__name__}: {error}") from error


def build_epoch_metrics(
    task: Task, n_labels: int, further: Metrics = (), validation: ValidationUnits | None = None
) -> list[Metric]:
    """Return the metrics of the validation split that are reported after each epoch: xrayfast's, then further ones.

    With `validation`, xrayfast's metrics and functions of `sklearn.metrics` are per study or patient.

    Raises:
        ConfigError: a further metric has no name, has the name of another one, is a scorer of scikit-learn, or is one
            of fastai's for the other task.
    """
    metrics = registry.history_metrics(task)
    outputs = EpochOutputs(task, n_labels, metrics, validation)
    found: list[Metric] = [EpochMetric(name, outputs, first=i == 0) for i, name in enumerate(metrics)]
    for given in L(further):
        function = getattr(given, "func", given)  # of a functools.partial
        if not isinstance(given, Metric) and getattr(function, "__module__", "").startswith("sklearn.metrics"):
            if not hasattr(function, "__name__"):
                raise ConfigError(
                    f"metrics: found {given!r:.80}, which scores a model of scikit-learn; expected a function of truth "
                    "and predictions, such as sklearn.metrics.roc_auc_score."
                )
            found.append(OwnMetric(SklearnMetric(given, function.__name__, outputs)))
        elif not _is_of_fastai(metric := mk_metric(given), "accuracy") or task != "single":  # accuracy is there anyway
            _require_task(metric, task)
            found.append(OwnMetric(metric))
    try:
        names = Counter([*_RECORDED, *(metric.name for metric in found)])
    except AttributeError as error:
        raise ConfigError(f"metrics: found one without a name ({error}). Set its __name__.") from error
    if taken := [str(name) for name, count in names.items() if count > 1 or not isinstance(name, str)]:
        raise ConfigError(
            f"metrics: found '{taken[0]}', which is already the name of a recorded column or of another metric; "
            "expected different names. Leave it out, or rename your metric."
        )
    return found


def _is_of_fastai(metric: Metric, *names: str) -> bool:
    """Whether a metric is a function of fastai with one of these names."""
    function = getattr(metric, "func", None)
    function = getattr(function, "func", function)  # of a functools.partial
    return getattr(function, "__module__", "") == "fastai.metrics" and getattr(function, "__name__", "") in names


def _require_task(metric: Metric, task: Task) -> None:
    """Raise an error if a metric of fastai is for the other task.

    In training such a metric would fail with a message on two sizes or, with one label, not fail at all.
    """
    function = getattr(metric, "func", None)
    of_library = getattr(getattr(function, "func", function), "__module__", "").startswith(("fastai.", "sklearn."))
    sigmoid = getattr(metric, "activation", None) == "sigmoid"  # fastai then ignores dim_argmax, as in RocAucMulti
    one_class = of_library and getattr(metric, "dim_argmax", None) is not None and not sigmoid
    one_class = one_class or _is_of_fastai(metric, "accuracy", "error_rate", "top_k_accuracy")
    each_label = of_library and (sigmoid or getattr(metric, "thresh", None) is not None)
    each_label = each_label or _is_of_fastai(metric, "accuracy_multi")
    if task == "multi" and one_class:
        raise ConfigError(
            f"metrics: fastai's {metric.name} is for single-label targets, but this data is multi-label. Use "
            "accuracy_multi, another fastai metric whose name ends in Multi, such as F1ScoreMulti, or a function of "
            "sklearn.metrics."
        )
    if task == "single" and each_label:
        raise ConfigError(
            f"metrics: fastai's {metric.name} is for multi-label targets, but this data is single-label. Use "
            "accuracy, another fastai metric whose name does not end in Multi, such as F1Score, or a function of "
            "sklearn.metrics."
        )


def try_metrics(metrics: Sequence[Metric], task: Task, target: torch.Tensor, to_detach: Callable[..., Any]) -> None:
    """Call the user's own metrics on random logits before training, to find errors early.

    Args:
        metrics: metrics from `build_epoch_metrics`.
        task: "single" or "multi".
        target: (N, L) targets of the validation split, NaN where masked; one-hot for single-label.
        to_detach: the learner's method `to_detach`.

    Raises:
        ConfigError: a metric fails, or gives anything but one number or None.
    """
    pred = torch.randn(target.shape, generator=torch.Generator().manual_seed(0)).to(target.device)
    y = target.argmax(dim=1) if task == "single" else target
    batch = SimpleNamespace(pred=pred, yb=(y,), y=y, to_detach=to_detach)
    metrics[0].reset()
    metrics[0].accumulate(batch)
    for metric in metrics:
        if not isinstance(metric, OwnMetric):
            continue
        where = f"random logits {tuple(pred.shape)} and the {task}-label targets {tuple(y.shape)} of the validation"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                metric.reset()
                metric.accumulate(batch)
                value = metric.value
        except Exception as error:  # whatever the user's code raises
            if type(metric.metric).__name__ not in ("AccumMetric", "AvgMetric", "SklearnMetric"):
                continue  # it may need a whole learner
            raise ConfigError(f"metrics: {metric.name} fails for {where} split: {error.__cause__ or error}") from error
        try:
            to_number(metric.name, value)
        except TrainingError as error:
            raise ConfigError(f"metrics: for {where} split: {error}") from error
    metrics[0].reset()


_RECORDED = ("epoch", "loss", "train_loss", "valid_loss", "time")
"""Names of recorded values that are not metrics."""
