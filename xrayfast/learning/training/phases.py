"""The phases of training: the layer groups that are frozen, the number of epochs, and the learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xrayfast.config import Schedule, TrainConfig
from xrayfast.errors import ConfigError
from xrayfast.learning.fastai_api import Learner, ParamScheduler, combined_cos

LR_DIV = 10.0
"""Default `lr_div` with pretrained weights; 100 before version 0.8."""


@dataclass(frozen=True)
class Phase:
    """Epochs that train the same layer groups.

    Attributes:
        name: what is trained, for display: "head", "last 2 blocks", "last layer", "all".
        frozen_groups: number of frozen layer groups, from the input.
        lrs: the peak learning rate of each layer group, from the input to the head.
    """

    name: str
    epochs: int
    frozen_groups: int
    lrs: tuple[float, ...]


def plan_phases(train: TrainConfig, groups: int, lr: float, pretrained: bool) -> tuple[Phase, ...]:
    """Return the phases of a run.

    Without unfreezing, only the head is trained, for `epochs`. With it, the head is trained first, for `freeze_epochs`,
    then all layers, the last `unfreeze_blocks` blocks or the last `unfreeze_layers` layers, for `epochs`. As in
    fastai's `fine_tune`, this second phase has half the learning rate. Over the layer groups (all blocks, or the
    unfrozen layers) the rate increases geometrically by the factor `lr_div` up to the head; by default `lr_div` is 10
    for pretrained weights and 1 for a network from scratch.

    With `gradual_unfreeze` there are phases of that many epochs in between: the first unfreezes one block or layer, and
    each later one unfreezes one more. Their learning rates are those of a second phase that unfreezes as many.

    Args:
        train: the settings.
        groups: number of layer groups of the network, including the head; one per layer if `unfreeze_layers` is set.
        lr: peak learning rate of the head.
        pretrained: whether the backbone starts with pretrained weights.

    Raises:
        ConfigError: the network has fewer blocks or layers than are to be unfrozen, several options for unfreezing are
            given, or `gradual_unfreeze` is given with fewer than two to unfreeze.
    """
    backbone = groups - 1
    unfrozen = _unfrozen_groups(train, backbone)
    if not unfrozen:
        return (Phase("head", train.epochs, backbone, (lr,) * groups),)

    def unfreezing(count: int, epochs: int) -> Phase:
        frozen = backbone - count
        name = "all" if not frozen else f"last {count} {kind}s" if count > 1 else f"last {kind}"
        return Phase(name, epochs, frozen, _discriminative_rates(peak, div, groups, frozen * (kind == "layer")))

    kind = "block" if train.unfreeze_layers is None else "layer"
    div = train.lr_div if train.lr_div is not None else (LR_DIV if pretrained else 1.0)
    peak = lr / 2 if train.freeze_epochs else lr
    head = [Phase("head", train.freeze_epochs, backbone, (lr,) * groups)] if train.freeze_epochs else []
    steps = [unfreezing(count, train.gradual_unfreeze) for count in range(1, unfrozen) if train.gradual_unfreeze]
    return (*head, *steps, unfreezing(unfrozen, train.epochs))


def _unfrozen_groups(train: TrainConfig, backbone: int) -> int:
    """Return how many of the backbone's layer groups are unfrozen in the last phase."""
    counts = {"unfreeze_blocks": train.unfreeze_blocks, "unfreeze_layers": train.unfreeze_layers}
    given = {name: count for name, count in counts.items() if count is not None}
    if len(given) + train.unfreeze > 1:
        raise ConfigError(
            "--unfreeze trains all layers, --unfreeze-blocks and --unfreeze-layers only some of them; use one of the "
            "three."
        )
    for name, count in given.items():
        if count > backbone:
            kind = name.removeprefix("unfreeze_")
            listing = "xrayfast models" + " --layers ARCH" * (kind == "layers")
            raise ConfigError(f"{name} is {count}, but this network has only {backbone} {kind}; see '{listing}'.")
    unfrozen = next(iter(given.values()), backbone if train.unfreeze else 0)
    if train.gradual_unfreeze is not None and unfrozen < 2:
        raise ConfigError(
            f"gradual_unfreeze is {train.gradual_unfreeze}, but "
            f"{'only one block or layer' if unfrozen else 'nothing'} is to be unfrozen. Use it with --unfreeze, or "
            "with --unfreeze-blocks or --unfreeze-layers of 2 or more."
        )
    return unfrozen


def run_phase(
    learn: Learner, phase: Phase, *, schedule: Schedule, momentum: float, callbacks: Sequence[Any], start_epoch: int = 0
) -> list[str]:
    """Train one phase, or the rest of it from `start_epoch`.

    The schedule always spans the whole phase, unlike in fastai's `fit_flat_cos`.

    Returns:
        The names of what the user's callbacks changed meanwhile: frozen layers, the optimizer, its settings.
    """
    learn.opt.set_hyper("lr", list(phase.lrs))
    schedulers = [ParamScheduler(scheds)] if (scheds := _schedulers(schedule, np.array(phase.lrs), momentum)) else []
    before = _fixed_settings(learn)
    learn.fit(phase.epochs, lr=list(phase.lrs), cbs=[*schedulers, *callbacks], start_epoch=start_epoch)
    return [name for name, value in _fixed_settings(learn).items() if before.get(name) != value]


def _fixed_settings(learn: Learner) -> dict[str, Any]:
    """Return what does not change during a phase; learning rates and momentum do, and `history.csv` has them."""
    hypers = {name: [group[name] for group in learn.opt.hypers] for name in learn.opt.hypers[0].keys() - {"lr", "mom"}}
    frozen = [not parameter.requires_grad for parameter in learn.model.parameters()]
    return {"the frozen layers": frozen, "the optimizer": learn.opt, **hypers}


def _schedulers(schedule: Schedule, lrs: Any, momentum: float) -> dict[str, Any]:
    """Return fastai's schedules: one-cycle as in `fit_one_cycle`, flat-cos as in `fit_flat_cos`."""
    if schedule == "constant":
        return {}
    if schedule == "flat-cos":
        return {"lr": combined_cos(0.75, lrs, lrs, lrs / 1e5)}
    low, high = _momentum_range(momentum)
    return {"lr": combined_cos(0.25, lrs / 25, lrs, lrs / 1e5), "mom": combined_cos(0.25, high, low, high)}


def _momentum_range(momentum: float) -> tuple[float, float]:
    return max(momentum - 0.05, 0.0), min(momentum + 0.05, 0.999)


def one_cycle_momenta(batches: pd.DataFrame, epochs: int, peak: float, momentum: float) -> list[float]:
    """Compute the momentum in each batch of a one-cycle phase from the learning rate, which it mirrors.

    Args:
        batches: one row per batch, from `Run.batches`.
        epochs: planned number of epochs of the phase, which may have ended early.
        peak: highest learning rate of the head.
        momentum: the setting.
    """
    by_epoch, (low, high) = batches.groupby("epoch")["lr"], _momentum_range(momentum)
    done = batches["epoch"] - batches["epoch"].iloc[0] + by_epoch.cumcount() / by_epoch.transform("size")
    lowest = np.where(done / epochs < 0.25, peak / 25, peak / 1e5)
    return (low + (high - low) * (peak - batches["lr"]) / (peak - lowest)).tolist()


def _discriminative_rates(lr: float, div: float, groups: int, lowest: int) -> tuple[float, ...]:
    """Return one learning rate per layer group, geometrically spaced after `lowest` groups with the lowest rate."""
    rates = [float(x) for x in np.geomspace(lr / div, lr, groups - lowest)]
    return (*rates[:1] * lowest, *rates)
