"""Whatever a tracker raises and however long it takes, training continues and a note names the failure."""

import threading
from pathlib import Path

import pytest

from xrayfast.tracking import worker
from xrayfast.tracking.trackers import TrackedRun
from xrayfast.tracking.worker import TrackerThread

RUN = TrackedRun("a", Path("a"), {})


class Recorded:
    """A tracker that records its calls, and calls `does` in one method."""

    def __init__(self, at="", does=None):
        self.told, self.at, self.does = [], at, does

    def __getattr__(self, name):
        def call(*arguments):
            self.told.append((name, *arguments))
            if name == self.at:
                self.does()

        return call


def fail():
    raise ConnectionError("no\nroute")


def leave():
    raise SystemExit(3)


def use(tracker, make=None):
    notes = []
    thread = TrackerThread("wandb", make or (lambda: tracker), notes.append)
    thread.start(RUN)
    for epoch in (1, 2):
        thread.call("log", {"a": 1.0}, epoch)
    thread.finish("completed", 5)
    return notes


def test_calls_arrive_in_order():
    tracker = Recorded()
    assert use(tracker) == []
    assert tracker.told == [("start", RUN), ("log", {"a": 1.0}, 1), ("log", {"a": 1.0}, 2), ("finish", "completed")]


@pytest.mark.parametrize("at", ["start", "log", "finish"])
@pytest.mark.parametrize(("does", "said"), [(fail, "ConnectionError: no route"), (leave, "SystemExit: 3")])
def test_a_failure_at_any_call_is_noted_once_and_ends_tracking(at, does, said):
    tracker = Recorded(at, does)
    [note] = use(tracker)
    assert note.startswith("wandb failed") and said in note and "training continues" in note
    assert [name for name, *_ in tracker.told].count(at) == 1 and tracker.told[-1][0] == at


def test_a_tracker_that_cannot_be_created_is_noted():
    [note] = use(None, make=fail)
    assert "no route" in note


def test_a_tracker_that_never_answers_is_abandoned(monkeypatch):
    monkeypatch.setattr(worker, "START_SECONDS", 0.01)
    never = threading.Event()
    notes = []
    thread = TrackerThread("mlflow", lambda: Recorded("start", never.wait), notes.append)
    thread.start(RUN)
    thread.call("log", {}, 1)
    thread.finish("completed", 0.01)
    never.set()
    assert ["not answered" in notes[0], "did not finish uploading" in notes[1]] == [True, True] and len(notes) == 2


def test_prints_of_a_tracker_are_not_output_of_the_command(capsys):
    use(Recorded("start", lambda: print("Welcome")))
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == "Welcome\n"
