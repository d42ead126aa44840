"""Labels ranked by how much predictions contradict them, compared with cleanlab's own functions."""

import numpy as np
import pytest
from cleanlab.filter import find_label_issues
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
from cleanlab.rank import get_label_quality_scores

from xrayfast.audit.label_issues import QUALITY, rank_labels


def flipped(n, share, rng):
    return rng.choice(n, round(share * n), replace=False)


def noisy_classes(n=400, classes=3, share=0.05, seed=0):
    """Return truth with some classes flipped, probabilities of an accurate network, and the flipped rows."""
    rng = np.random.default_rng(seed)
    actual = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes)) + 4 * np.eye(classes)[actual]
    given, rows = actual.copy(), flipped(n, share, rng)
    given[rows] = (given[rows] + rng.integers(1, classes, len(rows))) % classes
    p = np.exp(logits)
    return np.eye(classes, dtype=int)[given], p / p.sum(1, keepdims=True), rows


def test_classes_are_ranked_as_by_cleanlab_and_flipped_ones_are_first():
    truth, p, rows = noisy_classes()
    found = rank_labels(truth, p, "single")
    given = truth.argmax(1)
    assert sorted(found["row"]) == list(range(400)) and found["quality"].is_monotonic_increasing
    by_row = found.sort_values("row")
    assert np.allclose(by_row["quality"], get_label_quality_scores(given, p, method=QUALITY))
    assert by_row["is_issue"].tolist() == (find_label_issues(given, p, n_jobs=1) & (given != p.argmax(1))).tolist()
    assert (by_row["given"] == given).all() and (by_row["proposed"] == p.argmax(1)).all()
    assert np.isin(found["row"][:20], rows).mean() >= 0.9
    assert (found["given"] != found["proposed"])[found["is_issue"]].all()


def test_labels_are_ranked_separately_and_masked_cells_left_out():
    truth, p, _ = noisy_classes()
    masked = truth.copy()
    masked[:50, 1] = -1
    found = rank_labels(masked, p, "multi")
    assert len(found) == 1200 - 50
    assert not ((found["row"] < 50) & (found["column"] == 1)).any()
    assert ((found["given"] + found["proposed"]) == 1).all()
    sets = [np.flatnonzero(row).tolist() for row in truth]
    theirs = find_multilabel_issues_per_class(sets, p, n_jobs=1)
    ours = rank_labels(truth, p, "multi")
    for column in range(3):
        mine = ours[ours["column"] == column].sort_values("row")["is_issue"].to_numpy()
        assert mine.tolist() == theirs[:, column].tolist() and mine.any()


@pytest.mark.parametrize("value", [0, 1, -1])
def test_a_label_that_all_or_no_images_have_is_not_ranked(value):
    truth, p, _ = noisy_classes()
    truth[:, 2] = value
    assert set(rank_labels(truth, p, "multi")["column"]) == {0, 1}
    assert rank_labels(np.full((3, 1), value), np.full((3, 1), 0.5), "multi").empty
