"""The command line. Each command reads its options and calls one workflow; nothing heavy is imported before that."""

from xrayfast.cli.app import app, main

__all__ = ["app", "main"]
