"""Files are complete or missing, never partial."""

import json
import os
import sys

import pandas as pd
import pytest

from xrayfast.errors import WriteError
from xrayfast.files import atomic
from xrayfast.files.atomic import replace_atomically, write_bytes, write_json, write_text
from xrayfast.files.csv_tables import write_csv


def test_a_missing_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(WriteError, match="does not exist"):
        write_bytes(tmp_path / "nowhere" / "a.png", b"")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"a\.png: can't be written \(.*file: it is a file\)"):
        write_bytes(tmp_path / "file" / "a.png", b"")


def test_a_name_of_the_maximum_length_is_written(tmp_path):
    write_text(tmp_path / f"{'n' * 251}.txt", "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(failure), replace_atomically(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_that_is_open_in_windows_is_replaced_when_it_is_free(tmp_path, monkeypatch):
    tried = []

    def refuse(target):
        tried.append(target)
        if len(tried) < 3:
            raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(atomic, "_PAUSE", 0)
    monkeypatch.setattr(atomic, "_TRIES", 1)  # elsewhere
    with pytest.raises(PermissionError):
        atomic.move_when_free(refuse, tmp_path)
    monkeypatch.setattr(atomic, "_TRIES", 2)  # again refused, then moved
    atomic.move_when_free(refuse, tmp_path)
    assert tried == [tmp_path] * 3


def test_text_and_json_are_written_unchanged(tmp_path):
    write_text(tmp_path / "a.txt", "z\u00e4hne\n")
    assert (tmp_path / "a.txt").read_bytes() == "z\u00e4hne\n".encode()
    write_json(tmp_path / "a.json", {"a": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None}


def test_text_that_is_not_unicode_is_an_error_that_shows_it(tmp_path):
    with pytest.raises(WriteError, match=r"a\.json: can't be written \('.*b\\xffc.*' is not valid Unicode\)"):
        write_json(tmp_path / "a.json", {"name": "b\udcffc"})
    with pytest.raises(WriteError, match="is not valid Unicode"):
        write_csv(tmp_path / "a.csv", pd.DataFrame({"name": ["b\udcffc"]}, dtype=object))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions and symbolic links")
def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "a.txt").symlink_to(tmp_path / "target")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "a.txt").read_text() == "new" and not (tmp_path / "a.txt").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions and symbolic links")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask_even_if_the_writer_sets_its_own(tmp_path, umask):
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
