"""The index of a folder of shards, which finds images by key: 22 bytes per image in memory, and one file.

    header    magic; numbers of images and of shards; CRC-32 of what follows
    shards    8 bytes each: their names
    keys      two columns of 8 bytes per image, the first in ascending order
    places    4 bytes per image for the shard, 2 for the row in it

The file saves opening every shard, which takes half a minute for ten million images on a local disk. It only repeats
what the shards say: the keys of shards that it doesn't list are read from these shards, listed shards that are gone are
ignored, and any process may replace the file at any time with one that lists other shards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Bools, Places
from xrayfast.data.cache.columns import Layout, read_columns, write_columns
from xrayfast.data.cache.folders import INDEX_NAME, shard_names
from xrayfast.data.cache.shards import SHARD_SUFFIX, DamagedError, Shard

Words: TypeAlias = npt.NDArray[np.uint64]
"""(N, 2) keys, each as two words of 8 bytes."""

_MAGIC = b"xrayidx1"
_RATIO = 4  # least ratio of the lengths of a table and the next one
_LAYOUT: Layout = {"names": (1, "<u8"), "high": (0, "<u8"), "low": (0, "<u8"), "shard": (0, "<u4"), "row": (0, "<u2")}

_SHARDS_UNLISTED = 256
"""A build renews the file if it lacks more shards than this and more than a tenth of those that it lists: this many
shards are opened in 20 ms, and a small cache needs no file."""


def as_words(keys: Sequence[bytes]) -> Words:
    """Return keys of 16 bytes as (N, 2) words."""
    return np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2)


class FolderIndex:
    """The images in a folder of shards as of the last `refresh`; shards are opened when they are needed."""

    def __init__(self, folder: Path, side: int) -> None:
        """Nothing is read yet; the squares have `side` pixels."""
        self.folder, self.side = folder, side
        self._tables: list[_Table] = []  # each at least `_RATIO` times as long as the next
        self._shards: dict[str, Shard] = {}  # the opened ones
        self._listed: set[str] = set()  # shards in the file

    def __len__(self) -> int:
        """Return the number of images; an image that is in several shards is counted several times."""
        return sum(len(table.row) for table in self._tables)

    def refresh(self) -> None:
        """Add the shards that are new in the folder, drop those that are gone, and delete damaged ones."""
        names = shard_names(self.folder)
        if not self._tables and (table := _read_table(self.folder / INDEX_NAME)):
            self._tables, self._listed = [table], set(table.names)
        known = self._names()
        if gone := known - names:
            self._drop(gone)
        added = []
        for name in sorted(names - known):
            if shard := self._open(name):
                added.append((name, shard.words()))
        if added:
            self._tables.append(_Table.of(added))
            # Tables that are not much longer than the next one are merged, so that there are few.
            while len(self._tables) > 1 and len(self._tables[-2].row) < _RATIO * len(self._tables[-1].row):
                self._tables[-2:] = [_Table.merged(self._tables[-2:])]

    def find(self, key: bytes) -> tuple[Shard, int] | None:
        """Return the shard and row of a key; None if it is in no shard."""
        high, low = (int.from_bytes(word, "little") for word in (key[:8], key[8:]))
        for table in reversed(self._tables):
            if place := table.find(high, low):
                name, row = place
                shard = self._shards.get(name) or self._open(name)
                if shard and shard.holds(key, row):
                    return shard, row
        return None

    def missing(self, words: Words) -> Bools:
        """Return (N,) whether each key is in no shard.

        The shards that hold the other keys are opened, so that damage is noticed.
        """
        while True:
            absent, needed = np.ones(len(words), bool), set[str]()
            for table in self._tables:
                at = table.find_all(words)
                absent &= at < 0
                needed |= {table.names[shard] for shard in np.unique(table.shard[at[at >= 0]]).tolist()}
            closed = [name for name in sorted(needed - self._shards.keys()) if not self._open(name)]
            if not closed:
                return absent
            self._drop(closed)

    def save(self, unlisted: int | None = None) -> None:
        """Renew the file if it lacks more than `unlisted` shards, by default as described at `_SHARDS_UNLISTED`."""
        names = self._names()
        most = max(_SHARDS_UNLISTED, len(self._listed) // 10) if unlisted is None else unlisted
        if len(names - self._listed) > most:
            self._tables = [_Table.merged(self._tables)]
            _write_table(self.folder / INDEX_NAME, self._tables[0])
            self._listed = names

    def _names(self) -> set[str]:
        return {name for table in self._tables for name in table.names}

    def _open(self, name: str) -> Shard | None:
        """Open a shard. A damaged one is removed; return None for it, and for one that is gone or can't be read."""
        path = self.folder / name
        try:
            self._shards[name] = shard = Shard(path, self.side)
        except DamagedError:
            self.discard(path)
            return None
        except OSError:
            return None
        return shard

    def discard(self, path: Path) -> None:
        """Remove a damaged shard from the index and from disk."""
        with contextlib.suppress(OSError):
            path.unlink()
        self._drop({path.name})

    def _drop(self, names: Collection[str]) -> None:
        for name in names:
            self._shards.pop(name, None)
        self._tables = [table.without(names) for table in self._tables]


@dataclass(frozen=True, eq=False)
class _Table:
    """The shards and rows of N keys."""

    names: tuple[str, ...]
    high: npt.NDArray[np.uint64]  # (N,) ascending
    low: npt.NDArray[np.uint64]
    shard: npt.NDArray[np.uint32]
    row: npt.NDArray[np.uint16]

    @classmethod
    def of(cls, shards: Sequence[tuple[str, Words]]) -> _Table:
        """Make a table from the names of shards and their keys in the order of the rows."""
        names, words = zip(*shards, strict=True)
        keys, counts = np.concatenate(words), [len(one) for one in words]
        shard = np.repeat(np.arange(len(names), dtype=np.uint32), counts)
        row = np.concatenate([np.arange(count, dtype=np.uint16) for count in counts])
        return cls._sorted(names, keys[:, 0], keys[:, 1], shard, row)

    @classmethod
    def merged(cls, tables: Sequence[_Table]) -> _Table:
        """Return one table with the rows of all."""
        if len(tables) == 1:
            return tables[0]
        offsets = np.cumsum([0, *(len(table.names) for table in tables)]).astype(np.uint32)
        shard = np.concatenate([table.shard + offset for table, offset in zip(tables, offsets, strict=False)])
        high, low, row = (np.concatenate([getattr(table, name) for table in tables]) for name in ("high", "low", "row"))
        return cls._sorted(tuple(name for table in tables for name in table.names), high, low, shard, row)

    @classmethod
    def _sorted(cls, names: Iterable[str], high: npt.NDArray[np.uint64], *others: npt.NDArray[np.generic]) -> _Table:
        order = np.argsort(high)
        return cls(tuple(names), high[order], *(column[order] for column in others))  # type: ignore[arg-type]

    def find(self, high: int, low: int) -> tuple[str, int] | None:
        """Return the shard's name and the row of a key; None if the key is not in the table."""
        at = int(self.high.searchsorted(np.uint64(high)))
        while at < len(self.high) and self.high[at] == high:
            if self.low[at] == low:
                return self.names[self.shard[at]], int(self.row[at])
            at += 1
        return None

    def find_all(self, words: Words) -> Places:
        """Return (N,) positions of (N, 2) keys in the columns, -1 for keys that are not in the table."""
        result = np.full(len(words), -1, np.intp)
        if not len(self.high):
            return result
        at, waiting = self.high.searchsorted(words[:, 0]), np.arange(len(words))
        while len(waiting):  # once, unless different keys have the same first word
            at, waiting = at[at < len(self.high)], waiting[at < len(self.high)]
            same = self.high[at] == words[waiting, 0]
            at, waiting = at[same], waiting[same]
            found = self.low[at] == words[waiting, 1]
            result[waiting[found]] = at[found]
            at, waiting = at[~found] + 1, waiting[~found]
        return result

    def without(self, names: Collection[str]) -> _Table:
        """Return the table without the rows of some shards."""
        kept = np.array([name not in names for name in self.names], bool)
        if kept.all():
            return self
        rows, number = kept[self.shard], np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
        columns = self.high[rows], self.low[rows], number[self.shard[rows]], self.row[rows]
        return _Table(tuple(name for name in self.names if name not in names), *columns)


def _write_table(path: Path, table: _Table) -> None:
    names = np.array([int(name.removesuffix(SHARD_SUFFIX), 16) for name in table.names], "<u8")
    write_columns(path, _MAGIC, _LAYOUT, {name: getattr(table, name) for name in _LAYOUT} | {"names": names})


def _read_table(path: Path) -> _Table | None:
    """Return the table in the file; None if there is no file, or it is damaged or unreadable: then shards are read."""
    columns = read_columns(path, _MAGIC, _LAYOUT)
    if columns is None or (columns["shard"] >= len(columns["names"])).any():
        return None
    names = tuple(f"{number:016x}{SHARD_SUFFIX}" for number in columns.pop("names").tolist())
    return _Table(names, **columns)
