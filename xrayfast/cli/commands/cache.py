"""`xrayfast cache`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from xrayfast.cli.options import Json, takes
from xrayfast.cli.output import Output
from xrayfast.cli.single_values import Command

app = typer.Typer(no_args_is_help=True, help="Show or remove the decoded images that are cached on disk.")


@app.command(cls=Command)
@takes("cache_dir")
def info(given: dict[str, Any], as_json: Json = False) -> None:
    """Show where decoded images are cached, and how much disk space they take."""
    from datetime import datetime

    from xrayfast.data.cache.folders import cache_info, cache_root

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
    """Remove all decoded images; they are decoded again when needed."""
    from xrayfast.data.cache.folders import cache_root, clear_cache

    out, cache_dir = Output(as_json), given.get("cache_dir")
    freed = clear_cache(cache_dir)
    out.done(f"{freed / 1e6:.1f} MB freed", cache_root(cache_dir))
    out.json({"root": str(cache_root(cache_dir)), "freed_bytes": freed})
