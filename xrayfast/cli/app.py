"""The Typer application, which turns exceptions into messages and exit codes."""

from __future__ import annotations

import atexit
import gc
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from xrayfast._version import __version__
from xrayfast.cli import output
from xrayfast.cli.loading import SUMMARIES, Commands
from xrayfast.errors import ConfigError, ConfigFileError, Interrupted, XrayfastError, describe_os_error, truncate
from xrayfast.errors.advice import advising_flags
from xrayfast.errors.environment import blame_environment, warn_of_unread_variables
from xrayfast.errors.escapes import escape_hidden, escape_lines, passing_warnings
from xrayfast.errors.signals import INTERRUPTED, handling_signals
from xrayfast.launch import is_rank_zero, require_alone
from xrayfast.progress.terminal import discard

FAILED, USAGE = 1, 2

_FOR_RANKS = ("fit", "cross-validate", "lr-find", "cache", "models")
"""Commands that may run on several ranks: they share the work, write nothing, or refuse with their own advice. With any
other command, each rank would do all of the work and write the same files.
"""

START_GC, GC_THRESHOLDS = (1_000_000, 20, 20), (100_000, 20, 20)
"""Arguments of `gc.set_threshold` before and after the first collection. With Python's defaults, collection takes a
tenth of the time of importing torch and fastai, whose nearly one million objects live as long as the process.
"""


class _Group(TyperGroup):
    """A group that lists commands without importing them, and turns exceptions into messages and exit codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = Commands()  # type: ignore[assignment]  # nothing is added to them

    def list_commands(self, ctx: Any) -> list[str]:
        return list(SUMMARIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return TyperCommand(cmd_name, help=SUMMARIES[cmd_name]) if cmd_name in SUMMARIES else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in SUMMARIES and name not in _FOR_RANKS:
            require_alone(f"{name} runs in one process")
        return name, name and command and self.commands[name], rest

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _escaped_usage_errors():
            return super().make_context(*args, **options)

    @advising_flags()
    def invoke(self, ctx: Any) -> Any:
        try:
            # Signals are handled from here on, because there is nothing to stop before.
            with handling_signals(), _escaped_usage_errors(), passing_warnings(output.warning):
                Path.cwd()  # an error if the folder was deleted, in which torch could not be imported either
                if is_rank_zero():
                    warn_of_unread_variables()
                return super().invoke(ctx)
        except (Interrupted, KeyboardInterrupt) as error:
            with suppress(OSError):  # the terminal was closed
                output.message(str(error) or "Stopped.")
            raise typer.Exit(getattr(error, "exit_code", INTERRUPTED)) from None
        except BrokenPipeError:
            discard(sys.stdout)  # Python would fail again when it flushes at exit
            raise typer.Exit(FAILED) from None
        except XrayfastError as error:
            is_usage = isinstance(error, ConfigError) and not isinstance(error, ConfigFileError)
            _show(ctx, error, self._with_flags(str(error), ctx.invoked_subcommand) if is_usage else str(error))
            raise typer.Exit(USAGE if is_usage else FAILED) from None
        except OSError as error:
            _show(ctx, error, escape_hidden(blame_environment(error) or describe_os_error(error)))
            raise typer.Exit(FAILED) from None
        except Exception as error:
            if type(error).__module__.startswith("typer") or type(error).__module__.startswith("click"):
                raise  # a usage error or a regular exit
            blamed = blame_environment(error)
            message = escape_hidden(blamed or f"Unexpected {type(error).__name__}: {error}")
            bug = "\nThis is a bug in xrayfast; 'xrayfast --debug ...' shows where."
            _show(ctx, error, message + bug * (not blamed))
            raise typer.Exit(FAILED) from None

    def _with_flags(self, message: str, command: str | None) -> str:
        """Replace the Python names of options in a message by their flags."""
        if command not in SUMMARIES:
            return message
        named: Any = self.commands[command]
        params = [param for one in getattr(named, "commands", {"": named}).values() for param in one.params]
        flags = {param.name: max(param.opts, key=len) for param in params if param.opts[0].startswith("-")}

        def flag(match: re.Match[str]) -> str:
            return str(flags.get(match[0], match[0]))

        message = re.sub(r"(?<![\w-])[a-z]+(_[a-z]+)+\b", flag, message)
        # A name that is also a word, such as size, is replaced only if the message states its value.
        return re.sub(r"(?m)(^|(?<=, and )|(?<=found ))[a-z]+2?(?= is | ends |: | and )", flag, message)


@contextmanager
def _escaped_usage_errors() -> Iterator[None]:
    """Print Typer's usage errors like all other errors, with hidden characters escaped and long text truncated.

    They quote the command line, in which a shell may have replaced `*` by arbitrary file names.
    """
    try:
        yield
    except Exception as error:
        if not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
            raise
        if isinstance(message := getattr(error, "message", None), str):
            from xrayfast.errors.arguments import expectation  # imports pydantic, which --help does not need

            bound = message.removeprefix("Input should be ")
            text = message if bound == message else f"expected {expectation({'msg': message})}."
            error.message = truncate(escape_hidden(text))  # type: ignore[attr-defined]
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "xrayfast"
        output.error(f"{error.format_message()}\n'{path} --help' lists the options.")
        raise typer.Exit(USAGE) from None


def _show(ctx: Any, error: BaseException, message: str) -> None:
    if ctx.params.get("debug"):
        sys.stderr.write(escape_lines("".join(traceback.format_exception(error))))
    output.error(truncate(message))


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, evaluate and report classifiers of chest radiographs.\n\n"
    "For research and teaching, not for diagnosis.",
    epilog="Start with: xrayfast synth data && xrayfast fit --labels data/labels.csv --weights none --unfreeze "
    "--size 64 && xrayfast interpret",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"xrayfast {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of `xrayfast` and `python -m xrayfast`."""
    gc.set_threshold(*START_GC)
    gc.callbacks.append(_collect_from_now_on)
    # matplotlib imports its 3D axes, which are not used here, but works without them.
    sys.modules["mpl_toolkits.mplot3d"] = None  # type: ignore[assignment]
    warnings.filterwarnings("ignore", "Unable to import Axes3D")
    # To look for plugins pydantic reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if os.environ.get("COLUMNS", "").strip("0") == "":
        os.environ.pop("COLUMNS", None)  # 0, as of some containers: rich would print nothing at all
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a pipe on Windows encodes only 256 characters
    exit_codes: list[int] = []
    atexit.register(_exit_at_once, exit_codes)  # runs last: handlers run in reverse order of registration
    try:
        app(prog_name="xrayfast")
    except SystemExit as end:
        if isinstance(end.code, int):
            exit_codes.append(end.code)
        raise


def _collect_from_now_on(phase: str, info: dict[str, int]) -> None:
    gc.callbacks.remove(_collect_from_now_on)
    gc.set_threshold(*GC_THRESHOLDS)


def _exit_at_once(exit_codes: list[int]) -> None:
    """End the process without Python's teardown of modules, which takes over 2 s with torch and fastai.

    `exit_codes` has the exit code, or nothing if `main` raised another exception, which Python then handles.
    """
    with suppress(OSError, ValueError):  # Python reports a stream that can't be flushed
        for stream in filter(None, (sys.stdout, sys.stderr)):  # a closed stream is None
            stream.flush()
        for code in exit_codes:
            os._exit(code)
