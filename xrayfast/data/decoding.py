"""The decoded images of a data set."""

from __future__ import annotations

from xrayfast.data.cache.image_cache import DecodedImages, Progress, decode_images, open_images
from xrayfast.data.manifest import Manifest, open_manifest

UNREADABLE = "unreadable"
"""Why images are left out whose files can't be read."""


def decode_manifest(data: Manifest, side: int, progress: Progress | None = None) -> tuple[Manifest, DecodedImages]:
    """A data set's images, each fitted into a square of `side` pixels, decoded unless they are cached.

    Returns:
        The data set, without its unreadable images where the config says to skip them, as if they were not there: what
        was drawn of the split is drawn again; and the images.

    Raises:
        DataError: files that can't be read, and the config says so; or what is left can't be used.
        WriteError: no disk space for the cache.
    """
    paths = data.table["path"].tolist()
    if data.config.unreadable == "error":
        return data, decode_images(data.config, side, paths, progress)
    images = open_images(data.config, side)
    if problems := images.build(paths, progress):
        unreadable = [name for name, path in zip(data.table["image"], paths, strict=True) if path in problems]
        left_out = {name: why for why, names in data.left_out for name in names}
        data = open_manifest(data.config, leave_out=left_out | dict.fromkeys(unreadable, UNREADABLE))
    return data, images
