"""Images that show the same content."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audit.sets import (
    Shown,
    brighter,
    contrasted,
    cropped,
    film,
    gamma,
    jpeg,
    manifest,
    marked,
    normalized_locally,
    resized,
    shown,
)
from xrayfast.audit.alignment import aligned_correlation, warp
from xrayfast.audit.duplicates import ALIKE, Duplicates, distinct_groups, find_duplicates, near_pairs
from xrayfast.audit.features import compute_features, thumbnail
from xrayfast.audit.neighbors import candidates
from xrayfast.audit.versions import find_versions
from xrayfast.data.splits.assign import connect_pairs

COPIES = {
    "JPEG 75": lambda x: jpeg(x, 75),
    "JPEG 30": lambda x: jpeg(x, 30),
    "half": lambda x: resized(x, 0.5),
    "quarter": lambda x: resized(x, 0.25),
    "double": lambda x: resized(x, 2),
    "squashed": lambda x: resized(x, 0.8, 1.1),
    "crop 2%": lambda x: cropped(x, 0.02, 0.01, 0.02, 0.0),
    "crop 5% of a corner": lambda x: cropped(x, left=0.05, bottom=0.05),
    "crop 5% all around": lambda x: cropped(x, 0.05, 0.05, 0.05, 0.05),
    "brighter": lambda x: brighter(x, 40),
    "darker": lambda x: brighter(x, -40),
    "less contrast": lambda x: contrasted(x, 0.6),
    "more contrast": lambda x: contrasted(x, 1.5),
    "much darker, half of it black": lambda x: brighter(x, -60),
    "twice the contrast, its ends cut off": lambda x: contrasted(x, 2),
    "gamma 0.6": lambda x: gamma(x, 0.6),
    "gamma 1.6": lambda x: gamma(x, 1.6),
    "all at once": lambda x: jpeg(gamma(resized(cropped(x, 0.03, 0.02, 0.04, 0.01), 0.5), 1.3), 50),
}
PATIENTS = 40


def find(data_dir, side=128, **columns):
    data = manifest(np.zeros((len(data_dir), 1)), **columns)
    images = shown(data, data_dir, side=side)
    features = compute_features(data.table["path"].tolist(), np.arange(len(data_dir)), images)
    return find_duplicates(data, features, images)


@pytest.fixture(scope="module")
def data_dir():
    return [film(i, size=256) for i in range(PATIENTS)]


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_alike(data_dir, name):
    first = np.stack([thumbnail(x) for x in data_dir])
    alike, _ = aligned_correlation(first, np.stack([thumbnail(COPIES[name](x)) for x in data_dir]))
    assert (alike >= ALIKE).mean() >= 0.95


def test_many_copies_of_a_few_kinds_are_one_group(data_dir):
    rng = np.random.default_rng(0)
    kinds = [data_dir[0], cropped(data_dir[0], right=0.05, top=0.05), gamma(data_dir[0], 1.3), np.rot90(data_dir[0], 2)]
    copies = [np.clip(x + rng.normal(0, 1, x.shape), 0, 255).astype(np.uint8) for x in kinds for _ in range(8)]
    (group,) = find([*data_dir, *copies], side=64)
    assert group.rows == (0, *range(PATIENTS, PATIENTS + len(copies)))
    assert group.changes == ("rotated by 180°",)


@pytest.mark.parametrize("name", ["JPEG 30", "crop 5% all around", "all at once"])
def test_copies_are_found_and_nothing_else(data_dir, name):
    found = find([*data_dir, *map(COPIES[name], data_dir)])
    assert all(group.kind == "near" and (group.similarity >= ALIKE or group.changes) for group in found)
    pairs = {group.rows for group in found}
    right = {(i, PATIENTS + i) for i in range(PATIENTS)}
    assert pairs <= right
    assert len(pairs) >= 0.9 * PATIENTS


@pytest.mark.parametrize("side", [64, 96, 224])
def test_copies_are_found_at_any_image_size(data_dir, side):
    copies = [jpeg(resized(cropped(x, 0.02, 0.01, 0.0, 0.03), 0.6), 60) for x in data_dir[:20]]
    assert {group.rows for group in find([*data_dir[:20], *copies], side)} == {(i, 20 + i) for i in range(20)}


def test_films_of_different_patients_are_not_duplicates(data_dir):
    assert find(data_dir) == ()


@pytest.mark.parametrize("process", [normalized_locally, marked])
@pytest.mark.parametrize("side", [64, 128])
def test_copies_with_other_local_contrast_or_a_mark_are_found_and_nothing_else(data_dir, process, side):
    patients = [f"P{i}" for i in range(12)]
    found = find([*data_dir[:12], *map(process, data_dir[:12])], side, patients=[*patients, *patients])
    assert [(group.rows, group.changes) for group in found] == [
        ((i, 12 + i), ("processed or marked",)) for i in range(12)
    ]
    assert all(group.similarity < ALIKE for group in found)


def test_films_of_one_patient_must_be_more_alike_than_others():
    data_dir = [film(i, image) for i in range(20) for image in (0, 1, 2)]
    same = find(data_dir, patients=[f"P{i // 3}" for i in range(60)])
    unknown = find(data_dir)
    assert len(same) < len(unknown)
    copies = [film(0), jpeg(film(0), 75)]
    assert [group.rows for group in find(copies, patients=["P1", "P1"])] == [(0, 1)]


def test_exact_copies_are_those_of_equal_pixels(data_dir):
    a, b, c = data_dir[:3]
    found = find([a, b, a.copy(), c, b.copy(), a.copy()])
    assert found == (Duplicates((0, 2, 5), "exact", 1.0), Duplicates((1, 4), "exact", 1.0))


def test_near_groups_have_the_exact_copies_too(data_dir):
    a, b = data_dir[:2]
    found = find([a, b, jpeg(a, 50), a.copy()])
    assert [(group.rows, group.kind) for group in found] == [((0, 3), "exact"), ((0, 2, 3), "near")]
    assert ALIKE <= found[1].similarity < 1


def test_exact_copies_that_are_in_a_near_group_too_count_once():
    twice, alone = Duplicates((0, 1), "exact", 1.0), Duplicates((4, 5), "exact", 1.0)
    near = Duplicates((0, 1, 2), "near", 0.99)
    assert distinct_groups([twice, alone, near]) == [alone, near]


def test_thousands_of_one_image_are_one_group(data_dir):
    rng = np.random.default_rng(0)
    noisy = [np.clip(data_dir[0] + rng.normal(0, 3, data_dir[0].shape), 0, 255).astype(np.uint8) for _ in range(200)]
    found = find([*noisy, *data_dir[1:], *([data_dir[1]] * 500)], side=64)
    assert [(group.kind, len(group.rows)) for group in found] == [("exact", 501), ("near", 200)]


def test_flat_images_do_not_all_count_as_one():
    rng = np.random.default_rng(0)
    grays = [np.full((100, 100), value, np.uint8) for value in range(0, 250, 5)]
    noise = [rng.normal(value, 2, (100, 100)).clip(0, 255).astype(np.uint8) for value in range(0, 250, 5)]
    assert find([*grays, *noise]) == ()


def test_fewer_than_two_images_have_no_duplicates(data_dir):
    assert find([]) == find(data_dir[:1]) == ()
    assert [group.rows for group in find([data_dir[0], jpeg(data_dir[0], 60)])] == [(0, 1)]


@settings(max_examples=6, deadline=None)
@given(st.permutations(range(24)), st.booleans())
def test_the_order_of_the_images_changes_nothing(order, known):
    base = [film(i) for i in range(8)]
    data_dir = [
        *base,
        *(jpeg(x, 60) for x in base),
        *(x.copy() for x in base[:4]),
        *(cropped(x, 0.03) for x in base[:4]),
    ]
    patients = [f"P{i}" for i in range(24)] if known else None

    def groups(rows):
        found = find([data_dir[i] for i in rows], patients=patients and [patients[i] for i in rows])
        return sorted((sorted(rows[row] for row in group.rows), group.kind, group.similarity) for group in found)

    assert groups(list(order)) == groups(list(range(24)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
))  # fmt: skip
def test_connected_pairs_are_the_finest_partition_that_joins_the_pairs(case):
    count, pairs = case
    numbers = connect_pairs(count, np.array(pairs, np.int64).reshape(-1, 2))
    wanted = list(range(count))
    for a, b in pairs:
        wanted = [wanted[a] if number == wanted[b] else number for number in wanted]
    for i in range(count):
        for j in range(count):
            assert (numbers[i] == numbers[j]) == (wanted[i] == wanted[j])


def test_near_groups_are_a_partition(data_dir):
    copies = [f(x) for x in data_dir[:8] for f in (COPIES["JPEG 75"], COPIES["crop 2%"], COPIES["brighter"])]
    found = find([*data_dir[:12], *copies])
    rows = [row for group in found for row in group.rows]
    assert len(rows) == len(set(rows)) == 32
    assert sorted(group.rows for group in found) == [(i, *range(12 + 3 * i, 15 + 3 * i)) for i in range(8)]


def mixed(count, seed=0):
    """Return thumbnails that are as similar as films: superimposed, shifted and stretched phantoms."""
    rng = np.random.default_rng(seed)
    some = np.stack([thumbnail(film(i, k)) for i in range(20) for k in range(3)]).astype(np.float32)

    def any_warped():
        place = rng.uniform(-0.12, 0.12, (count, 4)).astype(np.float32) - np.array([0.1, 0, 0.1, 0], np.float32)
        return warp(some[rng.integers(0, len(some), count)], place)

    share = rng.uniform(0.4, 0.8, (count, 1, 1))
    return (
        (share * any_warped() + (1 - share) * any_warped() + rng.normal(0, 3, (count, 40, 40)))
        .clip(0, 255)
        .astype(np.uint8)
    )


def two(thumbs):
    """Return rows of thumbnails of images without margins."""
    return np.arange(len(thumbs))[:, None].repeat(2, axis=1)


def test_candidates_are_few_however_alike_the_images_are():
    for thumbs in (mixed(600), np.zeros((600, 40, 40), np.uint8), np.repeat(mixed(3), 200, axis=0)):
        versions = find_versions(thumbs, two(thumbs))
        pairs, mirrored, _ = candidates(versions)
        assert len(versions) < 1.2 * 600 and len(pairs) <= 8 * len(versions)
        assert (pairs[:, 0] < pairs[:, 1]).all()
        assert len(np.unique(np.column_stack([pairs, mirrored]), axis=0)) == len(pairs)


def test_candidates_contain_the_copies():
    thumbs = mixed(900)
    rng = np.random.default_rng(1)
    place = np.tile(np.array([-0.08, 0.02, -0.06, -0.04], np.float32), (100, 1))
    copies = warp(thumbs[:100].astype(np.float32), place) + rng.normal(0, 1, (100, 40, 40))
    both = np.concatenate([thumbs, copies.clip(0, 255).astype(np.uint8)])
    pairs, _, _ = candidates(find_versions(both, two(both)))
    assert sum((i, 900 + i) in set(map(tuple, pairs.tolist())) for i in range(100)) >= 98


CHANGED = {
    "mirrored": (lambda x: x[:, ::-1], ("mirrored",)),
    "a quarter turn": (np.rot90, ("rotated by 90°",)),
    "three quarter turns": (lambda x: np.rot90(x, 3), ("rotated by 90°",)),
    "half a turn": (lambda x: np.rot90(x, 2), ("rotated by 180°",)),
    "upside down": (np.flipud, ("mirrored", "rotated by 180°")),
    "inverted": (lambda x: 255 - x, ("inverted",)),
    "black margins": (lambda x: np.pad(x, ((0, 30), (60, 60))), ("with other margins",)),
    "white frame": (lambda x: np.pad(x, 40, constant_values=255), ("with other margins",)),
    "all": (
        lambda x: 255 - np.rot90(np.pad(x, 40))[:, ::-1],
        ("mirrored", "rotated by 90°", "inverted", "with other margins"),
    ),
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("count", [12, PATIENTS])
def test_changed_copies_are_found_and_named(data_dir, name, count):
    """Among few images, all are compared."""
    change, named = CHANGED[name]
    found = find([*data_dir[:count], *(jpeg(np.ascontiguousarray(change(x)), 85) for x in data_dir[:9])])
    assert [(group.rows, group.changes) for group in found] == [((i, count + i), named) for i in range(9)]


@pytest.mark.parametrize("value", [0, 128, 255])
def test_copies_with_a_thin_frame_are_found(data_dir, value):
    found = find([*data_dir[:9], *(np.pad(x, 4, constant_values=value) for x in data_dir[:9])])
    assert [group.rows for group in found] == [(i, 9 + i) for i in range(9)]


def test_copies_in_two_versions_are_one_pair():
    thumbs = mixed(60)
    both = (thumbs[0] // 2 + thumbs[0, :, ::-1] // 2)[None]  # the same from left to right
    given = np.concatenate([thumbs, both, np.clip(both + 1, 0, 255)])
    pairs, alike, changes = near_pairs(given, two(given), given.__getitem__, Shown({}))
    assert pairs.tolist() == [[60, 61]] and alike[0] > ALIKE and not changes[0]


def test_candidates_are_reproducible():
    thumbs = mixed(300)
    versions = find_versions(thumbs, two(thumbs))
    first, again = (candidates(versions, seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_progress_never_decreases_and_reaches_the_end():
    told = []
    thumbs = mixed(300)
    near_pairs(thumbs, two(thumbs), thumbs.__getitem__, Shown({}), progress=lambda *step: told.append(step))
    assert {stage for stage, _, _ in told} == {"comparing"}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1:] == (300, 300)


@pytest.mark.slow
def test_the_search_is_not_quadratic():
    seconds = []
    for count in (5_000, 40_000):
        thumbs = mixed(count)
        start = time.process_time()
        near_pairs(thumbs, two(thumbs), thumbs.__getitem__, Shown({}))
        seconds.append(time.process_time() - start)
    assert seconds[1] < 8 * 2 * seconds[0]  # it would be 64 times if the search were quadratic
