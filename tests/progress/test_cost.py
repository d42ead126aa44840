"""The display takes less than a hundredth of the time: the number of updates times the cost of one.

`pytest -s tests/progress/test_cost.py` prints the shares.
"""

import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from tests.test_escapes import Terminal
from xrayfast.learning.training.callbacks import progress as batch_progress
from xrayfast.learning.training.callbacks.progress import BatchProgress
from xrayfast.learning.training.phases import Phase
from xrayfast.progress import NullReporter, notebook
from xrayfast.progress.notebook import NotebookReporter
from xrayfast.progress.terminal import LiveReporter, PlainReporter, TextOutput

SHARE = 0.01
BATCH, BATCHES = 0.01, 6000
"""Seconds per batch, as for a small network on a GPU, and batches in an epoch of one minute."""

BATCH_REPORT = {"split": "train", "done": 3, "total": BATCHES, "epoch": 60, "loss": 0.5, "images": 96, "seconds": 1.0}
ROW = {"phase": "all layers", "train_loss": 0.5, "valid_loss": 0.4, "seconds": 60.0}
ROW |= {f"valid_{name}": 0.9 for name in ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "ap_macro")}


class Clock:
    """A clock that is advanced by hand."""

    now = 100.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


def progress_of(reporter):
    """Return the callback that reports batches, in an epoch that does nothing else."""
    callback = BatchProgress(reporter, 0, alone=True)
    recorder = SimpleNamespace(smooth_loss=SimpleNamespace(count=1, value=0.5))
    callback.learn = SimpleNamespace(recorder=recorder, yb=(range(32),), training=True, epoch=0, n_iter=BATCHES, iter=0)
    callback.before_train()
    return callback


def notebook_of(epochs=60):
    """Return the display of a long run, and a list of the lengths of its updates."""
    reporter, updates = NotebookReporter(), []
    reporter.handle = SimpleNamespace(update=lambda bundle, raw: updates.append(len(bundle["text/html"])))
    reporter.phase(Phase("all layers", epochs, 0, (1e-3,)))
    for epoch in range(1, epochs):
        reporter.epoch(ROW | {"epoch": epoch}, epoch == 5)
    updates.clear()
    return reporter, updates


def cost(function):
    """Return the CPU seconds of a call in this thread: the minimum of many, to exclude other work of the machine."""
    found = []
    for _ in range(100):
        began = time.thread_time()
        function()
        found.append(time.thread_time() - began)
    return min(found)


def test_batches_are_reported_ten_times_and_displayed_twice_per_second(monkeypatch):
    clock, (reporter, updates), reports = Clock(), notebook_of(), []
    for module in (batch_progress, notebook):
        monkeypatch.setattr(module, "time", clock)
    reporter.updated = clock.now
    display = reporter.batch
    monkeypatch.setattr(reporter, "batch", lambda **report: (reports.append(report), display(**report)))
    callback = progress_of(reporter)
    for i in range(BATCHES):
        clock.now += BATCH
        callback.learn.iter = i
        callback.after_batch()
    seconds = BATCH * BATCHES
    assert seconds * 5 < len(reports) <= seconds * 10 + 1
    assert seconds < len(updates) <= seconds * 2 + 1
    assert max(updates) < 60_000  # characters: a long run does not send more


def test_progress_costs_less_than_a_hundredth(monkeypatch):
    silent = progress_of(NullReporter())
    monkeypatch.setattr(batch_progress, "SECONDS_BETWEEN_REPORTS", 1e9)
    per_batch = cost(silent.after_batch) / BATCH
    reporter, updates = notebook_of()

    def display():
        reporter.updated = -1e9
        reporter.batch(**BATCH_REPORT)

    shares = {"notebook": per_batch + 10 * cost(lambda: reporter.batch(**BATCH_REPORT)) + 2 * cost(display)}
    assert len(updates) >= 100
    live, terminal = LiveReporter(TextOutput()), Terminal()
    columns = live.progress.columns
    live.progress = Progress(*columns, console=Console(file=terminal, width=120, force_terminal=True))
    live.name = "all layers"
    shares["terminal"] = per_batch + 10 * cost(lambda: live.batch(**BATCH_REPORT)) + 4 * cost(live.progress.refresh)
    plain = PlainReporter(TextOutput())
    shares["log"] = per_batch + 10 * cost(lambda: plain.batch(**BATCH_REPORT))
    print({name: f"{share:.2%}" for name, share in shares.items()})
    assert shares == pytest.approx(dict.fromkeys(shares, 0), abs=SHARE)
