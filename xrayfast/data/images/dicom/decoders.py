"""Decoding of Pixel Data into stored values: `DECODERS`, at the end, has one decoder per transfer syntax.

To read another transfer syntax, add its row. The decoders are chosen for how they treat damaged files: Pillow for JPEG
and JPEG 2000, whose libraries Pillow keeps up to date; code in this module for RLE; a subprocess (`sandbox`) for
lossless JPEG and JPEG-LS.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from xrayfast.data.images.bits import Codes, is_likelier, to_integers
from xrayfast.data.images.dicom.layout import PixelLayout
from xrayfast.data.images.dicom.parse import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from xrayfast.data.images.dicom.sandbox import Codec, decode_in_subprocess
from xrayfast.data.images.jpeg import lacks_last_rows
from xrayfast.data.images.limits import require_enough_data, require_few_scans
from xrayfast.data.images.notes import Note
from xrayfast.errors import ReadError

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_LOSSLESS_FRAME, _BASELINE_FRAMES = 0xC3, frozenset({0xC0, 0xC1, 0xC2})
_END_OF_CODESTREAM = b"\xff\xd9"
_MAX_PADDING = 64  # bytes after the end of a codestream
_START_OF_JPEG_2000 = b"\xff\x4f\xff\x51"
_JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"


class StoredPixels(NamedTuple):
    """The values of one frame as stored."""

    codes: Codes  # (H, W), or (H, W, 3) in color: the stored bits, unsigned; two's complement of `bits` if signed
    bits: int  # how many bits of each code count
    is_rgb: bool = False  # whether the decoder has converted YBR to RGB
    notes: tuple[str, ...] = ()  # on values that contradict the header


Decoder: TypeAlias = Callable[[bytes, PixelLayout], StoredPixels]
"""Decodes the value of Pixel Data; raises ReadError if it is cut off, damaged, or does not match the header."""


def require_decoder(path: Path, syntax: str) -> Decoder:
    """Return the decoder for a transfer syntax; raise a ReadError if `DECODERS` has none."""
    if syntax not in DECODERS:
        raise ReadError(
            f"{path}: found {_syntax_name(syntax)}, which is not supported. Convert it, for example with dcmconv."
        )
    return DECODERS[syntax]


def _syntax_name(syntax: str) -> str:
    """Return the UID of a transfer syntax, with its name in PS3.6 if it is a public one."""
    from pydicom.uid import UID

    name = UID(syntax).name
    return f"transfer syntax {syntax}" if name == syntax else f"{name}, {syntax}"


def decode_uncompressed(value: bytes, layout: PixelLayout) -> StoredPixels:
    """Decode uncompressed values."""
    size, expected = layout.allocated // 8, layout.uncompressed_bytes
    if len(value) < expected:
        raise _damaged(layout, f"{len(value)} of {expected} bytes")
    codes = np.frombuffer(value, f"{'<' if layout.little else '>'}u{size}", expected // size)
    if layout.photometric == "YBR_FULL_422":
        # Two pixels are Y Y Cb Cr; gray needs Y alone, repeated to get the shape.
        luma = codes.reshape(-1, 4)[:, :2].reshape(layout.rows, layout.columns)
        return StoredPixels(np.repeat(luma[:, :, None], 3, axis=2), layout.stored)
    pixels = _resolve_bits(_reshape(codes, layout, layout.by_plane), layout.allocated, layout)
    if (excess := len(value) - expected) <= _MAX_PADDING:
        return pixels
    return pixels._replace(notes=(*pixels.notes, Note.MORE_BYTES(excess)))


def decode_rle(value: bytes, layout: PixelLayout) -> StoredPixels:
    """Decode RLE Lossless (PS3.5 annex G), which has one segment per byte of a sample, the high byte first."""
    frame = _frame(value)
    size, plane = layout.allocated // 8, layout.rows * layout.columns
    count, *offsets = struct.unpack("<16L", frame[:64])
    if count != layout.samples * size:
        raise _damaged(layout, f"{count} run-length segments instead of {layout.samples * size}")
    ends = [*offsets[1:count], len(frame)]
    planes = np.empty((layout.samples, plane, size), np.uint8)
    for index, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        segment = _decode_rle_segment(frame[start:end], plane)
        if len(segment) < plane:
            raise _damaged(layout, f"a run-length segment of {len(segment)} of {plane} bytes")
        planes[index // size, :, size - 1 - index % size] = np.frombuffer(segment, np.uint8, plane)
    return _resolve_bits(_reshape(planes.view(f"<u{size}"), layout, by_plane=True), layout.allocated, layout)


def _decode_rle_segment(data: bytes, size: int) -> bytearray:
    """Return the first `size` bytes, and at most one run more; fewer if the segment ends before."""
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


def decode_jpeg(value: bytes, layout: PixelLayout) -> StoredPixels:
    """Decode 8-bit JPEG (baseline, extended, progressive) with Pillow; color comes back as RGB."""
    frame = _codestream(value, layout)
    marker, bits = _read_jpeg_header(frame, layout)
    if bits != 8 or marker not in _BASELINE_FRAMES:
        raise ReadError(
            f"{layout.path}: found {_syntax_name(layout.syntax)} with {bits} bits; only 8 are supported. Convert it, "
            "for example with dcmdjpeg."
        )
    require_few_scans(layout.path, frame)
    require_enough_data(layout.path, frame, layout.columns, layout.rows)
    with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
        marked = "jfif" in image.info or "adobe_transform" in image.info
        if layout.photometric == "RGB" and image.mode == "RGB" and not marked:
            # libjpeg takes unmarked color for YCbCr; asked for YCbCr, it returns the stored values.
            image.draft("YCbCr", image.size)
        pixels = _resolve_bits(np.asarray(image), 8, layout, is_rgb=True)
        return pixels._replace(notes=(*pixels.notes, Note.MISSING_ROWS())) if lacks_last_rows(image) else pixels


def decode_in_sandbox(value: bytes, layout: PixelLayout, *, codec: Codec) -> StoredPixels:
    """Decode lossless JPEG or JPEG-LS in a subprocess."""
    frame = _codestream(value, layout)
    marker, bits = _read_jpeg_header(frame, layout)
    if not 2 <= bits <= 16 or (marker == _LOSSLESS_FRAME) != (codec == "lossless"):
        raise _damaged(layout, "a codestream that does not match the transfer syntax")
    shape = (layout.rows, layout.columns, layout.samples)
    values = decode_in_subprocess(layout.path, codec, frame, shape, bits)
    codes = np.frombuffer(values, "u1" if bits <= 8 else "<u2")
    return _resolve_bits(_reshape(codes, layout, by_plane=False), bits, layout)


def _read_jpeg_header(frame: bytes, layout: PixelLayout) -> tuple[int, int]:
    """Return the start-of-frame marker and the bits of a JPEG or JPEG-LS, which must have the layout's shape."""
    place = 2
    while frame[place : place + 1] == b"\xff" and place + 10 <= len(frame):
        marker, length = struct.unpack(">xBH", frame[place : place + 4])
        if marker in _START_OF_FRAME:
            bits, rows, columns, samples = struct.unpack(">BHHB", frame[place + 4 : place + 10])
            _require_shape(layout, rows, columns, samples)
            return marker, bits
        place += 1 if marker == 0xFF else 2 + length
    raise _damaged(layout, "no JPEG header")


def decode_jpeg_2000(value: bytes, layout: PixelLayout) -> StoredPixels:
    """Decode JPEG 2000 with Pillow, which adds half the range to signed values and shifts all to 8 or 16 bits."""
    frame = _codestream(value, layout)
    start = frame.find(_START_OF_JPEG_2000)
    if start < 0 or len(frame) < start + 43:
        raise _damaged(layout, "no JPEG 2000 header")
    samples, precision = struct.unpack(">HB", frame[start + 40 : start + 43])
    signed, bits = bool(precision >> 7), (precision & 0x7F) + 1
    if bits > 16 or (samples == 3 and bits > 8):
        found = f"JPEG 2000 with {samples} samples of {bits} bits"
        raise ReadError(f"{layout.path}: found {found}, which is not supported. Convert the file.")
    # Some files wrap the codestream in the boxes of a JP2 file, which DICOM does not provide for.
    with Image.open(io.BytesIO(frame[start:]), formats=("JPEG2000",)) as image:
        _require_shape(layout, image.height, image.width, len(image.getbands()))
        shifted = np.asarray(image)
    codes = shifted >> (8 * shifted.dtype.itemsize - bits)
    return _resolve_bits(codes ^ codes.dtype.type(1 << bits - 1) if signed else codes, bits, layout)


def _frame(value: bytes) -> bytes:
    """Return the only frame of encapsulated Pixel Data."""
    from pydicom.encaps import get_frame

    return get_frame(value, 0, number_of_frames=1)


def _codestream(value: bytes, layout: PixelLayout) -> bytes:
    """Return the only frame: a JPEG, JPEG-LS or JPEG 2000 codestream, which must not be cut off."""
    frame = _frame(value)
    if _END_OF_CODESTREAM not in frame[-_MAX_PADDING:]:
        raise _damaged(layout, "its end is missing")
    return frame


def _resolve_bits(codes: Codes, width: int, layout: PixelLayout, is_rgb: bool = False) -> StoredPixels:
    """Reduce codes of `width` bits to the bits stored according to the header, or to more if more are evidently used.

    The bits above these usually repeat the sign of a signed value, or are overlays in old files. But some files declare
    fewer bits than they use, and dropping the others turns the image into noise.
    """
    stored = min(width, layout.stored)
    if width == stored or (not layout.signed and int(codes.max()) < 1 << stored):
        return StoredPixels(codes, stored, is_rgb)
    kept = _lowest_bits(codes, stored)
    whole, declared = to_integers(codes, width, layout.signed), to_integers(kept, stored, layout.signed)
    if not layout.signed or not (whole == declared).all():
        if is_likelier(whole, declared):
            used = max(int(whole.max()).bit_length(), int(~whole.min()).bit_length()) + layout.signed
            return StoredPixels(_lowest_bits(codes, used), used, is_rgb, (Note.MORE_BITS(used, layout.stored),))
        if not layout.signed:
            return StoredPixels(kept, stored, is_rgb, (Note.HIGH_BITS_IGNORED(stored),))
    return StoredPixels(kept, stored, is_rgb)


def _lowest_bits(codes: Codes, bits: int) -> Codes:
    return codes & codes.dtype.type(2**bits - 1)


def _reshape(codes: Codes, layout: PixelLayout, by_plane: bool) -> Codes:
    shape = layout.rows, layout.columns
    if layout.samples == 1:
        return codes.reshape(shape)
    return np.moveaxis(codes.reshape(3, *shape), 0, 2) if by_plane else codes.reshape(*shape, 3)


def _require_shape(layout: PixelLayout, rows: int, columns: int, samples: int) -> None:
    """Refuse a codestream with another shape than the header's before anything is allocated for it."""
    if (rows, columns, samples) != (layout.rows, layout.columns, layout.samples):
        expected = f"{layout.columns} x {layout.rows} x {layout.samples}"
        raise _damaged(layout, f"a codestream of {columns} x {rows} x {samples} instead of {expected}")


def _damaged(layout: PixelLayout, found: str) -> ReadError:
    return ReadError(f"{layout.path}: found damaged pixel data ({found}); expected a whole image. Fetch it again.")


DECODERS: Mapping[str, Decoder] = {
    IMPLICIT_LITTLE: decode_uncompressed,
    EXPLICIT_LITTLE: decode_uncompressed,
    EXPLICIT_BIG: decode_uncompressed,
    DEFLATED: decode_uncompressed,
    "1.2.840.10008.1.2.5": decode_rle,  # RLE Lossless
    "1.2.840.10008.1.2.4.50": decode_jpeg,  # JPEG Baseline
    "1.2.840.10008.1.2.4.51": decode_jpeg,  # JPEG Extended
    "1.2.840.10008.1.2.4.57": partial(decode_in_sandbox, codec="lossless"),  # JPEG Lossless
    "1.2.840.10008.1.2.4.70": partial(decode_in_sandbox, codec="lossless"),  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": partial(decode_in_sandbox, codec="jpeg-ls"),  # JPEG-LS Lossless
    _JPEG_LS_NEAR_LOSSLESS: partial(decode_in_sandbox, codec="jpeg-ls"),
    "1.2.840.10008.1.2.4.90": decode_jpeg_2000,  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": decode_jpeg_2000,  # JPEG 2000
}
"""The decoder of each transfer syntax, by UID; files with any other syntax are refused."""

LOSSY = frozenset(
    {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", _JPEG_LS_NEAR_LOSSLESS, "1.2.840.10008.1.2.4.91"}
)
"""Transfer syntaxes whose compression is lossy, or may be."""
