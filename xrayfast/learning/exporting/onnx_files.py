"""ONNX files of captured classifiers."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xrayfast.errors import ConfigError, importing, truncate
from xrayfast.exported.onnx_model import MAX_FILE_BYTES

OPSET = 18


def require_onnx() -> Any:
    """Import and return onnx."""
    with importing("Export needs a package that", "onnx"):
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    return onnx


def to_onnx(program: torch.export.ExportedProgram, outputs: Sequence[str], name: str) -> Any:
    """Convert an exported program to an ONNX model with the input "images" and the named outputs.

    Raises:
        ConfigError: ONNX lacks an operation, the model is too large for an ONNX file, or a package is missing.
    """
    onnx = require_onnx()
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if size > MAX_FILE_BYTES:
        raise ConfigError(
            f"{name}: has {size:,} bytes of weights; expected at most {MAX_FILE_BYTES:,}, because an ONNX file can't "
            "be larger than 2 GiB. Use --format torch-export, or export fewer of its networks."
        )
    try:
        with quiet():
            made = torch.onnx.export(
                program, (), dynamo=True, opset_version=OPSET, input_names=["images"], output_names=list(outputs),
                external_data=False, verbose=False,
            )  # fmt: skip
        assert made is not None
        model = made.model_proto
    except Exception as error:  # torch's exporter and onnxscript raise errors of their own kinds
        raise ConfigError(
            f"{name}: can't be exported to ONNX ({truncate(str(error), 300)}). Try --format torch-export."
        ) from error
    _remove_traces(model)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        for dim, side in zip(dims, "NHW" if value.name == "images" else "N", strict=False):
            dim.dim_param = side
    onnx.checker.check_model(model)
    return model


def _remove_traces(model: Any) -> None:
    """Remove the exporter's metadata, which names code and folders of this machine."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.producer_name, model.producer_version = "xrayfast", ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block, silence the output, the warnings and the logs of torch's exporters and of the quantizer."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def halve_weights(model: Any) -> None:
    """Store the weights of a model in float16, in place. The runtime casts them once to float32, and computes in it.

    Tensors with values beyond float16's range, and tensors of fewer than 64 values, stay in float32.
    """
    onnx = require_onnx()
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 64 or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def quantize(model: Any, squares: Sequence[NDArray[np.uint8]]) -> Any:
    """Quantize the weights and inputs of convolutions and matrix products to 8 bits, with ranges found on images
    (static quantization). The resizing, in float64, is not quantized.
    """
    onnx = require_onnx()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(squares)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            image = next(self.images, None)
            return None if image is None else {"images": image[None]}

    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    in_double = [
        node.name
        for node in graph.node
        if any(types.get(name) == onnx.TensorProto.DOUBLE for name in (*node.input, *node.output))
    ]
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "quantized.onnx"
        quantize_static(
            model, path, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=in_double, per_channel=True, activation_type=QuantType.QUInt8,
            # reduce_range: 7-bit weights, since products of 8-bit ones overflow on CPUs without VNNI.
            weight_type=QuantType.QInt8, reduce_range=True,
        )  # fmt: skip
        made = onnx.load(path)
    made.ClearField("metadata_props")
    _remove_traces(made)
    return made
