"""The commands, each imported when it is called: to make the options of all takes as long as the rest of `--help`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from typer.main import get_command

SUMMARIES = {
    "demo": "Make synthetic data, train on it from scratch and write a report, in about two minutes and without a "
    "network.",
    "synth": "Make a small data set of synthetic chest radiographs to try things on.",
    "check": "Look a data set over before training: odd files, duplicates, leaks, rare classes, shortcuts.",
    "split": "Split a data set as fit would, and write which image stands in which split; --split-file replays it.",
    "lr-find": "Find a learning rate: train some steps while it grows, and see where the loss falls fastest.",
    "fit": "Train a network on a data set, and keep everything in a new run's folder.",
    "evaluate": "Test a run on its own test split, or on other data, with its own calibration and thresholds.",
    "interpret": "Report on a run: tables, figures, model card and report.html, from its saved predictions.",
    "predict": "Predict on new images: a CSV with a row per file, in input order.",
    "compare": "Compare runs: one table with intervals, and paired differences and tests on the same images.",
    "models": "List the networks, with their parameters and layer groups.",
    "cache": "Show or remove the decoded images that are kept on disk.",
}
"""What each command does, in the order to list them: the first paragraph of its own help, which a test compares."""


class Commands(Mapping[str, Any]):
    """By name, what Typer makes of a command; made when it is first looked up."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in SUMMARIES:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = _made(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)


def _made(name: str) -> Any:
    """The command of `commands/NAME.py`: its function of that name, or its `app` of several."""
    word = name.replace("-", "_")
    module = importlib.import_module(f"xrayfast.cli.commands.{word}")
    parent = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    parent.callback()(_nothing)  # makes it a group even of one
    if hasattr(module, "app"):
        parent.add_typer(module.app, name=name)
    else:
        parent.command(name)(getattr(module, word))
    group: Any = get_command(parent)
    return group.commands[name]


def _nothing() -> None:
    pass
