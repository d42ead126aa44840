from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.data.cache.image_files import SIDE, count_cached, patched_reader, write_images
from xrayfast.cpus import cpu_count
from xrayfast.data.cache import decode_pool
from xrayfast.data.cache.decode_pool import decode_all
from xrayfast.data.cache.decode_worker import Job
from xrayfast.data.cache.image_cache import ImageCache, UncachedImages
from xrayfast.errors import ConfigError, DataError


@pytest.fixture
def reader_by_name(tmp_path, monkeypatch):
    """In processes started from here, the reader does what the name of a file says."""
    for name, value in patched_reader(tmp_path / "patch").items():
        monkeypatch.setenv(name, value)


def named(paths: list[str], *names: str) -> list[str]:
    """Return copies of the first image with other names."""
    copies = [str(Path(paths[0]).with_name(f"{name}.png")) for name in names]
    for copy in copies:
        shutil.copy(paths[0], copy)
    return copies


@pytest.mark.usefixtures("reader_by_name")
def test_a_file_that_kills_two_processes_is_named_and_all_others_are_built(tmp_path):
    paths = write_images(tmp_path / "images", 30)
    lethal, once = named(paths, "lethal", "once")
    images = ImageCache(SIDE, root=tmp_path / "cache")
    problems = images.build([*paths, lethal, once], workers=2)
    assert list(problems) == [lethal]
    assert problems[lethal].startswith(f"{lethal}: decoding it killed the process twice (SIGSEGV).")
    assert Path(once + ".seen").exists()
    assert count_cached(images) == 31
    assert list(UncachedImages(SIDE).build([lethal], workers=1)) == [lethal]


@pytest.mark.usefixtures("reader_by_name")
def test_processes_that_keep_dying_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_pool, "_MAX_DEATHS", 2)
    paths = write_images(tmp_path / "images", 2)
    lethal = named(paths, *(f"lethal{i}" for i in range(9)))
    with pytest.raises(
        DataError, match=r"processes that decode images died, the last one \(SIGSEGV\) while it read .*lethal"
    ):
        ImageCache(SIDE, root=tmp_path / "cache").build(paths + lethal, workers=1)


@pytest.mark.usefixtures("reader_by_name")
def test_output_and_tracebacks_of_decoders_are_hidden(tmp_path, capfd):
    paths = write_images(tmp_path / "images", 3)
    noisy, defect = named(paths, "noisy", "defect")
    problems = ImageCache(SIDE, root=tmp_path / "cache").build([*paths, noisy, defect], workers=1)
    assert problems == {defect: f"{defect}: can't be decoded (KeyError). Check or convert the file."}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/false"])
def test_threads_decode_if_no_process_can_be_started(tmp_path, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    paths = write_images(tmp_path / "images", 20)
    images = ImageCache(SIDE, root=tmp_path / "cache")
    assert images.build(paths, workers=2) == {}
    assert count_cached(images) == 20


@pytest.mark.usefixtures("reader_by_name")
def test_nothing_is_left_running(tmp_path, monkeypatch):
    started, before = [], threading.active_count()

    def start(*args, real=subprocess.Popen, **kwargs):
        started.append(real(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(decode_pool.subprocess, "Popen", start)
    paths = write_images(tmp_path / "images", 20)
    job = Job(SIDE, "auto", None)
    outcomes = decode_all(job, [paths[:10], paths[10:]], 2)
    while next(outcomes) is None:
        pass
    outcomes.close()
    with pytest.raises(ConfigError):
        list(decode_all(job, [named(paths, "unknown")], 1))
    assert threading.active_count() == before
    assert all(process.returncode is not None for process in started)


def test_the_pool_waits_for_chunks_of_another_run(tmp_path):
    paths = write_images(tmp_path / "images", 4)
    free = threading.Event()
    start = time.monotonic()
    threading.Timer(0.5, free.set).start()

    @contextlib.contextmanager
    def claim(chunk):
        if chunk == paths[:2]:
            yield [] if free.is_set() else None
        else:
            yield chunk[1:]

    outcomes = [outcome for outcome in decode_all(Job(SIDE, "auto", None), [paths[:2], paths[2:]], 0, claim) if outcome]
    assert time.monotonic() - start >= 0.5
    assert sorted(outcome.path for outcome in outcomes) == paths
    assert [outcome.path for outcome in outcomes if outcome.info] == [paths[3]]


def test_cpus_are_counted():
    assert cpu_count() >= 1
