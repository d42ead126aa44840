"""CSV tables of a run: written so that no spreadsheet takes a text for a formula, see `quote_cell`, and read back."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xrayfast.errors import RunError, shorten
from xrayfast.files.atomic import replace_atomically
from xrayfast.files.intact import require_intact
from xrayfast.files.regular_files import MAX_TABLE_BYTES, require_regular_file

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that a spreadsheet may run, or one that was quoted; the last four are full-width = + - @."""


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table as `format_csv` gives it, whole or not at all."""
    table, options = _in_csv_form(table, float_format)
    with replace_atomically(path) as temporary:
        table.to_csv(temporary, **options)


def format_csv(table: pd.DataFrame, float_format: str | None = None) -> str:
    """A table as CSV without its index, with Unix line ends; texts as `quote_cell` gives them."""
    table, options = _in_csv_form(table, float_format)
    text: str = table.to_csv(None, **options)
    return text


def _in_csv_form(table: pd.DataFrame, float_format: str | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table with its texts quoted, and arguments of its method `to_csv`."""
    import pandas as pd

    table = table.set_axis([_quoted(name) for name in table.columns], axis=1)
    texts = table.columns.tolist()
    for i in (i for i, dtype in enumerate(table.dtypes) if dtype.kind not in "biufM"):
        cells = table.iloc[:, i].tolist()
        table.isetitem(i, pd.Series([_quoted(cell) for cell in cells], table.index, dtype=object))
        texts += cells
    # pandas leaves a lone carriage return without quotes, and reads it as the end of a line.
    returns = any(isinstance(text, str) and "\r" in text for text in texts)
    quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    return table, {"index": False, "lineterminator": "\n", "float_format": float_format, "quoting": quoting}


def read_csv(path: Path, columns: Sequence[str] = (), **options: Any) -> pd.DataFrame:
    """Read a run's table by `pandas.read_csv` with the options; texts as they were before `quote_cell`.

    Raises:
        RunError: it can't be read, has changed, or lacks some of the columns.
    """
    import pandas as pd

    require_regular_file(path, "a table", MAX_TABLE_BYTES)
    require_intact(path)
    try:
        table: pd.DataFrame = pd.read_csv(path, **options)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise RunError(f"{path}: can't be read as a table ({str(error).strip()}).") from error
    table.columns = [unquote_cell(name) for name in table.columns]
    for name in table.columns[[dtype.kind not in "biufM" for dtype in table.dtypes]]:
        if any(isinstance(cell, str) and cell.startswith("'") for cell in table[name]):
            table[name] = [unquote_cell(cell) if isinstance(cell, str) else cell for cell in table[name]]
    if missing := [name for name in columns if name not in table]:
        raise RunError(f"{path}: lacks the columns {shorten(missing)}; found {shorten(table.columns)}.")
    return table


def quote_cell(text: str) -> str:
    """A cell's text as it is written: with an apostrophe before it where a spreadsheet might run it.

    That is where it begins with = + - @ (full-width ones too), a tab or a line break, or with apostrophes and then one
    of these: https://owasp.org/www-community/attacks/CSV_Injection. Numbers are not texts, and are written as they are.

    >>> quote_cell("=1+1"), quote_cell("a=1"), quote_cell("'a'"), quote_cell("'=1")
    ("'=1+1", 'a=1', "'a'", "''=1")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unquote_cell(text: str) -> str:
    """The text before `quote_cell`.

    >>> unquote_cell("'=1+1"), unquote_cell("'a'"), unquote_cell("''=1")
    ('=1+1', "'a'", "'=1")
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _quoted(cell: Any) -> Any:
    return quote_cell(cell) if isinstance(cell, str) else cell
