"""What a notebook shows of a result, found by name when a person looks at it.

Data, runs and audits stand below `reporting` in the import layers, and their figures and HTML are made there. This
module alone reaches up, at run time, so that no module imports one that imports it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def notebook_shell() -> Any:
    """IPython's shell where it is that of a notebook's kernel; else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def report_module(name: str) -> Any:
    """The module `xrayfast.reporting.NAME`."""
    return import_module(f"xrayfast.reporting.{name}")


class HasOverview:
    """A result that a notebook shows as `reporting.html.overview` lays it out."""

    def _repr_html_(self) -> str:
        text: str = report_module("html.overview").render_overview(self)
        return text
