from __future__ import annotations

import pytest

from xrayfast.data.labels.names import (
    clean_label,
    drop_invisible,
    is_no_finding,
    normalize_label,
    parse_delimited,
    parse_folder_name,
    sort_labels,
)
from xrayfast.errors import DataError


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
    assert parse_folder_name(name) == labels


@pytest.mark.parametrize(("name", "words"), [("a+", "empty label"), ("+", "empty label"), ("a|b", "without '|'")])
def test_folder_names_that_are_no_labels(name, words):
    with pytest.raises(DataError) as caught:
        parse_folder_name(name)
    assert words in str(caught.value) and f"'{name}'" in str(caught.value)


def test_delimited_texts():
    assert parse_delimited("a | b|a", "|") == ("a", "b")
    assert parse_delimited("a;b", ";") == ("a", "b")


def test_spellings_of_one_name():
    assert (
        normalize_label(" Pleural_Thickening")
        == normalize_label("pleural  thickening")
        == normalize_label("PleuralThickening")
    )
    assert (
        normalize_label("Crohn\u2019s disease")
        == normalize_label("Crohn's Disease")
        == normalize_label("crohn\u02bcs_disease")
    )
    assert is_no_finding("No finding") and is_no_finding("NO_FINDING") and not is_no_finding("normal")


def test_micro_is_not_milli():
    assert normalize_label("5 \u00b5m") == normalize_label("5 \u03bcm") != normalize_label("5 mm")


@pytest.mark.parametrize(
    "word",
    ["\u043d\u043e\u0440\u043c\u0430", "\u0442\u0443\u0431\u0435\u0440\u043a\u0443\u043b\u0451\u0437",
     "\u03bc\u03ac\u03b6\u03b1", "\u0456\u043d\u0448\u0435"],
)  # fmt: skip
def test_case_does_not_matter_in_scripts_whose_capitals_look_like_latin_ones(word):
    assert normalize_label(word) == normalize_label(word.capitalize()) == normalize_label(word.upper())
    assert normalize_label("\u0421\u0422 1") == normalize_label("ct \u0661")


def test_order_is_natural_and_ignores_case():
    assert sort_labels(["b", "A10", "a9", "B", "a"]) == ["a", "a9", "A10", "B", "b"]


def test_an_invisible_character_is_no_part_of_a_label():
    assert drop_invisible("\ufeffPneumonia\u200b ") == "Pneumonia"
    with pytest.raises(DataError, match="empty label"):
        clean_label("\u200b")


@pytest.mark.parametrize(("one", "other"), [("1e0", "1.0"), ("2.0e+00", "2"), ("-1e0", "-1"), ("1E-1", "0.1")])
def test_numbers_with_exponents(one, other):
    assert normalize_label(one) == normalize_label(other)
