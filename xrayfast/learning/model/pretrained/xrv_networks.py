"""DenseNets of torchxrayvision, which differ from torchvision's in what images they take."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from xrayfast.learning.augment import IMAGENET_MEAN, IMAGENET_STD

_RANGE = 1024
"""They take one channel of values from -1024, black, to 1024, white."""


def as_torchvision(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state dict of such a DenseNet for torchvision's densenet121, which takes three channels normalised by
    ImageNet's statistics; other state dicts as they are.

    The first convolution and the mean of the batch norm after it are changed so that it computes the same of an image,
    but for its border of three pixels, where the zeros that are padded stand for another gray.
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
