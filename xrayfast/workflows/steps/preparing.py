"""Prepare training: check settings and the user's own code, and create the learner."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from xrayfast.config import DEFAULT_LOSS, OWN_WEIGHTS, Config, ResultsConfig, Task
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.labels.positive_class import positive_class
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.assign import NO_PATIENTS
from xrayfast.errors import ConfigError, DataError, shorten
from xrayfast.learning.callback_rules import check_callbacks
from xrayfast.learning.dataloaders.loaders import dataloaders
from xrayfast.learning.device import on_meta_device, require_usual_torch, torch_device
from xrayfast.learning.distributed.world import World
from xrayfast.learning.fastai_api import Callback, Callbacks, L, Metrics
from xrayfast.learning.memory import free_earlier_learners, free_later
from xrayfast.learning.model.layers import Grouping
from xrayfast.learning.model.precision import resolve_precision
from xrayfast.learning.model.pretrained.run_weights import find_starting_run, require_same_network
from xrayfast.learning.model.pretrained.timm_networks import inspect_timm, is_timm
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.build_learner import build_layers, learner_from_config, training_loss
from xrayfast.learning.training.learner import RadiographLearner, own_names
from xrayfast.learning.training.metrics import ValidationUnits, build_epoch_metrics
from xrayfast.learning.training.phases import plan_phases
from xrayfast.metrics.claims.headline import PATIENTS_UNKNOWN
from xrayfast.metrics.summary import labels_lacking
from xrayfast.own_code import describe_code, require_code
from xrayfast.runs.predictions import truth_of
from xrayfast.tracking.trackers import require_trackers
from xrayfast.workflows.steps.data.opening import require_settings_of_data


def collect_own_code(code: Mapping[str, Any], cbs: Callbacks, metrics: Metrics) -> dict[str, Any]:
    """Return the user's own code keyed by setting, including `cbs` and `metrics` if there are any."""
    return {**code, **{name: own for name, own in (("cbs", cbs), ("metrics", metrics)) if L(own)}}


def require_settings(data: Manifest, config: Config, code: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Check, before images are decoded, that settings don't contradict each other or the data."""
    if (data.table["split"] == "train").sum() == 1:
        raise DataError("The train split has 1 image; expected at least 2, as batch norm averages over images.")
    require_usual_torch(training=True)
    require_code(config.own_code, code)
    require_trackers(config.train.track)
    require_settings_of_data(data, config)
    model, train = config.model, config.train
    grouping: Grouping = "blocks" if train.unfreeze_layers is None else "layers"
    if run := find_starting_run(model.weights):
        require_same_network(run, dict(model), data.labels)
    # A weights file is read to compare its tensors. Weights to download, or of a run with the same network, are not.
    read = model.weights == OWN_WEIGHTS or ("arch" not in code and Path(model.weights).is_file())
    options = dict(model) | ({} if read else {"weights": "none"})
    # The meta device takes no memory for weights, but the user's own code may compute with them.
    device = torch.device("cpu") if "arch" in code else on_meta_device()
    with isolated_rng("init"), device, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
        for size in sorted({model.size, *train.progressive} if "arch" in code else {model.size}):
            network = build_layers(options | {"size": size}, data.labels, grouping, code)
    if is_timm(model.arch) and len(set(train.progressive)) > 1 and inspect_timm(model.arch, model.size).fixed:
        raise ConfigError(
            f"progressive is {', '.join(map(str, train.progressive))}, but {model.arch} only accepts images of the "
            "size that it was built for. Leave it out, or use a convolutional network."
        )
    plan_phases(train, len(network.groups), 1.0, pretrained=True)
    training_loss(data, train, torch_device(train.device), code)
    resolve_precision(train.precision, torch_device(train.device))


def require_own(
    task: Task, labels: Sequence[str], config: Config, cbs: Callbacks, metrics: Metrics
) -> tuple[list[Callback], dict[str, str]]:
    """Check the user's own callbacks and metrics.

    Returns:
        The callbacks, with classes instantiated; the names of callbacks and metrics.
    """
    every = build_epoch_metrics(task, len(labels), metrics)
    train, names = config.train, [metric.name for metric in every]
    made = check_callbacks(cbs, train.schedule, train.reuse_frozen, names, train.mixes_images)
    return made, own_names(made, every)


def prepare(
    manifest: Manifest,
    config: Config,
    images: DecodedImages | None = None,
    batch_size: int | None = None,
    code: Mapping[str, Any] = MappingProxyType({}),
    world: World = World(),  # noqa: B008 - immutable
) -> RadiographLearner:
    """Create the learner for a configuration and its data.

    Args:
        manifest: the data set.
        config: the settings.
        images: decoded images of the data set; by default they are decoded now unless they are cached.
        batch_size: the batch size over all ranks; by default the `batch_size` setting, which is per rank.
        code: the user's own code, keyed by setting.
        world: the ranks that train it. The last training batch is dropped if a rank would have fewer than two of its
            images.

    Raises:
        ConfigError: a batch has fewer than two images per rank.
    """
    free_earlier_learners()
    train = config.train
    dls = dataloaders(
        manifest,
        size=config.model.size,
        batch_size=batch_size or train.batch_size,
        workers=train.workers,
        data_on_device=train.data_on_device,
        device_share=train.device_share,
        augment=code.get("augment", train.augment),
        balanced_sampling=train.balanced_sampling,
        device=train.device,
        seed=train.seed,
        images=images,
    )
    if world.world_size > 1:
        count, least = len(dls.train_ds), 2 * world.world_size
        if min(count, dls.train.bs) < least:
            raise ConfigError(
                f"{world.world_size} ranks share batches of {min(count, dls.train.bs)} training images; expected at "
                "least two images per rank. Start fewer processes, or a new run with a larger --batch-size."
            )
        dls.train.drop_last = count % dls.train.bs < least
    learn = learner_from_config(dls, config.model, train, code)
    validate_by_unit(learn, config.results)
    free_later(learn)
    return learn


def validate_by_unit(learn: RadiographLearner, settings: ResultsConfig) -> None:
    """Make the learner validate per image, study or patient, according to `settings.unit`.

    Raises:
        DataError: the study or patient of no image is known, or images of one of them have different classes.
    """
    if settings.unit == "image":
        return
    data = learn.dls.manifest
    validation, positive = truth_of(data.subset("valid")), positive_class(data.task, data.labels, settings.positive)
    validation.by_unit(settings.unit, settings.unit_join, data.task, positive)
    learn.validate_by(ValidationUnits(validation, settings, data.task, positive))


def own_code_remarks(config: Config, learn: RadiographLearner) -> list[str]:
    """Return remarks that name the user's own code in a run and say what follows from it."""
    if not (names := config.own_code | learn.own_code):
        return []
    remarks = [
        f"The run uses the user's own code: {describe_code(names)}. Its folder contains only the names; to load, "
        "resume or repeat the run, pass the code again in Python."
    ]
    if not getattr(learn.loss_func, "per_image", True):
        remarks.append(
            f"Losses per image are computed with {DEFAULT_LOSS[learn.dls.manifest.task]}, because {names['loss']} "
            "does not return one loss per image with reduction='none'."
        )
    return remarks


def describe_training(config: Config, learn: RadiographLearner) -> list[str]:
    """Return warnings for readers of this run's results."""
    remarks = []
    train, data = config.train, learn.dls.manifest
    if config.model.weights == "none" and not train.unfreeze:
        remarks.append(
            "The backbone starts from random weights and stays at least partly frozen, so it can learn little; "
            "--unfreeze trains all of it."
        )
    remarks += [*learn.network_notes, *own_code_remarks(config, learn)]
    if (native := resolve_precision(train.precision, learn.dls.device)) != learn.precision:
        remarks.append(
            f"Training uses {learn.precision}: {native}, which this device has units for, would change this "
            f"network's outputs too much. Use --precision {native} to train with it anyway."
        )
    if data.table["patient"].isna().all() and not any(NO_PATIENTS in note for note in data.notes):
        advice = "Name their column with --patient-col, or a pattern of file names with --patient-col 'name:REGEX'."
        remarks.append(f"{PATIENTS_UNKNOWN} {advice}")
    valid_truth = data.subset("valid").truth
    absent, no_negatives = (labels_lacking(cell, valid_truth, data.labels) for cell in (1, 0))
    if absent:
        remarks.append(
            f"No validation image has {shorten(absent)}: metrics that need such images are undefined for these "
            "labels, and means are over the other labels."
        )
    if no_negatives := [label for label in no_negatives if label not in absent]:
        remarks.append(
            f"Every validation image has {shorten(no_negatives)}: AUROC and average precision, which need images "
            "without the label, are undefined for these labels, and means are over the other labels."
        )
    if len(learn.dls.loaders) < 3:
        remarks.append("There is no test split; --test-fraction 0.15 creates one.")
    return remarks
