"""A classifier in an ONNX file that `xrayfast export` made, run by onnxruntime: torch is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Device
from xrayfast.cpus import cpu_count
from xrayfast.data.images.reader import fit_square
from xrayfast.errors import ConfigError, RunError, truncate
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
"""On a model of a run with test-time augmentation."""

MAX_FILE_BYTES = 2**31 - 2**20
"""Protocol buffers, which ONNX files are, end at 2 GiB."""

_SILENT = 4
"""The runtime's level of messages at which it prints nothing; its errors become ours."""


class Outputs(NamedTuple):
    """What an exported classifier gives for N images and L labels, as arrays or tensors.

    Attributes:
        probabilities: (N, L) float32, calibrated.
        raw_probabilities: (N, L) float32, the network's own, or the mean of several networks'.
        decisions: (N, L) uint8, 1 where a label is predicted.
        spread: (N, L) float32, the standard deviation of several networks' raw probabilities; None of a single one.
    """

    probabilities: Any
    raw_probabilities: Any
    decisions: Any
    spread: Any = None


def is_model_file(path: object) -> bool:
    """Whether a path names an exported classifier and no run's folder: by its suffix."""
    return isinstance(path, (str, Path)) and Path(path).suffix.lower() == SUFFIX


class OnnxGraph:
    """The graph of a classifier in onnxruntime.

    Raises:
        RunError: onnxruntime can't run it, or it takes something else than images.
        ConfigError: onnxruntime is missing.
    """

    def __init__(self, content: bytes, labels: int, path: Path) -> None:
        self.labels, self.path = labels, path
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(
                f"{path}: onnxruntime can't be imported ({error}). Install it: pip install 'xrayfast[onnx]'."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_count()
        options.log_severity_level = _SILENT
        # Threads that wait by spinning would take the CPUs from those that read the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common class
            raise damaged(path, f"onnxruntime refuses it ({truncate(str(error), 200)})") from error
        inputs = [(one.name, one.type, len(one.shape)) for one in self._session.get_inputs()]
        if inputs != [("images", "tensor(uint8)", 3)]:
            raise damaged(path, f"found the inputs {truncate(str(inputs), 200)}")
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, images: Sequence[NDArray[np.uint8]], batch_size: int = 32) -> Outputs:
        """Its outputs for N arrays (H, W) uint8, those of a batch of one shape.

        Raises:
            RunError: it fails, or gives something else.
        """
        empty = np.empty((0, self.labels), np.float32)
        batches = [Outputs(empty, empty, empty.astype(np.uint8), empty if "spread" in self._names else None)]
        for start in range(0, len(images), batch_size):
            batch = np.stack(images[start : start + batch_size])
            try:
                values = dict(zip(self._names, self._session.run(None, {"images": batch}), strict=True))
            except Exception as error:  # the runtime's errors have no common class
                raise damaged(self.path, f"its graph fails ({truncate(str(error), 200)})") from error
            spread = ["spread"] if "spread" in values else []
            for name in ("probabilities", "raw_probabilities", "decisions", *spread):
                found, shape = values.get(name), (len(batch), self.labels)
                if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype.kind not in "fu":
                    raise damaged(self.path, f"its output {name} is not of {shape} numbers")
                if not ((found >= 0) & (found <= 1)).all():
                    raise damaged(self.path, f"its output {name} has values that are not from 0 to 1")
            batches.append(Outputs(**{name: values.get(name) for name in Outputs._fields}))
        return Outputs(*(None if one[0] is None else np.concatenate(one) for one in zip(*batches, strict=True)))


class OnnxModel:
    """An exported classifier; it predicts as a `Predictor` does.

    Raises:
        RunError: there is no such file, or it is damaged, not exported by xrayfast, or holds what is not run: other
            files, operators that are not ONNX's own, loops.
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
        """Probabilities of N arrays (H, W) uint8, and (N, L) the standard deviation among several networks.

        Raises:
            ConfigError: `tta` is asked for.
            RunError: the file's graph fails, or gives something else.
        """
        require_no_views(tta)
        # The graph would fit them by itself, but only those of one shape in a batch, and slower.
        found = self._graph.run([fit_square(image, self.size) for image in images], batch_size)
        spread = None if found.spread is None else found.spread.astype(np.float64)
        return Probabilities(found.raw_probabilities, found.probabilities.astype(np.float64)), spread


def require_cpu(device: Device) -> None:
    """Raise an error where another device is named.

    Raises:
        ConfigError: it is.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"device is {device}, and onnxruntime runs an exported model on the CPU. Leave it out, or name the run."
        )


def require_no_arch(arch: object) -> None:
    """Raise an error where a network is given.

    Raises:
        ConfigError: it is.
    """
    if arch is not None:
        raise ConfigError("arch is given, and an exported model holds its network. Leave it out.")


def require_no_views(tta: bool | None) -> None:
    """Raise an error where augmented views are asked for.

    Raises:
        ConfigError: they are.
    """
    if tta:
        raise ConfigError("tta is true, and an exported model makes no augmented views. Leave it out, or name the run.")


def damaged(path: Path, why: object) -> RunError:
    """The error of a file that is not what it should be."""
    return RunError(f"{path}: {why}. Expected {_EXPECTED}; export it again, or copy it again.")
