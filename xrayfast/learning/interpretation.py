"""fastai's ClassificationInterpretation, right for both tasks, from saved predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xrayfast.config import Task
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.errors import DataError
from xrayfast.learning.fastai_api import ClassificationInterpretation, DataLoaders, Learner
from xrayfast.learning.inference.predictor import split_predictions
from xrayfast.metrics.decision import Decision
from xrayfast.metrics.registry import epoch_metrics, metric_title
from xrayfast.predictions import Predictions
from xrayfast.report.interpretation import Interpretation


class RadiographInterpretation(Interpretation, ClassificationInterpretation):
    """What a network got right and wrong on one part of the data.

    A ClassificationInterpretation whose methods are right for several labels an image too, where fastai's flatten the
    matrix, and that needs no second inference: it is made from saved predictions and knows the files' names.

    Args:
        predictions: truth, probabilities and losses of N images.
        task: "single" or "multi".
        paths: where each image's file is, by its name in `predictions`.
        learn: the learner, where there is one; only `show_results` and indexing need it.
        dl: its DataLoader for these images.
        images: where the images of single cases come from; by default from the files.
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
        images: DecodedImages | None = None,
        decision: Decision | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        # fastai's own __init__ takes the labels from a DataLoader, which saved predictions don't have.
        Interpretation.__init__(self, predictions, task, paths, images=images, decision=decision, summary=summary)
        self.learn, self.dl, self.act = learn, dl, None
        self.losses = torch.tensor(predictions.loss)

    @classmethod
    def of(cls, found: Interpretation) -> RadiographInterpretation:
        """The same as a fastai interpretation."""
        return cls(
            found.predictions,
            found.task,
            found.paths,
            images=found.images,
            decision=found.decision,
            summary=found.summary,
        )

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
        split = ("train", "valid", "test")[ds_idx]
        table = learn.dls.manifest.subset(split).table
        paths = {image: Path(path) for image, path in zip(table["image"], table["path"], strict=True)}
        return cls(split_predictions(learn, split), learn.dls.manifest.task, paths, learn, learn.dls[ds_idx])

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

    def print_classification_report(self) -> None:
        """Print the table by label and the overall numbers."""
        table = self.label_table().rename(columns={"support": "Images"}).rename(columns=metric_title)
        print(table.to_string(float_format="{:.3f}".format, na_rep="-"))
        for name, metric in epoch_metrics(self.task).items():
            value = self.summary["overall"][name]
            print(f"{metric.title}: {'not defined' if value is None else f'{value:.3f}'}")

    def top_losses(self, k: int | None = None, largest: bool = True, items: bool = False) -> tuple[Any, ...]:
        """The k largest (or smallest) losses and their indices, as tensors; with `items` the images' names too."""
        order = torch.from_numpy(self.ranked(k, largest))
        if not items:
            return self.losses[order], order
        return self.losses[order], order, [str(self.predictions.images[i]) for i in order.tolist()]
