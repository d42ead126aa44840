"""The nearest neighbors of many points."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from xrayfast.audit import nearest
from xrayfast.audit.nearest import exact_neighbors, nearest_neighbors


def points_of(count, seed=0, dimensions=6):
    """Return points far from 0, where squared distances lose digits."""
    return np.random.default_rng(seed).normal(2000, 2, (count, dimensions)).astype(np.float32)


def reference(points, keep):
    found = NearestNeighbors(n_neighbors=keep, algorithm="brute").fit(points).kneighbors(return_distance=False)
    return np.sort(found, axis=1)


def search(points, keep=4, seed=0):
    told = []
    found, note = nearest_neighbors(points, points, keep, seed, told.append)
    assert told == sorted(told) and told[-1] == 1
    return found, note


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 80), st.integers(1, 4), st.integers(0, 99), st.sampled_from([1, 7, 64]), st.sampled_from([3, 50]))
def test_the_exact_search_equals_scikit_learns(count, keep, seed, block, tile):
    points = points_of(count, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_BLOCK", block)
        patch.setattr(nearest, "_TILE", tile)
        assert np.array_equal(np.sort(search(points, keep)[0], axis=1), reference(points, keep))


@pytest.mark.parametrize("exact", [True, False])
def test_changed_copies_of_the_points_have_neighbors_too(exact, few, monkeypatch):
    if exact:
        monkeypatch.setattr(nearest, "EXACT", 50_000)
    else:
        pytest.importorskip("faiss")
    points = points_of(1200)
    found, _ = nearest_neighbors(points, np.concatenate([points, points + np.float32(1e-3)]), 4, 0, lambda share: None)
    assert found.shape == (2400, 4)
    assert not (found[1200:] == np.arange(1200)[:, None]).any()  # not the points that they are made of
    assert (np.sort(found[1200:], axis=1) == reference(points, 4)).mean() > 0.9


def test_an_image_is_not_its_own_neighbor_among_equal_images():
    points = np.repeat(points_of(3), 20, axis=0)
    for found in (
        search(points)[0],
        exact_neighbors(points - points.mean(0), points - points.mean(0), np.arange(60), 4),
    ):
        assert not (found == np.arange(60)[:, None]).any()
        assert (found // 20 == np.arange(60)[:, None] // 20).all()


@pytest.fixture
def few(monkeypatch):
    """Lower the limit of the exact search to 1,000 points."""
    monkeypatch.setattr(nearest, "EXACT", 999)


def test_many_images_are_searched_by_faiss_which_states_its_recall(few):
    pytest.importorskip("faiss")
    points = points_of(3000)
    found, note = search(points)
    assert re.search(r"among 3,000 thumbnails with faiss [\d.]+ .*: of the 4 nearest of 500", note)
    recall = np.mean([len(set(a) & set(b)) / 4 for a, b in zip(found.tolist(), reference(points, 4), strict=True)])
    assert nearest.RECALL - 0.02 <= recall <= 1
    assert not (found == np.arange(3000)[:, None]).any()
    assert np.array_equal(found, search(points)[0])


def test_more_cells_are_searched_until_the_recall_is_reached(few, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "RECALL", 1.0)
    points = points_of(1500, dimensions=30)
    found, note = search(points)
    assert "100.0%" in note
    assert (np.sort(found, axis=1) == reference(points, 4)).mean() > 0.999


def test_faiss_keeps_equal_points_from_their_own_rows(few):
    pytest.importorskip("faiss")
    points = np.repeat(points_of(2), 600, axis=0)
    found, _ = search(points)
    assert not (found == np.arange(1200)[:, None]).any()


def test_without_faiss_the_search_is_exact_and_says_how_long_it_takes(few, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(nearest, "_PATIENCE", 0.0)
    points = points_of(1200)
    with pytest.warns(
        UserWarning, match=r"1,200 thumbnails .* takes about 0 min. faiss .*'xrayfast\[audit\]'"
    ) as warned:
        found, note = search(points)
    assert len(warned) == 1 and not note
    assert np.array_equal(np.sort(found, axis=1), reference(points, 4))


def test_few_images_are_compared_without_a_note(recwarn):
    assert not search(points_of(50))[1]
    assert not recwarn.list
