"""Read and write YAML of mappings, lists and plain values, which can neither run code nor expand in memory."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from xrayfast.errors import LONGEST_NAME, XrayfastError, truncate
from xrayfast.files.regular_files import MAX_SMALL_BYTES, read_text

MAX_YAML_NODES, MAX_YAML_DEPTH, MAX_YAML_SCALAR = 20_000, 20, 5000
"""Maximum number of values in a YAML file, of nesting levels, and of characters per value. A `config.yaml` has 200
values, and parsing takes 0.1 ms per value."""

_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+|[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*)")
"""Numbers that YAML 1.1 reads in base 8 or 60: 010 as 8, 1:30 as 90, 0:30.5 as 30.5."""


def read_yaml(path: Path, expected: str, error: type[XrayfastError]) -> Any:
    """Read a YAML file of mappings, lists and plain values.

    Before any value is built, the file is rejected if it exceeds the limits or has a tag (could build an object), an
    anchor or alias (could turn a few bytes into gigabytes), a duplicate key (could hide a value) or a number like 010
    or 1:30 (is not 10 or 1.5).

    Raises:
        XrayfastError: the given class, naming file and line.
    """
    import yaml  # imported here because `--help` does not need it

    text = read_text(path, expected, MAX_SMALL_BYTES, error)
    loader = _with_numbers(getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        return copy.deepcopy(_parse(text, loader))
    except (yaml.YAMLError, ValueError) as problem:  # a ValueError is an invalid date
        mark = getattr(problem, "problem_mark", None)
        what = getattr(problem, "problem", None) or str(problem).partition("\n")[0]
        where = f"line {mark.line + 1}: " if mark else ""
        raise error(
            f"{path}: is not plain YAML ({where}{truncate(what, LONGEST_NAME)}); expected {expected}."
        ) from problem


@lru_cache(maxsize=8)
def _parse(text: str, loader: Any) -> Any:
    """Return the content of a YAML text; the `config.yaml` of a run is read several times by one command."""
    import yaml

    _require_plain(yaml.parse(text, Loader=loader))
    return yaml.load(text, Loader=loader)


def dump_yaml(content: Any) -> str:
    """Return text that `read_yaml` reads as the same content."""
    import yaml

    return yaml.dump(content, Dumper=_with_numbers(yaml.SafeDumper), sort_keys=False, allow_unicode=True)


@cache
def _with_numbers(base: Any) -> Any:
    """Return a loader or dumper that treats 1e-3 as a number, as in YAML 1.2; to PyYAML it is a string."""
    kind: Any = type(base.__name__, (base,), {})
    number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    kind.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return kind


def _require_plain(events: Iterable[Any]) -> None:
    """Raise a YAML error if a document exceeds the limits or has more than mappings, lists and plain values."""
    import yaml

    keys: list[set[str] | None] = []  # of each open mapping; None for a list
    inside: list[int] = []  # number of nodes in each open collection so far
    count = 0

    def refuse(found: str, event: Any) -> None:
        raise yaml.MarkedYAMLError(problem=found, problem_mark=event.start_mark)

    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            keys.pop(), inside.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        count += 1
        if count > MAX_YAML_NODES:
            refuse(f"more than {MAX_YAML_NODES:,} values", event)
        if event.anchor is not None:  # aliases have anchors too
            refuse("an anchor or alias", event)
        if getattr(event, "tag", None) is not None:
            refuse("a tag", event)
        text: str | None = getattr(event, "value", None)  # set for scalars
        if text is not None and len(text) > MAX_YAML_SCALAR:
            refuse(f"a value of {len(text):,} characters", event)
        if text is not None and getattr(event, "implicit", (False,))[0] and _OTHER_BASE.fullmatch(text):
            refuse(f"{text}, which YAML reads in base 8 or 60; write 10 for ten, and quotes around text", event)
        if keys:
            inside[-1] += 1
            known = keys[-1]
            if known is not None and inside[-1] % 2:
                if text is None:
                    refuse("a key that is not plain text", event)
                elif text in known:
                    refuse(f"the key '{truncate(text, 100)}' twice", event)
                else:
                    known.add(text)
        if text is None:
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            inside.append(0)
            if len(keys) > MAX_YAML_DEPTH:
                refuse(f"more than {MAX_YAML_DEPTH} levels of nesting", event)
