"""Commands in their own processes, ended by a job scheduler, a user or a closed terminal."""

import os
import signal
import subprocess
import sys
import time

import pytest

from xrayfast.runs.run import Run

COMMAND = [sys.executable, "-m", "xrayfast"]
FIT = ["--weights", "none", "--size", "32", "--batch-size", "8", "--device", "cpu", "--precision", "fp32"]
FIT += ["--epochs", "60", "--name", "r"]


def start(*words, before="", **options):
    script = ["sh", "-c", f'{before} exec "$@"', "sh", *COMMAND, *map(str, words)]
    return subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for(path, process):
    deadline = time.monotonic() + 300
    while not list(path.parent.glob(path.name)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()


def test_a_terminated_command_leaves_nothing_half_done(at):
    process = start("synth", "data", "--images", "5000", "--size", "256")
    wait_for(at / "*data*", process)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=300)[1]
    assert (process.returncode, err) == (143, "Stopped by SIGTERM.\n")
    assert not list(at.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_job_is_terminated_with_all_its_processes(at, data_dir, number, code, workers):
    process = start("fit", data_dir, *FIT, "--unfreeze", "--workers", workers, start_new_session=True)
    wait_for(at / "runs" / "r" / "history.csv", process)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in out + err
    assert err.startswith("Stopped after ") and err.endswith("Resume with: xrayfast fit --resume runs/r\n")
    assert Run("runs/r").info.status == "interrupted"
    assert not (at / "runs" / "r" / "run.lock").exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.slow
def test_nohup_keeps_a_run_alive(at, data_dir):
    process = start("fit", data_dir, *FIT, before="trap '' HUP;")
    wait_for(at / "runs" / "r" / "history.csv", process)
    process.send_signal(signal.SIGHUP)
    epochs, deadline = len(Run("runs/r").history), time.monotonic() + 120
    while process.poll() is None and len(Run("runs/r").history) <= epochs and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None and len(Run("runs/r").history) > epochs
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 143


@pytest.mark.slow
def test_a_run_ends_when_its_terminal_is_closed(at, data_dir):
    main, side = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, "fit", str(data_dir), *FIT], stdin=side, stdout=side, stderr=side, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(side)
    history = at / "runs" / "r" / "history.csv"
    os.set_blocking(main, False)
    deadline = time.monotonic() + 300
    while not history.exists() and process.poll() is None and time.monotonic() < deadline:
        try:
            os.read(main, 65536)
        except BlockingIOError:
            time.sleep(0.05)
    os.close(main)
    assert process.wait(120) == 129
    assert Run("runs/r").info.status == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "written"),
    [
        (("check", "{data}", "--size", "64", "-o", "out"), "out"),
        (("predict", "{run}", *["{data}"] * 1, "-o", "out.csv"), "out.csv"),
        (("evaluate", "{run}", "--resamples", "200000", "--name", "x"), None),
        (("lr-find", "{data}", "--weights", "none", "--steps", "4000", "-o", "out"), "out.png"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("seconds", [0.5, 3, 9])
def test_every_command_ends_with_one_line_and_without_half_a_file(at, data_dir, tiny_run, words, written, seconds):
    evaluations = tiny_run.path / "evaluations"
    before = set(evaluations.glob("*"))
    process = start(*(word.format(data=data_dir, run=tiny_run.path) for word in words))
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=300)[1]
    if process.returncode == -signal.SIGTERM:  # before the first line of Python ran
        assert seconds < 1
        return
    if process.returncode in (0, 1) and seconds >= 3:
        pytest.skip("it was faster")
    assert process.returncode == 143, err
    assert err.endswith("Stopped by SIGTERM.\n") and "Traceback" not in err
    assert set(evaluations.glob("*")) == before
    assert not list(at.rglob("*.tmp"))
    if written:
        assert not (at / written).exists() or not list((at / written).glob("*"))
