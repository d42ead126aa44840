"""Further columns and folders that give labels or images."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.builders import make, message, noted, opened, rows, table
from xrayfast.config import DataConfig
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import DataError


@pytest.fixture
def data_dir(tmp_path):
    """A folder with 0.png to 9.png, and f0.png to f9.png in another folder."""
    return make(tmp_path, *(f"{i}.png" for i in range(10)), *(f"other/f{i}.png" for i in range(10)))


def write(root, header, *cells):
    """Write a table of 10 images with columns of cells."""
    text = "".join(f"{i}.png,{','.join(column[i] for column in cells)}\n" for i in range(10))
    return table(root, f"{header}\n{text}")


AB = ["a", "b"] * 5
READER = ["mass", "edema"] * 4 + ["edema"] * 2
CHANGED = ["a", "b", "b", *AB[3:8], "b", "b"]


@pytest.mark.parametrize("other", ["diagnosis", "finding", "class", "Target", "final_label", "reader 1"])
def test_another_column_of_labels_that_differs_is_noted(data_dir, other):
    data = opened(data_dir, labels=write(data_dir, f"image,label,{other}", AB, CHANGED))
    assert data.targets[:, 0].sum() == 5
    assert noted(data, "Labels are read from 'label'", f"'{other}' in 2 rows", "labels.csv row 4", "--label-col")
    data = opened(data_dir, labels=data_dir / "labels.csv", label_col=(other,))
    assert rows(data)["2.png"] == "b" and not noted(data, "Labels are read from")


@pytest.mark.parametrize("header", ["image,diagnosis,finding", "image,label,labels", "image,class,target"])
def test_two_equally_good_label_columns_that_differ_are_an_error(data_dir, header):
    file = write(data_dir, header, AB, CHANGED)
    found = message(DataError, data_dir, labels=file)
    one, other = header.split(",")[1:]
    assert "labels.csv row 4: found '" in found and "and 1 more row that differ like this" in found
    assert "Name it with label_col=" in found and one in found and other in found
    assert opened(data_dir, labels=file, label_col=(other,)).labels == ("a", "b")
    assert noted(open_manifest(DataConfig(source=data_dir, labels=file), known_labels=("a", "b")), "in 2 rows")


@pytest.mark.parametrize("other", [AB, [cell.upper() for cell in AB], ["0", "1"] * 5, ["x", "y"] * 5])
def test_label_columns_that_agree_are_not_mentioned(data_dir, other):
    data = opened(data_dir, labels=write(data_dir, "image,label,diagnosis", AB, other))
    assert data.labels == ("a", "b") and not noted(data, "Labels are read from")


def test_a_column_that_is_named_like_labels_is_mentioned(data_dir):
    file = write(data_dir, "image,label,class,hospital", AB, ["x", "x", "y", "y", "x"] * 2, ["p", "p", "q"] * 3 + ["q"])
    assert noted(opened(data_dir, labels=file), "the names of other columns suggest labels too: 'class' (x, y).")
    assert not noted(opened(data_dir, labels=file), "'hospital' (")


def test_columns_of_flags_and_of_texts_are_compared(data_dir):
    mass = ["1" if cell == "mass" else "0" for cell in ["mass", "b"] * 5]
    file = write(data_dir, "image,label,Mass,male", ["mass", "b"] * 5, [*mass[:9], "1"], mass)
    assert noted(opened(data_dir, labels=file), "Labels are read from 'label'", "'Mass' in 1 row (first: ")
    file = write(data_dir, "image,Mass,Edema,reader", [*"1010101010"], [*"0101010101"], READER)
    data = opened(data_dir, labels=file)
    assert data.labels == ("Edema", "Mass") and noted(data, "'reader' in 1 row (first: labels.csv row 10)")


def test_folders_of_another_label_than_the_table_are_noted(tmp_path):
    make(tmp_path, *(f"images/{label}/{i}{label}.png" for label in ("a", "b") for i in range(5)))
    text = "".join(
        f"images/{label}/{i}{label}.png,{'a' if i == 4 else label}\n" for label in ("a", "b") for i in range(5)
    )
    data = opened(tmp_path, labels=table(tmp_path, "image,label\n" + text))
    assert noted(data, "contains another label than the table", "1 image", "images/b/4b.png, labels.csv row 11")
    data = opened(tmp_path, labels=table(tmp_path, "image,label\n" + text.replace("4b.png,a", "4b.png,b")))
    assert not noted(data, "contains another label than the table")


@pytest.mark.parametrize(("shift", "way"), [(1, "next"), (-1, "previous"), (0, "")])
@pytest.mark.parametrize("order", [[*"ab" * 8], [*"aabbbaabaabbabab"], [*"aaaabbbbaaaabbbb"]])
def test_labels_that_are_shifted_by_a_row_are_noted(tmp_path, shift, way, order):
    make(tmp_path, *(f"images/{label}/{i}.png" for i, label in enumerate(order)))
    labels = [*np.roll(order, shift)] if shift else ["b", *order[1:3], "b", *order[4:]]  # some are wrong
    rows = zip(enumerate(order), labels, strict=True)
    text = "".join(f"images/{folder}/{i}.png,{label}\n" for (i, folder), label in rows)
    data = opened(tmp_path, labels=table(tmp_path, "image,label\n" + text))
    shown = bool(noted(data, "the column of labels may be shifted by a row"))
    assert shown == bool(way) and (not way or order[:2] == ["a", "b"] or noted(data, f"The labels of the {way} row"))


# Columns of image files


def test_two_image_columns_whose_files_both_exist_are_an_error(data_dir):
    file = write(data_dir, "image,filename,label", [f"{i}.png" for i in range(10)], AB)
    table(data_dir, file.read_text().replace("3.png,3.png", "3.png,other/f3.png").replace("4.png,4.png", "4.png,5.png"))
    found = message(DataError, data_dir, labels=file)
    assert (
        "labels.csv row 5: found '3.png' in 'image' and 'other/f3.png' in 'filename', which are different images"
        in found
    )
    assert "and 1 more row like it" in found and "path_col='image' or 'filename'" in found
    assert len(opened(data_dir, labels=file, path_col="image")) == 10
    known = open_manifest(DataConfig(source=data_dir, labels=file), known_labels=("a", "b"))
    assert noted(known, "'filename' contains other images in 2 rows")


def test_a_column_of_identifiers_names_no_other_images(data_dir):
    file = write(data_dir, "image,image_id,label", [f"x{i}" for i in range(10)], AB)
    assert not noted(opened(data_dir, labels=file), "names others")


@pytest.mark.parametrize("name", ["filename", "image_path", "dicom"])
def test_a_column_of_other_images_that_do_not_exist_is_noted(data_dir, name):
    file = write(data_dir, f"image,{name},label", [f"old/{i}.png" for i in range(8)] + ["x.dcm", "y.dcm"], AB)
    data = opened(data_dir, labels=file)
    assert noted(
        data, f"Images are read from 'image'; '{name}' contains other images in 2 rows", "'x.dcm'", "--path-col"
    )


@pytest.mark.parametrize("cell", ["{i}.png", "/mnt/old/{i}.PNG", "d\\{i}.jpg", "{i}"])
def test_columns_of_the_same_images_are_not_mentioned(data_dir, cell):
    file = write(data_dir, "image,image_path,label", [cell.format(i=i) for i in range(10)], AB)
    assert not noted(opened(data_dir, labels=file), "names others")


# Soft labels


def test_soft_labels_are_named_beside_hard_ones(data_dir):
    cells = ["0.9", "0.1", "0,5", "1", "0"] * 2
    file = write(
        data_dir, "image,Mass,Edema,Edema_prob", [*"1010101010"], [f'"{cell}"' for cell in cells], cells[:2] * 5
    )
    data = opened(data_dir, labels=file)
    assert data.labels == ("Mass",) and noted(data, "fractions between 0 and 1: 'Edema'.", "apply a threshold")


def test_soft_labels_alone_are_an_error_that_says_what_to_do(data_dir):
    soft = ["0.9", "0.1"] * 5
    for header, options in [
        ("image,label", {}),
        ("image,Mass", {}),
        ("image,Mass", {"label_col": ("Mass",)}),
        ("image,class", {"task": "single"}),
    ]:
        found = message(DataError, data_dir, labels=write(data_dir, header, soft), **options)
        assert "fractions between 0 and 1" in found and "apply a threshold" in found
    found = message(DataError, data_dir, labels=write(data_dir, "image,Mass", [*"101010101", "0.7"]))
    assert "labels.csv row 11: Mass is '0.7'; expected 1, 0" in found and "apply a threshold" in found


def test_a_label_map_makes_classes_of_fractions(data_dir):
    (data_dir / "map.txt").write_text("questionable = 0.5\n")
    file = write(data_dir, "image,label", ["0", "0.5"] * 5)
    assert opened(data_dir, labels=file, label_map=data_dir / "map.txt").labels == ("0", "questionable")
    assert open_manifest(DataConfig(source=data_dir, labels=file), known_labels=("0", "0.5")).labels == ("0", "0.5")


def test_letters_of_sites_are_not_compared_with_those_of_labels(data_dir):
    file = write(data_dir, "image,label,site,ward", AB, [*"AABBABABAB"], CHANGED)
    assert not noted(opened(data_dir, labels=file), "other columns differ")


def test_dummies_that_differ_from_their_column_are_noted(data_dir):
    rows = [(i, "ab"[i % 2], i % 2) for i in range(10)]
    for b, differs in (([one for *_, one in rows], False), ([0] * 10, True)):
        text = "".join(f"{i}.png,{label},{1 - one},{b[i]}\n" for i, label, one in rows)
        data = opened(data_dir, labels=table(data_dir, f"image,label,label_a,label_b\n{text}"))
        assert noted(data, "other columns differ from them: 'label_b' in 5 rows") == differs


def test_identifiers_that_are_the_names_of_other_rows_files_are_an_error(data_dir):
    text = "".join(f"{9 - i},{i}.png,{'ab'[i % 2]}\n" for i in range(10))
    found = message(DataError, data_dir, labels=table(data_dir, f"image_id,path,label\n{text}"))
    assert "'0.png' in 'path' and '9' in 'image_id', which are different images, and 9 more rows like it" in found
    own = "".join(f"k{i},{i}.png,{'ab'[i % 2]}\n" for i in range(10))
    assert not noted(opened(data_dir, labels=table(data_dir, f"image_id,path,label\n{own}")), "other images")
