"""The commands put together, and the one place where an exception becomes a message and an exit code."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from xrayfast._version import __version__
from xrayfast.cli import output
from xrayfast.cli.loading import SUMMARIES, Commands
from xrayfast.errors import Interrupted, XrayfastError

FAILED, INTERRUPTED = 1, 130

COLLECTIONS = (100_000, 20, 20)
"""How seldom the process looks for garbage: torch and fastai are nearly a million objects that live as long as it
does, and to look through them at Python's own pace is a tenth of the time that their import takes.
"""


class _Group(TyperGroup):
    """Lists the commands without importing them, and turns what one raises into a message on standard error and an
    exit code.
    """

    def __init__(self, **of_typer: Any) -> None:
        super().__init__(**of_typer)
        self.commands = Commands()  # type: ignore[assignment]  # nothing is added to them

    def list_commands(self, ctx: Any) -> list[str]:
        return list(SUMMARIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return TyperCommand(cmd_name, help=SUMMARIES[cmd_name]) if cmd_name in SUMMARIES else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, name and command and self.commands[name], rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            output.error(str(error))
            raise typer.Exit(INTERRUPTED) from None
        except KeyboardInterrupt:
            output.error("Stopped.")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has gone, as `head` does; Python would complain once more on exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None
        except (XrayfastError, OSError) as error:
            _show(ctx, error, str(error))
            raise typer.Exit(FAILED) from None
        except Exception as error:
            if type(error).__module__.startswith("typer") or type(error).__module__.startswith("click"):
                raise  # a usage error, or the end of a command
            _show(
                ctx,
                error,
                f"Unexpected {type(error).__name__}: {error}\nThis is a defect of xrayfast; 'xrayfast --debug "
                "...' shows where.",
            )
            raise typer.Exit(FAILED) from None


def _show(ctx: Any, error: BaseException, message: str) -> None:
    if ctx.params.get("debug"):
        traceback.print_exception(error)
    output.error(message)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, measure and report classifiers of chest radiographs.\n\nFor research and teaching, not for diagnosis.",
    epilog="Start with: xrayfast synth data && xrayfast fit --weights none --unfreeze --size 64 && xrayfast interpret",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"xrayfast {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of `xrayfast` and `python -m xrayfast`."""
    gc.set_threshold(*COLLECTIONS)
    ended: list[int] = []
    atexit.register(_leave, ended)  # called after all that is registered from here on
    try:
        app(prog_name="xrayfast")
    except SystemExit as end:
        if isinstance(end.code, int):
            ended.append(end.code)
        raise


def _leave(ended: list[int]) -> None:
    """End the process with the exit code that is known by now, as mypy does: Python would first take all modules apart,
    which after torch and fastai takes over 2 s.
    """
    with suppress(OSError, ValueError):  # what can't be flushed is Python's to report
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed
            stream.flush()
        for code in ended:
            os._exit(code)
