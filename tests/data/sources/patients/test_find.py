from __future__ import annotations

import pytest

from tests.data.builders import column, lines, make, message, noted, opened, table
from xrayfast.errors import DataError


@pytest.mark.parametrize("name", ["AccessionNumber", "Series Instance UID", "exam_id"])
def test_columns_that_group_images_keep_them_in_one_split(tmp_path, name):
    make(tmp_path, *(f"{i}.png" for i in range(20)))
    table(tmp_path, f"image,label,{name}\n" + "".join(f"{i}.png,{'ab'[i // 2 % 2]},K{i // 2}\n" for i in range(20)))
    data = opened(tmp_path)
    assert data.table.groupby("study")["split"].nunique().max() == 1 and noted(data, "by study")


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


@pytest.mark.parametrize("name", ["病人编号", "ID Paciente", "Patientennummer", "numéro du patient"])
def test_columns_of_patients_in_other_languages(tmp_path, name):
    make(tmp_path, *(f"i{i}.png" for i in range(20)))
    rows = "".join(f"i{i}.png,{'ab'[i // 2 % 2]},{4000 + i // 2}\n" for i in range(20))
    table(tmp_path, f"image,label,{name}\n{rows}")
    assert opened(tmp_path).table["patient"].nunique() == 10


def test_studies_that_are_too_large_or_too_few_are_named(tmp_path):
    make(tmp_path, *(f"i{i}.png" for i in range(60)))
    found = lines("image,label,StudyInstanceUID", "i{i}.png,{ab},1.2.3", count=60)
    assert noted(opened(tmp_path, labels=table(tmp_path, found)), "60 images without a patient in 1 study")
    found = lines("image,label,StudyInstanceUID", "i{i}.png,{ab},1.2.3", count=20)
    said = message(DataError, tmp_path, labels=table(tmp_path, found))
    assert "The images are of 1 study" in said and "study_col='none'" in said
    assert len(opened(tmp_path, labels=tmp_path / "labels.csv", study_col="none")) == 20
