"""Output is written only to the intended places."""

import os
import re
import sys

import pytest
from matplotlib.figure import Figure

from xrayfast.errors import RunError, WriteError
from xrayfast.files.checksums import start_checksums
from xrayfast.files.writable import (
    EXPORT_MARK,
    PAGE_MARK,
    PNG_MARK,
    ensure_folder,
    make_output_folder,
    require_replaceable,
    require_text_file,
)
from xrayfast.reporting.figures.encoding import save
from xrayfast.runs.run import Run


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions and symbolic links")
@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_folder_that_is_a_link_is_refused(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "figures").symlink_to(tmp_path / target)
    with pytest.raises(RunError, match=rf"figures: is a symbolic link to .*{target}; expected a folder within"):
        ensure_folder(tmp_path / "figures")
    assert ensure_folder(tmp_path / "tables").is_dir() and ensure_folder(tmp_path / "tables")


@pytest.mark.parametrize("name", ["p.xlsx", "p.csv.gz", "p.PNG", "p.parquet", "p.tsv", "p.html"])
def test_a_table_is_not_written_under_the_name_of_another_format(tmp_path, name):
    with pytest.raises(WriteError, match=rf"{name}: found the suffix '.*'; expected a name for a CSV table, .* p\.csv"):
        require_text_file(tmp_path / name)
    for other in ("p.csv", "p", "p.txt", "1.5"):
        require_text_file(tmp_path / other)


def test_a_page_is_not_written_as_csv(tmp_path):
    with pytest.raises(WriteError, match=r"found the suffix '.csv'; expected a name for a page, .* p\.html\."):
        require_text_file(tmp_path / "p.csv", is_page=True)
    require_text_file(tmp_path / "p.html", is_page=True)


def test_a_table_replaces_only_an_earlier_output_of_its_command(tmp_path):
    columns = ("file", "predicted")
    (tmp_path / "labels.csv").write_text("\ufefffile,labels\na.png,mass\n", encoding="utf-8")
    with pytest.raises(WriteError, match=r"labels\.csv: found a file that this command did not write: .* labels"):
        require_text_file(tmp_path / "labels.csv", columns=columns)
    for text in ("", 'predicted,file,"prob_a\nb"\n'):
        (tmp_path / "p.csv").write_text(text, encoding="utf-8")
        require_text_file(tmp_path / "p.csv", columns=columns)


def test_other_files_are_replaced_only_if_they_are_earlier_outputs(tmp_path):
    mine = {
        "page.html": b"<title>My notes on xrayfast</title>",
        "model.onnx": b"ONNX",
        "lr.png": b"\x89PNG",
        "m.json": b'["source", "task"]',
    }
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    figure = Figure()
    figure.subplots()
    save(figure, tmp_path / "ours.png")
    require_replaceable(tmp_path / "ours.png", mark=PNG_MARK)
    require_replaceable(tmp_path / "new.png", mark=PNG_MARK)
    (tmp_path / "ours.json").write_text('{"source": "a", "task": "multi"}')
    require_replaceable(tmp_path / "ours.json", keys=("source", "task"))
    for name, options in (
        ("page.html", {"mark": PAGE_MARK}), ("model.onnx", {"mark": EXPORT_MARK}), ("lr.png", {"mark": PNG_MARK}),
        ("m.json", {"keys": ("source", "task")}), ("page.html", {"keys": ("run",)}),
    ):  # fmt: skip
        with pytest.raises(
            WriteError, match=rf"{re.escape(name)}: found a file that this command did not write.* Move or remove"
        ):
            require_replaceable(tmp_path / name, **options)


@pytest.fixture
def closed(tmp_path):
    """Return a folder that this user can't enter; root is another user during the test."""
    (tmp_path / "closed").mkdir(mode=0)
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if sys.platform == "win32" or (is_root and not hasattr(os, "setresuid")):
        pytest.skip("needs permissions")
    if is_root:
        os.setresuid(65534, 65534, 0)
    yield tmp_path / "closed"
    if is_root:
        os.setresuid(0, 0, 0)


def test_outputs_in_a_folder_without_access_are_refused_before_the_work(closed):
    for path in (closed / "p.csv", closed / "inner" / "p.csv"):
        with pytest.raises(WriteError, match=r"p\.csv: can't be written \(/.*: permission denied\)\. Choose another"):
            require_text_file(path)
    with pytest.raises(WriteError, match=r"^/.*: can't be written \(permission denied\)\. Choose another folder with"):
        make_output_folder(closed / "check")
    with pytest.raises(RunError, match=r"^/.*: can't be written \(permission denied\)\. Choose another folder with"):
        Run.require_creatable(closed / "runs", "a")


@pytest.mark.parametrize("place", ["n" * 300, f"new/{'n' * 300}"])
def test_outputs_with_a_name_that_is_too_long_are_refused_before_the_work(tmp_path, place):
    said = r": can't be written \(the name 'nn.*' has 30\d bytes; most file systems allow 255\)\. Choose another "
    with pytest.raises(RunError, match=said + "folder with "):
        Run.require_creatable(tmp_path / place, None)
    with pytest.raises(WriteError, match=said):
        make_output_folder(tmp_path / place)
    with pytest.raises(WriteError, match=said + "name"):
        require_replaceable(tmp_path / f"{'n' * 300}.png")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "check.html").write_text("<title>a · xrayfast check</title>", encoding="utf-8")

    def deny(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("xrayfast.files.writable.mmap.mmap", deny)
    with pytest.raises(WriteError, match=r"check\.html: exists, but can't be read \(Permission denied\); expected"):
        require_replaceable(tmp_path / "check.html", mark=PAGE_MARK)


def test_a_file_of_a_run_is_not_replaced_by_another_command(tmp_path):
    start_checksums(tmp_path)
    require_text_file(tmp_path / "new.csv")
    (tmp_path / "split.csv").write_text("image,patient,split,labels\n", encoding="utf-8")
    with pytest.raises(WriteError, match=r"split\.csv: is in the folder of a run .*; expected the name of a new file"):
        require_text_file(tmp_path / "split.csv", columns=("image",))
