"""What a network says of a set of labelled images: the table in `predictions/*.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.data.labels import LABEL_JOIN
from xrayfast.errors import RunError, some
from xrayfast.files import replacing

PROBABILITY = "prob_"
"""Begins the name of each column of probabilities, so that no label can take the name of another column."""


def joined(row: NDArray[np.integer], labels: Sequence[str], between: str = LABEL_JOIN) -> str:
    """The labels of one 0/1 row as text: `covid-19|pneumonia`, or "" for none.

    >>> joined(np.array([1, 0, 1]), ["a", "b", "c"])
    'a|c'
    """
    return between.join(label for label, present in zip(labels, row, strict=True) if present)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Truth and probabilities of N images and L labels.

    Attributes:
        labels: the L names.
        images: (N,) image ids, as in the manifest.
        patients: (N,) pseudonyms, "" where unknown.
        truth: (N, L) int64 of 0 and 1.
        probability: (N, L) float64 in [0, 1].
        loss: (N,) float64, the training loss of each image.
    """

    labels: tuple[str, ...]
    images: NDArray[np.object_]
    patients: NDArray[np.object_]
    truth: NDArray[np.int64]
    probability: NDArray[np.float64]
    loss: NDArray[np.float64]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def write(self, path: Path) -> None:
        """Write the CSV: image, patient, truth, loss and one probability a label; nine digits, enough for float32."""
        table = pd.DataFrame(
            {
                "image": self.images,
                "patient": self.patients,
                "truth": [joined(row, self.labels) for row in self.truth],
                "loss": self.loss,
                **{PROBABILITY + label: self.probability[:, i] for i, label in enumerate(self.labels)},
            }
        )
        with replacing(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")

    @classmethod
    def read(cls, path: Path, labels: Sequence[str]) -> Predictions:
        """Read the CSV back.

        Raises:
            RunError: a column is missing, or a cell is not what it should be.
        """
        try:
            table = pd.read_csv(path, dtype={"image": str, "patient": str, "truth": str}, keep_default_na=False)
            columns = [PROBABILITY + label for label in labels]
            missing = [name for name in ("image", "patient", "truth", "loss", *columns) if name not in table]
            if missing:
                raise RunError(f"{path}: lacks the columns {some(missing)}; found {some(table.columns)}.")
            names = [set(cell.split(LABEL_JOIN)) for cell in table["truth"]]
            probability = table[columns].to_numpy(dtype=np.float64)
            loss = table["loss"].to_numpy(dtype=np.float64)
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise RunError(f"{path}: can't be read as predictions ({error}).") from error
        unknown = sorted(set().union(*names) - set(labels) - {""})
        if unknown:
            raise RunError(f"{path}: has labels that the run does not know: {some(unknown)}.")
        return cls(
            labels=tuple(labels),
            images=table["image"].to_numpy(dtype=object),
            patients=table["patient"].to_numpy(dtype=object),
            truth=np.array([[int(label in row) for label in labels] for row in names], dtype=np.int64).reshape(
                -1, len(labels)
            ),
            probability=probability,
            loss=loss,
        )
