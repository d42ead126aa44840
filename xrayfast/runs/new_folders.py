"""Creation of folders for runs and evaluations: they appear complete or not at all, and never replace a folder."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path

from xrayfast.errors import LONGEST_NAME, RunError, truncate
from xrayfast.files.atomic import move_when_free
from xrayfast.files.checksums import start_checksums
from xrayfast.files.file_names import portable_name, require_utf8
from xrayfast.files.intact import INFO_FILE
from xrayfast.files.virtual.addresses import canonical, is_remote
from xrayfast.files.writable import LONGEST_FILE, ensure_folder, exists
from xrayfast.runs.evaluation import Evaluation
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.json_files import read_typed
from xrayfast.runs.names import EVALUATIONS, SPLIT_FILE


def create_evaluation(
    root: Path, labels: Sequence[str], name: str | None, stem: str, write: Callable[[Evaluation], None]
) -> Evaluation:
    """Create a folder for an evaluation: `root/NAME`, or without a name the first free of `root/STEM`, `STEM-2`, ...

    It appears with all the files that `write` writes, or not at all.

    Raises:
        RunError: the name is taken or not a plain name, or the folder can't be written.
    """
    stem = portable_name(stem)
    try:
        require_free(root, name, "evaluation")  # before `root` is created
        root.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(ensure_folder(root)) as temporary:
            start_checksums(temporary)
            write(Evaluation(temporary, labels))
            candidates = chain([stem], (f"{stem}-{number}" for number in count(2)))
            folder = make_folder(root, name, candidates, "evaluation", make=temporary.rename)
    except OSError as error:
        raise RunError(f"{error.filename or root}: can't be written ({error.strerror or error}).") from error
    finally:
        with contextlib.suppress(OSError):  # it holds evaluations
            root.rmdir()
    return Evaluation(folder, labels)


def make_folder(
    root: Path, name: str | None, candidates: Iterable[str], kind: str, make: Callable[[Path], object]
) -> Path:
    """Create `root/name`, or without a name the first free candidate; names that differ only in case count as taken,
    because macOS and Windows ignore case. `make`, the `rename` of a folder, has to fail if another process has
    created it.

    Raises:
        RunError: the name is taken, or is not a plain folder name.
        OSError: the folder can't be created.
    """
    require_free(root, name, kind)
    root.mkdir(parents=True, exist_ok=True)
    taken = {path.name.casefold() for path in root.iterdir()}
    for candidate in (c for c in candidates if c.casefold() not in taken) if name is None else [name]:
        try:
            move_when_free(make, root / candidate)
            return root / candidate
        except OSError:
            if not (root / candidate).exists():
                raise
    raise _taken(root / str(name))


_ABANDONED = 3600.0  # seconds after which a temporary folder counts as abandoned; it is in use for seconds only


@contextlib.contextmanager
def temporary_folder(root: Path) -> Iterator[Path]:
    """Create a temporary folder for the first files of a run or for the files of an evaluation, and remove it at the
    end unless it was moved. Temporary folders that killed processes left are removed too.

    Raises:
        OSError: the folder can't be created.
    """
    for path in root.glob(f".run.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError):  # another process may remove it too
            if time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path)
    path = root / f".run.{secrets.token_hex(4)}.tmp"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def require_free(root: Path, name: str | None, kind: str) -> None:
    """Raise a RunError if the name is taken, too long or not a plain name, or if `root` is remote."""
    require_utf8([root, name or ""], RunError)
    if is_remote(root):
        raise RunError(
            f"{canonical(root)}: is remote; expected a folder on this machine. Choose another folder with --runs."
        )
    if name is not None and (not name or name != Path(name).name or name.startswith(".")):
        raise RunError(f"{kind} name '{name}': expected a plain folder name such as 'baseline'.")
    if name is not None and len(name.encode()) > LONGEST_FILE:
        raise RunError(
            f"{kind} name '{truncate(name, LONGEST_NAME)}': found {len(name.encode())} bytes; expected at most "
            f"{LONGEST_FILE}, as file systems allow. Choose a shorter --name."
        )
    if name is not None and exists(root / name):
        raise _taken(root / name)


def _taken(folder: Path) -> RunError:
    text = f"{folder}: already exists and is never overwritten. Choose another --name."
    if (folder / INFO_FILE).is_file() and not (folder / SPLIT_FILE).is_file():
        text += (
            " It belongs to a run that ended before training began; if it contains nothing that you need, remove it."
        )
    elif (folder / INFO_FILE).is_file():
        with contextlib.suppress(RunError):  # `run.json` is damaged
            if read_typed(folder / INFO_FILE, RunInfo).status != "completed":
                text += f" It contains an unfinished run: 'xrayfast fit --resume {folder}' resumes it."
    elif folder.parent.name == EVALUATIONS and not Evaluation.is_finished(folder):
        text += " It contains no finished evaluation, which happened when versions before 0.5 were killed: remove it."
    return RunError(text)
