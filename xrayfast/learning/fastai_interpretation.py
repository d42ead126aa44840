"""A fastai ClassificationInterpretation for both tasks, made from saved predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from xrayfast.config import Task
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import DataError
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import escape_hidden
from xrayfast.learning.fastai_api import ClassificationInterpretation, Learner
from xrayfast.learning.inference.predictor import predict_split
from xrayfast.learning.training.learner import RadiographLearner
from xrayfast.metrics.registry import epoch_metrics, metric_title
from xrayfast.reporting.interpretation import Count, Interpretation
from xrayfast.runs.predictions import Predictions


class RadiographInterpretation(Interpretation, ClassificationInterpretation):
    """The predictions on one split, as a fastai ClassificationInterpretation.

    Its methods are also correct for multi-label predictions, whose matrix fastai's methods flatten. It is made from
    saved predictions, without a second inference pass, and knows the file names.

    Args:
        predictions: truth, probabilities and losses of N images.
        task: "single" or "multi".
        paths: the file of each image, keyed by its name in `predictions`.
        learn: the learner, if there is one; only `show_results` and indexing need it.
        dl: the learner's DataLoader for these images.
        **known: `images`, `decision`, `summary` and `split`, as in `reporting.interpretation.Interpretation`.

    Attributes:
        losses: (N,) tensor. The other attributes, and the arguments of the methods `plot_*`, are those of
            `reporting.interpretation.Interpretation`.
    """

    def __init__(
        self,
        predictions: Predictions,
        task: Task,
        paths: Mapping[str, Path],
        learn: Learner | None = None,
        dl: Any = None,
        **known: Any,
    ) -> None:
        # fastai's own __init__ takes the labels from a DataLoader, which saved predictions do not have.
        Interpretation.__init__(self, predictions, task, paths, **known)
        self.learn, self.dl, self.act = learn, dl, None
        self.losses = torch.tensor(predictions.loss)

    @classmethod
    @check_arguments()
    def of(cls, plain: Interpretation) -> RadiographInterpretation:
        """Return a fastai interpretation of the same predictions."""
        given = plain.predictions, plain.task, plain.paths
        return cls(*given, images=plain.images, decision=plain.decision, summary=plain.summary, split=plain.split)

    @classmethod
    @check_arguments()
    def from_learner(
        cls, learn: RadiographLearner, ds_idx: Annotated[int, Field(ge=0, le=2)] = 1, dl: Any = None, act: Any = None
    ) -> RadiographInterpretation:
        """Make one from a learner on `xrayfast.dataloaders`, by predicting train (0), valid (1) or test (2).

        Raises:
            ConfigError: `learn` is not a learner of xrayfast.
            DataError: `dl` or `act` is given, which have no effect here; there is no such split; or `learn.dls` was
                replaced.
        """
        if dl is not None or act is not None:
            raise DataError("RadiographInterpretation.from_learner takes ds_idx: 0 for train, 1 for valid, 2 for test.")
        learn.require_known_dls()
        split = SPLITS[ds_idx]
        if ds_idx >= len(learn.dls):
            raise DataError(f"ds_idx is {ds_idx}, and the data has no {split} split.")
        table = learn.dls.manifest.subset(split).table
        pairs = zip(table["image"], table["path"], strict=True)
        paths = {image: Path(path) for image, path in pairs if isinstance(path, str)}
        return cls(predict_split(learn, split), learn.dls.manifest.task, paths, learn, learn.dls[ds_idx])

    def __getitem__(self, idxs: Any) -> Any:
        """Return inputs, predictions, targets, decoded predictions and losses of these images, by running the network.

        Raises:
            DataError: there is no learner.
        """
        if self.learn is None:
            raise DataError(
                "This interpretation was made from saved predictions; for inputs, use from_learner(xrayfast.load(run))."
            )
        return super().__getitem__(idxs)

    def print_classification_report(self) -> None:
        """Print the metrics per label and over all labels."""
        table = self.label_table().rename(columns={"support": "Images"}).rename(columns=metric_title)
        table.index = table.index.map(escape_hidden)
        print(table.to_string(float_format="{:.3f}".format, na_rep="-"))
        for name, metric in epoch_metrics(self.task).items():
            value = self.summary["overall"][name]
            print(f"{metric.title}: {'not defined' if value is None else f'{value:.3f}'}")

    @check_arguments()
    def top_losses(self, k: Count | None = None, largest: bool = True, items: bool = False) -> tuple[Any, ...]:
        """Return the k largest (or smallest) losses and their indices, as tensors; with `items` also image names."""
        order = torch.from_numpy(self.ranked(k, largest))
        names = [str(self.predictions.images[i]) for i in order.tolist()]
        return (self.losses[order], order, names) if items else (self.losses[order], order)
