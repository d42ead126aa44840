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
        [(row["arch"], " ".join(row["blocks"]), _millions(row["parameters"]), row["groups"]) for row in rows],
        text_columns=2,
    )
    out.line("Parameters are those of the backbone, without a head. Each block, and the head, is a layer group.")
    own = [(row["arch"], row["classifier_parameters"]) for row in rows if row["classifier_parameters"]]
    networks = ", ".join(f"{arch} ({_millions(parameters)} parameters)" for arch, parameters in own)
    out.line(f"--head classifier keeps the hidden layers of a network's own classifier as one more block: {networks}.")
    out.json({"models": rows})


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"
