"""Files that belong to a table of labels and lie beside it: COVIDx's test list, MIMIC-CXR's parts and views."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from xrayfast.data.sources.patients import views
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.sources.split_files import split_of_cell
from xrayfast.data.sources.tables import COVIDX_COLUMNS, Table, read_table
from xrayfast.data.splits.stratify import Split
from xrayfast.errors import DataError


def with_covidx_sister(table: Table) -> Table:
    """COVIDx's images for training with those of the files for validation and testing beside theirs."""
    if not {*COVIDX_COLUMNS, "split"} <= table.columns.keys() or set(table.columns["split"]) != {"train"}:
        return table
    for split in ("val", "test"):
        sister = table.file.with_name(re.sub("train", split, table.file.name, count=1, flags=re.IGNORECASE))
        if sister.is_file():
            table = table.followed_by(read_table(sister))
            note = f"{sister.name} beside {table.file.name} is read too: its images are the {split} split."
            table = replace(table, notes=(*table.notes, note))
    return table


def add_mimic_tables(images: ImageRecords, file: Path) -> None:
    """Splits and views of MIMIC-CXR's images out of the tables that are published beside the labels, where they lie.

    Raises:
        DataError: such a file can't be read, or has other columns.
    """
    of_image = {PurePosixPath(name).stem: i for i, name in enumerate(images.names)}
    if images.splits is None and (table := _beside(file, "split", {"dicom_id", "split"})):
        splits: list[Split | None] = [None] * len(images.names)
        for row, (dicom_id, cell) in enumerate(zip(table.columns["dicom_id"], table.columns["split"], strict=True)):
            split = split_of_cell(cell)
            if split is None:
                raise DataError(f"{table.where(row)}: split is '{cell}'; expected train, validate or test.")
            if dicom_id in of_image:
                splits[of_image[dicom_id]] = split
        images.splits = splits
        images.notes.append(f"Splits from {table.file.name} beside {file.name}.")
        if lacking := splits.count(None):
            images.notes.append(f"{lacking} images are not in {table.file.name}: they are dealt out.")
    if images.views is None and (table := _beside(file, "metadata", {"dicom_id", "ViewPosition"})):
        view_of = dict(zip(table.columns["dicom_id"], table.columns["ViewPosition"], strict=True))
        images.views = views([view_of.get(PurePosixPath(name).stem, "") for name in images.names])
        images.notes.append(f"Views from {table.file.name} beside {file.name}.")


def _beside(file: Path, kind: str, columns: set[str]) -> Table | None:
    """The table mimic-cxr-VERSION-KIND.csv, packed or not, beside another."""
    pattern = re.compile(rf"mimic-cxr-.*-{kind}\.csv(\.gz)?")
    found = sorted(path for path in file.absolute().parent.iterdir() if pattern.fullmatch(path.name))
    if not found:
        return None
    table = read_table(found[0])
    if missing := columns - table.columns.keys():
        raise DataError(
            f"{found[0]}: lacks the columns {', '.join(sorted(missing))}. Remove the file, or fetch it again."
        )
    return table
