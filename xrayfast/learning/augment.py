"""Augmentation and normalisation of whole batches on their device, from (N, 1, H, W) in [0, 1] to a network's input."""

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
"""Random numbers per image that `random_affine` and `jitter_lighting` use."""


def augment(images: Tensor, draws: Tensor | None = None, ranges: Augmentation = DEFAULT) -> Tensor:
    """Augmentations that leave a chest radiograph plausible and the lungs whole; (N, 1, H, W) floats in [0, 1].

    No left-right flip, which would mirror the heart; rotation; scaling down only, shifted within the frame; brightness
    and contrast, on the logit of a pixel as fastai does it. The draws have the distribution of fastai's
    `aug_transforms` with these ranges; images that are neither rotated nor scaled, by default more than half, are not
    resampled, and there is one channel instead of three.

    Args:
        images: what to augment.
        draws: (AFFINE_DRAWS + LIGHTING_DRAWS, N) uniform numbers in [0, 1) that decide how, on the CPU so that they are
            the same for every device; by default from torch's global generator.
        ranges: how far.
    """
    if draws is None:
        draws = random_draws(len(images))
    return jitter_lighting(random_affine(images, draws[:AFFINE_DRAWS], ranges), draws[AFFINE_DRAWS:], ranges)


def random_draws(count: int) -> Tensor:
    """Draws for `augment` of so many images, from torch's global generator."""
    return torch.rand(AFFINE_DRAWS + LIGHTING_DRAWS, count)


def draws_of_view(images: Tensor, seed: int, view: int) -> Tensor:
    """Draws for `augment` that depend on each image's own pixels, the seed and the number of the view alone.

    `images` are 8-bit ones as (N, 1, H, W) floats in [0, 1].
    """
    size, suffix = 4 * (AFFINE_DRAWS + LIGHTING_DRAWS), f"{seed} {view}".encode()
    pixels = (images * 255).round().to(torch.uint8).cpu().numpy()
    digests = [hashlib.shake_128(image.tobytes() + suffix).digest(size) for image in pixels]
    words = np.frombuffer(b"".join(digests), "<u4").reshape(len(images), -1)
    return torch.from_numpy((words.T >> 8).astype(np.float32) / 2**24)  # 24 bits, as torch.rand has


def random_affine(images: Tensor, draws: Tensor, ranges: Augmentation = DEFAULT) -> Tensor:
    """(N, 1, H, W) images, some rotated, some scaled down and shifted, the others as they are."""
    n = len(images)
    angle = _scale(draws[:2], ranges.p_affine, -ranges.rotation, ranges.rotation, 0.0) * (math.pi / 180)
    zoom = _scale(draws[2:4], ranges.p_affine, ranges.zoom, 1.0, 1.0)
    # Shifts by which the image's edges stay in the frame.
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
    """Mixup: (N, C, H, W) averages of the images and the others, weighted by the (N,) share of the images (Zhang et al.
    2018, ICLR).
    """
    return torch.lerp(others, images, send(share.to(images.dtype), images.device).view(-1, 1, 1, 1))


def cutmix(images: Tensor, others: Tensor, share: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """CutMix: a box of each image is that of the other one (Yun et al. 2019, ICCV).

    Args:
        images: (N, C, H, W).
        others: the same.
        share: (N,) of an image's area that is to stay its own; that outside the box.
        draws: (2, N) uniform numbers in [0, 1), where the centre of the box is; beyond the edges it is cut off.

    Returns:
        The images, and the (N,) share of each that is its own: by what was pasted, box cut off.
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
    """`torch.nn.functional.affine_grid(..., align_corners=True)` of (N, 2, 3) matrices, in a third of its time."""
    x = torch.linspace(-1, 1, width, device=matrix.device, dtype=matrix.dtype)
    y = torch.linspace(-1, 1, height, device=matrix.device, dtype=matrix.dtype)
    grid = matrix.new_empty(len(matrix), height, width, 2)
    for axis in range(2):
        a, b, c = (matrix[:, axis, column, None] for column in range(3))
        torch.add((a * x)[:, None, :], (b * y + c)[:, :, None], out=grid[..., axis])
    return grid


def jitter_lighting(images: Tensor, draws: Tensor, ranges: Augmentation = DEFAULT) -> Tensor:
    """(N, 1, H, W) images in [0, 1], some brighter or darker, some with more or less contrast."""
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
    """(2, N) draws to (N,) values, uniform with probability `p` and else `otherwise`."""
    return torch.where(draws[1] < p, draws[0] * (high - low) + low, torch.full_like(draws[0], otherwise))


def shrink(images: Tensor, side: int | None) -> Tensor:
    """(N, 1, H, W) to (N, 1, side, side), antialiased; the same tensor if `side` is None or the images' own."""
    if side is None or images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def normalize(images: Tensor) -> Tensor:
    """(N, 1, H, W) in [0, 1] to (N, 3, H, W), three equal channels normalised by ImageNet's statistics.

    In channels-last memory format, which convolutions take without a copy; on MPS in the usual one.
    """
    n, _, height, width = images.shape
    memory_format = torch.contiguous_format if images.device.type == "mps" else torch.channels_last
    out = torch.empty((n, 3, height, width), dtype=images.dtype, device=images.device, memory_format=memory_format)
    summand, factor = _normalizing_terms(images.device, images.dtype)
    return torch.addcmul(summand, images, factor, out=out)


def denormalize(images: Tensor) -> Tensor:
    """The inverse of `normalize`, (N, 3, H, W) in [0, 1], for display."""
    mean, std = (values.to(images.device) for values in _imagenet_stats())
    return (images * std + mean).clamp(0, 1)


@cache
def _normalizing_terms(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What is added to an image times the second, (1, 3, 1, 1) each, made once: a copy to CUDA waits for it."""
    with torch.inference_mode(False):
        mean, std = _imagenet_stats()
        return (-mean / std).to(device, dtype), (1 / std).to(device, dtype)


def _imagenet_stats() -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (1, 3, 1, 1) each."""
    return torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
