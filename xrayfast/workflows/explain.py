"""Explain predictions with Grad-CAM, for image files and for the cases of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Device
from xrayfast.data.images.reader import fit_square, read
from xrayfast.display.notebook_figure import draw_or_display
from xrayfast.errors import ConfigError, ReadError, did_you_mean
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import escape_hidden
from xrayfast.learning.inference import saliency
from xrayfast.learning.inference.predictor import EnsemblePredictor, Predictor, predictor_of_run
from xrayfast.reporting.case import Case
from xrayfast.reporting.figures import encoding, overlays
from xrayfast.reporting.interpretation import IMAGE_SIZE
from xrayfast.runs.predictions import join_row_labels
from xrayfast.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arch = Callable[..., Any] | None

EXPLAINED_AT_ONCE = 64
"""Number of files that are read and explained at once, to bound memory."""

MAX_COMPARED = 16
"""Number of images whose maps are compared with those of random weights; each draw takes as long as the maps."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Grad-CAM of one label on one image.

    Attributes:
        file: the path given.
        predicted: the predicted labels, joined by "|" as in `predict`; "" for none.
        probabilities: the calibrated probability of each label, as in `predict`.
        heat: (h, w) float32 in [0, 1] at the resolution of the network's last feature map, over the square that the
            image is fitted into; the maximum of each image is 1.
        pixels: (S, S) uint8, the image fitted into that square.
        thorax: top, left, bottom and right edge of the central thorax, as fractions of the square.
        outside: the share of the heat outside the central thorax; NaN if the map is 0 everywhere.
    """

    file: str
    label: str
    predicted: str
    probabilities: dict[str, float]
    heat: NDArray[np.float32]
    pixels: NDArray[np.uint8]
    thorax: saliency.Box
    outside: float

    def overlay(self) -> NDArray[np.uint8]:
        """Return the image with its map in color, (S, S, 3) uint8."""
        return overlays.overlay(self.pixels, self.heat)

    @check_arguments()
    def case(self, reported: Case | None = None) -> overlays.SaliencyCase:
        """Return the explanation as a case of a report; name, actual and predicted labels are those of `reported`."""
        return overlays.SaliencyCase(
            image=reported.image if reported else self.file,
            label=self.label,
            probability=self.probabilities[self.label],
            actual=reported.actual if reported else None,
            predicted=reported.predicted if reported else self.predicted,
            pixels=self.pixels,
            heat=self.heat,
            outside=self.outside,
            thorax=self.thorax,
        )

    def __repr__(self) -> str:
        probability = self.probabilities[self.label]
        return f"Explanation('{escape_hidden(self.file)}': {escape_hidden(self.label)} {probability:.2f})"

    def _repr_html_(self) -> str:
        from xrayfast.reporting.html.overview import explanation_overview, render_overview

        return render_overview(explanation_overview(self.case(), self.probabilities))

    def plot(self, ax: Axes | None = None) -> Figure | Axes:
        """Draw the image, and the image with its map in color, side by side.

        Args:
            ax: the Axes to draw only the image with its map on; None for a figure of both.

        Returns:
            The matplotlib Figure, which a notebook displays; `ax` if it is given.

        Raises:
            ConfigError: `ax` is not a matplotlib Axes.
        """
        return draw_or_display(ax, overlays.draw_overlay, lambda case: overlays.overlays_figure([case]), self.case())

    @check_arguments()
    def save(self, path: Path | str) -> None:
        """Write the figure of `plot` as a PNG.

        Raises:
            WriteError: the file can't be written.
        """
        encoding.save(overlays.overlays_figure([self.case()]), Path(path))


# A str is also a Sequence[str], but means one file.
@overload
def explain(  # type: ignore[overload-overlap]
    run: Run | Path | str, files: Path | str, *, label: str | None = None, arch: Arch = None, device: Device = "auto"
) -> Explanation: ...
@overload
def explain(
    run: Run | Path | str,
    files: Sequence[Path | str],
    *,
    label: str | None = None,
    arch: Arch = None,
    device: Device = "auto",
) -> list[Explanation]: ...
@check_arguments()
def explain(
    run: Run | Path | str,
    files: Path | str | Sequence[Path | str],
    *,
    label: str | None = None,
    arch: Arch = None,
    device: Device = "auto",
) -> Explanation | list[Explanation]:
    """Compute Grad-CAM of image files on the network's last feature map; for several networks, the mean of their maps.

    Args:
        run: the run or its folder; for an ensemble or a cross-validation, all networks are averaged.
        files: an image file, or several.
        label: the label to explain; default each image's most probable label.
        arch: the run's `arch`, if it is code of your own.
        device: the device to compute on.

    Returns:
        An Explanation for one file; for a sequence, a list of Explanations in the same order.

    Raises:
        ConfigError: the network has no such label.
        ReadError: a file can't be read.
        RunError: the folder is not a complete run.
        WeightsError: the weights are not those of the network that the folder describes.
    """
    run = Run.of(run)
    paths = [files] if isinstance(files, (str, Path)) else list(files)
    _require_label(run, label)
    predictor = predictor_of_run(run, device, arch)
    explanations: list[Explanation] = []
    for start in range(0, len(paths), EXPLAINED_AT_ONCE):
        explanations += _explain_images(
            predictor, [_read(run, path) for path in paths[start : start + EXPLAINED_AT_ONCE]], label
        )
    return explanations[0] if isinstance(files, (str, Path)) else explanations


def explain_cases(
    run: Run | Path | str,
    cases: Sequence[Case],
    paths: Mapping[str, Path],
    *,
    label: str | None = None,
    arch: Arch = None,
    device: Device = "auto",
) -> tuple[tuple[overlays.SaliencyCase, ...], tuple[str, ...]]:
    """Explain the cases of a report.

    Returns:
        The explained cases in the same order, and notes: how many images were left out, how much of the heat is outside
        the central thorax, and whether the maps depend on the trained weights.
    """
    run = Run.of(run)
    _require_label(run, label)
    readable = [(case, image) for case in cases if (image := _try_read(run, paths.get(case.image))) is not None]
    lost = len(cases) - len(readable)
    notes = [f"{lost:,} of {len(cases):,} images can no longer be read and are left out."] if lost else []
    if not readable:
        return (), tuple(notes)
    images = [image for _, image in readable]
    predictor = predictor_of_run(run, device, arch)
    explanations = _explain_images(predictor, images, label)
    explained = tuple(explanation.case(case) for (case, _), explanation in zip(readable, explanations, strict=True))
    return explained, (*notes, *_map_notes(predictor, images, explanations))


@dataclass(frozen=True, eq=False)
class _Image:
    """An image that was read once: `square` is the network's input, `shown` is for display."""

    file: str
    square: NDArray[np.uint8]
    shown: NDArray[np.uint8]
    thorax: saliency.Box


def _read(run: Run, file: Path | str) -> _Image:
    size, pixels = run.config.model.size, read(file, run.config.data.window).pixels
    # The network's input may be too small to look at; `shown` is the same square at a higher resolution.
    square, shown = fit_square(pixels, size), fit_square(pixels, max(size, IMAGE_SIZE))
    return _Image(str(file), square, shown, saliency.central_thorax(*pixels.shape))


def _try_read(run: Run, path: Path | None) -> _Image | None:
    try:
        return None if path is None else _read(run, path)
    except ReadError:
        return None


def _explain_images(
    predictor: Predictor | EnsemblePredictor, images: Sequence[_Image], label: str | None
) -> list[Explanation]:
    decision, squares = predictor.decision, [image.square for image in images]
    probability = predictor.probabilities(squares).calibrated
    predicted = decision.decide(probability)
    targets = [int(row.argmax()) if label is None else decision.labels.index(label) for row in probability]
    maps = saliency.grad_cam_images(predictor, squares, targets)
    return [
        Explanation(
            file=image.file,
            label=decision.labels[target],
            predicted=join_row_labels(cells, decision.labels),
            probabilities={name: float(p) for name, p in zip(decision.labels, row, strict=True)},
            heat=heat,
            pixels=image.shown,
            thorax=image.thorax,
            outside=saliency.share_outside(heat, image.thorax),
        )
        for image, target, cells, row, heat in zip(images, targets, predicted, probability, maps, strict=True)
    ]


def _map_notes(
    predictor: Predictor | EnsemblePredictor, images: Sequence[_Image], explanations: Sequence[Explanation]
) -> list[str]:
    """Return notes on heat outside the thorax and on maps of random weights; or that the maps are too coarse."""
    if coarse := saliency.coarse_note(explanations[0].heat.shape):
        return [coarse]
    compared = explanations[:MAX_COMPARED]
    correlation = saliency.weight_dependence(
        predictor,
        [image.square for image in images[:MAX_COMPARED]],
        [predictor.decision.labels.index(explanation.label) for explanation in compared],
        np.stack([explanation.heat for explanation in compared]),
    )
    return [
        saliency.outside_note([explanation.outside for explanation in explanations]),
        saliency.dependence_note(correlation, sum(bool(explanation.heat.any()) for explanation in compared)),
    ]


def _require_label(run: Run, label: str | None) -> None:
    if label is not None and label not in run.labels:
        hint = did_you_mean(label, run.labels)
        raise ConfigError(f"label is '{label}'.{hint} {run.path} has: {', '.join(run.labels)}.")
