"""Radiographs that are upside down, rotated, inverted or side by side."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.data.images import thumbnail_fit
from xrayfast.data.images import thumbnail
from xrayfast.data.images.contents import describe_contents
from xrayfast.data.images.notes import Note
from xrayfast.synthetic import CONDITIONS, phantom

TURNS = {
    "upright": (lambda film: film, []),
    "mirrored": (lambda film: film[:, ::-1], []),
    "flipped": (np.flipud, [Note.UPSIDE_DOWN()]),
    "rotated by 180": (lambda film: np.rot90(film, 2), [Note.UPSIDE_DOWN()]),
    "rotated by 90": (np.rot90, [Note.ON_ITS_SIDE()]),
    "rotated by 270": (lambda film: np.rot90(film, 3), [Note.ON_ITS_SIDE()]),
    "transposed": (np.transpose, [Note.ON_ITS_SIDE()]),
    "inverted": (lambda film: 255 - film, [Note.MAY_BE_INVERTED()]),
    "darker": (lambda film: (0.7 * film).astype(np.uint8), []),
    "framed": (lambda film: np.pad(film, ((0, len(film) // 3), (0, 0))), []),
    "framed and flipped": (lambda film: np.pad(film[::-1], ((0, len(film) // 3), (0, 0))), [Note.UPSIDE_DOWN()]),
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


@pytest.mark.parametrize(("count", "word"), [(2, "two"), (3, "three")])
def test_phantoms_side_by_side_are_noted(count, word):
    films = [phantom(CONDITIONS[i % 3], patient=i, image=0, size=200) for i in range(6)]
    sides = np.linspace(0, 200, count + 1).round().astype(int)
    for first in range(6):
        own = [Image.fromarray(films[(first + i) % 6]).resize((sides[i + 1] - sides[i], 200)) for i in range(count)]
        notes = describe_contents(np.hstack(list(map(np.asarray, own))))
        assert notes == [Note.SIDE_BY_SIDE(word)] or re.search("side by side|three images in one", notes[0])


@pytest.mark.slow
def test_weights_fitted_on_one_collection_work_on_the_other(shared):
    samples, of_many = thumbnail_fit.load(shared / "data")
    inside = np.stack([thumbnail._without_margins(one) for one in samples])
    for learned, least in ((of_many, (0.93, 0.7)), (~of_many, (0.9, 0.9))):
        fitted = thumbnail_fit.fit(inside[learned], thumbnail_fit.weigh(of_many[learned]))
        found = thumbnail_fit.sums(samples[~learned], fitted)
        assert found.min() > thumbnail._LEAST / 1.5
        assert ((found > -thumbnail._LEAST).mean(axis=0) > least).all()
    for count, weights_of in ((2, thumbnail._NOT_TWO), (3, thumbnail._NOT_THREE)):
        for learned, share in ((of_many, 0.8), (~of_many, 0.7)):
            weights, offset = thumbnail_fit.discriminate(samples[learned], of_many[learned], count)
            others = samples[~learned]
            assert (thumbnail_fit.columns_of(others) @ weights + offset).min() > thumbnail._LEAST / 1.5
            several = thumbnail_fit.columns_of(thumbnail_fit.compose(others, count)) @ weights + offset
            assert (several < thumbnail._LEAST).mean() > share
        weights, offset = thumbnail_fit.discriminate(samples, of_many, count)
        assert np.round(100 * weights).tolist() == np.ravel(weights_of).tolist()
        assert round(float(offset), 2) == round(float(thumbnail._OFFSETS[count]), 2)
    up, across = thumbnail_fit.fit(inside, thumbnail_fit.weigh(of_many))
    assert np.round(1000 * up).tolist() == np.ravel(thumbnail._UPRIGHT).tolist()
    assert np.round(1000 * across).tolist() == np.array(thumbnail._STANDING)[np.triu_indices(4, 1)].tolist()
