from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image, ImageDraw, PngImagePlugin

from tests.data.images.dicom_files import dicom_bytes
from xrayfast.data.images import limits
from xrayfast.data.images.radiograph import apply_lut
from xrayfast.data.images.reader import fit_square, is_image, read, read_bytes
from xrayfast.errors import ConfigError, ReadError
from xrayfast.errors.escapes import escape_hidden
from xrayfast.synthetic import phantom

FILM = phantom("normal", patient=0, image=0, size=320)
RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))


def saved(folder: Path, image: Image.Image, name: str, **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.tiff", "x.PNG"])
def test_plain_gray_is_read_unchanged(tmp_path, name):
    image = read(saved(tmp_path, Image.fromarray(FILM), name))
    assert image.pixels.dtype == np.uint8
    assert np.array_equal(image.pixels, FILM)
    assert image.notes == ()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_gray_stored_in_another_mode_comes_back_exactly(tmp_path, mode):
    image = read(saved(tmp_path, Image.fromarray(RAMP).convert(mode), "x.png"))
    assert np.array_equal(image.pixels, RAMP)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [("x.jpg", "L", {"quality": 95}), ("x.jpg", "CMYK", {"quality": 95}), ("x.webp", "RGB", {"quality": 95})],
)
def test_lossy_files_are_read_nearly_unchanged(tmp_path, name, mode, options):
    image = read(saved(tmp_path, Image.fromarray(RAMP).convert(mode), name, **options))
    assert np.abs(image.pixels.astype(int) - RAMP).mean() < 1.5


def test_one_bit_is_black_and_white(tmp_path):
    black_left = Image.fromarray(RAMP >= 128)
    assert np.array_equal(np.unique(read(saved(tmp_path, black_left, "x.png")).pixels), [0, 255])


def test_colors_become_luma(tmp_path):
    pixels = read(saved(tmp_path, Image.new("RGB", (4, 4), (255, 0, 0)), "x.png")).pixels
    assert set(pixels.flat) == {76}  # 0.299 of 255, ITU-R BT.601


@pytest.mark.parametrize(
    ("alpha", "expected", "note"),
    [
        (0, 0, "fully transparent"),
        (128, 100, "transparent areas shown on black"),
        (255, 200, "mode RGBA converted to gray"),  # opaque
    ],
)
def test_transparency_is_composited_on_black(tmp_path, alpha, expected, note):
    image = read(saved(tmp_path, Image.new("RGBA", (4, 4), (200, 200, 200, alpha)), "x.png"))
    assert abs(int(image.pixels[0, 0]) - expected) <= 1
    assert image.notes == (note, "only one gray level")


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize(("size", "value"), [(1, 65535), (4, 65535), (4, 4200), (12, 65535), (12, 4200)])
def test_hot_pixels_and_markers_do_not_change_the_scaling(tmp_path, name, size, value):
    values = 400 + 13 * phantom("normal", patient=0, image=0, size=64).astype(np.uint16)
    marked = values.copy()
    marked[:size, :size] = value
    plain = read(saved(tmp_path, Image.fromarray(values), name))
    image = read(saved(tmp_path, Image.fromarray(marked), name))
    assert np.array_equal(image.pixels[size:], plain.pixels[size:])
    assert (image.pixels[:size, :size] == 255).all()
    assert image.notes == (*plain.notes, f"values above 4095 (up to {value}) set to white")


def test_hot_and_cold_pixels_of_32_bit_images(tmp_path):
    values = np.linspace(0.1, 0.9, 64 * 64, dtype=np.float32).reshape(64, 64)
    marked = values.copy()
    marked[0, 0], marked[0, 1] = 1000, -32768
    plain = read(saved(tmp_path, Image.fromarray(values), "x.tif"))
    image = read(saved(tmp_path, Image.fromarray(marked), "x.tif"))
    assert np.array_equal(image.pixels[1:], plain.pixels[1:])
    assert image.pixels[0, :2].tolist() == [255, 0]
    assert "values below 0 set to black" in image.notes and "values above 1 (up to 1000) set to white" in image.notes


def test_16_bit_color_of_few_levels_is_refused_whatever_its_hottest_pixel(tmp_path):
    values = np.tile(np.linspace(0, 4095, 64, dtype=np.uint16), (64, 1))
    values[0, 0] = 65535
    (tmp_path / "x.png").write_bytes(wide_color(values, 2))
    with pytest.raises(ReadError, match="save it as 16-bit gray"):
        read(tmp_path / "x.png")


SEEN = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8) + 60  # 60 to 202


@pytest.mark.parametrize(
    ("pixels", "note"),
    [
        (np.zeros((80, 80)), "only one gray level"),
        (np.full((80, 80), 255), "only one gray level"),
        (np.full((1, 1), 9), "only one gray level"),
        (np.where(np.arange(6400).reshape(80, 80) == 3000, 40, 10), "almost only one gray level"),
        (SEEN / 5, "nearly black"),
        (SEEN / 5, "nearly without contrast"),
        (SEEN / 5 + 210, "nearly white"),
        (SEEN / 5 + 100, "nearly without contrast"),
        (np.where(SEEN > 130, 255, 0), "only two shades of gray"),
        (np.where(SEEN > 130, 200, 90), "only two shades of gray"),
        (np.random.default_rng(0).integers(0, 256, (200, 300)), "neighboring pixels are unrelated, as in noise"),
        (
            np.repeat(np.random.default_rng(0).integers(0, 256, (200, 1)), 300, 1),
            "neighboring pixels are unrelated, as in noise",
        ),
    ],
)
@pytest.mark.parametrize("name", ["x.png", "x.dcm"])
def test_an_image_in_which_nothing_can_be_seen_is_noted(tmp_path, pixels, note, name):
    pixels = pixels.astype(np.uint8)
    if name == "x.dcm":
        (tmp_path / name).write_bytes(dicom_bytes(pixels))
    else:
        Image.fromarray(pixels).save(tmp_path / name)
    assert note in read(tmp_path / name).notes


def test_masks_have_two_shades_even_after_scaling_and_jpeg(tmp_path):
    disc = np.add.outer(np.arange(-40, 40) ** 2, np.arange(-40, 40) ** 2) < 700
    mask = Image.fromarray((disc * 255).astype(np.uint8))
    for path in (saved(tmp_path, mask, "x.jpg"), saved(tmp_path, mask.resize((200, 200)), "x.png")):
        assert read(path).notes == ("only two shades of gray",)
    regions = Image.fromarray((disc * 120 + np.tri(80, dtype=bool) * 80).astype(np.uint8))
    assert read(saved(tmp_path, regions, "x.png")).notes == ("only 4 shades of gray",)
    scaled = regions.resize((200, 200), Image.Resampling.BILINEAR)
    for name in ("x.png", "x.jpg"):
        assert read(saved(tmp_path, scaled, name)).notes == ("only 4 shades of gray",)


@pytest.mark.parametrize("levels", [(0, 1), (0, 1, 2), (0, 127, 254), (254, 255), (0, 1, 2, 3, 4, 5, 6, 7), (9, 200)])
def test_label_maps_have_few_shades_for_any_values(tmp_path, levels):
    places = np.add.outer(np.arange(80), np.arange(80)) * len(levels) // 159
    note = "only two shades of gray" if len(levels) == 2 else f"only {len(levels)} shades of gray"
    assert read(saved(tmp_path, Image.fromarray(np.array(levels, np.uint8)[places]), "x.png")).notes == (note,)
    small = np.full((200, 200), levels[0], np.uint8)
    small[90:100, 90:100] = levels[-1]
    assert read(saved(tmp_path, Image.fromarray(small), "x.png")).notes == ("only two shades of gray",)


def test_radiographs_do_not_have_few_shades(tmp_path):
    """Even if half of the radiograph is black, or if it has 16 gray levels."""
    film = phantom("normal", patient=0, image=0, size=128)
    masked = np.where(np.abs(np.arange(128) - 64) < 30, film, 0).astype(np.uint8)
    for pixels in (film, film // 16 * 16, film // 8, masked, film // 2 + 128):
        assert not [note for note in read(saved(tmp_path, Image.fromarray(pixels), "x.png")).notes if "shades" in note]


def colored(*weights):
    """Return SEEN in one hue."""
    return np.stack([SEEN * weight for weight in weights], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("colors", "note"),
    [
        (np.stack([SEEN] * 3, -1), ""),
        (colored(0.9, 0.95, 1), "slightly tinted, as in photos of radiographs and screens"),
        (colored(1, 0.8, 0.3), "color on #% of the area, converted to gray"),
        (np.stack([np.where(SEEN > 150, 255, SEEN), SEEN, SEEN], -1), "color on #% of the area, converted to gray"),
        (np.stack([255 - SEEN, 255 - abs(131 - SEEN.astype(int)) * 3, SEEN], -1), "color-coded"),
    ],
)
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.dcm"])
def test_an_image_in_color_is_noted(tmp_path, colors, note, name):
    """No color, two tints, a colored region, and a color map."""
    colors = colors.astype(np.uint8)
    if name == "x.dcm":
        (tmp_path / name).write_bytes(dicom_bytes(colors))
    else:
        Image.fromarray(colors).save(tmp_path / name, **({"subsampling": 0} if name == "x.jpg" else {}))
    found = [text for text in read(tmp_path / name).notes if re.search("colo|tinted", text)]
    assert [re.sub(r"\d+%", "#%", text) for text in found] == [note] * bool(note)


@pytest.mark.parametrize(
    ("name", "note"),
    [("viridis", True), ("jet", True), ("inferno", True), ("coolwarm", True), ("hot", True), ("afmhot", True),
     ("gray", None), ("bone", False), ("Blues", False), ("copper", False)],
)  # fmt: skip
def test_color_maps_are_color_coded_and_tints_are_not(tmp_path, name, note):
    path = saved(tmp_path, Image.fromarray(colormaps[name](FILM, bytes=True)[..., :3]), "x.png")
    found = [text for text in read(path).notes if re.search("colo|tinted", text)]
    assert found == ["color-coded"] if note else len(found) == (note is False) and "color-coded" not in found


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_values_in_an_unsigned_png_are_read_as_such(tmp_path, bits):
    values = (SEEN.astype(np.int32) - 131) * (2**bits // 144)
    path = saved(tmp_path, Image.fromarray(values.astype(np.int16).view(np.uint16)), "x.png")
    found = read(path)
    assert "values are evidently signed, although the header says unsigned" in found.notes
    assert np.corrcoef(found.pixels.ravel(), SEEN.ravel())[0, 1] > 0.999


def test_unsigned_values_of_the_whole_range_stay_unsigned(tmp_path):
    values = ((SEEN - 60.0) / 142 * 65535).astype(np.uint16)
    values[5:12, 5:30] = np.arange(65535 - 24, 65536)  # a bright marker on a dark background
    assert not [text for text in read(saved(tmp_path, Image.fromarray(values), "x.png")).notes if "signed" in text]


def test_standardized_floats_fill_the_range(tmp_path):
    values = ((SEEN - 131.0) / 40).astype(np.float32)
    found = read(saved(tmp_path, Image.fromarray(values), "x.tif"))
    assert np.corrcoef(found.pixels.ravel(), SEEN.ravel())[0, 1] > 0.999 and np.ptp(found.pixels) > 240


@pytest.mark.parametrize("size", [(81, 64), (88, 64), (80, 72), (96, 96)])
def test_a_jpeg_that_claims_a_few_pixels_more_than_it_has(tmp_path, size):
    path = saved(tmp_path, Image.fromarray(SEEN), "x.jpg")
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", *size[::-1])
    path.write_bytes(content)
    assert "the last rows are plain gray, as if data were missing" in read(path).notes


def test_an_image_in_which_something_can_be_seen_has_no_note(tmp_path):
    assert read(saved(tmp_path, Image.fromarray(FILM), "x.png")).notes == ()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_claims_more_pixels_than_it_has(tmp_path, mode, progressive):
    path = saved(tmp_path, Image.fromarray(SEEN).convert(mode), "x.jpg", progressive=progressive)
    content = bytearray(path.read_bytes())
    size = content.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    content[size : size + 4] = struct.pack(">HH", 320, 320)
    path.write_bytes(content)
    assert "the last rows are plain gray, as if data were missing" in read(path).notes
    content[size : size + 4] = struct.pack(">HH", 12000, 12000)
    path.write_bytes(content)
    with pytest.raises(ReadError, match=r"JPEG of \d+ bytes that claims 12000 x 12000 pixels; expected 281250 bytes"):
        read(path)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_the_smallest_jpeg_of_its_size_is_read(tmp_path, value):
    path = saved(tmp_path, Image.new("L", (3000, 2000), value), "x.jpg", progressive=True, optimize=True, quality=1)
    assert read(path).pixels.shape == (2000, 3000)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_cut_off_before_its_end_marker(tmp_path, mode):
    rough = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).resize((400, 400))
    path = saved(tmp_path, rough.convert(mode), "x.jpg")
    assert not any("missing" in note for note in read(path).notes)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\xff\xd9")
    assert "the last rows are plain gray, as if data were missing" in read(path).notes


def test_a_transparent_palette_color_is_black(tmp_path):
    image = Image.fromarray(RAMP).convert("P")
    assert read(saved(tmp_path, image, "x.png", transparency=255)).pixels[0, 255] == 0


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize(
    ("maximum", "full"), [(255, 255), (258, 1023), (3000, 4095), (4095, 4095), (16383, 16383),
                          (31779, 32767), (33000, 65535), (65535, 65535)]
)  # fmt: skip
def test_more_than_8_bits_are_scaled_by_the_smallest_range_that_holds_them(tmp_path, name, maximum, full):
    values = np.linspace(0, maximum, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    image = read(saved(tmp_path, Image.fromarray(values), name))
    assert np.abs(image.pixels - values * (255 / full)).max() <= 0.5 + 1e-9
    assert image.notes[0] == f"16-bit scaled from 0..{full}"
    assert not any("white" in note for note in image.notes)


@pytest.mark.parametrize(("value", "full"), [(100, 255), (3000, 4095), (40_000, 65535)])
def test_the_only_value_of_a_16_bit_image_keeps_its_gray(tmp_path, value, full):
    image = read(saved(tmp_path, Image.fromarray(np.full((64, 64), value, np.uint16)), "x.png"))
    assert (image.pixels == round(value * 255 / full)).all()


def test_a_12_bit_ramp_in_16_bits_is_not_saturated(tmp_path):
    ramp = np.tile(np.arange(4096, dtype=np.uint16), (256, 1))
    pixels = read(saved(tmp_path, Image.fromarray(ramp), "x.png")).pixels
    assert (pixels == 255).mean() < 0.01
    assert (np.diff(pixels[0].astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255], "32-bit scaled from 0..1"),
        (np.array([[0, 1023]], np.int32), [0, 255], "32-bit scaled from 0..1023"),
        (np.array([[0, 100_000]], np.int32), [0, 255], "32-bit scaled from 0..100000"),
        (np.array([[-100, 923]], np.int32), [0, 255], "minimum -100 set to black"),
        (np.zeros((2, 2), np.float32), [0, 0, 0, 0], "32-bit scaled from 0..255"),
    ],
)
def test_32_bit_values(tmp_path, values, expected, note):
    image = read(saved(tmp_path, Image.fromarray(values), "x.tif"))
    assert image.pixels.ravel().tolist() == expected
    assert note in image.notes


def test_big_endian_and_white_is_zero_tiff(tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    big = read(saved(tmp_path, Image.fromarray(values.astype(">u2")), "big.tif")).pixels
    white_is_zero = read(saved(tmp_path, Image.fromarray(values), "zero.tif", tiffinfo={262: 0}))
    assert big[0, 0] == 0 and big[-1, -1] == 255
    assert white_is_zero.pixels[0, 0] == 255 and white_is_zero.pixels[-1, -1] == 0
    assert "WhiteIsZero inverted" in white_is_zero.notes


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_orientation_is_applied(tmp_path, name, dtype):
    if dtype is np.uint16 and name not in ("x.png", "x.tif"):
        pytest.skip("no 16 bits in this format")
    stored = np.zeros((40, 60), dtype)
    stored[:, 30:] = np.iinfo(dtype).max
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees clockwise for display: the right side moves to the bottom
    image = read(saved(tmp_path, Image.fromarray(stored), name, exif=exif))
    assert image.pixels.shape == (60, 40)
    assert image.pixels[:25].mean() < 5 and image.pixels[35:].mean() > 250
    assert "EXIF orientation applied" in image.notes


def test_each_exif_orientation_turns_the_image_as_the_standard_says(tmp_path):
    """EXIF 2.32, tag 274: where the first row and the first column of the stored image are shown."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turned = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.T, 6: stored[::-1].T,
        7: stored[::-1, ::-1].T, 8: stored[:, ::-1].T, 9: stored,
    }  # fmt: skip
    for orientation, expected in turned.items():
        exif = Image.Exif()
        exif[274] = orientation
        image = read(saved(tmp_path, Image.fromarray(stored), f"{orientation}.png", exif=exif))
        np.testing.assert_array_equal(image.pixels, expected, err_msg=str(orientation))
        assert ("EXIF orientation applied" in image.notes) == (orientation in range(2, 9))


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.webp"])
def test_first_of_several_frames(tmp_path, name):
    frames = [Image.new("L", (8, 8), value) for value in (50, 100, 200)]
    lossless = {"lossless": True} if name == "x.webp" else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **lossless)
    image = read(path)
    assert abs(image.pixels.mean() - 50) <= 1
    assert "only the first of several frames is used" in image.notes


def test_warnings_of_pillow_become_notes(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP), "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert any("Corrupt EXIF" in note for note in read(path).notes)


def png_bytes(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def big_png(width: int, height: int) -> bytes:
    """Return the start of a PNG that claims to be large."""
    head = bytearray(png_bytes(Image.new("L", (1, 1))))
    head[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    return bytes(head)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.png", None, "no such file"),
        ("empty.png", b"", "empty file"),
        ("page.png", b"\n<!DOCTYPE html><html>404</html>", "HTML"),
        ("text.png", b"hello, world", "no image that can be read"),
        ("page.dcm", b"<html>", "HTML"),
        ("movie.gif", b"GIF89a" + bytes(20), "a GIF"),
        ("paper.png", b"%PDF-1.7", "a PDF"),
        ("images.jpg", b"PK\x03\x04", "a ZIP archive"),
        ("image.dcm.gz.png", b"\x1f\x8b\x08", "a gzip archive"),
        ("array.png", b"\x93NUMPY\x01", "a NumPy array"),
        ("image.jp2", b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 file"),
        ("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC file"),
        ("web.jpg", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "an AVIF file"),
        ("image.png", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("image.dcm", b"whatever", "no DICOM header"),
        ("image", bytes(128) + b"DICM" + bytes(100), "a DICOM object with no pixel data"),
        (
            "strip.png",
            png_bytes(Image.new("L", (210, 10))),
            "210 x 10 pixels; expected an aspect ratio of at most 20 to 1",
        ),
        ("bomb.png", big_png(16_000, 10_000), "16000 x 10000 pixels; expected at most 150 million"),
        ("more.png", big_png(20_000, 20_000), "found 400,000,000 pixels; expected at most 150 million. Scale"),
        ("bigger.png", big_png(60_000, 60_000), "pixels"),
        ("cut.png", png_bytes(Image.fromarray(RAMP))[:120], "truncated"),
        ("nul\0.png", None, "can't be read"),
    ],
)
def test_files_that_hold_no_image(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(ReadError) as caught:
        warnings.simplefilter("error")
        read(path)
    assert str(caught.value).startswith(f"{escape_hidden(str(path))}: ")
    assert words in str(caught.value)


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    for name, words in [
        ("folder.png", "found a folder"),
        ("pipe.png", "found a pipe"),
        ("link.png", "broken link"),
    ]:
        with pytest.raises(ReadError, match=words):
            read(tmp_path / name)


def test_a_file_that_may_not_be_opened(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(RAMP), "x.png")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ReadError, match="Permission denied"):
        read(path)


def test_values_that_are_not_finite_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0, np.nan]], np.float32)), "x.tif")
    with pytest.raises(ReadError, match="not finite"):
        read(path)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.bmp", "x.webp"])
def test_a_cut_file_is_never_half_an_image(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    whole, content = read(path).pixels, path.read_bytes()
    refused = 0
    for length in np.linspace(1, len(content) - 1, 60).astype(int):
        path.write_bytes(content[:length])
        try:
            assert np.array_equal(read(path).pixels, whole)
        except ReadError:
            refused += 1
    assert refused >= 55


def test_damaged_bytes_raise_only_read_errors(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("x.png", "x.jpg", "x.tif", "x.bmp", "x.webp"):
        path = saved(tmp_path, Image.fromarray(RAMP), name)
        content = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for place in rng.integers(0, min(len(content), 400), 6):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                assert read(path).pixels.ndim == 2
            except ReadError as error:
                assert str(path) in str(error)


def test_pillow_is_left_as_it_was(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    read(saved(tmp_path, Image.fromarray(RAMP), "x.png"))
    assert before == Image.MAX_IMAGE_PIXELS
    assert 2 * before > limits.MAX_PIXELS


@pytest.mark.parametrize(
    ("shape", "inner"),
    [((100, 50), (32, 16)), ((50, 100), (16, 32)), ((8, 8), (32, 32)), ((1, 1000), (1, 32))],
)
def test_fit_square_keeps_the_whole_image_and_its_aspect(shape, inner):
    square = fit_square(np.full(shape, 200, np.uint8), 32)
    assert square.shape == (32, 32) and square.dtype == np.uint8
    rows, columns = np.nonzero(square == 200)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == inner
    assert (square[square != 200] == 0).all()
    assert abs(rows.min() - (31 - rows.max())) <= 1 and abs(columns.min() - (31 - columns.max())) <= 1


@pytest.mark.parametrize("shape", [(1, 1), (300, 1), (7, 70_000), (301, 257), (130, 200, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_lookup_table_is_applied_to_each_pixel(shape, dtype):
    rng = np.random.default_rng(0)
    codes, levels = rng.integers(0, 250, shape).astype(dtype), rng.integers(0, 256, 250).astype(np.uint8)
    for view in (codes, codes[::-1], codes.swapaxes(0, 1)):
        assert np.array_equal(apply_lut(levels, view), levels[view])
    codes[-1, -1] = 251
    with pytest.raises(IndexError):
        apply_lut(levels, codes)


def test_fit_square_averages_when_it_shrinks():
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    assert (
        np.abs(fit_square(stripes, 32).astype(int) - 127.5).max() <= 5
    )  # 4.5 at the border, where half of the averaging window is outside


def test_fit_square_leaves_an_image_that_fits():
    fits = np.zeros((32, 32), np.uint8)
    assert fit_square(fits, 32) is fits


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("RG1half_8bit_reference.png", 0.0),
        ("RG1half_16bit_gray.png", 0.5),
        ("RG1half_16bit_gray.tif", 0.5),
        ("RG1half_12bit_in_16bit_gray.png", 0.5),
        ("RG1half_palette.png", 0.0),
        ("RG1half_rgba.png", 0.0),
        ("RG1half_cmyk.jpg", 1.0),  # lossy
    ],
)
def test_the_same_chest_in_other_encodings(shared, name, limit):
    folder = shared / "data" / "dicom" / "derived"
    reference = np.asarray(Image.open(folder / "RG1half_8bit_reference.png")).astype(int)
    assert np.abs(read(folder / name).pixels - reference).mean() <= limit


def png(values: np.ndarray, color_type: int, interlaced: bool = False) -> bytes:
    """Return a PNG with types that Pillow cannot write.

    Args:
        values: (H, W, channels) of 1 or 2 bytes.
        color_type: 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA.
        interlaced: in the seven passes of Adam7.
    """
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(
        b"\0" + line.astype(values.dtype.newbyteorder(">")).tobytes()
        for top, left, down, right in (passes if interlaced else [(0, 0, 1, 1)])
        for line in values[top::down, left::right]
    )
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, color_type, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def wide_color(values: np.ndarray, color_type: int) -> bytes:
    return png(np.repeat(values[:, :, None], {2: 3, 4: 2, 6: 4}[color_type], axis=2), color_type)


@pytest.mark.parametrize("values", [RAMP, (RAMP.astype(np.uint16) * 16)])
def test_an_interlaced_png_is_read_like_any_other(tmp_path, values):
    (tmp_path / "x.png").write_bytes(png(values[:, :, None], 0, interlaced=True))
    expected = values if values is RAMP else np.floor(values * (255 / 4095) + 0.5)
    assert np.array_equal(read(tmp_path / "x.png").pixels, expected)


@pytest.mark.parametrize(("color_type", "mode"), [(2, "RGB"), (4, "RGBA"), (6, "RGBA")])
def test_color_of_16_bits_keeps_the_high_8_with_a_note(tmp_path, color_type, mode):
    values = np.tile(np.arange(256, dtype=np.uint16) * 257, (64, 1))
    content = np.repeat(values[:, :, None], {2: 3, 4: 2, 6: 4}[color_type], axis=2).copy()
    if mode == "RGBA":
        content[:, :, -1] = 65535
    (tmp_path / "x.png").write_bytes(png(content, color_type))
    image = read(tmp_path / "x.png")
    assert np.array_equal(image.pixels, RAMP)
    assert (image.mode, image.bits, image.notes[0]) == (mode, 16, "16-bit channels: only the high 8 bits are used")


def test_a_12_bit_image_in_16_bit_color_is_refused(tmp_path):
    # Its high bytes are 0 to 15: the image that Pillow returns has too few levels.
    (tmp_path / "x.png").write_bytes(wide_color(np.tile(np.arange(0, 4096, 16, dtype=np.uint16), (64, 1)), 2))
    with pytest.raises(ReadError, match="only 16 levels; save it as 16-bit gray"):
        read(tmp_path / "x.png")


def test_transparent_palettes_and_gray_are_composited_on_black(tmp_path):
    alpha = Image.fromarray(RAMP[:, ::-1].copy())
    for mode in ("LA", "RGBA"):
        image = Image.fromarray(RAMP).convert(mode)
        image.putalpha(alpha)
        expected = RAMP.astype(float) * RAMP[:, ::-1] / 255
        assert np.abs(read(saved(tmp_path, image, "x.png")).pixels - expected).max() <= 1


def test_cmyk_is_ink_on_white(tmp_path):
    inks = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    cyan, magenta, yellow, black = np.moveaxis(inks.astype(float), 2, 0)
    red, green, blue = ((255 - ink) * (255 - black) / 255 for ink in (cyan, magenta, yellow))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    for name, options in (("x.tif", {}), ("x.jpg", {"quality": 100, "subsampling": 0})):
        image = read(saved(tmp_path, Image.fromarray(inks, "CMYK"), name, **options))
        assert np.abs(image.pixels - luma).mean() < 1.5, name


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_tiff_of_either_order_and_any_compression(tmp_path, compression, dtype):
    if compression != "raw" and dtype == ">u2":
        pytest.skip("Pillow writes compressed TIFF in the machine's order")
    values = np.arange(4096).reshape(64, 64).astype(dtype)
    image = read(saved(tmp_path, Image.fromarray(values), "x.tif", compression=compression))
    assert np.array_equal(image.pixels, np.floor(values * (255 / 4095) + 0.5))
    assert (image.format, image.bits) == ("TIFF", 16)


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("x.png", Image.fromarray(RAMP), ("PNG", "L", 8)),
        ("x.png", Image.fromarray(RAMP > 99), ("PNG", "1", 1)),
        ("x.png", Image.fromarray(RAMP.astype(np.uint16) * 9), ("PNG", "I;16", 16)),
        ("x.jpg", Image.fromarray(RAMP).convert("CMYK"), ("JPEG", "CMYK", 8)),
        ("x.tif", Image.fromarray(RAMP.astype(np.float32)), ("TIFF", "F", 32)),
        ("x.bmp", Image.fromarray(RAMP).convert("RGB"), ("BMP", "RGB", 8)),
        ("x.webp", Image.fromarray(RAMP).convert("RGB"), ("WEBP", "RGB", 8)),
    ],
)
def test_format_mode_and_bits_describe_the_file(tmp_path, name, image, expected):
    radiograph = read(saved(tmp_path, image, name))
    assert (radiograph.format, radiograph.mode, radiograph.bits) == expected


def test_a_jpeg_with_previews_is_a_jpeg(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(RAMP).save(path, "MPO", save_all=True, append_images=[Image.fromarray(RAMP)], quality=95)
    assert read(path).format == "JPEG"
    assert "only the first of several frames is used" in read(path).notes


def test_content_decides_and_a_wrong_ending_is_noted(tmp_path):
    image = read(saved(tmp_path, Image.fromarray(FILM), "x.png", format="JPEG", quality=95))
    assert image.format == "JPEG"
    assert image.notes == ("JPEG in a file named .png",)


@pytest.mark.parametrize("window", ["", "0", "10", "Auto", "100", "1/0", "40/0.5", "a/b", "1/2/3", "nan/10", "40/-3"])
def test_an_invalid_window_is_an_error_for_any_file(tmp_path, window):
    path = saved(tmp_path, Image.fromarray(RAMP), "x.png")
    with pytest.raises(ConfigError, match="expected auto, percentile, full, 1 to 9, or CENTER/WIDTH"):
        read(path, window)


@pytest.mark.parametrize("window", ["auto", "1", "percentile", "full", "40/400", "-600 / 1500.5", ".5/1e4"])
def test_other_formats_have_no_window(tmp_path, window):
    assert np.array_equal(read(saved(tmp_path, Image.fromarray(RAMP), "x.png"), window).pixels, RAMP)


def test_is_image(tmp_path):
    names = {
        "a.png": True,
        "b.JPEG": True,
        "c.dcm": True,
        "d.csv": False,
        "e": False,
        "f.IMA": False,
        "1.2.840.7": False,
    }
    for name, expected in names.items():
        (tmp_path / name).write_bytes(b"whatever it is")
        assert is_image(str(tmp_path / name)) == expected
    for name in ("e", "f.IMA", "1.2.840.7"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(20))
        assert is_image(str(tmp_path / name))
    (tmp_path / "e").rename(tmp_path / "DICOMDIR")
    assert not is_image(str(tmp_path / "DICOMDIR"))
    assert is_image("nowhere/image.dcm") and not is_image("nowhere/image") and not is_image("nul\0")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert not is_image(str(tmp_path / "pipe")) and not is_image(str(tmp_path / "folder"))


def test_a_file_that_is_too_long_is_not_opened(tmp_path):
    path = tmp_path / "x.png"
    with path.open("wb") as stream:
        stream.truncate(limits.MAX_BYTES + 1)
    with pytest.raises(ReadError, match="found a file of 1,073,741,825 bytes; expected an image file of at most 1,073"):
        read(path)


def test_a_jpeg_of_a_thousand_scans_is_refused(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    (tmp_path / "x.jpg").write_bytes(content[:-2] + scan * 1000 + b"\xff\xd9")
    with pytest.raises(ReadError, match="scans; expected at most 100"):
        read(tmp_path / "x.jpg")


def test_a_tiff_of_a_million_pages_is_read_as_fast_as_any(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    start = int.from_bytes(content[4:8], "little")
    following = start + 2 + 12 * int.from_bytes(content[start : start + 2], "little")
    content[following : following + 4] = len(content).to_bytes(4, "little")
    pages = [b"\0\0" + (len(content) + 6 * (page + 1)).to_bytes(4, "little") for page in range(200_000)]
    (tmp_path / "x.tif").write_bytes(bytes(content) + b"".join(pages) + bytes(6))
    began = time.process_time()
    image = read(tmp_path / "x.tif")
    assert time.process_time() - began < 2
    assert np.array_equal(image.pixels, RAMP) and "only the first of several frames is used" in image.notes


def test_reading_a_png_does_not_import_pydicom(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP), "x.png")
    script = (
        "import sys; from xrayfast.data.images.reader import is_image, read; read(sys.argv[1]); is_image(sys.argv[1]); "
        "print([name for name in ('pydicom', 'gdcm', 'jpeg_ls', 'openjpeg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_surround_far_from_all_other_values_of_16_bits_does_not_count(tmp_path):
    y, x = np.mgrid[:64, :64]
    disk = (x - 32) ** 2 + (y - 32) ** 2 < 28**2
    inside = (1000 + 20 * (x + y)).astype(np.uint16)
    Image.fromarray(np.where(disk, inside, np.uint16(65535))).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")
    np.testing.assert_array_equal(found.pixels, np.where(disk, np.floor(inside * (255 / 4095) + 0.5), 0))
    assert found.notes[:2] == (
        "area of constant value 65535 around the image set to black",
        "16-bit scaled from 0..4095",
    )
    signed = np.where(disk, inside.astype(np.int32) - 2000, -2000)
    found = read(saved(tmp_path, Image.fromarray(signed), "a.tif"))
    plain = read(saved(tmp_path, Image.fromarray(np.where(disk, signed, signed[disk].min())), "b.tif"))
    np.testing.assert_array_equal(found.pixels, plain.pixels)
    assert "area of constant value -2000 around the image set to black" in found.notes


@pytest.mark.parametrize("around", [0, 65535])
def test_a_surround_is_black_if_white_is_zero_too(tmp_path, around):
    y, x = np.mgrid[:64, :64]
    disk = (x - 32) ** 2 + (y - 32) ** 2 < 28**2
    values = np.where(disk, 1000 + 20 * (x + y), around).astype(np.uint16)
    found = read(saved(tmp_path, Image.fromarray(values), "x.tif", tiffinfo={262: 0}))
    np.testing.assert_array_equal(found.pixels, np.where(disk, 255 - np.floor(values * (255 / 4095) + 0.5), 0))
    assert f"area of constant value {around} around the image set to black" in found.notes


@pytest.mark.parametrize(("claimed", "noted"), [(64, True), (112, True), (128, False)])
def test_a_jpeg_of_more_rows_than_its_header_claims_is_noted(tmp_path, claimed, noted):
    gray = np.random.default_rng(0).integers(0, 255, (128, 128)).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "a.jpg", quality=90)
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    frame = content.find(b"\xff\xc0")
    content[frame + 5 : frame + 7] = claimed.to_bytes(2, "big")
    (tmp_path / "a.jpg").write_bytes(content + b"further bytes" * 1000)
    assert ("image data continue after the last row given in the header" in read(tmp_path / "a.jpg").notes) == noted


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("size", "noted"), [((320, 320), False), ((320, 160), True), ((160, 320), True)])
def test_a_progressive_jpeg_of_more_data_than_its_header_claims_is_noted(tmp_path, mode, size, noted):
    path = saved(tmp_path, Image.fromarray(FILM).convert(mode), "a.jpg", progressive=True)
    content = bytearray(path.read_bytes())
    frame = content.find(b"\xff\xc2")
    content[frame + 5 : frame + 9] = struct.pack(">HH", *size)
    path.write_bytes(content)
    assert ("image data continue after the last row given in the header" in read(path).notes) == noted


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("color", ["red", "lime", "cyan"])
def test_a_thin_colored_contour_on_a_gray_film_is_noted(tmp_path, name, color):
    film = Image.fromarray(FILM).convert("RGB")
    assert not read(saved(tmp_path, film, name)).notes
    ImageDraw.Draw(film).ellipse((60, 80, 140, 250), outline=color, width=1 if name == "a.png" else 3)
    (note,) = read(saved(tmp_path, film, name)).notes
    assert note == "colored lines or marks converted to gray" or note.startswith("color on ")


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0)])
@pytest.mark.parametrize("size", [(4, 60), (60, 4)])
@pytest.mark.parametrize(("name", "photometric"), [("a.png", None), ("a.dcm", "RGB"), ("a.dcm", "YBR_FULL")])
def test_a_short_colored_line_on_a_large_film_is_noted(tmp_path, name, photometric, size, color):
    film = Image.fromarray(FILM).resize((1500, 1200)).convert("RGB")
    file = tmp_path / name
    for notes in ([], ["colored lines or marks converted to gray"]):
        if name == "a.png":
            film.save(file)
        else:
            values = film.convert("YCbCr") if photometric == "YBR_FULL" else film
            file.write_bytes(dicom_bytes(np.asarray(values), photometric=photometric))
        assert [note for note in read(file).notes if "colo" in note] == notes
        ImageDraw.Draw(film).rectangle((700, 501, 700 + size[0] - 1, 501 + size[1] - 1), fill=color)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_progressive_jpeg_that_is_cut_off_within_its_last_scan_is_noted(tmp_path, mode):
    rough = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).resize((400, 400))
    path = saved(tmp_path, rough.convert(mode), "a.jpg", progressive=True)
    assert not any("cut off" in note for note in read(path).notes)
    content = path.read_bytes()
    start = content.rfind(b"\xff\xda")
    for share in (0.02, 0.5, 0.98):
        path.write_bytes(content[: start + 10 + int(share * (len(content) - start - 12))] + b"\xff\xd9")
        assert "the last scan of a progressive JPEG is cut off, so that fine detail is lost" in read(path).notes
    path.write_bytes(content + b"what follows the end is no part of the image")
    assert not any("cut off" in note for note in read(path).notes)


def test_a_progressive_jpeg_of_which_scans_are_missing_is_noted(tmp_path):
    path = saved(tmp_path, Image.fromarray(FILM), "a.jpg", progressive=True)
    content = path.read_bytes()
    scans = [match.start() for match in re.finditer(b"\xff\xda", content)]
    assert len(scans) > 4 and read(path).notes == ()
    for end in (scans[2] + 40, scans[4]):
        path.write_bytes(content[:end] + b"\xff\xd9")
        assert read(path).notes == ("scans of a progressive JPEG are missing, so that fine detail is lost",)


def test_resolutions_of_pixels_that_are_not_square_are_noted(tmp_path):
    for dpi, noted in (((100, 200), True), ((72, 72), False)):
        Image.fromarray(np.mgrid[:64, :64].sum(0).astype(np.uint8)).save(tmp_path / "a.jpg", dpi=dpi)
        assert any("not square" in note for note in read(tmp_path / "a.jpg").notes) == noted


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "progressive.jpg", "a.tif", "a.bmp", "a.webp", "a.dcm", "text.png"])
def test_bytes_are_read_like_their_file(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)
    path, chunks = tmp_path / name, PngImagePlugin.PngInfo()
    chunks.add(b"anYc", b"\xff\xc2\0\2")  # these bytes begin a frame of a progressive JPEG
    if name == "a.dcm":
        path.write_bytes(dicom_bytes(noise))
    elif name == "text.png":
        path.write_text("no image")
    else:
        options = {"pnginfo": chunks} if name == "a.png" else {"progressive": name == "progressive.jpg"}
        Image.fromarray(noise).save(path, **options)

    def found(reading):
        try:
            radiograph = reading()
            return radiograph.pixels.tobytes(), radiograph.notes, radiograph.format, radiograph.mode, radiograph.bits
        except ReadError as error:
            return str(error).replace(str(path), name)

    of_file = found(lambda: read(path))
    path.rename(tmp_path / "moved")
    assert found(lambda: read_bytes(name, (tmp_path / "moved").read_bytes())) == of_file


def test_bytes_have_the_limits_of_a_file(monkeypatch):
    with pytest.raises(ReadError, match=r"a\.png: found an empty file"):
        read_bytes("a.png", b"")
    monkeypatch.setattr(limits, "MAX_BYTES", 3)
    with pytest.raises(ReadError, match="found 4 bytes; expected at most 3"):
        read_bytes("a.png", b"1234")


@pytest.mark.parametrize("offset", [32768, 20000])
@pytest.mark.parametrize("has_surround", [False, True])
def test_an_offset_of_16_bit_values_is_taken_off(tmp_path, offset, has_surround):
    values = SEEN.astype(np.uint16) * 16
    inside = np.arange(80) >= 12 * has_surround
    lowest = values[:, inside].min()
    plain = read(saved(tmp_path, Image.fromarray(np.where(inside, values - lowest, np.uint16(0))), "x.png"))
    shifted = np.where(inside, values + np.uint16(offset), np.uint16(0))
    found = read(saved(tmp_path, Image.fromarray(shifted), "y.png"))
    np.testing.assert_array_equal(found.pixels, plain.pixels)
    assert f"offset of {lowest + offset} subtracted" in found.notes
    bright = read(saved(tmp_path, Image.fromarray(values * 8 + np.uint16(16384)), "z.png"))
    assert not any("offset" in note for note in bright.notes)


@pytest.mark.parametrize(("gamma", "noted"), [(1.0, True), (1 / 2.2, False), (None, False)])
def test_a_gamma_that_is_not_applied_is_noted(tmp_path, gamma, noted):
    chunks = PngImagePlugin.PngInfo()
    if gamma:
        chunks.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    Image.fromarray(RAMP).save(tmp_path / "a.png", pnginfo=chunks)
    assert ("gamma of 1 in the file not applied" in read(tmp_path / "a.png").notes) == noted
