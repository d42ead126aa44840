"""YAML that holds mappings, lists and plain values, and nothing that could run or grow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from xrayfast.errors import LONGEST_NAME, XrayfastError, truncate
from xrayfast.files.regular_files import MAX_SMALL_BYTES, read_text

MAX_YAML_NODES, MAX_YAML_DEPTH, MAX_YAML_SCALAR = 20_000, 20, 5000
"""Most values of a YAML file, most levels of nesting, and most characters of a value: a `config.yaml` has 200 values,
and the parser takes 0.1 ms for each."""


def read_yaml(path: Path, expected: str, error: type[XrayfastError]) -> Any:
    """Read a YAML file of mappings, lists and plain values.

    Whatever could build an object, name a value that stands elsewhere (so that few bytes become gigabytes), or hide one
    value behind another of the same key is refused before any value is built, as is what is too large.

    Raises:
        XrayfastError: of that class, which names file and line.
    """
    import yaml  # here, as `--help` needs none

    text = read_text(path, expected, MAX_SMALL_BYTES, error)
    loader = _with_numbers(getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        _require_plain(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError) as problem:  # a ValueError is a date that there is not
        mark = getattr(problem, "problem_mark", None)
        what = getattr(problem, "problem", None) or str(problem).partition("\n")[0]
        where = f"line {mark.line + 1}: " if mark else ""
        raise error(
            f"{path}: is not plain YAML ({where}{truncate(what, LONGEST_NAME)}); expected {expected}."
        ) from problem


def dump_yaml(content: Any) -> str:
    """Text that `read_yaml` reads as the same content."""
    import yaml

    return yaml.dump(content, Dumper=_with_numbers(yaml.SafeDumper), sort_keys=False, allow_unicode=True)


@cache
def _with_numbers(base: Any) -> Any:
    """A loader or dumper to which 1e-3 is a number, as in YAML 1.2 and everywhere else; to PyYAML it is a text."""
    kind: Any = type(base.__name__, (base,), {})
    number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    kind.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return kind


def _require_plain(events: Iterable[Any]) -> None:
    """Raise an error of YAML where a document has anything but mappings, lists and plain values within the limits."""
    import yaml

    keys: list[set[str] | None] = []  # of each open mapping; None for a list
    inside: list[int] = []  # how many nodes each has so far
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
        if event.anchor is not None:  # an alias has one too
            refuse("an anchor or alias", event)
        if getattr(event, "tag", None) is not None:
            refuse("a tag", event)
        text: str | None = getattr(event, "value", None)  # of a scalar
        if text is not None and len(text) > MAX_YAML_SCALAR:
            refuse(f"a value of {len(text):,} characters", event)
        if keys:
            inside[-1] += 1
            known = keys[-1]
            if known is not None and inside[-1] % 2:
                if text is None:
                    refuse("a key that is no word", event)
                elif text in known:
                    refuse(f"the key '{truncate(text, 100)}' twice", event)
                else:
                    known.add(text)
        if text is None:
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            inside.append(0)
            if len(keys) > MAX_YAML_DEPTH:
                refuse(f"more than {MAX_YAML_DEPTH} levels of nesting", event)
