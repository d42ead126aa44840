"""MIMIC-CXR (Johnson et al. 2019, Sci Data): one row of labels per study; splits and views in separate tables."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from xrayfast.data.demographics import parse_views
from xrayfast.data.sources.datasets.chexpert import CHEXPERT_LABELS
from xrayfast.data.sources.datasets.spec import DatasetSpec
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.sources.tables import read_table
from xrayfast.data.sources.tables.table import Table
from xrayfast.data.splits.words import parse_splits
from xrayfast.errors import DataError

_STUDY_FOLDER = "files/p{subject_id:.2}/p{subject_id}/s{study_id}"


def add_splits_and_views(records: ImageRecords, file: Path) -> None:
    """Fill in splits and views from the tables published with the labels, if they are in the same folder.

    Raises:
        DataError: such a table can't be read or lacks columns.
    """
    ids = [PurePosixPath(name).stem for name in records.names]
    if records.splits is None and (table := _read_beside(file, "split", ("dicom_id", "split"))):
        cells = parse_splits(table.columns["split"], "split", table.where)
        split_of = dict(zip(table.columns["dicom_id"], cells, strict=True))
        records.splits = [split_of.get(dicom_id) for dicom_id in ids]
        records.notes.append(f"Splits from {table.file.name} next to {file.name}.")
        if missing := records.splits.count(None):
            records.notes.append(f"Images that are not in {table.file.name}: {missing}; their splits are drawn.")
    if records.views is None and (table := _read_beside(file, "metadata", ("dicom_id", "ViewPosition"))):
        view_of = dict(zip(table.columns["dicom_id"], table.columns["ViewPosition"], strict=True))
        records.views = parse_views([view_of.get(dicom_id, "") for dicom_id in ids])
        records.notes.append(f"Views from {table.file.name} next to {file.name}.")


def _read_beside(file: Path, kind: str, columns: tuple[str, ...]) -> Table | None:
    """Read the table mimic-cxr-VERSION-KIND.csv, gzipped or not, in the folder of `file`; None if there is none."""
    pattern = re.compile(rf"mimic-cxr-.*-{kind}\.csv(\.gz)?")
    found = sorted(path for path in file.absolute().parent.iterdir() if pattern.fullmatch(path.name))
    if not found:
        return None
    table = read_table(found[0])
    if missing := sorted(set(columns) - table.columns.keys()):
        raise DataError(
            f"{found[0]}: the columns {', '.join(missing)} are missing. Remove the file, or fetch it again."
        )
    return table


SPEC = DatasetSpec(
    "MIMIC-CXR",
    tuple(frozenset({"subject_id", "study_id", label}) for label in CHEXPERT_LABELS),
    main_table=r".*chexpert\.csv(\.gz)?",
    image_folder=r"p\d\d|[ps]\d{8}",
    image_path=_STUDY_FOLDER + "/{dicom_id}",
    study_folder=_STUDY_FOLDER,
    flag_columns={label: label for label in CHEXPERT_LABELS},
    multi_label=True,
    blank="zeros",
    patient_in_path=re.compile(r"(?:^|/)p\d\d/(p\d{8})/(s\d{8})/"),
    path_example="p10/p10000123/s50000123/",
    complete_records=add_splits_and_views,
)
