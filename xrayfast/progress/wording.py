"""Texts that all displays of progress share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xrayfast.errors import format_cell, plural
from xrayfast.progress.displayed import DisplayedPhase, FoldProgress

LOSSES = {"train_loss": "train loss", "valid_loss": "valid loss"}
"""Columns of the history with losses, and their titles."""


def format_epoch(row: Mapping[str, Any], best: bool) -> str:
    """Format an epoch's row of the history as one line.

    >>> row = {"epoch": 1, "phase": "head", "train_loss": 1.0, "valid_loss": 0.5, "seconds": 61.0}
    >>> format_epoch(row | {"valid_accuracy": None, "train_accuracy": 0.75}, best=True)
    'epoch 1 (head)  train 1.000  valid 0.500  accuracy – (train 0.750)  61 s  *best'
    """
    from xrayfast.metrics.registry import EXACT_MATCH, history_column

    words = {"train_loss": "train", "valid_loss": "valid"} | metric_columns(row)
    # A line has room for only one metric of the training split.
    trained = {history_column("valid", name): history_column("train", name) for name in EXACT_MATCH.values()}
    numbers = [
        f"{word} {format_cell(row[name])}"
        + (f" (train {format_cell(row[trained[name]])})" if trained.get(name) in row else "")
        for name, word in words.items()
        if name in row
    ]
    mark = ["*best"] if best else []
    return "  ".join([f"epoch {row['epoch']} ({row['phase']})", *numbers, f"{row['seconds']:.0f} s", *mark])


def fold_table(folds: Sequence[FoldProgress]) -> list[list[str]]:
    """Return a table of folds that are trained at the same time: the head, and a row with each fold's last epoch."""
    monitor = folds[0].monitor
    columns = LOSSES | metric_columns(dict.fromkeys({monitor} - set(LOSSES)))
    table = [["fold", "epoch", *columns.values(), "best", "status"]]
    for fold in folds:
        last = fold.rows[-1] if fold.rows else {}
        best = fold.rows[fold.best_epoch - 1].get(monitor) if fold.best_epoch else None
        epoch = f"{len(fold.rows)} of {fold.epochs}" if fold.epochs else ""
        best_text = f"{format_cell(best)} (epoch {fold.best_epoch})" if fold.best_epoch else ""
        numbers = [format_cell(last[name]) if name in last else "" for name in columns]
        table.append([fold.name, epoch, *numbers, best_text, fold.status])
    return table


def metric_columns(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns of validation metrics in a row of the history, and their titles; also the user's own."""
    from xrayfast.metrics.registry import epoch_metrics, further_columns, history_column

    ours = {history_column("valid", name): metric.short or metric.title for name, metric in epoch_metrics().items()}
    return {name: title for name, title in ours.items() if name in row} | further_columns(row)


def format_phase(phase: DisplayedPhase) -> str:
    """Format a phase as one line: what is trained, for how long, at which learning rates."""
    trained = phase.lrs[phase.frozen_groups :]
    rates = list(dict.fromkeys((f"{trained[0]:.2g}", f"{trained[-1]:.2g}")))
    return f"Training {phase.name}: {plural(phase.epochs, 'epoch')}, learning rate {' to '.join(rates)}"


def format_rate(images: int, seconds: float) -> str:
    """Format the images per second, and whether other programs use the CPUs."""
    from xrayfast.cpus import METER

    others = METER.describe()
    return f"{images / seconds if seconds else 0.0:.1f} images/s" + (f" (busy: {others})" if others else "")


def time_left(done: int, total: int, seconds: float) -> float:
    """Return the seconds that the rest will take at the pace so far."""
    return seconds / done * (total - done) if done else 0.0


def format_duration(seconds: float) -> str:
    """Format a duration in seconds or minutes.

    >>> format_duration(89.4), format_duration(90), format_duration(7200)
    ('89 s', '2 min', '120 min')
    """
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
