"""Find labels that out-of-fold predictions contradict, with confident learning (Northcutt et al. 2021, in cleanlab)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.config import Task
from xrayfast.data.arrays import Integers
from xrayfast.errors import importing

QUALITY = "self_confidence"
"""The score by which cells are ranked: the probability of the given value. With three classes confused at random, none
of cleanlab's other scores ranked clearly better (`examples/recipes/label_noise.py`), and the margin ranked worse; with
two classes, all scores rank nearly alike.
"""


def rank_labels(truth: Integers, probability: npt.NDArray[np.floating], task: Task) -> pd.DataFrame:
    """Rank all label cells that are not masked, least credible first.

    In a single-label task, an image's class is one cell; in a multi-label task, each label is a problem of its own.

    Args:
        truth: (N, L) of 1, 0, and -1 where masked.
        probability: (N, L) in [0, 1], calibrated, from networks that were not trained on the image.
        task: "single" or "multi".

    Returns:
        Columns `row` and `column` of the cell, `given` (1 or 0; the class in a single-label task), `proposed` (the most
        likely class in a single-label task, else the opposite of `given`), `quality` in [0, 1], and `is_issue`, whether
        confident learning finds the cell wrong.
    """
    if task == "single":
        given = truth.argmax(axis=1)
        found = _rank(given, probability, probability.argmax(axis=1))
        tables = [found.assign(row=np.arange(len(given)), column=given)]
    else:
        tables = []
        for column in range(truth.shape[1]):
            rows = np.flatnonzero(truth[:, column] >= 0)
            given, p = truth[rows, column], probability[rows, column]
            if len(np.unique(given)) == 2:  # otherwise nothing can contradict it
                found = _rank(given, np.column_stack([1 - p, p]), 1 - given)
                tables.append(found.assign(row=rows, column=column))
    columns = ["row", "column", "given", "proposed", "quality", "is_issue"]
    every: pd.DataFrame = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    return every.sort_values("quality", kind="stable", ignore_index=True).reindex(columns=columns)


def _rank(given: npt.NDArray[Any], probability: npt.NDArray[Any], proposed: npt.NDArray[Any]) -> pd.DataFrame:
    """Return given and proposed classes of one problem, with cleanlab's quality score and verdict."""
    with importing("review needs cleanlab, which", "review"):
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    probability = probability / probability.sum(axis=1, keepdims=True)
    issue = find_label_issues(given, probability, n_jobs=1) & (given != proposed)
    quality = get_label_quality_scores(given, probability, method=QUALITY)
    return pd.DataFrame({"given": given, "proposed": proposed, "quality": quality, "is_issue": issue})
