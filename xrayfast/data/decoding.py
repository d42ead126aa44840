"""The decoded images of a data set."""

from __future__ import annotations

from xrayfast.data.cache.image_cache import DecodedImages, DecodingProgress, decode_images, open_images
from xrayfast.data.images.notes import TWO_SHADES
from xrayfast.data.manifest import Manifest, open_manifest

UNREADABLE = "unreadable"
"""Why images are left out whose files can't be read."""

BLACK_AND_WHITE = f"{TWO_SHADES}, as masks are"
"""Why images are left out that are no radiographs by their content."""


def decode_manifest(
    data: Manifest, side: int, progress: DecodingProgress | None = None, *, may_leave_out: bool = True
) -> tuple[Manifest, DecodedImages]:
    """A data set's images, each fitted into a square of `side` pixels, decoded unless they are cached.

    Returns:
        The data set and the images. Left out, as if they were not there, so that what was drawn of the split is drawn
        again: unreadable files where the config says to skip them, and images of two shades unless it keeps masks, or
        all images are such. None are where they may not be, as where a run is resumed.

    Raises:
        DataError: files that can't be read, and the config says so; or what is left can't be used.
        WriteError: no disk space for the cache.
    """
    config, names, paths = data.config, data.table["image"].tolist(), data.table["path"].tolist()
    reasons: dict[str, str] = {}
    if config.unreadable == "skip" and may_leave_out:
        images = open_images(config, side)
        problems = images.build(paths, progress)
        reasons = {name: UNREADABLE for name, path in zip(names, paths, strict=True) if path in problems}
    else:
        images = decode_images(config, side, paths, progress)
    if may_leave_out and not config.keep_masks:
        readable = [(name, path) for name, path in zip(names, paths, strict=True) if name not in reasons]
        masks = [name for name, path in readable if TWO_SHADES in images.info(path).notes]
        reasons |= dict.fromkeys(masks if len(masks) < len(readable) else [], BLACK_AND_WHITE)
    if reasons:
        left_out = {name: why for why, names in data.left_out for name in names}
        data = open_manifest(config, leave_out=left_out | reasons)
    return data, images
