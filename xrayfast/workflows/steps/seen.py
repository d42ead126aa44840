"""Find the images of other data that a network may be evaluated on: readable radiographs that it has not seen before.

Images are recognized by their decoded pixels, whatever the names of their files. If the run's own data still exist,
near duplicates are found too, with the search of `xrayfast check`, and so are the same patients and studies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from xrayfast.audit.duplicates import near_pairs
from xrayfast.audit.features import DETAIL, LEAST_SIDE, compute_features, detailed_thumbnails
from xrayfast.data.arrays import Integers
from xrayfast.data.cache.image_cache import DecodedImages, open_images
from xrayfast.data.images.notes import find_other_images
from xrayfast.data.images.reader import Pixels
from xrayfast.data.manifest import Manifest
from xrayfast.data.sources.patients.groups import hash_identifiers
from xrayfast.data.sources.patients.image_names import patients_in_public_names
from xrayfast.data.splits.assign import connect_pairs
from xrayfast.errors import DataError, plural, shorten
from xrayfast.files.csv_tables import read_csv
from xrayfast.metrics.claims.headline import Remark
from xrayfast.progress import StageProgress, no_progress
from xrayfast.runs.names import SPLIT_FILE
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.data.opening import with_absolute_paths
from xrayfast.workflows.steps.data.reopening import find_data
from xrayfast.workflows.steps.label_match import LabelMatch

REASONS = {"train": "seen in training", "valid": "seen in validation"}
"""The reason to leave out images of each split of a run; the best epoch and the thresholds were chosen on valid."""

WAYS = ("", " (near duplicate)", " (other images of the patient)", " (other images of the study)")
"""Endings of a reason that say how an image was recognized: as equal, as near duplicate, or by an identifier."""

NUMBERED_ALIKE = (
    "If two sources only use the same numbers for different patients, --patient-col none ignores identifiers."
)

OTHER_PATIENTS = (
    "but no image and no study is: they are assumed to be different patients, because identifiers such as p0001 are "
    "common. If both data sets come from the same archive, leave these patients out."
)
"""The end of a sentence on patient identifiers that the run and other data share, although nothing else matches."""

NOT_FOUND = (
    "The run's own data have been moved, deleted or changed: only identical images were searched for, not copies "
    "that were re-encoded, scaled or cropped, and not patients."
)

NOT_IN_FILE = (
    "Exported files and downloaded runs do not record which images the network was trained on, so it could not be "
    "checked whether some of these images are among them. 'xrayfast evaluate RUN DATA' with the run's own folder "
    "leaves such images out."
)

SAME_ARCHIVE = (
    "File names or tables on both sides are those of one public data set, so these are the same persons. --patient-col "
    "none ignores identifiers."
)
"""The end of a sentence on patients that the run and other data share by names of files, or tables, of a public data
set."""

PATIENTS_UNKNOWN = "Images were compared with those of training, but it is not known whether the patients are the same."


@dataclass(frozen=True, eq=False)
class UnseenImages:
    """The images to evaluate on, and those left out.

    Attributes:
        rows: rows of the manifest, ascending; at least one.
        left_out: reasons to leave images out, with their numbers of images.
        unreadable: the error of each file that can't be read, keyed by the image's name.
        own_test: number of images that are in the run's own test split.
        looked: sentences on how seen images were looked for.
    """

    rows: npt.NDArray[np.intp]
    left_out: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...]
    unreadable: Mapping[str, str]
    own_test: int = 0
    looked: tuple[str, ...] = ()


def exclude_seen(
    run: Run | None, data: Manifest, matched: LabelMatch, images: DecodedImages, progress: StageProgress = no_progress
) -> UnseenImages:
    """Leave out images that can't be evaluated on, and images that the run has seen.

    The former are images without a label known to the run, unreadable images, and images that are no radiographs. The
    latter were seen in training or validation, and are recognized by their pixels, as near duplicates, by patient or by
    study.

    This decodes the images; `progress` is called during that stage. Without a run, as for an exported file, seen images
    can't be looked for, and a warning says so.
    """
    paths, names = data.table["path"].tolist(), data.table["image"].tolist()
    rows = np.flatnonzero(matched.usable)
    left_out, warnings = list(matched.left_out), list[str]()
    problems = images.build([paths[row] for row in rows], partial(progress, "decoding"))
    unreadable = {names[row]: problems[paths[row]] for row in rows if paths[row] in problems}
    readable = [row for row in rows.tolist() if paths[row] not in problems]
    infos = images.infos([paths[row] for row in readable])
    notes = {names[row]: info.notes for row, info in zip(readable, infos, strict=True)}
    others = {} if data.config.keep_masks else find_other_images(notes, unreadable)
    unreadable = {name: problem for name, problem in unreadable.items() if name not in others}
    if unreadable:
        left_out.append(("unreadable", len(unreadable)))
        verb = "file can't" if len(unreadable) == 1 else "files can't"
        warnings.append(f"{len(unreadable)} {verb} be read: {shorten(unreadable)}.")
    rows = np.array([row for row in rows if names[row] not in {*unreadable, *others}], np.intp)
    left_out += [(why, len(images)) for why, images in data.left_out]
    left_out += Counter(others.values()).items()
    own_test, looked = 0, list[str]()
    if run is None:
        warnings.append(NOT_IN_FILE)
    elif (splits := find_run_splits(run, _digests(images, paths, rows))) is None:
        warnings.append(
            "The run was made by an older version that recorded no digests of its images, so it could not be checked "
            "whether it was trained on some of these images."
        )
    else:
        ways, looked, not_found = _find_in_run(run, data, rows, splits, images, progress)
        warnings += not_found
        split_of = np.full(len(rows), "", object)
        for way, found in zip(WAYS, ways, strict=False):
            new = (split_of == "") & np.isin(found, list(REASONS))
            left_out += [(why + way, n) for split, why in REASONS.items() if (n := int((found[new] == split).sum()))]
            split_of[new] = found[new]
        rows, own_test = rows[split_of == ""], int((np.array(ways[:2]) == "test").any(0)[split_of == ""].sum())
    looked += _note_repeated([names[row] for row in rows], _digests(images, paths, rows), matched.truth[rows])
    if not len(rows):
        raise DataError(_nothing_left(data, matched, left_out, unreadable))
    if own_test:
        warnings.append(
            f"{plural(own_test, 'image')} of {len(rows)} are in the run's own test split: this is not an external test."
        )
    return UnseenImages(rows, tuple(left_out), tuple(warnings), unreadable, own_test, tuple(looked))


def describe_seen(run: Run, data: Manifest, images: DecodedImages, progress: StageProgress = no_progress) -> list[str]:
    """Return warnings on images or patients that a run, whose weights start a new run, has seen before.

    Results of the new run are optimistic if the first run was trained on images or patients of the new validation or
    test split, or selected on those of the new test split.
    """
    if run.downloaded and not (run.path / SPLIT_FILE).is_file():
        return [
            f"{run.downloaded}: does not record which images its network was trained on, so it could not be checked "
            "whether some of the validation or test split are among them."
        ]
    splits = data.table["split"].to_numpy()
    rows = np.flatnonzero(np.isin(splits, ("valid", "test")))
    paths = data.table["path"].tolist()
    equal = find_run_splits(run, _digests(images, paths, rows))
    if equal is None:
        return [
            f"{run.path}: was made by an older version that recorded no digests of its images, so it could not be "
            "checked whether it was trained on images of the validation or test split."
        ]
    ways, looked, warnings = _find_in_run(run, data, rows, equal, images, progress)
    warnings += [text for text in looked if text.endswith(OTHER_PATIENTS)]
    found = []
    for split, reasons in (("valid", ("train",)), ("test", ("train", "valid"))):
        left, seen = splits[rows] == split, list[str]()
        total = int(left.sum())
        for way, of_run in zip(WAYS, ways, strict=False):
            for reason in reasons:
                if n := int((hits := left & (of_run == reason)).sum()):
                    seen.append(f"{n} {REASONS[reason]}{way}")
                left &= ~hits
        if seen:
            found.append(f"of {plural(total, 'image')} in the {split} split: {'; '.join(seen)}")
    warnings = [f"{run.path}: {text}" for text in warnings]
    if found:
        text = f"and results on them are optimistic: {run.path}, {', and '.join(found)}."
        warnings.insert(0, f"{Remark.SEEN_BEFORE}, {text}")
    return warnings


def _note_repeated(names: Sequence[str], digests: Sequence[str], truth: npt.NDArray[np.int64]) -> list[str]:
    """Return a note on images with the pixels of an earlier one, and one on those whose labels contradict it."""
    first = dict[str, int]()
    pairs = [(at, earlier) for at, digest in enumerate(digests) if (earlier := first.setdefault(digest, at)) != at]
    other = [(a, b) for a, b in pairs if ((truth[a] != truth[b]) & (truth[a] >= 0) & (truth[b] >= 0)).any()]
    return [
        f"{plural(len(found), 'image')} with the pixels of another one, {end}: "
        f"{shorten((f'{names[a]} (as {names[b]})' for a, b in found), 3)}."
        for found, end in ((pairs, "each evaluated"), (other, "but other labels, of which one is wrong"))
        if found
    ]


def _digests(images: DecodedImages, paths: Sequence[str], rows: npt.NDArray[np.intp]) -> list[str]:
    return [info.digest for info in images.infos([paths[row] for row in rows])]


def _nothing_left(
    data: Manifest, matched: LabelMatch, left_out: Sequence[tuple[str, int]], unreadable: Mapping[str, str]
) -> str:
    """Return the error message that says why no image is left to evaluate on, and what to do."""
    reasons, total = "; ".join(f"{n} {why}" for why, n in left_out), sum(n for _, n in left_out)
    advice = []
    if any(why.startswith(tuple(REASONS.values())) for why, _ in left_out):
        advice.append(
            "Use images that the network was neither trained nor selected on; 'xrayfast evaluate RUN' without DATA "
            "evaluates on the run's own test split, if it has one."
        )
    if unreadable:
        advice.append(f"The first that can't be read: {next(iter(unreadable.values()))}")
    if any(why.endswith(WAYS[2:]) for why, _ in left_out):
        advice.append(NUMBERED_ALIKE)
    if labels := _name_labels(matched):
        advice.append(labels)
    text = f"{data.config.shown}: none of the {plural(total, 'image')} can be used for evaluation: {reasons}."
    return " ".join([text, *(advice or ["Use other images."])])


def _name_labels(matched: LabelMatch) -> str:
    """Return a sentence on the labels of the data that the network lacks and those that it has; "" if it lacks none."""
    if not matched.unknown:
        return ""
    unknown = shorten(name for name, _ in matched.unknown)
    known = shorten([*matched.used, *matched.lacking])
    return f"The network does not have {unknown}; it has {known}. --label-map merges names."


def _find_in_run(
    run: Run,
    data: Manifest,
    rows: npt.NDArray[np.intp],
    equal: npt.NDArray[np.object_],
    images: DecodedImages,
    progress: StageProgress,
) -> tuple[list[npt.NDArray[np.object_]], list[str], list[str]]:
    """Find the splits of the run that rows of other data are in, in each of `WAYS`.

    Args:
        run: the run.
        data: the other data.
        rows: (N,) the rows.
        equal: (N,) their splits according to equal pixels, from `find_run_splits`: the first of `WAYS`.
        images: the decoded images of the other data.
        progress: called with the progress of the comparison.

    Returns:
        For each of `WAYS` that could be looked for, (N,) splits in the form of `find_run_splits`; sentences on what was
        compared; and warnings.
    """
    if (own := find_data(run)) is None:
        return [equal], [], [NOT_FOUND]
    alike = np.full(len(rows), "", object)
    alike[equal == ""] = _find_alike(own, data, rows[equal == ""], images, progress)
    ours, theirs = ({of.source, of.labels} for of in map(with_absolute_paths, (own.config, data.config)))
    one_archive = bool((equal != "").any() or (alike != "").any() or ours & theirs - {None})
    by_identifier, looked = _find_by_identifier(own, data, rows, from_one_archive=one_archive)
    return [equal, alike, *by_identifier], looked, []


def _find_alike(
    own: Manifest, data: Manifest, rows: npt.NDArray[np.intp], images: DecodedImages, progress: StageProgress
) -> npt.NDArray[np.object_]:
    """Return, for each row, the split of the run's image that it is a near duplicate of, or ""."""
    found = np.full(len(rows), "", object)
    if not len(rows):
        return found
    own_images = open_images(own.config, max(images.side, LEAST_SIDE))
    own_paths, own_splits = own.table["path"].tolist(), own.table["split"].to_numpy()
    problems = own_images.build(own_paths, partial(progress, "decoding"))
    own_rows = np.array([row for row, path in enumerate(own_paths) if path not in problems], np.intp)
    own_features = compute_features(own_paths, own_rows, own_images, progress)
    if images.side < LEAST_SIDE:
        images = open_images(data.config, LEAST_SIDE)
    paths = data.table["path"].tolist()
    features = compute_features(paths, rows, images, progress)
    own_places, places = (list(of.copies().values()) for of in (own_features, features))
    count, own_split = len(own_features.thumbs), own_splits[own_rows]

    def details(thumbs: Integers) -> Pixels:
        loaded: Pixels = np.empty((len(thumbs), DETAIL, DETAIL), np.uint8)
        own = thumbs < count
        loaded[own] = detailed_thumbnails(own_paths, own_features, own_images, thumbs[own])
        loaded[~own] = detailed_thumbnails(paths, features, images, thumbs[~own] - count)
        return loaded

    both = np.concatenate([own_features.thumbs, features.thumbs])
    of_both = np.concatenate(
        [own_features.thumb_rows[[at[0] for at in own_places]], features.thumb_rows[[at[0] for at in places]] + count]
    )
    pairs, _, _ = near_pairs(both, of_both, details, images, progress=progress)
    for split, copies in zip(
        connected_splits(pairs, [own_split[at] for at in own_places], len(places)), places, strict=True
    ):
        found[copies] = split
    return found


def connected_splits(pairs: Integers, own: Sequence[npt.NDArray[np.object_]], count: int) -> list[str]:
    """Return the split of the run's images that each of `count` other images is connected to by pairs, or "".

    Through others too, since an image with many versions is not compared with all of them. If there are several splits,
    it is the one that biases the evaluation most.

    Args:
        pairs: (P, 2) numbers of images, those of the run first.
        own: the splits of the copies of each image of the run.
        count: of the other images.
    """
    groups = connect_pairs(len(own) + count, pairs)
    of_group = dict[int, str]()
    for split in ("test", "valid", "train"):
        of_group |= {groups[i]: split for i, splits in enumerate(own) if (splits == split).any()}
    return [of_group.get(group, "") for group in groups[len(own) :]]


def _find_by_identifier(
    own: Manifest, data: Manifest, rows: npt.NDArray[np.intp], *, from_one_archive: bool
) -> tuple[list[npt.NDArray[np.object_]], list[str]]:
    """Find the split of the run that each row's patient or study is in.

    Equal patients in names of files that follow the pattern of one public data set, or in tables of one, are the same
    persons. Other equal identifiers of patients count only if such a patient or a study matches too, or the data are
    known to be `from_one_archive`: two sources may use the same numbers.

    Returns:
        (N,) splits according to patients, and (N,) according to studies; and sentences on what was compared.
    """
    theirs, ours = _identities(data)[rows], _identities(own)
    patients, studies, in_names = (_splits_of_equal(theirs[:, i], ours[:, i], own) for i in range(3))
    patients, is_same_archive = np.where(in_names != "", in_names, patients), bool((in_names != "").any())
    agree = from_one_archive or is_same_archive or bool((studies != "").any())
    looked = list[str]()
    for column, (what, found) in enumerate((("patient", patients), ("study", studies))):
        total = len(set(theirs[:, column].tolist()) - {0})
        if not total or not ours[:, column].any():
            looked += [PATIENTS_UNKNOWN] if total and what == "patient" else []
            continue
        shared = len(set(theirs[found != "", column].tolist()))
        advice = SAME_ARCHIVE if what == "patient" and is_same_archive else NUMBERED_ALIKE
        end = "." if not shared else f". {advice}" if agree else f", {OTHER_PATIENTS}"
        text = f"{shared} of {plural(total, what)} of these data {'is' if shared == 1 else 'are'} in the run's own data"
        looked.append(f"By identifiers, {text}{end}")
    return [patients if agree else np.full(len(rows), "", object), studies], looked


def _identities(data: Manifest) -> npt.NDArray[np.uint64]:
    """Return (N, 3) hashes of the patient, of the study, and of the patient of a public data set; else 0."""
    known = np.zeros((len(data), 3), np.uint64) if data.identities is None else data.identities
    names = [] if data.config.patient_col == "none" else patients_in_public_names(data.table["image"].tolist())
    in_names = hash_identifiers(names, len(data))
    owner, study, public = known.T
    return np.column_stack([np.where(owner > 0, owner, in_names), study, np.where(public > 0, public, in_names)])


def _splits_of_equal(
    theirs: npt.NDArray[np.uint64], ours: npt.NDArray[np.uint64], own: Manifest
) -> npt.NDArray[np.object_]:
    """Return the split of the run's own data that each hash is in; "" for none and for 0."""
    found = np.full(len(theirs), "", object)
    for split in ("test", "valid", "train"):
        found[np.isin(theirs, ours[(own.table["split"] == split).to_numpy() & (ours > 0)])] = split
    return found


def find_run_splits(run: Run, digests: Sequence[str]) -> npt.NDArray[np.object_] | None:
    """Return the split of the run's own data that each image is in, according to the N digests of decoded pixels.

    Returns:
        (N,) "train", "valid", "test", or "" for images that are not in the run's data; None if the run is of an older
        version that recorded no digests.
    """
    table = read_csv(run.split_path, ["split"], dtype=str, keep_default_na=False)
    if "digest" not in table or not (table["digest"] != "").any():
        return None
    # An image in two splits counts for the one that biases the evaluation more, which is written last.
    split_of: dict[str, str] = {}
    for split in ("test", "valid", "train"):
        split_of |= dict.fromkeys(table["digest"][(table["split"] == split) & (table["digest"] != "")], split)
    return np.array([split_of.get(digest, "") for digest in digests], dtype=object)
