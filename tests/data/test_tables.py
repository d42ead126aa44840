from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.builders import classes, make, message, opened, parts, rows, table
from xrayfast.errors import DataError


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
