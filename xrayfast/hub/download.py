"""Downloads runs from the Hub: allow-listed files of one commit, in huggingface_hub's own cache.

A repository may contain anything. Only the files of a run are downloaded. They are read with the same checks as any run
from a stranger, and can't run code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from xrayfast._version import __version__
from xrayfast.errors import ConfigError, RunError, importing, shorten, truncate
from xrayfast.errors.escapes import escape_hidden
from xrayfast.files.intact import INFO_FILE
from xrayfast.files.regular_files import MAX_RUN_BYTES

PREFIX = "hf:"

CARD = "README.md"
"""Name of the model card on the Hub. It is not needed in a run's folder."""

_IN_RUN = (
    "checksums.txt", "config.yaml", "history.csv", "labels.json", "metrics.json", "model.safetensors", INFO_FILE,
    "split.csv", "predictions/checksums.txt", "predictions/test.csv", "predictions/valid.csv",
)  # fmt: skip

ALLOWED = (*_IN_RUN, *(f"member-*/{name}" for name in _IN_RUN))
"""Patterns of the files to download. No other files are downloaded, in particular no pickles."""

_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Downloaded:
    """A run that was downloaded.

    Attributes:
        repository: "ORG/NAME".
        commit: 40 hexadecimal digits.
        path: the run's folder in the cache, which is read-only.
        asked: the branch, tag or commit that was asked for.
        unreachable: why the server could not be reached, so that an earlier download is used; "" if it was reached.
    """

    repository: str
    commit: str
    path: Path
    asked: str
    unreachable: str = ""

    def __str__(self) -> str:
        """Return the name that always refers to this commit."""
        return f"{PREFIX}{self.repository}@{self.commit}"

    @property
    def is_pinned(self) -> bool:
        """Whether the commit itself was asked for, not a branch or tag."""
        return self.asked == self.commit


def is_hub_name(run: object) -> bool:
    """Whether this is the name of a run on the Hub, not a path or the `hf://` address of a file there."""
    return isinstance(run, (str, Path)) and str(run).startswith(PREFIX) and not str(run).startswith(f"{PREFIX}/")


def require_hub() -> Any:
    """Import and return the package huggingface_hub; raise a ConfigError if it is missing."""
    with importing("huggingface_hub", "hub"):
        import huggingface_hub
    return huggingface_hub


def download(name: Path | str) -> Downloaded:
    """Download the run `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`, where REVISION is a branch, tag or commit.

    Without a network, an earlier download is used.

    Raises:
        ConfigError: the name is invalid, or huggingface_hub is missing.
        RunError: the repository or revision does not exist, needs a login or has no run, or the network fails.
    """
    text = str(name).replace("\\", "/")  # a Path on Windows
    match = _NAME.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{escape_hidden(text)}: expected hf:ORG/NAME or hf:ORG/NAME@REVISION, such as hf:my-group/chest-1@main."
        )
    repository, asked = match[1], match[2] or "main"
    hub = require_hub()
    with named_errors(f"{PREFIX}{repository}", asked):
        try:
            commit, files = _list_files(hub, repository, asked)
        except Exception as error:
            # If the server answered, the cache is not used: the repository may be deleted or private now.
            if getattr(error, "response", None) is not None or not _is_network_error(error):
                raise
            return _from_cache(hub, repository, asked, error)
        path = _snapshot(hub, repository, asked, files)
    if path.name != commit:
        raise RunError(f"{PREFIX}{repository}: revision {asked} has just moved to {path.name}. Try again.")
    return Downloaded(repository, commit, path, asked)


def _snapshot(hub: Any, repository: str, asked: str, files: Sequence[str], **options: Any) -> Path:
    """Download files or patterns of files of a revision; return their folder in the cache, named for the commit."""
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):  # type: ignore[misc]
        """A progress bar that is shown only in a terminal."""

        def __init__(self, *arguments: Any, **given: Any) -> None:
            super().__init__(*arguments, **given | ({} if sys.stderr.isatty() else {"disable": True}))

    known = {"library_name": "xrayfast", "library_version": __version__, "tqdm_class": Quiet}
    return Path(hub.snapshot_download(repository, revision=asked, allow_patterns=list(files), **known, **options))


def _list_files(hub: Any, repository: str, asked: str) -> tuple[str, list[str]]:
    """Return the commit of a revision, and the files of the run in it."""
    info = hub.HfApi(library_name="xrayfast", library_version=__version__).model_info(
        repository, revision=asked, files_metadata=True
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = [file for file in sizes if any(fnmatch(file, pattern) for pattern in ALLOWED) and ".." not in file]
    if INFO_FILE not in files or not _COMMIT.fullmatch(info.sha or ""):
        found = shorten(sorted(sizes), 5) or "no files"
        raise RunError(
            f"{PREFIX}{repository}: is not an xrayfast run: found {escape_hidden(found)}; expected {INFO_FILE}, "
            "model.safetensors and the other files that 'xrayfast push' uploads."
        )
    if (total := sum(sizes[file] for file in files)) > MAX_RUN_BYTES:
        raise RunError(
            f"{PREFIX}{repository}: its files have {total:,} bytes in total; expected at most {MAX_RUN_BYTES:,}. "
            "Nothing was downloaded."
        )
    return info.sha, files


def _from_cache(hub: Any, repository: str, asked: str, why: Exception) -> Downloaded:
    """Return the earlier download of a run."""
    try:
        path = _snapshot(hub, repository, asked, ALLOWED, local_files_only=True)
    except Exception as error:  # huggingface_hub's errors have no common class
        raise RunError(
            f"{PREFIX}{repository}: can't be reached ({_reason(why)}), and revision {asked} was not downloaded before. "
            "Check the network."
        ) from error
    if not (path / INFO_FILE).is_file():
        raise RunError(
            f"{PREFIX}{repository}: what was downloaded before is not an xrayfast run, and the server can't be "
            f"reached now ({_reason(why)})."
        )
    return Downloaded(repository, path.name, path, asked, _reason(why))


def _is_network_error(error: BaseException) -> bool:
    """Whether no server answered. Versions of huggingface_hub use different libraries with their own errors."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(
        names & {"ConnectionError", "ConnectError", "TransportError", "TimeoutException", "Timeout", "TimeoutError"}
    )


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return escape_hidden(truncate(text, 200)).rstrip(".")


@contextmanager
def named_errors(name: str, asked: str) -> Iterator[None]:
    """Replace huggingface_hub's errors, on access, the network and the server, by a RunError."""
    require_hub()
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise RunError(
            f"{name}: its owner grants access on request, and you are not logged in with an account that has access."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise RunError(
            f"{name}: no such repository, or it is private and you are not logged in with an account that has "
            "access. Check the name; log in with 'hf auth login' or HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise RunError(f"{name}: has no revision '{asked}'; expected a branch, tag or commit.") from error
    except errors.HfHubHTTPError as error:
        raise RunError(f"{name}: the server refused the request ({_reason(error)}).") from error
    except Exception as error:
        if isinstance(error, (RunError, ConfigError)):
            raise
        if isinstance(error, OSError) or _is_network_error(error) or type(error).__module__.startswith(_CLIENTS):
            raise RunError(f"{name}: the transfer failed ({_reason(error)}). Try again.") from error
        raise


_CLIENTS = ("huggingface_hub", "httpx", "requests", "hf_xet")


def require_token() -> None:
    """Raise a ConfigError if there is no login."""
    if not require_hub().get_token():
        raise ConfigError(
            "you are not logged in to the Hub. Run 'hf auth login', or set HF_TOKEN to a token with write access."
        )
