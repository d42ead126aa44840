"""Convert Arrow columns to text, formatted as pandas writes CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xrayfast.data.text_column import TextCollector, TextColumn
from xrayfast.errors import DataError

_CHUNK = 1 << 16

_FRACTION = re.compile(r"\.?0*(?=Z?$)")
"""Trailing zeros of a time with fractional seconds."""

_MIDNIGHT = " 00:00:00"
_PLAIN = ["string", "large_string", "boolean", "integer", "floating", "decimal", "date", "time", "timestamp", "null"]
"""Types of pyarrow that become text."""


def describe_unread(kind: Any) -> str:
    """Return why a column of this type can't be read as text; "" if it can."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return describe_unread(kind.value_type)
    if _is_list(kind):
        inner = kind.value_type
        items = inner.value_type if types.is_dictionary(inner) else inner
        return "" if _is_plain(items) else f"lists of {inner}"
    if types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
        return "images inside the table, as bytes"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "bytes instead of texts"
    return "" if _is_plain(kind) else str(kind)


def to_column(cells: Any, class_names: Sequence[str] | None = None) -> TextColumn:
    """Convert a chunked Arrow array to text; class numbers become the given names, and -1 becomes ""."""
    if _is_list(cells.type):
        return _lists_to_column(cells, class_names)
    from pyarrow import types

    encoded = cells if types.is_dictionary(cells.type) else cells.dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    if hasattr(encoded, "chunks"):  # without any chunk
        return TextColumn([], np.zeros(0, np.int64))
    texts = _texts(encoded.dictionary, class_names)
    codes = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return TextColumn.merged([*texts, ""], codes)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    return any(getattr(types, f"is_{name}")(kind) for name in _PLAIN)


def _texts(values: Any, class_names: Sequence[str] | None) -> list[str]:
    """Return the texts of distinct values, "" for missing ones."""
    from pyarrow import compute, string, types

    kind = values.type
    if types.is_floating(kind):
        return ["" if np.isnan(value) else str(value) for value in values.to_numpy(zero_copy_only=False)]
    if types.is_temporal(kind):
        return _times(["" if text is None else text for text in compute.cast(values, string()).to_pylist()])
    form = _number_or_name(class_names) if types.is_integer(kind) else str
    return ["" if value is None else form(value) for value in values.to_pylist()]


def _times(texts: list[str]) -> list[str]:
    """Strip trailing zeros of fractional seconds, and the time of day if it is midnight in all texts."""
    short = [_FRACTION.sub("", text) if "." in text else text for text in texts]
    if all(text.endswith(_MIDNIGHT) for text in short if text):
        return [text.removesuffix(_MIDNIGHT) for text in short]
    return short


def _number_or_name(class_names: Sequence[str] | None) -> Callable[[int], str]:
    if class_names is None:
        return str

    def name(number: int) -> str:
        if number == -1:
            return ""
        if not 0 <= number < len(class_names):
            raise DataError(f"found the class number {number}; expected 0 to {len(class_names) - 1}, or -1 for none.")
        return class_names[number]

    return name


def _lists_to_column(cells: Any, class_names: Sequence[str] | None) -> TextColumn:
    """Format lists as "['Effusion', 'Mass']", which `labels.cells.parse_label_list` reads; numbers without quotes."""
    from pyarrow import types

    inner = cells.type.value_type
    inner = inner.value_type if types.is_dictionary(inner) else inner
    quoted = class_names is not None or types.is_string(inner) or types.is_large_string(inner)
    form = _number_or_name(class_names) if types.is_integer(inner) else str
    known: dict[Any, str] = {}

    def text(items: list[Any] | None) -> str:
        if items is None:
            return ""
        key = tuple(items)
        if key not in known:
            words = ["" if item is None else form(item) for item in items]
            known[key] = f"[{', '.join(map(_quote, words) if quoted else words)}]"
        return known[key]

    found = TextCollector()
    for chunk in cells.chunks:
        for start in range(0, len(chunk), _CHUNK):
            found.extend(map(text, chunk.slice(start, _CHUNK).to_pylist()))
    return found.collect()


def _quote(item: str) -> str:
    return "'" + item.replace("\\", "\\\\").replace("'", "\\'") + "'"
