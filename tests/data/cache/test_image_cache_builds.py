"""Builds that are killed, stopped or watched, or that run at the same time as others."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import filelock
import pytest

from tests.data.cache.image_files import (
    SIDE,
    assert_true_to,
    count_cached,
    death,
    go,
    patched_reader,
    start_build,
    write_images,
)
from xrayfast.data.cache import folders, locks
from xrayfast.data.cache.file_keys import FileKeys
from xrayfast.data.cache.image_cache import ImageCache
from xrayfast.data.cache.locks import ChunkLocks


@pytest.fixture
def root(tmp_path):
    return tmp_path / "cache"


def killed_builds(root: Path, folder: Path, environment: dict[str, str], kills: int) -> tuple[int, int]:
    """Kill builds at random moments, the main process or all; return the numbers of complete and of partial caches."""
    rng = random.Random(0)
    completed = partial = killed = 0
    count = len(list(folder.iterdir()))
    while killed < kills:
        last = rng.randint(1, 2 * count)  # a complete build has 2.2 such moments per image
        dying = death(root.with_name("moments"), last, rng.random() < 0.5, root, folder)
        build = go(start_build(root, folder, environment | dying))
        build.communicate()
        killed += build.returncode == -signal.SIGKILL
        found = count_cached(ImageCache(SIDE, root=root))
        partial += 0 < found < count
        if found >= count:
            completed += 1
            assert_same_as_clean(root, folder)
            folders.clear_cache(root)
    return completed, partial


def assert_same_as_clean(root: Path, folder: Path) -> None:
    """Check that all images of the cache equal, byte for byte, those of one whose build was never killed."""
    paths = sorted(str(path) for path in folder.iterdir())
    clean, tried = ImageCache(SIDE, root=root.parent / "clean"), ImageCache(SIDE, root=root)
    assert clean.build(paths) == {}
    assert tried._find_missing(FileKeys(paths)) == []
    for path in paths:
        assert tried.image(path).tobytes() == clean.image(path).tobytes()
        assert tried.info(path) == clean.info(path)
    assert len(tried._index._names()) == len(list(tried.folder.glob("*.pictures")))  # none was damaged


def slow_images(folder: Path, count: int) -> None:
    for path in write_images(folder, count):
        shutil.move(path, folder / f"slow{Path(path).name}")


def check_killed_builds(tmp_path, root, kills, count):
    write_images(tmp_path / "images", count)
    environment = patched_reader(tmp_path / "patch")
    completed, partial = killed_builds(root, tmp_path / "images", environment, kills)
    assert partial >= kills // 3
    build = go(start_build(root, tmp_path / "images", environment))
    output, errors = build.communicate()
    assert output.endswith("problems 0\n") and errors == ""
    assert_same_as_clean(root, tmp_path / "images")
    return completed


def test_builds_killed_at_random_moments_resume_to_the_same_cache(tmp_path, root):
    check_killed_builds(tmp_path, root, kills=3, count=120)


@pytest.mark.slow
def test_builds_killed_at_fifty_random_moments_resume_to_the_same_cache(tmp_path, root):
    assert check_killed_builds(tmp_path, root, kills=50, count=150) >= 10


def wait_for(build: subprocess.Popen[str], images: int) -> None:
    """Wait until that many images are decoded."""
    for line in build.stdout or ():
        if line[0].isdigit() and int(line.split()[0]) >= images:
            break


def test_two_builds_at_once_share_the_work(tmp_path, root):
    slow_images(tmp_path / "images", 120)
    environment = patched_reader(tmp_path / "patch")
    builds = [start_build(root, tmp_path / "images", environment, workers=2) for _ in range(2)]
    for build in builds:
        go(build)
    for build in builds:
        output, errors = build.communicate(timeout=300)
        assert output.endswith("120 120\nproblems 0\n") and errors == ""
    assert count_cached(ImageCache(SIDE, root=root)) == 120
    assert_same_as_clean(root, tmp_path / "images")
    assert {path.suffix for path in ImageCache(SIDE, root=root).folder.iterdir()} == {".pictures"}


def test_a_chunk_of_another_run_is_left_to_it_while_it_is_alive(tmp_path, root):
    paths = write_images(tmp_path / "images", 20)
    images, reported = ImageCache(SIDE, root=root), []
    images.folder.mkdir(parents=True)
    build = threading.Thread(target=images.build, args=(paths, lambda *n: reported.append(n), 0))
    with ChunkLocks(images.folder, list).lock(paths[:8]) as chunk:
        assert chunk == paths[:8]
        build.start()
        while (12, 20) not in reported and build.is_alive():
            time.sleep(0.01)
        build.join(0.5)
        assert build.is_alive() and count_cached(images) == 12
    build.join(60)
    assert count_cached(images) == 20 and reported[-1] == (20, 20)


def test_stale_or_unsupported_locks_only_cost_time(tmp_path, root, monkeypatch):
    paths = write_images(tmp_path / "images", 20)
    images = ImageCache(SIDE, root=root)
    images.folder.mkdir(parents=True)
    monkeypatch.setattr(locks, "_PATIENCE", 0.3)
    with ChunkLocks(images.folder, list).lock(paths[:8]):
        assert images.build(paths, workers=0) == {}
    assert count_cached(images) == 20

    def unsupported(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
    folders.clear_cache(root)
    assert images.build(paths, workers=0) == {}
    assert count_cached(images) == 20


def test_ctrl_c_stops_at_once_and_quietly_and_keeps_what_is_finished(tmp_path, root):
    slow_images(tmp_path / "images", 400)
    build = go(start_build(root, tmp_path / "images", patched_reader(tmp_path / "patch")))
    wait_for(build, 20)
    os.killpg(build.pid, signal.SIGINT)
    output, errors = build.communicate(timeout=300)
    assert errors == ""
    assert output.endswith("stopped\n")
    assert 20 <= count_cached(ImageCache(SIDE, root=root)) < 400
    with pytest.raises(ProcessLookupError):
        os.killpg(build.pid, 0)


def test_an_error_in_the_progress_stops_the_build(tmp_path, root):
    paths = write_images(tmp_path / "images", 100)

    def broken(done: int, total: int) -> None:
        if done:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ImageCache(SIDE, root=root).build(paths, broken, workers=2)
    assert ImageCache(SIDE, root=root).build(paths, workers=0) == {}


def test_a_cache_cleared_during_a_build_harms_nothing(tmp_path, root):
    slow_images(tmp_path / "images", 60)
    build = go(start_build(root, tmp_path / "images", patched_reader(tmp_path / "patch")))
    while build.poll() is None:
        folders.clear_cache(root)
        time.sleep(0.02)
    output, errors = build.communicate()
    assert output.endswith("problems 0\n") and errors == ""
    assert_true_to(ImageCache(SIDE, root=root), sorted((tmp_path / "images").iterdir()))


def test_progress_is_reported_every_second(tmp_path, root):
    slow_images(tmp_path / "images", 60)
    build = go(start_build(root, tmp_path / "images", patched_reader(tmp_path / "patch"), workers=1))
    times, reported = [], []
    for line in build.stdout:
        if line.endswith(" 60\n"):
            times.append(time.monotonic())
            reported.append(int(line.split()[0]))
    build.communicate()
    assert reported == sorted(reported) and reported[-1] == 60 and len(set(reported)) > 5
    # Except for one moment in which the machine may have been busy.
    assert sorted(b - a for a, b in itertools.pairwise(times))[-2] < 1.5
