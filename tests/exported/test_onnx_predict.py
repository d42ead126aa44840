"""The script that is exported with a model reads images as xrayfast does, or refuses them."""

import numpy as np
import pytest
from PIL import Image

from tests.data.images.dicom_files import dicom_bytes
from xrayfast.data.images.reader import read
from xrayfast.exported import onnx_predict
from xrayfast.files.csv_tables import quote_cell

ROWS, COLUMNS = np.mgrid[:90, :120]
SHARES = (np.sin(COLUMNS / 17) + np.cos(ROWS / 11) + 2) / 4
GRAY = (SHARES * 255).astype(np.uint8)
TWELVE = (SHARES * 3000 + 300 + np.random.default_rng(0).integers(0, 60, SHARES.shape)).astype(np.uint16)
PADDED, SURROUND = TWELVE.copy(), TWELVE // 4
PADDED[:20], SURROUND[:, :20] = 0, 4095

DICOM = {
    "a window": (TWELVE, {"bits": 12, "WindowCenter": "1500", "WindowWidth": "2000"}),
    "no window": (TWELVE, {"bits": 12}),
    "a small part of the range": (TWELVE // 8, {"bits": 12}),
    "a window of nearly the whole range": (TWELVE, {"bits": 12, "WindowCenter": "2048", "WindowWidth": "4000"}),
    "a window of another image": (TWELVE, {"bits": 12, "WindowCenter": "40", "WindowWidth": "20"}),
    "MONOCHROME1": (TWELVE, {"bits": 12, "photometric": "MONOCHROME1"}),
    "identity": (TWELVE, {"bits": 12, "photometric": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}),
    "rescaled": (TWELVE, {"bits": 12, "RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": "2000",
                          "WindowWidth": "3000"}),
    "padding": (PADDED, {"bits": 12, "PixelPaddingValue": 0}),
    "a surround": (SURROUND, {"bits": 12}),
    "signed": ((TWELVE.astype(int) - 1500).astype(np.int16), {}),
    "eight bits": (GRAY, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", DICOM)
def test_dicom_files_are_read_to_the_same_pixels(name, tmp_path):
    values, elements = DICOM[name]
    (tmp_path / "image.dcm").write_bytes(dicom_bytes(values, **elements))
    np.testing.assert_array_equal(
        onnx_predict.read_image(tmp_path / "image.dcm", "auto"), read(tmp_path / "image.dcm").pixels
    )


IMAGES = {
    "gray.jpg": Image.fromarray(GRAY),
    "color.png": Image.fromarray(np.stack([GRAY, GRAY // 2, 255 - GRAY], -1)),
    "transparent.png": Image.fromarray(np.stack([GRAY, GRAY, GRAY, 255 - GRAY], -1)),
    "palette.png": Image.fromarray(GRAY).convert("P"),
    "bits.png": Image.fromarray(GRAY).convert("1"),
    "cmyk.jpg": Image.fromarray(np.dstack([GRAY] * 4), "CMYK"),
    "16.png": Image.fromarray(TWELVE),
    "surround.png": Image.fromarray(SURROUND),
}


@pytest.mark.parametrize("name", [*IMAGES, "rotated.jpg"])
def test_other_images_are_read_to_the_same_pixels(name, tmp_path):
    image = IMAGES.get(name, IMAGES["gray.jpg"])
    exif = Image.Exif()
    if name == "rotated.jpg":
        exif[274] = 6
    image.save(tmp_path / name, exif=exif)
    np.testing.assert_array_equal(onnx_predict.read_image(tmp_path / name, "auto"), read(tmp_path / name).pixels)


def test_images_that_the_script_would_read_differently_are_refused(tmp_path):
    Image.fromarray(TWELVE.astype(np.int32)).save(tmp_path / "a.tif")
    wide = np.concatenate([np.arange(5000), np.arange(60_000, 65_000)]).astype(np.uint16).reshape(100, 100)
    cases = {"b": (np.dstack([GRAY] * 3), {}), "c": (TWELVE, {"bits": 12, "PixelSpacing": ["0.2", "0.1"]}),
             "d": (TWELVE, {"bits": 12, "VOILUTFunction": "SIGMOID"}), "e": (wide, {}),
             "f": (TWELVE, {"bits": 8})}  # fmt: skip
    for name, (values, elements) in cases.items():
        (tmp_path / name).write_bytes(dicom_bytes(values, **elements))
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=r"32-bit|color|not square|SIGMOID|different sign"):
            onnx_predict.read_image(path, "auto")


@pytest.mark.parametrize("cell", ["=1+1", "'=1", "@a", "-1.png", "a=1", "'a'", "\uff1d1", "normal.png"])
def test_cells_that_a_spreadsheet_would_compute_are_quoted(cell):
    assert onnx_predict.FORMULA.sub("'", cell) == quote_cell(cell)


def test_the_script_is_short():
    with open(onnx_predict.__file__) as lines:  # noqa: PTH123
        assert len(list(lines)) < 150
