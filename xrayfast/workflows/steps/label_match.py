"""Match a data set's labels to those of a network, for an external test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xrayfast.config import Task
from xrayfast.data.labels.implications import apply_implications, parse_implications
from xrayfast.data.labels.names import find_spelling, normalize_label
from xrayfast.data.labels.spellings import find_alike
from xrayfast.data.labels.targets import Targets, infer_task, merge_labels, to_truth
from xrayfast.data.labels.words import denies, is_normal
from xrayfast.data.manifest import Manifest
from xrayfast.errors import DataError, find_closest, plural, shorten

_MAP = "--label-map FILE merges names, with a line such as '{known} = {other}'"


@dataclass(frozen=True, eq=False)
class LabelMatch:
    """The labels of N images in terms of a network's L labels.

    Attributes:
        truth: (N, L) int64: 1, 0, or -1 where masked. If single-label, exactly one 1 per usable row.
        usable: (N,) bool, whether each image can be evaluated on.
        used: the labels that both the network and the data have.
        unknown: the labels that the network lacks, with the number of images that have each.
        left_out: the reasons why images are not usable, with their numbers of images.
        notes: sentences on the names that were matched.
    """

    truth: npt.NDArray[np.int64]
    usable: npt.NDArray[np.bool_]
    used: tuple[str, ...]
    unknown: tuple[tuple[str, int], ...]
    lacking: tuple[str, ...]
    left_out: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


def match_labels(data: Manifest, labels: Sequence[str], task: Task, imply: Sequence[str] = ()) -> LabelMatch:
    """Match a data set's labels to a network's by name.

    Different spellings of one label match, with a note (see `normalize_label`); different names never match.

    Multi-label: labels that the network lacks are dropped, and labels that the data lack are masked. If each image of
    the data has exactly one label, its other labels are taken to be negative. The implications that the network was
    trained with, such as "covid-19=pneumonia", are applied. Single-label: only images with exactly one of the network's
    classes are usable.
    """
    renamed, notes = _rename(data.labels, labels)
    names, matrix = merge_labels(data.targets, renamed)
    used = tuple(label for label in labels if label in names)
    lacking = tuple(label for label in labels if label not in names)
    unknown = [(name, int((matrix[:, j] == 1).sum())) for j, name in enumerate(names) if name not in labels]
    if not used:
        alike = ((near, name) for name in data.labels if (near := _find_alike(name, labels)))
        known, other = next(alike, (labels[0], "ITS NAME IN THE DATA"))
        example = _MAP.format(known=known, other=other)
        raise DataError(
            f"{data.config.shown}: the network and the data have no label in common. The network has "
            f"{shorten(labels, 20)}; the data have {shorten(data.labels, 20) or 'no labels'}. {example}."
        )
    notes += _hints(unknown, lacking) + _name_classes(unknown, lacking) * (task == "single")
    targets = np.full((len(data), len(labels)), np.nan, np.float32)
    columns = [labels.index(label) for label in used]
    targets[:, columns] = matrix[:, [names.index(label) for label in used]]
    if task == "single":
        cells, usable, left_out = _keep_single_label(targets, columns)
        notes += _note_no_class(matrix, lacking)
    else:
        targets, more = _imply(targets, labels, imply, used)
        notes += more + _note_single_label(matrix, unknown)
        cells = to_truth(targets)
        usable = np.asarray((cells >= 0).any(axis=1))
        left_out = [("without a known value for any of the network's labels", int((~usable).sum()))]
    left_out = [(why, n) for why, n in left_out if n]
    return LabelMatch(cells.astype(np.int64), usable, used, tuple(unknown), lacking, tuple(left_out), tuple(notes))


def _rename(names: Sequence[str], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names, spelled as the network does if it has them, and notes on the spellings that differ."""
    renamed = [find_spelling(name, labels) or name for name in names]
    changed = [(name, label) for name, label in zip(names, renamed, strict=True) if name != label]
    return renamed, [f"'{name}' in the data is the network's '{label}'." for name, label in changed]


def _hints(unknown: Sequence[tuple[str, int]], lacking: Sequence[str]) -> list[str]:
    """Return notes on labels that may be the same under two names."""
    return [
        f"The network has no label '{name}'. Did you mean '{near}'? {_MAP.format(known=near, other=name)}."
        for name, _ in unknown
        if (near := _find_alike(name, lacking))
    ]


def _find_alike(name: str, labels: Sequence[str]) -> str:
    """Return the label of the network that may mean the same as `name`; "" if none does, or only one that it denies."""
    key = normalize_label(name)
    keys = {label: normalize_label(label) for label in labels}
    others = [label for label, other in keys.items() if not (denies(key, other) or denies(other, key))]
    pairs = [pair for pair in find_alike([name, *others]) if name in pair]
    return find_closest(name, others) or next((one for pair in pairs[:1] for one in pair if one != name), "")


def _name_classes(unknown: Sequence[tuple[str, int]], lacking: Sequence[str]) -> list[str]:
    """Return notes on classes that a single-label network lacks, and on classes of the network that no image has."""
    listed = shorten((f"'{name}' ({plural(n, 'image')})" for name, n in unknown), 20)
    return [f"The network does not have {listed}; images with no other label are left out."] * bool(unknown) + [
        f"The data have no image of {shorten(map(repr, lacking), 20)}, so the metrics do not apply to such images."
    ] * bool(lacking)


def _note_no_class(matrix: Targets, lacking: Sequence[str]) -> list[str]:
    """Return a note on images with none of the data's labels, for which a single-label network has no class."""
    if not (none := int((matrix == 0).all(1).sum())):
        return []
    of_class = shorten(map(repr, filter(is_normal, lacking))) or "one of the network's classes"
    return [
        f"{plural(none, 'image')} without a label left out: the network predicts one of its classes for each image, "
        f"and the right class for these is not known. If they are {of_class}, add a column of 1 and 0 for it."
    ]


def _keep_single_label(
    targets: Targets, columns: Sequence[int]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_], list[tuple[str, int]]]:
    """Return truth, usable rows and exclusions; rows with exactly one of the network's classes are usable."""
    known = to_truth(targets[:, columns])
    ones, unsure = (known == 1).sum(axis=1), (known < 0).any(axis=1)
    usable = (ones == 1) & ~unsure
    cells = np.where(to_truth(targets) == 1, 1, 0).astype(np.int8)
    left_out = [
        ("without any of the network's classes", int(((ones == 0) & ~unsure).sum())),
        ("with several of the network's classes", int((ones > 1).sum())),
        ("with an uncertain class", int((unsure & (ones < 2)).sum())),
    ]
    return cells, usable, left_out


def _imply(
    targets: Targets, labels: Sequence[str], imply: Sequence[str], used: Sequence[str]
) -> tuple[Targets, list[str]]:
    """Apply the network's implications to the labels that the data have; also return a note."""
    if not imply:
        return targets, []
    matrix = apply_implications(targets, labels, parse_implications(imply, labels))[1][:, : len(labels)]
    matrix[:, [label not in used for label in labels]] = np.nan
    added = int(((matrix == 1) & (targets != 1)).sum())
    return matrix, [f"As in training, {shorten(imply)}: {plural(added, 'label')} added."] if added else []


def _note_single_label(matrix: Targets, unknown: Sequence[tuple[str, int]]) -> list[str]:
    if infer_task(matrix) == "multi":
        return []
    none = f" Images of {shorten([name for name, _ in unknown])} have none of the network's labels." if unknown else ""
    return [f"Each image in the data has one label, so its other labels are counted as absent.{none}"]
