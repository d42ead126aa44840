"""Which images of other data a network can be tested on: those that can be read and that it has not seen before.

An image is known by what is decoded from it, whatever its file is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.manifest import Manifest
from xrayfast.errors import DataError, RunError, plural, shorten
from xrayfast.run import Run
from xrayfast.workflows.label_match import LabelMatch

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the images done and the images in all."""

REASONS = {"train": "seen in training", "valid": "seen in validation"}
"""Why an image says nothing of a network: it has learned it, or its best epoch and thresholds were chosen on it."""


@dataclass(frozen=True, eq=False)
class Sifted:
    """The images that are left to test on.

    Attributes:
        rows: of the manifest, ascending; at least one.
        left_out: why the others are not among them, and how many.
        warnings: what a reader must know, in sentences.
        unreadable: what is wrong with each file that can't be read, by the image's name.
        own_test: images that are left and stand in the run's own test split.
    """

    rows: npt.NDArray[np.intp]
    left_out: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...]
    unreadable: Mapping[str, str]
    own_test: int = 0


def exclude_seen(
    run: Run, data: Manifest, matched: LabelMatch, images: DecodedImages, progress: Progress | None = None
) -> Sifted:
    """Leave out images that have no known label, can't be read, or have taught the network something.

    Args:
        run: that is tested.
        data: all images.
        matched: which of them have labels that the run knows.
        images: of the data; those that are left are built.
        progress: told of the stage "decoding".

    Raises:
        DataError: none is left; the message says why.
    """
    paths, names = data.table["path"].tolist(), data.table["image"].tolist()
    rows = np.flatnonzero(matched.kept)
    left_out, warnings = list(matched.left_out), list[str]()
    problems = images.build([paths[row] for row in rows], None if progress is None else partial(progress, "decoding"))
    unreadable = {names[row]: problems[paths[row]] for row in rows if paths[row] in problems}
    if unreadable:
        left_out.append(("unreadable", len(unreadable)))
        verb = "file can't" if len(unreadable) == 1 else "files can't"
        warnings.append(f"{len(unreadable)} {verb} be read: {shorten(unreadable)}.")
    rows = np.array([row for row in rows if names[row] not in unreadable], np.intp)
    own_test = 0
    splits = seen_in(run, [images.info(paths[row]).digest for row in rows])
    if splits is None:
        warnings.append(
            "The run is of an older version that keeps no digests of its images: whether it was trained on some of "
            "these images could not be checked."
        )
    else:
        left_out += [(why, n) for split, why in REASONS.items() if (n := int((splits == split).sum()))]
        rows = rows[~np.isin(splits, list(REASONS))]
        own_test = int((splits == "test").sum())
    if not len(rows):
        raise DataError(_nothing_left(data, left_out))
    if own_test:
        warnings.append(
            f"{plural(own_test, 'image')} of {len(rows)} stand in the run's own test split: they are no external test."
        )
    return Sifted(rows, tuple(left_out), tuple(warnings), unreadable, own_test)


def _nothing_left(data: Manifest, left_out: Sequence[tuple[str, int]]) -> str:
    reasons = "; ".join(f"{n} {why}" for why, n in left_out)
    seen = any(why in REASONS.values() for why, _ in left_out)
    advice = "Test on images that the network was neither trained on nor chosen by." if seen else "Use other images."
    return f"{data.config.source}: none of {len(data)} images is left to measure on: {reasons}. {advice}"


def seen_in(run: Run, digests: Sequence[str]) -> npt.NDArray[np.object_] | None:
    """The part of a run's own data in which each image stands.

    Args:
        run: whose `split.csv` has a digest an image.
        digests: N, as `ImageInfo` has them: of decoded pixels, so that a copy in another lossless format
            has the same.

    Returns:
        (N,) "train", "valid", "test", or "" for images that are in none; None where the run is of an older version
        and has no digests.

    Raises:
        RunError: `split.csv` is missing or damaged.
    """
    path = run.split_path
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise RunError(f"{path}: can't be read as a table ({error}).") from error
    if "digest" not in table or not (table["digest"] != "").any():
        return None
    if "split" not in table:
        raise RunError(f"{path}: lacks the column split; found {shorten(table.columns)}.")
    # An image in two splits counts for the one that has taught the network more.
    rank = {split: i for i, split in enumerate(("test", "valid", "train"))}
    places: dict[str, str] = {}
    for digest, split in zip(table["digest"], table["split"], strict=True):
        if digest and rank.get(split, -1) >= rank.get(places.get(digest, ""), -1):
            places[digest] = split
    return np.array([places.get(digest, "") for digest in digests], dtype=object)
