"""The command line. Each command gathers options and makes one call; nothing heavy is imported before that."""

from xrayfast.cli.app import app, main

__all__ = ["app", "main"]
