"""Parse the text of paths into archives and remote buckets."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from pathlib import Path

_REMOTE = re.compile(r"(s3a?|gs|gcs|az|abfss?|https?):[/\\]+(?=[^/\\])", re.IGNORECASE)
"""Start of a remote address, also after `Path` has reduced two slashes to one, on Windows to a backslash."""

_ARCHIVE = re.compile(r"(.*?\.(?:zip|tar|tgz|tbz2?|txz|tar\.(?:gz|bz2|xz)))(?:[/\\]+(.*))?", re.IGNORECASE | re.DOTALL)
"""A path to an archive or into one: groups are the archive, and the path inside."""

_CHAINED = re.compile(r"(?:zip|tar):/+(.*?)::(.+)", re.DOTALL)
"""fsspec's notation for a member: zip://MEMBER::ARCHIVE."""

_SIGNED = re.compile(
    r"https?:/+[^/@]*@|s3a?:/+[^/@]*:[^/@]*@|[a-z\d]+:/+[^/@]*:[^/@]*@|https?:/+[^?]*\?", re.IGNORECASE
)
"""Start of an address that holds a password, or a query, which may be a signature."""

_SIGNATURE = re.compile(
    r"(x-(amz|goog)-[\w-]+|awsaccesskeyid|googleaccessid|key-pair-id|policy|signature|sig|token|expires"
    r"|s[eprvt]|srt?|ss|spr|sk[a-z]{1,3})=",
    re.IGNORECASE,
)
"""Query parameters that sign an address in the buckets of Amazon, Google and Azure."""


def canonical(path: str | Path) -> str:
    """Return a path's canonical text: two slashes in remote addresses, archive members appended to the archive's path.

    >>> canonical("zip://normal/1.png::images.zip"), canonical("images.tar::1.png")
    ('images.zip/normal/1.png', 'images.tar/1.png')
    >>> canonical("s3:/bucket/1.png"), canonical("tar://1.png::s3://bucket/a.tar"), canonical("file:///data/1.png")
    ('s3://bucket/1.png', 's3://bucket/a.tar/1.png', '/data/1.png')
    """
    text = os.fspath(path)
    if ":" not in text:  # fast, because called for each image of each epoch
        return text
    if "::" in text:
        if chained := _CHAINED.fullmatch(text):
            text = f"{chained[2].rstrip('/')}/{chained[1].lstrip('/')}"
        else:
            archive, _, inner = text.partition("::")
            text = f"{archive}/{inner.lstrip('/')}" if split_archive(archive) == (archive, "") else text
    if text.startswith("file:/"):
        return f"/{text[5:].lstrip('/')}"
    if scheme := _REMOTE.match(text):
        return f"{scheme[1].lower()}://{text[scheme.end() :].replace(os.sep, '/')}"
    return text


def identity(path: str | Path) -> str:
    """Return the absolute path under which a file's image is cached, which is the same for all notations.

    The parameters that sign a web address are dropped, because they change with each signature.
    """
    text = canonical(path)
    if ":" not in text or not is_remote(text):
        return os.path.abspath(text)  # noqa: PTH100 - Path.absolute leaves ".." in
    address, mark, query = text.partition("?") if text[:4] == "http" else (text, "", "")
    kept = "&".join(part for part in query.split("&") if not _SIGNATURE.match(part))
    return f"{address}{mark if kept else ''}{kept}"


def name_of_address(address: str) -> str:
    """Return the name of a file on the web: its address without password and signature.

    >>> name_of_address("https://host/1.png?X-Amz-Signature=ab"), name_of_address("https://host/get?id=1")
    ('https://host/1.png', 'https://host/get?d9fc91d4')
    """
    address, mark, query = identity(address).partition("?")
    address = re.sub(r"(?<=://)[^/@]*@", "", address)
    return address + mark + hashlib.sha256(query.encode()).hexdigest()[:8] * bool(mark)


def suffix_of(path: str) -> str:
    """Return the suffix of a file's name in lower case, ignoring a query after it.

    >>> suffix_of("https://host/1.PNG?sig=ab.c"), suffix_of("a/1.dcm"), suffix_of("a.b/1")
    ('.png', '.dcm', '')
    """
    address = path.partition("?")[0] if is_web_address(path) else path
    return os.path.splitext(address)[1].lower()  # noqa: PTH122 - called for each file of large trees


def is_remote(path: str | Path) -> bool:
    """Whether a path is the address of a remote object, or leads into a remote archive."""
    text = os.fspath(path)
    return ":" in text and _REMOTE.match(text) is not None


def is_web_address(text: str) -> bool:
    """Whether a text is the address of a single file on the web, where folders can't be listed."""
    return text[:4].lower() == "http" and is_remote(text) and split_archive(text) is None


def split_archive(path: str) -> tuple[str, str] | None:
    """Return the archive in a path, recognized by its suffix, and the path inside, with '/'; None if there is none.

    >>> split_archive("a/b.tar.gz/c/1.png"), split_archive("b.zip"), split_archive("a/1.png")
    (('a/b.tar.gz', 'c/1.png'), ('b.zip', ''), None)
    """
    found = _ARCHIVE.fullmatch(path)
    return (found[1], (found[2] or "").replace("\\", "/").rstrip("/")) if found else None


def holds_credentials(path: str | Path) -> bool:
    """Whether an address holds a password, or a query, which may be a signature.

    >>> holds_credentials("https://me:secret@host/a.zip"), holds_credentials("https://host/a.zip?sig=x")
    (True, True)
    >>> holds_credentials("abfs://container@account/a.zip"), holds_credentials("s3://bucket/what?.png")
    (False, False)
    """
    return _SIGNED.match(canonical(path)) is not None


def normalize(path: str) -> str:
    """Return `os.path.normpath` of a path, leaving the scheme of remote addresses intact."""
    path = canonical(path)
    if scheme := _REMOTE.match(path):
        return path[: scheme.end()] + posixpath.normpath(path[scheme.end() :])
    return os.path.normpath(path)


def is_absolute(path: str) -> bool:
    """Whether a path means the same file wherever it is looked up from."""
    return os.path.isabs(path) or is_remote(path)  # noqa: PTH117 - called for each folder of a table
