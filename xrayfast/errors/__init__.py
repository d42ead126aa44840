"""The package's exceptions, and the wording that messages and reports share.

Every message says where the error is, what was found, what was expected and what to do next. It is written with flags
and commands; in Python these are replaced by arguments and functions (`advice`). The command line prints the message,
with the names of options replaced by flags, and exits with 1, or with 2 if an option is wrong (`ConfigError`).
"""

from __future__ import annotations

import difflib
import errno
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from xrayfast.errors.advice import advise
from xrayfast.errors.credentials import hide_credentials
from xrayfast.errors.escapes import escape_hidden

LONGEST_MESSAGE, LONGEST_NAME = 4000, 200
"""Largest number of characters of a message, and of one name in a list. The middle of longer text is left out."""


class XrayfastError(Exception):
    """Base class of all errors that a user can fix. Its arguments are the lines of the message."""

    def __str__(self) -> str:
        return truncate("\n".join(escape_hidden(hide_credentials(advise(str(line)))) for line in self.args))

    def _render_traceback_(self) -> list[str]:
        """Return what IPython displays: the message alone, without the frames of this package."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(XrayfastError, ValueError):
    """An option with a wrong value, or options that contradict each other or the data."""


class ConfigFileError(ConfigError):
    """A file of settings or of synonyms that can't be read or holds a wrong value."""


class DataError(XrayfastError, ValueError):
    """Images, labels or splits that can't be used."""


class ReadError(DataError):
    """One image file that can't be read."""


class RemoteError(DataError):
    """Remote storage that can't be reached or refuses access. The files in it may be intact."""


class WeightsError(XrayfastError, ValueError):
    """Pretrained weights that are missing or don't fit the network."""


class RunError(XrayfastError, RuntimeError):
    """A run folder that can't be written, read or resumed."""


class WriteError(XrayfastError):
    """A file that can't be written."""


class TrainingError(XrayfastError, RuntimeError):
    """Training that can't continue."""


def describe_os_error(error: OSError) -> str:
    """Return the message for an operating system error that no other code describes."""
    if error.errno == errno.ENOENT and error.filename is None:  # of os.getcwd()
        return "The current folder does not exist any more. Go to another one with cd, and run the command again."
    if error.filename and error.errno in (errno.EACCES, errno.EPERM):
        return f"{error.filename}: permission denied. Check who may read and write it and the folders above it."
    if error.errno != errno.ENAMETOOLONG:
        return str(error)
    name = truncate(str(error.filename), LONGEST_NAME)
    return (
        f"{name}: is too long for the file system; most allow 255 bytes of UTF-8 for a name and 4,096 for a path with "
        "all its folders. Choose a shorter name."
    )


class Interrupted(XrayfastError):
    """Training that the user or a signal stopped; the message says how to resume.

    Attributes:
        exit_code: exit code of the process: 130 after Ctrl-C, 143 after SIGTERM and SIGUSR1, 129 after SIGHUP.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def importing(what: str, extra: str) -> Iterator[None]:
    """Turn the error of a missing package into a ConfigError that says what needs it, and which extra installs it."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{what} can't be imported ({error}). Install it: pip install 'xrayfast[{extra}]'."
        ) from error


_NAMES_ELSEWHERE = {
    "batch_tfms": "augment",
    "bs": "batch_size",
    "callbacks": "cbs",
    "custom_head": "head",
    "cut": "arch",
    "fp16": "precision",
    "gpu": "cuda",
    "img_size": "size",
    "learning_rate": "lr",
    "loss_func": "loss",
    "model": "arch",
    "n_epoch": "epochs",
    "num_it": "steps",
    "num_workers": "workers",
    "opt_func": "optimizer",
    "pretrained": "weights",
    "ps": "dropout",
    "seed": "split_seed",
    "valid_pct": "valid_fraction",
    "weight_decay": "wd",
}
"""Names of options in fastai and other tools, and the names here."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint for a misspelled word or another tool's name: " Did you mean 'x'?"; "" if no known word is close.

    >>> did_you_mean("resnet81", ["resnet18", "vgg16"])
    " Did you mean 'resnet18'?"
    """
    near = find_closest(word, known)
    return f" Did you mean '{near}'?" if near else ""


def find_closest(word: str, known: Iterable[str]) -> str:
    """Return the known word that a misspelled word or another tool's name is closest to; "" if none is close."""
    known = list(known)
    if (name := _NAMES_ELSEWHERE.get(word)) in known:
        return str(name)
    return next(iter(difflib.get_close_matches(word, known, n=1)), "") if len(word) <= LONGEST_NAME else ""


def shorten(items: Iterable[object], limit: int = 5) -> str:
    """Return the first few items, separated by commas, and how many more there are.

    >>> shorten("abcdefgh", 3)
    'a, b, c and 5 more'
    """
    listed = [str(item) for item in items]
    more = len(listed) - limit
    return ", ".join(truncate(item, LONGEST_NAME) for item in listed[:limit]) + (
        f" and {more} more" if more > 0 else ""
    )


def truncate(text: str, limit: int = LONGEST_MESSAGE) -> str:
    """Leave out the middle of a text that is longer than the limit, unless the result would not be shorter.

    The start of a message says where the error is, and the end what to do.

    >>> truncate("a" * 5000 + "b" * 5000, 6)
    'aaaa [9,994 characters left out] bb'
    >>> truncate("abcdefgh", 6)
    'abcdefgh'
    """
    if len(text) <= limit:
        return text
    end = limit // 3
    return min(text, f"{text[: limit - end]} [{len(text) - limit:,} characters left out] {text[-end:]}", key=len)


def plural(count: int, noun: str) -> str:
    """Return a count and its noun, in the plural unless the count is 1.

    >>> plural(1, "patient"), plural(1200, "image"), plural(2, "study"), plural(3, "class")
    ('1 patient', '1,200 images', '2 studies', '3 classes')
    """
    return f"{count:,} {noun if count == 1 else plural_noun(noun)}"


def plural_noun(noun: str) -> str:
    """Return the plural of a noun.

    >>> plural_noun("study"), plural_noun("class"), plural_noun("image")
    ('studies', 'classes', 'images')
    """
    if noun.endswith("y") and noun[-2] not in "aeou":
        return f"{noun[:-1]}ies"
    return f"{noun}{'es' if noun[-1] == 's' else 's'}"


def format_value(value: float, form: str = ".3f") -> str:
    """Format a number; a negative one gets a typographic minus sign.

    >>> format_value(-0.0312), format_value(1234, ",d"), format_value(1e-6, ".2g")
    ('−0.031', '1,234', '1e-06')
    """
    text = format(value, form)
    return f"−{text[1:]}" if text.startswith("-") else text


def format_interval(low: float, high: float, form: str = ".3f") -> str:
    """Format both ends of an interval, such as "0.653 to 0.788"."""
    return f"{format_value(low, form)} to {format_value(high, form)}"


def format_estimate(value: float | None, interval: Mapping[str, Any] | None, form: str = ".3f") -> str:
    """Format a value with its interval, a mapping with `low` and `high`, if any; an undefined value is a dash.

    >>> format_estimate(0.953, {"low": 0.93, "high": 0.971}), format_estimate(-0.02, None, "+.3f")
    ('0.953 (0.930 to 0.971)', '−0.020')
    """
    if value is None or not math.isfinite(value):
        return format_cell(None)
    text = format_value(value, form)
    if not interval or interval.get("low") is None or interval.get("high") is None:
        return text
    return f"{text} ({format_interval(interval['low'], interval['high'], form)})"


def format_cell(cell: object) -> str:
    """Format a cell of a table: floats with three decimals, None and NaN as a dash.

    >>> format_cell(-0.8361), format_cell(1200), format_cell(None)
    ('−0.836', '1,200', '–')
    """
    if cell is None or (isinstance(cell, float) and cell != cell):
        return "–"
    if isinstance(cell, bool) or not isinstance(cell, (int, float)):
        return str(cell)
    return format_value(cell, ".3f" if isinstance(cell, float) else ",d")
