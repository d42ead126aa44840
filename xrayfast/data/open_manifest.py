"""Open a data set: read its source, resolve labels, draw missing splits, replace patients with pseudonyms.

The steps are in `sources.read`, `labels.resolve` and `splits.assign`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.config import DataConfig, Task
from xrayfast.data.corrections import Correction, apply_corrections, describe_corrections, read_corrections
from xrayfast.data.images.dicom.parse import is_dicom_file
from xrayfast.data.labels.names import is_no_finding
from xrayfast.data.labels.resolve import ResolvedLabels, resolve_labels
from xrayfast.data.labels.spellings import join_spellings
from xrayfast.data.labels.targets import UNCERTAIN, Targets, join_labels, to_truth
from xrayfast.data.manifest import Manifest, require_splits
from xrayfast.data.sources.identifiers import describe_rounding
from xrayfast.data.sources.patients.groups import (
    count_shared,
    group_images,
    hash_identifiers,
    pseudonymize,
    studies_everywhere,
    studies_without_patient,
)
from xrayfast.data.sources.read import OTHER_VIEWS, read_source
from xrayfast.data.sources.records import NO_FILE, ImageRecords
from xrayfast.data.sources.split_files import read_split_file
from xrayfast.data.splits.assign import SplitAssignment, assign_splits, keep_given_splits
from xrayfast.data.splits.words import Split
from xrayfast.data.text_column import TextColumn, distinct
from xrayfast.errors import ConfigError, DataError, plural, shorten, truncate
from xrayfast.option_effects import DataFacts, check_effects

_FEW_PATIENTS = 5  # at most this many patients are named as the likely cause of an empty split
_MANY = 20  # fewest images of one patient that a note mentions
_MANY_TIMES = 5  # or those of a patient with this many times the images of any other, if that has several
_MANY_OF_FEW = 5  # mean number of images per patient above which a note mentions that there are few patients
_MOST_NUMBERED = 10  # classes that may be named by numbers alone, or be as many as half of the images
_CHUNK = 1 << 16  # paths held as Python strings at a time


def open_manifest(
    config: DataConfig,
    *,
    to_train: bool = True,
    known_labels: Collection[str] = (),
    leave_out: Mapping[str, str] | None = None,
) -> Manifest:
    """Read a data set: class folders, or a table if one is named or found.

    Args:
        config: what to read, and how.
        to_train: whether the data set must be fit for training. If False, for testing, one image of one class suffices,
            labels without images are kept if some images are known to lack them, given splits are kept, and all other
            images are test.
        known_labels: the labels of a run: where they occur in the data, they are labels exactly as written.
        leave_out: reasons to leave images out, by image name, if the data of a run are opened again; options without
            effect are then not reported.

    Raises:
        DataError: the images, labels, corrections or splits can't be used; the message says where and what to do.
        ConfigError: options contradict each other or the layout.
    """
    options = [name for name in ("ignore_split", "split_file", "split_col") if getattr(config, name)]
    if len(options) > 1:
        raise ConfigError(f"found both {options[0]} and {options[1]}; expected one. Leave out one of the two.")
    idle = check_effects(config) + _note_table_of_file(config)
    records, config = read_source(config, known_labels, leave_out)
    labels = resolve_labels(records.labels, config, records.where, keep_absent=not to_train, known=known_labels)
    notes = records.notes + labels.notes
    corrections: list[Correction] = []
    if (file := config.corrections) is not None:
        accepted, sha256 = read_corrections(file, config.corrections_sha256)
        config = config.model_copy(update={"corrections_sha256": sha256})
        out = {name for _, left in records.left_out for name in left}
        labels, corrections = apply_corrections(labels, records.names, accepted, out, config.imply)
        notes += describe_corrections(file, sha256, corrections, len(accepted))
    truth = to_truth(labels.targets)
    if to_train:
        _require_learnable(truth, labels.names, labels.task, records)
    given, split_notes = _given_splits(records, config, complete=not to_train or leave_out is not None)
    splits = _assign_splits(given, truth, labels, records, config) if to_train else keep_given_splits(given)
    notes += split_notes + splits.notes
    if leave_out is None:
        notes += idle + check_effects(config, _facts(records, labels, splits, given, config, to_train))
    studies = studies_everywhere(records.patients, records.studies)
    public = [owner and f"{records.archive} {owner}" for owner in records.patients or ()] if records.archive else None
    identities = np.column_stack([hash_identifiers(ids, len(truth)) for ids in (records.patients, studies, public)])
    return Manifest(
        _build_table(records, splits.names, join_labels(truth == 1, labels.names)),
        tuple(labels.names),
        labels.targets,
        labels.task,
        config,
        tuple(map(truncate, notes)),
        splits.drawn,
        tuple((why, tuple(names)) for why, names in records.left_out),
        tuple(corrections),
        identities,
    )


def _note_table_of_file(config: DataConfig) -> list[str]:
    """Return a note if a config file names a table that is not near the data, which were given in place of its own."""
    given, labels, source = config.model_fields_set, config.labels, config.source.absolute()
    if labels is None or "source" not in given or "labels" in given:
        return []
    folder = labels.absolute().parent
    if folder in (source, *source.parents) or source in folder.parents:
        return []
    return [
        f"The labels of {config.source} are read from {labels}, which the config file names: if that is the table of "
        "other data, give --labels too, or leave 'labels' out of the file."
    ]


def _given_splits(
    records: ImageRecords, config: DataConfig, *, complete: bool
) -> tuple[Sequence[Split | None], list[str]]:
    """Return the splits of the split file, else those of the source, None for images without one; and notes."""
    if not config.split_file:
        return records.splits or [None] * len(records.names), []
    reason = OTHER_VIEWS.format(config.views)
    other_views = [name for why, names in records.left_out if why == reason for name in names]
    given, notes = read_split_file(config.split_file, records.names, complete=complete, other_views=other_views)
    unused = ["The data set's own split is not used, because split_file is set."] if records.splits else []
    return given, notes + unused


def _assign_splits(
    given: Sequence[Split | None],
    truth: npt.NDArray[np.int8],
    labels: ResolvedLabels,
    records: ImageRecords,
    config: DataConfig,
) -> SplitAssignment:
    """Draw the splits that are not given; the notes also say what is odd about the patients and the splits."""
    notes = [] if config.split_file else _check_patients(records)
    groups = group_images(records.patients, records.studies)
    unit = "patient" if any(records.patients or ()) else "study, because no patients are known"
    splits = assign_splits(given, (truth == 1).astype(np.uint8), groups, config, unit)
    notes += splits.notes
    notes += _note_shared("patient", records.patients, splits.names)
    notes += _note_shared("study", studies_without_patient(records.patients, records.studies), splits.names)
    try:
        notes += require_splits(truth, labels.names, splits.names, labels.task)
    except DataError as error:
        raise DataError(*error.args, *_describe_few(records)) from error
    return replace(splits, notes=notes)


def _facts(
    records: ImageRecords,
    labels: ResolvedLabels,
    splits: SplitAssignment,
    given: Sequence[Split | None],
    config: DataConfig,
    to_train: bool,
) -> DataFacts:
    """Return the facts that decide which options have an effect; when testing, no drawn split is expected."""
    raw = records.labels
    return DataFacts(
        table=config.labels is not None,
        flags=raw.flags,
        no_finding=labels.task == "multi" and not raw.keep_no_finding and any(map(is_no_finding, labels.names)),
        given=frozenset(given if to_train else ()),
        own_split=records.own_split,
        drawn=bool(splits.drawn.any()) or not to_train,
        missing=any(why == NO_FILE for why, _ in records.left_out),
        spellings=lambda: bool(join_spellings(labels.names, labels.targets == 1)[1]),
        dicom=lambda: any(map(is_dicom_file, records.paths)),
    )


def _require_learnable(truth: npt.NDArray[np.int8], labels: Sequence[str], task: Task, records: ImageRecords) -> None:
    """Raise an error unless a label is present on some images and absent on others, and each class has two images.

    The minimum of two images is for single-label tasks. The error's advice considers that uncertain and blank cells of
    the raw matrix, or a column of something else than labels, may be the cause.
    """
    raw: Targets = records.labels.matrix
    totals = (truth == 1).sum(0)
    if not ((totals > 0) & (truth == 0).any(0)).any():
        found = f"only one class, '{labels[0]}'" if len(labels) == 1 else "no labels"
        if len(labels) > 1:
            found = f"no image on which one of these labels is 0: {shorten(labels)}"
        advice = "Add a folder or images of another class."
        if (raw == UNCERTAIN).any():
            advice = "Cells of -1 mean uncertain and are masked: --uncertain zeros makes -1 the negative."
        elif np.isnan(raw).any():
            advice = "Blank cells are masked: --blank zeros makes them the negatives."
        raise DataError(f"found {found}; expected at least 2 classes. {advice}")
    if task == "single" and totals.min() < 2:
        advice = "Add images or remove the class."
        odd = len(labels) > _MOST_NUMBERED and (
            2 * len(labels) > len(truth) or all(label[:1].isdigit() for label in labels)
        )
        if odd and (columns := records.describe_columns()):
            advice = f"{shorten(labels, 3)} look like ages, dates or identifiers, not like classes. {columns}"
        raise DataError(
            f"class '{labels[int(totals.argmin())]}' has 1 image; at least 2 are needed, one to train and "
            f"one to validate. {advice}"
        )


def _check_patients(records: ImageRecords) -> list[str]:
    """Raise an error if one identifier is on all images, as in anonymized files; return a note if it is on most, or on
    far more than any other, or if there are few.
    """
    known = {patient: n for patient, n in TextColumn.of(records.patients or ()).counts().items() if patient}
    most, second, *_ = [*sorted(known.values(), reverse=True), 0, 0]
    if most < len(records.names) or most < 2:
        is_half = most >= _MANY and most > len(records.names) / 2
        if not is_half and not most >= _MANY_TIMES * second > _MANY_TIMES:
            are_few = _MANY_OF_FEW * len(known) <= sum(known.values()) > len(records.names) / 2
            return _describe_few(records) if are_few else []
        return [
            f"One patient has {most:,} of {len(records.names):,} images, which stay in one split. If this identifier "
            f"stands for anonymized files or unknown patients, split by image with --patient-col none."
        ]
    if rounded := describe_rounding(records.patients or ()):
        raise DataError(f"all {len(records.names):,} images have the same patient. {rounded}")
    raise DataError(
        f"all {len(records.names):,} images have the same patient{records.patient_shown}: identifiers look anonymized, "
        "so the images can't be split by patient. Split by image with --patient-col none, or give another column or "
        f"'name:REGEX' that distinguishes patients."
    )


def _describe_few(records: ImageRecords) -> list[str]:
    """Explain a lack of images in a split by few patients, or studies of unknown patients, which stay in one split."""
    if any(distinct(records.patients or ())):
        what, found = "patient", records.patients or ()
        way_out = "give another column with --patient-col, or split by image with --patient-col none."
    else:
        what, found, way_out = "study", records.studies or (), "split by image with --study-col none."
    few = sum(map(bool, distinct(found)))
    if not 0 < few <= _FEW_PATIENTS:
        return []
    return [
        f"The images are of {plural(few, what)}, and all images of a {what} stay in one split. "
        + (describe_rounding(found) or f"If that is wrong, {way_out}")
    ]


def _note_shared(what: str, identifiers: Sequence[str | None] | None, splits: Sequence[str]) -> list[str]:
    """Return a note if a patient or study is in two given splits, which are kept as they are."""
    shared, known = count_shared(identifiers, splits)
    verb = "is" if shared == 1 else "are"
    note = f"{shared:,} of {plural(known, what)} {verb} in more than one given split: "
    return [note + "results on valid and test will be optimistic."] if shared else []


def _build_table(records: ImageRecords, splits: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Build the manifest's table, without columns of which nothing is known, except `patient`."""
    n = len(records.names)
    chunks = range(0, n, _CHUNK) or [0]
    path = pd.concat([pd.Series([*records.paths[start : start + _CHUNK]]) for start in chunks], ignore_index=True)
    table: pd.DataFrame = pd.DataFrame({"image": records.names, "path": path})
    patients = pseudonymize(records.patients, "P")
    table["patient"] = _texts([None] * n if patients is None else patients)
    table["split"], table["labels"] = list(splits), labels
    if records.sexes and any(records.sexes):
        table["sex"] = _texts(records.sexes)
    if records.ages and not np.isnan(records.ages).all():
        table["age"] = np.array(records.ages, np.float64)
    if records.views and any(records.views):
        table["view"] = _texts(records.views)
    if (studies := pseudonymize(records.studies, "S")) is not None:
        table["study"] = _texts(studies)
    return table


def _texts(values: Sequence[str | None] | npt.NDArray[np.object_]) -> pd.Series[Any]:
    """Return a column in which None stays None; pandas would turn it into NaN."""
    return pd.Series(cast(Any, values), dtype=object)
