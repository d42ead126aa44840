from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xrayfast.metrics import ranking
from xrayfast.metrics.classification import auroc, average_precision
from xrayfast.metrics.ranking import Ranking

drawn = st.integers(1, 25).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.bool_, n),
        # Few distinct values, so that ties are common.
        hnp.arrays(np.float64, n, elements=st.integers(0, 6).map(lambda k: k / 6)),
        hnp.arrays(np.int64, n, elements=st.integers(0, 4)),
        hnp.arrays(np.int16, (3, 5), elements=st.integers(0, 3)),
    )
)


@given(drawn)
def test_a_resample_has_the_metrics_of_its_repeated_rows(case):
    positive, score, unit, counts = case
    areas, precisions = Ranking([(positive, score, unit)]).compute(counts)
    for i, times in enumerate(counts):
        rows = np.repeat(np.arange(len(unit)), times[unit])
        expected = auroc(positive[rows], score[rows]), average_precision(positive[rows], score[rows])
        assert (areas[i], precisions[i]) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(drawn)
def test_only_the_order_of_scores_matters(case):
    positive, score, unit, counts = case
    for found, expected in zip(
        Ranking([(positive, np.exp(3 * score), unit)]).compute(counts),
        Ranking([(positive, score, unit)]).compute(counts),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


@given(drawn, st.integers(1, 30), st.integers(0, 25))
def test_of_several_labels_it_is_that_of_their_cells_whatever_the_pieces(case, at_once, cut):
    positive, score, unit, counts = case
    columns = [tuple(array[rows] for array in (positive, score, unit)) for rows in (slice(cut), slice(cut, None))]
    with patch.object(ranking, "_AT_ONCE", at_once):
        found = Ranking(iter(columns)).compute(counts)
    np.testing.assert_array_equal(found, Ranking([(positive, score, unit)]).compute(counts))


def test_without_images_there_is_no_ranking():
    empty = Ranking([(np.zeros(0, dtype=bool), np.zeros(0), np.zeros(0, dtype=int))])
    assert np.isnan(empty.compute(np.ones((2, 3), np.int16))).all()
    no_negative = Ranking([(np.ones(2, dtype=bool), np.array([0.1, 0.2]), np.arange(2))])
    area, precision = no_negative.compute(np.ones((1, 2), np.int16))
    assert np.isnan([area[0], precision[0]]).all()
