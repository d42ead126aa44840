"""`Radiograph`, the result of reading an image file, and the scaling to 8 bits that all decoders share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Floats

Pixels: TypeAlias = npt.NDArray[np.uint8]

BLACK = 12
"""The highest gray level that counts as black in notes on images."""

_BLOCK = 2**15  # pixels


@dataclass(frozen=True)
class Radiograph:
    """One image as a viewer shows it."""

    pixels: Pixels  # (H, W) uint8, 0 black to 255 white
    notes: tuple[str, ...] = ()  # what was done to the stored values, in order; empty for 8-bit gray
    format: str = ""  # of the file: "PNG", "JPEG", "TIFF", "BMP", "WEBP" or "DICOM"
    mode: str = "L"  # Pillow's mode, such as "L", "RGB" or "I;16"; DICOM's photometric interpretation
    bits: int = 8  # stored per sample


def scale_to_uint8(values: Floats, full: float = 1.0) -> Pixels:
    """Scale 0..full to 0..255, clipped: `floor(255 v / full + 0.5)`.

    Not np.rint, which rounds halves to even: here halves always round up.
    """
    return np.floor(np.clip(values * (255 / full), 0, 255) + 0.5).astype(np.uint8)


def apply_lut(lut: Pixels, codes: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> Pixels:
    """Return `lut[codes]` for a lookup table (L,) uint8 and codes of any shape.

    This is done in blocks of rows, because NumPy first widens all indices to 8 bytes, and takes twice as long if these
    do not fit into the CPU's cache.
    """
    pixels: Pixels = np.empty(codes.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, codes[:1].size))
    for start in range(0, len(codes), rows):
        pixels[start : start + rows] = lut.take(codes[start : start + rows])
    return pixels
