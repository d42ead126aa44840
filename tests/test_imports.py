"""Imports point in one direction, and commands import little before they need it."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import xrayfast

PACKAGE = Path(xrayfast.__file__).parent

# A package may import itself and the packages in the rows below its own.
LAYERS = [
    ["cli"],
    ["serving"],
    ["workflows"],
    ["learning"],
    ["tracking"],
    ["reporting"],
    ["runs"],
    ["exported", "hub"],
    ["audit"],
    ["progress"],
    ["metrics", "data"],
    ["option_effects", "synthetic"],
    ["config"],
    ["files", "cpus", "own_code", "display", "launch"],
    ["errors", "_version"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The same inside four packages; modules that are not listed are used by all of their subfolders.
ROOMS = {
    "data": [
        ["decoding"],
        ["open_manifest"],
        ["manifest"],
        ["corrections"],
        ["sources"],
        ["labels", "splits"],
        ["cache"],
        ["images"],
    ],
    "learning": [["fastai_interpretation", "exporting"], ["training", "inference"], ["model"], ["dataloaders"]],
    "reporting": [["html", "markdown"], ["interpretation"], ["figures"]],
    "runs": [
        ["cross_validation"],
        ["run"],
        ["new_folders"],
        ["evaluation", "history"],
        ["info_types", "metrics_types"],
        ["json_files", "names", "predictions", "batches"],
    ],
}
MOST_MODULES = 12
LONG_LISTS = {"cli/commands": "one module per command", "workflows": "one module per use case"}
HEAVY = {
    "data": {"torch", "torchvision", "fastai", "sklearn", "matplotlib"},
    "audit": {"torch", "torchvision", "fastai", "matplotlib"},
    "metrics": {"torch", "torchvision", "fastai", "pandas", "matplotlib"},
    "reporting": {"torch", "torchvision", "fastai"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            yield path, parts[0]


@cache
def imported(path):
    """Return the names that a file imports, also inside functions and for type checking."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            assert "*" not in [alias.name for alias in node.names]
            found += (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
    return found


def test_imports_point_one_way():
    for path, package in modules():
        for name in imported(path):
            top, _, rest = name.partition(".")
            if top == "xrayfast":
                target = rest.split(".")[0]
                assert RANK[target] >= RANK[package], f"{path} imports {name}"
                assert package == target or RANK[target] != RANK[package], f"{path} imports its neighbor {name}"
            assert top not in HEAVY.get(package, set()), f"{path} imports {name}"


def rank_in_room(dotted):
    """Return top package, subfolder and rank of a module that is listed in ROOMS, else None."""
    top, room = [*dotted.split("."), "", ""][1:3]
    return next(((top, room, i) for i, rooms in enumerate(ROOMS.get(top, [])) if room in rooms), None)


@pytest.mark.parametrize("top", ROOMS)
def test_subfolders_of_a_package_import_in_one_direction(top):
    for path in sorted((PACKAGE / top).rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        here = rank_in_room(f"xrayfast.{name.removesuffix('.py').replace('/', '.')}")
        for target in filter(None, map(rank_in_room, imported(path))):
            if target[0] == top:
                assert here, f"{name} is used by all rooms, and imports {target[1]}"
                assert here[1] == target[1] or here[2] < target[2], f"{name} imports {target[1]}"


def test_no_modules_import_each_other_in_a_circle():
    """Neither within functions nor for type checking: code that two modules share belongs in a third."""
    files = {}
    for path in PACKAGE.rglob("*.py"):
        files[".".join(("xrayfast", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")] = path
    del files["xrayfast"]  # it imports every public name
    modules = {
        name: {full if full in files else full.rpartition(".")[0] for full in imported(path)} & files.keys()
        for name, path in files.items()
    }
    TopologicalSorter(modules).prepare()


def test_modules_are_imported_by_name_in_these_places_only():
    files = {
        "__init__.py": "public names, when they are used",
        "cli/loading.py": "commands, when they are called",
        "display/overview.py": "figures and HTML of a result, when a person looks",
        "files/run_lock.py": "what one system has",
        "learning/deferred_imports.py": "what a library imports and seldom uses",
        "runs/run.py": "what makes a learner, when one is asked for",
    }
    found = [path for path in PACKAGE.rglob("*.py") if re.search(r"import_module|__import__", path.read_text())]
    assert {path.relative_to(PACKAGE).as_posix() for path in found} == set(files)


def test_no_command_imports_another():
    for path in (PACKAGE / "cli" / "commands").glob("*.py"):
        assert not [name for name in imported(path) if name.startswith("xrayfast.cli.commands")], path.name


def test_no_folder_has_too_many_modules_to_look_through():
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        modules = [path.stem for path in folder.glob("*.py") if path.stem[:2] != "__"]
        if folder.relative_to(PACKAGE).as_posix() not in LONG_LISTS:
            assert len(modules) <= MOST_MODULES, f"{folder}: {modules}"


def test_every_public_name_is_there_and_in_all():
    # The imports for type checkers are the names that are loaded lazily.
    block = next(node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    typed = {f"{node.module}:{alias.name}" for node in imports for alias in node.names}
    assert typed == set(xrayfast._HOMES.values())
    for name in xrayfast.__all__:
        assert getattr(xrayfast, name) is not None
    assert set(dir(xrayfast)) == set(xrayfast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        xrayfast.nothing  # noqa: B018


HEAVY_MODULES = ("torch", "fastai", "pandas", "numpy", "matplotlib", "scipy", "PIL")


def test_help_version_and_usage_errors_load_nothing_heavy():
    lines = [(["--help"], 0), (["--version"], 0), (["fit", "--help"], 0), (["fit", "--bogus"], 2), (["x"], 2), ([], 2)]
    script = (
        "import sys\n"
        "from xrayfast.cli import app\n"
        f"for arguments, expected in {lines!r}:\n"
        "    try: app(arguments, prog_name='xrayfast')\n"
        "    except SystemExit as end: code = end.code or 0\n"
        "    assert code == expected, arguments\n"
        f"    found = [m for m in {HEAVY_MODULES!r} if m in sys.modules]\n"
        "    assert not found, (arguments, found)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_list_of_commands_says_what_their_own_help_says():
    from xrayfast.cli.loading import SHARED_MODULES, SUMMARIES, Commands

    commands = Commands()
    files = {path.stem.replace("_", "-") for path in (PACKAGE / "cli" / "commands").glob("[a-z]*.py")}
    assert {SHARED_MODULES.get(name, name) for name in SUMMARIES} == files
    for name, summary in SUMMARIES.items():
        assert " ".join(commands[name].help.split("\n\n")[0].split()) == summary
    with pytest.raises(KeyError):
        commands["nothing"]


def loaded_by(code, among):
    script = f"import sys\n{code}\nprint([m for m in {among!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.strip()


def test_the_list_of_commands_imports_none_of_them():
    code = (
        "from xrayfast.cli import app\n"
        "sys.stdout, out = sys.stderr, sys.stdout\n"
        "try: app(['--help'], prog_name='xrayfast')\n"
        "except SystemExit: sys.stdout = out"
    )
    assert loaded_by(code, ("xrayfast.cli.options", "xrayfast.cli.commands.fit", "pydantic", "yaml")) == "[]"


def test_workflows_without_a_network_load_no_torch():
    heavy = ("torch", "torchvision", "fastai", "sklearn", "scipy.stats", "matplotlib.pyplot", "IPython")
    names = ("interpret", "compare", "evaluate", "check", "split", "predict", "export")
    assert loaded_by("\n".join(f"import xrayfast.workflows.{name}" for name in names), heavy) == "[]"


LIBRARIES = (
    "pandas", "torch", "torchvision", "torch._dynamo", "sympy", "fastai", "fastai.text", "fastai.vision.augment",
    "fasthtml", "timm", "requests", "joblib", "sklearn", "scipy", "scipy.stats", "scipy.optimize", "scipy.ndimage",
    "scipy.sparse.csgraph", "matplotlib", "matplotlib.pyplot", "jinja2", "IPython", "spacy", "captum",
)  # fmt: skip
LOADS = [
    {"fit": ["pandas", "torch", "torchvision", "fastai", "scipy", "jinja2"]},
    {
        "predict": ["pandas", "torch", "torchvision"],
        "evaluate": ["scipy", "matplotlib", "jinja2"],
        "model": [],
        "interpret": [],
    },
]
"""The libraries among these that each step loads in addition to earlier steps of the same process."""


def test_a_command_loads_the_libraries_that_it_uses(data_dir, tmp_path):
    run, image = tmp_path / "runs" / "a", next((data_dir / "normal").iterdir())
    modules = ("losses", "precision", "pretrained.timm_networks")  # optimizers need fastai
    small = ["--weights", "none", "--size", "32", "--epochs", "1", "--resamples", "100", "--test-fraction", "0.2"]
    fit = {"fit": [data_dir, *small, "--runs", run.parent, "--name", run.name]}
    others = {
        "predict": [run, image, "--tta", "-o", tmp_path / "p.csv"],
        "evaluate": [run, data_dir, "--resamples", "0"],
        "model": ", ".join(f"xrayfast.learning.model.{name}" for name in modules),
        "interpret": [run, "--saliency", "1"],
    }
    assert loaded_by_steps(fit, others) == LOADS


def loaded_by_steps(*processes):
    """Return the libraries that each step loads; a step is a command with its arguments or an import.

    The steps of a dict run one after the other in one process, forked from a process that has imported torch.
    """
    plain = [
        {step: line if isinstance(line, str) else [*map(str, line)] for step, line in lines.items()}
        for lines in processes
    ]
    script = (
        "import json, os, sys\n"
        "import torch\n"
        "from xrayfast.cli import app\n"
        f"for lines in {plain!r}:\n"
        "    if os.fork():\n"
        "        assert not os.wait()[1]\n"
        "        continue\n"
        "    before, loads = set(), {}\n"
        "    for step, line in lines.items():\n"
        "        if isinstance(line, str): exec(f'import {line}')\n"
        "        else:\n"
        "            try: app([step, *line], prog_name='xrayfast')\n"
        "            except SystemExit as end: assert not end.code, step\n"
        f"        loads[step] = [m for m in {LIBRARIES!r} if m in sys.modules and m not in before]\n"
        "        before |= set(loads[step])\n"
        "    print('LOADS', json.dumps(loads), flush=True)\n"
        "    os._exit(0)\n"  # skips torch's 3 s of cleanup
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in re.findall("LOADS (.*)", done.stdout)]
