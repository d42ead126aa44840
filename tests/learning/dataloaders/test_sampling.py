"""`--balanced-sampling`: images are drawn by the inverse frequency of their class or rarest label."""

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.config import Config
from xrayfast.errors import ConfigError
from xrayfast.learning.dataloaders.sampling import draw_balanced, sampling_weights
from xrayfast.learning.training.frozen_features import FeatureLoader


def test_class_weights_equal_scikit_learns():
    classes = np.random.default_rng(0).choice(4, 200, p=[0.6, 0.3, 0.08, 0.02])
    weights = sampling_weights(np.eye(4, dtype=int)[classes])
    expected = compute_sample_weight("balanced", classes)
    np.testing.assert_allclose(weights / weights.sum(), expected / expected.sum())


def test_weights_of_labels_are_those_of_the_rarest_by_hand():
    truth = np.array([[1, 0], [1, 1], [0, 0], [-1, 0], [1, -1], [-1, -1]])
    # The first label has 3 positives in 4 unmasked cells, the second 1 in 4; three images have neither.
    np.testing.assert_allclose(sampling_weights(truth), [4 / 3, 4, 6 / 3, 6 / 3, 4 / 3, 6 / 3])
    assert sampling_weights(np.zeros((3, 2), int)).tolist() == [1, 1, 1]


def test_each_image_is_drawn_as_often_as_its_share_rounded():
    classes = np.repeat([0, 1, 2], [70, 25, 5])
    weights = sampling_weights(np.eye(3, dtype=int)[classes])
    expected, total = 100 * weights / weights.sum(), np.zeros(100)
    for seed in range(400):
        times = np.bincount(draw_balanced(weights, Random(seed)), minlength=100)
        assert times.sum() == 100 and (np.abs(times - expected) < 1).all()
        assert np.abs(np.bincount(classes, times) - 100 / 3).max() < 1
        total += times
    # On average as torch's WeightedRandomSampler, which has a larger standard error.
    np.testing.assert_allclose(total / 400, expected, atol=4 * np.sqrt(0.25 / 400))
    assert draw_balanced(weights, Random(1)) == draw_balanced(weights, Random(1)) != draw_balanced(weights, Random(2))
    assert sorted(draw_balanced(np.ones(9), Random(3))) == list(range(9))


def test_classes_are_drawn_in_random_order():
    classes = np.repeat([0, 1, 2], [140, 50, 10])
    drawn = classes[draw_balanced(sampling_weights(np.eye(3, dtype=int)[classes]), Random(0))]
    for half in (drawn[:100], drawn[100:]):
        assert np.bincount(half).min() > 20, "of 33 per class"


def test_no_image_is_lost_by_rounding():
    class Lowest(Random):
        def random(self):
            return 0.0

    for n in range(2, 60):
        assert len(draw_balanced(np.full(n, 0.1), Lowest())) == n


@pytest.fixture(scope="module")
def uneven(data_dir):
    """Twelve images of one class, four of another and two of the third in the training split."""
    data = xf.open_data(data_dir)
    train = data.table[data.table["split"] == "train"]
    classes = data.targets.argmax(axis=1)
    kept = [i for c, n in ((0, 9), (1, 4), (2, 2)) for i in train.index[classes[train.index] == c][:n]]
    rows = sorted([*kept, *data.table.index[data.table["split"] != "train"]])
    return replace(data, table=data.table.loc[rows].reset_index(drop=True), targets=data.targets[rows],
                   drawn=data.drawn[rows], identities=None)  # fmt: skip


def test_images_and_cached_features_are_drawn_alike(uneven):
    dls = xf.dataloaders(uneven, size=32, batch_size=5, device="cpu", workers=0, balanced_sampling=True, augment=False)
    assert dls.balanced_sampling
    dls.train.rng = Random(4)
    by_class = Counter(torch.cat([y.as_subclass(torch.Tensor) for _, y in dls.train]).tolist())
    assert sorted(by_class.values()) == [5, 5, 5]
    rows = list(dls.train.rows)
    dls.train.rng = Random(4)
    features = torch.arange(15.0).view(1, 15, 1)
    found = torch.cat([x for x, _ in FeatureLoader(dls.train, features, torch.zeros(15))]).flatten().tolist()
    assert found == rows and len(set(rows)) < 15
    assert dls.train.new(shuffle=False).get_idxs() == list(range(15))
    assert xf.learner(dls, weights="none", augment="mild").dls.balanced_sampling  # with new DataLoaders
    assert not xf.dataloaders(uneven, size=32, device="cpu").balanced_sampling


def test_sampling_is_recorded_and_refused_together_with_class_weights(uneven, data_dir, tmp_path):
    options = SMALL | {"epochs": 1, "balanced_sampling": True, "resamples": 0}
    run = xf.fit(uneven, runs=tmp_path, **options)
    assert "| Sampling | balanced |" in run.model_card_path.read_text()
    assert not [remark for remark in run.info.remarks if remark.startswith("balanced_sampling")]
    learn = xf.load(run, data=uneven)
    assert learn.dls.balanced_sampling and xf.save(learn, runs=tmp_path).config.train.balanced_sampling
    with pytest.raises(ConfigError, match=r"class_weights is auto with balanced_sampling.*both balance"):
        Config().updated({"balanced_sampling": True, "class_weights": "auto"})
