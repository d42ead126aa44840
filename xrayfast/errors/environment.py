"""Environment variables: those that xrayfast reads, and wrong values that other packages refuse on import."""

from __future__ import annotations

import os
import re
from functools import cache
from traceback import walk_tb

from xrayfast.errors import find_closest
from xrayfast.errors.escapes import warn

PREFIX = "XRAYFAST_"

VARIABLES = (CACHE_VARIABLE := f"{PREFIX}CACHE", PASSWORD_VARIABLE := f"{PREFIX}PASSWORD")
"""All environment variables that the package reads; those of its tests begin with XRAYFAST_FAULTS_."""


@cache
def warn_of_unread_variables() -> None:
    """Warn of environment variables that are named like those of xrayfast but not read, once per process."""
    known = {name.removeprefix(PREFIX): name for name in VARIABLES}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in VARIABLES and not name.startswith(f"{PREFIX}FAULTS_"):
            near = find_closest(name.removeprefix(PREFIX), known)
            expected = f"Did you mean {known[near]}?" if near else f"xrayfast reads {' and '.join(VARIABLES)}."
            warn(f"The environment variable {name} has no effect. {expected}")


def blame_environment(error: BaseException) -> str:
    """Return a message if an error was raised while another package was imported, and it states the name or the value
    of environment variables; "" otherwise, and for missing modules, since an environment may be named for a package.
    """
    if isinstance(error, ImportError):
        return ""
    frames = (frame.f_code for frame, _ in walk_tb(error.__traceback__))
    packages = [re.search(r"site-packages[\\/](\w+)", c.co_filename) for c in frames if c.co_name == "<module>"]
    text = str(error).strip()
    names = [name for name, value in os.environ.items() if _states(text, name) or _states(text, value)]
    found = [match[1] for match in packages if match]
    if not found or not names:
        return ""
    listed = ", ".join(f"{name}={os.environ[name]}" for name in names)
    return (
        f"{found[-1]} can't be imported ({type(error).__name__}: {text}). The cause may be the environment: {listed}. "
        "Correct or unset the variable."
    )


def _states(text: str, value: str) -> bool:
    """Whether a text quotes a value, or has one of at least four characters as a word of its own."""
    as_word = re.search(rf"(?<![\w./-]){re.escape(value)}(?![\w/-])", text) if len(value) > 3 else None
    return repr(value) in text or as_word is not None
