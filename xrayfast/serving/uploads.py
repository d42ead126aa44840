"""Reads the files of requests into memory, within limits; nothing is written to disk."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from xrayfast.errors import LONGEST_NAME, truncate
from xrayfast.errors.escapes import escape_hidden
from xrayfast.serving.classifier import Upload

FIELD = "files"

MAX_FILES = 32
"""Largest number of files per request; the page sends each file in its own request."""

MAX_REQUEST_BYTES = 2**29
"""Largest size of a request. The largest image that is decoded has 300 MB as uncompressed 16-bit gray."""

MAX_HELD_BYTES = 2**30
"""Largest total size of all requests in memory."""

MAX_SECONDS = 600
"""Seconds in which a request must arrive, so that an unfinished one does not hold its memory."""


# Errors in a form are reported in the answer. The parser's own warnings would let a stranger flood the terminal.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


class _MultiPartParser(MultiPartParser):
    """A parser that keeps files in memory; starlette's own writes files of more than 1 MB to disk."""

    spool_max_size = 0  # for tempfile.SpooledTemporaryFile: never write to disk


class Uploads:
    """The files of all requests that are in memory.

    Attributes:
        held: their total size in bytes.
    """

    def __init__(self) -> None:
        self.held = 0

    @asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Read the files of a request, which count as held until the end of the block.

        Raises:
            HTTPException: there are no files, too many or too large ones; the request is not multipart/form-data, is
                damaged or too slow; or too many bytes are held already.
        """
        taken = 0

        async def stream() -> AsyncGenerator[bytes, None]:
            nonlocal taken
            async for chunk in request.stream():
                taken, self.held = taken + len(chunk), self.held + len(chunk)
                _require_room(taken, self.held)
                yield chunk

        _require_multipart(request)
        _require_room(_announced(request), self.held + _announced(request))
        try:
            yield await _in_time(_parse(request, stream()))
        finally:
            self.held -= taken


async def _in_time(uploads: Coroutine[Any, Any, list[Upload]]) -> list[Upload]:
    try:
        return await asyncio.wait_for(uploads, MAX_SECONDS)
    except asyncio.TimeoutError:
        text = f"The files had not arrived after {MAX_SECONDS} seconds. Send fewer of them."
        raise HTTPException(408, text) from None


def _require_multipart(request: Request) -> None:
    content_type = request.headers.get("content-type", "")
    if not re.match(r"multipart/form-data\s*;.*boundary=", content_type, re.IGNORECASE):
        raise HTTPException(
            415,
            f"The Content-Type is '{truncate(escape_hidden(content_type), LONGEST_NAME)}'; expected "
            f"multipart/form-data with a boundary and files in the field '{FIELD}', as 'curl -F {FIELD}=@image.png' "
            "sends it.",
        )


def _announced(request: Request) -> int:
    """Return the length in the request's header; 0 if it has none."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _require_room(size: int, held: int) -> None:
    if size > MAX_REQUEST_BYTES:
        raise HTTPException(
            413, f"The files have more than {MAX_REQUEST_BYTES // 2**20} MB. Send fewer of them, or smaller images."
        )
    if held > MAX_HELD_BYTES:
        raise HTTPException(
            503,
            f"Other requests with {MAX_HELD_BYTES // 2**20} MB of files are waiting for an answer. Send yours again "
            "later.",
            {"Retry-After": "5"},
        )


async def _parse(request: Request, stream: AsyncGenerator[bytes, None]) -> list[Upload]:
    parser = _MultiPartParser(request.headers, stream, max_files=MAX_FILES, max_fields=0)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(
            400,
            f"The form can't be read ({error.message.rstrip('.')}); expected 1 to {MAX_FILES} files in the field "
            f"'{FIELD}' and no other field.",
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "The connection ended before the files had arrived. Send them again.") from None
    uploads = []
    for name, file in form.multi_items():
        if name != FIELD:
            found = truncate(escape_hidden(name), LONGEST_NAME)
            raise HTTPException(400, f"found files in the field '{found}'; expected them in '{FIELD}'.")
        assert isinstance(file, UploadFile)  # the parser allows no other fields
        name = truncate(escape_hidden(file.filename or "unnamed"), LONGEST_NAME)
        uploads.append(Upload(name, await file.read()))
        await file.close()
    if not uploads:
        raise HTTPException(400, f"found no file; expected 1 to {MAX_FILES} in the field '{FIELD}'.")
    return uploads
