"""Sends a run's settings, epochs, final metrics with intervals and figures to its trackers.

Images and the names of image files and patients are never sent. Only the last component of a path is sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from xrayfast._version import __version__
from xrayfast.config import Config, TrackerName
from xrayfast.errors import Interrupted
from xrayfast.files.intact import INFO_FILE
from xrayfast.metrics.summary import interval_of
from xrayfast.progress import Reporter
from xrayfast.runs.run import Run
from xrayfast.tracking.trackers import Settings, TrackedRun, make_tracker
from xrayfast.tracking.worker import FINISH_SECONDS, TrackerThread

BY_LABEL = "auroc"
"""The metric that is sent for each label; all others are means over the labels."""

INTERRUPTED_SECONDS = 5.0
"""Seconds to wait for trackers after training was interrupted or failed."""


class TrackedReporter:
    """A Reporter that passes everything on to another one, and each epoch to the trackers too."""

    def __init__(self, reporter: Reporter, threads: Sequence[TrackerThread]) -> None:
        self.note, self.preparing = reporter.note, reporter.preparing
        self.phase, self.batch = reporter.phase, reporter.batch
        self._reporter, self._threads = reporter, threads

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """Pass an epoch on to the reporter and the trackers."""
        self._reporter.epoch(row, best)
        for thread in self._threads:
            thread.call("log", epoch_values(row), row["epoch"])


@contextmanager
def tracked(
    names: Sequence[TrackerName], run: Run, config: Config, rows: Sequence[Mapping[str, Any]], reporter: Reporter
) -> Iterator[Reporter]:
    """Send the training within the block to the trackers, and its results if the block ends without an error."""
    if not names:
        yield reporter
        return
    threads = [TrackerThread(name, partial(make_tracker, name), reporter.note) for name in dict.fromkeys(names)]
    told = TrackedRun(_run_name(run), run.path, settings_of(config), {"xrayfast": __version__, "arch": run.info.arch})
    for thread in threads:
        thread.start(told)
        for row in rows:
            thread.call("log", epoch_values(row), row["epoch"])
    status = "failed"
    try:
        yield TrackedReporter(reporter, threads)
        status = "completed"
    except (KeyboardInterrupt, Interrupted):
        status = "interrupted"
        raise
    finally:
        if status == "completed":
            try:
                _tell_results(run, threads)
            except Exception as error:  # the run is complete, even if its figures can't be drawn
                reporter.note(f"The results could not be sent to {', '.join(names)}: {type(error).__name__}: {error}")
        for thread in threads:
            thread.finish(status, FINISH_SECONDS if status == "completed" else INTERRUPTED_SECONDS)


def _run_name(run: Run) -> str:
    """Return the run's name; for a fold or a network of a run, preceded by the name of what it is part of."""
    path = run.path.absolute()
    names = [path.name]
    while ((path := path.parent) / INFO_FILE).is_file():
        names.insert(0, path.name)
    return " ".join(names)


def settings_of(config: Config) -> Settings:
    """Return the settings keyed by section and name, such as "train.lr", with paths reduced to their last component."""
    return {
        f"{section}.{name}": _plain_setting(value)
        for section, fields in config
        for name, value in fields
        if not name.startswith("_")
    }


def _plain_setting(value: Any) -> str | int | float | bool | None:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, str) and Path(value).is_absolute():  # weights may be a file or a run
        return Path(value).name
    return value if value is None or isinstance(value, (str, int, float, bool)) else ", ".join(map(str, value))


def epoch_values(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in a row of `history.csv`, with "train_loss" renamed to "train/loss" but "lr" unchanged."""
    values = {}
    for name, value in row.items():
        if name != "epoch" and isinstance(value, (int, float)) and math.isfinite(value):
            split, _, metric = name.partition("_")
            values[f"{split}/{metric}" if split in ("train", "valid") else name] = float(value)
    return values


def result_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of the best epoch's weights, keyed by names such as "final/valid/accuracy".

    The ends of the intervals are ".../low" and ".../high", and the AUROC of each label is "final/valid/auroc/LABEL".
    """
    found: dict[str, float] = {}
    for split in ("valid", "test"):
        summary = metrics.get(split)
        if summary is None:
            continue
        entries = [(name, value, interval_of(summary, name)) for name, value in summary["overall"].items()]
        entries += [
            (f"{BY_LABEL}/{row['label']}", row.get(BY_LABEL), interval_of(summary, BY_LABEL, row["label"]))
            for row in summary["per_label"]
        ]
        for name, value, interval in entries:
            values = {"": value, **{f"/{end}": interval[end] for end in ("low", "high") if interval}}
            found |= {
                f"final/{split}/{name}{end}": float(one)
                for end, one in values.items()
                if one is not None and math.isfinite(one)
            }
    return found


def _tell_results(run: Run, threads: Sequence[TrackerThread]) -> None:
    """Send final metrics and figures. Figures are drawn once for all trackers."""
    from xrayfast.reporting.figures.encoding import png_bytes

    history, metrics = run.history, run.metrics
    step = len(history)
    drawn = {name: png_bytes(figure) for name, figure in _figures(run).items()}
    for thread in threads:
        thread.call("log", result_values(metrics), step)
        for name, png in drawn.items():
            thread.call("figure", name, png, step)


def _figures(run: Run) -> dict[str, Any]:
    """Draw the training curves, and the ROC, calibration and confusion figures of test or, without it, of valid."""
    from xrayfast.reporting.figures import curves, matrices, training_curves

    split, metrics = run.predicted_splits[-1], run.metrics
    summary, predictions = metrics[split], run.predictions(split)
    shown = [row["label"] for row in summary["per_label"]]
    roc, recall = curves.label_curves(summary, run.task, predictions, shown)
    reliability = summary["reliability"]
    confusion = (
        matrices.confusion_figure(summary["confusion"], run.labels)
        if run.task == "single"
        else matrices.binary_figure(summary["confusion_per_label"])
    )
    return {
        "training": training_curves.loss_and_metric_curves(run.history, run.info.best_epoch),
        f"{split}/roc": curves.curves_figure(roc, curves.ROC),
        f"{split}/precision_recall": curves.curves_figure(recall, curves.PRECISION_RECALL),
        f"{split}/calibration": curves.reliability_figure(reliability["after"], reliability.get("before")),
        f"{split}/confusion": confusion,
    }
