from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.builders import cells, classes, lines, make, message, noted, opened, rows, table
from xrayfast.config import DataConfig
from xrayfast.data.labels import targets
from xrayfast.data.labels.label_map import LabelMap, read_label_map
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import ConfigError

NAN = np.nan

TEXT = """# comment

Cardiomegaly = Enlarged heart, Enlarged cardiac silhouette
Pleural_Thickening=thickening
"""


def written(folder, text=TEXT, encoding="utf-8"):
    path = folder / "map.txt"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_file_of_synonyms(tmp_path):
    found = read_label_map(written(tmp_path, "\ufeff" + TEXT))
    assert found.synonyms == {
        "Enlarged heart": "Cardiomegaly",
        "Enlarged cardiac silhouette": "Cardiomegaly",
        "thickening": "Pleural_Thickening",
    }
    labels = ["enlarged_heart", "CARDIOMEGALY", "Edema", "pleural thickening"]
    assert found.rename(labels) == ["Cardiomegaly", "Cardiomegaly", "Edema", "Pleural_Thickening"]


def test_joined_columns_and_notes(tmp_path):
    found = read_label_map(written(tmp_path))
    labels = ["Cardiomegaly", "Enlarged heart", "Edema"]
    matrix = np.array([[0, 1, 0], [NAN, 0, 1], [0.7, 0, 0], [0, 0, 0], [NAN, 1, 0]], np.float32)
    names, merged = targets.merge_labels(matrix, found.rename(labels))
    assert names == ["Cardiomegaly", "Edema"]
    np.testing.assert_array_equal(merged[:, 0], np.array([1, NAN, 0.7, 0, 1], np.float32))
    assert found.notes(labels) == [
        "map.txt: 'Enlarged heart' is 'Cardiomegaly'.",
        "map.txt does not name Edema: kept as they are.",
        "map.txt names Enlarged cardiac silhouette, thickening, which the data does not have.",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A = b\nC", ["map.txt line 2: found 'C'; expected LABEL = SYNONYM"]),
        ("= b", ["line 1: found '= b'"]),
        ("A =", ["line 1: found 'A ='"]),
        ("A = b,,c", ["line 1: found 'A = b,,c'"]),
        ("A|B = c", ["line 1", "expected LABEL = SYNONYM"]),
        ("A = x\n\nB = X", ["map.txt line 3: 'X' means 'B' here and 'A' in line 1"]),
        ("A = B\nB = C", ["line 2: 'B' means 'B' here and 'A' in line 1", "list the synonyms of 'B' in line 1."]),
        ("B = C\nA = B", ["line 2: 'B' means 'A' here and 'B' in line 1"]),
        ("", ["found no lines"]),
        ("# A = b", ["found no lines"]),
    ],
)
def test_invalid_label_maps_are_refused(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read_label_map(written(tmp_path, text))
    for word in words:
        assert word in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.txt: found no such file"):
        read_label_map(tmp_path / "nothing.txt")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_label_map(written(tmp_path, "A = é", "latin-1"))


def test_a_label_may_have_two_lines_and_name_itself(tmp_path):
    found = read_label_map(written(tmp_path, "Mass = mass, tumour\nmass = nodule\n"))
    assert found.rename(["MASS", "Nodule", "tumour"]) == ["Mass", "Mass", "Mass"]


NAMES = st.sampled_from(["Mass", "Edema", "heart", "Big_heart"])


@given(st.lists(NAMES, unique=True, min_size=1), st.dictionaries(NAMES, st.sampled_from(["X", "Y"])))
def test_renaming_twice_changes_nothing_more(labels, synonyms):
    found = LabelMap("map.txt", synonyms)
    once = found.rename(labels)
    assert found.rename(once) == once


# Label maps in a data set


def test_class_folders(tmp_path):
    classes(tmp_path / "data", Enlarged_heart=4, Cardiomegaly=4, normal=4)
    data = opened(tmp_path / "data", label_map=written(tmp_path))
    assert data.task == "single" and data.labels == ("Cardiomegaly", "normal")
    assert data.targets.sum(0).tolist() == [8, 4]
    assert noted(data, "'Enlarged_heart' is 'Cardiomegaly'") and noted(data, "does not name", "normal")


def test_a_table_and_what_it_implies(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(10)))
    table(tmp_path, lines("image,label", "{i}.png,{ab}").replace(",a", ",big heart|Mass"))
    options = {"label_map": written(tmp_path, "Heart = big heart"), "imply": ("Heart=abnormal",)}
    data = opened(tmp_path, labels=tmp_path / "labels.csv", **options)
    assert data.labels == ("abnormal", "b", "Heart", "Mass")
    assert rows(data)["0.png"] == "abnormal|Heart|Mass"


def test_no_finding_by_another_name(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(10)))
    table(tmp_path, lines("image,label", "{i}.png,{ab}").replace(",a", ",healthy").replace("1.png,b", "1.png,b|c"))
    data = opened(tmp_path, label_map=written(tmp_path, "No Finding = healthy"))
    assert data.labels == ("b", "c") and rows(data)["0.png"] == ""


def test_policies_before_and_names_after(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(4)))
    table(tmp_path, "image,heart,big heart\n0.png,-1,1\n1.png,-1,0\n2.png,0,\n3.png,0,0\n")
    mapped = written(tmp_path, "Heart = big heart")
    data = opened(tmp_path, label_map=mapped, uncertain=("Heart=smooth:0.8",), blank=("big heart=zeros",))
    assert [cells(data, f"{i}.png")["Heart"] for i in range(4)] == [1, 0.8, 0, 0]
    data = opened(tmp_path, label_map=mapped)
    assert [cells(data, f"{i}.png")["Heart"] for i in range(4)] == [1, None, None, 0]


def test_a_map_that_is_wrong(tmp_path):
    classes(tmp_path, a=3, b=3)
    assert "map.txt line 1" in message(ConfigError, tmp_path, label_map=written(tmp_path, "nonsense"))


def test_comments_may_follow_a_line(tmp_path):
    found = read_label_map(
        written(tmp_path, "Mass = big one # a comment\nRib = fracture #2, broken\n   # whole\nA#b = c\n")
    )
    assert found.synonyms == {"big one": "Mass", "fracture #2": "Rib", "broken": "Rib", "c": "A#b"}


def test_a_map_that_is_the_wrong_way_round_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"'x' means 'b' here and 'a' in line 1.*on the left.*such as 'x = b'"):
        read_label_map(written(tmp_path, "a = x\nb = x\n"))
    found = read_label_map(written(tmp_path, "Enlarged heart = Cardiomegaly\n"))
    with pytest.raises(ConfigError, match="Swap the two: 'Cardiomegaly = Enlarged heart'"):
        found.require_direction(["cardiomegaly", "Edema"])
    found.require_direction(["Enlarged heart", "Edema"])
    data = classes(tmp_path / "data", cardiomegaly=4, edema=4)
    config = DataConfig(source=data, label_map=tmp_path / "map.txt")
    with pytest.raises(ConfigError, match="Swap the two"):
        open_manifest(config, to_train=False, known_labels=("Cardiomegaly", "edema"))


def test_quotes_around_the_names_of_a_map_are_no_part_of_them(tmp_path):
    file = tmp_path / "map.txt"
    file.write_text("\"TB\"\t=\t'tuberculosis', Koch's\n")
    assert dict(read_label_map(file).synonyms) == {"tuberculosis": "TB", "Koch's": "TB"}


@pytest.mark.parametrize(
    ("line", "questioned"),
    [("effusion = no effusion", True), ("no mass = other, Mass", True), ("Effusion = effusion absent", True),
     ("abnormal = normal", True), ("yes = no", True), ("normal = no pneumonia", False), ("mass = normal", True),
     ("No Finding = COVID", True), ("normal = 0, N, class 0, healthy people", False),
     ("effusion = pleural effusion", False),
     ("No Finding = normal, negative", False)],
)  # fmt: skip
def test_a_map_that_joins_a_label_with_its_denial_is_questioned(tmp_path, line, questioned):
    notes = read_label_map(written(tmp_path, line)).notes(["effusion", "mass", "normal"])
    assert any("joins opposites, " in note for note in notes) == questioned
