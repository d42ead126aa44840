"""The command line. Each command reads its options and calls one workflow, and imports torch or pandas only then."""

from xrayfast.cli.app import app, main

__all__ = ["app", "main"]
