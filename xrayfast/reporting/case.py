"""One image with its prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """One image with its prediction, as shown among the top losses.

    Attributes:
        image: file name or path, as in the data set.
        actual: the label or labels of the data set as text, separated by commas; "" for none.
        predicted: the predicted label or labels as text, separated by commas; "" for none.
        probability: of the predicted class, in [0, 1]; NaN for multi-label.
        pixels: (H, W) uint8; None if the file can no longer be read.
    """

    image: str
    actual: str
    predicted: str
    probability: float
    loss: float
    pixels: NDArray[np.uint8] | None
