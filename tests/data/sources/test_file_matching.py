from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.builders import lines, make, message, noted, opened, table
from xrayfast.data.sources.file_matching import Finder
from xrayfast.data.sources.folder_tree import walk
from xrayfast.data.sources.path_index import PathIndex, drop_shared_folders
from xrayfast.errors import DataError


def found(paths, text):
    return [paths[i] for i in PathIndex(paths).find(text)]


TREE = ["train/p1/view1.jpg", "train/p2/view1.jpg", "valid/p1/view1.jpg", "valid/p3/view2.dcm", "notes.txt"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("train/p1/view1.jpg", ["train/p1/view1.jpg"]),
        ("Set-v1.0/train/p1/view1.jpg", []),
        ("p2/view1.jpg", ["train/p2/view1.jpg"]),
        ("other/p2/view1.jpg", []),
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
def test_paths_are_matched_by_whole_trailing_components(text, names):
    assert found(TREE, text) == names


def test_a_full_name_takes_precedence_over_one_without_its_suffix():
    assert found(["1.jpg", "1.png"], "1.png") == ["1.png"]
    assert found(["1.jpg", "1.png"], "1.bmp") == ["1.jpg", "1.png"]


def test_a_path_as_written_takes_precedence_over_longer_ones():
    assert found(["copy/a/1.png", "a/1.png", "1.png"], "a/1.png") == ["a/1.png"]
    assert found(["copy/a/1.png", "a/1.png", "1.png"], "x/1.png") == []


def test_names_with_dots_are_no_endings():
    assert found(["1.2.840.113"], "1.2.840.113.dcm") == ["1.2.840.113"]
    assert found(["1.2.840.113.dcm", "1.2.840.114.dcm"], "1.2.840.113") == ["1.2.840.113.dcm"]


@pytest.mark.parametrize(
    ("paths", "names", "min_parts", "dropped"),
    [
        (["a/b/1.png", "a/b/2.png"], ["a/b/1.png"], 1, ""),
        (["x/a/1.png", "x/a/2.png"], ["a/1.png"], 1, "x/"),
        (["/home/me/a/1.png", "/home/me/b/2.png"], ["b/2.png"], 1, "/home/me/"),
        (["x/1.png", "x/2.png"], ["1.png", "2.png"], 1, "x/"),
        (["x/1.png", "x/2.png"], ["3.png"], 1, ""),
        (["x/1.png", "y/2.png"], ["1.png", "2.png"], 1, ""),
        (["x/1.png", "2.png"], ["1.png", "2.png"], 1, ""),
        (["xa/1.png", "xb/2.png"], ["1.png"], 1, ""),
        (["x/1.png", ""], ["1.png"], 1, "x/"),
        (["x/p1/s1/1.png"], ["p1/s1/1.png"], 3, "x/"),
        (["x/p1/s1/1.png"], ["s1/1.png"], 3, ""),
        ([], ["1.png"], 1, ""),
    ],
)
def test_only_folders_that_all_paths_share_are_dropped_and_as_few_as_possible(paths, names, min_parts, dropped):
    written, part = drop_shared_folders(paths, set(names).__contains__, min_parts)
    assert (written, part) == ([path.removeprefix(dropped) for path in paths], dropped)


FOLDERS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=0, max_size=3)
NAMES = st.sampled_from(["1.png", "1.jpg", "2.png", "2"])
FILES = st.lists(st.tuples(FOLDERS, NAMES), min_size=1, max_size=12).map(
    lambda files: sorted({"/".join([*folders, name]) for folders, name in files})
)


@given(FILES, FILES)
def test_a_found_file_ends_in_the_whole_written_path(paths, texts):
    def ends(path, text):
        return f"/{path}".endswith(f"/{text}") or f"/{path.rsplit('.', 1)[0]}".endswith(f"/{text.rsplit('.', 1)[0]}")

    for text in texts:
        names = found(paths, text)
        assert all(ends(name, text) for name in names)
        assert bool(names) == any(ends(path, text) for path in paths)
        assert text not in paths or names == [text]


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
        assert finder.find([cell])[0] == [[name]], cell
        assert Path(finder.path(name)).samefile(tmp_path / "data" / name)
        assert ".." not in finder.path(name)
    assert finder.find(["1.png"])[0] == [["a/1.png", "b/1.png"]]
    assert finder.find(["2.png", ".hidden.png", ""])[0] == [[], [], []]


def test_files_under_the_root_and_beside_the_table_are_noted(tmp_path):
    root = make(tmp_path / "data", "a/1.png", "a/2.png")
    make(tmp_path, "beside/a/1.png", "beside/b/3.png")
    cells = ["a/1.png", "a/2.png", "b/3.png"]
    found, notes = Finder(root, tmp_path / "beside").find(cells)
    assert found == [["a/1.png"], ["a/2.png"], ["../beside/b/3.png"]]
    assert len(notes) == 1 and "1 image found in two places" in notes[0]
    assert "such as a/1.png and ../beside/a/1.png: the first is used" in notes[0]
    (tmp_path / "link").symlink_to(root)
    assert Finder(root, tmp_path / "link").find(cells[:2])[1] == [] == Finder(root, root).find(cells[:2])[1]
    assert Finder(root, tmp_path / "beside").find([f"{root}/a/1.png"])[1] == []


def test_folders_and_links_named_like_files_are_not_found(tmp_path):
    make(tmp_path, "x/1.png/2.png")
    (tmp_path / "x" / "self.png").symlink_to("self.png")
    (tmp_path / "x" / "gone.png").symlink_to("nowhere.png")
    assert Finder(tmp_path, tmp_path).find(["x/1.png/2.png"])[0] == [["x/1.png/2.png"]]
    with pytest.raises(DataError, match=r"self\.png: can't be followed"):
        Finder(tmp_path, tmp_path).find(["1.png"])
    (tmp_path / "x" / "self.png").unlink()
    for name in ("1.png", "gone.png"):
        assert Finder(tmp_path, tmp_path).find([name])[0] == [[]]


REST = [f"rest/{i}.png" for i in range(20)]


@pytest.mark.parametrize(
    ("files", "cell"),
    [
        (["A/1.png", "B/2.png"], "B/1.png"),  # the folder exists
        (["A/1.png"], "B/1.png"),  # the folder is missing
        (["train/2.png", "test/1.png"], "train/1.png"),
        (["p1/s1/view.png", "p2/s9/view.png"], "p2/s1/view.png"),
        (["A/x.png"], "x.png"),  # a name without a folder, while the others have one
        (["old/B/1.png", "B/2.png"], "B/1.png"),  # the same folder exists deeper in the tree
        (["A/1.jpg", "B/2.png"], "B/1.png"),
        (["1.png"], "B/1.png"),
        (["a/1.png"], "A/1.png"),
    ],
)
def test_a_file_of_the_same_name_in_another_folder_is_never_taken(tmp_path, files, cell):
    make(tmp_path, *files, *REST)
    assert Finder(tmp_path, tmp_path).find([cell, *REST]) == ([[], *([name] for name in REST)], [])


def test_a_leading_part_that_all_paths_share_is_dropped_with_a_note(tmp_path):
    make(tmp_path, "train/1.png", "train/2.png", "valid/1.png")
    found, notes = Finder(tmp_path, tmp_path).find(["Set-v1/train/1.png", "Set-v1/valid/1.png", "Set-v1/valid/2.png"])
    assert found == [["train/1.png"], ["valid/1.png"], []]
    assert notes == [f"All paths begin with Set-v1/, which is not in {tmp_path}: they are read without it."]


def test_names_without_a_folder_are_found_in_folders_of_one_kind_and_not_in_a_stray_one(tmp_path):
    kept = [f"images_{i:03d}/images/{i}{j}.png" for i in (1, 2) for j in range(5)]
    make(tmp_path, *kept, "images_003/images/99.png", "backup/50.png")
    cells = [*(name[-6:] for name in kept), "99.png", "50.png"]
    found, notes = Finder(tmp_path, tmp_path).find(cells)
    assert found == [*([name] for name in kept), ["images_003/images/99.png"], []]
    assert notes == [
        "Images were found by file name in these folders: images_001/images/ (5), images_002/images/ (5), "
        "images_003/images/ (1)."
    ]


def test_names_without_a_folder_are_found_in_class_folders_of_similar_sizes(tmp_path):
    kept = [*(f"COVID/images/c{i}.png" for i in range(6)), *(f"Normal/images/n{i}.png" for i in range(9))]
    make(tmp_path, *kept)
    found, notes = Finder(tmp_path, tmp_path).find([Path(name).name for name in kept])
    assert found == [[name] for name in kept] and "COVID/images/ (6), Normal/images/ (9)" in notes[0]
    make(tmp_path, *(f"COVID/images/other{i}.png" for i in range(20)))  # now only 6 of 26 images of COVID are listed
    assert Finder(tmp_path, tmp_path).find([Path(name).name for name in kept])[0] == [
        *[[]] * 6,
        *([n] for n in kept[6:]),
    ]


def test_files_next_to_the_table_do_not_replace_those_missing_under_the_root(tmp_path):
    make(tmp_path, "1.png", "2.png", "sub/2.png", "sub/3.png", "sub/4.png")
    found, _ = Finder(tmp_path, tmp_path / "sub").find(["1.png", "2.png", "3.png", "4.png"])
    assert found == [[], ["sub/2.png"], ["sub/3.png"], ["sub/4.png"]]
    found, _ = Finder(tmp_path, tmp_path / "sub").find(["1.png", "2.png", "3.png"])
    assert found == [["1.png"], ["2.png"], []]


def test_names_in_either_unicode_form_are_the_same(tmp_path):
    composed, decomposed = "thorax\u00e9", "thoraxe\u0301"
    make(tmp_path, f"{composed}/{decomposed}.png", f"{decomposed}2/{composed}.png")
    cells = [f"{decomposed}/{composed}.png", f"{composed}2/{decomposed}"]
    found, _ = Finder(tmp_path, tmp_path).find(cells)
    assert found == [[f"{composed}/{decomposed}.png"], [f"{decomposed}2/{composed}.png"]]
    assert Finder(tmp_path, tmp_path).find([f"{decomposed}.png"])[0] == [
        [f"{decomposed}2/{composed}.png", f"{composed}/{decomposed}.png"]
    ]


def test_another_suffix_is_noted(tmp_path):
    make(tmp_path, "a/1.png", "a/2.png")
    assert Finder(tmp_path, tmp_path).find(["a/1.jpg", "a/2.png"]) == (
        [["a/1.png"], ["a/2.png"]],
        ["1 file found with another suffix than in the table, such as a/1.png for a/1.jpg."],
    )


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
    with pytest.raises(DataError, match="the link points to a folder that contains it"):
        list(walk(tmp_path / "data"))


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"can't be read \(Permission denied\)\. Check its permissions"):
        list(walk(tmp_path))


@pytest.mark.parametrize("written", ["images/{i}.png", "{i}.png"])
def test_images_that_no_row_lists_are_counted(tmp_path, written):
    make(tmp_path, *(f"images/{i}.png" for i in range(10)))
    file = table(tmp_path, lines("image,label", written + ",{ab}"))
    assert not noted(opened(tmp_path, labels=file), "in no row of")
    make(tmp_path, "images/new.jpg", "images/zz.png", "images/note.txt", "images/3_mask.png", "other/x.png")
    data = opened(tmp_path, labels=file)
    assert noted(data, "2 images not used, because no row of labels.csv names them", "images/new.jpg, images/zz.png")


def test_names_that_differ_in_case_only_are_counted(tmp_path):
    root = make(tmp_path, *(f"i{i}.png" for i in range(10)))
    text = "image,label\n" + "".join(f"{'I' if i % 2 else 'i'}{i}.PNG,{'ab'[i // 2 % 2]}\n" for i in range(10))
    found = message(DataError, root, labels=table(root, text))
    assert "Paths that differ from a file's name only in upper and lower case: 5, such as I1.PNG (file i1.png)" in found


@pytest.mark.parametrize(
    ("file", "cell"), [("images/{i:05d}.png", "{i}"), ("{i}.png", "{i}.0"), ("images/{i:03d}.png", "images/{i}.png"),
                       ("IM-{i:04d}.png", "IM-{i}.jpg")]
)  # fmt: skip
def test_names_that_differ_in_how_numbers_are_written_are_counted(tmp_path, file, cell):
    root = make(tmp_path, *(file.format(i=i) for i in range(3, 13)), "other.png")
    text = "image,label\n" + "".join(f"{cell.format(i=i)},{'ab'[i % 2]}\n" for i in range(3, 13))
    found = message(DataError, root, labels=table(root, text))
    assert "only in the format of numbers, of which spreadsheets and pandas drop leading zeros" in found
    assert f"such as {cell.format(i=3)} (file {file.format(i=3)})" in found
    assert "dtype=str" in found
    text = "image,label\n" + "".join(f"{cell.format(i=i * 100)},{'ab'[i % 2]}\n" for i in range(3, 13))
    assert "the format of numbers" not in message(DataError, root, labels=table(root, text))


def test_leading_zeros_of_names_of_digits_are_counted(tmp_path):
    root = make(tmp_path, *(f"{i:05d}.png" for i in range(10)))
    found = message(DataError, root, labels=table(root, lines("image,label", "{i}.png,{ab}")))
    assert "drop leading zeros: 10, such as 0.png (file 00000.png)" in found


@pytest.mark.parametrize(
    "cell", ["{i}.png;{i}b.png", "{i}.dcm {i}b.DCM", "{i}.png | {i}b.png", "\"['{i}.png', '{i}b.png']\""]
)
def test_several_paths_in_a_cell_are_named(tmp_path, cell):
    root = make(tmp_path, *(f"{i}.png" for i in range(10)))
    found = message(DataError, root, labels=table(root, lines("image,label", f"{cell},{{ab}}")))
    assert "Some cells have several paths; expected one path per row" in found


@pytest.mark.parametrize(("cell", "several"), [("a{i};b{i}", True), ('"a{i}, b{i}"', True), ("a{i} c{i}", False)])
def test_several_names_without_suffixes_in_a_cell_are_named(tmp_path, cell, several):
    root = make(tmp_path, *(f"{one}{i}.png" for i in range(10) for one in "ab"))
    found = message(DataError, root, labels=table(root, lines("image,label", f"{cell},{{ab}}")))
    assert ("Some cells have several paths; expected one path per row" in found) == several


@pytest.mark.parametrize(
    "cell", ['"=HYPERLINK(""{i}.png"")"', "[{i}.png](x/{i}.png)", '"<a href=""{i}.png"">{i}.png</a>"']
)
def test_formulas_and_links_instead_of_paths_are_named(tmp_path, cell):
    root = make(tmp_path, *(f"{i}.png" for i in range(10)))
    found = message(DataError, root, labels=table(root, lines("image,label", f"{cell},{{ab}}")))
    assert "Some cells are formulas or links; expected the path alone." in found


def test_names_that_a_spreadsheet_rounded_are_named(tmp_path):
    make(tmp_path, *(f"12345678901234{i}.png" for i in range(10)))
    for cell, rounded in (("1.23457E+14", True), ("12345678901299", False)):
        table(tmp_path, "image,label\n" + "".join(f"{cell},{'ab'[i % 2]}\n" for i in range(10)))
        assert ("Some cells are in scientific notation" in message(DataError, tmp_path)) == rounded


@pytest.mark.parametrize("cell", ["PosixPath('{i}.png')", "WindowsPath('x/{i}.png')", "b'{i}.png'"])
def test_paths_are_read_as_python_prints_them(tmp_path, cell):
    root = make(tmp_path, *(f"x/{i}.png" for i in range(10)))
    assert len(opened(root, labels=table(root, lines("image,label", f"{cell},{{ab}}")))) == 10


def test_invisible_characters_at_the_end_of_a_path_are_no_part_of_it(tmp_path):
    root = make(tmp_path, *(f"{i}.png" for i in range(10)))
    assert len(opened(root, labels=table(root, lines("image,label", "\ufeff{i}.png\u200b\xa0,{ab}")))) == 10


@pytest.mark.parametrize("cell", ["x/patient{i}/study1/", "patient{i}/study1", "gone/x/patient{i}/study1"])
def test_a_folder_instead_of_an_image_is_named(tmp_path, cell):
    root = make(tmp_path, *(f"x/patient{i}/study1/image{k}.png" for i in range(10) for k in (1, 2)))
    found = message(DataError, root, labels=table(root, lines("path,label", f"{cell},{{ab}}")))
    assert f"'{cell.format(i=0)}' is a folder; expected the path of an image" in found
    for other in ("x/patient{i}/study2", "x/other{i}/study1"):
        found = message(DataError, root, labels=table(root, lines("path,label", f"{other},{{ab}}")))
        assert "is a folder" not in found


@pytest.mark.parametrize(
    ("file", "cell"),
    [("my image {i}.png", "my%20image%20{i}.png"), ("img_{i}.png", "img-{i}"), ("img{i}.png", "img\u200b{i}.png")],
)
def test_names_that_differ_in_signs_are_counted(tmp_path, file, cell):
    root = make(tmp_path, *(file.format(i=i) for i in range(10)))
    text = "image,label\n" + "".join(f"{cell.format(i=i)},{'ab'[i % 2]}\n" for i in range(10))
    found = message(DataError, root, labels=table(root, text))
    assert "Paths that differ from a file's name only in spaces, '_', '-', codes such as %20, and characters" in found
    assert "that are invisible or look alike: 10, such as" in found


def test_files_called_like_another_label_are_noted(tmp_path):
    labels = ("normal", "pneumonia")
    names = [f"{labels[i % 2].upper()}-{i:03d}.png" for i in range(10)]
    root = make(tmp_path, *names)
    rows = [f"{name},{labels[(i + (i > 7)) % 2]}\n" for i, name in enumerate(names)]
    data = opened(root, labels=table(root, "image,label\n" + "".join(rows)))
    assert noted(data, "of 2 images contains another label than the table", "NORMAL-008.png")
    right = "".join(f"{name},{labels[i % 2]}\n" for i, name in enumerate(names))
    assert not noted(opened(root, labels=table(root, "image,label\n" + right)), "like another label")


def test_a_table_of_boxes_says_how_it_becomes_one_of_images(tmp_path):
    root = make(tmp_path, *(f"{i}.png" for i in range(6)))
    text = "image,class_name,xmin,ymin\n" + "".join(f"{i // 2}.png,{'ab'[i % 2]},1,2\n" for i in range(12))
    found = message(DataError, root, labels=table(root, text))
    assert "Its columns 'xmin', 'ymin' show that it is a table of boxes" in found
    advice = re.search(r"(df\.groupby.*)\.to_csv", found)[1]
    joined = eval(advice, {"df": pd.read_csv(root / "labels.csv")})
    assert joined.loc["0.png"].tolist() == ["a|b"] and len(joined) == 6


def test_a_folder_of_a_split_that_all_paths_share_is_not_read_as_that_of_another(tmp_path):
    make(tmp_path, *(f"valid/{i}.png" for i in range(10)))
    table(tmp_path, lines("image,label", "C:\\cxr\\train\\{i}.png,{ab}"))
    found = message(DataError, tmp_path)
    assert "10 of 10 rows have no file" in found and "valid/0.png has the name of a missing image" in found
    table(tmp_path, lines("image,label", "C:\\cxr\\valid\\{i}.png,{ab}"))
    assert len(opened(tmp_path)) == 10
    make(tmp_path / "flat", *(f"images/{i}.png" for i in range(10)))
    table(tmp_path / "flat", lines("image,label", "C:\\cxr\\train\\{i}.png,{ab}"))
    assert len(opened(tmp_path / "flat")) == 10
