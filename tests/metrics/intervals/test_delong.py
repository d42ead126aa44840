"""DeLong's variance compared with its definition over all pairs and with published numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from xrayfast.metrics.classification import auroc
from xrayfast.metrics.intervals.delong import auroc_components, delong, delong_test, placements

rated = st.tuples(st.integers(2, 15), st.integers(2, 15)).flatmap(
    lambda sizes: st.tuples(
        st.just(np.repeat([1, 0], sizes)),
        hnp.arrays(np.float64, (2, sum(sizes)), elements=st.integers(0, 6).map(float)),
    )
)


def by_all_pairs(truth, scores):
    """Return AUROCs and their covariance from the M x N table of pairs, DeLong et al. 1988, equations 5 to 7."""
    wins = [
        (score[truth == 1][:, None] > score[truth == 0]) + 0.5 * (score[truth == 1][:, None] == score[truth == 0])
        for score in scores
    ]
    m, n = wins[0].shape
    v10 = np.stack([table.mean(axis=1) for table in wins])
    v01 = np.stack([table.mean(axis=0) for table in wins])
    return v10, v01, np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n


@given(rated)
def test_placements_and_errors_equal_the_definition(case):
    truth, scores = case
    v10, v01, covariance = by_all_pairs(truth, scores)
    found10, found01 = placements(truth == 1, scores)
    np.testing.assert_allclose(found10, v10, atol=1e-12)
    np.testing.assert_allclose(found01, v01, atol=1e-12)
    for i, score in enumerate(scores):
        found = delong(truth, score)
        assert found.auroc == pytest.approx(auroc(truth, score), abs=1e-12)
        assert found.error**2 == pytest.approx(covariance[i, i], abs=1e-12)
    test = delong_test(truth, *scores)
    expected = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert test.error**2 == pytest.approx(expected, abs=1e-12)
    back = delong_test(truth, *scores[::-1])
    assert back.difference == pytest.approx(-test.difference, abs=1e-12)
    assert back.p == pytest.approx(test.p, abs=1e-9, nan_ok=True)


def repeated(counts):
    return np.repeat(np.arange(len(counts)), counts)


# The S100 beta level of 72 patients with good and 41 with poor outcome after subarachnoid haemorrhage (Turck et al.
# 2010), as patients at each of its 50 values; pROC's tests give the AUROC and DeLong's variance to 15 digits.
GOOD = [0, 5, 3, 2, 6, 6, 6, 7, 4, 0, 3, 4, 4, 3, 2, 1, 2, 0, 0, 1, 0, 0, 0, 1, 0]
GOOD += [1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 2, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
POOR = [1, 0, 0, 0, 3, 1, 2, 2, 1, 1, 2, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 1]
POOR += [1, 1, 0, 1, 0, 1, 0, 2, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1]


def test_published_variance_of_proc():
    truth = np.repeat([0, 1], [72, 41])
    found = delong(truth, np.concatenate([repeated(GOOD), repeated(POOR)]))
    assert found.auroc == pytest.approx(0.73136856368563685, abs=1e-12)
    assert found.error**2 == pytest.approx(0.00266868245717244, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((0.6301, 0.8326), abs=5e-5)


def test_published_interval_of_the_ct_readings():
    # Hanley and McNeil 1982, table I: 58 normal and 51 abnormal CT images in five grades; Stata's manual of roctab
    # gives area 0.8932, error 0.0307 and interval 0.83295 to 0.95339.
    truth = np.repeat([0, 1], [58, 51])
    found = delong(truth, np.concatenate([repeated([33, 6, 6, 11, 2]), repeated([3, 2, 2, 11, 33])]))
    assert found.auroc == pytest.approx(0.8932, abs=5e-5)
    assert found.error == pytest.approx(0.0307, abs=5e-5)
    assert (found.low, found.high) == pytest.approx((0.83295, 0.95339), abs=5e-6)


def test_images_of_one_patient_add_nothing_when_they_are_copies():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 40)
    a, b = rng.normal(size=(2, 40)) + truth
    alone = delong_test(truth, a, b)
    copies = delong_test(*(np.repeat(values, 3) for values in (truth, a, b)), groups=np.repeat(np.arange(40), 3))
    assert copies.error == pytest.approx(alone.error, abs=1e-12)
    assert copies.p == pytest.approx(alone.p, abs=1e-12)
    pretended = delong_test(*(np.repeat(values, 3) for values in (truth, a, b)))
    assert pretended.error < 0.6 * alone.error
    assert delong_test(truth, a, b, groups=rng.permutation(40)).error == pytest.approx(alone.error, abs=1e-12)


def test_the_components_have_the_variance_with_and_without_patients():
    rng = np.random.default_rng(3)
    truth, groups = rng.integers(0, 2, 60), np.arange(60) // 3
    score = rng.normal(size=20)[groups] + truth
    found = auroc_components(truth == 1, score, groups, 20)
    assert found.value == pytest.approx(auroc(truth, score))
    assert found.variance == pytest.approx(delong(truth, score, groups).error ** 2)
    assert found.independent == pytest.approx(delong(truth, score).error ** 2)
    for patient in range(20):  # the influence is the derivative of the area with respect to the patient's weight
        areas = [roc_auc_score(truth, score, sample_weight=1 + step * (groups == patient)) for step in (-1e-4, 1e-4)]
        assert found.influence[patient] == pytest.approx(np.diff(areas)[0] / 2e-4, abs=1e-7)


def by_patient(truth, score, groups):
    """Return Obuchowski's variance by loops over pairs of images and over patients."""
    pairs = {
        (i, j): (score[i] > score[j]) + 0.5 * (score[i] == score[j])
        for i in np.flatnonzero(truth == 1)
        for j in np.flatnonzero(truth == 0)
    }
    area, m, n = np.mean(list(pairs.values())), (truth == 1).sum(), (truth == 0).sum()
    of_positive, of_negative = dict[int, float](), dict[int, float]()
    for (i, j), win in pairs.items():
        of_positive[groups[i]] = of_positive.get(groups[i], 0) + (win - area) / n
        of_negative[groups[j]] = of_negative.get(groups[j], 0) + (win - area) / m
    a, b, both = len(of_positive), len(of_negative), len({*of_positive, *of_negative})
    across = sum(value * of_negative.get(patient, 0) for patient, value in of_positive.items())
    return (
        a / (a - 1) * sum(value**2 for value in of_positive.values()) / m**2
        + b / (b - 1) * sum(value**2 for value in of_negative.values()) / n**2
        + 2 * both / (both - 1) * across / (m * n)
    )


def test_the_error_with_patients_is_the_definition_s_with_masked_images_anywhere():
    rng = np.random.default_rng(4)
    for size in (12, 15, 30):
        truth, groups = rng.integers(0, 2, size), rng.integers(0, size // 3, size)
        a, b = rng.integers(0, 5, (2, size)).astype(float)
        expected = by_patient(truth, a, groups)
        assert delong(truth, a, groups).error ** 2 == pytest.approx(expected, abs=1e-12)
        at = [0, 3, 3, size]
        masked = [np.insert(values, at, other) for values, other in ((truth, -1), (a, 9), (b, 9), (groups, 1))]
        assert delong(*masked[:2], masked[3]).error ** 2 == pytest.approx(expected, abs=1e-12)
        assert delong_test(*masked) == delong_test(truth, a, b, groups)


def test_an_interval_ends_at_0_and_1():
    for low, high in (([3, 5], [4, 6, 7]), ([4, 6, 7], [3, 5])):
        found = delong(np.repeat([0, 1], [len(low), len(high)]), [*map(float, low), *map(float, high)])
        assert 0 < found.auroc < 1 and (found.low == 0) != (found.high == 1)


def test_the_error_is_0_and_not_nan_if_both_images_of_each_patient_move_the_area_equally_far_in_opposite_directions():
    for patients in range(3, 20):
        found = delong(np.tile([0, 1], patients), np.arange(2.0 * patients), np.arange(2 * patients) // 2)
        assert found.auroc < 1 and 0 <= found.error < 1e-7


def test_the_error_of_clustered_images_is_that_of_repeated_studies():
    rng = np.random.default_rng(1)
    patients, each = 60, 5
    groups = np.repeat(np.arange(patients), each)
    areas, errors = [], []
    for _ in range(300):
        truth = (rng.random(patients * each) < 0.4).astype(int)
        score = 1.2 * truth + rng.normal(size=patients)[groups] + 0.7 * rng.normal(size=patients * each)
        found = delong(truth, score, groups)
        areas.append(found.auroc)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)


def test_a_monotone_map_and_masked_cells_change_nothing():
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 2, 50)
    score = rng.random(50)
    assert delong(truth, np.exp(score)) == delong(truth, score)
    for groups in (np.arange(50), np.arange(50) // 3):  # one of the masked cells is of a patient without other images
        more = delong(np.append(truth, [-1, -1]), np.append(score, [0.0, 1.0]), groups=np.append(groups, [7, 99]))
        assert more.error == pytest.approx(delong(truth, score, groups).error, abs=1e-12)


def test_edges():
    with np.errstate(all="raise"):
        assert np.isnan([delong([1, 1], [0.1, 0.2]).auroc, delong([0, 0], [0.1, 0.2]).auroc, delong([], []).low]).all()
    lone = delong([1, 0, 0], [0.9, 0.1, 0.2])
    assert lone.auroc == 1
    assert np.isnan([lone.error, lone.low]).all()
    perfect = delong([1, 1, 0, 0], [3.0, 4, 1, 2])
    assert (perfect.auroc, perfect.error, perfect.low, perfect.high) == (1, 0, 1, 1)
    flat = delong([1, 1, 0, 0], [1.0, 1, 1, 1])
    assert (flat.auroc, flat.error) == (0.5, 0)
    same = delong_test([1, 0, 1, 0], [0.9, 0.2, 0.4, 0.5], [9.0, 2, 4, 5])
    assert (same.difference, same.error, same.z, same.p) == (0, 0, 0, 1)
    apart = delong_test([1, 1, 0, 0], [3.0, 4, 1, 2], [1.0, 2, 3, 4])
    assert (apart.difference, apart.error) == (1, 0)
    assert np.isnan([apart.z, apart.p]).all()


def test_invalid_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        delong([1, 0], [np.nan, 0.1])
    with pytest.raises(ValueError, match="groups"):
        delong([1, 0], [0.2, 0.1], groups=[1])
