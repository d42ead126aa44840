from __future__ import annotations

import re

import pytest

from tests.data.builders import classes, column, lines, make, message, noted, opened, table, with_patients
from xrayfast.data.sources.patients import image_names
from xrayfast.errors import ConfigError, DataError

NIH = [f"{label}/000{20000 + i // 2:05d}_{i % 2:03d}.png" for i in range(12) for label in ("a", "b")]


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


def test_a_pattern_that_would_take_forever_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(image_names, "_SEARCH_SECONDS", 0.5)
    make(tmp_path, *(f"{label}/{'a' * 60}{i}.png" for label in ("normal", "tb") for i in range(5)))
    found = message(ConfigError, tmp_path, patient_col="name:((a+)+)!")
    assert "'((a+)+)!' takes more than" in found and "10 names" in found and "nested repeats" in found
    assert opened(tmp_path, patient_col="name:a([0-9])").table["patient"].nunique() == 5


def test_patients_named_like_the_images_are_noted(tmp_path):
    note = "Patient identifiers are the same as the image names, one per image"
    root = make(tmp_path, *(f"{i}.png" for i in range(10)))
    text = lines("image,label,patient_id", "{i}.png,{ab},{i}")
    assert noted(opened(root, labels=table(root, text)), note)
    assert not noted(opened(root, labels=table(root, text.replace("4.png,a,4", "4.png,a,5"))), note)


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
    assert not noted(with_patients(tmp_path, [f"i{i - i % 2}" for i in range(24)]), "the same as the image names")
    assert not noted(with_patients(tmp_path, [f"{i + 100}" for i in range(24)]), "the same as the image names")


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


def test_further_digits_that_number_the_crops_of_an_image_are_noted_with_a_pattern(tmp_path):
    names = [f"{'ab'[i % 2]}/s{i:03d}{crop}.jpg" for i in range(10) for crop in ("", 2, 3)]
    (note,) = [note for note in opened(make(tmp_path / "a", *names)).notes if "may contain patient IDs" in note]
    assert "finds 10 patients on 30 of 30 images" in note
    assert opened(tmp_path / "a", patient_col=note.split("'")[1]).table["patient"].nunique() == 10
    others = (f"{'ab'[width - 3]}/{i:0{width}}.jpg" for width in (3, 4) for i in range(20))
    assert not noted(opened(make(tmp_path / "b", *others)), "may contain patient IDs")
    files = [f"{letter}/{letter}{i:03d}.jpg" for letter in "ab" for i in range(40)]
    assert not noted(opened(make(tmp_path / "c", *files, "a/x01.jpg")), "may contain patient IDs")
    for i, start in enumerate((990, 90)):  # past the length to which numbers are filled up with zeros
        files = (f"{'ab'[k % 2]}/s{k:03d}.jpg" for k in range(start, start + 24))
        assert not noted(opened(make(tmp_path / f"b{i}", *files)), "may contain patient IDs")


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


def test_no_pattern_is_suggested_in_place_of_patients_from_names(tmp_path):
    make(tmp_path, *(f"{'ab'[i % 2]}/000{20000 + i}_{i % 10:03d}.png" for i in range(20)))
    assert not noted(opened(tmp_path), "may contain patient IDs")
