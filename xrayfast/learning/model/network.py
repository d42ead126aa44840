"""Whole networks of backbone and head, built with torch and torchvision alone.

With the head "fastai" the layers, their names and, for the same seed, their initial weights are those of fastai's
`vision_learner`. Training starts from other weights in the last layer: see `start_head_at`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrayfast.config import HeadName, ModelConfig, hidden_units
from xrayfast.errors import ConfigError, RunError, shorten
from xrayfast.learning.device import on_meta_device
from xrayfast.learning.model.layers import LayerGroup
from xrayfast.learning.model.pretrained.timm_networks import is_timm
from xrayfast.learning.model.weights import LoadedBackbone, load_backbone, require_weights_of

MAX_HEAD_WEIGHTS = 2**28
"""Largest number of weights in a head: 1 GB in float32. The classifier of vgg16 has 120 million."""

MAX_SHIFT = 5.0
"""Largest root mean square of the batch norm's bias in `start_head_at`: about that of 20 rare labels.

Dropout multiplies a larger one into noise: without a limit, by 1.8 per logit with 100 labels, and by 74 with as many
labels as hidden units.
"""


@dataclass(frozen=True)
class StartingWeights:
    """Provenance of the weights that training starts from, if they come from a file or a run.

    Attributes:
        text: a sentence on where they come from; "" for a file, which the settings name.
    """

    text: str
    sha256: str


@dataclass(frozen=True, eq=False)
class LayeredNetwork:
    """A network ready to be trained.

    Attributes:
        model: backbone and head in sequence, or a whole network of the user's own.
        head: name of the head; "none" for a whole network of the user's own.
        weights: the setting `weights`; "own" if the user's code determines the initial weights.
        notes: sentences for the user on how the network was built.
        start: provenance of the initial weights, if they come from a file or a run.
    """

    model: nn.Module
    groups: tuple[LayerGroup, ...]
    head: HeadName
    weights: str
    notes: tuple[str, ...] = ()
    start: StartingWeights | None = None


def unused_note(unused: Sequence[str], weights: str) -> tuple[str, ...]:
    """Return a sentence on the tensors of a weight file that are not used, if there are any."""
    if not unused:
        return ()
    return (
        f"Only the backbone is loaded from {weights}; the head starts from random weights. Not used: "
        f"{shorten(unused)}.",
    )


class ConcatPool(nn.Module):
    """Global max and average pooling, concatenated: (N, C, h, w) to (N, 2C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.ap, self.mp = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool a batch of feature maps."""
        return torch.cat([self.mp(x), self.ap(x)], 1)


def build_network(
    arch: str, n_out: int, head_width: int | Sequence[int] = (), head: HeadName = "fastai", size: int = 224
) -> nn.Sequential:
    """Build a randomly initialized network from images (N, 3, H, W) to logits (N, n_out).

    Within `on_meta_device` it is on the meta device, and no initial weights are computed.

    Args:
        arch: a name in `BACKBONES`, or "timm:NAME".
        n_out: number of labels.
        head_width: hidden units of each hidden layer of the head; () for the head's default, see `hidden_units`.
        head: name of the head, see `add_head`.
        size: side of the images in pixels, on which networks of timm may depend.
    """
    backbone = load_backbone(arch, with_classifier=head == "classifier", size=size)
    return add_head(backbone, n_out, head_width, head, size if is_timm(arch) else 32)


def describe_network(model: ModelConfig, n_out: int, weights: Path) -> nn.Sequential:
    """Build the network of a run's settings on the meta device, and compare it with the header of the weight file.

    So a run from an untrusted source takes neither memory nor time before the check.

    Raises:
        RunError: the settings describe no network that can be built.
        WeightsError: the weight file is damaged, or belongs to another network.
    """
    try:
        with on_meta_device():
            network = build_network(model.arch, n_out, model.head_width, model.head, model.size)
    except ConfigError as error:
        raise RunError(
            f"{weights.parent}: the network that config.yaml and labels.json describe can't be built: {error}"
        ) from error
    require_weights_of(network, weights)
    return network


def add_head(
    backbone: LoadedBackbone,
    n_out: int,
    head_width: int | Sequence[int] = (),
    head: HeadName = "fastai",
    size: int = 32,
    dropout: float | None = None,
) -> nn.Sequential:
    """Return backbone and head in sequence; the head's weights are drawn from torch's global generator.

    The heads:
        fastai: average and max pooling, then for each layer batch norm, dropout (half as much before hidden layers), a
            linear layer and, after hidden layers, a ReLU.
        linear: the network's own average pooling and one linear layer.
        mlp: the network's own average pooling, hidden layers with ReLU, and the last layer.
        classifier: dropout, hidden layers with ReLU, and the last layer, after the hidden layers of the network's own
            classifier, which are the last block of the backbone.

    The names of the weights do not depend on `dropout`.

    Args:
        backbone: the backbone.
        n_out: number of labels.
        head_width: hidden units of each hidden layer; () for the head's default.
        head: name of the head.
        size: side of an image that the backbone can take, used to find its number of features.
        dropout: dropout before the last layer, half as much before hidden ones; None for the head's default.

    Raises:
        ConfigError: the head has no hidden layers for `head_width`, would be too large, or is "none", which is for
            whole networks.
    """
    if head == "none":
        raise ConfigError("head is none, which is only for a whole network of your own. Use another head.")
    hidden = hidden_units(head, head_width)
    blocks, features = nn.Sequential(*backbone.blocks.values()).eval(), backbone.features
    probe = torch.empty(1, 3, 32, 32).uniform_(-1, 1)  # always drawn: keeps the head's weights as in older versions
    if features is None:
        with torch.no_grad():
            features = int(blocks(probe if size == 32 else F.interpolate(probe, size)).shape[1])
    side = backbone.pooled_side
    inputs = {"fastai": 2 * features, "classifier": features}.get(head, features * side**2)
    widths = [inputs, *hidden, n_out]
    if (weights := sum(n_in * n for n_in, n in pairwise(widths))) > MAX_HEAD_WEIGHTS:
        raise ConfigError(
            f"head_width is {', '.join(map(str, hidden))}: with {n_out:,} labels the head has {weights:,} weights; "
            f"expected at most {MAX_HEAD_WEIGHTS:,}."
        )
    if head == "fastai":
        layers = _fastai_layers(widths, 0.5 if dropout is None else dropout)
    elif head == "classifier":
        first = 0.5 if dropout is None else dropout / (2 if hidden else 1)
        layers = [nn.Dropout(first), *_linear_layers(widths, dropout)]
    else:
        flat = _with_dropout(nn.Flatten(), dropout, before_last=not hidden)
        layers = [nn.AdaptiveAvgPool2d(side), flat, *_linear_layers(widths, dropout)]
    return nn.Sequential(blocks, nn.Sequential(*layers))


@torch.no_grad()
def start_head_at(head: nn.Module, logits: Tensor) -> None:
    """Let a new head of `add_head` begin with the given logits (L,) for all images, nearly, in place.

    The last layer's weights become a tenth of what was drawn, so that differences between images are small at first.
    The logits become its bias; in the head "fastai", whose last layer has none, they come from the bias of the batch
    norm before it, up to `MAX_SHIFT`, and for the rest from a multiple of that bias in the weights of each label.
    Without this, labels that few images have start at a probability of about 0.5, and the head spends its first epochs
    on learning that they are rare (Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1, start at a
    low probability for this reason).
    """
    layers: list[Any] = list(head.children())
    last = layers[-1]
    last.weight *= 0.1
    if last.bias is not None:
        last.bias.copy_(logits)
        return
    weight = last.weight.double()
    shift = torch.linalg.pinv(weight) @ logits
    shift *= (MAX_SHIFT / shift.square().mean().sqrt()).clamp(max=1)
    rest = (logits - weight @ shift) / shift.dot(shift).clamp(min=1e-12)
    layers[-3].bias.copy_(shift)
    last.weight += torch.outer(rest, shift)


def _fastai_layers(widths: Sequence[int], dropout: float) -> list[nn.Module]:
    layers: list[nn.Module] = [ConcatPool(), nn.Flatten()]
    for number, (n_in, n) in enumerate(pairwise(widths), 1):
        norm = nn.BatchNorm1d(n_in)
        nn.init.constant_(norm.bias, 1e-3)
        last = number == len(widths) - 1
        layers += [norm, nn.Dropout(dropout if last else dropout / 2), nn.Linear(n_in, n, bias=False)]
        layers += [] if last else [nn.ReLU(inplace=True)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return layers


def _linear_layers(widths: Sequence[int], dropout: float | None) -> list[nn.Module]:
    """Return linear layers with torch's default initial weights, and a ReLU between any two."""
    layers: list[nn.Module] = []
    for number, (n_in, n) in enumerate(pairwise(widths), 3):
        before_last = number == len(widths)
        layers += [nn.Linear(n_in, n), _with_dropout(nn.ReLU(inplace=True), dropout, before_last=before_last)]
    return layers[:-1]


def _with_dropout(module: nn.Module, dropout: float | None, *, before_last: bool) -> nn.Module:
    """Return a module followed by dropout, half as much if the next layer is a hidden one.

    Both are one child of the head, so that the names of its weights are the same as without dropout.
    """
    return module if dropout is None else nn.Sequential(module, nn.Dropout(dropout if before_last else dropout / 2))
