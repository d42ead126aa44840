"""Lookup tables of a DICOM header: modality LUT, VOI LUT and palette (PS3.3 C.11.1.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.data.images.dicom.elements import Elements

Values: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lut:
    """A lookup table: values below `first` map to the first entry, values past the end to the last entry."""

    first: int  # the value that maps to the first entry
    entries: Values  # (N,) float64
    top: float  # the largest value that the entries' bits allow

    def __call__(self, values: Values) -> Values:
        """Look up values; the result has the same shape."""
        indices = np.clip(np.floor(values + 0.5) - self.first, 0, len(self.entries) - 1)
        return self.entries[indices.astype(np.int64)]

    def to_unit(self, values: Values) -> Values:
        """Look up values and return them as shares of `top`."""
        return self(values) / self.top


def read_lut(elements: Elements, prefix: str, signed: bool) -> Lut:
    """Read a table from the descriptor (number of entries, first value, bits) and data whose keywords have the prefix.

    `signed` is whether the values looked up can be negative; the first value has their sign.
    """
    descriptor, data = elements.numbers(f"{prefix}Descriptor"), elements.get(f"{prefix}Data")
    if len(descriptor) != 3 or data is None:
        raise elements.damaged(f"{prefix}Data")
    count, first, bits = (int(number) for number in descriptor)
    count = count % 2**16 or 2**16
    if isinstance(data, bytes):
        # 8-bit entries may be packed two to a word.
        dtype = "u1" if len(data) < 2 * count else "<u2" if elements.little else ">u2"
        entries = np.frombuffer(data, dtype, min(count, len(data) // int(dtype[-1])))
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64)) % 2**16
        if len(entries) == (count + 1) // 2 != count:
            entries = entries.astype("<u2").view("u1")[:count]
    if len(entries) < count:
        raise elements.damaged(f"{prefix}Data")
    values = entries[:count].astype(np.float64)
    first = first - 2**16 if first >= 2**15 and signed else first
    return Lut(first, values, max(2.0 ** min(max(bits, 8), 16) - 1, values.max()))
