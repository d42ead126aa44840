"""What a DICOM header says about the pixels: shape, bits and color, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xrayfast.data.images.dicom.elements import Elements
from xrayfast.data.images.dicom.parse import DicomFile
from xrayfast.data.images.limits import require_sensible_size
from xrayfast.data.images.notes import NO_PIXEL_DATA, OTHER_KIND, UNKNOWN_CLASS
from xrayfast.errors import ReadError

GRAY, PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_PHOTOMETRIC = {1: (*GRAY, PALETTE), 3: COLOR}  # by samples per pixel

LAYOUT_KEYWORDS = (
    "SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip

_NO_RADIOGRAPHS = ("Segmentation", "Presentation State", "Parametric Map", "RT ", "SR ", "Encapsulated", "Waveform")
"""Words in the names of SOP classes whose objects may have pixels, but are no radiographs."""


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels are stored; the fields are consistent with each other."""

    path: Path  # for messages
    syntax: str  # UID of the transfer syntax
    little: bool  # whether uncompressed values are little endian
    rows: int
    columns: int
    samples: int  # per pixel, 1 or 3
    allocated: int  # bits per sample, 8 or 16
    stored: int  # bits that count, at most those allocated
    signed: bool  # whether the values are two's complement
    by_plane: bool  # whether color is stored plane by plane, not pixel by pixel
    photometric: str  # such as "MONOCHROME2"

    @property
    def uncompressed_bytes(self) -> int:
        """The length in bytes of uncompressed Pixel Data."""
        # In YBR_FULL_422, two pixels share their color.
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.allocated // 8


def read_layout(file: DicomFile) -> PixelLayout:
    """Read the layout from a header with `LAYOUT_KEYWORDS`."""
    path, elements = file.elements.path, file.elements
    rows, columns = _integer(elements, "Rows"), _integer(elements, "Columns")
    require_sensible_size(path, columns, rows)
    samples = _integer(elements, "SamplesPerPixel", 1)
    allocated, stored = _integer(elements, "BitsAllocated"), _integer(elements, "BitsStored")
    high = _integer(elements, "HighBit", stored - 1)
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        found = f"{stored} bits stored of {allocated} allocated, high bit {high}"
        raise ReadError(f"{path}: found {found}; expected up to 16, starting at bit 0. Convert it.")
    photometric = elements.text("PhotometricInterpretation").upper()
    if photometric not in _PHOTOMETRIC.get(samples, ()):
        raise ReadError(
            f"{path}: found {samples} samples per pixel and a Photometric Interpretation that does not match them, or "
            f"is not supported; expected {', '.join((*GRAY, PALETTE, *COLOR))}. Convert it."
        )
    signed = _integer(elements, "PixelRepresentation", 0) == 1
    by_plane = _integer(elements, "PlanarConfiguration", 0) == 1
    return PixelLayout(
        path, file.syntax, elements.little, rows, columns, samples, allocated, stored, signed, by_plane, photometric
    )


def require_one_frame(file: DicomFile) -> None:
    """Raise a ReadError for an object of another kind, without integer Pixel Data, or with several frames."""
    from pydicom.uid import UID

    path, elements = file.elements.path, file.elements
    sop_class = elements.text("SOPClassUID")
    # For a UID that it doesn't know, pydicom returns the UID itself as the name, which could be any text.
    name = UID(sop_class).name if UID(sop_class).name != sop_class else UNKNOWN_CLASS
    if file.pixels and any(word in name for word in _NO_RADIOGRAPHS):
        raise ReadError(f"{path}: {OTHER_KIND} ({name}); expected a radiograph. Leave it out.")
    if not file.pixels and elements.integer("Rows") is not None:
        found = "a DICOM image without pixel data (only an overlay, or a file that is cut off)"
        raise ReadError(f"{path}: found {found}; expected a radiograph. Fetch it again, or leave it out.")
    if file.pixels != "integer":
        found = "found a DICOM object with floating-point pixels" if file.pixels else NO_PIXEL_DATA
        raise ReadError(f"{path}: {found} ({name}); expected a radiograph. Leave it out.")
    frames = _integer(elements, "NumberOfFrames", 1)
    if frames not in (0, 1):  # some files say 0 for a single frame
        raise ReadError(f"{path}: found a DICOM object with {frames} frames; expected one. Export a single frame.")


def _integer(elements: Elements, keyword: str, default: int | None = None) -> int:
    """Return an integer element, which is required if it has no default."""
    number = elements.integer(keyword)
    number = default if number is None else number
    if number is None:
        raise ReadError(
            f"{elements.path}: found no {keyword} in the DICOM header; expected a radiograph. Export the file again."
        )
    return number
