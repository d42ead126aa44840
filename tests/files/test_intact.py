"""At any moment it is known whether a file is as it was written."""

import hashlib
import warnings

import pytest

from xrayfast.errors import RunError
from xrayfast.files import intact
from xrayfast.files.atomic import replace_atomically, write_json, write_text
from xrayfast.files.checksums import start_checksums
from xrayfast.files.intact import require_intact


def test_the_checksum_of_a_file_is_known_before_and_after_it_is_replaced(tmp_path):
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
    # Killed after the checksum was written and before the file was moved: both versions are known.
    path.write_text("1\n")
    require_intact(path)
    path.write_text("3")
    with pytest.raises(RunError, match=r"a\.json: has changed since it was written.*delete .*checksums\.txt"):
        require_intact(path)


def test_a_file_is_read_once_for_its_checksum_unless_it_was_just_written(tmp_path, monkeypatch):
    read = []
    digest = intact.file_digest
    monkeypatch.setattr(intact, "file_digest", lambda path: read.append(path) or digest(path))
    start_checksums(tmp_path)
    path = tmp_path / "a.json"
    write_json(path, 1)
    read.clear()
    for _ in range(3):
        require_intact(path)
    assert len(read) == 3  # another process may write within the same tick of the file system's clock
    monkeypatch.setattr(intact, "_SETTLED", -60.0)
    for _ in range(3):
        require_intact(path)
    assert len(read) == 4
    path.write_text("22")
    with pytest.raises(RunError, match="has changed"):
        require_intact(path)
    (tmp_path / "checksums.txt").write_text("")
    path.write_text("1\n")
    with pytest.raises(RunError, match="was not written to this folder"):
        require_intact(path)


def test_checksums_are_those_of_sha256sum_and_survive_a_torn_line(tmp_path):
    start_checksums(tmp_path)
    write_text(tmp_path / "a.csv", "abc")
    line = f"{hashlib.sha256(b'abc').hexdigest()}  a.csv\n"
    assert (tmp_path / "checksums.txt").read_text() == line
    write_text(tmp_path / "claim.md", "a user may edit it")
    assert (tmp_path / "checksums.txt").read_text() == line
    with (tmp_path / "checksums.txt").open("a") as file:
        file.write("0123abcd")  # as on a full disk
    write_text(tmp_path / "b.csv", "b")
    require_intact(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("c")
    with pytest.raises(RunError, match=r"c\.csv: was not written to this folder by xrayfast"):
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
def test_removed_checksums_are_reported_once(tmp_path, version, inside):
    """In the folder of a run whose version writes checksums, and in subfolders with their own checksums."""
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    write_json(tmp_path / "run.json", {"xrayfast": version})
    write_json(tmp_path / inside / "a.json", 1)
    with pytest.warns(
        UserWarning, match=r"lacks checksums\.txt, which xrayfast \d+\.\d+ wrote, .* copy the folder"
    ) as said:
        require_intact(tmp_path / inside / "a.json")
        require_intact(tmp_path / inside / "a.json")
    assert len(said) == 1 and str(said[0].message).startswith(f"{tmp_path / inside}: ")


def test_files_too_large_for_a_run_are_refused_before_a_checksum_is_computed(tmp_path):
    (tmp_path / "checksums.txt").touch()
    for name, other in (("model.safetensors", "model.safetensors"), ("checksums.txt", "a.csv")):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)  # a sparse file: its checksum would take an hour
        (tmp_path / other).touch()
        with pytest.raises(RunError, match=f"{name}: found a file of 1,099,511,627,776 bytes"):
            require_intact(tmp_path / other)
        (tmp_path / name).unlink()
