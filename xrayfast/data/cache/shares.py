"""A cache built in shares on many machines: which share has which images, and which shares are done."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from xrayfast.data.cache.folders import DONE_SUFFIX
from xrayfast.errors import ConfigError
from xrayfast.files.atomic import write_text

MAX_SHARES = 100_000

_SHARE = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)
_DONE = re.compile(rf"([0-9a-f]{{16}})-([0-9]+)-of-([0-9]+){re.escape(DONE_SUFFIX)}")


@dataclass(frozen=True)
class Share:
    """Share I of N, where I is `number`, from 1, and N is `of`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse a text such as "3/8"; raise a ConfigError if it is no such share."""
        match = _SHARE.fullmatch(text)
        share = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= share.number <= share.of <= MAX_SHARES:
            raise ConfigError(
                f"shards is '{text}'; expected I/N (build share I of N), with I from 1 to N and N at most "
                f"{MAX_SHARES:,}, such as 1/8 to 8/8 on eight machines."
            )
        return share

    def of_paths(self, paths: Sequence[str]) -> Sequence[str]:
        """Return the paths of this share, which are consecutive; the sizes of shares differ by at most one."""
        return paths[(self.number - 1) * len(paths) // self.of : self.number * len(paths) // self.of]

    def record(self, folder: Path, paths: Sequence[str]) -> None:
        """Record in the cache's folder that this share of `paths` is done."""
        write_text(folder / f"{_name(paths)}-{self.number}-of-{self.of}{DONE_SUFFIX}", "")

    def others_to_do(self, folder: Path, paths: Sequence[str]) -> list[int]:
        """Return the numbers of the shares of `paths` that no machine has recorded as done."""
        done, name = set[int](), _name(paths)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for match in filter(None, (_DONE.fullmatch(entry.name) for entry in entries)):
                if match[1] == name and int(match[3]) == self.of:
                    done.add(int(match[2]))
        return [number for number in range(1, self.of + 1) if number not in done]


def as_ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as ranges, in the form of SLURM's `--array`.

    >>> as_ranges([1, 2, 3, 5, 7, 8])
    '1-3,5,7-8'
    """
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _name(paths: Sequence[str]) -> str:
    """Return 16 hexadecimal digits that identify the paths."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        digest.update(os.fsencode(path) + b"\0")
    return digest.hexdigest()
