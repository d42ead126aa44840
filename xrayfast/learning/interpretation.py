"""fastai's ClassificationInterpretation, right for both tasks, from saved predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from xrayfast.config import Task
from xrayfast.data.store import Pictures, Reader
from xrayfast.errors import DataError, ReadError
from xrayfast.learning.fastai_api import ClassificationInterpretation, DataLoaders, Learner
from xrayfast.learning.inference import part_predictions
from xrayfast.metrics.classification import cooccurrence
from xrayfast.metrics.decision import Decision
from xrayfast.metrics.summary import OVERALL, PER_LABEL, summarise
from xrayfast.predictions import PROBABILITY, Predictions, joined
from xrayfast.report import figures, matrices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE_SIZE = 256
"""Side in pixels of the pictures of single cases."""

RESAMPLES = 1000
"""Of the intervals of an interpretation from a learner; those of a run are as its settings say."""


class RadiographInterpretation(ClassificationInterpretation):
    """What a network got right and wrong on one part of the data.

    A ClassificationInterpretation whose methods are right for several labels an image too, where fastai's flatten the
    matrix, and that needs no second inference: it is made from saved predictions and knows the files' names.

    Args:
        predictions: truth, probabilities and losses of N images.
        task: "single" or "multi".
        paths: where each image's file is, by its name in `predictions`.
        learn: the learner, where there is one; only `show_results` and indexing need it.
        dl: its DataLoader for these images.
        pictures: where the pictures of single cases come from; by default from the files.
        decision: calibration and thresholds, as validation chose them; by default none.
        summary: all numbers, where they are known already.

    Attributes:
        predictions: as given.
        decision: as given.
        summary: all numbers, as `metrics.summary.summarise` gives them.
        losses: (N,) tensor.
        vocab: the labels.
    """

    def __init__(
        self,
        predictions: Predictions,
        task: Task,
        paths: Mapping[str, Path],
        learn: Learner | None = None,
        dl: Any = None,
        pictures: Pictures | None = None,
        decision: Decision | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        # fastai's own __init__ takes the labels from a DataLoader, which saved predictions don't have.
        self.predictions, self.task, self.paths = predictions, task, paths
        self.learn, self.dl, self.act = learn, dl, None
        self.pictures = pictures or Reader(PICTURE_SIZE)
        self.vocab = list(predictions.labels)
        self.losses = torch.tensor(predictions.loss)
        self.decision = decision or Decision(task, predictions.labels)
        self.summary: Mapping[str, Any] = summary or summarise(
            predictions.truth,
            predictions.probability,
            self.vocab,
            task,
            threshold=self.decision.thresholds,
            groups=predictions.groups,
            resamples=RESAMPLES,
        )
        self.predicted = self.decision.decide(predictions.probability)

    @classmethod
    def from_learner(
        cls, learn: Learner, ds_idx: int = 1, dl: DataLoaders | None = None, act: Any = None
    ) -> RadiographInterpretation:
        """From a learner on `xrayfast.dataloaders`, with one pass over train (0), valid (1) or test (2).

        Raises:
            DataError: `dl` or `act` is given; those have no names of files, and no meaning here.
        """
        if dl is not None or act is not None:
            raise DataError("RadiographInterpretation.from_learner takes ds_idx: 0 for train, 1 for valid, 2 for test.")
        part = ("train", "valid", "test")[ds_idx]
        table = learn.dls.manifest.part(part).table
        paths = {image: Path(path) for image, path in zip(table["image"], table["path"], strict=True)}
        return cls(part_predictions(learn, part), learn.dls.manifest.task, paths, learn, learn.dls[ds_idx])

    def __getitem__(self, idxs: Any) -> Any:
        """Inputs, predictions, targets, decisions and losses, by inference.

        Raises:
            DataError: there is no learner.
        """
        if self.learn is None:
            raise DataError(
                "This interpretation was made from saved predictions; for inputs, use from_learner(xrayfast.load(run))."
            )
        return super().__getitem__(idxs)

    def confusion_matrix(self) -> NDArray[np.int64]:
        """(C, C) counts, rows actual (single); (L, 2, 2), a matrix a label, rows actual negative, positive (multi)."""
        if self.task == "single":
            return np.array(self.summary["confusion"])
        return np.array([self.summary["confusion_per_label"][label] for label in self.vocab])

    def cooccurrence(self) -> NDArray[np.int64]:
        """(L, L): how often label j was predicted on images that carry label i."""
        return cooccurrence(self.predictions.truth, self.predicted)

    def plot_confusion_matrix(self, normalize: bool = False, **_: Any) -> Figure:
        """The confusion matrix (single) or a matrix a label (multi) as a Figure."""
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
        return pd.DataFrame(self.summary["per_label"]).set_index("label").astype(float).astype({"support": int})

    def print_classification_report(self) -> None:
        """Print the table by label and the overall numbers."""
        print(self.label_table().rename(columns=PER_LABEL).to_string(float_format="{:.3f}".format, na_rep="-"))
        for name, title in OVERALL[self.task].items():
            value = self.summary["overall"][name]
            print(f"{title}: {'not defined' if value is None else f'{value:.3f}'}")

    def top_losses(self, k: int | None = None, largest: bool = True, items: bool = False) -> tuple[Any, ...]:
        """The k largest (or smallest) losses and their indices, as tensors; with `items` the images' names too."""
        losses, order = self.losses.topk(min(k or len(self.losses), len(self.losses)), largest=largest)
        if not items:
            return losses, order
        return losses, order, [str(self.predictions.images[i]) for i in order.tolist()]

    def top_losses_table(self, k: int | None = None) -> pd.DataFrame:
        """The k images with the largest losses: predicted against actual, with all probabilities."""
        _, order = self.top_losses(k)
        rows = order.numpy()
        told = self.predictions
        return pd.DataFrame(
            {
                "image": told.images[rows],
                "actual": [joined(told.truth[i], self.vocab) for i in rows],
                "predicted": [joined(self.predicted[i], self.vocab) for i in rows],
                "loss": told.loss[rows],
                **{PROBABILITY + label: told.probability[rows, i] for i, label in enumerate(self.vocab)},
            }
        )

    def cases(self, k: int) -> tuple[figures.Case, ...]:
        """The k images with the largest losses, with their pictures where the files can still be read."""
        return tuple(self._case(int(i)) for i in self.top_losses(k)[1])

    def plot_top_losses(self, k: int | Sequence[int] = 9, largest: bool = True, **_: Any) -> Figure:
        """The pictures with the largest (or smallest) losses, with file names, as a Figure."""
        if isinstance(k, int):
            chosen = self.top_losses(k, largest)[1].tolist()
        else:
            ranked = self.top_losses(None, largest)[1].tolist()
            chosen = [ranked[i] for i in k]
        return figures.top_losses_figure([self._case(i) for i in chosen])

    def _case(self, i: int) -> figures.Case:
        truth, predicted, probability = (
            self.predictions.truth[i],
            self.predicted[i],
            self.predictions.probability[i],
        )
        image = str(self.predictions.images[i])
        single = self.task == "single"
        return figures.Case(
            image=image,
            actual=self._names(truth, None if single else probability),
            predicted=self._names(predicted, None if single else probability),
            # Of several labels each has its own, beside its name.
            probability=float(probability.max()) if single else float("nan"),
            loss=float(self.predictions.loss[i]),
            pixels=self._picture(image),
        )

    def _names(self, row: NDArray[np.int64], probability: NDArray[np.float64] | None) -> str:
        """The labels of a 0/1 row, each with its probability where those are given."""
        if probability is None:
            return joined(row, self.vocab, ", ")
        return ", ".join(f"{self.vocab[j]} {probability[j]:.2f}" for j in np.flatnonzero(row))

    def _picture(self, image: str) -> NDArray[np.uint8] | None:
        try:
            return self.pictures.picture(str(self.paths[image])) if image in self.paths else None
        except ReadError:
            return None
