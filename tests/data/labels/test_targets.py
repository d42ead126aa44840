from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.labels.test_cells import NAN, matrix, same
from xrayfast.data.labels.targets import (
    encode_labels,
    infer_task,
    join_labels,
    merge_labels,
    not_single_label,
    to_truth,
)
from xrayfast.errors import DataError


def test_targets():
    found = encode_labels([("b", "a"), (), ("c",)], ["a", "b", "c"])
    same(found, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    assert encode_labels([], ["a"]).shape == (0, 1)
    with pytest.raises(DataError, match=r"'pneumona'.*Did you mean 'pneumonia'"):
        encode_labels([("pneumona",)], ["pneumonia"])


def test_truth_masks_uncertain_cells():
    found = to_truth(matrix([[1, 0, NAN, 0.7]]))
    assert found.dtype == np.int8 and found.tolist() == [[1, 0, -1, -1]]


@given(st.integers(0, 20).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), max_size=30)))
def test_join_labels_equals_the_plain_loop(rows):
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
    """1 takes precedence, then masked cells, then the larger value; labels with one column are unchanged."""
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
