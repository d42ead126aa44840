"""A column of texts that stores each distinct text once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Integers, Places

T = TypeVar("T")

_CHUNK = 1 << 16


class TextColumn(Sequence[str]):
    """N texts, such as the cells of a table's column: ten million cells of 0 and 1 take 10 MB.

    Attributes:
        texts: the D distinct texts, in order of first appearance.
        codes: (N,) each cell's position in `texts`, as the smallest unsigned integer type that fits.
    """

    def __init__(self, texts: list[str], codes: Integers) -> None:
        self.texts = texts
        self.codes = codes.astype(np.min_scalar_type(max(len(texts) - 1, 0)), copy=False)

    @classmethod
    def of(cls, cells: Iterable[str]) -> TextColumn:
        """Return the column of these cells; the argument itself if it already is a column."""
        if isinstance(cells, TextColumn):
            return cells
        column = TextCollector()
        column.extend(cells)
        return column.collect()

    @classmethod
    def merged(cls, texts: Sequence[str], codes: Integers) -> TextColumn:
        """Return the column given by (N,) positions in texts, which may contain equal or unused texts."""
        distinct = list(dict.fromkeys(texts))
        if len(distinct) < len(texts):
            place = dict(zip(distinct, range(len(distinct)), strict=True))
            codes = np.fromiter(map(place.__getitem__, texts), np.int64, len(texts))[codes]
        return cls._in_order(distinct, codes)

    @classmethod
    def joined(cls, *columns: TextColumn) -> TextColumn:
        """Return the cells of several columns, one after the other."""
        if len(columns) == 1:
            return columns[0]
        starts = np.cumsum([0, *(len(column.texts) for column in columns)])
        codes = [column.codes.astype(np.int64) + start for column, start in zip(columns, starts, strict=False)]
        return cls.merged([text for column in columns for text in column.texts], np.concatenate(codes))

    @classmethod
    def _in_order(cls, texts: list[str], codes: Integers) -> TextColumn:
        """Return the column given by (N,) positions in distinct texts, which may be unused or in another order."""
        used, first = _first_rows(codes, len(texts))
        if len(used) == len(texts) and (np.diff(first) > 0).all():
            return cls(texts, codes)
        order = used[np.argsort(first)]
        place = np.zeros(len(texts), np.int64)
        place[order] = np.arange(len(order))
        return cls([texts[code] for code in order.tolist()], place[codes])

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.codes), _CHUNK):
            yield from map(self.texts.__getitem__, self.codes[start : start + _CHUNK].tolist())

    @overload
    def __getitem__(self, rows: int) -> str: ...
    @overload
    def __getitem__(self, rows: slice) -> TextColumn: ...
    def __getitem__(self, rows: int | slice) -> str | TextColumn:
        if isinstance(rows, slice):
            return TextColumn._in_order(self.texts, self.codes[rows])
        return self.texts[int(self.codes[rows])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # like a list's

    def __repr__(self) -> str:
        return f"TextColumn({list(self[:5])}{'...' if len(self) > 5 else ''})"

    def first_rows(self) -> Places:
        """Return (D,) the first row of each text."""
        return _first_rows(self.codes, len(self.texts))[1]

    def counts(self) -> dict[str, int]:
        """Return the number of cells per text."""
        return dict(zip(self.texts, np.bincount(self.codes, minlength=len(self.texts)).tolist(), strict=True))

    def replace(self, change: Callable[[str], str]) -> TextColumn:
        """Return the column with each text changed; the function is called once per distinct text."""
        texts = list(map(change, self.texts))
        return self if texts == self.texts else TextColumn.merged(texts, self.codes)

    def take(self, rows: npt.ArrayLike) -> TextColumn:
        """Return the cells of some rows, in the given order."""
        return TextColumn._in_order(self.texts, self.codes[np.asarray(rows, np.intp)])

    def map(self, function: Callable[[str], T]) -> list[T]:
        """Return N values of a function, which is called once per distinct text."""
        values = list(map(function, self.texts))
        return list(map(values.__getitem__, self.codes.tolist()))

    def map_array(self, function: Callable[[str], Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return N values of a function, which is called once per distinct text, as an array."""
        values = np.fromiter(map(function, self.texts), dtype, len(self.texts))
        return values[self.codes] if len(values) else np.zeros(len(self.codes), dtype)


def distinct(cells: Iterable[str]) -> Collection[str]:
    """Return the distinct cells."""
    return cells.texts if isinstance(cells, TextColumn) else dict.fromkeys(cells)


class TextCollector:
    """A builder of a `TextColumn` from cells that are added in batches."""

    def __init__(self) -> None:
        self._known, self._codes = _Codes(), array("i")

    def __len__(self) -> int:
        """The number of distinct cells so far."""
        return len(self._known)

    def extend(self, cells: Iterable[str]) -> None:
        """Append cells."""
        self._codes.extend(map(self._known.__getitem__, cells))

    def collect(self) -> TextColumn:
        """Return the column of all cells that were added."""
        return TextColumn(list(self._known), np.frombuffer(self._codes, np.int32))


class _Codes(dict[str, int]):
    """Numbers of texts in order of appearance; a new text gets the next number."""

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self)
        return code


def _first_rows(codes: Integers, n: int) -> tuple[Places, Places]:
    """Return the codes below n that occur, and the first row of each."""
    first = np.full(n, len(codes), np.intp)
    # In reverse, so that a code's first row is written last.
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    used = np.flatnonzero(first < len(codes))
    return used, first[used]
