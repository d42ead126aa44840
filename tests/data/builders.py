"""Functions that write small data sets and read them back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from xrayfast.config import DataConfig
from xrayfast.data.manifest import Manifest
from xrayfast.data.open_manifest import open_manifest


def make(root: Path, *files: str, content: str | None = None) -> Path:
    """Write files that look like images by name; tests that use them decode nothing. Contents differ unless given."""
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


def lines(header: str, row: str, count: int = 10) -> str:
    """Return one row per image: {i} is its number, {ab} a or b in turn, {p} one of five patients."""
    filled = (row.format(i=i, ab="ab"[i % 2], p=f"secret-{i // 2}") for i in range(count))
    return "\n".join([header, *filled]) + "\n"


def opened(source: Path, **options) -> Manifest:
    return open_manifest(DataConfig(source=source, **options))


def rows(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.table["image"], manifest.table["labels"], strict=True))


def with_patients(root: Path, patients: Sequence[str]) -> Manifest:
    """Open a table of images i0.png, i1.png ... and their patients."""
    make(root, *(f"i{i}.png" for i in range(len(patients))))
    text = "".join(f"i{i}.png,{'ab'[i % 2]},{patient}\n" for i, patient in enumerate(patients))
    return opened(root, labels=table(root, f"image,label,patient_id\n{text}"))


def splits(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.table["image"], manifest.table["split"], strict=True))


def column(manifest: Manifest, name: str) -> list:
    """Return a column of the table as a list, NaN as None."""
    return [None if value != value else value for value in manifest.table[name].tolist()]


def cells(manifest: Manifest, image: str) -> dict[str, float | None]:
    """Return the targets of an image by label, NaN as None."""
    row = manifest.table["image"].tolist().index(image)
    values = manifest.targets[row].tolist()
    return {
        name: None if value != value else round(value, 4) for name, value in zip(manifest.labels, values, strict=True)
    }


def noted(manifest: Manifest, *words: str) -> bool:
    """Whether one note contains all of the words."""
    return any(all(word in note for word in words) for note in manifest.notes)


def message(kind: type[Exception], source: Path, **options) -> str:
    with pytest.raises(kind) as caught:
        opened(source, **options)
    return str(caught.value)
