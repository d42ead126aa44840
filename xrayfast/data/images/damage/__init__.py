"""Notes on an image that is damaged, composed of several images, or shows something else than a body.

A detector is a function of `Sample` that returns a note, or "" if it finds nothing. Its threshold is between what it
detects and the 7,818 radiographs of three public collections; its docstring gives their extreme value too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from xrayfast.data.images.damage.areas import OF_AREAS
from xrayfast.data.images.damage.neighbors import OF_NEIGHBORS
from xrayfast.data.images.damage.sample import LEAST_SIDE, Sample
from xrayfast.data.images.damage.whole import OF_WHOLE
from xrayfast.data.images.radiograph import Pixels


def describe_damage(pixels: Pixels) -> list[str]:
    """Return the detectors' notes on an image (H, W); none if a side has less than 48 pixels."""
    if min(pixels.shape) < LEAST_SIDE:
        return []
    sample = Sample(pixels)

    def notes(detectors: Sequence[Callable[[Sample], str]]) -> Iterator[str]:
        return filter(None, (detect(sample) for detect in detectors))

    return [*islice(notes(OF_NEIGHBORS), 1), *notes(OF_AREAS)] or [*islice(notes(OF_WHOLE), 1)]
