"""Finish a run after its last epoch: compute predictions and results with the weights of the best epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xrayfast.config import PREDICTED_SPLITS, Config
from xrayfast.data.splits.words import Split
from xrayfast.errors import plural, shorten
from xrayfast.learning.distributed.world import World
from xrayfast.learning.inference.predictor import predict_split
from xrayfast.learning.model.weights import load_weights
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.learner import RadiographLearner
from xrayfast.learning.training.metrics import OwnMetric
from xrayfast.metrics.registry import history_metrics
from xrayfast.metrics.summary import compute_epoch_metrics
from xrayfast.progress import Reporter
from xrayfast.reporting.html.render import image_view
from xrayfast.runs.history import History, valid_column
from xrayfast.runs.predictions import Predictions, join_row_labels
from xrayfast.runs.run import Run, now
from xrayfast.workflows.steps.data.images import changed_images
from xrayfast.workflows.steps.results import finalize_results, write_cards

SHOWN_IMAGES = 8
"""Number of training images that the report shows, in one row."""


UNSTABLE = 10.0
"""An epoch's mean training loss, as a multiple of the first batch's, above which training is called unstable."""


def describe_instability(history: History) -> str | None:
    """Return a remark if the training loss of an epoch was far above the loss of the first batch."""
    if history.batches.empty:
        return None
    first = float(history.batches["loss"].iloc[0])
    worst = max(history.rows, key=lambda row: row["train_loss"])
    if worst["train_loss"] <= UNSTABLE * first:
        return None
    return (
        f"Training was unstable: the mean training loss of epoch {worst['epoch']} is {worst['train_loss']:.3g}, that "
        f"of the first batch was {first:.3g}. The learning rate may be too high: {worst['lr']:.3g} at the end of that "
        "epoch. Use a lower --lr; 'xrayfast lr-find' suggests one."
    )


UNTRAINED = 1e-4
"""Change of the head's weights, other than in scale, below which nothing was trained: at a learning rate of 1e-6, ten
steps change them by 2.5e-4."""


def head_weights(learn: RadiographLearner) -> list[Tensor]:
    """Return copies of the weight matrices of the last layer group, which every phase trains."""
    return [parameter.detach().clone() for parameter in learn.groups[-1].parameters if parameter.ndim > 1]


def describe_untrained(before: Sequence[Tensor], learn: RadiographLearner) -> str | None:
    """Return a remark if training did not turn the head's weights; weight decay alone changes only their scale."""
    changes = [
        float((new - old * torch.sum(old * new) / old.square().sum()).norm() / new.norm())
        for old, new in zip(before, head_weights(learn), strict=True)
    ]
    if not changes or not max(changes) < UNTRAINED:
        return None
    own = f", or {learn.own_code['cbs']}" if learn.own_cbs else ""
    return (
        f"Training changed the head's weights by less than {UNTRAINED:.2%}: the network has learned nothing. The cause "
        f"may be --lr or --clip-grad (too small), the loss (constant){own}."
    )


def describe_empty_metrics(learn: RadiographLearner, history: History, monitor: str) -> str | None:
    """Return a remark on own metrics, and that of column `monitor`, that were never a finite number."""
    names = [one.name for one in learn.metrics if isinstance(one, OwnMetric) or valid_column(one.name) == monitor]
    empty = [name for name in names if pd.isna([row.get(valid_column(name)) for row in history.rows]).all()]
    if not (empty and history.rows):
        return None
    instead = " The best epoch was chosen by the validation loss instead." * (monitor in map(valid_column, empty))
    return (
        f"Metrics that were not a finite number in any epoch, so that their columns are empty: {shorten(empty)}."
        f"{instead}"
    )


def describe_replaced(learn: RadiographLearner) -> list[str]:
    """Return a remark for each of the network, the loss and the optimizer that was replaced, such as by a callback."""
    return [
        f"learn.{name} was replaced in Python, so config.yaml does not describe how this network was trained."
        for name, made in learn.made_with.items()
        if getattr(learn, name) is not made
    ]


def describe_constant_outputs(saved: Predictions) -> str | None:
    """Return a remark if all images of the validation split have the same probabilities."""
    if len(saved) < 2 or np.ptp(saved.raw, axis=0).max() > SAME_PROBABILITY:
        return None
    return (
        f"All {len(saved):,} validation images have the same probabilities: the outputs do not depend on the image. "
        "Train for more epochs, or with another --lr; an own network may not use its input."
    )


SAME_PROBABILITY = 1e-7
"""Difference of two probabilities that rounding in float32 makes."""


LARGEST_DIFFERENCE = 0.02
"""Difference of a validation metric in training from that of the saved predictions; rounding makes smaller ones."""

FLIPPED_IMAGES = 3
"""Number of images whose class may change between training in half precision and predictions in float32."""


_STEADY = ("accuracy", "subset_accuracy", "auroc_macro")
"""Metrics that a single image can't change much, as it can precision, F1 and average precision of a rare label."""


def describe_changed_validation(learn: RadiographLearner, history: History, saved: Predictions) -> str | None:
    """Return a remark if a validation metric of the best epoch is not that of the saved predictions, because the user's
    own callbacks changed images, labels or outputs.
    """
    task = learn.dls.manifest.task
    best = history.best_epoch or 1
    allowed = LARGEST_DIFFERENCE + (0 if learn.precision == "fp32" else FLIPPED_IMAGES / len(saved))
    compared = {name: metric for name, metric in history_metrics(task).items() if name in _STEADY}
    for name, value in compute_epoch_metrics(saved.truth, saved.raw, task, compared).items():
        recorded = history.rows[best - 1].get(valid_column(name))
        if recorded is not None and abs(recorded - value) > allowed:
            return (
                f"The validation {name} of the best epoch, {best}, was {recorded:.3f} in training, but "
                f"is {value:.3f} for the saved predictions of the same images: {learn.own_code['cbs']} changed images, "
                "labels or outputs in validation, and the best epoch was chosen by these. Return early in such a "
                "callback unless self.training."
            )
    return None


def add_remark(run: Run, remark: str, note: Callable[[str], None]) -> None:
    """Display a warning, and record it in `run.json` for readers of the results unless it is there already."""
    if remark not in run.info.remarks:
        run.update_info(remarks=[*run.info.remarks, remark])
    note(remark)


def finish(
    run: Run,
    learn: RadiographLearner,
    history: History,
    config: Config,
    *,
    seconds: float | None,
    reporter: Reporter,
    world: World = World(),  # noqa: B008 - immutable
) -> None:
    """Predict with the weights of the best epoch, on each rank a share of the images.

    Rank zero then computes the metrics and completes the run. `seconds` is the time of training, None if unknown.
    """
    began = time.perf_counter()
    if world.is_rank_zero:
        load_weights(learn.model, run.model_path)
    world.broadcast_tensors(learn.model.state_dict().values())
    own = world.own_rows() if world.world_size > 1 else None
    train, predictions = config.train, dict[Split, Predictions]()
    splits: list[Split] = [*PREDICTED_SPLITS[: len(learn.dls.loaders) - 1]]
    if train.train_metrics == "final":
        splits.append("train")
    total = int(learn.dls.manifest.table["split"].isin(splits).sum())
    for split in splits:
        reporter.preparing("predicting", sum(map(len, predictions.values())), total)
        predictions[split] = predict_split(learn, split, tta=train.tta and split != "train", own=own)
    if not world.is_rank_zero:
        return
    reporter.preparing("predicting", total, total)
    if changed := changed_images(run, learn.dls.manifest, learn.dls.images):
        add_remark(
            run,
            f"{plural(len(changed), 'image')} changed while the network was trained: {shorten(changed)}. Earlier "
            "epochs were trained on other pixels than later epochs and the predictions. Train again on data that do "
            "not change.",
            reporter.note,
        )
    if remark := describe_constant_outputs(predictions["valid"]):
        add_remark(run, remark, reporter.note)
    as_in_training = seconds is not None and not train.tta and learn.validation_units is None
    if (
        learn.own_cbs
        and as_in_training
        and (remark := describe_changed_validation(learn, history, predictions["valid"]))
    ):
        add_remark(run, remark, reporter.note)
    _write_training_images(run, learn, train.seed)
    run.update_info(
        finished=now(),
        seconds=None if seconds is None else run.total_seconds(seconds + time.perf_counter() - began),
        best_epoch=history.best_epoch,
    )
    reporter.preparing("computing metrics", 0, total)
    finalize_results(run, predictions, config.results, train.seed)
    reporter.preparing("computing metrics", total, total)
    write_cards(run)
    run.update_info(status="completed")
    run.remove_leftovers()


def _write_training_images(run: Run, learn: RadiographLearner, seed: int) -> None:
    """Save a few training images, spread over the split, as the network sees them, for the report."""
    data = learn.dls.manifest.subset("train")
    rows = np.unique(np.linspace(0, len(data.table) - 1, SHOWN_IMAGES).astype(int)).tolist()
    with isolated_rng(seed, "training images"):
        seen = learn.dls.training_views(rows)
    if seen is None:
        return
    names, truth = data.table["image"].tolist(), data.truth
    shown = [(names[row], join_row_labels(truth[row], data.labels, ", ")) for row in rows]
    run.write_training_images(
        [
            {"image": image, "labels": labels, **image_view(pixels)}
            for (image, labels), pixels in zip(shown, seen, strict=True)
        ]
    )
