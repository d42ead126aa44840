"""An in-memory bucket behind fsspec, like a real one, that counts calls and fails on demand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from fsspec.implementations.memory import MemoryFileSystem


class FakeS3(MemoryFileSystem):
    """`asked` counts the calls by kind; `fail` is called with the kind before each call and may raise."""

    protocol = ("s3",)
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    asked: ClassVar[Counter] = Counter()
    fail: Callable[[str], None] = staticmethod(lambda kind: None)

    @classmethod
    def _ask(cls, kind: str) -> None:
        cls.asked[kind] += 1
        cls.fail(kind)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("s3://", "memory://"))

    def info(self, path, **options):
        self._ask("info")
        return self._with_version(super().info(path, **options))

    def find(self, path, **options):
        self._ask("find")
        found = super().find(path, **options)
        return {key: self._with_version(info) for key, info in found.items()}

    def cat_file(self, path, start=None, end=None, **options):
        self._ask("read")
        return super().cat_file(path, start, end, **options)

    def open(self, path, mode="rb", **options):
        if mode == "rb":
            self._ask("read")
        return super().open(path, mode, **options)

    def _with_version(self, info):
        if info["type"] == "file":
            content = self.store[self._strip_protocol(info["name"])].getvalue()
            info = {**info, "ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        return info

    def upload(self, folder: Path, place: str) -> None:
        for file in folder.rglob("*"):
            if file.is_file():
                self.pipe_file(f"s3://{place}/{file.relative_to(folder)}", file.read_bytes())
