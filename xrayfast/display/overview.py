"""The HTML of results in a notebook, imported by name when a result is displayed.

Data, runs and audits are below `reporting` in the import layers, but `reporting` makes their figures and HTML. Only
this module imports from a higher layer, and only at run time, so that there are no circular imports.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def notebook_shell() -> Any:
    """Return IPython's shell if it is the kernel of a notebook; otherwise None."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def report_module(name: str) -> Any:
    """Import and return the module `xrayfast.reporting.NAME`."""
    return import_module(f"xrayfast.reporting.{name}")


class HasOverview:
    """A result that a notebook shows as HTML made by `reporting.html.overview`."""

    def _repr_html_(self) -> str:
        return report_module("html.overview").render_overview(self)
