"""One subprocess per image for decoders that damaged files can crash or hang: lossless JPEG and JPEG-LS.

GDCM, the only permissively licensed decoder of lossless JPEG, aborts or crashes on one in a hundred damaged streams,
and fills missing data with zeros without failing, with only a message on standard error. CharLS (JPEG-LS), up to 2.4.2,
never returns from some truncated streams.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

from xrayfast.errors import ReadError

Codec = Literal["lossless", "jpeg-ls"]

TIMEOUT, TIMEOUT_PER_MEGAPIXEL = 20.0, 1.0  # seconds
"""A hundred times the decoding time on a slow core."""

_SUBPROCESS_CODE = (
    "import os, sys; sys.path[:] = sys.argv[1].split(os.pathsep); "
    "from xrayfast.data.images.dicom.sandbox import decode_stdin; decode_stdin()"
)

_HARMLESS = b"extraneous bytes before marker 0xd9"


def decode_in_subprocess(path: Path, codec: Codec, frame: bytes, shape: tuple[int, int, int], bits: int) -> bytes:
    """Decode one codestream in a subprocess; the caller has checked its header.

    The shape is (rows, columns, samples per pixel); `bits` is the precision of the samples.

    Returns:
        rows * columns * samples values of 1 byte, or of 2 (little endian) above 8 bits.

    Raises:
        ReadError: the subprocess failed, wrote to standard error, returned too little or took too long.
    """
    rows, columns, samples = shape
    limit = TIMEOUT + TIMEOUT_PER_MEGAPIXEL * rows * columns / 1e6
    # -I and -S: no environment variable or site-packages hook may make it print. It gets this process's import path.
    path_entries = os.pathsep.join([*sys.path, str(Path(__file__).parents[4])])
    command = [sys.executable, "-I", "-S", "-c", _SUBPROCESS_CODE, path_entries, codec, *map(str, (*shape, bits))]
    try:
        done = subprocess.run(command, input=frame, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        found = f"damaged {codec} JPEG data (decoding took over {limit:.0f} s)"
        raise ReadError(f"{path}: found {found}. Fetch the file again.") from error
    except OSError as error:
        raise ReadError(f"{path}: can't be decoded: no process can be started ({error.strerror}).") from error
    complaints = [line for line in done.stderr.splitlines() if line.strip() and _HARMLESS not in line]
    if done.returncode or complaints or len(done.stdout) != rows * columns * samples * (1 + (bits > 8)):
        raise ReadError(f"{path}: found damaged {codec} JPEG data; expected a whole image. Fetch the file again.")
    return done.stdout


def _decode_lossless(frame: bytes, rows: int, columns: int, samples: int, bits: int) -> bytes:
    """Decode with GDCM; return the samples pixel by pixel."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    photometric = gdcm.PhotometricInterpretation
    image.SetPhotometricInterpretation(photometric(photometric.RGB if samples > 1 else photometric.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    image.SetPixelFormat(gdcm.PixelFormat(samples, 16 if bits > 8 else 8, bits, bits - 1, 0))
    return image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM returns bytes as a str


def _decode_jpeg_ls(frame: bytes, rows: int, columns: int, samples: int, bits: int) -> bytes:
    """Decode with CharLS; return the samples pixel by pixel."""
    import jpeg_ls  # type: ignore[import-untyped]
    import numpy as np

    values = np.ascontiguousarray(jpeg_ls.jlsread(frame))
    if values.shape[:2] != (rows, columns) or values.size != rows * columns * samples:
        raise ValueError("another shape than the header's")
    return values.tobytes()


def decode_stdin() -> None:
    """Decode a codestream from standard input and write its values to standard output; run in the subprocess."""
    codec, *shape_and_bits = sys.argv[2:]
    with contextlib.suppress(ImportError):  # Windows writes no core files.
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rows, columns, samples, bits = map(int, shape_and_bits)
    decoder = _decode_lossless if codec == "lossless" else _decode_jpeg_ls
    sys.stdout.buffer.write(decoder(sys.stdin.buffer.read(), rows, columns, samples, bits))
