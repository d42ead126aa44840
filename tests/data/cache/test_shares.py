"""A cache that is built in shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.cache.image_files import SIDE, count_cached, write_images
from xrayfast.data.cache.folders import clear_cache, image_folder, remove_abandoned
from xrayfast.data.cache.image_cache import ImageCache
from xrayfast.data.cache.shares import MAX_SHARES, Share, as_ranges
from xrayfast.errors import ConfigError


@given(st.integers(0, 60), st.integers(1, 20))
def test_shares_partition_the_paths(count, of):
    paths = [str(i) for i in range(count)]
    parts = [Share(i + 1, of).of_paths(paths) for i in range(of)]
    assert [path for part in parts for path in part] == paths
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "text",
    ["", "3", "0/3", "4/3", "3/0", "0/0", "-1/3", "1/-3", "1/2/3", "a/b", "1.0/2", " 1/2", "1/2 ", "1/2\n", "١/٢",
     f"1/{MAX_SHARES + 1}", "1/99999999999999999999"],
)  # fmt: skip
def test_an_invalid_share_is_an_error(text):
    with pytest.raises(ConfigError, match="expected I/N"):
        Share.parse(text)


def test_a_share_is_parsed_from_text():
    assert Share.parse("3/8") == Share(3, 8)
    assert Share.parse("08/08") == Share(8, 8)


@given(st.sets(st.integers(1, 40)))
def test_ranges_name_the_numbers(numbers):
    found = set()
    for word in as_ranges(sorted(numbers)).split(",") if numbers else []:
        first, _, last = word.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == numbers


def test_shares_of_other_paths_or_another_number_of_shares_are_ignored(tmp_path):
    Share(1, 3).record(tmp_path, ["a", "b", "c"])
    Share(2, 3).record(tmp_path, ["a", "b"])
    Share(3, 4).record(tmp_path, ["a", "b", "c"])
    assert Share(2, 3).others_to_do(tmp_path, ["a", "b", "c"]) == [2, 3]
    assert Share(2, 3).others_to_do(tmp_path / "nowhere", ["a"]) == [1, 2, 3]


def test_with_more_shares_than_images_some_are_empty(tmp_path):
    paths = write_images(tmp_path / "images", 2)
    found = [ImageCache(SIDE, root=tmp_path / "cache").build_share(paths, Share(i, 4)) for i in (1, 2, 3, 4)]
    assert [to_do for _, to_do in found] == [[2, 3, 4], [3, 4], [4], []]
    assert count_cached(ImageCache(SIDE, root=tmp_path / "cache")) == 2


def test_records_are_removed_with_the_cache(tmp_path):
    images = ImageCache(24, root=tmp_path)
    images.build_share([], Share(1, 2))
    assert len(list(image_folder(tmp_path, 24, "auto").glob("*.done"))) == 1
    remove_abandoned(images.folder)
    assert images.build_share([], Share(2, 2)) == ({}, [])
    clear_cache(tmp_path)
    assert list(images.folder.iterdir()) == []
