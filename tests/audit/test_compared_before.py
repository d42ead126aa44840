"""Images that were compared in an earlier run are not compared again."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from tests.audit.sets import brighter, film
from xrayfast.audit import duplicates, features
from xrayfast.audit.leaks import compare_images
from xrayfast.config import DataConfig
from xrayfast.data.cache import image_cache
from xrayfast.data.cache.folders import clear_cache
from xrayfast.data.cache.image_cache import ImageCache, UncachedImages
from xrayfast.data.open_manifest import open_manifest

SIDE = 64


@pytest.fixture
def source(tmp_path):
    """Ten films: the last of class a is nearly the first, and one film is there twice."""
    for place, pixels in enumerate([*(film(i) for i in range(8)), brighter(film(0), 20), film(1)]):
        folder = tmp_path / "data" / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    return tmp_path / "data"


@pytest.fixture
def computed(monkeypatch):
    """Record the names of all computations from here on."""
    calls = []
    for module, name in ((features, "thumbnail"), (duplicates, "_compare")):
        monkeypatch.setattr(module, name, partial(_call, calls, name, getattr(module, name)))
    return calls


def _call(calls, name, work, *given, **named):
    calls.append(name)
    return work(*given, **named)


def compare(source, images=None):
    """Return features by name and leaks, as found by a new process."""
    data = open_manifest(DataConfig(source=source))
    found, leaks = compare_images(data, images or ImageCache(SIDE, root=source.parent / "cache"))
    return {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}, leaks


def assert_same(found, expected):
    assert found[1] == expected[1]
    for name, values in expected[0].items():
        assert np.array_equal(found[0][name], values), name


def kept_files(source):
    return sorted(source.parent.glob("cache/**/*.computed"))


def test_a_second_comparison_computes_nothing_and_has_the_same_result(source, computed):
    expected = compare(source, UncachedImages(SIDE))
    assert {group.kind for group in expected[1].duplicates} == {"exact", "near"}
    for _ in range(2):
        assert_same(compare(source), expected)
    assert computed == [*["thumbnail"] * 10, "_compare"] * 2  # without a cache and with an empty cache
    assert len(kept_files(source)) == 2
    clear_cache(source.parent / "cache")
    assert not kept_files(source)


def test_other_images_are_compared_again(source, computed):
    compare(source)
    computed.clear()
    Image.fromarray(film(20)).save(source / "a" / "2.png")
    assert_same(compare(source), compare(source, UncachedImages(SIDE)))
    assert computed == [*["thumbnail"] * 10, "_compare"] * 2
    (source / "a" / "2.png").unlink()
    computed.clear()
    assert_same(compare(source), compare(source, UncachedImages(SIDE)))
    assert computed == [*["thumbnail"] * 9, "_compare"] * 2


def test_equal_images_in_another_folder_are_not_searched_again(source, computed):
    compare(source)
    shutil.copytree(source, source.parent / "copy")
    computed.clear()
    compare(source.parent / "copy")
    assert "_compare" not in computed


def test_patients_may_become_known_later(source):
    before = compare(source)[1].duplicates
    data = open_manifest(DataConfig(source=source))
    data.table["patient"] = "p"
    found = compare_images(data, ImageCache(SIDE, root=source.parent / "cache"))[1].duplicates
    assert found == compare_images(data, UncachedImages(SIDE))[1].duplicates
    assert {group.kind for group in found} <= {group.kind for group in before}


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "folder", "other"])
def test_damaged_files_are_computed_again(source, computed, harm):
    expected = compare(source)
    for path in kept_files(source):
        raw = path.read_bytes()
        if harm == "folder":
            path.unlink()
            path.mkdir()
        else:
            contents = {
                "flip": raw[:-1] + bytes([raw[-1] ^ 1]),
                "cut": raw[:-1],
                "empty": b"",
                "other": b"x" * len(raw),
            }
            path.write_bytes(contents[harm])
    computed.clear()
    assert_same(compare(source), expected)
    assert computed == [*["thumbnail"] * 10, "_compare"]
    computed.clear()
    assert_same(compare(source), expected)
    assert bool(computed) == (harm == "folder")  # the folder is not ours to remove


def test_results_of_another_version_are_not_used(source, computed, monkeypatch):
    compare(source)
    computed.clear()
    monkeypatch.setattr(image_cache, "__version__", "0.0.0")
    compare(source)
    assert computed == [*["thumbnail"] * 10, "_compare"]


def test_results_that_cannot_be_saved_are_computed(source, computed, monkeypatch):
    def full(*given):
        raise image_cache.WriteError("no room")

    monkeypatch.setattr(image_cache, "write_columns", full)
    expected = compare(source, UncachedImages(SIDE))
    assert_same(compare(source), expected)
    assert not kept_files(source)


def test_two_processes_that_compute_the_same_result_leave_an_intact_file(source):
    cache, layout, calls = ImageCache(SIDE, root=source.parent / "cache"), {"a": (0, "<i8")}, []
    cache.build([str(path) for path in source.glob("*/*.png")])

    def compute():
        calls.append(len(calls))
        if len(calls) == 1:  # another process starts and ends in the meantime
            assert cache.computed(b"key", layout, compute)["a"].tolist() == [7]
        return {"a": np.array([7])}

    assert cache.computed(b"key", layout, compute)["a"].tolist() == [7]
    assert cache.computed(b"key", layout, compute)["a"].tolist() == [7]
    assert calls == [0, 1] and len(kept_files(source)) == 1


def test_the_note_on_the_search_is_given_again(source, monkeypatch):
    search = duplicates.candidates
    monkeypatch.setattr(duplicates, "candidates", lambda *given, **named: (*search(*given, **named)[:2], "recall 96%"))
    for _ in range(2):
        with pytest.warns(UserWarning, match="recall 96%"):
            compare(source)
    monkeypatch.setattr(duplicates, "search_method", lambda count: "another")
    monkeypatch.setattr(duplicates, "candidates", search)
    compare(source)
