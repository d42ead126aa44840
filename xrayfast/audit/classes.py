"""Properties of each class's files: a difference is a first sign of different sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xrayfast.audit.features import Features
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.stratify import SPLITS, Split


@dataclass(frozen=True)
class Spread:
    """A summary of some values.

    Attributes:
        least: the smallest.
        median: half of them are below.
        most: the largest.
        commonest: the most frequent, the smallest of several.
    """

    least: float
    median: float
    most: float
    commonest: float


@dataclass(frozen=True)
class ClassFacts:
    """The readable images of one label; an image with several labels counts for each.

    Attributes:
        label: None for the images without any label.
        images: their number.
        splits: their number in train, valid and test.
        width: in pixels, of the originals; None where there are no images.
        height: the same.
        aspect: width by height.
        bits: images by bits stored per sample, as texts; the most frequent first, as in the next two.
        formats: images by format.
        modes: images by Pillow's mode or DICOM's photometric interpretation.
    """

    label: str | None
    images: int
    splits: dict[Split, int]
    width: Spread | None
    height: Spread | None
    aspect: Spread | None
    bits: dict[str, int]
    formats: dict[str, int]
    modes: dict[str, int]


def class_facts(data: Manifest, features: Features) -> tuple[ClassFacts, ...]:
    """One per label, in their order, and one for images without any label if there are such."""
    truth = data.truth[features.rows]
    split = data.table["split"].to_numpy()[features.rows]
    found = [_facts(label, truth[:, j] == 1, features, split) for j, label in enumerate(data.labels)]
    without = (truth != 1).all(1)
    return (*found, *([_facts(None, without, features, split)] if without.any() else []))


def _facts(
    label: str | None, members: npt.NDArray[np.bool_], features: Features, image_splits: npt.NDArray[np.object_]
) -> ClassFacts:
    facts = [features.facts[i] for i in np.flatnonzero(members).tolist()]
    where = Counter(image_splits[members].tolist())
    return ClassFacts(
        label,
        len(facts),
        {split: where[split] for split in SPLITS},
        _spread([fact.width for fact in facts]),
        _spread([fact.height for fact in facts]),
        _spread([round(fact.width / fact.height, 3) for fact in facts]),
        _counted(str(fact.bits) for fact in facts),
        _counted(fact.format for fact in facts),
        _counted(fact.mode for fact in facts),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    distinct, counts = np.unique(values, return_counts=True)
    numbers = distinct[0], np.median(values), distinct[-1], distinct[counts.argmax()]
    return Spread(*(round(float(number), 3) for number in numbers))


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))
