"""`xrayfast serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.common import choose_run
from xrayfast.cli.output import Output
from xrayfast.errors.environment import PASSWORD_VARIABLE

SHORTEST_PASSWORD = 8
"""The password is not an option, because other users can see the command lines of running programs."""


@o.takes("device")
def serve(
    given: dict[str, Any],
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            show_default="the newest under runs/",
            help="Folder of a run, ensemble or cross-validation, or ONNX file.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on. By default only this machine can connect.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on. 0: any free port.")
    ] = 8000,
    password: Annotated[
        bool | None,
        typer.Option(
            "--password/--no-password",
            show_default="no-password, on this machine only",
            help=f"Require a password: that of the variable {PASSWORD_VARIABLE}, or one typed at the start.",
        ),
    ] = None,
    abstain_below: o.AbstainBelow = None,
    as_json: o.Json = False,
) -> None:
    """Serve a web page and a JSON endpoint that predict on the images sent to them.

    Nothing that is sent is saved. Ctrl-C stops the server. Needs pip install 'xrayfast[serve]'.
    """
    from xrayfast.errors import ConfigError
    from xrayfast.exported.onnx_model import is_model_file
    from xrayfast.serving.server import address_of, open_socket, require_libraries

    require_libraries()
    from xrayfast.serving.access import Access, is_loopback

    out = Output(as_json)
    if password is None and not is_loopback(host):
        raise ConfigError(
            f"host is '{host}', so other machines can connect. Use --password to require a password, or "
            "--no-password to let anyone who can connect use the server."
        )
    access = Access.of(host, _read_password() if password else "")
    source = run if run is not None and is_model_file(run) else choose_run(run, None)
    with open_socket(host, port) as listening:
        from xrayfast.serving.app import make_app
        from xrayfast.serving.classifier import Classifier
        from xrayfast.serving.server import serve as work

        classifier = Classifier(source, abstain_below, given.get("device", "auto"), out.note)
        app = make_app(classifier, access, out.note)
        if not is_loopback(host):
            out.note("The connection is not encrypted: on a shared network, put a TLS proxy in front of the server.")

        def ready() -> None:
            out.done(f"{classifier.name} (press Ctrl-C to stop)", address_of(listening))
            out.json({"url": address_of(listening), "model": classifier.name})

        work(app, listening, ready)


def _read_password() -> str:
    """Read the password from the environment, or else from the terminal without showing it."""
    from xrayfast.errors import ConfigError

    given = os.environ.get(PASSWORD_VARIABLE, "")
    if not given and sys.stdin.isatty():
        given = str(typer.prompt("Password", hide_input=True, err=True, default="", show_default=False))
    if len(given) < SHORTEST_PASSWORD:
        found = f"{len(given)} characters" if given else "none"
        raise ConfigError(
            f"--password found {found} in {PASSWORD_VARIABLE}; expected at least {SHORTEST_PASSWORD} characters, in "
            "that variable or typed at a terminal."
        )
    return given
