"""Conversion of torchxrayvision's DenseNets, which take other inputs than torchvision's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from xrayfast.learning.dataloaders.augment import IMAGENET_MEAN, IMAGENET_STD

_RANGE = 1024
"""torchxrayvision's networks take one channel of values from -1024 (black) to 1024 (white)."""


def as_torchvision(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Convert a state dict of torchxrayvision's DenseNet for torchvision's densenet121, which takes three channels
    normalized with ImageNet statistics; return other state dicts unchanged.

    The first convolution and the running mean of the batch norm after it are changed so that the outputs are the same,
    except within three pixels of the border, where the zero padding corresponds to another gray value.
    """
    kernel, mean = (state.get(f"features.{name}") for name in ("conv0.weight", "norm0.running_mean"))
    if "op_threshs" not in state or kernel is None or mean is None or kernel.shape[1:2] != (1,):
        return state
    means, stds = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    gray_of_zeros = 2 * _RANGE * means.mean() - _RANGE
    return {
        **state,
        "features.conv0.weight": kernel * (2 * _RANGE * stds / 3).view(1, 3, 1, 1),
        "features.norm0.running_mean": mean - gray_of_zeros * kernel.sum(dim=(1, 2, 3)),
    }
