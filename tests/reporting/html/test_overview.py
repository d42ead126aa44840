"""The HTML of each result in a notebook: escaped, balanced, without script or ids, and no error for missing files."""

import re
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.conftest import UNCHECKED
from tests.reporting.samples import HOSTILE, LABELS, Outline, explained, split_report
from xrayfast.audit.check import Audit
from xrayfast.audit.findings import Finding
from xrayfast.config import DataConfig
from xrayfast.data.manifest import Manifest
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors.escapes import is_hidden
from xrayfast.reporting.comparison import Comparison
from xrayfast.reporting.html import overview
from xrayfast.reporting.html.overview import (
    explanation_overview,
    range_test_overview,
    render_overview,
)
from xrayfast.reporting.interpretation import Interpretation
from xrayfast.runs.evaluation import Evaluation
from xrayfast.runs.run import Run

BAD = "\u202egpj<script>&{{ 7*7 }}"
"""The name of a file, a folder and a label."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten images of two classes; one class and one file have a hostile name."""
    folder = tmp_path_factory.mktemp("shown") / BAD
    for start, label in enumerate(("normal", BAD)):
        (folder / label).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (40, 30), 40 * i).save(folder / label / f"{BAD}{start}{i}.png")
    return open_manifest(DataConfig(source=folder, patient_col="none"))


@pytest.fixture(scope="module")
def reports():
    return {task: split_report(task, LABELS[task], "test") for task in LABELS}


def interpretation(reports, task="single"):
    split, decision = reports[task]
    return Interpretation(split.predictions, task, {}, decision=decision, summary=split.summary)


def audit_of(data):
    findings = [Finding("size", severity, f"{BAD} {severity}", BAD, 1) for severity in ("leak", "warning", "note")]
    return Audit(data, (*findings, *[findings[2]] * 20), SimpleNamespace(), (), (), SimpleNamespace(), {}, {})


def evaluation_of(folder, reports, task="single"):
    folder.mkdir()
    found = Evaluation(folder, LABELS[task])
    images = {"found": 50, "left_out": [[BAD, 10]], "evaluated": 40}
    summary = reports[task][0].summary
    found.write_metrics(
        {"source": BAD, "split": None, "images": images, "warnings": [BAD], "notes": [BAD], "result": summary}
    )
    return found


def comparison():
    row = {
        "arch": "resnet18",
        "head": "linear",
        "trained": BAD,
        "loss": "focal",
        "size": 64,
        "epochs": 2,
        "seconds": None,
        "parameters": 11_200_000,
        "patients": 9,
        "data": BAD,
    }
    ends = {"accuracy_low": 0.7, "accuracy_high": 0.9, "auroc_macro": np.nan}
    row |= {
        "seconds": None,
        "images": 12,
        "accuracy": 0.8125,
        **ends,
        "auroc_macro_low": np.nan,
        "auroc_macro_high": np.nan,
    }
    table = pd.DataFrame([{"run": "one", **row}, {"run": BAD, **row}])
    pair = {"run": BAD, "reference": "one", "metric": "accuracy", "label": "", "difference": -0.0625, "low": -0.1}
    pair |= {"high": 0.02, "test": "McNemar", "p": 0.25, "p_corrected": 0.5, "significant": False}
    pair |= {"images": 12, "patients": 9}
    shown = pd.DataFrame([pair]), (BAD,), "single", "test", "accuracy", "one", ("accuracy", "auroc_macro"), 1, (BAD,)
    return Comparison(table, *shown)


@pytest.fixture(
    params=[
        *("manifest", "audit", "interpretation", "multi", "labels", "evaluation", "run", "comparison", "range test"),
        "explanation",
    ]
)
def shown(request, data, reports, tmp_path):
    """The HTML of each kind of result."""
    made = {
        "manifest": lambda: data,
        "audit": lambda: audit_of(data),
        "interpretation": lambda: interpretation(reports),
        "multi": lambda: interpretation(reports, "multi"),
        "labels": lambda: interpretation(reports, "multi").label_table(),
        "evaluation": lambda: evaluation_of(tmp_path / BAD, reports),
        "run": lambda: Run(shutil.copytree(request.getfixturevalue("tiny_run").path, tmp_path / BAD)),
        "comparison": lambda: comparison(),
        "range test": lambda: range_test_overview([1e-4, 1e-3, 1e-2], [1.0, 0.5, 2.0], {"valley": 1e-3, BAD: None}),
        "explanation": lambda: explanation_overview(explained(2, (BAD, "b"))[0], {BAD: 0.8, "b": 0.1}),
    }[request.param]()
    return render_overview(made) if isinstance(made, overview.Overview) else made._repr_html_()


def test_an_overview_is_balanced_html_without_script_ids_or_hidden_characters(shown):
    outline = Outline(shown)
    assert not outline.wrong and not outline.open
    assert "script" not in {tag for tag, _ in outline.elements}
    assert not [attributes for _, attributes in outline.elements if "id" in attributes]
    assert not [character for character in shown if is_hidden(character) and character != "\n"]
    assert "<script" not in shown and "{{" not in shown.replace("{{ 7*7 }}", "")
    assert "&lt;script&gt;" in shown
    for _, attributes in outline.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:")
        assert not re.match(r"\w+:", attributes.get("href") or "")


def cells(text):
    """Return the texts of all rows of the tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    return [
        [
            re.sub(r"\s+", " ", re.sub("<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)
        ]
        for row in rows
    ]


def test_a_manifest_shows_its_counts_its_notes_and_a_few_thumbnails(data):
    text = data._repr_html_()
    counts = data.counts()
    table = {row[0]: row[1:] for row in cells(text)}
    assert [int(cell.split()[0]) for cell in table["normal"]] == counts.loc["normal", ["train", "valid"]].tolist()
    assert [int(cell) for cell in table["All images"]] == counts.loc["images", ["train", "valid"]].tolist()
    assert text.count("<img") == overview.THUMBNAILS < len(data)
    assert data.notes and text.count("<li>") == overview.THUMBNAILS + len(data.notes)
    assert repr(data) == r"Manifest('\u202egpj<script>&{{ 7*7 }}': 10 images, 2 labels; train 8, valid 2)"


def test_a_split_without_images_is_shown(data):
    assert "0 images" in data.subset("test")._repr_html_()


def test_a_manifest_with_missing_files_says_so(tmp_path, data):
    shutil.copytree(data.config.source, tmp_path / "data")
    moved = open_manifest(DataConfig(source=tmp_path / "data", patient_col="none"))
    shutil.rmtree(tmp_path / "data")
    text = moved._repr_html_()
    assert "<img" not in text and text.count("can’t be read") == overview.THUMBNAILS


def test_a_manifest_of_100_000_images_is_shown_within_a_second(data):
    n, labels = 100_000, tuple(f"label {i}" for i in range(14))
    names = [f"{i}.png" for i in range(n)]
    table = pd.DataFrame({"image": names, "path": [f"/gone/{name}" for name in names], "labels": "label 1"})
    table["patient"], table["split"] = [f"P{i // 3}" for i in range(n)], np.where(np.arange(n) % 5, "train", "valid")
    targets = np.zeros((n, 14), np.float32)
    targets[:, 1] = 1
    large = Manifest(table, labels, targets, "multi", data.config, (), np.ones(n, bool))
    large._repr_html_()
    began = time.process_time()
    text = large._repr_html_()
    assert time.process_time() - began < 1
    assert {row[0]: row[1:] for row in cells(text)}["label 1"] == ["80,000 100.0%", "20,000 100.0%"]


def test_an_audit_shows_the_most_severe_findings_and_how_many_more(data):
    text = audit_of(data)._repr_html_()
    assert text.count('class="severity"') == overview.FOUND_SHOWN
    assert "11 more" in text and text.index(">Leak<") < text.index(">Warning<") < text.index(">Note<")
    assert repr(audit_of(data)).endswith("train 8, valid 2): 1 leak, 1 warning, 21 notes)")


def test_a_complete_run_shows_its_metrics_with_intervals_its_curves_and_links(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run.path.parent)
    text = tiny_run._repr_html_()
    test = tiny_run.metrics["test"]
    low, high = (test["intervals"]["overall"]["accuracy"][end] for end in ("low", "high"))
    assert f">{test['overall']['accuracy']:.3f}</span>" in text and f"{low:.3f} to {high:.3f}" in text
    assert text.count('<img class="plot') == 1 and "tiny_resnet" in text and "2 epochs" in text
    assert f"epoch {tiny_run.info['best_epoch']} was kept" in text
    addresses = [attributes["href"] for attributes in Outline(text).of("a")]
    assert "tiny/config.yaml" in addresses and "tiny/history.csv" in addresses
    assert repr(tiny_run) == f"Run('{tiny_run.path}')"


@pytest.mark.filterwarnings("ignore:.*lacks checksums.txt")
@pytest.mark.parametrize(
    ("status", "missing", "words"),
    [
        ("running", (), ["running", "2 epochs finished; if no process is training it, xf.resume("]),
        ("interrupted", (), ["interrupted", "xf.resume(&#39;"]),
        ("failed", ("metrics.json", "history.csv", "predictions"), ["failed", "0 epochs finished", "starts it again"]),
        ("created", ("split.csv", "history.csv"), ["created", "ended before training began"]),
        ("completed", ("metrics.json", "model.safetensors"), ["lacks metrics.json"]),
        ("completed", ("config.yaml",), ["lacks config.yaml"]),
        ("completed", ("labels.json",), ["lacks labels.json"]),
        ("completed", ("run.json",), ["lacks run.json"]),
    ],
)
def test_a_run_in_any_state_is_shown(status, missing, words, tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run", ignore=UNCHECKED))
    run.update_info(status=status)
    for name in missing:
        path = run.path / name
        (shutil.rmtree if path.is_dir() else type(path).unlink)(path)
    text = run._repr_html_()
    for word in words:
        assert word in text
    assert not Outline(text).wrong
    linked = {attributes["href"].rsplit("/", 1)[-1] for attributes in Outline(text).of("a")}
    assert not linked & set(missing)


@pytest.mark.filterwarnings("ignore:.*lacks checksums.txt")
def test_a_damaged_file_of_a_run_is_named(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run", ignore=UNCHECKED))
    for name in ("metrics.json", "history.csv", "config.yaml", "labels.json", "run.json"):
        (run.path / name).write_text("{")
        assert f"/{name}: " in run._repr_html_()


def test_an_evaluation_and_an_interpretation_show_the_metrics_of_each_label(tmp_path, reports):
    for task in LABELS:
        summary = reports[task][0].summary
        for one in (evaluation_of(tmp_path / task, reports, task), interpretation(reports, task)):
            table = {row[0]: row[1:] for row in cells(one._repr_html_())}
            for row in summary["per_label"]:
                name = (
                    row["label"]
                    if row["label"] != HOSTILE
                    else next(key for key in table if key.startswith("&lt;script"))
                )
                assert table[name][0] == str(row["support"])
                assert (f"{row['auroc']:.3f}" if row["auroc"] is not None else "not defined") in " ".join(table[name])
    empty = Evaluation(tmp_path / "none", ())
    assert "lacks metrics.json" in empty._repr_html_()


def test_the_label_table_is_a_data_frame_shown_with_titles_and_intervals(reports):
    found = interpretation(reports)
    table = found.label_table()
    text = table._repr_html_()
    assert isinstance(table, pd.DataFrame) and type(table[["auroc"]]) is type(table.copy()) is pd.DataFrame
    ends = found.summary["intervals"]["per_label"]["pneumonia"]["auroc"]
    row = {row[0]: " ".join(row) for row in cells(text)}["pneumonia"]
    assert f"{table.loc['pneumonia', 'auroc']:.3f} {ends['low']:.3f} to {ends['high']:.3f}" in row
    table.loc["pneumonia", "own"] = 0.123456
    assert "0.123" in {row[0]: " ".join(row) for row in cells(table._repr_html_())}["pneumonia"]


def test_a_comparison_shows_runs_and_paired_differences():
    text = render_overview(comparison())
    rows = cells(text)
    assert ["one reference", "12", "0.812 0.700 to 0.900", "—not defined"] in rows
    assert [row[1:] for row in rows if "McNemar" in row] == [
        ["Accuracy", "−0.062 −0.100 to +0.020", "McNemar", "0.250", "0.500", "no"]
    ]
