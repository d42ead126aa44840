from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from xrayfast.config import DataConfig
from xrayfast.data.manifest import Manifest, open_manifest
from xrayfast.errors import ConfigError, DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="real data not at hand")


def make(root: Path, *files: str, content: str | None = None) -> Path:
    """Files that only look like images: nothing here decodes them. Each has its own content unless given."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file if content is None else content)
    return root


def classes(root: Path, **sizes: int) -> Path:
    return make(root, *(f"{name}/{name}{i:03d}.png" for name, size in sizes.items() for i in range(size)))


def table(root: Path, text: str, name: str = "labels.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def opened(source: Path, **options) -> Manifest:
    return open_manifest(DataConfig(source=source, **options))


def rows(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.table["image"], manifest.table["labels"], strict=True))


def parts(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.table["image"], manifest.table["split"], strict=True))


def message(kind: type[Exception], source: Path, **options) -> str:
    with pytest.raises(kind) as caught:
        opened(source, **options)
    return str(caught.value)


# Class folders


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
    assert data.targets.dtype == np.uint8
    joined = ["|".join(np.array(data.labels)[row == 1]) for row in data.targets]
    assert joined == data.table["labels"].tolist()


def test_fractions_and_seed(tmp_path):
    classes(tmp_path, a=20, b=20)
    data = opened(tmp_path, valid_fraction=0.25, test_fraction=0.25, split_seed=1)
    assert data.counts().loc["images"].to_dict() == {"train": 20, "valid": 10, "test": 10}
    assert parts(data) == parts(opened(tmp_path, valid_fraction=0.25, test_fraction=0.25, split_seed=1))
    assert parts(data) != parts(opened(tmp_path, valid_fraction=0.25, test_fraction=0.25, split_seed=2))
    assert any("seed 1" in note and "25% valid and 25% test" in note for note in data.notes)
    assert "leave nothing to train on" in message(ConfigError, tmp_path, valid_fraction=0.5, test_fraction=0.5)


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("TRAIN", "Val", "Test"), ("training", "validation", "testing")]
)
def test_split_folders(tmp_path, names):
    files = [f"{part}/{label}/{i}.png" for part in names for label in ("a", "b") for i in range(2)]
    data = opened(make(tmp_path, *files), test_fraction=0.3)
    assert data.counts().loc["images"].to_dict() == {"train": 4, "valid": 4, "test": 4}
    assert parts(data)[f"{names[1]}/a/0.png"] == "valid"
    assert any("test fraction is not used" in note for note in data.notes)


def test_valid_is_drawn_where_only_train_and_test_are_given(tmp_path):
    classes(tmp_path / "train", a=10, b=10)
    classes(tmp_path / "test", a=3, b=4)
    data = opened(tmp_path)
    assert data.counts().loc["images"].to_dict() == {"train": 16, "valid": 4, "test": 7}
    assert all((part == "test") == image.startswith("test/") for image, part in parts(data).items())


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
    assert any("1 files in a" in note and "notes.txt" in note for note in data.notes)
    assert any("1 files in b" in note and "dangling.png" in note for note in data.notes)


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


def test_implied_labels(tmp_path):
    classes(tmp_path, covid=5, pneumonia=5, normal=5)
    data = opened(tmp_path, imply=("covid=pneumonia", "pneumonia=abnormal"))
    assert data.task == "multi" and data.labels == ("abnormal", "covid", "normal", "pneumonia")
    assert rows(data)["covid/covid000.png"] == "abnormal|covid|pneumonia"
    assert rows(data)["normal/normal000.png"] == "normal"
    assert "a -> b -> a" in message(ConfigError, tmp_path, imply=("a=b", "b=a"))
    assert "Did you mean 'covid'?" in message(DataError, tmp_path, imply=("covi=pneumonia",))
    assert "task single" in message(ConfigError, tmp_path, imply=("covid=pneumonia",), task="single")


def test_the_same_file_in_two_classes_is_one_image_with_both_labels(tmp_path):
    classes(tmp_path, a=4, b=4)
    make(tmp_path, "a/both.png", "b/both.png", content="the same")
    data = opened(tmp_path)
    assert data.task == "multi" and len(data) == 9
    assert rows(data)["a/both.png"] == "a|b" and "b/both.png" not in rows(data)
    assert any("1 files are copies" in note for note in data.notes)
    found = message(DataError, tmp_path, task="single")
    assert "a/both.png" in found and "b/both.png" in found and "--task multi" in found


def test_the_same_name_with_other_content_is_another_image(tmp_path):
    make(tmp_path, *(f"{label}/{i}.png" for label in "abc" for i in range(3)))
    make(tmp_path, "a/0.png", "b/0.png", content="same size, A")
    make(tmp_path, "c/0.png", content="same size, B")
    data = opened(tmp_path)
    assert len(data) == 8 and data.task == "multi"
    assert rows(data)["a/0.png"] == "a|b" and rows(data)["c/0.png"] == "c"
    assert any("3 file names stand in several classes" in note and "0.png" in note for note in data.notes)


def test_the_same_name_with_another_size_is_another_image(tmp_path):
    make(tmp_path, "a/0.png", "a/1.png", content="short")
    make(tmp_path, "b/0.png", "b/1.png", content="much longer")
    data = opened(tmp_path)
    assert data.task == "single" and len(data) == 4


def test_copies_in_other_parts_stay_apart(tmp_path):
    for part in ("train", "valid"):
        classes(tmp_path / part, a=2, b=2)
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
    for part in ("train", "val", "valid"):
        classes(root / part, a=2, b=2)


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
    classes(root / "valid", normal=2, covid=2)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (build_missing, ["no such folder", "CLASS/*.png", "train/CLASS", "labels.csv", "xrayfast synth"]),
        (build_empty, ["no class folders", "CLASS/*.png", "xrayfast synth"]),
        (build_file, ["found a file; expected a folder"]),
        (build_loose, ["2 images outside of class folders", "CLASS/*.png"]),
        (build_empty_class, ["/b: found no images in this class folder", ".png", "remove the folder"]),
        (build_one_class, ["only one class, 'a'; expected at least 2"]),
        (build_one_image, ["class 'b' has 1 image; at least 2 are needed", "one to validate"]),
        (build_val_and_valid, ["both val/ and valid/", "one valid folder"]),
        (build_extra, ["found old beside train", "only train, valid and test"]),
        (build_no_train, ["found valid; expected a train folder"]),
        (build_empty_part, ["valid: found no class folders"]),
        (build_other_spelling, ["class 'normal' has no images in the train part", "Did you mean 'Normal'?"]),
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


def test_column_options_without_a_table(tmp_path):
    assert "patient_col names a column" in message(ConfigError, classes(tmp_path, a=2, b=2), patient_col="id")


# CSV files


@pytest.fixture
def films(tmp_path):
    """images/0.png to images/9.png."""
    return make(tmp_path, *(f"images/{i}.png" for i in range(10)))


def lines(header: str, row: str, count: int = 10) -> str:
    """A row for each film, {i} its number, {ab} a or b in turn, {p} one of five patients."""
    filled = (row.format(i=i, ab="ab"[i % 2], p=f"secret-{i // 2}") for i in range(count))
    return "\n".join([header, *filled]) + "\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_marks_and_line_ends(films, separator, start, end):
    text = lines('"Image Index",note,Label', '"images/{i}.png","x y",{ab}')
    table(films, start + text.replace(",", separator).replace("\n", end))
    data = opened(films)
    assert data.task == "single" and data.labels == ("a", "b") and len(data) == 10
    assert data.notes[0].startswith("Labels from labels.csv")


def test_patients_are_pseudonyms_and_not_shared(films):
    table(films, lines("file,labels,patient_id", "images/{i}.png,{ab},{p}") + "\n\n")
    data = opened(films)
    assert data.table["patient"].tolist() == [f"P{i // 2 + 1:05d}" for i in range(10)]
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    assert data.counts().loc["patients"].to_dict() == {"train": 4, "valid": 1, "test": 0}
    assert "secret" not in repr(data.notes) + data.table.to_csv()


def test_images_of_unknown_patients_are_dealt_singly(films):
    text = lines("file,labels,patient", "images/{i}.png,{ab},{p}").replace("secret-0", "").replace("secret-1", " ")
    table(films, text)
    data = opened(films)
    assert data.table["patient"].isna().sum() == 4
    assert data.table["patient"].dropna().iloc[0] == "P00001"
    table(films, lines("file,labels,patient", "images/{i}.png,{ab},"))
    assert set(opened(films).table["split"]) == {"train", "valid"}


def test_delimited_labels_and_no_finding(films):
    text = lines("image,Finding Labels", "images/{i}.png,Mass").replace("0.png,Mass", "0.png,Mass|Edema")
    table(films, text.replace("3.png,Mass", "3.png,No Finding").replace("4.png,Mass", "4.png,No Finding|Edema"))
    data = opened(films)
    assert data.task == "multi" and data.labels == ("Edema", "Mass")
    assert [rows(data)[f"images/{i}.png"] for i in (0, 1, 3, 4)] == ["Edema|Mass", "Mass", "", "Edema"]
    assert any("1 images have 'No Finding' beside other labels" in note for note in data.notes)


def test_no_finding_is_a_class_of_a_single_label_table(films):
    table(films, lines("image,label", "images/{i}.png,{ab}").replace(",a", ",No Finding"))
    assert opened(films).labels == ("b", "No Finding")
    multi = opened(films, task="multi")
    assert multi.labels == ("b",) and multi.targets.sum() == 5


def test_another_delimiter(films):
    table(films, lines("image,label", "images/{i}.png,{ab}/c"))
    assert opened(films, label_delim="/").labels == ("a", "b", "c")
    assert opened(films).labels == ("a/c", "b/c")


def test_columns_of_0_and_1_are_guessed(films):
    text = lines("path,Patient ID,age,Mass,Edema,Cough", "images/{i}.png,{i},6{i},1,0.0,0")
    table(films, text.replace("0.png,0,60,1,0.0", "0.png,0,60,1,1.0").replace("1.png,1,61,1,", "1.png,1,61,0,"))
    data = opened(films)
    assert data.task == "multi" and data.labels == ("Edema", "Mass")
    assert rows(data)["images/0.png"] == "Edema|Mass" and rows(data)["images/1.png"] == ""
    assert any("labels from 'Mass', 'Edema'" in note for note in data.notes)


def test_named_columns_of_0_and_1(films):
    table(films, "name,sex,A,B,C\n" + "".join(f"images/{i}.png,1,{i % 2},{1 - i % 2},0\n" for i in range(10)))
    data = opened(films, path_col="name", label_col=("A", "B", "C"))
    assert data.task == "single" and data.labels == ("A", "B")
    assert any("without a single 1 are left out: C" in note for note in data.notes)


def test_a_label_column_of_0_and_1_holds_two_classes(films):
    table(films, "image,target\n" + "".join(f"images/{i}.png,{i % 2}\n" for i in range(10)))
    assert opened(films).labels == ("0", "1")


def test_a_split_column_is_kept(films):
    text = "image,label,Set\n" + "".join(
        f"images/{i}.png,{'ab'[i % 2]},{('Train', 'val', 'TEST')[i // 4]}\n" for i in range(10)
    )
    table(films, text)
    assert parts(opened(films))["images/5.png"] == "valid"
    assert opened(films).counts().loc["images"].to_dict() == {"train": 4, "valid": 4, "test": 2}
    table(films, text.replace("val", "train"))
    assert opened(films).counts().loc["images"].to_dict() == {"train": 6, "valid": 2, "test": 2}


@pytest.mark.parametrize(
    "path", ["images/{i}.png", "images\\{i}.png", "{i}.png", "C:\\data\\{i}.png", "x/../images/{i}.png"]
)
def test_ways_to_write_a_path(films, path):
    table(films, lines("image,label", path + ",{ab}"))
    assert list(rows(opened(films))) == [f"images/{i}.png" for i in range(10)]


def test_absolute_paths_and_paths_from_the_table(tmp_path):
    make(tmp_path / "here", *(f"{i}.png" for i in range(4)))
    make(tmp_path / "there", *(f"pics/{i}.png" for i in range(4, 6)))
    listed = [f"{tmp_path}/here/{i}.png" for i in range(4)] + [f"pics/{i}.png" for i in range(4, 6)]
    file = table(tmp_path / "there", "image,label\n" + "".join(f"{p},{'ab'[i % 2]}\n" for i, p in enumerate(listed)))
    data = opened(tmp_path / "here", labels=file)
    assert list(rows(data)) == [f"{i}.png" for i in range(4)] + [f"../there/pics/{i}.png" for i in range(4, 6)]
    assert all(Path(path).is_file() for path in data.table["path"])


def test_a_csv_file_as_the_source(films):
    file = table(films, lines("image,label", "images/{i}.png,{ab}"), "films.csv")
    data = opened(file)
    assert data.config.source == films and data.config.labels == file
    assert rows(data) == rows(opened(films, labels=file))


def test_class_folders_win_over_a_table_beside_them(tmp_path):
    classes(tmp_path, a=3, b=3)
    table(tmp_path, "image,label\n")
    assert any("labels.csv is not used" in note for note in opened(tmp_path).notes)


GOOD = lines("image,label,split,patient", "images/{i}.png,{ab},train,{p}")
ONE_HOT = lines("image,Mass,Effusion", "images/{i}.png,1,0")


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, ["labels.csv: found no rows"]),
        ("image,label\n", {}, ["labels.csv: found no rows; expected a header and a row"]),
        (
            GOOD.replace("2.png", "x.png"),
            {},
            ["labels.csv row 4: image 'images/x.png' not found", "1 of 10 rows"],
        ),
        (GOOD.replace("images/", "y"), {}, ["labels.csv row 2: image 'y0.png' not found", "10 of 10 rows"]),
        (GOOD.replace("\n", "\n\n").replace("2.png", "x.png"), {}, ["labels.csv row 7: image"]),
        (
            GOOD.replace("3.png", "1.png"),
            {},
            ["labels.csv row 5: image 'images/1.png' stands in row 3 already"],
        ),
        (
            GOOD.replace("images/3.png", "1.png"),
            {},
            ["labels.csv row 5: image '1.png' stands in row 3 already"],
        ),
        (GOOD.replace("4.png,a", "4.png,"), {}, ["labels.csv row 6: found a blank label", "'No Finding'"]),
        (GOOD.replace("4.png,a", "4.png,a|"), {}, ["labels.csv row 6: found an empty label"]),
        (
            GOOD.replace("4.png,a,train", "4.png,a,holdout"),
            {},
            ["labels.csv row 6: split is 'holdout'", "train, valid"],
        ),
        (GOOD.replace("4.png,a,train", "4.png,a,"), {}, ["labels.csv row 6: split is ''"]),
        (GOOD.replace("train", "test"), {}, ["no images in the train part"]),
        (
            GOOD.replace("5.png,b", "5.png,b,x"),
            {},
            ["labels.csv row 7: found 5 cells; expected 4", "double quotes"],
        ),
        (GOOD.replace(",train,secret-1", ""), {}, ["labels.csv row 4: found 2 cells; expected 4"]),
        (GOOD.replace("image,", "photo,"), {}, ["photo, label, split, patient", "--path-col"]),
        (GOOD.replace("label,", "x,"), {}, ["image, x, split, patient", "--label-col"]),
        (GOOD.replace("split", "label"), {}, ["the column 'label' twice"]),
        (GOOD, {"path_col": "imgae"}, ["no column 'imgae'", "image, label", "Did you mean 'image'?"]),
        (GOOD, {"label_col": "lable"}, ["no column 'lable'", "Did you mean 'label'?"]),
        (GOOD, {"split_col": "spilt"}, ["no column 'spilt'", "Did you mean 'split'?"]),
        (GOOD, {"patient_col": "pat"}, ["no column 'pat'", "image, label, split, patient"]),
        (
            GOOD.replace("4.png,a", "4.png,a|b"),
            {"task": "single"},
            ["row 6: found 2 labels (a, b)", "--task multi"],
        ),
        (GOOD.replace(",b,", ",a,"), {}, ["only one class, 'a'"]),
        (GOOD.replace("4.png,a", "4.png,c"), {}, ["class 'c' has 1 image; at least 2 are needed"]),
        (
            ONE_HOT.replace("4.png,1,0", "4.png,1,2"),
            {"label_col": ("Mass", "Effusion")},
            ["labels.csv row 6: Effusion is '2'; expected 0 or 1."],
        ),
        (
            ONE_HOT.replace("4.png,1,0", "4.png,-1,0"),
            {},
            ["labels.csv row 6: Mass is '-1'; expected 0 or 1."],
        ),
        (ONE_HOT.replace("4.png,1,0", "4.png,,0"), {}, ["labels.csv row 6: Mass is ''; expected 0 or 1."]),
        (ONE_HOT.replace("4.png,1,0", "4.png,0,0"), {"task": "single"}, ["row 6: found 0 labels (none)"]),
        (ONE_HOT.replace(",1,0", ",0,0"), {}, ["none of which is known to hold labels"]),
    ],
)
def test_tables_that_are_no_data_set(films, text, options, words):
    file = table(films, text)
    found = message(DataError, films, labels=file, **options)
    for word in words:
        assert word in found
    assert "secret" not in found


def test_a_name_that_two_files_have(films):
    make(films, "other/3.png")
    table(films, lines("image,label", "{i}.png,{ab}"))
    found = message(DataError, films, labels=films / "labels.csv")
    assert "labels.csv row 5: image '3.png' could be images/3.png, other/3.png" in found


def test_all_images_of_one_patient(films):
    table(films, lines("image,label,patient", "images/{i}.png,{ab},secret"))
    found = message(DataError, films)
    assert "no images in the valid part" in found and "secret" not in found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"image,label\nx.png,caf\xe9\n", "not UTF-8"),
        ("image,label\n".encode("utf-16"), "not UTF-8"),
        (b'image,label\n"' + b"x" * 200_000, "damaged CSV"),
    ],
)
def test_tables_that_are_no_csv(films, content, words):
    (films / "labels.csv").write_bytes(content)
    assert words in message(DataError, films)


def test_a_table_that_is_not_there(films):
    assert "nowhere.csv: can't be read" in message(DataError, films, labels=films / "nowhere.csv")
    assert "images: can't be read" in message(DataError, films, labels=films / "images")


# The Manifest


def test_part(tmp_path):
    data = opened(classes(tmp_path, a=10, b=10))
    valid = data.part("valid")
    assert len(valid) == 4 and set(valid.table["split"]) == {"valid"}
    assert valid.table.index.tolist() == [0, 1, 2, 3] and valid.targets.shape == (4, 2)
    assert valid.targets.sum(0).tolist() == [2, 2] and valid.labels == data.labels
    with pytest.raises(ConfigError, match="Did you mean 'valid'"):
        data.part("vaild")


def test_fingerprint_follows_the_data_and_not_the_place(tmp_path):
    for place in ("one", "two"):
        classes(tmp_path / place, a=5, b=5)
    one, two = (opened(tmp_path / place).fingerprint() for place in ("one", "two"))
    assert one == two and len(one) == 64
    assert opened(tmp_path / "one", split_seed=9).fingerprint() != one
    assert opened(tmp_path / "one", imply=("a=b",)).fingerprint() != one
    data = opened(tmp_path / "two")
    make(tmp_path / "two", "a/a000.png", content="of another size")
    assert data.fingerprint() != one
    (tmp_path / "two" / "a" / "a000.png").unlink()
    with pytest.raises(DataError, match=r"a000\.png: can't be read"):
        data.fingerprint()


# Real data sets


@real_data
def test_darkcovid_as_folders():
    data = opened(SHARED / "darkcovid")
    assert len(data) == 1124 and data.task == "single"
    assert data.counts().sum(axis=1).to_dict() == {
        "covid-19": 124, "normal": 500, "pneumonia": 500, "images": 1124
    }  # fmt: skip
    assert data.counts()["valid"].tolist() == [25, 100, 100, 225]


@real_data
def test_darkcovid_with_an_implied_label():
    data = opened(SHARED / "darkcovid", imply=("covid-19=pneumonia",))
    assert data.task == "multi"
    assert data.counts().sum(axis=1)["pneumonia"] == 624


@real_data
def test_nih_as_a_table():
    data = opened(SHARED / "nih_multilabel", test_fraction=0.1)
    assert len(data) == 6676 and data.task == "multi" and len(data.labels) == 14
    assert data.table["patient"].nunique() == 2212
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    for part, fraction in (("train", 0.7), ("valid", 0.2), ("test", 0.1)):
        rows = (data.table["split"] == part).to_numpy()
        assert abs(rows.mean() - fraction) < 0.01
        assert np.abs(data.targets[rows].sum(0) - fraction * data.targets.sum(0)).max() < 3
