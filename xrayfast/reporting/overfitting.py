"""Comparison of training and validation: how much better a network does on its training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from xrayfast.config import Task, Unit
from xrayfast.metrics.registry import EXACT_MATCH, history_column, overall_metrics, train_metrics

SMALL_GAP = 0.02
"""Gaps in accuracy up to this are called small: a few images of a validation split of a few hundred make as much."""


@dataclass(frozen=True)
class TrainAndValid:
    """The loss and the metrics of `registry.train_metrics` on the training and on the validation split.

    Attributes:
        values: pairs of training and validation values, keyed by "loss" or the metric's name; None if not defined.
        final: whether the training images were predicted with the weights at the end of the epoch, without
            augmentation; otherwise the training values come from the predictions made during the epoch.
        tta: whether the validation images were predicted with test-time augmentation.
        unit: the unit of the validation metrics and, if `final`, of the training metrics, which are otherwise per
            image.
    """

    task: Task
    values: Mapping[str, tuple[float | None, float | None]]
    epoch: int
    final: bool
    tta: bool = False
    unit: Unit = "image"

    @property
    def title(self) -> str:
        """The heading of the comparison."""
        return f"Training beside validation, epoch {self.epoch}"

    def name(self, key: str) -> str:
        """Return the title of a key of `values`."""
        return "Loss" if key == "loss" else overall_metrics(self.task)[key].title

    def gap_sentences(self) -> str:
        """Describe the gap in words."""
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
                "ones. Some gap is usual; it is overfitting if validation gets worse while training gets better."
            )
        if gap < -SMALL_GAP:
            return (
                f"{numbers}validation is higher by {-gap:.3f}. This is usual if training images are augmented and the "
                "network is still improving."
            )
        return f"{numbers}a gap of {abs(gap):.3f}, which is small."

    def method_sentences(self) -> str:
        """Describe how the training values were computed."""
        if self.final:
            views = ", those of validation averages over augmented views" if self.tta else ""
            thresholds = " Both are at the thresholds that were chosen on validation." if self.task == "multi" else ""
            return (
                "Training values are from the weights at the end of the epoch, with which each training image was "
                f"predicted once, without augmentation{views}.{thresholds}"
            )
        return (
            "Training values are from the predictions made during the epoch: on augmented images, with dropout, and "
            "with weights that changed after each batch. The weights at its end usually do better on the training "
            "images, so the gap may be larger; 'xrayfast fit --train-metrics final' predicts them with these weights"
            f"{'' if self.unit == 'image' else f', and gives them by {self.unit}, as validation is'}."
        )


def overfitting_in_history(
    history: pd.DataFrame, epoch: int | None, task: Task, unit: Unit = "image"
) -> TrainAndValid | None:
    """Return the values of both splits in one epoch; None without such an epoch or metrics of the training split.

    `unit` is the unit of the validation metrics.
    """
    names = ["loss", *train_metrics(task)]
    columns = [history_column("train", name) for name in names] + [history_column("valid", name) for name in names]
    rows = history[history["epoch"] == epoch]
    if epoch is None or rows.empty or not set(columns) <= set(history):
        return None
    found = rows.iloc[0].astype(object).where(rows.iloc[0].notna(), None)
    pairs = {name: (found[history_column("train", name)], found[history_column("valid", name)]) for name in names}
    return TrainAndValid(task, pairs, epoch, final=False, unit=unit)


def overfitting_in_final_metrics(
    metrics: Mapping[str, Any], epoch: int, task: Task, tta: bool = False, unit: Unit = "image"
) -> TrainAndValid:
    """Return the values of both splits with the weights that the run kept.

    `metrics` is the content of a `metrics.json` that has the training split.
    """
    train, valid = metrics["train"]["overall"], metrics["valid"]["overall"]
    losses = metrics["loss"]
    pairs = {name: (train[name], valid[name]) for name in train_metrics(task)}
    return TrainAndValid(task, {"loss": (losses["train"], losses["valid"]), **pairs}, epoch, True, tta, unit)
