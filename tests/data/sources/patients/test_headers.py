from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import pytest

from tests.data.builders import classes, column, make, message, noted, opened, table
from xrayfast.errors import ConfigError, DataError, ReadError


@dataclass(frozen=True)
class Header:
    patient: str
    study: str
    sex: str
    age: float
    view: str
    further: dict[str, str] = field(default_factory=dict)
    issuer: str = ""
    compared: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def headers(monkeypatch):
    """Replace the header reader with one that reads file names: x_PATIENT_n."""
    module = ModuleType("xrayfast.data.images.dicom.metadata")
    module.asked = []

    def read_header(path, patient_keyword="PatientID"):
        module.asked.append((path.rpartition("/")[2], patient_keyword))
        who = path.rpartition("/")[2].split("_")[1]
        if who == "nobody":
            return None
        if who == "damaged":
            raise ReadError(f"{path}: damaged")
        return Header("" if who == "unknown" else who, f"1.2.{who}", "F", 40.0 if who == "secret" else np.nan, "PA")

    module.read_header = read_header
    monkeypatch.setitem(sys.modules, "xrayfast.data.images.dicom.metadata", module)
    return module


def dicoms(root, *who):
    return make(root, *(f"{label}/{label}_{name}_{i}.dcm" for label in "ab" for i, name in enumerate(who)))


def test_copies_by_name_do_not_hide_the_studies_of_headers(tmp_path, headers):
    dicoms(tmp_path, "x", "x", "y")
    make(tmp_path, "a/1.png", "a/1_flip.png")
    data = opened(tmp_path)
    studies = data.table.set_index("image")["study"]
    assert studies["a/a_x_0.dcm"] == studies["a/a_x_1.dcm"] != studies["a/a_y_2.dcm"] and studies["a/a_y_2.dcm"]
    assert studies["a/1.png"] == studies["a/1_flip.png"] not in (None, studies["a/a_x_0.dcm"])


def test_headers_give_patients_and_more(tmp_path, headers):
    dicoms(tmp_path, "secret", "secret", "other", "unknown", "nobody")
    make(tmp_path, "a/plain.png")
    data = opened(tmp_path)
    assert data.table["patient"].nunique() == 2 and data.table["patient"].isna().sum() == 5
    assert noted(data, "Patients from the DICOM headers (PatientID): 2 on 6 of 8 files")
    facts = data.table.set_index("image")[["sex", "age", "view", "study"]]
    assert facts.loc["a/a_secret_0.dcm"].tolist() == ["F", 40.0, "PA", "S00002"]
    assert np.isnan(facts.loc["a/a_other_2.dcm", "age"]) and facts.loc["a/plain.png", "sex"] is None
    assert len(headers.asked) == 10 and {keyword for _, keyword in headers.asked} == {"PatientID"}
    assert "secret" not in repr(data.notes) + data.table.drop(columns=["image", "path"]).to_csv()


def test_one_identifier_on_all_files_looks_anonymized(tmp_path, headers):
    dicoms(tmp_path, *["ANON"] * 6)
    found = message(DataError, tmp_path)
    assert "all 12 images have the same patient 'ANON' (PatientID of their DICOM headers)" in found
    assert "look anonymized" in found and "patient_col='none'" in found
    assert set(opened(tmp_path, patient_col="none").table["split"]) == {"train", "valid"}
    classes(tmp_path, a=8, b=8)
    assert not noted(opened(tmp_path), "One patient has")
    dicoms(tmp_path, *["ANON"] * 12)
    assert noted(opened(tmp_path), "One patient has 24 of 40 images", "--patient-col none")


def test_studies_of_unknown_patients_are_in_one_split_each(tmp_path, headers, monkeypatch):
    of = {f"{label}_{i}{label}": f"1.2.{i}{label}" for label in "ab" for i in range(8)}

    def read_header(path, patient_keyword="PatientID"):
        study = path.rpartition("/")[2].rpartition("_")[0]
        return Header("known" if study == "a_0a" else "", of[study], "F", 40.0, "PA")

    monkeypatch.setattr(headers, "read_header", read_header)
    make(tmp_path, *(f"{study[0]}/{study}_{j}.dcm" for study in of for j in (1, 2)))
    for seed in range(5):
        data = opened(tmp_path, split_seed=seed)
        assert data.table.groupby("study")["split"].nunique().max() == 1
        assert data.redraw_splits(np.arange(len(data))).table.groupby("study")["split"].nunique().max() == 1
    assert noted(data, "stratified by label, by patient")
    (tmp_path / "a/a_0a_1.dcm").unlink(), (tmp_path / "a/a_0a_2.dcm").unlink()
    assert noted(opened(tmp_path), "by study, because no patients are known")


def test_another_keyword(tmp_path, headers):
    dicoms(tmp_path, "x", "x", "y")
    data = opened(tmp_path, patient_col="dicom:OtherPatientIDs")
    assert data.table["patient"].nunique() == 2 and headers.asked[0][1] == "OtherPatientIDs"
    assert opened(tmp_path, patient_col="none").table["patient"].isna().all()


def test_a_keyword_where_no_header_has_it(tmp_path, headers):
    found = message(DataError, classes(tmp_path, a=3, b=3), patient_col="dicom:PatientID")
    assert "found no patients in the images' headers; expected DICOM files with PatientID" in found
    assert headers.asked == []


def test_damaged_headers_are_noted(tmp_path, headers):
    data = opened(dicoms(tmp_path, "x", "damaged", "y"))
    assert data.table["patient"].nunique() == 2
    assert noted(data, "The headers of 2 files can't be read", "a/a_damaged_1.dcm, b/b_damaged_1.dcm")


def test_real_headers(shared):
    data = opened(shared / "data" / "dicom", valid_fraction=0.4)
    one = data.table[data.table["image"].str.contains("RG1.*dcm")]
    assert len(one) == 7 and one[["patient", "study", "sex"]].drop_duplicates().shape[0] == 1
    assert data.table["patient"].notna().sum() == 12 and set(data.table["sex"]) == {"F", "M", None}
    assert opened(shared / "data" / "dicom", valid_fraction=0.4, patient_col="none").table["patient"].isna().all()
    found = message(ConfigError, shared / "data" / "dicom", patient_col="dicom:Nonsense")
    assert "'Nonsense' is not a DICOM keyword" in found


def test_columns_take_precedence_over_headers(tmp_path, headers):
    make(tmp_path, *(f"x_header_{i}.dcm" for i in range(10)))
    text = "file,label,patient,sex,age,view\n"  # and the study of the headers is not used
    table(tmp_path, text + "".join(f"x_header_{i},{'ab'[i % 2]},{i // 2},M,7{i},AP\n" for i in range(10)))
    data = opened(tmp_path)
    assert data.table["patient"].nunique() == 5 and "study" not in data.table
    assert {keyword for _, keyword in headers.asked} == {"PatientID"}  # to compare them with the table's patients
    assert column(data, "sex")[:1] + column(data, "age")[:1] + column(data, "view")[:1] == ["M", 70, "AP"]


@pytest.mark.parametrize(
    ("people", "compared", "words"),
    [
        (8, {"PatientBirthDate": "19{k}0101"}, "8 of 8 patients occur with several values of the birth date"),
        (8, {"PatientName": "Ada^{k}"}, "8 of 8 patients occur with several values of PatientName"),
        (8, {"InstitutionName": "clinic {k}"}, "8 of 8 patients occur with several values of InstitutionName"),
        (8, {"PatientName": "Ada^{p}", "PatientBirthDate": "19{p}0101", "SOPInstanceUID": "1.{i}"}, ""),
        (16, {"PatientName": "Ada^{p}"}, "'dicom:PatientName' (8 values on 16 rows)"),
        (16, {"SOPInstanceUID": "1.{p}"}, "8 files with the SOP Instance UID of a file of another patient"),
        (16, {"SOPInstanceUID": "1.2"}, ""),
    ],
)
def test_headers_that_contradict_the_patient_are_noted(tmp_path, headers, monkeypatch, people, compared, words):
    def read_header(path, keyword):
        i = int(path.rpartition("_")[2].removesuffix(".dcm"))
        found = {name: text.format(i=i, k=10 + i % 2, p=10 + i // 2) for name, text in compared.items()}
        named = {"PatientName": found.get("PatientName", "")}
        return Header(f"X{i * people // 16}", f"1.2.{i}", "", np.nan, "", named, compared=found)

    monkeypatch.setattr(headers, "read_header", read_header)
    data = opened(make(tmp_path, *(f"{'ab'[i // 2 % 2]}/x_{i}.dcm" for i in range(16))))
    assert noted(data, words) if words else not noted(data, "occur with") and not noted(data, "SOP Instance")


@pytest.mark.parametrize("issuers", ["AB", "A ", "A"])
def test_identifiers_of_several_issuers_are_noted(tmp_path, headers, monkeypatch, issuers):
    def read_header(path, patient_keyword="PatientID"):
        number = int(path.rpartition("_")[2].removesuffix(".dcm"))
        issuer = issuers[number % len(issuers)].strip()
        return Header(f"X{number // 4}", f"1.2.{number}", "", np.nan, "", issuer=issuer)

    monkeypatch.setattr(headers, "read_header", read_header)
    make(tmp_path, *(f"{'ab'[i // 4 % 2]}/x_{i}.dcm" for i in range(16)))
    data = opened(tmp_path)
    assert noted(data, "4 PatientIDs with several values of IssuerOfPatientID") == (issuers == "AB")
    assert data.table["patient"].nunique() == 4


@pytest.mark.parametrize("name", ["PatientName", "AccessionNumber", "SeriesInstanceUID"])
@pytest.mark.parametrize("study", ["", "1.2.{}"], ids=["no study", "a study for each file"])
def test_other_elements_of_headers_that_repeat_are_noted(tmp_path, headers, monkeypatch, name, study):
    def read_header(path, patient_keyword="PatientID"):
        number = int(path.rpartition("_")[2].removesuffix(".dcm"))
        own = f"X{number // 2}"
        return Header(own if patient_keyword == name else "", study.format(number), "", np.nan, "", {name: own})

    monkeypatch.setattr(headers, "read_header", read_header)
    make(tmp_path, *(f"{'ab'[i // 2 % 2]}/x_{i}.dcm" for i in range(16)))
    assert noted(opened(tmp_path), f"'dicom:{name}' (8 values on 16 rows)", f"--patient-col 'dicom:{name}'")
    assert opened(tmp_path, patient_col=f"dicom:{name}").table["patient"].nunique() == 8


def test_other_elements_that_repeat_within_studies_are_not_noted(tmp_path, headers, monkeypatch):
    def read_header(path, patient_keyword="PatientID"):
        own = path.rpartition("_")[2]
        return Header("", f"1.2.{own[0]}", "", np.nan, "", {"AccessionNumber": own[0], "PatientName": ""})

    monkeypatch.setattr(headers, "read_header", read_header)
    make(tmp_path, *(f"{'ab'[i // 2 % 2]}/x_{i // 2}{'z' * (i % 2)}.dcm" for i in range(16)))
    assert not noted(opened(tmp_path), "Not used")


@pytest.mark.parametrize(
    ("in_header", "in_table", "wrong"),
    [
        (lambda i: f"p{i // 2}", lambda i: f"P-{i // 2:03d}", 0),
        (lambda i: f"p{i // 2}", lambda i: f"p{5 if i == 7 else i // 2}", 1),
        (lambda i: f"x{7 * (i // 2) % 11}", lambda i: f"p{i // 2}", 0),  # pseudonyms
        (lambda i: f"x{7 * (i // 2) % 11}", lambda i: f"p{4 if i == 7 else i // 2}", 4),
        (lambda i: "anonymous", lambda i: f"p{i // 2}", 0),
        (lambda i: f"x{i}", lambda i: f"p{i // 2}", 0),
    ],
)
def test_headers_that_contradict_the_patients_of_a_table_are_noted(tmp_path, headers, in_header, in_table, wrong):
    names = [f"x_{in_header(i)}_{i}.dcm" for i in range(12)]
    make(tmp_path, *names)
    text = "".join(f"{name},{'ab'[i % 2]},{in_table(i)}\n" for i, name in enumerate(names))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient_id\n{text}"))
    assert noted(data, "contradicts the table's patient", "dicom:PatientID") == (wrong > 0)
    assert not wrong or noted(data, f"The PatientID of {wrong} DICOM file", "of 12 looked at")


def test_all_headers_of_some_patients_are_compared_if_there_are_many(tmp_path, headers):
    """Each patient of the table has two PatientIDs; one file of each patient would show none of them."""
    names = [f"x_{'ab'[i % 2]}{7 * (i // 4) % 500}_{i}.dcm" for i in range(2000)]
    make(tmp_path, *names)
    text = "".join(f"{name},{'ab'[i % 2]},p{i // 4}\n" for i, name in enumerate(names))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient_id\n{text}"))
    assert noted(data, "DICOM files, of 200 looked at, contradicts the table's patient") and len(headers.asked) == 200
