"""Augmentation and normalization of batches on the device, from (N, 1, H, W) in [0, 1] to the network's input."""

from __future__ import annotations

import hashlib
import math
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xrayfast.config import AUGMENTATIONS, Augmentation
from xrayfast.learning.device import send

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DEFAULT = AUGMENTATIONS["default"]

_EPS = 1e-7  # keeps the logits of black and white pixels finite


AFFINE_DRAWS, LIGHTING_DRAWS = 6, 4
"""Numbers of random values per image that `random_affine` and `jitter_lighting` use."""


def augment(images: Tensor, draws: Tensor | None = None, ranges: Augmentation = DEFAULT) -> Tensor:
    """Augment chest radiographs, so that they stay plausible and the lungs stay whole.

    Images are rotated, scaled down and shifted within the frame; brightness and contrast are changed on the logits of
    pixels, as in fastai. There is no left-right flip, which would mirror the heart. Parameters have the distribution of
    fastai's `aug_transforms` with these ranges. Unlike there, images that are neither rotated nor scaled, by default
    more than half, are not resampled, and there is one channel instead of three.

    Args:
        images: (N, 1, H, W) floats in [0, 1].
        draws: (AFFINE_DRAWS + LIGHTING_DRAWS, N) uniform random numbers in [0, 1), on the CPU so that they do not
            depend on the device; by default from torch's global generator.
        ranges: ranges and probabilities of the augmentations.
    """
    if draws is None:
        draws = random_draws(len(images))
    return jitter_lighting(random_affine(images, draws[:AFFINE_DRAWS], ranges), draws[AFFINE_DRAWS:], ranges)


def random_draws(count: int) -> Tensor:
    """Return the `draws` of `augment` for `count` images, from torch's global generator."""
    return torch.rand(AFFINE_DRAWS + LIGHTING_DRAWS, count)


def draws_of_view(images: Tensor, seed: int, view: int) -> Tensor:
    """Return the `draws` of `augment` as a hash of each image's pixels, the seed and the number of the view.

    `images` are (N, 1, H, W) floats in [0, 1], made from 8-bit pixels.
    """
    size, suffix = 4 * (AFFINE_DRAWS + LIGHTING_DRAWS), f"{seed} {view}".encode()
    pixels = (images * 255).round().to(torch.uint8).cpu().numpy()
    digests = [hashlib.shake_128(image.tobytes() + suffix).digest(size) for image in pixels]
    words = np.frombuffer(b"".join(digests), "<u4").reshape(len(images), -1)
    return torch.from_numpy((words.T >> 8).astype(np.float32) / 2**24)  # 24 bits, as torch.rand has


def random_affine(images: Tensor, draws: Tensor, ranges: Augmentation = DEFAULT) -> Tensor:
    """Rotate some of the (N, 1, H, W) images, scale some down and shift them, and leave the others unchanged."""
    n = len(images)
    angle = _scale(draws[:2], ranges.p_affine, -ranges.rotation, ranges.rotation, 0.0) * (math.pi / 180)
    zoom = _scale(draws[2:4], ranges.p_affine, ranges.zoom, 1.0, 1.0)
    # The image stays within the frame.
    shift = (1 / zoom - 1) * (2 * draws[4:] - 1)
    rows = torch.nonzero((angle != 0) | (zoom != 1)).flatten()
    if not len(rows):
        return images
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    matrix = torch.stack([cos, sin, shift[0], -sin, cos, shift[1]], -1).view(n, 2, 3)[rows]
    rows = send(rows, images.device)
    grid = _grid(send(matrix.to(images.dtype), images.device), *images.shape[2:])
    return images.index_copy(0, rows, F.grid_sample(images[rows], grid, align_corners=True))


def mixup(images: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """Return mixup's averages of `images` and `others`, (N, C, H, W), weighted by the (N,) share of `images` (Zhang et
    al. 2018, ICLR).
    """
    return torch.lerp(others, images, send(share.to(images.dtype), images.device).view(-1, 1, 1, 1))


def cutmix(images: Tensor, others: Tensor, share: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Apply CutMix: replace a box in each image by that of another image (Yun et al. 2019, ICCV).

    Args:
        images: (N, C, H, W).
        others: (N, C, H, W), the images to paste from.
        share: (N,) share of each image's area outside the box.
        draws: (2, N) uniform random numbers in [0, 1): the center of the box. The box is clipped at the edges.

    Returns:
        The images, and the (N,) share of each that was not replaced, after the box was clipped.
    """
    inside = []
    for draw, side in zip(draws, images.shape[2:], strict=True):
        length = (side * (1 - share).sqrt()).round().long()
        start = (draw * side).long() - length // 2
        pixels = torch.arange(side)
        inside.append((pixels >= start[:, None]) & (pixels < (start + length)[:, None]))
    box = inside[0][:, :, None] & inside[1][:, None, :]
    own = 1 - box.flatten(1).double().mean(dim=1).to(share)
    return torch.where(send(box[:, None], images.device), others, images), own


def _grid(matrix: Tensor, height: int, width: int) -> Tensor:
    """Compute `F.affine_grid(..., align_corners=True)` of (N, 2, 3) matrices, in a third of its time."""
    x = torch.linspace(-1, 1, width, device=matrix.device, dtype=matrix.dtype)
    y = torch.linspace(-1, 1, height, device=matrix.device, dtype=matrix.dtype)
    grid = matrix.new_empty(len(matrix), height, width, 2)
    for axis in range(2):
        a, b, c = (matrix[:, axis, column, None] for column in range(3))
        torch.add((a * x)[:, None, :], (b * y + c)[:, :, None], out=grid[..., axis])
    return grid


def jitter_lighting(images: Tensor, draws: Tensor, ranges: Augmentation = DEFAULT) -> Tensor:
    """Change the brightness and the contrast of some of the (N, 1, H, W) images in [0, 1]."""
    p, most = ranges.p_lighting, ranges.lighting
    brightness = _scale(draws[:2], p, 0.5 * (1 - most), 0.5 * (1 + most), 0.5)
    spread = -math.log(1 - most)
    contrast = _scale(draws[2:], p, -spread, spread, 0.0).exp()
    terms = torch.stack([contrast, torch.logit(brightness) * contrast]).view(2, len(images), 1, 1, 1)
    factor, summand = send(terms.to(images.dtype), images.device)
    logits = torch.logit(images, eps=_EPS)
    logits *= factor
    logits += summand
    return logits.sigmoid_()


def _scale(draws: Tensor, p: float, low: float, high: float, otherwise: float) -> Tensor:
    """Map (2, N) draws to (N,) values: uniform in [low, high) with probability `p`, and `otherwise` if not."""
    return torch.where(draws[1] < p, draws[0] * (high - low) + low, torch.full_like(draws[0], otherwise))


def shrink(images: Tensor, side: int | None) -> Tensor:
    """Resize (N, 1, H, W) to (N, 1, side, side) with antialiasing; return the same tensor if `side` is None or W."""
    if side is None or images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def normalize(images: Tensor) -> Tensor:
    """Map (N, 1, H, W) in [0, 1] to (N, 3, H, W): the channel three times, normalized with ImageNet statistics.

    The result is in channels-last memory format, which convolutions take without a copy; on MPS it is contiguous.
    """
    n, _, height, width = images.shape
    memory_format = torch.contiguous_format if images.device.type == "mps" else torch.channels_last
    out = torch.empty((n, 3, height, width), dtype=images.dtype, device=images.device, memory_format=memory_format)
    summand, factor = _normalizing_terms(images.device, images.dtype)
    return torch.addcmul(summand, images, factor, out=out)


def denormalize(images: Tensor) -> Tensor:
    """Invert `normalize` for display: return (N, 3, H, W) in [0, 1]."""
    mean, std = (values.to(images.device) for values in _imagenet_stats())
    return (images * std + mean).clamp(0, 1)


@cache
def _normalizing_terms(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the shift and the factor that normalize an image, (1, 3, 1, 1) each.

    They are cached, since each copy to CUDA waits for the device.
    """
    with torch.inference_mode(False):
        mean, std = _imagenet_stats()
        return (-mean / std).to(device, dtype), (1 / std).to(device, dtype)


def _imagenet_stats() -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, (1, 3, 1, 1) each."""
    return torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
