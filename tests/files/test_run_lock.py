"""Only one process at a time writes to a run."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import psutil
import pytest

from xrayfast.errors import RunError, WriteError
from xrayfast.files import run_lock
from xrayfast.files.run_lock import lock_output, lock_run

HOLD = """
import sys
from pathlib import Path
from xrayfast.files.run_lock import lock_run
with lock_run(Path(sys.argv[1]), print):
    print("held", flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)


@pytest.fixture(params=["flock", "msvcrt", "none"])
def system(request, monkeypatch):
    """POSIX; Windows, whose byte locks POSIX has too; and a system without file locks."""
    if request.param == "flock":
        return request.param
    posix = run_lock.fcntl
    monkeypatch.setattr(run_lock, "fcntl", None)
    if request.param == "none":
        monkeypatch.setattr(run_lock, "msvcrt", None)
        return request.param

    def locking(descriptor, mode, size):
        assert (mode, size, os.lseek(descriptor, 0, os.SEEK_CUR)) == (2, 1, run_lock._LOCKED_BYTE)
        try:
            posix.flock(descriptor, posix.LOCK_EX | posix.LOCK_NB)
        except OSError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    monkeypatch.setattr(run_lock, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    return request.param


def refused(folder):
    with pytest.raises(RunError) as caught, lock_run(folder, pytest.fail):
        pass
    return str(caught.value)


def stale(folder, **fields):
    """Write the lock of a child process that has ended, and return its pid."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder = json.loads(run_lock._Holder.this_process().model_dump_json()) | {"pid": ended.pid, "start": 1e9}
    (folder / "run.lock").write_text(json.dumps(holder | fields))
    return ended.pid


def test_a_second_writer_is_refused_by_name_and_the_lock_is_released_after_its_block(system, tmp_path):
    with lock_run(tmp_path, pytest.fail):
        message = refused(tmp_path)
        assert f"process {os.getpid()} on {run_lock.platform.node()} since 20" in message and "pytest" in message
        assert message.startswith(f"{tmp_path}: another process is writing") and "Wait for it to finish" in message
        assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    assert not list(tmp_path.iterdir())
    with lock_run(tmp_path, pytest.fail):
        pass


def test_the_lock_of_a_dead_process_on_this_host_is_taken_over_with_a_note(system, tmp_path):
    pid, notes = stale(tmp_path), []
    with lock_run(tmp_path, notes.append):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
        refused(tmp_path)
    assert len(notes) == 1 and f"ended before it was finished (process {pid} on " in notes[0]
    assert not list(tmp_path.iterdir())


def test_a_lock_of_another_host_is_refused_with_what_to_remove(system, tmp_path):
    pid = stale(tmp_path, host="node7")
    message = refused(tmp_path)
    assert f"process {pid} on node7 since " in message
    assert message.endswith(f"Check on node7 whether it is still running; if not, remove {tmp_path / 'run.lock'}.")


def test_without_file_locks_a_process_is_identified_by_its_pid_and_start_time(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    stale(tmp_path, pid=os.getpid(), start=psutil.Process().create_time())
    assert "another process is writing" in refused(tmp_path)
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    for pid in (os.getpid(), zombie.pid):  # another process with the same pid
        notes = []
        stale(tmp_path, pid=pid, start=2e9)
        with lock_run(tmp_path, notes.append):
            pass
        assert len(notes) == 1
    zombie.wait()
    (tmp_path / "run.lock").write_text("")
    assert refused(tmp_path).endswith("does not identify a process. If no process is writing to this run, remove it.")


def test_only_one_of_many_processes_takes_over_a_stale_lock(system, tmp_path):
    stale(tmp_path)
    start, inside, most, got = threading.Barrier(8), [], [], []

    def run():
        start.wait()
        try:
            with lock_run(tmp_path, lambda note: None):
                inside.append(1)
                most.append(len(inside))
                got.append(start.n_waiting)
                done.wait(60)
                inside.pop()
        except RunError:
            refusals.append(1)
            if len(refusals) == 7:
                done.set()

    done, refusals = threading.Event(), []
    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert max(most) == 1 and len(refusals) == 7


def test_a_lock_file_that_is_removed_while_it_is_opened_is_created_again(tmp_path, monkeypatch):
    first, opened = lock_run(tmp_path, pytest.fail), run_lock._open
    first.__enter__()

    def open_and_release(path):
        found = opened(path)
        monkeypatch.undo()
        first.__exit__(None, None, None)
        return found

    monkeypatch.setattr(run_lock, "_open", open_and_release)
    with lock_run(tmp_path, pytest.fail):
        assert (tmp_path / "run.lock").is_file()
        refused(tmp_path)


def test_a_killed_process_s_lock_is_free_at_once_though_its_forked_child_lives(tmp_path):
    fork = "    import os\n    if os.fork() == 0: os.close(1); input(); os._exit(0)\n"
    code = HOLD.replace("    print(", fork + "    print(")
    held = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert held.stdout.readline() == b"held\n"
    assert f"process {held.pid} on " in refused(tmp_path)
    held.send_signal(signal.SIGKILL)
    held.stdout.read()
    notes = []
    with lock_run(tmp_path, notes.append):  # returns without waiting
        pass
    assert len(notes) == 1
    held.stdin.close()
    held.wait()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_file_that_is_no_lock_file_is_left_alone(kind, tmp_path):
    path, other = tmp_path / "run.lock", tmp_path / "other"
    other.write_text("mine")
    {"link": lambda: path.symlink_to(other), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    with pytest.raises(WriteError, match=r"run\.lock: can't be written"), lock_run(tmp_path, pytest.fail):
        pass
    assert other.read_text() == "mine"


def test_a_missing_folder_is_no_run(tmp_path):
    with pytest.raises(RunError, match="no such run"), lock_run(tmp_path / "gone", pytest.fail):
        pass


def test_the_folder_of_an_output_is_locked_and_removed_if_it_is_new_and_stays_empty(tmp_path):
    with lock_output(tmp_path / "a" / "b") as folder:
        with pytest.raises(RunError, match=r"another process is writing to this folder .*Wait"), lock_output(folder):
            pass
        with lock_run(folder, pytest.fail):  # a run's lock is another
            pass
    assert not folder.exists()
    folder.mkdir()
    with lock_output(str(folder)) as again:
        (again / "x").touch()
    with lock_output(None) as none:
        assert none is None
    assert [path.name for path in folder.iterdir()] == ["x"]


def test_a_command_that_is_not_utf_8_holds_a_lock_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "\udcff.py", "a\nb"])
    with lock_run(tmp_path, print):
        assert json.loads((tmp_path / "run.lock").read_text())["command"] == r"python '\xff.py' 'a\nb'"
