"""The script that is exported with a model reads images as xrayfast does, or refuses them."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import xrayfast as xf
from tests.data.images.dicom_files import dicom_bytes, lut_item
from tests.onnx_files import gray_classifier
from xrayfast.data.images.reader import read
from xrayfast.exported import onnx_predict
from xrayfast.exported.onnx_model import OnnxGraph
from xrayfast.files.csv_tables import quote_cell
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.thresholds import OperatingPoint

ROWS, COLUMNS = np.mgrid[:90, :120]
SHARES = (np.sin(COLUMNS / 17) + np.cos(ROWS / 11) + 2) / 4
GRAY = (SHARES * 255).astype(np.uint8)
TWELVE = (SHARES * 3000 + 300 + np.random.default_rng(0).integers(0, 60, SHARES.shape)).astype(np.uint16)
PADDED, SURROUND = TWELVE.copy(), TWELVE // 4
PADDED[:20], SURROUND[:, :20] = 0, 4095
MARKED = TWELVE.copy()
MARKED[:75, 0] = 60_000  # 0.7% of the pixels, all with the highest value: clipped
HOT = TWELVE.copy()
HOT[:45, 0] = 40_000 + ROWS[:45, 0]  # 0.4%: few enough to be clipped
HOTTER = HOT.copy()
HOTTER[:75, 0] = 40_000 + ROWS[:75, 0]  # 0.7%
EDGE = np.where(COLUMNS < 70, 1000, TWELVE // 2 + 2000).astype(np.uint16)
EDGE[0, 0] = 0
BELOW = TWELVE.astype(np.int16) - 800
BELOW[:, :20] = -2000

DICOM = {
    "a window": (TWELVE, {"bits": 12, "WindowCenter": "1500", "WindowWidth": "2000"}),
    "no window": (TWELVE, {"bits": 12}),
    "a small part of the range": (TWELVE // 8, {"bits": 12}),
    "a third of the range": (TWELVE // 2, {"bits": 12}),
    "a dark part": (np.where((abs(ROWS - 45) < 20) & (abs(COLUMNS - 60) < 20), 0, TWELVE // 4 + 300), {"bits": 12}),
    "a window of nearly the whole range": (TWELVE, {"bits": 12, "WindowCenter": "2048", "WindowWidth": "4000"}),
    "a window of most of the range": (TWELVE, {"bits": 12, "WindowCenter": "2048", "WindowWidth": "3500"}),
    "the first of two windows": (TWELVE, {"bits": 12, "WindowCenter": ["1500", "900"], "WindowWidth": ["2000", "600"]}),
    "a window of less than half of the pixels": (TWELVE, {"bits": 12, "WindowCenter": "1000", "WindowWidth": "800"}),
    "a window that begins at most pixels": (EDGE, {"bits": 12, "WindowCenter": "1500", "WindowWidth": "1000"}),
    "a window of another image": (TWELVE, {"bits": 12, "WindowCenter": "40", "WindowWidth": "20"}),
    "a window of an image that is mostly black": (np.where(COLUMNS < 80, 0, TWELVE),
                                                  {"bits": 12, "WindowCenter": "1500", "WindowWidth": "2000"}),
    "MONOCHROME1": (TWELVE, {"bits": 12, "photometric": "MONOCHROME1"}),
    "identity": (TWELVE, {"bits": 12, "photometric": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}),
    "inverse": (TWELVE, {"bits": 12, "PresentationLUTShape": "INVERSE"}),
    "rescaled": (TWELVE, {"bits": 12, "RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": "2000",
                          "WindowWidth": "3000"}),
    "padding": (PADDED, {"bits": 12, "PixelPaddingValue": 0}),
    "a range of padding": (np.where(ROWS < 20, 4095 - COLUMNS // 60, TWELVE).astype(np.uint16),
                           {"bits": 12, "PixelPaddingValue": 4094, "PixelPaddingRangeLimit": 4095}),
    "a surround": (SURROUND, {"bits": 12}),
    "a surround below": (BELOW, {}),
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
    "marked.png": Image.fromarray(MARKED),
    "hot.png": Image.fromarray(HOT),
    "hotter.png": Image.fromarray(HOTTER),
    "offset.png": Image.fromarray(TWELVE // 4 + 40_000),
    "offset below markers.png": Image.fromarray(np.where(COLUMNS < 20, 60_000, TWELVE // 4 + 40_000).astype(np.uint16)),
    "offset in a surround.png": Image.fromarray(np.where(COLUMNS < 20, 0, TWELVE // 4 + 40_000).astype(np.uint16)),
    "too wide for an offset.png": Image.fromarray(TWELVE * 3 + 17_000),
    "no offset.png": Image.fromarray(TWELVE // 8 + 3000),
    "one value.png": Image.fromarray(np.full_like(TWELVE, 3000)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_other_images_are_read_to_the_same_pixels(name, tmp_path):
    IMAGES[name].save(tmp_path / name)
    np.testing.assert_array_equal(onnx_predict.read_image(tmp_path / name, "auto"), read(tmp_path / name).pixels)


@pytest.mark.parametrize("orientation", range(1, 10))
def test_images_are_turned_by_their_orientation(orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    IMAGES["gray.jpg"].save(tmp_path / "image.png", exif=exif)
    found = onnx_predict.read_image(tmp_path / "image.png", "auto")
    np.testing.assert_array_equal(found, read(tmp_path / "image.png").pixels)


def test_images_that_the_script_would_read_differently_are_refused(tmp_path):
    Image.fromarray(TWELVE.astype(np.int32)).save(tmp_path / "a.tif")
    Image.fromarray(TWELVE).save(tmp_path / "white is zero.tif", tiffinfo={262: 0})
    lut = [lut_item(0, 8, np.arange(4096) // 16)]
    wide = np.concatenate([np.arange(5000), np.arange(60_000, 65_000)]).astype(np.uint16).reshape(100, 100)
    cases = {"b": (np.dstack([GRAY] * 3), {}), "c": (TWELVE, {"bits": 12, "PixelSpacing": ["0.2", "0.1"]}),
             "d": (TWELVE, {"bits": 12, "VOILUTFunction": "SIGMOID"}), "e": (wide, {}),
             "f": (TWELVE, {"bits": 8}), "g": (TWELVE, {"bits": 12, "ImagerPixelSpacing": ["0.21", "0.2"]}),
             "h": (TWELVE, {"bits": 12, "VOILUTSequence": lut}),
             "i": (TWELVE, {"bits": 12, "ModalityLUTSequence": lut}),
             "j": (TWELVE, {"bits": 12, "WindowCenter": "1500", "WindowWidth": "1"}),
             "k": (TWELVE, {"bits": 12, "NumberOfFrames": 2, "Rows": 45})}  # fmt: skip
    for name, (values, elements) in cases.items():
        (tmp_path / name).write_bytes(dicom_bytes(values, **elements))
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=r"32-bit|color|not square|SIGMOID|different sign|wider than 1"):
            onnx_predict.read_image(path, "auto")


@pytest.mark.parametrize("cell", ["=1+1", "'=1", "@a", "-1.png", "a=1", "'a'", "\uff1d1", "normal.png"])
def test_cells_that_a_spreadsheet_would_compute_are_quoted(cell):
    assert onnx_predict.FORMULA.sub("'", cell) == quote_cell(cell)


def test_the_script_writes_the_probabilities_and_the_classes_above_their_thresholds_as_predict_does(
    tmp_path, monkeypatch
):
    points = tuple(OperatingPoint(threshold, "", 0.5, 0.5, 9, 9) for threshold in (0.3, None, 0.1))
    model, images, other = tmp_path / "m.onnx", tmp_path / "images", tmp_path / "x.png"
    model.write_bytes(gray_classifier("abc", Decision("single", tuple("abc"), points=points, rule="f1")))
    images.mkdir()
    for level in (40, 120, 200):
        Image.new("L", (64, 64), level).save(images / f"{level:03}.{'PNG' if level == 120 else 'png'}")
    other.write_bytes(b"x")
    monkeypatch.setattr("sys.argv", ["onnx_predict.py", *map(str, (model, images, other, "-o", tmp_path / "o.csv"))])
    onnx_predict.main()
    table = pd.read_csv(tmp_path / "o.csv", keep_default_na=False)
    with pytest.warns(UserWarning, match="only one gray level"):
        expected = xf.predict(model, images)
    found, failed = table.iloc[:3], table.iloc[3]
    assert found["above_threshold"].tolist() == expected["above_threshold"].tolist() == ["a", "c", "c"]
    for name in ("prob_a", "prob_b", "prob_c"):
        np.testing.assert_allclose(found[name].astype(float), expected[name].astype(float), rtol=1e-6)
    assert failed["file"] == str(other) and failed["error"] and failed["prob_a"] == failed["predicted"] == ""


def test_a_class_whose_probability_is_its_threshold_is_above_it(tmp_path, monkeypatch):
    image, model = tmp_path / "image.png", tmp_path / "m.onnx"
    Image.fromarray(GRAY).save(image)
    probability = OnnxGraph(gray_classifier("abc"), 3, model).run([GRAY]).probabilities[0].astype(float)
    above = np.nextafter(probability[1], 1)
    points = tuple(OperatingPoint(value, "", 0.5, 0.5, 9, 9) for value in (probability[0], above, probability[2]))
    model.write_bytes(gray_classifier("abc", Decision("single", tuple("abc"), points=points, rule="f1")))
    monkeypatch.setattr("sys.argv", ["onnx_predict.py", str(model), str(image), "-o", str(tmp_path / "o.csv")])
    onnx_predict.main()
    (found,) = pd.read_csv(tmp_path / "o.csv")["above_threshold"]
    assert found == "a|c"


def test_the_script_is_short():
    with open(onnx_predict.__file__) as lines:  # noqa: PTH123
        assert len(list(lines)) < 150
