"""Open a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd

from xrayfast.config import (
    ARCHS,
    FIELD_SECTIONS,
    NAMED_WEIGHTS,
    PREDICTED_SPLITS,
    Config,
    DataConfig,
    ModelConfig,
    Problems,
    TaskChoice,
    Views,
    field_types,
    require_loss_of,
)
from xrayfast.data.cache.folders import holds_cache
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.cache.shards import ImageInfo
from xrayfast.data.decoding import decode_manifest
from xrayfast.data.labels.positive_class import positive_class
from xrayfast.data.manifest import Manifest, open_manifest
from xrayfast.data.sources.tables import read_table
from xrayfast.data.splits.assign import is_split_list
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import ConfigError, DataError, ReadError, RunError, WeightsError, did_you_mean, plural, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import warn
from xrayfast.files.cache_folder import cache_root
from xrayfast.files.csv_tables import read_csv
from xrayfast.files.virtual.addresses import is_remote
from xrayfast.files.virtual.paths import to_path
from xrayfast.files.xrv_weights import how_to_make
from xrayfast.hub.download import is_hub_name
from xrayfast.option_effects import check_settings
from xrayfast.own_code import is_own
from xrayfast.progress import StageProgress, no_progress
from xrayfast.runs.predictions import truth_of
from xrayfast.runs.run import Run, published_run
from xrayfast.workflows.steps.results import check_results, require_enough_images, resolve_monitor


@check_arguments(field_types)
def open_data(
    source: Path | str = "data",
    *,
    labels: Path | str | None = None,
    path_col: str | None = None,
    label_col: str | Sequence[str] = (),
    label_delim: str = "auto",
    label_map: Path | str | None = None,
    corrections: Path | str | None = None,
    corrections_sha256: str | None = None,
    exact_labels: bool = False,
    uncertain: str | Sequence[str] = (),
    blank: str | Sequence[str] = (),
    keep_no_finding: bool = False,
    imply: str | Sequence[str] = (),
    task: TaskChoice = "auto",
    patient_col: str | None = None,
    study_col: str | None = None,
    views: Views = "all",
    split_col: str | None = None,
    split_file: Path | str | None = None,
    valid_fraction: float = 0.2,
    test_fraction: float = 0.0,
    folds: int | None = None,
    fold: int | None = None,
    split_seed: int = 0,
    ignore_split: bool = False,
    class_level: int | None = None,
    keep_masks: bool = False,
    missing: Problems = "error",
    unreadable: Problems = "error",
    window: str = "auto",
    cache: bool = True,
    cache_dir: Path | str | None = None,
) -> Manifest:
    """Read a data set: class folders, or a table of image paths and labels. No image is decoded.

    Args:
        source: the folder of images.
        labels: a CSV, TSV, Parquet or Arrow file, or a folder of its parts; image paths are looked up under `source`,
            then beside the file.
        path_col: column of image paths; by default recognized by its name.
        label_col: column of label names, or several columns of 0 and 1.
        label_delim: the delimiter of labels in one cell; "auto" infers it from the cells.
        label_map: a file of lines such as "Cardiomegaly = Enlarged heart", which maps synonyms to one label.
        corrections: a CSV file with the columns image, label, given, proposed and accept, as `review` writes it; rows
            that a reader accepted are applied.
        corrections_sha256: the expected SHA-256 of the corrections file, as recorded in a run's `config.yaml`; a file
            with another hash is an error.
        exact_labels: keep labels apart that differ only in case, spaces, "_", "-", quotes or the format of a number.
        uncertain: the target of cells that are -1: "ignore" (default), "zeros", "ones" or "smooth:0.7", for all labels
            or for one, as in "Edema=ones".
        blank: the target of blank cells: "ignore" or "zeros", for all labels or for one. Default: zeros for CheXpert
            and MIMIC-CXR, ignore for all others.
        keep_no_finding: make "No Finding" a label of its own; by default it means that no label applies.
        imply: labels that follow from others, as in "covid-19=pneumonia".
        task: "single", "multi" or "auto", which infers it from the labels.
        patient_col: column of patients, who are never divided between splits; or "dicom:PatientID" (a DICOM header),
            "name" (file names), "name:REGEX" (the first group of a regular expression that is searched for in each
            image's path) or "none". By default recognized.
        study_col: column of studies, for results with `unit="study"`; or "dicom:StudyInstanceUID", "name:REGEX" or
            "none". By default recognized.
        views: "frontal" leaves out lateral and other views, "lateral" leaves out all but lateral views, according to a
            column, DICOM headers or file names. Images of unknown view are kept by "frontal" and left out by "lateral".
        split_col: column of train, valid and test, or of 1 and 0 such as `is_test`. By default recognized.
        split_file: a `split.csv` to replay, or a list of images named after its split, such as `test_list.txt`. Images
            that a `split.csv` lacks join the split of their patient, or are assigned with `split_seed` in the
            proportions of its splits.
        valid_fraction: fraction of the images for validation, if the data has no split of its own.
        test_fraction: fraction of the images for testing, if the data has no split of its own.
        folds: number of folds that all images outside the test split are divided into; one of them is the validation
            split.
        fold: number of the validation fold, from 1 (default).
        split_seed: seed of the drawn split.
        ignore_split: ignore the split that the data set's folders or table give, and draw one.
        class_level: level of the folders that are classes: 1 for the folders in `source`; folders of splits do not
            count. By default the first level that does not merely group the images, as folders of hospitals do.
        keep_masks: treat files as radiographs although their name or folder suggests masks, overlays, maps or
            thumbnails.
        missing: "error", or "skip" to leave out rows of the table whose image does not exist.
        unreadable: "error", or "skip" to leave out files that can't be read, when images are decoded.
        window: for DICOM images: "auto" (the file's first window), its number, "percentile", "full" or "CENTER/WIDTH".
        cache: keep decoded images on disk for the next time.
        cache_dir: the folder of that cache; by default in the user's cache folder.

    Returns:
        A Manifest: `.table`, `.labels`, `.targets`, `.task`, `.counts()`, and `.notes` on what was inferred.

    Raises:
        DataError: the images, labels or splits can't be used.
        ConfigError: an option is wrong.
    """
    options = {**locals()}  # each argument is a field of DataConfig
    defaults = {name: parameter.default for name, parameter in signature(open_data).parameters.items()}
    return open_manifest(Config().updated({k: v for k, v in options.items() if v != defaults[k]}).data)


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
    """Open a data set as `opened` does, and add the notes of `unused_data_settings`."""
    found = opened(data, config)
    return replace(found, notes=(*found.notes, *unused_data_settings(data, config)))


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


def decode(
    data: Manifest, size: int, progress: StageProgress = no_progress, *, may_leave_out: bool = True
) -> tuple[Manifest, DecodedImages]:
    """Run `decode_manifest`, report its progress as the stage "decoding", and note images unlike those split before."""
    data, images = decode_manifest(data, size, partial(progress, "decoding"), may_leave_out=may_leave_out)
    if may_leave_out:
        data = note_other_pixels(data, images)
    return data, images


def image_infos(data: Manifest, images: DecodedImages) -> list[ImageInfo]:
    """Return the ImageInfo of each file of a data set whose images are decoded."""
    return images.infos(data.table["path"].tolist())


def split_table(data: Manifest, infos: Sequence[ImageInfo]) -> pd.DataFrame:
    """Return a run's `split.csv`: `Manifest.split_table` plus hashes of decoded images, to find them in other data."""
    return data.split_table().assign(digest=[info.digest for info in infos])


def changed_images(run: Run, data: Manifest, images: DecodedImages) -> list[str]:
    """Return the names of images whose pixels no longer match the hash in the run's `split.csv`, or can't be read.

    Files that were not modified are not decoded again. For runs of versions that recorded no hashes, return none.
    """
    table = read_csv(run.split_path, ["image"], dtype=str, keep_default_na=False)
    if "digest" not in table:
        return []
    recorded = dict(zip(table["image"], table["digest"], strict=True))
    pairs = zip(data.table["image"].tolist(), data.table["path"].tolist(), strict=True)
    return [image for image, path in pairs if recorded.get(image, "") not in ("", _digest(images, path))]


def note_other_pixels(data: Manifest, images: DecodedImages) -> Manifest:
    """Add a note on readable images whose pixels do not match the hash in the split file, if it has hashes."""
    if (file := data.config.split_file) is None or is_split_list(file):
        return data
    columns = read_table(file).columns
    recorded = dict(zip(columns.get("image", ()), columns.get("digest", ()), strict=False))
    pairs = zip(data.table["image"].tolist(), data.table["path"].tolist(), strict=True)
    known = ((image, path, recorded[image]) for image, path in pairs if recorded.get(image))
    other = [image for image, path, digest in known if _digest(images, path) not in (None, digest)]
    if not other:
        return data
    note = (
        f"{len(other):,} of {plural(len(data), 'image')} have other pixels than the images of the same names had when "
        f"{file} was written: {shorten(other, 3)}. If they are not versions of the same images, leave out --split-file."
    )
    return replace(data, notes=tuple(dict.fromkeys([*data.notes, note])))


def _digest(images: DecodedImages, path: str) -> str | None:
    try:
        return images.info(path).digest
    except ReadError:
        return None


def with_absolute_paths(config: DataConfig) -> DataConfig:
    """Return the settings with absolute paths, so that a run finds its data from any working folder."""
    files = {
        name: getattr(config, name)
        for name in ("source", "labels", "label_map", "corrections", "split_file", "cache_dir")
    }
    return config.model_copy(update={name: path.absolute() for name, path in files.items() if path is not None})


def with_known_cache(config: DataConfig) -> DataConfig:
    """Return the data settings of a run, without its `cache_dir` if that folder holds no cache.

    Otherwise, the author of a run could make us write to any folder.
    """
    if config.cache_dir is None or not config.cache or holds_cache(config.cache_dir):
        return config
    warn(
        f"{config.cache_dir}: is the cache_dir in the run's config.yaml, but does not contain a cache of images. "
        f"Nothing is written there; the cache in {cache_root()} is used. If the folder is yours, training with "
        "--cache-dir creates the cache there."
    )
    return config.model_copy(update={"cache_dir": None})


def reopen_data(run: Run) -> Manifest:
    """Open the data that a run was trained on, with its split, and check that it is unchanged.

    Raises:
        RunError: the data are gone, or images, labels or the split have changed; or the run's folder is incomplete.
    """
    try:
        return _reopen(run)
    except DataError as error:
        source = run.config.data.source
        raise RunError(f"{run.path}: the data in {source} are not the same as when the run began. {error}") from error


def find_data(run: Run) -> Manifest | None:
    """Open the data that a run was trained on; None if it is gone, has changed or came in the user's own DataLoaders.

    Raises:
        RunError: the run's folder is incomplete, or its labels are not those of the data.
    """
    if run.downloaded or run.info.dataloaders != "xrayfast":
        return None  # don't look into folders that a stranger's run names
    try:
        return _reopen(run)
    except DataError:
        return None


def _reopen(run: Run) -> Manifest:
    fingerprint, config = run.info.fingerprint, run.config.data
    # The author of a run could make us send requests to any server.
    if remote := [path for path in (config.source, config.labels, config.label_map) if path and is_remote(path)]:
        warn(f"{run.path}: the data in its config.yaml are read over the network: {shorten(remote)}.")
    # `leave_out` leaves out the masks that the run left out; runs of older versions left out none.
    replayed = {"split_file": run.split_path, "split_col": None, "ignore_split": False, "keep_masks": True}
    replayed |= {"folds": None, "fold": None}
    replayed |= {"corrections": run.corrections_path, "corrections_sha256": None}
    found = open_manifest(config.model_copy(update=replayed), known_labels=run.labels, leave_out=run.read_left_out())
    data = replace(found, config=with_known_cache(config))
    if data.fingerprint() != fingerprint:
        raise DataError("Start a new run.")
    if (data.labels, data.task) != (run.labels, run.task):
        raise RunError(
            f"{run.path}: labels.json has other labels than the data that the run was trained on. The folder is "
            "damaged: copy it again from where the run was made."
        )
    return data
