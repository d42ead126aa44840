"""The shortcut probe: how well can each label be predicted from properties that have nothing to do with the lungs?

A network that learns the hospital instead of the disease validates as well as one that doesn't, and fails an external
test. So before any training, a linear model is fitted to each of the following groups of properties and to all of them
together: an image's size, coding, border, brightness, texture, view, and reading notes. Its AUROC is reported per
label. Folds are by patient, and duplicates stay in one fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.audit.features import Features
from xrayfast.data.arrays import Floats, Integers, Places
from xrayfast.data.images.notes import generalize_note, needs_attention
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.stratify import k_folds
from xrayfast.metrics.classification import auroc
from xrayfast.metrics.inputs import count_patients

ALL = "all"
"""The name for all groups of properties combined."""

RIVAL = 0.8
"""From this AUROC on, a shortcut rivals a network: on the 14 labels of NIH, published networks have a mean AUROC of
0.75 (Wang et al. 2017, doi 10.1109/CVPR.2017.369) to 0.84 (Rajpurkar et al. 2017, arXiv 1711.05225)."""

NOTABLE = 0.7
"""From this value on, an AUROC is tested against chance and reported."""

LEAST_IMAGES = 10
"""Least number of images with a label, and without it, that the probe needs; of at least `FOLDS` patients each."""

SHUFFLES = 99
"""Number of permutations of a label among the patients: an AUROC above all of them is significant at 1%."""

FOLDS = 5

Z_ONE_PERCENT = 2.326
"""Number of standard deviations above the mean that 1% of a normal distribution exceeds."""

HELD_OUT_SPREAD = 1.4
"""Ratio of the spread of chance AUROCs when held out to that of one fixed model. It is larger because the models of the
folds vary too, and share images. Measured on 3,000 random labels of 60 to 10,000 images: 1.33 to 1.46."""

_MOST_IMAGES = 20_000  # with more, a sample of patients bounds the time; it gives an AUROC to within 0.01
_BINS = 5
_PENALTY = 0.005  # multiplied by the sum of squares of the properties


@dataclass(frozen=True)
class Shortcuts:
    """The held-out AUROC of each label by group of properties, with `ALL` last; folds are by patient."""

    images: int  # number of images used
    auroc: dict[str, dict[str, float | None]]  # by group and label; None if the group is constant or images are too few
    chance: dict[str, dict[str, float]]  # the highest of 99 shuffles, by group and label, if the AUROC is notable
    too_few: dict[str, str] = field(default_factory=dict)  # why nothing was computed, by label

    def notable(self, label: str) -> dict[str, float]:
        """Return a label's AUROC by group where it is notable and above all chance AUROCs, highest first."""
        values = ((group, values[label]) for group, values in self.auroc.items())
        found = [(g, value) for g, value in values if value and value > self.chance.get(g, {}).get(label, np.inf)]
        return dict(sorted(found, key=lambda item: -item[1]))


def predictable_labels(data: Manifest, features: Features, groups: Integers) -> dict[str, float]:
    """Return the AUROC of the labels that all properties together predict better than chance, at 1%.

    Instead of shuffles, which take most of the time of `probe`, the chance AUROC is assumed to have the standard
    deviation of the Mann-Whitney test (1947), with patients as trials, times `HELD_OUT_SPREAD`. The arguments are those
    of `probe`.
    """
    values = probe(data, features, groups, only_all=True).auroc[ALL]
    truth, own = data.truth[features.rows], groups[features.rows]
    found = {}
    for (label, value), (with_it, without) in zip(values.items(), count_patients(truth, own).tolist(), strict=True):
        if not value:  # too few images
            continue
        deviation = HELD_OUT_SPREAD * ((with_it + without + 1) / (12 * with_it * without)) ** 0.5
        if value > 0.5 + Z_ONE_PERCENT * deviation:
            found[label] = value
    return found


def probe(data: Manifest, features: Features, groups: Integers, seed: int = 0, *, only_all: bool = False) -> Shortcuts:
    """Predict each label without the lungs.

    Numeric properties become ranks and indicators of their fifth, so that one common width can predict as well as a
    large one. The model is a ridge regression in which each group of properties has equal weight, however many columns
    it has. It is additive: gradient-boosted trees reach 0.03 more on darkcovid and 0.02 more on NIH's frequent labels,
    but less on its rare ones, in ten times the time.

    Args:
        data: all images.
        features: of the readable images.
        groups: (N,) equal for images that must stay in one fold, rows as in the manifest.
        seed: of folds and permutations, and of the sample if there are more than 20,000 images.
        only_all: fit only all groups of properties combined, and skip the permutations.
    """
    rng = np.random.default_rng(seed)
    chosen = _sample_rows(groups[features.rows], rng)
    rows = features.rows[chosen]
    truth, own = data.truth[rows], groups[rows]
    too_few = {label: why for label, column in zip(data.labels, truth.T, strict=True) if (why := _too_few(column, own))}
    wanted = [j for j, label in enumerate(data.labels) if label not in too_few]
    blocks = _blocks(data, features, chosen)
    if only_all:
        blocks = {ALL: blocks[ALL]}
    aurocs: dict[str, dict[str, float | None]] = {name: dict.fromkeys(data.labels) for name in blocks}
    chance: dict[str, dict[str, float]] = {name: {} for name in blocks}
    folds = k_folds(truth == 1, own, FOLDS, seed) if wanted else own
    for same in _by_mask(truth, wanted):
        known = truth[:, same[0]] >= 0
        actual = (truth[known][:, same] == 1).astype(np.float64)
        for name, block in blocks.items():
            x = _drop_constant(block[known])
            if not x.shape[1]:
                continue
            values = _held_out_auroc(x, actual, folds[known])
            for j, one, value in zip(same, actual.T, values, strict=True):
                aurocs[name][data.labels[j]] = value
                if value >= NOTABLE and not only_all:
                    shuffled = np.stack([_shuffled(one, own[known], rng) for _ in range(SHUFFLES)], 1)
                    chance[name][data.labels[j]] = max(_held_out_auroc(x, shuffled, folds[known]))
    return Shortcuts(len(rows), aurocs, chance, too_few)


def _blocks(data: Manifest, features: Features, chosen: Places) -> dict[str, Floats]:
    """Return properties by group, (N, columns), standardized and of equal weight, without constant columns."""
    infos = [features.image_infos[i] for i in chosen.tolist()]
    width, height = (np.array([getattr(info, side) for info in infos], np.float64) for side in ("width", "height"))
    views = data.table["view"].tolist() if "view" in data.table else [None] * len(data)
    blocks = {
        "size": [*map(_ranked, (width, height, width * height))],
        "aspect": [_ranked(width / height)],
        "bits": [_coded([info.bits for info in infos])],
        "coding": [_coded([info.format for info in infos]), _coded([info.mode for info in infos])],
        "border": [*map(_ranked, features.border[chosen].T)],
        "brightness": [*map(_ranked, features.brightness[chosen].T)],
        "histogram": [*map(_ranked, features.histogram[chosen].T)],
        "texture": [*map(_ranked, features.texture[chosen].T)],
        "notes": [_noted([info.notes for info in infos])],
        "view": [_coded([views[row] or "" for row in features.rows[chosen].tolist()])],
    }
    weighed = {name: _weighed(np.hstack(columns)) for name, columns in blocks.items()}
    return {**weighed, ALL: np.hstack(list(weighed.values()))}


def _ranked(values: npt.NDArray[np.floating]) -> Floats:
    """Return (N, 5): the rank from 0 to 1, averaged over ties, and whether it is in each fifth except the first."""
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = ((counts.cumsum() - counts / 2) / len(values))[level]
    fifth = (rank * _BINS).astype(np.int64)
    return np.column_stack([rank, *(fifth == i for i in range(1, _BINS))])


def _coded(values: Sequence[object]) -> Floats:
    """Return (N, K) one 0/1 column per distinct value."""
    codes, distinct = pd.factorize(np.array([str(value) for value in values], object), sort=True)
    return np.eye(len(distinct))[codes]


def _noted(notes: Sequence[Sequence[str]]) -> Floats:
    """Return (N, K) one 0/1 column per kind of reading note that needs attention."""
    kinds = [set(map(generalize_note, filter(needs_attention, own))) for own in notes]
    distinct = sorted(set().union(*kinds))
    noted = [[kind in own for kind in distinct] for own in kinds]
    return np.array(noted, np.float64).reshape(len(kinds), len(distinct))


def _weighed(columns: Floats) -> Floats:
    """Return the columns that vary, standardized; their squares add up to 1 per row on average."""
    varying = _drop_constant(columns)
    if not varying.shape[1]:
        return varying
    return (varying - varying.mean(0)) / varying.std(0) / np.sqrt(varying.shape[1])


def _drop_constant(columns: Floats) -> Floats:
    return columns[:, columns.std(0) > 1e-9] if len(columns) else columns[:, :0]


def _held_out_auroc(x: Floats, actual: Floats, folds: Integers) -> list[float]:
    """Return the AUROC of each column of `actual`, (N, K); each fold is scored by ridge regression on the others."""
    scores = np.zeros_like(actual)
    for fold in np.unique(folds):
        test = folds == fold
        x_mean, mean = x[~test].mean(0), actual[~test].mean(0)
        centered = x[~test] - x_mean
        products = centered.T @ centered
        # The last term is for columns that vary only in this fold.
        products += np.eye(len(products)) * (_PENALTY * np.trace(products) + 1e-9)
        weights = np.linalg.solve(products, centered.T @ (actual[~test] - mean))
        # Without the mean, which is low if the fold has many positives: a pooled chance AUROC would be below 0.5.
        scores[test] = (x[test] - x_mean) @ weights
    return [auroc(column, score) for column, score in zip(actual.T, scores.T, strict=True)]


def _shuffled(actual: Floats, groups: Integers, rng: np.random.Generator) -> Floats:
    """Permute values among images so that those of one patient mostly go to one patient."""
    taken, given = (_by_group(groups, rng) for _ in range(2))
    shuffled = np.empty_like(actual)
    shuffled[given] = actual[taken]
    return shuffled


def _by_group(groups: Integers, rng: np.random.Generator) -> Places:
    """Return the rows group by group, with the groups in random order."""
    _, numbers = np.unique(groups, return_inverse=True)
    return np.argsort(rng.permutation(numbers.max(initial=0) + 1)[numbers], kind="stable")


def _sample_rows(groups: Integers, rng: np.random.Generator) -> Places:
    """Return all rows, ascending; if there are too many, a sample by group, of which the last may be incomplete."""
    rows = np.arange(len(groups))
    return rows if len(rows) <= _MOST_IMAGES else np.sort(_by_group(groups, rng)[:_MOST_IMAGES])


def _too_few(truth: npt.NDArray[np.int8], groups: Integers) -> str:
    """Return why a label can't be probed; "" if it can."""
    for value, state in ((1, "with"), (0, "without")):
        found = truth == value
        if found.sum() < LEAST_IMAGES:
            return f"{found.sum()} images {state} it; at least {LEAST_IMAGES} are needed"
        if len(np.unique(groups[found])) < FOLDS:
            return f"images {state} it are of fewer than {FOLDS} patients"
    return ""


def _by_mask(truth: npt.NDArray[np.int8], wanted: Sequence[int]) -> list[list[int]]:
    """Group labels by which of their cells are masked, so that each group is solved at once."""
    alike: dict[bytes, list[int]] = {}
    for j in wanted:
        alike.setdefault((truth[:, j] >= 0).tobytes(), []).append(j)
    return list(alike.values())
