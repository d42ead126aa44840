"""Make a small classifier as an ONNX file with the metadata of `export`, without the seconds that `export` takes."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from xrayfast.exported.metadata import ModelMetadata, Parity
from xrayfast.metrics.operating_points.decision import Decision

WEIGHTS = np.array([[-4.0, 1.0, 5.0]], np.float32)
BIAS = np.array([1.5, 0.0, -2.0], np.float32)


def gray_classifier(labels, decision=None, *, weights=WEIGHTS, **known):
    """Build a classifier of three classes from the mean gray level alone: softmax(mean / 255 @ weights + BIAS)."""
    decision = decision or Decision("single", labels)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["shares"]),
        helper.make_node("Unsqueeze", ["shares", "last"], ["column"]),
        helper.make_node("Gemm", ["column", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["raw_probabilities"], axis=1),
        helper.make_node("Identity", ["raw_probabilities"], ["probabilities"]),
        helper.make_node("Cast", ["probabilities"], ["decisions"], to=TensorProto.UINT8),
    ]
    constants = {"axes": np.array([1, 2]), "white": np.array([255.0], np.float32), "last": np.array([1])}
    constants |= {"weights": weights, "bias": BIAS}
    graph = helper.make_graph(
        nodes,
        "gray",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W"])],
        [
            helper.make_tensor_value_info(name, kind, ["N", 3])
            for name, kind in (
                ("probabilities", TensorProto.FLOAT),
                ("raw_probabilities", TensorProto.FLOAT),
                ("decisions", TensorProto.UINT8),
            )
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = ModelMetadata(
        **{
            "xrayfast": "0.10.0",
            "labels": tuple(labels),
            "task": decision.task,
            "thresholds": dict(zip(labels, decision.thresholds.tolist(), strict=True)),
            "decision": decision.to_json(),
            "size": 64,
            "window": "auto",
            "run": "gray-1",
            "fingerprint": "0123",
            "parity": Parity(images=3, dicom=0, largest=1e-6, decisions=0),
        }
        | known
    )
    helper.set_model_props(model, metadata.to_properties())
    return model.SerializeToString()
