"""Corrections of labels: only accepted rows are applied, each checked against the data."""

import hashlib

import pytest

from tests.data.builders import cells, classes, make, message, opened, rows, table
from xrayfast.data.corrections import read_corrections
from xrayfast.errors import DataError

HEAD = "image,label,given,proposed,accept\n"


@pytest.fixture
def folders(tmp_path):
    return classes(tmp_path / "data", a=5, b=5)


@pytest.fixture
def flags(tmp_path):
    """Data with two labels on ten images, one cell of which is masked."""
    make(tmp_path / "flags", *(f"{i}.png" for i in range(10)))
    text = "".join(f"{i}.png,{i % 2},{'' if i == 4 else int(i < 5)}\n" for i in range(10))
    return tmp_path / "flags", table(tmp_path / "flags", f"image,Edema,Mass\n{text}")


def write(tmp_path, text):
    return table(tmp_path, HEAD + text, "reviewed.csv")


def test_only_accepted_rows_are_applied_counted_and_hashed(folders, tmp_path):
    text = "a/a000.png,,a,b,yes\na/a001.png,,a,b,\na/a002.png,,a,b,no\nb/b003.png,,b,a,1\ngone.png,,x,y,\n"
    file = write(tmp_path, text)
    data, before = opened(folders, corrections=file), opened(folders)
    changed = {image for image, label in rows(data).items() if label != rows(before)[image]}
    assert changed == {"a/a000.png", "b/b003.png"} and rows(data)["a/a000.png"] == "b"
    assert data.targets.sum(1).tolist() == [1] * 10 and [one.image for one in data.corrections] == sorted(changed)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert data.config.corrections_sha256 == digest and data.fingerprint() != before.fingerprint()
    (note,) = [note for note in data.notes if "reviewed.csv" in note]
    assert note.startswith(f"reviewed.csv (SHA-256 {digest[:12]}) corrects 2 labels of 2 images.")
    opened(folders, corrections=file, corrections_sha256=digest)
    wrong = {"corrections": file, "corrections_sha256": "0" * 64}
    assert f"its SHA-256 is {digest}; expected 000" in message(DataError, folders, **wrong)


def test_label_cells_are_corrected_one_by_one(flags, tmp_path):
    folder, labels = flags
    file = write(tmp_path, "1.png,Edema,1,0,yes\n1.png,Mass,1,0,yes\n0.png,Edema,0,1,x\n")
    data = opened(folder, labels=labels, corrections=file)
    assert cells(data, "1.png") == {"Edema": 0, "Mass": 0} and cells(data, "0.png") == {"Edema": 1, "Mass": 1}
    assert cells(data, "4.png") == {"Edema": 0, "Mass": None} and len(data.corrections) == 3
    assert any("corrects 3 labels of 2 images" in note for note in data.notes)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a/a000.png,,b,a,yes", "row 2: given is 'b', but the label of 'a/a000.png' in the data is 'a'"),
        ("a/a00.png,,a,b,yes", "row 2: 'a/a00.png' is not among the images."),
        ("a/a000.png,,a,bb,yes", "row 2: found the label 'bb'; expected one of a, b. Did you mean 'b'?"),
        ("a/a000.png,,a,a,yes", "row 2: proposed is 'a', which is already the label in the data"),
        ("a/a000.png,a,a,b,yes", "row 2: label is 'a'; expected a blank cell"),
        ("a/a000.png,,a,b,perhaps", "row 2: accept is 'perhaps'; expected yes, no, or blank"),
        ("a/a000.png,,a,b,no", "no row is accepted. Write yes in the accept column"),
        ("a/a000.png,,a,b,yes\na/a000.png,,a,b,yes", "row 3: 'a/a000.png' is already corrected in reviewed.csv row 2"),
    ],
)
def test_rows_that_do_not_fit_the_data_are_refused(folders, tmp_path, row, words):
    assert words in message(DataError, folders, corrections=write(tmp_path, f"{row}\n"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("4.png,Mass,1,0,yes", "given is '1', but the label of '4.png' in the data is 'masked'"),
        ("1.png,mass,1,0,yes", "found the label 'mass'; expected one of Edema, Mass. Did you mean 'Mass'?"),
        ("1.png,Edema,1,2,yes", "found the label '2'; expected one of 0, 1"),
    ],
)
def test_cells_that_do_not_fit_are_refused(flags, tmp_path, row, words):
    folder, labels = flags
    assert words in message(DataError, folder, labels=labels, corrections=write(tmp_path, f"{row}\n"))


def test_a_correction_keeps_the_rules_between_labels(tmp_path):
    classes(tmp_path / "data", covid=5, normal=5)
    options = {"imply": ("covid=pneumonia",)}
    one = write(tmp_path, "covid/covid000.png,pneumonia,1,0,yes\n")
    words = "contradicts imply=, which also gives 'covid/covid000.png' the label 'pneumonia'. Correct both labels."
    assert words in message(DataError, tmp_path / "data", corrections=one, **options)
    both = write(tmp_path, "covid/covid000.png,pneumonia,1,0,yes\ncovid/covid000.png,covid,1,0,yes\n")
    data = opened(tmp_path / "data", corrections=both, **options)
    assert cells(data, "covid/covid000.png") == {"covid": 0, "normal": 0, "pneumonia": 0}


def test_corrections_of_images_that_are_left_out_are_counted(folders, tmp_path):
    (folders / "a" / "mask").mkdir()
    (folders / "a" / "a000_mask.png").write_text("mask")
    file = write(tmp_path, "a/a000_mask.png,,a,b,yes\na/a000.png,,a,b,yes\n")
    data = opened(folders, corrections=file)
    assert (
        len(data.corrections) == 1 and "reviewed.csv: 1 row not used, because the images were left out." in data.notes
    )


def test_a_file_without_the_columns_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"found the columns image, label; .* Missing: given, proposed, accept"):
        read_corrections(table(tmp_path, "image,label\na,b\n"))
