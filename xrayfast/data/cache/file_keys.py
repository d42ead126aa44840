"""Keys of many files, each looked up once: 24 bytes per file, besides its path."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from xrayfast.data.cache.decode_worker import key_or_none
from xrayfast.data.cache.index import as_words
from xrayfast.data.cache.shards import KEY_BYTES

NO_KEY = bytes(KEY_BYTES)
"""Stands for the key of a file that is not there; no file has this key."""


class FileKeys:
    """The keys of files, in the state in which the files were when this was made.

    Attributes:
        paths: the files, in ascending order.
        words: (N, 2) their keys, NO_KEY for a file that is not there.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = sorted(set(paths))
        self.words = as_words([key_or_none(path) or NO_KEY for path in self.paths])

    def find(self, path: str) -> bytes | None:
        """Return the key of a file; None if it was not looked up, or was not there."""
        place = bisect_left(self.paths, path)
        if place == len(self.paths) or self.paths[place] != path:
            return None
        key = self.words[place].tobytes()
        return None if key == NO_KEY else key
