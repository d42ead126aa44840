"""Paths that are no regular files, and files that are too large, are never read."""

import gzip
import os

import pytest

from xrayfast.config import Config
from xrayfast.data.images.reader import read
from xrayfast.data.labels.label_map import read_label_map
from xrayfast.data.sources.split_files import read_split_file
from xrayfast.data.sources.tables import delimited, read_column_names, read_table
from xrayfast.errors import DataError, XrayfastError
from xrayfast.files.csv_tables import read_csv

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
    """Return a link whose name says that the listed images are the test split."""
    link = path.with_name(f"{path.name}-test.txt")
    link.symlink_to(path.name)
    return link


def _names_or_error(path):
    """Check that `read_column_names`, which skips unreadable files, returns nothing; raise the error expected here."""
    assert read_column_names(path) == []
    raise DataError(f"{path}: found a pipe, found a folder, more than allowed")


@pytest.mark.parametrize("reader", READERS)
def test_a_path_that_is_no_regular_file_is_never_opened(reader, tmp_path):
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
def test_a_file_that_is_too_large_is_never_read(reader, tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # a sparse file
    with pytest.raises(XrayfastError, match=r"expected .* of at most|more than allowed"):
        READERS[reader](tmp_path / "large")


def test_an_unpacked_table_has_a_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_TABLE_BYTES", 100_000)
    monkeypatch.setattr(delimited, "_free_memory", lambda: 400_000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"image,label\n" + b"x" * 10_000_000))
    with pytest.raises(DataError, match=r"a\.csv\.gz: found more than .* after decompression"):
        read_table(tmp_path / "a.csv.gz")


def test_a_table_may_be_as_large_as_memory_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_TABLE_BYTES", 1000)
    monkeypatch.setattr(delimited, "_free_memory", lambda: 100_000)
    rows = [f"{i:04d}.png,{i % 2}\n" for i in range(1000)]
    (tmp_path / "a.csv").write_text("image,label\n" + "".join(rows[:700]))  # 7 kB, 702 different cells
    with pytest.raises(DataError, match=r"a\.csv: found more than 625 different cells, which do not fit into memory"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("image,label\n" + "".join(rows[:600]))
    assert len(read_table(tmp_path / "a.csv")) == 600
    monkeypatch.setattr(delimited, "_free_memory", lambda: 2**40)
    (tmp_path / "a.csv").write_text("image,label\n" + "".join(rows))
    assert len(read_table(tmp_path / "a.csv")) == 1000
    monkeypatch.setattr(delimited, "_MOST_BYTES", 11_000)
    with pytest.raises(DataError, match="expected a table"):
        read_table(tmp_path / "a.csv")
