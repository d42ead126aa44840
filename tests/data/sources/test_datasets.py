"""Tables modeled on the published ones, with their headers and kinds of cells; all numbers are made up."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pytest

from tests.data.builders import cells, column, make, message, noted, opened, rows, splits, table
from xrayfast.data.sources.column_words import usual_columns
from xrayfast.data.sources.datasets import registry
from xrayfast.data.sources.datasets.chexpert import CHEXPERT_LABELS
from xrayfast.data.sources.datasets.spec import GENERIC, DatasetSpec
from xrayfast.data.sources.tables import read_table
from xrayfast.data.sources.tables.delimited import build_table
from xrayfast.data.sources.tables.table import HeaderlessFormat
from xrayfast.errors import ConfigError, DataError

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
NIH = f"""{NIH_HEADER}
00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,
00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,PA,2894,2729,0.143,0.143,
00000002_000.png,No Finding,0,2,081Y,M,PA,2500,2048,0.171,0.171,
00000003_000.png,Hernia|Pleural_Thickening,0,3,411Y,F,AP,2582,2991,0.143,0.143,
00000004_000.png,No Finding,0,4,011M,F,AP,2582,2991,0.143,0.143,
00000005_000.png,Emphysema,0,5,33,F,PA,2582,2991,0.143,0.143,
"""
NIH_FILES = [f"0000000{name}.png" for name in ("1_000", "1_001", "2_000", "3_000", "4_000", "5_000")]


def nih(root, name="Data_Entry_2017.csv", text=NIH):
    make(root, *(f"images_00{1 + i // 3}/images/{file}" for i, file in enumerate(NIH_FILES)))
    table(root, text, name)
    return root


@pytest.mark.parametrize("name", ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv", "labels.csv"])
def test_nih(tmp_path, name):
    data = opened(nih(tmp_path, name))
    assert data.task == "multi" and data.labels == ("Cardiomegaly", "Emphysema", "Hernia", "Pleural_Thickening")
    assert rows(data) == {
        "images_001/images/00000001_000.png": "Cardiomegaly",
        "images_001/images/00000001_001.png": "Cardiomegaly|Emphysema",
        "images_001/images/00000002_000.png": "",
        "images_002/images/00000003_000.png": "Hernia|Pleural_Thickening",
        "images_002/images/00000004_000.png": "",
        "images_002/images/00000005_000.png": "Emphysema",
    }
    assert column(data, "patient") == ["P00001", "P00001", "P00002", "P00003", "P00004", "P00005"]
    assert column(data, "age") == [58, 58, 81, None, pytest.approx(11 / 12), 33]
    assert column(data, "sex") == ["M", "M", "M", "F", "F", "F"]
    assert column(data, "view") == ["PA", "PA", "PA", "AP", "AP", "PA"]
    assert (
        data.notes[0]
        == f"Labels from {name} in {tmp_path}, because images_001, images_002 look like folders of images, not classes."
    )
    assert noted(data, f"The columns of {name} are those of NIH ChestX-ray14.")
    assert noted(data, "1 image with an age that is not a number up to 120")
    assert data.config.labels == tmp_path / name


def test_nih_test_list_is_mentioned_and_kept_if_requested(tmp_path):
    nih(tmp_path)
    (tmp_path / "test_list.txt").write_text("00000003_000.png\n00000005_000.png\n")
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    data = opened(tmp_path)
    assert noted(
        data,
        "test_list.txt next to Data_Entry_2017.csv lists the data set's own test split: to use it, give --split-file",
    )
    assert "test" not in splits(data).values()
    data = opened(tmp_path, split_file=tmp_path / "test_list.txt", valid_fraction=0.3)
    assert [name[-16:] for name, split in splits(data).items() if split == "test"] == [
        "00000003_000.png",
        "00000005_000.png",
    ]
    assert not noted(data, "lists the data set's own test split")


def test_nih_pngs_saved_as_something_else(tmp_path):
    make(tmp_path, *(f"small/{name[:-4]}.jpg" for name in NIH_FILES))
    table(tmp_path, NIH)
    assert len(opened(tmp_path)) == 6


CHEXPERT_HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS])


def chexpert_row(path, sex, age, side, view, **labels):
    return ",".join([path, sex, age, side, view, *(labels.get(name.replace(" ", ""), "") for name in CHEXPERT_LABELS)])


CHEXPERT_ROWS = [
    ("patient00001/study1/view1_frontal", "Female,68,Frontal,AP", {"NoFinding": "1.0", "SupportDevices": "1.0"}),
    ("patient00002/study1/view1_frontal", "Female,87,Frontal,AP", {"Edema": "-1", "LungOpacity": "1", "Fracture": "1"}),
    ("patient00002/study1/view2_lateral", "Female,87,Lateral,", {"Edema": "0.0", "LungOpacity": "1.0"}),
    ("patient00002/study2/view1_frontal", "Female,87,Frontal,PA", {"NoFinding": "1.0", "Edema": "-1.0"}),
    ("patient00003/study1/view1_frontal", "Unknown,0,Frontal,LL", {"Edema": "1.0", "Pneumonia": "-1.0"}),
    ("patient00004/study1/view1_frontal", "Male,54,Frontal,", {"Pneumonia": "1.0", "Edema": "0.0"}),
]  # fmt: skip


def chexpert(root, name="CheXpert-v1.0-small"):
    set_ = root / name
    make(set_, *(f"train/{path}.jpg" for path, _, _ in CHEXPERT_ROWS), "valid/patient64541/study1/view1_frontal.jpg")
    found = [
        chexpert_row(f"CheXpert-v1.0-small/train/{path}.jpg", *facts.split(","), **labels)
        for path, facts, labels in CHEXPERT_ROWS
    ]
    table(set_, "\n".join([CHEXPERT_HEADER, *found]) + "\n", "train.csv")
    one = chexpert_row("CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg", "Male", "73", "Frontal", "AP")
    table(set_, f"{CHEXPERT_HEADER}\n{one}\n", "valid.csv")
    return set_


@pytest.mark.parametrize(
    ("name", "source", "prefix"),
    [
        ("CheXpert-v1.0-small", "CheXpert-v1.0-small", "train/"),
        ("CheXpert-v1.0-small", ".", "CheXpert-v1.0-small/train/"),
        ("CheXpert-v1.0-small", "CheXpert-v1.0-small/train", ""),
        ("renamed", "renamed", "train/"),
    ],
)
def test_chexpert(tmp_path, name, source, prefix):
    set_ = chexpert(tmp_path, name)
    named = {} if source == name else {"labels": set_ / "train.csv"}
    data = opened(tmp_path / source, valid_fraction=0.4, **named)
    assert data.task == "multi" and data.labels == ("Edema", "Fracture", "Lung Opacity", "Pneumonia", "Support Devices")
    assert list(rows(data)) == [f"{prefix}{path}.jpg" for path, _, _ in CHEXPERT_ROWS]
    assert column(data, "patient") == ["P00001", "P00002", "P00002", "P00002", "P00003", "P00004"]
    assert column(data, "study") == ["S00001", "S00002", "S00002", "S00003", "S00004", "S00005"]
    assert column(data, "sex") == ["F", "F", "F", "F", None, "M"]
    assert column(data, "view") == ["AP", "AP", "LATERAL", "PA", "LATERAL", "FRONTAL"]
    image = f"{prefix}patient00002/study1/view1_frontal.jpg"
    assert cells(data, image) == {
        "Edema": None, "Fracture": 1, "Lung Opacity": 1, "Pneumonia": 0, "Support Devices": 0
    }  # fmt: skip
    assert data.truth[1].tolist() == [-1, 1, 1, 0, 0] and rows(data)[image] == "Fracture|Lung Opacity"
    assert noted(data, "The columns of train.csv are those of CheXpert") and noted(
        data, "3 are ignored (Edema 2, Pneumonia 1)"
    )
    if not named:
        assert noted(data, "valid.csv next to it is not read") and data.config.labels == set_ / "train.csv"


def test_chexpert_policies(tmp_path):
    set_ = chexpert(tmp_path)
    data = opened(set_, uncertain=("smooth:0.6", "Pneumonia=zeros"), blank=("ignore",), valid_fraction=0.4)
    first, second, _, fourth, fifth, _ = (cells(data, image) for image in rows(data))
    assert second["Edema"] == 0.6 and fifth["Pneumonia"] == 0 and second["Pneumonia"] is None
    # No Finding clears blank cells under any policy, and leaves uncertain cells to their policy.
    assert first == {"Edema": 0, "Fracture": 0, "Lung Opacity": 0, "Pneumonia": 0, "Support Devices": 1}
    assert fourth["Edema"] == 0.6 and fourth["Pneumonia"] == 0
    assert noted(data, "In 2 rows 'No Finding' is 1") and noted(data, "'No Finding' means none of the labels")
    zeros, unsaid = (opened(set_, blank=blank, valid_fraction=0.4).targets for blank in (("zeros",), ()))
    np.testing.assert_array_equal(zeros, unsaid)
    found = message(ConfigError, set_, uncertain=("Odema=ones",))
    assert "found the label 'Odema'" in found and "Did you mean 'Edema'?" in found


def test_no_finding_can_be_a_label(tmp_path):
    data = opened(chexpert(tmp_path), keep_no_finding=True, valid_fraction=0.4)
    assert "No Finding" in data.labels
    assert data.truth[:, data.labels.index("No Finding")].tolist() == [1, 0, 0, 1, 0, 0]


def test_some_columns_of_chexpert(tmp_path):
    data = opened(chexpert(tmp_path), label_col=("Edema", "Pneumonia"), uncertain=("ones",))
    assert data.labels == ("Edema", "Pneumonia") and data.targets[:, 0].tolist() == [0, 1, 0, 1, 1, 0]
    data = opened(tmp_path / "CheXpert-v1.0-small", label_col="Edema")
    assert data.labels == ("Edema",) and data.task == "multi"


def test_a_chexpert_image_that_is_not_there_is_not_taken_from_another_patient(tmp_path):
    set_ = chexpert(tmp_path)
    (set_ / "train/patient00003/study1/view1_frontal.jpg").unlink()
    found = message(DataError, set_)
    assert "train.csv row 6: image 'CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg' not found" in found


MIMIC_HEADER = ",".join(["subject_id", "study_id", *CHEXPERT_LABELS])
STUDIES = {
    ("10000032", "50414267"): (["aa-1", "ab-2"], {"No Finding": "1.0"}),
    ("10000032", "53189527"): (["ba-1"], {"Edema": "-1.0", "Pneumonia": "1.0"}),
    ("11000764", "57375967"): (["ca-1", "cb-2"], {"Edema": "1.0", "Pneumonia": "0.0"}),
    ("12000898", "50771383"): (["da-1"], {"Edema": "1.0"}),
}
VIEWS = {"aa-1": "PA", "ab-2": "LATERAL", "ba-1": "AP", "ca-1": "LL", "cb-2": "", "da-1": "AP"}


def mimic(root, packed=False, dicom_ids=False, ending="jpg"):
    texts, files = [], []
    for (subject, study), (images, labels) in STUDIES.items():
        filled = [labels.get(name, "") for name in CHEXPERT_LABELS]
        if dicom_ids:
            texts += [",".join([image, subject, study, *filled]) for image in images]
        else:
            texts.append(",".join([subject, study, *filled]))
        files += [f"files/p{subject[:2]}/p{subject}/s{study}/{image}.{ending}" for image in images]
        files.append(f"files/p{subject[:2]}/p{subject}/s{study}.txt")
    make(root, *files)
    header = ("dicom_id," if dicom_ids else "") + MIMIC_HEADER
    name, text = "mimic-cxr-2.0.0-chexpert.csv", "\n".join([header, *texts]) + "\n"
    if packed:
        (root / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        table(root, text, name)
    return root


def mimic_side_tables(root):
    split = dict(zip(VIEWS, ["train", "train", "train", "validate", "validate", "test"], strict=True))
    table(root, "dicom_id,study_id,subject_id,split\n" + "".join(f"{i},0,0,{s}\n" for i, s in split.items()),
          "mimic-cxr-2.0.0-split.csv")  # fmt: skip
    table(root, "dicom_id,subject_id,study_id,ViewPosition\n" + "".join(f"{i},0,0,{v}\n" for i, v in VIEWS.items()),
          "mimic-cxr-2.0.0-metadata.csv")  # fmt: skip


@pytest.mark.parametrize(("packed", "ending"), [(False, "jpg"), (True, "dcm")])
@pytest.mark.parametrize("dicom_ids", [False, True])
def test_mimic(tmp_path, monkeypatch, packed, ending, dicom_ids):
    monkeypatch.setattr(
        "xrayfast.data.sources.patients.find.read_headers", lambda *_, **__: None
    )  # these files are empty
    data = opened(mimic(tmp_path, packed, dicom_ids, ending))
    assert data.task == "multi" and data.labels == ("Edema", "Pneumonia")
    assert [name.rpartition("/")[2] for name in rows(data)] == [f"{image}.{ending}" for image in VIEWS]
    assert column(data, "patient") == ["P00001"] * 3 + ["P00002"] * 2 + ["P00003"]
    assert column(data, "study") == ["S00001", "S00001", "S00002", "S00003", "S00003", "S00004"]
    np.testing.assert_array_equal(
        data.targets, np.array([[0, 0], [0, 0], [np.nan, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    )
    assert noted(data, "are those of MIMIC-CXR")


def test_mimic_s_own_splits_and_views(tmp_path):
    mimic(tmp_path)
    mimic_side_tables(tmp_path)
    data = opened(tmp_path)
    assert list(splits(data).values()) == ["train", "train", "train", "valid", "valid", "test"]
    assert column(data, "view") == ["PA", "LATERAL", "AP", "LATERAL", None, "AP"]
    assert noted(data, "Splits from mimic-cxr-2.0.0-split.csv next to mimic-cxr-2.0.0-chexpert.csv")
    assert noted(data, "Views from mimic-cxr-2.0.0-metadata.csv")
    assert not data.drawn.any()
    assert "10000032" not in repr(data.notes) + data.table.drop(columns=["image", "path"]).to_csv()


def test_mimic_side_tables_that_are_wrong(tmp_path):
    mimic(tmp_path)
    table(tmp_path, "dicom_id,split\naa-1,extra\n", "mimic-cxr-2.0.0-split.csv")
    assert "split.csv row 2: split is 'extra'; expected train, valid or test" in message(DataError, tmp_path)
    table(tmp_path, "image,split\naa-1,train\n", "mimic-cxr-2.0.0-split.csv")
    assert "the columns dicom_id are missing" in message(DataError, tmp_path)


def test_a_mimic_study_without_images(tmp_path):
    mimic(tmp_path)
    (tmp_path / "files/p10/p10000032/s53189527/ba-1.jpg").unlink()
    found = message(DataError, tmp_path)
    assert "row 3: images in 'files/p10/p10000032/s53189527' not found" in found and "1 of 4 rows" in found


RSNA = """patientId,x,y,width,height,Target
0004cfab,,,,,0
00313ee0,,,,,0
00436515,264.0,152.0,213.0,379.0,1
00436515,562.0,152.0,256.0,453.0,1
00704310,323.0,577.0,160.0,104.0,1
"""


def test_rsna(tmp_path):
    make(tmp_path, *(f"stage_2_train_images/{name}.png" for name in ("0004cfab", "00313ee0", "00436515", "00704310")))
    make(tmp_path, "stage_2_test_images/0000a175.png")
    table(tmp_path, RSNA, "stage_2_train_labels.csv")
    table(tmp_path, "patientId,PredictionString\n0000a175,0.5 0 0 100 100\n", "stage_2_sample_submission.csv")
    data = opened(tmp_path, valid_fraction=0.5)
    assert data.task == "multi" and data.labels == ("Lung Opacity",)
    assert data.targets.tolist() == [[0], [0], [1], [1]]
    assert noted(data, "5 rows describe 4 images") and noted(data, "patientId identifies an image")
    assert noted(data, "'Lung Opacity' is the only label")


def test_rows_of_one_image_are_joined_by_their_largest_value(tmp_path):
    make(tmp_path, *(f"images/{name}.png" for name in "abcd"))
    text = "patientId,x,y,width,height,Target\n" + "".join(
        f"{row[0]},,,,,{row[1]}\n" for row in ("a0", "b1", "a1", "c0", "d0")
    )
    data = opened(tmp_path, labels=table(tmp_path, text), valid_fraction=0.5)
    assert data.targets[:, 0].tolist() == [1, 1, 0, 0]


def test_rsna_classes(tmp_path):
    names = ["a1", "a2", "b1", "b2", "c1", "c2"]
    make(tmp_path, *(f"stage_2_train_images/{name}.png" for name in names))
    kinds = {"a": "Lung Opacity", "b": "No Lung Opacity / Not Normal", "c": "Normal"}
    text = "patientId,class\n" + "".join(f"{name},{kinds[name[0]]}\n" * (1 + (name == "a1")) for name in names)
    data = opened(tmp_path, labels=table(tmp_path, text, "stage_2_detailed_class_info.csv"))
    assert data.task == "single" and data.labels == ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")
    assert len(data) == 6 and data.targets.sum(0).tolist() == [2, 2, 2]


COVIDX = """3 SARS-10.1148rg.242035193-g04mr34g0-Fig8a-day0.png pneumonia cohen
22 1-s2.0-S0929664620300449-gr2_lrg-a.png COVID-19 cohen
22 COVID (10).PNG COVID-19 sirm
0004cfab 0004cfab.png normal
00313ee0 00313ee0.png normal rsna
p5 p5.jpeg pneumonia rsna
"""


def test_covidx(tmp_path):
    names = [line.rsplit(".", 1)[0].split(" ", 1)[1] for line in COVIDX.splitlines()]
    make(tmp_path, *(f"train/{name}.png" for name in names))
    table(tmp_path, COVIDX, "train_COVIDx9A.txt")
    data = opened(tmp_path, labels=tmp_path / "train_COVIDx9A.txt", valid_fraction=0.4)
    assert data.task == "single" and data.labels == ("COVID-19", "normal", "pneumonia")
    assert rows(data)["train/COVID (10).png"] == "COVID-19"
    assert column(data, "patient") == ["P00001", "P00002", "P00002", "P00003", "P00004", "P00005"]
    assert set(splits(data).values()) == {"train", "valid"}
    assert noted(data, "The columns of train_COVIDx9A.txt are those of COVIDx")


def test_covidx_s_own_test_split(tmp_path):
    names = [line.rsplit(".", 1)[0].split(" ", 1)[1] for line in COVIDX.splitlines()]
    make(tmp_path, *(f"train/{name}.png" for name in names), "test/9.png", "test/0004cfab.png")
    table(tmp_path, COVIDX, "train_split.txt")
    table(tmp_path, "9 9.png normal rsna\n0004cfab 0004cfab.png normal rsna\n", "test_split.txt")
    data = opened(tmp_path, valid_fraction=0.4)
    assert data.config.labels == tmp_path / "train_split.txt" and not noted(data, "is not read")
    assert [name for name, split in splits(data).items() if split == "test"] == ["test/9.png", "test/0004cfab.png"]
    assert "train/0004cfab.png" in splits(data)
    assert noted(data, "test_split.txt next to train_split.txt is read too: its images are the test split")
    (tmp_path / "test/9.png").unlink()
    assert "test_split.txt row 1: image 'test/9.png' not found" in message(DataError, tmp_path)


def test_invalid_covidx_lines_are_refused(tmp_path):
    make(tmp_path, "train/1.png")
    found = message(DataError, tmp_path, labels=table(tmp_path, "secret 1.png normal\nsecret\n", "train.txt"))
    assert "train.txt row 2: expected a patient, an image's file name and a class" in found and "secret" not in found


PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodLabel,Report,Labels,Localizations"
)
PADCHEST = f"""{PADCHEST_HEADER}
0,20536686640136348236148679891455886468_k6ga29.png,0,20140915,2053668,839860488694,1930.0,F,POSTEROANTERIOR,PA,
 Physician,"sin hallazgos .",['normal'],[]
1,135803415504923515076821959678074435083.png,0,20150914,1358034,313572750430,1997.0,M,LATERAL,L,
 Physician,informe,"['pleural effusion', ' cardiomegaly', '']","['loc right']"
2,a3.png,54,20150914,1358035,313572750430,1997.0,M,ANTEROPOSTERIOR,AP_horizontal,
 RNN_model,informe,"['normal', 'cardiomegaly']",[]
3,a4.png,54,20150914,1358036,4,,M,,,
 RNN_model,informe,['pleural effusion'],[]
4,a5.png,54,20150914,1358037,5,2025,,,EXCLUDE,
 RNN_model,informe,"[""chronic changes""]",[]
""".replace(",\n ", ",")


def padchest(root, text=PADCHEST):
    make(root, "0/20536686640136348236148679891455886468_k6ga29.png", "0/135803415504923515076821959678074435083.png")
    make(root, "54/a3.png", "54/a4.png", "54/a5.png")
    table(root, text, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv")
    return root


def test_padchest(tmp_path):
    data = opened(padchest(tmp_path), valid_fraction=0.4)
    assert data.task == "multi" and data.labels == ("cardiomegaly", "chronic changes", "pleural effusion")
    assert list(rows(data).values()) == [
        "", "cardiomegaly|pleural effusion", "cardiomegaly", "pleural effusion", "chronic changes"
    ]  # fmt: skip
    assert column(data, "patient") == ["P00001", "P00002", "P00002", "P00003", "P00004"]
    assert column(data, "age") == [84, 18, 18, None, None]
    assert column(data, "view") == ["PA", "LATERAL", "AP_HORIZONTAL", None, "EXCLUDE"]
    assert column(data, "sex") == ["F", "M", "M", "M", None]
    assert noted(data, "Labels in 'Labels' are lists") and noted(data, "1 image with 'No Finding' and other labels")
    assert noted(data, "because 0, 54 look like folders of images, not classes")
    assert "No Finding" in opened(tmp_path, keep_no_finding=True).labels


def test_padchest_is_multi_label_even_if_no_row_has_several_labels(tmp_path):
    text = PADCHEST.replace(", ' cardiomegaly', ''", "").replace("'normal', 'cardiomegaly'", "'normal'")
    assert opened(padchest(tmp_path, text), valid_fraction=0.4).task == "multi"


def test_patients_of_a_public_data_set_are_the_same_in_all_of_its_tables(tmp_path):
    """Whatever else is in the table; equal numbers in another table are other persons."""
    one = opened(padchest(tmp_path / "one"), valid_fraction=0.4)
    two = opened(padchest(tmp_path / "two", PADCHEST.replace("cardiomegaly", "nodule")), valid_fraction=0.4)
    assert one.identities[:, 2].tolist() == two.identities[:, 2].tolist() and one.identities[:, 2].all()
    assert not {*one.identities[:, 2].tolist()} & {*one.identities[:, 0].tolist()}
    chosen = opened(padchest(tmp_path / "three"), valid_fraction=0.4, patient_col="StudyID")
    assert not chosen.identities[:, 2].any()


def test_padchest_images_in_one_folder(tmp_path):
    padchest(tmp_path / "set")
    flat = make(tmp_path / "flat", *(f"{name.rpartition('/')[2]}" for name in rows(opened(tmp_path / "set"))))
    labels = next((tmp_path / "set").glob("*.csv"))
    assert len(opened(flat, labels=labels)) == 5


def test_padchest_rows_without_labels(tmp_path):
    padchest(tmp_path, PADCHEST.replace("['pleural effusion']", ""))
    found = message(DataError, tmp_path)
    assert "row 5: found a blank label" in found and "blank='ignore'" in found
    assert np.isnan(opened(tmp_path, blank=("ignore",), valid_fraction=0.4).targets[3]).all()
    assert opened(tmp_path, blank=("zeros",), valid_fraction=0.4).targets[3].tolist() == [0, 0, 0]


VINDR = """image_id,Aortic enlargement,Cardiomegaly,Pleural effusion,No finding
000434271f63a053c4128a0ba6352c7f,0,0,0,1
00053190460d56c53cc3e57321387478,1,1,0,0
0005e8e3701dfb1dd93d53e2ff537b6e,0,1,1,0
0006e0a85696f6bb578e84fafa9a5607,0,0,0,1
"""


def test_plain_columns_of_0_and_1(tmp_path):
    names = [line.split(",")[0] for line in VINDR.splitlines()[1:]]
    make(tmp_path, *(f"train/{name}.png" for name in names))
    data = opened(tmp_path, labels=table(tmp_path, VINDR, "image_labels_train.csv"), valid_fraction=0.5)
    assert data.task == "multi" and data.labels == ("Aortic enlargement", "Cardiomegaly", "Pleural effusion")
    assert list(rows(data).values()) == ["", "Aortic enlargement|Cardiomegaly", "Cardiomegaly|Pleural effusion", ""]


# Which table belongs to which data set


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (NIH_HEADER.split(","), "NIH ChestX-ray14"),
        (CHEXPERT_HEADER.split(","), "CheXpert"),
        (["Path", *CHEXPERT_LABELS], "CheXpert"),
        (MIMIC_HEADER.split(","), "MIMIC-CXR"),
        (["dicom_id", "subject_id", "study_id", "Edema"], "MIMIC-CXR"),
        (RSNA.splitlines()[0].split(","), "RSNA Pneumonia"),
        (["patientId", "class"], "RSNA Pneumonia (classes)"),
        (PADCHEST_HEADER.split(","), "PadChest"),
        (VINDR.splitlines()[0].split(","), "generic"),
        (["image", "labels"], "generic"),
        (["path", "patient_id", "target"], "generic"),
        (["dicom_id", "study_id", "subject_id", "split"], "generic"),
        ([], "generic"),
    ],
)
def test_data_sets_are_recognized_by_their_columns(columns, name):
    assert registry.match_spec(columns).name == name


def test_usual_columns_in_order_of_preference():
    assert usual_columns(["Path", "IMAGE", "x"], "path") == ["IMAGE", "Path"]
    assert usual_columns(["Patient Gender", "PatientSex_DICOM"], "sex") == ["Patient Gender", "PatientSex_DICOM"]
    assert usual_columns(["x"], "view") == [] and GENERIC.blank == "ignore"


# Every guess can be overridden


def test_options_override_the_spec(tmp_path):
    nih(tmp_path, text=NIH.replace("Finding Labels,", "Finding Labels,mine,who,fold,").replace(
        "_000.png,", "_000.png,x,").replace("_001.png,", "_001.png,y,"))  # fmt: skip
    text = ["Image Index,Finding Labels,mine,who,fold,Patient ID"]
    text += [
        f"{name},Mass,{'ab'[i % 2]}/c,w{i // 2},{'train' if i < 4 else 'valid'},{i}" for i, name in enumerate(NIH_FILES)
    ]
    file = table(tmp_path, "\n".join(text), "mine.csv")
    data = opened(tmp_path, labels=file, label_col="mine", label_delim="/", patient_col="who", split_col="fold")
    assert data.labels == ("a", "b", "c") and data.table["patient"].nunique() == 3
    assert list(splits(data).values()) == ["train"] * 4 + ["valid"] * 2
    data = opened(tmp_path, labels=file, label_col="mine", path_col="Image Index", patient_col="none")
    assert data.task == "single" and data.labels == ("a/c", "b/c") and data.table["patient"].isna().all()


# A new data set is one module and one row


def test_a_new_data_set(tmp_path, monkeypatch):
    """Every field of a spec, for a data set whose text file has no header and whose views are in a second table."""

    def add_views(records, file):
        views = read_table(file.with_name("views.csv")).columns
        view_of = dict(zip(views["file"], views["view"], strict=True))
        records.views = [view_of[name.rpartition("/")[2]] for name in records.names]

    def parse(file, lines):
        rows = [line.split() for line in lines]
        return build_table(file, ("scan", "finding_code", "born", "taken"), rows, range(1, len(rows) + 1))

    spec = DatasetSpec(
        "Toy",
        (frozenset({"scan", "finding_code"}),),
        headerless=HeaderlessFormat(re.compile(r"scan\d+ .*"), ("scan", "finding_code", "born", "taken"), parse),
        main_table=r"toy_.*\.txt",
        image_folder=r"ward\d+",
        image_path="{scan}",
        label_column="finding_code",
        no_finding="clear",
        multi_label=True,
        patient_in_path=re.compile(r"ward\d+/scan(\d)"),
        age_columns=("born", "taken"),
        ages_of=lambda born, taken: [str(int(b) - int(a)) for a, b in zip(born, taken, strict=True)],
        note="It is a toy.",
        complete_records=add_views,
    )
    monkeypatch.setattr(registry, "SPECS", (*registry.SPECS, spec))
    names = [f"scan{i // 2}{i % 2}.png" for i in range(8)]
    make(tmp_path, *(f"ward{1 + i // 4}/{name}" for i, name in enumerate(names)))
    findings = ("clear", "mass", "mass|edema", "edema")
    table(
        tmp_path, "".join(f"{n[:6]} {findings[i % 4]} 1950 20{i:02d}\n" for i, n in enumerate(names)), "toy_labels.txt"
    )
    table(tmp_path, "file,view\n" + "".join(f"{n},PA\n" for n in names), "views.csv")
    data = opened(tmp_path)
    assert data.config.labels == tmp_path / "toy_labels.txt" and data.task == "multi"
    assert list(rows(data).items())[:3] == [
        ("ward1/scan00.png", ""),
        ("ward1/scan01.png", "mass"),
        ("ward1/scan10.png", "edema|mass"),
    ]
    assert column(data, "patient") == [f"P0000{1 + i // 2}" for i in range(8)]
    assert column(data, "age")[:2] == [50, 51] and column(data, "view") == ["PA"] * 8
    assert noted(data, "The columns of toy_labels.txt are those of Toy. It is a toy.")
    assert noted(data, "Patients from the Toy file names: 4 on 8 of 8 images")


def test_vindr_joins_the_boxes_of_readers(tmp_path):
    root = make(tmp_path / "boxes", *(f"train/{i}.dicom" for i in range(6)))
    names = ["No finding", "Cardiomegaly", "Aortic enlargement"]
    text = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n" + "".join(
        f"{i},{names[(i * reader) % 3]},0,R{reader},1,2,3,4\n" for i in range(6) for reader in (1, 2)
    )
    data = opened(root, labels=table(root, text, "train.csv"))
    assert data.labels == ("Aortic enlargement", "Cardiomegaly") and noted(data, "are those of VinDr-CXR")
    assert rows(data)["train/1.dicom"] == "Aortic enlargement|Cardiomegaly" and rows(data)["train/0.dicom"] == ""
    flags = "image_id,rad_id,Aortic enlargement,Cardiomegaly\n" + "".join(
        f"{i},R{reader},{int(reader == i % 2)},{i % 2}\n" for i in range(6) for reader in (0, 1)
    )
    data = opened(root, labels=table(root, flags, "image_labels_train.csv"))
    assert (
        rows(data)["train/1.dicom"] == "Aortic enlargement|Cardiomegaly"
        and rows(data)["train/0.dicom"] == "Aortic enlargement"
    )
