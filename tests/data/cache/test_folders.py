from __future__ import annotations

import os
import re
import time
from pathlib import Path

import platformdirs
import pytest

from tests.data.cache.image_files import write_images
from xrayfast.data.cache.folders import CacheFolder, cache_info, clear_cache, holds_cache
from xrayfast.data.cache.image_cache import ImageCache
from xrayfast.errors import DataError, WriteError
from xrayfast.errors.environment import CACHE_VARIABLE
from xrayfast.files.cache_folder import cache_root


@pytest.fixture
def root(tmp_path):
    """A cache with 12 images of 16 px, last used yesterday, and 10 of 24 px."""
    root, paths = tmp_path / "cache", write_images(tmp_path / "images", 12)
    old = ImageCache(16, root=root)
    old.build(paths, workers=0)
    ImageCache(24, root=root).build(paths[:10], workers=0)
    os.utime(old.folder, (time.time() - 86400,) * 2)
    return root


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_info_has_side_images_bytes_and_last_use(root):
    new, old = cache_info(root)
    assert (new.side, new.images, old.side, old.images) == (24, 10, 16, 12)
    assert new == CacheFolder(
        ImageCache(24, root=root).folder, 24, 10, sum(file.stat().st_size for file in new.path.iterdir()), new.used
    )
    assert 10 * 24**2 < new.bytes < 10 * 24**2 + 3000
    assert abs(new.used - time.time()) < 60 and abs(old.used + 86400 - time.time()) < 60


def test_reading_counts_as_a_use(root, tmp_path):
    ImageCache(16, root=root).image(tmp_path / "images" / "0000.png")
    assert abs(max(cache_info(root), key=lambda folder: folder.side == 16).used - time.time()) < 60


def test_clear_removes_everything_and_says_how_much(root):
    size = sum(folder.bytes for folder in cache_info(root))
    assert clear_cache(root) == size > 0
    assert files_in(root) == []
    assert cache_info(root) == [] and clear_cache(root) == 0


def test_clear_touches_nothing_else(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = ImageCache(24, root=root).folder
    others = [
        outside / "0123456789abcdef.pictures",
        folder / "notes.txt",
        folder / "x.pictures",
        root / "pictures" / "mine.png",
        root / "pictures" / "v1-other" / "0123456789abcdef.pictures",
        root / "models" / "0123456789abcdef.pictures",
    ]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (root / "pictures" / "v1-64px-01234567").symlink_to(outside)
    (folder / "fedcba9876543210.pictures").symlink_to(others[0])
    (folder / "00000000000000aa.pictures").mkdir()
    size = sum(info.bytes for info in cache_info(root))
    assert {info.side for info in cache_info(root)} == {16, 24}
    assert clear_cache(root) == size
    assert all(path.read_text() == "x" for path in others)
    assert (root / "pictures" / "v1-64px-01234567").is_symlink()
    assert files_in(ImageCache(16, root=root).folder) == []
    assert len(list(folder.iterdir())) == 4


def test_clear_removes_leftovers_of_killed_runs(root):
    folder = ImageCache(24, root=root).folder
    (folder / ".0123456789abcdef.pictures.12ab34cd.tmp").write_bytes(bytes(100))
    (folder / "0123456789abcdef.lock").touch()
    for path in folder.iterdir():
        os.utime(path, (time.time() - 61,) * 2)
    clear_cache(root)
    assert files_in(folder) == []


def test_clear_leaves_what_a_run_is_writing(root):
    being_written = ImageCache(24, root=root).folder / ".0123456789abcdef.pictures.12ab34cd.tmp"
    being_written.write_bytes(bytes(100))
    clear_cache(root)
    assert files_in(root) == [being_written]


def test_a_file_that_cannot_be_removed_is_an_error(root, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(WriteError, match=r"\.pictures: can't be removed \(Permission denied\)"):
        clear_cache(root)


@pytest.mark.parametrize("act", [cache_info, clear_cache])
@pytest.mark.parametrize("place", ["pictures", r"v\d+-\w+-\w+"])
def test_a_cache_that_cannot_be_read_is_not_said_to_be_empty(root, monkeypatch, act, place):
    def refuse(path, real=os.scandir):
        if re.search(f"{place}$", str(path)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"{place}: can't be read \(Permission denied\)\. Check who"):
        act(root)
    assert holds_cache(root) == (place != "pictures")


def test_two_processes_may_clear_at_once(root, monkeypatch):
    def beaten(path, real=Path.unlink, **_):
        real(path)
        real(path)

    monkeypatch.setattr(Path, "unlink", beaten)
    assert clear_cache(root) == 0
    assert files_in(root) == []


def test_the_root_is_the_argument_or_the_environment_variable_or_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "variable"))
    assert cache_root(tmp_path) == tmp_path
    assert cache_root() == tmp_path / "variable"
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert cache_root() == Path(platformdirs.user_cache_dir("xrayfast", appauthor=False))
    assert cache_root().name == "xrayfast"


def test_a_missing_cache_is_empty(tmp_path):
    assert cache_info(tmp_path / "none") == []
    assert clear_cache(tmp_path / "none") == 0
