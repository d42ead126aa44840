"""Where a network looks: Grad-CAM, how much of it lies outside the chest, and whether it depends on the weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xrayfast.errors import ConfigError
from xrayfast.learning.fastai_api import Learner
from xrayfast.learning.randomness import isolated_rng

Box = tuple[float, float, float, float]
"""Top, left, bottom and right edge, as fractions of the square that the network sees."""

MARGIN = 0.1
"""What of an image's height and width at each side is not central thorax.

In the mean of 150 films each of darkcovid and of NIH ChestX-ray14 both lungs lie within; corner marks, borders and
shoulders don't. Of heat that is even over a square image, 0.36 lies outside.
"""

OUTSIDE_LIMIT = 0.5
"""Above this median share of heat outside the central thorax, a network may look at something other than the chest."""

CORRELATION_LIMIT = 0.5
"""Above this mean rank correlation with maps of random weights, maps say little about what a network learned."""

FEWEST_CELLS = 4
"""Cells a side of the coarsest map in which a corner can be told from the thorax."""


def grad_cam(model: nn.Module, batch: Tensor, targets: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) of one output for each image.

    Each channel of a feature map is weighted by the mean of the logit's gradient over the channel's cells; their sum,
    where it is positive, speaks for the label. The logit is that of a class (single) or of a label by itself (multi).
    The network runs in inference mode, frozen or not, and is left as it was found: modes, gradients and hooks.

    Args:
        model: gives (N, L) logits.
        batch: (N, ...) its input, normalised.
        targets: (N,) int64, the output to explain for each image.
        layer: the module whose (N, C, h, w) output is weighed; default `feature_layer(model)`.

    Returns:
        (N, h, w) in [0, 1], each map divided by its own maximum; one without positive cells is 0 everywhere.

    Raises:
        ConfigError: the layer gives no feature map.
    """
    layer = feature_layer(model) if layer is None else layer
    maps: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.ndim != 4:
            return None
        # A leaf, so that only what follows is differentiated; a clone of it goes on, so that an in-place ReLU there
        # leaves it as it is.
        torch.set_grad_enabled(True)
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()

    modes = [(module, module.training) for module in model.modules()]
    hook = layer.register_forward_hook(cut)
    try:
        model.eval()
        with torch.no_grad():  # until `cut`; what stood before is restored at the end
            logits = model(batch)
            if not maps:
                raise ConfigError(f"{type(layer).__name__} gives no feature map (N, C, h, w) of this network.")
            (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), maps[-1])
    finally:
        hook.remove()
        for module, mode in modes:
            module.training = mode
    heat = (gradient.mean(dim=(2, 3), keepdim=True) * maps[-1].detach()).sum(dim=1).relu()
    peak = heat.amax(dim=(1, 2), keepdim=True)
    return heat / torch.where(peak > 0, peak, 1)


def feature_layer(model: nn.Module) -> nn.Module:
    """The module of a learner's network that gives the last feature map with a spatial extent: the body's last block.

    Of a vgg it is the last ReLU, before the block's max pooling: the map of the last convolution, which Selvaraju et
    al. take too, and twice as fine. In other networks a block ends with that map.
    """
    body: Any = next(model.children())
    block = list(body.children())[-1]
    *before, last = block.children()
    return before[-1] if isinstance(last, nn.MaxPool2d) else block


def image_maps(
    learn: Learner,
    images: Sequence[NDArray[np.uint8]],
    targets: Sequence[int],
    *,
    model: nn.Module | None = None,
    batch_size: int = 16,
) -> NDArray[np.float32]:
    """Grad-CAM of images, prepared and normalised as the learner does it for predictions.

    Args:
        learn: a learner.
        images: N arrays (H, W) uint8.
        targets: N numbers of labels.
        model: a network to explain in place of the learner's.
        batch_size: images a batch.

    Returns:
        (N, h, w) as `grad_cam`; row and column run as in the images that `fit_square` makes.
    """
    model = learn.model if model is None else model
    wanted = torch.as_tensor(list(targets), dtype=torch.int64)
    maps = []
    with isolated_rng(0, "loader"):  # each new DataLoader draws from Python's and torch's generators
        dl = learn.dls.test_dl(list(images), rm_type_tfms=0, bs=batch_size, num_workers=0)
        for (batch, *_), chosen in zip(dl, wanted.split(batch_size), strict=True):
            heat = grad_cam(model, batch.as_subclass(Tensor), chosen.to(batch.device))
            maps.append(heat.float().cpu().numpy())
    return np.concatenate(maps)


def central_thorax(height: int, width: int) -> Box:
    """The image without a tenth of its height and width at each side, within the square it is fitted into.

    Args:
        height: of the image before it was padded with black; any unit.
        width: the same.
    """
    rows, columns = height / max(height, width), width / max(height, width)
    top, left = (1 - rows) / 2 + MARGIN * rows, (1 - columns) / 2 + MARGIN * columns
    return top, left, 1 - top, 1 - left


def share_outside(heat: NDArray[Any], box: Box) -> float:
    """The share of the heat that lies outside a box; each cell counts by its area. NaN where there is no heat.

    Args:
        heat: (h, w), 0 or more, over the whole square.
        box: as `central_thorax` gives it.

    >>> share_outside(np.ones((5, 5)), central_thorax(100, 100))
    0.36
    """
    total = float(heat.sum())
    if total == 0:
        return float("nan")
    top, left, bottom, right = box
    inside = _covered(heat.shape[0], top, bottom) @ heat @ _covered(heat.shape[1], left, right)
    return round(1 - float(inside) / total, 9)


def randomised(model: nn.Module, *seed: int | str) -> nn.Module:
    """A copy of a network with all its weights drawn anew and its batch norms as they start.

    Args:
        model: is left as it is.
        seed: of the weights.
    """
    model = copy.deepcopy(model)
    with isolated_rng(*seed), torch.no_grad():
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # torch's own reset shrinks the signal by layer until, in a vgg, only the biases are left.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif callable(reset):
                reset()
            else:  # such as ConvNeXt's scale of each layer
                for own in module.parameters(recurse=False):
                    own.copy_(own.flatten()[torch.randperm(own.numel()).to(own.device)].view_as(own))
    return model


def rank_correlations(maps: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Spearman's rank correlation of each map with the other of its place.

    Args:
        maps: (N, h, w).
        others: (N, h, w).

    Returns:
        (N,) in [-1, 1]; 0 where only the other is the same everywhere, NaN where the map itself is.
    """
    from scipy.stats import spearmanr

    found = []
    for one, other in zip(maps, others, strict=True):
        flat = np.ptp(one) == 0, np.ptp(other) == 0
        found.append(np.nan if flat[0] else 0.0 if flat[1] else float(spearmanr(one.ravel(), other.ravel())[0]))
    return np.array(found)


def weight_dependence(
    learn: Learner,
    images: Sequence[NDArray[np.uint8]],
    targets: Sequence[int],
    maps: NDArray[Any],
    *,
    draws: int = 3,
    seed: int = 0,
) -> float:
    """How much maps stay the same when the network's weights are random: the sanity check of Adebayo et al. 2018.

    Args:
        learn: a learner; its network is left as it is.
        images: N arrays (H, W) uint8.
        targets: N numbers of labels.
        maps: (N, h, w), the network's own, as `image_maps` gives them.
        draws: networks with random weights.
        seed: of those weights.

    Returns:
        The mean rank correlation over images and draws, near 0 where the maps depend on the trained weights; NaN where
        no map has any differences.
    """
    found = [
        rank_correlations(
            maps, image_maps(learn, images, targets, model=randomised(learn.model, seed, "saliency", draw))
        )
        for draw in range(draws)
    ]
    known = np.array(found)[:, ~np.isnan(found[0])]
    return float(known.mean()) if known.size else float("nan")


def outside_note(shares: Sequence[float]) -> str:
    """What the shares of heat outside the central thorax mean, as a sentence.

    Args:
        shares: one an image, as `share_outside` gives them.
    """
    known = np.array([share for share in shares if not np.isnan(share)])
    if not known.size:
        return "No part of any image speaks for the label that is explained: there is no heat to look at."
    found = (
        f"{np.median(known):.0%} of the heat (median over {known.size} images) lies outside the central thorax, the "
        f"image without {MARGIN:.0%} at each side"
    )
    cold = len(shares) - known.size
    rest = f" In {cold} more images nothing speaks for the label that is explained." if cold else ""
    if np.median(known) > OUTSIDE_LIMIT:
        return (
            f"Warning sign: {found}, and more than {OUTSIDE_LIMIT:.0%} is too much. The network may go by corner "
            "marks, borders or devices; look at the images, and run 'xrayfast check'." + rest
        )
    even = 1 - (1 - 2 * MARGIN) ** 2
    return (
        f"{found}. Spread evenly it would be {even:.0%}; above {OUTSIDE_LIMIT:.0%} would be a warning sign of corner "
        "marks, borders or devices." + rest
    )


def dependence_note(correlation: float, images: int) -> str:
    """What `weight_dependence` means, as a sentence.

    Args:
        correlation: as it gives it.
        images: whose maps have any heat.
    """
    if np.isnan(correlation):
        return "Whether the maps depend on the trained weights can't be told: none has any differences in it."
    over = f"mean rank correlation {correlation:.2f} with maps of random weights, over {images} images"
    if correlation > CORRELATION_LIMIT:
        return (
            f"Warning sign: the maps hardly change when the weights are random ({over}; at most {CORRELATION_LIMIT} is "
            "expected). They show the images' own edges and brightness rather than what the network learned."
        )
    return f"The maps depend on the trained weights: {over}."


def coarse_note(shape: tuple[int, ...]) -> str | None:
    """A sentence where maps of (h, w) cells are too coarse for both checks; None where they aren't."""
    if min(shape) >= FEWEST_CELLS:
        return None
    return (
        f"The maps have {shape[0]} × {shape[1]} cells, too few to tell the border of an image from the thorax, or one "
        "map from another; training with a larger --size gives finer ones."
    )


def _covered(cells: int, low: float, high: float) -> NDArray[np.float64]:
    """(cells,): how much of each of so many equal parts of [0, 1] lies between low and high."""
    edges = np.clip(np.linspace(0, 1, cells + 1), low, high)
    covered: NDArray[np.float64] = np.diff(edges) * cells
    return covered
