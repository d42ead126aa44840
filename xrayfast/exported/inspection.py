"""Checks of an ONNX file's bytes before a runtime reads it.

A file from a stranger may name other files to read, operators to load, or contain endless loops.

ONNX files are protocol buffers: a message is a list of fields, each of which has a number, a wire type and a value. The
field numbers are defined in onnx.proto and never change.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5

_LONGEST_VARINT = 10  # bytes


def read_properties(content: memoryview) -> dict[str, str]:
    """Return the metadata of an ONNX file, which may contain only one graph of standard operators and its weights.

    Raises:
        ValueError: the file is not an ONNX file, is truncated, or contains anything else; the message says what.
    """
    properties: dict[str, str] = {}
    graphs = 0
    for number, value in _fields(content):
        if number == 7:  # ModelProto.graph
            graphs += 1
            _check_graph(_message(value))
        elif number == 14:  # metadata_props
            entry = {key: bytes(_message(text)).decode("utf-8") for key, text in _fields(_message(value))}
            properties[entry.get(1, "")] = entry.get(2, "")
        elif number in (20, 25):  # training_info, functions
            raise ValueError("found functions or training steps; expected one graph of standard operators")
    if graphs != 1:
        raise ValueError(f"found {graphs} graphs; expected one")
    return properties


def _check_graph(graph: memoryview) -> None:
    for number, value in _fields(graph):
        if number == 1:  # GraphProto.node
            _check_node(_message(value))
        elif number == 5:  # initializer
            _check_tensor(_message(value))
        elif number == 15:  # sparse_initializer
            raise ValueError("found sparse weights; expected dense ones")


def _check_node(node: memoryview) -> None:
    name, domain = "", ""
    for number, value in _fields(node):
        if number == 4:  # NodeProto.op_type
            name = bytes(_message(value)).decode("utf-8", "replace")[:40]
        elif number == 7:
            domain = bytes(_message(value)).decode("utf-8", "replace")[:40]
        elif number == 5:  # attribute
            _check_attribute(_message(value))
    if domain not in ("", "ai.onnx"):
        raise ValueError(f"found the operator {name} of {domain}; expected only standard ONNX operators")


def _check_attribute(attribute: memoryview) -> None:
    for number, value in _fields(attribute):
        if number in (5, 10):  # AttributeProto.t, tensors
            _check_tensor(_message(value))
        elif number in (6, 11):  # g, graphs
            raise ValueError("found a loop or a branch; expected operators that run once, in order")
        elif number in (22, 23):  # sparse_tensor, sparse_tensors
            raise ValueError("found sparse weights; expected dense ones")


def _check_tensor(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number == 13 or (number == 14 and value != 0):  # TensorProto.external_data, data_location
            raise ValueError("found weights that are stored in another file; expected all weights in this file")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("found a number where a message is expected: this is not an ONNX file")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field: an int, or a memoryview if it is not a varint."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = _varint(message, place)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError("found what is no protocol buffer: this is no ONNX file")
        if place + length > end:
            raise ValueError("it ends too early: it was cut off, or is no ONNX file")
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        if place >= len(message):
            raise ValueError("it ends too early: it was cut off, or is no ONNX file")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("found what is no protocol buffer: this is no ONNX file")
