"""The classifier that is served, which uses the same code as `predict` and `explain`."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xrayfast.config import Device
from xrayfast.data.images.reader import Pixels, Radiograph, read_bytes
from xrayfast.data.labels.names import LABEL_JOIN
from xrayfast.errors import ConfigError, ReadError
from xrayfast.exported.metadata import INTENDED_USE, ModelMetadata
from xrayfast.exported.onnx_model import is_model_file
from xrayfast.files.csv_tables import format_csv
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.thresholds import threshold_array
from xrayfast.runs.predictions import PROBABILITY_PREFIX
from xrayfast.runs.run import Run
from xrayfast.serving.answers import Answer, Csv, FileAnswer, LabelAnswer, SaliencyAnswer
from xrayfast.workflows.predict import (
    CSV_NUMBERS,
    SPREAD_PREFIX,
    check_abstention,
    check_unit,
    in_square,
    open_exported,
    tabulate,
)

OVERLAY_SIDE = 224
"""Smallest side of an overlay in pixels; on a smaller image the colors would be a few squares."""

NO_SALIENCY = "Grad-CAM needs the run: an ONNX file has no gradients."


@dataclass(frozen=True)
class Upload:
    """A file that was sent, with its name, which is never opened as a path, and its content."""

    name: str
    content: bytes


class Classifier:
    """A run, an ensemble, a cross-validation or an exported model, opened once.

    Args:
        source: a run, its folder, or an ONNX file, for which torch is not imported.
        abstain_below: see `predict`.
        device: device to compute on.
        note: called with a sentence on each difference from the run's own predictions.

    Attributes:
        run: the run; None for an exported model.
        metadata: the metadata of an exported model; None for a run.
        no_saliency: why there is no Grad-CAM; "" if there is.
    """

    def __init__(
        self, source: Run | Path | str, abstain_below: float | None, device: Device, note: Callable[[str], None]
    ) -> None:
        self.abstain_below = abstain_below
        self.run: Run | None = None
        self.metadata: ModelMetadata | None = None
        self._predictor: Any
        if is_model_file(source):
            self.name, self.no_saliency = Path(str(source)).name, NO_SALIENCY
            self._predictor = open_exported(source, device, None, note)
            self._window, self.metadata = self._predictor.window, self._predictor.metadata
        else:
            from xrayfast.learning.inference.predictor import predictor_of_run

            self.run = Run.of(source)
            self.name, self.no_saliency = self.run.path.absolute().name, ""
            self._predictor = predictor_of_run(self.run, device)
            self._window = self.run.config.data.window
        self.decision: Decision = self._predictor.decision
        self.size: int = self._predictor.size
        for sentence in (*check_abstention(self.decision, abstain_below), *check_unit(self.decision)):
            note(sentence)
        if self.run is not None:
            self.no_saliency = self._try_saliency()

    def answer(self, uploads: Sequence[Upload], *, image: bool, saliency: bool) -> Answer:
        """Return the labels of each file, or its error.

        Raises:
            ConfigError: `saliency` is True, but this classifier has no Grad-CAM.
            XrayfastError: the network fails.
        """
        if saliency and self.no_saliency:
            raise ConfigError(f"saliency is true. {self.no_saliency}")
        names = [upload.name for upload in uploads]
        with warnings.catch_warnings():  # pydicom's warnings may quote the header
            warnings.simplefilter("ignore")
            read = [self._read(upload) for upload in uploads]
        contents = [content for content, _ in read]
        table = tabulate(self._predictor, names, contents, self.abstain_below)
        images = {i: content for i, content in enumerate(contents) if isinstance(content, Radiograph)}
        maps: dict[int, SaliencyAnswer] = {}
        if saliency and images:
            probability = table.loc[[*images], [PROBABILITY_PREFIX + label for label in self.decision.labels]]
            squares, shapes = [one.pixels for one in images.values()], [read[i][1] for i in images]
            found = self._explain(squares, shapes, probability.to_numpy(float).argmax(axis=1).tolist())
            maps = dict(zip(images, found, strict=True))
        files = [
            FileAnswer(
                file=row["file"],
                predicted=row["predicted"],
                labels=self._labels(row),
                notes=list(images[i].notes),
                image=as_png(images[i].pixels) if image else None,
                saliency=maps.get(i),
            )
            if i in images
            else FileAnswer(file=row["file"], error=row["error"])
            for i, row in enumerate(table.to_dict("records"))
        ]
        header, text = format_csv(table.iloc[:0], CSV_NUMBERS), format_csv(table, CSV_NUMBERS)
        return Answer(
            model=self.name,
            purpose=INTENDED_USE,
            files=files,
            csv=Csv(header=header, rows=text.removeprefix(header)),
        )

    def _read(self, upload: Upload) -> tuple[Radiograph | str, tuple[int, int]]:
        """Return the image fitted into the square, or why it can't be read; and its original height and width."""
        try:
            radiograph = read_bytes(upload.name, upload.content, self._window)
        except ReadError as error:
            return str(error), (0, 0)
        height, width = radiograph.pixels.shape
        return in_square(radiograph, self.size, upload.name), (height, width)

    def _labels(self, row: Mapping[Any, Any]) -> list[LabelAnswer]:
        """Return the labels in a row of the table, in the network's order."""
        predicted, abstained = (row.get(name, "").split(LABEL_JOIN) for name in ("predicted", "abstained"))
        return [
            LabelAnswer(
                label=label,
                probability=row[PROBABILITY_PREFIX + label],
                threshold=threshold,
                predicted=label in predicted,
                abstained=label in abstained,
                spread=row.get(SPREAD_PREFIX + label),
            )
            for label, threshold in zip(self.decision.labels, self.thresholds, strict=True)
        ]

    @property
    def thresholds(self) -> list[float | None]:
        """The threshold of each label, for display; None for classes if no thresholds were chosen.

        With three or more classes, each threshold is for a class against the rest; still, the most likely class is
        predicted.
        """
        if self.decision.is_one_vs_rest:
            return [float(threshold) for threshold in threshold_array(self.decision.points)]
        if self.decision.task == "single" and not self.decision.points:
            return [None] * len(self.decision.labels)
        return [float(threshold) for threshold in self.decision.thresholds]

    def _explain(
        self, squares: list[Pixels], shapes: list[tuple[int, int]], targets: list[int]
    ) -> list[SaliencyAnswer]:
        """Return the Grad-CAM map of each square, for the label with the number in `targets`."""
        from xrayfast.learning.inference.saliency import central_thorax, coarse_note, grad_cam_images, share_outside
        from xrayfast.reporting.figures.overlays import overlay

        maps = grad_cam_images(self._predictor, squares, targets)
        found = []
        for square, shape, target, heat in zip(squares, shapes, targets, maps, strict=True):
            outside = share_outside(heat, central_thorax(*shape))
            times = -(-OVERLAY_SIDE // self.size)
            shown = square.repeat(times, axis=0).repeat(times, axis=1)
            found.append(
                SaliencyAnswer(
                    label=self.decision.labels[target],
                    outside=None if math.isnan(outside) else outside,
                    note=coarse_note(heat.shape) or "",
                    image=as_png(overlay(shown, heat)),
                )
            )
        return found

    def _try_saliency(self) -> str:
        """Return why this network has no Grad-CAM; "" if it has."""
        try:
            self._explain([np.zeros((self.size, self.size), np.uint8)], [(1, 1)], [0])
        except ConfigError as error:
            return str(error)
        return ""


def as_png(pixels: NDArray[np.uint8]) -> str:
    """Encode (H, W) or (H, W, 3) uint8 as the data URI of a PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
