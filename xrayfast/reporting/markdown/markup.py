"""Markdown: escaping, tables and templates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from xrayfast.errors.escapes import escape_hidden

PURPOSE = "For research and teaching, not for diagnosis."
UNRECORDED = "not recorded"
DASH = "–"

_TEMPLATES = Path(__file__).parent / "templates"


class Markdown(str):
    """Text that is already Markdown and is not escaped again."""

    __slots__ = ()


GAP = Markdown("[to be completed by the author]")


def escape(value: object) -> Markdown:
    r"""Escape a text as one line of Markdown that shows it literally: no markup, no HTML, no links.

    >>> print(escape("a|b <i> *c*"))
    a&#124;b &lt;i&gt; \*c\*
    """
    if isinstance(value, Markdown):
        return value
    text = " ".join(escape_hidden(str(value)).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    text = re.sub(r"([\\`*\[\]~$])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda found: "\\" + found[0], text)
    # GitHub and the Hub make links of bare addresses.
    text = text.replace("://", "&#58;//").replace("@", "&#64;")
    text = re.sub(r"(?i)\b(www)\.", r"\1&#46;", text)
    # Escape what would begin a heading, a list or a rule, or end a heading.
    text = re.sub(r"^(\d*)([#+\-=.)])(?=\s|$|[#+\-=])", r"\1\\\2", text)
    return Markdown(re.sub(r"(?<= )#(?=#*$)", r"\\#", text))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markdown:
    """Return a Markdown table with escaped cells; columns of numbers are aligned to the right."""
    cells = [[escape(cell) for cell in row] for row in rows]
    numeric = [all(re.match(rf"-?\d|{DASH}", row[i]) for row in cells) for i in range(len(columns))]
    ruler = ["---:" if right else "---" for right in numeric]
    lines: list[Sequence[str]] = [[escape(name) for name in columns], ruler, *cells]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def render_markdown(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template of `templates/`; every text that is not `Markdown` is escaped."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    # `autoescape` is for HTML; `finalize` escapes for Markdown.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=False, keep_trailing_newline=True, finalize=escape, **options
    )
    environment.globals |= {"purpose": PURPOSE, "gap": GAP, "unrecorded": UNRECORDED}
    return environment
