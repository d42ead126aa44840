"""Imports inside reporting/ point one way: html/ and markdown/ import from its root, and not from each other."""

import re
from pathlib import Path

import pytest

import xrayfast.reporting as reporting

ROOT = Path(reporting.__file__).parent


@pytest.mark.parametrize(
    ("room", "allowed"), [("", r"\w+"), ("html", r"(html\.(pages\.)?)?\w+"), ("markdown", r"(markdown\.)?\w+")]
)
def test_a_room_imports_only_itself_and_the_root(room, allowed):
    modules = list((ROOT / room).glob("*.py" if not room else "**/*.py"))
    assert modules
    for path in modules:
        for name in re.findall(r"^\s*from xrayfast\.reporting\.([\w.]+) import", path.read_text("utf-8"), re.MULTILINE):
            assert re.fullmatch(allowed, name), f"{path.name} imports {name}"
            assert name.split(".")[0] != "html" or room == "html"
            assert name.split(".")[0] != "markdown" or room == "markdown"
