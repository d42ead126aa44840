"""Read a CSV or TSV file as a table."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TextIO

from xrayfast.data.sources.column_words import usual_columns
from xrayfast.data.sources.tables.table import (
    HeaderlessFormat,
    Table,
    clean_names,
    clean_text,
    no_rows,
    require_columns,
)
from xrayfast.data.text_column import TextCollector
from xrayfast.errors import DataError, plural, shorten
from xrayfast.files.regular_files import MAX_TABLE_BYTES, require_regular_file

_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_COLUMNAR = {b"PAR1": "a Parquet", b"ARRO": "an Arrow"}
"""The first bytes of other table formats, whose files may have a wrong name."""

_OTHER_FORMATS = {
    r"PK\x03\x04|\xd0\xcf\x11\xe0": (
        "an Excel file or another office or ZIP file",
        "Open it in a spreadsheet and save its table",
    ),
    r"\s*(\{\s*[\"}]|\[\s*[\[{\"])": (
        "JSON",
        "Read it with pandas.read_json (lines=True if each line is JSON) and save it",
    ),
    r"\s*<(!|\?|html|head|body|table|div)": ("HTML or XML", "Open it in a spreadsheet and save its table"),
    r"\x1f\x8b|BZh\d|\xfd7zXZ|7z\xbc\xaf|Rar!": (
        "a compressed file",
        "Unpack it, and if it holds another format, save it",
    ),
    r"version https://git-lfs": (
        "a Git LFS pointer, not the file itself",
        "Get the file by 'git lfs pull', and save it",
    ),
    r"%PDF": ("a PDF", "Copy its table into a spreadsheet and save it"),
}
"""Patterns of how files of formats that are not read begin, what they are, and what to do."""

_ENCODINGS = ("cp1252", "cp1250", "cp850", "mac_roman", "cp1251", "cp1253", "gbk", "big5", "shift_jis", "euc_kr")
_WORD = re.compile(r"[^\W\d_]*[^\x00-\x7f]([^\W\d_]|[^\x00-\x7f])*")
_IN_WORDS = "\xa0\xad\xb7\u2013\u2014\u2019"  # signs between letters in Western languages
_LEAST_FITTING = 0.75  # share of the words that are not ASCII which must look like words in an encoding

_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t]*\r?(?:\n|\Z)', re.IGNORECASE)
"""A first line that tells Excel the separator."""

_MOST_BYTES = 2**32
_MEMORY_PER_BYTE, _MEMORY_PER_TEXT = 8, 160
"""Bytes of free memory required per byte of a large file (ten million rows of 14 labels take seven), and per distinct
cell of a column: the shorter the cells, the more of them a file can hold."""

_SAMPLE = 1 << 16
_SEARCHED = 1 << 22  # bytes in which words are looked for that are not ASCII
_MOST_ABOVE = 100  # maximum number of lines above the header
_MOST_HEADERS = 3  # lines of merged cells and the header
_SIGNS = ",;\t|"
_BATCH = 1000


def read_delimited(file: Path, headerless: Sequence[HeaderlessFormat] = ()) -> Table:
    """Read all cells as text; blank rows are left out but count in row numbers.

    The encoding is UTF-8, UTF-16 or UTF-32 if a byte order mark says so, or else Windows-1252, with a note. UTF-16 of
    ASCII letters needs no mark. The separator is the one in Excel's first line, "sep=;", or else the one of ',', ';',
    tab and '|' that gives the first rows equally many cells. Blank lines, comments and titles above the header are
    skipped; a note quotes comments and titles. Any line ends are allowed, also in quotes. The file may be gzipped, or
    in one of the formats without a header. Cells are cleaned by `clean_text`.

    Raises:
        DataError: not a text file, no rows, a duplicate column, or rows longer or shorter than the header.
    """
    try:
        encoding = _encoding(file)
        try:
            return _read(file, encoding, headerless)
        except UnicodeDecodeError:
            if encoding != "utf-8-sig":
                raise
            note = _describe_western(file)
            table = _read(file, "cp1252", headerless)
            return replace(table, notes=(note, *table.notes))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: found a damaged gzip file ({error}). Fetch the file again.") from error
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); expected a CSV file of labels.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: found bytes that are not text. Save the table as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file}: found a damaged CSV file ({error}). Save the table as CSV again.") from error


def read_delimited_names(file: Path, headerless: Sequence[HeaderlessFormat] = ()) -> list[str]:
    """Return the column names of a table, stripped; empty if the file can't be read as a table."""
    try:
        with _open(file, _encoding(file)) as stream:
            sample = stream.read(_SAMPLE)
        if text_format := _match_headerless(sample, headerless):
            return list(text_format.columns)
        separator, start = _separator(sample)
        return clean_names(next(_records(io.StringIO(sample[start:], newline=""), separator), []))
    except (DataError, OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error):
        return []


def _encoding(file: Path) -> str:
    with _bytes(file) as stream:
        start = stream.read(100)
    if found := next((name for mark, name in _COLUMNAR.items() if start.startswith(mark)), ""):
        raise DataError(
            f"{file}: found {found} file; expected a text table because of the file name. Rename it to .parquet or "
            f".arrow, whichever it is."
        )
    for pattern, (found, advice) in _OTHER_FORMATS.items():
        if re.match(pattern, start.removeprefix(codecs.BOM_UTF8).decode("latin-1"), re.IGNORECASE):
            raise DataError(
                f"{file}: found {found}; expected a table as CSV, TSV, Parquet or Arrow. {advice} as CSV, with a "
                f"header and a row for each image."
            )
    for offset, name in enumerate(("utf-16-be", "utf-16-le")):
        if len(start) > 8 and not any(start[offset:8:2]):
            return name
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")


def _describe_western(file: Path) -> str:
    """Return a note on a text in Windows-1252, with words from it.

    Raises:
        DataError: it does not look like Windows-1252. In other encodings, bytes would be read as other letters, and in
            Asian encodings also as separators. The message shows words in the encodings that fit.
    """
    with _bytes(file) as stream:
        content = stream.read(_SEARCHED)
    words = {name: [match[0] for match in _WORD.finditer(content.decode(name, "replace"))] for name in _ENCODINGS}
    shown = {name: shorten(dict.fromkeys(found), 3) for name, found in words.items()}
    fitting = [name for name, found in words.items() if sum(map(_is_word, found)) >= _LEAST_FITTING * len(found)]

    def convert(encoding: str) -> str:
        return f"Path('utf8.csv').write_text(Path({file.name!r}).read_text({encoding!r}), 'utf-8')"

    if fitting[:1] == ["cp1252"]:
        such_as = f", such as {shown['cp1252']}" * bool(shown["cp1252"])
        return (
            f"{file.name} is not UTF-8: read as Windows-1252{such_as}. If words are wrong, save the table as CSV in "
            f"UTF-8; in Python, {convert('cp1250')} converts Windows-1250."
        )
    read = [f"{name} ({shown[name]})" for name in fitting]
    advice = f" It may be {' or '.join(read)}: {convert(fitting[0])} in Python converts {fitting[0]}." if read else ""
    raise DataError(
        f"{file}: found text that is neither UTF-8 nor Windows-1252; expected UTF-8. Save the table as CSV in UTF-8."
        f"{advice}"
    )


def _is_word(text: str) -> bool:
    """Whether a text looks like a word, or is one sign.

    Its letters are of one script, without other capitals than those of ASCII after small letters. In the Latin script,
    some are ASCII letters.
    """
    if len({*text}) == 1:
        return text[0] != "\ufffd"
    latin = {sign < "\u0250" for sign in text if sign.isalpha()}
    are_mixed = any(one.islower() and two.isupper() and not two.isascii() for one, two in pairwise(text))
    if len(latin) != 1 or are_mixed or not all(sign.isalpha() or sign in _IN_WORDS for sign in text[1:-1]):
        return False
    is_asian = latin == {False} and all(sign.isalpha() and sign < "\uff00" for sign in text)
    return is_asian or (latin == {True} and max(text) < "\u2e80" and re.search("[A-Za-z]", text) is not None)


class _Unpacked(gzip.GzipFile):
    """A gzip file, possibly in an archive or on another machine, that raises an error if it unpacks to more than the
    limit.
    """

    def __init__(self, file: Path) -> None:
        self._packed, self._most = file.open("rb"), _most_bytes()
        super().__init__(str(file), "rb", fileobj=self._packed)

    def close(self) -> None:
        super().close()
        self._packed.close()

    def read1(self, size: int = -1) -> bytes:
        content = super().read1(size)
        if self.tell() > self._most:
            raise DataError(
                f"{self.name}: found more than {self._most >> 20} MB after decompression; expected a smaller table."
            )
        return content


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _most_bytes() -> int:
    """Return the maximum size of a file, also unpacked; above `MAX_TABLE_BYTES` if there is enough free memory."""
    return max(MAX_TABLE_BYTES, min(_free_memory() // _MEMORY_PER_BYTE, _MOST_BYTES))


def _bytes(file: Path) -> gzip.GzipFile | io.BufferedReader:
    require_regular_file(file, "a table (CSV or TSV)", _most_bytes(), DataError)
    return _Unpacked(file) if file.suffix.lower() == ".gz" else file.open("rb")


def _open(file: Path, encoding: str) -> TextIO:
    return io.TextIOWrapper(_bytes(file), encoding=encoding, newline="")


def _read(file: Path, encoding: str, headerless: Sequence[HeaderlessFormat]) -> Table:
    with _open(file, encoding) as stream:
        sample = stream.read(_SAMPLE)
        stream.seek(0)
        if "\0" in sample:
            raise DataError(f"{file}: found bytes that are not text. Save the table as CSV in UTF-8.")
        if text_format := _match_headerless(sample, headerless):
            return text_format.parse(file, stream)
        separator, start = _separator(sample)
        notes = _note_above(file, stream.read(start))
        records = _records(stream, separator)
        header = clean_names(next(records, []))
        require_columns(file, header)
        numbers, headers = array("q"), array("q")
        first = len(re.findall(r"\r\n|\r|\n", sample[:start])) + 2
        rows = _pad_rows(records, header, numbers, headers, file, separator, first)
        table = build_table(file, header, rows, numbers)
    if headers:
        notes += (f"{file.name}: the header is repeated in row {shorten(map(str, headers), 3)}, which is left out.",)
    if not numbers:
        raise no_rows(file)
    if not any(header):
        raise DataError(f"{file}: found no column names in the first row; expected a header.")
    return replace(table, notes=notes)


def build_table(file: Path, names: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int]) -> Table:
    """Build a table from N rows with as many cells as there are column names; columns without a name are dropped.

    `numbers` are the N row numbers as an editor shows them, and may be filled while the rows are read.
    """
    columns, most = [TextCollector() for _ in names], _free_memory() // _MEMORY_PER_TEXT
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH)):
        for column, cells in zip(columns, zip(*batch, strict=True), strict=True):
            column.extend(cells)
        if sum(map(len, columns)) > most:
            raise DataError(
                f"{file}: found more than {most:,} different cells, which do not fit into memory; expected a table of "
                "labels. Leave out columns of texts and numbers that are not labels."
            )
    named = {name: column.collect().replace(clean_text) for name, column in zip(names, columns, strict=True) if name}
    return Table(file, named, lambda i: f"{file.name} row {numbers[i]}")


def _match_headerless(sample: str, headerless: Sequence[HeaderlessFormat]) -> HeaderlessFormat | None:
    line = sample.partition("\n")[0].strip()
    return next((text_format for text_format in headerless if text_format.first_line.fullmatch(line)), None)


def _records(stream: Iterable[str], separator: str) -> Iterator[list[str]]:
    # If not strict, an unclosed quote silently swallows the rest of the file.
    return csv.reader(stream, delimiter=separator, strict=True)


def _separator(sample: str) -> tuple[str, int]:
    """Return the separator, and the position of the header: see `_find_header`, and a line that names the separator.

    If no line names it, choose the one that gives most rows of the sample as many cells as the header; among equals,
    the one that gives most cells. A separator that leaves text between a closing quote and itself is only chosen if all
    do.
    """
    start = _find_header(sample)
    if (line := _SEPARATOR_LINE.match(sample, start)) and line[1] in sample[line.end() :].partition("\n")[0]:
        return line[1], line.end()
    start = line.end() if line else start

    def fit(separator: str) -> tuple[bool, float, int]:
        records: list[list[str]] = []
        cut = len(sample) == _SAMPLE
        quotes_close = True
        try:
            records.extend(islice(_records(io.StringIO(sample[start:], newline=""), separator), 100))
        except csv.Error:
            # Inside the quotes of a cell, another separator can also give all rows equally many cells.
            quotes_close = cut
        if cut:
            records = records[:-1] or records  # the last record may be incomplete
        width = len(records[0]) if records else 0
        if width < 2:
            return False, 0, 0
        rows = [row for row in records if any(map(str.strip, row))]
        return quotes_close, sum(len(row) == width for row in rows) / len(rows), width

    return max(_SIGNS, key=fit), start


def _find_header(sample: str) -> int:
    """Return the start of the header in the sample.

    That is the first line that is not blank, a comment (which begins with '#') or a title (a line without separators
    above a line with some), or below lines of merged cells the first line with a column of images. If the header itself
    is a comment, its start is after the '#'.
    """
    first, with_signs = None, dict[int, list[str]]()
    for line in islice(re.finditer(r"([ \t]*)([^\r\n]*)(?:\r\n|\r|\n|\Z)", sample), _MOST_ABOVE):
        text = line[2].strip()
        if text.startswith("#") and text[1:2] not in (*_SIGNS, ""):
            names = re.split(f"[{_SIGNS}]", text.lstrip("# "))
            if len(names) > 1 and usual_columns(names, "path"):
                return line.end(1) + text.index(names[0])
        elif text:
            first = line.start() if first is None else first
            if not set(text) & {*_SIGNS, '"'}:
                continue
            cells = _split_roughly(text)
            if usual_columns(cells, "path") and all(_are_merged(above, cells) for above in with_signs.values()):
                return line.start()
            with_signs[line.start()] = cells
            if len(with_signs) == _MOST_HEADERS:
                break
    return next(iter(with_signs), first or 0)


def _split_roughly(text: str) -> list[str]:
    """Return the cells of a line whose separator is not known yet, without the separators in quotes."""
    text = re.sub('"([^"]*)"', lambda quoted: re.sub(f"[{_SIGNS}]", " ", quoted[1]), text)
    return [cell.strip() for cell in re.split(f"[{_SIGNS}]", text)]


def _are_merged(cells: Sequence[str], header: Sequence[str]) -> bool:
    """Whether the cells above what may be the header are merged ones: they are fewer, blank, or repeat each other.

    Headers that pandas writes may have a blank cell too, but above the number of a row.
    """
    are_blank = any(not cell and not below.isdigit() for cell, below in zip(cells, header, strict=False))
    return len(cells) < len(header) or are_blank or len({*cells}) < len(cells)


def _note_above(file: Path, text: str) -> tuple[str, ...]:
    """Return a note on the lines above the header, except the line that names the separator."""
    lines = [line.strip() for line in text.splitlines() if line.strip("# \t") and not _SEPARATOR_LINE.match(line)]
    return (f"{file.name}: lines above the header are skipped: {shorten(map(repr, lines), 3)}.",) if lines else ()


def _pad_rows(
    records: Iterator[list[str]],
    header: Sequence[str],
    numbers: MutableSequence[int],
    headers: MutableSequence[int],
    file: Path,
    separator: str,
    first: int,
) -> Iterator[list[str]]:
    """Yield the rows that are not blank, padded to the header's length; append their numbers to `numbers`.

    Numbers start at `first`. Rows that repeat the header, as after joining files, are left out, and their numbers
    appended to `headers`.
    """
    width = len(header)
    for number, row in enumerate(records, start=first):
        if not (row and row[0].strip()) and not any(map(str.strip, row)):
            continue
        if len(row) != width:
            if any(map(str.strip, row[width:])) or any(header[len(row) :]):
                raise DataError(
                    f"{file.name} row {number}: found {plural(len(row), 'cell')}; expected {width}, as in the header. "
                    f"Put cells that contain '{separator}' in double quotes, and remove rows without an image, such as "
                    "comments."
                )
            row = (row + [""] * width)[:width]
        if width > 1 and row[-1].strip() == header[-1] and clean_names(row) == header:
            headers.append(number)
            continue
        numbers.append(number)
        yield row
