"""What a network says of a set of labelled images: the table in `predictions/*.csv`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.data.labels import LABEL_JOIN
from xrayfast.errors import RunError, some
from xrayfast.files import write_csv

PROBABILITY = "prob_"
"""Begins the name of each column of probabilities, so that no label can take the name of another column."""


def joined(row: NDArray[np.integer], labels: Sequence[str], between: str = LABEL_JOIN) -> str:
    """The labels of one row whose cells are 1 as text: `covid-19|pneumonia`, or "" for none.

    >>> joined(np.array([1, 0, 1, -1]), ["a", "b", "c", "d"])
    'a|c'
    """
    return between.join(label for label, cell in zip(labels, row, strict=True) if cell == 1)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Truth and probabilities of N images and L labels.

    Attributes:
        labels: the L names.
        images: (N,) image ids, as in the manifest.
        patients: (N,) pseudonyms, "" where unknown.
        truth: (N, L) int64 of 1, 0, and -1 where nobody knows.
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
        """Write the CSV: image, patient, truth, loss and one probability a label; nine digits, enough for float32.

        Where some cells of the truth are unknown, a column `unknown` names their labels.
        """
        unknown = self.truth < 0
        table = pd.DataFrame(
            {
                "image": self.images,
                "patient": self.patients,
                "truth": [joined(row, self.labels) for row in self.truth],
                **({"unknown": [joined(row, self.labels) for row in unknown]} if unknown.any() else {}),
                "loss": self.loss,
                **{PROBABILITY + label: self.probability[:, i] for i, label in enumerate(self.labels)},
            }
        )
        write_csv(path, table, "%.9g")

    @classmethod
    def read(cls, path: Path, labels: Sequence[str]) -> Predictions:
        """Read the CSV back.

        Raises:
            RunError: a column is missing, or a cell is not what it should be.
        """
        try:
            text = dict.fromkeys(("image", "patient", "truth", "unknown"), str)
            table = pd.read_csv(path, dtype=text, keep_default_na=False)
            columns = [PROBABILITY + label for label in labels]
            missing = [name for name in ("image", "patient", "truth", "loss", *columns) if name not in table]
            if missing:
                raise RunError(f"{path}: lacks the columns {some(missing)}; found {some(table.columns)}.")
            carried = _label_sets(table["truth"])
            unknown = _label_sets(table["unknown"]) if "unknown" in table else [set()] * len(table)
            probability = table[columns].to_numpy(dtype=np.float64)
            loss = table["loss"].to_numpy(dtype=np.float64)
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise RunError(f"{path}: can't be read as predictions ({error}).") from error
        foreign = sorted(set().union(*carried, *unknown) - set(labels))
        if foreign:
            raise RunError(f"{path}: has labels that the run does not know: {some(foreign)}.")
        truth = [
            [-1 if label in masked else int(label in row) for label in labels]
            for row, masked in zip(carried, unknown, strict=True)
        ]
        return cls(
            labels=tuple(labels),
            images=table["image"].to_numpy(dtype=object),
            patients=table["patient"].to_numpy(dtype=object),
            truth=np.array(truth, dtype=np.int64).reshape(-1, len(labels)),
            probability=probability,
            loss=loss,
        )


def _label_sets(cells: Iterable[str]) -> list[set[str]]:
    return [set(filter(None, cell.split(LABEL_JOIN))) for cell in cells]
