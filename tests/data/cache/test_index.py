"""The index of a folder of shards, which finds the shard of an image."""

from __future__ import annotations

import os
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.cache.image_files import SIDE, assert_true_to, write_images
from xrayfast.data.cache import index as index_module
from xrayfast.data.cache.folders import INDEX_NAME, clear_cache, remove_abandoned
from xrayfast.data.cache.image_cache import ImageCache
from xrayfast.data.cache.index import FolderIndex, _Table, _write_table, as_words
from xrayfast.data.cache.shards import Entry, ImageInfo, write_shard

INFO = ImageInfo(100, 90, 8, "L", "PNG", "ab" * 16, ())
BLANK = np.zeros((2, 2), np.uint8)


def write_keys(folder, *shards):
    """Write a shard of tiny images for each list of keys, and return the names of the shards."""
    return [write_shard(folder, 2, [Entry(key, INFO, BLANK) for key in keys]).name for keys in shards]


def opened(folder, side=2):
    index = FolderIndex(folder, side)
    index.refresh()
    return index


@pytest.fixture
def opened_shards(monkeypatch):
    """Record the names of the shards that are opened from here on."""
    names, real = [], index_module.Shard

    def shard(path, side):
        names.append(path.name)
        return real(path, side)

    monkeypatch.setattr(index_module, "Shard", shard)
    return names


KEYS = st.binary(min_size=16, max_size=16) | st.sampled_from([b"a" * 8 + bytes([i]) * 8 for i in range(9)])
"""Keys, some of which have the same first half."""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(KEYS, min_size=1, max_size=9), max_size=9), st.lists(KEYS, max_size=9), st.data())
def test_tables_find_the_same_as_a_dictionary(shards, others, data):
    names = [f"{n:016x}.pictures" for n in range(len(shards))]
    tables = [_Table.of([(name, as_words(keys))]) for name, keys in zip(names, shards, strict=True)]
    gone = data.draw(st.sets(st.sampled_from(names))) if names else set()
    there = {key: set() for key in [*others, *(key for keys in shards for key in keys)]}
    for name, keys in zip(names, shards, strict=True):
        for row, key in enumerate(keys):
            there[key] |= {(name, row)} - {(name, row) for name in gone}
    if tables:
        table = _Table.merged(tables).without(gone)
        assert (np.diff(table.high.astype(object)) >= 0).all()
        at = table.find_all(as_words(list(there)))
        for position, (key, places) in zip(at.tolist(), there.items(), strict=True):
            one = table.find(int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little"))
            assert one in places if places else one is None
            both = None if position < 0 else (table.names[table.shard[position]], table.row[position])
            assert both in places if places else both is None


def test_with_the_index_file_no_shard_is_opened(tmp_path, opened_shards):
    rng = np.random.default_rng(0)
    keys = [[rng.bytes(16) for _ in range(3)] for _ in range(5)]
    names = write_keys(tmp_path, *keys)
    opened(tmp_path).save(unlisted=0)
    opened_shards.clear()
    index = opened(tmp_path)
    assert opened_shards == [] and len(index) == 15
    shard, row = index.find(keys[3][2])
    assert (shard.path.name, row) == (names[3], 2) and opened_shards == [names[3]]
    assert index.find(rng.bytes(16)) is None


def test_shards_missing_from_the_index_are_read_and_removed_shards_are_left_out(tmp_path, opened_shards):
    (a, b, c), names = ([bytes([i]) * 16] for i in range(3)), []
    names += write_keys(tmp_path, a, b)
    opened(tmp_path).save(unlisted=0)
    names += write_keys(tmp_path, c)
    (tmp_path / names[0]).unlink()
    opened_shards.clear()
    index = opened(tmp_path)
    assert opened_shards == names[2:] and len(index) == 2
    assert [index.find(key[0]) is not None for key in (a, b, c)] == [False, True, True]
    assert index.missing(as_words([*a, *b, *c])).tolist() == [True, False, False]
    index.save(unlisted=0)
    opened_shards.clear()
    assert len(opened(tmp_path)) == 2 and opened_shards == []


@pytest.mark.parametrize("change", ["flip", "cut", "lengthen", "empty", "foreign", "folder"])
def test_a_damaged_index_counts_as_missing(tmp_path, change):
    keys = [bytes([i]) * 16 for i in range(4)]
    write_keys(tmp_path, keys[:2], keys[2:])
    opened(tmp_path).save(unlisted=0)
    path = tmp_path / INDEX_NAME
    raw = path.read_bytes()
    if change == "folder":
        path.unlink()
        path.mkdir()
    flipped = [raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :] for i in range(len(raw))]
    contents = {"flip": flipped, "cut": [raw[:i] for i in range(len(raw))], "lengthen": [raw + b"x"], "empty": [b""]}
    for content in contents.get(change, [] if change == "folder" else [b"\xff" * len(raw)]):
        path.write_bytes(content)
        index = opened(tmp_path)
        assert len(index) == 4 and not index.missing(as_words(keys)).any()


def test_an_index_that_contradicts_the_shards_gives_no_wrong_image(tmp_path):
    first, second = [b"a" * 16, b"b" * 16], [b"c" * 16]
    names = write_keys(tmp_path, first, second)
    swapped = [(names[0], as_words(second)), (names[1], as_words(first))]
    _write_table(tmp_path / INDEX_NAME, _Table.of(swapped))
    index = opened(tmp_path)
    assert [index.find(key) for key in (*first, *second)] == [None] * 3


def test_a_damaged_shard_is_found_and_removed_when_its_images_are_wanted(tmp_path):
    keys = [bytes([i]) * 16 for i in range(2)]
    names = write_keys(tmp_path, keys[:1], keys[1:])
    opened(tmp_path).save(unlisted=0)
    (tmp_path / names[0]).write_bytes(b"damaged")
    assert opened(tmp_path).missing(as_words(keys)).tolist() == [True, False]
    assert not (tmp_path / names[0]).exists()


def test_an_unreadable_shard_is_left_alone(tmp_path, monkeypatch):
    keys = [bytes([i]) * 16 for i in range(2)]
    names = write_keys(tmp_path, keys[:1], keys[1:])
    opened(tmp_path).save(unlisted=0)
    real = index_module.Shard

    def shard(path, side):
        if path.name == names[0]:
            raise PermissionError(path)
        return real(path, side)

    monkeypatch.setattr(index_module, "Shard", shard)
    index = opened(tmp_path)
    assert index.find(keys[0]) is None and index.find(keys[1])
    assert index.missing(as_words(keys)).tolist() == [True, False]
    assert (tmp_path / names[0]).exists()


def test_a_build_writes_the_index_if_there_are_many_shards(tmp_path, monkeypatch):
    paths = write_images(tmp_path / "images", 40)
    images = ImageCache(SIDE, root=tmp_path / "cache")
    images.build(paths, workers=0)
    assert not (images.folder / INDEX_NAME).exists()
    monkeypatch.setattr(index_module, "_SHARDS_UNLISTED", 3)
    ImageCache(SIDE, root=tmp_path / "cache").build(paths, workers=0)  # although there is nothing to decode
    assert (images.folder / INDEX_NAME).exists()
    assert_true_to(ImageCache(SIDE, root=tmp_path / "cache"), paths)


def test_a_read_only_folder_can_be_read(tmp_path, monkeypatch):
    paths = write_images(tmp_path / "images", 40)
    images = ImageCache(SIDE, root=tmp_path / "cache")
    images.build(paths, workers=0)
    monkeypatch.setattr(index_module, "_SHARDS_UNLISTED", 3)
    (images.folder / INDEX_NAME).mkdir()
    assert ImageCache(SIDE, root=tmp_path / "cache").build(paths, workers=0) == {}


def test_the_index_survives_the_cleanup_of_killed_runs_and_is_removed_with_the_cache(tmp_path):
    images = ImageCache(SIDE, root=tmp_path / "cache")
    images.build(write_images(tmp_path / "images", 3), workers=0)
    images._index.save(unlisted=0)
    old = (time.time() - 10_000,) * 2
    os.utime(images.folder / INDEX_NAME, old)
    remove_abandoned(images.folder)
    assert (images.folder / INDEX_NAME).exists()
    clear_cache(tmp_path / "cache")
    assert list(images.folder.iterdir()) == []


@pytest.mark.slow
def test_the_index_of_ten_million_images_opens_in_two_seconds_and_one_gigabyte(tmp_path):
    rng, rows = np.random.default_rng(0), 512
    names = [f"{i:016x}.pictures" for i in range(-(-10_000_000 // rows))]
    for name in names:
        (tmp_path / name).touch()  # only opened to read an image
    words = rng.integers(0, 2**64, (len(names) * rows, 2), np.uint64)
    _write_table(tmp_path / INDEX_NAME, _Table.of([(n, words[i * rows : (i + 1) * rows]) for i, n in enumerate(names)]))
    del words
    tracemalloc.start()
    index = opened(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) >= 10_000_000 and peak < 300e6
    start = time.process_time()  # CPU time, which does not depend on the load
    opened(tmp_path)
    assert time.process_time() - start < 2
