"""`xrayfast models`."""

from __future__ import annotations

from typing import Annotated

import typer

from xrayfast.cli.options import FIELDS, Json, choice_option
from xrayfast.cli.output import Output


def models(
    layers: Annotated[
        str | None,
        typer.Option(metavar="ARCH", help="List the layers of this network. By default all networks are listed."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            min=32,
            max=2048,
            show_default=str(FIELDS["size"].default),
            help="With --layers: side of the images in pixels, which determines the shapes of the outputs.",
        ),
    ] = None,
    head: Annotated[
        str | None,
        choice_option(
            ["classifier"], help="With --layers: also list the hidden layers of the network's own classifier."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the networks with their blocks and numbers of parameters, or the layers of one network."""
    out = Output(as_json)
    if layers is not None:
        _list_layers(out, layers, size or FIELDS["size"].default, head)
        return
    if size is not None or head is not None:
        raise typer.BadParameter("Only with --layers.", param_hint="--head" if size is None else "--size")
    from xrayfast.learning.model.backbones import describe_backbones

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
    out.line(
        "--arch timm:NAME uses a network from timm, such as timm:convnext_tiny or timm:vit_small_patch16_224, with "
        "timm's own blocks (pip install 'xrayfast[timm]'). In Python, timm.list_models() lists them."
    )
    out.json({"models": rows})


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"


def _list_layers(out: Output, arch: str, size: int, head: str | None) -> None:
    from xrayfast.learning.model.layers import describe_layers

    rows = describe_layers(arch, size, with_classifier=head == "classifier")
    out.table(
        f"Layers of {arch}, outputs at {size} px",
        ["block and layer", "weight", "output", "parameters", "N"],
        [
            (row["name"], _times(row["weight"]), _times(row["output"]), f"{row['parameters']:,}", row["last"])
            for row in rows
        ],
        text_columns=3,
    )
    out.line(
        "--unfreeze-layers N trains the layers from number N on. A layer includes its norms and everything that "
        "follows up to the next layer; convolutions that read the same input are one layer."
    )
    out.json({"arch": arch, "size": size, "layers": rows})


def _times(shape: list[int]) -> str:
    return "\N{MULTIPLICATION SIGN}".join(map(str, shape))
