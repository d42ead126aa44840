"""What a network says of a set of labelled images: the table in `predictions/*.csv`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.data.labels.names import LABEL_JOIN
from xrayfast.errors import RunError, shorten
from xrayfast.files import write_csv
from xrayfast.metrics.decision import Decision

PROBABILITY, RAW = "prob_", "raw_"
"""Begin the names of the columns of calibrated probabilities and of the network's own, so that no label can take the
name of another column."""

ABOUT: dict[str, type] = {"sex": object, "age": np.float64, "view": object}
"""What else may be known of an image, and the type of its column."""

OLDEST = 90.0

_ALIGNED = ("images", "patients", "truth", "probability", "loss", "raw")


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
        probability: (N, L) float64 in [0, 1], calibrated.
        loss: (N,) float64, the training loss of each image.
        raw: (N, L) float64 in [0, 1], the network's own probabilities.
        about: (N,) columns of what else is known, of `ABOUT`: `sex` ("F", "M" or ""), `age` (float years, 90 for all
            from 90 on, NaN where unknown) and `view` ("" where unknown).
    """

    labels: tuple[str, ...]
    images: NDArray[np.object_]
    patients: NDArray[np.object_]
    truth: NDArray[np.int64]
    probability: NDArray[np.float64]
    loss: NDArray[np.float64]
    raw: NDArray[np.float64]
    about: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """(N,) patient numbers from 0, and another one below 0 for each image whose patient is unknown; None where all
        are unknown.
        """
        known = self.patients != ""
        if not known.any():
            return None
        numbers, _ = pd.factorize(np.where(known, self.patients, ""))
        return np.where(known, numbers, -1 - np.arange(len(numbers))).astype(np.int64)

    def calibrated(self, decision: Decision) -> Predictions:
        """The same with the probabilities that a decision makes of the network's own."""
        return replace(self, probability=decision.calibrated(self.raw))

    def rows(self, chosen: NDArray[Any]) -> Predictions:
        """Some of the images.

        Args:
            chosen: (N,) bool, or row numbers.
        """
        columns = {name: getattr(self, name)[chosen] for name in _ALIGNED}
        return replace(self, **columns, about={name: values[chosen] for name, values in self.about.items()})

    def write(self, path: Path) -> None:
        """Write the CSV: image, patient, truth, loss, a calibrated and a raw probability a label, and what else is
        known of the images; nine digits, enough for float32.

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
                **{RAW + label: self.raw[:, i] for i, label in enumerate(self.labels)},
                **self.about,
            }
        )
        write_csv(path, table, "%.9g")

    @classmethod
    def read(cls, path: Path, labels: Sequence[str]) -> Predictions:
        """Read the CSV back. A file without raw probabilities, as older runs have it, was not calibrated.

        Raises:
            RunError: a column is missing, or a cell is not what it should be.
        """
        try:
            text = dict.fromkeys(("image", "patient", "truth", "unknown", "sex", "view"), str)
            table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"age": [""], "loss": [""]})
            columns = [PROBABILITY + label for label in labels]
            missing = [name for name in ("image", "patient", "truth", "loss", *columns) if name not in table]
            if missing:
                raise RunError(f"{path}: lacks the columns {shorten(missing)}; found {shorten(table.columns)}.")
            carried = _label_sets(table["truth"])
            unknown = _label_sets(table["unknown"]) if "unknown" in table else [set()] * len(table)
            probability = table[columns].to_numpy(dtype=np.float64)
            own = [RAW + label for label in labels]
            raw = table[own].to_numpy(dtype=np.float64) if set(own) <= set(table) else probability
            loss = table["loss"].to_numpy(dtype=np.float64)
            about = {name: table[name].to_numpy(dtype=kind) for name, kind in ABOUT.items() if name in table}
            for values in (probability, raw):
                if not ((values >= 0) & (values <= 1)).all():
                    raise ValueError("a probability is not a number from 0 to 1")
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise RunError(f"{path}: can't be read as predictions ({error}).") from error
        foreign = sorted(set().union(*carried, *unknown) - set(labels))
        if foreign:
            raise RunError(f"{path}: has labels that the run does not know: {shorten(foreign)}.")
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
            raw=raw,
            about=about,
        )


def about(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What a manifest's table tells of each image beside its labels: the columns of `ABOUT` that it has.

    An age of 90 or more is written as 90: with the year of the image it could tell who a patient is.
    """
    found: dict[str, NDArray[Any]] = {}
    for name in ABOUT:
        if name in table:
            column = table[name]
            found[name] = (
                np.minimum(column.to_numpy(np.float64), OLDEST) if name == "age" else column.fillna("").to_numpy(object)
            )
    return found


def _label_sets(cells: Iterable[str]) -> list[set[str]]:
    return [set(filter(None, cell.split(LABEL_JOIN))) for cell in cells]
