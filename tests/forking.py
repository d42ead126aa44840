"""Start Python commands as forks of this process, with its imports: importing torch and fastai takes ten seconds.

This is for tests of what a command does. Tests of imports or of the interpreter's start need a new process.
"""

import asyncio
import gc
import importlib
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

from _pytest.assertion.rewrite import AssertionRewritingHook

# OpenMP's threads do not survive a fork, nor do some of macOS's libraries.
FORKS = sys.platform == "linux" and os.environ.get("OMP_NUM_THREADS") == "1"


def popen(words, env=None, **options):
    """Run `subprocess.Popen` on `words`, a Python command with -m MODULE or -c CODE and its arguments."""
    if not FORKS:
        return subprocess.Popen(words, env=env, **options)
    files = _open_files()
    return subprocess.Popen(words, preexec_fn=lambda: _run(list(words), env, files), **options)


def run(words, env=None, timeout=300, **options):
    """Run a command as `popen` does and wait for its end; return the result with its outputs as text."""
    with popen(words, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def _open_files():
    return {int(path.name) for path in list(Path("/proc/self/fd").iterdir()) if path.is_symlink()}  # not this list's


def _run(words, env, files):
    """Run the command in the forked process, after Popen has set its files, folder and session."""
    code = 1
    try:
        _become_a_new_process(env, files)
        while words[0] not in ("-m", "-c"):  # the interpreter and its options
            del words[0]
        flag, main, *arguments = words
        sys.argv = [flag, *arguments]
        if flag == "-m":
            sys.modules.pop(main, None)
            runpy.run_module(main, run_name="__main__", alter_sys=True)
        else:
            exec(compile(main, "<string>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # skips torch's 3 s of cleanup


def _become_a_new_process(env, files):
    for number in _open_files() - files:  # Popen waits for one of them to close
        os.close(number)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    gc.enable()  # Popen disables it
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, AssertionRewritingHook)]
    importlib.reload(warnings)  # pytest keeps them for itself
    asyncio.set_event_loop(asyncio.new_event_loop())  # the loop of this thread may be running in the other process
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    sys.path[:0] = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
