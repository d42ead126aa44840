"""Analysis of a network's saved predictions on one split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from xrayfast.config import Task
from xrayfast.data.cache.image_cache import DecodedImages, UncachedImages
from xrayfast.data.labels.positive_class import positive_class
from xrayfast.display.overview import HasOverview
from xrayfast.errors import ConfigError, did_you_mean, plural, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.metrics.classification import cooccurrence
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.summary import summarize
from xrayfast.reporting.case import Case
from xrayfast.reporting.wording import label_rows
from xrayfast.runs.predictions import PROBABILITY_PREFIX, Predictions, join_row_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from xrayfast.reporting.figures.curves import CurveKind

IMAGE_SIZE = 256
"""Side in pixels of the images of single cases."""

FigureSize: TypeAlias = tuple[float, float] | Annotated[list[float], Field(min_length=2, max_length=2)] | None
"""Width and height in inches."""

Count: TypeAlias = Annotated[int, Field(ge=0)]
"""A number of images."""

Labels: TypeAlias = Sequence[str] | str | None
"""Labels to draw, one or several; None for all."""

RIGHT_SHOWN = 8
"""How many correctly predicted images a page shows: one row."""

RESAMPLES = 1000
"""Bootstrap resamples for predictions that do not belong to a run; a run's settings have their own number."""


class LabelTable(HasOverview, pd.DataFrame):
    """A DataFrame that a notebook shows with titles and intervals; operations on it return a plain DataFrame.

    Attributes:
        summary: the metrics with their intervals, from `metrics.summary.summarize`.
    """

    _metadata: ClassVar[list[str]] = ["summary"]
    summary: Mapping[str, Any]


class Interpretation(HasOverview):
    """A network's predictions on one split, with their metrics, tables and figures.

    The methods `plot_*` return a Figure, which a notebook displays. With `ax`, they draw on the given axes and return
    them. With `figsize`, in inches, the figure and its text are scaled to fit. `labels` selects one or several labels
    to draw; by default all are drawn. An unknown label, or more than `ax` can show, is a ConfigError: one for matrices
    and calibration, `curves.TOGETHER` for curves.

    It needs neither the network nor torch, and matplotlib only to draw; `learning.fastai_interpretation` builds a
    fastai interpretation from it.

    Args:
        predictions: truth, probabilities and losses of N images.
        task: "single" or "multi".
        paths: the path of each image's file, keyed by its name in `predictions`.
        images: source of the pixels of single images; by default the files.
        decision: calibration and thresholds that were chosen on validation; by default neither.
        summary: the metrics from `metrics.summary.summarize`, if they have been computed already.
        split: the split, a key of `wording.SPLIT_TITLES`.
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
        split: str = "table",
    ) -> None:
        self.predictions, self.task, self.paths, self.split = predictions, task, paths, split
        self.images = images or UncachedImages(IMAGE_SIZE)
        self.vocab = list(predictions.labels)
        positive = positive_class(task, predictions.labels)
        self.decision = decision or Decision(task, predictions.labels, positive=positive)
        truth, probability, groups = predictions.truth, predictions.probability, predictions.groups
        self.summary: Mapping[str, Any] = summary or summarize(
            truth,
            probability,
            self.vocab,
            task,
            threshold=self.decision.thresholds,
            groups=groups,
            resamples=RESAMPLES,
            positive=self.decision.positive,
        )
        self.predicted = self.decision.decide(predictions.probability)

    def __repr__(self) -> str:
        labels = plural(len(self.vocab), "class" if self.task == "single" else "label")
        return f"{type(self).__name__}({plural(len(self.predictions), 'image')}, {labels})"

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Return counts: (C, C), rows actual (single); (L, 2, 2), rows actual negative and positive (multi)."""
        if self.task == "single":
            return np.array(self.summary["confusion"])
        return np.array([self.summary["confusion_per_label"][label] for label in self.vocab])

    def cooccurrence(self) -> NDArray[np.int64]:
        """Return (L, L) counts of how often label j was predicted on images that have label i."""
        return cooccurrence(self.predictions.truth, self.predicted)

    @check_arguments()
    def plot_confusion_matrix(
        self, normalize: bool = False, *, labels: Labels = None, figsize: FigureSize = None, ax: Axes | None = None
    ) -> Figure | Axes:
        """Plot the confusion matrix of all classes (single-label), or one matrix for each of `labels` (multi-label).

        With `normalize`, only the percentage of the row is written, without the count above it. The other arguments are
        described in `Interpretation`.

        Raises:
            ConfigError: `labels` of a single-label task, or see the class.
        """
        from xrayfast.reporting.figures import matrices

        if self.task == "single":
            if labels is not None:
                raise ConfigError("found labels; a single-label task has one matrix of all classes. Leave labels out.")
            drawn = self.confusion_matrix(), self.vocab, normalize
            if ax is None:
                return _displayed(matrices.confusion_figure(*drawn), figsize)
            matrices.draw_confusion(ax, *drawn)
            return ax
        counts = self.summary["confusion_per_label"]
        chosen = _choose(labels, counts, 1 if ax else None)
        if ax is None:
            figure = matrices.binary_figure({label: counts[label] for label in chosen}, normalize)
            return _displayed(figure, figsize)
        matrices.draw_binary(ax, chosen[0], counts[chosen[0]], normalize)
        return ax

    @check_arguments()
    def plot_roc(self, labels: Labels = None, *, figsize: FigureSize = None, ax: Axes | None = None) -> Figure | Axes:
        """Plot the ROC curve of each label against the rest, with the area under it and its interval.

        The arguments are described in `Interpretation`.
        """
        from xrayfast.reporting.figures.curves import ROC

        return self._plot_curves(ROC, labels, figsize, ax)

    @check_arguments()
    def plot_pr(self, labels: Labels = None, *, figsize: FigureSize = None, ax: Axes | None = None) -> Figure | Axes:
        """Plot the precision-recall curve of each label, with its average precision and interval.

        The arguments are described in `Interpretation`.
        """
        from xrayfast.reporting.figures.curves import PRECISION_RECALL

        return self._plot_curves(PRECISION_RECALL, labels, figsize, ax)

    @check_arguments()
    def plot_calibration(
        self, labels: Labels = None, *, figsize: FigureSize = None, ax: Axes | None = None
    ) -> Figure | Axes:
        """Plot the reliability diagram of each label and, in a single-label task, of the "most likely class".

        The arguments are described in `Interpretation`.
        """
        from xrayfast.reporting.figures import curves

        before, after = (self.summary["reliability"].get(when) for when in ("before", "after"))
        chosen = _choose(labels, after, 1 if ax else None)
        if ax is None:
            bins = [one and {label: one[label] for label in chosen} for one in (after, before)]
            return _displayed(curves.reliability_figure(*bins), figsize)
        label = chosen[0]
        curves.draw_reliability(ax, label, after[label], before and before[label])
        return ax

    def plot_cooccurrence(self) -> Figure:
        """Plot the co-occurrence matrix."""
        from xrayfast.reporting.figures import matrices

        return _displayed(matrices.cooccurrence_figure(self.cooccurrence(), self.vocab))

    def _plot_curves(self, kind: CurveKind, labels: Labels, figsize: FigureSize, ax: Axes | None) -> Figure | Axes:
        from xrayfast.reporting.figures import curves

        if labels is None:
            labels = [row["label"] for row in label_rows(self.summary)]
        chosen = _choose(labels, self.vocab, curves.TOGETHER if ax else None)
        roc, precision_recall = curves.label_curves(self.summary, self.task, self.predictions, chosen)
        drawn = roc if kind is curves.ROC else precision_recall
        if ax is None:
            return _displayed(curves.curves_figure(drawn, kind), figsize)
        curves.draw_curves(ax, drawn, kind)
        return ax

    @check_arguments()
    def most_confused(self, min_val: int = 1) -> list[tuple[str, str, int]]:
        """Return actual label, label predicted instead, and number of images; the most frequent mistakes first."""
        return [
            (p["actual"], p["predicted"], p["count"]) for p in self.summary["most_confused"] if p["count"] >= min_val
        ]

    def label_table(self) -> LabelTable:
        """Return the metrics by label, such as support, precision, recall, specificity, F1 and AUROC."""
        table: LabelTable = LabelTable(pd.DataFrame(self.summary["per_label"]).set_index("label").astype(float))
        table["support"] = table["support"].astype(int)
        table.summary = self.summary
        return table

    @check_arguments()
    def ranked(self, k: Count | None = None, largest: bool = True) -> NDArray[np.int64]:
        """Return the (k,) rows of the images with the largest (or smallest) losses first; NaN counts as the largest."""
        loss = np.nan_to_num(self.predictions.loss, nan=np.inf, posinf=np.inf)
        return np.argsort(-loss if largest else loss, kind="stable")[:k]

    @check_arguments()
    def top_losses_table(self, k: Count | None = None) -> pd.DataFrame:
        """Return the k images with the largest losses: actual and predicted labels, loss and all probabilities."""
        rows, predictions = self.ranked(k), self.predictions
        columns: dict[str, Any] = {
            "image": predictions.images[rows],
            "actual": [join_row_labels(predictions.truth[i], self.vocab) for i in rows],
            "predicted": [join_row_labels(self.predicted[i], self.vocab) for i in rows],
            "loss": predictions.loss[rows],
            **{PROBABILITY_PREFIX + label: predictions.probability[rows, i] for i, label in enumerate(self.vocab)},
        }
        return pd.DataFrame(columns)

    @check_arguments()
    def cases(self, k: Count) -> tuple[Case, ...]:
        """Return the k images with the largest losses, with their pixels if the files can still be read."""
        return tuple(self._case(int(i)) for i in self.ranked(k))

    @check_arguments()
    def right_cases(self, k: Count) -> tuple[Case, ...]:
        """Return at most k images whose labels were all predicted correctly: the smallest losses of each class in turn.

        Multi-label images are grouped according to their first label; images without a label are the last group.
        """
        truth = self.predictions.truth
        right = ((self.predicted == truth) | (truth < 0)).all(axis=1) & (truth >= 0).any(axis=1)
        kinds: dict[int, list[int]] = {}
        for i in [i for i in self.ranked(None, largest=False).tolist() if right[i]]:
            kinds.setdefault(int(truth[i].argmax()) if (truth[i] == 1).any() else len(self.vocab), []).append(i)
        chosen = [
            kinds[kind][turn] for turn in range(min(k, len(right))) for kind in sorted(kinds) if turn < len(kinds[kind])
        ]
        return tuple(self._case(i) for i in chosen[:k])

    @check_arguments()
    def plot_top_losses(
        self,
        k: Annotated[int, Field(ge=1)] | list[int] | tuple[int, ...] | range = 9,
        largest: bool = True,
        *,
        ncols: Annotated[int, Field(ge=1)] = 3,
        figsize: FigureSize = None,
    ) -> Figure:
        """Plot the images with the largest (or smallest) losses, with file names and probabilities.

        Args:
            k: how many images, or their positions in the order of losses.
            largest: False for the smallest losses.
            ncols: images per row.
            figsize: see the class.

        Raises:
            ConfigError: a position is out of range.
        """
        from xrayfast.reporting.figures import top_losses

        order = self.ranked(None, largest)
        places = range(min(k, len(order))) if isinstance(k, int) else k
        if not places:
            raise ConfigError("k is empty; expected the places of the images to draw, or how many to draw.")
        if wrong := [place for place in places if not 0 <= place < len(order)]:
            raise ConfigError(f"k has the place {wrong[0]}; expected 0 to {len(order) - 1}, or how many to draw.")
        chosen = order[list(places)]
        return _displayed(top_losses.top_losses_figure([self._case(i) for i in chosen.tolist()], ncols), figsize)

    def _case(self, i: int) -> Case:
        image, probability = str(self.predictions.images[i]), self.predictions.probability[i]
        single = self.task == "single"

        def names(row: NDArray[np.int64]) -> str:
            if single:
                return join_row_labels(row, self.vocab, ", ")
            return ", ".join(f"{self.vocab[j]} {probability[j]:.2f}" for j in np.flatnonzero(row == 1))

        return Case(
            image=image,
            actual=names(self.predictions.truth[i]),
            predicted=names(self.predicted[i]),
            # In multi-label tasks, each label's probability is next to its name.
            probability=float(probability.max()) if single else float("nan"),
            loss=float(self.predictions.loss[i]),
            pixels=self.image(image),
        )

    @check_arguments()
    def image(self, image: str) -> NDArray[np.uint8] | None:
        """Return the pixels of an image, (H, W) uint8; None if its file can no longer be read.

        Raises:
            ConfigError: it is not an image of this split.
        """
        if image not in self.predictions.images:
            hint = did_you_mean(image, self.predictions.images.tolist())
            raise ConfigError(f"image is '{image}'; expected the name of an image of the {self.split} split.{hint}")
        return self.images.image_or_none(str(self.paths[image])) if image in self.paths else None


def _displayed(figure: Figure, figsize: FigureSize = None) -> Figure:
    from xrayfast.display.notebook_figure import display_after_cell
    from xrayfast.reporting.figures.layout import zoom

    return display_after_cell(zoom(figure, figsize))


def _choose(labels: Labels, known: Iterable[str], most: int | None) -> list[str]:
    """Return the labels to draw, at most `most`."""
    there = list(known)
    chosen = there if labels is None else [labels] if isinstance(labels, str) else list(labels)
    if not chosen:
        raise ConfigError(f"labels is empty; expected one or more of {shorten(there, 20)}, or leave it out for all.")
    for label in chosen:
        if label not in there:
            raise ConfigError(f"labels has '{label}'; expected {shorten(there, 20)}.{did_you_mean(label, there)}")
    if most is not None and len(chosen) > most:
        raise ConfigError(
            f"found {len(chosen)} labels; one ax takes {most}. Name them, as in labels={there[:most]}, or leave ax out."
        )
    return chosen
