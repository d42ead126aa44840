from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.builders import classes, make, message, noted, opened, rows, splits
from xrayfast.config import DataConfig
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import ConfigError, DataError


def test_flat_folders(tmp_path):
    data = opened(classes(tmp_path, normal=20, covid=10))
    assert data.task == "single" and data.labels == ("covid", "normal") and len(data) == 30
    assert data.counts().to_dict("index") == {
        "covid": {"train": 8, "valid": 2, "test": 0},
        "normal": {"train": 16, "valid": 4, "test": 0},
        "images": {"train": 24, "valid": 6, "test": 0},
    }
    assert list(data.table.columns) == ["image", "path", "patient", "split", "labels"]
    assert data.table["image"].iloc[0] == "covid/covid000.png"
    assert all(Path(path).is_file() and Path(path).is_absolute() for path in data.table["path"])
    assert data.table["patient"].isna().all()
    assert data.targets.dtype == np.float32 and data.drawn.all()
    joined = ["|".join(np.array(data.labels)[row == 1]) for row in data.targets]
    assert joined == data.table["labels"].tolist()


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("TRAIN", "Val", "Test"), ("training", "validation", "testing")]
)
def test_split_folders(tmp_path, names):
    files = [f"{split}/{label}/{i}.png" for split in names for label in ("a", "b") for i in range(2)]
    data = opened(make(tmp_path, *files), test_fraction=0.3)
    assert data.counts().loc["images"].to_dict() == {"train": 4, "valid": 4, "test": 4}
    assert splits(data)[f"{names[1]}/a/0.png"] == "valid"
    assert any("test_fraction (0.3) has no effect" in note for note in data.notes)


def test_deeper_hidden_and_other_files(tmp_path):
    make(
        tmp_path,
        "a/x/1.png",
        "a/2.JPG",
        "a/.h.png",
        "a/.d/3.png",
        "a/notes.txt",
        ".git/x.png",
        "b/1.png",
        "b/2.tiff",
    )
    (tmp_path / "b" / "dangling.png").symlink_to(tmp_path / "nowhere")
    data = opened(tmp_path)
    assert list(rows(data)) == ["a/2.JPG", "a/x/1.png", "b/1.png", "b/2.tiff"]
    assert any("Files in a that" in note and "notes.txt" in note for note in data.notes)
    dangling = str(tmp_path / "b" / "dangling.png")
    assert any("broken links" in note and dangling in note for note in data.notes)


def test_a_class_folder_may_be_a_link(tmp_path):
    classes(tmp_path / "elsewhere", a=2)
    classes(tmp_path / "data", b=2)
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    assert next(iter(rows(opened(tmp_path / "data")))) == "a/a000.png"


def test_joined_folder_names(tmp_path):
    data = opened(classes(tmp_path, **{"covid-19+pneumonia": 4, "pneumonia": 4, "normal": 4}))
    assert data.task == "multi" and data.labels == ("covid-19", "normal", "pneumonia")
    assert rows(data)["covid-19+pneumonia/covid-19+pneumonia000.png"] == "covid-19|pneumonia"
    assert data.counts().loc["pneumonia"].sum() == 8


def test_the_same_file_in_two_classes_is_one_image_with_both_labels(tmp_path):
    classes(tmp_path, a=4, b=4)
    make(tmp_path, "a/both.png", "b/both.png", content="the same")
    data = opened(tmp_path)
    assert data.task == "multi" and len(data) == 9
    assert rows(data)["a/both.png"] == "a|b" and "b/both.png" not in rows(data)
    assert any("1 file is a copy" in note for note in data.notes)
    found = message(DataError, tmp_path, task="single")
    assert "a/both.png" in found and "b/both.png" in found and "task='multi'" in found


def test_the_same_name_with_other_content_is_another_image(tmp_path):
    make(tmp_path, *(f"{label}/{i}.png" for label in "abc" for i in range(3)))
    make(tmp_path, "a/0.png", "b/0.png", content="same size, A")
    make(tmp_path, "c/0.png", content="same size, B")
    data = opened(tmp_path)
    assert len(data) == 8 and data.task == "multi"
    assert rows(data)["a/0.png"] == "a|b" and rows(data)["c/0.png"] == "c"
    assert any("3 file names in several classes" in note and "0.png" in note for note in data.notes)


def test_the_same_name_with_another_size_is_another_image(tmp_path):
    make(tmp_path, "a/0.png", "a/1.png", content="short")
    make(tmp_path, "b/0.png", "b/1.png", content="much longer")
    data = opened(tmp_path)
    assert data.task == "single" and len(data) == 4


def test_copies_in_other_splits_stay_separate_images(tmp_path):
    for split in ("train", "valid"):
        classes(tmp_path / split, a=2, b=2)
    make(tmp_path, "train/a/x.png", "valid/b/x.png", content="the same")
    data = opened(tmp_path)
    assert data.task == "single" and len(data) == 10


def test_no_finding_stays_a_class_of_folders(tmp_path):
    data = opened(classes(tmp_path, **{"No Finding": 3, "a": 3}), task="multi")
    assert data.task == "multi" and data.labels == ("a", "No Finding")


def build_empty(root):
    root.mkdir()


def build_missing(root):
    pass


def build_file(root):
    root.write_text("x")


def build_loose(root):
    make(root, "1.png", "2.png")


def build_empty_class(root):
    classes(root, a=3)
    (root / "b").mkdir()


def build_one_class(root):
    classes(root, a=3)


def build_one_image(root):
    classes(root, a=3, b=1)


def build_val_and_valid(root):
    for split in ("train", "val", "valid"):
        classes(root / split, a=2, b=2)


def build_extra(root):
    classes(root / "train", a=2, b=2)
    make(root, "old/1.png")


def build_no_train(root):
    classes(root / "valid", a=2, b=2)


def build_empty_part(root):
    classes(root / "train", a=2, b=2)
    (root / "valid").mkdir()


def build_other_spelling(root):
    classes(root / "train", Normal=2, covid=2)
    classes(root / "valid", Normall=2, covid=2)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (build_missing, ["no such folder", "CLASS/*.png", "train/CLASS", "labels.csv", "xf.synth"]),
        (build_empty, ["no class folders", "CLASS/*.png", "xf.synth"]),
        (build_file, ["found a file; expected a folder"]),
        (build_loose, ["2 images outside of class folders", "CLASS/*.png"]),
        (build_empty_class, ["/b: found no images in this class folder", ".png", "remove the folder"]),
        (build_one_class, ["only one class, 'a'; expected at least 2"]),
        (build_one_image, ["class 'b' has 1 image; at least 2 are needed", "one to validate"]),
        (build_val_and_valid, ["both val/ and valid/", "one valid folder"]),
        (build_extra, ["found old next to train", "only train, valid and test"]),
        (build_no_train, ["found valid; expected a train folder"]),
        (build_empty_part, ["valid: found no class folders"]),
        (build_other_spelling, ["class 'Normall' has no images in the train split", "Did you mean 'Normal'?"]),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, build, words):
    build(tmp_path / "data")
    found = message(DataError, tmp_path / "data")
    for word in words:
        assert word in found


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    classes(tmp_path, a=2, b=2)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = message(DataError, tmp_path)
    assert "/b: can't be read (Permission denied)" in found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patient_col": "id"}, "patient_col names a column, but there is no table"),
        ({"label_col": ("a", "b")}, "label_col names a column, but there is no table"),
        ({"uncertain": ("zeros",)}, "uncertain applies to the cells of a table, but there is no table"),
        ({"blank": ("zeros",)}, "blank applies to the cells of a table, but there is no table"),
    ],
)
def test_options_about_a_table_without_one(tmp_path, options, words):
    assert words in message(ConfigError, classes(tmp_path, a=2, b=2), **options)


def test_dicom_files_without_an_ending_are_images(tmp_path):
    classes(tmp_path, a=3, b=3)
    for name in ("a/1.2.840.113", "a/IM0001", "b/notes"):
        (tmp_path / name).write_bytes(bytes(128) + (b"DICM" if name != "b/notes" else b"text"))
    data = opened(tmp_path, patient_col="none")
    assert {"a/1.2.840.113", "a/IM0001"} < set(rows(data)) and len(data) == 8
    assert any("Files in b that are not images" in note and "notes" in note for note in data.notes)


# Folders that are no classes, copies of folders, and folders of joint labels


def test_folders_without_labels_are_left_out_and_counted(tmp_path):
    classes(tmp_path, normal=5, pneumonia=5, unlabeled=3, **{"To do": 2})
    data = opened(tmp_path)
    assert data.labels == ("normal", "pneumonia") and len(data) == 10
    assert ("Left out: in a folder whose name means that its images have no label", 5) in data.flow()
    assert (
        dict(data.left_out)["in a folder whose name means that its images have no label"][-1]
        == "unlabeled/unlabeled002.png"
    )
    assert noted(
        data, "Folders left out, because their names do not look like classes: To do, unlabeled", "--label-map"
    )
    (tmp_path / "map.txt").write_text("unlabeled = unlabeled\n")
    data = opened(tmp_path, label_map=tmp_path / "map.txt")
    assert data.labels == ("normal", "pneumonia", "unlabeled") and len(data) == 13
    known = open_manifest(DataConfig(source=tmp_path), known_labels=("normal", "pneumonia", "To do", "unlabeled"))
    assert len(known) == 15 and known.labels == ("normal", "pneumonia", "To do", "unlabeled")


def test_folders_without_labels_in_and_beside_folders_of_splits(tmp_path):
    for split in ("train", "valid"):
        classes(tmp_path / split, a=2, b=2, unsure=1)
    classes(tmp_path / "test", unsure=3, a=1)
    classes(tmp_path, unknown=5)
    data = opened(tmp_path)
    assert data.labels == ("a", "b") and data.counts().loc["images"].to_dict() == {"train": 4, "valid": 4, "test": 1}
    assert dict(data.flow())["Left out: in a folder whose name means that its images have no label"] == 5 + 1 + 1 + 3


def test_a_folder_without_labels_is_a_class_if_there_is_only_one_other(tmp_path):
    data = opened(classes(tmp_path, known=3, unknown=3))
    assert data.labels == ("known", "unknown") and noted(data, "A class folder is named 'unknown'")


def test_copies_of_folders_are_the_same_class(tmp_path):
    classes(
        tmp_path, normal=2, pneumonia=4, **{"normal (1)": 3, "Copy of normal": 1, "normal - Copy": 1, "mass (2)": 2}
    )
    make(tmp_path, "normal/x.png", "normal (1)/x.png", content="same")
    data = opened(tmp_path, task="single")
    assert data.labels == ("mass (2)", "normal", "pneumonia") and data.targets.sum(0).tolist() == [2, 8, 4]
    assert noted(data, "'normal' (also 'normal (1)'", "'Copy of normal'", "'normal - Copy'")
    assert noted(data, "Labels that look like copies of others: 'mass (2)'")
    assert "normal (1)" in opened(tmp_path, exact_labels=True).labels


@pytest.mark.parametrize("name", ["edema,mass", "edema and mass", "edema & mass", "edema_mass", "mass-edema"])
def test_folders_of_joint_labels_are_noted(tmp_path, name):
    data = opened(classes(tmp_path, edema=3, mass=3, **{name: 3}))
    assert set(data.labels) == {"edema", "mass", name}
    assert noted(data, "is in 1 class folder but is not used as a separator", f"{name!r}", "name it A+B")


def test_images_in_hidden_folders_are_left_out_and_counted(tmp_path):
    """Only images are worth a note among the files that macOS, file servers and editors leave in a folder."""
    classes(tmp_path, normal=8, covid=8)
    make(tmp_path, ".Trash/old.png", "covid/.ipynb_checkpoints/1.png", "covid/.hidden.png", "__MACOSX/covid/2.png")
    make(tmp_path, "covid/.in_the_cloud.png.icloud", "$RECYCLE.BIN/covid/3.png", "covid/#recycle/4.png")
    make(tmp_path, "__MACOSX/covid/._2.png", "covid/._covid000.png", "@eaDir/covid000.png/note.txt")
    (tmp_path / ".DS_Store").touch()
    data = opened(tmp_path)
    assert len(data) == 16
    (note,) = [note for note in data.notes if "hidden" in note]
    assert note.startswith("7 images left out (hidden, or in a hidden folder): ") and ".Trash/old.png" in note
    assert dict(data.left_out)["hidden, or in a hidden folder"]


def test_outputs_of_xrayfast_are_no_classes(tmp_path):
    classes(tmp_path, normal=6, pneumonia=6)
    make(tmp_path, "runs/2026-01-01/figures/roc.png", "runs/2026-01-01/run.json", "check/check.json", "mine/run.json")
    make(tmp_path, "mine/figures/roc.png")
    data = opened(tmp_path)
    assert data.labels == ("normal", "pneumonia")
    assert noted(data, "2 images left out (in an output of xrayfast, such as a run): mine/figures/roc.png")
    assert opened(classes(tmp_path / "other", runs=6, pneumonia=6)).labels == ("pneumonia", "runs")


def test_folders_of_no_class_by_their_names(tmp_path):
    classes(tmp_path / "new", normal=6, pneumonia=6)
    data = opened(make(tmp_path / "new", *(f"untitled folder/{i}.png" for i in range(6))))
    assert noted(data, "A class folder is named 'untitled folder'")
    parts = ("imagesTr", "imagesTs", "labelsTr")
    nnunet = make(tmp_path / "nnunet", *(f"{part}/{i}{part}.png" for part in parts for i in range(6)))
    assert "imagesTr: found 6 images outside of class folders" in message(DataError, nnunet)


@pytest.mark.parametrize(("count", "images", "noted_"), [(9, 2, True), (9, 5, False), (7, 2, False)])
def test_class_folders_of_few_images_each_may_be_patients(tmp_path, count, images, noted_):
    files = (f"case {chr(97 + i)}/{j}x{i}.png" for i in range(count) for j in range(images))
    assert noted(opened(make(tmp_path / "a", *files)), f"many ({count}) for {count * images} images") == noted_
    findings = "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Hernia", "Edema"
    assert not noted(
        opened(make(tmp_path / "b", *(f"{name}/{i}{name}.png" for name in findings for i in range(2)))), "are many"
    )


@pytest.mark.parametrize("name", ["train/_classes.csv", "train/metadata.jsonl", "train.csv", "set.npz"])
def test_tables_and_arrays_that_are_not_read_are_named_where_there_are_no_class_folders(tmp_path, name):
    make(tmp_path, *(f"train/{i}.png" for i in range(4)), name)
    assert f"Not read: {name};" in message(DataError, tmp_path)


def test_files_named_for_another_class_than_their_folder_are_noted(tmp_path):
    own = [f"{name}/{name}_{i}.png" for name in ("normal", "covid-19", "viral pneumonia") for i in range(6)]
    both = ["covid-19/covid-19-viral-pneumonia-1.png", "viral pneumonia/person1_virus_6.png"]
    both += ["normal/no covid-19 1.png", "normal/viral_pneumonia_negative.png"]
    assert not noted(opened(make(tmp_path / "a", *own, *both)), "for another class")
    data = opened(make(tmp_path / "b", *own, *both, "normal/COVID-7.png", "normal/Viral Pneumonia (2).png"))
    assert noted(data, "2 images named for another class than the folder (normal/COVID-7.png", "while 19 images")
    assert not noted(
        opened(make(tmp_path / "c", *(f"{c}/normal_{c}{i}.png" for c in ("normal", "tb") for i in range(6)))),
        "for another class",
    )
