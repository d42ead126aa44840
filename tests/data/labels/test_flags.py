from __future__ import annotations

import numpy as np
import pytest

from xrayfast.data.labels.flags import are_fractions, looks_like_flags, parse_flags
from xrayfast.errors import DataError


def row(i: int) -> str:
    return f"labels.csv row {i + 2}"


def test_columns_of_flags():
    columns = {"A": ["1", "0", "1.0", "-1"], "B": ["0", " 0.0", "-1.0 ", ""]}
    found = parse_flags(columns, row)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, 0], [0, 0], [1, -1], [-1, np.nan]])


@pytest.mark.parametrize("cell", ["2", "often", "0.5", "-2", "--1", ".1", "yes?", "sí?", "否？"])
def test_cells_that_are_no_flags(cell):
    with pytest.raises(DataError) as caught:
        parse_flags({"Mass": ["1", "0"], "Effusion": ["0", cell]}, row)
    assert f"labels.csv row 3: Effusion is '{cell}'; expected 1, 0, -1 (uncertain) or blank." in str(caught.value)


def test_which_columns_look_like_flags():
    assert looks_like_flags(["1", "0", "", "-1"])
    assert not looks_like_flags(["0", "0"]) and not looks_like_flags(["", ""]) and not looks_like_flags(["1", "x"])
    assert looks_like_flags(["1", "0", "x"], share=0.5) and not looks_like_flags(["1", "x", "y"], share=0.5)


@pytest.mark.parametrize(
    "cells",
    [
        ["yes", "No", "", "YES "], ["Y", "n", "NaN", "y"], ["s\u00ed", "no", "", "si"],
        ["Positive", "negative", "", "pos"], ["present", "absent", "", "Present"],
        ["1e0", "0.000000e+00", "", "1.0"], ["T", "F", "", "true"],
    ],
)  # fmt: skip
def test_words_and_exponents_of_flags(cells):
    assert looks_like_flags(cells, words=True)
    matrix = parse_flags({"Effusion": cells}, str)
    np.testing.assert_array_equal(matrix[:, 0], [1, 0, np.nan, 1])


def test_the_word_uncertain_is_uncertain():
    np.testing.assert_array_equal(parse_flags({"a": ["1", "uncertain", "no"]}, str)[:, 0], [1, -1, 0])
    np.testing.assert_array_equal(parse_flags({"a": ["Detected", "Not detected"]}, str)[:, 0], [1, 0])


def test_flags_in_other_languages():
    found = parse_flags({"Mass": ["sim", "não", "да", "нет", "positivo", "是"]}, row)
    np.testing.assert_array_equal(found[:, 0], [1, 0, 1, 0, 1, 1])


@pytest.mark.parametrize(
    ("cells", "are_scores"),
    [
        (["0", "100"], True),
        (["0", "12.5", "80"], True),
        ([*map(str, range(0, 96, 8))], True),
        (["0.2", "1"], True),
        (["20 %", "45 %"], True),
        (["3", "97.5%"], True),
        (["1.5", "2", "2.5"], False),
        ([*map(str, range(60))], False),
        (["1", "2", "100"], False),
        (["0", "1"], False),
        (["-5", "55.5"], False),
        (["0", "120.5"], False),
        (["-5", "-1.5", "0.2", "2.75", "3.5", "-0.1"], True),
        ([*map(str, range(-5, 5))], False),
    ],
)
def test_scores_up_to_100(cells, are_scores):
    assert are_fractions(cells) == are_scores and not are_fractions([*cells, "x"])
