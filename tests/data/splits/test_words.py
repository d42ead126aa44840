from __future__ import annotations

import pytest

from xrayfast.data.splits.words import parse_split, split_without_flag


@pytest.mark.parametrize(
    ("text", "split"),
    [("train", "train"), ("Training", "train"), ("VAL", "valid"), ("valid", "valid"), ("Validation", "valid"),
     ("dev", "valid"), (" Test ", "test"), ("testing", "test"), ("covid-19", None), ("", None),
     ("trainer", None)],
)  # fmt: skip
def test_split_names(text, split):
    assert parse_split(text) == split


@pytest.mark.parametrize(
    ("flags", "rest"),
    [({"valid"}, "train"), ({"test"}, "train"), ({"train"}, "test"), ({"train", "valid"}, "test"),
     ({"train", "test"}, "valid")],
)  # fmt: skip
def test_images_without_a_flag_are_in_the_split_that_has_no_column(flags, rest):
    assert split_without_flag(flags) == rest
