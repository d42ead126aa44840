"""Building the cache before training, in several shares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import xrayfast as xf
from xrayfast.cli import app
from xrayfast.config import Config
from xrayfast.data.cache import decode_worker, image_cache
from xrayfast.data.cache.folders import INDEX_NAME, cache_info
from xrayfast.errors import ConfigError
from xrayfast.synthetic import write_dataset

DATA = "--labels data/labels.csv --size 64 --cache-dir cache"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", images=24, size=64)
    return tmp_path


def run(words):
    return CliRunner().invoke(app, words.split(), prog_name="xrayfast")


def build(words=""):
    """Run `cache build --json` and return what it prints."""
    done = run(f"cache build {DATA} --json {words}")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def decoded(monkeypatch):
    """A list that collects the files that are decoded, in this process or in a worker."""
    paths = []

    def decode_all(job, chunks, *others, real=image_cache.decode_all):
        chunks = list(chunks)
        paths.extend(path for chunk in chunks for path in chunk)
        return real(job, chunks, *others)

    def read(path, *others, real=image_cache.read):
        paths.append(str(path))
        return real(path, *others)

    monkeypatch.setattr(image_cache, "decode_all", decode_all)
    for module in (image_cache, decode_worker):
        monkeypatch.setattr(module, "read", read)
    return paths


def test_shares_built_in_any_order_make_one_cache_from_which_fit_decodes_nothing(place, decoded, tiny_vgg):
    assert build("--shards 3/3")["to_do"] == [1, 2]
    assert "Still to build: 1 of 3 shares (2)." in run(f"cache build {DATA} --shards 1/3").output
    assert build("--shards 3/3")["to_do"] == [2]
    [folder] = cache_info(place / "cache")
    assert folder.images == 16 and not (folder.path / INDEX_NAME).exists()
    last = build("--shards 2/3")
    assert (last["to_do"], last["images"], last["total"]) == ([], 8, 24)
    assert (folder.path / INDEX_NAME).exists() and cache_info(place / "cache")[0].images == 24
    assert len(set(decoded)) == 24
    decoded.clear()
    settings = Config().updated({"size": 64, "batch_size": 8, "epochs": 1, "arch": tiny_vgg, "weights": "none",
                                 "resamples": 0, "device": "cpu"})  # fmt: skip
    xf.fit(xf.open_data("data", labels="data/labels.csv", cache_dir="cache"), config=settings)
    assert decoded == []


def test_without_shards_the_whole_data_set_is_built(place):
    done = run(f"cache build {DATA}")
    assert "24 images: " in done.output and "hare" not in done.output
    assert cache_info(place / "cache")[0].images == 24
    built = xf.build_cache(xf.open_data("data", labels="data/labels.csv", cache_dir="cache"), size=64)
    assert (built.images, built.total, built.to_do, dict(built.unreadable)) == (24, 24, (), {})


def test_files_that_can_not_be_read_are_named_after_the_others_are_built(place):
    first, *_ = sorted(Path("data").rglob("*.png"))
    first.write_bytes(b"no image")
    done = run(f"cache build {DATA} --shards 1/1")
    assert done.exit_code == 1 and "1 of 24 images can't be read" in done.output and first.name in done.output
    assert cache_info(place / "cache")[0].images == 23
    done = run(f"cache build {DATA} --unreadable skip")
    assert done.exit_code == 0 and "23 images: " in done.output


@pytest.mark.parametrize("shards", ["0/3", "4/3", "three"])
def test_wrong_shares_are_usage_errors_before_the_data_are_opened(place, shards):
    shutil.rmtree("data")
    done = run(f"cache build --shards {shards}")
    assert done.exit_code == 2 and f"--shards is '{shards}'; expected I/N" in done.output


def test_a_data_set_that_is_not_cached_is_an_error(place):
    with pytest.raises(ConfigError, match="cache is off"):
        xf.build_cache(xf.open_data("data", labels="data/labels.csv", cache=False))
    Path("off.yaml").write_text("data: {cache: false}\n")
    assert run("cache build --labels data/labels.csv --config off.yaml").exit_code == 2


def test_a_changed_image_is_built_again(place):
    build("--shards 1/2"), build("--shards 2/2")
    path = sorted(Path("data").rglob("*.png"))[0]
    Image.new("L", (64, 64), 9).save(path)
    build("--shards 1/2")
    assert cache_info(place / "cache")[0].images == 25
