"""Rendering of a DICOM file as a viewer shows it, according to PS3.3 C.11.

The steps are decoding, modality LUT or rescale, window, inversion of MONOCHROME1, and padding. The gray level of a
pixel depends only on its stored value of at most 16 bits. So it is computed once per possible value, in a lookup table,
and not per pixel.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from xrayfast.data.arrays import Bools, Ints
from xrayfast.data.demographics import is_other_region, kind_of_view, names_other_region
from xrayfast.data.images.bits import Codes, corner_pixels, find_surround, has_other_sign
from xrayfast.data.images.dicom.decoders import LOSSY, StoredPixels, require_decoder
from xrayfast.data.images.dicom.elements import Elements, silence_pydicom
from xrayfast.data.images.dicom.layout import (
    COLOR,
    LAYOUT_KEYWORDS,
    PALETTE,
    PixelLayout,
    read_layout,
    require_one_frame,
)
from xrayfast.data.images.dicom.lut import Values, read_lut
from xrayfast.data.images.dicom.metadata import stated_view
from xrayfast.data.images.dicom.parse import open_dicom
from xrayfast.data.images.dicom.windowing import WindowChoice, apply_window, read_voi_transforms
from xrayfast.data.images.limits import require_sensible_size
from xrayfast.data.images.notes import Note
from xrayfast.data.images.pillow import describe_compression, describe_image_colors
from xrayfast.data.images.radiograph import Pixels, Radiograph, apply_lut, scale_to_uint8
from xrayfast.errors import ReadError, plural

_PALETTE_KEYWORDS = tuple(f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue"))
_SPACINGS = ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing")
"""Keywords of the height and width of a pixel; the first that a file has counts."""

_OF_HEADER = {
    Note.REPORT: (
        r"report|dose|screen.?(save|shot)|summary|document|worksheet|befund|informe",
        *("SeriesDescription", "ImageType", "DocumentTitle"),
    ),
    Note.RAW: (r"^FOR PROCESSING\Z", "PresentationIntentType"),
    Note.PROCESSED: (
        r"suppress|subtract|dual.?energy|soft.?tissue|scout|topogram|locali[sz]er|\bCAD\b|tomosynth|volumerad|\btomo\b"
        r"|fluoro|stitch|\binvert",
        *("SeriesDescription", "ImageType"),
    ),
    Note.BURNED_IN: (r"^YES\Z", "BurnedInAnnotation"),
    Note.QUALITY_CONTROL: (
        r"^YES\Z|phantom",
        *("QualityControlImage", "PatientName", "PatientID", "StudyDescription", "SeriesDescription"),
    ),
    Note.REJECTED: ("reject", "ImageComments"),
    Note.ANIMAL: ("^(?!human|homo).", "PatientSpeciesDescription"),
    Note.SHUTTER: (".", "ShutterShape"),
}
"""Notes on an image with a pattern, in any case, of one of some values in its header."""

_DESCRIPTIONS = ("StudyDescription", "SeriesDescription", "ProtocolName")

_FRAME_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_OF_FRAME = {
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
"""Elements that enhanced objects have in the sequences of a functional group (PS3.3 C.7.6.16)."""

_KEYWORDS = (
    *LAYOUT_KEYWORDS, "PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "PresentationLUTShape",
    "PresentationLUTSequence", *_SPACINGS, *_FRAME_GROUPS, *_DESCRIPTIONS, "ViewPosition", "ViewCodeSequence",
    "Modality", "BodyPartExamined", "PatientOrientation",
    "LossyImageCompressionRatio", *(keyword for _, *keywords in _OF_HEADER.values() for keyword in keywords),
    *(keyword + suffix for keyword in _PALETTE_KEYWORDS for suffix in ("Descriptor", "Data")),
)  # fmt: skip

_RADIOGRAPHS = frozenset({"", "CR", "DX", "RG", "DR", "OT", "SC", "XC"})
"""Values of Modality that radiographs have; the last three are those of scanned radiographs."""

_SQUARE, _LONGEST_PIXEL = 0.01, 4  # height to width: how far from 1 square pixels may be; a larger ratio is an error

_DERIVED = re.compile(
    r"(?<!face.)(?<!oxygen.)(?<!with.)mask|segment(ation|ed)|overlay|label.?map|heat.?map|saliency", re.IGNORECASE
)
"""Words in the description or image type of a series that is no radiograph; but a patient may wear a face mask."""

_NO_IMAGES = frozenset(
    {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "DOC", "REG", "FID", "PLAN", "M3D"}
)
"""Values of Modality of objects that are made from images, or written about them."""

_TURNED = {r"[HF][A-Z]*\\": "on its side", r"[A-Z]+\\H": "upside down", r"R[A-Z]*\\F": "mirrored"}
"""Unusual orientations, keyed by a pattern of Patient Orientation, which says where in the patient rows and columns
lead (PS3.3 C.7.6.1.1.1)."""

_PADDINGS = 64  # most values of ordinary padding; a range with more is likely to include some of the image

_VISIBLE, _SCATTERED = 16, 0.5  # gray level above which padding is visible; see `_is_scattered`

_SHOWN = 16  # letters of a header value in a note; the standard allows no more


def decode_dicom(path: Path, stream: BinaryIO, choice: WindowChoice) -> Radiograph:
    """Decode an open DICOM file as `reader.read` documents."""
    with silence_pydicom() as caught, np.errstate(all="ignore"):
        try:
            file = open_dicom(path, stream, _KEYWORDS)
            require_one_frame(file)
            _take_from_frame(file.elements)
            decode = require_decoder(path, file.syntax)
            layout = read_layout(file)
            data = file.pixel_data(layout.uncompressed_bytes, of_bytes=layout.allocated == 8)
            stored = decode(data, layout)
            if layout.photometric in COLOR:
                pixels, notes = _render_color(stored, layout)
            else:
                pixels, notes = _render_gray(file.elements, stored, layout, choice)
            ratio = layout.uncompressed_bytes * layout.stored / layout.allocated / len(data)
            ratios = [*_read_ratios(file.elements), *[ratio] * (file.syntax in LOSSY)]
            notes += [*describe_compression(max(ratios, default=1)), *_describe_header(file.elements)]
            pixels, notes = _make_square(file.elements, pixels, notes)
        except ReadError:
            raise
        except Exception as error:  # Decoders raise nearly any type on damaged files, and quote them.
            found = f"a damaged DICOM file ({type(error).__name__})"
            raise ReadError(f"{path}: found {found}; expected a whole file. Fetch the file again.") from None
    if n_warnings := sum(warning.category is UserWarning for warning in caught):
        notes.append(Note.PYDICOM(plural(n_warnings, "warning")))
    return Radiograph(pixels, tuple(notes), "DICOM", layout.photometric, layout.stored)


def _take_from_frame(elements: Elements) -> None:
    """Copy what the functional groups of an enhanced object say about its frame into its data set."""
    for macro, keywords in _OF_FRAME.items():
        groups = [group for name in _FRAME_GROUPS for group in elements.items(name)[:1]]
        for item in [item for group in groups for item in group.items(macro)[:1]]:
            for keyword in keywords:
                if not elements.text(keyword) and item.text(keyword):
                    elements.dataset[keyword] = item.dataset[keyword]


def _read_ratios(elements: Elements) -> list[float]:
    """Return the compression ratios in the header; none if they are no numbers, as the image does not need them."""
    try:
        return elements.numbers("LossyImageCompressionRatio")
    except ReadError:
        return []


def _describe_header(elements: Elements) -> list[str]:
    """Return notes on an image that, according to its header, is no chest radiograph or not meant for viewing."""
    notes = []
    modality = elements.text("Modality").upper()
    if modality in _NO_IMAGES or any(map(_DERIVED.search, map(elements.text, ("SeriesDescription", "ImageType")))):
        notes.append(Note.NO_RADIOGRAPH())
    if modality not in _RADIOGRAPHS:
        notes.append(Note.MODALITY(modality[:_SHOWN]))
    if is_other_region(part := elements.text("BodyPartExamined").upper()):
        notes.append(Note.BODY_PART(part[:_SHOWN]))
    elif any(map(names_other_region, map(elements.text, _DESCRIPTIONS))):
        notes.append(Note.OTHER_PART())
    if kind_of_view(stated_view(elements)) == "lateral":
        notes.append(Note.LATERAL())
    for note, (pattern, *keywords) in _OF_HEADER.items():
        if any(re.search(pattern, elements.text(keyword), re.IGNORECASE) for keyword in keywords):
            notes.append(note())
    orientation = elements.text("PatientOrientation").upper()
    if found := next((way for pattern, way in _TURNED.items() if re.match(pattern, orientation)), ""):
        notes.append(Note.ORIENTATION(found))
    return notes


def _make_square(elements: Elements, pixels: Pixels, notes: list[str]) -> tuple[Pixels, list[str]]:
    """Enlarge an image (H, W) along the longer side of its pixels if they are not square; return image and notes."""
    sides = next(filter(None, map(elements.numbers, _SPACINGS)), [])
    ratio = sides[0] / sides[1] if len(sides) == 2 and min(sides) > 0 else 1.0
    height, width = pixels.shape
    if abs(ratio - 1) < _SQUARE or not 1 / _LONGEST_PIXEL <= ratio <= _LONGEST_PIXEL:
        return pixels, [*notes] if abs(ratio - 1) < _SQUARE else [*notes, Note.NOT_RESAMPLED(ratio)]
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    require_sensible_size(elements.path, *size)
    resized = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    return resized, [*notes, Note.RESAMPLED(ratio)]


def _render_color(stored: StoredPixels, layout: PixelLayout) -> tuple[Pixels, list[str]]:
    """Render color as luma; color has no window."""
    full = 2**stored.bits - 1
    levels = apply_lut(scale_to_uint8(np.arange(full + 1, dtype=np.float64), full), stored.codes)
    notes = [*stored.notes, Note.COLOR(layout.photometric)]
    levels = np.ascontiguousarray(levels)
    if layout.photometric.startswith("YBR_FULL") and not stored.is_rgb:  # its Y is the luma
        notes += describe_image_colors(Image.frombytes("YCbCr", levels.shape[1::-1], levels.tobytes()).convert("RGB"))
        return np.ascontiguousarray(levels[:, :, 0]), notes
    image = Image.fromarray(levels)
    return np.array(image.convert("L")), notes + describe_image_colors(image)


def _render_gray(
    elements: Elements, pixels: StoredPixels, layout: PixelLayout, choice: WindowChoice
) -> tuple[Pixels, list[str]]:
    """Render gray, or the colors of a palette as luma."""
    codes, bits = pixels.codes, pixels.bits
    notes = [Note.BITS_STORED(bits)] if bits != layout.allocated or bits > 8 else []
    notes += pixels.notes
    counts = _count_codes(codes, 2**bits)
    if layout.photometric != PALETTE and has_other_sign(codes, counts, bits, layout.signed):
        read, stated = ("unsigned", "signed") if layout.signed else ("signed", "unsigned")
        notes.append(Note.OTHER_SIGN(read, stated))
        layout = replace(layout, signed=not layout.signed)
    stored = np.arange(2**bits, dtype=np.float64)
    if layout.signed:
        stored[2 ** (bits - 1) :] -= 2**bits
    if layout.photometric == PALETTE:
        return apply_lut(_palette_luma(elements, stored, layout), codes), [*notes, Note.PALETTE()]
    padding = _is_padding(elements, stored, layout)
    values, modality_notes = _apply_modality(elements, stored, layout)
    transforms, voi_notes = read_voi_transforms(elements, bool(values.min() < 0))
    if choice.kind in ("auto", "percentile") and not transforms and bits > 8 and not padding.any():
        surround = find_surround(values, counts, values[corner_pixels(codes)])
        if surround is not None:
            padding[surround] = True
            notes.append(Note.SURROUND(values[surround]))
    unpadded_counts = np.where(padding, 0, counts)
    inverted, polarity_notes = _read_polarity(elements, layout)
    try:
        levels, window_notes = apply_window(values, unpadded_counts, transforms, choice, bits, inverted=inverted)
    except LookupError as error:
        raise ReadError(f"{elements.path}: found {error}. Use --window auto.") from error
    notes += [*modality_notes, *voi_notes, *window_notes, *polarity_notes]
    if elements.items("PresentationLUTSequence"):
        notes.append(Note.PRESENTATION_LUT())
    if (n_padding := np.count_nonzero(counts[padding])) and elements.integer("PixelPaddingValue") is not None:
        notes.append(Note.PADDING() if n_padding <= _PADDINGS else Note.MANY_PADDINGS(n_padding))
        if levels[padding].max() > _VISIBLE and _is_scattered(padding[codes]):
            notes.append(Note.PADDING_INSIDE())
    levels[padding] = 0
    return apply_lut(levels, codes), notes


def _read_polarity(elements: Elements, layout: PixelLayout) -> tuple[bool, list[str]]:
    """Return whether the lowest value is white, and notes.

    This is decided by the Presentation LUT Shape or, if it is absent, by the Photometric Interpretation. PS3.3
    C.8.11.3.1.2 requires INVERSE with MONOCHROME1 and IDENTITY with MONOCHROME2; for files that contradict this, DCMTK
    and dcm4che follow the shape.
    """
    inverted = layout.photometric == "MONOCHROME1"
    shape = elements.text("PresentationLUTShape").upper()
    if shape in ("", "INVERSE" if inverted else "IDENTITY"):
        return inverted, [Note.MONOCHROME1()] * inverted
    if shape not in ("INVERSE", "IDENTITY"):
        return inverted, [*[Note.MONOCHROME1()] * inverted, Note.UNKNOWN_SHAPE()]
    note = Note.SHAPE_NOT_INVERTED if inverted else Note.SHAPE_INVERTED
    return not inverted, [note(layout.photometric, shape)]


def _count_codes(codes: Codes, size: int) -> Ints:
    """Return the number of pixels per code, counted in blocks of rows, because np.bincount widens codes to 8 bytes."""
    counts = np.zeros(size, np.int64)
    for rows in np.array_split(codes, 1 + codes.size // 2**22):
        counts += np.bincount(rows.ravel(), minlength=size)
    return counts


def _is_padding(elements: Elements, stored: Values, layout: PixelLayout) -> Bools:
    """Return which stored values are pixel padding (PS3.3 C.7.5.1.1.2)."""
    value, limit = elements.integer("PixelPaddingValue"), elements.integer("PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    # pydicom may have read the padding values without the sign that the pixels have, or with a sign that they lack.
    n_values = 1 << layout.allocated
    lowest = -n_values // 2 if layout.signed else 0
    low, high = sorted((end - lowest) % n_values + lowest for end in (value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def _is_scattered(is_padding: Bools) -> bool:
    """Whether the padding pixels (H, W) are scattered: most of them have a left neighbor that is not padding."""
    alone = is_padding[:, 1:] & ~is_padding[:, :-1]
    return bool(np.count_nonzero(alone) > _SCATTERED * np.count_nonzero(is_padding[:, 1:]))


def _apply_modality(elements: Elements, stored: Values, layout: PixelLayout) -> tuple[Values, list[str]]:
    """Return the stored values after the modality LUT, or else the rescale (PS3.3 C.11.1), and notes."""
    if sequence := elements.items("ModalityLUTSequence"):
        return read_lut(sequence[0], "LUT", layout.signed)(stored), [Note.MODALITY_LUT()]
    slopes, intercepts = elements.numbers("RescaleSlope"), elements.numbers("RescaleIntercept")
    slope, intercept = (slopes or [1.0])[0], (intercepts or [0.0])[0]
    if (slope, intercept) == (1, 0):
        return stored, []
    values = stored * slope + intercept
    if slope == 0 or not np.isfinite(values).all():
        raise elements.damaged("RescaleSlope")
    return values, [Note.RESCALED(slope, intercept)]


def _palette_luma(elements: Elements, stored: Values, layout: PixelLayout) -> Pixels:
    """Return the luma of each stored value's color (PS3.3 C.7.6.3.1.5)."""
    luts = [read_lut(elements, keyword, layout.signed) for keyword in _PALETTE_KEYWORDS]
    colors = np.stack([scale_to_uint8(lut(stored), lut.top) for lut in luts], axis=-1)
    return np.array(Image.fromarray(colors[None]).convert("L")).reshape(-1)
