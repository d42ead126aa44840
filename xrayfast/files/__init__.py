"""Files that are written whole or not at all, and the checks before a file of a user or stranger is read.

Text cells of the CSV files are written so that no spreadsheet takes them for a formula: see `quote_cell`.

A folder with a `checksums.txt` has a line for each version of its files that was written, in the form of sha256sum. It
is written before the file takes its name, so that after a kill either version is known; lines are only ever appended,
so that processes that write at the same time lose none.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xrayfast.errors import LONGEST_NAME, DataError, RunError, WriteError, XrayfastError, shorten, truncate
from xrayfast.errors.escapes import is_hidden, is_utf8, warn
from xrayfast.files.virtual.paths import canonical, is_remote

if TYPE_CHECKING:
    import pandas as pd

CHECKSUMS, INFO_FILE = "checksums.txt", "run.json"

_WITH_CHECKSUMS = (0, 4)
"""The first version whose runs have checksums."""

_CHECKED = frozenset({".csv", ".json", ".safetensors", ".yaml"})
"""The files that commands read; reports, cards and figures are a user's to edit."""

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that a spreadsheet may run, or one that was quoted; the last four are full-width = + - @."""

_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\.|$)", re.IGNORECASE)
"""What Windows takes for a device, whatever the suffix."""

_COPY = "Copy it to the bucket afterwards."

MAX_TABLE_BYTES = 2**29
"""Largest table read, also unpacked, whatever the memory: the published ones have at most 100 MB."""

MAX_RUN_BYTES = 2**32
"""Largest file of a run: the state of an optimizer of vgg16 with the largest head has 3 GB."""

MAX_TEXT_BYTES = 2**25
"""Largest other file of text or JSON read: `metrics.json` has about 2 MB for 100 labels."""

MAX_SMALL_BYTES = 2**20
"""Largest file of settings or label synonyms read: a `config.yaml` has 3 kB."""

MAX_YAML_NODES, MAX_YAML_DEPTH, MAX_YAML_SCALAR = 20_000, 20, 5000
"""Most values of a YAML file, most levels of nesting, and most characters of a value: a `config.yaml` has 200 values,
and the parser takes 0.1 ms for each."""


def require_regular_file(
    path: Path, expected: str, limit: int = MAX_TEXT_BYTES, error: type[XrayfastError] = RunError
) -> os.stat_result:
    """Refuse a file that would hang on opening (a FIFO), never end (a device), or fill the memory.

    Raises:
        XrayfastError: of that class: no file, a folder, a pipe, socket or device, a file that is too large, or a name
            that is not UTF-8.
    """
    require_utf8([path], error)
    try:
        status = path.stat()
    except FileNotFoundError as problem:
        from xrayfast.files.virtual.access import near_names  # here, as it imports this module

        found = "a link to nothing" if path.is_symlink() else "no such file"
        raise error(f"{path}: found {found}; expected {expected}. Check the path.{near_names(path)}") from problem
    except XrayfastError:  # of an archive or a remote object, which says more
        raise
    except (OSError, ValueError) as problem:
        raise error(f"{path}: can't be read ({problem}). Check the path and its permissions.") from problem
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{path}: found a folder; expected {expected}. Name a file.")
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path}: found a pipe, socket or device; expected {expected}. Name a regular file.")
    if status.st_size > limit:
        raise error(
            f"{path}: found a file of {status.st_size:,} bytes; expected {expected} of at most {limit:,}. Check that "
            "it is the right one."
        )
    return status


def read_text(path: Path, expected: str, limit: int = MAX_TEXT_BYTES, error: type[XrayfastError] = RunError) -> str:
    """Read a file of UTF-8 text, with or without a byte order mark.

    Raises:
        XrayfastError: of that class: see `require_regular_file`; or it can't be read, or is no such text.
    """
    require_regular_file(path, expected, limit, error)
    try:
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8-sig")
    except OSError as problem:
        raise error(f"{path}: can't be read ({problem.strerror}); expected {expected}.") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: found text that is not UTF-8; expected {expected}. Save it in UTF-8.") from problem


def read_yaml(path: Path, expected: str, error: type[XrayfastError]) -> Any:
    """Read a YAML file of mappings, lists and plain values.

    Whatever could build an object, name a value that stands elsewhere (so that few bytes become gigabytes), or hide one
    value behind another of the same key is refused before any value is built, as is what is too large.

    Raises:
        XrayfastError: of that class, which names file and line.
    """
    import yaml  # here, as `--help` needs none

    text = read_text(path, expected, MAX_SMALL_BYTES, error)
    loader = _with_numbers(getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        _require_plain(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError) as problem:  # a ValueError is a date that there is not
        mark = getattr(problem, "problem_mark", None)
        what = getattr(problem, "problem", None) or str(problem).partition("\n")[0]
        where = f"line {mark.line + 1}: " if mark else ""
        raise error(
            f"{path}: is not plain YAML ({where}{truncate(what, LONGEST_NAME)}); expected {expected}."
        ) from problem


def dump_yaml(content: Any) -> str:
    """Text that `read_yaml` reads as the same content."""
    import yaml

    return yaml.dump(content, Dumper=_with_numbers(yaml.SafeDumper), sort_keys=False, allow_unicode=True)


@cache
def _with_numbers(base: Any) -> Any:
    """A loader or dumper to which 1e-3 is a number, as in YAML 1.2 and everywhere else; to PyYAML it is a text."""
    kind: Any = type(base.__name__, (base,), {})
    number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    kind.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return kind


def _require_plain(events: Iterable[Any]) -> None:
    """Raise an error of YAML where a document has anything but mappings, lists and plain values within the limits."""
    import yaml

    keys: list[set[str] | None] = []  # of each open mapping; None for a list
    inside: list[int] = []  # how many nodes each has so far
    count = 0

    def refuse(found: str, event: Any) -> None:
        raise yaml.MarkedYAMLError(problem=found, problem_mark=event.start_mark)

    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            keys.pop(), inside.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        count += 1
        if count > MAX_YAML_NODES:
            refuse(f"more than {MAX_YAML_NODES:,} values", event)
        if event.anchor is not None:  # an alias has one too
            refuse("an anchor or alias", event)
        if getattr(event, "tag", None) is not None:
            refuse("a tag", event)
        text: str | None = getattr(event, "value", None)  # of a scalar
        if text is not None and len(text) > MAX_YAML_SCALAR:
            refuse(f"a value of {len(text):,} characters", event)
        if keys:
            inside[-1] += 1
            known = keys[-1]
            if known is not None and inside[-1] % 2:
                if text is None:
                    refuse("a key that is no word", event)
                elif text in known:
                    refuse(f"the key '{truncate(text, 100)}' twice", event)
                else:
                    known.add(text)
        if text is None:
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            inside.append(0)
            if len(keys) > MAX_YAML_DEPTH:
                refuse(f"more than {MAX_YAML_DEPTH} levels of nesting", event)


def require_output_file(path: Path) -> None:
    """Refuse to replace what is no file, or to write where there is no folder.

    Raises:
        WriteError: the path is a folder, pipe, socket or device, or remote, or its folder does not exist.
    """
    if is_remote(path):
        raise WriteError(f"{canonical(path)}: is remote; expected a file of this machine to write. {_COPY}")
    if path.exists() and not path.is_file():
        raise WriteError(
            f"{path}: found a folder, pipe or device; expected the name of a file to write. Choose another."
        )
    if not (folder := path.absolute().parent).is_dir():
        raise WriteError(f"{path}: there is no folder {folder} to write it to. Make it, or choose another.")


def require_text_file(path: Path, *read: Path | None) -> None:
    """Refuse to write a table or page over a file that is no text, such as an image, or over what it is made from.

    Raises:
        WriteError: as said, or as by `require_output_file`.
    """
    require_output_file(path)
    if not path.is_file():
        return
    with path.open("rb") as stream:
        is_text = b"\0" not in stream.read(4096)
    if not is_text:
        raise WriteError(
            f"{path}: found a file that is no text, such as an image or an archive; expected the name of a file "
            "to write. Choose another."
        )
    if any(file is not None and os.path.realpath(file) == os.path.realpath(path) for file in read):
        raise WriteError(
            f"{path}: is read here, and would be lost; expected the name of a file to write. Choose another."
        )


@contextlib.contextmanager
def replace_atomically(path: Path, digest: str | None = None) -> Iterator[Path]:
    """Give a temporary path to write to, which replaces `path` at the end of the block.

    Where the block fails or is interrupted, the old file stays and the temporary one is removed. A symbolic link at
    `path` is replaced, and what it leads to stays as it is. The checksum is recorded where the folder has some.

    Raises:
        WriteError: the file can't be written: no permission, no folder, no space; see also `require_output_file`.
    """
    require_output_file(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if not temporary.stat().st_mode & 0o077:  # safetensors makes files that others can't read, whatever the umask
            with contextlib.suppress(OSError):  # not every file system has permissions
                mask = os.umask(0o077)  # it can only be read by setting it
                os.umask(mask)
                temporary.chmod(0o666 & ~mask)
        if path.suffix in _CHECKED and (path.parent / CHECKSUMS).is_file():
            _append(path.parent / CHECKSUMS, f"{digest or file_digest(temporary)}  {path.name}\n")
        temporary.replace(path)
    except UnicodeEncodeError as error:
        near = error.object[max(error.start - 30, 0) : error.start + 30]
        raise WriteError(f"{path}: can't be written ('{near}' is not Unicode). Rename what is called so.") from error
    except OSError as error:
        raise WriteError(
            f"{path}: can't be written ({error.strerror or error}). Check that its folder exists, is writable "
            "and not full."
        ) from error
    finally:
        # After the move there is nothing to remove; where the folder is missing or closed, neither.
        with contextlib.suppress(OSError):
            temporary.unlink()


def start_checksums(folder: Path) -> None:
    """Record checksums of the CSV, JSON, YAML and safetensors files of a folder from now on.

    Raises:
        OSError: `checksums.txt` can't be written.
    """
    _append(folder / CHECKSUMS, "")


def write_checksums(folder: Path, digests: Mapping[str, str]) -> None:
    """Record the checksums of all files of a folder; those in `digests` are known already.

    Raises:
        OSError: a file can't be read, or `checksums.txt` can't be written.
    """
    files = sorted(folder.iterdir())
    lines = [f"{digests.get(path.name) or file_digest(path)}  {path.name}\n" for path in files]
    _append(folder / CHECKSUMS, "".join(lines))


def known_digests(path: Path) -> list[str]:
    """The checksums of the versions of a file that were written, the present one last; none where none are recorded.

    Raises:
        RunError: `checksums.txt` can't be read.
    """
    checksums = path.parent / CHECKSUMS
    lines = read_text(checksums, "checksums").split("\n") if checksums.is_file() else []
    return [found[1] for line in lines if (found := _LINE.search(line)) and found[2] == path.name]


def require_intact(path: Path, error: type[XrayfastError] = RunError) -> None:
    """Check that a file is as it was written. One whose folder has no checksums, as in runs before 0.4, is not checked;
    where the run is of a later version, that is warned of.

    Raises:
        XrayfastError: of that class: it has changed, can't be read or is too large.
    """
    checksums = path.parent / CHECKSUMS
    if not checksums.is_file():
        _warn_unchecked(path.parent)
        return
    status = require_regular_file(path, "a file of a run", MAX_RUN_BYTES, error)  # a checksum reads it whole
    try:
        known = known_digests(path)
        if _file_digest_once(path, status) in known:
            return
    except OSError as problem:
        raise error(f"{path}: can't be read ({problem.strerror or problem}).") from problem
    found = "has changed since it was written" if known else "is not known to have been written here"
    raise error(
        f"{path}: {found}: its checksum is not in {CHECKSUMS}. Copy the folder again from where the run was made. If "
        f"the change was meant, delete {checksums}: the files beside it are then read unchecked."
    )


def find_run_folder(folder: Path) -> Path | None:
    """The run's folder that this is, or is in as `checkpoint` and `evaluations/NAME` are; None where it is in none."""
    return next((root for root in (folder, *folder.absolute().parents[:2]) if (root / INFO_FILE).is_file()), None)


@cache
def _warn_unchecked(folder: Path) -> None:
    """Warn, once per process, where a run's folder or one in it should have checksums and has none."""
    run = find_run_folder(folder)
    with contextlib.suppress(RunError):  # a damaged `run.json` is named where it is read
        info = read_text(run / INFO_FILE, "a JSON object") if run else ""
        version = re.search(r'"xrayfast":\s*"(\d+)\.(\d+)[^"]*"', info)
        if version and (int(version[1]), int(version[2])) >= _WITH_CHECKSUMS:
            warn(
                f"{folder}: lacks {CHECKSUMS}, which xrayfast {version[1]}.{version[2]} wrote: its files are read "
                "unchecked, and one that was damaged or exchanged would not be noticed. Unless you deleted it "
                "yourself, copy the folder again from where the run was made."
            )


_digests: dict[tuple[int, ...], str] = {}

_SETTLED = 2.0
"""Seconds after which another change gives a file another time, on any file system."""


def _file_digest_once(path: Path, status: os.stat_result) -> str:
    """`file_digest`, without reading a file again that has not been written to since: weights are asked for often."""
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if state in _digests:
        return _digests[state]
    digest = file_digest(path)
    if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
        _digests[state] = digest
    return digest


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal: of hashlib's the fastest, as processors have instructions for it.

    Raises:
        OSError: it can't be read.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            digest.update(buffer[:read])
    return digest.hexdigest()


def _append(path: Path, text: str) -> None:
    """Append text in one write, and wait until the disk has it; never through a link, which may lead anywhere."""
    if path.is_symlink():
        raise OSError(f"{path.name} is a symbolic link")
    with path.open("ab", buffering=0) as file:
        file.write(text.encode())
        os.fsync(file.fileno())


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no hard links.

    Raises:
        OSError: it can't be made.
    """
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends, whole or not at all."""
    with replace_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (no NaN), indented, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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


def portable_name(text: str) -> str:
    """A name for a file or folder, made of a text, that Linux, macOS and Windows allow; not hidden, never empty.

    >>> portable_name("timm:a/b?"), portable_name("Con.a"), portable_name(".x. ")
    ('timm_a_b_', '_Con.a', 'x')
    """
    name = "".join("_" if c in '<>:"/\\|?*' or is_hidden(c) else c for c in text)[:LONGEST_NAME].strip(". ")
    return f"_{name}" if _DEVICE.match(name) else name or "unnamed"


def require_utf8(names: Iterable[Path | str], error: type[XrayfastError] = DataError) -> None:
    """Refuse names of files that are not UTF-8, as Linux allows: no table, JSON file or page could hold them.

    Raises:
        XrayfastError: of the type that is given; it names the first.
    """
    for name in map(str, names):
        if not is_utf8(name):
            raise error(f"{name}: found a name that is not UTF-8; expected one that is. Rename it.")


def make_output_folder(path: Path) -> Path:
    """Make the folder that a caller named for what a command writes, unless it is there.

    Raises:
        WriteError: it can't be made, or is remote.
    """
    if is_remote(path):
        raise WriteError(f"{canonical(path)}: is remote; expected a folder of this machine to write to. {_COPY}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{path}: can't be made ({error.strerror}). Choose another folder with --output.") from error
    return path


def ensure_folder(path: Path) -> Path:
    """Make a folder within a run's unless it exists, and return it.

    Raises:
        RunError: it can't be made, or leads out of the run: whoever made the run could have us write anywhere.
    """
    if path.is_symlink():
        raise RunError(
            f"{path}: is a symbolic link, to {path.readlink()}; expected a folder within {path.parent}. Nothing was "
            "written through it. Remove the link, or move the folder here."
        )
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: can't be made ({error.strerror}).") from error
    return path


def _quoted(cell: Any) -> Any:
    return quote_cell(cell) if isinstance(cell, str) else cell
