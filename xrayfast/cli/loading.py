"""The commands, each imported when it is first used: `--help` would take twice as long if it imported them all."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import typer
from typer.main import get_command

from xrayfast.cli.single_values import Command

SUMMARIES = {
    "demo": "Make synthetic data, train on it from scratch and write a report, offline, in about two minutes.",
    "synth": "Make a small data set of synthetic chest radiographs to try things on.",
    "check": "Check a data set before training: odd files, duplicates, leaks, rare classes, shortcuts.",
    "split": "Split a data set as fit would, and write the split of each image; --split-file replays it.",
    "lr-find": "Find a learning rate: train some steps while it grows, and see where the loss falls fastest.",
    "fit": "Train a network on a data set, and write everything into a new run folder.",
    "cross-validate": "Train a network per fold, and predict every image by one that was not trained on it.",
    "evaluate": "Test a run on its own test split, or on other data, with its own calibration and thresholds.",
    "interpret": "Report on a run: tables, figures, model card and report.html, from its saved predictions.",
    "report": "Report on predictions of any tool: metrics with intervals, figures and a page, from a CSV file.",
    "review": "Rank labels that a cross-validation's networks contradict, for a reader: a page and a CSV of proposals.",
    "predict": "Predict on new images: a CSV with one row per file, in input order.",
    "serve": "Serve a page that answers for images dropped on it, and a JSON endpoint that does the same.",
    "push": "Publish a run on the Hugging Face Hub, without names of files and patients.",
    "export": "Export a run as one file that predicts alone, and compare its probabilities with the run's.",
    "compare": "Compare runs: one table with intervals, and paired differences and tests on the same images.",
    "models": "List the networks, with their blocks and numbers of parameters, or the layers of one of them.",
    "cache": "Build, show or remove the decoded images that are cached on disk.",
}
"""What each command does, in the order of the list: the first paragraph of its own help, as a test checks."""


SHARED_MODULES = {"demo": "synthetic", "synth": "synthetic"}
"""Of the commands that share one."""


class Commands(Mapping[str, Any]):
    """Typer's command by name, imported when it is first looked up."""

    def __getitem__(self, name: str) -> Any:
        if name not in SUMMARIES:
            raise KeyError(name)
        return _load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)


@cache
def _load(name: str) -> Any:
    """Import the command of `commands/NAME.py`: its function of that name, or its `app` with several."""
    word = name.replace("-", "_")
    module = importlib.import_module(f"xrayfast.cli.commands.{SHARED_MODULES.get(name, word)}")
    parent = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    parent.callback()(lambda: None)  # without a callback, Typer makes no group of a single command
    if hasattr(module, "app"):
        parent.add_typer(module.app, name=name)
    else:
        function = getattr(module, word)
        paragraphs = inspect.cleandoc(function.__doc__).split("\n\n")
        # Rich would keep the line breaks of the source.
        parent.command(name, cls=Command, help="\n\n".join(" ".join(text.split()) for text in paragraphs))(function)
    group: Any = get_command(parent)
    return group.commands[name]
