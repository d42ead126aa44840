"""The paragraph on methods says what is in the files of the run, and nothing else."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

import xrayfast as xf
from tests.conftest import UNCHECKED
from xrayfast.metrics.operating_points.thresholds import OperatingPoint
from xrayfast.reporting.markdown.methods import describe_methods

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(params=["single", "multi"])
def run(request, tiny_run, tiny_multi_run):
    return tiny_run if request.param == "single" else tiny_multi_run


def test_the_text_describes_how_the_run_was_made(run):
    text = describe_methods(run)
    counts, info, config = run.info.counts, run.info, run.config
    assert f"training {counts['train']['images']} images" in text
    assert (
        f"assigned {'one of the classes' if run.task == 'single' else 'any of the labels'} {', '.join(run.labels)}."
        in text
    )
    assert f"seed {config.train.seed}" in text and f"square of {config.model.size} px" in text
    assert f"weights of epoch {info.best_epoch} of {len(run.history)}" in text
    assert f"xrayfast {info.xrayfast}" in text and f"torch {info.versions['torch']}" in text
    calibrated = {"single": "by temperature scaling", "multi": "by Platt scaling"}[run.task]
    assert f"Probabilities were calibrated {calibrated} on the validation images." in text
    assert "95% confidence intervals (" in text
    assert "not recorded" not in text and "\n" not in text


def test_the_text_states_the_confidence_of_reaching_a_target(tiny_run, tmp_path):
    copy = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "copy", ignore=UNCHECKED))
    points = tuple(OperatingPoint(0.4, "", 0.96, 0.5, 60, 60) for _ in copy.labels)
    copy.write_decision(replace(copy.decision, points=points, rule="sensitivity", target=0.95, confidence=0.9))
    assert "at a sensitivity of at least 0.95 on new images, with 90% confidence." in describe_methods(copy)


def test_the_text_agrees_with_the_files(tiny_run, tmp_path):
    copy = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "copy", ignore=UNCHECKED))
    split = pd.read_csv(copy.path / "split.csv", dtype=str, keep_default_na=False)
    split["patient"] = [f"P{i // 2}" for i in range(len(split))]
    split["split"] = ["train", "valid"] * (len(split) // 2) + ["train"] * (len(split) % 2)
    split.to_csv(copy.path / "split.csv", index=False)
    assert "No patient was in more than one split" not in describe_methods(copy)
    split["split"] = "train"
    split.to_csv(copy.path / "split.csv", index=False)
    assert "No patient was in more than one split." in describe_methods(copy)


def test_the_report_contains_the_text_to_copy(tiny_run, tmp_path):
    copy = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "copy", ignore=UNCHECKED))
    xf.interpret(copy)
    page = copy.report_path.read_text()
    assert "Methods, as a paragraph for a paper" in page
    assert f"weights of epoch {copy.info.best_epoch} of {len(copy.history)}" in page
