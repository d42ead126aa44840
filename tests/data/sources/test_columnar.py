"""Parquet, Arrow and saved data sets give the same manifest as CSV, and unreadable ones are named."""

from __future__ import annotations

import builtins
import datetime
import json
import re
import zipfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.builders import make, message, noted, opened, rows
from xrayfast.data.sources.tables import columnar, read_column_names, read_table
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError
from xrayfast.files.virtual.paths import to_path

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def data_dir(tmp_path):
    """A folder with images/0.png to images/9.png."""
    return make(tmp_path, *(f"images/{i}.png" for i in range(10)))


def listed(n=10, **columns):
    """Return a frame of images and the given columns."""
    return pd.DataFrame({"image": [f"images/{i}.png" for i in range(n)], **columns})


def arrow(table) -> pa.Table:
    return table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)


def write_parquet(table, file: Path, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow(table), file, **options)
    return file


def write_arrow(table, file: Path, stream=False) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    opened_file = (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(file), arrow(table).schema)
    with opened_file as writer:
        writer.write_table(arrow(table), max_chunksize=3)
    return file


def save_to_disk(table, folder: Path, shards=2, features=None, **state) -> Path:
    """Write a folder like `datasets.Dataset.save_to_disk`."""
    table = arrow(table)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    each = -(-len(table) // shards)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        write_arrow(table.slice(i * each, each), folder / name, stream=True)
    content = {"_data_files": [{"filename": name} for name in names], "_split": "train", **state}
    (folder / "state.json").write_text(json.dumps(content))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def facts(data):
    """Return everything in a manifest except file names in notes."""
    notes = [re.sub(r"labels\.\w+|\bt\b", "TABLE", note) for note in data.notes if not note.startswith("The table is")]
    table = data.table.astype(object).where(data.table.notna(), None).to_dict("list")
    return table, data.labels, data.task, np.nan_to_num(data.targets, nan=-1).tolist(), notes, data.drawn.tolist()


WORDS = st.sampled_from(["Mass", "Edema", "pleural effusion", "it's", 'a "b"', "No Finding", "nan", "Masse \u00e9"])
CELLS = {
    "labels": st.lists(st.sampled_from(["Mass", "Edema", "Hernia", "mass "]), max_size=3).map(
        lambda found: "|".join(found) or "No Finding"
    ),
    "patient_id": st.sampled_from(["p1", "P-1", "007", "7", "", "unknown", "p2", "p3"]),
    "age": st.sampled_from(["58", "058Y", "", "200", "41"]),
    "sex": st.sampled_from(["F", "m", "", "x"]),
    "view": st.sampled_from(["PA", "ap", "", "LATERAL"]),
    "note": st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff"), max_size=5),
}


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_in_any_format_gives_one_manifest(data_dir, data):
    columns = {name: data.draw(st.lists(cell, min_size=10, max_size=10), label=name) for name, cell in CELLS.items()}
    frame = listed(**columns)
    frame["Hernia (0/1)"] = data.draw(st.lists(st.sampled_from([0, 1, None]), min_size=10, max_size=10))
    where = data_dir / "t"
    files = [where / f"labels.{kind}" for kind in ("csv", "tsv", "parquet", "arrow", "feather")]
    where.mkdir(exist_ok=True)
    for file, separator in zip(files[:2], ",\t", strict=True):
        frame.to_csv(file, index=False, sep=separator)
    write_parquet(frame, files[2], row_group_size=4)
    write_arrow(frame, files[3])
    write_arrow(frame, files[4], stream=True)
    files.append(save_to_disk(frame, where / "labels.saved"))

    def outcome(file):
        try:
            return facts(opened(data_dir, labels=file))
        except DataError as error:
            return re.sub(r"(\S*/)?(labels\.\w+|data-\d+-of-\d+\.arrow)( row \d+)?", "TABLE", str(error))

    expected = outcome(files[0])
    for file in files[1:]:
        assert outcome(file) == expected, file.name


TYPED = {
    "bool": [True, False, None],
    "int8": pd.array([1, None, -1], "Int8"),
    "float": [1.5, None, 2.0],
    "float32": np.array([0.1, np.nan, 1], np.float32),
    "category": pd.Categorical(["b", None, "a"]),
    "numbers": pd.Categorical([7, None, 9]),
    "date": [datetime.date(2020, 1, 2), None, datetime.date(1999, 12, 31)],
    "time": pd.to_datetime(["2020-01-02 03:04:05", None, "2020-01-02 00:00:00"]),
    "midnight": pd.to_datetime(["2020-01-02", None, "1999-12-31"]),
    "fraction": pd.to_datetime(["2020-01-02 03:04:05.25", None, "2020-01-02 00:00:00"], format="mixed"),
    "decimal": [Decimal("1.50"), None, Decimal("2.00")],
    "text": ["'=1+1", None, "Mass &amp; Edema"],
    "big": [2**53 + 1, 5, 6],
    "empty": [None, None, None],
}


def test_cells_of_any_type_become_the_text_that_pandas_writes(tmp_path):
    frame = pd.DataFrame({name: pd.Series(values) for name, values in TYPED.items()})
    frame["float32"] = frame["float32"].astype("float32")
    frame.to_csv(tmp_path / "t.csv", index=False)
    expected = read_table(tmp_path / "t.csv")
    for file in (write_parquet(frame, tmp_path / "t.parquet"), write_arrow(frame, tmp_path / "t.arrow")):
        found = read_table(file)
        for name in TYPED:
            if name not in ("bool", "fraction"):
                assert list(found.columns[name]) == list(expected.columns[name]), name
        assert list(found.columns["bool"]) == ["True", "False", ""]
        assert found.columns["fraction"][0] == "2020-01-02 03:04:05.25"
        assert found.where(1) == f"{file.name} row 2"


def test_columns_of_flags_in_any_type_and_masked_nulls(data_dir):
    flags = [1, 0] * 5
    frame = listed(
        Mass=pd.array([*flags[:9], None], "Int8"), Edema=[float(flag) for flag in flags], Hernia=list(reversed(flags))
    )
    data = opened(data_dir, labels=write_parquet(frame, data_dir / "t/labels.parquet"))
    assert data.labels == ("Edema", "Hernia", "Mass") and data.task == "multi"
    assert np.isnan(data.targets[9, 2]) and np.isnan(data.targets).sum() == 1
    frame = listed(Mass=[bool(flag) for flag in flags])
    data = opened(data_dir, labels=write_parquet(frame, data_dir / "t/labels.parquet"))
    assert data.targets[:, 0].tolist() == flags


def test_lists_of_labels(data_dir):
    labels = [["Mass"], ["it's \\ odd", "Mass"], ["Edema", "pleural effusion, left"], ["No Finding"], ["Edema"]] * 2
    table = pa.table({"image": listed()["image"], "labels": pa.array(labels, pa.list_(pa.string()))})
    for file in (write_parquet(table, data_dir / "t/labels.parquet"), write_arrow(table, data_dir / "t/labels.arrow")):
        data = opened(data_dir, labels=file)
        assert data.labels == ("Edema", "it's \\ odd", "Mass", "pleural effusion, left")
        assert rows(data)["images/1.png"] == "it's \\ odd|Mass" and rows(data)["images/3.png"] == ""
    for kind in (pa.large_list(pa.large_string()), pa.list_(pa.dictionary(pa.int8(), pa.string()))):
        cast = table.set_column(1, "labels", pa.array(labels, kind))
        assert rows(opened(data_dir, labels=write_arrow(cast, data_dir / "t/labels.arrow"))) == rows(data)
    labels[7] = []
    table = table.set_column(1, "labels", pa.array(labels, pa.list_(pa.string())))
    write_parquet(table, data_dir / "t/labels.parquet")
    assert "labels.parquet row 8: found a blank label" in message(
        DataError, data_dir, labels=data_dir / "t/labels.parquet"
    )


def test_the_classes_of_a_saved_data_set_have_their_names(data_dir):
    frame = listed(label=[0, 1, 1, -1, 0, 1, 0, 1, 0, 1])
    features = {"label": {"names": ["normal", "pneumonia"], "_type": "ClassLabel"}, "image": {"dtype": "string"}}
    folder = save_to_disk(frame, data_dir / "saved", shards=3, features=features)
    data = opened(data_dir, labels=folder, blank="zeros")
    assert data.labels == ("normal", "pneumonia") and rows(data)["images/2.png"] == "pneumonia"
    assert rows(data)["images/3.png"] == ""
    assert noted(data, "Class numbers in 'label' are read as the class names in the file: normal, pneumonia.")
    frame["label"] = 2
    save_to_disk(frame, folder, features=features)
    assert "class number 2; expected 0 to 1" in message(DataError, data_dir, labels=folder)
    table = pa.table({"image": frame["image"], "label": pa.array([[0], [1, 0]] * 5, pa.list_(pa.int64()))})
    save_to_disk(table, folder, features={"label": {"feature": features["label"], "_type": "Sequence"}})
    data = opened(data_dir, labels=folder)
    assert rows(data)["images/1.png"] == "normal|pneumonia"


def test_a_saved_data_set_of_several_splits_is_its_own_source(data_dir):
    frame = listed(label=["a", "b"] * 5)
    folder = data_dir / "all"
    save_to_disk(frame[:8], folder / "train")
    save_to_disk(frame[8:], folder / "validation", shards=1)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    data = opened(data_dir, labels=folder)
    assert data.table["split"].tolist() == ["train"] * 8 + ["valid"] * 2
    for name in frame["image"]:
        make(folder, name)
    assert len(opened(folder)) == 10


def test_the_parts_of_a_table_in_folders_with_keys(data_dir):
    frame = listed(label=["a", "b"] * 5)
    folder = data_dir / "parts.parquet"
    write_parquet(frame[:4], folder / "split=train/part-0.parquet")
    write_parquet(frame[4:8], folder / "split=train/part-1.parquet")
    write_parquet(frame[8:], folder / "split=valid/part-0.parquet")
    make(folder, "_SUCCESS", ".part-0.parquet.crc", "readme.md")
    for source, labels in ((data_dir, folder), (folder, None)):
        data = opened(source, labels=labels)
        assert data.table["split"].tolist() == ["train"] * 8 + ["valid"] * 2
        assert noted(data, "The table consists of 3 files in parts.parquet.") and noted(data, "Not read", "readme.md")
    write_parquet(frame[8:].assign(label=["a", None]), folder / "split=valid/part-0.parquet")
    assert "split=valid/part-0.parquet row 2: found a blank label" in message(DataError, data_dir, labels=folder)
    write_parquet(frame[8:].assign(more=1), folder / "split=valid/part-0.parquet")
    assert "found other columns than in part-0.parquet: more" in message(DataError, data_dir, labels=folder)


def test_a_table_named_labels_in_the_folder_is_read(data_dir):
    frame = listed(label=["a", "b"] * 5)
    write_parquet(frame, data_dir / "labels.parquet")
    write_parquet(frame, data_dir / "other.parquet")
    assert opened(data_dir).notes[0].startswith("Labels from labels.parquet")
    frame.assign(label="abcdefghij"[0]).to_csv(data_dir / "labels.csv", index=False)
    frame.assign(label=["c", "d"] * 5).to_csv(data_dir / "labels.csv", index=False)
    data = opened(data_dir)
    assert data.labels == ("c", "d") and noted(data, "labels.parquet, other.parquet next to it are not read")


def test_empty_rows_and_an_unnamed_index_are_left_out(data_dir):
    frame = listed(label=["a", "b"] * 5)
    frame = pd.concat([frame[:3], pd.DataFrame({"image": [None], "label": [None]}), frame[3:]]).set_index(
        np.arange(11) * 2
    )
    parquet.write_table(pa.Table.from_pandas(frame, preserve_index=True), data_dir / "labels.parquet")
    data = opened(data_dir)
    assert len(data) == 10 and "index" not in "".join(data.notes)
    frame.iloc[5, 1] = None
    parquet.write_table(pa.Table.from_pandas(frame), data_dir / "labels.parquet")
    assert "labels.parquet row 6: found a blank label" in message(DataError, data_dir)


IMAGES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_columns_that_hold_no_texts_are_named_and_refused_where_they_are_needed(data_dir):
    table = arrow(listed(label=["a", "b"] * 5))
    table = table.append_column("box", pa.array([{"x": 1}] * 10)).append_column("raw", pa.array([b"x"] * 10))
    file = write_parquet(table, data_dir / "labels.parquet")
    data = opened(data_dir)
    assert noted(data, "Not read: 'box' (struct<x: int64>), 'raw' (bytes instead of texts).")
    assert "found struct<x: int64> in 'box'" in message(DataError, data_dir, label_col=["box"])
    assert "found bytes instead of texts in 'raw'" in message(DataError, data_dir, path_col="raw")
    inside = pa.array([{"bytes": b"png", "path": "1.png"}] * 10, IMAGES)
    write_parquet(pa.table({"image": inside, "label": ["a", "b"] * 5}), file)
    assert "found images inside the table, as bytes in 'image'" in message(DataError, data_dir)
    write_parquet(pa.table({"image": inside}), file)
    assert "found no columns of texts or numbers" in message(DataError, data_dir)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-40:-8] = b"\xff" * 32
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut, "can't be read as a Parquet or Arrow file"),
        (flip, "can't be read as a Parquet or Arrow file"),
        (lambda file: file.write_text("image,label\n"), "the first bytes are not those of a Parquet or Arrow file"),
        (lambda file: file.write_bytes(b""), "the first bytes are not those of a Parquet or Arrow file"),
        (lambda file: file.write_bytes(b"PARE" + bytes(50) + b"PARE"), "found an encrypted Parquet file"),
        (lambda file: file.write_bytes(b"FEA1" + bytes(50)), "Feather file of version 1"),
        (lambda file: write_parquet(listed(0, label=[]), file), "found no rows"),
        (
            lambda file: write_parquet(listed(label=[["a", "b"]] * 10).rename(columns={"label": "image "}), file),
            "twice",
        ),
        (lambda file: write_parquet(listed(label="a\0"), file), "a zero byte in 'label'"),
        (lambda file: (file.unlink(), file.mkdir()), "a folder without Parquet or Arrow files"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_file_that_cannot_be_read_is_named(data_dir, damage, found, kind):
    file = data_dir / f"labels.{kind}"
    (write_parquet if kind == "parquet" else write_arrow)(listed(label=["a", "b"] * 5), file)
    damage(file)
    text = message(DataError, data_dir)
    assert found in text and f"labels.{kind}" in text


def test_a_parquet_file_called_csv_and_a_missing_one(data_dir):
    file = write_parquet(listed(label="a"), data_dir / "labels.csv")
    assert "found a Parquet file; expected a text table because of the file name" in message(DataError, data_dir)
    write_arrow(listed(label="a"), file)
    assert "found an Arrow file; expected a text table" in message(DataError, data_dir)
    assert "gone.parquet" in message(DataError, data_dir, labels=data_dir / "gone.parquet")


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "a selection of its rows"),
        ({"_data_files": [{"filename": "../data-00000-of-00002.arrow"}]}, "found no file names in it"),
        ({"_data_files": []}, "found no file names in it"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "gone.arrow"),
    ],
)
def test_a_saved_data_set_that_cannot_be_read(data_dir, state, found):
    folder = save_to_disk(listed(label="a"), data_dir / "saved", **state)
    assert found in message(DataError, data_dir, labels=folder)
    (folder / "state.json").write_text("[")
    assert "state.json: found invalid JSON" in message(DataError, data_dir, labels=folder)


def test_too_many_rows_are_refused_before_they_are_read(data_dir, monkeypatch):
    monkeypatch.setattr(columnar, "MAX_ROWS", 9)
    write_parquet(listed(label="a"), data_dir / "labels.parquet")
    assert "found 10 rows; expected at most 9" in message(DataError, data_dir)


def test_without_pyarrow_the_extra_is_named(data_dir, monkeypatch):
    write_parquet(listed(label="a"), data_dir / "films.parquet")
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError("No module named 'pyarrow'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'xrayfast[tables]'" in message(DataError, data_dir)
    assert "pip install 'xrayfast[tables]'" in message(DataError, data_dir, labels=data_dir / "films.parquet")


def test_names_of_columns_without_reading_cells(data_dir):
    file = write_parquet(listed(**{" label ": "a"}), data_dir / "labels.parquet")
    assert read_column_names(file) == ["image", "label"]
    assert read_column_names(data_dir / "gone.parquet") == []


TEXTS = st.lists(st.sampled_from(["a", "b", "", " a", "c"]), max_size=12)


@given(TEXTS, TEXTS, st.data())
def test_a_text_column_is_a_list_that_holds_each_text_once(cells, others, data):
    column = TextColumn.of(cells)
    assert list(column) == cells == column and len(set(column.texts)) == len(column.texts)
    assert column.texts == list(dict.fromkeys(cells))
    assert column.counts() == {text: cells.count(text) for text in column.texts}
    assert [column[i] for i in range(len(cells))] == cells and list(column[1:3]) == cells[1:3]
    picked = data.draw(st.lists(st.integers(0, len(cells) - 1))) if cells else []
    for found, expected in (
        (column.take(picked), [cells[i] for i in picked]),
        (column.replace(str.strip), [cell.strip() for cell in cells]),
        (TextColumn.joined(column, TextColumn.of(others)), cells + others),
    ):
        assert list(found) == expected and found.texts == list(dict.fromkeys(expected))
        assert found.first_rows().tolist() == [expected.index(text) for text in found.texts]
    assert column.map(len) == list(map(len, cells)) == column.map_array(len, np.int64).tolist()


def test_a_table_s_rows_are_selected_with_their_numbers(data_dir):
    table = read_table(write_parquet(listed(label=list("abcdefghij")), data_dir / "labels.parquet"))
    few = replace(table.select([3, 1]), notes=())
    assert list(few.columns["label"]) == ["d", "b"] and few.where(0) == "labels.parquet row 4"


def test_a_table_inside_an_archive(data_dir):
    file = write_parquet(listed(label=["a", "b"] * 5), data_dir / "t/labels.parquet")
    with zipfile.ZipFile(data_dir / "all.zip", "w") as archive:
        archive.write(file, "labels.parquet")
        archive.write(write_arrow(listed(label=["a", "b"] * 5), data_dir / "t/labels.arrow"), "labels.arrow")
    for name in ("labels.parquet", "labels.arrow"):
        assert len(opened(data_dir, labels=to_path(data_dir / "all.zip" / name))) == 10
