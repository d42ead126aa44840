"""With a run from a stranger, a command succeeds or names the error; it neither hangs nor fills the memory."""

import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import TINY, StopAfter
from tests.faults.campaign import HANG, SEED, conclude, rounds, size_of
from tests.faults.hostile_runs import hostile_runs
from xrayfast.cli import app
from xrayfast.errors import Interrupted, XrayfastError

COUNT = size_of("runs", 100)
SECONDS, MEGABYTES = 60, 500
"""Limits of CPU time and of memory."""


@pytest.fixture(scope="module")
def interrupted(data_dir, tmp_path_factory):
    """A run that was interrupted in its second epoch."""
    with pytest.raises(Interrupted):
        xf.fit(
            xf.open_data(data_dir, test_fraction=0.2),
            runs=tmp_path_factory.mktemp("runs"),
            name="stopped",
            epochs=2,
            interrupted=StopAfter(5),
            **TINY,
        )
    return next(tmp_path_factory.getbasetemp().glob("runs*/stopped"))


def said(*words):
    """Return the exit code and the error output of a command."""
    done = CliRunner().invoke(app, list(map(str, words)), prog_name="xrayfast")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["completed", "interrupted"])
def test_every_command_succeeds_or_names_the_error(kind, tiny_run, interrupted, data_dir, tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    original = tiny_run.path if kind == "completed" else interrupted
    image = next(Path(data_dir).rglob("*.png"))
    commands = {
        "predict": lambda run: said("predict", run, image),
        "interpret": lambda run: said("interpret", run, "--saliency", 1),
        "evaluate": lambda run: said("evaluate", run),
        "evaluate on data": lambda run: said("evaluate", run, data_dir),
        "compare": lambda run: said("compare", run, tiny_run.path),
        "resume": lambda run: said("fit", "--resume", run),
        "load": lambda run: _load(run),
    }
    if kind == "interrupted":
        commands = {"resume": commands["resume"], "load": commands["load"]}
    for command in commands.values():  # imports and caches then count for no run
        command(shutil.copytree(original, tmp_path / "as it was"))
        shutil.rmtree(tmp_path / "as it was")
    for ended_timer in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(ended_timer, _too_long)
    wrong, errors, answers, done = [], 0, 0, 0
    runs = hostile_runs(original, tmp_path / "runs", COUNT, SEED)
    for _, (what, folder) in zip(rounds(COUNT), runs, strict=False):
        for name, command in commands.items():
            start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, HANG)
            try:
                code, error = command(folder)
            except BaseException as problem:
                wrong.append(f"{name}: {what}: {problem!r}"[:500])
                continue
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
            errors, answers = errors + (code != 0), answers + (code == 0)
            seconds, message = time.process_time() - start, error.strip()
            if "defect" in message or "Traceback" in message or len(message) > 5000 or (code and not message):
                wrong.append(f"{name}: {what}: {message[-300:]}")
            if seconds > SECONDS / 3:
                wrong.append(f"{name}: {what}: {seconds:.0f} s")
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
            if grown > MEGABYTES:
                wrong.append(f"{name}: {what}: {grown:.0f} MB more")
        shutil.rmtree(folder, ignore_errors=True)
        done += 1
    conclude(done, COUNT, f"{kind} runs ({errors} errors, {answers} answers)", wrong)


class TooLong(BaseException):
    """No command catches it as one of its own errors."""


def _load(run):
    try:
        xf.load(run)
    except XrayfastError as error:
        return 1, str(error)
    return 0, ""


def _too_long(*_):
    raise TooLong
