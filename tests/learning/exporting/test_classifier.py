"""The parts of an exported classifier in torch, compared with the functions they replace."""

import numpy as np
import pytest
import torch

from xrayfast.data.images.reader import fit_square
from xrayfast.learning.exporting.classifier import Decide, FitSquare
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
