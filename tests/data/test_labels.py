from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrayfast.data.labels import (
    apply_implications,
    cell_labels,
    check_implications,
    column_labels,
    folder_labels,
    in_order,
    infer_task,
    parse_implications,
    targets,
)
from xrayfast.errors import ConfigError, DataError


def row(i: int) -> str:
    return f"labels.csv row {i + 2}"


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("normal", ("normal",)),
        ("covid-19+pneumonia", ("covid-19", "pneumonia")),
        (" a + b +a", ("a", "b")),
        ("No Finding", ("No Finding",)),
    ],
)
def test_folder_names(name, labels):
    assert folder_labels(name) == labels


@pytest.mark.parametrize(("name", "words"), [("a+", "empty label"), ("+", "empty label"), ("a|b", "without '|'")])
def test_folder_names_that_are_no_labels(name, words):
    with pytest.raises(DataError) as caught:
        folder_labels(name)
    assert words in str(caught.value) and f"'{name}'" in str(caught.value)


def test_cells_of_several_labels():
    assert cell_labels(["a|b", " b ", "a | a", "b"], "|", row) == [("a", "b"), ("b",), ("a",), ("b",)]
    assert cell_labels(["a;b"], ";", row) == [("a", "b")]


@pytest.mark.parametrize(
    ("cell", "delim", "words"),
    [
        ("", "|", "row 3: found a blank label; expected at least one. Write 'No Finding'"),
        ("  ", "|", "row 3: found a blank label"),
        ("a||b", "|", "row 3: found an empty label"),
        ("a|b", ";", "row 3: found the label 'a|b'; expected a name without '|'"),
    ],
)
def test_cells_that_are_no_labels(cell, delim, words):
    with pytest.raises(DataError) as caught:
        cell_labels(["a", cell, cell], delim, row)
    assert words in str(caught.value)


def test_columns_of_0_and_1():
    columns = {"A": ["1", "0", "1.0"], "B": ["0", " 0.0", "1"]}
    assert column_labels(columns, row) == [("A",), (), ("A", "B")]


@pytest.mark.parametrize("cell", ["2", "-1", "", "yes", "nan", "-1.0"])
def test_cells_that_are_neither_0_nor_1(cell):
    with pytest.raises(DataError) as caught:
        column_labels({"Mass": ["1", "0"], "Effusion": ["0", cell]}, row)
    assert f"labels.csv row 3: Effusion is '{cell}'; expected 0 or 1." in str(caught.value)


def test_implications_chain():
    closure = parse_implications(["covid-19=pneumonia", "pneumonia=opacity, abnormal", "mass=abnormal+lesion"])
    assert closure["covid-19"] == {"pneumonia", "opacity", "abnormal"}
    assert closure["mass"] == {"abnormal", "lesion"}
    assert apply_implications(("covid-19",), closure) == ("covid-19", "abnormal", "opacity", "pneumonia")
    assert apply_implications(("normal",), closure) == ("normal",)


@pytest.mark.parametrize("rule", ["covid", "=a", "a=", "a=b+", "a|b=c", ""])
def test_implications_that_are_none(rule):
    with pytest.raises(ConfigError) as caught:
        parse_implications(["x=y", rule])
    assert f"found '{rule}'; expected LABEL=IMPLIED" in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "cycle"),
    [
        (["a=a"], "a -> a"),
        (["a=b", "b=a"], "a -> b -> a"),
        (["x=a", "a=b", "b=c", "c=a"], "a -> b -> c -> a"),
    ],
)
def test_implications_in_a_cycle(rules, cycle):
    with pytest.raises(ConfigError, match=f"cycle, {cycle};"):
        parse_implications(rules)


def test_a_diamond_is_no_cycle():
    assert parse_implications(["a=b", "a=c", "b=d", "c=d"])["a"] == {"b", "c", "d"}


def test_implications_of_labels_that_no_image_has():
    check_implications(parse_implications(["covid-19=pneumonia", "pneumonia=opacity"]), ["covid-19", "normal"])
    with pytest.raises(DataError) as caught:
        check_implications(parse_implications(["covid19=pneumonia"]), ["covid-19", "normal"])
    assert "'covid19'" in str(caught.value) and "Did you mean 'covid-19'?" in str(caught.value)


@given(st.dictionaries(st.integers(0, 8), st.sets(st.integers(0, 8)), max_size=9))
def test_implications_are_closed(rules):
    """Rules from lower to higher numbers have no cycle; what is implied implies nothing new."""
    texts = [f"{left}={right}" for left, rights in rules.items() for right in rights if left < right]
    closure = parse_implications(texts)
    for implied in closure.values():
        for label in implied:
            assert closure.get(label, frozenset()) <= implied


def test_task():
    assert infer_task([("a",), ("b",)]) == "single"
    assert infer_task([("a",), ("a", "b")]) == "multi"
    assert infer_task([("a",), ()]) == "multi"


def test_order_is_natural_and_ignores_case():
    assert in_order(["b", "A10", "a9", "B", "a"]) == ["a", "a9", "A10", "B", "b"]


def test_targets():
    matrix = targets([("b", "a"), (), ("c",)], ["a", "b", "c"])
    assert matrix.dtype == "uint8"
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert targets([], ["a"]).shape == (0, 1)
    with pytest.raises(DataError, match=r"'pneumona'.*Did you mean 'pneumonia'"):
        targets([("pneumona",)], ["pneumonia"])
