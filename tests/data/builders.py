"""Files that stand for data sets, and what is read from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from xrayfast.config import DataConfig
from xrayfast.data.manifest import Manifest, open_manifest


def make(root: Path, *files: str, content: str | None = None) -> Path:
    """Files that only look like images: nothing here decodes them. Each has its own content unless given."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file if content is None else content)
    return root


def classes(root: Path, **sizes: int) -> Path:
    return make(root, *(f"{name}/{name}{i:03d}.png" for name, size in sizes.items() for i in range(size)))


def table(root: Path, text: str, name: str = "labels.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def opened(source: Path, **options) -> Manifest:
    return open_manifest(DataConfig(source=source, **options))


def rows(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.table["image"], manifest.table["labels"], strict=True))


def parts(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.table["image"], manifest.table["split"], strict=True))


def message(kind: type[Exception], source: Path, **options) -> str:
    with pytest.raises(kind) as caught:
        opened(source, **options)
    return str(caught.value)
