"""An exported classifier predicts what its graph computes, and a graph with other inputs or outputs is refused."""

import numpy as np
import onnx
import pytest
from scipy.special import softmax

from tests.onnx_files import BIAS, WEIGHTS, gray_classifier
from xrayfast.data.images.reader import fit_square
from xrayfast.errors import ConfigError, RunError
from xrayfast.exported.onnx_model import OnnxGraph, OnnxModel, is_model_file, require_no_network_options

IMAGES = [np.full((50, 40), level, np.uint8) for level in (10, 100, 250, 90)]


def changed(path, calibrate="Sqrt"):
    """Write the gray classifier with another operator that calibrates."""
    model = onnx.load_model_from_string(gray_classifier("abc", size=32, window="full"))
    for node in model.graph.node:
        node.op_type = calibrate if node.op_type == "Identity" else node.op_type
    path.write_bytes(model.SerializeToString())
    return path


def test_probabilities_are_those_of_the_graph_for_images_of_the_size_of_the_run(tmp_path):
    model = OnnxModel(changed(tmp_path / "m.ONNX"))
    assert is_model_file(model.path) and not is_model_file(tmp_path) and (model.size, model.window) == (32, "full")
    found, spread = model.probabilities_and_spread(IMAGES, batch_size=2)
    means = np.array([[fit_square(image, 32).mean() / 255] for image in IMAGES])
    raw = softmax(means @ WEIGHTS + BIAS, axis=1)
    np.testing.assert_allclose(found.raw, raw, atol=1e-6)
    np.testing.assert_allclose(found.calibrated, np.sqrt(raw), atol=1e-6)
    assert spread is None and (found.raw.dtype, found.calibrated.dtype) == (np.float32, np.float64)
    with pytest.raises(ConfigError, match="makes no augmented views"):
        model.probabilities_and_spread(IMAGES, tta=True)
    require_no_network_options(None, "cpu")
    with pytest.raises(ConfigError, match="run on the CPU"):
        require_no_network_options(None, "cuda")


def test_outputs_out_of_range_or_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(RunError, match="probabilities has values that are not from 0 to 1"):
        OnnxModel(changed(path, calibrate="Neg")).probabilities_and_spread(IMAGES)
    with pytest.raises(RunError, match=r"probabilities is not an array of \(4, 2\) numbers"):
        OnnxGraph(gray_classifier("abc"), 2, path).run(IMAGES)
    with pytest.raises(RunError, match="operator Identity of evil"):
        model = onnx.load_model_from_string(gray_classifier("abc"))
        model.graph.node[-2].domain = "evil"
        path.write_bytes(model.SerializeToString())
        OnnxModel(path)
    model = onnx.load_model_from_string(gray_classifier("abc"))
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels of other size"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RunError, match="found the inputs"):
        OnnxModel(path)
