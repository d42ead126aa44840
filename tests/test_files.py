"""Files are whole or not there."""

import json

import pytest

from xrayfast.errors import WriteError
from xrayfast.files import replace_atomically, write_bytes, write_json, write_text


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
