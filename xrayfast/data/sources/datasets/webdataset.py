"""WebDataset shards: tar files of samples, each an image and a `.cls` or `.json` file of the same name.

See https://github.com/webdataset/webdataset. A sample's name ends at the first dot of the file name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from xrayfast.data.images.reader import IMAGE_SUFFIXES
from xrayfast.data.sources.tables.table import MAX_COLUMNS, Table
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError, shorten
from xrayfast.files.virtual.addresses import split_archive
from xrayfast.files.virtual.archives import Archive, open_archive
from xrayfast.files.virtual.indexes import SIDECARS, is_zip
from xrayfast.files.virtual.near_names import near_names
from xrayfast.files.virtual.paths import to_path

MAX_SHARDS = 100_000
"""Maximum number of shards: at one gigabyte each, more than any collection of radiographs has."""

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_IMAGE, _LABEL, _CLASS = "image", "label", "cls"


@dataclass
class _Sample:
    """The members of one sample, by suffix."""

    images: list[str] = field(default_factory=list)
    sidecars: dict[str, str] = field(default_factory=dict)


def is_shard_pattern(source: str | Path) -> bool:
    """Whether a path has braces that stand for shard numbers, see `expand_shards`.

    >>> is_shard_pattern("a/data-{000000..000009}.tar"), is_shard_pattern("a/data-{0..9}.png")
    (True, False)
    """
    text = str(source)
    return split_archive(text) == (text, "") and not is_zip(text) and bool(_BRACES.search(Path(text).name))


def is_shards(source: Path) -> bool:
    """Whether a path stands for shards: a pattern such as `data-{000000..000009}.tar`, or one tar file of samples.

    Raises:
        ReadError, RemoteError: the archive can't be read.
    """
    if is_shard_pattern(source):
        return True
    if split_archive(str(source)) != (str(source), "") or is_zip(str(source)):
        return False
    if not source.is_dir() or not source.is_file():
        return False
    samples, _ = _samples(open_archive(str(source.absolute())))
    return any(sample.images and sample.sidecars for sample in samples.values())


def read_shards(pattern: Path) -> Table:
    """Read all shards as a table: one row per image, one column per key of the `.json` files, and `.cls` as the label.

    Raises:
        DataError: a shard is missing or damaged, a `.json` file is not valid JSON, or there is no image or no label.
        RemoteError: remote storage can't be read.
    """
    columns: dict[str, list[str]] = {_IMAGE: []}
    where: list[str] = []
    unused = dict[str, None]()
    for shard in expand_shards(pattern):
        try:
            archive = open_archive(str(shard.absolute()))
        except OSError as error:
            raise DataError(
                f"{shard}: found no such shard; expected all shards of {pattern.name}.{near_names(shard)}"
            ) from error
        samples, others = _samples(archive)
        unused.update(dict.fromkeys(others))
        for sample in samples.values():
            cells = _read_sidecars(archive, sample, unused)
            for image in sample.images:
                for name in cells.keys() - columns.keys():
                    columns[name] = [""] * len(where)
                for name, column in columns.items():
                    column.append(f"{shard.name}/{image}" if name == _IMAGE else cells.get(name, ""))
                where.append(f"{shard.name}/{image}")
        _require_few(shard, columns)
    if not where or len(columns) == 1:
        found = "no labels" if where else "no images"
        raise DataError(
            f"{pattern}: found {found}; expected samples that consist of an image and a .cls or .json file."
        )
    notes = (f"Not used from the shards: {shorten(unused)}.",) if unused else ()
    texts = {name: TextColumn.of(cells) for name, cells in columns.items()}
    return Table(pattern, texts, lambda i: where[i], notes=notes)


def read_keys(files: Sequence[str]) -> dict[str, list[str]]:
    """Read the `.json` files next to images in tar archives, as (N,) cells of the N files by key; "" where missing.

    Raises:
        DataError: a `.json` file is not valid JSON, or there are too many keys.
    """
    keys: dict[str, list[str]] = {}
    rows_of: dict[str, dict[str, int]] = {}
    for row, file in enumerate(files):
        path, member = split_archive(file) or ("", "")
        if member and not is_zip(path):
            rows_of.setdefault(str(to_path(path).absolute()), {})[member] = row
    for path, rows in rows_of.items():
        archive = open_archive(path)
        for sample in _samples(archive)[0].values():
            here = [rows[image] for image in sample.images if image in rows]
            for name, cell in (_read_sidecars(archive, sample, {}) if here else {}).items():
                cells = keys.setdefault(name, [""] * len(files))
                for row in here:
                    cells[row] = cell
            _require_few(path, keys)
    return keys


def keep_unlabeled(files: Sequence[str], images: Sequence[str]) -> list[str]:
    """Return the files without those in tar archives that hold the labels of the given images."""
    samples = {_sample_and_suffix(image)[0] for image in images}

    def is_of_sample(file: str) -> bool:
        sample, suffix = _sample_and_suffix(file)
        archive = split_archive(file) if suffix in SIDECARS and sample in samples else None
        return archive is not None and not is_zip(archive[0])

    return [file for file in files if not is_of_sample(file)]


def _sample_and_suffix(member: str) -> tuple[str, str]:
    """Return a sample's name, up to the first dot after its folder, and the rest in lower case."""
    folder, _, file = member.rpartition("/")
    name, dot, suffix = file.partition(".")
    return f"{folder}/{name}", (dot + suffix).lower()


def _require_few(shard: Path | str, keys: Collection[str]) -> None:
    if len(keys) > MAX_COLUMNS:
        raise DataError(f"{shard}: found more than {MAX_COLUMNS:,} keys in its .json files; expected fewer.")


def expand_shards(pattern: Path) -> Iterator[Path]:
    """Return the paths of the shards, in order.

    >>> [path.name for path in expand_shards(Path("data-{08..10}.tar"))]
    ['data-08.tar', 'data-09.tar', 'data-10.tar']

    Raises:
        DataError: there are more than `MAX_SHARDS`, or none.
    """
    names = list(islice(_expand(pattern.name), MAX_SHARDS + 1))
    if not 0 < len(names) <= MAX_SHARDS:
        found = f"more than {MAX_SHARDS:,}" if names else "no"
        raise DataError(f"{pattern}: found {found} shards; expected braces such as {{000000..000099}}.")
    return (to_path(pattern.parent / name) for name in names)


def _expand(name: str) -> Iterator[str]:
    if (braces := _BRACES.search(name)) is None:
        yield name
        return
    first, last = braces.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand(f"{name[: braces.start()]}{number:0{len(first)}d}{name[braces.end() :]}")


def _samples(archive: Archive) -> tuple[dict[str, _Sample], Sequence[str]]:
    """Return the samples by name, and descriptions of the files that are neither image nor label."""
    samples: dict[str, _Sample] = {}
    others = dict[str, None]()
    for member in archive.members:
        name, suffix = _sample_and_suffix(member)
        sample = samples.setdefault(name, _Sample())
        if suffix in IMAGE_SUFFIXES:
            sample.images.append(member)
        elif suffix in SIDECARS:
            sample.sidecars[suffix] = member
        elif not name.endswith("/"):
            others[f"files that end in {suffix}" if suffix else member] = None
    return samples, list(others)


def _read_sidecars(archive: Archive, sample: _Sample, unused: dict[str, None]) -> dict[str, str]:
    """Return the content of the files next to an image as table cells by column name."""
    cells: dict[str, str] = {}
    for suffix, member in sorted(sample.sidecars.items(), reverse=True):
        where, text = f"{archive.path}/{member}", archive.read(member).decode("utf-8-sig", "replace")
        if suffix == ".cls":
            cells[_CLASS if _LABEL in cells else _LABEL] = text.strip()
            continue
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: found invalid JSON; expected an object of names and values.") from error
        if not isinstance(content, dict):
            raise DataError(f"{where}: found {type(content).__name__}; expected an object of names and values.")
        for name, value in content.items():
            if isinstance(value, dict) or name == _IMAGE:
                unused[f"'{name}' of the .json files"] = None
            else:
                cells[name] = _cell(value)
    return cells


def _cell(value: Any) -> str:
    """Return a JSON value as a table cell.

    >>> _cell(["Mass", "Edema"]), _cell(True), _cell(None), _cell(1.5)
    ("['Mass', 'Edema']", '1', '', '1.5')
    """
    if isinstance(value, list):
        return str(list(map(_cell, value)))
    if isinstance(value, bool):
        return str(int(value))
    return "" if value is None else str(value)
