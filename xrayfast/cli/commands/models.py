"""`xrayfast models`."""

from __future__ import annotations

from xrayfast.cli.options import Json
from xrayfast.cli.output import Output


def models(as_json: Json = False) -> None:
    """List the networks, with their blocks and numbers of parameters."""
    from xrayfast.learning.model.backbones import describe_backbones

    out = Output(as_json)
    rows = describe_backbones()
    out.table(
        "Networks",
        ["arch", "blocks, from the input", "parameters", "groups"],
        [(row["arch"], " ".join(row["blocks"]), f"{row['parameters'] / 1e6:.1f} M", row["groups"]) for row in rows],
        text_columns=2,
    )
    out.line("Parameters are those of the backbone, without a head. Each block, and the head, is a layer group.")
    out.json({"models": rows})
