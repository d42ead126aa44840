"""Values of a DICOM header, converted safely.

No value is converted before its size is checked. Headers identify patients, and pydicom's warnings and errors quote
headers: they are not passed on, and messages made here contain only standard names and sizes.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from xrayfast.errors import ReadError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MAX_VALUE_BYTES, _MAX_SEQUENCE_BYTES = 2**18, 2**21
"""Longest values that are converted: twice the size of a lookup table of 65536 entries, and 16 such tables."""

_silenced: ContextVar[bool] = ContextVar("silenced", default=False)


@contextlib.contextmanager
def silence_pydicom() -> Iterator[list[warnings.WarningMessage]]:
    """Drop pydicom's log records and collect its warnings, because both may quote the header."""
    logger = logging.getLogger("pydicom")
    if _passes not in logger.filters:
        logger.addFilter(_passes)
    token = _silenced.set(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        _silenced.reset(token)


def _passes(_record: logging.LogRecord) -> bool:
    return not _silenced.get()


@dataclass(frozen=True)
class Elements:
    """The elements of a data set or sequence item, converted safely."""

    path: Path  # the file, for messages
    dataset: Dataset  # as parsed

    @property
    def little(self) -> bool:
        """Whether multi-byte values are little endian."""
        return bool(self.dataset.original_encoding[1])

    def get(self, keyword: str) -> Any:
        """Return a converted value; None if it is absent or empty."""
        from pydicom.datadict import tag_for_keyword

        tag = cast(int, tag_for_keyword(keyword))
        try:
            raw = self.dataset.get_item(tag)
            if raw is None:
                return None
            size = len(raw.value) if isinstance(raw.value, bytes) else 0
            if size <= (_MAX_SEQUENCE_BYTES if keyword.endswith("Sequence") else _MAX_VALUE_BYTES):
                value = self.dataset[tag].value
                return value if isinstance(value, (int, float)) or (value is not None and len(value)) else None
        except Exception:  # On damaged values, pydicom raises nearly any type, and quotes them.
            raise self.damaged(keyword) from None
        raise ReadError(f"{self.path}: found {size} bytes of {keyword}; expected less. Leave the file out.")

    def text(self, keyword: str) -> str:
        """Return a value as text, "" if there is none; several values are joined with backslashes."""
        return "\\".join(str(value).strip(" \0") for value in self._values(keyword))

    def numbers(self, keyword: str) -> list[float]:
        """Return the numbers of a value; empty if there is none."""
        values = self._values(keyword)
        try:
            return [float(value) for value in values]
        except (TypeError, ValueError, OverflowError):
            raise self.damaged(keyword) from None

    def integer(self, keyword: str) -> int | None:
        """Return the first number of a value, which must be an integer; None if there is none."""
        numbers = self.numbers(keyword)
        if numbers and not numbers[0].is_integer():
            raise self.damaged(keyword)
        return int(numbers[0]) if numbers else None

    def items(self, keyword: str) -> list[Elements]:
        """Return the items of a sequence."""
        from pydicom.dataset import Dataset

        items = self._values(keyword)
        if not all(isinstance(item, Dataset) for item in items):
            raise self.damaged(keyword)
        return [Elements(self.path, item) for item in items]

    def damaged(self, keyword: str) -> ReadError:
        """Return the error for an impossible value, which it does not quote."""
        return ReadError(f"{self.path}: found a damaged {keyword} in the DICOM header. Fetch the file again.")

    def _values(self, keyword: str) -> list[Any]:
        from pydicom.multival import MultiValue
        from pydicom.sequence import Sequence

        value = self.get(keyword)
        if value is None:
            return []
        return list(value) if isinstance(value, (list, MultiValue, Sequence)) else [value]
