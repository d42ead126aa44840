"""A `Path` that works in archives and remote buckets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from xrayfast.files.virtual import access
from xrayfast.files.virtual.addresses import canonical, is_absolute, is_remote, split_archive


def to_path(path: str | Path) -> Path:
    """Return a path of any kind: a `VirtualPath` if it is remote, or if its text has the suffix of an archive."""
    if isinstance(path, VirtualPath):
        return path
    text = canonical(path)
    return VirtualPath(text) if is_remote(text) or split_archive(text) else Path(text)


class VirtualPath(type(Path())):  # type: ignore[misc]
    """A path to an archive, into one, or to a remote object, with the usual methods.

    If it turns out to be the path of a plain file or folder, it works like one.
    """

    def __str__(self) -> str:
        return canonical(super().__str__())

    def __fspath__(self) -> str:
        return str(self)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return mode and size; other values are 0 unless it is a plain file."""
        return access.stat_path(str(self))

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        """Open it for reading."""
        if set(mode) - set("rbt"):
            raise OSError(f"{self}: can't be written to")
        stream = access.open_binary(str(self))
        return stream if "b" in mode else TextIOWrapper(stream, *args[1:], **options)

    def exists(self, **options: Any) -> bool:
        """Whether it exists. Raises DataError if the archive or the remote storage can't be read."""
        return self.is_dir() or self.is_file()

    def is_dir(self, **options: Any) -> bool:
        """Whether it can be listed, as an archive can. Raises DataError if archive or storage can't be read."""
        return access.is_folder(str(self))

    def is_file(self, **options: Any) -> bool:
        """Whether it is a file. Raises DataError if the archive or the remote storage can't be read."""
        return access.is_file(str(self))

    def read_bytes(self) -> bytes:
        """Read its content."""
        with self.open("rb") as stream:
            return bytes(stream.read())

    def iterdir(self) -> Iterator[Path]:
        """Yield its entries. Raises DataError if it can't be listed."""
        return (to_path(entry.path) for entry in access.list_folder(str(self)))

    def is_absolute(self) -> bool:  # noqa: D102 - as in Path; also the next two
        return is_absolute(str(self))

    def absolute(self) -> Path:  # noqa: D102
        return self if self.is_absolute() else type(self)(Path.cwd() / self)

    def resolve(self, strict: bool = False) -> Path:  # noqa: D102
        return self.absolute() if is_remote(self) else type(self)(os.path.realpath(self))
