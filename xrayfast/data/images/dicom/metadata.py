"""Reading of patient and study from a DICOM header, without reading any pixel."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from xrayfast.data.demographics import DAYS_PER_YEAR, parse_age, plausible_age, view_in_description
from xrayfast.data.images.dicom.elements import Elements, silence_pydicom
from xrayfast.data.images.dicom.parse import FIRST_PIXEL_TAG, HEAD_BYTES, is_dicom, open_dicom
from xrayfast.data.images.limits import require_image_file
from xrayfast.errors import ConfigError, ReadError, did_you_mean
from xrayfast.files.virtual.access import open_binary
from xrayfast.files.virtual.paths import to_path

_KEYWORDS = (
    "StudyInstanceUID", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "ViewPosition",
    "IssuerOfPatientID", "ViewCodeSequence", "SeriesDescription", "ProtocolName",
)  # fmt: skip
_FURTHER = ("PatientName", "AccessionNumber", "SeriesInstanceUID")
_COMPARED = ("PatientName", "PatientBirthDate", "InstitutionName", "SOPInstanceUID")
_FIRST_TAG = 0x00080000
_NOT_TEXT = frozenset({"SQ", "OB", "OW", "OD", "OF", "OL", "OV", "UN", "AT"})


@dataclass(frozen=True)
class Header:
    """Patient and study of a DICOM file. Identifiers are original: pseudonymize them before storing or showing them."""

    patient: str = ""  # the identifier; "" if there is none
    study: str = ""  # the Study Instance UID; "" if there is none
    sex: str = ""  # "F", "M" or ""
    age: float = math.nan  # in years; NaN if implausible, or if neither it nor the dates of birth and study are known
    issuer: str = ""  # who gave the patient's identifier; "" if that is not said
    view: str = ""  # the View Position, such as "PA" or "LL", else that in codes and descriptions; "" if there is none
    further: Mapping[str, str] = field(default_factory=dict)  # other elements by which images may belong together
    compared: Mapping[str, str] = field(default_factory=dict)  # elements that a wrong patient contradicts


def read_header(path: Path | str, patient_keyword: str = "PatientID") -> Header | None:
    """Read patient and study from a file; None if it is not DICOM.

    The patient's identifier is the element with the keyword `patient_keyword`.

    Raises:
        ReadError: the file can't be opened, or its header is damaged; the message quotes nothing of the header.
        RemoteError: remote storage can't be read.
        ConfigError: there is no such keyword, or it is not that of a text or number element.
    """
    path = to_path(path)
    _require_identifier(patient_keyword)
    require_image_file(path)
    try:
        with open_binary(path) as stream, silence_pydicom():
            if not is_dicom(stream.read(HEAD_BYTES)):
                return None
            keywords = [*_KEYWORDS, *_FURTHER, *_COMPARED, patient_keyword]
            elements = open_dicom(path, stream, keywords, to_pixels=False).elements
            return Header(
                patient=elements.text(patient_keyword),
                study=elements.text("StudyInstanceUID"),
                sex=_valid_text(elements, "PatientSex", "[FM]"),
                age=_age(elements),
                issuer=elements.text("IssuerOfPatientID"),
                view=stated_view(elements),
                further={keyword: elements.text(keyword) for keyword in _FURTHER},
                compared={keyword: elements.text(keyword) for keyword in _COMPARED},
            )
    except OSError as error:
        raise ReadError(f"{path}: can't be read ({error.strerror}). Check the path and its permissions.") from error


def _require_identifier(keyword: str) -> None:
    """Refuse a keyword that is not that of a text or number element in the header."""
    from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ConfigError(f"'{keyword}' is not a DICOM keyword.{did_you_mean(keyword, keyword_dict)}")
    if dictionary_VR(tag) in _NOT_TEXT or not _FIRST_TAG <= tag < FIRST_PIXEL_TAG:
        raise ConfigError(f"'{keyword}' is not a DICOM element that identifies patients; try PatientID.")


def _valid_text(elements: Elements, keyword: str, pattern: str) -> str:
    """Return a value that has the standard's form; "" for any other value, which could be any text."""
    text = elements.text(keyword).upper()
    return text if re.fullmatch(pattern, text) else ""


def stated_view(elements: Elements) -> str:
    """Return the View Position, else the view in the code or the description of the series; "" if there is none."""
    if stated := _valid_text(elements, "ViewPosition", "[A-Z0-9_ ]{1,16}"):
        return stated
    texts = [elements.text("SeriesDescription"), elements.text("ProtocolName")]
    with suppress(ReadError):
        texts = [*(item.text("CodeMeaning") for item in elements.items("ViewCodeSequence")), *texts]
    return next(filter(None, map(view_in_description, texts)), "")


def _age(elements: Elements) -> float:
    """Return the age in years: as stated ("045Y", "006M", "002W", "010D"), or from the dates of birth and study."""
    if stated := _valid_text(elements, "PatientAge", r"\d{1,3}[YMWD]"):
        return parse_age(stated)
    born, studied = _date(elements, "PatientBirthDate"), _date(elements, "StudyDate")
    return plausible_age((studied - born).days / DAYS_PER_YEAR) if born and studied else math.nan


def _date(elements: Elements, keyword: str) -> datetime | None:
    try:
        return datetime.strptime(elements.text(keyword), "%Y%m%d")
    except ValueError:
        return None
