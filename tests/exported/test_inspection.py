"""Files that the runtime must not load, and truncated or changed files, are refused by name."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from xrayfast.exported.inspection import read_properties

WEIGHTS = numpy_helper.from_array(np.arange(6, dtype=np.float32), "w")


def model(nodes=(), initializer=(WEIGHTS,), functions=()):
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [6]) for name in ("x", "y")]
    nodes = nodes or [helper.make_node("Add", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], initializer)
    made = helper.make_model(graph, functions=functions, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(made, {"format": "x", "labels": "é"})
    return made


def inspect(made):
    return read_properties(memoryview(made.SerializeToString()))


def test_metadata_equal_those_that_onnx_wrote():
    assert inspect(model()) == {"format": "x", "labels": "é"}


def external(name):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[6], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def hidden_location():
    """Return a tensor that claims to be inside the file and yet names another file."""
    tensor = external("w")
    tensor.data_location = TensorProto.DEFAULT
    return tensor


def branch():
    inner = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "i", [], [], [])
    return [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]


def node_with(**attribute):
    return model([helper.make_node("Constant", [], ["y"], **attribute)])


def changed(change):
    """Return the model after `change` was called with it."""
    made = model()
    change(made)
    return made


BODY = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "i", [], [], [])
SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, np.int64)), [6]
)
FUNCTION = helper.make_function("own", "f", ["x"], ["y"], [helper.make_node("Abs", ["x"], ["y"])], [])
CONSTANT = helper.make_node("Constant", [], ["y"], value=external("c"))
HOSTILE = {
    "weights elsewhere": (lambda: model(initializer=[external("w")]), "another file"),
    "weights elsewhere, hidden": (lambda: model(initializer=[hidden_location()]), "another file"),
    "a constant elsewhere": (lambda: model([CONSTANT]), "another file"),
    "an operator of its own": (lambda: model([helper.make_node("Evil", ["x"], ["y"], domain="evil")]), "Evil of evil"),
    "a branch": (lambda: model(branch()), "loop or a branch"),
    "a list of constants elsewhere": (lambda: node_with(values=[external("c")]), "another file"),
    "a list of branches": (lambda: node_with(bodies=[BODY]), "loop or a branch"),
    "sparse weights": (lambda: changed(lambda made: made.graph.sparse_initializer.append(SPARSE)), "sparse weights"),
    "a sparse constant": (lambda: node_with(sparse_value=SPARSE), "sparse weights"),
    "a list of sparse constants": (lambda: node_with(sparse_values=[SPARSE]), "sparse weights"),
    "training": (lambda: changed(lambda made: made.training_info.add()), "training steps"),
    "no graph": (lambda: changed(lambda made: made.ClearField("graph")), "found 0 graphs"),
    "a function": (lambda: model(functions=[FUNCTION]), "functions"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_operators_that_are_not_run_are_named(name):
    made, said = HOSTILE[name]
    with pytest.raises(ValueError, match=said):
        inspect(made())


def test_a_truncated_or_changed_file_gives_metadata_or_a_named_error():
    """Truncate the file at every length, and change random bytes."""
    whole = model().SerializeToString()
    for length in range(len(whole)):
        try:  # truncated between two fields, it lacks the last metadata
            assert len(read_properties(memoryview(whole[:length]))) < 2
        except ValueError as error:
            assert str(error)
    draws = np.random.default_rng(0)
    for _ in range(1000):
        changed = bytearray(whole)
        for place in draws.integers(0, len(whole), 3):
            changed[place] = draws.integers(256)
        try:
            read_properties(memoryview(bytes(changed)))
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 40, b"\xff" * 40, b"PK\x03\x04 a zip", b"<html>", b"7\xff\xff\xff\xff\xff"]
)
def test_other_files_are_no_onnx_files(content):
    with pytest.raises(ValueError):
        read_properties(memoryview(content))
