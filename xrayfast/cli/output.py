"""The one place that writes to the terminal.

With --json, standard output gets one JSON object and everything else goes to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """What a command says.

    Args:
        as_json: whether standard output is for one JSON object.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    @property
    def console(self) -> Console:
        """Where people read: standard output, or standard error with --json."""
        return _console(sys.stderr if self.as_json else sys.stdout)

    def line(self, text: str = "") -> None:
        """A line of text, as it stands."""
        self.console.print(text, markup=False)

    def note(self, text: str) -> None:
        """Something worth knowing before one goes on."""
        from rich.text import Text

        self.console.print(Text.assemble(("Note: ", "yellow"), text))

    def done(self, what: str, where: object) -> None:
        """Something was written."""
        from rich.text import Text

        self.console.print(Text.assemble(f"{what}: ", (str(where), "bold green")))

    def finding(self, severity: str, title: str, text: str) -> None:
        """Something that is wrong with a data set, or worth knowing."""
        from rich.text import Text

        colour = {"leak": "bold red", "warning": "yellow"}.get(severity, "cyan")
        self.console.print(Text.assemble((f"{severity.capitalize()}: ", colour), (title, "bold"), f". {text}"))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], text_columns: int = 1) -> None:
        """A table; all but the first `text_columns` are aligned right. Numbers get three digits, None a dash."""
        from rich.table import Table
        from rich.text import Text

        table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
        for i, column in enumerate(columns):
            table.add_column(Text(column), justify="left" if i < text_columns else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(shown(cell)) for cell in row))
        console = self.console
        console.soft_wrap = False
        console.print()
        # A table's own title would be wrapped to the width of its columns.
        console.print(Text(title, style="bold"))
        console.print(table)

    def json(self, content: Any) -> None:
        """The JSON object, where it was asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str) + "\n")
            sys.stdout.flush()


def shown(cell: Any) -> str:
    """A table's cell for people.

    >>> shown(0.8361), shown(12), shown(None)
    ('0.836', '12', '–')
    """
    if cell is None or (isinstance(cell, float) and cell != cell):
        return "–"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def error(message: str) -> None:
    """A message on standard error."""
    from rich.text import Text

    _console(sys.stderr).print(Text.assemble(("Error: ", "bold red"), message))


def _console(file: TextIO) -> Console:
    """Lines are wrapped at words in a terminal, and left whole in a file or pipe."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    console.soft_wrap = not console.is_terminal
    return console
