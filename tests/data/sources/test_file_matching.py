from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.builders import make
from xrayfast.data.sources.file_matching import Finder, PathIndex, walk
from xrayfast.errors import DataError


def found(paths, text, min_parts=1):
    return [paths[i] for i in PathIndex(paths).find(text, min_parts)]


TREE = ["train/p1/view1.jpg", "train/p2/view1.jpg", "valid/p1/view1.jpg", "valid/p3/view2.dcm", "notes.txt"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("train/p1/view1.jpg", ["train/p1/view1.jpg"]),
        ("Set-v1.0/train/p1/view1.jpg", ["train/p1/view1.jpg"]),
        ("p2/view1.jpg", ["train/p2/view1.jpg"]),
        ("other/p2/view1.jpg", ["train/p2/view1.jpg"]),
        ("p1/view1.jpg", ["train/p1/view1.jpg", "valid/p1/view1.jpg"]),
        ("view2.png", ["valid/p3/view2.dcm"]),
        ("p3/view2", ["valid/p3/view2.dcm"]),
        ("train/p2/view1", ["train/p2/view1.jpg"]),
        ("notes", []),
        ("notes.txt", ["notes.txt"]),
        ("view3.jpg", []),
        ("", []),
        ("/", []),
    ],
)
def test_paths_are_found_by_their_ends(text, names):
    assert found(TREE, text) == names


def test_more_of_the_end_goes_before_the_same_ending():
    assert found(["train/1.jpg", "test/1.png"], "train/1.png") == ["train/1.jpg"]
    assert found(["1.jpg", "1.png"], "1.png") == ["1.png"]
    assert found(["1.jpg", "1.png"], "1.bmp") == ["1.jpg", "1.png"]


def test_a_path_as_written_goes_before_longer_ones():
    assert found(["copy/a/1.png", "a/1.png", "1.png"], "a/1.png") == ["a/1.png"]
    assert found(["copy/a/1.png", "a/1.png", "1.png"], "x/1.png") == ["1.png"]


def test_least_says_how_much_must_agree():
    assert found(TREE, "Set/train/p9/view2.dcm", min_parts=3) == []
    assert found(TREE, "Set/train/p9/view2.dcm") == ["valid/p3/view2.dcm"]
    assert found(TREE, "Set/valid/p3/view2.dcm", min_parts=3) == ["valid/p3/view2.dcm"]


def test_names_with_dots_are_no_endings():
    assert found(["1.2.840.113"], "1.2.840.113.dcm") == ["1.2.840.113"]
    assert found(["1.2.840.113.dcm", "1.2.840.114.dcm"], "1.2.840.113") == ["1.2.840.113.dcm"]


SPLITS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=0, max_size=3)
NAMES = st.sampled_from(["1.png", "1.jpg", "2.png", "2"])
FILES = st.lists(st.tuples(SPLITS, NAMES), min_size=1, max_size=12).map(
    lambda files: sorted({"/".join([*folders, name]) for folders, name in files})
)


def shared(text, path):
    """How many components two paths share at the end, and whether names agree wholly."""

    def count(left, right):
        pairs = zip(reversed(left.split("/")), reversed(right.split("/")), strict=False)
        total = 0
        for one, other in pairs:
            if one != other:
                break
            total += 1
        return total

    def stem(name):
        return name.rsplit(".", 1)[0]

    return count(stem(text), stem(path)), count(text, path) > 0


@given(FILES, st.data())
def test_a_path_in_front_of_which_folders_are_added_or_cut_is_never_taken_for_another(paths, data):
    path = data.draw(st.sampled_from(paths))
    cut = data.draw(st.integers(0, path.count("/")))
    front = data.draw(st.lists(st.sampled_from(["x", "a"]), max_size=2))
    text = "/".join([*front, *path.split("/")[cut:]])
    names = found(paths, text)
    best = max(shared(text, other) for other in paths)
    alike = [other for other in paths if shared(text, other) == best]
    assert set(names) <= set(alike)
    if text in paths:
        assert names == [text]
    elif path in alike:
        assert len(names) == 1 or path in names


@given(FILES, st.sampled_from(["a/1.png", "b/2", "9.png", "c/b/1.jpg", "z/1.png"]))
def test_what_is_found_ends_alike(paths, text):
    best = max(shared(text, other) for other in paths)
    names = found(paths, text)
    assert bool(names) == (best[0] > 0)
    assert all(shared(text, name) == best for name in names)


# Files


def test_files_are_found_as_they_are_written(tmp_path):
    root = make(tmp_path / "data", "a/1.png", "a/.hidden.png", ".cache/2.png", "b/1.png")
    make(tmp_path, "beside/3.png", "beside/a/4.png")
    finder = Finder(root, tmp_path / "beside")
    for cell, name in {
        "a/1.png": "a/1.png",
        " a\\1.png ": "a/1.png",
        "./a/1.png": "a/1.png",
        "a/../b/1.png": "b/1.png",
        "gone/../b/1.png": "b/1.png",
        f"{root}/b/1.png": "b/1.png",
        "D:\\films\\b\\1.png": "b/1.png",
        "a/.hidden.png": "a/.hidden.png",
        ".cache/2.png": ".cache/2.png",
        "3.png": "../beside/3.png",
        "a/4.png": "../beside/a/4.png",
        "../beside/3.png": "../beside/3.png",
    }.items():
        assert finder.find(cell) == [name], cell
        assert Path(finder.path(name)).samefile(tmp_path / "data" / name)
        assert ".." not in finder.path(name)
    assert finder.find("1.png") == ["a/1.png", "b/1.png"]
    assert finder.find("2.png") == [] and finder.find(".hidden.png") == [] and finder.find("") == []


def test_folders_and_links_named_like_files_are_not_found(tmp_path):
    make(tmp_path, "x/1.png/2.png")
    (tmp_path / "x" / "self.png").symlink_to("self.png")
    (tmp_path / "x" / "gone.png").symlink_to("nowhere.png")
    assert Finder(tmp_path, tmp_path).find("x/1.png/2.png") == ["x/1.png/2.png"]
    with pytest.raises(DataError, match=r"self\.png: can't be followed"):
        Finder(tmp_path, tmp_path).find("1.png")
    (tmp_path / "x" / "self.png").unlink()
    for name in ("1.png", "gone.png"):
        assert Finder(tmp_path, tmp_path).find(name) == []


def test_images_in_a_folder(tmp_path):
    root = make(tmp_path / "mimic", "files/p10/p1/s1/b.jpg", "files/p10/p1/s1/a.jpg", "files/p10/p1/s1.txt")
    make(root, "files/p10/p1/s2/notes.txt", "files/p10/p2/s1/c.jpg", "copy/p3/s3/1.jpg", "files/p3/s3/1.jpg")
    finder = Finder(root, root)
    assert finder.inside("files/p10/p1/s1") == ["files/p10/p1/s1/a.jpg", "files/p10/p1/s1/b.jpg"]
    assert finder.inside("x/p2/s1") == ["files/p10/p2/s1/c.jpg"]
    assert finder.inside("p1/s2") == [] and finder.inside("p9/s9") == []
    with pytest.raises(DataError, match="folder 'p3/s3' could be copy/p3/s3 or files/p3/s3"):
        finder.inside("p3/s3")


def test_walking_follows_links_but_not_in_circles(tmp_path):
    make(tmp_path / "elsewhere", "1.png")
    make(tmp_path / "data", "a/2.png", ".h/3.png", "a/.4.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "c").symlink_to(tmp_path / "nowhere")
    entries = list(walk(tmp_path / "data"))
    assert [entry.path for entry in entries if entry.is_file()] == [
        f"{tmp_path}/data/a/2.png",
        f"{tmp_path}/data/b/1.png",
    ]
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    with pytest.raises(DataError, match="leads back to a folder around it"):
        list(walk(tmp_path / "data"))


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"can't be read \(Permission denied\)\. Check its permissions"):
        list(walk(tmp_path))
