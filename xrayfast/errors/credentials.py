"""Removes passwords and queries, which may contain signatures, from addresses that are shown."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"([a-z][a-z\d+.-]*:/+)[^/\s@:]*:[^/\s@]*@", re.IGNORECASE)
_QUERY = re.compile(r"(https?:/+[^\s?'\"]+\?)[^\s'\"]+", re.IGNORECASE)


def hide_credentials(text: str) -> str:
    """Replace the passwords and queries of addresses in a text by "***".

    >>> hide_credentials("https://me:secret@host/a.png?X-Amz-Signature=1f: found no such object")
    'https://***@host/a.png?*** found no such object'
    >>> hide_credentials("abfs://container@account/a.png")
    'abfs://container@account/a.png'
    """
    if ":/" not in text:
        return text
    return _QUERY.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))
