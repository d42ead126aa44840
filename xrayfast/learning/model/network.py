"""A whole network, backbone and head, with torch and torchvision alone.

With the head "fastai" the layers, their names and, under a seed, their initial weights are those of fastai's
`vision_learner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrayfast.config import HeadName, ModelConfig, hidden_units
from xrayfast.errors import ConfigError, RunError, shorten
from xrayfast.learning.device import without_values
from xrayfast.learning.model.layers import LayerGroup
from xrayfast.learning.model.pretrained.timm_networks import is_timm
from xrayfast.learning.model.weights import LoadedBackbone, load_backbone, require_weights_of

MAX_HEAD_WEIGHTS = 2**28
"""In float32 they are 1 GB; the classifier of vgg16 has 120 million."""


@dataclass(frozen=True)
class StartingWeights:
    """Weights that training starts from, of a file or a run.

    Attributes:
        text: what they are of, in a sentence; "" where settings say it all.
        sha256: of the file, in hexadecimal.
    """

    text: str
    sha256: str


@dataclass(frozen=True, eq=False)
class LayeredNetwork:
    """A network ready to be trained.

    Attributes:
        model: backbone and head in sequence, or a whole network of the user's own.
        groups: its layer groups, from the input to the head.
        head: the head's name; "none" for that of a whole network.
        weights: what it starts from, as in the settings; "own" where the user's code alone says it.
        notes: on what was found and done, in sentences.
        start: the weights that it starts from, where they are of a file or a run.
    """

    model: nn.Module
    groups: tuple[LayerGroup, ...]
    head: HeadName
    weights: str
    notes: tuple[str, ...] = ()
    start: StartingWeights | None = None


def unused_note(unused: Sequence[str], weights: str) -> tuple[str, ...]:
    """What of a weight file is not used, in a sentence, where there is something."""
    if not unused:
        return ()
    return (f"Of {weights} the backbone is used; the head starts anew. Not used: {shorten(unused)}.",)


class ConcatPool(nn.Module):
    """Maximum and mean of each channel: (N, C, h, w) to (N, 2C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.ap, self.mp = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool a batch of feature maps."""
        return torch.cat([self.mp(x), self.ap(x)], 1)


def build_network(
    arch: str, n_out: int, head_width: int | Sequence[int] = (), head: HeadName = "fastai", size: int = 224
) -> nn.Sequential:
    """A randomly initialised network, from images (N, 3, H, W) to logits (N, n_out).

    Within `without_values` it is built without computing weights, to be loaded with
    `load_state_dict(..., assign=True)`.

    Args:
        arch: a name in `BACKBONES`, or "timm:NAME".
        n_out: number of labels.
        head_width: hidden units of each hidden layer of the head; () for the head's default, see `hidden_units`.
        head: see `add_head`.
        size: side of the images in pixels, on which networks of timm may depend.

    Raises:
        ConfigError: no such backbone, or it does not go with the head.
    """
    backbone = load_backbone(arch, with_classifier=head == "classifier", size=size)
    return add_head(backbone, n_out, head_width, head, size if is_timm(arch) else 32)


def describe_network(model: ModelConfig, n_out: int, weights: Path) -> nn.Sequential:
    """The network of a run's settings on the meta device, once the header of its weights agrees: before that, a
    stranger's run takes neither memory nor time.

    Raises:
        RunError: the settings describe no network.
        WeightsError: the weights are damaged, or of another network.
    """
    try:
        with without_values():
            network = build_network(model.arch, n_out, model.head_width, model.head, model.size)
    except ConfigError as error:
        raise RunError(
            f"{weights.parent}: config.yaml and labels.json describe no network that can be built: {error}"
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
    """Backbone and head in sequence, the head's weights drawn from torch's global generator.

    The heads:
        fastai: average and maximum pooling, then for each layer batch norm, dropout (half as strong before hidden
            layers), a linear layer and, if hidden, a ReLU.
        linear: the network's own average pooling and one linear layer.
        mlp: the same pooling, hidden layers with ReLU, and the last layer.
        classifier: what follows the network's own classifier, the last block of the backbone: dropout, hidden layers
            with ReLU, and the last layer.

    Names of weights are the same whatever `dropout`.

    Args:
        backbone: what comes before it.
        n_out: number of labels.
        head_width: hidden units of each hidden layer; () for the head's default.
        head: its name.
        size: the least side of images that the backbone takes.
        dropout: before the last layer, half as much before hidden ones; None for the head's own.

    Raises:
        ConfigError: `head_width` for a head without hidden layers, or one with which the head is too large; or the head
            "none", which a backbone can't do without.
    """
    if head == "none":
        raise ConfigError("head is none, for a whole network of your own. Use another head for a backbone.")
    hidden = hidden_units(head, head_width)
    blocks, features = nn.Sequential(*backbone.blocks.values()).eval(), backbone.features
    probe = torch.empty(1, 3, 32, 32).uniform_(-1, 1)  # drawn always: it moves the generator, as in earlier versions
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
    """Linear layers with torch's own initial weights, and a ReLU between any two."""
    layers: list[nn.Module] = []
    for number, (n_in, n) in enumerate(pairwise(widths), 3):
        before_last = number == len(widths)
        layers += [nn.Linear(n_in, n), _with_dropout(nn.ReLU(inplace=True), dropout, before_last=before_last)]
    return layers[:-1]


def _with_dropout(module: nn.Module, dropout: float | None, *, before_last: bool) -> nn.Module:
    """A module, with the dropout after it that comes before the last layer or a hidden one; as one, so that the names
    of weights are those without.
    """
    return module if dropout is None else nn.Sequential(module, nn.Dropout(dropout if before_last else dropout / 2))
