"""`xrayfast check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.common import read_settings, show_counts
from xrayfast.cli.output import Output
from xrayfast.errors import plural
from xrayfast.progress.terminal import reporting

if TYPE_CHECKING:
    from xrayfast.audit.check import Audit
    from xrayfast.audit.findings import Finding


@o.takes("data", "size")
def check(
    given: dict[str, Any],
    config: o.ConfigFile = None,
    output: Annotated[
        Path, o.out_option("--output", "-o", metavar="DIR", help="Folder to write check.json and check.html to.")
    ] = Path("check"),
    as_json: o.Json = False,
) -> None:
    """Check a data set before training: odd files, duplicates, leaks, rare classes, shortcuts.

    The exit code is 1 if a patient or an image is in more than one split.
    """
    out = Output(as_json)
    settings = read_settings(config, given)
    from xrayfast.workflows.check import JSON, PAGE
    from xrayfast.workflows.check import check as work

    with reporting(out) as reporter:
        found = work(config=settings, output=output, progress=reporter.preparing)
    _show(out, found)
    out.line()
    out.done("Details", output / JSON)
    out.done("With images", output / PAGE)
    out.json(found.to_json())
    if found.leaks:
        raise typer.Exit(1)


def _show(out: Output, found: Audit) -> None:
    data = found.data
    for note in data.notes:
        out.line(note)
    show_counts(out, f"{data.config.shown}: {plural(len(data), 'image')}", data)
    probed = found.shortcuts.auroc
    groups = [group for group, values in probed.items() if any(value is not None for value in values.values())]
    if groups:
        out.table(
            "Shortcuts: AUROC without the lungs",
            ["label", *groups],
            [(label, *(probed[group][label] for group in groups)) for label in data.labels],
        )
    out.line()
    if not found.findings:
        out.line("Nothing was found.")
    show_problems(out, found.findings)


def show_problems(out: Output, problems: Sequence[Finding]) -> None:
    """Print problems; notes on images as one line if there are several, because the page shows the images."""
    on_images = [finding for finding in problems if finding.severity == "note" and finding.images]
    several = len(on_images) > 2
    for finding in problems:
        if not (several and finding in on_images):
            out.finding(finding.severity, finding.title, finding.text)
    if several:
        out.finding("note", "; ".join(finding.title for finding in on_images), "The page says what to do about each.")
