"""What is trained when, and with which learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xrayfast.config import Schedule, Task, TrainConfig
from xrayfast.errors import ConfigError
from xrayfast.learning.fastai_api import Learner, ParamScheduler, combined_cos
from xrayfast.learning.training.mixed_precision import leave_autocast
from xrayfast.metrics.registry import epoch_metrics


@dataclass(frozen=True)
class Phase:
    """Some epochs with the same layers thawed.

    Attributes:
        name: for people: "head", "last 2 blocks", "all".
        epochs: how many.
        frozen: layer groups that stay as they are, counted from the input.
        lrs: the peak learning rate of each layer group, from the input to the head.
    """

    name: str
    epochs: int
    frozen: int
    lrs: tuple[float, ...]


def plan(train: TrainConfig, groups: int, lr: float, pretrained: bool) -> tuple[Phase, ...]:
    """The phases of a run.

    Without unfreezing, the head is trained alone for `epochs`. With it, the head comes first for `freeze_epochs`, then
    everything, or the last `unfreeze_blocks` blocks, for `epochs`. As in fastai's `fine_tune`, a second phase has half
    the first one's learning rate. Thawed groups have it spread geometrically, from lr / lr_div at the input to lr at
    the head; the default spread is 100 for pretrained weights and none for a network from scratch.

    Args:
        train: the settings.
        groups: layer groups of the network, its head included.
        lr: peak learning rate of the head.
        pretrained: whether the body starts with trained weights.

    Raises:
        ConfigError: more blocks are to be thawed than there are, or both ways of unfreezing are asked for.
    """
    blocks = groups - 1
    if train.unfreeze_blocks is not None and train.unfreeze_blocks > blocks:
        raise ConfigError(
            f"unfreeze_blocks is {train.unfreeze_blocks}, and this network has {blocks} blocks; see 'xrayfast models'."
        )
    if train.unfreeze and train.unfreeze_blocks is not None:
        raise ConfigError("--unfreeze thaws everything, --unfreeze-blocks a part; use one of them.")
    head = Phase("head", train.epochs, blocks, (lr,) * groups)
    if not train.unfreeze and train.unfreeze_blocks is None:
        return (head,)
    thawed = blocks if train.unfreeze_blocks is None else train.unfreeze_blocks
    div = train.lr_div if train.lr_div is not None else (100.0 if pretrained else 1.0)
    name = "all" if thawed == blocks else f"last {thawed} blocks" if thawed > 1 else "last block"
    peak = lr / 2 if train.freeze_epochs else lr
    rest = Phase(name, train.epochs, blocks - thawed, _spread(peak, div, groups))
    if train.freeze_epochs == 0:
        return (rest,)
    return (Phase("head", train.freeze_epochs, blocks, (lr,) * groups), rest)


def monitored(train: TrainConfig, task: Task) -> str:
    """The column of the history that decides which epoch is best; "auto" is the macro AUROC, which uses all of a
    ranking where accuracy jumps with single images.

    Raises:
        ConfigError: the metric belongs to the other task.
    """
    if train.monitor == "auto":
        return "auroc_macro"
    known = ("valid_loss", *epoch_metrics(task))
    if train.monitor not in known:
        raise ConfigError(f"monitor is '{train.monitor}', and this data has one of: {', '.join(known)}.")
    return train.monitor


def run_phase(
    learn: Learner,
    phase: Phase,
    *,
    schedule: Schedule,
    momentum: float,
    callbacks: Sequence[Any],
    start_epoch: int = 0,
) -> None:
    """Train one phase, or the rest of it from `start_epoch`.

    The schedule spans the whole phase wherever it starts, which fastai's `fit_flat_cos` does not do.
    """
    learn.opt.set_hyper("lr", list(phase.lrs))
    schedulers = [ParamScheduler(scheds)] if (scheds := _schedulers(schedule, np.array(phase.lrs), momentum)) else []
    try:
        learn.fit(phase.epochs, lr=list(phase.lrs), cbs=[*schedulers, *callbacks], start_epoch=start_epoch)
    finally:
        leave_autocast(learn)


def unfreeze_blocks_of(learn: Learner, phase: Phase) -> None:
    """Freeze the phase's frozen groups, thaw the others, and start the optimiser's averages anew."""
    learn.freeze_to(phase.frozen)
    for parameter in learn.model.parameters():
        parameter.grad = None  # fastai's optimisers step on whatever still has a gradient, frozen or not


def _schedulers(schedule: Schedule, lrs: Any, momentum: float) -> dict[str, Any]:
    """Fastai's shapes: one cycle as `fit_one_cycle`, flat-cos as `fit_flat_cos`."""
    if schedule == "constant":
        return {}
    if schedule == "flat-cos":
        return {"lr": combined_cos(0.75, lrs, lrs, lrs / 1e5)}
    high = min(momentum + 0.05, 0.999)
    low = max(momentum - 0.05, 0.0)
    return {"lr": combined_cos(0.25, lrs / 25, lrs, lrs / 1e5), "mom": combined_cos(0.25, high, low, high)}


def _spread(lr: float, div: float, groups: int) -> tuple[float, ...]:
    return tuple(float(x) for x in np.geomspace(lr / div, lr, groups))
