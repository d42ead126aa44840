from __future__ import annotations

import numpy as np
import pytest

from xrayfast.data.labels.cells import LIST, note_delimiters, parse_label_cells, parse_label_list, resolve_delimiter
from xrayfast.data.labels.flags import parse_flags
from xrayfast.errors import DataError

NAN = np.nan


def row(i: int) -> str:
    return f"labels.csv row {i + 2}"


def matrix(rows):
    return np.array(rows, np.float32)


def same(found, wanted):
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, matrix(wanted))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("['pleural effusion', 'normal']", ("pleural effusion", "normal")),
        ('["a", "b"]', ("a", "b")),
        (" ['a' ,'b', ] ", ("a", "b")),
        ("['a', '', ' a ']", ("a",)),
        ("[\"Crohn's\", 'it\\'s']", ("Crohn's", "it's")),
        ("['a, b', 'c]']", ("a, b", "c]")),
        ("[a]", ("a",)),
        ("[pleural effusion, mass ]", ("pleural effusion", "mass")),
        ("{'a', 'b'}", ("a", "b")),
        ("('a',)", ("a",)),
        ("[2]", ("2",)),
        ("[]", ()),
        ("['']", ()),
        ("['a' 'b']", ("a", "b")),
        ("array(['a',\n 'b'], dtype=object)", ("a", "b")),
        ("np.array(['a'])", ("a",)),
    ],
)
def test_lists_in_a_text(text, labels):
    assert parse_label_list(text) == labels


@pytest.mark.parametrize(
    "text", ["['a'", "'a']", "[a 'b']", "['a' ... 'b']", "[1, 0, 0]", "a", "['a'; 'b']", "[__import__('os')]", "["]
)
def test_texts_that_are_no_lists(text):
    with pytest.raises(DataError, match="expected a list such as"):
        parse_label_list(text)


@pytest.mark.parametrize(
    ("cells", "delim"),
    [
        (["a", "b"], "|"),
        (["a|b", "c;d"], "|"),
        (["['a', 'b']", "['a']", ""], LIST),
        (["['a', 'b']", "['c', 'a']", "nan"], LIST),
        (["a;b", "a", ""], ";"),
        (["Mass, Edema", "Mass", "Edema"], ","),
        (["pneumonia, viral", "pneumonia, bacterial", "normal"], "|"),
        (["a/b", "a"], "|"),
        ([], "|"),
    ],
)
def test_what_separates_labels(cells, delim):
    assert resolve_delimiter(cells, "auto") == delim
    assert resolve_delimiter(cells, "/") == "/"


def test_cells_of_several_labels():
    labels, found = parse_label_cells(["a|b", " b ", "a | a", "b"], "|", row)
    assert labels == ["a", "b"]
    same(found, [[1, 1], [0, 1], [1, 0], [0, 1]])
    labels, found = parse_label_cells(["['b', 'a']", "['c']"], LIST, row)
    assert labels == ["a", "b", "c"]
    same(found, [[1, 1, 0], [0, 0, 1]])


def test_blank_cells_where_they_are_allowed():
    labels, found = parse_label_cells(["a", "", " ", "b"], "|", row, blank_allowed=True)
    assert labels == ["a", "b"]
    same(found, [[1, 0], [NAN, NAN], [NAN, NAN], [0, 1]])
    for empty in ("[]", "()", "{}", "set()"):
        same(parse_label_cells(["('a',)", empty, ""], LIST, row, blank_allowed=True)[1], [[1], [NAN], [NAN]])


@pytest.mark.parametrize(
    ("cell", "delim", "words"),
    [
        ("", "|", "row 3: found a blank label, and 1 more row like it (''); expected at least one. Write 'No Finding'"),
        ("  ", "|", "row 3: found a blank label, and 1 more row like it"),
        ("nan", "|", "row 3: found 'nan', which is not a label"),
        ("N/A", LIST, "row 3: found 'N/A', which is not a label"),
        ("a|None", "|", "row 3: found 'None' among labels; expected names. Fix 'a|None'"),
        ("a||b", "|", "row 3: found an empty label"),
        ("a|b", ";", "row 3: found the label 'a|b'; expected a name without '|'"),
        ("['']", LIST, "row 3: found a blank label"),
        ("[1, 0]", LIST, "row 3: found '[1, 0]'; expected a list such as ['Effusion', 'Mass']"),
        ("[True, False]", LIST, "row 3: found '[True, False]'; expected a list such as ['Effusion', 'Mass']"),
    ],
)
def test_cells_that_are_no_labels(cell, delim, words):
    with pytest.raises(DataError) as caught:
        parse_label_cells(["a" if delim != LIST else "['a']", cell, cell], delim, row)
    assert words in str(caught.value)


@pytest.mark.parametrize(("cells", "delim"), [(["0;0", "1;0"], ";"), (["yes|no", "yes|yes"], "|")])
def test_rows_of_flags_are_no_labels(cells, delim):
    with pytest.raises(DataError, match=r"row \d: found .*, which looks like a row of 1 and 0"):
        parse_label_cells(cells, delim, row)
    assert parse_label_cells(cells, delim, row, known=["0", "1", "yes", "no"])[0]
    assert parse_label_cells(["0", "1"], delim, row)[0] == ["0", "1"]


def test_more_labels_than_a_network_has_are_refused_before_they_fill_the_memory():
    with pytest.raises(DataError, match=r"found 20,000 labels \(f0, f1.*expected at most 5,000.*label_col="):
        parse_label_cells([f"f{i}" for i in range(20_000)], "|", str)
    with pytest.raises(DataError, match="found 6,000 labels"):
        parse_flags({f"f{i}": ["0"] for i in range(6000)}, str)


def test_a_long_text_is_no_label():
    with pytest.raises(DataError, match=r"found a label of 1,000 characters, 'aaaa.*expected at most 200\."):
        parse_label_cells(["a" * 1000], "|", str)


def test_a_label_of_many_digits_is_a_name_like_any_other():
    number = "9" * 200
    assert parse_label_cells([number, "10", "9", "010"], "|", str)[0] == ["9", "010", "10", number]


@pytest.mark.parametrize(
    ("joint", "sign"),
    [
        *(
            ("effusion:mass", "':'"),
            ("effusion - mass", "' - '"),
            ("effusion mass", "a space"),
            ("effusion\tmass", "a tab"),
        ),
        *(
            ("effusion AND mass", "' AND '"),
            ("effusion+mass", "'+'"),
            ("effusion & mass", "'&'"),
            ("mass/effusion", "'/'"),
        ),
        *(
            ("effusion-mass", "'-'"),
            ("effusion_mass", "'_'"),
            ("mass\\effusion", "'\\'"),
            ("mass with effusion", "' with '"),
        ),
    ],
)
def test_delimiters_that_are_not_used_are_noted(joint, sign):
    (note,) = note_delimiters(["effusion", "Mass", joint, "pleural thickening"], "|")
    assert (
        note.startswith(f"{sign} is in 1 label but is not used as a separator: {joint!r}.") and "--label-delim" in note
    )


def test_labels_that_only_occur_joined_with_others_are_noted():
    assert "':' is in 1 label" in note_delimiters(["effusion", "effusion:small", "mass"], "|")[0]
    assert "':' is in 3 labels" in note_delimiters(["a1:b1", "b1:c1", "c1:a1", "normal"], "|")[0]
    names = ["pleural effusion", "pleural thickening", "covid-19", "a:b", "x_y", "1-2", "HIV+", "left - right"]
    assert note_delimiters(names, "|") == []


@pytest.mark.parametrize(
    ("cells", "delim"),
    [
        (["1,5", "2", "1", "0,5", "2,0", "1,0"], "|"),
        (["1,000", "2,000", "1,500"], "|"),
        (["1,2", "1", "2", "1,3", "3"], ","),
        (["1", "2"], "|"),
    ],
)
def test_numbers_are_divided_where_each_is_a_cell_of_its_own(cells, delim):
    assert resolve_delimiter(cells, "auto") == delim


def test_signs_of_numbers_and_codes_are_no_delimiters():
    assert not note_delimiters(["2E+00", "1E+00", "0E+00"], "|") and not note_delimiters(["0: normal", "0", "1"], "|")
    assert not note_delimiters(["nodule (<3cm)", "nodule (>3cm)", "nodule"], "|")


@pytest.mark.parametrize(
    "cell", ['["Mass"', "['Mass', 'Edema'", "Mass, Edema]", '{"Mass": 1}', '{"Mass": 1, "Edema": 0}']
)
def test_lists_that_are_damaged_or_hold_values_are_errors(cell):
    with pytest.raises(DataError, match=r"row 2: found .*; expected a list such as") as caught:
        parse_label_cells([cell, "Mass"], "|", row)
    assert ("write only the labels that are 1, such as 'Effusion|Mass'" in str(caught.value)) == (":" in cell)
    assert parse_label_cells(["Mass [left]", "grade (1", "Mass"], "|", row)[0]
