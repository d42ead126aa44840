"""Open the data set of a use case, and check that data and settings fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xrayfast.config import (
    ARCHS,
    FIELD_SECTIONS,
    NAMED_WEIGHTS,
    PREDICTED_SPLITS,
    Config,
    DataConfig,
    ModelConfig,
    require_loss_of,
)
from xrayfast.data.labels.positive_class import positive_class
from xrayfast.data.manifest import Manifest
from xrayfast.data.open_manifest import open_manifest
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import ConfigError, WeightsError, did_you_mean, shorten
from xrayfast.errors.escapes import warn
from xrayfast.files.virtual.paths import to_path
from xrayfast.files.xrv_weights import how_to_make
from xrayfast.hub.download import is_hub_name
from xrayfast.option_effects import check_settings
from xrayfast.own_code import is_own
from xrayfast.runs.predictions import truth_of
from xrayfast.runs.run import published_run
from xrayfast.workflows.steps.results import check_results, require_enough_images, resolve_monitor


def resolve_inputs(
    data: Manifest | Path | str | None, config: Config | None, options: Mapping[str, Any]
) -> tuple[Manifest, Config, list[str]]:
    """Open the data and merge all settings, with absolute paths, so that a run finds its files from any working folder.

    Args:
        data: a data set; or a folder, which is opened with the data settings of `config`; or None for the `source` of
            `config`.
        config: the settings.
        options: fields of sections other than `data`, which override `config`.

    Returns:
        The data set; the config, with the data settings that it was opened with; notes on options without effect.

    Raises:
        ConfigError: an option is unknown, wrong or without effect, or belongs to `open_data`.
        DataError: the data can't be used.
    """
    misplaced = [name for name in options if FIELD_SECTIONS.get(name) == "data"]
    if misplaced:
        raise ConfigError(
            f"'{misplaced[0]}' describes the data: pass it to xrayfast.open_data, and use what that returns."
        )
    config = (config or Config()).updated(options)
    notes = check_settings(config)
    require_arch(config.model)
    notes += unused_data_settings(data, config)
    data = opened(data, config)
    model = config.model
    if is_hub_name(model.weights):  # record the commit: a branch moves on
        model = model.model_copy(update={"weights": published_run(model.weights).name})
    elif model.weights not in NAMED_WEIGHTS:
        model = model.model_copy(update={"weights": str(Path(model.weights).absolute())})
    return data, config.model_copy(update={"data": with_absolute_paths(data.config), "model": model}), notes


def require_arch(model: ModelConfig) -> None:
    """Raise a ConfigError unless there is such a network, before data are opened. Torch is imported only if needed."""
    if model.arch not in ARCHS and not is_own(model.arch):
        from xrayfast.learning.model.backbones import find_backbone

        find_backbone(model.arch, model.size)


def require_settings_of_data(data: Manifest, config: Config) -> None:
    """Check that settings fit the data, as far as that needs no network, before torch is imported.

    Raises:
        ConfigError: a setting does not fit the data.
        DataError: results are to be per study or patient, and the images can't be grouped that way.
        WeightsError: the file or run to start from does not exist.
    """
    weights = config.model.weights
    if not (weights in NAMED_WEIGHTS or is_hub_name(weights) or Path(weights).exists()):
        raise WeightsError(
            f"{weights}: found no such file or folder; expected imagenet, none, a file of weights, a run's folder, "
            "such as runs/resnet18-1, or hf:ORG/NAME. Check the "
            f"path.{did_you_mean(weights, NAMED_WEIGHTS[:2])}{how_to_make(weights)}"
        )
    require_loss_of(data.task, config.train.loss)
    resolve_monitor(config.train, data.task)
    check_results(config.results, data.task, data.labels)
    data.require_images("train", "valid")
    images, settings = truth_of(data), config.results
    split = data.table["split"].to_numpy()
    require_enough_images(settings, data.task, images.select(split == "valid"))
    every = data.config.folds is not None or config.train.train_metrics == "final"
    positive = positive_class(data.task, data.labels, settings.positive)
    for name in SPLITS if every else PREDICTED_SPLITS:
        if (split == name).any():
            images.select(split == name).by_unit(settings.unit, settings.unit_join, data.task, positive)


def opened(data: Manifest | Path | str | None, config: Config) -> Manifest:
    """Return a data set as it is; or open a folder or table, by default the config's `source`, with the config.

    Raises:
        DataError: the data can't be used, or the data set's table was modified and is no longer consistent.
        ConfigError: options contradict each other or the data.
    """
    if isinstance(data, Manifest):
        data.require_consistent()
        return data
    return open_manifest(config.data if data is None else config.data.model_copy(update={"source": Path(data)}))


def opened_with_notes(data: Manifest | Path | str | None, config: Config) -> Manifest:
    """Open a data set as `opened` does, and add the notes of `unused_data_settings`; warn of them if it was open
    already, since the notes of an open data set are not displayed again.
    """
    found, unused = opened(data, config), unused_data_settings(data, config)
    for note in unused if isinstance(data, Manifest) else ():
        warn(note)
    return replace(found, notes=(*found.notes, *unused))


def unused_data_settings(data: Manifest | Path | str | None, config: Config) -> list[str]:
    """Return a note if `config` has settings of the data that are not used, since the data were given as well."""
    if data is None:
        return []
    mine, default = with_absolute_paths(config.data), with_absolute_paths(DataConfig())
    used: dict[str, Any] = {"source": to_path(str(data)).absolute()}
    if isinstance(data, Manifest):
        used = dict(with_absolute_paths(data.config))
    unused = [name for name in used if getattr(mine, name) not in (getattr(default, name), used[name])]
    if not unused:
        return []
    found = shorten(f"{name} ({getattr(mine, name)}; {used[name]} is used)" for name in unused)
    return [
        f"The config's data settings are not used, because the data were also given: {found}. Leave out the data, or "
        "pass these settings where the data are opened."
    ]


def with_absolute_paths(config: DataConfig) -> DataConfig:
    """Return the settings with absolute paths, so that a run finds its data from any working folder."""
    files = {
        name: getattr(config, name)
        for name in ("source", "labels", "label_map", "corrections", "split_file", "cache_dir")
    }
    return config.model_copy(update={name: path.absolute() for name, path in files.items() if path is not None})
