"""Every command reads run folders that xrayfast 0.1.0 wrote; see old_runs/README.md."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import xrayfast as xf

pytestmark = pytest.mark.usefixtures("empty_figures")

OLD = Path(__file__).parent / "old_runs"


@pytest.fixture(scope="module")
def weights(data_dir, tmp_path_factory):
    """A folder with random weights for the networks of the old runs."""
    from xrayfast.learning.model.weights import save_weights

    folder = tmp_path_factory.mktemp("weights")
    for name, labels in (("single", None), ("multi", ("Effusion", "Opacity"))):
        data = xf.open_data(data_dir) if labels is None else two_labels(data_dir, folder)
        dls = xf.dataloaders(data, size=32, batch_size=8, device="cpu", workers=0)
        learn = xf.learner(dls, arch="mobilenet_v2", weights="none", precision="fp32")
        save_weights(learn.model, folder / f"{name}.safetensors")
    return folder


def two_labels(data_dir, folder):
    paths = sorted(data_dir.rglob("*.png"))
    rows = [f"{path.relative_to(data_dir)},{i % 2},{i % 3 % 2}" for i, path in enumerate(paths)]
    table = folder / "two.csv"
    table.write_text("\n".join(["image,Effusion,Opacity", *rows]) + "\n")
    return xf.open_data(data_dir, labels=table)


@pytest.fixture
def old(tmp_path, weights, data_dir):
    """Copies of the old runs with weights and with the path of existing data."""
    shutil.copytree(OLD, tmp_path / "runs")
    runs = {}
    for name in ("single", "multi"):
        folder = tmp_path / "runs" / name
        shutil.copy(weights / f"{name}.safetensors", folder / "model.safetensors")
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("source: /data", f"source: {data_dir}"))
        runs[name] = xf.Run(folder)
    return runs


@pytest.mark.parametrize("name", ["single", "multi"])
def test_old_runs_load_and_predict(old, name, data_dir):
    run = old[name]
    learn = xf.load(run)
    assert list(learn.dls.vocab) == list(run.labels)
    table = xf.predict(run, [next(data_dir.rglob("*.png"))])
    assert table["error"].tolist() == [""]
    assert {f"prob_{label}" for label in run.labels} <= set(table)


@pytest.mark.parametrize("name", ["single", "multi"])
def test_old_runs_are_served(old, name, data_dir):
    from xrayfast.serving.classifier import Classifier, Upload
    from xrayfast.serving.page import render_page

    classifier = Classifier(old[name], None, "cpu", pytest.fail)
    file = next(data_dir.rglob("*.png"))
    answer = classifier.answer([Upload(file.name, file.read_bytes())], image=True, saliency=True)
    assert [one.label for one in answer.files[0].labels] == list(old[name].labels)
    assert f"{old[name].metrics['test']['overall']['auroc_macro']:.3f}" in render_page(classifier)[0]


@pytest.mark.parametrize("name", ["single", "multi"])
def test_old_runs_are_interpreted_with_their_saved_predictions(old, name, quick):
    run = old[name]
    before = json.loads((run.path / "metrics.json").read_text())
    epochs = run.history
    assert {"valid_auroc_macro", "valid_f1_macro", "valid_loss"} < set(epochs) and "auroc_macro" not in epochs
    xf.interpret(run)
    assert "Training beside validation" not in run.report_path.read_text()
    after = json.loads((run.path / "metrics.json").read_text())
    for split in ("valid", "test"):
        assert after[split]["overall"] == before[split]["overall"]
        assert "warnings" not in before[split]
        assert "few images" in {one["code"] for one in after[split]["warnings"]}
        assert after[split]["intervals"]["overall"] == before[split]["intervals"]["overall"]


def test_masked_cells_of_old_predictions_stay_masked(old):
    predictions = old["multi"].predictions("test")
    assert (predictions.truth == -1).any()
    csv = (OLD / "multi" / "predictions" / "test.csv").read_text()
    assert np.count_nonzero(predictions.truth == -1) == sum(
        len(cell.split("|")) for cell in column_of(csv, "unknown") if cell
    )


def column_of(text, name):
    header, *rows = (line.split(",") for line in text.splitlines())
    return [row[header.index(name)] for row in rows]


def test_old_runs_and_their_evaluations_are_evaluated_and_compared(old, tmp_path, quick):
    [evaluation] = old["multi"].evaluations
    assert len(evaluation.predictions) == 9
    again = xf.evaluate(old["multi"], resamples=0)
    assert len(again.predictions) == 9
    shutil.copytree(old["single"].path, tmp_path / "runs" / "twin")
    compared = xf.compare([old["single"], tmp_path / "runs" / "twin"], resamples=10)
    assert compared.table["run"].tolist() == ["single", "twin"]
    assert compared.table["accuracy"].nunique() == 1
