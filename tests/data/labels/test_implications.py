from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrayfast.config import Config
from xrayfast.data.labels.implications import apply_implications, check_implications, parse_implications
from xrayfast.errors import ConfigError, DataError

NAN = np.nan


def test_implications_chain():
    closure = parse_implications(["covid-19=pneumonia", "pneumonia=opacity, abnormal", "mass=abnormal+lesion"])
    assert closure["covid-19"] == {"pneumonia", "opacity", "abnormal"}
    assert closure["mass"] == {"abnormal", "lesion"}


@pytest.mark.parametrize("rule", ["covid", "=a", "a=", "a=b+", "a|b=c", ""])
def test_invalid_implications_are_refused(rule):
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
    """Rules from lower to higher numbers have no cycle; the implications of an implied label are already applied."""
    texts = [f"{left}={right}" for left, rights in rules.items() for right in rights if left < right]
    closure = parse_implications(texts)
    for implied in closure.values():
        for label in implied:
            assert closure.get(label, frozenset()) <= implied


def test_an_implied_label_is_1_whatever_it_was():
    matrix = np.array([[1, 0], [1, NAN], [1, 0.7], [0, NAN], [NAN, 0], [0.7, 0], [0, 1]], np.float32)
    labels, found = apply_implications(matrix, ["covid", "pneumonia"], parse_implications(["covid=pneumonia"]))
    assert labels == ["covid", "pneumonia"]
    np.testing.assert_array_equal(found[:, 0], matrix[:, 0])
    np.testing.assert_array_equal(found[:, 1], np.array([1, 1, 1, NAN, 0, 0, 1], np.float32))
    assert matrix[0, 1] == 0


def test_a_new_label_is_masked_where_the_label_that_implies_it_is():
    matrix = np.array([[1, NAN], [0, NAN], [0.7, 0], [0, 0]], np.float32)
    labels, found = apply_implications(matrix, ["a", "b"], parse_implications(["a=c", "b=c", "c=d"]))
    assert labels == ["a", "b", "c", "d"]
    for column in (2, 3):
        np.testing.assert_array_equal(found[:, column], np.array([1, NAN, 0.7, 0], np.float32))
    labels, found = apply_implications(matrix, ["a", "b"], parse_implications(["x=c"]))
    assert labels == ["a", "b"]


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.7, NAN]), min_size=3, max_size=3), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a=b", "a=c", "b=c", "a=d", "c=e"]), max_size=4),
)
def test_implications_hold_in_the_matrix(rows, rules):
    closure = parse_implications(rules)
    labels, found = apply_implications(np.array(rows, np.float32), ["a", "b", "c"], closure)
    for left, rights in closure.items():
        for right in rights & set(labels):
            if left in labels:
                assert (found[found[:, labels.index(left)] == 1, labels.index(right)] == 1).all()


def test_rules_that_meet_again_and_again_are_followed_once():
    """Each of 60 labels implies two that imply the next one: 2^60 paths from the first to the last."""
    rules = [rule for i in range(60) for rule in (f"a{i}=b{i}", f"a{i}=c{i}", f"b{i}=a{i + 1}", f"c{i}=a{i + 1}")]
    assert len(parse_implications(rules)["a0"]) == 180


def test_the_number_of_rules_is_bounded():
    with pytest.raises(ConfigError, match=r"imply is .*expected at most 200 items"):
        Config().updated({"imply": [f"a{i}=a{i + 1}" for i in range(201)]})
    assert len(parse_implications([f"a{i}=a{i + 1}" for i in range(200)])["a0"]) == 200
