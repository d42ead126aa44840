"""Files are whole or not there, and mean to a spreadsheet what they mean to us."""

import gzip
import hashlib
import json
import os
import re
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import xrayfast
from xrayfast import files
from xrayfast.config import Config
from xrayfast.data.images.reader import read
from xrayfast.data.labels.label_map import read_label_map
from xrayfast.data.sources.split_files import read_split_file
from xrayfast.data.sources.tables import delimited, read_column_names, read_table
from xrayfast.errors import ConfigFileError, DataError, RunError, WriteError, XrayfastError
from xrayfast.files import (
    ensure_folder,
    portable_name,
    quote_cell,
    read_csv,
    read_yaml,
    replace_atomically,
    require_intact,
    require_utf8,
    start_checksums,
    unquote_cell,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs permissions and symbolic links")


def test_a_missing_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(WriteError, match="there is no folder"):
        write_bytes(tmp_path / "nowhere" / "a.png", b"")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="there is no folder"):
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


def test_a_file_is_known_before_and_after_it_is_replaced(tmp_path):
    start_checksums(tmp_path)
    path = tmp_path / "a.json"
    write_json(path, 1)
    require_intact(path)
    with pytest.raises(KeyboardInterrupt), replace_atomically(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    require_intact(path)
    with replace_atomically(path) as temporary:
        temporary.write_text("2")
        require_intact(path)
    require_intact(path)
    # Killed after the checksum was written and before the file was moved: either version is known.
    path.write_text("1\n")
    require_intact(path)
    path.write_text("3")
    with pytest.raises(RunError, match=r"a\.json: has changed since it was written.*delete .*checksums\.txt"):
        require_intact(path)


def test_a_file_is_read_once_for_its_checksum_unless_it_was_just_written(tmp_path, monkeypatch):
    read = []
    digest = files.file_digest
    monkeypatch.setattr(files, "file_digest", lambda path: read.append(path) or digest(path))
    start_checksums(tmp_path)
    path = tmp_path / "a.json"
    write_json(path, 1)
    read.clear()
    for _ in range(3):
        require_intact(path)
    assert len(read) == 3  # another process may write within the same tick of the file system's clock
    monkeypatch.setattr(files, "_SETTLED", -60.0)
    for _ in range(3):
        require_intact(path)
    assert len(read) == 4
    path.write_text("22")
    with pytest.raises(RunError, match="has changed"):
        require_intact(path)
    (tmp_path / "checksums.txt").write_text("")
    path.write_text("1\n")
    with pytest.raises(RunError, match="not known"):
        require_intact(path)


def test_checksums_are_those_of_sha256sum_and_survive_a_torn_line(tmp_path):
    start_checksums(tmp_path)
    write_text(tmp_path / "a.csv", "abc")
    line = f"{hashlib.sha256(b'abc').hexdigest()}  a.csv\n"
    assert (tmp_path / "checksums.txt").read_text() == line
    write_text(tmp_path / "claim.md", "a user may edit it")
    assert (tmp_path / "checksums.txt").read_text() == line
    with (tmp_path / "checksums.txt").open("a") as file:
        file.write("0123abcd")  # a full disk
    write_text(tmp_path / "b.csv", "b")
    require_intact(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("c")
    with pytest.raises(RunError, match=r"c\.csv: is not known to have been written here"):
        require_intact(tmp_path / "c.csv")


def test_a_folder_without_checksums_is_read_unchecked(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_intact(tmp_path / "a.json")
        for name, info in {"old": {"xrayfast": "0.3.1"}, "of nothing": {}, "other": {"xrayfast": "x"}}.items():
            (tmp_path / name).mkdir()
            write_json(tmp_path / name / "run.json", info)
            require_intact(tmp_path / name / "run.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "of nothing", "old", "other"]


@pytest.mark.parametrize("version", ["0.4.0", "0.11.2", "1.0.0rc1"])
@pytest.mark.parametrize("inside", [".", "predictions", "checkpoint.old", "evaluations/x"])
def test_checksums_that_were_removed_are_missed_once(tmp_path, version, inside):
    """In the folder of a run of a version that writes them, and in those in it that have some of their own."""
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    write_json(tmp_path / "run.json", {"xrayfast": version})
    write_json(tmp_path / inside / "a.json", 1)
    with pytest.warns(
        UserWarning, match=r"lacks checksums\.txt, which xrayfast \d+\.\d+ wrote: .* copy the folder"
    ) as said:
        require_intact(tmp_path / inside / "a.json")
        require_intact(tmp_path / inside / "a.json")
    assert len(said) == 1 and str(said[0].message).startswith(f"{tmp_path / inside}: ")


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
    text = "a: {b: [1, 2.5, on, 'x: y'], c: null}\nb: |\n  two\n  lines\n? d\n: -1.0e-3\n"
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
    monkeypatch.setattr(delimited, "MAX_TABLE_BYTES", 100_000)
    monkeypatch.setattr(delimited, "_free_memory", lambda: 400_000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"image,label\n" + b"x" * 10_000_000))
    with pytest.raises(DataError, match=r"a\.csv\.gz: found more than .*, unpacked"):
        read_table(tmp_path / "a.csv.gz")


def test_a_table_may_be_as_large_as_there_is_memory_for(tmp_path, monkeypatch):
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


def test_text_that_is_not_unicode_is_an_error_that_shows_it(tmp_path):
    with pytest.raises(WriteError, match=r"a\.json: can't be written \('.*b\\xffc.*' is not Unicode\)"):
        write_json(tmp_path / "a.json", {"name": "b\udcffc"})
    with pytest.raises(WriteError, match="is not Unicode"):
        write_csv(tmp_path / "a.csv", pd.DataFrame({"name": ["b\udcffc"]}, dtype=object))
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_not_utf_8_is_refused_and_shown():
    require_utf8(["a/b\u00e9.png", Path("\u80f8.png")])
    with pytest.raises(DataError, match=r"a/\\xff\.png: found a name that is not UTF-8"):
        require_utf8(["a.png", Path("a/\udcff.png")])


# Folders and links


@posix
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "a.txt").symlink_to(tmp_path / "target")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "a.txt").read_text() == "new" and not (tmp_path / "a.txt").is_symlink()


@posix
@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_folder_that_is_a_link_is_refused(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "figures").symlink_to(tmp_path / target)
    with pytest.raises(RunError, match=rf"figures: is a symbolic link, to .*{target}; expected a folder within"):
        ensure_folder(tmp_path / "figures")
    assert ensure_folder(tmp_path / "tables").is_dir() and ensure_folder(tmp_path / "tables")


@posix
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_the_umask_even_where_the_writer_has_its_own(tmp_path, umask):
    def write_private(path):
        with replace_atomically(path) as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "")
        write_private(tmp_path / "b")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


@given(st.text(st.sampled_from("aCONcom1.: \\/<>|?*\u202e\t") | st.characters(codec="utf-8")))
def test_a_portable_name_is_one_on_every_system(text):
    name = portable_name(text)
    assert 0 < len(name) <= 201 and portable_name(name) in (name, f"_{name}")
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f]|^[.]|[. ]$', name)
    assert name.split(".")[0].upper() not in {
        "CON",
        "PRN",
        "AUX",
        "NUL",
        *(f"{d}{i}" for d in ("COM", "LPT") for i in range(10)),
    }


# Cells that a spreadsheet would run

RISKY = st.text(st.sampled_from("'=+-@\t\r\n\uff1d,;\"a1 ") | st.characters(codec="utf-8", exclude_characters="\0"))


@pytest.mark.parametrize("start", "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
def test_what_begins_like_a_formula_is_quoted(start):
    for text in (start, f"{start}1+1", f"'{start}1", f"''{start}"):
        assert quote_cell(text) == f"'{text}" and unquote_cell(quote_cell(text)) == text


@given(RISKY)
def test_any_text_is_read_back(text):
    assert unquote_cell(quote_cell(text)) == text
    assert quote_cell(text)[:1] not in list("=+-@\t\r\n")
    assert quote_cell(text) in (text, f"'{text}")


@settings(max_examples=200)
@given(texts=st.lists(RISKY, min_size=1, max_size=4), name=RISKY.filter(str.strip))
@example(texts=[",\t", ",\t"], name=",\t")
def test_any_table_is_read_back_as_it_was_by_all_readers(tmp_path_factory, texts, name):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    column = f"={name}"
    table = pd.DataFrame({"row": [f"r{i}" for i in range(len(texts))], column: texts, "value": -0.5})
    write_csv(path, table)
    pd.testing.assert_frame_equal(
        read_csv(path, ["row", column], dtype={"row": str, f"'{column}": str}, keep_default_na=False), table
    )
    read = read_table(path).columns
    assert read["row"] == table["row"].tolist() and read["value"] == ["-0.5"] * len(texts)
    assert read[column.strip()] == texts


def test_ordinary_tables_and_numbers_are_as_pandas_writes_them(tmp_path):
    table = pd.DataFrame(
        {
            "image": ["a/b-1.png", "'a' and \"b\", c.png", "z\u00e4hne =1.png", "[red]"],
            "value": [-0.5, float("nan"), 1e-20, float("-inf")],
            "mixed": [-0.25, None, "a", -3],
            "count": [-1, 2, 3, 4],
            "yes": [True, False, True, False],
            "kind": pd.Categorical(["a", "b", "a", "b"]),
        }
    )
    for form in (None, "%.6g"):
        write_csv(tmp_path / "a.csv", table, form)
        expected = table.to_csv(index=False, lineterminator="\n", float_format=form)
        assert (tmp_path / "a.csv").read_text("utf-8") == expected
    mixed = pd.DataFrame({"mixed": [-0.25, "=1", None, -3]})
    write_csv(tmp_path / "a.csv", mixed)
    assert (tmp_path / "a.csv").read_text() == 'mixed\n-0.25\n\'=1\n""\n-3\n'
    assert mixed["mixed"].tolist()[1] == "=1"


def test_every_table_is_written_here():
    """But for numbers alone, names that are our own, and the script beside a model, which stands alone."""
    package = Path(xrayfast.__file__).parent
    files = {str(path.relative_to(package)): path.read_text("utf-8") for path in package.rglob("*.py")}
    writers = {
        name
        for name, text in files.items()
        if re.search(r"\b(?!found)\w+\.to_csv\(|csv\.writer|DictWriter|sep=\",\"", text)
    }
    assert writers == {"files/__init__.py", "synthetic.py", "exported/onnx_predict.py"}
    readers = {name for name, text in files.items() if re.search(r"pd\.read_csv\(|csv\.reader", text)}
    assert readers == {"files/__init__.py", "data/sources/tables/delimited.py"}


def test_checksums_are_not_made_of_what_is_no_file_of_a_run(tmp_path):
    (tmp_path / "checksums.txt").touch()
    for name, other in (("model.safetensors", "model.safetensors"), ("checksums.txt", "a.csv")):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)  # of holes: a checksum would take an hour
        (tmp_path / other).touch()
        with pytest.raises(RunError, match=f"{name}: found a file of 1,099,511,627,776 bytes"):
            require_intact(tmp_path / other)
        (tmp_path / name).unlink()
