from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrayfast.data.labels.policies import apply_policies, fill_no_finding_rows, parse_policy
from xrayfast.errors import ConfigError

NAN = np.nan
RAW = np.array([[1, -1, NAN], [0, NAN, -1], [-1, 0, 1]], np.float32)
LABELS = ["Edema", "Lung Opacity", "Mass"]


def applied(uncertain=(), blank=(), default="ignore", mapped=()):
    policies = [parse_policy("uncertain", uncertain), parse_policy("blank", blank, default)]
    matrix, notes = apply_policies(RAW, LABELS, policies, mapped)
    assert matrix.dtype == np.float32
    return [[None if value != value else round(value, 4) for value in row] for row in matrix.tolist()], notes


@pytest.mark.parametrize(
    ("uncertain", "blank", "wanted"),
    [
        ((), (), [[1, None, None], [0, None, None], [None, 0, 1]]),
        (("ignore",), ("zeros",), [[1, None, 0], [0, 0, None], [None, 0, 1]]),
        (("zeros",), (), [[1, 0, None], [0, None, 0], [0, 0, 1]]),
        (("ones",), ("ignore",), [[1, 1, None], [0, None, 1], [1, 0, 1]]),
        (("smooth",), (), [[1, 0.7, None], [0, None, 0.7], [0.7, 0, 1]]),
        (("smooth:0.6",), ("zeros",), [[1, 0.6, 0], [0, 0, 0.6], [0.6, 0, 1]]),
        (("zeros", "lung_opacity=ones"), ("Mass=zeros",), [[1, 1, 0], [0, None, 0], [0, 0, 1]]),
        (("zeros,Edema=smooth:0.9, Mass = ones",), (), [[1, 0, None], [0, None, 1], [0.9, 0, 1]]),
    ],
)
def test_policies(uncertain, blank, wanted):
    assert applied(uncertain, blank)[0] == wanted


def test_the_policy_of_the_data_set_is_the_default():
    assert applied(default="zeros")[0][0] == [1, None, 0]
    assert applied(blank=("Mass=ignore",), default="zeros")[0] == [[1, None, None], [0, 0, None], [None, 0, 1]]


def test_a_policy_may_use_the_label_map_s_name():
    assert applied(("Infiltrate=ones",), mapped=["Edema", "Infiltrate", "Infiltrate"])[0] == [
        [1, 1, None], [0, None, 1], [None, 0, 1]
    ]  # fmt: skip


def test_notes_count_cells():
    _, notes = applied(("zeros", "Edema=smooth"), ())
    assert notes == [
        "Of the uncertain cells (-1), 2 count as 0 (Lung Opacity 1, Mass 1); 1 count as 0.7 (Edema 1).",
        "Of the blank cells, 2 are ignored (Lung Opacity 1, Mass 1).",
        "'Mass': these labels have no cell of 0. --blank zeros makes blank cells the negatives.",
    ]
    policies = [parse_policy("uncertain", ("zeros",)), parse_policy("blank", ())]
    _, notes = apply_policies(np.zeros((2, 1), np.float32), ["a"], policies)
    assert notes == ["There are no uncertain cells (-1)."]


@pytest.mark.parametrize(
    ("option", "items", "words"),
    [
        (
            "uncertain",
            ["zero"],
            ["found 'zero'; expected ignore, zeros, ones or smooth:0.7", "mean 'zeros'"],
        ),
        ("uncertain", ["Edema=one"], ["found 'one'", "LABEL=zeros", "Did you mean 'ones'?"]),
        ("uncertain", [""], ["found ''"]),
        ("uncertain", ["smooth:1"], ["'smooth:1'; expected a number between 0 and 1"]),
        ("uncertain", ["smooth:x"], ["'smooth:x'; expected a number between 0 and 1"]),
        ("uncertain", ["smooth:"], ["a number between 0 and 1"]),
        ("uncertain", ["smooth:nan"], ["a number between 0 and 1"]),
        ("uncertain", ["zeros:1"], ["found 'zeros:1'"]),
        ("uncertain", ["=zeros"], ["found '=zeros'; expected LABEL=zeros, or 'zeros' for all"]),
        ("uncertain", ["zeros", "ones"], ["two values for all labels", "Remove 'ones'"]),
        ("uncertain", ["Edema=zeros,Edema=ones"], ["two values for 'Edema'"]),
        ("blank", ["Covid-19=zeros", "COVID_19=ignore"], ["two values for 'COVID_19'", "Remove 'COVID_19=ignore'"]),
        ("blank", ["ones"], ["blank: found 'ones'; expected ignore or zeros"]),
        ("blank", ["smooth"], ["expected ignore or zeros"]),
    ],
)
def test_invalid_policies_are_refused(option, items, words):
    with pytest.raises(ConfigError) as caught:
        parse_policy(option, items)
    for word in words:
        assert word in str(caught.value)


def test_policies_of_unknown_labels_are_refused():
    with pytest.raises(ConfigError) as caught:
        applied(("Edma=zeros",))
    assert "uncertain: found the label 'Edma'" in str(caught.value)
    assert "Did you mean 'Edema'?" in str(caught.value)


def test_no_finding_means_that_blank_cells_are_0():
    labels = ["Mass", "No finding", "Edema"]
    raw = np.array([[NAN, 1, -1], [NAN, NAN, 1], [1, 1, NAN], [NAN, 0, NAN]], np.float32)
    found, notes = fill_no_finding_rows(raw, labels)
    np.testing.assert_array_equal(found, np.array([[0, 1, -1], [NAN, NAN, 1], [1, 1, 0], [NAN, 0, NAN]], np.float32))
    assert notes == ["In 2 rows 'No finding' is 1: their blank cells are read as 0."]
    assert fill_no_finding_rows(raw[1:2], labels)[1] == []
    assert fill_no_finding_rows(raw, ["a", "b", "c"])[0] is raw


WORDS = {"ignore": NAN, "zeros": 0.0, "ones": 1.0, "smooth": 0.7, "smooth:0.25": 0.25}


@given(
    st.lists(st.lists(st.sampled_from([1.0, 0.0, -1.0, NAN]), min_size=2, max_size=2), min_size=1, max_size=10),
    st.sampled_from(list(WORDS)),
    st.sampled_from(["ignore", "zeros"]),
    st.none() | st.sampled_from(list(WORDS)),
)
def test_each_uncertain_cell_follows_its_policy_and_certain_ones_stay(rows, uncertain, blank, own):
    raw = np.array(rows, np.float32)
    items = [uncertain] + ([f"b={own}"] if own else [])
    policies = [parse_policy("uncertain", items), parse_policy("blank", [blank])]
    found, _ = apply_policies(raw, ["a", "b"], policies)
    for j, policy in enumerate((uncertain, own or uncertain)):
        wanted = np.select(
            [raw[:, j] == -1, np.isnan(raw[:, j])], [np.float32(WORDS[policy]), np.float32(WORDS[blank])], raw[:, j]
        )
        np.testing.assert_array_equal(found[:, j], wanted.astype(np.float32))
    assert not (found < 0).any() and not (found > 1).any()
