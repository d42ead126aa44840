"""Divide images into folds, and compute the results of a cross-validation from its folds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.audit.leaks import group_linked_images, leaks_between_splits
from xrayfast.config import ResultsConfig
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.stratify import stratified_split
from xrayfast.data.splits.words import Split
from xrayfast.errors import RunError, XrayfastError, plural, shorten
from xrayfast.files.atomic import write_text
from xrayfast.metrics.claims.headline import Remark
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.summary import summarize
from xrayfast.reporting.html.pages.cross_validation_page import render_cross_validation_page
from xrayfast.reporting.html.split_section import SplitReport
from xrayfast.reporting.interpretation import RIGHT_SHOWN
from xrayfast.reporting.markdown.methods import describe_cross_validation
from xrayfast.reporting.markdown.model_card import render_cross_validation_card
from xrayfast.runs.cross_validation import CrossValidation, fold_columns
from xrayfast.runs.metrics_types import FoldRecord, SpreadRecord
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.data.images import image_infos, split_table
from xrayfast.workflows.steps.leaks import ComparedImages
from xrayfast.workflows.steps.predictions.ensembles import average_by_image, concatenate
from xrayfast.workflows.steps.predictions.own import read_interpretations
from xrayfast.workflows.steps.results import (
    DECISION_SPLIT,
    by_unit,
    choose_decision,
    finalize_results,
    info_of_networks,
)

SHOWN = 12
"""Number of images with the largest losses that the page shows."""


@dataclass(frozen=True, eq=False)
class DealtImages:
    """A data set that is divided into folds, once or in several repeats.

    Attributes:
        data: the data set with the split of the first fold, and a note on the folds.
        numbers: (N, R) the fold of each image in each repeat, from 1; 0 for test images.
        groups: (N,) group numbers, equal for images of one patient and for duplicates, which stay together; None if
            neither are known.
        by_image: whether images are assigned one by one, so that groups may be divided.
        inner_valid: fraction of the images of the other folds that is a network's validation split; its fold is then
            the test split. 0 if the fold itself is the validation split.
    """

    data: Manifest
    images: DecodedImages
    compared: ComparedImages
    numbers: npt.NDArray[np.int64]
    groups: npt.NDArray[np.integer] | None
    by_image: bool
    inner_valid: float = 0.0

    @classmethod
    def deal(
        cls,
        data: Manifest,
        images: DecodedImages,
        compared: ComparedImages,
        repeats: int = 1,
        *,
        by_image: bool,
        inner_valid: float,
    ) -> DealtImages:
        """Divide images into folds, with the number of folds and the seed in the data's settings."""
        groups = link_images(data, compared)
        numbers = data.deal_folds(groups, repeats, by_image=by_image)
        tested = int((numbers[:, 0] == 0).sum())
        times = f"{repeats} times, each time with another seed, " if repeats > 1 else ""
        rest = f" {plural(tested, 'image')} of the test split in no fold." if tested else ""
        note = f"{plural(len(data) - tested, 'image')} divided {times}into {numbers.max()} folds.{rest}"
        dealt = cls(data, images, compared, numbers, groups, by_image, inner_valid)
        note = f"{note} {dealt._how(1)}"
        data = data.with_splits(replace(dealt, inner_valid=0.0)._splits(1, 1), note)
        notes = data.notes[: data.notes.index(note) + 1]  # drop notes on the first fold alone
        return replace(dealt, data=replace(data, notes=notes))

    def with_fold(self, repeat: int, fold: int) -> Manifest:
        """Return the data set with the splits for the network of a fold; `repeat` and `fold` count from 1."""
        repeats = self.numbers.shape[1]
        of = f" of repeat {repeat} of {repeats}" if repeats > 1 else ""
        note = f"Fold {fold} of {self.numbers.max()}{of} is the validation split."
        if self.inner_valid:
            rest = f"{self.inner_valid:.0%} of the other images are the validation split."
            note = f"{note.replace('validation', 'test').removesuffix('.')}; {rest}"
        return self.data.with_splits(self._splits(repeat, fold), note)

    def _splits(self, repeat: int, fold: int) -> list[Split]:
        numbers = self.numbers[:, repeat - 1]
        if not self.inner_valid:
            return np.where(numbers == 0, "test", np.where(numbers == fold, "valid", "train")).tolist()
        names = np.full(len(numbers), "test", "<U5")
        others = np.flatnonzero((numbers != 0) & (numbers != fold))
        positives = (self.data.targets[others] == 1).astype(np.uint8)
        groups = None if self.groups is None or self.by_image else self.groups[others]
        shares = {"train": 1 - self.inner_valid, "valid": self.inner_valid}
        seed = self.data.config.split_seed + repeat - 1
        names[others] = stratified_split(positives, groups, shares, seed)
        return names.tolist()

    def has_leaks(self, repeat: int, fold: int) -> bool:
        """Whether patients or duplicates are in more than one split of a fold."""
        found = leaks_between_splits(self.with_fold(repeat, fold), self.compared.duplicates, self.compared.unreadable)
        return bool(found)

    def _how(self, repeat: int) -> str:
        known = self.data.groups is not None and not self.by_image
        seed = self.data.config.split_seed + repeat - 1
        return f"Folds are drawn by {'patient' if known else 'image'} with seed {seed}, stratified by label."

    @property
    def remarks(self) -> list[str]:
        """Remarks for readers of the results, if images were assigned to folds one by one."""
        if not self.by_image:
            return []
        if self.groups is None:
            return ["random_folds has no effect: neither patients nor duplicates are known, so folds are by image."]
        used = self.numbers[:, 0] > 0
        pairs = np.unique(np.column_stack([self.groups[used], self.numbers[used, 0]]), axis=0)
        groups, folds = np.unique(pairs[:, 0], return_counts=True)
        images = int(np.isin(self.groups[used], groups[folds > 1]).sum())
        return [
            f"{Remark.LEAKS_ALLOWED}: folds were drawn by image, and {plural(int((folds > 1).sum()), 'patient')} (or "
            f"groups of duplicates) with {plural(images, 'image')} of {int(used.sum())} are in several folds. Results "
            "are optimistic; without --random-folds they would not be."
        ]

    def facts(self) -> dict[str, Any]:
        """Return the items of `run.json` on the data: counts, flow, fingerprint, notes and shortcuts."""
        data, used = self.data, self.numbers[:, 0] > 0
        counts = {}
        for split, rows in (("valid", used), ("test", ~used)):
            if rows.any():
                counts[split] = dict(zip(data.labels, (data.targets[rows] == 1).sum(0).tolist(), strict=True))
                counts[split] |= {"images": int(rows.sum())}
                if patients := int(data.table.loc[rows, "patient"].nunique()):
                    counts[split] |= {"patients": patients}
        flow = [*(step for step in data.flow() if not step[0].startswith("Split ")), ("Split folds", int(used.sum()))]
        return {
            "counts": counts,
            "flow": [list(step) for step in [*flow, *([("Split test", int((~used).sum()))] if not used.all() else [])]],
            "fingerprint": data.fingerprint(),
            "data_notes": list(data.notes),
            "shortcuts": self.compared.shortcuts,
        }

    def table(self) -> pd.DataFrame:
        """Return `split.csv`, with the split of the first fold, to open the data again, and the fold numbers."""
        table = split_table(self.data, image_infos(self.data, self.images))
        for name, column in zip(fold_columns(self.numbers.shape[1]), self.numbers.T, strict=True):
            table[name] = np.where(column == 0, "", column.astype(str))
        return table


def link_images(data: Manifest, compared: ComparedImages) -> npt.NDArray[np.integer] | None:
    """Return (N,) integers, equal for images of one patient and for duplicates; None if neither are known."""
    if not compared.duplicates:
        return data.groups
    return group_linked_images(data, compared.duplicates)


def join(cv: CrossValidation, settings: ResultsConfig | None = None) -> None:
    """Write the results of a cross-validation whose folds are all complete, and mark it as completed.

    Calibration and thresholds are chosen on the out-of-fold predictions, averaged over repeats, or on the predictions
    of the inner validation splits. Predictions of the test split are averaged over all networks. The settings are by
    default those of the cross-validation.
    """
    runs, folds, config = cv.runs, cv.folds.folds, cv.config
    settings = settings or config.results
    images, numbers = cv.images_in_folds()
    inner = bool(cv.folds.inner_valid)
    by_fold = [run.predictions("test" if inner else DECISION_SPLIT) for run in runs]
    tested = [run.predictions("test") for run in runs if "test" in run.predicted_splits]
    chosen = None
    if inner:
        in_folds = set(images)
        tested = [one.select(np.array([image not in in_folds for image in one.images])) for one in by_fold]
        by_fold = [one.select(np.array([image in in_folds for image in one.images])) for one in by_fold]
        chosen_on, _ = average_by_image([run.predictions(DECISION_SPLIT) for run in runs])
        chosen = choose_decision(chosen_on, cv.task, settings)
    repeats = [pool_folds(images, by_fold[start : start + folds]) for start in range(0, len(runs), folds)]
    found: dict[Split, Predictions] = {DECISION_SPLIT: average_by_image(repeats)[0]}
    if tested and len(tested[0]):
        found["test"], _ = average_by_image(tested)
    infos = [run.info for run in runs]
    cv.update_info(
        **info_of_networks(infos, "arch"),
        remarks=_join_remarks(cv, runs),
        finished=max(info.finished for info in infos),
        chosen_inside=inner,
    )
    finalize_results(cv, found, settings, config.train.seed, chosen)
    decision = cv.decision
    calibrated = [one.calibrated(decision) for one in repeats]
    cv.write_out_of_fold(list(zip(numbers.T, calibrated, strict=True)))
    rows: list[FoldRecord] = []
    for place, (run, predictions) in enumerate(zip(runs, by_fold, strict=True)):
        summary = _summarize(by_unit(predictions.calibrated(decision), settings, decision), decision)
        rows.append(
            {
                "fold": place % folds + 1,
                "repeat": place // folds + 1,
                "run": run.path.name,
                "images": summary["images"],
                "patients": summary["patients"],
                "best_epoch": infos[place].best_epoch,
                "overall": summary["overall"],
                "auroc": {row["label"]: row["auroc"] for row in summary["per_label"]},
            }
        )
    further: dict[str, Any] = {
        "folds": rows,
        "repeats": [_summarize(by_unit(one, settings, decision), decision)["overall"] for one in calibrated],
        "spread": spread([row["overall"] for row in rows]),
    }
    if grouped := find_grouped(cv):
        further["by_patient"] = {"name": grouped.path.name, "overall": grouped.metrics["valid"]["overall"]}
    cv.write_metrics({**cv.metrics, **further})
    write_page_and_card(cv)
    cv.remove_leftovers()
    cv.update_info(status="completed")


def find_grouped(cv: CrossValidation) -> CrossValidation | None:
    """Find the newest cross-validation by patient with the settings of one by image, in the same folder, or None."""
    if not cv.folds.by_image:
        return None
    found = []
    for path in cv.path.absolute().parent.iterdir():
        with suppress(XrayfastError):  # other cross-validations may be damaged
            if CrossValidation.is_there(path) and (other := CrossValidation(path)).is_finished:
                same = other.folds.model_dump() == {**cv.folds.model_dump(), "by_image": False}
                if same and other.config == cv.config:
                    found.append(other)
    return max(found, key=lambda other: other.info.started, default=None)


def write_page_and_card(cv: CrossValidation) -> None:
    """Write `report.html` and `model_card.md`."""
    write_text(cv.model_card_path, render_cross_validation_card(cv))
    notes = {
        "valid": "From the weights of each fold's best epoch"
        + (", averaged over augmented views." if cv.config.train.tta else "."),
        "test": "The mean of all networks' probabilities.",
    }
    splits = [
        SplitReport(
            "folds" if split == DECISION_SPLIT else "test",
            found.summary,
            found.cases(SHOWN) if split == DECISION_SPLIT else (),
            notes[split],
            predictions=found.predictions,
            right=found.right_cases(RIGHT_SHOWN) if split == DECISION_SPLIT else (),
        )
        for split, found in read_interpretations(cv).items()
    ]
    write_text(cv.report_path, render_cross_validation_page(cv, splits, describe_cross_validation(cv)))


def _join_remarks(cv: CrossValidation, runs: Sequence[Run]) -> list[str]:
    """Join the remarks of a cross-validation and of its folds; a remark of only some folds begins with their names."""
    names_of: dict[str, list[str]] = {}
    for run in runs:
        for remark in run.info.remarks:
            # The cross-validation has its own remark on leaks of folds by image.
            if not (cv.folds.by_image and Remark.of(remark) is Remark.LEAKS_ALLOWED):
                names_of.setdefault(remark, []).append(run.path.name)
    joined = [
        remark
        if len(names) == len(runs) or Remark.of(remark) is Remark.LEAKS_ALLOWED
        else f"{shorten(names)}: {remark}"
        for remark, names in names_of.items()
    ]
    return [*(remark for remark in cv.info.remarks if remark not in joined), *joined]


def pool_folds(images: Sequence[str], folds: Sequence[Predictions]) -> Predictions:
    """Pool the predictions of all folds of a repeat, in the order of `images`, each of which is in one fold."""
    found = [image for fold in folds for image in fold.images.tolist()]
    if sorted(found) != sorted(images):
        raise RunError(
            f"The folds predicted {plural(len(found), 'image')}, {len(set(found))} of them different; expected "
            f"{len(images)}, each once. The predictions of a fold belong to another cross-validation."
        )
    place = {image: row for row, image in enumerate(found)}
    return concatenate(folds).select(np.array([place[image] for image in images]))


def _summarize(predictions: Predictions, decision: Decision) -> dict[str, Any]:
    return summarize(
        predictions.truth,
        predictions.probability,
        predictions.labels,
        decision.task,
        raw=predictions.raw,
        positive=decision.positive,
        threshold=decision.thresholds,
        groups=predictions.groups,
        resamples=0,
    )


def spread(rows: Sequence[Mapping[str, float | None]]) -> dict[str, SpreadRecord]:
    """Return mean, standard deviation, minimum and maximum of each metric over the folds in which it is defined.

    >>> spread([{"accuracy": 0.5}, {"accuracy": 0.75}, {"accuracy": None}])["accuracy"]["mean"]
    0.625
    """
    found: dict[str, SpreadRecord] = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row[name]) is not None]
        found[name] = {
            "folds": len(values),
            "mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "lowest": min(values, default=None),
            "highest": max(values, default=None),
        }
    return found
