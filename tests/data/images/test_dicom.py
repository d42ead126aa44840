from __future__ import annotations

import logging
import re
import struct
import subprocess
import sys
import time
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID

from tests.data.images import dicom_files as files
from xrayfast.data.images.dicom import decoders, sandbox
from xrayfast.data.images.dicom.decoders import DECODERS
from xrayfast.data.images.dicom.metadata import read_header
from xrayfast.data.images.dicom.parse import is_dicom
from xrayfast.data.images.notes import needs_attention
from xrayfast.data.images.reader import read
from xrayfast.errors import ReadError

Y, X = np.mgrid[:32, :40]
PATTERN = (X * 7 + Y * 5) % 97 / 96  # from 0 to 1 inclusive
RAMP = np.round(4095 * np.linspace(0, 1, 4096) ** 1.15).astype(np.uint16)
RAMP = RAMP.reshape(16, 4, 64)[:, [0, 2, 1, 3]].reshape(64, 64)[:, np.random.default_rng(0).permutation(64)]
"""Values from 0 to 4095, increasing roughly from top to bottom.

They have the texture of a radiograph and unequal frequencies, without which the reader adds a note.
"""

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def pattern(bits, signed=False):
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
    return (np.round(PATTERN * (2**bits - 1)).astype(np.int64) - signed * 2 ** (bits - 1)).astype(dtype)


def assert_shows(image, values, low, high):
    """Check that the image runs from black at `low` to white at `high`, to the nearest of 256 levels."""
    low, high = float(low), float(high)
    exact = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255
    assert np.abs(image.pixels - exact).max() <= 0.5 + 1e-9


@pytest.fixture
def roundtrip(tmp_path):
    """Return a function that writes a DICOM file and reads it."""

    def act(values, *arguments, window="auto", **options):
        path = tmp_path / "image.dcm"
        path.write_bytes(files.dicom_bytes(values, *arguments, **options))
        return read(path, window)

    return act


# The stored values in any encoding


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [*files.UNCOMPRESSED, files.RLE, files.JPEG_LS, files.JPEG_2000, files.LOSSLESS])
def test_lossless_encodings_give_the_stored_values(roundtrip, syntax, bits, signed):
    values = pattern(bits, signed)
    image = roundtrip(values, syntax, bits=bits, window="full")
    assert_shows(image, values, values.min(), values.max())
    assert (image.format, image.mode, image.bits) == ("DICOM", "MONOCHROME2", bits)


@pytest.mark.parametrize(("syntax", "bits"), [(files.JPEG, 8), (files.EXTENDED, 8), (files.NEAR_LOSSLESS, 12)])
def test_lossy_encodings_give_nearly_the_stored_values(roundtrip, syntax, bits):
    smooth = np.round((X + Y) / 70 * (2**bits - 1)).astype("u1" if bits == 8 else "u2")
    assert np.abs(roundtrip(smooth, syntax, bits=bits).pixels - smooth * (255 / (2**bits - 1))).mean() < 1.5


@pytest.mark.parametrize(
    ("told", "note"), [("60", "60:1"), (["5", "48.2"], "48:1"), ("8", ""), ("", ""), ("nan", ""), ("1e99", "9999:1")]
)
def test_strong_compression_by_the_header_is_noted(roundtrip, told, note):
    notes = roundtrip(pattern(12), bits=12, LossyImageCompressionRatio=told).notes
    assert [one.split()[2] for one in notes if one.startswith("strongly compressed")] == [f"{note},"] * bool(note)


def test_a_compression_in_words_is_no_damage(tmp_path):
    content = files.dicom_bytes(pattern(12), bits=12, LossyImageCompressionRatio="12345.67")
    (tmp_path / "1.dcm").write_bytes(content.replace(b"12345.67", b"JPEG 9:1"))
    assert not any("strongly" in note for note in read(tmp_path / "1.dcm").notes)


@pytest.mark.parametrize("bits", [10, 12])
def test_a_codestream_of_other_precision_than_the_header(roundtrip, bits):
    # Twelve bits in a header of 16 and in a header of 10: values are neither truncated nor wrapped.
    values = (PATTERN * 4095).astype(np.uint16)
    frame = files.encoded(values, files.JPEG_2000, 12)
    image = roundtrip(values, files.JPEG_2000, bits=16 if bits == 12 else 10, frame=frame, window="full")
    assert_shows(image, values, 0, 4095)


@pytest.mark.parametrize(("precision", "stored"), [(12, 16), (16, 12)])
def test_a_signed_codestream_of_other_precision_than_the_header(roundtrip, precision, stored):
    values = pattern(12, signed=True)
    frame = files.lossless_jpeg(values.view(np.uint16) & (2**precision - 1), precision)
    image = roundtrip(values, files.LOSSLESS, bits=stored, frame=frame, window="full")
    assert_shows(image, values, -2048, 2047)


def test_lossless_jpeg_with_any_predictor_has_its_own_transfer_syntax(roundtrip):
    frame = files.lossless_jpeg(pattern(12), 12)
    assert_shows(roundtrip(pattern(12), "1.2.840.10008.1.2.4.57", bits=12, frame=frame), pattern(12), 0, 4095)


def test_bits_above_those_stored_are_ignored(roundtrip):
    overlay = RAMP | (np.arange(4096).reshape(64, 64) % 2 << 15).astype(np.uint16)
    assert_shows(roundtrip(overlay, bits=12, window="full"), RAMP, 0, 4095)


@pytest.mark.parametrize("syntax", [files.IMPLICIT, files.EXPLICIT, files.BIG])
@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("name", ["image.dcm", "image", "1.2.840.113619.2"])
def test_without_preamble_and_without_file_meta_information(tmp_path, syntax, meta, name):
    values = pattern(12)
    (tmp_path / name).write_bytes(files.dicom_bytes(values, syntax, bits=12, preamble=False, meta=meta))
    assert_shows(read(tmp_path / name), values, 0, 4095)


def test_dicom_is_recognized_by_its_first_bytes():
    head = files.dicom_bytes(pattern(8), preamble=False, meta=False)[:512]
    assert is_dicom(head) and not is_dicom(head[8:]) and not is_dicom(head[:20]) and not is_dicom(b"")
    first, second = (struct.pack("<HH2sH4s", 8, number, b"SH", 4, b"ABCD") for number in (5, 9))
    assert is_dicom(first + second) and not is_dicom(second + first) and not is_dicom(first + first)
    rng = np.random.default_rng(0)
    assert not any(is_dicom(rng.bytes(512)) for _ in range(20_000))
    assert not any(
        is_dicom(np.arange(n, n + 64, dtype=dtype).tobytes()) for n in range(9) for dtype in ("<u2", "<u4", ">u2")
    )


def references():
    """Return pydicom's test files with one image of up to 16 bits, in many encodings and from many vendors."""
    for path in sorted(PYDICOM_FILES.glob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        if 8 <= dataset.get("BitsAllocated", 0) <= 16 and dataset.get("NumberOfFrames", 1) in (None, 1):
            yield pytest.param(path, id=path.stem)


UNREAD = {
    "GDCMJ2K_TextGBR": "damaged",  # Pillow refuses it
    "JPEG2000-embedded-sequence-delimiter": "damaged",  # consists of nothing else
    "JPEG-lossy": "12 bits; only 8 are supported",
    "JPGExtended": "12 bits; only 8 are supported",
    "MR_truncated": "8130 of 8192 bytes",
}


@pytest.mark.parametrize("path", list(references()))
def test_pixels_equal_pydicoms(path):
    if path.stem in UNREAD:
        with pytest.raises(ReadError, match=UNREAD[path.stem]):
            read(path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        values = dataset.pixel_array
        image = read(path, "auto" if values.ndim == 3 or "WindowCenter" in dataset else "full")
        if image.mode == "PALETTE COLOR":
            values = pydicom.pixels.apply_color_lut(values, dataset)
        if values.ndim == 3:
            eight = values if values.dtype == np.uint8 else np.round(values / 257).astype(np.uint8)
            expected = np.asarray(Image.fromarray(eight).convert("L"))
        else:
            expected = shown_by_pydicom(dataset, values)
    away = np.abs(image.pixels - expected.astype(float))
    # pydicom converts YBR_FULL_422 through RGB.
    assert away.max() <= (2 if "422" in path.stem else 0.5 + 1e-6)


def shown_by_pydicom(dataset, values):
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    low = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
    low, high = ((low + span) * slope + intercept for span in (0, 2**dataset.BitsStored - 1))
    shown = apply_voi_lut(apply_modality_lut(values, dataset).astype(np.float64), dataset)
    expected = np.clip((shown - low) / (high - low), 0, 1) * 255
    if dataset.get("PixelPaddingValue") is not None:
        expected[values == dataset.PixelPaddingValue] = 0
    return expected


# Displayed values


WINDOWS = {
    # The formulas of PS3.3 C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1.
    "LINEAR": lambda x, c, w: np.where(
        x <= c - 0.5 - (w - 1) / 2, 0.0, np.where(x > c - 0.5 + (w - 1) / 2, 1.0, (x - (c - 0.5)) / (w - 1) + 0.5)
    ),
    "LINEAR_EXACT": lambda x, c, w: np.where(x <= c - w / 2, 0.0, np.where(x > c + w / 2, 1.0, (x - c) / w + 0.5)),
    "SIGMOID": lambda x, c, w: 1 / (1 + np.exp(np.minimum(-4 * (x - c) / w, 700))),
}


@pytest.mark.parametrize("function", list(WINDOWS))
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (1000.5, 333.3), (40, 2), (-100, 5000), (2000, 1.5)])
def test_windows_follow_the_formulas_of_the_standard(roundtrip, function, center, width):
    image = roundtrip(RAMP, bits=12, WindowCenter=center, WindowWidth=width, VOILUTFunction=function, window="1")
    expected = np.floor(WINDOWS[function](RAMP.astype(float), center, width) * 255 + 0.5)
    assert np.array_equal(image.pixels, expected)
    assert f"window {center:g}/{width:g} {function}" in image.notes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = files.image_dataset(RAMP, 12)
        dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = center, width, function
        by_pydicom = apply_voi_lut(RAMP, dataset) / 4095 * 255
    assert np.abs(image.pixels - by_pydicom).max() <= 0.5 + 1e-9


def test_a_window_of_one_is_a_threshold(roundtrip):
    image = roundtrip(RAMP, bits=12, WindowCenter=2000, WindowWidth=1, window="1")
    assert np.array_equal(image.pixels, np.where(RAMP > 1999.5, 255, 0))


@pytest.mark.parametrize(
    ("center", "width", "low", "high"),
    [
        (2048, 4000, 0, 4095),  # cuts off a little at both ends
        (2200, 4096, 0, 4095),  # at the lower end
        (1900, 4096, 0, 4095),  # at the upper end
        (2047.5, 4095, 0, 4095),  # one value
        (2048, 3600, 248, 3847),  # more than a tenth
        (2500, 4096, 452, 4547),  # as much as it adds at the other end
        (2048, 4400, -152, 4247),  # nothing
    ],
)
def test_a_window_that_cuts_off_a_little_was_meant_for_the_full_range(roundtrip, center, width, low, high):
    image = roundtrip(RAMP, bits=12, WindowCenter=center, WindowWidth=width)
    assert_shows(image, RAMP, low, high)
    window = f"window {center:g}/{width} LINEAR"
    assert image.notes[1] == (f"full range 0..4095 for {window}" if (low, high) == (0, 4095) else window)


@pytest.mark.parametrize(
    ("center", "width", "function"),
    [(0, 0, "LINEAR"), (10, -5, "LINEAR"), (10, 0.5, "LINEAR"), (10, 0, "LINEAR_EXACT"), (10, 0, "SIGMOID")],
)
def test_a_window_without_a_width_is_skipped(roundtrip, center, width, function):
    windows = {"bits": 12, "VOILUTFunction": function}
    image = roundtrip(RAMP, **windows, WindowCenter=[center, 2048], WindowWidth=[width, 4096])
    assert image.notes == ("12 bits stored", "window without a valid width ignored", f"window 2048/4096 {function}")
    alone = roundtrip(RAMP, **windows, WindowCenter=center, WindowWidth=width)
    assert_shows(alone, RAMP, 0, 4095)


def test_an_unknown_function_is_linear_and_not_quoted(roundtrip):
    image = roundtrip(RAMP, bits=12, WindowCenter=2048, WindowWidth=4096, VOILUTFunction="DOE_JOHN")
    assert image.notes[1] == "unknown VOI LUT Function treated as LINEAR"
    assert_shows(image, RAMP, 0, 4095)


@pytest.mark.parametrize(
    ("window", "low", "high"),
    [("auto", 200, 1199), ("1", 200, 1199), ("2", 0, 99), ("full", 0, 4095), ("2048.5/1001", 1548, 2548)],
)
def test_choice_of_window(roundtrip, window, low, high):
    image = roundtrip(RAMP, bits=12, WindowCenter=[700, 50], WindowWidth=[1000, 100], window=window)
    assert_shows(image, RAMP, low, high)


def test_a_window_that_the_file_lacks(roundtrip):
    with pytest.raises(ReadError, match=r"image\.dcm: found 2 VOI LUTs and windows; expected at least 3\. Use window="):
        roundtrip(RAMP, bits=12, WindowCenter=[700, 50], WindowWidth=[1000, 100], window="3")


def test_a_window_that_saturates_most_of_the_image_is_noted(roundtrip):
    image = roundtrip(RAMP, bits=12, WindowCenter=700, WindowWidth=1000)
    assert "the window makes 73% of the pixels black or white" in image.notes


FILM = (1500 + 900 * np.sin(X[:1] / 9).T @ np.cos(X[:1] / 7)).astype(np.uint16)  # (40, 40), 600 to 2400


@pytest.mark.parametrize(("center", "width"), [(100, 50), (4000, 50), (1500, 2), (-5000, 100)])
def test_a_window_of_the_file_that_saturates_nearly_everything_is_ignored(roundtrip, center, width):
    window = {"bits": 12, "WindowCenter": center, "WindowWidth": width}
    image, without = roundtrip(FILM, **window), roundtrip(FILM, bits=12)
    assert np.array_equal(image.pixels, without.pixels) and len(np.unique(image.pixels)) > 100
    assert any(re.match(rf"window {center}/{width} LINEAR ignored, because it makes \d+% of", x) for x in image.notes)
    asked = roundtrip(FILM, **window, window="1")  # a requested window is applied and noted
    assert len(np.unique(asked.pixels)) <= 2 and any(note.startswith("the window makes") for note in asked.notes)


def test_a_window_of_the_file_that_makes_nearly_everything_one_gray_is_ignored(roundtrip):
    window = {"bits": 12, "WindowCenter": 2000, "WindowWidth": 100_000}
    image, without = roundtrip(FILM, **window), roundtrip(FILM, bits=12)
    assert np.array_equal(image.pixels, without.pixels)
    assert any(
        "window 2000/100000 LINEAR ignored, because it leaves only 6 gray levels" in note for note in image.notes
    )
    assert len(np.unique(roundtrip(FILM, **window, window="1").pixels)) < 9
    flat = roundtrip(FILM // 900, bits=12, WindowCenter=1, WindowWidth=4)  # this image has no more levels
    assert not any("ignored" in note for note in flat.notes)


def test_a_voi_lut_that_saturates_nearly_everything_is_ignored(roundtrip):
    image = roundtrip(FILM, bits=12, VOILUTSequence=[files.lut_item(0, 8, [0, 255])])
    assert np.array_equal(image.pixels, roundtrip(FILM, bits=12).pixels)
    assert any(note.startswith("VOI LUT 1 ignored") for note in image.notes)


def test_the_area_outside_a_collimator_does_not_count_as_saturated(roundtrip):
    collimated = np.zeros((400, 400), np.uint16)
    collimated[:40, :40] = FILM
    image = roundtrip(collimated, bits=12, WindowCenter=1500, WindowWidth=2000)
    assert_shows(image, collimated, 500, 2499)


SHAPES = [
    # According to PS3.3 C.8.11.3.1.2, and to DCMTK and dcm4che if shape and photometric interpretation contradict.
    ("MONOCHROME2", None, False, None),
    ("MONOCHROME2", "IDENTITY", False, None),
    ("MONOCHROME2", "INVERSE", True, "MONOCHROME2 inverted, because its Presentation LUT Shape is INVERSE"),
    ("MONOCHROME1", None, True, "MONOCHROME1 inverted"),
    ("MONOCHROME1", "INVERSE", True, "MONOCHROME1 inverted"),
    ("MONOCHROME1", "IDENTITY", False, "MONOCHROME1 not inverted, because its Presentation LUT Shape is IDENTITY"),
    ("MONOCHROME1", "SECRET NAME", True, "unknown Presentation LUT Shape ignored"),
    ("MONOCHROME2", "SECRET NAME", False, "unknown Presentation LUT Shape ignored"),
]


@pytest.mark.parametrize("syntax", [files.EXPLICIT, files.RLE])
@pytest.mark.parametrize(("photometric", "shape", "inverted", "note"), SHAPES)
def test_presentation_lut_shape(roundtrip, syntax, photometric, shape, inverted, note):
    elements = {} if shape is None else {"PresentationLUTShape": shape}
    image = roundtrip(RAMP, syntax, bits=12, photometric=photometric, **elements)
    assert_shows(image, 4095 - RAMP if inverted else RAMP, 0, 4095)
    assert image.notes[:2] == ("12 bits stored", "full range 0..4095")
    assert image.notes[-1] == (note or "full range 0..4095")


@pytest.mark.parametrize("syntax", [files.EXPLICIT, files.IMPLICIT, files.BIG, files.RLE])
@pytest.mark.parametrize("bits", [13, 14, 16])
@pytest.mark.parametrize("texture", [0, 0.1])
def test_values_of_more_bits_than_declared_are_read_with_their_bits(roundtrip, syntax, bits, texture):
    smooth = np.add.outer(np.sin(np.arange(64) / 11), np.cos(np.arange(64) / 13)) / 4 + 0.5
    rough = np.clip(smooth + texture * np.random.default_rng(1).normal(size=smooth.shape), 0, 1)
    values = np.round(rough / rough.max() * (2**bits - 1)).astype(np.uint16)
    declared = roundtrip(values, syntax, bits=bits)
    lying = roundtrip(values, syntax, bits=bits, BitsStored=12, HighBit=11)
    assert np.array_equal(lying.pixels, declared.pixels)
    assert f"values use {bits} bits, although the header says 12" in lying.notes
    assert lying.bits == 12


def test_signed_values_of_more_bits_than_declared(roundtrip):
    values = (FILM.astype(np.int16) - 1500) * 4  # -3600 to 3600, 13 bits
    lying = roundtrip(values, bits=13, BitsStored=12, HighBit=11)
    assert np.array_equal(lying.pixels, roundtrip(values, bits=13).pixels)
    assert "values use 13 bits, although the header says 12" in lying.notes
    honest = roundtrip(values // 4, bits=12)
    assert not any("header" in note for note in honest.notes)


@pytest.mark.parametrize("overlay", ["lines", "block", "text", "all"])
@pytest.mark.parametrize("bit", [12, 15])
def test_an_overlay_above_the_bits_stored_is_left_out(roundtrip, overlay, bit):
    over = np.zeros(FILM.shape, bool)
    over[{"lines": np.s_[::8], "block": np.s_[5:20, 5:20], "text": np.s_[3:9:2, 4:30:3], "all": np.s_[:]}[overlay]] = (
        True
    )
    image = roundtrip(FILM | (over.astype(np.uint16) << bit), BitsStored=12, HighBit=11)
    assert np.array_equal(image.pixels, roundtrip(FILM, bits=12).pixels)
    assert "bits above the lowest 12 ignored" in image.notes


def test_more_pixel_data_than_rows_and_columns_need_is_noted(roundtrip):
    image = roundtrip(FILM, bits=12, Columns=39)
    assert "80 bytes after the last pixel ignored" in image.notes


def test_a_presentation_lut_is_ignored_with_a_note(roundtrip):
    image = roundtrip(RAMP, bits=12, PresentationLUTSequence=[files.lut_item(0, 12, np.arange(4096)[::-1])])
    assert image.notes[-1] == "Presentation LUT ignored"


def test_a_jpeg_in_dicom_that_lacks_its_end(roundtrip):
    values = (np.add.outer(np.arange(256), np.arange(256)) // 4 + np.arange(256) % 7 * 9).astype(np.uint8)
    whole = files.encoded(values, files.JPEG, 8)
    assert "data were missing" not in str(roundtrip(values, files.JPEG, frame=whole).notes)
    cut = roundtrip(values, files.JPEG, frame=whole[: len(whole) // 2] + b"\xff\xd9")
    assert "the last rows are plain gray, as if data were missing" in cut.notes
    claims = bytearray(files.encoded(values[:64, :64], files.JPEG, 8))
    size = claims.index(b"\xff\xc0") + 5
    claims[size : size + 4] = struct.pack(">HH", 4000, 4000)
    with pytest.raises(ReadError, match="that claims 4000 x 4000 pixels"):
        roundtrip(np.zeros((4000, 4000), np.uint8), files.JPEG, frame=bytes(claims))


def test_unsigned_values_declared_as_signed(roundtrip):
    values = (FILM - 352) * 20  # 5000 to 41000: if read as signed, the brightest would become the darkest
    lying = roundtrip(values.astype(np.uint16).view(np.int16))
    assert "values are evidently unsigned, although the header says signed" in lying.notes
    assert np.array_equal(lying.pixels, roundtrip(values).pixels)


def test_signed_values_declared_as_unsigned(roundtrip):
    values = FILM.astype(np.int16) - 1200  # -600 to 1200
    lying = roundtrip(values.view(np.uint16))
    assert "values are evidently signed, although the header says unsigned" in lying.notes
    assert np.array_equal(lying.pixels, roundtrip(values).pixels)


@pytest.mark.parametrize("values", [
    np.where(FILM > 1500, 65535, 0).astype(np.uint16),  # a mask
    (FILM.astype(np.int16) - 1500) * 10,
])  # fmt: skip
def test_sound_values_keep_their_sign(roundtrip, values):
    assert not any("evidently" in note for note in roundtrip(values).notes)


@pytest.mark.parametrize(("bits", "entries"), [(8, 256), (12, 4096), (16, 65536)])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_voi_lut(roundtrip, bits, entries, as_bytes):
    table = np.floor(np.linspace(0, 1, entries) ** 0.5 * (2**bits - 1))
    item = files.lut_item(100, bits, table, as_bytes)
    image = roundtrip(RAMP, bits=12, VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
    assert_shows(image, table[np.clip(RAMP.astype(int) - 100, 0, entries - 1)], 0, 2**bits - 1)
    assert "VOI LUT 1" in image.notes


def test_voi_luts_come_before_windows(roundtrip):
    luts = [files.lut_item(0, 12, np.arange(4096)), files.lut_item(0, 12, np.arange(4096)[::-1])]
    elements = {"bits": 12, "VOILUTSequence": luts, "WindowCenter": 700, "WindowWidth": 1000}
    assert_shows(roundtrip(RAMP, **elements, window="1"), RAMP, 0, 4095)
    assert_shows(roundtrip(RAMP, **elements, window="2"), 4095 - RAMP, 0, 4095)
    assert_shows(roundtrip(RAMP, **elements, window="3"), RAMP, 200, 1199)


@pytest.mark.parametrize("syntax", [files.EXPLICIT, files.IMPLICIT, files.BIG])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_modality_lut_comes_before_the_window(roundtrip, syntax, as_bytes):
    table = np.arange(4096)[::-1] * 3
    item = files.lut_item(0, 16, table, as_bytes, big=syntax == files.BIG)
    image = roundtrip(RAMP, syntax, bits=12, ModalityLUTSequence=[item], WindowCenter=6000.5, WindowWidth=8001)
    assert_shows(image, table[RAMP], 2000, 10_000)
    assert "modality LUT" in image.notes


@pytest.mark.parametrize(
    ("vr", "first", "lowest", "dtype"),
    [
        ("SS", -2048, -2048, np.int16),
        ("US", 2**16 - 2048, -2048, np.int16),
        ("US", 2**15, -(2**15), np.int16),
        ("US", 40_000, 40_000, np.uint16),
    ],
)
def test_the_first_value_of_a_lut_has_the_sign_of_the_values(roundtrip, vr, first, lowest, dtype):
    values = (RAMP.astype(int) + lowest).astype(dtype)
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [4096, first, 16])
    item.add_new("LUTData", "US", list(range(0, 40960, 10)))
    image = roundtrip(values, bits=16, ModalityLUTSequence=[item], window="20480/40951")
    assert_shows(image, RAMP * 10.0, 4.5, 40954.5)


@pytest.mark.parametrize(("slope", "intercept"), [(2, -1024), (0.5, 0), (1, 100), (-1, 4095)])
def test_rescale_comes_before_the_window(roundtrip, slope, intercept):
    image = roundtrip(
        RAMP, bits=12, RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=500.5, WindowWidth=1001
    )
    assert_shows(image, RAMP.astype(float) * slope + intercept, 0, 1000)
    assert f"rescaled by {slope:g} and {intercept:+g}" in image.notes


@pytest.mark.parametrize("group", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_window_and_rescale_of_an_enhanced_object_are_in_its_functional_groups(roundtrip, group):
    items = {}
    for macro, elements in {
        "FrameVOILUTSequence": {"WindowCenter": "-1500", "WindowWidth": "2000"},
        "PixelValueTransformationSequence": {"RescaleSlope": "-1", "RescaleIntercept": "0"},
    }.items():
        item = pydicom.Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        items[macro] = [item]
    groups = pydicom.Dataset()
    for macro, item in items.items():
        setattr(groups, macro, item)
    values = pattern(12)
    image = roundtrip(values, bits=12, NumberOfFrames="1", **{group: [groups]})
    plain = roundtrip(
        values, bits=12, WindowCenter="-1500", WindowWidth="2000", RescaleSlope="-1", RescaleIntercept="0"
    )
    assert np.array_equal(image.pixels, plain.pixels) and image.notes == plain.notes
    assert not np.array_equal(image.pixels, roundtrip(values, bits=12).pixels)


def test_monochrome1_is_inverted_after_the_window(roundtrip):
    elements = {"bits": 12, "WindowCenter": 700, "WindowWidth": 1000}
    inverted = roundtrip(RAMP, photometric="MONOCHROME1", **elements)
    expected = np.floor((1 - np.clip((RAMP - 200.0) / 999, 0, 1)) * 255 + 0.5)
    assert np.abs(inverted.pixels - expected).max() <= 1e-9
    assert inverted.mode == "MONOCHROME1" and {"MONOCHROME1 inverted", "lower half black"} <= {*inverted.notes}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("padding", "limit"), [(-2000, None), (-2000, -1990), (-1990, -2000), (63536, None)])
def test_padding_is_black_and_does_not_count(roundtrip, photometric, padding, limit):
    values = (np.random.default_rng(0).normal(300, 50, (64, 64))).astype(np.int16)
    values[:, :40] = -2000 + np.arange(40) % (11 if limit else 1)
    elements = {"PixelPaddingRangeLimit": limit} if limit else {}
    if padding < 0:
        elements["PixelPaddingValue"] = padding
        image = roundtrip(values, photometric=photometric, **elements)
    else:  # read as unsigned, like implicit files with an unsorted header
        image = roundtrip(values, photometric=photometric, PixelPaddingValue=padding - 65536)
    inside = values[:, 40:]
    low, high = np.percentile(inside, [0.5, 99.5], method="inverted_cdf")
    expected = np.clip((inside - float(low)) / float(high - low), 0, 1) * 255
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert (image.pixels[:, :40] == 0).all()
    assert np.abs(image.pixels[:, 40:] - expected).max() <= 0.5 + 1e-9
    assert {"pixel padding set to black", "left half black"} <= {*image.notes}


@pytest.mark.parametrize(
    ("limit", "note"), [(63, "pixel padding set to black"), (64, "65 different values, which the header declares")]
)
def test_a_range_of_padding_that_holds_some_of_the_image_is_noted(roundtrip, limit, note):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    (found,) = [
        note for note in roundtrip(values, PixelPaddingValue=0, PixelPaddingRangeLimit=limit).notes if "padding" in note
    ]
    assert found.startswith(note) and needs_attention(found) == (limit > 63)


def test_nothing_but_padding_is_black(roundtrip):
    assert (roundtrip(np.full((32, 32), 7, np.uint16), PixelPaddingValue=7).pixels == 0).all()


@pytest.mark.parametrize(
    ("low", "high", "bits", "expected", "note"),
    [
        (0, 255, 8, (0, 255), "full range 0..255"),
        (90, 130, 8, (0, 255), "full range 0..255"),  # an 8-bit image is kept as it is
        (1000, 3500, 12, (0, 4095), "full range 0..4095"),  # fills half of the range
        (1000, 3000, 12, None, "percentile range"),
        (0, 4095, 16, None, "percentile range"),  # 12-bit values with a header that says 16
    ],
)
def test_without_a_window(roundtrip, low, high, bits, expected, note):
    values = np.linspace(low, high, 6400).round().astype("u1" if bits == 8 else "u2").reshape(80, 80)
    image = roundtrip(values, bits=bits)
    span = expected or np.percentile(values, [0.5, 99.5], method="inverted_cdf")
    assert_shows(image, values, *span)
    assert any(one.startswith(note) for one in image.notes)


def test_percentiles_pass_by_markers_and_dead_pixels(roundtrip):
    rng = np.random.default_rng(0)
    values = rng.normal(2000, 100, (200, 200)).astype(np.uint16)
    marked = values.copy()
    marked[:5, :5], marked[-1, :20] = 65535, 0
    plain, image = roundtrip(values, window="percentile"), roundtrip(marked, window="percentile")
    assert np.abs(plain.pixels[10:-10].astype(int) - image.pixels[10:-10]).mean() < 4
    assert (image.pixels[:5, :5] == 255).all()


def test_one_value_throughout_is_an_image_too(roundtrip):
    for window in ("auto", "percentile", "full"):
        assert len(np.unique(roundtrip(np.full((32, 32), 700, np.uint16), window=window).pixels)) == 1


def test_plain_8_bit_gray(roundtrip):
    assert np.array_equal(roundtrip(pattern(8)).pixels, pattern(8))
    assert np.array_equal(roundtrip(pattern(8), NumberOfFrames=0).pixels, pattern(8))


COLOR = np.stack([pattern(8), pattern(8)[::-1], pattern(8)[:, ::-1]], axis=-1)


def luma(color):
    return color @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("syntax", [files.EXPLICIT, files.BIG, files.RLE, files.JPEG_2000, files.JPEG_LS])
def test_rgb_is_luma(roundtrip, syntax):
    image = roundtrip(COLOR, syntax, photometric="YBR_RCT" if syntax == files.JPEG_2000 else "RGB")
    assert np.abs(image.pixels - luma(COLOR)).max() <= 1
    assert image.notes == (f"{image.mode} converted to gray", "color-coded")


def test_rgb_by_plane_and_of_16_bits(roundtrip):
    planes = np.moveaxis(COLOR, 2, 0).reshape(COLOR.shape)
    assert np.abs(roundtrip(planes, PlanarConfiguration=1).pixels - luma(COLOR)).max() <= 1
    assert np.abs(roundtrip(COLOR.astype(np.uint16) * 257).pixels - luma(COLOR)).max() <= 1


def test_ybr_is_its_first_channel(roundtrip, tmp_path):
    assert np.array_equal(roundtrip(COLOR, photometric="YBR_FULL").pixels, COLOR[:, :, 0])
    halved = np.stack([COLOR[:, ::2, 0], COLOR[:, 1::2, 0], COLOR[:, ::2, 1], COLOR[:, ::2, 2]], axis=-1)
    dataset = files.image_dataset(COLOR, photometric="YBR_FULL_422")
    dataset.PixelData = halved.tobytes()
    dataset["PixelData"].VR = "OB"
    (tmp_path / "halved.dcm").write_bytes(files.written(dataset))
    assert np.array_equal(read(tmp_path / "halved.dcm").pixels, COLOR[:, :, 0])


def test_jpeg_in_color(roundtrip):
    smooth = np.stack([X * 6, Y * 7, 255 - X * 6], axis=-1).astype(np.uint8)
    image = roundtrip(smooth, files.JPEG, photometric="YBR_FULL_422")
    assert np.abs(image.pixels - luma(smooth)).mean() < 2


@pytest.mark.parametrize(("size", "bits"), [(256, 16), (256, 8), (100, 16)])
def test_palettes(roundtrip, size, bits):
    values = pattern(8)
    image = roundtrip(values, photometric="PALETTE COLOR", **files.palette(size, bits))
    expected = (size - 1 - np.minimum(values.astype(float), size - 1)) / (size - 1) * 255
    assert np.abs(image.pixels - expected).max() <= 1


# Refused files


def without(keyword, values=None, **options):
    return files.dicom_bytes(pattern(12) if values is None else values, **{keyword: None}, **options)


def float_pixels():
    dataset = files.image_dataset(pattern(16))
    dataset.FloatPixelData, dataset.BitsAllocated = PATTERN.astype("<f4").tobytes(), 32
    return files.written(dataset)


def sized(rows, columns, syntax=files.EXPLICIT):
    return files.dicom_bytes(pattern(12), syntax, bits=12, Rows=rows, Columns=columns)


def cut(syntax, share=0.8, bits=12):
    """Return a file with a truncated codestream and its end marker restored; the file itself is not truncated."""
    frame = files.encoded(pattern(bits), syntax, bits)
    cut_off = frame[: int(len(frame) * share)]
    return files.dicom_bytes(pattern(bits), syntax, bits=bits, frame=cut_off + b"\xff\xd9" + b"\0" * (len(cut_off) % 2))


def unmarked(syntax, bits=12):
    frame = files.encoded(pattern(bits), syntax, bits)
    return files.dicom_bytes(pattern(bits), syntax, bits=bits, frame=frame[: len(frame) // 2])


REFUSED = {
    "several frames": (
        lambda: files.dicom_bytes(pattern(12), NumberOfFrames=3), "found a DICOM object with 3 frames; expected one"
    ),
    "a report": (files.report_bytes, r"a DICOM object with no pixel data \(Basic Text SR Storage\); expected"),
    "floating point": (float_pixels, "with floating-point pixels"),
    "32 bits": (lambda: files.dicom_bytes(pattern(8).astype(np.uint32)), "32 bits stored of 32"),
    "1 bit": (lambda: files.dicom_bytes(pattern(8), BitsAllocated=1, BitsStored=1, HighBit=0), "1 bits stored of 1"),
    "a high bit": (lambda: files.dicom_bytes(pattern(12), bits=12, HighBit=15), "high bit 15"),
    "no Rows": (lambda: without("Rows"), "found no Rows in the DICOM header"),
    "no BitsStored": (lambda: without("BitsStored"), "found no BitsStored in the DICOM header"),
    "no samples": (lambda: files.dicom_bytes(pattern(8), SamplesPerPixel=0), "0 samples per pixel"),
    "HSV": (lambda: files.dicom_bytes(COLOR, photometric="HSV"), "Photometric Interpretation that does not match"),
    "many pixels": (lambda: sized(20_000, 20_000), "20000 x 20000 pixels; expected at most 150 million"),
    "a strip": (lambda: sized(1280, 1), "aspect ratio of at most 20 to 1"),
    "no pixels": (lambda: sized(0, 10), "10 x 0 pixels"),
    "too few bytes": (lambda: sized(33, 40), r"found damaged pixel data \(2560 of 2640 bytes\)"),
    "too few deflated bytes": (lambda: sized(33, 40, files.DEFLATED), r"\(2560 of 2640 bytes\)"),
    "another shape": (lambda: sized(40, 32, files.JPEG_2000), "a codestream of 40 x 32 x 1 instead of 32 x 40 x 1"),
    "another shape in RLE": (lambda: sized(40, 40, files.RLE), "a run-length segment of 1280 of 1600 bytes"),
    "12-bit JPEG": (
        lambda: files.dicom_bytes(pattern(12), files.EXTENDED, bits=12,
                                  frame=files.lossless_jpeg(pattern(12), 12).replace(b"\xff\xc3", b"\xff\xc1")),
        r"found JPEG Extended \(Process 2 and 4\), 1\.2\.840\.10008\.1\.2\.4\.51 with 12 bits; only 8 are supported",
    ),
    "a video": (
        lambda: files.dicom_bytes(pattern(8), "1.2.840.10008.1.2.4.102", frame=b"video"),
        r"found MPEG-4 AVC/H.264 High Profile / Level 4.1, 1\.2\.840\.10008\.1\.2\.4\.102, which is not supported",
    ),
    "a private syntax": (
        lambda: files.dicom_bytes(pattern(8), "1.2.3.4.5", frame=b"video"), "found transfer syntax 1.2.3.4.5, which is"
    ),
    "compressed without a word": (
        lambda: files.dicom_bytes(pattern(12), files.JPEG_2000).replace(
            files.JPEG_2000.encode(), files.EXPLICIT.encode().ljust(22, b"\0")
        ),
        "found compressed pixel data, but no Transfer Syntax UID that says how",
    ),
    "slope 0": (lambda: files.dicom_bytes(pattern(12), RescaleSlope=0, RescaleIntercept=0), "damaged RescaleSlope"),
    "half a table": (
        lambda: files.dicom_bytes(pattern(12), VOILUTSequence=[files.lut_item(0, 12, range(90), count=100)]),
        "damaged LUTData",
    ),
    "segments": (
        lambda: files.dicom_bytes(pattern(8), photometric="PALETTE COLOR"),
        "damaged RedPaletteColorLookupTableData",
    ),
    "JPEG cut off": (lambda: unmarked(files.JPEG, 8), "its end is missing"),
    "JPEG 2000 cut off": (lambda: unmarked(files.JPEG_2000), "its end is missing"),
    "JPEG-LS cut off": (lambda: unmarked(files.JPEG_LS), "its end is missing"),
    "lossless JPEG cut off": (lambda: unmarked(files.LOSSLESS), "its end is missing"),
    "JPEG 2000 with a hole": (lambda: cut(files.JPEG_2000), "damaged"),
    "JPEG-LS with a hole": (lambda: cut(files.JPEG_LS), "damaged jpeg-ls JPEG data; expected a whole image"),
    "lossless JPEG with a hole": (lambda: cut(files.LOSSLESS), "damaged lossless JPEG data; expected a whole image"),
    "no JPEG": (lambda: files.dicom_bytes(pattern(8), files.JPEG, frame=b"\xff\xd9" * 20), "no JPEG header"),
    "no JPEG 2000": (lambda: files.dicom_bytes(pattern(8), files.JPEG_2000, frame=b"\xff\xd9" * 20), "no JPEG 2000"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
def test_refused_files_are_named(tmp_path, case):
    write, words = REFUSED[case]
    path = tmp_path / "image.dcm"
    path.write_bytes(write())
    with pytest.raises(ReadError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: found ")


@pytest.mark.parametrize("syntax", [*files.UNCOMPRESSED, files.RLE, files.JPEG_2000])
def test_a_cut_file_is_never_half_an_image(tmp_path, syntax):
    content = files.dicom_bytes(pattern(12), syntax, bits=12)
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    whole, refused = read(path).pixels, 0
    for length in np.linspace(1, len(content) - 1, 80).astype(int):
        path.write_bytes(content[:length])
        try:
            assert np.array_equal(read(path).pixels, whole)
        except ReadError:
            refused += 1
    assert refused >= 78
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ReadError, match=r"cut off|damaged pixel data"):
        read(path)


def test_no_message_note_or_log_names_the_patient(tmp_path, caplog, capsys, recwarn):
    path = tmp_path / "image.dcm"
    names = {"PatientName": "DOE^JOHN", "PatientID": "DOE123", "PatientBirthDate": "DOEBIRTH", "PatientAge": "DOE"}
    spoilt = [
        {"WindowCenter": "DOE"}, {"WindowWidth": "DOE"}, {"RescaleSlope": "DOE"}, {"PixelPaddingValue": "DOE"},
        {"NumberOfFrames": "DOE"}, {"Rows": "DOE"}, {"PhotometricInterpretation": "DOE"}, {"SOPClassUID": "DOE"},
        {"VOILUTFunction": "DOE"}, {"SpecificCharacterSet": "DOE"}, {"VOILUTSequence": "DOE"}, {"BitsStored": "DOE"},
        {"TransferSyntaxUID": "DOE"}, {},
    ]  # fmt: skip
    contents = [with_text(names | elements, syntax) for elements in spoilt for syntax in (files.EXPLICIT, files.RLE)]
    caplog.set_level(logging.DEBUG)
    caplog.clear()  # pydicom also warned while writing
    recwarn.clear()
    messages = []
    for content in contents:
        path.write_bytes(content)
        for act in (read, read_header):
            try:
                found = act(path)
                messages.append(str(found.notes) if act is read else "")
            except ReadError as error:
                messages.append("".join(traceback.format_exception(error)))
    assert sum("DICOM header" in text for text in messages) >= 10
    everything = "\n".join(
        [*messages, caplog.text, *capsys.readouterr(), *(str(warning.message) for warning in recwarn)]
    )
    assert "DOE" not in everything


def with_text(elements, syntax):
    """Return a file in which some elements contain text, whatever type they should have."""
    dataset = files.image_dataset(pattern(12), 12)
    dataset.PixelData = files.pixel_data(pattern(12), syntax, 12)
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = syntax not in files.UNCOMPRESSED
    elements = dict(elements)
    syntax_text = elements.pop("TransferSyntaxUID", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, text in elements.items():
            dataset.add_new(keyword, "LO", text)
        content = files.written(dataset, syntax)
    size = len(syntax) + len(syntax) % 2
    return (
        content.replace(syntax.encode(), syntax_text.encode().ljust(size)[: len(syntax)], 1) if syntax_text else content
    )


def test_pydicoms_warnings_are_counted_and_not_passed_on(tmp_path, recwarn, caplog):
    path = tmp_path / "image.dcm"
    path.write_bytes(with_text({"SpecificCharacterSet": "DOE"}, files.EXPLICIT))
    caplog.clear()
    assert read(path).notes[-1] == "pydicom: 2 warnings on header values"
    assert not recwarn and not caplog.records
    logging.getLogger("pydicom").warning("others may log")
    assert "others may log" in caplog.text


def inflating(size):
    """Return a deflated file whose data set continues for `size` bytes after the image."""
    content = files.dicom_bytes(pattern(12), files.DEFLATED, bits=12)
    # The data set follows the file meta information, whose length is the value of the first element.
    place = 144 + int.from_bytes(content[140:144], "little")
    whole = zlib.decompress(content[place:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return content[:place] + packer.compress(whole + bytes(size)) + packer.flush()


def sequence_of(items, length=0xFFFFFFFF):
    """Return a file with a sequence of very many empty items before the image."""
    content = files.dicom_bytes(pattern(12), bits=12)
    place = content.index(struct.pack("<HH", 0x0028, 0x0002))
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    sequence = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, length) + item * items
    return content[:place] + sequence + content[place:]


def long_list(count):
    """Return a file whose Window Center has very many values."""
    content = files.dicom_bytes(pattern(12), files.IMPLICIT, bits=12, WindowCenter=1, WindowWidth=2)
    place = content.index(struct.pack("<HH", 0x0028, 0x1050))
    end = place + 8 + int.from_bytes(content[place + 4 : place + 8], "little")
    return content[: place + 4] + struct.pack("<L", 2 * count) + b"1\\" * count + content[end:]


def runs(megabytes):
    """Return a file with very many run lengths."""
    header = struct.pack("<16L", 1, 64, *[0] * 14)
    return files.dicom_bytes(pattern(8), files.RLE, frame=header + b"\x81\0" * (megabytes * 2**20 // 128))


BOMBS = {
    "inflates": (lambda: inflating(300 * 2**20), None),
    "items": (lambda: sequence_of(1_000_000), "too many elements"),
    "values": (lambda: long_list(5_000_000), "10000000 bytes of WindowCenter; expected less"),
    "runs": (lambda: runs(200), None),
}


READ_AND_MEASURE = """
import re, sys, time
from pathlib import Path
from xrayfast.data.images.reader import read
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
read(sys.argv[1])
before, began, message = peak(), time.process_time(), ""
try:
    read(sys.argv[2])
except Exception as error:
    message = str(error)
print(peak() - before, time.process_time() - began, message)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is asked of Linux")
@pytest.mark.parametrize("case", list(BOMBS))
def test_small_files_that_would_fill_the_memory_are_refused(tmp_path, case):
    write, words = BOMBS[case]
    plain, bomb = tmp_path / "plain.dcm", tmp_path / "bomb.dcm"
    plain.write_bytes(files.dicom_bytes(pattern(12), bits=12))
    bomb.write_bytes(write())
    done = subprocess.run(
        [sys.executable, "-c", READ_AND_MEASURE, plain, bomb], capture_output=True, text=True, timeout=300, check=True
    )
    mebibytes, seconds, message = [*done.stdout.split(maxsplit=2), ""][:3]
    assert words in message if words else not message
    assert int(mebibytes) < 3 * bomb.stat().st_size / 2**20 + 150
    assert float(seconds) < 10


# Decoders in separate processes


WHOLE = "import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write(bytes(2560)); "


@pytest.mark.parametrize(
    "start",
    ["import os; os.abort()", "import time; time.sleep(600)", "print('too little')", WHOLE + "sys.exit(3)",
     WHOLE + "print('premature end', file=sys.stderr)"],
)  # fmt: skip
def test_a_decoder_that_dies_hangs_or_complains_is_a_damaged_file(roundtrip, monkeypatch, start):
    monkeypatch.setattr(sandbox, "_SUBPROCESS_CODE", start)
    monkeypatch.setattr(sandbox, "TIMEOUT", 3.0 if "sleep" in start else 20.0)
    began = time.monotonic()
    with pytest.raises(ReadError, match="damaged lossless JPEG data"):
        roundtrip(pattern(12), files.LOSSLESS, bits=12)
    assert time.monotonic() - began < 120


def test_a_harmless_complaint_and_no_process_at_all(roundtrip, monkeypatch):
    monkeypatch.setattr(
        sandbox,
        "_SUBPROCESS_CODE",
        WHOLE + "print('Corrupt JPEG data: 3 extraneous bytes before marker 0xd9', file=sys.stderr)",
    )
    assert (roundtrip(pattern(12), files.LOSSLESS, bits=12).pixels == 0).all()
    monkeypatch.setattr(sandbox.sys, "executable", "/no/such/python")
    with pytest.raises(ReadError, match="no process can be started"):
        roundtrip(pattern(12), files.LOSSLESS, bits=12)


def test_the_subprocess_finds_the_package_where_no_search_path_names_it(roundtrip, monkeypatch):
    elsewhere = [entry for entry in sys.path if not (Path(entry) / "xrayfast").is_dir()]
    monkeypatch.setattr(sys, "path", elsewhere)
    assert_shows(roundtrip(pattern(12), files.LOSSLESS, bits=12), pattern(12), 0, 4095)


# Every supported transfer syntax has a row, and pydicom knows its name.


def test_the_table_of_decoders_names_public_transfer_syntaxes_only():
    assert all(UID(syntax).is_transfer_syntax and not UID(syntax).is_private for syntax in DECODERS)
    assert set(files.UNCOMPRESSED) < set(DECODERS)


def test_another_transfer_syntax_is_one_more_row(roundtrip, monkeypatch):
    htj2k = "1.2.840.10008.1.2.4.201"
    frame = files.encoded(pattern(12), files.JPEG_2000, 12)
    with pytest.raises(ReadError, match=r"High-Throughput JPEG 2000.*is not supported"):
        roundtrip(pattern(12), htj2k, bits=12, frame=frame)
    monkeypatch.setattr(decoders, "DECODERS", {**DECODERS, htj2k: decoders.decode_jpeg_2000})
    assert_shows(roundtrip(pattern(12), htj2k, bits=12, frame=frame, window="full"), pattern(12), 0, 4095)


# Real files


@pytest.mark.parametrize(
    "name",
    [
        "mono1_15bit_no_window",
        "mono2_12bit_explicitLE",
        # Their window 15000/30000 leaves out a twelfth of the range: the dark end of the first three, and the bright
        # end, where most of the image is, of the last, whose values are inverted.
        "mono1_15bit_explicitLE",
        "mono1_15bit_j2k_lossless",
        "mono1_15bit_rle",
        "mono2_15bit_explicitLE",
    ],
)
def test_the_same_chest_in_other_encodings(shared, name):
    folder = shared / "data" / "dicom" / "derived"
    reference = np.asarray(Image.open(folder / "RG1half_8bit_reference.png")).astype(int)
    path = folder / f"RG1half_{name}.dcm"
    for window in ("auto", "full"):
        assert np.abs(read(path, window).pixels - reference).mean() <= 0.5
    dataset = pydicom.dcmread(path)
    shown = shown_by_pydicom(dataset, dataset.pixel_array)
    shown = 255 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown
    if "WindowCenter" in dataset:
        assert np.abs(read(path, "1").pixels - shown).max() <= 0.5 + 1e-6


def test_real_radiographs(shared):
    folder = shared / "data" / "dicom"
    for name in ("chest/RG1_JLSN.dcm", "other/RG3_JPLL.dcm", "other/CR-ModalitySequenceLUT_teeth.dcm"):
        dataset = pydicom.dcmread(folder / name)
        values = apply_modality_lut(dataset.pixel_array, dataset)
        if "WindowCenter" in dataset:
            expected = 255 - shown_by_pydicom(dataset, dataset.pixel_array)
        else:
            expected = 255 - values * (255 / 1023)
        window = "1" if "WindowCenter" in dataset else "auto"
        assert np.abs(read(folder / name, window).pixels - expected).max() <= 1
    nih = next((folder / "chest").glob("nih*"))
    assert np.array_equal(read(nih).pixels, pydicom.dcmread(nih).pixel_array)
    # Stored as it should be displayed, but marked as MONOCHROME1, which is all the standard lets a reader rely on.
    fake = folder / "chest" / "Fake_MONOHR1.dcm"
    assert np.array_equal(read(fake).pixels, 255 - pydicom.dcmread(fake).pixel_array)
    with pytest.raises(
        ReadError, match=r"JPEG Extended \(Process 2 and 4\), 1\.2\.840\.10008\.1\.2\.4\.51 with 12 bits"
    ):
        read(folder / "other" / "RG3_JPLY.dcm")


@pytest.mark.parametrize(
    ("elements", "note"),
    [
        ({"Modality": "CT"}, "modality CT"),
        ({"Modality": "DX", "BodyPartExamined": "Hand"}, "body part HAND"),
        ({"BodyPartExamined": "PORT CHEST"}, None),
        ({"StudyDescription": "XR ABDOMEN"}, "another part of the body, according to its description"),
        ({"ProtocolName": "Knie a.p."}, "another part of the body, according to its description"),
        ({"StudyDescription": "CHEST AND ABDOMEN"}, None),
        ({"SeriesDescription": "QA phantom"}, "an image for quality control, according to its header"),
        ({"BodyPartExamined": "TORAX"}, None),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw values FOR PROCESSING, not meant for viewing"),
        ({"PresentationIntentType": "FOR PRESENTATION"}, None),
        ({"PatientOrientation": ["L", "F"]}, None),
        ({"PatientOrientation": ["A", "F"]}, None),
        ({"PatientOrientation": ""}, None),
        ({"PatientOrientation": ["R", "F"]}, "mirrored according to its Patient Orientation; not corrected"),
        ({"PatientOrientation": ["RP", "FP"]}, "mirrored according to its Patient Orientation; not corrected"),
        ({"PatientOrientation": ["R", "H"]}, "upside down according to its Patient Orientation; not corrected"),
        ({"PatientOrientation": ["F", "R"]}, "on its side according to its Patient Orientation; not corrected"),
        ({"Modality": None}, None),
        (
            {"SeriesDescription": "Chest PA bone suppressed"},
            "processed or not a plain radiograph, according to its description",
        ),
        *(
            (elements, "processed or not a plain radiograph, according to its description")
            for elements in (
                {"SeriesDescription": "VolumeRAD Tomo"},
                {"SeriesDescription": "CHEST PA INVERTED"},
                {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
            )
        ),
        ({"SeriesDescription": "scout"}, "processed or not a plain radiograph, according to its description"),
        ({"SeriesDescription": "Chest PA cadaver"}, None),
        ({"BurnedInAnnotation": "YES"}, "text is burned in, according to its header"),
        ({"BurnedInAnnotation": "NO"}, None),
        ({"QualityControlImage": "YES"}, "an image for quality control, according to its header"),
        ({"ImageComments": "Rejected: motion"}, "rejected, according to its comments"),
        ({"PatientSpeciesDescription": "Canine"}, "an animal, according to its header"),
        ({"PatientSpeciesDescription": "Homo sapiens"}, None),
        ({"ShutterShape": "RECTANGULAR"}, "display shutter ignored"),
    ],
)
def test_an_image_whose_header_says_it_is_no_chest_radiograph_is_noted(roundtrip, elements, note):
    notes = roundtrip(RAMP, **elements).notes
    assert notes[2:] == ((note,) if note else ()), notes


def test_padding_that_is_scattered_within_the_image_is_noted(roundtrip):
    note = "single pixels inside the image set to black, because the header declares their value as padding"
    assert note in roundtrip(RAMP, bits=12, PixelPaddingValue=int(RAMP[40, 7])).notes
    framed = np.pad(RAMP // 2, 16, constant_values=4000)
    assert note not in roundtrip(framed, bits=12, PixelPaddingValue=4000).notes
    assert note not in roundtrip(RAMP, bits=12, PixelPaddingValue=0).notes


def _in_surround(value, dtype=np.uint16):
    """Return (64, 64) values from 1000 to 3000 in a disk, with one value around it, and a mask of the disk."""
    y, x = np.mgrid[:64, :64]
    disk = (x - 32) ** 2 + (y - 32) ** 2 < 28**2
    return np.where(disk, 1000 + 2000 * (x + y) / 126, value).astype(dtype), disk


@pytest.mark.parametrize(("value", "dtype"), [(65535, np.uint16), (32767, np.int16), (-32768, np.int16)])
def test_a_surround_far_from_all_other_values_does_not_count(roundtrip, value, dtype):
    values, disk = _in_surround(value, dtype)
    found, alone = roundtrip(values), values[disk].astype(float)
    low, high = np.quantile(alone, [0.005, 0.995], method="inverted_cdf")
    expected = np.floor(255 * np.clip((alone - low) / (high - low), 0, 1) + 0.5)
    assert np.abs(found.pixels[disk] - expected).max() <= 1 and not found.pixels[~disk].any()
    assert f"area of constant value {value} around the image set to black" in found.notes
    window = roundtrip(values, WindowCenter=2000, WindowWidth=4000)
    assert not [note for note in window.notes if "around the image" in note]
    low = roundtrip(_in_surround(800)[0])  # less far, but lower and at the corners
    np.testing.assert_array_equal(low.pixels, found.pixels)
    assert "area of constant value 800 around the image set to black" in low.notes
    inner = roundtrip(np.roll(_in_surround(800)[0], (32, 32), (0, 1)))  # not at the corners
    assert not [note for note in inner.notes if "around the image" in note]
    near = roundtrip(_in_surround(3500)[0])
    assert not [note for note in near.notes if "around the image" in note]


@pytest.mark.parametrize(
    ("elements", "shape", "ratio"),
    [
        ({"PixelAspectRatio": [2, 1]}, (128, 64), "2"),
        ({"PixelSpacing": [0.2, 0.4]}, (64, 128), "0.5"),
        ({"ImagerPixelSpacing": [0.3, 0.2]}, (96, 64), "1.5"),
        ({"PixelSpacing": [0.2, 0.2001]}, (64, 64), ""),
    ],
)
def test_pixels_that_are_not_square_are_made_so(roundtrip, elements, shape, ratio):
    values = (np.mgrid[:64, :64].sum(0) * 500).astype(np.uint16)
    found = roundtrip(values, **elements)
    assert found.pixels.shape == shape and (f"pixels of {ratio}:1 resampled to square ones" in found.notes) == bool(
        ratio
    )
    plain = Image.fromarray(roundtrip(values).pixels).resize(shape[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found.pixels, np.asarray(plain))


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "Segmentation Storage"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "Grayscale Softcopy Presentation State Storage"),
    ],
)
def test_objects_that_are_no_radiographs_are_refused_by_name(roundtrip, uid, name):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    with pytest.raises(ReadError, match=f"another kind .{name}."):
        roundtrip(values, SOPClassUID=uid)


def test_reports_and_screenshots_are_noted_by_their_description(roundtrip):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for elements in ({"SeriesDescription": "Dose Report"}, {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}):
        assert "a report or a screenshot, according to its description" in roundtrip(values, **elements).notes
    assert not [note for note in roundtrip(values, SeriesDescription="Chest PA").notes if "screenshot" in note]


@pytest.mark.parametrize(
    ("elements", "noted"),
    [
        ({"SeriesDescription": "Lung mask overlay"}, True),
        ({"ImageType": ["DERIVED", "SECONDARY", "MASK"]}, True),
        ({"Modality": "SEG"}, True),
        ({"Modality": "PR"}, True),
        ({"ImageType": ["ORIGINAL", "PRIMARY"]}, False),
        ({"SeriesDescription": "AP with face mask"}, False),
        ({"Modality": "CT"}, False),
    ],
)
def test_masks_and_the_like_are_noted_by_their_header(roundtrip, elements, noted):
    notes = roundtrip(np.arange(4096, dtype=np.uint16).reshape(64, 64), **elements).notes
    assert ("not a radiograph, according to its header" in notes) == noted
