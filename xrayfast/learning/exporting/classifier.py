"""A classifier as one module, from gray images of any size to decisions, built from operations that ONNX has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xrayfast.errors import ConfigError, truncate
from xrayfast.exported.onnx_model import Outputs
from xrayfast.learning.dataloaders.augment import IMAGENET_MEAN, IMAGENET_STD
from xrayfast.learning.inference.predictor import EnsemblePredictor, Predictor
from xrayfast.learning.model.losses import to_probability
from xrayfast.metrics.operating_points.calibration import FLOOR, Temperature
from xrayfast.metrics.operating_points.decision import Decision

_WEIGHT_BITS = 22
"""Bits of Pillow's integer resampling weights for 8-bit images; `PRECISION_BITS` in its Resample.c."""


class FitSquare(nn.Module):
    """`data.images.reader.fit_square` as two matrix products, with Pillow's arithmetic.

    Weights have 22 bits, columns are resized before rows, and each product is rounded to 8 bits. Float64 represents
    all these integers exactly, so the pixels are the same as Pillow's. In images more than twice as high as wide, whose
    rows Pillow resizes first, some pixels differ by one gray level.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Resize (N, H, W) uint8 to (N, size, size), whole numbers from 0 to 255 in float64."""
        height, width = images.shape[1:]
        rows, columns = self._weights(height, width), self._weights(width, height)
        narrow = _rounded(images.to(torch.float64) @ columns.T)
        return _rounded(rows @ narrow)

    def _weights(self, side: int, other: int) -> Tensor:
        """Return the (size, side) weights of the image's pixels in each pixel of the square, along one axis."""
        n, longer = _number(side), torch.maximum(_number(side), _number(other))
        filled = (n * (self.size / longer)).round().clamp(min=1.0)
        places = torch.arange(self.size, dtype=torch.float64) - ((self.size - filled) / 2).floor()
        scale = n / filled
        centers = (places + 0.5) * scale
        distances = (torch.arange(side, dtype=torch.float64) + 0.5) - centers[:, None]
        weights = (1.0 - (distances / scale.clamp(min=1.0)).abs()).clamp(min=0.0)
        inside = (places >= 0) & (places < filled)
        weights = torch.where(inside[:, None], weights, torch.zeros_like(weights))
        total = weights.sum(dim=1, keepdim=True)
        weights = weights / torch.where(total > 0, total, torch.ones_like(total))
        return (weights * 2**_WEIGHT_BITS + 0.5).floor()


def _number(side: int) -> Tensor:
    return torch.scalar_tensor(side, dtype=torch.float64)


def _rounded(sums: Tensor) -> Tensor:
    return ((sums + 2 ** (_WEIGHT_BITS - 1)) / 2**_WEIGHT_BITS).floor()


class _Module(nn.Module):
    """A module whose buffers mypy accepts as tensors."""

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


class Decide(_Module):
    """A `Decision` as a module: from raw probabilities, (N, L) float64, to calibrated ones and predicted labels."""

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.task, self.labels = decision.task, len(decision.labels)
        # As tensors, since the exporter rounds Python floats to float32.
        self.register_buffer("floor", torch.tensor(FLOOR, dtype=torch.float64))
        self.register_buffer("ceiling", torch.tensor(1 - FLOOR, dtype=torch.float64))
        self.register_buffer("thresholds", torch.from_numpy(np.asarray(decision.thresholds, np.float64)))
        self.equal = bool(np.ptp(decision.thresholds) == 0)
        self.column = None if decision.positive is None else decision.labels.index(decision.positive)
        calibration = decision.calibration
        self.method = "none"
        if isinstance(calibration, Temperature):
            self.method = "temperature"
            self.register_buffer("temperature", torch.tensor(calibration.temperature, dtype=torch.float64))
        elif calibration is not None:
            self.method = "scaling"
            for name in ("slope", "bias"):
                values = [getattr(scaling, name) for scaling in calibration]
                self.register_buffer(name, torch.tensor(values, dtype=torch.float64))

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return calibrated probabilities, (N, L) float64, and decisions of 0 and 1, (N, L) uint8."""
        probability = self._calibrated(raw)
        if self.task == "multi":
            return probability, (probability >= self.thresholds).to(torch.uint8)
        above = probability if self.equal else probability - self.thresholds
        chosen = above.argmax(dim=1, keepdim=True)
        return probability, (chosen == torch.arange(self.labels)).to(torch.uint8)

    def _calibrated(self, raw: Tensor) -> Tensor:
        if self.method == "none":
            return raw
        if self.method == "temperature":
            return (torch.maximum(raw, self.floor).log() / self.temperature).softmax(dim=1)
        if self.column is None:
            return self._scaled(raw)
        values = torch.maximum(raw, self.floor)
        share = self._scaled(values[:, self.column : self.column + 1] / values.sum(dim=1, keepdim=True))
        pair = [share, 1.0 - share] if self.column == 0 else [1.0 - share, share]
        return torch.cat(pair, dim=1)

    def _scaled(self, values: Tensor) -> Tensor:
        clipped = torch.minimum(torch.maximum(values, self.floor), self.ceiling)
        logits = clipped.log() - (1.0 - clipped).log()
        return (self.slope * logits + self.bias).sigmoid()


class Classifier(_Module):
    """A module from images to `Outputs`: preprocessing as in `Predictor`, one or several networks, and the decision.

    Args:
        predictor: predictor of a run. Test-time augmentation is left out, as its views depend on a hash of each image.
    """

    def __init__(self, predictor: Predictor | EnsemblePredictor) -> None:
        super().__init__()
        members: Sequence[Predictor] = getattr(predictor, "members", None) or [predictor]
        self.size, self.task = predictor.size, predictor.decision.task
        self.fit_square, self.decide = FitSquare(predictor.size), Decide(predictor.decision)
        self.networks = nn.ModuleList([member.fused for member in members])
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", 1 / std)
        self.register_buffer("shift", -mean / std)

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs: fields of `Outputs`; "spread" only for several networks."""
        return [name for name in Outputs._fields if name != "spread" or len(self.networks) > 1]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map (N, H, W) uint8 images to the outputs, in the order of `output_names`."""
        squares = self.fit_square(images).to(torch.float32) / 255.0
        inputs = squares.unsqueeze(1) * self.scale + self.shift
        logits = [network(inputs) for network in self.networks]
        every = torch.stack([to_probability(one, self.task).to(torch.float64) for one in logits])
        raw = every.mean(dim=0)
        probability, decisions = self.decide(raw)
        found = [probability.to(torch.float32), raw.to(torch.float32), decisions]
        if len(self.networks) > 1:
            squared = (every - raw).square().sum(dim=0) / (len(self.networks) - 1)
            found.append(squared.sqrt().to(torch.float32))
        return tuple(found)


def capture(classifier: Classifier, name: str) -> torch.export.ExportedProgram:
    """Capture the classifier with torch.export, for batches and images of any size.

    Raises:
        ConfigError: torch.export can't trace the network's code; the message says why.
    """
    example = torch.zeros(2, classifier.size + 6, classifier.size + 10, dtype=torch.uint8)
    sides = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)
    try:
        with torch.no_grad():
            return torch.export.export(classifier, (example,), dynamic_shapes={"images": sides}, strict=False)
    except Exception as error:  # the network's code may raise anything when it gets tensors without values
        raise ConfigError(
            f"{name}: can't be exported, because torch.export can't trace its code ({truncate(str(error), 300)}). "
            "'xrayfast models' lists networks that can be exported."
        ) from error
