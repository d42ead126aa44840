"""Which file each row of a table is about."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xrayfast.config import DataConfig
from xrayfast.data.labels.targets import Targets
from xrayfast.data.sources.datasets.forms import DatasetSpec, usual_columns
from xrayfast.data.sources.file_matching import Finder, absolute
from xrayfast.data.sources.tables import Table
from xrayfast.errors import DataError, did_you_mean, shorten


@dataclass(frozen=True)
class RowPaths:
    """What each row says of where its image lies; or its images, where it only names their folder."""

    columns: Sequence[str]
    cells: Sequence[str]
    are_folders: bool = False


@dataclass(frozen=True)
class Located:
    """The files that rows are about.

    Attributes:
        names: of M images.
        paths: absolute, of the same.
        rows: (K,) row of each pair of a row and an image that it is about.
        images: (K,) image of each pair.
        first: (M,) first row of each image.
    """

    names: list[str]
    paths: list[str]
    rows: npt.NDArray[np.intp]
    images: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]

    def by_image(self, raw: Targets) -> Targets:
        """The labels of images, (M, L), out of those of rows, (N, L): the largest value of several."""
        by_image = raw[self.first]
        if len(self.names) < len(self.rows):
            np.maximum.at(by_image, self.images, raw[self.rows])
        return by_image


def row_paths(table: Table, form: DatasetSpec, config: DataConfig) -> RowPaths:
    """The paths that rows write, or that the form makes of their cells.

    Raises:
        DataError: no column is known to hold them.
    """
    if config.path_col:
        return RowPaths([config.path_col], table.columns[chosen_column(table, config.path_col)])
    if form.path and all(name in table.columns for name in _fields(form.path)):
        return RowPaths(_fields(form.path), _filled(form.path, table))
    if usual := usual_columns(table.columns, "path"):
        return RowPaths(usual[:1], table.columns[usual[0]])
    if form.study:
        return RowPaths(_fields(form.study), _filled(form.study, table), are_folders=True)
    raise DataError(
        f"{table.file}: found the columns {', '.join(table.columns)}, none of which is known to hold image "
        "paths; expected one like 'image' or 'file'. Name it with --path-col."
    )


def _fields(template: str) -> list[str]:
    return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name))


def _filled(template: str, table: Table) -> list[str]:
    fields = _fields(template)
    if template == f"{{{fields[0]}}}":
        return table.columns[fields[0]]
    rows = zip(*(map(str.strip, table.columns[name]) for name in fields), strict=True)
    return [template.format_map(dict(zip(fields, row, strict=True))) for row in rows]


def locate(table: Table, paths: RowPaths, form: DatasetSpec, root: Path) -> Located:
    """Find the file of each row.

    Raises:
        DataError: a file is not there, could be one of several, or has two rows.
    """
    finder = Finder(root, absolute(table.file.parent), form.least)
    of_name, names, missing = list[int](), list[str](), list[int]()
    for row, cell in enumerate(paths.cells):
        found = finder.inside(cell) if paths.are_folders else finder.find(cell)
        if not found:
            missing.append(row)
        elif len(found) > 1 and not paths.are_folders:
            raise DataError(
                f"{table.where(row)}: image '{cell}' could be {shorten(found)}; expected one file. Write the path from "
                f"{root} into the {_column_words(paths)}."
            )
        of_name += [row] * len(found)
        names += found
    if missing:
        raise DataError(
            f"{table.where(missing[0])}: image{'s in' if paths.are_folders else ''} '{paths.cells[missing[0]]}' not "
            f"found under {root}; {len(missing)} of {len(table)} rows have no file. Check the {_column_words(paths)}, "
            "or give the images' folder."
        )
    image_of: dict[str, int] = {}
    images = np.array([image_of.setdefault(name, len(image_of)) for name in names], np.intp)
    rows = np.array(of_name, np.intp)
    first = np.full(len(image_of), -1, np.intp)
    first[images[::-1]] = rows[::-1]
    if not form.repeats:
        _require_one_row_each(rows, first[images], table, paths)
    return Located(list(image_of), [finder.path(name) for name in image_of], rows, images, first)


def _require_one_row_each(
    rows: npt.NDArray[np.intp], first: npt.NDArray[np.intp], table: Table, paths: RowPaths
) -> None:
    for row, earlier in zip(rows[rows != first].tolist(), first[rows != first].tolist(), strict=True):
        other = "" if paths.cells[row] == paths.cells[earlier] else f" as '{paths.cells[earlier]}'"
        raise DataError(
            f"{table.where(row)}: image '{paths.cells[row]}' stands in {table.where(earlier)} already{other}; "
            "expected one row for each image. Remove or join them."
        )


def _column_words(paths: RowPaths) -> str:
    return f"column{'s' if len(paths.columns) > 1 else ''} {quoted(paths.columns)}"


def chosen_column(table: Table, name: str) -> str:
    """The column that the user named.

    Raises:
        DataError: there is none of that name.
    """
    if name not in table.columns:
        raise DataError(
            f"{table.file.name}: found no column '{name}'; expected one of {', '.join(table.columns)}."
            f"{did_you_mean(name, table.columns)}"
        )
    return name


def quoted(names: Iterable[str]) -> str:
    """Names in quotes, comma separated."""
    return shorten((f"'{name}'" for name in names), 20)
