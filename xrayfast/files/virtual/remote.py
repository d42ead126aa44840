"""Access objects in remote buckets through fsspec: their state, content and folders.

All functions raise FileNotFoundError for an object that does not exist, and RemoteError if the storage can't be read.
Transient errors are retried. Messages never quote what a server or its package says about an error, because that may
contain a signed address or a header; they give only the kind and number of the error.
"""

from __future__ import annotations

import io
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from xrayfast.errors import ConfigError, ReadError, RemoteError, XrayfastError
from xrayfast.files.virtual.addresses import is_web_address

T = TypeVar("T")

_EXTRAS = {"s3": "s3", "gs": "gcs", "gc": "gcs", "az": "azure", "ab": "azure", "ht": "http"}
"""The extra that installs what fsspec needs, by the first letters of the scheme."""

_WAITS = (0.5, 2.0, 8.0)
"""Seconds to wait between tries."""

_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "content_md5", "Content-MD5")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
"""Keys of an object's server metadata that change with its content; times are used if there is no version."""

_PASSING = frozenset({408, 425, 429})
"""HTTP statuses from 400 to 499 that another try may not get."""

_LASTING = re.compile(r"(No|Partial)Credentials|ParamValidation|ProfileNotFound|DefaultCredentials|InvalidURL")
"""Names of errors that another try would raise again."""


class State(NamedTuple):
    """Bytes of a file, or -1 if unknown; a stamp that changes when its content does; whether it is a folder."""

    size: int
    stamp: str
    folder: bool = False


_states: dict[str, State] = {}
_folders: dict[str, dict[str, State]] = {}


def state_of(url: str) -> State:
    """Return the state of an object, requested once per process. A file on the web is assumed not to change."""
    if is_web_address(url):
        return State(-1, "")
    if url not in _states:
        info = attempt(url, lambda: _open(url, lambda fs, path: fs.info(path)))
        _states[url] = _state(info)
    return _states[url]


def read(url: str, start: int, stop: int) -> bytes:
    """Return the bytes of an object from `start` to `stop`, or to its end if that is earlier."""
    return bytes(attempt(url, lambda: _open(url, lambda fs, path: fs.cat_file(path, start=start, end=stop))))


def read_whole(url: str, limit: int) -> bytes:
    """Return the content of an object; raise a ReadError if it has more bytes than the limit, or has changed."""
    expected = state_of(url).size
    if expected > limit:
        raise ReadError(f"{url}: found {expected:,} bytes; expected at most {limit:,}. Leave this file out.")
    content = bytes(attempt(url, lambda: _open(url, lambda fs, path: _read_stream(fs, path, expected, limit))))
    if len(content) > limit:
        raise ReadError(f"{url}: found more than {limit:,} bytes; expected at most that. Leave this file out.")
    if expected not in (-1, len(content)):
        forget(url)
        raise ReadError(
            f"{url}: found {len(content):,} bytes; expected {expected:,}. The file has changed: run the command again."
        )
    return content


def _read_stream(fs: Any, path: str, expected: int, limit: int) -> bytes:
    if expected >= 0:  # a range, because s3fs requests the size of whole objects; one more byte reveals growth
        return bytes(fs.cat_file(path, start=0, end=expected + 1)) if expected else b""
    with fs.open(path, "rb", block_size=0) as stream:  # the size is unknown
        return bytes(stream.read(limit + 1))


def list_files(url: str) -> tuple[str, Mapping[str, State]]:
    """Return the address of a listed folder that is `url` or contains it, and the folder's objects by relative path.

    A folder is listed once per process, until `forget`.
    """
    for folder, listed in _folders.items():
        if url == folder or url.startswith(f"{folder}/"):
            return folder, listed
    if is_web_address(url):
        raise RemoteError(f"{url}: folders on the web can't be listed; expected an archive, or a table of addresses.")

    def find(fs: Any, path: str) -> dict[str, State]:
        fs.invalidate_cache(path)
        start = len(path.rstrip("/")) + 1
        found = fs.find(path, detail=True)
        files = {key[start:]: _state(info) for key, info in found.items() if info.get("type") == "file"}
        return {name: state for name, state in files.items() if name and not name.endswith("/")}

    try:
        found = attempt(url, lambda: _open(url, find))
    except FileNotFoundError:
        found = {}
    _folders[url] = found
    _states.update((f"{url}/{name}", state) for name, state in found.items())
    return url, found


def forget(url: str) -> None:
    """Discard what is known about objects at or below an address, so that the server is asked again."""
    for known in (_states, _folders):
        for other in [other for other in known if other == url or other.startswith(f"{url}/")]:
            del known[other]


def known_states(urls: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return the known states of objects for another process, which need not request them: see `remember_states`."""
    return {url: (_states[url].size, _states[url].stamp) for url in urls if url in _states}


def remember_states(states: Mapping[str, tuple[int, str]]) -> None:
    """Adopt states known to another process."""
    _states.update((url, State(*state)) for url, state in states.items())


def open_stream(url: str) -> BinaryIO:
    """Return a seekable stream of an object, read ahead in blocks."""
    stream = attempt(url, lambda: _open(url, lambda fs, path: fs.open(path, "rb")))
    if not isinstance(getattr(stream, "size", None), int):
        raise RemoteError(
            f"{url}: the server does not report the file's size or send parts of it; expected both. Download the file."
        )
    return cast(BinaryIO, io.BufferedReader(_Retried(url, stream), 2**16))


class _Retried(io.RawIOBase):
    """A stream that retries failed reads."""

    def __init__(self, url: str, stream: Any) -> None:
        super().__init__()
        self._url, self._stream, self._at = url, stream, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._stream.size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        def read() -> bytes:
            self._stream.seek(self._at)
            return bytes(self._stream.read(len(buffer)))

        content = attempt(self._url, read)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def attempt(url: str, act: Callable[[], T]) -> T:
    """Return the result of an action on an object; retry if its error may be transient.

    Raises:
        FileNotFoundError: there is no such object.
        RemoteError: all tries failed, or a retry can't help.
    """
    for tries, wait in enumerate((*_WAITS, None), 1):
        try:
            return act()
        except XrayfastError:
            raise
        except Exception as error:
            # fsspec's HTTP file system finds no file if there is no connection either.
            connection = error.__cause__ if isinstance(error.__cause__, OSError) else error
            if isinstance(connection, FileNotFoundError):
                raise FileNotFoundError(2, "no such object", url) from None  # the message may contain anything
            if wait is None or not _may_pass(connection):
                raise _remote_error(url, connection, tries) from None
        time.sleep(wait * random.uniform(1, 1.5))  # spreads out the retries of many ranks
    raise AssertionError


def _open(url: str, act: Callable[[Any, str], T]) -> T:
    """Return the result of an action on the fsspec file system and path of an address."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url)
    except ImportError:
        extra = _EXTRAS.get(url[:2], "http")
        raise ConfigError(
            f"{url}: needs a package that is not installed. Install it: pip install 'xrayfast[{extra}]'."
        ) from None
    return act(fs, path)


def _state(info: Mapping[str, Any]) -> State:
    if info.get("type") == "directory":
        return State(0, "", True)
    versions = [str(info[key]).strip('"') for key in (*_VERSIONS, *_TIMES) if info.get(key)]
    return State(int(info.get("size") or 0), versions[0] if versions else "")


def _status(error: Exception) -> int:
    """Return the HTTP status that an error contains; 0 for none."""
    response = getattr(error, "response", None)
    in_response = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    for status in (getattr(error, "status", None), getattr(error, "code", None), in_response.get("HTTPStatusCode")):
        if isinstance(status, int) and 100 <= status < 600:
            return status
    return 0


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if isinstance(error, (PermissionError, NotImplementedError, TypeError, ValueError)):
        return False
    return not _LASTING.search(type(error).__name__) and (status not in range(400, 500) or status in _PASSING)


def _remote_error(url: str, error: Exception, tries: int) -> RemoteError:
    status, number = _status(error), getattr(error, "errno", None)
    told = f", status {status}" if status else f", {os.strerror(number)}" if isinstance(number, int) else ""
    found = f"{type(error).__name__}{told}{f', after {tries} tries' if tries > 1 else ''}"
    refused = isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__
    advice = (
        "Set the credentials in the environment or in the files that the bucket's package reads; there is no option "
        "for them."
        if refused
        else "The server may not send parts of a file, which archives need: download the file."
        if isinstance(error, ValueError)
        else "Check the address and the network, then run the command again: images that are already cached are kept."
    )
    return RemoteError(f"{url}: can't be read ({found}). {advice}")
