"""The number of threads that torch uses on a busy machine."""

from __future__ import annotations

import pytest
import torch

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.cpus import THREADS_SET_BY_USER
from xrayfast.learning import threads
from xrayfast.learning.threads import FreeThreads
from xrayfast.progress import NullReporter


@pytest.fixture
def load(monkeypatch):
    """Return a function that sets how many of eight CPUs other processes use; torch has six threads."""
    for name in THREADS_SET_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "cpu_count", lambda: 8)
    now = {"others": 0.0}
    monkeypatch.setattr(threads.METER, "others", lambda: now["others"])
    monkeypatch.setattr(threads.METER, "describe", lambda: f"others use {now['others']}")
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield lambda others: now.update(others=others)
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("others", "expected"), [(0.0, 6), (1.9, 6), (2.4, 6), (3.0, 5), (6.6, 1), (8.0, 1), (12.0, 1)]
)
def test_no_more_threads_than_free_cpus_within_the_block(load, others, expected):
    load(others)
    with FreeThreads() as free:
        assert torch.get_num_threads() == expected
        assert bool(free.note) == (expected < 6)
        assert not free.note or f"{expected} thread" in free.note
    assert torch.get_num_threads() == 6


def test_the_number_follows_the_load(load):
    with FreeThreads() as free:
        load(7.0)
        assert free.choose()
        assert torch.get_num_threads() == 1
        assert not free.choose()
        load(0.0)
        assert free.choose()
        assert torch.get_num_threads() == 6
        assert free.note == ""


def test_a_container_with_fewer_cpus_gets_as_many_threads_without_a_note(load, monkeypatch):
    monkeypatch.setattr(threads, "cpu_count", lambda: 2)
    with FreeThreads() as free:
        assert torch.get_num_threads() == 2
        assert free.note == ""


@pytest.mark.parametrize("name", THREADS_SET_BY_USER)
def test_a_number_that_the_user_sets_is_kept(load, monkeypatch, name):
    monkeypatch.setenv(name, "6")
    load(8.0)
    with FreeThreads() as free:
        assert torch.get_num_threads() == 6
        assert not free.choose()


def test_training_follows_the_load_from_epoch_to_epoch_and_the_run_says_so(load, data_dir, tmp_path):
    used = []

    class BusyInTheSecondEpoch(NullReporter):
        def batch(self, *, split, epoch, **_):
            used.append((epoch, torch.get_num_threads()))

        def epoch(self, row, best):
            load(7.0 if row["epoch"] == 1 else 0.0)

    run = xf.fit(data_dir, runs=tmp_path, epochs=3, reporter=BusyInTheSecondEpoch(), **SMALL)
    assert set(used) == {(1, 6), (2, 1), (3, 6)}
    (remark,) = [remark for remark in run.info.remarks if "threads" in remark]
    assert remark.startswith("The number of threads followed the load of the machine from epoch 2 on.")
    assert "others use 7.0" in remark
    assert torch.get_num_threads() == 6
