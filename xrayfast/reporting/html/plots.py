"""Figures for pages, with a heading, a sentence and their numbers as a table."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from xrayfast.config import Task
from xrayfast.errors import plural, plural_noun
from xrayfast.files.atomic import write_bytes
from xrayfast.metrics.registry import headline_metrics
from xrayfast.metrics.summary import MOST_LIKELY
from xrayfast.reporting.case import Case
from xrayfast.reporting.figures.curves import (
    FEW_IMAGES,
    PRECISION_RECALL,
    ROC,
    TOGETHER,
    curves_figure,
    decision_curve_figure,
    label_curves,
    reliability_figure,
)
from xrayfast.reporting.figures.encoding import DPI, png_on_white, rasterize, rasterize_without_foot, save
from xrayfast.reporting.figures.forest import forest_figure, group_forest
from xrayfast.reporting.figures.headline import foot_height, headline_figure
from xrayfast.reporting.figures.matrices import binary_figure, confusion_figure, cooccurrence_figure, merge_rare
from xrayfast.reporting.figures.probabilities import histogram_figure
from xrayfast.reporting.figures.training_curves import batches_figure, loss_and_metric_curves
from xrayfast.reporting.html.results_tables import binary_table, reliability_table
from xrayfast.reporting.html.tables import Matrix, Table
from xrayfast.reporting.wording import label_rows, positive_class_metric, split_images, unit_of
from xrayfast.runs.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure, drawn once for both the page and a file.

    Attributes:
        name: name of the file, without suffix.
        alt: what the figure shows, in words.
        image: RGBA pixels for the page at `figures.encoding.DPI`, without a background.
        whole: RGBA pixels for the file, if it shows more than the page; None if both are the same.
    """

    name: str
    title: str
    alt: str
    figure: Figure
    image: Image.Image
    whole: Image.Image | None = None

    @cached_property
    def data(self) -> str:
        """Base64 PNG for a data URI: quantized to 256 colors, which looks the same at a third of the size."""
        buffer = io.BytesIO()
        self.image.quantize(256, method=Image.Quantize.FASTOCTREE).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    @property
    def width(self) -> int:
        """Width in CSS pixels, 100 per inch."""
        return round(self.image.width * 100 / DPI)

    @property
    def height(self) -> int:
        """Height in CSS pixels, 100 per inch."""
        return round(self.image.height * 100 / DPI)

    @property
    def wide(self) -> bool:
        """Whether the figure takes a whole row of the page."""
        return self.width > 600

    def save(self, path: Path) -> None:
        """Write the figure atomically: as a PNG on white, or in another format with `figures.encoding.save`.

        Raises:
            WriteError: the file can't be written.
        """
        if path.suffix != ".png":
            save(self.figure, path)
            return
        write_bytes(path, png_on_white(self.whole or self.image))


@dataclass(frozen=True)
class FigureBlock:
    """Figures with a heading, a sentence and their numbers as a table, which is None if another table has the numbers.

    A block is folded if the figure beside the headline already shows the main result.
    """

    title: str
    text: str
    figures: Sequence[Plot]
    table: Table | Matrix | None = None
    folded: bool = False

    @property
    def square(self) -> bool:
        """Whether the table is a matrix."""
        return isinstance(self.table, Matrix)


def plot(figure: Figure, name: str, title: str, alt: str) -> Plot:
    """Draw the figure without a background, so that it also suits a dark page."""
    return Plot(name, title, alt, figure, rasterize(figure, transparent=True))


def history_plot(history: pd.DataFrame, best_epoch: int | None) -> Plot | None:
    """Plot losses and metrics by epoch; None without epochs."""
    if history.empty:
        return None
    best = "" if best_epoch is None else f" Epoch {best_epoch} was kept."
    epochs = plural(len(history), "epoch")
    alt = f"Losses and metrics over {epochs}.{best} The numbers are in the table below."
    return plot(loss_and_metric_curves(history, best_epoch), "curves", "Losses and metrics by epoch", alt)


def batches_plot(table: pd.DataFrame) -> Plot:
    """Plot losses and learning rates by batch from a table of `xrayfast.runs.batches`."""
    batches, width = len(table), 1 if table.empty else table["batches"].iloc[0]
    rows = "each batch" if width == 1 else f"the lowest and the highest of each {width} batches"
    alt = f"Training loss of {rows}, {plural(batches, 'row')} of batches.csv, with its mean and the learning rates."
    return plot(batches_figure(table), "batches", "Training loss by batch", alt)


def headline_plot(
    split: str, summary: Mapping[str, Any], task: Task, predictions: Predictions, examples: Sequence[Case] = ()
) -> Plot:
    """Plot the figure beside the headline of a split; the examples are only in its file."""
    what = (
        "ROC curve with its confidence band, confusion matrix and calibration"
        if task == "single"
        else "AUROC and average precision of each label with intervals, and calibration of all labels together"
    )
    alt = f"{what}, of {split_images(split, summary)}; the numbers are in the tables below."
    figure = headline_figure(summary, task, predictions, examples)
    return Plot("headline", "Result in a figure", alt, figure, *rasterize_without_foot(figure, foot_height(examples)))


def subgroup_plot(name: str, attribute: Mapping[str, Any], task: Task) -> Plot:
    """Plot a forest plot of the subgroups of one attribute (`metrics.json`, "subgroups")."""
    # Ranking metrics come first; calibration errors are left out, since those of small groups say little.
    ranking = sorted(headline_metrics(task).items(), key=lambda one: one[1].depends_on != "order")
    groups, ranked = attribute["groups"], [name for name, metric in ranking if metric.depends_on != "probability"]
    if any("positive" in group for group in groups):
        ranked = ["auroc_macro", "recall_macro", "specificity_macro"]
    metrics = [name for name in ranked if all(name in group["overall"] for group in groups)][:3]
    alt = (
        f"Metrics with intervals of {plural(len(groups), 'group')} by {attribute['by']}; the numbers are in the table."
    )
    figure = forest_figure(
        group_forest(groups, metrics), [positive_class_metric(groups[0], name)[0] for name in metrics], 12.6
    )
    return plot(figure, name, f"By {attribute['by']}", alt)


def figure_blocks(
    split: str, summary: Mapping[str, Any], task: Task, predictions: Predictions | None
) -> list[FigureBlock]:
    """Return all figures of a split's results (`metrics.summary.summarize`) in display order.

    Without predictions there are no curves.
    """
    labels = [row["label"] for row in summary["per_label"]]
    blocks = [] if predictions is None or not len(predictions) else _curve_blocks(split, summary, task, predictions)
    blocks += [_reliability_block(split, summary)] if summary.get("reliability") else []
    if task == "single":
        return [*blocks, _confusion_block(split, summary, labels)]
    return [*blocks, *_multi_blocks(split, summary, labels)]


PANELS = 24
"""Most labels in figures with a panel per label; the tables have all."""


def _drawn_labels(summary: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the labels that figures show, in order, and a sentence on how they were chosen.

    If there are more than `PANELS` labels, those with the highest and lowest AUROC are chosen; otherwise all, and the
    sentence is "".
    """
    rows = label_rows(summary)
    labels = [row["label"] for row in rows]
    if len(labels) <= PANELS:
        return labels, ""
    ranked = sorted(rows, key=lambda row: -1.0 if row["auroc"] is None else row["auroc"])
    half = PANELS // 2
    chosen = {row["label"] for row in (*ranked[:half], *ranked[-half:])}
    said = f" Of {len(labels)} labels, the {half} with the highest and the {half} with the lowest AUROC."
    return [label for label in labels if label in chosen], said


def _curve_blocks(split: str, summary: Mapping[str, Any], task: Task, predictions: Predictions) -> list[FigureBlock]:
    """Return a block of precision-recall, probabilities and net benefit, and a folded block of ROC curves.

    The first block is also folded if there are many labels.
    """
    kind, unit = split_images(split, summary), unit_of(summary)
    drawn, said = _drawn_labels(summary)
    roc, precision_recall = label_curves(summary, task, predictions, drawn)
    dots = " A dot is at the threshold." if any(curve.mark for curve in roc) else ""
    areas = "; ".join(": ".join(filter(None, (curve.label, curve.area or "not defined"))) for curve in roc)
    precisions = "; ".join(f"{curve.label}: {curve.area or 'not defined'}" for curve in precision_recall)
    band = " The band holds 95% of the curves of resampled patients, at each false alarm rate." * bool(
        roc and roc[0].band
    )
    shown = len(roc) <= TOGETHER
    name = "Precision-recall curves" if len(roc) > 1 else "Precision-recall curve"
    alt = f"{name} of {kind}. {precisions}."
    first = plot(curves_figure(precision_recall, PRECISION_RECALL), "precision_recall", name, alt)
    alt = f"Probabilities of {kind}, with the label and without it, {plural(len(roc), 'panel')}."
    second = plot(histogram_figure(roc, unit), "probabilities", "Probabilities by class", alt)
    third = _decision_curve_plot(kind, summary, {curve.label for curve in roc})
    roc_plot = plot(curves_figure(roc, ROC), "roc", "ROC curves", f"ROC curves of {kind}. {areas}.")
    return [
        FigureBlock(
            "Precision-recall, probabilities, net benefit",
            "Precision by recall: the dotted line is the prevalence of the label, the precision expected by chance. "
            f"Probabilities: their distribution in {plural_noun(unit)} with and without the label. Net benefit "
            f"(Vickers and Elkin 2006): true positives per {unit}, minus false positives per {unit} weighted by "
            "p / (1 - p) at a threshold of p; where the line of treating all or none is higher, the network has no "
            f"benefit. The band is the 95% confidence interval at each threshold.{dots}{said}",
            (first, second, *third),
            folded=not shown,
        ),
        FigureBlock(
            "ROC curves" if len(roc) > 1 else "ROC curve",
            f"Each label against the rest. The dotted diagonal is expected by chance.{band}{dots}{said}",
            (roc_plot,),
            folded=True,
        ),
    ]


def _decision_curve_plot(images: str, summary: Mapping[str, Any], labels: Collection[str]) -> list[Plot]:
    """Plot the decision curves of these labels; the list is empty if the summary has no net benefit."""
    if "net_benefit" not in summary:
        return []
    found = summary["net_benefit"]
    curves = {label: benefits for label, benefits in found["labels"].items() if label in labels}
    alt = f"Net benefit of {images} by threshold probability, {plural(len(curves), 'panel')}."
    figure = decision_curve_figure({**found, "labels": curves})
    return [plot(figure, "decision_curve", "Decision curve", alt)] if curves else []


def _reliability_block(split: str, summary: Mapping[str, Any]) -> FigureBlock:
    bins, (labels, said) = summary["reliability"], _drawn_labels(summary)
    shown = {*labels, MOST_LIKELY}
    before, after = (
        one and {label: rows for label, rows in one.items() if label in shown}
        for one in (bins.get("before"), bins["after"])
    )
    compared = " Squares are probabilities before calibration, dots after calibration." if before else ""
    images, units = split_images(split, summary), plural_noun(unit_of(summary))
    alt = f"Reliability diagrams of {images}, {len(after)} panels; the numbers are in the table below."
    return FigureBlock(
        "Calibration",
        f"Of the {units} with a predicted probability near 0.7, seven in ten should have the label: the closer the "
        f"dots are to the diagonal, the better the calibration.{compared} Larger dots stand for more {units}; their "
        f"lines are Wilson's 95% confidence intervals, and the bars below count the {units} in each bin. Small rings "
        f"are bins of fewer than {FEW_IMAGES} {units}, which are very uncertain.{said}",
        (plot(reliability_figure(after, before), "reliability", "Reliability diagrams", alt),),
        reliability_table(split, bins, unit_of(summary)),
        folded=True,
    )


def _confusion_block(split: str, summary: Mapping[str, Any], labels: Sequence[str]) -> FigureBlock:
    matrix, names = merge_rare(summary["confusion"], labels, PANELS)
    right = sum(summary["confusion"][i][i] for i in range(len(labels)))
    rest = (
        f" The classes with the fewest {plural_noun(unit_of(summary))} are merged; metrics.json has all {len(labels)}."
        * (len(names) < len(labels))
    )
    kind = split_images(split, summary, int(matrix.sum()))
    alt = f"Confusion matrix of {kind} and {len(labels)} classes; {right} on the diagonal."
    return FigureBlock(
        "Confusion matrix",
        f"Rows are actual classes, columns predicted classes; the framed diagonal is correct.{rest}",
        (plot(confusion_figure(matrix, names), "confusion", "Confusion matrix", alt),),
        Matrix(f"{split}-confusion", "Actual class (rows) by predicted class (columns)", names, matrix.tolist()),
        folded=True,
    )


def _multi_blocks(split: str, summary: Mapping[str, Any], labels: Sequence[str]) -> list[FigureBlock]:
    counts, together = summary["confusion_per_label"], summary["cooccurrence"]
    below = f"of {split_images(split, summary)}; the numbers are in the table below."
    (drawn, said), unit = _drawn_labels(summary), unit_of(summary)
    units = plural_noun(unit)
    alt = f"{len(drawn)} two-by-two matrices, one per label, {below}"
    shown = {label: counts[label] for label in drawn}
    by_label = plot(binary_figure(shown), "confusion", "One matrix per label", alt)
    title, alt = "Predicted labels by actual label", f"Matrix of actual by predicted labels {below}"
    places = [labels.index(label) for label in drawn]
    matrix = [[together[i][j] for j in places] for i in places]
    predicted = plot(cooccurrence_figure(matrix, drawn), "cooccurrence", title, alt)
    return [
        FigureBlock(
            "Confusion matrix of each label",
            f"Rows: {units} with the label (yes) and without it (no). Columns: predictions at the label's threshold. "
            f"Percentages and shades are shares of the row.{said}",
            (by_label,),
            binary_table(split, counts, unit),
            folded=True,
        ),
        FigureBlock(
            "Which labels are predicted together",
            f"How often the label of the column was predicted in {units} with the label of the row. "
            f"{'An' if unit == 'image' else 'A'} {unit} may have several labels, so a cell off the diagonal is not "
            f"always an error.{said}",
            (predicted,),
            Matrix(f"{split}-cooccurrence", "Actual label (rows) by predicted label (columns)", drawn, matrix),
            folded=True,
        ),
    ]
