"""Radiographs upside down, on their side, inverted."""

import numpy as np
import pytest
from PIL import Image

from tests.data.images import orientation_fit
from xrayfast.data.images import orientation
from xrayfast.data.images.contents import describe_contents
from xrayfast.data.images.orientation import MAY_BE_INVERTED, ON_ITS_SIDE, UPSIDE_DOWN
from xrayfast.synthetic import CONDITIONS, phantom

TURNS = {
    "upright": (lambda film: film, []),
    "mirrored": (lambda film: film[:, ::-1], []),
    "flipped": (np.flipud, [UPSIDE_DOWN]),
    "rotated by 180": (lambda film: np.rot90(film, 2), [UPSIDE_DOWN]),
    "rotated by 90": (np.rot90, [ON_ITS_SIDE]),
    "rotated by 270": (lambda film: np.rot90(film, 3), [ON_ITS_SIDE]),
    "transposed": (np.transpose, [ON_ITS_SIDE]),
    "inverted": (lambda film: 255 - film, [MAY_BE_INVERTED]),
    "darker": (lambda film: film // 2, []),
    "framed": (lambda film: np.pad(film, ((0, len(film) // 3), (0, 0))), []),
    "framed and flipped": (lambda film: np.pad(film[::-1], ((0, len(film) // 3), (0, 0))), [UPSIDE_DOWN]),
    "half of it": (lambda film: film * np.uint8(np.arange(len(film))[:, None] < len(film) // 2), ["lower half black"]),
    "wide": (lambda film: np.asarray(Image.fromarray(film).resize((150, 110))), []),
}  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("side", [64, 200])
def test_turned_phantoms_are_noted(turn, side):
    change, notes = TURNS[turn]
    for patient, condition in enumerate(CONDITIONS):
        film = phantom(condition, patient=patient, image=0, size=side)
        assert describe_contents(np.ascontiguousarray(change(film))) == notes


@pytest.mark.slow
def test_weights_of_one_collection_hold_on_the_other(shared):
    samples, of_many = orientation_fit.load(shared / "data")
    inside = np.stack([orientation._without_margins(one) for one in samples])
    for learned, least in ((of_many, (0.93, 0.7)), (~of_many, (0.9, 0.9))):
        fitted = orientation_fit.fit(inside[learned], orientation_fit.weigh(of_many[learned]))
        found = orientation_fit.sums(samples[~learned], fitted)
        assert found.min() > orientation._LEAST / 1.5
        assert ((found > -orientation._LEAST).mean(axis=0) > least).all()
    up, across = orientation_fit.fit(inside, orientation_fit.weigh(of_many))
    assert np.round(1000 * up).tolist() == np.ravel(orientation._UPRIGHT).tolist()
    assert np.round(1000 * across).tolist() == np.array(orientation._STANDING)[np.triu_indices(4, 1)].tolist()
