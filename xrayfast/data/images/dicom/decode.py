"""The image that a DICOM file shows."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from xrayfast.data.images.dicom.elements import Elements, silence_pydicom
from xrayfast.data.images.dicom.metadata import Header, read_header
from xrayfast.data.images.dicom.parse import DicomFile, is_dicom, open_dicom
from xrayfast.data.images.dicom.pixels import JPEG_8_BIT, READABLE, Codes, Layout, syntax_name
from xrayfast.data.images.dicom.pixels import decode as decode_pixels
from xrayfast.data.images.dicom.windowing import Lut, Values, Voi, Window, display_table, lut_voi, window_voi
from xrayfast.data.images.radiograph import Pixels, Radiograph, looked_up, require_sensible_size, to_levels
from xrayfast.errors import ReadError

__all__ = ["Header", "decode", "is_dicom", "read_header"]

_GRAY, _COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_PALETTE = "PALETTE COLOR"
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")

_PALETTE_KEYWORDS = tuple(f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue"))
_KEYWORDS = (
    "SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RescaleIntercept",
    "RescaleSlope", "ModalityLUTSequence",
    *(keyword + split for keyword in _PALETTE_KEYWORDS for split in ("Descriptor", "Data")),
)  # fmt: skip


def decode(path: Path, stream: BinaryIO, choice: Window) -> Radiograph:
    """Decode an open DICOM file by the rules that `radiograph.read` states.

    Args:
        path: its name, for messages.
        stream: the file.
        choice: of window.

    Raises:
        ReadError: no image, several frames, an encoding that is not read, cut off, damaged or too large.
    """
    from pydicom.datadict import tag_for_keyword

    with silence_pydicom() as caught, np.errstate(all="ignore"):
        try:
            file = open_dicom(path, stream, [tag_for_keyword(keyword) or 0 for keyword in _KEYWORDS])
            layout = _layout(file)
            codes, bits = decode_pixels(file.pixel_data(layout.native_bytes, of_bytes=layout.allocated == 8), layout)
            show = _colour if layout.photometric in _COLOUR else _gray
            pixels, notes = show(file.elements, codes, layout, bits, choice)
        except ReadError:
            raise
        except Exception as error:  # Decoders raise nearly any type on damaged files, and quote them.
            raise ReadError(
                f"{path}: found a damaged DICOM file ({type(error).__name__}); expected a whole one. Fetch it again."
            ) from None
    said = sum(warning.category is UserWarning for warning in caught)
    if said:
        notes.append(f"pydicom: {said} warning{'s' if said > 1 else ''} on header values")
    return Radiograph(pixels, tuple(notes), "DICOM", layout.photometric, layout.stored)


def _layout(file: DicomFile) -> Layout:
    """What the header says of the pixels, once it makes sense; nothing is decoded for a file that is refused."""
    path, elements = file.elements.path, file.elements
    _require_one_frame(file)
    if file.syntax not in READABLE:
        raise ReadError(
            f"{path}: found {syntax_name(file.syntax)}, which is not read. Convert it, such as with dcmconv."
        )
    rows, columns = _whole(elements, "Rows"), _whole(elements, "Columns")
    require_sensible_size(path, columns, rows)
    samples = _whole(elements, "SamplesPerPixel", 1)
    allocated, stored = _whole(elements, "BitsAllocated"), _whole(elements, "BitsStored")
    high = _whole(elements, "HighBit", stored - 1)
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        raise ReadError(
            f"{path}: found {stored} bits stored of {allocated}, the highest in place {high}; expected up to 16, from "
            "place 0 on. Convert it."
        )
    photometric = elements.text("PhotometricInterpretation").upper()
    if photometric not in {1: (*_GRAY, _PALETTE), 3: _COLOUR}.get(samples, ()):
        raise ReadError(
            f"{path}: found {samples} samples a pixel and a Photometric Interpretation that does not go with them, or "
            f"is not read; expected {', '.join((*_GRAY, _PALETTE, *_COLOUR))}. Convert it."
        )
    signed = _whole(elements, "PixelRepresentation", 0) == 1
    by_plane = _whole(elements, "PlanarConfiguration", 0) == 1
    return Layout(
        path, file.syntax, elements.little, rows, columns, samples, allocated, stored, signed, by_plane, photometric
    )


def _require_one_frame(file: DicomFile) -> None:
    """Refuse objects that hold no image, or several."""
    from pydicom.uid import UID

    path, elements = file.elements.path, file.elements
    if not file.pixels and elements.integer("Rows") is not None:
        raise ReadError(f"{path}: found a DICOM image without its pixels; the file is cut off. Fetch it again.")
    if file.pixels != "integer":
        sop_class = elements.text("SOPClassUID")
        # The name of a UID that pydicom doesn't know is the UID itself, which could be anything.
        name = UID(sop_class).name if UID(sop_class).name != sop_class else "of unknown class"
        what = "floating-point pixels" if file.pixels else "no pixel data"
        raise ReadError(f"{path}: found a DICOM object with {what} ({name}); expected a radiograph. Leave it out.")
    frames = _whole(elements, "NumberOfFrames", 1)
    if frames not in (0, 1):  # some say 0 of a single one
        raise ReadError(f"{path}: found a DICOM object of {frames} frames; expected one. Export the frame alone.")


def _whole(elements: Elements, keyword: str, default: int | None = None) -> int:
    """A whole number that the header has to have, or else has a default."""
    number = elements.integer(keyword)
    if number is None:
        number = default
    if number is None:
        raise ReadError(f"{elements.path}: found DICOM without {keyword}; expected a radiograph. Export it again.")
    return number


def _colour(_elements: Elements, codes: Codes, layout: Layout, bits: int, _choice: Window) -> tuple[Pixels, list[str]]:
    """Colour as luma; it has no window."""
    levels = looked_up(to_levels(np.arange(2**bits, dtype=np.float64), 2**bits - 1), codes)
    notes = [f"{layout.photometric} converted to gray"]
    # Y of YBR_FULL is the luma; Pillow has made RGB of it where the file is JPEG.
    if layout.photometric.startswith("YBR_FULL") and layout.syntax not in JPEG_8_BIT:
        return np.ascontiguousarray(levels[:, :, 0]), notes
    return np.array(Image.fromarray(np.ascontiguousarray(levels)).convert("L")), notes


def _gray(elements: Elements, codes: Codes, layout: Layout, bits: int, choice: Window) -> tuple[Pixels, list[str]]:
    """Gray, or a palette's colours as luma: one table from stored codes to levels."""
    stored = np.arange(2**bits, dtype=np.float64)
    if layout.signed:
        stored[2 ** (bits - 1) :] -= 2**bits
    notes = [f"{bits} bits stored"] if bits != layout.allocated or bits > 8 else []
    if layout.photometric == _PALETTE:
        levels = _palette_levels(elements, stored, layout)
        return looked_up(levels, codes), [*notes, f"{_PALETTE} converted to gray"]
    padding = _padding(elements, stored, layout)
    counts = _counts(codes, 2**bits)
    values, said = _modality(elements, stored, layout)
    views, ignored = _views(elements, bool(values.min() < 0))
    inverted = layout.photometric == "MONOCHROME1"
    try:
        levels, shown = display_table(values, np.where(padding, 0, counts), views, choice, bits, inverted)
    except LookupError as error:
        raise ReadError(f"{elements.path}: found {error}. Use --window auto.") from error
    notes += [*said, *ignored, *shown]
    if counts[padding].any():
        notes.append("pixel padding made black")
    levels[padding] = 0
    return looked_up(levels, codes), notes


def _counts(codes: Codes, size: int) -> npt.NDArray[np.int64]:
    """How many pixels have each code; by blocks of rows, because counting widens them to 8 bytes."""
    counts = np.zeros(size, np.int64)
    for rows in np.array_split(codes, 1 + codes.size // 2**22):
        counts += np.bincount(rows.ravel(), minlength=size)
    return counts


def _padding(elements: Elements, stored: Values, layout: Layout) -> npt.NDArray[np.bool_]:
    """Which stored values are no image (PS3.3 C.7.5.1.1.2)."""
    value, limit = elements.integer("PixelPaddingValue"), elements.integer("PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    ends = sorted(_as_stored(end, layout) for end in (value, value if limit is None else limit))
    return (stored >= ends[0]) & (stored <= ends[1])


def _as_stored(number: int, layout: Layout) -> int:
    """A header's number of the pixels' own type, which may have been read with or without its sign."""
    number %= 2**layout.allocated
    return number - 2**layout.allocated if layout.signed and number >= 2 ** (layout.allocated - 1) else number


def _modality(elements: Elements, stored: Values, layout: Layout) -> tuple[Values, list[str]]:
    """Stored values after the modality LUT, or else the rescale (PS3.3 C.11.1)."""
    sequence = elements.items("ModalityLUTSequence")
    if sequence:
        return _lut(sequence[0], "LUT", layout.signed)(stored), ["modality LUT"]
    slopes, intercepts = elements.numbers("RescaleSlope"), elements.numbers("RescaleIntercept")
    slope, intercept = (slopes or [1.0])[0], (intercepts or [0.0])[0]
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise elements.damaged("RescaleSlope")
    if (slope, intercept) == (1, 0):
        return stored, []
    values = stored * slope + intercept
    if not np.isfinite(values).all():
        raise elements.damaged("RescaleSlope")
    return values, [f"rescaled by {slope:g} and {intercept:+g}"]


def _views(elements: Elements, signed: bool) -> tuple[list[Voi], list[str]]:
    """The file's VOI LUTs, then its windows (PS3.3 C.11.2), and notes on those that can't be."""
    luts = [_lut(item, "LUT", signed) for item in elements.items("VOILUTSequence")]
    views: list[Voi | None] = [lut_voi(lut, number) for number, lut in enumerate(luts, start=1)]
    function = elements.text("VOILUTFunction").upper() or _FUNCTIONS[0]
    notes = []
    if function not in _FUNCTIONS:
        notes, function = ["unknown VOI LUT function taken as LINEAR"], _FUNCTIONS[0]
    centers, widths = elements.numbers("WindowCenter"), elements.numbers("WindowWidth")
    views += [window_voi(center, width, function) for center, width in zip(centers, widths, strict=False)]
    if None in views:
        notes.append("window of no width ignored")
    return [view for view in views if view is not None], notes


def _lut(elements: Elements, prefix: str, signed: bool) -> Lut:
    """A lookup table: its descriptor gives the number of entries, the first value and the bits (PS3.3 C.11.1.1.1).

    The first value has the sign of what is looked up; `signed` says whether that can be negative.
    """
    descriptor, data = elements.numbers(f"{prefix}Descriptor"), elements.get(f"{prefix}Data")
    if len(descriptor) != 3 or data is None:
        raise elements.damaged(f"{prefix}Data")
    count, first, bits = (int(number) for number in descriptor)
    count = count % 2**16 or 2**16
    if isinstance(data, bytes):
        # Entries of 8 bits may stand two in a word.
        kind = "u1" if len(data) < 2 * count else "<u2" if elements.little else ">u2"
        entries = np.frombuffer(data, kind, min(count, len(data) // int(kind[-1])))
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64)) % 2**16
        if len(entries) == (count + 1) // 2 != count:
            entries = entries.astype("<u2").view("u1")[:count]
    if len(entries) < count:
        raise elements.damaged(f"{prefix}Data")
    values = entries[:count].astype(np.float64)
    first = first - 2**16 if first >= 2**15 and signed else first
    return Lut(first, values, max(2.0 ** min(max(bits, 8), 16) - 1, values.max()))


def _palette_levels(elements: Elements, stored: Values, layout: Layout) -> Pixels:
    """The luma of each stored value's colour (PS3.3 C.7.6.3.1.5)."""
    luts = [_lut(elements, keyword, layout.signed) for keyword in _PALETTE_KEYWORDS]
    colours = np.stack([to_levels(lut(stored), lut.top) for lut in luts], axis=-1)
    return np.array(Image.fromarray(colours[None]).convert("L")).reshape(-1)
