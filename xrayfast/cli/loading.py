"""The commands, each imported when it is first used: importing them all would double the time of `--help`."""

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
    "split": "Split a data set into train, valid and test as fit does, and save the split to a file.",
    "lr-find": "Find a learning rate: train some steps at a growing rate, and see where the loss falls fastest.",
    "fit": "Train a network on a data set, and save weights, metrics and predictions in a new run folder.",
    "cross-validate": "Train one network per fold, and predict each image with a network that was not trained on it.",
    "evaluate": "Test a run on its own test split or on other data, with the run's calibration and thresholds.",
    "interpret": "Report on a run from its saved predictions: tables, figures, model card and report.html.",
    "report": "Report on predictions of any tool from a CSV file: metrics with intervals, figures and a page.",
    "review": "Find labels that a cross-validation's networks contradict, and propose corrections for review.",
    "predict": "Predict on new images, and write a CSV with one row per file, in input order.",
    "serve": "Serve a web page and a JSON endpoint that predict on the images sent to them.",
    "push": "Publish a run on the Hugging Face Hub, without the names of files and patients.",
    "export": "Export a run as one self-contained file, and compare its probabilities with the run's.",
    "compare": "Compare runs on the same images: a table with intervals, paired differences and tests.",
    "models": "List the networks with their blocks and numbers of parameters, or the layers of one network.",
    "cache": "Build, show or remove the cache of decoded images on disk.",
}
"""Summaries of the commands, in the order of the help. A test checks that each is the first paragraph of its help."""

SHARED_MODULES = {"demo": "synthetic", "synth": "synthetic"}
"""Modules of the commands that share one, keyed by command."""


class Commands(Mapping[str, Any]):
    """Typer's commands, keyed by name and imported when first looked up."""

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
    """Import a command from `commands/NAME.py`: its `app` if it has subcommands, or else its function of that name."""
    word = name.replace("-", "_")
    module = importlib.import_module(f"xrayfast.cli.commands.{SHARED_MODULES.get(name, word)}")
    parent = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    parent.callback()(lambda: None)  # without a callback, Typer makes no group for a single command
    if hasattr(module, "app"):
        parent.add_typer(module.app, name=name)
    else:
        function = getattr(module, word)
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        # Rich would keep the line breaks of the docstring.
        parent.command(name, cls=Command, help="\n\n".join(" ".join(text.split()) for text in paragraphs))(function)
    group: Any = get_command(parent)
    return group.commands[name]
