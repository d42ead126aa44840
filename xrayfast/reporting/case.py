"""One image with its prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """One image with its prediction, as shown among the top losses.

    Attributes:
        image: file name or path, as the person knows it.
        actual: the label or labels that the data set gives, joined for reading; "" for none.
        predicted: the predicted label or labels, joined for reading; "" for none.
        probability: of the predicted class, in [0, 1]; NaN for multi-label.
        loss: the image's loss.
        pixels: (height, width) uint8, or None where the file can no longer be read.
    """

    image: str
    actual: str
    predicted: str
    probability: float
    loss: float
    pixels: NDArray[np.uint8] | None
