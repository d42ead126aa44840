"""Files are whole or not there."""

import gzip
import json
import os
import time

import pytest
import yaml

from xrayfast.config import Config
from xrayfast.data.images.reader import read
from xrayfast.data.labels.label_map import read_label_map
from xrayfast.data.sources import tables
from xrayfast.data.sources.split_files import read_split_file
from xrayfast.data.sources.tables import read_column_names, read_table
from xrayfast.errors import ConfigFileError, DataError, WriteError, XrayfastError
from xrayfast.files import read_csv, read_yaml, replace_atomically, write_bytes, write_json, write_text


def test_a_missing_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(WriteError, match="Check that its folder"):
        write_bytes(tmp_path / "nowhere" / "a.png", b"")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="Check that its folder"):
        write_bytes(tmp_path / "file" / "a.png", b"")


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_what_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(failure), replace_atomically(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_text_and_json_are_written_as_they_stand(tmp_path):
    write_text(tmp_path / "a.txt", "z\u00e4hne\n")
    assert (tmp_path / "a.txt").read_bytes() == "z\u00e4hne\n".encode()
    write_json(tmp_path / "a.json", {"a": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None}


# What a stranger's file may not do.

HOSTILE_YAML = {
    "aliases": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "(line 1: an anchor or alias)"),
    "alias of nothing": ("a: *b\n", "(line 1: an anchor or alias)"),
    "tag": ("a: !!python/object/apply:os.system ['true']\n", "(line 1: a tag)"),
    "depth": ("[" * 20_000, "nesting"),
    "deep mappings": ("{a: " * 100 + "}" * 100, "nesting"),
    "keys": ("".join(f"k{i}: 1\n" for i in range(80_000)), "(line 10000: more than 20,000 values)"),
    "size": ("".join(f"k{i}: 1\n" for i in range(300_000)), "expected settings of at most 1,048,576. Check"),
    "key twice": ("a:\n  b: 1\n  c: [1, 2]\n  'b': 2\n", "(line 4: the key 'b' twice)"),
    "key that is a list": ("[a, b]: 1\n", "(line 1: a key that is no word)"),
    "long value": ("a: 0x" + "f" * 100_000, "(line 1: a value of 100,002 characters)"),
    "sixties": ("a: 1" + ":1" * 100_000, "(line 1: a value of 200,001 characters)"),
    "no date": ("a: 2001-99-99\n", "is not plain YAML (month must be in 1..12"),
    "two documents": ("a: 1\n---\nb: 1\n", "(line 2: but found another document)"),
    "not closed": ("a: [", "is not plain YAML (line"),
    "control character": ("a: \x00\n", "is not plain YAML"),
}


@pytest.mark.parametrize("text, said", HOSTILE_YAML.values(), ids=HOSTILE_YAML)
@pytest.mark.parametrize("parser", ["C", "Python"])
def test_yaml_that_could_do_more_than_give_values_is_refused_at_once(text, said, parser, tmp_path, monkeypatch):
    if parser == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    (tmp_path / "c.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigFileError) as caught:
        read_yaml(tmp_path / "c.yaml", "settings", ConfigFileError)
    assert time.process_time() - began < 3
    assert str(caught.value).startswith(f"{tmp_path}/c.yaml: ") and said in str(caught.value)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_plain_yaml_is_read_as_ever(tmp_path):
    text = "a: {b: [1, 2.5, on, 'x: y'], c: null}\nb: |\n  two\n  lines\n? d\n: -1e-3\n"
    (tmp_path / "c.yaml").write_text(text)
    assert read_yaml(tmp_path / "c.yaml", "settings", ConfigFileError) == yaml.safe_load(text)


READERS = {
    "settings": lambda path: Config.read(path),
    "label map": lambda path: read_label_map(path),
    "list": lambda path: read_split_file(_as_list(path), ["a.png"]),
    "table": lambda path: read_table(path),
    "columns": lambda path: _names_or_error(path),
    "run's table": lambda path: read_csv(path),
    "image": lambda path: read(path),
}


def _as_list(path):
    """A link whose name says that the images of the list are test."""
    link = path.with_name(f"{path.name}-test.txt")
    link.symlink_to(path.name)
    return link


def _names_or_error(path):
    """`read_column_names` passes over what it can't read: it looks at all files of a folder."""
    assert read_column_names(path) == []
    raise DataError(f"{path}: found a pipe, found a folder, more than allowed")


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_never_opened(reader, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(XrayfastError, match="found a pipe"):
        READERS[reader](tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with pytest.raises(XrayfastError, match="found a folder"):
        READERS[reader](tmp_path / "folder")
    (tmp_path / "loop").symlink_to("loop")
    if reader != "columns":
        with pytest.raises(XrayfastError, match=r"can't be read \(.*Too many levels"):
            READERS[reader](tmp_path / "loop")


@pytest.mark.parametrize("reader", READERS)
def test_what_is_too_large_is_never_read(reader, tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # of holes
    with pytest.raises(XrayfastError, match=r"expected .* of at most|more than allowed"):
        READERS[reader](tmp_path / "large")


def test_a_table_is_not_larger_unpacked_than_it_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 100_000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"image,label\n" + b"x" * 10_000_000))
    with pytest.raises(DataError, match=r"a\.csv\.gz: found more than .*, unpacked"):
        read_table(tmp_path / "a.csv.gz")
