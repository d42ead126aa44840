"""The parts of an exported classifier in torch, compared with the functions they replace."""

import numpy as np
import pytest
import torch
from torch import nn

from xrayfast.data.images.reader import fit_square
from xrayfast.learning.exporting.classifier import Classifier, Decide, FitSquare
from xrayfast.learning.inference.predictor import EnsemblePredictor, Predictor
from xrayfast.metrics.operating_points.calibration import Scaling, Temperature
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.thresholds import OperatingPoint

SHAPES = [
    (64, 64),
    (1, 1),
    (65, 64),
    (64, 63),
    (3, 200),
    (128, 128),
    (300, 257),
    (480, 641),
    (10, 7),
    (700, 1),
    (33, 50),
]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_resized_to_the_same_pixels_as_by_the_reader(shape, size):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    found = FitSquare(size)(torch.from_numpy(images)).numpy()
    expected = np.stack([fit_square(image, size) for image in images]).astype(float)
    tall = shape[0] > 2 * shape[1]  # rows are resized first
    assert np.abs(found - expected).max() <= (1 if tall else 0)


def points(*thresholds):
    return tuple(OperatingPoint(threshold, "", 0.9, 0.8, 10, 20) for threshold in thresholds)


SCALINGS = (Scaling(1.7, -0.4), Scaling(0.01, 3.0), Scaling(1.0, 0.0))
DECISIONS = {
    "none": Decision("single", ("a", "b", "c")),
    "temperature": Decision("single", ("a", "b", "c"), Temperature(2.5)),
    "one against the rest": Decision("single", ("a", "b", "c"), Temperature(0.5), points(0.2, 0.3, 0.9), "youden"),
    "multi": Decision("multi", ("a", "b", "c"), SCALINGS, points(0.2, None, 0.93), "youden"),
    "first of two": Decision("single", ("a", "b"), SCALINGS[:1], points(0.37), "youden", positive="a"),
    "second of two": Decision("single", ("a", "b"), SCALINGS[:1], points(0.61), "youden", positive="b"),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_calibration_and_prediction_equal_those_of_the_decision(name):
    decision = DECISIONS[name]
    n = len(decision.labels)
    raw = np.random.default_rng(1).dirichlet(np.ones(n) / 3, 500).astype(np.float32).astype(float)
    raw = np.vstack([raw, np.eye(n), np.full((1, n), 1 / n)])
    probability, chosen = (one.numpy() for one in Decide(decision)(torch.from_numpy(raw)))
    expected = decision.calibrated(raw)
    np.testing.assert_allclose(probability, expected, atol=2e-8)
    clear = (np.abs(expected - decision.thresholds) > 1e-6).all(axis=1)
    assert clear.sum() > 400
    np.testing.assert_array_equal(chosen[clear], decision.decide(expected)[clear])


def test_a_label_whose_probability_is_its_threshold_is_predicted():
    decision = Decision("multi", ("a", "b", "c"), points=points(0.2, None, 0.93), rule="youden")
    raw = np.stack([decision.thresholds, np.nextafter(decision.thresholds, 0)])
    _, chosen = Decide(decision)(torch.from_numpy(raw))
    assert chosen.tolist() == decision.decide(raw).astype(int).tolist() == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_classifier_predicts_as_its_predictor_does(n):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        members = [
            Predictor(nn.Sequential(nn.Conv2d(3, 3, 32), nn.Flatten()), DECISIONS["multi"], 32) for _ in range(n)
        ]
    predictor = members[0] if n == 1 else EnsemblePredictor(members, DECISIONS["multi"])
    images = np.random.default_rng(0).integers(0, 256, (4, 45, 60), dtype=np.uint8)
    classifier = Classifier(predictor).eval()
    found = dict(zip(classifier.output_names, classifier(torch.from_numpy(images)), strict=True))
    expected, spread = predictor.probabilities_and_spread(images)
    np.testing.assert_allclose(found["raw_probabilities"].detach(), expected.raw, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"].detach(), expected.calibrated, atol=1e-5)
    assert ("spread" in found) == (n > 1)
    if spread is not None:
        np.testing.assert_allclose(found["spread"].detach(), spread, atol=1e-5)
        assert spread.min() > 1e-3
