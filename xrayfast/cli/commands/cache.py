"""`xrayfast cache`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from xrayfast.cli.common import read_settings
from xrayfast.cli.options import ConfigFile, Json, takes
from xrayfast.cli.output import Output
from xrayfast.cli.single_values import Command
from xrayfast.progress.terminal import reporting

app = typer.Typer(no_args_is_help=True, help="Build, show or remove the cache of decoded images on disk.")


@app.command(cls=Command)
@takes("data", "size", without=("cache",))
def build(
    given: dict[str, Any],
    shards: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Decode only share I of N, so that N machines with the same --cache-dir build the cache together.",
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Decode all images of a data set into the cache, so that fit with the same options decodes none.

    Run it again to continue an interrupted build. Decoded images depend only on --size and --window; the other
    options determine which images there are.
    """
    from xrayfast.data.cache.image_cache import require_readable
    from xrayfast.data.cache.shares import as_ranges
    from xrayfast.errors import plural
    from xrayfast.workflows.build_cache import build_cache

    out = Output(as_json)
    settings = read_settings(config, given)
    with reporting(out) as reporter:
        built = build_cache(config=settings, shards=shards, progress=reporter.preparing)
    for note in built.notes:
        out.line(note)
    if built.to_do:
        out.line(f"Still to build: {len(built.to_do)} of {built.shares} shares ({as_ranges(built.to_do)}).")
    elif built.shares > 1:
        out.line(f"All {built.shares} shares are built, and the cache of {plural(built.total, 'image')} is complete.")
    out.done(plural(built.images - len(built.unreadable), "image"), built.folder)
    out.json({**asdict(built), "folder": str(built.folder)})
    if settings.data.unreadable == "error":
        require_readable(list(built.unreadable.values()), built.images)


@app.command(cls=Command)
@takes("cache_dir")
def info(given: dict[str, Any], as_json: Json = False) -> None:
    """Show where decoded images are cached and how much disk space they take."""
    from datetime import datetime

    from xrayfast.data.cache.folders import cache_info
    from xrayfast.files.cache_folder import cache_root

    out, cache_dir = Output(as_json), given.get("cache_dir")
    folders = cache_info(cache_dir)
    rows = [
        (f.path.name, f"{f.side} px", f.images, f"{f.bytes / 1e6:.1f}", f"{datetime.fromtimestamp(f.used):%Y-%m-%d}")
        for f in folders
    ]
    if rows:
        out.table("Decoded images", ["folder", "size", "images", "MB", "last used"], rows)
    else:
        out.line("Nothing is cached.")
    out.done("Cache", cache_root(cache_dir))
    out.json({"root": str(cache_root(cache_dir)), "folders": [asdict(folder) for folder in folders]})


@app.command(cls=Command)
@takes("cache_dir")
def clear(given: dict[str, Any], as_json: Json = False) -> None:
    """Remove all decoded images from the cache. They are decoded again when they are needed."""
    from xrayfast.data.cache.folders import clear_cache
    from xrayfast.files.cache_folder import cache_root

    out, cache_dir = Output(as_json), given.get("cache_dir")
    freed = clear_cache(cache_dir)
    out.done(f"{freed / 1e6:.1f} MB freed", cache_root(cache_dir))
    out.json({"root": str(cache_root(cache_dir)), "freed_bytes": freed})
