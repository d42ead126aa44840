"""Calibration, thresholds, intervals and saliency on the command line."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from tests.cli.test_cli import call
from xrayfast.errors.advice import name_arguments
from xrayfast.metrics.operating_points.calibration import Scaling
from xrayfast.runs.run import Run


@pytest.fixture
def multi(tiny_multi_run, tmp_path, monkeypatch):
    """A copy of the tiny multi-label run, the newest in runs/."""
    monkeypatch.chdir(tmp_path)
    return Run(shutil.copytree(tiny_multi_run.path, tmp_path / "runs" / "m"))


def test_interpret_shows_intervals_and_names_what_it_wrote(multi):
    done = call("interpret", "--top", 2, "--saliency", 2)
    assert "with 95% intervals" in done.stdout
    assert "threshold" in done.stdout
    assert "Model card: runs/m/model_card.md" in done.stdout
    assert "CLAIM checklist: runs/m/claim.md" in done.stdout
    for name in ("report.html", "model_card.md", "claim.md", "figures/saliency.png"):
        assert (multi.path / name).is_file()
    saliency = multi.metrics["saliency"]
    assert [len(saliency["cases"]), saliency["split"]] == [2, "valid"]
    # Without saliency, the next report has no maps and no saliency metrics.
    call("interpret")
    assert "saliency" not in multi.metrics


def test_figures_are_written_only_in_the_requested_formats(multi):
    call("interpret", "--figure-format", "png,svg,PDF", "--saliency", 1)
    folder = multi.path / "figures"
    names = {"headline", "roc", "precision_recall", "probabilities", "decision_curve", "reliability", "confusion"}
    names |= {"cooccurrence", "curves", "batches", "top_losses", "saliency"}
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{end}" for name in names for end in ("png", "svg", "pdf")
    }
    for path in folder.iterdir():
        start = {".png": b"\x89PNG", ".pdf": b"%PDF"}.get(path.suffix)
        if start:
            assert path.read_bytes().startswith(start)
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
    before = {path.name: path.read_bytes() for path in folder.glob("*.svg")}
    call("interpret", "--figure-format", "svg", "--saliency", 1)
    # No figure of an earlier report remains, and the same run gives the same files.
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    failed = call("interpret", "--figure-format", "jpg", code=2)
    assert "--figure-format is 'jpg'; expected png, svg, pdf, or several of them." in failed.stderr


def test_one_list_of_warnings_precedes_the_headline_in_every_output(multi):
    warnings = multi.metrics["valid"]["warnings"]
    assert {"chosen here", "few images", "few patients"} <= {one["code"] for one in warnings}
    text = " ".join(call("interpret").stdout.split())
    page = html.unescape(re.sub("<[^>]+>", "", multi.report_path.read_text()))
    surfaces = {
        "terminal": (text, "with 95% intervals"),
        "page": (" ".join(page.split()), "AUROC, macro"),
        "card": (" ".join(multi.model_card_path.read_text().split()), "Validation split, "),
        "notebook": (" ".join(html.unescape(re.sub("<[^>]+>", "", multi._repr_html_())).split()), "Parameters"),
    }
    for name, (shown, headline) in surfaces.items():
        for one in warnings:
            # In Python, the advice names arguments instead of flags.
            said = f"{one['text'].rstrip('.')}. {one['advice']}".strip()
            said = name_arguments(said) if name == "notebook" else said
            assert said in shown, name
            assert shown.index(said) < shown.index(headline), name
    assert multi.metrics["valid"]["warnings"] == warnings


def test_an_option_chooses_thresholds_again(multi):
    done = call("interpret", "--target-sensitivity", 0.9, "--resamples", 30, "--json")
    content = json.loads(done.stdout)
    assert content["metrics"]["decision"]["operating_points"]["target"] == 0.9
    assert content["metrics"]["valid"]["intervals"]["resamples"] == 30
    assert multi.decision.rule == "sensitivity"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--target-sensitivity", "0.9", "--thresholds", "f1"], 2, "expected one"),
        (["--target-sensitivity", "1.5"], 2, "--target-sensitivity is 1.5; expected at most 1."),
        (["--thresholds", "best"], 2, "--thresholds is 'best'"),
        (["--prevalence", "7"], 2, "--prevalence: found '7'"),
        (["--prevalence", "nothing=0.1"], 2, "expected one of covid-19"),
    ],
)
def test_a_wrong_option_is_reported_and_nothing_is_changed(words, code, said, multi):
    before = {path: path.read_bytes() for path in multi.path.rglob("*") if path.is_file()}
    done = call("interpret", *words, code=code)
    assert said in done.stderr
    assert {path: path.read_bytes() for path in multi.path.rglob("*") if path.is_file()} == before


def test_labels_that_could_not_be_calibrated_are_named_with_the_reason(multi, multi_dir):
    labels = multi.labels
    scalings = [Scaling(1.0, 0.0, "no image with the label"), *[Scaling(0.5, 0.1)] * (len(labels) - 1)]
    multi.write_decision(replace(multi.decision, calibration=tuple(scalings)))
    said = f"Labels whose calibration is missing or incomplete: {labels[0]} (no image with the label)."
    for done in (call("evaluate", multi.path, "--split", "valid", "--resamples", 0),
                 call("predict", multi.path, next(multi_dir.rglob("*.png")))):  # fmt: skip
        assert f"Note: {said}" in done.stdout


def test_predict_without_a_readable_file_prints_no_empty_table(multi):
    Path("broken.png").write_bytes(b"no image")
    done = call("predict", multi.path, "broken.png", "--abstain-below", 0.9, code=1)
    assert "0 of 1 files predicted" in done.stdout and "broken.png" in done.stdout
    assert "Predicted" not in done.stdout and "of 0 images" not in done.stdout


def test_damaged_metrics_are_written_again_with_a_note(multi):
    before = multi.metrics["valid"]["overall"]
    (multi.path / "metrics.json").write_text("{")
    failed = call("evaluate", multi.path, "--split", "valid", "--resamples", 0, code=1)
    assert f"'xrayfast interpret {multi.path}' writes it again from the saved predictions." in failed.stderr
    done = call("interpret", multi.path)
    assert "Note: " in done.stdout and "metrics.json: has changed since it was written" in done.stdout
    assert multi.metrics["valid"]["overall"] == pytest.approx(before, abs=1e-6)
    assert "metrics.json" not in call("interpret", multi.path).stdout


def test_predict_abstains(multi, multi_dir):
    done = call("predict", multi.path, multi_dir, "--abstain-below", 0.9)
    table = pd.read_csv("predictions.csv", keep_default_na=False)
    without = int((table["abstained"] != "").sum())
    assert without > 0
    said = (
        f"No answer on at least one label, because it would be less certain than 0.9: {without} of {len(table)} images."
    )
    assert said in " ".join(done.stdout.split())


def test_selected_files_are_explained(multi, multi_dir):
    first = sorted(multi_dir.rglob("*.png"))[0]
    other = multi.path.parent / first.name
    shutil.copy(first, other)
    done = call("interpret", "--explain", first, "--explain", other)
    drawn = sorted((multi.path / "figures").glob("saliency-*.png"))
    assert [path.name for path in drawn] == [f"saliency-1-{first.stem}.png", f"saliency-2-{first.stem}.png"]
    assert all(f"Saliency: {path.relative_to(multi.path.parents[1])}" in done.stdout for path in drawn)
    failed = call("interpret", "--explain", "gone.png", code=1)
    assert "gone.png" in failed.stderr
