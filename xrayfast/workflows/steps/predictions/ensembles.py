"""Average the predictions of several networks, on validation only of those that were not trained on the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.config import PREDICTED_SPLITS
from xrayfast.data.splits.words import Split
from xrayfast.errors import ConfigError, RunError, plural, shorten
from xrayfast.files.csv_tables import read_csv
from xrayfast.runs.names import SPLIT_FILE
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import Run, find_copy


def require_alike(members: Sequence[Run]) -> None:
    """Check that runs can be averaged.

    Raises:
        ConfigError: there are fewer than two, one is given twice or is a copy, or they differ in labels, task, size or
            window.
        RunError: a file of a run is damaged.
    """
    if len(members) < 2:
        raise ConfigError(f"found {plural(len(members), 'run')} for an ensemble; expected at least two.")
    paths = [run.path.resolve() for run in members]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"{path}: found this run {plural(paths.count(path), 'time')}; expected each run once.")
    first, *others = members
    for run in members:
        _ = run.model_path  # raises if it is missing or damaged
    if copied := find_copy(members):
        raise ConfigError(
            f"{copied[0].path}: has the same weights as {copied[1].path}, so it may be a copy; expected each network "
            "once. Leave it out."
        )
    for other in others:
        for name, ours, theirs in (
            ("labels", first.labels, other.labels),
            ("task", first.task, other.task),
            ("size", first.config.model.size, other.config.model.size),
            ("window", first.config.data.window, other.config.data.window),
        ):
            if ours != theirs:
                raise ConfigError(
                    f"{other.path}: found {name} {_show(theirs)}; expected {_show(ours)}, as in {first.path}. Leave "
                    "out one of the two."
                )


def _show(value: object) -> str:
    return shorten(value, 20) if isinstance(value, (list, tuple)) else str(value)


def average_splits(
    members: Sequence[Run], splits: Sequence[pd.DataFrame | None] | None = None
) -> dict[Split, Predictions]:
    """Average the saved predictions of runs on valid and, if all runs have a test split, on test.

    For each validation image, the networks that have it in their validation split are averaged, since these were not
    trained on it: one network for runs of different folds, all networks for runs with the same split. On test, only
    images that all runs have are averaged.

    Raises:
        RunError: a run is not complete, or an image has different labels or pixels in two runs.
    """
    found: dict[Split, Predictions] = {}
    splits = splits or [
        read_csv(run.split_path, ["image"], dtype=str, keep_default_na=False)
        if (run.path / SPLIT_FILE).exists()  # a run from the Hub may have only predictions
        else None
        for run in members
    ]
    for split in PREDICTED_SPLITS:
        if split != "valid" and any(split not in run.predicted_splits for run in members):
            continue
        averaged, counts = average_by_image(_rename_apart(members, splits, [run.predictions(split) for run in members]))
        if split != "valid":
            averaged = averaged.select(counts == len(members))
        if len(averaged):
            found[split] = averaged
    return found


def _rename_apart(
    members: Sequence[Run], splits: Sequence[pd.DataFrame | None], found: Sequence[Predictions]
) -> Sequence[Predictions]:
    """Return predictions of runs in which equal pseudonyms mean the same patient or study, also if the runs' data
    differ: each data set is numbered from 1.

    Raises:
        RunError: an image has different pixels in two runs of the same versions of xrayfast and Pillow.
    """
    tables = [
        pd.DataFrame({"image": one.images, "patient": one.patients}) if table is None else table
        for table, one in zip(splits, found, strict=True)
    ]
    digests: dict[tuple[str, str | None, str], str] = {}
    for run, table in zip(members, tables, strict=True):
        version = run.info.xrayfast, run.info.versions.get("pillow")  # others may decode an image differently
        for image, digest in zip(table["image"], table.get("digest", ()), strict=False):  # older runs have no digests
            if digest and digests.setdefault((*version, image), digest) != digest:
                raise RunError(
                    f"{run.path}: '{image}' has other pixels than in another run, so it may be another image of the "
                    "same name. Average only networks that were trained on the same images."
                )
    if all(set(table["image"]) == set(tables[0]["image"]) for table in tables):
        return found
    patients = name_apart([zip(table["image"], table.get("patient", ()), strict=False) for table in tables])
    studies = name_apart([() if one.studies is None else zip(one.images, one.studies, strict=True) for one in found])
    return [
        replace(
            one,
            patients=np.array([of_patient.get(name, name) for name in one.patients], object),
            studies=None if one.studies is None else np.array([of_study[name] for name in one.studies], object),
        )
        for one, of_patient, of_study in zip(found, patients, studies, strict=True)
    ]


def name_apart(runs: Sequence[Iterable[tuple[str, str]]]) -> list[dict[str, str]]:
    """Return, for the images and pseudonyms of each run, new pseudonyms that differ between runs unless an image that
    two runs share tells that they mean the same.
    """
    found, known = list[dict[str, str]](), dict[str, str]()
    for number, pairs in enumerate(map(list, runs), 1):
        taken, names = {*known.values()}, {own: known[image] for image, own in pairs if own and known.get(image)}
        for _, own in pairs:
            names.setdefault(own, f"{own}-{number}" if own and own in taken else own)
        known = {image: names[own] for image, own in pairs} | known
        found.append(names)
    return found


def average_by_image(found: Sequence[Predictions]) -> tuple[Predictions, NDArray[np.int64]]:
    """Average each image's loss and raw probabilities over the predictions that contain it.

    Returns:
        The averaged predictions; and (N,) the number of predictions that contain each image.

    Raises:
        RunError: an image has different labels in two predictions.
    """
    every = concatenate(found)
    places: dict[str, int] = {}
    rows = np.array([places.setdefault(image, len(places)) for image in every.images.tolist()], np.intp)
    first = every.select(np.unique(rows, return_index=True)[1])
    if different := sorted(set(every.images[(first.truth[rows] != every.truth).any(axis=1)].tolist())):
        raise RunError(f"'{different[0]}' has other labels in one run's predictions than in another's.")
    counts = np.bincount(rows, minlength=len(first))
    raw, loss = np.zeros_like(first.raw, np.float64), np.zeros(len(first))
    np.add.at(raw, rows, every.raw)
    np.add.at(loss, rows, every.loss)
    raw /= counts[:, None]
    studies = None
    if every.studies is not None:  # some predictions may have none recorded
        known = every.studies != ""
        studies = np.full(len(first), "", dtype=object)
        studies[rows[known][::-1]] = every.studies[known][::-1]  # reversed, so that the first one wins
    return replace(first, raw=raw, probability=raw, loss=loss / counts, studies=studies), counts


def concatenate(found: Sequence[Predictions]) -> Predictions:
    """Concatenate predictions, with the attributes that all of them have, and studies if any of them have some."""
    first, *_ = found
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in found])
        for name in ("images", "patients", "truth", "probability", "loss", "raw")
    }
    if any(one.studies is not None for one in found):
        unknown = (np.full(len(one), "", dtype=object) for one in found)
        pairs = zip(found, unknown, strict=True)
        columns["studies"] = np.concatenate([none if one.studies is None else one.studies for one, none in pairs])
    shared = [name for name in first.attributes if all(name in one.attributes for one in found)]
    attributes = {name: np.concatenate([one.attributes[name] for one in found]) for name in shared}
    return replace(first, **columns, attributes=attributes)
