"""A whole network, backbone and head, with torch and torchvision alone.

The layers, their names and, under a seed, their initial weights are those of fastai's `vision_learner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from xrayfast.learning.model.backbones import Blocks
from xrayfast.learning.model.weights import load_backbone

DEFAULT_HEAD_WIDTH = (512,)
"""Hidden units of the head, as in fastai."""


class ConcatPool(nn.Module):
    """Maximum and mean of each channel: (N, C, h, w) to (N, 2C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.ap, self.mp = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool a batch of feature maps."""
        return torch.cat([self.mp(x), self.ap(x)], 1)


def build_network(arch: str, n_out: int, head_width: int | Sequence[int] = ()) -> nn.Sequential:
    """A randomly initialised network, from images (N, 3, H, W) to logits (N, n_out).

    Within `torch.device("meta")` it is built without computing weights, to be loaded with
    `load_state_dict(..., assign=True)`.

    Args:
        arch: a name in `BACKBONES`.
        n_out: number of labels.
        head_width: hidden units of each hidden layer of the head; () for one of 512.

    Raises:
        ConfigError: no such backbone.
    """
    return add_head(load_backbone(arch).blocks, n_out, head_width)


def add_head(blocks: Blocks, n_out: int, head_width: int | Sequence[int] = ()) -> nn.Sequential:
    """Backbone and head in sequence, the head's weights drawn from torch's global generator.

    The head is: pooling, then for each layer batch norm, dropout (half as strong before hidden layers), a linear layer
    and, if hidden, a ReLU.
    """
    backbone = nn.Sequential(*blocks.values()).eval()
    with torch.no_grad():
        features = backbone(torch.empty(1, 3, 32, 32).uniform_(-1, 1)).shape[1]
    hidden = [head_width] if isinstance(head_width, int) else list(head_width) or list(DEFAULT_HEAD_WIDTH)
    widths = [2 * features, *hidden, n_out]
    layers: list[nn.Module] = [ConcatPool(), nn.Flatten()]
    for number, (n_in, n) in enumerate(pairwise(widths), 1):
        norm = nn.BatchNorm1d(n_in)
        nn.init.constant_(norm.bias, 1e-3)
        last = number == len(widths) - 1
        layers += [norm, nn.Dropout(0.5 if last else 0.25), nn.Linear(n_in, n, bias=False)]
        layers += [] if last else [nn.ReLU(inplace=True)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(backbone, nn.Sequential(*layers))
