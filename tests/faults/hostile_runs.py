"""Run folders as a stranger or a fault may leave them: copies of a run with one file replaced.

`hostile_runs` makes the copies; `tests/faults/test_hostile_runs.py` passes them to every command that takes a run.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import yaml

READ = ("config.yaml", "run.json", "labels.json", "model.safetensors", "split.csv", "history.csv", "batches.csv",
        "metrics.json", "predictions/valid.csv", "predictions/test.csv", "checksums.txt", "checkpoint/state.json",
        "checkpoint/model.safetensors", "checkpoint/best.safetensors", "checkpoint/optimizer.safetensors",
        "checkpoint/batches.csv", "checkpoint/checksums.txt")  # fmt: skip
"""The files of a run folder that the package reads."""

VALUES = (None, True, -1, 0, 10**20, 1e308, float("nan"), "", "x" * 1_000_000, "a\0b", "../../etc/passwd", "\u202egnp",
          [], {}, [[]], [None], {"a": {}}, [10**20] * 3, [0] * 100_000)  # fmt: skip
"""Replacements for a value in a JSON or YAML file."""


def hostile_runs(run: Path, into: Path, count: int, seed: int = 0) -> Iterator[tuple[str, Path]]:
    """Yield `count` copies of a run folder with a description of the change, drawn with the seed.

    In a quarter, something else replaces a file; in a quarter, a file has other bytes; in half, it has other values.
    Each file is equally frequent.
    """
    rng = np.random.default_rng(seed)
    by_kind: list[dict[str, list[Change]]] = [{}, {}, {}]
    for files, changes in zip(by_kind, (_places(run), _contents(run), _values(run)), strict=True):
        for what, change in changes:
            files.setdefault(what.split()[0], []).append((what, change))
    for number, kind in enumerate(rng.choice(3, count, p=[0.25, 0.25, 0.5])):
        changes = by_kind[kind][str(rng.choice(sorted(by_kind[kind])))]
        what, change = changes[rng.integers(len(changes))]
        folder = into / f"{number:03d}"
        shutil.copytree(run, folder)
        change(folder)
        if (
            number % 4 and "checksums" not in what
        ):  # the checksums of a stranger match or are missing, so every check must work without them
            for checksums in folder.rglob("checksums.txt"):
                checksums.unlink()
        yield what, folder


Change = tuple[str, Callable[[Path], object]]


def _places(run: Path) -> list[Change]:
    """Return changes that replace a file with something else."""

    def change(name: str, place: Callable[[Path], object]) -> Callable[[Path], object]:
        def replace(folder: Path) -> None:
            (folder / name).unlink()
            place(folder / name)

        return replace

    places: dict[str, Callable[[Path], object]] = {
        "missing": lambda path: None,
        "a folder": lambda path: path.mkdir(),
        "a FIFO": lambda path: os.mkfifo(path),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a broken link": lambda path: path.symlink_to("nowhere"),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a terabyte of holes": lambda path: _holes(path, 2**40),
    }
    return [
        (f"{name} is {what}", change(name, place))
        for name in READ
        if (run / name).exists()
        for what, place in places.items()
    ]


def _holes(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _contents(run: Path) -> list[Change]:
    """Return changes of the bytes of a file."""

    def write(name: str, content: Callable[[bytes], bytes]) -> Callable[[Path], object]:
        return lambda folder: (folder / name).write_bytes(content((run / name).read_bytes()))

    contents: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda old: b"",
        "half": lambda old: old[: len(old) // 2],
        "noise": lambda old: np.random.default_rng(1).bytes(5000),
        "NUL": lambda old: b"\0" * 5000,
        "Latin-1": lambda old: old[:20] + "\xe9\xff".encode("latin-1") + old[20:],
        "a PNG": lambda old: b"\x89PNG\r\n\x1a\n" + old,
        "100,000 brackets": lambda old: b"[" * 100_000,
        "100,000 mappings": lambda old: b'{"a":' * 100_000,
        "aliases": lambda old: b"a: &a [x, x, x]\n" + b"".join(map(_alias, range(98, 120))),
        "300,000 keys": lambda old: "".join(f"k{i}: 1\n" for i in range(300_000)).encode(),
        "a line of 20 MB": lambda old: b"x" * 20_000_000,
        "an open quote": lambda old: old[:50] + b'"' + old[50:],
        "100,000 columns": lambda old: b",".join(b"c%d" % i for i in range(100_000)) + b"\n" + b"," * 99_999,
        "no rows": lambda old: old.split(b"\n")[0] + b"\n",
        "rows twice": lambda old: old + old.partition(b"\n")[2],
        "a header of an exabyte": lambda old: struct.pack("<Q", 2**60) + old[8:],
        "a header of 20 MB": lambda old: _safetensors({f"t{i}": _tensor("F32", [0], 0, 0) for i in range(300_000)}),
        "integers": lambda old: _retyped(old, "I32"),
        "other shapes": lambda old: _retyped(old, "F32", lambda shape: [*shape, 1]),
        "numbers of 10,000 digits": lambda old: b'{"status": ' + b"9" * 10_000 + b"}",
    }  # fmt: skip
    return [
        (f"{name} is {what}", write(name, content))
        for name in READ
        if (run / name).exists()
        for what, content in contents.items()
    ]


def _alias(letter: int) -> bytes:
    """Return a YAML list that contains the previous list three times."""
    return b"%c: &%c [*%c, *%c, *%c]\n" % (letter, letter, *[letter - 1] * 3)


def _tensor(kind: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def _safetensors(header: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _retyped(old: bytes, kind: str, shape: Callable[[list[int]], list[int]] = list) -> bytes:
    """Return the bytes as tensors of another type and shape, or unchanged if they are no safetensors file."""
    length = int.from_bytes(old[:8], "little")
    if not 0 < length < len(old):
        return old
    header = json.loads(old[8 : 8 + length])
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            header[name] = {**tensor, "dtype": kind, "shape": shape(tensor["shape"])}
    return _safetensors(header, old[8 + length :])


def _values(run: Path) -> list[Change]:
    """Return changes that replace or remove a value or section of a JSON or YAML file, or a column of a table."""
    changes: list[Change] = []
    for name in filter(lambda name: (run / name).exists(), READ):
        path = run / name
        if path.suffix == ".json":
            changes += [
                (f"{name} {what}", _writing(name, content))
                for what, content in _replaced(json.loads(path.read_text()), json.dumps)
            ]
        elif path.suffix == ".yaml":
            content = yaml.safe_load(path.read_text())
            changes += [(f"{name} {what}", _writing(name, text)) for what, text in _replaced(content, yaml.safe_dump)]
        elif path.suffix == ".csv":
            changes += [(f"{name} {what}", _writing(name, text)) for what, text in _cells(path.read_text())]
    return changes


def _writing(name: str, text: Callable[[], str]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text())


def _replaced(content: object, dump: Callable[[object], str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield descriptions of changes and functions that make them: one value removed or replaced by one of VALUES."""
    for path in _paths(content):
        for value in (*VALUES, ...):
            shown = "removed" if value is ... else repr(value)[:40]
            yield (
                f"{'.'.join(map(str, path))} is {shown}",
                lambda path=path, value=value: dump(_set(content, path, value)),
            )


def _paths(content: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths into a tree to a depth of four; only the first element of lists."""
    if path:
        yield path
    if len(path) < 4 and isinstance(content, dict):
        for key, value in content.items():
            yield from _paths(value, (*path, key))
    if len(path) < 4 and isinstance(content, list) and content:
        yield from _paths(content[0], (*path, 0))


def _set(content: object, path: tuple[str | int, ...], value: object) -> object:
    copy = json.loads(json.dumps(content))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


def _cells(text: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield changes of a table in which one column has other cells, has another name, or is missing."""
    header, *rows = [line.split(",") for line in text.splitlines()]
    for i, column in enumerate(header):
        for value in ("", "x", "-1", "nan", "inf", "1e400", "9" * 5000, "x" * 1_000_000, "a\0b", "=1+1", '"'):

            def changed(i: int = i, value: str = value) -> str:
                return "\n".join(",".join(row) for row in [header, *([*row[:i], value, *row[i + 1 :]] for row in rows)])

            yield f"{column} is {value[:20]!r}", changed
        yield (
            f"{column} is renamed",
            lambda i=i: "\n".join(map(",".join, [[*header[:i], "y", *header[i + 1 :]], *rows])),
        )
        yield f"{column} is gone", lambda i=i: "\n".join(",".join([*row[:i], *row[i + 1 :]]) for row in [header, *rows])
