"""Text as it may be shown: what can't be seen, or changes how the rest is seen, is written as an escape.

Names of files and labels come from strangers. In a terminal an escape sequence can change the screen, a line break can
imitate a message of ours, and a bidirectional control can show `gpj.exe` as `exe.jpg`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unicodedata import category

from xrayfast.errors.advice import advise

_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks without any ink."""


def is_hidden(character: str) -> bool:
    """Whether a character is a control, a format character (bidirectional, zero-width), a line break, half a surrogate
    pair, of private use, unassigned, or blank without being a space.
    """
    return character in _BLANK or not (character.isprintable() or category(character) == "Zs")


def escape_hidden(text: str) -> str:
    r"""The text with hidden characters as Python escapes, and bytes of a file name that are not UTF-8 as `\xff`.

    Backslashes stay as they are, as paths of Windows have them: text that was escaped is not changed by it again.

    >>> print(escape_hidden("a\x1b[31m\u202eb\n\udcff"))
    a\x1b[31m\u202eb\n\xff
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(character) if is_hidden(character) else character for character in text)


def escape_lines(text: str) -> str:
    r"""The same for a text of several lines, whose line breaks stay."""
    return "\n".join(map(escape_hidden, text.split("\n")))


_NEVER_THE_CALLER = ("xrayfast", "contextlib", "fastai", "fastcore")
"""Packages whose frames lie between a note and the line of the user's own that led to it."""

_RECEIVERS: list[Callable[[str], object]] = []
"""The receivers of the blocks of `passing_warnings` that are running."""


def warn(text: str) -> None:
    """Warn where the package was called, which is what its notes do where nothing displays them."""
    if not _RECEIVERS or _RECEIVERS[-1](text) is False:
        level, frame = 2, sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _NEVER_THE_CALLER:
            level, frame = level + 1, frame.f_back
        warnings.warn(escape_hidden(advise(text)), stacklevel=level)


@contextmanager
def passing_warnings(receiver: Callable[[str], object]) -> Iterator[None]:
    """Within the block `receiver` gets the texts of `warn`, and returns False where it can't display one."""
    _RECEIVERS.append(receiver)
    try:
        yield
    finally:
        _RECEIVERS.remove(receiver)


def is_utf8(text: str) -> bool:
    """Whether the text can be written as UTF-8: not, where it is the name of a file that is not UTF-8 itself."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python reads a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
