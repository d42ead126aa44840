"""Decode the images of a data set."""

from __future__ import annotations

from dataclasses import replace

from xrayfast.data.cache.image_cache import DecodedImages, DecodingProgress, open_images, require_readable
from xrayfast.data.images.names import is_derived
from xrayfast.data.images.notes import find_other_images
from xrayfast.data.manifest import Manifest
from xrayfast.data.open_manifest import open_manifest
from xrayfast.option_effects import DecodedFacts, check_effects

UNREADABLE = "unreadable"
"""Why images are left out if their files can't be read."""


def decode_manifest(
    data: Manifest, side: int, progress: DecodingProgress | None = None, *, may_leave_out: bool = True
) -> tuple[Manifest, DecodedImages]:
    """Decode a data set's images, each fitted into a square of `side` pixels, unless they are cached.

    Returns:
        The data set and the images. Images are left out, and drawn splits drawn again without them, if their files are
        unreadable and the config says to skip such files, or if `find_other_images` finds them and the config doesn't
        keep masks. With `may_leave_out=False`, for example on resume, none are left out.

    Raises:
        DataError: files can't be read and may not be skipped, or the remaining images can't be used.
        WriteError: there is no disk space for the cache.
    """
    config, names, paths = data.config, data.table["image"].tolist(), data.table["path"].tolist()
    images = open_images(config, side)
    problem_of = images.build(paths, progress)
    problems = {name: problem_of[path] for name, path in zip(names, paths, strict=True) if path in problem_of}
    if not may_leave_out:
        require_readable(list(problems.values()), len(names))
        return data, images
    readable = {name: path for name, path in zip(names, paths, strict=True) if name not in problems}
    notes = [info.notes for info in images.infos(readable.values())]
    others = find_other_images(dict(zip(readable, notes, strict=True)), problems)
    reasons = {} if config.keep_masks else others
    if config.unreadable == "skip":
        reasons = dict.fromkeys(problems, UNREADABLE) | reasons
    require_readable([problem for name, problem in problems.items() if name not in reasons], len(names))
    if reasons:
        left_out = {name: why for why, names in data.left_out for name in names}
        data = open_manifest(config, leave_out=left_out | reasons)
    facts = DecodedFacts(bool(problems), bool(others) or any(map(is_derived, names)))
    return replace(data, notes=tuple(dict.fromkeys([*data.notes, *check_effects(config, facts)]))), images
