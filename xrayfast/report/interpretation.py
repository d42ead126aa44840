"""What a network got right and wrong on one split, from its saved predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.config import Task
from xrayfast.data.cache.image_cache import DecodedImages, UncachedImages
from xrayfast.errors import ReadError
from xrayfast.metrics.classification import cooccurrence
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.summary import summarise
from xrayfast.predictions import PROBABILITY_PREFIX, Predictions, join_row_labels
from xrayfast.report import figures, matrices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE_SIZE = 256
"""Side in pixels of the images of single cases."""

RESAMPLES = 1000
"""Of the bootstrap for predictions without a run; for those of a run its settings say."""


class Interpretation:
    """What a network got right and wrong on one split.

    Needs neither the network nor torch; `learning.interpretation` makes fastai's interpretation of it.

    Args:
        predictions: truth, probabilities and losses of N images.
        task: "single" or "multi".
        paths: where each image's file is, by its name in `predictions`.
        images: where the images of single cases come from; by default from the files.
        decision: calibration and thresholds, as validation chose them; by default none.
        summary: the metrics, as `metrics.summary.summarise` gives them, where they are computed already.

    Attributes:
        vocab: the labels.
    """

    def __init__(
        self,
        predictions: Predictions,
        task: Task,
        paths: Mapping[str, Path],
        *,
        images: DecodedImages | None = None,
        decision: Decision | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        self.predictions, self.task, self.paths = predictions, task, paths
        self.images = images or UncachedImages(IMAGE_SIZE)
        self.vocab = list(predictions.labels)
        self.decision = decision or Decision(task, predictions.labels)
        truth, probability, groups = predictions.truth, predictions.probability, predictions.groups
        self.summary: Mapping[str, Any] = summary or summarise(
            truth, probability, self.vocab, task, threshold=self.decision.thresholds, groups=groups, resamples=RESAMPLES
        )
        self.predicted = self.decision.decide(predictions.probability)

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Counts: (C, C), rows actual (single); (L, 2, 2), rows actual negative and positive (multi)."""
        if self.task == "single":
            return np.array(self.summary["confusion"])
        return np.array([self.summary["confusion_per_label"][label] for label in self.vocab])

    def cooccurrence(self) -> NDArray[np.int64]:
        """(L, L): how often label j was predicted on images that carry label i."""
        return cooccurrence(self.predictions.truth, self.predicted)

    def plot_confusion_matrix(self, normalize: bool = False, **_: Any) -> Figure:
        """The confusion matrix (single) or one matrix per label (multi) as a Figure."""
        if self.task == "single":
            return matrices.confusion_figure(self.confusion_matrix(), self.vocab, normalize=normalize)
        return matrices.binary_figure(self.summary["confusion_per_label"])

    def plot_cooccurrence(self) -> Figure:
        """The co-occurrence matrix as a Figure."""
        return matrices.cooccurrence_figure(self.cooccurrence(), self.vocab)

    def most_confused(self, min_val: int = 1) -> list[tuple[str, str, int]]:
        """Actual label, label predicted in its place, and images, most first."""
        return [
            (p["actual"], p["predicted"], p["count"]) for p in self.summary["most_confused"] if p["count"] >= min_val
        ]

    def label_table(self) -> pd.DataFrame:
        """Support, precision, recall, specificity, F1, AUROC and average precision by label."""
        table: pd.DataFrame = pd.DataFrame(self.summary["per_label"]).set_index("label").astype(float)
        table["support"] = table["support"].astype(int)
        return table

    def ranked(self, k: int | None = None, largest: bool = True) -> NDArray[np.int64]:
        """(k,) rows of the images with the largest (or smallest) losses, in that order; NaN counts as the largest."""
        loss = np.nan_to_num(self.predictions.loss, nan=np.inf, posinf=np.inf)
        return np.argsort(-loss if largest else loss, kind="stable")[: k or None]

    def top_losses_table(self, k: int | None = None) -> pd.DataFrame:
        """The k images with the largest losses: predicted against actual, with all probabilities."""
        rows, predictions = self.ranked(k), self.predictions
        columns: dict[str, Any] = {
            "image": predictions.images[rows],
            "actual": [join_row_labels(predictions.truth[i], self.vocab) for i in rows],
            "predicted": [join_row_labels(self.predicted[i], self.vocab) for i in rows],
            "loss": predictions.loss[rows],
            **{PROBABILITY_PREFIX + label: predictions.probability[rows, i] for i, label in enumerate(self.vocab)},
        }
        table: pd.DataFrame = pd.DataFrame(columns)
        return table

    def cases(self, k: int) -> tuple[figures.Case, ...]:
        """The k images with the largest losses, with their images where the files can still be read."""
        return tuple(self._case(int(i)) for i in self.ranked(k))

    def plot_top_losses(self, k: int | Sequence[int] = 9, largest: bool = True, **_: Any) -> Figure:
        """The images with the largest (or smallest) losses, with file names, as a Figure."""
        chosen = self.ranked(k, largest) if isinstance(k, int) else self.ranked(None, largest)[list(k)]
        return figures.top_losses_figure([self._case(i) for i in chosen.tolist()])

    def _case(self, i: int) -> figures.Case:
        image, probability = str(self.predictions.images[i]), self.predictions.probability[i]
        single = self.task == "single"

        def names(row: NDArray[np.int64]) -> str:
            if single:
                return join_row_labels(row, self.vocab, ", ")
            return ", ".join(f"{self.vocab[j]} {probability[j]:.2f}" for j in np.flatnonzero(row == 1))

        return figures.Case(
            image=image,
            actual=names(self.predictions.truth[i]),
            predicted=names(self.predicted[i]),
            # Multi-label: each label has its own, beside its name.
            probability=float(probability.max()) if single else float("nan"),
            loss=float(self.predictions.loss[i]),
            pixels=self._image(image),
        )

    def _image(self, image: str) -> NDArray[np.uint8] | None:
        try:
            return self.images.image(str(self.paths[image])) if image in self.paths else None
        except ReadError:
            return None
