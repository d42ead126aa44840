"""An exported file is evaluated on other data like a run; a warning says what can't be checked without the run."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import xrayfast as xf
from tests.onnx_files import BIAS, WEIGHTS, gray_classifier
from xrayfast.cli import app
from xrayfast.errors import ConfigError, DataError, RunError
from xrayfast.workflows.steps.seen import NOT_IN_FILE

CLASSES = ("covid-19", "normal", "pneumonia")
HEAVY = ("torch", "torchvision", "fastai", "sklearn", "onnx", "timm")


@pytest.fixture
def model(tmp_path):
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "gray.onnx"
    path.write_bytes(gray_classifier(CLASSES))
    return path


def test_a_file_is_evaluated_with_its_own_probabilities_and_a_page_beside_it(model, data_dir):
    found = xf.evaluate(model, data_dir, resamples=20, progress=False)
    assert found.path == model.parent / "gray-evaluations" / "data"
    predictions, metrics = found.predictions, found.metrics
    means = np.array([np.asarray(Image.open(data_dir / name)).mean() / 255 for name in predictions.images])
    logits = means[:, None] @ WEIGHTS + BIAS
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(predictions.raw, expected, atol=1e-6)
    accuracy = (expected.argmax(1) == predictions.truth.argmax(1)).mean()
    assert metrics["result"]["overall"]["accuracy"] == pytest.approx(accuracy)
    assert metrics["result"]["intervals"]["overall"]["accuracy"]["low"] < accuracy
    assert metrics["images"] == {"found": 36, "left_out": [], "evaluated": 36, "own_test": 0}
    assert [one["text"] for one in metrics["result"]["warnings"]].count(NOT_IN_FILE) == 1
    page = found.report_path.read_text()
    assert "could not be checked" in page and "were left out and are counted above" not in page
    assert found.info["exported"]["fingerprint"] == "0123" and found.info["run"] == "gray.onnx"
    again = xf.evaluate(model, data_dir, resamples=0, progress=False)
    assert again.path.name == "data-2" and (found.path / "metrics.json").is_file()


@pytest.mark.slow
def test_the_command_needs_no_torch_and_names_the_folder(model, data_dir, tmp_path):
    command = ["evaluate", str(model), str(data_dir), "--resamples", "0", "--json", "-o", str(tmp_path / "a" / "b")]
    code = (
        "import sys, xrayfast.cli as cli\n"
        f"try: cli.app({command!r})\n"
        f"except SystemExit as end: print(end.code, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    *printed, last = done.stdout.splitlines()
    assert last == "0 []", done.stderr
    answer = json.loads("\n".join(printed))
    assert answer["run"] == str(model) and answer["evaluation"] == str(tmp_path / "a" / "b" / "data")
    assert "could not be checked" in done.stderr


def test_labels_are_matched_by_name_and_implications_are_those_of_the_file(data_dir, tmp_path):
    from xrayfast.metrics.operating_points.decision import Decision

    path = tmp_path / "multi.onnx"
    path.write_bytes(gray_classifier(CLASSES, Decision("multi", CLASSES), imply=("covid-19=pneumonia",)))
    shutil.copytree(data_dir / "covid-19", tmp_path / "other" / "COVID 19")
    shutil.copytree(data_dir / "normal", tmp_path / "other" / "nodule")
    shutil.copytree(data_dir / "pneumonia", tmp_path / "other" / "pneumonia")
    found = xf.evaluate(path, tmp_path / "other", resamples=0, progress=False)
    assert found.metrics["labels"]["unknown"] == [["nodule", 12]]
    assert (found.predictions.truth == 1).sum(axis=0).tolist() == [12, 0, 24]
    assert any("covid-19=pneumonia" in note for note in found.metrics["notes"])
    path.write_bytes(gray_classifier(CLASSES, Decision("multi", CLASSES), imply=("covid-19",)))
    with pytest.raises((ConfigError, DataError, RunError), match="imply"):
        xf.evaluate(path, tmp_path / "other", resamples=0, progress=False)


def test_options_that_an_exported_file_does_not_support_are_errors(model, data_dir, tmp_path, tiny_run):
    with pytest.raises(ConfigError, match="no images to evaluate on"):
        xf.evaluate(model)
    for options, said in (
        ({"tta": True}, "no augmented views"),
        ({"device": "cuda"}, "on the CPU"),
        ({"arch": len}, "contains its network"),
        ({"correct_prior": True}, "prevalence in the validation split"),
    ):
        with pytest.raises(ConfigError, match=said):
            xf.evaluate(model, data_dir, **options)
    with pytest.raises(RunError, match="a plain folder name"):
        xf.evaluate(model, data_dir, name="../up")
    with pytest.raises(RunError, match=r"images\.png: can't be written \(it is a file\)"):
        (tmp_path / "images.png").write_bytes(b"")
        xf.evaluate(model, data_dir, output=tmp_path / "images.png")
    with pytest.raises(ConfigError, match="output is"):
        xf.evaluate(tiny_run, data_dir, output=tmp_path)
    with pytest.raises(RunError, match="no such file"):
        xf.evaluate(tmp_path / "none.onnx", data_dir)
    with pytest.raises(RunError, match="works with 'predict' and 'evaluate'"):
        xf.compare([model, tiny_run.path])
    shown = CliRunner().invoke(app, ["evaluate", str(model)])
    assert shown.exit_code == 2 and "give DATA too" in shown.stderr
    assert [path.name for path in model.parent.iterdir()] == ["gray.onnx"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_can_t_be_written_is_named_before_the_work(model, data_dir):
    model.parent.chmod(0o500)
    try:
        with pytest.raises(RunError, match="Choose another folder with --output"):
            xf.evaluate(model, data_dir)
    finally:
        model.parent.chmod(0o700)
