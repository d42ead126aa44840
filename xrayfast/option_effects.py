"""Rules that detect options without effect, which are reported as errors or notes.

`check_effects` raises a ConfigError if an option that was given contradicts the others, and returns notes on options
that merely change nothing. Values read from a file, such as an older run's `config.yaml`, are never errors, because
they were not given for this run. Defaults are never mentioned, unless they were given and mean more than "off".

`EFFECTS` has the options that have an effect only in some combinations. The other options have one in every valid
combination, or report themselves how many cells, labels or images they changed: `tests/test_option_effects.py` lists
both kinds, and checks that every field of the config is of exactly one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from types import NoneType
from typing import Any

from pydantic import BaseModel

from xrayfast.config import Config, TrainConfig, loss_settings, losses_with
from xrayfast.errors import ConfigError
from xrayfast.own_code import is_own, show_setting

NOT_IN_RANGE_TEST = (
    "freeze_epochs", "gradual_unfreeze", "epochs", "lr", "lr_div", "schedule", "ema", "precise_bn", "sync_bn",
    "early_stop", "monitor", "train_metrics", "tta", "allow_leaks", "progressive", "reuse_frozen", "frozen_views",
    "thresholds", "target_sensitivity", "target_specificity", "target_confidence", "positive", "unit", "unit_join",
    "calibrate", "prevalence", "resamples", "track", "members",
)  # fmt: skip
"""Options that have no effect in `find_lr`."""


@dataclass(frozen=True)
class DataFacts:
    """Facts about a data set, known once it is open. Facts that take time to find are functions.

    Attributes:
        table: whether labels are in a table, not in class folders.
        flags: whether labels are columns of 0 and 1, not words in cells.
        no_finding: whether "No Finding" is among the labels of a multi-label task.
        given: the splits, of "valid" and "test", that the data set or a file gives.
        own_split: whether the data set has a split of its own, used or not.
        spellings: whether some labels differ only in spelling.
        dicom: whether there is a DICOM file.
    """

    table: bool
    flags: bool
    no_finding: bool
    given: frozenset[str | None]
    own_split: bool
    drawn: bool
    missing: bool
    spellings: Callable[[], bool]
    dicom: Callable[[], bool]


@dataclass(frozen=True)
class DecodedFacts:
    """Facts about a data set that are known once it is decoded.

    Attributes:
        unreadable: whether some file can't be read.
        others: whether some image is a mask or similar, according to its name or content.
    """

    unreadable: bool
    others: bool


@dataclass(frozen=True)
class EvaluationFacts:
    """Facts about an external test: `one_split` is whether only one split of the data is evaluated."""

    one_split: bool


@dataclass(frozen=True)
class PlanFacts:
    """Facts about how a run will be trained, known once its network is made.

    Attributes:
        epochs: number of epochs of all phases.
        batches: number of batches per epoch on each rank.
        stoppable: the largest `early_stop` with which the last phase can end before its last epoch.
        sizes: image sizes of the epochs that run the whole network; empty if all epochs train on cached features.
        frozen: whether a phase has frozen layers.
        cached: whether a phase trains on cached features.
        cached_by_auto: whether a phase would train on cached features with `reuse_frozen` auto.
        views: cached views per training image; 0 if none are cached.
        norms: whether a batch norm of the backbone is trained.
        uneven: whether the classes or labels of the training split differ in frequency.
    """

    epochs: int
    batches: int
    stoppable: int
    sizes: frozenset[int]
    frozen: bool
    cached: bool
    cached_by_auto: bool
    views: int
    leaks: bool
    norms: bool
    uneven: bool
    cuda: bool
    world_size: int


@dataclass(frozen=True)
class DecisionFacts:
    """Facts about how labels are decided.

    Attributes:
        most_likely: whether the most likely class is predicted, because no thresholds are chosen.
        binary: whether the task is single-label with two classes.
    """

    most_likely: bool
    binary: bool


@dataclass(frozen=True)
class Effect:
    """A condition for an option to have an effect, and the message if it has none.

    Attributes:
        acts: function of the option's section of the config and the facts: whether the option has an effect. It is not
            called for a value that is the default and means that the option is off.
        why: the reason if it has none, which the message gives after "which has no effect: ".
        advice: what to do instead of leaving the option out; "" for nothing.
        facts: the kind of facts that `acts` needs; NoneType if the settings suffice.
        harmless: whether the message is only a note, even if the option was given.
        verb: what the message says that the option does.
    """

    option: str
    acts: Callable[[Any, Any], bool]
    why: str
    advice: str = ""
    facts: type = NoneType
    harmless: bool = False
    verb: str = "has no effect"


def _unfreezes(train: Any) -> bool:
    return bool(train.unfreeze or train.unfreeze_blocks or train.unfreeze_layers)


def _takes(setting: str) -> Callable[[Any, Any], bool]:
    return lambda train, facts: setting in loss_settings(train.loss)


_FOLDERS = "the labels are class folders"
_TABLE = "Give a table with --labels"
_GIVEN_SPLIT = (
    "that split is given; one is drawn without --split-file, and with --ignore-split if the data set gives it"
)

_of_data = partial(Effect, facts=DataFacts)
_data_note = partial(Effect, facts=DataFacts, harmless=True)
_image_note = partial(Effect, facts=DecodedFacts, harmless=True)
_evaluation_note = partial(Effect, facts=EvaluationFacts, harmless=True)
_plan_note = partial(Effect, facts=PlanFacts, harmless=True)
"""Effects that depend on the named facts; notes are never errors."""

EFFECTS: tuple[Effect, ...] = (
    _of_data("label_delim", lambda data, facts: facts.table, _FOLDERS, _TABLE),
    _of_data("label_delim", lambda data, facts: not (facts.table and facts.flags), "the labels are columns of 0 and 1"),
    _of_data("class_level", lambda data, facts: not facts.table, "the labels are in a table"),
    _data_note("exact_labels", lambda data, facts: facts.spellings(), "no two labels differ only in their spelling"),
    _of_data(
        "keep_no_finding",
        lambda data, facts: facts.no_finding,
        "'No Finding' is not among the labels of a multi-label task",
    ),
    Effect("valid_fraction", lambda data, facts: data.folds is None, "one of the folds is the validation split"),
    _data_note("valid_fraction", lambda data, facts: "valid" not in facts.given, _GIVEN_SPLIT),
    _data_note("test_fraction", lambda data, facts: not data.test_fraction or "test" not in facts.given, _GIVEN_SPLIT),
    _data_note("split_seed", lambda data, facts: facts.drawn, "no split is drawn"),
    _data_note("ignore_split", lambda data, facts: facts.own_split, "the data set has no split of its own"),
    *(
        _evaluation_note(name, lambda data, facts: facts.one_split, "all images are evaluated, whatever their split")
        for name in ("split_col", "split_file")
    ),
    _image_note(
        "unreadable", lambda data, facts: data.unreadable == "error" or facts.unreadable, "each image can be read"
    ),
    _evaluation_note(
        "unreadable", lambda data, facts: False, "files that can't be read are left out of an evaluation and counted"
    ),
    _image_note(
        "keep_masks",
        lambda data, facts: facts.others,
        "no image is a mask, an overlay, a map or a thumbnail by its name or content",
    ),
    _of_data("missing", lambda data, facts: facts.table or data.missing == "error", _FOLDERS, _TABLE),
    _data_note(
        "missing",
        lambda data, facts: data.missing == "error" or not facts.table or facts.missing,
        "each row of the table has its image",
    ),
    _data_note("window", lambda data, facts: facts.dicom(), "no image is a DICOM file"),
    Effect("corrections_sha256", lambda data, facts: data.corrections is not None, "no corrections are given"),
    Effect("cache_dir", lambda data, facts: data.cache, "nothing is cached with --no-cache"),
    *(
        Effect(
            name,
            lambda train, facts: _unfreezes(train),
            "nothing is unfrozen, and the head is trained for --epochs",
            "Use --unfreeze, --unfreeze-blocks or --unfreeze-layers",
        )
        for name in ("freeze_epochs", "lr_div")
    ),
    *(
        Effect(name, lambda train, facts: train.optimizer == "adam", "it belongs to adam", "Use --optimizer adam")
        for name in ("beta2", "eps")
    ),
    _plan_note(
        "accumulate",
        lambda train, facts: train.accumulate <= facts.batches,
        "an epoch has fewer batches",
        verb="makes one step per epoch",
    ),
    _plan_note("precise_bn", lambda train, facts: facts.norms, "the backbone trains no batch norm"),
    _plan_note("sync_bn", lambda train, facts: facts.world_size > 1, "one process trains the whole batch"),
    Effect(
        "early_stop",
        lambda train, facts: train.early_stop < train.epochs,
        "the last phase has no more epochs than that",
        "Train for more --epochs",
    ),
    _plan_note(
        "early_stop",
        lambda train, facts: train.early_stop >= train.epochs or train.early_stop <= facts.stoppable,
        "the last phase is too short to have so many epochs after its best one",
    ),
    _plan_note("monitor", lambda train, facts: facts.epochs > 1, "there is one epoch, which is the best"),
    _plan_note("allow_leaks", lambda train, facts: facts.leaks, "no patient and no image is in more than one split"),
    _plan_note(
        "balanced_sampling", lambda train, facts: facts.uneven, "each class or label is as frequent as the others"
    ),
    Effect(
        "progressive",
        lambda train, facts: len(train.progressive) != 1,
        "it is one size, that of --size",
        "Name a smaller one too",
    ),
    Effect(
        "progressive",
        lambda train, facts: len(train.progressive) <= _total_epochs(train),
        "it has more sizes than there are epochs",
        "Name fewer sizes, or train for more --epochs",
    ),
    _plan_note(
        "progressive",
        lambda train, facts: len(train.progressive) < 2 or bool(facts.sizes),
        "all epochs train on cached features, computed at the last size",
        "--reuse-frozen off runs frozen layers in each epoch, on growing images",
    ),
    _plan_note(
        "progressive",
        lambda train, facts: not facts.sizes or set(train.progressive) <= facts.sizes,
        "there are too few epochs without cached features",
        verb="does not reach all sizes",
    ),
    Effect(
        "tta",
        lambda train, facts: train.augmentation is not None,
        "views are augmented by --augment mild, default or strong",
        "Use one of them",
    ),
    Effect(
        "reuse_frozen",
        lambda train, facts: train.reuse_frozen != "on" or not train.mixes_images,
        "mixup and cutmix mix images anew in each batch",
        "Leave out --mixup and --cutmix",
    ),
    Effect(
        "reuse_frozen",
        lambda train, facts: train.reuse_frozen != "on" or not _trains_all_at_once(train),
        "all layers are trained from the first epoch on",
    ),
    _plan_note(
        "reuse_frozen",
        lambda train, facts: (
            _trains_all_at_once(train) or (facts.frozen if train.reuse_frozen == "on" else facts.cached_by_auto)
        ),
        "there are no features to cache",
    ),
    Effect(
        "workers",
        lambda train, facts: not (train.workers and train.data_on_device == "on"),
        "with --data-on-device on all images are read before the first batch, by threads",
    ),
    Effect(
        "device_share", lambda train, facts: train.data_on_device == "auto", "it is the limit of --data-on-device auto"
    ),
    _plan_note("device_share", lambda train, facts: facts.cuda, "the device is not CUDA, and has no memory of its own"),
    Effect("frozen_views", lambda train, facts: train.augment != "off", "with --augment off all views are the same"),
    Effect(
        "frozen_views",
        lambda train, facts: train.reuse_frozen != "off",
        "no features are cached with --reuse-frozen off",
    ),
    _plan_note(
        "frozen_views",
        lambda train, facts: train.reuse_frozen == "off" or facts.cached,
        "no phase trains on cached features",
        "--reuse-frozen on caches them whatever the number of epochs",
    ),
    _plan_note(
        "frozen_views",
        lambda train, facts: not facts.cached or train.frozen_views == facts.views,
        "with so many epochs --reuse-frozen auto caches more views",
    ),
    Effect(
        "train_metrics",
        lambda train, facts: train.train_metrics != "running" or not train.mixes_images,
        "mixed images have no label of their own",
        "Use --train-metrics final, which predicts the training split at the end",
    ),
    Effect(
        "splitter",
        lambda model, facts: is_own(model.arch),
        "blocks and layers of the networks of 'xrayfast models' are known",
        "Give it with an arch of your own",
    ),
    Effect(
        "class_weights",
        lambda train, facts: not is_own(train.loss),
        "the loss is code of your own",
        "Build the weights into it",
    ),
    Effect(
        "thresholds",
        lambda results, facts: results.thresholds != "half" or not facts.most_likely,
        "exactly one class applies, and the most likely one is predicted",
        facts=DecisionFacts,
        harmless=True,
    ),
    Effect(
        "target_confidence",
        lambda results, facts: (results.target_sensitivity, results.target_specificity) != (None, None),
        "no target is given",
        "Use --target-sensitivity or --target-specificity",
    ),
    Effect(
        "positive",
        lambda results, facts: facts.binary,
        "only a task of two classes, of which exactly one applies, has a positive class",
        facts=DecisionFacts,
    ),
    Effect(
        "unit_join",
        lambda results, facts: results.unit != "image",
        "each image counts for itself",
        "Use --unit study or patient",
    ),
    *(
        Effect(name, _takes(name), "the loss takes none", f"Use {losses_with(name)}")
        for name in ("alpha", "gamma", "gamma_neg", "gamma_pos", "margin")
    ),
    Effect(
        "label_smoothing",
        lambda train, facts: not train.label_smoothing or _takes("label_smoothing")(train, facts),
        "the loss takes none",
        f"Use {losses_with('label_smoothing')}",
    ),
)
"""Conditions of the options that have an effect only in some combinations. An option is reported if one is not met."""


def _total_epochs(train: Any) -> float:
    """Return the number of epochs of all phases; infinity with gradual unfreezing, whose number is not yet known."""
    if train.gradual_unfreeze:
        return float("inf")
    return float(train.epochs + (train.freeze_epochs if _unfreezes(train) else 0))


def _trains_all_at_once(train: Any) -> bool:
    return bool(train.unfreeze and not train.freeze_epochs and not train.gradual_unfreeze)


def check_effects(
    section: BaseModel, facts: DataFacts | DecodedFacts | EvaluationFacts | PlanFacts | DecisionFacts | None = None
) -> list[str]:
    """Return notes on the options of a section that have no effect, as far as these facts can tell.

    Raises:
        ConfigError: options that were given contradict others; the message lists all of them.
    """
    notes, errors = [], []
    for name, field in type(section).model_fields.items():
        value, given = getattr(section, name), name in section.model_fields_set
        if value == field.default and (not given or _is_off(value)):
            continue
        for effect in EFFECTS:
            if effect.option != name or effect.facts is not type(facts) or effect.acts(section, facts):
                continue
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            advice = f"{effect.advice}, or leave it out." if effect.advice else "Leave it out."
            if given and not effect.harmless:
                errors.append(f"{name} is {shown}, which {effect.verb}: {effect.why}. {advice}")
            else:
                notes.append(f"{name} ({shown}) {effect.verb}: {effect.why}.")
    if errors:
        raise ConfigError(*errors)
    return notes


def _is_off(default: Any) -> bool:
    """Whether a default means that an option does nothing, or that it is chosen automatically."""
    return default is None or default is False or default in ("auto", "none")


def check_settings(config: Config) -> list[str]:
    """Check all sections before any facts are known, except `data`, which `open_manifest` checks; return notes."""
    return [note for name in Config.model_fields if name != "data" for note in check_effects(getattr(config, name))]


def check_given(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Run `check_settings` on the arguments of a function that differ from its defaults, which thus count as given."""
    defaults = {name: parameter.default for name, parameter in signature(function).parameters.items()}
    check_settings(Config().updated({name: value for name, value in values.items() if value != defaults[name]}))


def check_tta(given: bool | None, train: TrainConfig) -> list[str]:
    """Return a note if test-time augmentation differs from that of the predictions on which a run was calibrated.

    Args:
        given: the option `tta`; None for the run's own setting.
        train: the run's settings.

    Raises:
        ConfigError: `tta` is True, but the run's settings define no augmented views.
    """
    if given and train.augmentation is None:
        raise ConfigError(
            f"tta is true, and augment of the run is {show_setting(train.augment)}, so there are no views to average."
        )
    trained = train.tta
    if given is None or given == trained:
        return []
    ways = {True: "averaged over augmented views", False: "made without augmented views"}
    return [
        f"{'--tta' if given else '--no-tta'}: predictions are {ways[given]}, and those on which the run's calibration "
        f"and thresholds were fitted are {ways[trained]}."
    ]


def check_range_test(options: Collection[str]) -> list[str]:
    """Return a note on options of `find_lr` that only `fit` uses."""
    idle = [name for name in NOT_IN_RANGE_TEST if name in options]
    return [f"No effect on a range test, which has no phases and no results: {', '.join(idle)}."] if idle else []
