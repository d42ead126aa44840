"""What is recorded of an epoch: metrics and losses for fastai, and every training batch.

Our metrics are computed once, on the whole split, and values are read from the device at the end of the epoch.
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
import pandas as pd
import torch
from numpy.typing import NDArray

from xrayfast.config import ResultsConfig, Task
from xrayfast.data.labels.targets import to_truth
from xrayfast.errors import ConfigError, TrainingError
from xrayfast.learning.fastai_api import AvgLoss, AvgSmoothLoss, Callback, L, Metric, Metrics, Recorder, mk_metric, noop
from xrayfast.learning.model.losses import batch_weight, to_probability
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.metrics import registry
from xrayfast.metrics.summary import compute_epoch_metrics
from xrayfast.runs.predictions import Predictions


@dataclass(frozen=True, eq=False)
class ValidationUnits:
    """Joins the validation split's outputs by study or patient, as its results are.

    Attributes:
        images: labels, studies and patients of its images, in the order in which they are predicted.
        settings: of the results.
        task: "single" or "multi".
        positive: the positive class of a single-label task with two classes.
    """

    images: Predictions
    settings: ResultsConfig
    task: Task
    positive: str | None

    def join(self, truth: NDArray[Any], probability: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Truth and probabilities of the units: (U, L) each.

        Raises:
            TrainingError: the images were not predicted once each, in order.
        """
        if not np.array_equal(truth, self.images.truth):
            raise TrainingError(
                f"Metrics are by {self.settings.unit}, and {len(truth)} images were predicted; expected the "
                f"{len(self.images)} of the validation split, once each and in order. Leave out the callback that "
                "skips or reorders them, or --unit."
            )
        found = replace(self.images, probability=probability, raw=probability)
        units = found.by_unit(self.settings.unit, self.settings.unit_join, self.task, self.positive)
        return units.truth, units.probability


class _Outputs:
    """Outputs and targets of one pass over a split: 8 bytes per label and image, on the device until it ends.

    Args:
        task: "single" or "multi".
        n_labels: number of labels.
        metrics: those to compute of them.
        validation: the split, where its metrics are of studies or patients.
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
        self.outputs: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []
        self._values: dict[str, float | None] | None = None

    def add(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.outputs.append(output.detach())
        self.targets.append(target.detach())

    def values(self) -> dict[str, float | None]:
        """The metrics, None where one is not defined or `arrays` is None."""
        if self._values is None:
            self._values = self._compute()
        return self._values

    def arrays(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Truth, 1, 0 and -1 where masked, and probabilities: (N, L) each. None where the pass had no targets, or the
        network has diverged: then it has no metrics, and the loss shows it.
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


def finite(value: float) -> float | None:
    """A value for the history: None where it is not defined."""
    return value if math.isfinite(value) else None


class _OfOutputs(Metric):
    """A metric of the outputs of a whole split, which the first metric collects for all."""

    def __init__(self, name: str, outputs: _Outputs, first: bool = False) -> None:
        self._name, self._outputs, self._first = name, outputs, first

    def reset(self) -> None:
        """Forget the last pass."""
        if self._first:
            self._outputs.clear()

    def accumulate(self, learn: Any) -> None:
        """Store this batch's outputs."""
        if self._first:
            self._outputs.add(learn.pred, learn.yb[0])

    @property
    def name(self) -> str:
        """Its name."""
        return self._name


class EpochMetric(_OfOutputs):
    """One of `metrics.registry.history_metrics`, by its name there; NaN where it is not defined."""

    @property
    def value(self) -> float:
        """The metric over all batches since `reset`."""
        value = self._outputs.values()[self._name]
        return math.nan if value is None else value  # fastai's callbacks compare it


class SklearnMetric(_OfOutputs):
    """A function of `sklearn.metrics`, of a whole split.

    It gets the truth, and probabilities where its second argument is `y_score` or `y_proba`, else decisions.
    Single-label: (N,) class indices; probabilities (N, L), of two classes (N,), those of the second. Multi-label:
    (N, L) of 0 and 1, decided at 0.5, or (N,) of one label, without the images that have a masked cell.

    Args:
        function: of truth, and of probabilities or decisions.
        name: its name.
        outputs: of the split, which the first EpochMetric collects.
    """

    def __init__(self, function: Callable[..., Any], name: str, outputs: _Outputs) -> None:
        super().__init__(name, outputs)
        self._function = function
        self._of_probabilities = name in _OF_PROBABILITIES or not _OF_PROBABILITIES.isdisjoint(
            list(inspect.signature(function).parameters)[:2]
        )

    @property
    def value(self) -> float:
        """The metric, NaN where there are no images for it."""
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
"""Names of arguments that are probabilities; older versions call that of `log_loss` y_pred."""


class OwnMetric(Metric):
    """A metric of the user's own, whose errors name it.

    Args:
        metric: fastai's.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def reset(self) -> None:
        """Begin a split."""
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


class UnmaskedLoss(AvgLoss):
    """fastai's mean loss of an epoch, each batch weighted by its unmasked cells."""

    def accumulate(self, learn: Any) -> None:
        """Add a batch."""
        weight = batch_weight(learn.yb[0])
        self.total += learn.loss.detach().mean() * weight
        self.count += weight


class SmoothLoss(AvgSmoothLoss):
    """fastai's smoothed training loss, kept on the device: fastai waits for it after every batch."""

    def accumulate(self, learn: Any) -> None:
        """Add a batch."""
        self.count += 1
        loss = learn.loss.detach().mean()
        before: torch.Tensor = self.val
        self.val: torch.Tensor = torch.lerp(loss, before.to(loss), self.beta)


class EpochRecorder(Recorder):
    """fastai's recorder with these losses; when training ends it brings them to the CPU, where fastai plots them.

    Attributes:
        of_run: whether it has what a finished run recorded, and nothing was trained since.
        has_loss: whether the current batch has a loss that is not yet recorded.
        counted: whether the last batch was recorded; one that a callback skipped is not.
    """

    name = "recorder"
    order = CALLBACK_ORDER["EpochRecorder"]
    losses: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.smooth_loss = UnmaskedLoss(), SmoothLoss()
        self.of_run = self.has_loss = self.counted = False

    def before_fit(self) -> None:
        """Forget the last fit."""
        super().before_fit()
        self.of_run = self.has_loss = False

    def after_loss(self) -> None:
        """The batch has outputs and a loss."""
        self.has_loss = True

    def after_batch(self) -> None:
        """Record the batch, unless a callback skipped it: then outputs and loss are those of an earlier one."""
        self.counted, self.has_loss = self.has_loss, False
        if self.counted:
            super().after_batch()

    def after_epoch(self) -> None:
        """fastai's; where nobody reads the log the time in it is left empty, since fastprogress formats it."""
        self.add_time = self.learn.logger is not noop
        super().after_epoch()
        if not self.add_time:
            self.log.append("")
            self.add_time = True

    def restore(self, history: pd.DataFrame, batches: pd.DataFrame | None, momenta: Sequence[float] = ()) -> None:
        """Fill it as if a run had been one fit.

        Args:
            history: one row per epoch, as `Run.history` gives it.
            batches: one row per training batch, as `Run.batches` gives it; where there are none, each epoch stands for
                one batch with its mean loss and its last learning rate.
            momenta: of the batches, where they are known.
        """
        if batches is None:
            batches = history[["epoch", "lr"]].assign(loss=history["train_loss"])
        losses = batches["loss"].ewm(alpha=1 - self.smooth_loss.beta).mean()  # as fastai smooths them
        self.losses, self.lrs = [torch.tensor(loss) for loss in losses], batches["lr"].tolist()
        self.hps = {"lr": self.lrs} | ({"mom": list(momenta)} if momenta else {})
        self.iters = batches.groupby("epoch").size().cumsum().tolist()
        valid = [name for name in history.columns.tolist() if name.startswith("valid_")]
        self.values = L(history[["train_loss", *valid]].to_numpy(dtype=float).tolist()).map(L)
        names = [name if name == "valid_loss" else name.removeprefix("valid_") for name in valid]
        self.metric_names = L("epoch", "train_loss", *names, "time")
        self.of_run = True

    def after_fit(self) -> None:
        """All batches' losses at once."""
        losses = getattr(self, "losses", None)  # none where a callback ended training before the first batch
        if losses and losses[0].device.type != "cpu":
            self.losses = list(torch.stack(losses).cpu())


class TrainRecorder(Callback):
    """Keeps the losses, the learning rates and the outputs of an epoch's training batches. Losses and outputs stay on
    the device, for which reading each would wait. Outputs are those from which the network learned: of augmented
    views, with dropout, and each of other weights than the last; of mixed images there are none.

    Args:
        frozen_groups: number of frozen layer groups, from the input.
        task: "single" or "multi".
        n_labels: number of labels.

    Attributes:
        places: the number of each batch in the epoch, from 0: callbacks may skip some.
        lrs: the head's learning rate in each batch of the epoch so far.
        lowest_lrs: that of the first unfrozen layer group.
    """

    order = CALLBACK_ORDER["TrainRecorder"]

    def __init__(self, frozen_groups: int, task: Task, n_labels: int) -> None:
        self.frozen_groups = frozen_groups
        self.outputs = _Outputs(task, n_labels, registry.train_metrics(task))
        self.before_train()

    def before_train(self) -> None:
        """Forget the last epoch."""
        self.outputs.clear()
        self.losses: list[torch.Tensor] = []
        self.places: list[int] = []
        self.lrs: list[float] = []
        self.lowest_lrs: list[float] = []
        self.total: torch.Tensor | float = 0.0
        self.weight: torch.Tensor | float = 0.0

    def after_batch(self) -> None:
        """Add a training batch, unless a callback skipped it."""
        if self.training and self.recorder.counted:
            self.add_batch()

    def add_batch(self) -> None:
        """Add the batch, and its loss to the mean: fastai's smoothed one runs on over epochs, so that resuming would
        change it.
        """
        loss, weight = self.loss.detach(), batch_weight(self.yb[0])
        self.total += loss * weight
        self.weight += weight
        if len(self.yb) == 1:  # a mixed image has no label to compare its output with
            self.outputs.add(self.pred, self.yb[0])
        self.losses.append(loss)
        self.places.append(self.iter)
        self.lrs.append(float(self.opt.hypers[-1]["lr"]))
        self.lowest_lrs.append(float(self.opt.hypers[self.frozen_groups]["lr"]))

    def state(self) -> dict[str, torch.Tensor]:
        """What is kept of the epoch's batches so far."""
        rates = {"lrs": self.lrs, "lowest_lrs": self.lowest_lrs}
        found = {name: torch.tensor(values, dtype=torch.float64) for name, values in rates.items()}
        found["losses"] = torch.stack(self.losses)
        found |= {"total": torch.as_tensor(self.total), "weight": torch.as_tensor(self.weight)}
        if self.outputs.outputs:
            found |= {"outputs": torch.cat(self.outputs.outputs), "targets": torch.cat(self.outputs.targets)}
        return {name: tensor.as_subclass(torch.Tensor) for name, tensor in found.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on after the batches whose `state` this is; no callback has skipped one."""
        on_device = {name: tensor.to(self.dls.device) for name, tensor in state.items()}
        self.losses, self.lrs = [*on_device["losses"]], state["lrs"].tolist()
        self.lowest_lrs, self.places = state["lowest_lrs"].tolist(), [*range(len(self.lrs))]
        self.total, self.weight = on_device["total"], on_device["weight"]
        if "outputs" in state:
            self.outputs.outputs = [*on_device["outputs"].split(self.dls.train.bs)]
            self.outputs.targets = [*on_device["targets"].split(self.dls.train.bs)]

    def read_losses(self) -> list[float]:
        """The losses of the epoch's batches so far, read from the device at once."""
        return torch.stack(self.losses).tolist() if self.losses else []

    def read_metrics(self) -> dict[str, float | None]:
        """The mean loss, each batch weighted by its unmasked cells, and the metrics of outputs, if any, by name."""
        loss = float(self.total) / max(float(self.weight), 1.0)
        metrics = self.outputs.values() if self.outputs.outputs else {}
        self.outputs.clear()  # not needed while the epoch is validated and saved
        return {"loss": loss, **metrics}


def build_epoch_metrics(
    task: Task, n_labels: int, further: Metrics = (), validation: ValidationUnits | None = None
) -> list[Metric]:
    """The metrics to report of the validation split after each epoch: those of xrayfast, then further ones.

    Those of xrayfast, and functions of `sklearn.metrics`, are of studies or patients where `validation` says so.

    Raises:
        ConfigError: a further one has no name, or that of another, or is a scorer of scikit-learn, or one of fastai's
            for the other task.
    """
    metrics = registry.history_metrics(task)
    outputs = _Outputs(task, n_labels, metrics, validation)
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
        elif not _is_of_fastai(metric := mk_metric(given), "accuracy") or task != "single":  # which is recorded anyway
            _require_task(metric, task)
            found.append(OwnMetric(metric))
    try:
        names = Counter([*_RECORDED, *(metric.name for metric in found)])
    except AttributeError as error:
        raise ConfigError(f"metrics: found one without a name ({error}). Set its __name__.") from error
    if taken := [str(name) for name, count in names.items() if count > 1 or not isinstance(name, str)]:
        raise ConfigError(
            f"metrics: found '{taken[0]}', the name of what is recorded anyway or of another one; expected different "
            "names. Leave it out, or give your own another name."
        )
    return found


def _is_of_fastai(metric: Metric, *names: str) -> bool:
    """Whether a metric is a function of fastai with one of these names."""
    function = getattr(metric, "func", None)
    function = getattr(function, "func", function)  # of a functools.partial
    return getattr(function, "__module__", "") == "fastai.metrics" and getattr(function, "__name__", "") in names


def _require_task(metric: Metric, task: Task) -> None:
    """Raise an error where fastai made a metric for the other task: it fails with the two sizes alone, or, of one
    label, not at all.

    Raises:
        ConfigError: it says which metrics fit.
    """
    function = getattr(metric, "func", None)
    of_library = getattr(getattr(function, "func", function), "__module__", "").startswith(("fastai.", "sklearn."))
    one_class = of_library and getattr(metric, "dim_argmax", None) is not None
    one_class = one_class or _is_of_fastai(metric, "accuracy", "error_rate", "top_k_accuracy")
    each_label = of_library and getattr(metric, "thresh", None) is not None
    each_label = each_label or _is_of_fastai(metric, "accuracy_multi")
    if task == "multi" and one_class:
        raise ConfigError(
            f"metrics: fastai's {metric.name} compares the most likely class of each image with one class, and "
            "multi-label targets are 1 or 0 for each label. Use accuracy_multi, for others those of fastai whose names "
            "end in Multi, such as F1ScoreMulti, or functions of sklearn.metrics."
        )
    if task == "single" and each_label:
        raise ConfigError(
            f"metrics: fastai's {metric.name} decides on each label by itself, and single-label targets are one class "
            "per image. Use accuracy, for others those of fastai whose names don't end in Multi, such as F1Score, or "
            "functions of sklearn.metrics."
        )


def try_metrics(metrics: Sequence[Metric], task: Task, target: torch.Tensor, to_detach: Callable[..., Any]) -> None:
    """Call functions of the user's own on random logits, before anything is trained.

    Args:
        metrics: of `build_epoch_metrics`.
        task: "single" or "multi".
        target: (N, L) targets of the validation split, NaN where masked; single-label with a 1 for the class.
        to_detach: the learner's.

    Raises:
        ConfigError: one fails.
    """
    pred = torch.randn(target.shape, generator=torch.Generator().manual_seed(0)).to(target.device)
    y = target.argmax(dim=1) if task == "single" else target
    batch = SimpleNamespace(pred=pred, yb=(y,), y=y, to_detach=to_detach)
    metrics[0].reset()
    metrics[0].accumulate(batch)
    for metric in metrics:
        inner = getattr(metric, "metric", None)
        if type(inner).__name__ in ("AccumMetric", "AvgMetric", "SklearnMetric"):  # others may use more of a learner
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    metric.reset()
                    metric.accumulate(batch)
                    _ = metric.value
            except Exception as error:  # whatever the user's code raises
                raise ConfigError(
                    f"metrics: {metric.name} fails on random logits {tuple(pred.shape)} and the {task}-label targets "
                    f"{tuple(y.shape)} of the validation split: {error.__cause__ or error}"
                ) from error
    metrics[0].reset()


_RECORDED = ("epoch", "loss", "train_loss", "valid_loss", "time")
"""Names of what is recorded besides metrics."""
