"""Properties of each class's files: a difference is a first sign that classes have different sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xrayfast.audit.features import Features
from xrayfast.data.arrays import Bools
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.words import SPLITS, Split


@dataclass(frozen=True)
class Spread:
    """A summary of a list of values."""

    least: float
    median: float
    most: float
    commonest: float  # the smallest if several are equally common


@dataclass(frozen=True)
class ClassFacts:
    """The readable images of one label; an image with several labels counts for each of them."""

    label: str | None  # None for the images without any label
    images: int  # their number
    splits: dict[Split, int]  # their number in each of train, valid and test
    width: Spread | None  # in pixels, of the original files; None if there are no images
    height: Spread | None
    aspect: Spread | None  # width divided by height
    bits: dict[str, int]  # images by bits stored per sample, as text; most frequent first, like `formats` and `modes`
    formats: dict[str, int]  # images by format
    modes: dict[str, int]  # images by Pillow's mode or DICOM's photometric interpretation


def class_facts(data: Manifest, features: Features) -> tuple[ClassFacts, ...]:
    """Return the facts of each label, in order, and then of images without any label if there are such images.

    An image is only without any label if some of its cells are not masked.
    """
    truth = data.truth[features.rows]
    split = data.table["split"].to_numpy()[features.rows]
    found = [_facts(label, truth[:, j] == 1, features, split) for j, label in enumerate(data.labels)]
    without = (truth != 1).all(1) & (truth == 0).any(1)
    return (*found, *([_facts(None, without, features, split)] if without.any() else []))


def _facts(label: str | None, members: Bools, features: Features, image_splits: npt.NDArray[np.object_]) -> ClassFacts:
    infos = [features.image_infos[i] for i in np.flatnonzero(members).tolist()]
    where = Counter(image_splits[members].tolist())
    return ClassFacts(
        label,
        len(infos),
        {split: where[split] for split in SPLITS},
        _spread([info.width for info in infos]),
        _spread([info.height for info in infos]),
        _spread([round(info.width / info.height, 3) for info in infos]),
        _counted(str(info.bits) for info in infos),
        _counted(info.format for info in infos),
        _counted(info.mode for info in infos),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    distinct, counts = np.unique(values, return_counts=True)
    numbers = distinct[0], np.median(values), distinct[-1], distinct[counts.argmax()]
    return Spread(*(round(float(number), 3) for number in numbers))


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))
