"""The notebooks of examples/ run as stored in a new kernel, and each cell shows the expected output."""

import contextlib
import json
import re
from pathlib import Path

import pytest

import xrayfast as xf
from tests.notebooks.conftest import QUICKLY, SECONDS, environment, forked_kernels

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
NAMES = ("from_a_folder_to_a_report", "with_fastais_own_hands")

SHOWN = {
    "from_a_folder_to_a_report": {
        "data": ("text/html", "labels.csv", "covid-19", "pneumonia", "test"),
        "xf.check(data)": ("text/html", "COUNT"),
        "curve.plot()": ("image/png",),
        "run = xf.fit(": ("text/html", "valid loss", "AUROC", "polyline"),
        "run": ("text/html", "all-layers", "model_card.md", "Accuracy"),
        "run.plot_history()": ("image/png",),
        "interpretation": ("text/html", "plot_confusion_matrix"),
        "interpretation.label_table()": ("text/html", "Specificity"),
        "interpretation.plot_confusion_matrix()": ("image/png",),
        "interpretation.plot_roc()": ("image/png",),
        "interpretation.plot_pr()": ("image/png",),
        "interpretation.plot_calibration()": ("image/png",),
        "interpretation.plot_top_losses(6)": ("image/png",),
        "xf.predict(run, images)": ("text/html", "prob_pneumonia"),
        "xf.explain(run, images[0]).plot()": ("image/png",),
        'xf.evaluate(run, "other")': ("text/html", "other"),
        'xf.compare("runs")': ("text/html", "all-layers", "head"),
    },
    "with_fastais_own_hands": {
        "dls.show_batch(": ("image/png",),
        "learn.summary()": ("text/plain", "OwnLoss(smooth_loss (own", "GradientNorm", "trainable params: 24,003"),
        "learn.lr_find()": ("image/png",),
        "learn.fit_one_cycle(": ("text/html", "confidence", "auroc_macro"),
        "_ = learn.recorder.plot_loss()": ("image/png",),
        "learn.show_results(": ("image/png",),
        "plt.plot(": ("image/png",),
        "run": ("text/html", "by-hand"),
        "interpretation.plot_confusion_matrix()": ("image/png",),
        "again.predict(": ("text/plain", "tensor("),
        "fitted = xf.fit(": ("text/html", "valid loss", "confidence"),
        "fitted.history.filter(": ("text/html", "valid_confidence"),
        'xf.compare("runs")': ("text/html", "by-hand", "by-fit"),
    },
}
"""By the last line of a cell: the richest format of one of its outputs, and words in it (COUNT: images)."""


def notebook(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


QUICKER = {
    "from_a_folder_to_a_report": {
        "images=180": "images=48", "steps=50": "steps=20", "epochs=5": "epochs=1", '"resnet18"': '"tiny_resnet"',
    },
    "with_fastais_own_hands": {
        "images=150": "images=48", "fit_one_cycle(12,": "fit_one_cycle(2,", '"epochs": 12': '"epochs": 2',
    },
}  # fmt: skip
"""Replacements with fewer images, steps, epochs and channels that change no kind of output."""


@pytest.fixture(
    scope="module",
    params=[
        *((name, True) for name in NAMES),
        *(pytest.param((name, False), marks=pytest.mark.slow) for name in NAMES),
    ],
    ids=lambda param: f"{param[0]}-{'quicker' if param[1] else 'as stored'}",
)
def executed(request, tmp_path_factory):
    """An executed notebook and the folder it ran in."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    name, quicker = request.param
    folder = tmp_path_factory.mktemp(name)
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for stored, less in QUICKER[name].items() if quicker else ():
        (cell,) = [cell for cell in code if stored in cell.source]
        cell.source = cell.source.replace(stored, less)
    if quicker:
        book.cells.insert(0, nbformat.v4.new_code_cell(QUICKLY))
    client = nbclient.NotebookClient(
        book, timeout=SECONDS, startup_timeout=SECONDS, resources={"metadata": {"path": str(folder)}}
    )
    with forked_kernels() if quicker else contextlib.nullcontext():
        client.execute(env=environment(folder))
    return name, code, folder


def test_every_cell_shows_its_output(executed):
    name, cells, _ = executed
    wanted, count = dict(SHOWN[name]), re.search(r"images=(\d+)", cells[0].source)[1]
    for cell in cells:
        key = next((key for key in wanted if any(_is(line, key) for line in cell.source.splitlines())), None)
        shown = [output.data for output in cell.outputs if "data" in output]
        if key is None:
            assert not [output for output in cell.outputs if output.output_type == "execute_result"], cell.source
            continue
        kind, *words = wanted.pop(key)
        found = [data[kind] for data in shown if kind in data]
        assert len(found) == 1 if kind == "image/png" else found, (cell.source, shown)
        assert all(word.replace("COUNT", count) in "".join(found) for word in words), (cell.source, words)
        assert kind == "image/png" or "<Figure" not in str(shown), cell.source
    assert not wanted


def _is(line, key):
    return line == key or (key.endswith("(") and line.startswith(key))


def test_the_runs_of_the_cells_are_complete_and_agree_with_the_output(executed):
    name, cells, folder = executed
    runs = {path.name: xf.Run(path) for path in (folder / "runs").iterdir()}
    assert set(runs) == {"from_a_folder_to_a_report": {"all-layers", "head"}, NAMES[1]: {"by-hand", "by-fit"}}[name]
    assert all(run.info.status == "completed" for run in runs.values())
    text = "".join(str(output.get("data", {}).get("text/html", "")) for cell in cells for output in cell.outputs)
    for run in runs.values():
        assert f"{run.metrics['test']['overall']['accuracy']:.3f}" in text


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_stored_without_outputs(name):
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    book = json.loads(text)
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    assert not re.search(r"image/png|text/html", text)
    for cell in book["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


def test_the_gallery_shows_the_cells_of_the_notebooks():
    """Otherwise run: python examples/images/make_gallery.py."""
    page = (FOLDER.parent / "guide" / "gallery.md").read_text(encoding="utf-8")
    cells = ["".join(c["source"]) for name in NAMES for c in notebook(name)["cells"] if c["cell_type"] == "code"]
    assert re.findall(r"^```python\n(.*?)\n```$", page, flags=re.S | re.M) == cells
    images = [FOLDER.parent / "guide" / path for path in re.findall(r"\]\((.*?/gallery/.*?\.png)\)", page)]
    assert len(images) == sum(len(shown) for shown in SHOWN.values()) - 2, "all but two that show text"
    assert all(0 < image.stat().st_size < 200_000 for image in images)
    assert {image.name for image in images} == {path.name for path in (FOLDER.parent / "images/gallery").iterdir()}
