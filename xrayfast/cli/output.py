"""The one place that writes a command's output to the terminal.

With --json, standard output gets one JSON object and everything else goes to standard error.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from xrayfast.errors import format_cell
from xrayfast.errors.escapes import escape_hidden, is_hidden
from xrayfast.progress.terminal import TextOutput, open_console, styled

if TYPE_CHECKING:
    from rich.console import Console

_INTERVAL = re.compile(r"(?<=\d) (?=to [\d+−])|(?<=\d to) (?=[\d+−])")
"""The spaces within an interval such as 0.653 to 0.788."""

_GLUE = "\ue000"
"""Stands for a space at which no line is broken; of a private use, and one column wide."""


class Output(TextOutput):
    """Prints what a command reports."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    @property
    def console(self) -> Console:
        """The console for text: standard output, or standard error with --json."""
        return open_console(sys.stderr if self.as_json else sys.stdout)

    def done(self, what: str, where: object) -> None:
        """Print what was written and where."""
        self.console.print(styled(f"{what}: ", (str(where), "bold green")))

    def finding(self, severity: str, title: str, text: str) -> None:
        """Print a finding of `xrayfast check`, in the colour of its severity."""
        colour = {"leak": "bold red", "warning": "yellow"}.get(severity, "cyan")
        self.console.print(styled((f"{severity.capitalize()}: ", colour), (title, "bold"), f". {text}".rstrip()))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], text_columns: int = 1) -> None:
        """Print a table of cells as in `format_cell`; columns after the first `text_columns` are aligned right."""
        from rich.segment import Segments
        from rich.table import Table
        from rich.text import Text

        texts = [[escape_hidden(format_cell(cell)) for cell in row] for row in rows]

        def laid_out(edit: Callable[[str], str]) -> Table:
            table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
            for i, column in enumerate(columns):
                table.add_column(styled(column), justify="left" if i < text_columns else "right", overflow="fold")
            for row in texts:
                table.add_row(*(Text(edit(cell)) for cell in row))
            return table

        console = self.console
        console.soft_wrap = False
        # A line is broken within an interval only where there is no room for a whole one.
        table: Any = laid_out(lambda cell: _INTERVAL.sub(_GLUE, cell))
        if table.__rich_measure__(console, console.options).minimum > console.width:
            table = laid_out(str)
        segments = (segment._replace(text=segment.text.replace(_GLUE, " ")) for segment in console.render(table))
        console.print()
        # A table's own title would be wrapped to the width of its columns.
        console.print(styled((title, "bold")))
        console.print(Segments(segments))

    def json(self, content: Any) -> None:
        """Print the JSON object, with --json only."""
        if self.as_json:
            ascii_only = "utf" not in (sys.stdout.encoding or "utf").lower()
            text = json.dumps(content, ensure_ascii=ascii_only, allow_nan=False, default=str)
            # An escape of JSON is read back as the character itself, and means nothing to a terminal.
            sys.stdout.write("".join(json.dumps(c)[1:-1] if is_hidden(c) else c for c in text) + "\n")
            sys.stdout.flush()


def message(text: str) -> None:
    """Print a message that is no error to standard error; it may have several lines."""
    open_console(sys.stderr).print(*map(styled, text.split("\n")), sep="\n")


def warning(text: str) -> None:
    """Print a note to standard error."""
    open_console(sys.stderr).print(styled(("Note: ", "yellow"), text))


def error(text: str) -> None:
    """Print an error message to standard error; it may have several lines."""
    first, *others = text.split("\n")
    open_console(sys.stderr).print(styled(("Error: ", "bold red"), first), *map(styled, others), sep="\n")
