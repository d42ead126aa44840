"""README and guide are correct: their code runs; their commands, links, images and values exist."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

import xrayfast as xf

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
GUIDE = sorted((ROOT / "examples" / "guide").glob("*.md"))
MADE = ("commands", "gallery")  # test_commands_page.py and notebooks/test_examples.py compare these
WRITTEN = [page for page in GUIDE if page.stem not in MADE]
PAGES = [README, *WRITTEN]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)


@pytest.fixture
def project(data_dir, tiny_run, tmp_path, monkeypatch):
    """The working folder that the pages assume: data/, other_data/, new_images/ and two runs."""
    (tmp_path / "data").symlink_to(data_dir)
    shutil.copytree(data_dir / "normal", tmp_path / "new_images")
    shutil.copy(next(data_dir.glob("normal/*.png")), tmp_path / "new_images" / "patient7.png")
    xf.synth(tmp_path / "other_data", images=12, size=64, seed=99)
    for name in ("resnet18-1", "resnet18-2"):
        shutil.copytree(tiny_run.path, tmp_path / "runs" / name)
    picture = {"bytes": next(data_dir.glob("normal/*.png")).read_bytes(), "path": "1.png"}
    parquet.write_table(pyarrow.table({"image": [picture] * 8, "label": ["a", "b"] * 4}), tmp_path / "images.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(code):
    """Return the code with a small network from random weights, one epoch, few resamples and small images."""
    code = re.sub(r'arch="(?:vgg16_bn|resnet18)"', 'arch="tiny_resnet"', code).replace("size=224", "size=32")
    return re.sub(r'arch="(\w+)"', r'arch="\1", weights="none"', code).replace("epochs=6", "epochs=1, resamples=20")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_code_of_a_page_runs(page, project, quick):
    code = "\n".join(blocks(page, "python"))
    assert "import xrayfast as xf" in code
    exec(compile(small(code), page.name, "exec"), {"__name__": "__main__"})


def parse(words):
    """Parse a command line of xrayfast as the program does, and run nothing."""
    from typer.main import get_command

    from xrayfast.cli import app

    command, name = get_command(app), "xrayfast"
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, list(words))


def command_lines():
    for page in PAGES:
        for line in "".join(blocks(page, "sh")).splitlines():
            if line.strip():
                yield pytest.param(line, id=f"{page.stem}: {line[:50]}")


@pytest.mark.parametrize("line", list(command_lines()))
def test_the_commands_of_the_pages_exist(line):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.M)
    elif words[0] == "python":
        assert (ROOT / words[1]).exists()
    else:
        assert words[0] in ("xrayfast", "torchrun")
        parse(words[words.index("xrayfast") + 1 :])


def test_the_pages_show_every_command():
    from typer.main import get_command

    from xrayfast.cli import app

    shown = {words[words.index("xrayfast") + 1] for param in command_lines() for line in param.values
             if "xrayfast" in (words := shlex.split(line, comments=True))}  # fmt: skip
    assert shown | {"demo"} == set(get_command(app).commands)


def test_a_wrong_option_would_be_found():
    with pytest.raises(Exception, match="--bogus"):
        parse(["fit", "--bogus"])


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "BENCHMARKS.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_links_have_targets(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_readme_links_every_page():
    text = README.read_text(encoding="utf-8")
    assert all(f"examples/guide/{page.name}" in text for page in GUIDE)


@pages
def test_files_that_the_pages_name_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\b(?:examples|tests|xrayfast)/[\w./]*\w", text):
        assert (ROOT / name).exists() or name.endswith("/lakeside.py"), name  # readers of contributing.md make it
    for module in re.findall(r"-m (tests[\w.]+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module


@pages
def test_pages_are_short(page):
    longest = {"README": 200, "contributing": 235, "results": 180, "data": 160}.get(page.stem, 150)
    assert len(page.read_text(encoding="utf-8").splitlines()) <= longest


@pytest.mark.parametrize("name", ["report.png", "terminal.png", "notebook_training.png", "serve.png"])
def test_pictures_are_there_and_small(name):
    picture = ROOT / "examples" / "images" / name
    assert picture.stat().st_size < 200_000
    assert f"examples/images/{name}" in README.read_text(encoding="utf-8")


@pages
def test_measured_values_are_those_of_the_benchmarks(page):
    """A value of several rounds, such as "3.01 (2.99 to 3.14, n = 3)", is in BENCHMARKS.md with its command."""
    measured = (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    values = re.findall(r"[\d.]+(?:%| s)? ?\((?:[\d.]+ to [\d.]+, )?n = \d+\)", " ".join(page.read_text().split()))
    assert all(value in measured for value in values)
    assert values or page.stem not in ("README", "speed", "scale")


@pages
def test_pages_use_one_vocabulary(page):
    text = re.sub(r"`[^`]*`|^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = re.findall(
        r"\b(?:films?|pictures?|body|thaw\w*|decision rules?|nobody|kept values|the store)\b", text, flags=re.I
    )
    assert not found


@pytest.mark.slow
def test_the_table_beside_fastai_is_what_the_script_finds(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["beside_fastai.py"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "examples" / "beside_fastai.py"), run_name="__main__")
    found = capsys.readouterr().out.strip()
    assert found.count("\n") > 10
    assert found in README.read_text(encoding="utf-8")


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([\d.]+)\]", text, flags=re.M)
    assert versions[0] == xf.__version__
    by_number = sorted(set(versions), key=lambda version: [int(part) for part in version.split(".")], reverse=True)
    assert versions == by_number


def test_ci_runs_the_readme_s_test_command_and_the_linters():
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test" in script
    assert "make lint" in script
    assert "make test" in "".join(blocks(README, "sh"))
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")]).returncode == 0


def test_the_pages_list_every_backbone_loss_and_dataset():
    from xrayfast.data.sources.datasets.registry import SPECS
    from xrayfast.learning.model.backbones import BACKBONES
    from xrayfast.learning.model.losses import LOSSES

    training, data = (
        " ".join((ROOT / f"examples/guide/{name}.md").read_text().split()) for name in ("training", "data")
    )
    assert f"`--arch`: {', '.join(name for name, row in BACKBONES.items() if row.weights)}," in training
    assert f"`--loss`: {', '.join(LOSSES)}," in training
    assert f": {', '.join(dict.fromkeys(spec.name.split(' (')[0] for spec in SPECS))}." in data


BUILT = (ROOT / "examples" / "guide" / "how_it_is_built.md").read_text(encoding="utf-8")


def test_the_map_names_every_folder_of_the_package():
    package = ROOT / "xrayfast"
    folders = {f"{init.parent.relative_to(package).as_posix()}/" for init in package.glob("*/**/__init__.py")}
    assert set(re.findall(r"^\| `([\w/]+/)` \|", BUILT, flags=re.M)) == folders


def test_the_import_layers_of_the_page_are_those_that_the_test_enforces():
    from tests.test_imports import LAYERS

    layers = re.findall(r"^    ([\w, ]+)$", BUILT.split("## Import layers")[1], flags=re.M)
    assert [layer.split(", ") for layer in layers] == LAYERS
