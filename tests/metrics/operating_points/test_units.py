"""Labels and probabilities of studies compared with pandas and scikit-learn, and properties for any images."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
from hypothesis import given, settings
from hypothesis import strategies as st

from xrayfast.metrics.operating_points.units import join_probabilities, join_truth
from xrayfast.metrics.summary import summarize
from xrayfast.runs.predictions import Predictions

REFERENCE = {
    "mean": lambda groups: groups.mean(),
    "max": lambda groups: groups.max(),
    "noisy-or": lambda groups: 1 - groups.agg(lambda p: np.prod(1 - p)),
}


def example(n=400, n_units=150, labels=3, seed=0, task="multi", masked=0.1):
    """Return predictions for the images of studies with one or more images, in random order."""
    random = np.random.default_rng(seed)
    units = np.concatenate([np.arange(n_units), random.integers(0, n_units, n - n_units)])
    units = units[random.permutation(n)]
    if task == "single":
        classes = random.integers(0, labels, n_units)[units]
        truth, p = np.eye(labels, dtype=np.int64)[classes], random.dirichlet(np.ones(labels), n)
        p = (p + truth) / 2
    else:
        truth = random.integers(0, 2, (n, labels))
        p = np.clip(truth * 0.2 + random.random((n, labels)) * 0.8, 0, 1)
        truth = np.where(random.random((n, labels)) < masked, -1, truth)
    ids = np.array([f"S{unit:05d}" for unit in units], object)
    return Predictions(
        labels=tuple("abcdefgh"[:labels]),
        images=np.array([f"{i}.png" for i in random.permutation(n)], object),
        patients=np.array([f"P{unit // 2:05d}" for unit in units], object),
        truth=truth,
        probability=p,
        loss=random.random(n),
        raw=p**2 if task == "multi" else p,
        attributes={"age": random.integers(20, 80, n_units)[units].astype(float)},
        studies=ids,
    )


def reference(found, how):
    """Return truth, NaN where masked, and probabilities of the studies, computed with pandas."""
    truth = pd.DataFrame(np.where(found.truth < 0, np.nan, found.truth)).groupby(found.studies)
    positive, any_masked = truth.max() == 1, truth.count().lt(truth.size(), axis=0)
    cells = positive.astype(float).where(positive | ~any_masked, np.nan)
    return cells, REFERENCE[how](pd.DataFrame(found.probability).groupby(found.studies))


@pytest.mark.parametrize("how", REFERENCE)
def test_metrics_of_studies_equal_scikit_learns_on_pandas_groups(how):
    found = example()
    joined = found.by_unit("study", how, "multi")
    summary = summarize(joined.truth, joined.probability, joined.labels, "multi", groups=joined.groups, unit="study")
    cells, probability = reference(found, how)
    assert len(joined) == len(cells) == summary["images"] == 150
    for i, row in enumerate(summary["per_label"]):
        known = cells[i].notna()
        truth, p = cells.loc[known, i], probability.loc[known, i]
        assert row["auroc"] == pytest.approx(skm.roc_auc_score(truth, p), abs=1e-12)
        assert row["ap"] == pytest.approx(skm.average_precision_score(truth, p), abs=1e-12)
        assert row["f1"] == pytest.approx(skm.f1_score(truth, p >= 0.5), abs=1e-12)
        assert row["brier"] == pytest.approx(skm.brier_score_loss(truth, p), abs=1e-12)
        assert row["support"] == truth.sum()
        assert summary["masked"].get(row["label"], 0) == (~known).sum()


@pytest.mark.parametrize("how", ["mean", "max"])
def test_class_probabilities_of_studies_add_up_to_1(how):
    found = example(task="single")
    joined = found.by_unit("study", how, "single")
    p = REFERENCE[how](pd.DataFrame(found.probability).groupby(found.studies))
    p = p.div(p.sum(axis=1), axis=0)
    by_name = pd.DataFrame(joined.probability, index=joined.studies).sort_index()
    np.testing.assert_allclose(by_name, p, atol=1e-12)
    summary = summarize(joined.truth, joined.probability, joined.labels, "single")
    truth = pd.Series(found.truth.argmax(1)).groupby(found.studies).first()
    expected = skm.roc_auc_score(truth, p, multi_class="ovr", average="macro")
    assert summary["overall"]["auroc_macro"] == pytest.approx(expected, abs=1e-12)
    assert summary["overall"]["accuracy"] == pytest.approx(skm.accuracy_score(truth, p.to_numpy().argmax(1)))


def test_intervals_of_studies_and_of_patients_both_draw_patients():
    found = example()
    studies, patients = (found.by_unit(unit, "mean", "multi") for unit in ("study", "patient"))
    for one, unit in ((studies, "study"), (patients, "patient")):
        drawn = summarize(one.truth, one.probability, one.labels, "multi", groups=one.groups, resamples=5, unit=unit)
        assert (drawn["intervals"]["by"], drawn["intervals"]["units"]) == ("patient", 75)
    assert len(patients) == 75
    alone = summarize(studies.truth, studies.probability, studies.labels, "multi", resamples=5, unit="study")
    assert (alone["intervals"]["by"], alone["intervals"]["units"]) == ("study", 150)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["mean", "max", "noisy-or"]), st.sampled_from(["multi", "single"]))
def test_one_image_per_unit_changes_nothing_and_neither_does_the_order(seed, how, task):
    if task == "single" and how == "noisy-or":
        how = "max"
    n = 30
    alone = example(n, n, seed=seed, task=task)
    joined = alone.by_unit("study", how, task)
    for name in ("images", "patients", "truth", "probability", "raw", "loss", "studies"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(alone, name))
    assert (joined.counts == 1).all()
    several = example(n, 12, seed=seed, task=task)
    shuffled = several.select(np.random.default_rng(seed).permutation(n))
    a, b = (one.by_unit("study", how, task) for one in (several, shuffled))
    order = [a.images.tolist().index(image) for image in b.images]
    assert sorted(order) == list(range(12))
    for name in ("truth", "probability", "raw", "loss", "counts", "patients", "studies"):
        np.testing.assert_array_equal(getattr(a, name)[order], getattr(b, name))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_means_are_between_the_images_and_noisy_or_is_at_least_the_largest(values):
    p, units = np.array(values)[:, None], np.zeros(len(values), int)
    mean, largest, either = (join_probabilities(p, units, how, "multi")[0, 0] for how in ("mean", "max", "noisy-or"))
    assert min(values) - 1e-15 <= mean <= largest + 1e-15
    assert largest == max(values)
    assert largest - 1e-15 <= either <= 1


def test_labels_of_a_unit():
    units = np.array([0, 0, 1, 1, 2, 2, 3])
    truth = np.array([[1, 0], [-1, 0], [0, -1], [0, 0], [0, 1], [0, 0], [-1, 1]])
    assert join_truth(truth, units, "multi").tolist() == [[1, 0], [0, -1], [0, 1], [-1, 1]]
    two = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [-1, -1], [0, 1], [-1, -1]])
    assert join_truth(two, units, "single", positive=1).tolist() == [[0, 1], [1, 0], [0, 1], [-1, -1]]
    assert join_truth(two, units, "single", positive=0).tolist() == [[1, 0], [1, 0], [-1, -1], [-1, -1]]
    assert join_truth(two, units, "single").tolist() == [[1, 1], [1, 0], [-1, -1], [-1, -1]]


def test_no_rows():
    nothing = np.zeros((0, 2))
    assert join_probabilities(nothing, np.zeros(0, int), "mean", "multi").shape == (0, 2)
    assert join_truth(nothing.astype(int), np.zeros(0, int), "multi").shape == (0, 2)
