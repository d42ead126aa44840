from __future__ import annotations

import gzip
import re
from pathlib import Path

import pandas as pd
import pytest

from tests.data.builders import cells, column, lines, make, message, noted, opened, rows, splits, table
from xrayfast.data.sources.tables import is_table, read_column_names, read_table
from xrayfast.errors import ConfigError, DataError
from xrayfast.errors.advice import quoted


@pytest.fixture
def data_dir(tmp_path):
    """A folder with images/0.png to images/9.png."""
    return make(tmp_path, *(f"images/{i}.png" for i in range(10)))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_marks_and_line_ends(data_dir, separator, start, end):
    text = lines('"Image Index",note,Label', '"images/{i}.png","x y",{ab}')
    table(data_dir, start + text.replace(",", separator).replace("\n", end))
    data = opened(data_dir)
    assert data.task == "single" and data.labels == ("a", "b") and len(data) == 10
    assert data.notes[0].startswith("Labels from labels.csv")


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "sep=;\t"])
def test_the_line_that_names_excel_s_separator(data_dir, first):
    file = table(data_dir, first + "\r\n" + lines("image;label", "images/{i}.png;{ab}").replace("\n", "\r\n"))
    assert read_column_names(file) == ["image", "label"]
    assert opened(data_dir).labels == ("a", "b") and len(opened(data_dir)) == 10
    table(data_dir, first + "\n" + lines("image;label", "images/{i}.png;{ab}").replace("3.png;b", "3.png;"))
    assert "labels.csv row 6: found a blank label" in message(DataError, data_dir)


def test_excel_s_separator_may_be_any_character(data_dir):
    table(data_dir, "sep=,\n" + lines("image,label,age", "images/{i}.png,{ab},4{i}"))
    assert column(opened(data_dir), "age")[1] == 41
    table(data_dir, "sep=|\n" + lines("image|label", "images/{i}.png|{ab}"))
    assert opened(data_dir).labels == ("a", "b")


def test_a_separator_line_that_is_wrong_and_blank_lines_before_the_header(data_dir):
    rest = lines("image,label", "images/{i}.png,{ab}").replace("3.png,b", "3.png,")
    for start, row in (("sep=;\n", 6), ("\n \n", 7), ("\n\nsep=,\n", 8)):
        table(data_dir, start + rest)
        assert f"labels.csv row {row}: found a blank label" in message(DataError, data_dir)


@pytest.mark.parametrize(
    ("above", "shown"),
    [
        ("# exported 2020-01-02, by PACS\n# 10 rows\n", "'# exported 2020-01-02, by PACS', '# 10 rows'"),
        ("Radiographs of 2020\n\n", "'Radiographs of 2020'"),
        ("\ufeff#\n# made by R: write.csv(x, y)\r\n\r\n", "'# made by R: write.csv(x, y)'"),
        (",Findings\n", "',Findings'"),
        ('"Patient",,\n,"Findings, all"\n', "'\"Patient\",,', ',\"Findings, all\"'"),
    ],
)
def test_comments_and_titles_above_the_header_are_skipped(data_dir, above, shown):
    file = table(data_dir, above + lines("image,label", "images/{i}.png,{ab}"))
    data = opened(data_dir)
    assert len(data) == 10 and data.labels == ("a", "b") and read_column_names(file) == ["image", "label"]
    assert noted(data, f"labels.csv: lines above the header are skipped: {shown}.")
    file.write_text(file.read_text(encoding="utf-8").replace("3.png,b", "3.png,"), encoding="utf-8")
    row = 5 + len((above + "x").splitlines()) - 1
    assert f"labels.csv row {row}: found a blank label" in message(DataError, data_dir)


@pytest.mark.parametrize("header", ["scan,modality,label", ",scan,label", "scan;modality;label"])
def test_a_header_without_a_usual_name_is_no_line_of_merged_cells(tmp_path, header):
    """Even if a row has the usual name of a column of images."""
    sign = ";" if ";" in header else ","
    (tmp_path / "t.csv").write_text(f'{header}\n001{sign}image{sign}"a, b"\n', encoding="utf-8")
    assert list(read_table(tmp_path / "t.csv").columns) == header.lstrip(sign).split(sign)


def test_names_of_columns_that_begin_with_a_hash_are_kept(tmp_path):
    (tmp_path / "t.csv").write_text("image,#id,m#name,cD#label\n1.png,1,x,a\n", encoding="utf-8")
    assert list(read_table(tmp_path / "t.csv").columns) == ["image", "#id", "name", "label"]


def test_a_label_read_in_another_encoding_joins_the_right_one(data_dir):
    text = lines("image,label", "images/{i}.png,{ab}").replace(",a", ",Neumon\u00eda")
    table(data_dir, text.replace("2.png,Neumon\u00eda", "2.png,Neumon\u00c3\u00ada"))
    data = opened(data_dir)
    assert data.labels == ("b", "Neumon\u00eda") and noted(data, "Spellings of one label are joined")


def test_html_entities_are_their_characters(data_dir):
    table(data_dir, lines("image,label", "images/{i}.png,{ab}").replace(",a", ",Mass &amp; Edema&notch"))
    assert opened(data_dir).labels == ("b", "Mass & Edema&notch")


@pytest.mark.parametrize("header", ["# image,label", "#image,label", "#,image,label"])
def test_a_header_may_begin_with_a_number_sign(data_dir, header):
    row = "images/{i}.png,{ab}" if not header.startswith("#,") else "{i},images/{i}.png,{ab}"
    table(data_dir, "# made by savetxt\n" + lines(header, row))
    data = opened(data_dir)
    assert (
        len(data) == 10
        and data.labels == ("a", "b")
        and noted(data, "lines above the header are skipped: '# made by savetxt'.")
    )


def test_patients_are_pseudonyms_and_not_shared(data_dir):
    table(data_dir, lines("file,labels,patient_id", "images/{i}.png,{ab},{p}") + "\n\n")
    data = opened(data_dir)
    assert data.table["patient"].tolist() == [f"P{i // 2 + 1:05d}" for i in range(10)]
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    assert data.counts().loc["patients"].to_dict() == {"train": 4, "valid": 1, "test": 0}
    assert "secret" not in repr(data.notes) + data.table.to_csv()


def test_images_of_unknown_patients_are_drawn_singly(data_dir):
    text = lines("file,labels,patient", "images/{i}.png,{ab},{p}").replace("secret-0", "").replace("secret-1", " ")
    table(data_dir, text)
    data = opened(data_dir)
    assert data.table["patient"].isna().sum() == 4
    assert data.table["patient"].dropna().iloc[0] == "P00001"
    table(data_dir, lines("file,labels,patient", "images/{i}.png,{ab},"))
    assert set(opened(data_dir).table["split"]) == {"train", "valid"}


def test_delimited_labels_and_no_finding(data_dir):
    text = lines("image,Finding Labels", "images/{i}.png,Mass").replace("0.png,Mass", "0.png,Mass|Edema")
    table(data_dir, text.replace("3.png,Mass", "3.png,No Finding").replace("4.png,Mass", "4.png,No Finding|Edema"))
    data = opened(data_dir)
    assert data.task == "multi" and data.labels == ("Edema", "Mass")
    assert [rows(data)[f"images/{i}.png"] for i in (0, 1, 3, 4)] == ["Edema|Mass", "Mass", "", "Edema"]
    assert any("1 image with 'No Finding' and other labels" in note for note in data.notes)


def test_no_finding_is_a_class_of_a_single_label_table(data_dir):
    table(data_dir, lines("image,label", "images/{i}.png,{ab}").replace(",a", ",No Finding"))
    assert opened(data_dir).labels == ("b", "No Finding")
    multi = opened(data_dir, task="multi")
    assert multi.labels == ("b",) and multi.targets.sum() == 5


def test_another_delimiter(data_dir):
    table(data_dir, lines("image,label", "images/{i}.png,{ab}/c"))
    assert opened(data_dir, label_delim="/").labels == ("a", "b", "c")
    assert opened(data_dir).labels == ("a/c", "b/c")


def test_columns_of_0_and_1_are_guessed(data_dir):
    text = lines("path,Patient ID,age,Mass,Edema,Cough", "images/{i}.png,{i},6{i},1,0.0,0")
    table(data_dir, text.replace("0.png,0,60,1,0.0", "0.png,0,60,1,1.0").replace("1.png,1,61,1,", "1.png,1,61,0,"))
    data = opened(data_dir)
    assert data.task == "multi" and data.labels == ("Edema", "Mass")
    assert rows(data)["images/0.png"] == "Edema|Mass" and rows(data)["images/1.png"] == ""
    assert any("labels from 'Mass', 'Edema'" in note for note in data.notes)


def test_named_columns_of_0_and_1(data_dir):
    table(data_dir, "name,sex,A,B,C\n" + "".join(f"images/{i}.png,1,{i % 2},{1 - i % 2},0\n" for i in range(10)))
    data = opened(data_dir, path_col="name", label_col=("A", "B", "C"))
    assert data.task == "single" and data.labels == ("A", "B")
    assert any("without a single 1 are left out: C" in note for note in data.notes)


def test_one_column_of_0_and_1_is_one_label(data_dir):
    table(data_dir, "image,target\n" + "".join(f"images/{i}.png,{i % 2}\n" for i in range(10)))
    for options in ({}, {"label_col": "target"}):
        data = opened(data_dir, **options)
        assert data.labels == ("target",) and data.task == "multi" and data.targets.sum() == 5
        assert noted(data, "'target' is the only label")
    data = opened(data_dir, task="single")
    assert data.labels == ("0", "1") and data.task == "single"


def test_grades_are_classes(data_dir):
    table(data_dir, "image,target\n" + "".join(f"images/{i}.png,{i % 3}\n" for i in range(10)))
    assert opened(data_dir).labels == ("0", "1", "2") and opened(data_dir).task == "single"


@pytest.mark.parametrize("grades", ["0123", "12345", ["I", "II", "III"], ["mild", "moderate", "severe"], "12"])
@pytest.mark.parametrize("name", ["severity", "Edema score", "Nodule"])
def test_a_column_of_grades_beside_those_of_labels_is_named(data_dir, name, grades):
    grade_rows = "".join(f"images/{i}.png,{i % 2},{int(i > 4)},{grades[-1 - i % len(grades)]}\n" for i in range(10))
    table(data_dir, f"image,Mass,Hernia,{name}\n{grade_rows}")
    where = {"1 for values of 2 or more", f"--label-col {quoted(name)} alone, which uses each value as a class"}
    if grades == "12" and name != "Edema score":
        found = message(DataError, data_dir)
        assert "expected 1, 0, -1 (uncertain) or blank. Its values 1, 2 look like grades: make" in found
        assert (
            "replace codes such as 2 for no" in found
            and "1 for values of 2 or more" in found
            and "alone, which uses each value as a class" in found
        )
    else:
        data = opened(data_dir)
        assert data.labels == ("Hernia", "Mass")
        assert grades == "12" or noted(
            data, f"Not used as a label, because its values look like grades: '{name}'.", *where
        )
    assert len(opened(data_dir, label_col=(name,)).labels) == len(grades)


def test_columns_of_grades_alone_are_named_and_counts_are_none(data_dir):
    likert = "".join(f"images/{i}.png,{1 + i % 5},{5 - i % 5},{1 + i // 3}\n" for i in range(10))
    table(data_dir, f"image,Mass,Hernia,visit\n{likert}")
    found = message(DataError, data_dir)
    assert "because their values look like grades: 'Mass', 'Hernia'." in found and "1 for values of 2 or more" in found


def test_uncertain_and_blank_cells(data_dir):
    text = "image,Mass,Edema\n" + "".join(f"images/{i}.png,{i % 2},0\n" for i in range(10))
    table(data_dir, text.replace("1.png,1,0", "1.png,-1,").replace("3.png,1,0", "3.png,1.0,1"))
    assert cells(opened(data_dir), "images/1.png") == {"Edema": None, "Mass": None}
    data = opened(data_dir, uncertain=("smooth",), blank=("Edema=zeros",))
    assert cells(data, "images/1.png") == {"Edema": 0, "Mass": 0.7}
    assert rows(data)["images/1.png"] == "" and rows(data)["images/3.png"] == "Edema|Mass"
    assert data.truth.dtype == "int8" and data.truth[1].tolist() == [0, -1]
    assert data.counts().loc["Mass"].sum() == 4


def test_a_row_with_only_masked_cells(data_dir):
    table(data_dir, lines("image,label", "images/{i}.png,{ab}").replace("3.png,b", "3.png,"))
    assert cells(opened(data_dir, blank=("ignore",)), "images/3.png") == {"a": None, "b": None}
    assert opened(data_dir, blank=("ignore",)).task == "multi"
    found = message(DataError, data_dir, blank=("ignore",), task="single")
    assert "row 5: found 0 labels (none) and masked ones; a single-label task expects 1" in found


def test_labels_separated_by_something_else(data_dir):
    table(data_dir, lines("image,label", "images/{i}.png,{ab};c"))
    assert opened(data_dir).labels == ("a", "b", "c") and noted(opened(data_dir), "separated by ';'")
    table(data_dir, lines("image,label", 'images/{i}.png,"{ab}, c"').replace('0.png,"a, c"', "0.png,a"))
    assert opened(data_dir).labels == ("a", "b", "c") and noted(opened(data_dir), "separated by ','")


def test_one_other_delimiter_changes_nothing(data_dir):
    """A ';' in one cell used to make a label of 'Effusion, Mass'."""
    found = ['"Effusion, Mass"', "Effusion", "Mass", '"Atelectasis; left"'] * 2 + ["Mass", "Effusion"]
    table(data_dir, "image,finding\n" + "".join(f"images/{i}.png,{label}\n" for i, label in enumerate(found)))
    data = opened(data_dir)
    assert data.labels == ("Atelectasis; left", "Effusion", "Mass") and rows(data)["images/0.png"] == "Effusion|Mass"
    assert noted(
        data,
        "';' is in 1 label but is not used as a separator: 'Atelectasis; left'. "
        "To use it as the separator, give --label-delim ';'",
    )


@pytest.mark.parametrize("delim", ["/", "+", " & ", ",", ";"])
def test_delimiters_that_are_not_used_are_named(data_dir, delim):
    found = ["Mass", "Edema", f"Mass{delim}Edema", f"x{delim}y", "Mass|a"] * 2
    table(data_dir, "image,finding\n" + "".join(f'images/{i}.png,"{label}"\n' for i, label in enumerate(found)))
    data = opened(data_dir)
    assert f"Mass{delim}Edema" in data.labels
    assert noted(data, f"'{delim.strip()}' is in {1 + (delim in ',;')} label", f"--label-delim '{delim.strip()}'")


def test_a_column_of_labels_named_twice(data_dir):
    table(data_dir, "image,A,B\n" + "".join(f"images/{i}.png,{i % 2},0\n" for i in range(10)))
    assert "label_col: found 'A' twice" in message(ConfigError, data_dir, label_col=("A", "A"))


def test_a_column_named_split_that_holds_something_else(data_dir):
    table(data_dir, lines("image,label,set,patient", "images/{i}.png,{ab},NIH,{p}"))
    assert set(splits(opened(data_dir)).values()) == {"train", "valid"}
    assert "set is 'NIH'; expected train, valid or test" in message(DataError, data_dir, split_col="set")


def test_a_split_column_is_kept(data_dir):
    text = "image,label,Set\n" + "".join(
        f"images/{i}.png,{'ab'[i % 2]},{('Train', 'val', 'TEST')[i // 4]}\n" for i in range(10)
    )
    table(data_dir, text)
    assert splits(opened(data_dir))["images/5.png"] == "valid"
    assert opened(data_dir).counts().loc["images"].to_dict() == {"train": 4, "valid": 4, "test": 2}
    table(data_dir, text.replace("val", "train"))
    assert opened(data_dir).counts().loc["images"].to_dict() == {"train": 6, "valid": 2, "test": 2}


@pytest.mark.parametrize(
    "path", ["images/{i}.png", "images\\{i}.png", "{i}.png", "C:\\data\\{i}.png", "x/../images/{i}.png"]
)
def test_ways_to_write_a_path(data_dir, path):
    table(data_dir, lines("image,label", path + ",{ab}"))
    assert list(rows(opened(data_dir))) == [f"images/{i}.png" for i in range(10)]


def test_absolute_paths_and_paths_from_the_table(tmp_path):
    make(tmp_path / "here", *(f"{i}.png" for i in range(4)))
    make(tmp_path / "there", *(f"pics/{i}.png" for i in range(4, 6)))
    listed = [f"{tmp_path}/here/{i}.png" for i in range(4)] + [f"pics/{i}.png" for i in range(4, 6)]
    file = table(tmp_path / "there", "image,label\n" + "".join(f"{p},{'ab'[i % 2]}\n" for i, p in enumerate(listed)))
    data = opened(tmp_path / "here", labels=file)
    assert list(rows(data)) == [f"{i}.png" for i in range(4)] + [f"../there/pics/{i}.png" for i in range(4, 6)]
    assert all(Path(path).is_file() for path in data.table["path"])


def test_a_csv_file_as_the_source(data_dir):
    file = table(data_dir, lines("image,label", "images/{i}.png,{ab}"), "films.csv")
    data = opened(file)
    assert data.config.source == data_dir and data.config.labels == file
    assert rows(data) == rows(opened(data_dir, labels=file))


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
            ["labels.csv row 5: image 'images/1.png' is already in labels.csv row 3;"],
        ),
        (
            GOOD.replace("images/3.png", "./images/1.png"),
            {},
            ["labels.csv row 5: image './images/1.png' is already in labels.csv row 3 as 'images/1.png'"],
        ),
        (GOOD.replace("4.png,a", "4.png,"), {}, ["labels.csv row 6: found a blank label", "'No Finding'"]),
        (GOOD.replace("4.png,a", "4.png,a|"), {}, ["labels.csv row 6: found an empty label"]),
        (
            GOOD.replace("4.png,a,train", "4.png,a,extra"),
            {},
            ["labels.csv row 6: split is 'extra'", "train, valid"],
        ),
        (GOOD.replace("4.png,a,train", "4.png,a,"), {}, ["labels.csv row 6: split is ''"]),
        (GOOD.replace("train", "test"), {}, ["no images in the train split"]),
        (
            GOOD.replace("5.png,b", "5.png,b,x"),
            {},
            ["labels.csv row 7: found 5 cells; expected 4", "double quotes", "without an image, such as comments"],
        ),
        (GOOD.replace(",train,secret-1", ""), {}, ["labels.csv row 4: found 2 cells; expected 4"]),
        (GOOD.replace("image,", "photo,").replace(".png", ""), {}, ["photo, label, split, patient", "path_col="]),
        (GOOD.replace("label,", "x,"), {}, ["image, x, split, patient", "label_col="]),
        (GOOD.replace("split", "label"), {}, ["the column 'label' twice"]),
        (GOOD, {"path_col": "imgae"}, ["no column 'imgae'", "image, label", "Did you mean 'image'?"]),
        (GOOD, {"label_col": "lable"}, ["no column 'lable'", "Did you mean 'label'?"]),
        (GOOD, {"split_col": "spilt"}, ["no column 'spilt'", "Did you mean 'split'?"]),
        (GOOD, {"patient_col": "pat"}, ["no column 'pat'", "image, label, split, patient"]),
        (
            GOOD.replace("4.png,a", "4.png,a|b"),
            {"task": "single"},
            ["row 6: found 2 labels (a, b)", "task='multi'"],
        ),
        (GOOD.replace(",b,", ",a,"), {}, ["only one class, 'a'"]),
        (GOOD.replace("4.png,a", "4.png,c"), {}, ["class 'c' has 1 image; at least 2 are needed"]),
        (
            ONE_HOT.replace("4.png,1,0", "4.png,1,2"),
            {"label_col": ("Mass", "Effusion")},
            ["labels.csv row 6: Effusion is '2'; expected 1, 0, -1 (uncertain) or blank."],
        ),
        (
            ONE_HOT.replace("4.png,1,0", "4.png,-1,0"),
            {"task": "single"},
            ["row 6: found 0 labels (none) and masked ones"],
        ),
        (ONE_HOT.replace("4.png,1,0", "4.png,often,0"), {}, ["labels.csv row 6: Mass is 'often'; expected 1, 0, -1"]),
        (ONE_HOT.replace("4.png,1,0", "4.png,0,0"), {"task": "single"}, ["row 6: found 0 labels (none)"]),
        (ONE_HOT.replace(",1,0", ",0,0"), {}, ["but no column of labels"]),
    ],
)
def test_tables_without_a_data_set_are_refused(data_dir, text, options, words):
    file = table(data_dir, text)
    found = message(DataError, data_dir, labels=file, **options)
    for word in words:
        assert word in found
    assert "secret" not in found


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ("Patient Age", "labels.csv: found ages, not labels. "),
        ("Date", "class '2020-01-01' has 1 image; at least 2 are needed, one to train and one to validate. 2020-01-01, "
                 "2020-01-02, 2020-01-03 and 8 more look like ages, dates or identifiers, not like classes. "),
        ("uid", "class 'u0' has 1 image; at least 2 are needed, one to train and one to validate. u0, u1, u2 and 8 "
                "more look like ages, dates or identifiers, not like classes. "),
    ],
)  # fmt: skip
def test_ages_dates_and_identifiers_are_no_labels_and_columns_of_labels_are_named(tmp_path, column, found):
    rows = [f"{i}.png,{35 + 5 * i},2020-01-{i + 1:02},u{i},{'ab'[i % 2]},{i % 2},F" for i in range(11)]
    make(tmp_path, *(f"{i}.png" for i in range(11)))
    file = table(tmp_path, "\n".join(["image,Patient Age,Date,uid,finding,Mass,Sex", *rows]))
    expected = f"Labels are read from '{column}'; these columns look like labels: 'finding', 'Mass'. Name the columns"
    assert found + expected in message(DataError, tmp_path, labels=file, label_col=(column,))


def test_a_name_that_two_files_have(data_dir):
    make(data_dir, "other/3.png")
    table(data_dir, lines("image,label", "{i}.png,{ab}"))
    found = message(DataError, data_dir, labels=data_dir / "labels.csv")
    assert "labels.csv row 5: image '3.png' could be images/3.png, other/3.png" in found


def test_a_missing_image_is_not_taken_from_another_folder_and_can_be_skipped(data_dir):
    make(data_dir, "other/3.png")
    (data_dir / "images/3.png").unlink()
    file = table(data_dir, lines("image,label", "images/{i}.png,{ab}"))
    found = message(DataError, data_dir, labels=file)
    assert "labels.csv row 5: image 'images/3.png' not found" in found and "1 of 10 rows" in found
    assert (
        "other/3.png has the name of a missing image, but is in another folder" in found and "missing='skip'" in found
    )
    data = opened(data_dir, labels=file, missing="skip")
    assert list(rows(data)) == [f"images/{i}.png" for i in range(10) if i != 3]
    assert noted(data, "1 row of labels.csv left out, because the image file is missing: images/3.png.")
    assert data.left_out == (("listed, but without a file", ("images/3.png",)),)
    assert data.flow()[:3] == [("Images listed", 10), ("Left out: listed, but without a file", 1), ("Images used", 9)]
    # The same as if the row were not in the table.
    kept = table(data_dir, lines("image,label", "images/{i}.png,{ab}").replace("images/3.png,b\n", ""), "kept.csv")
    assert opened(data_dir, labels=kept).fingerprint() == data.fingerprint()


def test_a_label_that_only_missing_images_have_is_no_label(data_dir):
    (data_dir / "images/3.png").unlink()
    table(data_dir, lines("image,label", "images/{i}.png,{ab}").replace("images/3.png,b", "images/3.png,c"))
    assert opened(data_dir, missing="skip").labels == ("a", "b")
    table(data_dir, lines("image,label", "gone/y{i}.png,{ab}"))
    assert "10 of 10 rows have no file" in message(DataError, data_dir, missing="skip")


def test_all_images_of_one_patient(data_dir):
    table(data_dir, lines("image,label,patient", "images/{i}.png,{ab},secret"))
    found = message(DataError, data_dir)
    assert "all 10 images have the same patient:" in found and "patient_col='none'" in found and "secret" not in found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"image,label\nx.png,caf\x81\x9d\n", "neither UTF-8 nor Windows-1252; expected UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d", "bytes that are not text"),
        ("image,label\n".encode("utf-16")[:-1], "bytes that are not text"),
        (b'image,label\n"' + b"x" * 200_000, "damaged CSV"),
        (b'image,label\nx.png,"a\ny.png,b\n', "damaged CSV"),
        (b",\n1,2\n", "found no column names"),
    ],
)
def test_tables_that_are_no_csv(data_dir, content, words):
    (data_dir / "labels.csv").write_bytes(content)
    assert words in message(DataError, data_dir)


def test_a_table_that_is_not_there(data_dir):
    assert "nowhere.csv: found no such file" in message(DataError, data_dir, labels=data_dir / "nowhere.csv")
    assert "images: found a folder" in message(DataError, data_dir, labels=data_dir / "images")


# Reading tables


ACCENTS = lines("image,label", "images/{i}.png,{ab}").replace(",a", ",Ödem é")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings(data_dir, encoding, packed):
    name = "labels.csv.gz" if packed else "labels.csv"
    content = ACCENTS.encode(encoding)
    (data_dir / name).write_bytes(gzip.compress(content) if packed else content)
    data = opened(data_dir, labels=data_dir / name)
    assert data.labels == ("b", "Ödem é")
    assert noted(data, f"{name} is not UTF-8: read as Windows-1252") == (encoding == "cp1252")


@pytest.mark.parametrize(
    ("words", "encoding"),
    [*(("\u6b63\u5e38 \u80ba\u708e", name) for name in ("gbk", "big5", "shift_jis")),
     ("\u9670\u6027 \u967d\u6027", "big5"), ("\uc815\uc0c1 \ud3d0\ub834", "euc_kr"),
     ("\u041d\u043e\u0440\u043c\u0430 \u0440\u0430\u043a", "cp1251"),
     ("\u039c\u03ac\u03b6\u03b1 \u03c5\u03b3\u03b9\u03ae\u03c2", "cp1253"),
     ("Neumon\u00eda p\u00e9n\u00e9tration", "cp850"), ("Neumon\u00eda p\u00e9n\u00e9tration", "mac_roman"),
     ("p\u0142uc chory_o\u017cywienie", "cp1250")],
)  # fmt: skip
def test_other_encodings_than_western_ones_are_named_with_words_and_the_conversion(
    data_dir, monkeypatch, words, encoding
):
    one, two = words.split()
    text = ACCENTS.replace("\u00d6dem \u00e9", one).replace(",b", f",{two}")
    (data_dir / "labels.csv").write_bytes(text.encode(encoding))
    found = message(DataError, data_dir)
    assert "neither UTF-8 nor Windows-1252; expected UTF-8" in found and f"{encoding} (" in found
    shown = found.partition(f"{encoding} (")[2].partition(")")[0]
    assert {one, two} & {*re.split("[_, ]+", shown)}
    monkeypatch.chdir(data_dir)
    (code,) = re.findall(r"Path\('utf8.csv'\).*, 'utf-8'\)", found)
    exec(re.sub(r"read_text\('\w+'\)", f"read_text('{encoding}')", code), {"Path": Path})
    assert set(read_table(data_dir / "utf8.csv").columns["label"]) == {one, two}


@pytest.mark.parametrize(
    "word",
    [
        "opacifica\u00e7\u00f5es",
        "cr\u00e9\u00e9e",
        "\u2026\u2026\u2026",
        "37\u00b0C",
        "n\u00ba",
        "5 \u00b5m",
        "O\u2019Brien",
        "\u00c4\u00d6\u00dc",
        "\u201c\u00c9t\u00e9\u201d",
    ],
)
def test_western_words_with_several_letters_in_a_row_are_read(tmp_path, word):
    (tmp_path / "t.csv").write_bytes(f"{ACCENTS}x.png,{word}\n".encode("cp1252"))
    found = read_table(tmp_path / "t.csv")
    (note,) = found.notes
    assert note.startswith("t.csv is not UTF-8: read as Windows-1252, such as Ödem, é")
    assert "If words are wrong, save" in note and found.columns["label"][-1] == word


@pytest.mark.parametrize(
    ("content", "found"),
    [(b'[{"image": "0.png", "label": "a"}]', "JSON"), (b'{"image": "0.png", "label": "a"}\n', "JSON"),
     (b'\xef\xbb\xbf{\n "0.png": "a"}', "JSON"), (b'["0.png"]\n', "JSON"), (b"<table>\n<tr>", "HTML"),
     (b"<!DOCTYPE html>", "HTML"), (b"PK\x03\x04\x14\x00", "an Excel"),
     (b"\x1f\x8b\x08\x00\xd5", "a compressed file"),
     (b"version https://git-lfs.github.com/spec/v1\noid a\n", "a Git LFS"),
     (b"\xd0\xcf\x11\xe0\xa1", "an Excel"),
     (b"%PDF-1.7\n", "a PDF")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["labels.csv", "t.other"])
def test_formats_that_are_not_read_are_named(data_dir, name, content, found):
    (data_dir / name).write_bytes(content)
    text = message(DataError, data_dir, labels=data_dir / name)
    assert f"{name}: found {found}" in text and "expected a table as CSV, TSV, Parquet or Arrow" in text


@pytest.mark.parametrize("header", ["[image],[label]", '"<image>",label', "{image},label"])
def test_brackets_in_a_header_are_no_other_format(tmp_path, header):
    assert len(read_table(table(tmp_path, lines(header, "{i}.png,{ab}")))) == 10


def test_a_damaged_gzip_file(data_dir):
    (data_dir / "labels.csv.gz").write_bytes(gzip.compress(ACCENTS.encode())[:-20])
    assert "damaged gzip file" in message(DataError, data_dir, labels=data_dir / "labels.csv.gz")
    (data_dir / "labels.csv.gz").write_bytes(b"image,label")
    assert "damaged gzip file" in message(DataError, data_dir, labels=data_dir / "labels.csv.gz")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_quoted_line_ends_separators_and_quotes(tmp_path, separator, end):
    rows = [
        ["file", "a note; of,\tsorts", "label"],
        ["1.png", f'first{end}second "word"', "x; y, z"],
        ["2.png", "", "q"],
    ]
    text = end.join(separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    file = tmp_path / "t.csv"
    file.write_bytes(text.encode())
    found = read_table(file)
    assert list(found.columns) == rows[0] == read_column_names(file)
    assert [list(row) for row in zip(*found.columns.values(), strict=True)] == rows[1:]
    assert [found.where(i) for i in range(2)] == ["t.csv row 2", "t.csv row 3"]


def test_a_header_that_contains_other_separators(tmp_path):
    file = table(tmp_path, 'Image Index,"Size [w;h;x;y;z]",Finding Labels\n1.png,2;3;4,Mass\n2.png,,Edema\n')
    assert list(read_table(file).columns) == ["Image Index", "Size [w;h;x;y;z]", "Finding Labels"]
    file = table(tmp_path, "image;Score, raw;label\n1.png;1,5;a\n2.png;0,25;b\n")
    assert list(read_table(file).columns) == ["image", "Score, raw", "label"]
    file = table(tmp_path, "a;b,c;d,e\n1.png,2,3\n2.png,3,4\n")
    assert list(read_table(file).columns) == ["a;b", "c;d", "e"]


def test_blank_rows_and_cells_at_the_end(tmp_path):
    found = read_table(table(tmp_path, "image,label,,\n\n1.png,a,,\n ,,,\n2.png,b\n3.png,c,,,,\n"))
    assert found.columns == {"image": ["1.png", "2.png", "3.png"], "label": ["a", "b", "c"]}
    assert [found.where(i) for i in range(3)] == ["labels.csv row 3", "labels.csv row 5", "labels.csv row 6"]


def test_a_table_longer_than_what_is_sniffed(tmp_path):
    file = table(tmp_path, "image,label\n" + "".join(f"{i:05d}.png,{'ab'[i % 2]}\n" for i in range(9000)))
    found = read_table(file)
    assert len(found) == 9000 and found.where(8999) == "labels.csv row 9001" and file.stat().st_size > 1 << 16


def test_which_files_are_tables(tmp_path):
    assert all(map(is_table, ("a.csv", "A.CSV", "a.csv.gz", "a.tsv", "a.txt"))) and not is_table("a.xlsx")
    (tmp_path / "x.csv").write_bytes(b"\x89PNG\x00")
    assert read_column_names(tmp_path / "x.csv") == [] and read_column_names(tmp_path / "nothing.csv") == []


def test_a_table_of_more_columns_than_a_data_set_has_is_refused(tmp_path):
    (tmp_path / "wide.csv").write_text("image," + ",".join(f"c{i}" for i in range(50_000)) + "\n")
    with pytest.raises(DataError, match=r"wide\.csv: found 50,001 columns; expected at most 10,000"):
        read_table(tmp_path / "wide.csv")


def test_a_path_longer_than_a_file_name_can_be_is_refused(data_dir):
    cell = "../" * 30_000 + "images/0.png"
    (data_dir / "labels.csv").write_text(f"image,label\n{cell},a\nimages/1.png,b\n")
    assert "found a path of 90,012 characters, '../../" in message(DataError, data_dir)


@pytest.mark.parametrize("before", ["", "row,"])
def test_a_header_repeated_by_joining_files_is_left_out(data_dir, before):
    text = f"{before}image,label\n" + "".join(f"{before and f'{i},'}images/{i}.png,{'ab'[i % 2]}\n" for i in range(10))
    lines = text.splitlines(keepends=True)
    table(data_dir, "".join([*lines[:6], lines[0], *lines[6:]]))
    data = opened(data_dir)
    assert len(data) == 10 and data.labels == ("a", "b")
    assert noted(data, "labels.csv: the header is repeated in row 7, which is left out.")
    table(data_dir, "".join([*lines[:6], f"\ufeff{lines[0]}", *lines[6:]]))
    assert len(opened(data_dir)) == 10


@pytest.mark.parametrize(("header", "values"), [("finding,present", "01"), ("pathology,answer", ("no", "yes"))])
def test_rows_of_an_image_and_a_label_that_may_be_absent_are_made_one_row_per_image(
    data_dir, monkeypatch, header, values
):
    """The advice on a long table keeps labels apart that are absent."""
    text = "".join(f"images/{i}.png,{name},{values[i % 5 == k]}\n" for i in range(10) for k, name in enumerate("ab"))
    table(data_dir, f"image,{header}\n{text}")
    found = message(DataError, data_dir)
    (code,) = re.findall(r"by (df\.pivot.*?'labels.csv'\))", found)
    monkeypatch.chdir(data_dir)
    eval(code, {"df": pd.read_csv("labels.csv")})
    data = opened(data_dir)
    assert data.labels == ("a", "b") and data.targets.sum(0).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("values", "said"), [("0123456789", True), (["0.5", "1,5", "2.5"], True), ("012", False), (["1.0", "2.0"], False)]
)
def test_labels_that_are_scores_or_many_grades_are_named(tmp_path, values, said):
    n = 2 * len(values)
    make(tmp_path, *(f"{i}.png" for i in range(n)))
    table(tmp_path, "image,label\n" + "".join(f'{i}.png,"{values[i % len(values)]}"\n' for i in range(n)))
    assert noted(opened(tmp_path, label_delim="|"), "Labels are numbers", "their order is not used") == said


def test_numbers_of_classes_separated_by_spaces_and_one_name_among_numbers_are_named(data_dir):
    table(data_dir, "image,label\n" + "".join(f"images/{i}.png,{['1 3', '1', '3'][i % 3]}\n" for i in range(9)))
    assert noted(opened(data_dir), "a space is in 1 label", "--label-delim ' '")
    assert not noted(opened(data_dir), "Some labels are numbers")
    table(data_dir, "image,label\n" + "".join(f"images/{i}.png,{['0', '1', 'mass'][i % 3]}\n" for i in range(9)))
    assert noted(opened(data_dir), "Some labels are numbers ('0', '1'), and others are names, such as mass.")
