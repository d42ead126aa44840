from __future__ import annotations

import pytest

from tests.data.builders import classes, lines, make, message, noted, opened, splits, table
from xrayfast.config import DataConfig
from xrayfast.data.open_manifest import open_manifest
from xrayfast.data.sources.split_files import read_split_file, splits_in_name
from xrayfast.data.splits.words import parse_split
from xrayfast.errors import ConfigError, DataError


@pytest.fixture
def data_dir(tmp_path):
    return classes(tmp_path / "data", a=10, b=10)


def written(folder, data, name="split.csv"):
    data.split_table().to_csv(folder / name, index=False)
    return folder / name


def test_the_split_of_a_run_is_replayed(tmp_path, data_dir):
    first = opened(data_dir, test_fraction=0.2, split_seed=7)
    file = written(tmp_path, first)
    again = opened(data_dir, split_file=file, split_seed=8, test_fraction=0.2)
    assert splits(again) == splits(first) and not again.drawn.any()
    assert noted(again, f"Splits from {file}.") and not noted(again, "Split drawn")
    assert again.fingerprint() == first.fingerprint()


def test_a_split_is_replayed_after_the_data_moved(tmp_path, data_dir):
    file = written(tmp_path, opened(data_dir))
    (tmp_path / "data").rename(tmp_path / "moved")
    assert splits(opened(tmp_path / "moved", split_file=file)) == dict(zip(*reversed_columns(file), strict=True))


@pytest.mark.parametrize("options", [{"to_train": False}, {"leave_out": {}}], ids=["evaluate", "a run's data again"])
def test_all_images_are_named_where_no_split_is_made(tmp_path, data_dir, options):
    file = written(tmp_path, opened(data_dir))
    make(data_dir, "a/new.png")
    with pytest.raises(DataError, match=r"no split for these images of the data: a/new\.png"):
        open_manifest(DataConfig(source=data_dir, split_file=file), **options)


def reversed_columns(file):
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    return [row[0] for row in rows], [row[2] for row in rows]


def test_splits_that_a_file_lacks_are_drawn(tmp_path, data_dir):
    names = list(splits(opened(data_dir)))
    text = "file,set\n" + "".join(f"{name},{'test' if i < 4 else 'train'}\n" for i, name in enumerate(names))
    data = opened(data_dir, split_file=table(tmp_path, text, "splits.csv"))
    assert [splits(data)[name] for name in names[:4]] == ["test"] * 4
    assert data.counts().loc["images"].to_dict() == {"train": 13, "valid": 3, "test": 4}
    assert data.drawn.tolist() == [False] * 4 + [True] * 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda text: text.replace("a/a000.png,,train", "a/z.png,,train"),
            ["images that are not in the data: a/z.png"],
        ),
        (lambda text: text + "a/new.png,,train,a\n", ["images that are not in the data: a/new.png", "split_file="]),
        (
            lambda text: "\n".join(text.splitlines()[:-2]),
            ["no split for these images of the data: b/b008.png, b/b009.png", "contains train and valid"],
        ),
        (lambda text: text + text.splitlines()[-1], ["row 22: image 'b/b009.png' is already in an earlier row"]),
        (lambda text: text.replace(",train", ",extra"), ["split is 'extra'; expected train, valid or test"]),
        (
            lambda text: text.replace("image,", "film,"),
            ["expected 'image' and 'split', as in the split.csv of a run"],
        ),
        (lambda text: text.replace("split,", "role,"), ["found the columns image, patient, role, labels"]),
        (lambda text: text.replace("image,", "image,image,"), ["twice"]),
    ],
)
def test_split_files_that_do_not_fit(tmp_path, data_dir, change, words):
    file = written(tmp_path, opened(data_dir))
    text = file.read_text().replace(",valid", ",train").replace(",test", ",train")
    file.write_text(change(text))
    found = message(DataError, data_dir, split_file=file)
    for word in words:
        assert word in found


def test_a_name_that_two_images_have(tmp_path):
    make(tmp_path / "data", *(f"{label}/{i}.png" for label in "ab" for i in range(3)))
    file = table(tmp_path, "image,split\n0.png,train\n", "split.csv")
    assert "row 2: image '0.png' could be a/0.png, b/0.png" in message(DataError, tmp_path / "data", split_file=file)
    (tmp_path / "test.txt").write_text("0.png\n")
    found = message(DataError, tmp_path / "data", split_file=tmp_path / "test.txt")
    assert "test.txt line 1: image '0.png' could be a/0.png, b/0.png" in found


def test_an_image_in_another_folder_than_the_split_file_says_does_not_match(tmp_path):
    make(tmp_path / "data", *(f"{label}/{label}{i}.png" for label in "ab" for i in range(3)))
    names = ["x/a0.png", "b/a1.png", "a/a2.png", "b/b0.png", "b/b1.png", "b/b2.png"]
    file = table(tmp_path, "image,split\n" + "".join(f"{name},train\n" for name in names), "split.csv")
    found = message(DataError, tmp_path / "data", split_file=file)
    assert "found images that are not in the data: x/a0.png, b/a1.png" in found
    names = [f"old/{label}/{label}{i}.png" for label in "ab" for i in range(3)]
    text = "image,split\n" + "".join(f"{name},{'valid' if '0' in name else 'train'}\n" for name in names)
    data = opened(tmp_path / "data", split_file=table(tmp_path, text, "split.csv"))
    assert splits(data)["a/a0.png"] == "valid" and noted(data, "All its paths begin with old/")


# Lists


NAMES = [f"images/{i}.png" for i in range(6)]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("test_list.txt", ["test", "test", None, None, None, None]),
        ("my-TESTING.txt", ["test", "test", None, None, None, None]),
        ("val.txt", ["valid", "valid", None, None, None, None]),
        ("train_val_list.txt", [None, None, "test", "test", "test", "test"]),
    ],
)
def test_lists_name_their_split_in_the_file_name(tmp_path, name, wanted):
    (tmp_path / name).write_text("0.png\n\nimages\\1.jpg\r\n")
    found, notes = read_split_file(tmp_path / name, NAMES)
    assert found == wanted and f"from {name}: the 2 images in it for" in notes[0]


@pytest.mark.parametrize("name", ["list.txt", "train.txt", "test_valid.txt", "train_val_test.txt"])
def test_lists_whose_file_name_has_no_split(tmp_path, name):
    (tmp_path / name).write_text("0.png\n")
    with pytest.raises(ConfigError, match=f"found {name}, whose name does not say"):
        read_split_file(tmp_path / name, NAMES)


def test_lists_of_other_images(tmp_path):
    (tmp_path / "test.txt").write_text("0.png\n7.png\n8.png\n")
    found, notes = read_split_file(tmp_path / "test.txt", NAMES)
    assert found[0] == "test" and "2 images of test.txt not found in the data." in notes
    (tmp_path / "test.txt").write_text("7.png\n")
    with pytest.raises(DataError, match="found none of the data's images"):
        read_split_file(tmp_path / "test.txt", NAMES)
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_split_file(tmp_path / "test.txt", NAMES)
    with pytest.raises(DataError, match=r"nothing_test\.txt: found no such file"):
        read_split_file(tmp_path / "nothing_test.txt", NAMES)


def test_splits_of_the_other_images_of_a_list_are_drawn(tmp_path, data_dir):
    (tmp_path / "train_val_list.txt").write_text("".join(f"{x}{i:03d}.png\n" for x in "ab" for i in range(8)))
    data = opened(data_dir, split_file=tmp_path / "train_val_list.txt", valid_fraction=0.25)
    assert data.counts().loc["images"].to_dict() == {"train": 12, "valid": 4, "test": 4}
    assert {name for name, split in splits(data).items() if split == "test"} == {
        "a/a008.png", "a/a009.png", "b/b008.png", "b/b009.png"
    }  # fmt: skip


def test_words_for_splits():
    assert splits_in_name("test_list.txt") == {"test"} and splits_in_name("Train-Val.txt") == {"train", "valid"}
    assert parse_split(" Validate ") == "valid" and parse_split("test") == "test" and parse_split("x") is None


# Split files together with other ways to give splits


def test_a_split_file_and_a_split_column(tmp_path, data_dir):
    file = written(tmp_path, opened(data_dir))
    assert "found both split_file and split_col" in message(ConfigError, data_dir, split_file=file, split_col="split")


def test_a_split_file_takes_precedence_over_the_splits_of_the_data(tmp_path):
    root = make(tmp_path / "data", *(f"images/{i}.png" for i in range(10)))
    table(root, lines("image,label,split", "images/{i}.png,{ab},train"))
    (tmp_path / "test_list.txt").write_text("1.png\n2.png\n")
    data = opened(root, split_file=tmp_path / "test_list.txt")
    assert data.counts().loc["images", "test"] == 2 and noted(data, "The data set's own split is not used")
