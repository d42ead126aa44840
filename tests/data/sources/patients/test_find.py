from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import pytest

from tests.data.builders import classes, column, lines, make, message, noted, opened, table
from xrayfast.data.demographics import parse_ages, parse_sexes, parse_views
from xrayfast.data.sources.datasets.padchest import ages_at_study
from xrayfast.data.sources.identifiers import join_spellings
from xrayfast.data.sources.patients import find
from xrayfast.data.sources.patients.find import group_images, group_patients, pseudonymize
from xrayfast.errors import ConfigError, DataError, ReadError

NIH = [f"{label}/000{20000 + i // 2:05d}_{i % 2:03d}.png" for i in range(12) for label in ("a", "b")]


def test_sexes():
    found, notes = parse_sexes(["F", "m", "Female", " MALE ", "", "Unknown", "O"])
    assert found == ["F", "M", "F", "M", None, None, None]
    assert notes == ["2 images with a sex that is neither F nor M: used as unknown."]
    assert parse_sexes(["F", ""])[1] == []


def test_ages():
    cells = ["58", "058Y", "57.0", "006M", "014D", "10W", "", "411", "-3", "old", "120", "121Y"]
    found, notes = parse_ages(cells)
    assert found[:6] == pytest.approx([58, 58, 57, 0.5, 14 / 365.25, 70 / 365.25])
    assert np.isnan(found[6:10]).all() and found[10] == 120 and np.isnan(found[11])
    assert notes == ["4 images with an age that is not a number up to 120: used as unknown."]


def test_ages_at_a_date():
    found, notes = parse_ages(
        ages_at_study(["1930.0", "1950", "", "None", "2015"], ["20140915", "20141231", "20140101", "20140101", ""])
    )
    assert found[:2] == [84, 64] and np.isnan(found[2:]).all() and notes == []


def test_views():
    assert parse_views(["PA", "ap ", "L", "", "LL", "AP_horizontal"]) == [
        "PA",
        "AP",
        "LATERAL",
        None,
        "LATERAL",
        "AP_HORIZONTAL",
    ]
    assert parse_views(["AP", "", ""], ["Frontal", "Lateral", ""]) == ["AP", "LATERAL", None]


def test_pseudonyms_and_groups():
    assert pseudonymize(["x", "", "y", "x"], "P").tolist() == ["P00001", None, "P00002", "P00001"]
    assert pseudonymize(["", ""], "P") is None and pseudonymize(None, "P") is None
    assert group_patients(["x", "", "y", "x", None]).tolist() == [0, 2, 1, 0, 3]
    assert group_patients(["", ""]) is None and group_patients(None) is None


def test_groups_by_study_where_the_patient_is_unknown():
    groups = group_images(["x", "x", "", "", None], ["s1", "s2", "s3", "s3", ""])
    assert groups.tolist() == [0, 0, 1, 1, 2]
    assert group_images(None, ["s1", "s1", "s2"]).tolist() == [0, 0, 1]
    assert group_images(["x", "y", ""], None).tolist() == group_patients(["x", "y", ""]).tolist()
    assert group_images(None, None) is None and group_images(["", ""], ["", ""]) is None
    assert group_images(None, ["1"] * 21) is None  # numbers that restart for each patient


# Patients in file names


def test_nih_names(tmp_path):
    data = opened(make(tmp_path, *NIH, "a/covid (1).jpg", "a/20200131_001.png", "b/12.png"))
    assert data.table["patient"].nunique() == 6 and data.table["patient"].isna().sum() == 3
    together = data.table[data.table["image"].isin(["a/00020000_000.png", "b/00020000_001.png"])]
    assert together["patient"].nunique() == 1
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    assert noted(data, "Patients from the NIH ChestX-ray14 file names: 6 on 24 of 27 images", "--patient-col none")


def test_names_can_be_switched_off_and_asked_for(tmp_path):
    make(tmp_path, *NIH)
    data = opened(tmp_path, patient_col="none")
    assert data.table["patient"].isna().all() and noted(data, "Patients are not identified")
    assert opened(tmp_path, patient_col="name").table["patient"].nunique() == 6
    classes(tmp_path / "other", a=3, b=3)
    found = message(DataError, tmp_path / "other", patient_col="name")
    assert "found no patients in the images' names" in found and "00000123_004.png (NIH ChestX-ray14)" in found


def test_chexpert_and_mimic_names_tell_the_study_too(tmp_path):
    files = [f"patient{i:05d}/study{j}/view1.jpg" for i in range(4) for j in (1, 2)]
    files += [f"files/p10/p1000000{i}/s5000000{i}/x{j}.jpg" for i in range(3) for j in range(2)]
    make(tmp_path, *files)
    table(tmp_path, "path,label\n" + "".join(f"{file},{'ab'[i % 2]}\n" for i, file in enumerate(files)))
    data = opened(tmp_path, labels=tmp_path / "labels.csv")
    assert column(data, "patient")[:4] == ["P00001", "P00001", "P00002", "P00002"]
    assert column(data, "study")[:4] == ["S00001", "S00002", "S00003", "S00004"]
    assert column(data, "study")[8:] == ["S00009", "S00009", "S00010", "S00010", "S00011", "S00011"]
    assert noted(data, "CheXpert and MIMIC-CXR file names: 7 on 14 of 14 images")


def test_a_column_takes_precedence_over_names_and_is_not_mixed_with_them(tmp_path):
    make(tmp_path, *(f"0000000{i}_00{j}.png" for i in range(5) for j in range(2)))
    rows = "".join(f"0000000{i}_00{j}.png,{'ab'[j]},{'' if i == 4 else i}\n" for i in range(5) for j in range(2))
    table(tmp_path, "image,label,Patient ID\n" + rows)
    data = opened(tmp_path)
    assert data.table["patient"].nunique() == 4 and data.table["patient"].isna().sum() == 2
    assert opened(tmp_path, patient_col="name").table["patient"].nunique() == 5
    assert opened(tmp_path, patient_col="none").table["patient"].isna().all()
    table(tmp_path, "image,label,Patient ID\n" + re.sub(r"\d*\n", "\n", rows))
    assert opened(tmp_path).table["patient"].nunique() == 5  # a column of empty cells is ignored


KERMANY = [
    *(f"NORMAL/IM-0{115 + i}-000{j}.jpeg" for i in range(6) for j in (1, 2)),
    *(f"NORMAL/NORMAL2-IM-0115-000{j}.jpeg" for j in (1, 2)),
    *(f"PNEUMONIA/person{i}_bacteria_{3 * i + j}.jpeg" for i in range(1, 8) for j in range(3)),
    "PNEUMONIA/person1_virus_6.jpeg",
]


def test_kermany_names(tmp_path):
    data = opened(make(tmp_path, *KERMANY))
    assert data.table["patient"].nunique() == 6 + 1 + 7 and data.table["patient"].notna().all()
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    of = data.table.set_index("image")["patient"]
    assert of["PNEUMONIA/person1_virus_6.jpeg"] == of["PNEUMONIA/person1_bacteria_3.jpeg"]
    assert of["NORMAL/IM-0115-0001.jpeg"] == of["NORMAL/IM-0115-0002.jpeg"] != of["NORMAL/NORMAL2-IM-0115-0001.jpeg"]
    assert noted(data, "Patients from the Kermany file names: 14 on 36 of 36 images")


def test_numbers_of_an_export_that_start_again_in_each_folder_are_no_patients(tmp_path):
    data = opened(
        make(tmp_path, *(f"{label}/p{i}/IM-000{j}-0001.jpg" for label in "ab" for i in range(6) for j in (1, 2)))
    )
    assert data.table["patient"].isna().all() and noted(data, "Patients are not read from file names")
    make(tmp_path / "one", *(f"{label}/IM-0001-00{i}{label}.jpg" for label in "ab" for i in range(10, 20)))
    assert opened(tmp_path / "one").table["patient"].isna().all()


def test_any_pattern_of_names(tmp_path):
    make(
        tmp_path, *(f"{label}/case_{i}{label}_{j}.png" for label in "ab" for i in range(6) for j in range(2)), "a/x.png"
    )
    data = opened(tmp_path)
    assert data.table["patient"].isna().all() and noted(data, "no patients are known", "--patient-col 'name:REGEX'")
    data = opened(tmp_path, patient_col=r"name:case_(\d+[ab])")
    assert data.table["patient"].nunique() == 12 and data.table["patient"].isna().sum() == 1
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    assert noted(data, r"Patients from file names by 'case_(\d+[ab])': 12 on 24 of 25 images; none in a/x.png.")
    assert opened(tmp_path, patient_col=r"name:^([ab])/case_0").table["patient"].nunique() == 2
    for pattern, words in {
        "name:(case": "'(case' is not a regular expression",
        "name:case": "'case' has no group",
        "name:(subject)": "no match of '(subject)' in any image name; expected one in names such as a/case_0a_0.png",
    }.items():
        kind = DataError if "match" in words else ConfigError
        assert words in message(kind, tmp_path, patient_col=pattern)
    file = table(
        tmp_path, "image,label,patient\n" + "".join(f"a/case_{i}a_0.png,{'ab'[i % 2]},x{i}\n" for i in range(6))
    )
    assert opened(tmp_path, labels=file, patient_col=r"name:(case)_[0-3]").table["patient"].isna().sum() == 2


def test_names_that_may_tell_patients_are_named_with_a_pattern_that_does(tmp_path):
    make(tmp_path, *(f"{label}/patient{i:02d}{label}/view{j}.png" for label in "ab" for i in range(6) for j in (1, 2)))
    data = opened(tmp_path)
    assert data.table["patient"].isna().all()
    (note,) = [note for note in data.notes if "may contain patient IDs" in note]
    assert "finds 6 patients on 24 of 24 images" in note
    assert opened(tmp_path, patient_col=note.split("'")[1]).table["patient"].nunique() == 6


@pytest.mark.parametrize("name", ["AccessionNumber", "Series Instance UID", "exam_id"])
def test_columns_that_group_images_keep_them_in_one_split(tmp_path, name):
    make(tmp_path, *(f"{i}.png" for i in range(20)))
    table(tmp_path, f"image,label,{name}\n" + "".join(f"{i}.png,{'ab'[i // 2 % 2]},K{i // 2}\n" for i in range(20)))
    data = opened(tmp_path)
    assert data.table.groupby("study")["split"].nunique().max() == 1 and noted(data, "by study")


# Patients in DICOM headers


@dataclass(frozen=True)
class Header:
    patient: str
    study: str
    sex: str
    age: float
    view: str
    further: dict[str, str] = field(default_factory=dict)
    issuer: str = ""


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


# Patients in columns


def test_sex_age_view_and_study_of_a_table(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(10)))
    text = lines("image,label,subject_id,study_id,Gender,Patient Age,View Position", "{i}.png,{ab},{p},1,Male,0{i}Y,l")
    table(tmp_path, text.replace("3.png,b,secret-1,1,Male,03Y", "3.png,b,secret-1,2,?,999"))
    data = opened(tmp_path)
    assert list(data.table.columns) == [
        "image", "path", "patient", "split", "labels", "sex", "age", "view", "study"
    ]  # fmt: skip
    assert column(data, "sex")[:4] == ["M", "M", "M", None]
    assert column(data, "age")[:4] == [0, 1, 2, None]
    assert column(data, "view")[0] == "LATERAL"
    assert column(data, "study")[:6] == ["S00001", "S00001", "S00002", "S00003", "S00004", "S00004"]
    assert noted(data, "1 image with a sex that is neither") and noted(data, "1 image with an age that is no")
    assert "secret" not in repr(data.notes) + data.table.to_csv()


def test_a_study_tells_the_patient_of_its_other_images(tmp_path):
    """UIDs and accession numbers belong to one patient each; other study numbers restart for each patient."""
    make(tmp_path, *(f"i{i}.png" for i in range(12)))
    rows = "".join(f"i{i}.png,{'ab'[i % 2]},{'' if i == 4 else i // 2},1.2.{i // 2}\n" for i in range(11))
    for name, known in (("StudyInstanceUID", 12), ("Accession Number", 12), ("study", 11)):
        table(tmp_path, f"image,label,patient,{name}\n{rows}i11.png,b,77,1.2.4\n")
        data = opened(tmp_path)
        patient = data.table.set_index("image")["patient"]
        assert patient.notna().sum() == known
        assert (patient["i4.png"] == patient["i5.png"]) == (known == 12)
        assert noted(data, "1 image without a patient: the patient of the other images in the same study is used") == (
            known == 12
        )
        assert noted(data, "1 study with images of more than one patient") == (known == 12)


def test_studies_divided_by_a_given_split_are_noted(tmp_path):
    make(tmp_path, *(f"i{i}.png" for i in range(12)))
    rows = "".join(f"i{i}.png,{'ab'[i % 2]},{i // 3},{'train' if i < 7 else 'valid'}\n" for i in range(12))
    table(tmp_path, "image,label,accession,split\n" + rows)
    assert noted(opened(tmp_path), "1 of 4 studies is in more than one given split")


@pytest.mark.parametrize("spell", [lambda p: f"{p:05d}", lambda p: f"{p}.0", lambda p: f" {p} "])
def test_spellings_of_an_identifier_are_one_patient(tmp_path, spell):
    make(tmp_path, *(f"i{i}.png" for i in range(24)))
    rows = "".join(f"i{i}.png,{'ab'[i % 2]},{spell(i // 2) if i % 2 else i // 2}\n" for i in range(24))
    table(tmp_path, "image,label,patientId\n" + rows)
    data = opened(tmp_path)
    assert data.table["patient"].nunique() == 12
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    assert noted(data, "12 patient identifiers joined with another") or spell(1) == " 1 "


@pytest.mark.parametrize(
    "name", ["{i}{s}.png", "{i}_jpg.rf.{h}.jpg", "x{i}-flip{s}.png"], ids=["suffixes", "roboflow", "all suffixed"]
)
def test_augmented_copies_by_name_stay_with_their_image(tmp_path, name):
    for label in "ab":
        for i in range(8):
            for j, end in enumerate(("", "_aug1", "_rot90")):
                make(tmp_path, f"{label}/" + name.format(i=i, s=end, h=f"{i:04x}{j:04x}" * 4))
    data = opened(tmp_path)
    number = data.table["image"].str.extract(r"([ab]/x?\d+)")[0]
    assert data.table.groupby(number)["split"].nunique().max() == 1 and set(data.table["split"]) == {"train", "valid"}
    assert noted(data, "kept in the same split as that image")


def test_augmented_copies_in_two_given_splits_are_noted(tmp_path):
    files = [f"{split}/{label}/{i}{end}.png" for split, end in (("train", "_aug1"), ("valid", "")) for label in "ab"
             for i in range(4)]  # fmt: skip
    assert noted(opened(make(tmp_path, *files)), "8 of 8 studies are in more than one given split")


def test_lateral_views_beside_others_are_noted(tmp_path):
    views = ("frontal", "lateral")
    make(tmp_path / "names", *(f"{one}/{one}{i}_{view}.png" for one in "ab" for i in range(4) for view in views))
    assert noted(opened(tmp_path / "names"), "8 lateral views used like the other images")
    make(tmp_path / "table", *(f"i{i}.png" for i in range(12)))
    rows = "".join(f"i{i}.png,{'ab'[i % 2]},{'LL' if i < 3 else 'PA'}\n" for i in range(12))
    table(tmp_path / "table", "image,label,view\n" + rows)
    assert noted(opened(tmp_path / "table"), "3 lateral views used like")
    assert not noted(opened(classes(tmp_path / "plain", collateral=8, normal=8)), "lateral")


def with_patients(root, patients):
    make(root, *(f"i{i}.png" for i in range(len(patients))))
    text = "".join(f"i{i}.png,{'ab'[i % 2]},{patient}\n" for i, patient in enumerate(patients))
    return opened(root, labels=table(root, f"image,label,patient_id\n{text}"))


def test_spellings_of_one_identifier_are_joined(tmp_path):
    names = ["p-0001", "p0001", "P_0001", "P 1", "q-7-12", "Q7-12", "r1.2.03", "r1.2.3", "x10", "x1", "0"]
    data = with_patients(tmp_path, [name for name in names for _ in range(2)])
    found = column(data, "patient")[::2]
    assert [found.index(name) for name in found] == [0, 0, 0, 0, 4, 4, 6, 7, 8, 9, 10]
    assert noted(data, "4 patient identifiers joined", "'-' and '_'")


@pytest.mark.parametrize(
    "word",
    [
        *("unknown", "anonymous", "N/A", "-", "0", "nan", "none", "ANON", "xxx", "--", "000", "9999", "not available"),
        *("?", "-999", "N.N.", "NN", "Anonymous^Patient"),
    ],
)
def test_words_for_unknown_patients_are_no_patient(tmp_path, word):
    data = with_patients(tmp_path, [f"p{i // 2 * 31 + 5}" if i < 14 else word for i in range(24)])
    assert column(data, "patient")[14:] == [None] * 10 and data.table["patient"].nunique() == 7
    assert noted(data, f"'{word}'")


def test_a_0_more_frequent_than_patients_is_none_beside_more_frequent_words(tmp_path):
    data = with_patients(tmp_path, [f"p{i // 2}" for i in range(16)] + ["anonymous"] * 6 + ["0"] * 4)
    assert column(data, "patient")[16:] == [None] * 10 and noted(data, "'0' (4)", "'anonymous' (6)")


@pytest.mark.parametrize(
    "name", ["P{i}_{visit}", "{i}-{k}", "anna{i} t{k}", "{i}_visit{k}", "{i}_{side}", "P{i}-{letter}"]
)
def test_identifiers_of_images_or_visits_in_place_of_patients_are_noted(tmp_path, name):
    pairs = [(i, k) for i in range(10, 20) for k in (0, 1)]
    ids = [name.format(i=i, k=k, visit=("pre", "post")[k], side=("left", "right")[k], letter="LR"[k]) for i, k in pairs]
    data = with_patients(tmp_path, ids)
    assert noted(data, "may be those of images", "10 instead of 20") and not noted(data, ids[0])


@pytest.mark.parametrize("name", ["P-{n:03d}", "site{k}_{n}", "patient_{n}", "{n}", "2020-{k}-{n}", "A{k}-{n:05d}"])
def test_identifiers_with_sites_and_numbers_are_no_visits(tmp_path, name):
    ids = [name.format(n=n // 2 + 10, k=n % 3) for n in range(60)]
    assert not noted(with_patients(tmp_path, ids), "may be those of images")


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


def test_a_patient_called_0_among_0_1_2_stays_one(tmp_path):
    data = with_patients(tmp_path, [i // 2 for i in range(24)])
    assert data.table["patient"].nunique() == 12 and column(data, "patient")[0] is not None


def test_identifiers_that_a_spreadsheet_rounded_are_noted(tmp_path):
    data = with_patients(tmp_path, ["1.0E+05", "100000", "1.23E+11"] + [f"{i // 2 + 5000}" for i in range(21)])
    assert noted(data, "2 patient identifiers in scientific notation", "spreadsheet", "Export the table again")


def test_a_pattern_that_would_take_forever_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "_SEARCH_SECONDS", 0.5)
    make(tmp_path, *(f"{label}/{'a' * 60}{i}.png" for label in ("normal", "tb") for i in range(5)))
    found = message(ConfigError, tmp_path, patient_col="name:((a+)+)!")
    assert "'((a+)+)!' takes more than" in found and "10 names" in found and "nested repeats" in found
    assert opened(tmp_path, patient_col="name:a([0-9])").table["patient"].nunique() == 5


@pytest.mark.parametrize("column", ["site", "Dataset", "hospital_name"])
def test_identifiers_that_occur_in_several_sites_are_noted(tmp_path, column):
    root = make(tmp_path, *(f"{i}.png" for i in range(24)))
    text = f"image,label,patient_id,{column}\n" + "".join(
        f"{i}.png,{'ab'[i % 2]},{{}}{i % 6},{'XY'[i // 6 % 2]}\n" for i in range(24)
    )
    shared = opened(root, labels=table(root, text.format(*[""] * 24)))
    assert noted(shared, f"6 of 6 patients occur with several values of '{column}'", "--patient-col")
    own = opened(root, labels=table(root, text.format(*("XY"[i // 6 % 2] for i in range(24)))))
    assert not noted(own, "several values")


@pytest.mark.parametrize(("column", "values"), [("sex", "MF"), ("Birth Year", ("1950", "1951")), ("DOB", "12")])
def test_patients_with_two_sexes_or_births_are_noted(tmp_path, column, values):
    root = make(tmp_path, *(f"{i}.png" for i in range(24)))
    what = "the sex" if column == "sex" else f"'{column}'"
    for contradict in (True, False):
        text = f"image,label,patient_id,{column}\n" + "".join(
            f"{i}.png,{'ab'[i % 2]},{i % 6 if contradict else i // 4},{values[i // 12]}\n" for i in range(24)
        )
        data = opened(root, labels=table(root, text.replace(",0,", ",unknown,")))
        assert noted(data, f"5 of 5 patients occur with several values of {what}: cells are wrong") == contradict


def test_the_error_about_indivisible_data_names_rounded_identifiers(tmp_path):
    root = make(tmp_path, *(f"{i}.png" for i in range(12)))
    text = "image,label,patient_id\n" + "".join(f"{i}.png,{'ab'[i // 6]},1.2345{{}}E+12\n" for i in range(12))
    for last, found in ((["7", "8"], "2 patient identifiers"), (["7", "7"], "1 patient identifier")):
        text_of = text.format(*(last[i // 6] for i in range(12)))
        assert f"{found} in scientific notation" in message(DataError, root, labels=table(root, text_of))
    few = table(root, text.format(*("78"[i // 6] for i in range(12))).replace(".", "p").replace("ppng", ".png"))
    assert "The images are of 2 patients" in message(DataError, root, labels=few)


def test_invisible_characters_do_not_make_another_patient():
    assert join_spellings(["p1", "p\u200b1", "p2"])[0] == ["p1", "p1", "p2"]


def test_patients_named_like_the_images_are_noted(tmp_path):
    note = "Patient identifiers are the same as the image names, one per image"
    root = make(tmp_path, *(f"{i}.png" for i in range(10)))
    text = lines("image,label,patient_id", "{i}.png,{ab},{i}")
    assert noted(opened(root, labels=table(root, text)), note)
    assert not noted(opened(root, labels=table(root, text.replace("4.png,a,4", "4.png,a,5"))), note)


def test_copies_of_roboflow_have_any_hash(tmp_path):
    names = [f"{c}/{c}{i}_jpg.rf.{h}{i}.jpg" for c in "ab" for i in range(5) for h in ("abc12", "Zq9")]
    data = opened(make(tmp_path, *names))
    assert noted(data, "20 images with the name of an augmented copy") and data.table["study"].nunique() == 10


def test_numbers_of_patients_in_names_that_occur_in_several_folders_are_noted(tmp_path):
    names = [f"hospital{h}/{c}/patient{i}_{c}.png" for h in "AB" for c in ("normal", "mass") for i in range(5)]
    root = make(tmp_path, *names)
    shared = opened(root, patient_col=r"name:patient(\d+)")
    assert noted(shared, "5 of 5 patients occur with several values of the folder", "a pattern for --patient-col")
    assert not noted(opened(root, patient_col=r"name:(hospital./.*/patient\d)"), "several values")


@pytest.mark.parametrize("name", ["{}", "{}.0", "0{}", "i{}.png"])
def test_patients_named_like_some_images_are_noted(tmp_path, name):
    own = [name.format(i) if i < 6 else f"p{i // 2}" for i in range(24)]
    make(tmp_path, *(f"{'i' if name.startswith('i') else ''}{i}.png" for i in range(24)))
    text = "".join(f"{'i' if name.startswith('i') else ''}{i}.png,{'ab'[i % 2]},{own[i]}\n" for i in range(24))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient\n{text}"))
    assert noted(data, "the same as the image names, one per image, on 6 of 24 images")


def test_patients_of_other_names_or_of_several_images_are_not_noted(tmp_path):
    assert not noted(with_patients(tmp_path, [f"i{i - i % 2}" for i in range(24)]), "called like")
    assert not noted(with_patients(tmp_path, [f"{i + 100}" for i in range(24)]), "called like")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "{i}_{k}.png",
            "{i}-0{k}.png",
            "DOE_JANE{i}_{k}.png",
            "A{i}_2020010{k}.png",
            "2020010{k}_A{i}.png",
            "{i}{ab}.png",
        ),
        *(
            "acc{i}_ser{k}_img1.png",
            "covid-19-pneumonia-{i}-day{k}.jpeg",
            "S{i}T{k}.png",
            "{i}.{k}.png",
            "CXR{i}_1_IM-00{i}-{k}001.png",
        ),
    ],
)
def test_names_that_share_a_part_are_noted_with_a_pattern(tmp_path, name):
    files = [f"{'ab'[i % 2]}/{name.format(i=i, k=k, ab='ab'[k])}" for i in range(10, 22) for k in (0, 1)]
    data = opened(make(tmp_path, *files))
    (note,) = [note for note in data.notes if "may contain patient IDs" in note]
    assert "finds 12 patients on 24 of 24 images" in note
    assert opened(tmp_path, patient_col=note.split("'")[1]).table["patient"].nunique() == 12


@pytest.mark.parametrize(
    "name",
    [
        "{label}_{i}.png",
        "img_{i:04d}.png",
        "2020-03-{i}_10-20-3{k}.png",
        "{h:08x}-{i:04x}.png",
        "b{k}_{i}.png",
        "20{i}-{i}{k}.png",
    ],
)
def test_other_names_are_not_noted(tmp_path, name):
    files = [
        f"{'ab'[i % 2]}/{name.format(label='ab'[i % 2], i=i + 12 * k, k=k, h=(2 * i + k) ** 5)}"
        for i in range(10, 22)
        for k in (0, 1)
    ]
    assert not noted(opened(make(tmp_path, *files)), "may contain patient IDs")


def test_few_patients_and_one_of_many_images_are_noted(tmp_path):
    assert noted(with_patients(tmp_path, [["male", "female"][i // 2 % 2] for i in range(24)]), "of 2 patients")
    data = with_patients(tmp_path, [f"p{i // 2}" if i < 14 else "nobody" for i in range(24)])
    assert noted(data, "One patient has 10 of 24 images")
    assert not noted(with_patients(tmp_path, [f"p{i // 3}" for i in range(24)]), "patient has")
    data = with_patients(tmp_path, [f"p{i // 2}" if i < 14 else ["deleted", "John Doe"][i % 2] for i in range(24)])
    assert data.table["patient"].nunique() == 7


@pytest.mark.parametrize("name", ["病人编号", "ID Paciente", "Patientennummer", "numéro du patient"])
def test_columns_of_patients_in_other_languages(tmp_path, name):
    make(tmp_path, *(f"i{i}.png" for i in range(20)))
    rows = "".join(f"i{i}.png,{'ab'[i // 2 % 2]},{4000 + i // 2}\n" for i in range(20))
    table(tmp_path, f"image,label,{name}\n{rows}")
    assert opened(tmp_path).table["patient"].nunique() == 10


def test_a_name_written_in_three_ways_is_one_patient(tmp_path):
    ways = ["DOE^JANE{0}", '"Doe, Jane{0}"', "jane{0} Doe"]
    data = with_patients(tmp_path, [ways[i % 3].format("abcdefgh"[i // 3]) for i in range(24)])
    assert data.table["patient"].nunique() == 8 and noted(data, "joined with another")


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


@pytest.mark.parametrize("file", ["sub-S{k:05d}_ses-E{i:05d}_run-1_bp-chest_vp-pa_dx.png", "case ({k}).{i}.png"])
def test_patients_in_names_by_the_brain_imaging_data_structure_or_of_copies_are_suggested(tmp_path, file):
    make(tmp_path, *(f"{'ab'[k % 2]}/" + file.format(k=k, i=i) for k in range(10) for i in range(3)))
    assert noted(opened(tmp_path), "names may contain patient IDs", "finds 10 patients on 30 of 30 images")


@pytest.mark.parametrize(("per_patient", "suggested"), [(1, True), (3, False)])
def test_a_column_with_a_patient_for_each_image_is_questioned_if_names_repeat(tmp_path, per_patient, suggested):
    names = [f"case{k}_{i}.png" for k in range(10) for i in range(3)]
    text = "".join(f"{name},{'ab'[n // 3 % 2]},{7000 + n // per_patient}\n" for n, name in enumerate(names))
    data = opened(make(tmp_path, *names), labels=table(tmp_path, f"image,label,patient_id\n{text}"))
    assert bool(noted(data, "names may contain patient IDs", "finds 10 patients on 30 of 30")) == suggested


def test_patients_are_recognized_by_spellings_of_their_names(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(12)))
    people = [
        name for i in range(4) for name in (f"Doe{'abcd'[i]}, Jane", f"DOE{'ABCD'[i]}^JANE", f"Jane Doe{'abcd'[i]}")
    ]
    text = "".join(f'{i}.png,{"ab"[i // 3 % 2]},"{name}"\n' for i, name in enumerate(people))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,PatientName\n{text}"))
    assert data.table["patient"].nunique() == 4


@pytest.mark.parametrize(
    ("identifiers", "people"),
    [
        (["Pat 12", "Pat. 12", "pat-12", "PAT12"], 1),
        (["P001", "P001'", "'P001", '"P1"', "`P1\u00b4", "\u201cP1\u201d"], 1),
        (["P12", "\u041012", "P\u0661\u0662", "\uff3012", "\u042012", "P12\u200b"], 2),
        (["12", "12,0", "12.00", "\u0967\u0968"], 1),
        (["12", "12,000", "12,5"], 3),
    ],
)
def test_spellings_of_one_identifier(identifiers, people):
    assert len(set(join_spellings(identifiers)[0])) == people


@pytest.mark.parametrize(
    ("cell", "questioned"),
    [("2020-01-{p:02}", True), ("202001{p:02}", True), ("{p}-Jan", True), ("{p}.1.2020", True), ("200{p:02}", False),
     ("20209{p:03}", False)],
)  # fmt: skip
def test_dates_as_patients_are_questioned(tmp_path, cell, questioned):
    make(tmp_path, *(f"{i:02}.png" for i in range(20)))
    text = "".join(f"{i:02}.png,{'ab'[i % 2]},{cell.format(p=i // 2 + 1)}\n" for i in range(20))
    for name, chosen in (("patient", None), ("DOB", "DOB")):
        file = table(tmp_path, f"image,label,{name}\n{text}")
        data = opened(tmp_path, labels=file, patient_col=chosen)
        assert noted(data, "Patient identifiers look like dates") == (questioned and not chosen)


@pytest.mark.parametrize(("cell", "merged"), [("P{p}", True), ("P0", False)])
def test_images_without_a_patient_among_others_are_counted(tmp_path, cell, merged):
    make(tmp_path, *(f"{i:02}.png" for i in range(12)))
    text = "".join(f"{cell.format(p=i) if i % 3 == 0 else ''},{i:02}.png,{'ab'[i % 2]}\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"patient_id,image,label\n{text}"))
    assert noted(data, "8 of 12 images have no patient identifier: other images of the same patient may be in another")
    assert noted(data, "as merged cells of a spreadsheet do") == merged


def test_identifiers_that_end_in_dates_are_questioned_and_a_birth_date_is_pointed_out(tmp_path):
    make(tmp_path, *(f"{i:02}.png" for i in range(12)))
    text = "".join(f"{i:02}.png,{'ab'[i % 2]},{i // 3}_2020010{i % 3 + 1},19{50 + i // 3}-03-01\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient_id,DOB\n{text}"))
    assert noted(data, "Patient identifiers may be those of images or visits", "(4 instead of 12 patients)")
    table(tmp_path, f"image,label,visit_day,DOB\n{text}")
    assert noted(opened(tmp_path), "repeat like identifiers of patients or studies: 'DOB' (4 values on 12 rows)")


@pytest.mark.parametrize(
    ("identifier", "questioned"),
    [
        (lambda i: f"P{i // 2}{'ab'[i % 2]}", True),
        (lambda i: f"{i // 3}{'ABC'[i % 3]}", True),
        (lambda i: f"{i // 2}-{'ab'[i % 2]}", True),
        (lambda i: f"{i // 2}{['', 'b'][i % 2]}", True),
        (lambda i: f"P{i // 2}-{['I', 'II'][i % 2]}", True),
        (lambda i: f"P{i // 2}post" if i % 2 else f"P{i // 2}pre", True),
        (lambda i: f"P{i // 2}(R)" if i % 2 else f"P{i // 2}(L)", True),
        (lambda i: f"{i // 2}/{i % 2 + 1}", False),
        (lambda i: f"P{i // 2}/{i % 2 + 1}", False),
        (lambda i: f"P{i}a", False),
        (lambda i: f"Wang {'ABCDEFGHIJKL'[i]}", False),
        (lambda i: f"{i * 2654435761 % 2**32:08x}", False),
    ],
)
def test_identifiers_that_end_in_letters_of_a_series_are_questioned(tmp_path, identifier, questioned):
    make(tmp_path, *(f"{i:02}.png" for i in range(12)))
    text = "".join(f"{i:02}.png,{'ab'[i % 2]},{identifier(i)}\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"image,label,patient\n{text}"))
    assert noted(data, "Patient identifiers may be those of images or visits") == questioned


@pytest.mark.parametrize(
    ("identifier", "several"),
    [
        (lambda i: f"P{i}/P{i + 1}" if i % 4 == 0 else f"P{i // 2}", 3),
        (lambda i: f"P-{i // 2} and P-{i // 2 + 1}", 12),
        (lambda i: f"['P{i // 2}', 'P{i // 2 + 1}']", 12),
        (lambda i: f"P{i // 2}-P{i // 2 + 1}", 12),
        (lambda i: "3/4" if i == 6 else f"{i // 2:03}", 1),
        (lambda i: "a1/b1" if i == 6 else f"{'ab'[i % 2]}{i // 4}", 1),
        (lambda i: f"P{i // 2}, {i // 2 + 1}" if i % 4 == 0 else f"P{i // 2}", 3),
        (lambda i: "P1, 2" if i == 6 else f"Q{i // 2}", 1),
        (lambda i: "1,234" if i == 6 else f"{i // 2}", 0),
        (lambda i: f"{i // 2},0" if i % 2 else f"{i // 2}", 0),
        (lambda i: f"{i // 2 + 1}/2019", 0),
        (lambda i: f"S{i % 2}/P{i // 2}", 0),
        (lambda i: f"Doe, Jane{i // 2}", 0),
        (lambda i: f"1/{i // 2 + 1}/1950", 0),
        (lambda i: "2020-1-2" if i == 6 else f"{i // 2}", 0),
    ],
)
def test_several_identifiers_in_a_cell_are_noted(tmp_path, identifier, several):
    make(tmp_path, *(f"{i:02}.png" for i in range(12)))
    text = "".join(f"{i:02}.png;{'ab'[i % 2]};{identifier(i)}\n" for i in range(12))
    data = opened(tmp_path, labels=table(tmp_path, f"image;label;patient\n{text}"))
    told = "with a patient identifier that names several"
    assert noted(data, f"{several} image", told) if several else not noted(data, told)


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
