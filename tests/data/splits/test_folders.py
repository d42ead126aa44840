from __future__ import annotations

import pytest

from tests.data.builders import classes, lines, make, message, noted, opened, splits, table
from xrayfast.data.splits.folders import parse_split_folder, splits_from_folders
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("stage_2_train_images", "train"),
        ("images_test", "test"),
        ("TrainingSet", "train"),
        ("val-data", "valid"),
        ("cxr_test", "test"),
        ("test-positive", None),
        ("covid", None),
        ("train_test", None),
        ("images", None),
    ],
)
def test_a_folder_s_split(name, split):
    assert parse_split_folder(name) == split


def test_folders_give_the_split_if_they_name_train_and_another_split():
    found, note = splits_from_folders(TextColumn.of(["train", "x/test", "x"]))
    assert (
        found == ["train", "test", None]
        and "test (1), train (1)" in note
        and "Images outside of these folders: 1;" in note
    )
    assert splits_from_folders(TextColumn.of(["train", "train"])) == (None, "")
    assert splits_from_folders(TextColumn.of(["valid", "test"])) == (None, "")
    assert splits_from_folders(TextColumn.of(["", ""])) == (None, "")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("development", "test"), ("dev_set", "hold-out"), ("Internal", "External"), ("derivation", "validation")),
        *(("Derivation_set", "validation_set"), ("derivation_cohort", "test_cohort"), ("derivation", "hold-out")),
        *(("tr", "te"), ("TR", "ts_images"), ("discovery", "replication"), ("train", "external"), ("train", "te")),
        ("imagesTr", "imagesTs"),
    ],
)
def test_folders_of_development_and_internal_images_are_train_beside_others(tmp_path, train, test):
    make(tmp_path, *(f"{s}/{label}/{label}{i}{s}.png" for s in (train, test) for label in "ab" for i in range(9)))
    data = opened(tmp_path)
    assert data.labels == ("a", "b")
    other = "valid" if test.startswith("valid") else "test"
    assert (
        noted(data, f"Splits: '{train}' is train")
        or noted(data, f"{train} (18")
        or noted(data, "Splits from the folders")
    )
    assert {name for name, split in splits(data).items() if split == other} == {
        name for name in splits(data) if name.startswith(test)
    }


@pytest.mark.parametrize("folders", [("train", "test"), ("data/Training", "data/Testing"), ("a_train/x", "a_test/x")])
def test_the_split_that_the_folders_of_a_table_s_rows_give_is_kept(tmp_path, folders):
    train, test = folders
    train, test = (train, test) if "a_" not in train else ("images_train/x", "images_test/x")
    names = [f"{test if i < 3 else train}/{i}.png" for i in range(12)]
    make(tmp_path, *names)
    text = "image,label\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names))
    table(tmp_path, text)
    data = opened(tmp_path, labels=tmp_path / "labels.csv")
    assert [name for name, split in splits(data).items() if split == "test"] == names[:3]
    assert noted(data, "Splits from the folders of the images", "(3)", "--ignore-split")
    ignored = opened(tmp_path, labels=tmp_path / "labels.csv", ignore_split=True)
    assert "test" not in splits(ignored).values() and ignored.drawn.all()
    assert noted(ignored, "own split is not used")
    rows = [f"{line},{'valid' if i in (5, 6) else 'train'}" for i, line in enumerate(text.splitlines()[1:])]
    table(tmp_path, "image,label,split\n" + "\n".join(rows))
    data = opened(tmp_path, labels=tmp_path / "labels.csv")
    assert set(splits(data).values()) == {"train", "valid"}
    assert noted(data, "The given split differs from the split folder on")


def test_a_split_folder_that_all_paths_of_a_table_share_is_ignored(tmp_path):
    make(tmp_path, *(f"train/{i}.png" for i in range(10)), *(f"plain/{i}.png" for i in range(10)))
    train = opened(tmp_path, labels=table(tmp_path, lines("image,label", "train/{i}.png,{ab}"), "t.csv"))
    plain = opened(tmp_path, labels=table(tmp_path, lines("image,label", "plain/{i}.png,{ab}"), "p.csv"))
    assert list(splits(train).values()) == list(splits(plain).values())


def test_splits_inside_class_folders_are_kept(tmp_path):
    make(tmp_path, *(f"{label}/{'test' if i < 2 else 'train'}/{label}{i}.png" for label in "ab" for i in range(10)))
    assert [name for name, split in splits(opened(tmp_path)).items() if split == "test"] == [
        "a/test/a0.png", "a/test/a1.png", "b/test/b0.png", "b/test/b1.png"
    ]  # fmt: skip


def test_a_split_of_folders_and_of_a_column_can_be_ignored(tmp_path):
    root = make(
        tmp_path / "a",
        *(f"{s}/{label}/{label}{i}{s}.png" for s in ("train", "test") for label in "ab" for i in range(9)),
    )
    assert opened(root, ignore_split=True).drawn.all()
    classes(tmp_path / "b", a=6, b=6)
    data = opened(tmp_path / "b", ignore_split=True)
    assert noted(data, "ignore_split (True) has no effect") and splits(data) == splits(opened(tmp_path / "b"))
    make(tmp_path / "c", *(f"images/{i}.png" for i in range(10)))
    file = table(
        tmp_path / "c", lines("image,label,split", "images/{i}.png,{ab},holdout").replace("holdout", "train", 5)
    )
    assert opened(tmp_path / "c", ignore_split=True).drawn.all()
    assert "found both ignore_split and split_file" in message(ConfigError, root, ignore_split=True, split_file=file)


def test_splits_in_file_names_and_folds_are_named(tmp_path):
    make(tmp_path / "a", *(f"{c}/{s}_{c}{i}.png" for s in ("train", "test") for c in "ab" for i in range(6)))
    assert noted(opened(tmp_path / "a"), "Names of files or folders suggest splits (test 12, train 12)")
    make(tmp_path / "b", *(f"fold{k}/{c}/{c}{i}{k}.png" for k in range(3) for c in "ab" for i in range(6)))
    assert noted(opened(tmp_path / "b"), "Classes are the folders a, b below fold0, fold1, fold2")
    make(
        tmp_path / "c",
        *(f"chest_xray/{s}/{c}/{c}{i}{s}.png" for s in ("train", "test") for c in "ab" for i in range(6)),
    )
    found = message(DataError, tmp_path / "c")
    assert "found one folder, chest_xray, which holds test, train" in found and "c/chest_xray as the data set" in found


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Trainingsdaten", "Testdaten"), ("training_images", "testing_images"), ("trainimages", "testimages"),
        ("train_images", "test_images"), ("train_data/train", "test_data/test"),  # the same split below it is no error
    ],
)  # fmt: skip
def test_split_folders_may_contain_words_for_images_and_data(tmp_path, train, test):
    make(tmp_path, *(f"{s}/{c}/{c}{i}{s[:5]}.png" for s in (train, test) for c in "ab" for i in range(6)))
    assert opened(tmp_path).counts().loc["images"].to_dict()["test"] == 12


@pytest.mark.parametrize("layout", ["train_data/{s}/{c}/{i}.png", "train/{c}/{s}/{i}.png"])
def test_a_split_below_another_is_an_error(tmp_path, layout):
    names = [layout.format(s=s, c=c, i=f"{s}{c}{i}") for s in ("train", "test") for c in "ab" for i in range(6)]
    make(tmp_path, *names)
    found = message(DataError, tmp_path)
    assert "found folders of several splits in one path, train" in found and "(train) and test (test)" in found
    assert opened(tmp_path, ignore_split=True).drawn.all()
    table(tmp_path, "image,label\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names)))
    assert "several splits in one path" in message(DataError, tmp_path, labels=tmp_path / "labels.csv")
    assert not noted(opened(tmp_path, labels=tmp_path / "labels.csv", ignore_split=True), "has no effect")


def test_a_class_folder_that_is_a_link_to_another_is_an_error(tmp_path):
    root = make(tmp_path, *(f"{c}/{c}{i}.png" for c in ("normal", "mass") for i in range(5)))
    (root / "nodule").symlink_to(root / "mass", target_is_directory=True)
    assert "nodule: found a link to the images of mass" in message(DataError, root)


def test_a_class_folder_of_regions_is_noted(tmp_path):
    root = make(tmp_path, *(f"{c}/{c}{i}.png" for c in ("normal", "mass", "ROI") for i in range(5)))
    assert noted(opened(root), "A class folder is named 'ROI'")


def test_a_folder_of_an_external_test_is_a_split(tmp_path):
    names = [f"{split}/{c}/{c}{split}{i}.png" for split in ("train", "external_test") for c in "ab" for i in range(5)]
    root = make(tmp_path, *names)
    assert splits(opened(root))["external_test/a/aexternal_test0.png"] == "test"
    (root / "external_test").rename(root / "external")
    data = opened(root)
    assert splits(data)["external/a/aexternal_test0.png"] == "test" and noted(data, "'external' is test")


@pytest.mark.parametrize(
    "folders",
    [
        ("derivation", "validation", "external"), ("train", "valid", "external_validation"), ("tr", "va", "te"),
        ("development", "internal_validation", "external_validation"), ("training", "tuning", "test"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["{s}/{c}/{i}.png", "{c}/{s}/{i}.png", "{s}/site{k}/{c}/{i}.png"])
def test_words_that_mean_a_split_beside_others(tmp_path, folders, layout):
    files = (layout.format(s=s, c=c, i=f"{c}{i}{s}", k=i % 2) for s in folders for c in "ab" for i in range(6))
    make(tmp_path, *files)
    data = opened(tmp_path)
    assert data.labels == ("a", "b") and noted(data, "Splits from the folders")
    expected = dict(zip(folders, ("train", "valid", "test"), strict=True))
    assert {name: expected[next(f for f in folders if f"/{f}/" in f"/{name}")] for name in splits(data)} == splits(data)


def test_a_second_test_folder_is_not_joined_with_the_first(tmp_path):
    folders = ("train", "test", "external")
    make(tmp_path, *(f"{s}/{c}/{c}{i}{s}.png" for s in folders for c in "ab" for i in range(6)))
    assert "class folders inside class folders, such as a in external" in message(DataError, tmp_path)


def test_a_class_named_like_an_abbreviated_split_is_a_class(tmp_path):
    classes(tmp_path, te=6, tb=6)
    assert opened(tmp_path).labels == ("tb", "te")


@pytest.mark.parametrize("files", ["masks/{c}/{c}{i}.png", "{c}/masks/{c}{i}.png", "{c}/{c}{i}_mask.png"])
def test_images_that_are_all_called_masks_are_noted(tmp_path, files):
    make(tmp_path, *(files.format(c=c, i=i) for c in "ab" for i in range(6)))
    root = tmp_path / "masks" if files.startswith("masks") else tmp_path
    data = opened(root)
    assert len(data) == 12 and noted(
        data, "All images have names or folders like those of masks, overlays, maps or thumbnails", "a"
    )
    assert not noted(opened(root, keep_masks=True), "All images")


def test_a_table_of_masks_alone_is_noted(tmp_path):
    tmp_path /= "set"
    make(tmp_path, *(f"{folder}/{i}.png" for folder in ("masks", "images") for i in range(10)))
    file = table(tmp_path, lines("image,label", "masks/{i}.png,{ab}"))
    assert noted(opened(tmp_path, labels=file), "All images have names or folders like those of masks", "masks/0.png")
    file = table(tmp_path, lines("image,label", "images/{i}.png,{ab}"))
    assert not noted(opened(tmp_path, labels=file), "All images")
