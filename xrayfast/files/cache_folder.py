"""Where what is kept between runs lies."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "XRAYFAST_CACHE"
"""The environment variable that names the cache's root."""


def cache_root(root: Path | None = None) -> Path:
    """The cache's root: the one given, else $XRAYFAST_CACHE, else the user's cache folder of this system."""
    if root is not None:
        return Path(root).absolute()
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("xrayfast", appauthor=False))
