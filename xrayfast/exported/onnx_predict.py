"""Predict with an ONNX file of `xrayfast export`, without xrayfast and torch: a CSV with one row per image.

    python onnx_predict.py model.onnx IMAGES... -o predictions.csv  # pip install numpy pillow onnxruntime pydicom

Images that this script can't read as xrayfast does get an error in their row: 32-bit values; DICOM in color, of several
frames, with lookup tables or pixels that are not square. For research and teaching, not for diagnosis.
"""

import argparse
import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FORMULA = re.compile("^(?='*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20])")  # cells that a spreadsheet would evaluate
SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom"}


def read_image(path: Path, window: str) -> Any:
    """Read an image as a viewer shows it: (H, W) uint8."""
    if path.read_bytes()[128:132] == b"DICM":
        return read_dicom(path, window)
    image: Any = Image.open(path)
    if image.getexif().get(274, 1) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or (image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(262) == 0):
        raise ValueError("32-bit values, or a 16-bit TIFF whose white is zero")
    if image.mode.startswith("I;16"):
        return scale_16_bit(np.asarray(image).astype(np.uint16))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return np.array(image.convert("RGB").convert("L"), dtype=np.uint8)


def scale_16_bit(values: Any) -> Any:
    """Scale to uint8 by the smallest range of 8 to 16 bits that holds all values but the highest and 0.5% of pixels."""
    require_sign(values.astype(int), 16)
    values = np.where(surround := find_surround(values), 0, values)
    least = (values[values > 0] if surround.any() else values).min()
    if 2**14 <= least < values.max() <= 1.5 * least:
        values = np.maximum(values, least) - least  # an offset
    tops = (2**bits - 1 for bits in (8, 10, 12, 14, 15, 16))
    below = values[(values < values.max()) | (np.ptp(values) == 0)]
    full = next(top for top in tops if (below > top).sum() <= (1 - 0.995) * values.size)
    return np.floor(np.clip(values / full * 255, 0, 255) + 0.5).astype(np.uint8)


def read_dicom(path: Path, window: str) -> Any:
    """Read a DICOM file as (H, W) uint8: rescale, window and MONOCHROME1 according to PS3.3 C.11."""
    import pydicom

    file: Any = pydicom.dcmread(path)
    gray, function = str(file.PhotometricInterpretation), str(file.get("VOILUTFunction") or "LINEAR").upper()
    spacings = [file.get(name) for name in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing")]
    height, width = map(float, next(filter(None, spacings), [1, 1]))
    if gray not in ("MONOCHROME1", "MONOCHROME2") or int(file.get("NumberOfFrames") or 1) > 1:
        raise ValueError("a DICOM file in color or of several frames")
    if file.get("VOILUTSequence") or file.get("ModalityLUTSequence") or abs(height / width - 1) >= 0.01:
        raise ValueError("a DICOM file with lookup tables or with pixels that are not square")
    if window != "auto" or function != "LINEAR" or 1 in np.atleast_1d(file.get("WindowWidth") or []):
        raise ValueError(f"the window {window} {function}; this script reads linear ones that are wider than 1")
    bits, signed, file.BitsStored = int(file.BitsStored), int(file.PixelRepresentation) == 1, file.BitsAllocated
    codes, lowest = file.pixel_array.astype(int), -(2 ** (bits - 1)) * signed
    require_sign(codes - lowest, bits)
    padding = np.zeros(codes.shape, bool)
    if (value := file.get("PixelPaddingValue")) is not None:
        limits, size = (value, file.get("PixelPaddingRangeLimit", value)), 1 << int(file.BitsAllocated)
        first, last = sorted((int(end) + size // 2 * signed) % size - size // 2 * signed for end in limits)
        padding = (codes >= first) & (codes <= last)
    slope, intercept = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    values, full = codes * slope + intercept, sorted(np.array([lowest, lowest + 2**bits - 1]) * slope + intercept)
    centers, widths = (np.atleast_1d(file.get(f"Window{name}") or []) for name in ("Center", "Width"))
    windows = [(float(c), float(w)) for c, w in zip(centers, widths) if float(w) > 1]  # noqa: B905 - one may be longer
    padding = padding if windows or bits <= 8 or padding.any() else find_surround(values)
    inner = values[~padding] if not padding.all() else values
    low, high = (float(np.quantile(inner, share, method="inverted_cdf")) for share in (0.005, 0.995))
    ends = full if bits <= 8 or high - low >= 0.5 * (full[1] - full[0]) else [low, high]
    if windows:
        own = [windows[0][0] - windows[0][1] / 2, windows[0][0] + windows[0][1] / 2 - 1]
        below, above = own[0] - full[0], full[1] - own[1]
        if (below > 0 or above > 0) and abs(below) + abs(above) <= 0.1 * (full[1] - full[0]):
            own = full  # the window was meant for the full range
        saturated = (inner <= own[0]) | (inner >= own[1])
        between = (inner > inner.min()) & (inner < inner.max())
        if saturated.mean() <= 0.5 or saturated[between].sum() <= 0.95 * max(1, between.sum()):
            ends = own
    shown = np.clip((values - ends[0]) / max(ends[1] - ends[0], np.finfo(float).tiny), 0, 1)
    shapes, shape = {"INVERSE": True, "IDENTITY": False}, str(file.get("PresentationLUTShape") or "").upper()
    shown = 1 - shown if shapes.get(shape, gray == "MONOCHROME1") else shown
    return np.where(padding, 0, np.floor(shown * 255 + 0.5)).astype(np.uint8)


def find_surround(values: Any) -> Any:
    """Return a mask of the pixels that have one frequent value far from all others."""
    found, counts = np.unique(values.astype(float), return_counts=True)
    low = 0.25 if (values[[0, 0, -1, -1], [0, -1, 0, -1]] == found[0]).sum() >= 2 else 1
    for end, near, far, least in ((-1, -2, 0, 1), (0, 1, -1, low)) if len(found) >= 16 else ():
        if counts[end] >= 0.05 * values.size and abs(found[end] - found[near]) > abs(found[near] - found[far]) * least:
            return values == found[end]
    return np.zeros(values.shape, bool)


def require_sign(codes: Any, bits: int) -> None:
    """Raise a ValueError for values outside the range, or only at both its ends, which suggests another sign."""
    quarters = [len(np.unique(codes[codes // 2 ** (bits - 2) == i])) for i in range(4)]
    if sum(quarters[1:3]) == 0 < 4 <= min(quarters[0], quarters[3]) or codes.min() < 0 or codes.max() >= 2**bits:
        raise ValueError("values that may have a different sign or more bits than the header says")


def main() -> None:
    """Read the command line, predict, and write the CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("-o", "--output", default="predictions.csv")
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    names, metadata = [one.name for one in session.get_outputs()], session.get_modelmeta().custom_metadata_map
    labels, points = json.loads(metadata["labels"]), json.loads(metadata["decision"])["operating_points"]
    rates = [0.5 if row["threshold"] is None else row["threshold"] for row in points["labels"]] if points else []
    one_vs_rest = metadata["task"] == "single" and len(rates) == len(labels)
    numbers = [prefix + label for prefix in ("prob_", "spread_")[: 1 + ("spread" in names)] for label in labels]
    files: list[str] = []
    for path in options.images:
        inside = sorted(map(str, path.rglob("*")))
        files += [file for file in inside if Path(file).suffix.lower() in SUFFIXES] if path.is_dir() else [str(path)]
    lines = [["file", "predicted", *["above_threshold"] * one_vs_rest, *numbers, "notes", "error"]]
    for file in files:
        try:
            pixels = read_image(Path(file), metadata["window"])
        except Exception as error:  # decoders raise nearly any type on damaged files
            lines.append([file, *[""] * (2 + one_vs_rest + len(numbers)), f"{file}: {error}. xrayfast may read it."])
            continue
        found = dict(zip(names, session.run(None, {"images": pixels[None]}), strict=True))
        values = [v for name in ("probabilities", "spread") if name in found for v in found[name][0]]
        rows = [found["decisions"][0] == 1, *([found["probabilities"][0] >= rates] if one_vs_rest else [])]
        predicted = ["|".join(np.array(labels)[row]) for row in rows]
        lines.append([file, *predicted, *(f"{value:.9g}" for value in values), "", ""])
    with Path(options.output).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([FORMULA.sub("'", cell) for cell in line] for line in lines)


if __name__ == "__main__":
    main()
