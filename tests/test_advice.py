"""Messages name flags to users of the command line, and arguments to users of Python."""

import ast
import functools
import inspect
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import xrayfast as xf
from xrayfast import errors
from xrayfast.cli import app
from xrayfast.cli.loading import SUMMARIES
from xrayfast.config import FIELD_SECTIONS, SECTIONS
from xrayfast.errors.advice import advising_flags, name_arguments, quoted

PACKAGE = Path(xf.__file__).parent

NOT_IN_MESSAGES = ("cli/", "config.py", "errors/advice.py", "reporting/markdown/", "serving/")
"""Modules whose texts never reach a user of Python: the command line, help, translation, files, and `serve`."""

COMMAND = rf"'xrayfast |\bxrayfast (?:{'|'.join(SUMMARIES)})\b"

IN_SHELL_ALONE = ("'xrayfast models", "xrayfast models", "--nproc-per-node")


@functools.cache
def literals():
    """Return the texts of the package, except docstrings, that name a flag or command; "filled" stands for values."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(NOT_IN_MESSAGES):
            continue
        tree = ast.parse(path.read_text())
        left_out = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        left_out |= {id(v) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for v in node.values}
        for node in ast.walk(tree):
            if id(node) in left_out:
                continue
            if isinstance(node, ast.JoinedStr):
                text = "".join(v.value if isinstance(v, ast.Constant) else _filled(v) for v in node.values)
            else:
                text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if re.search(rf"--[a-z]|{COMMAND}", text):
                found.append((f"{name}:{node.lineno}", text))
    return found


def _filled(node):
    """Return the word that stands for a value, in quotes if the code adds quotes."""
    return "'filled'" if re.search(r"quoted\(|_in_shell\(", ast.unparse(node)) else "filled"


def arguments():
    """Return the names of all arguments of public functions and of the fields of the config."""
    found = set(FIELD_SECTIONS)
    for name in xf.__all__:
        public = getattr(xf, name)
        for function in [public, *(vars(public).values() if inspect.isclass(public) else ())]:
            if inspect.isfunction(function):
                found |= set(inspect.signature(inspect.unwrap(function)).parameters)
    return found


def test_each_flag_that_a_message_names_is_an_argument_too_and_each_command_is_there():
    known, unknown = arguments(), []
    assert len(literals()) > 150
    for where, text in literals():
        for flag in re.findall(r"(?<![\w-])--(?:no-)?([a-z][a-z0-9-]*)", text):
            if flag.replace("-", "_") not in known | {"resume", "join", "nproc_per_node", "layers", "config", "filled"}:
                unknown.append((where, flag))
        unknown += [(where, name) for name in re.findall(r"'xrayfast ([a-z-]+)", text) if name not in SUMMARIES]
    assert not unknown


def test_in_python_no_message_has_a_flag_or_a_command():
    wrong = []
    for where, text in literals():
        shown = name_arguments(text)
        rest = re.sub("|".join(map(re.escape, IN_SHELL_ALONE)) + r"(?: --layers ARCH)?", "", shown)
        if re.search(rf"(?<![\w-])--[a-z]|{COMMAND}", rest):
            wrong.append((where, shown))
        # In Python a value becomes part of its argument, so a string has to be quoted.
        for name, word in re.findall(r"(?<!\w)([a-z_]+)= (\w+)", shown):
            kind = SECTIONS[FIELD_SECTIONS[name]].model_fields[name].annotation if name in FIELD_SECTIONS else str
            is_text = kind in (str, str | None, Path, Path | None)
            if word[0].isdigit() or f"'{word}'" in str(kind) or (word == "filled" and is_text):
                wrong.append((where, shown))
    assert not wrong


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Use --loss ce or focal, or --task multi.", "Use loss='ce' or 'focal', or task='multi'."),
        ("Use a lower --lr; --unfreeze trains all of it.", "Use a lower lr=; unfreeze=True trains all of it."),
        ("--no-cache, --size 128, or end", "cache=False, size=128, or end"),
        ("--head-width 500,100 or --label-col a,b", "head_width=(500, 100) or label_col=('a', 'b')"),
        ("--label-col 'a b,c'.", "label_col=('a b', 'c')."),
        ("--ema or --ema 0.99; --weights FILE", "ema=True or ema=0.99; weights=FILE"),
        ("--patient-col dicom:PatientID, --label-delim $'\\t'", "patient_col='dicom:PatientID', label_delim='\\t'"),
        ("'--split valid' and --by folder", "split='valid' and by='folder'"),
        (f"--arch {quoted('alexnet')} and {quoted('a b')}", "arch='alexnet' and 'a b'"),
        ("'xrayfast check' and 'xrayfast lr-find'", "xf.check and xf.find_lr"),
        ("'xrayfast evaluate runs/a DATA'", "xf.evaluate('runs/a', DATA)"),
        ("'xrayfast predict 'runs/my run' IMAGES'", "xf.predict('runs/my run', IMAGES)"),
        ("Resume with: xrayfast fit --resume 'runs/my run'", "Resume with: xf.resume('runs/my run')"),
        ("'xrayfast cross-validate --join CV'", "xf.join_folds(CV)"),
        ("xrayfast fit --config runs/a/config.yaml", "xf.fit(config=xf.Config.read('runs/a/config.yaml'))"),
        ("see 'xrayfast models --layers ARCH'", "see 'xrayfast models --layers ARCH'"),
        ("torchrun --nproc-per-node 2; data--x/--y: a -- b", "torchrun --nproc-per-node 2; data--x/--y: a -- b"),
    ],
)
def test_flags_become_arguments_and_commands_functions(text, shown):
    assert name_arguments(text) == shown
    assert name_arguments(shown) == shown
    with advising_flags():
        assert str(errors.RunError(text)) == text
    assert str(errors.RunError(text)) == shown


def test_errors_advise_arguments_in_python_and_flags_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.RunError, match=r"made by xf\.fit\.$"):
        xf.Run("none")
    done = CliRunner().invoke(app, ["evaluate", "none"])
    assert done.exit_code == 1 and "made by 'xrayfast fit'" in done.output
    with pytest.raises(errors.RunError, match=r"made by xf\.fit\.$"):
        xf.Run("none")
