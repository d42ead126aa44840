"""The examples run as they stand."""

import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

import xrayfast as xf

ROOT = Path(__file__).resolve().parents[1]
GRID = ROOT / "examples" / "published_grid.py"
EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {GRID, ROOT / "examples" / "beside_fastai.py"})


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script in a folder of its own, in this process: a new one would first import torch for 10 s."""

    def script(code, argument):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["script.py", str(argument)])
        exec(compile(code, "script.py", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return script


# The code of README and guide goes the same ways (test_guide.py); one example more of them is quick enough.
LONG = [path for path in EXAMPLES if path.stem != "multi_label_focal"]


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.slow] * (path in LONG), id=path.stem) for path in EXAMPLES]
)
def test_examples_run(path, data_dir, tmp_path, run):
    # The real thing, but an epoch of it.
    code = re.sub(r"epochs=8|fit_one_cycle\(8", lambda found: found[0].replace("8", "1"), path.read_text())
    assert code != path.read_text()
    out = run(code, data_dir)
    assert out.strip()
    assert list((tmp_path / "runs").glob("*/report.html"))
    assert next((tmp_path / "runs").glob("*/run.json")).read_text().count('"completed"') == 1


def test_there_are_three_examples_and_the_grid():
    assert {path.stem for path in EXAMPLES} == {"single_label", "multi_label_focal", "plain_fastai"}
    assert GRID.is_file()


@pytest.fixture
def grid():
    """The main function of examples/published_grid.py."""
    return runpy.run_path(str(GRID))["main"]


SMALLEST = ["--arch", "resnet18", "--depth", "head", "--depth", "all", "--loss", "plain", "--weights", "none"]
SMALLEST += ["--size", "32", "--epochs", "1", "--runs", "grid"]


def test_the_grid_trains_what_is_not_there_resumes_what_was_killed_and_keeps_the_rest(
    grid, data_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    fit = xf.fit

    def killed(*arguments, name, **options):
        """In the second run's second epoch, and without a word to run.json, as kill -9 does it."""
        if name == "resnet18-head-plain":
            return fit(*arguments, name=name, **options)
        from xrayfast.workflows.steps.training import Training

        save_epoch = Training._save_epoch

        def save_and_die(training, improved):
            save_epoch(training, improved)
            raise SystemExit("killed")

        with monkeypatch.context() as patch:
            patch.setattr(Training, "_save_epoch", save_and_die)
            return fit(*arguments, name=name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(xf, "fit", killed)
        with pytest.raises(SystemExit, match="killed"):
            grid([str(data_dir), *SMALLEST])
    first, second = (xf.Run(tmp_path / "grid" / f"resnet18-{depth}-plain") for depth in ("head", "all"))
    assert (first.info["status"], second.info["status"]) == ("completed", "running")
    assert len(second.history) == 1
    assert not Path("grid/published.md").exists()

    before = first.info
    capsys.readouterr()
    grid([str(data_dir), *SMALLEST])
    assert "resnet18-head-plain is done" in capsys.readouterr().out
    assert first.info == before
    assert second.info["status"] == "completed"
    assert len(second.history) == 2
    ended = second.info["finished"]

    (tmp_path / "grid" / "published.md").unlink()
    grid([str(data_dir), *SMALLEST])
    out = capsys.readouterr().out
    assert out.count("is done") == 2
    assert "is trained" not in out
    assert "goes on" not in out
    assert second.info["finished"] == ended
    table = pd.read_csv("grid/published.csv")
    assert table["trained"].tolist() == ["head", "all"]
    assert table["accuracy_published"].tolist() == [0.93, 0.945]
    assert table["accuracy"].tolist() == pytest.approx([run.metrics["test"]["overall"]["accuracy"]
                                                        for run in (first, second)])  # fmt: skip
    page = Path("grid/published.md").read_text()
    for words in ("not public", "0.930", "0.945", "These are other images", "test split"):
        assert words in page
        assert words in out
    assert len(pd.read_csv("grid/comparison.csv")) == 2

    with pytest.raises(SystemExit, match="other settings"):
        grid([str(data_dir), *SMALLEST, "--lr", "0.5"])


def test_a_grid_cell_killed_before_training_began_is_begun_anew(grid, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stump = tmp_path / "grid" / "resnet18-head-plain"
    stump.mkdir(parents=True)
    for name in ("config.yaml", "run.json", ".split.csv.0a1b.tmp"):
        (stump / name).write_text("{}")
    seen = []
    monkeypatch.setattr(xf, "fit", lambda *_, **options: seen.append(options["name"]) or sys.exit("enough"))
    with pytest.raises(SystemExit, match="enough"):
        grid([str(data_dir), *SMALLEST])
    assert seen == ["resnet18-head-plain"]
    assert not stump.exists()
    stump.mkdir()
    (stump / "thesis.txt").write_text("dear to somebody")
    with pytest.raises(OSError, match="not empty"):
        grid([str(data_dir), *SMALLEST])
    assert (stump / "thesis.txt").is_file()
