"""Read a JSON file as a type of `info_types` or `metrics_types`, which detects damaged and foreign files.

Keys that a type does not name are kept as they are, and keys of older versions get their present names.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, Field, FiniteFloat, TypeAdapter, ValidationError

from xrayfast.errors import RunError
from xrayfast.errors.escapes import is_utf8
from xrayfast.files.intact import require_intact
from xrayfast.files.regular_files import read_text

T = TypeVar("T")

FloatOrNone = float | None
"""None where undefined."""


def renamed(name: str, *old: str, default: Any = ...) -> Any:
    """Make a field that had other names in older versions."""
    return Field(default, validation_alias=AliasChoices(name, *old))


Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
NonNegative = Annotated[FiniteFloat, Field(ge=0)]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a valid JSON number")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: the file is missing, damaged or too large, can't be read, or holds something else.
    """
    if not path.is_file():
        raise RunError(f"{path.parent}: lacks {path.name}; the folder is damaged or incomplete.")
    text = read_text(path, "a JSON object")
    require_intact(path)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: can't be read as JSON ({error}).") from error
    if "\\u" in text and not is_utf8(json.dumps(content, ensure_ascii=False)):
        raise RunError(
            f"{path}: contains text that is not valid Unicode: half of a surrogate pair, written as an escape."
        )
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(content).__name__}.")
    return content


def read_typed(path: Path, form: type[T]) -> T:
    """Read a JSON file as one of the types of this module.

    Raises:
        RunError: the file can't be read, or has another form; the message names the file, the field, what was found and
            what was expected.
    """
    try:
        adapter: TypeAdapter[T] = _adapter(form)
        return adapter.validate_python(read_json(path))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            text = f"lacks {field}"
        else:
            message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
            text = f"{field} is {repr(problem['input'])[:80]}; {message.replace('a valid', 'a')}"
        raise RunError(f"{path}: {text}. The file is damaged or from another version.") from error


_adapter: Any = cache(TypeAdapter)  # making one takes longer than to read a file
