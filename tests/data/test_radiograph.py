from __future__ import annotations

import io
import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xrayfast.data import radiograph
from xrayfast.data.radiograph import fit_square, read
from xrayfast.errors import ReadError

DERIVED = Path(__file__).parents[2].parent / "shared" / "data" / "dicom" / "derived"
RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))


def saved(folder: Path, image: Image.Image, name: str, **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.tiff", "x.PNG"])
def test_plain_gray_is_read_as_it_stands(tmp_path, name):
    picture = read(saved(tmp_path, Image.fromarray(RAMP), name))
    assert picture.pixels.dtype == np.uint8
    assert np.array_equal(picture.pixels, RAMP)
    assert picture.notes == ()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_gray_stored_in_another_mode_comes_back_exactly(tmp_path, mode):
    picture = read(saved(tmp_path, Image.fromarray(RAMP).convert(mode), "x.png"))
    assert np.array_equal(picture.pixels, RAMP)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [("x.jpg", "L", {"quality": 95}), ("x.jpg", "CMYK", {"quality": 95}), ("x.webp", "RGB", {"quality": 95})],
)
def test_lossy_files_come_back_nearly(tmp_path, name, mode, options):
    picture = read(saved(tmp_path, Image.fromarray(RAMP).convert(mode), name, **options))
    assert np.abs(picture.pixels.astype(int) - RAMP).mean() < 1.5


def test_one_bit_is_black_and_white(tmp_path):
    black_left = Image.fromarray(RAMP >= 128)
    assert np.array_equal(np.unique(read(saved(tmp_path, black_left, "x.png")).pixels), [0, 255])


def test_colours_become_luma(tmp_path):
    pixels = read(saved(tmp_path, Image.new("RGB", (4, 4), (255, 0, 0)), "x.png")).pixels
    assert set(pixels.flat) == {76}  # 0.299 of 255, ITU-R BT.601


@pytest.mark.parametrize(("alpha", "expected"), [(0, 0), (128, 100), (255, 200)])
def test_transparency_is_laid_on_black(tmp_path, alpha, expected):
    picture = read(saved(tmp_path, Image.new("RGBA", (4, 4), (200, 200, 200, alpha)), "x.png"))
    assert abs(int(picture.pixels[0, 0]) - expected) <= 1
    assert picture.notes == ("transparency laid on black",)


def test_a_transparent_palette_colour_is_black(tmp_path):
    image = Image.fromarray(RAMP).convert("P")
    assert read(saved(tmp_path, image, "x.png", transparency=255)).pixels[0, 255] == 0


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize(
    ("maximum", "full"), [(255, 255), (256, 1023), (3000, 4095), (4095, 4095), (16383, 16383),
                          (31779, 32767), (32768, 65535), (65535, 65535)]
)  # fmt: skip
def test_more_than_8_bits_are_scaled_by_the_smallest_range_that_holds_them(tmp_path, name, maximum, full):
    values = np.linspace(0, maximum, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    picture = read(saved(tmp_path, Image.fromarray(values), name))
    assert np.abs(picture.pixels - values * (255 / full)).max() <= 0.5 + 1e-9
    assert picture.notes == (f"16-bit scaled from 0..{full}",)


def test_a_12_bit_ramp_in_16_bits_is_not_saturated(tmp_path):
    ramp = np.tile(np.arange(4096, dtype=np.uint16), (4, 1))
    pixels = read(saved(tmp_path, Image.fromarray(ramp), "x.png")).pixels
    assert (pixels == 255).mean() < 0.01
    assert (np.diff(pixels[0].astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255], "32-bit scaled from 0..1"),
        (np.array([[0, 1023]], np.int32), [0, 255], "32-bit scaled from 0..1023"),
        (np.array([[0, 100_000]], np.int32), [0, 255], "32-bit scaled from 0..100000"),
        (np.array([[-100, 923]], np.int32), [0, 255], "minimum -100 taken as 0"),
        (np.zeros((2, 2), np.float32), [0, 0, 0, 0], "32-bit scaled from 0..255"),
    ],
)
def test_32_bit_values(tmp_path, values, expected, note):
    picture = read(saved(tmp_path, Image.fromarray(values), "x.tif"))
    assert picture.pixels.ravel().tolist() == expected
    assert note in picture.notes


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
    exif[274] = 6  # turn by 90 degrees clockwise to display: what is right goes to the bottom
    picture = read(saved(tmp_path, Image.fromarray(stored), name, exif=exif))
    assert picture.pixels.shape == (60, 40)
    assert picture.pixels[:25].mean() < 5 and picture.pixels[35:].mean() > 250
    assert "EXIF orientation applied" in picture.notes


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.webp"])
def test_first_of_several_frames(tmp_path, name):
    frames = [Image.new("L", (8, 8), value) for value in (50, 100, 200)]
    lossless = {"lossless": True} if name == "x.webp" else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **lossless)
    picture = read(path)
    assert abs(picture.pixels.mean() - 50) <= 1
    assert "first of 3 frames" in picture.notes


def test_what_pillow_warns_of_is_noted_and_not_shown(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP), "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert any("Corrupt EXIF" in note for note in read(path).notes)


def png_bytes(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def big_png(width: int, height: int) -> bytes:
    """The head of a PNG that claims to be large."""
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
        ("movie.gif", b"GIF89a" + bytes(20), "no image that can be read"),
        ("film.dcm", b"whatever", "DICOM is not read yet; convert to PNG"),
        ("film", bytes(128) + b"DICM" + bytes(100), "DICOM is not read yet; convert to PNG"),
        ("bomb.png", big_png(16_000, 10_000), "16000 x 10000 pixels; expected at most 150 million"),
        ("bigger.png", big_png(60_000, 60_000), "pixels"),
        ("cut.png", png_bytes(Image.fromarray(RAMP))[:120], "truncated"),
        ("nul\0.png", None, "can't be read"),
    ],
)
def test_files_that_hold_no_picture(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(ReadError) as caught:
        warnings.simplefilter("error")
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    for name, words in [
        ("folder.png", "found a folder"),
        ("pipe.png", "found a pipe"),
        ("link.png", "link to nothing"),
    ]:
        with pytest.raises(ReadError, match=words):
            read(tmp_path / name)


def test_a_file_that_may_not_be_opened(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(RAMP), "x.png")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ReadError, match="Permission denied"):
        read(path)


def test_numbers_that_are_none(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0, np.nan]], np.float32)), "x.tif")
    with pytest.raises(ReadError, match="not finite"):
        read(path)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.bmp", "x.webp"])
def test_a_cut_file_is_never_half_a_picture(tmp_path, name):
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


def test_damaged_bytes_raise_nothing_else(tmp_path):
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
    assert 2 * before > radiograph.MAX_PIXELS


@pytest.mark.parametrize(
    ("shape", "inner"),
    [((100, 50), (32, 16)), ((50, 100), (16, 32)), ((8, 8), (32, 32)), ((1, 1000), (1, 32))],
)
def test_fit_square_keeps_the_whole_picture_and_its_aspect(shape, inner):
    square = fit_square(np.full(shape, 200, np.uint8), 32)
    assert square.shape == (32, 32) and square.dtype == np.uint8
    rows, columns = np.nonzero(square == 200)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == inner
    assert (square[square != 200] == 0).all()
    assert abs(rows.min() - (31 - rows.max())) <= 1 and abs(columns.min() - (31 - columns.max())) <= 1


def test_fit_square_averages_when_it_shrinks():
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    assert (
        np.abs(fit_square(stripes, 32).astype(int) - 127.5).max() <= 5
    )  # 4.5 at the border, where half of the window lies outside


def test_fit_square_leaves_what_fits():
    fits = np.zeros((32, 32), np.uint8)
    assert fit_square(fits, 32) is fits


@pytest.mark.skipif(not DERIVED.is_dir(), reason="real data not at hand")
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("RG1half_16bit_gray.png", 0.5),
        ("RG1half_16bit_gray.tif", 0.5),
        ("RG1half_12bit_in_16bit_gray.png", 0.5),
        ("RG1half_palette.png", 0.0),
        ("RG1half_rgba.png", 0.0),
        ("RG1half_cmyk.jpg", 1.0),
    ],
)
def test_the_same_chest_in_other_encodings(name, limit):
    reference = read(DERIVED / "RG1half_8bit_reference.png").pixels.astype(int)
    assert np.abs(read(DERIVED / name).pixels - reference).mean() <= limit
