import numpy as np
import pytest

from xrayfast.metrics.inputs import column, count_known, count_patients, sampling_units, table


def test_a_column_has_only_its_unmasked_cells():
    positive, values, rows = column([1, -1, 0], [0.3, 0.9, 0.1])
    assert positive.tolist() == [True, False]
    assert values.tolist() == [0.3, 0.1]
    assert rows.tolist() == [0, 2]


def test_units_number_patients_from_zero():
    unit, n = sampling_units([30, -7, 30, 12], 4)
    assert unit.tolist() == [2, 0, 2, 1]
    assert n == 3
    assert sampling_units(None, 2)[0].tolist() == [0, 1]
    assert sampling_units([], 0)[1] == 0


def test_invalid_truth_is_refused():
    with pytest.raises(ValueError, match=r"truth holds 0\.5"):
        table([[0.5]], [[0.5]])
    with pytest.raises(ValueError, match="truth holds nan"):
        column([np.nan], [0.5])
    with pytest.raises(ValueError, match="score holds NaN or infinity"):
        column([1], [np.inf])
    with pytest.raises(ValueError, match="two equal tables"):
        table(np.empty((3, 0)), np.empty((3, 0)))


def test_patients_are_counted_once_per_label_and_value_and_masked_cells_not_at_all():
    truth = np.array([[1, 0], [1, -1], [0, 1], [1, 1]])
    assert count_patients(truth, np.array([5, 5, 5, 7])).tolist() == [[2, 1], [2, 1]]


def test_unknown_patients_are_not_counted():
    assert count_known(np.array([3, -1, 0, 3, -2])) == 2 and count_known(None) is None
