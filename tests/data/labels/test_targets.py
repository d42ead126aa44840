from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrayfast.data.labels.names import LIST
from xrayfast.data.labels.targets import (
    encode_labels,
    infer_task,
    join_labels,
    looks_like_flags,
    merge_labels,
    not_single_label,
    parse_flag_columns,
    parse_label_cells,
    to_truth,
)
from xrayfast.errors import DataError

NAN = np.nan


def row(i: int) -> str:
    return f"labels.csv row {i + 2}"


def matrix(rows):
    return np.array(rows, np.float32)


def same(found, wanted):
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, matrix(wanted))


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
    same(parse_label_cells(["['a']", "[]", ""], LIST, row, blank_allowed=True)[1], [[1], [NAN], [NAN]])


@pytest.mark.parametrize(
    ("cell", "delim", "words"),
    [
        ("", "|", "row 3: found a blank label; expected at least one. Write 'No Finding'"),
        ("  ", "|", "row 3: found a blank label"),
        ("a||b", "|", "row 3: found an empty label"),
        ("a|b", ";", "row 3: found the label 'a|b'; expected a name without '|'"),
        ("['']", LIST, "row 3: found a blank label"),
        ("[a]", LIST, "row 3: found '[a]'; expected a list such as ['Effusion', 'Mass']"),
    ],
)
def test_cells_that_are_no_labels(cell, delim, words):
    with pytest.raises(DataError) as caught:
        parse_label_cells(["a" if delim != LIST else "['a']", cell, cell], delim, row)
    assert words in str(caught.value)


def test_columns_of_flags():
    columns = {"A": ["1", "0", "1.0", "-1"], "B": ["0", " 0.0", "-1.0 ", ""]}
    same(parse_flag_columns(columns, row), [[1, 0], [0, 0], [1, -1], [-1, NAN]])


@pytest.mark.parametrize("cell", ["2", "yes", "nan", "0.5", "-2", "--1"])
def test_cells_that_are_no_flags(cell):
    with pytest.raises(DataError) as caught:
        parse_flag_columns({"Mass": ["1", "0"], "Effusion": ["0", cell]}, row)
    assert f"labels.csv row 3: Effusion is '{cell}'; expected 1, 0, -1 (uncertain) or blank." in str(caught.value)


def test_which_columns_look_like_flags():
    assert looks_like_flags(["1", "0", "", "-1"])
    assert not looks_like_flags(["0", "0"]) and not looks_like_flags(["", ""]) and not looks_like_flags(["1", "x"])
    assert looks_like_flags(["1", "0", "x"], share=0.5) and not looks_like_flags(["1", "x", "y"], share=0.5)


def test_targets():
    found = encode_labels([("b", "a"), (), ("c",)], ["a", "b", "c"])
    same(found, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    assert encode_labels([], ["a"]).shape == (0, 1)
    with pytest.raises(DataError, match=r"'pneumona'.*Did you mean 'pneumonia'"):
        encode_labels([("pneumona",)], ["pneumonia"])


def test_truth_knows_only_what_is_certain():
    found = to_truth(matrix([[1, 0, NAN, 0.7]]))
    assert found.dtype == np.int8 and found.tolist() == [[1, 0, -1, -1]]


@given(st.integers(0, 20).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), max_size=30)))
def test_joined_is_the_plain_way_and_faster(rows):
    labels = [f"l{j}" for j in range(len(rows[0]) if rows else 0)]
    present = np.array(rows, bool).reshape(len(rows), len(labels))
    assert join_labels(present, labels) == ["|".join(np.array(labels)[list(row)]) for row in rows]


VALUES = [0.0, 1.0, 0.7, 0.5, NAN]


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=6).flatmap(
        lambda names: st.tuples(
            st.just(names),
            st.lists(
                st.lists(st.sampled_from(VALUES), min_size=len(names), max_size=len(names)), min_size=1, max_size=8
            ),
        )
    )
)
def test_merged_columns(case):
    """1 wins, then what is unknown, then the larger value; names that stand alone are as they were."""
    names, rows = case
    labels, found = merge_labels(matrix(rows), names)
    assert labels == list(dict.fromkeys(names))
    for i, values in enumerate(rows):
        for j, label in enumerate(labels):
            own = [value for name, value in zip(names, values, strict=True) if name == label]
            wanted = 1.0 if 1.0 in own else NAN if any(np.isnan(own)) else max(own)
            np.testing.assert_array_equal(found[i, j], np.float32(wanted))


def test_task():
    assert infer_task(matrix([[1, 0], [0, 1]])) == "single"
    for other in ([1, 1], [0, 0], [NAN, 1], [0.7, 1], [0.7, 0.3]):
        found = matrix([[1, 0], other])
        assert infer_task(found) == "multi" and not_single_label(found).tolist() == [1]
