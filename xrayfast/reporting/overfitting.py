"""Training beside validation: how much better a network does on the images that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from xrayfast.config import Task, Unit
from xrayfast.metrics.registry import EXACT_MATCH, history_column, overall_metrics, train_metrics

SMALL_GAP = 0.02
"""Of the accuracy: no larger than what single images make of it in a validation split of a few hundred."""


@dataclass(frozen=True)
class TrainAndValid:
    """The loss and the metrics of `registry.train_metrics` on the training and on the validation split.

    Attributes:
        values: pairs of training and validation, by "loss" or the metric's name; None where not defined.
        final: whether the epoch's finished network has predicted the training images, without augmentation; else the
            training values are of the predictions made while the epoch trained.
        tta: whether the validation values are of test-time augmentation.
        unit: what the validation metrics are of, and where `final` the training ones; else these are of images.
    """

    task: Task
    values: Mapping[str, tuple[float | None, float | None]]
    epoch: int
    final: bool
    tta: bool = False
    unit: Unit = "image"

    @property
    def title(self) -> str:
        """As a heading."""
        return f"Training beside validation, epoch {self.epoch}"

    def name(self, key: str) -> str:
        """What people read for a key of `values`."""
        return "Loss" if key == "loss" else overall_metrics(self.task)[key].title

    def gap_sentences(self) -> str:
        """The gap in words."""
        key = EXACT_MATCH[self.task]
        train, valid = self.values[key]
        if train is None or valid is None:
            return ""
        by = "" if self.unit == "image" else f" by {self.unit}"
        of_train = by if self.final or not by else " by image"
        numbers = f"Training {self.name(key).lower()} {train:.3f}{of_train}, validation {valid:.3f}{by}: "
        gap = train - valid
        if gap > SMALL_GAP:
            return (
                f"{numbers}a gap of {gap:.3f}. The network does better on images that it was trained on than on new "
                "ones. Some gap is usual; it is overfitting where validation gets worse while training gets better."
            )
        if gap < -SMALL_GAP:
            return (
                f"{numbers}validation is higher by {-gap:.3f}. That is usual while training images are augmented and "
                "the network still learns."
            )
        return f"{numbers}a gap of {abs(gap):.3f}, which is small."

    def method_sentences(self) -> str:
        """How the training values came about."""
        if self.final:
            views = ", those of validation averages over augmented views" if self.tta else ""
            thresholds = " Both are at the thresholds that were chosen on validation." if self.task == "multi" else ""
            return (
                "Training values are of the epoch's finished weights, with which each training image was predicted "
                f"once, without augmentation{views}.{thresholds}"
            )
        return (
            "Training values are of the predictions made while the epoch trained: on augmented images, with dropout, "
            "and with weights that changed after each batch. Its finished weights usually do better on the training "
            "images, so the gap may be larger; 'xrayfast fit --train-metrics final' predicts them with these weights"
            f"{'' if self.unit == 'image' else f', and gives them by {self.unit}, as validation is'}."
        )


def of_history(history: pd.DataFrame, epoch: int | None, task: Task, unit: Unit = "image") -> TrainAndValid | None:
    """Both splits in one epoch; None where there is none, or the run has no metrics of the training split. `unit` is
    that of validation.
    """
    names = ["loss", *train_metrics(task)]
    columns = [history_column("train", name) for name in names] + [history_column("valid", name) for name in names]
    rows = history[history["epoch"] == epoch]
    if epoch is None or rows.empty or not set(columns) <= set(history):
        return None
    found = rows.iloc[0].astype(object).where(rows.iloc[0].notna(), None)
    pairs = {name: (found[history_column("train", name)], found[history_column("valid", name)]) for name in names}
    return TrainAndValid(task, pairs, epoch, final=False, unit=unit)


def of_final_metrics(
    metrics: Mapping[str, Any], epoch: int, task: Task, tta: bool = False, unit: Unit = "image"
) -> TrainAndValid:
    """Both splits by the weights that the run kept, from a `metrics.json` that has the training split."""
    train, valid = metrics["train"]["overall"], metrics["valid"]["overall"]
    losses = metrics["loss"]
    pairs = {name: (train[name], valid[name]) for name in train_metrics(task)}
    return TrainAndValid(task, {"loss": (losses["train"], losses["valid"]), **pairs}, epoch, True, tta, unit)
