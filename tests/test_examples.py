"""The examples and the README's code run as they stand."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

import xrayfast as xf

ROOT = Path(__file__).resolve().parents[1]
GRID = ROOT / "examples" / "published_grid.py"
EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {GRID})


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script in a folder of its own, in this process: a new one would first import torch for 10 s."""

    def script(code, argument):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["script.py", str(argument)])
        exec(compile(code, "script.py", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return script


# The README's code goes the same ways; one example more of them is quick enough.
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
        from xrayfast.workflows import training as module

        keep = module._keep

        def keep_and_die(run, *rest):
            keep(run, *rest)
            raise SystemExit("killed")

        with monkeypatch.context() as patch:
            patch.setattr(module, "_keep", keep_and_die)
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


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


def test_the_readme_s_python_runs(data_dir, tmp_path, run):
    code = "\n".join(blocks("python"))
    assert "import xrayfast as xf" in code
    (tmp_path / "data").symlink_to(data_dir)
    shutil.copytree(data_dir / "normal", tmp_path / "new_images")
    shutil.copy(next(data_dir.glob("normal/*.png")), tmp_path / "new_images" / "film.png")
    xf.synth(tmp_path / "other_data", images=12, size=64, seed=99)
    quick = code.replace('arch="vgg16_bn"', 'arch="resnet18"').replace("size=224", "size=32")
    quick = re.sub(r'arch="(\w+)"', r'arch="\1", weights="none"', quick).replace("epochs=6", "epochs=1")
    run(quick, data_dir)


def test_the_readme_s_commands_and_options_exist():
    from typer.main import get_command

    from xrayfast.cli import app

    commands = get_command(app).commands
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    used = [line.split() for line in lines if line.startswith("xrayfast ")]
    assert {words[1] for words in used} >= {"synth", "lr-find", "fit", "interpret", "predict", "models"}
    for words in used:
        spellings = {spelling for option in commands[words[1]].params for spelling in option.opts}
        for word in words[2:]:
            if word.startswith("-"):
                assert word.split("=")[0] in spellings, word


def test_the_readme_s_test_command_is_what_ci_runs():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in "".join(blocks("sh"))
