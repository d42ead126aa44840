"""Rules for the user's own callbacks: which ones `fit` accepts, and which ones may use images.

Callbacks of fastai are recognized by class name, so that their modules need not be imported here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from inspect import isfunction
from typing import Any

from xrayfast.config import ReuseFrozen, Schedule
from xrayfast.errors import ConfigError, did_you_mean
from xrayfast.learning.fastai_api import Callback, Callbacks, L, event
from xrayfast.metrics.registry import history_metrics

_REFUSED = {
    "CSVLogger": (
        "it overwrites its file in each phase, and the run's history.csv has the same columns. To write a file of "
        "your own, use CSVLogger(..., append=True)"
    ),
    "DistributedTrainer": "torchrun trains on several devices",
    "LRFinder": "xrayfast.find_lr runs the range test",
    "MixedPrecision": "precision= sets the float type",
    "NonNativeMixedPrecision": "precision= sets the float type",
    "ParallelTrainer": "torchrun trains on several devices",
    "ProgressCallback": "fit displays its own progress",
    "Recorder": "the learner has its own",
    "SaveModelCallback": (
        "it pickles weights into the folder 'models' and loads them at the end of each phase. The run already "
        "keeps the weights of its best epoch, chosen by monitor="
    ),
    "ShortEpochCallback": "it leaves epochs unfinished, but fit records whole epochs",
    "ShowGraphCallback": "it draws into fastai's progress bar, which fit replaces with its own progress display",
}
"""fastai's callbacks that `fit` does not accept, and why."""

_SET_LEARNING_RATES = ("ParamScheduler", "ReduceLROnPlateau")
"""fastai's callbacks that set learning rates and momentum, which a schedule overwrites before each batch."""

_LIKE_AN_EVENT = re.compile(r"(before|after|begin)_[a-z_]+|on_[a-z_]+_(begin|start|end)")
"""Names of methods that look like events, also of older versions of fastai, and of Keras and Lightning."""

_IGNORE_IMAGES = (
    "BnFreeze", "CSVLogger", "GradientAccumulation", "GradientClip", "ParamScheduler", "TerminateOnNaNCallback",
    "TrackerCallback",
)  # fmt: skip
"""fastai's callbacks that work the same on cached features as on images."""


def check_callbacks(
    cbs: Callbacks,
    schedule: Schedule | None,
    reuse_frozen: ReuseFrozen,
    metrics: Collection[str],
    mixes_images: bool,
) -> list[Callback]:
    """Return the user's callbacks, with classes instantiated, if `fit` accepts them; without a schedule, a range test.

    Raises:
        ConfigError: a callback can't work with these settings, or would have no effect.
    """
    made = make_callbacks(cbs)
    for cb in made:
        name, bases = type(cb).__name__, _fastai_classes(cb)
        reason = next((_REFUSED[base] for base in bases if base in _REFUSED), "")
        if reason and not getattr(cb, "append", False):  # an argument of CSVLogger
            raise ConfigError(f"cbs: fit can't use {name}: {reason}. Leave it out.")
        rates = {"lr", "mom"} & set(getattr(cb, "scheds", ("lr",)))
        if bases.intersection(_SET_LEARNING_RATES) and rates and schedule != "constant":
            raise ConfigError(
                f"cbs: {name} sets the learning rate or the momentum, which the schedule overwrites before each "
                "batch. Use schedule='constant' in fit."
            )
        if "MixHandler" in bases and mixes_images:
            raise ConfigError(
                f"cbs: {name} mixes images, and so do mixup and cutmix. Leave out the callback, or these settings."
            )
        if "MixHandler" in bases and reuse_frozen == "on":
            raise ConfigError(
                f"cbs: {name} mixes images, but reuse_frozen 'on' trains on cached features instead of images. Leave "
                "out one of the two."
            )
        if "TrackerCallback" in bases and cb.monitor not in (known := ("train_loss", "valid_loss", *metrics)):
            raise ConfigError(
                f"cbs: {name} has the monitor '{cb.monitor}'; expected one of: {', '.join(known)}."
                f"{did_you_mean(str(cb.monitor), known)}"
            )
        if "TrackerCallback" in bases:
            _require_direction(cb)
    return made


def _require_direction(cb: Any) -> None:
    """Raise a ConfigError if a TrackerCallback takes worse values of its monitor for better."""
    known = {name: metric.higher_is_better for name, metric in history_metrics().items()}
    higher = known.get(cb.monitor, False if cb.monitor.endswith("_loss") else None)
    if higher is not None and bool(cb.comp(1.0, 0.0)) != higher:
        raise ConfigError(
            f"cbs: {type(cb).__name__} takes {'lower' if higher else 'higher'} values of {cb.monitor} for better, but "
            f"{'higher' if higher else 'lower'} ones are. Give it comp=np.{'greater' if higher else 'less'}."
        )


def make_callbacks(cbs: Callbacks) -> list[Callback]:
    """Return the callbacks, with an instance in place of each class.

    Raises:
        ConfigError: the constructor of a class fails without arguments, an instance is there twice, or a method would
            never be called.
    """
    made: list[Callback] = []
    for cb in L(cbs):
        try:
            made.append(cb() if isinstance(cb, type) else cb)
        except Exception as error:
            raise ConfigError(
                f"cbs: {cb.__name__}() fails with {type(error).__name__}: {error}. Pass an instance instead of the "
                "class."
            ) from error
    for number, cb in enumerate(made):
        name = type(cb).__name__
        if any(cb is other for other in made[:number]):
            raise ConfigError(f"cbs: the same {name} is there twice, so each event would call it twice. Pass it once.")
        _require_events(type(cb))
    return made


def _require_events(kind: type) -> None:
    """Raise a ConfigError if a method is named like an event that fastai does not have, and no other method uses it."""
    own = [base for base in kind.__mro__ if not base.__module__.startswith(("fastai.", "xrayfast."))]
    methods = {name: method for base in own for name, method in vars(base).items() if isfunction(method)}
    for name in methods:
        used = any(name in method.__code__.co_names for other, method in methods.items() if other != name)
        if _LIKE_AN_EVENT.fullmatch(name) and not hasattr(event, name) and not used:
            raise ConfigError(
                f"cbs: {kind.__name__}.{name} would never be called, because fastai has no such event; expected one "
                f"such as before_fit, before_batch, after_loss or after_epoch.{did_you_mean(name, [*vars(event)])}"
            )


def names_using_images(cbs: Sequence[Any]) -> list[str]:
    """Return the names of callbacks that may work differently on cached features than on images."""
    return [
        type(cb).__name__
        for cb in cbs
        if not (type(cb).__module__.startswith("fastai.") and _fastai_classes(cb).intersection(_IGNORE_IMAGES))
    ]


def _fastai_classes(cb: Callback) -> set[str]:
    return {base.__name__ for base in type(cb).__mro__ if base.__module__.startswith("fastai.")}
