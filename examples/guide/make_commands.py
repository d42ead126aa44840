"""Generate commands.md, which lists every option of every command, from the commands themselves."""

from pathlib import Path
from typing import Any

from typer.main import get_command

from xrayfast.cli import app
from xrayfast.cli.loading import Commands

PAGE = Path(__file__).with_name("commands.md")

HEAD = """# Commands

Every option of every command. `python examples/guide/make_commands.py` (or `make docs`) writes this page; a test
compares it with the commands. In a terminal, `xrayfast COMMAND --help` shows the same.
"""


def page() -> str:
    """Return the text of commands.md."""
    root = get_command(app)
    sections = [HEAD, *section("xrayfast", root)]
    for name, command in Commands().items():
        sections += section(f"xrayfast {name}", command)
        for child, below in getattr(command, "commands", {}).items():
            sections += section(f"xrayfast {name} {child}", below)
    return "\n".join(sections)


def section(title: str, command: Any) -> list[str]:
    """Return a command's usage, help, and tables of arguments and options, one table per panel of the help."""
    shown = [param for param in command.params if not getattr(param, "hidden", False) and param.name != "help"]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    panels: dict[str, list[Any]] = {"Arguments": arguments, "Options": []} if arguments else {"Options": []}
    for param in shown:
        if param not in arguments:
            panels.setdefault(param.rich_help_panel or "Options", []).append(param)
    usage = [title, "COMMAND"] if hasattr(command, "commands") else [title, *map(argument, arguments), "[OPTIONS]"]
    lines = [f"## {title}", "", command.help, "", f"    {' '.join(usage)}", ""]
    for panel, params in panels.items():
        if params:
            lines += [f"| {panel} | default | |", "|---|---|---|", *map(row, params), ""]
    return lines


def argument(param: Any) -> str:
    """Return an argument as the usage shows it: in brackets if it is optional."""
    return param.metavar if param.required else f"[{param.metavar}]"


def row(param: Any) -> str:
    """Return the table row of a parameter."""
    name = param.metavar
    if param.param_type_name == "option":
        flags = " / ".join([", ".join(sorted(param.opts, key=len, reverse=True)), *param.secondary_opts])
        name = flags if param.is_flag else f"{flags} {param.metavar or placeholder(param)}"
    default = param.show_default if isinstance(param.show_default, str) else ""
    if param.show_default is True and param.default is not None and param.default is not False:
        default = str(param.default)
    cells = (f"`{name}`", default, param.help or "")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def placeholder(param: Any) -> str:
    """Return the placeholder for an option without a metavar: N for an integer, X for another number."""
    # Typer has this attribute from 0.20 on; Click has it before.
    kind = param.type_descriptor.annotation.__name__ if hasattr(param, "type_descriptor") else param.type.name
    return "N" if "int" in kind else "X"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
