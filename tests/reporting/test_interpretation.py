from pathlib import Path

import numpy as np
import pytest

from xrayfast.errors import ConfigError
from xrayfast.reporting.interpretation import Interpretation
from xrayfast.runs.predictions import Predictions


@pytest.mark.parametrize("task", ["single", "multi"])
def test_correct_cases_have_the_smallest_loss_of_each_class_in_turn(task):
    truth = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [1, 0]])
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]])
    loss = -np.log(probability[truth == 1])
    images, patients = (np.array([f"{name}{i}" for i in range(6)], dtype=object) for name in ("i", "p"))
    found = Interpretation(Predictions(("a", "b"), images, patients, truth, probability, loss, probability), task, {})
    assert [case.image for case in found.right_cases(3)] == ["i0", "i3", "i1"]
    # Two were predicted wrong.
    assert [case.image for case in found.right_cases(9)] == ["i0", "i3", "i1", "i2"]
    assert len(found.right_cases(10**20)) == 4
    assert found.cases(0) == () and len(found.top_losses_table(0)) == 0
    for call in (found.cases, found.right_cases, found.top_losses_table):
        for wrong in (-1, 1.5, "nonsense"):
            with pytest.raises(ConfigError, match="k is "):
                call(wrong)
    assert found.paths == {} and not isinstance(found.paths, Path)
