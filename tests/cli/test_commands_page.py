"""The page of the guide that lists all options of all commands."""

import inspect
import runpy
from pathlib import Path

from xrayfast.cli.commands.fit import fit
from xrayfast.cli.loading import SUMMARIES

GUIDE = Path(__file__).resolve().parents[2] / "examples" / "guide"
PAGE = (GUIDE / "commands.md").read_text(encoding="utf-8")


def test_the_page_is_current():
    assert runpy.run_path(str(GUIDE / "make_commands.py"))["page"]() == PAGE, "run: make docs"


def test_the_page_has_every_command_and_every_option_of_fit():
    for name in SUMMARIES:
        assert f"## xrayfast {name}\n" in PAGE
    section = PAGE.partition("## xrayfast fit\n")[2].partition("\n## ")[0]
    for name in set(inspect.signature(fit).parameters) - {"source", "as_json"}:
        assert f"`--{name.replace('_', '-')}" in section
    assert "| `DATA` | data |" in section
    assert "`--seed N` | 0 |" in PAGE.partition("## xrayfast compare\n")[2]
