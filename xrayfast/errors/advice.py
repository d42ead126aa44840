"""Translation of the advice in messages: flags and commands become arguments and functions in Python.

All messages are written with flags and commands, as in "Use --loss focal", and are translated for users of Python.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator
from contextlib import contextmanager

_WORDS = frozenset({"auto", "ignore", "imagenet", "none", "off", "on", "ones", "zeros"})
"""Values of options that are not otherwise words of a message."""

_VALUES: dict[str, Collection[str]] = {"by": ["folder"], "split": ["train", "valid", "test"]}
_SWITCHES = {"correct_prior", "random_folds"}
"""Values of options that are words, keyed by option, and options without a value. `xrayfast.config` adds its fields."""

_NOT_OURS = {"nproc-per-node"}
"""Flags of torchrun."""

_SAME_NAME = (
    "check",
    "compare",
    "evaluate",
    "export",
    "fit",
    "interpret",
    "predict",
    "push",
    "review",
    "split",
    "synth",
)
_FUNCTIONS = dict(zip(_SAME_NAME, _SAME_NAME, strict=True)) | {
    "cross-validate": "cross_validate",
    "cross-validate --join": "join_folds",
    "cross-validate --resume": "resume_cross_validation",
    "fit --resume": "resume",
    "lr-find": "find_lr",
}
"""Commands that messages name, and the functions that do the same in Python; messages write them as `xf.NAME`."""

_TOKEN = r"\$?'[^'\n]*'|\w+(?:\.\w+)*(?:,\w+(?:\.\w+)*)+|[\w/](?:[\w/.:*=-]*\w)?"
_FLAG = re.compile(
    rf"(?P<quote>'?)(?<![\w/.-])--(?P<no>no-)?(?P<flag>[a-z][a-z0-9-]*[a-z0-9])"
    rf"(?P<values>(?: (?:{_TOKEN})(?:(?:, | or )(?:{_TOKEN}))*)?)(?P=quote)"
)
_COMMAND = re.compile(
    r"'xrayfast (?P<command>[a-z-]+)(?P<rest>(?: (?:'[^'\n]*'|[^'\s]+))*)'"
    r"|xrayfast (?P<bare>fit|cross-validate) (?P<option>--(?:resume|config) (?:'[^'\n]*'|\S+))"
)

_advises_flags = False


@contextmanager
def advising_flags() -> Iterator[None]:
    """Leave messages untranslated within the block, as in a command."""
    global _advises_flags
    before, _advises_flags = _advises_flags, True
    try:
        yield
    finally:
        _advises_flags = before


def advise(text: str) -> str:
    """Translate a message, unless a command is running."""
    return text if _advises_flags else name_arguments(text)


def quoted(value: object) -> str:
    """Return a value in quotes, for use after a flag in a message.

    >>> quoted("resnet18"), quoted("a b")
    ("'resnet18'", "'a b'")
    """
    text = shlex.quote(str(value))
    return text if text[0] == "'" else f"'{text}'"


def describe_option(name: str, values: Collection[str], is_switch: bool) -> None:
    """Register an option for translation: its values that are words, and whether it is a switch without a value."""
    _VALUES[name] = values
    _SWITCHES.update([name] if is_switch else [])


def name_arguments(text: str) -> str:
    """Translate a message for users of Python: flags become arguments, and commands become functions.

    >>> name_arguments("--no-tta, --test-fraction 0.15 or --reuse-frozen on; 'xrayfast lr-find --steps 9'")
    "tta=False, test_fraction=0.15 or reuse_frozen='on'; xf.find_lr(steps=9)"
    >>> name_arguments("'xrayfast fit --resume runs/a' goes on")
    "xf.resume('runs/a') goes on"
    """
    if "--" not in text and "xrayfast " not in text:
        return text
    kept: list[str] = []

    def translate(found: re.Match[str]) -> str:
        kept.append(_call(found))
        return f"\0{len(kept) - 1}\0"

    text = _FLAG.sub(_argument, _COMMAND.sub(translate, text))
    return re.sub(r"\0(\d+)\0", lambda found: kept[int(found[1])], text)


def _argument(found: re.Match[str]) -> str:
    """Translate a flag and the values that follow it to an argument."""
    if found["flag"] in _NOT_OURS:
        return found[0]
    quote, name = found["quote"], found["flag"].replace("-", "_")
    tokens = ["", *re.findall(rf" or |, | |{_TOKEN}", found["values"])]  # such as "", " ", "ce", " or ", "bce"
    shown, used = "", 1
    while used + 1 < len(tokens) and _is_value(name, tokens[used + 1]):
        shown += tokens[used] * bool(shown) + _show(name, tokens[used + 1])
        used += 2
        if found["no"]:
            break
    rest = "".join(tokens[used:])
    if found["no"] or (not shown and name in _SWITCHES):
        shown = str(not found["no"])
    quote = quote if rest else ""
    return f"{quote}{name}={shown}{rest}{quote}"


def _is_value(name: str, token: str) -> bool:
    """Whether a token after a flag is its value, and not the next word of the sentence."""
    if name in _SWITCHES and not token[0].isdigit():
        return False
    return (
        bool(re.match(r"['$\d]|[A-Z]+\b|\w*[/:]|[\w.]+,", token)) or token in _WORDS or token in _VALUES.get(name, ())
    )


def _show(name: str, token: str) -> str:
    """Return a value as it is written in Python; a placeholder such as FILE stays the same."""
    if name == "config":
        return f"xf.Config.read({_show('', token)})"
    if "," in token and (token[0] != "'" or name == "label_col"):
        shown = ", ".join(_show("", one) for one in token.strip("'").split(","))
        return f"({shown})"
    is_one = token[0] in "'$" or re.fullmatch(r"[A-Z_]+|\d[\d.e-]*", token)
    return token.removeprefix("$") if is_one else repr(token)


def _call(found: re.Match[str]) -> str:
    """Translate a command line to a call of the function; return it unchanged if there is no such function."""
    command, rest = found["command"] or found["bare"], (found["rest"] or found["option"] or "").strip()
    first, _, others = rest.partition(" ")
    if f"{command} {first}" in _FUNCTIONS:
        command, rest = f"{command} {first}", others
    if command not in _FUNCTIONS:
        return found[0]
    function = f"xf.{_FUNCTIONS[command]}"
    flags = list(_FLAG.finditer(rest))
    words = re.findall(r"'[^'\n]*'|\S+", rest[: flags[0].start()] if flags else rest)
    arguments = [*(_show("", word) for word in words), *map(_argument, flags)]
    return f"{function}({', '.join(arguments)})" if rest else function
