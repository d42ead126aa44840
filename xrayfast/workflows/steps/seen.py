"""Images of other data that a network may be evaluated on: readable, and not seen in training.

Images are compared by their decoded pixels, whatever their files are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from xrayfast.audit.features import StageProgress
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.manifest import Manifest
from xrayfast.errors import DataError, RunError, plural, shorten
from xrayfast.files import read_csv
from xrayfast.run import Run
from xrayfast.workflows.steps.label_match import LabelMatch

REASONS = {"train": "seen in training", "valid": "seen in validation"}
"""Why images of a run's own split are left out; on valid, the best epoch and the thresholds were chosen."""


@dataclass(frozen=True, eq=False)
class UnseenImages:
    """The images to evaluate on, and those left out.

    Attributes:
        rows: of the manifest, ascending; at least one.
        left_out: reasons to leave images out, and the number of images.
        unreadable: the error of each file that can't be read, by the image's name.
        own_test: images that are in the run's own test split.
    """

    rows: npt.NDArray[np.intp]
    left_out: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...]
    unreadable: Mapping[str, str]
    own_test: int = 0


def exclude_seen(
    run: Run, data: Manifest, matched: LabelMatch, images: DecodedImages, progress: StageProgress | None = None
) -> UnseenImages:
    """Leave out images without a label known to the run, unreadable ones, and those seen in training or validation.

    The images are decoded here; `progress` is called during that stage.

    Raises:
        DataError: no image is left; the message says why.
    """
    paths, names = data.table["path"].tolist(), data.table["image"].tolist()
    rows = np.flatnonzero(matched.usable)
    left_out, warnings = list(matched.left_out), list[str]()
    problems = images.build([paths[row] for row in rows], None if progress is None else partial(progress, "decoding"))
    unreadable = {names[row]: problems[paths[row]] for row in rows if paths[row] in problems}
    if unreadable:
        left_out.append(("unreadable", len(unreadable)))
        verb = "file can't" if len(unreadable) == 1 else "files can't"
        warnings.append(f"{len(unreadable)} {verb} be read: {shorten(unreadable)}.")
    rows = np.array([row for row in rows if names[row] not in unreadable], np.intp)
    own_test = 0
    splits = find_run_splits(run, [images.info(paths[row]).digest for row in rows])
    if splits is None:
        warnings.append(
            "The run is of an older version that recorded no digests of its images: whether it was trained on some of "
            "these images could not be checked."
        )
    else:
        left_out += [(why, n) for split, why in REASONS.items() if (n := int((splits == split).sum()))]
        rows = rows[~np.isin(splits, list(REASONS))]
        own_test = int((splits == "test").sum())
    if not len(rows):
        reasons = "; ".join(f"{n} {why}" for why, n in left_out)
        is_seen = any(why in REASONS.values() for why, _ in left_out)
        unseen = "Evaluate on images that the network was neither trained nor selected on."
        raise DataError(
            f"{data.config.source}: none of {len(data)} images is left to evaluate on: {reasons}. "
            f"{unseen if is_seen else 'Use other images.'}"
        )
    if own_test:
        warnings.append(
            f"{plural(own_test, 'image')} of {len(rows)} are in the run's own test split: on them this is no external "
            "test."
        )
    return UnseenImages(rows, tuple(left_out), tuple(warnings), unreadable, own_test)


def find_run_splits(run: Run, digests: Sequence[str]) -> npt.NDArray[np.object_] | None:
    """The split of the run's own data that each image is in, found by the N digests of decoded pixels.

    Returns:
        (N,) "train", "valid", "test", or "" for images in none; None where the run is of an older version that
        recorded no digests.

    Raises:
        RunError: `split.csv` is missing or damaged.
    """
    path = run.split_path
    table = read_csv(path, dtype=str, keep_default_na=False)
    if "digest" not in table or not (table["digest"] != "").any():
        return None
    if "split" not in table:
        raise RunError(f"{path}: lacks the column split; found {shorten(table.columns)}.")
    # An image in two splits counts for the one that biases the evaluation more, which is written last.
    split_of: dict[str, str] = {}
    for split in ("test", "valid", "train"):
        split_of |= dict.fromkeys(table["digest"][(table["split"] == split) & (table["digest"] != "")], split)
    return np.array([split_of.get(digest, "") for digest in digests], dtype=object)
