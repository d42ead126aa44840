"""Control characters and other hidden characters in names are escaped in terminals and pages."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

from xrayfast.cli import app, output
from xrayfast.cli.app import _show as show_error
from xrayfast.cli.output import Output
from xrayfast.errors import DataError, RunError
from xrayfast.errors.escapes import escape_hidden, escape_lines, is_hidden
from xrayfast.progress.terminal import LiveReporter

# Window title, color, C1 color, fake message, reversed suffix, and characters without width or ink.
NASTY = "a\x1b]0;b\x07\x1b[31m\x9b32m\nNote: c\r\u202egpj\u2066\u200b\u2028\u3164\ufeff.png"
SHOWN = r"a\x1b]0;b\x07\x1b[31m\x9b32m\nNote: c\r\u202egpj\u2066\u200b\u2028\u3164\ufeff.png"


def test_hidden_characters_are_escaped_and_the_others_stay():
    assert escape_hidden(NASTY) == SHOWN
    plain = "Zähne/胸部 −0.5\u00a0mm\u2009é e\u0301 🩻 C:\\new\\x1b.png [red]"
    assert escape_hidden(plain) == plain
    assert escape_hidden("\udcff\udc80\ud800") == r"\xff\x80\ud800"
    assert escape_lines("a\x00\nb\u202e") == "a\\x00\nb\\u202e"


@given(st.text())
def test_escaped_text_has_nothing_hidden_and_is_not_escaped_again(text):
    shown = escape_hidden(text)
    assert not any(map(is_hidden, shown))
    assert escape_hidden(shown) == shown


def test_names_add_no_lines_to_a_message():
    error = DataError(f"{NASTY}: can't be read.", "and 2 more")
    assert str(error) == f"{SHOWN}: can't be read.\nand 2 more"
    assert str(RunError(f"{error.args[0]} Again.")) == f"{SHOWN}: can't be read. Again."


class Terminal(io.StringIO):
    """A wide terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Make standard output and error one wide terminal, without rich's own colors, and return it."""

    def attach():
        stream = Terminal()
        for name, value in {"COLUMNS": "300", "TERM": "xterm-256color", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return attach


def test_everything_that_is_printed_is_escaped_and_no_markup_is_interpreted(terminal):
    name, shown = f"{NASTY}:x:[red]", f"{SHOWN}:x:[red]"
    stream, out = terminal(), Output()
    out.line(name)
    out.note(name)
    out.done("Report", Path(name))
    out.finding("leak", name, name)
    out.table(name, [name, "b"], [(name, 1.0)])
    output.message(str(DataError(name)))
    output.error(str(DataError(name, name)))
    text = stream.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert not any(map(is_hidden, text.replace("\n", "")))
    assert text.count(shown) == 11


def test_progress_is_escaped_too(terminal):
    stream, reporter = terminal(), LiveReporter(Output())
    reporter.progress = Progress(console=Console(file=stream, width=300))
    reporter.note(f"{NASTY}:x:[red]")
    assert f"Note: {SHOWN}:x:[red]\n" in stream.getvalue()


def test_json_for_a_terminal_reads_back_as_it_was(terminal, monkeypatch):
    content = {"file": NASTY + "é\U000e0041"}
    stream = terminal()
    Output(as_json=True).json(content)
    line = stream.getvalue()
    assert not any(map(is_hidden, line.rstrip("\n"))) and "é" in line
    assert json.loads(line) == content
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    Output(as_json=True).json(content)
    assert json.loads(stream.buffer.getvalue()) == content


@pytest.mark.parametrize(
    "words",
    [["check", NASTY], ["nothing" + NASTY], ["--\x1b[31m"], ["models", "--\x1b[31m"], ["fit", "--config", NASTY]],
)
def test_messages_about_the_command_line_are_escaped(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["--debug", *words] if words[0] == "check" else words)
    assert done.exit_code in (1, 2)
    assert r"\x1b[31m" in done.output.replace("\n", "").replace(" ", "")
    assert not any(map(is_hidden, done.output.replace("\n", "")))


def test_a_message_of_several_lines_has_them_in_the_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = CliRunner().invoke(app, ["check", "no\nwhere"]).stderr.splitlines()
    assert lines[0] == r"Error: no\nwhere: found no such folder. Expected one of" and len(lines) == 5
    assert lines[1].startswith(r"    no\nwhere/CLASS/*.png")


def test_an_output_of_few_characters_is_no_error(tmp_path):
    """Like a pipe on Windows, whose encoding has few characters."""
    words = [sys.executable, "-m", "xrayfast", "synth", "\u80f8", "--images", "6", "--size", "64"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0 and r"Data: \u80f8" in done.stdout


OURS = """
from contextlib import contextmanager
from xrayfast.errors.escapes import warn

@contextmanager
def block():
    yield
    warn("found x")

def call():
    with block():
        pass
"""


def test_a_warning_points_at_the_line_of_the_user_s_own():
    """This includes warnings at the end of a `with` block, whose frame is in the standard library."""
    ours = {"__name__": "xrayfast.somewhere"}
    exec(OURS, ours)
    with pytest.warns(UserWarning, match="found x") as caught:
        ours["call"]()
    assert caught[0].filename == __file__


def test_a_traceback_is_escaped(capsys):
    show_error(SimpleNamespace(params={"debug": True}), ValueError(NASTY), "said")
    text = capsys.readouterr().err
    assert text.endswith("Error: said\n") and not any(map(is_hidden, text.replace("\n", "")))
