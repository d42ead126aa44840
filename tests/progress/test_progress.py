"""Where progress is displayed, and that a failing display ends nothing."""

import os
import pty
import re
import signal
from contextlib import contextmanager, redirect_stdout, suppress

import pytest

import xrayfast as xf
from xrayfast.errors import ConfigError, Interrupted
from xrayfast.errors.escapes import warn
from xrayfast.errors.signals import Stopped
from xrayfast.progress import FoldReporter, ForgivingReporter, NullReporter, in_notebook, show_progress
from xrayfast.progress.displayed import FoldProgress
from xrayfast.progress.notebook import NotebookReporter
from xrayfast.progress.terminal import open_console

ROW = {"epoch": 1, "phase": "head", "train_loss": 0.5, "valid_loss": 0.25, "valid_accuracy": 0.75, "seconds": 3.0}
LINE = "epoch 1 (head)  train 0.500  valid 0.250  accuracy 0.750  3 s  *best\n"


def report(progress, **given):
    with show_progress(progress, **given) as reporter:
        reporter.note("a note")
        warn("a warning of --lr 0.1")
        reporter.epoch(ROW, True)
        return reporter


def test_a_script_whose_output_is_piped_shows_nothing_unless_asked(capsys):
    assert not in_notebook()
    for silent in (None, False):
        with pytest.warns(UserWarning) as warned:
            report(silent)
        assert [str(w.message) for w in warned] == ["a note", "a warning of lr=0.1"]
    assert capsys.readouterr().out == ""
    report(True)
    assert capsys.readouterr().out == f"Note: a note\nNote: a warning of lr=0.1\n{LINE}"


def test_a_stage_that_ends_before_its_first_line_is_due_gets_one_line(capsys):
    with show_progress(True) as reporter:
        for done in (0, 1, 2, 2):
            reporter.preparing("predicting", done, 2)
    assert capsys.readouterr().out == "  predicting: 2 of 2 images\n"


def test_only_rank_zero_shows_progress(capsys, monkeypatch):
    launch = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning) as warned:
        report(True)
    assert [str(w.message) for w in warned] == ["a warning of lr=0.1"]
    assert capsys.readouterr().out == ""


def read_all(screen):
    """Return what the terminal received since the last read."""
    text = b""
    with suppress(BlockingIOError):
        while part := os.read(screen, 10_000):
            text += part
    return text.decode()


@contextmanager
def terminal():
    """Make standard output a terminal, and yield its other end."""
    screen, stdout = pty.openpty()
    os.set_blocking(screen, False)
    with suppress(OSError), open(stdout, "w") as file, redirect_stdout(file):  # noqa: PTH123 - a descriptor
        yield screen


def test_a_terminal_shows_the_bar_of_the_command_line_unless_told_not_to(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as screen:
        report(None)
        shown = read_all(screen)
        with pytest.warns(UserWarning):
            report(False)
        assert read_all(screen) == ""
    assert "\x1b[?25l" in shown and LINE.strip() in shown and "a warning" in shown


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_terminal_that_is_closed_ends_nothing():
    with terminal() as screen, pytest.warns(UserWarning) as warned, show_progress() as reporter:
        os.close(screen)
        for _ in range(3):
            reporter.epoch(ROW, True)
        reporter.note("a note after it")
        warn("a warning after it")
    texts = [str(warning.message) for warning in warned]
    assert len(texts) == 2 and "the work continues without it: OSError" in texts[0] and texts[1] == "a warning after it"


def test_a_pipe_whose_reader_has_gone_ends_nothing():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as file, redirect_stdout(file):
        open_console(file).print("a line")
        report(True)


def test_a_signal_is_not_treated_as_a_failure_of_the_display():
    def stop(text):
        raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        ForgivingReporter(NullReporter(note=stop)).note("a note")


def test_python_handles_warnings_again_after_a_block_fails(capsys):
    with pytest.raises(Interrupted), show_progress(True):
        raise Interrupted("stopped")
    with pytest.warns(UserWarning, match="later"):
        warn("later")


def test_a_callable_gets_the_stages_and_a_reporter_everything(capsys):
    calls = []
    with show_progress(lambda *stage: calls.append(stage)) as reporter:
        reporter.preparing("decoding", 1, 2)
    assert calls == [("decoding", 1, 2)]
    own = NullReporter()
    with show_progress(reporter=own) as reporter:
        assert reporter is own
    with pytest.raises(ConfigError, match="progress and reporter"), show_progress(True, own):
        pass
    assert capsys.readouterr().out == ""


def test_public_functions_check_the_progress_argument():
    with pytest.raises(ConfigError, match="progress is 'loud'; expected a"):
        xf.check("data", progress="loud")


def folds_at(*epochs, statuses=("training", "training", "waiting")):
    """Return three folds of two epochs, with that many finished epochs each."""
    found = []
    for number, (count, status) in enumerate(zip(epochs, statuses, strict=True), 1):
        rows = tuple({**ROW, "epoch": epoch, "valid_accuracy": 0.5 + 0.1 * epoch} for epoch in range(1, count + 1))
        best = count or None
        found.append(FoldProgress(f"fold {number}", status, 2 if count else 0, rows, best, "valid_accuracy"))
    return found


def test_folds_trained_at_once_share_one_lasting_table_in_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as screen, show_progress(True) as forgiving:
        reporter = FoldReporter(forgiving)
        reporter.folds(folds_at(1, 0, 0))
        reporter.preparing("training folds", 3, 9)
        read_all(screen)
        reporter.folds(folds_at(2, 1, 0))
        read_all(screen)
        reporter.folds(folds_at(2, 2, 2, statuses=["done"] * 3))
        last = read_all(screen)
    last = re.sub(r"\x1b\[[\d;?]*\w", "", last)
    lines = [line.split() for line in last.splitlines()]
    assert ["fold", "epoch", "train", "loss", "valid", "loss", "accuracy", "best", "status"] in lines
    assert "fold 3  2 of 2       0.500       0.250     0.700  0.700 (epoch 2)  done" in last
    assert last.count("fold 1") == 1


def test_folds_trained_at_once_are_lines_in_a_log(capsys):
    with show_progress(True) as reporter:
        reporter.folds(folds_at(1, 0, 0))
        reporter.folds(folds_at(2, 0, 0, statuses=("done", "starting", "waiting")))
        reporter.folds(folds_at(2, 0, 0, statuses=("done", "starting", "waiting")))
    first = "  fold 1, epoch 1 (head)  train 0.500  valid 0.250  accuracy 0.600  3 s  *best\n"
    second = first.replace("epoch 1", "epoch 2").replace("0.600", "0.700")
    assert capsys.readouterr().out == f"{first}{second}  fold 1: done\n"


def test_folds_trained_at_once_are_a_table_in_a_notebook():
    reporter, shown = NotebookReporter(), []
    reporter.handle = type("Handle", (), {"update": lambda self, bundle, raw: shown.append(bundle["text/html"])})()
    reporter.folds(folds_at(2, 1, 0))
    assert shown[-1].count("<tr") == 4 and "<td" in shown[-1] and ">1 of 2<" in shown[-1] and ">waiting<" in shown[-1]


def test_a_reporter_without_a_method_for_folds_is_accepted(capsys):
    class Own:
        note = preparing = phase = batch = epoch = print

    own = FoldReporter(ForgivingReporter(Own()))
    own.folds(folds_at(1, 0, 0))
    own.note("a note")
    assert capsys.readouterr().out == "a note\n"
