"""Decode the images of a data set, and compare their pixels with those that a run or a split file recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.cache.shards import ImageInfo
from xrayfast.data.decoding import decode_manifest
from xrayfast.data.images.notes import describe_notes, note_enlarged
from xrayfast.data.manifest import Manifest
from xrayfast.data.sources.tables import read_table
from xrayfast.data.splits.assign import is_split_list
from xrayfast.errors import ReadError, plural, shorten
from xrayfast.files.csv_tables import read_csv
from xrayfast.progress import StageProgress, no_progress
from xrayfast.runs.run import Run


def decode(
    data: Manifest, size: int, progress: StageProgress = no_progress, *, may_leave_out: bool = True
) -> tuple[Manifest, DecodedImages]:
    """Run `decode_manifest`, report its progress as the stage "decoding", and note images unlike those split before."""
    data, images = decode_manifest(data, size, partial(progress, "decoding"), may_leave_out=may_leave_out)
    if may_leave_out:
        data = note_other_pixels(data, images)
    return data, images


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


def image_infos(data: Manifest, images: DecodedImages) -> list[ImageInfo]:
    """Return the ImageInfo of each file of a data set whose images are decoded."""
    return images.infos(data.table["path"].tolist())


def describe_reading(names: Sequence[str], infos: Sequence[ImageInfo], side: int) -> list[str]:
    """Return the notes on how images were read and fitted into a square of `side` pixels, as sentences."""
    return describe_notes(names, [info.notes + note_enlarged(info.width, info.height, side) for info in infos])


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


def _digest(images: DecodedImages, path: str) -> str | None:
    try:
        return images.info(path).digest
    except ReadError:
        return None
