"""Build a Learner from settings: network, loss, optimizer, metrics and callbacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn

from xrayfast.config import (
    FIELD_SECTIONS,
    LOSS_SETTINGS,
    NAMED_WEIGHTS,
    ClassWeights,
    HeadName,
    LossName,
    ModelConfig,
    OptimizerName,
    Precision,
    TrainConfig,
    as_decay,
    field_types,
)
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ConfigError
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import warn
from xrayfast.files.checksums import file_digest
from xrayfast.files.xrv_weights import xrv_file
from xrayfast.learning.dataloaders.loaders import RadiographDataLoaders, adopt_dataloaders, replace_augmentation
from xrayfast.learning.dataloaders.transforms import Augment, transform_names
from xrayfast.learning.fastai_api import Callbacks, DataLoaders, GradientClip, Metrics
from xrayfast.learning.memory import keep_freed_memory
from xrayfast.learning.model.fusion import to_channels_last
from xrayfast.learning.model.layers import Grouping, layer_groups
from xrayfast.learning.model.losses import make_loss, prevalence_logits
from xrayfast.learning.model.network import LayeredNetwork, StartingWeights, add_head, start_head_at, unused_note
from xrayfast.learning.model.optimizers import make_optimizer
from xrayfast.learning.model.own_loss import OwnLoss
from xrayfast.learning.model.own_network import build_own_network
from xrayfast.learning.model.precision import first_conv_in_fp32
from xrayfast.learning.model.pretrained.run_weights import copy_run_weights, find_starting_run
from xrayfast.learning.model.pretrained.timm_networks import is_timm
from xrayfast.learning.model.weights import load_backbone
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.callbacks.preparation import FrozenInference, RepeatChannel
from xrayfast.learning.training.learner import RadiographLearner
from xrayfast.learning.training.metrics import build_epoch_metrics
from xrayfast.learning.training.mixed_precision import set_precision
from xrayfast.learning.training.optional.averaging import AverageWeights
from xrayfast.learning.training.optional.batch_norm import PreciseBatchNorm
from xrayfast.learning.training.optional.gradients import AccumulateGradients
from xrayfast.learning.training.optional.mixing import MixImages, describe_equal_shares
from xrayfast.option_effects import check_given
from xrayfast.own_code import separate_code
from xrayfast.progress import show_progress


@check_arguments(field_types)
def learner(
    dls: DataLoaders,
    *,
    arch: str | Callable[..., Any] = "resnet18",
    weights: str | os.PathLike[str] = "imagenet",
    head: HeadName = "fastai",
    head_width: int | Sequence[int] = (),
    dropout: float | None = None,
    splitter: Callable[..., Any] | None = None,
    groups: Grouping = "blocks",
    loss: LossName | Callable[..., Any] = "auto",
    gamma: float = 2.0,
    alpha: float | Sequence[float] | None = None,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    margin: float = 0.05,
    label_smoothing: float = 0.0,
    augment: Annotated[Augment, "code"] | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    class_weights: ClassWeights = "none",
    optimizer: OptimizerName = "adam",
    momentum: float = 0.9,
    beta2: float | None = None,
    eps: float | None = None,
    wd: float = 0.01,
    ema: float | bool | None = None,
    precise_bn: bool = True,
    clip_grad: float | None = None,
    accumulate: int = 1,
    lr: float = 2e-3,
    precision: Precision = "auto",
    seed: int = 0,
    metrics: Metrics = (),
    cbs: Callbacks = (),
) -> RadiographLearner:
    """Make a fastai Learner with a frozen backbone. Its layer groups are the blocks or single layers, and the head.

    With one group per layer, `learn.freeze_to(-4)` unfreezes the last three layers and the head; 'xrayfast models
    --layers ARCH' lists the layers.

    Frozen groups run in evaluation mode: their batch norm neither trains nor updates its statistics, so that a frozen
    epoch backpropagates through the head alone. From now on the process keeps memory that it frees (glibc only), since
    training needs it again in each batch.

    Args:
        dls: DataLoaders from `xrayfast.dataloaders`, or any fastai DataLoaders with images and one or several labels,
            such as those of a DataBlock with `RadiographBlock` or of ImageDataLoaders. Labels are their vocab; their
            own loss is not used.
        arch: a name from `xrayfast models`; or your own network: a module, which is copied, or a constructor such as
            `torchvision.models.regnet_y_400mf`. A head is added unless the network has one output per label, see
            `xrayfast.learning.model.own_network`.
        weights: "imagenet" or "none"; a run or its folder, for its backbone and, if both have labels in common, its
            head; a weight file, or "xrv:NAME" for one of torchxrayvision's, for the backbone. Your own module, and a
            constructor without an argument `weights` or `pretrained`, keep the weights that they come with.
        head: "fastai", "linear", "mlp", or "classifier", which keeps the network's own classifier except its last
            layer; "none" if `arch` has to be a whole network.
        head_width: hidden units of each hidden layer of the head; () for one layer of 512, or none for a classifier.
        dropout: dropout before the head's last layer, half as much before hidden ones; None for the head's default.
        splitter: function that returns one list of parameters per layer group, as in fastai, for your own `arch`. It
            gets a whole network itself, or backbone and head in sequence.
        groups: "blocks" or "layers": one layer group per block or per layer.
        loss: "auto", a name from `xrayfast fit --loss`, or any callable of logits and targets, such as one of fastai's
            losses; see `OwnLoss` for the targets of masked cells.
        gamma: focusing strength, for losses that have one.
        alpha: balance of the classes, one value or one per label, for losses that have it.
        gamma_neg: focusing strength of negatives, for losses that have one.
        gamma_pos: focusing strength of positives, for losses that have one.
        margin: probability up to which a negative has no loss, for losses that have it.
        label_smoothing: share of each target that is spread over all classes, for losses that have it.
        augment: augmentation as in `xrayfast.dataloaders`, which replaces that of `dls`; None to keep it.
        mixup: A of mixup, whose shares are drawn from Beta(A, A); 0 for no mixup.
        cutmix: A of CutMix; 0 for no CutMix. With mixup and CutMix, each batch uses one of them.
        class_weights: "auto" weights labels by inverse frequency in the training split, "effective" by the inverse of
            their effective number of images.
        optimizer: "adam" or "sgd".
        momentum: momentum of SGD, or Adam's first beta.
        beta2: Adam's second beta; None for fastai's 0.99.
        eps: added to the denominator of Adam's step; None for fastai's 1e-5.
        wd: decoupled weight decay.
        ema: decay of the exponential moving average of the weights, which the network has after each epoch and fit,
            see `AverageWeights`; True for 0.999.
        precise_bn: whether to recompute the statistics of batch norm after each epoch, see `PreciseBatchNorm`.
        clip_grad: largest norm of all gradients together, enforced by fastai's GradientClip; None for no limit.
        accumulate: batches per optimizer step, see `AccumulateGradients`.
        lr: the learner's default learning rate.
        precision: "auto", "fp32", "bf16" or "fp16".
        seed: seed of the random initial weights.
        metrics: further metrics, reported after xrayfast's: fastai's, functions of a batch's outputs (logits) and
            targets, or functions of `sklearn.metrics`, which get decisions or probabilities of the whole split, see
            `xrayfast.learning.training.metrics.SklearnMetric`. The target of a masked cell is NaN.
        cbs: further fastai callbacks; `xrayfast/learning/training/callbacks/order.py` has the order of all.

    Raises:
        ConfigError: a name is unknown, or options contradict each other or the data.
        WeightsError: the weights can't be downloaded or read, or don't fit.
    """
    given = {name: value for name, value in locals().items() if name in _SETTINGS}
    given |= {"weights": xrv_file(os.fspath(weights)), "ema": as_decay(ema)}
    settings, code = separate_code(given)
    check_given(learner, settings)
    dls = adopt_dataloaders(dls)
    if augment is not None:
        dls = replace_augmentation(dls, augment)
    if {"Normalize", "Normalization"} <= {type(transform).__name__ for transform in dls.train.after_batch.fs}:
        raise ConfigError(
            "dls normalizes images twice: RadiographBlock already normalizes them. Leave Normalize out of batch_tfms."
        )
    learn = _build_learner(dls, settings, groups, code)
    learn.add_own(cbs, metrics)
    with show_progress():
        own = dls.manifest.notes if dls.origin != "xrayfast" else ()
        for note in [*learn.network_notes, *_unusual_input(learn), *own]:
            warn(note)
    return learn


def _unusual_input(learn: RadiographLearner) -> list[str]:
    """Return a note if images are not normalized, and the weights are pretrained."""
    names = {type(transform).__name__ for transform in learn.dls.train.after_batch.fs}
    if learn.settings["weights"] == "none" or names & {"Normalize", "Normalization"}:
        return []
    return [
        "dls does not normalize images, but pretrained weights expect normalized images: add "
        "Normalize.from_stats(*imagenet_stats) to batch_tfms."
    ]


_SETTINGS = tuple(
    name for name in signature(learner).parameters if name in FIELD_SECTIONS and name != "augment"
)  # augmentation is recorded as the DataLoaders have it
"""The arguments of `learner` that are settings of a run."""


def _build_learner(
    dls: RadiographDataLoaders, options: Mapping[str, Any], groups: Grouping, code: Mapping[str, Any]
) -> RadiographLearner:
    """Build the learner from checked options, and the user's own code keyed by setting."""
    train = TrainConfig.model_construct(**options)
    keep_freed_memory()
    data = dls.manifest
    loss_func = training_loss(data, train, dls.device, code)
    with isolated_rng(train.seed, "init"):
        network = build_layers({**options, "size": dls.size}, data.labels, groups, code, _first_logits(dls, loss_func))
    settings = {**options, "size": dls.size, "batch_size": dls.train.bs}
    settings |= {"head": network.head, "weights": network.weights, "augment": dls.augment}
    # fastai moves the network to the device only when training begins, but frozen layers run before that.
    first_conv_in_fp32(to_channels_last(network.model.to(dls.device), dls.device))
    learn = RadiographLearner(
        dls,
        network.model,
        groups=network.groups,
        settings=settings,
        network_notes=network.notes,
        start=network.start,
        loss_func=loss_func,
        opt_func=make_optimizer(train.optimizer, train.momentum, train.beta2, train.eps),
        metrics=build_epoch_metrics(data.task, len(data.labels)),
        lr=train.lr,
        wd=train.wd,
        train_bn=False,
        cbs=[FrozenInference(network.groups)],
    )
    if train.mixes_images:
        learn.add_cb(MixImages(train.mixup, train.cutmix))
        learn.network_notes += (*describe_equal_shares(train.mixup, train.cutmix),)
    if isinstance(loss_func, OwnLoss):
        targets = torch.as_tensor(data.subset("train").targets, device=dls.device)
        found = (loss_func.untrained_note(), loss_func.unsuited_note(targets))
        learn.network_notes += tuple(note for note in found if note)
    if data.task == "single" and train.alpha is not None and np.size(train.alpha) == 1:
        learn.network_notes += (
            "alpha is one number, which weighs all classes alike and only scales the loss; expected one per class.",
        )
    if dls.origin != "xrayfast":
        learn.own_code["dls"] = f"DataLoaders with {', '.join(transform_names(dls))}"
    if dls.origin == "own transforms":
        learn.add_cb(RepeatChannel())
    if train.ema is not None:
        learn.average = AverageWeights(train.ema)
        learn.add_cb(learn.average)
    if train.precise_bn:
        learn.add_cb(PreciseBatchNorm(network.groups))
    if train.clip_grad is not None:
        learn.add_cb(GradientClip(train.clip_grad))
    if train.accumulate > 1:
        learn.add_cb(AccumulateGradients(train.accumulate))
    set_precision(learn, train.precision)
    learn.freeze()
    return learn


def build_layers(
    options: Mapping[str, Any],
    labels: Sequence[str],
    grouping: Grouping,
    code: Mapping[str, Any] = MappingProxyType({}),
    first_logits: torch.Tensor | None = None,
) -> LayeredNetwork:
    """Build the network from settings and the user's own code, divided into layer groups.

    If `first_logits` (L,) are given, a new head starts at them; see `start_head_at`.
    """
    head, weights, n_out = options["head"], options["weights"], len(labels)
    run = find_starting_run(weights)
    of_file = "none" if run else weights
    if "arch" in code:
        given = {name: options[name] for name in ("head", "head_width", "dropout", "size")}
        network = build_own_network(code, n_out, weights=of_file, grouping=grouping, **given)
    else:
        arch, size = options["arch"], options["size"]
        backbone = load_backbone(arch, of_file, with_classifier=head == "classifier", size=size)
        side = size if is_timm(arch) else 32
        model = add_head(backbone, n_out, options["head_width"], head, side, dropout=options["dropout"])
        groups = layer_groups(backbone.blocks, model[1], grouping)
        network = LayeredNetwork(model, groups, head, weights, unused_note(backbone.unused, weights))
    if first_logits is not None and network.head != "none":
        start_head_at(list(network.model.children())[1], first_logits)
    if run:
        return copy_run_weights(run, replace(network, weights=weights), options, labels)
    if weights in NAMED_WEIGHTS:
        return network
    return replace(network, start=StartingWeights("", file_digest(Path(weights))))


def _first_logits(dls: RadiographDataLoaders, loss: nn.Module) -> torch.Tensor:
    """Return the logits (L,) that fit the training images best if they are the same for all of them."""
    draws = getattr(dls.train, "sampling_weights", None)
    return prevalence_logits(
        torch.as_tensor(dls.manifest.subset("train").targets),
        dls.manifest.task,
        draws=None if draws is None else torch.as_tensor(draws),
        weight=getattr(loss, "weight", None),
        label_smoothing=getattr(loss, "label_smoothing", 0.0),
    )


def training_loss(
    data: Manifest, train: TrainConfig, device: torch.device, code: Mapping[str, Any] = MappingProxyType({})
) -> nn.Module:
    """Make the loss from settings and the training split's label counts, or from the user's own code."""
    rows = data.subset("train")
    if "loss" in code:
        own = OwnLoss(data.task, code["loss"]).to(device)
        own.try_on(torch.as_tensor(rows.targets, device=device))
        if train.mixes_images and not own.per_image:
            raise ConfigError(
                f"loss {own.name} does not return one loss per image with reduction='none', which mixed images need. "
                "Leave out mixup and cutmix."
            )
        return own
    if isinstance(alpha := train.alpha, Sequence) and len(alpha) not in (1, len(data.labels)):
        raise ConfigError(f"alpha has {len(alpha)} values; expected one, or one for each of: {', '.join(data.labels)}.")
    return make_loss(
        train.loss,
        data.task,
        class_weights=train.class_weights,
        positives=(rows.truth == 1).sum(axis=0).tolist(),
        unmasked=(rows.truth >= 0).sum(axis=0).tolist(),
        **{name: getattr(train, name) for names in LOSS_SETTINGS.values() for name in names},
    )


def learner_from_config(
    dls: RadiographDataLoaders, model: ModelConfig, train: TrainConfig, code: Mapping[str, Any] = MappingProxyType({})
) -> RadiographLearner:
    """Build the learner from the settings of a run, and the user's own code keyed by setting."""
    settings = dict(model) | dict(train) | ({"lr": 2e-3} if train.lr == "auto" else {})
    groups: Grouping = "blocks" if train.unfreeze_layers is None else "layers"
    return _build_learner(dls, {name: settings[name] for name in _SETTINGS}, groups, code)
