"""File names and labels from strangers in every command: escaped on screen, unchanged in data files."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

import xrayfast as xf
from tests.cli.test_cli import SMALL, TINY, call
from tests.reporting.samples import shows_all
from tests.test_escapes import NASTY
from xrayfast.config import DataConfig
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors.escapes import is_hidden
from xrayfast.files.csv_tables import read_csv
from xrayfast.runs.predictions import Predictions
from xrayfast.synthetic import write_dataset

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses such names")

FILES = [
    NASTY,
    "=1+1.png",
    "@SUM(A1).png",
    "-2+3.png",
    "'=q.png",
    "''p.png",
    ":x:.png",
    "[red]x.png",
    "\tt.png",
    "\rr.png",
]
LABELS = {"covid-19": "[red]covid\u202e\x1b[31m$x_{$", "pneumonia": "=pneu\nNote: x"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder whose `data` have odd names in three class folders, one of them ordinary, and a run trained on them."""
    folder = tmp_path_factory.mktemp("odd")
    write_dataset(folder / "data", images=36, size=64, seed=3)
    (folder / "data" / "labels.csv").unlink()
    for label in ("covid-19", "normal", "pneumonia"):
        images = sorted((folder / "data" / label).iterdir())
        for old, new in zip(images, FILES, strict=False):
            old.rename(old.with_name(new))
        images[0].parent.rename(folder / "data" / LABELS.get(label, label))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "250")
        words = ["--patient-col", "none", "--test-fraction", "0.4", "--epochs", 1, "--unfreeze", "--name", "odd"]
        done = call("fit", "data", *SMALL, *words)
        assert shown(done)
        yield folder, done


@pytest.fixture
def inside(odd, monkeypatch):
    monkeypatch.chdir(odd[0])
    monkeypatch.setenv("COLUMNS", "250")
    return odd[0]


def shown(done):
    """Whether the output has no hidden characters."""
    return not any(map(is_hidden, done.output.replace("\n", "")))


def names(folder):
    """Return the unchanged names of the images."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*.png")}


def test_a_run_keeps_names_and_labels_as_they_are(inside):
    split = read_csv(Path("runs/odd/split.csv"), dtype=str, keep_default_na=False)
    assert set(split["image"]) == names(Path("data"))
    assert set(split["labels"]) == {"normal", *LABELS.values()}
    predicted = Predictions.read(Path("runs/odd/predictions/test.csv"), xf.Run("runs/odd").labels)
    assert set(predicted.images) <= names(Path("data")) and set(predicted.labels) == {"normal", *LABELS.values()}
    cells = re.split(r"[,\n]", Path("runs/odd/split.csv").read_text())
    assert not [cell for cell in cells if cell.strip('"')[:1] in tuple("=+-@\t\r")]


def test_a_split_is_replayed_regardless_of_the_names(inside):
    assert shown(call("split", "data", *TINY[2:4], "--patient-col", "none", "--split-seed", 5, "-o", "split.csv"))
    given = read_csv(Path("split.csv"), dtype=str, keep_default_na=False)
    data = open_manifest(DataConfig(source=Path("data"), patient_col="none", split_file=Path("split.csv")))
    assert data.table.set_index("image")["split"].to_dict() == given.set_index("image")["split"].to_dict()


def test_pages_and_documents_show_them_escaped(inside):
    assert shown(call("interpret", "runs/odd", "--saliency", 1))
    assert shown(call("evaluate", "runs/odd", "data", "--name", "odd", "--patient-col", "none"))
    assert shown(call("check", "data", "--patient-col", "none", "-o", "checked"))
    pages = [
        "runs/odd/report.html",
        "runs/odd/model_card.md",
        "runs/odd/claim.md",
        "checked/check.html",
        "runs/odd/evaluations/odd/evaluation.html",
    ]
    for page in pages:
        text = Path(page).read_text("utf-8")
        assert not [c for c in text.replace("\n", "") if is_hidden(c)], page
    assert r"[red]covid\u202e\x1b[31m" in Path("runs/odd/report.html").read_text("utf-8")
    metrics = json.loads(Path("runs/odd/metrics.json").read_text("utf-8"))
    assert {case["image"] for case in metrics["failures"]["test"]} <= names(Path("data"))


def test_predictions_name_the_files_as_they_are(inside):
    assert shown(call("predict", "runs/odd", "data", "-o", "answers.csv"))
    table = read_csv(Path("answers.csv"), ["file", f"prob_{LABELS['pneumonia']}"], dtype={"file": str})
    assert {name.removeprefix("data/") for name in table["file"]} == names(Path("data"))
    Path("data/x\x1b[31m.txt").touch()
    with pytest.warns(UserWarning, match=r"x\\x1b\[31m\.txt"):
        table = xf.predict("runs/odd", "data")
    Path("data/x\x1b[31m.txt").unlink()
    assert {name.removeprefix("data/") for name in table["file"]} == names(Path("data"))
    case = xf.explain("runs/odd", next(Path("data").rglob("*Note*.png")))
    case.save("explained.png")
    assert shows_all(case.plot())


# Names that are not UTF-8: tables, JSON files and pages cannot store them


@pytest.fixture(params=["file", "label", "data"])
def no_utf8(request, tmp_path, monkeypatch):
    """The folder of a data set in which a file, a class folder or the folder itself has a name that is not UTF-8."""
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("data"), images=12, size=64, seed=3)
    Path("data/labels.csv").unlink()
    data = Path("data")
    old = {"file": min((data / "normal").iterdir()), "label": data / "normal", "data": data}[request.param]
    new = old.with_name("\udcff" + old.suffix)
    try:
        old.rename(new)
    except OSError:
        pytest.skip("this file system refuses such names")
    return new if request.param == "data" else data


@pytest.mark.parametrize(
    "words",
    [
        ["check", "DATA"],
        ["split", "DATA", "-o", "split.csv"],
        ["fit", "DATA", *TINY],
        ["lr-find", "DATA", *TINY],
        ["evaluate", "RUN", "DATA"],
        ["predict", "RUN", "DATA"],
        ["predict", "RUN", "DATA/\udcff.png"],
    ],
    ids=lambda words: "-".join(words[:1]),
)
def test_a_name_that_is_not_utf_8_is_named_before_any_work(no_utf8, tiny_run, words):
    if words[-1].endswith(".png"):
        words, no_utf8 = [*words[:-1], str(next(no_utf8.rglob("*.png")))], no_utf8
        if "\udcff" not in words[-1]:
            pytest.skip("an ordinary name")
    before = sorted(map(str, Path().rglob("*")))
    words = [{"DATA": str(no_utf8), "RUN": tiny_run.path}.get(word, word) for word in words]
    done = call(*words, code=2 if words[0] not in ("predict",) and no_utf8.name != "data" else 1)
    assert r"\xff" in done.stderr and "UTF-8" in done.stderr and shown(done)
    assert "Rename" in done.stderr
    assert sorted(map(str, Path().rglob("*"))) == before


def test_such_names_are_refused_for_runs_tables_and_options(tiny_run, data_dir, tmp_path_factory, monkeypatch):
    tmp_path, run = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("runs") / "copy"
    shutil.copytree(tiny_run.path, run, ignore=shutil.ignore_patterns("evaluations"))
    monkeypatch.chdir(tmp_path)
    for words, code in (
        (["fit", data_dir, *TINY, "--name", "\udcff"], 1),
        (["fit", data_dir, *TINY, "--runs", "\udcff"], 1),
        (["fit", data_dir, *TINY, "--labels", "\udcff.csv"], 2),
        (["check", data_dir, "--label-col", "\udcff"], 2),
        (["interpret", "runs/\udcff"], 1),
        (["evaluate", run, "--name", "\udcff"], 1),
        (["demo", "\udcff"], 2),
    ):
        done = call(*words, code=code)
        assert r"\xff" in done.stderr and shown(done), words
    assert not list(tmp_path.iterdir()) and not (run / "evaluations").exists()
    shutil.copytree(tiny_run.path, "\udcff")
    assert r"\xff: found a name that is not UTF-8" in call("interpret", "\udcff", code=1).stderr
    with pytest.raises(xf.errors.ReadError, match=r"\\xff\.png: found a name that is not UTF-8"):
        xf.explain(tiny_run, "\udcff.png")


def test_half_a_surrogate_pair_in_a_run_is_refused(tiny_run, tmp_path):
    (tmp_path / "labels.json").write_text((tiny_run.path / "labels.json").read_text().replace("normal", "norm\\ud800l"))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(xf.errors.RunError, match=r"labels\.json: contains text that is not valid Unicode"):
        _ = xf.Run(tmp_path).labels


def test_the_report_in_a_notebook_shows_labels_escaped(inside, capsys):
    xf.interpret("runs/odd").print_classification_report()
    text = capsys.readouterr().out
    assert r"[red]covid\u202e\x1b[31m" in text and not any(map(is_hidden, text.replace("\n", "")))


@pytest.mark.parametrize(
    "words",
    [["fit", "a", "{}"], ["{}"], ["fit", "--{}", "1"], ["evaluate", "a", "--split", "{}"], ["cache", "{}"], ["--{}"]],
)
def test_quotes_in_a_usage_error_are_escaped_and_truncated(words):
    for text in ("x" * 1_000_000, "\x1b[31m\u202eoops"):
        done = call(*(word.format(text) for word in words), code=2)
        assert len(done.output) < 6000 and not any(map(is_hidden, done.output.replace("\n", "")))
