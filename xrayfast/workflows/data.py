"""Open a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xrayfast.config import FIELD_SECTIONS, Config, DataConfig, TaskChoice
from xrayfast.data.manifest import Manifest, open_manifest
from xrayfast.errors import ConfigError, DataError, RunError
from xrayfast.run import Run


def open_data(
    source: Path | str = "data",
    *,
    labels: Path | str | None = None,
    path_col: str | None = None,
    label_col: str | Sequence[str] = (),
    label_delim: str = "|",
    split_col: str | None = None,
    patient: str | None = None,
    imply: str | Sequence[str] = (),
    task: TaskChoice = "auto",
    valid_fraction: float = 0.2,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> Manifest:
    """Read a data set: class folders, or a CSV file of paths and labels.

    Args:
        source: the folder of images.
        labels: a CSV file; its paths are looked for under `source`, then beside the file.
        path_col: its column of image paths; guessed from the usual names where not given.
        label_col: its column of labels, or several columns of 0 and 1.
        label_delim: what stands between several labels in one cell.
        split_col: its column of train, valid and test.
        patient: its column of patients, who are never split between parts.
        imply: labels that follow from others, such as "covid-19=pneumonia".
        task: "single", "multi" or "auto", which looks at the labels.
        valid_fraction: share of the images to validate on, where the data brings no split.
        test_fraction: share of the images to test on, likewise.
        seed: of the split.

    Returns:
        A Manifest: `.table`, `.labels`, `.targets`, `.task`, `.counts()`, and `.notes` on what was inferred.

    Raises:
        DataError: images, labels or parts that can't be used.
        ConfigError: options that can't be right.
    """
    options = {
        "source": Path(source),
        "labels": None if labels is None else Path(labels),
        "path_col": path_col,
        "label_col": label_col,
        "label_delim": label_delim,
        "split_col": split_col,
        "patient_col": patient,
        "imply": imply,
        "task": task,
        "valid_fraction": valid_fraction,
        "test_fraction": test_fraction,
        "split_seed": seed,
    }
    return open_manifest(Config().updated(options).data)


def settle(
    data: Manifest | Path | str | None, config: Config | None, options: Mapping[str, Any]
) -> tuple[Manifest, Config]:
    """The data set, and all settings with those that it was opened with; paths absolute, so that a run finds its
    files from any working folder.

    Args:
        data: a manifest; a folder, opened as `config` says otherwise; or None for the folder in `config`.
        config: settings to start from.
        options: fields of ModelConfig and TrainConfig that go over them.

    Raises:
        ConfigError: an option is unknown or wrong, or belongs to `open_data`.
        DataError: the data can't be used.
    """
    misplaced = [name for name in options if FIELD_SECTIONS.get(name) == "data"]
    if misplaced:
        raise ConfigError(
            f"'{misplaced[0]}' describes the data: give it to xrayfast.open_data, and pass what that returns."
        )
    config = (config or Config()).updated(options)
    if not isinstance(data, Manifest):
        data = open_manifest(config.data if data is None else config.data.model_copy(update={"source": Path(data)}))
    model = config.model
    if model.weights not in ("imagenet", "none"):
        model = model.model_copy(update={"weights": str(Path(model.weights).absolute())})
    return data, config.model_copy(update={"data": anchored(data.config), "model": model})


def anchored(config: DataConfig) -> DataConfig:
    """The same settings with absolute paths, so that a run finds its data from any working folder."""
    labels = None if config.labels is None else config.labels.absolute()
    return config.model_copy(update={"source": config.source.absolute(), "labels": labels})


def own_data(run: Run) -> Manifest | None:
    """The data that a run was trained on, where it is still there, unchanged; else None."""
    fingerprint = run.info.get("fingerprint")
    try:
        manifest = open_manifest(run.config.data)
        return manifest if manifest.fingerprint() == fingerprint else None
    except DataError:
        return None  # moved or gone


def manifest_of(run: Run) -> Manifest:
    """The data that a run was trained on, opened anew and found unchanged.

    Raises:
        DataError: it is gone or can't be used.
        RunError: images, labels or the split are not what they were.
    """
    manifest = open_manifest(run.config.data)
    if manifest.fingerprint() != run.info.get("fingerprint"):
        raise RunError(
            f"{run.path}: the data in {run.config.data.source} is not what it was when the run began. Start a new run."
        )
    return manifest
