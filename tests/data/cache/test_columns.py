"""Files that store the columns of tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrayfast.data.cache.columns import read_columns, write_columns
from xrayfast.errors import WriteError

LAYOUT = {"a": (0, np.dtype(("<f4", (2, 3)))), "b": (1, "<u2"), "c": (0, "u1")}


def columns_of(count, other, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a": rng.normal(size=(count, 2, 3)).astype(np.float32),
        "b": rng.integers(0, 9, other, np.uint16),
        "c": rng.integers(0, 9, count, np.uint8),
    }


def same(found, columns):
    return found is not None and all(
        found[name].dtype == values.dtype and np.array_equal(found[name], values) for name, values in columns.items()
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 99))
def test_columns_are_read_back_as_written(tmp_path_factory, count, other, seed):
    path, columns = tmp_path_factory.mktemp("columns") / "file", columns_of(count, other, seed)
    write_columns(path, b"magic", LAYOUT, columns)
    assert same(read_columns(path, b"magic", LAYOUT), columns)


def test_a_damaged_file_counts_as_missing(tmp_path):
    path = tmp_path / "file"
    assert read_columns(path, b"magic", LAYOUT) is None
    write_columns(path, b"magic", LAYOUT, columns_of(3, 2))
    raw = path.read_bytes()
    assert read_columns(path, b"other", LAYOUT) is None
    assert read_columns(path, b"magic", LAYOUT | {"d": (0, "u1")}) is None
    for i in range(len(raw)):
        for damaged in (raw[:i], raw[:i] + bytes([raw[i] ^ 0x80]) + raw[i + 1 :]):
            path.write_bytes(damaged)
            assert read_columns(path, b"magic", LAYOUT) is None
    path.write_bytes(raw)
    assert same(read_columns(path, b"magic", LAYOUT), columns_of(3, 2))


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(WriteError, match="nowhere"):
        write_columns(tmp_path / "nowhere" / "file", b"magic", LAYOUT, columns_of(3, 2))
