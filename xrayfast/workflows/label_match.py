"""A data set in the terms of a network: which of its labels the network knows, and which images can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xrayfast.config import Task
from xrayfast.data.labels.implications import apply_implications, parse_implications
from xrayfast.data.labels.names import normalize_label
from xrayfast.data.labels.targets import Targets, infer_task, merge_labels, to_truth
from xrayfast.data.manifest import Manifest
from xrayfast.errors import DataError, did_you_mean, shorten

_MAP = "--label-map FILE joins names, with a line such as '{known} = {other}'"


@dataclass(frozen=True, eq=False)
class LabelMatch:
    """What of a data set's labels a network can be measured on.

    Attributes:
        truth: (N, L) int64 of 1, 0, and -1 where nobody knows, in the order of the network's labels. With one class an
            image, exactly one 1 in the rows that are kept.
        kept: (N,) which images can be measured.
        used: the labels that both know.
        unknown: the labels that the network does not know, and how many images have each.
        lacking: the labels of the network of which the data tell nothing.
        left_out: why images can't be measured, and how many.
        notes: what was taken for what, in sentences.
    """

    truth: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]
    used: tuple[str, ...]
    unknown: tuple[tuple[str, int], ...]
    lacking: tuple[str, ...]
    left_out: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


def match_labels(data: Manifest, labels: Sequence[str], task: Task, imply: Sequence[str] = ()) -> LabelMatch:
    """Put a data set's labels in the terms of a network.

    Names that differ only in case, spaces or underscores are one label, which a note says. Others are never guessed.

    Several labels an image: labels that the network does not know are dropped, and of those that the data lack nothing
    is known, so that they count nowhere. Where each image of the data has one label, the others are taken to be absent.

    One class an image: only images with exactly one of the network's classes are kept.

    Args:
        data: all its images.
        labels: the network's L names.
        task: the network's.
        imply: what the network was trained to think of as implied, as "covid-19=pneumonia"; for several labels.

    Raises:
        DataError: no label is known to both.
    """
    names, notes = _renamed(data.labels, labels)
    names, matrix = merge_labels(data.targets, names)
    used = tuple(label for label in labels if label in names)
    lacking = tuple(label for label in labels if label not in names)
    unknown = [(name, int((matrix[:, j] == 1).sum())) for j, name in enumerate(names) if name not in labels]
    if not used:
        raise DataError(_nothing_shared(data, labels))
    notes += _hints(unknown, lacking)
    targets = np.full((len(data), len(labels)), np.nan, np.float32)
    for label in used:
        targets[:, labels.index(label)] = matrix[:, names.index(label)]
    there = [labels.index(label) for label in used]
    if task == "single":
        cells, kept, left_out = _one_class(targets, there)
    else:
        targets, more = _implied(targets, labels, imply, used)
        notes += more + _exclusive(matrix, unknown)
        cells = to_truth(targets)
        kept = np.asarray((cells >= 0).any(axis=1))
        left_out = [("of which none of the network's labels is known", int((~kept).sum()))]
    return LabelMatch(
        cells.astype(np.int64),
        kept,
        used,
        tuple(unknown),
        lacking,
        tuple((why, n) for why, n in left_out if n),
        tuple(notes),
    )


def _renamed(names: Sequence[str], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """The network's spelling of each name that it knows in another; and notes on these."""
    spelt: dict[str, list[str]] = {}
    for label in labels:
        spelt.setdefault(normalize_label(label), []).append(label)
    renamed, notes = [], []
    for name in names:
        known = [name] if name in labels else spelt.get(normalize_label(name), [])
        renamed.append(known[0] if len(known) == 1 else name)
        if renamed[-1] != name:
            notes.append(f"'{name}' of the data is taken for the network's '{renamed[-1]}'.")
    return renamed, notes


def _hints(unknown: Sequence[tuple[str, int]], lacking: Sequence[str]) -> list[str]:
    """Labels that may be one under two names."""
    found = [(name, did_you_mean(name, lacking)) for name, _ in unknown]
    return [
        f"The network does not know '{name}'.{hint} {_MAP.format(known=hint.split(chr(39))[1], other=name)}."
        for name, hint in found
        if hint
    ]


def _nothing_shared(data: Manifest, labels: Sequence[str]) -> str:
    theirs = shorten(data.labels, 20) or "no labels"
    example = _MAP.format(known=labels[0], other=data.labels[0] if data.labels else "OTHER NAME")
    return (
        f"{data.config.source}: no label is known to both. The network knows {shorten(labels, 20)}; the data have "
        f"{theirs}. {example}."
    )


def _one_class(
    targets: Targets, there: Sequence[int]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_], list[tuple[str, int]]]:
    """Images with exactly one of the network's classes; the classes that the data lack are then absent."""
    known = to_truth(targets[:, there])
    ones, unsure = (known == 1).sum(axis=1), (known < 0).any(axis=1)
    kept = (ones == 1) & ~unsure
    cells = np.where(to_truth(targets) == 1, 1, 0).astype(np.int8)
    left_out = [
        ("with none of the network's classes", int(((ones == 0) & ~unsure).sum())),
        ("with several of the network's classes", int((ones > 1).sum())),
        ("whose class is not certain", int((unsure & (ones < 2)).sum())),
    ]
    return cells, kept, left_out


def _implied(
    targets: Targets, labels: Sequence[str], imply: Sequence[str], used: Sequence[str]
) -> tuple[Targets, list[str]]:
    """What the network has learned to imply holds for these images too, of the labels that the data tell."""
    if not imply:
        return targets, []
    matrix = apply_implications(targets, labels, parse_implications(imply))[1][:, : len(labels)]
    matrix[:, [label not in used for label in labels]] = np.nan
    added = int(((matrix == 1) & (targets != 1)).sum())
    return matrix, [f"As in training, {shorten(imply)}: {added} labels were added."] if added else []


def _exclusive(matrix: Targets, unknown: Sequence[tuple[str, int]]) -> list[str]:
    if infer_task(matrix) == "multi":
        return []
    none = f" Those of {shorten([name for name, _ in unknown])} have none of the network's labels." if unknown else ""
    return [f"Each image of the data has one label: it is taken to lack the others.{none}"]
