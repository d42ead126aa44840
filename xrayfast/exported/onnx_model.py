"""Classifiers in ONNX files of `xrayfast export`, run by onnxruntime without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Device
from xrayfast.cpus import cpu_count
from xrayfast.data.images.reader import fit_square
from xrayfast.errors import ConfigError, RunError, importing, truncate
from xrayfast.exported.inspection import read_properties
from xrayfast.exported.metadata import ModelMetadata
from xrayfast.files.regular_files import require_regular_file
from xrayfast.metrics.operating_points.decision import Probabilities

SUFFIX = ".onnx"

_EXPECTED = "an ONNX file that 'xrayfast export' made"

VIEWS_LEFT_OUT = (
    "The exported model predicts without augmented views, which depend on a hash of each image that a graph can't "
    "compute. Its calibration and thresholds were fitted on predictions of the run that were averaged over such views."
)
"""Note on a model whose run used test-time augmentation."""

MAX_FILE_BYTES = 2**31 - 2**20
"""Largest size of a file: ONNX files are protocol buffers, which are limited to 2 GiB."""

_SILENT = 4
"""The runtime's log level at which it prints nothing. Its errors are raised as this package's."""


class Outputs(NamedTuple):
    """The outputs of an exported classifier for N images and L labels, as arrays or tensors.

    Attributes:
        probabilities: (N, L) float32, calibrated.
        raw_probabilities: (N, L) float32, not calibrated; for an ensemble, the mean over networks.
        decisions: (N, L) uint8, 1 where a label is predicted.
        spread: (N, L) float32, the standard deviation of the networks' raw probabilities; None for a single network.
    """

    probabilities: Any
    raw_probabilities: Any
    decisions: Any
    spread: Any = None


def join_outputs(found: Sequence[Outputs]) -> Outputs:
    """Concatenate the outputs of several batches."""
    return Outputs(*(None if one[0] is None else np.concatenate(one) for one in zip(*found, strict=True)))


def is_model_file(path: object) -> bool:
    """Whether a path names an exported classifier instead of a run's folder, according to its suffix."""
    return isinstance(path, (str, Path)) and Path(path).suffix.lower() == SUFFIX


class OnnxGraph:
    """The graph of a classifier, loaded in onnxruntime.

    Raises:
        RunError: onnxruntime can't load the graph, or its inputs are not images.
        ConfigError: onnxruntime is missing.
    """

    def __init__(self, content: bytes, labels: int, path: Path) -> None:
        self.labels, self.path = labels, path
        with importing(f"{path}: onnxruntime", "onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_count()
        options.log_severity_level = _SILENT
        # Waiting threads that spin would take CPU time from the threads that read the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common class
            raise damaged(path, f"onnxruntime can't load it ({truncate(str(error), 200)})") from error
        inputs = [(one.name, one.type, len(one.shape)) for one in self._session.get_inputs()]
        if inputs != [("images", "tensor(uint8)", 3)]:
            raise damaged(path, f"found the inputs {truncate(str(inputs), 200)}")
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, images: Sequence[NDArray[np.uint8]], batch_size: int = 32) -> Outputs:
        """Return the outputs for N arrays (H, W) uint8. All arrays of a batch must have the same shape.

        Raises:
            RunError: the graph fails, or its outputs have another shape, type or range.
        """
        empty = np.empty((0, self.labels), np.float32)
        batches = [Outputs(empty, empty, empty.astype(np.uint8), empty if "spread" in self._names else None)]
        for start in range(0, len(images), batch_size):
            batch = np.stack(images[start : start + batch_size])
            try:
                values = dict(zip(self._names, self._session.run(None, {"images": batch}), strict=True))
            except Exception as error:  # the runtime's errors have no common class
                raise damaged(self.path, f"running its graph fails ({truncate(str(error), 200)})") from error
            spread = ["spread"] if "spread" in values else []
            for name in ("probabilities", "raw_probabilities", "decisions", *spread):
                found, shape = values.get(name), (len(batch), self.labels)
                if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype.kind not in "fu":
                    raise damaged(self.path, f"its output {name} is not an array of {shape} numbers")
                if not ((found >= 0) & (found <= 1)).all():
                    raise damaged(self.path, f"its output {name} has values that are not from 0 to 1")
            batches.append(Outputs(**{name: values.get(name) for name in Outputs._fields}))
        return join_outputs(batches)


class OnnxModel:
    """An exported classifier, with the interface of a `Predictor`.

    Raises:
        RunError: the file does not exist, is damaged, was not exported by xrayfast, or contains what is not allowed:
            references to other files, operators that are not ONNX's own, loops.
        ConfigError: onnxruntime is missing.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        require_regular_file(self.path, _EXPECTED, MAX_FILE_BYTES)
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise RunError(f"{self.path}: can't be read ({error.strerror or error}). Check the file.") from error
        try:
            self.metadata = ModelMetadata.from_properties(read_properties(memoryview(content)))
            self.decision = self.metadata.read_decision()
        except ValueError as error:
            raise damaged(self.path, error) from error
        self.size, self.window = self.metadata.size, self.metadata.window
        self._graph = OnnxGraph(content, len(self.metadata.labels), self.path)

    def probabilities_and_spread(
        self, images: Sequence[NDArray[np.uint8]], *, tta: bool | None = None, batch_size: int = 32
    ) -> tuple[Probabilities, NDArray[np.float64] | None]:
        """Return the probabilities for N arrays (H, W) uint8, and their standard deviation (N, L) over the networks.

        The standard deviation is None for a single network.

        Raises:
            ConfigError: `tta` is True.
            RunError: the file's graph fails, or its outputs are wrong.
        """
        require_no_views(tta)
        # The graph could resize the images itself, but only batches of one shape, and more slowly.
        found = self._graph.run([fit_square(image, self.size) for image in images], batch_size)
        spread = None if found.spread is None else found.spread.astype(np.float64)
        return Probabilities(found.raw_probabilities, found.probabilities.astype(np.float64)), spread


def require_no_network_options(arch: object, device: Device) -> None:
    """Raise a ConfigError if a network, or a device other than the CPU, is given."""
    if arch is not None:
        raise ConfigError("arch is given, but an exported model contains its network. Leave it out.")
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"device is {device}, but exported models run on the CPU with onnxruntime. Leave it out, or give the run "
            "instead."
        )


def require_no_views(tta: bool | None) -> None:
    """Raise a ConfigError if augmented views are asked for."""
    if tta:
        raise ConfigError(
            "tta is true, but an exported model makes no augmented views. Leave it out, or give the run instead."
        )


def damaged(path: Path, why: object) -> RunError:
    """Return the error for a file that is damaged or not an exported classifier."""
    return RunError(f"{path}: {why}. Expected {_EXPECTED}; export it again, or copy it again.")
