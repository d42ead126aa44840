"""ONNX files of captured classifiers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from xrayfast.errors import ConfigError, truncate
from xrayfast.exported.onnx_model import MAX_FILE_BYTES

OPSET = 18


def require_onnx() -> Any:
    """The module onnx.

    Raises:
        ConfigError: it, onnxruntime or onnxscript, which torch's exporter needs, can't be imported.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"Export needs more packages ({error}). Install them: pip install 'xrayfast[onnx]'."
        ) from error
    return onnx


def to_onnx(program: torch.export.ExportedProgram, outputs: Sequence[str], name: str) -> Any:
    """The program as an ONNX model, with the input "images" and the named outputs.

    Args:
        program: from `capture`.
        outputs: names, in order.
        name: of its network, for errors.

    Raises:
        ConfigError: an operation has no counterpart in ONNX, the model is larger than ONNX files can be, or a package
            is missing.
    """
    onnx = require_onnx()
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if size > MAX_FILE_BYTES:
        raise ConfigError(
            f"{name}: has {size:,} bytes of weights; expected at most {MAX_FILE_BYTES:,}, since an ONNX file ends at "
            "2 GiB. Use --format torch-export, or export fewer of its networks."
        )
    try:
        with _quiet():
            made = torch.onnx.export(
                program, (), dynamo=True, opset_version=OPSET, input_names=["images"], output_names=list(outputs),
                external_data=False, verbose=False,
            )  # fmt: skip
        assert made is not None
        model = made.model_proto
    except Exception as error:  # of torch's exporter or of onnxscript, each of its own kind
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
    """Remove what the exporter notes of code and folders of this machine."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.producer_name, model.producer_version = "xrayfast", ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints and logs of its steps."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
