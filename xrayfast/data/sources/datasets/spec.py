"""How a published data set writes its table and names its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xrayfast.data.labels.names import NO_FINDING
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.sources.tables.table import HeaderlessFormat, Table


@dataclass(frozen=True)
class DatasetSpec:
    """The form of a data set's table and files. The defaults suit any table.

    Attributes:
        columns: groups of columns; a table that has all columns of one group is of this data set.
        headerless: the format of its text files, if they have no header.
        main_table: regular expression for the file name of the table to read if several are of this data set.
        image_folder: regular expression for the names, in lower case, of folders that hold images and are not classes.
        image_path: an image's path, with columns in braces; if empty, or if the table lacks a column, a usual column.
        study_folder: the folder whose images share a row, with columns in braces; used if the table has no path column.
        min_path_parts: how many components at the end of a path tell files apart.
        has_repeated_images: whether several rows may be about one image.
        label_column: column of label names.
        flag_columns: label by column of 1, 0, -1 and blank; columns that the table lacks are ignored.
        no_finding: its name for "No Finding".
        multi_label: whether the task is multi-label even if each row at hand has one label.
        blank: the policy on blank cells.
        patient_in_path: matches an image's path; the first group is the patient, the second, if any, the study.
        path_example: a path that `patient_in_path` matches.
        age_columns: columns from which the age is computed if no column holds it.
        ages_of: returns ages as texts from the cells of `age_columns`.
        test_list: name of a file beside the table that lists the data set's own test split.
        note: what a user must know.
        complete_table: adds data from other files to the table.
        complete_records: fills in records from tables in the folder of the table, whose path it is given.
    """

    name: str
    columns: tuple[frozenset[str], ...] = ()
    headerless: HeaderlessFormat | None = None
    main_table: str = ""
    image_folder: str = ""
    image_path: str = ""
    study_folder: str = ""
    min_path_parts: int = 1
    has_repeated_images: bool = False
    label_column: str = ""
    flag_columns: Mapping[str, str] = field(default_factory=dict)
    no_finding: str = NO_FINDING
    multi_label: bool = False
    blank: str = "ignore"
    patient_in_path: re.Pattern[str] | None = None
    path_example: str = ""
    age_columns: tuple[str, ...] = ()
    ages_of: Callable[..., list[str]] = list
    test_list: str = ""
    note: str = ""
    complete_table: Callable[[Table], Table] = lambda table: table
    complete_records: Callable[[ImageRecords, Path], None] = lambda records, file: None


GENERIC = DatasetSpec("generic")
"""The spec of a table of no known data set."""
