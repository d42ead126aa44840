from __future__ import annotations

import pytest

from tests.data.builders import classes, lines, make, message, noted, opened, rows, table
from xrayfast.errors import DataError

NIH = "Image Index,Finding Labels,Patient ID\n"


def nih_rows(*files):
    return NIH + "".join(
        f"{file.rpartition('/')[2]},{'Mass|Edema' if i % 2 else 'Mass'},{i}\n" for i, file in enumerate(files)
    )


def ten(*folders):
    """Return ten image files in some folders, each with its own name."""
    return [f"{folders[i * len(folders) // 10]}/{i}.png" for i in range(10)]


def test_class_folders_take_precedence_over_a_table_next_to_them(tmp_path):
    classes(tmp_path, a=3, b=3)
    table(tmp_path, "image,label\n")
    data = opened(tmp_path)
    assert data.labels == ("a", "b") and noted(data, "labels.csv is not used, because there are class folders")
    table(tmp_path, nih_rows("a/a000.png"), "Data_Entry_2017.csv")
    assert noted(opened(tmp_path), "Data_Entry_2017.csv, labels.csv are not used, because")


def test_a_table_of_images_next_to_class_folders_is_named_whatever_its_name(tmp_path):
    classes(tmp_path, a=3, b=3)
    table(tmp_path, "file,class,patient_id\na/a000.png,a,7\n", "manifest.csv")
    table(tmp_path, "site,scanner\nx,y\n", "sites.csv")
    assert noted(opened(tmp_path), "manifest.csv is not used, because there are class folders. To read labels and")


@pytest.mark.parametrize(
    "files",
    [
        ten("images"),
        ten("anything"),
        ten("images_001", "images_002"),
        ten("images_001/images", "images_002/images"),
        ten("images-224", "Images 512"),
        ten("stage_2_train_images", "stage_2_test_images"),
        ten("png", "dicom"),
        ten("X-rays 1", "X-rays 2"),
        ten("train", "test"),
        ten("train/images", "valid/images"),
        ten("train/patient00001/study1", "valid/patient00002/study1"),
        ten("patient00001", "patient00002"),
        ten("p10/p10000032/s50414267", "p11/p11000032/s50414268"),
        [f"{i}.png" for i in range(10)],
    ],
)
@pytest.mark.parametrize("name", ["labels.csv", "Data_Entry_2017.csv"])
def test_folders_of_images_are_no_classes(tmp_path, files, name):
    make(tmp_path, *files)
    table(tmp_path, nih_rows(*files), name)
    data = opened(tmp_path)
    assert list(rows(data)) == files and data.labels == ("Edema", "Mass")
    assert data.notes[0].startswith(f"Labels from {name} in {tmp_path}")
    assert data.config.labels == tmp_path / name
    if "_001" in files[0]:
        assert "because images_001, images_002 look like folders of images, not classes" in data.notes[0]


@pytest.mark.parametrize(
    "files",
    [
        ten("covid", "normal"),
        ten("images_covid", "images_normal"),
        ten("xray", "normal"),
        ten("s1", "s2"),
        ten("train/a", "train/b", "valid/a", "valid/b"),
        [
            *ten("train/a", "train/b", "valid/a", "valid/b"),
            "valid/patient00001/study1/1.png",
            "train/patient00001/2.png",
        ],
    ],
)
def test_folders_that_are_classes(tmp_path, files):
    make(tmp_path, *files)
    table(tmp_path, nih_rows(*files), "labels.csv")
    assert noted(opened(tmp_path, valid_fraction=0.3), "labels.csv is not used")


def test_numeric_folders_are_classes_unless_the_table_of_a_known_data_set_is_next_to_them(tmp_path):
    files = ten("0", "1")
    make(tmp_path, *files)
    table(tmp_path, lines("image,label", "{i}.png,{ab}"), "labels.csv")
    assert opened(tmp_path).labels == ("0", "1")
    table(tmp_path, nih_rows(*files), "Data_Entry_2017.csv")
    (tmp_path / "labels.csv").unlink()
    assert opened(tmp_path).labels == ("Edema", "Mass")


def test_the_only_table(tmp_path):
    make(tmp_path, *ten("pictures"))
    make(tmp_path, "README.txt", "notes.txt")
    table(tmp_path, lines("image,label", "{i}.png,{ab}"), "train.csv")
    data = opened(tmp_path)
    assert data.labels == ("a", "b") and data.notes[0] == f"Labels from train.csv in {tmp_path}."


def test_the_one_table_of_a_known_form(tmp_path):
    files = ten("images_001", "images_002")
    make(tmp_path, *files)
    table(tmp_path, nih_rows(*files), "labels_of_mine.csv")
    table(tmp_path, "Image Index,Finding Label,x\n", "BBox_List_2017.csv")
    table(tmp_path, "image,label\n", "other.csv")
    assert opened(tmp_path).notes[0].startswith("Labels from labels_of_mine.csv")
    table(tmp_path, nih_rows(*files), "Data_Entry_2017_v2020.csv")
    data = opened(tmp_path)
    assert data.notes[0].startswith("Labels from Data_Entry_2017_v2020.csv")
    assert noted(data, "labels_of_mine.csv next to it is not read")


def test_a_table_of_labels_next_to_labels_csv_is_named(tmp_path):
    make(tmp_path, *ten("images"))
    for name in ("labels.csv", "labels_old.csv"):
        table(tmp_path, lines("image,label", "{i}.png,{ab}"), name)
    table(tmp_path, lines("image,age", "{i}.png,{i}"), "ages.csv")
    assert noted(opened(tmp_path), "labels_old.csv next to it is not read")


def test_several_tables(tmp_path):
    files = ten("images_001", "images_002")
    make(tmp_path, *files)
    for name in ("one.csv", "two.csv"):
        table(tmp_path, lines("image,label", "{i}.png,{ab}"), name)
    assert "found the tables one.csv, two.csv; expected one. Name it with labels=" in message(DataError, tmp_path)
    for name in ("one.csv", "two.csv"):
        table(tmp_path, nih_rows(*files), name)
    assert "found the tables one.csv, two.csv" in message(DataError, tmp_path)
    assert len(opened(tmp_path, labels=tmp_path / "one.csv")) == 10


def test_folders_of_images_without_a_table(tmp_path):
    make(tmp_path, *ten("images_001", "images_002"))
    found = message(DataError, tmp_path)
    assert "found images_001, images_002, which look like folders of images, not classes" in found
    assert "labels.csv" in found


@pytest.mark.parametrize("folders", [["images"], ["images_001", "images_002"], ["."]])
def test_a_table_of_a_format_that_is_not_read_is_named_beside_images(tmp_path, folders):
    make(tmp_path, *ten(*folders), "labels.xlsx")
    found = message(DataError, tmp_path)
    assert "no table of labels; labels.xlsx is not read: save it as labels.csv" in found
    make(tmp_path / "classes", *ten("images/a", "images/b"), "labels.xlsx")
    assert opened(tmp_path / "classes").labels == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [("labels.xlsx", "PK\x03\x04", "found an Excel file"), ("labels.json", '[{"image": "a/0.png"}]', "found JSON")],
)
def test_a_table_as_the_source_in_a_format_that_is_not_read_is_named(tmp_path, name, content, found):
    make(tmp_path, *ten("a"))
    assert found in message(DataError, table(tmp_path, content, name))
    assert "as CSV, with a header and a row for each image" in message(DataError, tmp_path / name)


def test_a_table_as_the_source(tmp_path):
    make(tmp_path, *ten("images"))
    file = table(tmp_path, lines("image,label", "{i}.png,{ab}"), "films.tsv")
    data = opened(file)
    assert data.config.source == tmp_path and data.config.labels == file
    assert rows(data) == rows(opened(tmp_path, labels=file))
    assert "no.csv: found no such file" in message(DataError, tmp_path / "no.csv")
    (tmp_path / "set.csv" / "a").mkdir(parents=True)
    assert "set.csv/a: found no images" in message(DataError, tmp_path / "set.csv")


@pytest.mark.parametrize("folder", ["images_backup", "old images", "images_old", "images_small", "Images (copies)"])
def test_a_backup_next_to_the_images_of_a_table_is_no_class(tmp_path, folder):
    make(tmp_path, *(f"images/{i}.png" for i in range(10)), f"{folder}/3.png", f"{folder}/4.png")
    table(tmp_path, lines("image,label", "images/{i}.png,{ab}"))
    data = opened(tmp_path)
    assert data.labels == ("a", "b") and len(data) == 10
    (tmp_path / "images/3.png").unlink()
    assert f"{folder}/3.png has the name of a missing image" in message(DataError, tmp_path)


def test_folders_of_patients_in_split_folders_without_a_table_are_no_classes(tmp_path):
    found = message(DataError, make(tmp_path, *(f"train/patient{i:05d}/study1/view1_frontal.jpg" for i in range(9))))
    assert "found patient00000" in found and "look like folders of images, not classes" in found
