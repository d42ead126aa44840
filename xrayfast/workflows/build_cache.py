"""Decode a data set's images into the cache before training, on one machine or in shares on several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xrayfast.config import Config, field_types
from xrayfast.data.cache.image_cache import ImageCache
from xrayfast.data.cache.shares import Share
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ConfigError
from xrayfast.errors.arguments import check_arguments
from xrayfast.progress import StageProgress, show_progress
from xrayfast.workflows.steps.data.opening import opened_with_notes


@dataclass(frozen=True)
class BuiltCache:
    """The result of `build_cache`.

    Attributes:
        images: number of images in this share; without shares, in the data set.
        unreadable: the error of each image in this share that can't be read, keyed by path.
        to_do: numbers of the shares that are not done yet.
    """

    folder: Path
    images: int
    total: int
    shares: int
    unreadable: Mapping[str, str]
    to_do: tuple[int, ...]
    notes: tuple[str, ...]


@check_arguments(field_types)
def build_cache(
    data: Manifest | Path | str | None = None,
    *,
    config: Config | None = None,
    size: int | None = None,
    shards: str | None = None,
    progress: bool | StageProgress | None = None,
) -> BuiltCache:
    """Decode the images that are not in the cache yet. After any interruption, call it again to continue.

    Args:
        data: a Manifest from `open_data`, or the folder of a data set; by default the `source` of `config` ("data/").
        config: settings of the data set.
        size: side of the decoded images in pixels; default the config's.
        shards: "I/N" decodes share I of N, so that N machines can divide the work. They may run in any order, with the
            same data, size and N, and one `cache_dir` that all of them can write to. The one that finishes last writes
            the index file, with which the cache opens without reading every shard. By default the whole data set.
        progress: whether to display progress, by default only in a notebook or a terminal; or a function to call with
            the stage, the images done and the total.

    Returns:
        The BuiltCache: `.to_do`, `.unreadable`.

    Raises:
        DataError: the data can't be used.
        ConfigError: `shards` is not I/N, or the settings turn the cache off.
        WriteError: the cache can't be written, or the disk lacks space; images already written are kept.
    """
    share = Share.parse(shards or "1/1")
    config = config or Config()
    data = opened_with_notes(data, config)
    if not data.config.cache:
        raise ConfigError("cache is off for this data set, but this command builds the cache. Leave out that setting.")
    images = ImageCache(size or config.model.size, data.config.window, data.config.cache_dir)
    paths = sorted(set(data.table["path"].tolist()))
    with show_progress(progress) as reporter:
        unreadable, to_do = images.build_share(paths, share, partial(reporter.preparing, "decoding"))
    own = len(share.of_paths(paths))
    return BuiltCache(images.folder, own, len(paths), share.of, unreadable, tuple(to_do), data.notes)
