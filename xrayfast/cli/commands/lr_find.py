"""`xrayfast lr-find`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.common import open_and_show, read_settings
from xrayfast.cli.output import Output
from xrayfast.config import MAX_EPOCHS
from xrayfast.files.writable import PNG_MARK, require_replaceable, require_text_file, require_text_suffix
from xrayfast.option_effects import NOT_IN_RANGE_TEST
from xrayfast.progress.terminal import reporting


@o.takes("data", "model", "train", without=NOT_IN_RANGE_TEST)
def lr_find(
    given: dict[str, Any],
    config: o.ConfigFile = None,
    steps: Annotated[
        int,
        typer.Option(min=20, max=MAX_EPOCHS, rich_help_panel=o.PANELS["train"], help="Number of batches to train on."),
    ] = 100,
    output: Annotated[
        Path,
        o.out_option("--output", "-o", metavar="STEM", help="Write the plot to STEM.png and the curve to STEM.csv."),
    ] = Path("lr-find"),
    as_json: o.Json = False,
) -> None:
    """Find a learning rate: train some steps at a growing rate, and see where the loss falls fastest."""
    out = Output(as_json)
    if output.suffix.lower() in (".png", ".csv"):
        output = output.with_suffix("")
    require_text_suffix(output)
    image, table = output.with_name(output.name + ".png"), output.with_name(output.name + ".csv")
    require_replaceable(image, mark=PNG_MARK)
    require_text_file(table, columns=("lr", "loss"))
    settings = read_settings(config, given)
    manifest = open_and_show(out, settings)
    from xrayfast.cli.terminal_plot import draw_curve
    from xrayfast.reporting.figures.encoding import save
    from xrayfast.workflows.find_lr import find_lr

    with reporting(out) as reporter:
        found = find_lr(manifest, config=settings, steps=steps, progress=reporter.preparing, note=reporter.note)
    save(found.plot(), image)
    found.to_csv(table)
    for row in draw_curve(found.lrs, found.losses, out.console.width).split("\n"):
        out.line(row)
    out.table(
        "Suggestions",
        ["method", "learning rate"],
        [(name, None if value is None else f"{value:.2e}") for name, value in found.suggestions.items()],
    )
    line = shlex.join(["xrayfast", "fit", *_words_for_fit(), "--lr", f"{found.best:.2g}"])
    out.line()
    out.done("Plot", image)
    out.done("Curve", table)
    out.done("Train with", line)
    out.json({"suggestions": found.suggestions, "best": found.best, "fit": line, "plot": str(image), "csv": str(table)})


def _words_for_fit() -> list[str]:
    """Return the words typed after `lr-find`, without the options that `fit` does not have."""
    import sys

    words = sys.argv[sys.argv.index("lr-find") + 1 :] if "lr-find" in sys.argv else []
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("--steps", "--output", "-o"):
            skip = True
        elif word != "--json" and not word.startswith(("--steps=", "--output=", "-o")):
            kept.append(word)
    return kept
