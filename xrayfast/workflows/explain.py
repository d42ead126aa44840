"""Show what in a radiograph speaks for a label, by Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Device
from xrayfast.data.images.reader import fit_square, read
from xrayfast.errors import ConfigError, ReadError, did_you_mean
from xrayfast.learning.fastai_api import Learner
from xrayfast.learning.inference import saliency
from xrayfast.learning.inference.predictor import new_probability
from xrayfast.predictions import join_labels
from xrayfast.report import figures, overlays
from xrayfast.report.interpretation import IMAGE_SIZE
from xrayfast.run import Run
from xrayfast.workflows.load import load_to_predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHUNK = 64
"""Files opened before they are explained: bounds memory."""

CHECKED = 16
"""Images at most on which maps are compared with those of random weights, which takes as long again for each draw."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What in one file speaks for one label.

    Attributes:
        file: as it was given.
        label: the label that is explained.
        predicted: the predicted label or labels, joined by "|" as `predict` does; "" for none.
        probabilities: of every label, as `predict` gives them.
        heat: (h, w) float32 in [0, 1], one cell for each of the network's last feature map, over the square that the
            image is fitted into; 1 is the hottest place of this image.
        pixels: (S, S) uint8, that square.
        thorax: top, left, bottom and right edge of the central thorax, as fractions of the square.
        outside: the share of the heat outside it; NaN where there is no heat.
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
        """The image with its heat in colour, (S, S, 3) uint8."""
        return overlays.overlay(self.pixels, self.heat)

    def case(
        self, image: str | None = None, actual: str | None = None, predicted: str | None = None
    ) -> overlays.SaliencyCase:
        """The same for a report: another name, the actual label and other words for the predicted one may be given."""
        return overlays.SaliencyCase(
            image=self.file if image is None else image,
            label=self.label,
            probability=self.probabilities[self.label],
            actual=actual,
            predicted=self.predicted if predicted is None else predicted,
            pixels=self.pixels,
            heat=self.heat,
            outside=self.outside,
            thorax=self.thorax,
        )

    def plot(self) -> Figure:
        """The image beside itself with its heat, as a Figure."""
        return overlays.overlays_figure([self.case()])

    def save(self, path: Path | str) -> None:
        """Write that figure as a PNG.

        Raises:
            WriteError: the file can't be written.
        """
        figures.save(self.plot(), Path(path))


class Asked(NamedTuple):
    """An image that a report is to explain.

    Attributes:
        image: its name in the report.
        path: its file, or None where it is not known.
        actual: its labels, joined for reading.
        predicted: what was predicted, joined for reading.
        label: what to explain; None for the most probable label.
    """

    image: str
    path: Path | None
    actual: str
    predicted: str
    label: str | None = None


# A text is a sequence of texts too, of which the first form is meant.
@overload
def explain(  # type: ignore[overload-overlap]
    run: Run | Path | str, files: Path | str, *, label: str | None = None, device: Device = "auto"
) -> Explanation: ...
@overload
def explain(
    run: Run | Path | str, files: Sequence[Path | str], *, label: str | None = None, device: Device = "auto"
) -> list[Explanation]: ...
def explain(
    run: Run | Path | str,
    files: Path | str | Sequence[Path | str],
    *,
    label: str | None = None,
    device: Device = "auto",
) -> Explanation | list[Explanation]:
    """What in radiographs speaks for a label: Grad-CAM on the network's last feature map.

    Args:
        run: the run or its folder.
        files: an image file, or several.
        label: what to explain; default each image's most probable label.
        device: where to run.

    Returns:
        An Explanation for one file; a list of them, in the order given, for a sequence.

    Raises:
        ConfigError: the network has no such label.
        ReadError: a file can't be read.
        RunError: the folder is not a whole run.
    """
    run = Run.of(run)
    wanted = [files] if isinstance(files, (str, Path)) else list(files)
    _require_label(run, label)
    learn = load_to_predict(run, device)
    found: list[Explanation] = []
    for start in range(0, len(wanted), CHUNK):
        opened = [_open(run, file) for file in wanted[start : start + CHUNK]]
        found += _explained(run, learn, opened, [label] * len(opened))
    return found[0] if isinstance(files, (str, Path)) else found


def saliency_cases(
    run: Run | Path | str,
    images: Sequence[Asked | tuple[str, Path | None, str, str, str | None]],
    *,
    device: Device = "auto",
) -> tuple[tuple[overlays.SaliencyCase, ...], tuple[str, ...]]:
    """Explanations for a report, and what to think of them.

    Args:
        run: the run or its folder.
        images: what to explain; what can no longer be read is left out.
        device: where to run.

    Returns:
        The cases in the order given, and sentences: how many images were left out, how much of the heat lies outside
        the central thorax, and whether the maps depend on the trained weights.

    Raises:
        ConfigError: the network has no such label.
        RunError: the folder is not a whole run.
    """
    run = Run.of(run)
    asked = [Asked(*one) for one in images]
    for one in asked:
        _require_label(run, one.label)
    opened = [(one, image) for one in asked if (image := _try_open(run, one.path)) is not None]
    lost = len(asked) - len(opened)
    notes = [f"{lost} of {len(asked)} images can no longer be read, and are left out."] if lost else []
    if not opened:
        return (), tuple(notes)
    learn = load_to_predict(run, device)
    found = _explained(run, learn, [image for _, image in opened], [one.label for one, _ in opened])
    cases = tuple(
        explanation.case(one.image, one.actual, one.predicted)
        for (one, _), explanation in zip(opened, found, strict=True)
    )
    notes += _checks(run, learn, [image for _, image in opened], found)
    return cases, tuple(notes)


@dataclass(frozen=True, eq=False)
class _Image:
    """A file that was read once: as the network takes it, and as people look at it."""

    file: str
    square: NDArray[np.uint8]
    shown: NDArray[np.uint8]
    thorax: saliency.Box


def _open(run: Run, file: Path | str) -> _Image:
    config = run.config
    size = config.model.size
    pixels = read(file, config.data.window).pixels
    # Small networks are fed what people can hardly look at; the square is the same, only finer.
    square, shown = fit_square(pixels, size), fit_square(pixels, max(size, IMAGE_SIZE))
    return _Image(str(file), square, shown, saliency.central_thorax(*pixels.shape))


def _try_open(run: Run, path: Path | None) -> _Image | None:
    try:
        return None if path is None else _open(run, path)
    except ReadError:
        return None


def _explained(run: Run, learn: Learner, images: Sequence[_Image], labels: Sequence[str | None]) -> list[Explanation]:
    """Explain each image's label of the same place, or its most probable one."""
    if not images:
        return []
    squares = [image.square for image in images]
    probability = run.decision.calibrated(new_probability(learn, squares))
    predicted = run.decision.decide(probability)
    targets = [
        int(row.argmax()) if label is None else run.labels.index(label)
        for row, label in zip(probability, labels, strict=True)
    ]
    maps = saliency.image_maps(learn, squares, targets)
    return [
        Explanation(
            file=image.file,
            label=run.labels[target],
            predicted=join_labels(decided, run.labels),
            probabilities={name: float(p) for name, p in zip(run.labels, row, strict=True)},
            heat=heat,
            pixels=image.shown,
            thorax=image.thorax,
            outside=saliency.share_outside(heat, image.thorax),
        )
        for image, target, decided, row, heat in zip(images, targets, predicted, probability, maps, strict=True)
    ]


def _checks(run: Run, learn: Learner, images: Sequence[_Image], found: Sequence[Explanation]) -> list[str]:
    """The sentences on heat outside the thorax and on random weights."""
    coarse = saliency.coarse_note(found[0].heat.shape)
    if coarse is not None:
        return [coarse]
    checked = found[:CHECKED]
    correlation = saliency.weight_dependence(
        learn,
        [image.square for image in images[:CHECKED]],
        [run.labels.index(one.label) for one in checked],
        np.stack([one.heat for one in checked]),
    )
    return [
        saliency.outside_note([one.outside for one in found]),
        saliency.dependence_note(correlation, sum(bool(one.heat.any()) for one in checked)),
    ]


def _require_label(run: Run, label: str | None) -> None:
    """Refuse a label that the network does not have."""
    if label is not None and label not in run.labels:
        hint = did_you_mean(label, run.labels)
        raise ConfigError(f"label is '{label}'.{hint} {run.path} has: {', '.join(run.labels)}.")
