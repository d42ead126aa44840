"""Writes the output of commands to the terminal.

With --json, standard output gets one JSON object, and all other output goes to standard error.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from xrayfast.errors import format_cell
from xrayfast.errors.escapes import escape_hidden, is_hidden
from xrayfast.progress.terminal import TextOutput, open_console, styled

if TYPE_CHECKING:
    from rich.console import Console
    from rich.measure import Measurement

_INTERVAL = re.compile(r"(?<=\d) (?=to [\d+−])|(?<=\d to) (?=[\d+−])")
"""The spaces in an interval such as 0.653 to 0.788."""

_GLUE = "\ue000"
"""Placeholder for a space at which lines are not broken: a private-use character, one column wide."""

_GAP = 2
"""Number of spaces after each column of a table."""

_MOST_LINES = 8
"""Largest number of lines that a row of a table becomes in a narrow terminal; a table with more columns is divided."""


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
        """Print a table of cells, see `format_cell`; columns after the first `text_columns` are right-aligned.

        If the terminal is too narrow for a word of each column side by side, a row becomes lines of column and cell. A
        table of many columns, such as a confusion matrix, is divided: all rows with the first columns, then with more.
        """
        texts = [[escape_hidden(format_cell(cell)) for cell in row] for row in rows]
        console = self.console
        console.soft_wrap = False
        console.print()
        # Rich would wrap a table's own title to the width of the columns.
        console.print(styled((title, "bold")))
        _print_rows(console, columns, texts, text_columns)

    def json(self, content: Any) -> None:
        """Print the JSON object, if --json was given."""
        if self.as_json:
            ascii_only = "utf" not in (sys.stdout.encoding or "utf").lower()
            text = json.dumps(content, ensure_ascii=ascii_only, allow_nan=False, default=str)
            # JSON escapes are decoded by any JSON reader, and have no effect on a terminal.
            sys.stdout.write("".join(json.dumps(c)[1:-1] if is_hidden(c) else c for c in text) + "\n")
            sys.stdout.flush()


def _print_rows(console: Console, columns: Sequence[str], texts: Sequence[Sequence[str]], text_columns: int) -> None:
    """Print the rows of a table below its title."""
    from rich.measure import measure_renderables
    from rich.segment import Segments
    from rich.table import Table
    from rich.text import Text

    headers = [styled(column) for column in columns]
    # Lines are broken within an interval only if there is no room for a whole interval.
    for glue in (_GLUE, " "):
        cells = [[Text(_INTERVAL.sub(glue, cell)) for cell in row] for row in texts]
        found = [measure_renderables(console, console.options, cell) for cell in zip(headers, *cells, strict=True)]
        widths = _fit_columns(found, console.width - _GAP * (len(headers) - 1))
        if widths:
            break
    if not widths and len(columns) > _MOST_LINES:
        least = [column.minimum + _GAP for column in found]
        for number, group in enumerate(_divide(least, _count_keys(texts, text_columns), console.width)):
            if number:
                console.print()
            cells_of_group = [[row[i] for i in group] for row in texts]
            aligned_left = sum(i < text_columns for i in group)
            _print_rows(console, [columns[i] for i in group], cells_of_group, aligned_left)
        return
    table = Table(header_style="bold", box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=bool(widths))
    if widths:
        for i, header in enumerate(headers):
            side: Any = "left" if i < text_columns else "right"
            table.add_column(header, justify=side, overflow="fold", width=widths[i])
        for row in cells:
            table.add_row(*row)
    else:
        _add_one_below_another(table, columns, texts)
    segments = (segment._replace(text=segment.text.replace(_GLUE, " ")) for segment in console.render(table))
    console.print(Segments(segments))


def _add_one_below_another(table: Any, columns: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """Add each cell as a row of a Rich table, with its column's name in front, and blank lines between the rows."""
    from rich.text import Text

    table.add_column()
    table.add_column(overflow="fold")
    for number, row in enumerate(texts):
        if number:
            table.add_row()
        for column, text in zip(columns, row, strict=True):
            table.add_row(styled((column, "bold")), Text(_INTERVAL.sub(_GLUE, text)))


def _count_keys(rows: Sequence[Sequence[str]], text_columns: int) -> int:
    """Return how many of the first columns tell the rows of a table apart; all text columns, if these don't."""
    distinct = (n for n in range(1, text_columns) if len({tuple(row[:n]) for row in rows}) == len(rows))
    return next(distinct, text_columns)


def _divide(widths: Sequence[int], fixed: int, room: int) -> list[list[int]]:
    """Divide a table's columns into groups that fit side by side, each after the first `fixed` columns.

    >>> _divide([9, 5, 5, 5], 1, 20)
    [[0, 1, 2], [0, 3]]
    """
    groups: list[list[int]] = []
    for column in range(fixed, len(widths)):
        if not groups or sum(widths[i] for i in groups[-1]) + widths[column] > room:
            groups.append([*range(fixed)])
        groups[-1].append(column)
    return groups


def _fit_columns(columns: Sequence[Measurement], room: int) -> list[int]:
    """Return the widths of a table's columns; [] if there is no room for the longest word of each.

    No column is narrower than its longest word. Rich shrinks the widest columns first, whatever words they have.
    """
    for widest in range(max(column.maximum for column in columns), 0, -1):
        widths = [max(column.minimum, min(column.maximum, widest)) for column in columns]
        if sum(widths) <= room:
            return widths
    return []


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
