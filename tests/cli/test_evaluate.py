"""`xrayfast evaluate` as a user runs it."""

import json
import shutil

import pytest

from tests.cli.test_cli import call
from xrayfast.synthetic import write_dataset


@pytest.fixture(scope="module")
def place(tiny_run, tiny_multi_run, tmp_path_factory):
    """A working folder with two runs and 24 images that neither run has seen."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(tiny_multi_run.path, folder / "runs" / "multi")
    shutil.copytree(tiny_run.path, folder / "runs" / "tiny")
    write_dataset(folder / "external", images=24, size=64, seed=11)
    rows = (folder / "external" / "labels.csv").read_text().splitlines()
    rows_with_sex = [f"{row},{'sex' if i == 0 else 'FM'[i % 2]}" for i, row in enumerate(rows)]
    (folder / "external.csv").write_text("\n".join(rows_with_sex).replace(",normal,", ",Fracture,") + "\n")
    for path in (folder / "external").rglob("*.png"):
        path.rename(folder / "external" / path.parent.name / path.name)
    return folder


@pytest.fixture
def at(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "100")
    return place


def test_the_test_split_of_the_run(at):
    done = call("evaluate", "runs/tiny", "--resamples", 20)
    for words in ("tiny on ", ", split test", "evaluated", "with 95% intervals", "By label", "AUROC, macro"):
        assert words in done.stdout
    assert "Evaluation: runs/tiny/evaluations/test" in done.stdout
    assert "Report: runs/tiny/evaluations/test/evaluation.html" in done.stdout
    for name in ("predictions.csv", "metrics.json", "evaluation.html", "tables/overall.csv", "tables/per_label.csv"):
        assert (at / "runs/tiny/evaluations/test" / name).is_file()
    page = (at / "runs/tiny/evaluations/test/evaluation.html").read_text()
    assert "From the run&#39;s saved predictions." in page and "Predicted for this evaluation." not in page


def test_a_run_without_its_checksums_is_named_on_standard_error(at):
    shutil.copytree(at / "runs/tiny", at / "copied", ignore=shutil.ignore_patterns("checksums.txt", "evaluations"))
    done = call("evaluate", "copied", "--resamples", 0, "--name", "unchecked", "--json")
    notes = [line for line in done.stderr.splitlines() if "lacks checksums.txt" in line]
    assert [note.split(": lacks")[0] for note in notes] == ["Note: copied", "Note: copied/predictions"]


def test_other_data_with_subgroups_by_sex(at):
    words = ("evaluate", "runs/tiny", "external", "--labels", "external.csv", "--by", "sex", "--device", "cpu")
    done = call(*words, "--resamples", 20, "--prevalence", "0.1", "--name", "there")
    for shown in (
        "left out: without any of the network's classes",
        "Labels of the data that the network lacks",
        "Fracture",
        "Labels of the network that the data lack: normal",
        "By sex",
        "stated",  # prevalence, in a header that breaks on a narrow terminal
    ):
        assert shown in done.stdout
    assert "Predicted for this evaluation." in (at / "runs/tiny/evaluations/there/evaluation.html").read_text()
    content = json.loads(call(*words, "--resamples", 0, "--json").stdout)
    assert content["evaluation"] == "runs/tiny/evaluations/external"
    assert content["images"]["evaluated"] == 16 and content["labels"]["unknown"] == [["Fracture", 8]]
    assert [one["value"] for one in content["result"]["subgroups"][0]["groups"]] == ["F", "M"]


def test_an_error_is_one_message(at):
    assert "--test-fraction" in call("evaluate", "runs/multi", code=1).stderr
    assert "no such run" in call("evaluate", "external2", code=1).stderr
    assert "gender" in call("evaluate", "runs/tiny", "--by", "gender", code=2).stderr
    assert "give DATA too" in call("evaluate", "runs/tiny", "--labels", "external.csv", code=2).stderr
    assert "not one of train, valid, test" in call("evaluate", "runs/tiny", "--split", "all", code=2).stderr
    assert "give DATA too" in call("evaluate", "runs/tiny", "--batch-size", 8, code=2).stderr
    assert "not one of auto" in call("evaluate", "runs/tiny", "--device", "tpu", code=2).stderr
    assert not (at / "runs/multi/evaluations").exists()
