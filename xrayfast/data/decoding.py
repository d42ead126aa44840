"""The decoded images of a data set."""

from __future__ import annotations

from dataclasses import replace

from xrayfast.data.cache.image_cache import DecodedImages, DecodingProgress, decode_images, open_images
from xrayfast.data.images.names import is_derived
from xrayfast.data.images.notes import find_other_images
from xrayfast.data.manifest import Manifest, open_manifest
from xrayfast.option_effects import DecodedFacts, check_effects

UNREADABLE = "unreadable"
"""Why images are left out whose files can't be read."""


def decode_manifest(
    data: Manifest, side: int, progress: DecodingProgress | None = None, *, may_leave_out: bool = True
) -> tuple[Manifest, DecodedImages]:
    """A data set's images, each fitted into a square of `side` pixels, decoded unless they are cached.

    Returns:
        The data set and the images. Left out, as if they were not there, so that what was drawn of the split is drawn
        again: unreadable files where the config says to skip them, and those of `find_other_images` unless it keeps
        masks. None are where they may not be, as where a run is resumed.

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
    if not may_leave_out:
        return data, images
    unreadable = bool(reasons)
    readable = {name: path for name, path in zip(names, paths, strict=True) if name not in reasons}

    def others() -> dict[str, str]:
        return find_other_images(list(readable), [images.info(path).notes for path in readable.values()])

    if not config.keep_masks:
        reasons |= others()
    if reasons:
        left_out = {name: why for why, names in data.left_out for name in names}
        data = open_manifest(config, leave_out=left_out | reasons)
    facts = DecodedFacts(unreadable, lambda: any(map(is_derived, names)) or bool(others()))
    return replace(data, notes=tuple(dict.fromkeys([*data.notes, *check_effects(config, facts)]))), images
