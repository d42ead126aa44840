"""The examples and the README's code run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(code, folder, argument):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(argument)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path, films, tmp_path):
    # The real thing, but an epoch of it.
    code = re.sub(r"epochs=8|fit_one_cycle\(8", lambda found: found[0].replace("8", "1"), path.read_text())
    assert code != path.read_text()
    out = run(code, tmp_path, films)
    assert out.strip()
    assert list((tmp_path / "runs").glob("*/report.html"))
    assert next((tmp_path / "runs").glob("*/run.json")).read_text().count('"completed"') == 1


def test_there_are_three_examples():
    assert {path.stem for path in EXAMPLES} == {"single_label", "multi_label_focal", "plain_fastai"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


def test_the_readme_s_python_runs(films, tmp_path):
    code = "\n".join(blocks("python"))
    assert "import xrayfast as xf" in code
    (tmp_path / "data").symlink_to(films)
    (tmp_path / "new_images").symlink_to(films / "normal")
    quick = code.replace('arch="vgg16_bn"', 'arch="resnet18"').replace("size=224", "size=64")
    quick = re.sub(r'arch="(\w+)"', r'arch="\1", weights="none"', quick).replace("epochs=6", "epochs=1")
    run(quick, tmp_path, films)


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
