"""Thousands of damaged files of every format give an image or a ReadError, in time, without a crash.

Each case depends only on its number. Cases run in a child process, so that a crash in a decoder fails the test and
names the case; `python -m tests.data.images.test_hostile 4711 1` runs case 4711 alone.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.images import dicom_files as dicom
from xrayfast.data.images.dicom.metadata import read_header
from xrayfast.data.images.reader import is_image, read
from xrayfast.errors import ReadError

SLOWEST = 30.0  # limit of CPU seconds per file, with child processes; the sandbox has 21
RARE = 40  # one in so many cases is decoded in a subprocess
WILDNESS = 6  # one in so many cases is a DICOM file with a strange header


def originals():
    """Return small valid files (ending, content), and how many of them, at the start, need no subprocess."""
    y, x = np.mgrid[:32, :40]
    gray = ((x * 7 + y * 5) % 97 * 2).astype(np.uint8)
    deep = gray.astype(np.uint16) * 20
    color = np.stack([gray, gray[::-1], gray[:, ::-1]], axis=-1)
    cheap = [*pillow_files(gray, deep, color), *dicom_variants(gray, deep, color)]
    sandboxed = [
        dicom.dicom_bytes(deep, syntax, bits=bits, photometric="MONOCHROME1")
        for syntax in (dicom.JPEG_LS, dicom.LOSSLESS)
        for bits in (12, 16)
    ]
    return [*cheap, *((".dcm", content) for content in sandboxed)], len(cheap)


def pillow_files(gray, deep, color):
    exif = Image.Exif()
    exif[274] = 6
    frames = {"save_all": True, "append_images": [Image.fromarray(gray[::-1])]}
    float_values = gray.astype(np.float32) / 255
    for ending, values, options in [
        (".png", gray, {"exif": exif}), (".png", deep, {}), (".png", color, {}), (".png", gray > 99, {}),
        (".png", Image.fromarray(gray).convert("P"), {"transparency": 3}), (".png", gray, frames),
        (".png", Image.fromarray(color).convert("RGBA"), {}), (".jpg", gray, {"exif": exif}), (".jpg", color, {}),
        (".jpg", gray, {"progressive": True}), (".jpg", Image.fromarray(color).convert("CMYK"), {}),
        (".tif", gray, {"exif": exif}), (".tif", deep, {}), (".tif", deep.astype(">u2"), {}),
        (".tif", float_values, {}),
        (".tif", gray, {"compression": "tiff_lzw"}), (".tif", color, {"compression": "tiff_adobe_deflate"}),
        (".tif", gray > 99, {"compression": "group4"}), (".tif", color, {"compression": "jpeg"}),
        (".tif", gray, {"compression": "packbits"}), (".tif", gray, frames), (".bmp", gray, {}), (".bmp", color, {}),
        (".webp", color, {}), (".webp", color, {"lossless": True}), (".webp", color, frames),
    ]:  # fmt: skip
        stream = io.BytesIO()
        image = values if isinstance(values, Image.Image) else Image.fromarray(values)
        image.save(stream, Image.registered_extensions()[ending], **options)
        yield ending, stream.getvalue()


def dicom_variants(gray, deep, color):
    window = {"WindowCenter": [2000, 1000], "WindowWidth": [4000, 500], "VOILUTFunction": "SIGMOID"}
    table = dicom.lut_item(0, 12, np.arange(4096))
    for syntax in (*dicom.UNCOMPRESSED, dicom.RLE, dicom.JPEG_2000):
        yield ".dcm", dicom.dicom_bytes(deep, syntax, bits=12, RescaleSlope=2, RescaleIntercept=-1024, **window)
    signed = deep.astype(np.int16) - 2000
    yield "", dicom.dicom_bytes(signed, bits=13, photometric="MONOCHROME1", PixelPaddingValue=-2000)
    yield "", dicom.dicom_bytes(signed, dicom.IMPLICIT, preamble=False, meta=False)
    yield ".dcm", dicom.dicom_bytes(deep, bits=12, VOILUTSequence=[table], ModalityLUTSequence=[table])
    yield ".dcm", dicom.dicom_bytes(gray, dicom.JPEG)
    yield ".dcm", dicom.dicom_bytes(color, dicom.JPEG, photometric="YBR_FULL_422")
    yield ".dcm", dicom.dicom_bytes(color, dicom.JPEG_2000, photometric="YBR_RCT")
    yield ".dcm", dicom.dicom_bytes(color, dicom.RLE)
    yield ".dcm", dicom.dicom_bytes(gray, photometric="PALETTE COLOR", **dicom.palette(256))


WILD = {
    "Rows": [0, 1, 31, 33, 40, 65535], "Columns": [0, 1, 32, 39, 41, 65535], "BitsAllocated": [0, 1, 8, 12, 16, 32],
    "BitsStored": [0, 1, 2, 8, 13, 16, 65535], "HighBit": [0, 7, 11, 15], "SamplesPerPixel": [0, 1, 2, 3, 65535],
    "PhotometricInterpretation": ["", "MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL_422", "HSV"],
    "PixelRepresentation": [0, 1, 2], "PlanarConfiguration": [0, 1, 9], "NumberOfFrames": ["0", "1", "-1", "99"],
    "WindowCenter": ["0", "1e308", "-1e308", "1\\2\\3"], "WindowWidth": ["0", "-1", "1e308", "1e-308", "0.5", "1"],
    "VOILUTFunction": ["SIGMOID", "LINEAR_EXACT", "X"], "RescaleSlope": ["0", "1e308", "-1", "1e-308"],
    "RescaleIntercept": ["1e308", "-1e308"], "PixelPaddingValue": [0, 9, 30000], "PixelPaddingRangeLimit": [0, 30000],
    "RedPaletteColorLookupTableDescriptor": [[0, 0, 0], [1, 9, 16]],
}  # fmt: skip


def wild(rng):
    """Return an intact DICOM file whose header contradicts its pixels."""
    values = (np.arange(1280) * 3).astype(rng.choice(["u1", "u2", "i2"])).reshape(32, 40)
    elements = {name: WILD[name][rng.integers(len(WILD[name]))] for name in rng.choice(list(WILD), rng.integers(1, 5))}
    if rng.random() < 0.3:
        first, bits, count = (int(number) for number in rng.choice([0, 5, 9, 16, 65535], 3))
        table = dicom.lut_item(first, bits, np.arange(9), count=count)
        elements[rng.choice(["VOILUTSequence", "ModalityLUTSequence"])] = [table]
    syntax = rng.choice([*dicom.UNCOMPRESSED, dicom.RLE, dicom.JPEG_2000])
    return dicom.dicom_bytes(values, str(syntax), **elements)


def damaged(content, rng):
    """Return the content damaged in one of several ways, half of the time where the headers are."""
    data = bytearray(content)
    size = len(data)
    reach = size if rng.random() < 0.5 else min(size, int(rng.choice([64, 400, 1200])))
    way = rng.integers(6)
    if way == 0:
        for place in rng.integers(0, reach, rng.integers(1, 9)):
            data[place] ^= 1 << rng.integers(8)
    elif way == 1:
        for place in rng.integers(0, reach, rng.integers(1, 6)):
            data[place] = rng.integers(256)
    elif way == 2:
        del data[rng.integers(1, size) :]
    elif way == 3:
        start = rng.integers(0, reach)
        del data[start : start + rng.integers(1, 64)]
    elif way == 4:
        start, source = rng.integers(0, reach), rng.integers(0, size)
        data[start:start] = data[source : source + rng.integers(1, 200)]
    else:
        start, length = rng.integers(0, reach), rng.integers(1, 5)
        data[start : start + length] = bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF])]) * length
    return bytes(data)


def run(first, count, report):
    """Read `count` cases from `first` on and return their outcomes; `report` has the number of the current case."""
    files, cheap = originals()
    outcomes, wrong, slowest = Counter(), [], 0.0
    folder = Path(tempfile.mkdtemp())
    for number in range(first, first + count):
        report.write_text(str(number))
        rng = np.random.default_rng([number, 3])
        if number % WILDNESS == 1:
            ending, content = ".dcm", wild(rng)
        else:
            is_rare = number % RARE == 0
            ending, whole = files[cheap + number // RARE % (len(files) - cheap) if is_rare else rng.integers(cheap)]
            content = damaged(whole, rng)
        path = folder / f"{number}{ending}"
        path.write_bytes(content)
        start = sum(os.times()[:4])
        try:
            outcomes[outcome(path)] += 1
        except BaseException as error:
            wrong.append(f"case {number}: {type(error).__name__}: {error}")
        seconds = sum(os.times()[:4]) - start
        slowest = max(slowest, seconds)
        if seconds > SLOWEST:
            wrong.append(f"case {number}: {seconds:.1f} s")
        path.unlink()
    folder.rmdir()
    return {"outcomes": outcomes, "wrong": wrong, "slowest": round(slowest, 2)}


def outcome(path):
    """Return what `read` does with a file; raise if it breaks its contract."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            is_image(str(path))
            image = read(path)
    except ReadError as error:
        assert str(error).startswith(f"{path}: "), error
        return "refused"
    assert image.pixels.dtype == np.uint8 and image.pixels.ndim == 2 and image.pixels.size
    assert image.pixels.flags.c_contiguous
    try:
        read_header(path)
    except ReadError:
        return "header refused"
    return "read"


def children(tmp_path, first, count, timeout):
    report = tmp_path / "case"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.data.images.test_hostile", str(first), str(count), str(report)],
            cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"case {report.read_text()} hangs, or all take more than {timeout} s") from error
    assert done.returncode == 0, f"the process died at case {report.read_text()}: {done.stderr[-2000:]}"
    # libtiff prints its own warnings on damaged files, and Pillow offers no way to stop it.
    assert not re.search("warning|traceback|pydicom", done.stderr, re.IGNORECASE), done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["wrong"] == [], "\n".join(result["wrong"])
    outcomes = result["outcomes"]
    assert sum(outcomes.values()) == count
    # If nearly all files were refused or read, the damage would test nothing.
    assert min(outcomes["read"], outcomes["refused"]) > count / 10


def test_damaged_files_are_read_or_refused(tmp_path):
    """tests/faults runs many more cases."""
    children(tmp_path, first=0, count=500, timeout=600)


def test_the_files_are_readable_before_they_are_damaged():
    files, _cheap = originals()
    with tempfile.TemporaryDirectory() as folder:
        for number, (ending, content) in enumerate(files):
            path = Path(folder) / f"{number}{ending}"
            path.write_bytes(content)
            assert read(path).pixels.shape in ((32, 40), (40, 32))


if __name__ == "__main__":
    result = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) > 3 else "/dev/null"))
    print(json.dumps(result))
