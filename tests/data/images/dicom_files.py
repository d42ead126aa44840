"""Small DICOM files for tests, in every encoding."""

import io
import warnings

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.pixels import get_encoder

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG, EXTENDED, LOSSLESS = (f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 70))
JPEG_LS, NEAR_LOSSLESS, JPEG_2000 = (f"1.2.840.10008.1.2.4.{number}" for number in (80, 81, 90))
UNCOMPRESSED = (IMPLICIT, EXPLICIT, BIG, DEFLATED)
CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"


def dicom_bytes(
    values, syntax=EXPLICIT, *, bits=None, photometric=None, preamble=True, meta=True, frame=None, **elements
):
    """Return a DICOM file of (H, W) or (H, W, 3) integers.

    Args:
        values: of the type to store, signed or unsigned.
        syntax: the transfer syntax.
        bits: bits stored; by default, all bits of the type.
        photometric: by default, MONOCHROME2 or RGB.
        preamble, meta: whether the file begins with "DICM" and with file meta information.
        frame: the codestream, if the values are not to be encoded.
        **elements: more elements by keyword; None removes an element.
    """
    dataset = image_dataset(values, bits, photometric)
    dataset.PixelData = pixel_data(values, syntax, dataset.BitsStored, frame)
    dataset["PixelData"].VR = "OB" if values.dtype.itemsize == 1 or syntax not in UNCOMPRESSED else "OW"
    if syntax not in UNCOMPRESSED:
        dataset["PixelData"].is_undefined_length = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in elements.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
        return written(dataset, syntax, preamble, meta)


def image_dataset(values, bits=None, photometric=None):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CR_IMAGE, "1.2.3.4"
    dataset.Modality, dataset.PatientID = "CR", "P1"
    dataset.SamplesPerPixel = 1 if values.ndim == 2 else 3
    dataset.PhotometricInterpretation = photometric or ("MONOCHROME2" if values.ndim == 2 else "RGB")
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    return dataset


def written(dataset, syntax=EXPLICIT, preamble=True, meta=True):
    """Return a data set as the bytes of a file."""
    file_meta = FileMetaDataset()
    file_meta.TransferSyntaxUID = syntax
    file_meta.MediaStorageSOPClassUID, file_meta.MediaStorageSOPInstanceUID = CR_IMAGE, "1.2.3.4"
    stream = io.BytesIO()
    if not meta:
        pydicom.filewriter.write_dataset(_writer(stream, syntax), dataset)
        return stream.getvalue()
    dataset.file_meta = file_meta
    dcmwrite(stream, dataset, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG, enforce_file_format=True)
    return stream.getvalue() if preamble else stream.getvalue()[132:]


def _writer(stream, syntax):
    writer = pydicom.filebase.DicomFileLike(stream)
    writer.is_little_endian, writer.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    return writer


def pixel_data(values, syntax, bits, frame=None):
    if syntax in UNCOMPRESSED:
        data = values.astype(values.dtype.newbyteorder(">" if syntax == BIG else "<")).tobytes()
        return data + b"\0" * (len(data) % 2)
    return encapsulate([frame if frame is not None else encoded(values, syntax, bits)])


def encoded(values, syntax, bits):
    """Return the values as a codestream."""
    codes = np.ascontiguousarray(values).view(values.dtype.str.replace("i", "u"))
    if syntax in (JPEG, EXTENDED):
        stream = io.BytesIO()
        Image.fromarray(codes).save(stream, "JPEG", quality=95)
        return stream.getvalue()
    if syntax == LOSSLESS:
        return lossless_jpeg(codes & (2**bits - 1), bits)
    if syntax in (JPEG_LS, NEAR_LOSSLESS):
        import jpeg_ls

        return bytes(jpeg_ls.encode_buffer(codes.tobytes(), *codes.shape[:2], 1 if codes.ndim == 2 else 3, bits,
                                           lossy_error=2 * (syntax == NEAR_LOSSLESS), interleave_mode=2))  # fmt: skip
    if syntax == JPEG_2000:
        from openjpeg.utils import encode_array

        return encode_array(values, bits_stored=bits, photometric_interpretation=2 if values.ndim == 2 else 1)
    dataset = image_dataset(values, bits)
    return get_encoder(syntax).encode(
        values, rows=dataset.Rows, columns=dataset.Columns, samples_per_pixel=dataset.SamplesPerPixel,
        bits_allocated=dataset.BitsAllocated, bits_stored=bits, pixel_representation=dataset.PixelRepresentation,
        photometric_interpretation=dataset.PhotometricInterpretation, planar_configuration=0, number_of_frames=1,
        encoding_plugin="pydicom",  # GDCM aborts on some shapes
    )  # fmt: skip


def lossless_jpeg(codes, bits):
    """JPEG process 14, selection value 1 (ITU-T T.81 H): each sample minus its left neighbor, 17 codes of 5 bits."""
    height, width = codes.shape
    samples = codes.astype(int)
    predicted = np.empty_like(samples)
    predicted[:, 1:], predicted[1:, 0], predicted[0, 0] = samples[:, :-1], samples[:-1, 0], 1 << (bits - 1)
    pieces = []
    for difference in (samples - predicted).ravel():
        difference = (int(difference) + 32768) % 65536 - 32768
        size = abs(difference).bit_length()
        pieces.append(format(size, "05b"))
        if 0 < size < 16:
            pieces.append(format(difference if difference > 0 else difference + (1 << size) - 1, f"0{size}b"))
    stream = "".join(pieces)
    stream += "1" * (-len(stream) % 8)
    content = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return (
        b"\xff\xd8\xff\xc3\0\x0b" + bytes([bits]) + size + bytes([1, 1, 0x11, 0])
        + b"\xff\xc4\0\x24\0" + bytes([0] * 4 + [17] + [0] * 11) + bytes(range(17))
        + b"\xff\xda\0\x08\x01\x01\0\x01\0\0" + content + b"\xff\xd9"
    )  # fmt: skip


def lut_item(first, bits, entries, as_bytes=False, big=False, count=None):
    """Return an item of a Modality or VOI LUT Sequence for unsigned pixels."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [(count or len(entries)) % 65536, first, bits])
    if as_bytes:
        item.add_new("LUTData", "OW", np.asarray(entries).astype(">u2" if big else "<u2").tobytes())
    else:
        item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return item


def palette(size, bits=16):
    """Return the elements of a gray palette that runs from white to black."""
    ramp = np.linspace(2**bits - 1, 0, size).round().astype(np.uint16)
    elements = {}
    for color in ("Red", "Green", "Blue"):
        elements[f"{color}PaletteColorLookupTableDescriptor"] = [size % 65536, 0, bits]
        elements[f"{color}PaletteColorLookupTableData"] = ramp.tobytes() if bits > 8 else ramp.astype("u1").tobytes()
    return elements


def report_bytes():
    """Return a structured report, which has no pixels."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "1.2", "SR"
    return written(dataset)
