"""A run exported to one file predicts the same as the run, without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import SMALL, UNCHECKED, with_other_weights
from tests.data.images.dicom_files import dicom_bytes
from xrayfast.cli import app
from xrayfast.data.images.reader import read
from xrayfast.errors import ConfigError, RunError, WriteError
from xrayfast.exported.onnx_model import OnnxGraph
from xrayfast.learning.exporting.classifier import Classifier, capture
from xrayfast.learning.exporting.onnx_files import to_onnx
from xrayfast.learning.inference.predictor import Predictor
from xrayfast.learning.model.backbones import describe_backbones
from xrayfast.learning.model.network import build_network
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.workflows import export as export_module

pytestmark = pytest.mark.slow
"""By default the guide's page of export is run, whose export fails where it differs from its run."""

HEAVY = ("torch", "torchvision", "fastai", "sklearn", "matplotlib", "onnx", "timm")


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """A copy of the tiny run, and its ONNX file."""
    folder = tmp_path_factory.mktemp("exported")
    run = xf.Run(shutil.copytree(tiny_run.path, folder / "tiny"))
    return run, xf.export(run, folder / "model.onnx", progress=False)


@pytest.fixture(scope="module")
def other_images(data_dir, tmp_path_factory):
    """A folder with a PNG of another shape, a file that is no image, and a 16-bit image."""
    folder = tmp_path_factory.mktemp("other")
    image = Image.open(next(data_dir.glob("normal/*.png")))
    image.resize((150, 97)).save(folder / "a.png")
    (folder / "b.png").write_text("no image")
    Image.fromarray(np.asarray(image).astype(np.uint16) * 16).save(folder / "c.png")
    return folder


def numbers(table):
    return table.filter(regex="^(prob|spread)_").to_numpy(dtype=float)


def test_an_exported_run_predicts_as_the_run_does(exported, other_images, tmp_path):
    run, found = exported
    parity = found.metadata.parity
    assert (parity.images, parity.dicom, parity.decisions) == (36, 0, 0)
    assert parity.largest < 1e-5
    ours, theirs = (xf.predict(source, other_images) for source in (run, found.path))
    assert list(ours) == list(theirs)
    assert ours[["file", "predicted", "notes", "error"]].equals(theirs[["file", "predicted", "notes", "error"]])
    np.testing.assert_allclose(numbers(theirs), numbers(ours), atol=1e-5)
    # The graph alone, as another program would use it: whole images in, the decisions of the table out.
    session = onnxruntime.InferenceSession(found.path)
    pixels = read(other_images / "a.png").pixels
    probabilities, raw, decisions = session.run(None, {"images": np.stack([pixels, pixels])})
    np.testing.assert_allclose(probabilities[1], numbers(ours)[0], atol=1e-5)
    assert run.labels[int(decisions[0].argmax())] == ours["predicted"][0]
    assert raw.shape == decisions.shape == (2, 3) and decisions.sum() == 2
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == list(run.labels)
    assert metadata["fingerprint"] == run.info.fingerprint != ""
    [record] = run.info.exports
    assert record["parity"]["images"] == 36 and record["file"] == "model.onnx"
    assert "/" not in json.dumps(metadata).replace("2048/4096", "")  # no path of this machine


def test_prediction_with_an_exported_run_imports_onnxruntime_alone(exported, other_images, tmp_path):
    code = (
        "import sys, xrayfast.cli as cli\n"
        f"try: cli.app(['predict', {str(exported[1].path)!r}, {str(other_images / 'a.png')!r}, '-o', 'out.csv'])\n"
        "except SystemExit as end: print(end.code, [m for m in %r if m in sys.modules])" % (HEAVY,)
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert len(pd.read_csv(tmp_path / "out.csv")) == 1


def test_wrong_options_are_named(exported, data_dir, tmp_path):
    run, found = exported
    with pytest.raises(ConfigError, match=r"model\.bin; expected a name that ends in \.onnx"):
        xf.export(run, tmp_path / "model.bin")
    with pytest.raises(ConfigError, match=r"ends in \.onnx.*\. format='torch-export' writes \.pt2"):
        xf.export(run, tmp_path / "model.pt2")
    with pytest.raises(ConfigError, match="makes no augmented views"):
        xf.predict(found.path, data_dir, tta=True)
    with pytest.raises(ConfigError, match="exported models run on the CPU"):
        xf.predict(found.path, data_dir, device="cuda")
    with pytest.raises(ConfigError, match="contains its network"):
        xf.predict(found.path, data_dir, arch=len)
    with pytest.raises(ConfigError, match="among several runs"):
        xf.predict([run, found.path], data_dir)
    with pytest.raises(RunError, match="no such file"):
        xf.predict(tmp_path / "none.onnx", data_dir)


def test_a_damaged_file_is_an_error_that_names_it(exported, data_dir, tmp_path):
    """Files that are truncated, changed, or from another tool give an error of ours, never the runtime's."""
    whole = exported[1].path.read_bytes()
    model = onnx.load_from_string(whole)
    image = next(data_dir.glob("normal/*.png"))
    metadata = whole.index(b"xrayfast classifier 1")

    def changed(edit):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        edit(copy)
        return copy.SerializeToString()

    def rename_input(copy):
        copy.graph.input[0].name = "x"

    def wrong_labels(copy):
        for entry in copy.metadata_props:
            entry.value = entry.value.replace('"normal", ', "").replace('"normal": 0.5, ', "")

    files = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "short": whole[:-3],
        "metadata": whole[:metadata] + b"X" + whole[metadata + 1 :],
        "labels": changed(wrong_labels),
        "input": changed(rename_input),
        "operator": changed(lambda copy: setattr(copy.graph.node[5], "op_type", "Nonsense")),
        "other tool": changed(lambda copy: copy.ClearField("metadata_props")),
        "text": b"<html>not found</html>",
    }
    for name, content in files.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(RunError, match=rf"{name}\.onnx: .*export it again"):
            xf.predict(path, image)
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "half.onnx"), str(image)])
    assert done.exit_code == 1 and "half.onnx" in done.output and "Traceback" not in done.output


def test_a_file_that_predicts_differently_from_the_run_is_not_written(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "TOLERANCE", -1.0)
    with pytest.raises(RunError, match="was not written: its probabilities differ by up to"):
        xf.export(exported[0], tmp_path / "model.pt2", format="torch-export", progress=False)
    assert not list(tmp_path.iterdir())


def test_missing_data_are_named_and_other_images_can_be_given(exported, data_dir, tmp_path):
    run = xf.Run(shutil.copytree(exported[0].path, tmp_path / "run", ignore=UNCHECKED))
    settings = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(settings.replace(str(data_dir), str(tmp_path / "gone")))
    with pytest.raises(RunError, match="its data have been moved, deleted or changed"):
        xf.export(run, tmp_path / "model.onnx")
    pixels = np.asarray(Image.open(next(data_dir.glob("normal/*.png")))).astype(np.uint16) * 16
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.dcm").write_bytes(dicom_bytes(np.roll(pixels, 5 * i, 0), bits=12))
    shutil.copy(next(data_dir.glob("normal/*.png")), tmp_path / "images")
    parity = xf.export(run, tmp_path / "model.onnx", images=tmp_path / "images", progress=False).metadata.parity
    assert (parity.images, parity.dicom) == (4, 3)
    ours, theirs = (xf.predict(source, tmp_path / "images") for source in (run, tmp_path / "model.onnx"))
    np.testing.assert_allclose(numbers(theirs), numbers(ours), atol=1e-5)


def test_a_cross_validation_and_a_multi_label_ensemble_are_one_file(data_dir, tiny_multi_run, tmp_path):
    with pytest.warns(UserWarning):
        cv = xf.cross_validate(xf.open_data(data_dir), folds=2, runs=tmp_path, epochs=1, **SMALL)
    both = xf.ensemble([tiny_multi_run, with_other_weights(tiny_multi_run, tmp_path / "twin")], folder=tmp_path)
    for run in (cv, both):
        found = xf.export(run, tmp_path / "model.onnx", progress=False)
        assert found.metadata.networks == 2 and found.metadata.parity.largest < 1e-5
        ours, theirs = (xf.predict(source, data_dir) for source in (run, found.path))
        assert list(ours) == list(theirs) and "spread_normal" in ours
        assert ours["predicted"].equals(theirs["predicted"])
        np.testing.assert_allclose(numbers(theirs), numbers(ours), atol=1e-5)


def test_a_run_with_augmented_views_is_exported_without_them_and_says_so(exported, data_dir, tmp_path):
    run = xf.Run(shutil.copytree(exported[0].path, tmp_path / "run"))
    run.write_config(run.config.updated({"tta": True}))
    notes = []
    found = xf.export(run, tmp_path / "model.onnx", note=notes.append, progress=False)
    assert found.metadata.averaged_views and "without augmented views" in notes[0]
    plain = xf.predict(run, data_dir, tta=False, note=notes.append)
    np.testing.assert_allclose(numbers(xf.predict(found.path, data_dir, note=notes.append)), numbers(plain), atol=1e-5)
    assert notes[-1] == notes[0]


def test_a_program_of_torch_export_computes_the_same(exported, data_dir, tmp_path):
    import torch

    found = xf.export(exported[0], tmp_path / "model.pt2", format="torch-export", progress=False)
    more = {"metadata.json": ""}
    program = torch.export.load(found.path, extra_files=more)
    assert json.loads(more["metadata.json"])["labels"] == list(exported[0].labels)
    image = next(data_dir.glob("normal/*.png"))
    probabilities, _, _ = program.module()(torch.from_numpy(read(image).pixels)[None])
    np.testing.assert_allclose(probabilities.numpy(), numbers(xf.predict(exported[0], image)), atol=1e-5)


@pytest.mark.parametrize("arch", [row["arch"] for row in describe_backbones()])
def test_every_network_of_the_table_is_exported(arch):
    """With random weights and at 64 px, the graph computes the same as torch."""
    torch.manual_seed(0)
    predictor = Predictor(build_network(arch, 3), Decision("multi", ("a", "b", "c")), 64)
    classifier = Classifier(predictor).eval()
    model = to_onnx(capture(classifier, arch), classifier.output_names, arch)
    images = np.random.default_rng(0).integers(0, 256, (3, 70, 90), dtype=np.uint8)
    found = OnnxGraph(model.SerializeToString(), 3, Path(arch)).run(images)
    np.testing.assert_allclose(found.raw_probabilities, predictor.probabilities(images).raw, atol=1e-4)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 18}
    assert str(Path(xf.__file__).parent) not in str(model.graph.node)
    assert not any(node.doc_string for node in model.graph.node)


def test_a_network_that_can_t_be_exported_is_named_with_the_reason():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 64)

        def forward(self, x):
            return self.layer(x).flatten(1) if x.sum() > 0 else self.layer(-x).flatten(1)

    predictor = Predictor(Branching(), Decision("multi", ("a", "b", "c")), 64)
    with pytest.raises(ConfigError, match=r"own:branching: can't be exported, because torch\.export can't trace"):
        capture(Classifier(predictor).eval(), "own:branching")


def test_the_cost_of_smaller_weights_is_measured(exported, data_dir, tmp_path):
    run, whole = exported
    found = {
        name: xf.export(run, tmp_path / f"{name}.onnx", precision=name, progress=False) for name in ("fp16", "int8")
    }
    for name, largest in {"fp16": 0.02, "int8": 0.3}.items():
        metadata = found[name].metadata
        assert metadata.precision == name
        assert metadata.parity.largest < largest
        assert metadata.auroc.images == 14 and abs(metadata.auroc.difference) < 0.1  # valid and test
        ours, theirs = (numbers(xf.predict(source, data_dir)) for source in (run, found[name].path))
        np.testing.assert_allclose(theirs, ours, atol=largest)
    network = sum(parameter.numel() for parameter in Predictor.from_run(run, "cpu").fused.parameters())
    assert whole.bytes - found["fp16"].bytes == pytest.approx(2 * network, rel=0.1)
    kinds = [node.op_type for node in onnx.load(found["int8"].path).graph.node]
    assert kinds.count("QuantizeLinear") > 20
    with pytest.raises(ConfigError, match="which is only for ONNX files"):
        xf.export(run, tmp_path / "model.pt2", format="torch-export", precision="int8")
    done = CliRunner().invoke(app, ["export", str(run.path), "-o", str(tmp_path / "x.onnx"), "--precision", "fp16"])
    assert "AUROC (mean) minus the run's, 14 images not trained on" in done.stdout


def test_the_script_predicts_without_torch(exported, tiny_multi_run, data_dir, other_images, tmp_path):
    """In a new virtual environment, the script gives the numbers, labels and columns of `predict`."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = next(tmp_path.glob("venv/*/python"))
    needed = ["numpy", "pillow", "onnxruntime", "pydicom"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *needed], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
    pixels = np.asarray(Image.open(next(data_dir.glob("normal/*.png")))).astype(np.uint16) * 16
    (other_images / "d.dcm").write_bytes(dicom_bytes(pixels, bits=12, WindowCenter="2000", WindowWidth="3000"))
    both = xf.ensemble([exported[0], with_other_weights(exported[0], tmp_path / "twin")], folder=tmp_path)
    for run in (exported[0], tiny_multi_run, both):
        xf.export(run, tmp_path / "model.onnx", with_script=True, progress=False)
        words = ["onnx_predict.py", "model.onnx", other_images, data_dir, "-o", "found.csv"]
        subprocess.run([python, *words], cwd=tmp_path, check=True)
        found = pd.read_csv(tmp_path / "found.csv", keep_default_na=False)
        done = CliRunner().invoke(
            app, ["predict", *map(str, (run.path, other_images, data_dir, "-o", tmp_path / "x.csv"))]
        )
        assert done.exit_code == 1  # b.png is no image
        expected = pd.read_csv(tmp_path / "x.csv", keep_default_na=False)
        assert list(found) == list(expected)
        assert found[["file", "predicted"]].equals(expected[["file", "predicted"]])
        assert ((found["error"] != "") == (expected["error"] != "")).all() and (found["error"] != "").sum() == 1
        read_rows = found["error"] == ""
        np.testing.assert_allclose(numbers(found[read_rows]), numbers(expected[read_rows]), atol=1e-5)
    (tmp_path / "onnx_predict.py").write_text("mine")
    with pytest.raises(WriteError, match=r"onnx_predict\.py: found a file that this command did not write"):
        xf.export(exported[0], tmp_path / "model.onnx", with_script=True, progress=False)
