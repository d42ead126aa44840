"""The public data sets that are recognized. To add one, write its module here and add its spec to `SPECS`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from xrayfast.data.sources.datasets import (
    chexpert,
    covidx,
    kermany,
    mimic,
    nih,
    padchest,
    rsna,
    vindr,
)
from xrayfast.data.sources.datasets.spec import GENERIC, DatasetSpec
from xrayfast.data.sources.datasets.webdataset import is_shards, read_shards
from xrayfast.data.sources.tables import read_table
from xrayfast.data.sources.tables.table import HeaderlessFormat, Table

SPECS: tuple[DatasetSpec, ...] = (
    nih.SPEC,
    chexpert.SPEC,
    mimic.SPEC,
    rsna.BOXES,
    rsna.CLASSES,
    covidx.SPEC,
    padchest.SPEC,
    vindr.BOXES,
    vindr.LABELS,
    kermany.SPEC,
)


def headerless_formats() -> list[HeaderlessFormat]:
    """Return the formats of tables without a header."""
    return [spec.headerless for spec in SPECS if spec.headerless]


def match_spec(columns: Collection[str]) -> DatasetSpec:
    """Return the first data set that has one of its groups of columns among `columns`; `GENERIC` if there is none."""
    return next((spec for spec in SPECS if any(needed <= set(columns) for needed in spec.columns)), GENERIC)


def read_dataset_table(file: Path) -> tuple[Table, DatasetSpec]:
    """Read a table, or the samples of shards, and recognize its data set; see `read_table` and `read_shards`."""
    table = read_shards(file) if is_shards(file) else read_table(file, headerless_formats())
    spec = match_spec(table.columns)
    return spec.complete_table(table), spec
