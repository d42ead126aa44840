"""Escapes for characters that are invisible or that change how other text is shown.

Names of files and labels may come from strangers. In a terminal, an escape sequence can change the screen, a line break
can imitate a message of this program, and a bidirectional control can show `gpj.exe` as `exe.jpg`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unicodedata import category

from xrayfast.errors.advice import advise

_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks that are drawn as nothing."""


def is_hidden(character: str) -> bool:
    """Whether a character is invisible without being a space, or changes how other text is shown.

    These are controls, format characters (bidirectional, zero-width), line breaks, lone surrogates, characters of
    private use, unassigned characters and blank letters.
    """
    return character in _BLANK or not (character.isprintable() or category(character) == "Zs")


def escape_hidden(text: str) -> str:
    r"""Replace hidden characters by Python escapes, and bytes of a file name that are not UTF-8 by escapes like `\xff`.

    Backslashes are not escaped, because Windows paths contain them. So escaping a text twice changes nothing.

    >>> print(escape_hidden("a\x1b[31m\u202eb\n\udcff"))
    a\x1b[31m\u202eb\n\xff
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(character) if is_hidden(character) else character for character in text)


def escape_lines(text: str) -> str:
    r"""Escape the hidden characters of a text except its line breaks."""
    return "\n".join(map(escape_hidden, text.split("\n")))


_NEVER_THE_CALLER = ("xrayfast", "contextlib", "fastai", "fastcore")
"""Packages whose frames are skipped to find the line of the user's code that led to a warning."""

_RECEIVERS: list[Callable[[str], object]] = []
"""Receivers of the running blocks of `passing_warnings`, the innermost last."""


def warn(text: str) -> None:
    """Pass a note to the current receiver; if there is none or it can't display it, warn at the caller's line."""
    if not _RECEIVERS or _RECEIVERS[-1](text) is False:
        level, frame = 2, sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _NEVER_THE_CALLER:
            level, frame = level + 1, frame.f_back
        warnings.warn(escape_hidden(advise(text)), stacklevel=level)


@contextmanager
def passing_warnings(receiver: Callable[[str], object]) -> Iterator[None]:
    """Pass the texts of `warn` to `receiver` within the block; it returns False if it can't display one."""
    _RECEIVERS.append(receiver)
    try:
        yield
    finally:
        _RECEIVERS.remove(receiver)


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded as UTF-8, unlike file names that Python decoded from other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python reads a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
