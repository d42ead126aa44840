"""Writes the output of commands to the terminal.

With --json, standard output gets one JSON object, and all other output goes to standard error.
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
"""The spaces in an interval such as 0.653 to 0.788."""

_GLUE = "\ue000"
"""Placeholder for a space at which lines are not broken: a private-use character, one column wide."""


class Output(TextOutput):
    """The output of one command."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    @property
    def console(self) -> Console:
        """The console for text, on standard output or, with --json, on standard error."""
        return open_console(sys.stderr if self.as_json else sys.stdout)

    def done(self, what: str, where: object) -> None:
        """Print what was written, and where."""
        self.console.print(styled(f"{what}: ", (str(where), "bold green")))

    def finding(self, severity: str, title: str, text: str) -> None:
        """Print a finding of `xrayfast check` in the color of its severity."""
        color = {"leak": "bold red", "warning": "yellow"}.get(severity, "cyan")
        self.console.print(styled((f"{severity.capitalize()}: ", color), (title, "bold"), f". {text}".rstrip()))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], text_columns: int = 1) -> None:
        """Print a table of cells, see `format_cell`; columns after the first `text_columns` are right-aligned."""
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
        # Lines are broken within an interval only if there is no room for a whole interval.
        table: Any = laid_out(lambda cell: _INTERVAL.sub(_GLUE, cell))
        if table.__rich_measure__(console, console.options).minimum > console.width:
            table = laid_out(str)
        segments = (segment._replace(text=segment.text.replace(_GLUE, " ")) for segment in console.render(table))
        console.print()
        # Rich would wrap a table's own title to the width of the columns.
        console.print(styled((title, "bold")))
        console.print(Segments(segments))

    def json(self, content: Any) -> None:
        """Print the JSON object, if --json was given."""
        if self.as_json:
            ascii_only = "utf" not in (sys.stdout.encoding or "utf").lower()
            text = json.dumps(content, ensure_ascii=ascii_only, allow_nan=False, default=str)
            # JSON escapes are decoded by any JSON reader, and have no effect on a terminal.
            sys.stdout.write("".join(json.dumps(c)[1:-1] if is_hidden(c) else c for c in text) + "\n")
            sys.stdout.flush()


def message(text: str) -> None:
    """Print a message that is not an error to standard error. It may have several lines."""
    open_console(sys.stderr).print(*map(styled, text.split("\n")), sep="\n")


def warning(text: str) -> None:
    """Print a note to standard error."""
    open_console(sys.stderr).print(styled(("Note: ", "yellow"), text))


def error(text: str) -> None:
    """Print an error message to standard error. It may have several lines."""
    first, *others = text.split("\n")
    open_console(sys.stderr).print(styled(("Error: ", "bold red"), first), *map(styled, others), sep="\n")
