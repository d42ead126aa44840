"""Write and read a run's CSV tables; spreadsheets never read their texts as formulas, see `quote_cell`."""

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
"""Start of a cell that a spreadsheet may run, or that was quoted; the last four characters are full-width = + - @."""


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table in the form of `format_csv`, completely or not at all."""
    table, options = _in_csv_form(table, float_format)
    with replace_atomically(path) as temporary:
        table.to_csv(temporary, **options)


def format_csv(table: pd.DataFrame, float_format: str | None = None) -> str:
    """Return a table as CSV without its index, with Unix line ends, and with texts quoted by `quote_cell`."""
    table, options = _in_csv_form(table, float_format)
    return table.to_csv(None, **options)


def _in_csv_form(table: pd.DataFrame, float_format: str | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the table with its texts quoted, and the arguments of its `to_csv` method."""
    import pandas as pd

    table = table.set_axis([_quoted(name) for name in table.columns], axis=1)
    texts = table.columns.tolist()
    for i in (i for i, dtype in enumerate(table.dtypes) if dtype.kind not in "biufM"):
        cells = table.iloc[:, i].tolist()
        table.isetitem(i, pd.Series([_quoted(cell) for cell in cells], table.index, dtype=object))
        texts += cells
    # pandas does not quote a lone carriage return, but reads it as a line end.
    returns = any(isinstance(text, str) and "\r" in text for text in texts)
    quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    return table, {"index": False, "lineterminator": "\n", "float_format": float_format, "quoting": quoting}


def read_csv(path: Path, columns: Sequence[str] = (), **options: Any) -> pd.DataFrame:
    """Read a run's table with `pandas.read_csv` and the options; the quotes of `quote_cell` are removed.

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
    """Return a cell's text as it is written: after an apostrophe if a spreadsheet might run it.

    That is, if it begins with = + - @ (also full-width), a tab or a line break, or with apostrophes and then one of
    these: see https://owasp.org/www-community/attacks/CSV_Injection. Numbers are not texts and are written unchanged.

    >>> quote_cell("=1+1"), quote_cell("a=1"), quote_cell("'a'"), quote_cell("'=1")
    ("'=1+1", 'a=1', "'a'", "''=1")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unquote_cell(text: str) -> str:
    """Undo `quote_cell`.

    >>> unquote_cell("'=1+1"), unquote_cell("'a'"), unquote_cell("''=1")
    ('=1+1', "'a'", "'=1")
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _quoted(cell: Any) -> Any:
    return quote_cell(cell) if isinstance(cell, str) else cell
