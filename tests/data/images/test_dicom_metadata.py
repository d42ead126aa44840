from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from tests.data.images import dicom_files as files
from xrayfast.data.images.dicom.metadata import read_header
from xrayfast.errors import ConfigError, ReadError

FILM = (np.arange(32 * 40) % 4096).astype(np.uint16).reshape(32, 40)


def header(tmp_path, syntax=files.EXPLICIT, keyword="PatientID", **elements):
    path = tmp_path / "image"
    path.write_bytes(files.dicom_bytes(FILM, syntax, **elements))
    return read_header(path, keyword)


@pytest.mark.parametrize("syntax", [*files.UNCOMPRESSED, files.JPEG_2000])
def test_header(tmp_path, syntax):
    found = header(
        tmp_path, syntax, PatientID=" 17 ", StudyInstanceUID="1.2.3", PatientSex="F", PatientAge="045Y",
        ViewPosition="PA",
    )  # fmt: skip
    assert (found.patient, found.study, found.sex, found.age, found.view) == ("17", "1.2.3", "F", 45.0, "PA")


def test_a_header_that_says_nothing(tmp_path):
    found = header(tmp_path, PatientID=None)
    assert (found.patient, found.study, found.sex, found.view) == ("", "", "", "") and np.isnan(found.age)


@pytest.mark.parametrize(
    ("elements", "age"),
    [
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientAge": "010D"}, 10 / 365.25),
        ({"PatientAge": "002W"}, 14 / 365.25),
        ({"PatientAge": "45"}, np.nan),
        ({"PatientBirthDate": "19500101", "StudyDate": "20000101"}, 50.0),
        ({"PatientAge": "old", "PatientBirthDate": "19500101", "StudyDate": "20000101"}, 50.0),
        ({"PatientAge": "300Y"}, np.nan),
        ({"PatientAge": "130Y"}, np.nan),
        ({"PatientBirthDate": "20500101", "StudyDate": "20000101"}, np.nan),
        ({"PatientBirthDate": "18750101", "StudyDate": "20000101"}, np.nan),
        ({"PatientBirthDate": "19501301", "StudyDate": "20000101"}, np.nan),
        ({"PatientBirthDate": "19500101"}, np.nan),
    ],
)
def test_age(tmp_path, elements, age):
    found = header(tmp_path, **elements).age
    assert found == pytest.approx(age, abs=0.01, nan_ok=True)


@pytest.mark.parametrize(("sex", "expected"), [("F", "F"), ("m", "M"), ("O", ""), ("DOE^JOHN", "")])
def test_sex(tmp_path, sex, expected):
    assert header(tmp_path, PatientSex=sex).sex == expected


def test_a_value_that_is_no_view_is_dropped_as_it_may_be_anything(tmp_path):
    assert header(tmp_path, ViewPosition="doe^john, pa").view == ""
    assert header(tmp_path, ViewPosition="ap").view == "AP"


def test_other_keywords_for_the_patient(tmp_path):
    assert header(tmp_path, keyword="OtherPatientNames", OtherPatientNames="A^B").patient == "A^B"
    assert header(tmp_path, keyword="AccessionNumber", AccessionNumber="77").patient == "77"
    with pytest.raises(ConfigError, match=r"'PatientId' is not a DICOM keyword\. Did you mean 'PatientID'\?"):
        header(tmp_path, keyword="PatientId")
    for keyword in ("PixelData", "ReferencedStudySequence", "TransferSyntaxUID"):
        with pytest.raises(ConfigError, match="is not a DICOM element that identifies patients"):
            header(tmp_path, keyword=keyword)


def test_headers_of_other_files(tmp_path):
    Image.fromarray(FILM.astype(np.uint8)).save(tmp_path / "x.png")
    assert read_header(tmp_path / "x.png") is None
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("pipe", "found a pipe"), ("nothing", "no such file"), ("", "found a folder")):
        with pytest.raises(ReadError, match=words):
            read_header(tmp_path / name)


def test_no_pixel_is_read_for_a_header(tmp_path):
    content = files.dicom_bytes(FILM, bits=12, StudyInstanceUID="1.2.3")
    (tmp_path / "x.dcm").write_bytes(content[: content.index(struct.pack("<HH", 0x0028, 0x0010))])
    assert read_header(tmp_path / "x.dcm").study == "1.2.3"


@pytest.mark.parametrize(
    ("elements", "view"),
    [
        ({"SeriesDescription": "W Chest Lat."}, "LATERAL"),
        ({"ProtocolName": "Thorax seitl."}, "LATERAL"),
        ({"SeriesDescription": "CHEST PA AND LAT"}, ""),
        ({"SeriesDescription": "CHEST FRONTAL AND LATERAL"}, ""),
        ({"SeriesDescription": "THORAX FACE ET PROFIL"}, ""),
        ({"SeriesDescription": "Thorax p.a. und seitlich"}, ""),
        ({"SeriesDescription": "Thorax a.p."}, "AP"),
        ({"SeriesDescription": "chest", "ViewCodeSequence": "postero-anterior"}, "PA"),
        ({"SeriesDescription": "Chest Lat", "ViewPosition": "AP"}, "AP"),
    ],
)
def test_the_view_in_codes_and_descriptions(tmp_path, elements, view):
    code = Dataset()
    code.CodeMeaning = elements.pop("ViewCodeSequence", "other")
    path = tmp_path / "1.dcm"
    path.write_bytes(files.dicom_bytes(np.zeros((2, 2), "u1"), ViewCodeSequence=[code], **elements))
    assert read_header(path).view == view
