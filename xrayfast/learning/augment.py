"""From stored images to what a network takes, a whole batch at once, on the device: augmented, then normalised."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from xrayfast.learning.fastai_api import TensorImage, TensorImageBW, Transform, imagenet_stats

MAX_ROTATION = 5.0
"""Degrees, either way."""

MIN_ZOOM = 0.9
"""Films are scaled down to this, never up, so that nothing of the lungs is cut off."""

MAX_LIGHTING = 0.2
"""Brightness and contrast vary by this share."""

P_AFFINE = 0.25
"""Of a rotation, and of a zoom, each.

fastai's default of 0.75 leaves 6 % of the images as sharp as those of validation, which hurts a frozen body: accuracy
of a head on darkcovid (resnet18, 176 px, mean of four splits) 0.76, at 0.25 about 0.78.
"""

P_LIGHTING = 0.75
"""Of a change of brightness, and of contrast, each; fastai's default."""

_EPS = 1e-7  # a black or white pixel stays one: the logit's ends are kept finite


class ChestAugmentation(Transform):
    """Augmentations that leave a chest film plausible and the lungs whole; (N, 1, H, W) floats in [0, 1].

    No left-right flip, which would mirror the heart; rotation up to 5 degrees; scaling down to 0.9 only, shifted within
    the frame; brightness and contrast by a fifth, on the logit of a pixel as fastai does it. The draws are distributed
    as those of fastai's `aug_transforms` with these settings; the images that are neither turned nor scaled,
    more than half, are not resampled, and there is one channel instead of three.
    """

    order = 30
    split_idx = 0  # training only

    def encodes(self, images: TensorImageBW) -> TensorImageBW:
        """A new batch."""
        plain = images.as_subclass(Tensor)
        return TensorImageBW(lit(moved(plain)))


def moved(images: Tensor) -> Tensor:
    """Some of N films (N, 1, H, W) turned, some scaled down and shifted; the others as they are."""
    n = len(images)
    angle = _drawn(n, P_AFFINE, -MAX_ROTATION, MAX_ROTATION, 0.0) * (math.pi / 180)
    zoom = _drawn(n, P_AFFINE, MIN_ZOOM, 1.0, 1.0)
    # The film's centre, where its edges stay in the frame.
    shift = (1 / zoom - 1) * (2 * torch.rand(2, n) - 1)
    rows = torch.nonzero((angle != 0) | (zoom != 1)).flatten()
    if not len(rows):
        return images
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    matrix = torch.stack([cos, sin, shift[0], -sin, cos, shift[1]], -1).view(n, 2, 3)[rows]
    rows = rows.to(images.device)
    grid = _grid(matrix.to(images), *images.shape[2:])
    return images.index_copy(0, rows, F.grid_sample(images[rows], grid, align_corners=True))


def _grid(matrix: Tensor, height: int, width: int) -> Tensor:
    """`torch.nn.functional.affine_grid(..., align_corners=True)` of (N, 2, 3) matrices, in a third of its time."""
    x = torch.linspace(-1, 1, width, device=matrix.device, dtype=matrix.dtype)
    y = torch.linspace(-1, 1, height, device=matrix.device, dtype=matrix.dtype)
    grid = matrix.new_empty(len(matrix), height, width, 2)
    for axis in range(2):
        a, b, c = (matrix[:, axis, column, None] for column in range(3))
        torch.add((a * x)[:, None, :], (b * y + c)[:, :, None], out=grid[..., axis])
    return grid


def lit(images: Tensor) -> Tensor:
    """N films (N, 1, H, W) in [0, 1], brighter or darker, with more or less contrast."""
    n = len(images)
    brightness = _drawn(n, P_LIGHTING, 0.5 * (1 - MAX_LIGHTING), 0.5 * (1 + MAX_LIGHTING), 0.5)
    reach = -math.log(1 - MAX_LIGHTING)
    contrast = _drawn(n, P_LIGHTING, -reach, reach, 0.0).exp()
    column = (n, 1, 1, 1)
    logits = torch.logit(images, eps=_EPS)
    logits *= contrast.view(column).to(images)
    logits += (torch.logit(brightness) * contrast).view(column).to(images)
    return logits.sigmoid_()


def _drawn(n: int, p: float, low: float, high: float, otherwise: float) -> Tensor:
    """N numbers, uniform with probability `p` and else `otherwise`; drawn on the CPU, alike for every device."""
    values = torch.rand(n) * (high - low) + low
    return torch.where(torch.rand(n) < p, values, torch.full((n,), otherwise))


class Shrink(Transform):
    """Images (N, 1, H, W) to (N, 1, side, side), smoothed; as they are where `side` is None or their own."""

    order = 20
    side: int | None = None

    def encodes(self, images: TensorImageBW) -> TensorImageBW:
        """A new batch, or the same."""
        if self.side is None or images.shape[-1] == self.side:
            return images
        plain = images.as_subclass(Tensor)
        return TensorImageBW(F.interpolate(plain, (self.side, self.side), mode="bilinear", antialias=True))


class ToNetwork(Transform):
    """One channel in [0, 1] to three equal ones, normalised by ImageNet's statistics: (N, 1, H, W) to (N, 3, H, W)."""

    order = 99

    def encodes(self, images: TensorImageBW) -> TensorImage:
        """In channels-last order, which convolutions take without a copy; on MPS in the usual one."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in imagenet_stats)
        plain = images.as_subclass(Tensor)
        device, dtype = plain.device, plain.dtype
        n, _, height, width = plain.shape
        order = torch.contiguous_format if device.type == "mps" else torch.channels_last
        out = torch.empty((n, 3, height, width), dtype=dtype, device=device, memory_format=order)
        return TensorImage(torch.addcmul((-mean / std).to(plain), plain, (1 / std).to(plain), out=out))

    def decodes(self, images: TensorImage) -> TensorImage:
        """Back to [0, 1], to be shown."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1).to(images.device) for values in imagenet_stats)
        return TensorImage((images.as_subclass(Tensor) * std + mean).clamp(0, 1))
