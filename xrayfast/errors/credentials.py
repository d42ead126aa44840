"""Addresses as they may be shown: without passwords, and without queries, which may be signatures."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"([a-z][a-z\d+.-]*:/+)[^/\s@:]*:[^/\s@]*@", re.IGNORECASE)
_QUERY = re.compile(r"(https?:/+[^\s?'\"]+\?)[^\s'\"]+", re.IGNORECASE)


def hide_credentials(text: str) -> str:
    """The text with the passwords and queries of its addresses left out.

    >>> hide_credentials("https://me:secret@host/a.png?X-Amz-Signature=1f: found no such object")
    'https://***@host/a.png?*** found no such object'
    >>> hide_credentials("abfs://container@account/a.png")
    'abfs://container@account/a.png'
    """
    if ":/" not in text:
        return text
    return _QUERY.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))
