"""The stored values of a DICOM image, whatever its transfer syntax.

The decoders are chosen for what they do with damaged files: Pillow's JPEG and JPEG 2000, which Pillow keeps up to date;
run lengths here; lossless JPEG and JPEG-LS in a process of their own.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from xrayfast.data.images.dicom.parse import UNCOMPRESSED
from xrayfast.data.images.dicom.sandbox import Codec, decode_in_subprocess
from xrayfast.data.images.radiograph import require_few_scans
from xrayfast.errors import ReadError

Codes: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

JPEG_8_BIT = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
_JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
_JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
_JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
_RUN_LENGTHS = "1.2.840.10008.1.2.5"

READABLE = UNCOMPRESSED | JPEG_8_BIT | _JPEG_LOSSLESS | _JPEG_LS | _JPEG_2000 | {_RUN_LENGTHS}
"""The transfer syntaxes, by UID."""

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_LOSSLESS_FRAME, _BASELINE_FRAMES = 0xC3, frozenset({0xC0, 0xC1, 0xC2})
_END_OF_STREAM = b"\xff\xd9"
_STREAM_PADDING = 64
_START_OF_2000 = b"\xff\x4f\xff\x51"


@dataclass(frozen=True)
class Layout:
    """What the header says of the pixels; values that make sense together.

    Attributes:
        path: the file, for messages.
        syntax: the UID of the transfer syntax.
        little: whether native values are little endian.
        rows, columns, samples: the shape; 1 or 3 samples.
        allocated, stored: bits a sample; 8 or 16, and at most that.
        signed: whether the values are two's complement.
        by_plane: whether all of the first colour comes first.
        photometric: such as "MONOCHROME2".
    """

    path: Path
    syntax: str
    little: bool
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    by_plane: bool
    photometric: str

    @property
    def native_bytes(self) -> int:
        """How many bytes the values take where they are uncompressed."""
        # Of YBR_FULL_422 two pixels share their colour.
        values = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * values * self.allocated // 8


def decode(data: bytes, layout: Layout) -> tuple[Codes, int]:
    """The stored codes of the one frame.

    Args:
        data: the value of Pixel Data.
        layout: of the image.

    Returns:
        (H, W) or (H, W, 3), the bits as stored, unsigned, and how many bits count; signed values are two's complement
        of that many. Colour as the codestream means it: YBR is still YBR where the file is not JPEG.

    Raises:
        ReadError: cut off, damaged, or another image than the header's.
    """
    if layout.syntax in UNCOMPRESSED:
        return _native(data, layout), layout.stored
    from pydicom.encaps import get_frame

    frame = get_frame(data, 0, number_of_frames=1)
    if layout.syntax == _RUN_LENGTHS:
        return _run_lengths(frame, layout), layout.stored
    if _END_OF_STREAM not in frame[-_STREAM_PADDING:]:
        raise _damaged(layout, "its end is missing")
    if layout.syntax in _JPEG_2000:
        codes, bits = _jpeg_2000(frame, layout)
    else:
        codes, bits = _jpeg(frame, layout)
    return _fitting(codes, bits, layout)


def _fitting(codes: Codes, bits: int, layout: Layout) -> tuple[Codes, int]:
    """Codes of the codestream's precision as codes of the header's, which may differ."""
    if layout.signed:
        # A wider codestream repeats the sign; a narrower one has its sign in its own highest bit.
        kept = min(bits, layout.stored)
        return _masked(codes, kept), kept
    return codes, bits if int(codes.max()) >= 2**layout.stored else min(bits, layout.stored)


def _masked(codes: Codes, bits: int) -> Codes:
    """The lowest bits alone."""
    kept: Codes = codes & codes.dtype.type(2**bits - 1)
    return kept


def _native(data: bytes, layout: Layout) -> Codes:
    """Uncompressed values, without the bits above those stored (old files keep overlays there)."""
    size, expected = layout.allocated // 8, layout.native_bytes
    if len(data) < expected:
        raise _damaged(layout, f"{len(data)} of {expected} bytes")
    codes = np.frombuffer(data, f"{'<' if layout.little else '>'}u{size}", expected // size)
    if layout.photometric == "YBR_FULL_422":
        # Y Y Cb Cr for two pixels: the first two are all that gray needs, three times for the shape.
        luma = codes.reshape(-1, 4)[:, :2].reshape(layout.rows, layout.columns)
        return np.repeat(luma[:, :, None], 3, axis=2)
    codes = _shaped(codes, layout, layout.by_plane)
    return codes if layout.stored == layout.allocated else _masked(codes, layout.stored)


def _shaped(codes: Codes, layout: Layout, by_plane: bool) -> Codes:
    if layout.samples == 1:
        return codes.reshape(layout.rows, layout.columns)
    if by_plane:
        return np.moveaxis(codes.reshape(3, layout.rows, layout.columns), 0, 2)
    return codes.reshape(layout.rows, layout.columns, 3)


def _run_lengths(frame: bytes, layout: Layout) -> Codes:
    """PS3.5 annex G: a segment for each byte of a sample, the high one first, each run-length encoded."""
    size, plane = layout.allocated // 8, layout.rows * layout.columns
    count, *offsets = struct.unpack("<16L", frame[:64])
    if count != layout.samples * size:
        raise _damaged(layout, f"{count} run-length segments instead of {layout.samples * size}")
    ends = [*offsets[1:count], len(frame)]
    planes = np.empty((layout.samples, plane, size), np.uint8)
    for index, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        segment = _run_length_segment(frame[start:end], plane)
        if len(segment) < plane:
            raise _damaged(layout, f"a run-length segment of {len(segment)} of {plane} bytes")
        planes[index // size, :, size - 1 - index % size] = np.frombuffer(segment, np.uint8, plane)
    codes = planes.view(f"<u{size}")
    return _masked(_shaped(codes, layout, by_plane=True), layout.stored)


def _run_length_segment(data: bytes, size: int) -> bytearray:
    """Up to about `size` bytes, fewer where the segment ends; never more by much, however long the runs."""
    out = bytearray()
    place, end = 0, len(data)
    while len(out) < size and place < end:
        control = data[place]
        if control < 128:
            out += data[place + 1 : place + control + 2]
            place += control + 2
        elif control > 128:
            out += data[place + 1 : place + 2] * (257 - control)
            place += 2
        else:
            place += 1
    return out


def _jpeg(frame: bytes, layout: Layout) -> tuple[Codes, int]:
    """JPEG of any process, and JPEG-LS."""
    kind, bits, rows, columns, samples = _jpeg_header(frame, layout)
    _require_shape(layout, rows, columns, samples)
    if layout.syntax in JPEG_8_BIT:
        if bits != 8 or kind not in _BASELINE_FRAMES:
            raise ReadError(
                f"{layout.path}: found {syntax_name(layout.syntax)} with {bits} bits; 8 are read. "
                "Convert it, for example with dcmdjpeg."
            )
        return _jpeg_8_bit(frame, layout), 8
    if not 2 <= bits <= 16 or (kind == _LOSSLESS_FRAME) != (layout.syntax in _JPEG_LOSSLESS):
        raise _damaged(layout, "another codestream than the transfer syntax says")
    codec: Codec = "lossless" if layout.syntax in _JPEG_LOSSLESS else "jpeg-ls"
    values = decode_in_subprocess(layout.path, codec, frame, (rows, columns, samples), bits)
    return _shaped(np.frombuffer(values, "u1" if bits <= 8 else "<u2"), layout, by_plane=False), bits


def _jpeg_header(frame: bytes, layout: Layout) -> tuple[int, int, int, int, int]:
    """The frame header of a JPEG or JPEG-LS: marker, bits, rows, columns, samples."""
    place = 2
    while frame[place : place + 1] == b"\xff" and place + 10 <= len(frame):
        marker, length = struct.unpack(">xBH", frame[place : place + 4])
        if marker in _START_OF_FRAME:
            bits, rows, columns, samples = struct.unpack(">BHHB", frame[place + 4 : place + 10])
            return marker, bits, rows, columns, samples
        place += 1 if marker == 0xFF else 2 + length
    raise _damaged(layout, "no JPEG header")


def _jpeg_8_bit(frame: bytes, layout: Layout) -> Codes:
    """Baseline JPEG, decoded by Pillow; colour comes back as RGB."""
    require_few_scans(layout.path, frame)
    with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
        marked = "jfif" in image.info or "adobe_transform" in image.info
        if layout.photometric == "RGB" and image.mode == "RGB" and not marked:
            # libjpeg takes unmarked colour for YCbCr; asked for YCbCr it hands over what is stored.
            image.draft("YCbCr", image.size)
        return np.asarray(image)


def _jpeg_2000(frame: bytes, layout: Layout) -> tuple[Codes, int]:
    """JPEG 2000, decoded by Pillow, which adds half the range to signed values and shifts all to 8 or 16 bits."""
    start = frame.find(_START_OF_2000)
    if start < 0 or len(frame) < start + 43:
        raise _damaged(layout, "no JPEG 2000 header")
    samples, precision = struct.unpack(">HB", frame[start + 40 : start + 43])
    signed, bits = bool(precision >> 7), (precision & 0x7F) + 1
    if bits > 16 or (samples == 3 and bits > 8):
        raise ReadError(f"{layout.path}: found JPEG 2000 of {samples} samples of {bits} bits; that is not read.")
    # Some files have the boxes of a JP2 file around the codestream, which DICOM knows nothing of.
    with Image.open(io.BytesIO(frame[start:]), formats=("JPEG2000",)) as image:
        _require_shape(layout, image.height, image.width, len(image.getbands()))
        shifted = np.asarray(image)
    codes = shifted >> (8 * shifted.dtype.itemsize - bits)
    return (codes ^ codes.dtype.type(1 << bits - 1) if signed else codes), bits


def _require_shape(layout: Layout, rows: int, columns: int, samples: int) -> None:
    """Refuse a codestream of another shape than the header's, before anything is allocated for it."""
    if (rows, columns, samples) != (layout.rows, layout.columns, layout.samples):
        raise _damaged(
            layout,
            f"a codestream of {columns} x {rows} x {samples} instead of "
            f"{layout.columns} x {layout.rows} x {layout.samples}",
        )


def _damaged(layout: Layout, found: str) -> ReadError:
    return ReadError(f"{layout.path}: found damaged pixel data ({found}); expected a whole image. Fetch it again.")


def syntax_name(syntax: str) -> str:
    """A transfer syntax by its name, if it is a public one, and its UID."""
    from pydicom.uid import UID

    name = UID(syntax).name
    return f"transfer syntax {syntax}" if name == syntax else f"{name}, {syntax}"
