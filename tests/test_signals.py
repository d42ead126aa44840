"""SIGTERM, SIGHUP and SIGUSR1 stop a program like Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest

from xrayfast.errors import signals
from xrayfast.errors.signals import STOP_SIGNALS, Stopped, StopRequest, handling_signals, raise_stopped


@pytest.fixture(autouse=True)
def _restore_handlers():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 143)])
def test_signals_raise_like_ctrl_c_and_handlers_are_restored(number, code):
    with pytest.raises(KeyboardInterrupt) as caught, handling_signals():
        os.kill(os.getpid(), number)
    assert (str(caught.value), caught.value.exit_code) == (f"Stopped by {number.name}.", code)
    assert [signal.getsignal(n) for n in STOP_SIGNALS] == [signal.default_int_handler, *[signal.SIG_DFL] * 3]


def test_an_uncaught_signal_ends_python_with_its_code_and_no_traceback():
    script = "import os\nfrom xrayfast.errors.signals import handling_signals\nwith handling_signals():\n try:\n"
    script += "  os.kill(os.getpid(), 15)\n finally: print('cleaned up')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "cleaned up\n", "")


@pytest.mark.slow
def test_a_signal_swallowed_by_a_bare_except_is_repeated():
    with pytest.raises(Stopped) as caught, handling_signals():
        for _ in range(3):
            with suppress(BaseException):
                os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    with handling_signals():
        del caught
        time.sleep(0.1)  # the signal is not repeated in another block once the exception is gone


def test_the_first_signal_requests_a_stop_and_the_second_interrupts():
    stop = StopRequest()
    with stop.listening():
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and stop.exit_code == 143
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert type(caught.value) is KeyboardInterrupt
    with pytest.raises(Stopped), handling_signals(), StopRequest().listening():  # inside the handlers of a command
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)


def test_a_forwarded_signal_counts_once(monkeypatch):
    """torchrun and timeout forward a signal that the whole process group got. A second Ctrl-C is a second signal."""
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and stop.exit_code == 143
        monkeypatch.setattr(signals, "SENT_TWICE", 0.0)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt), StopRequest().listening():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swallowed_signal_interrupts_at_the_end(number):
    stop, after = StopRequest(), []
    with pytest.raises(KeyboardInterrupt), handling_signals(), stop.interrupting():
        with suppress(BaseException):
            os.kill(os.getpid(), number)
            after.append("not reached")
        after.append("the rest")
    assert after == ["the rest"] and stop() and stop.exit_code == 128 + number


def test_ignored_signals_and_the_program_s_own_handlers_stay():
    own = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    signal.signal(signal.SIGTERM, lambda *_: own.append(1))
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
    assert own == [1] and not stop()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_in_another_thread_nothing_changes():
    seen = []

    def look():
        with handling_signals():
            seen.append([signal.getsignal(number) is raise_stopped for number in STOP_SIGNALS])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [[False] * len(STOP_SIGNALS)]


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")
def test_a_child_ends_with_its_parent_by_sigkill_too():
    script = (
        "import subprocess, sys, time\n"
        "from xrayfast.errors.signals import ending_with_parent\n"
        "words = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "print(subprocess.Popen(words, **ending_with_parent()).pid, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    limit = time.monotonic() + 120
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_the_first_signal_is_only_recorded_by_a_block_within_an_interrupting_one():
    """As while a network of a fold or of a run with several networks is trained."""
    outer, inner = StopRequest(), StopRequest()
    with handling_signals(), outer.interrupting(), inner.listening():
        signal.raise_signal(signal.SIGTERM)
    assert inner() and inner.exit_code == 143 and not outer()
