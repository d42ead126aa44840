"""Grad-CAM saliency maps, their share outside the chest, and their dependence on the trained weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from xrayfast.errors import ConfigError, plural
from xrayfast.learning.inference.predictor import EnsemblePredictor, Predictor
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.threads import FreeThreads

Box = tuple[float, float, float, float]
"""Top, left, bottom and right edge, as fractions of the network's square input."""

MARGIN = 0.1
"""Fraction of an image's height and width, at each side, that counts as outside the central thorax.

In the mean of 150 radiographs each of darkcovid and of NIH ChestX-ray14 both lungs are inside; corner marks, borders
and shoulders are not. Of a uniform map on a square image, a share of 0.36 is outside.
"""

OUTSIDE_LIMIT = 0.5
"""Median share of heat outside the central thorax above which a network may rely on something other than the chest."""

CORRELATION_LIMIT = 0.5
"""Mean rank correlation with the maps of random weights above which maps say little about what a network learned."""

MIN_CELLS = 4
"""Smallest number of cells per side with which a map can separate a corner from the thorax."""


def grad_cam(model: nn.Module, batch: Tensor, targets: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Compute the Grad-CAM map (Selvaraju et al. 2017) of one output for each image.

    Each channel of a feature map is weighted by the mean of the logit's gradient over the channel's cells; the map is
    the positive part of the weighted sum. The network may be frozen. It runs in evaluation mode, and afterwards its
    modes, gradients and hooks are as before.

    Args:
        model: a network that returns (N, L) logits.
        batch: (N, ...) its input, normalized.
        targets: (N,) int64, the index of the output to explain for each image.
        layer: the module whose (N, C, h, w) output is weighted; default `feature_layer(model)`.

    Returns:
        (N, h, w) in [0, 1], each map divided by its own maximum; all 0 if no cell is positive.

    Raises:
        ConfigError: the layer's output is not a feature map.
    """
    layer = feature_layer(model) if layer is None else layer
    maps: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.ndim != 4:
            return None
        # The map is a leaf, so that gradients are computed only for the layers after it. These get a clone, since an
        # in-place ReLU may change it.
        torch.set_grad_enabled(True)
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()

    modes = [(module, module.training) for module in model.modules()]
    hook = layer.register_forward_hook(record)
    try:
        model.eval()
        with FreeThreads(), torch.no_grad():  # `record` enables gradients, and the context restores the mode
            logits = model(batch)
            if not maps:
                raise ConfigError(f"{type(layer).__name__} does not output a feature map (N, C, h, w) in this network.")
            (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), maps[-1])
    finally:
        hook.remove()
        for module, mode in modes:
            module.training = mode
    heat = (gradient.mean(dim=(2, 3), keepdim=True) * maps[-1].detach()).sum(dim=1).relu()
    peak = heat.amax(dim=(1, 2), keepdim=True)
    return heat / torch.where(peak > 0, peak, 1)


def feature_layer(model: nn.Module) -> nn.Module:
    """Return the module whose output is a classifier's last feature map: the last block with a convolution.

    For a VGG it is the last ReLU, before the block's max pooling: the map of the last convolution, as in Selvaraju et
    al., with twice the resolution.
    """
    first = next(model.children(), model)
    in_sequence = isinstance(model, nn.Sequential) and isinstance(first, nn.Sequential)
    blocks = list((first if in_sequence else model).children())  # the user's own whole network has no separate head
    maps = [block for block in blocks if any(isinstance(module, nn.Conv2d) for module in block.modules())]
    block = (maps or blocks or [model])[-1]
    *before, last = list(block.children()) or [block]
    return before[-1] if isinstance(last, nn.MaxPool2d) else block


def grad_cam_images(
    predictor: Predictor | EnsemblePredictor,
    images: Sequence[NDArray[np.uint8]],
    targets: Sequence[int],
    *,
    change: Callable[[nn.Module], nn.Module] = lambda network: network,
    batch_size: int = 16,
) -> NDArray[np.float32]:
    """Compute Grad-CAM maps of images; for an ensemble, the `mean_map` of its members.

    Args:
        predictor: the network or ensemble, with its preprocessing.
        images: N arrays (H, W) uint8.
        targets: N indices of labels.
        change: function that returns the network to explain, given a predictor's own.
        batch_size: images per batch.

    Returns:
        (N, h, w) maps as `grad_cam` returns them, over the squares that `fit_square` makes.
    """
    found = []
    for member in predictor.members if isinstance(predictor, EnsemblePredictor) else [predictor]:
        network, maps = change(member.network), []
        for start in range(0, len(images), batch_size):
            batch = member.inputs(images[start : start + batch_size])
            chosen = torch.as_tensor(targets[start : start + batch_size], dtype=torch.int64, device=batch.device)
            maps.append(grad_cam(network, batch, chosen).float().cpu())
        found.append(torch.cat(maps))
    return mean_map(found).numpy()


def mean_map(maps: Sequence[Tensor]) -> Tensor:
    """Return the mean of several networks' (N, h, w) maps, divided by its maximum per image.

    Coarser maps are interpolated to the resolution of the finest. A single network's map is returned unchanged.
    """
    if len(maps) == 1:
        return maps[0]
    size = [max(heat.shape[side] for heat in maps) for side in (1, 2)]
    every = [F.interpolate(heat[:, None], size, mode="bilinear", align_corners=False)[:, 0] for heat in maps]
    mean = torch.stack(every).mean(dim=0)
    peak = mean.amax(dim=(1, 2), keepdim=True)
    return mean / torch.where(peak > 0, peak, 1)


def central_thorax(height: int, width: int) -> Box:
    """Return the box of an image without `MARGIN` of its height and width at each side, in the padded square.

    Height and width are those of the image before it was padded with black, in any unit.
    """
    rows, columns = height / max(height, width), width / max(height, width)
    top, left = (1 - rows) / 2 + MARGIN * rows, (1 - columns) / 2 + MARGIN * columns
    return top, left, 1 - top, 1 - left


def share_outside(heat: NDArray[Any], box: Box) -> float:
    """Return the share of an (h, w) map's heat that is outside a box; NaN if the map is 0 everywhere.

    Cells that are partly in the box, which comes from `central_thorax`, count according to area.

    >>> share_outside(np.ones((5, 5)), central_thorax(100, 100))
    0.36
    """
    total = float(heat.sum())
    if total == 0:
        return float("nan")
    top, left, bottom, right = box
    inside = _overlaps(heat.shape[0], top, bottom) @ heat @ _overlaps(heat.shape[1], left, right)
    return round(1 - float(inside) / total, 9)


def randomize_weights(model: nn.Module, *seed: int | str) -> nn.Module:
    """Return a copy of a network with random weights from a seed, and with reset batch norms."""
    model = copy.deepcopy(model)
    with isolated_rng(*seed), torch.no_grad():
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # torch's own reset shrinks the signal in each layer: in a VGG only the biases would be left of it.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif callable(reset):
                reset()
            else:  # permute other parameters, such as ConvNeXt's layer scale
                for values in module.parameters(recurse=False):
                    values.copy_(values.flatten()[torch.randperm(values.numel()).to(values.device)].view_as(values))
    return model


def rank_correlations(maps: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Return the (N,) Spearman rank correlations of (N, h, w) maps with other maps of the same images.

    The correlation is NaN if the map is constant, and 0 if only the other map is.
    """
    from scipy.stats import spearmanr

    correlations = []
    for heat, other in zip(maps, others, strict=True):
        if np.ptp(heat) == 0:
            correlations.append(np.nan)
        else:
            correlations.append(0.0 if np.ptp(other) == 0 else float(spearmanr(heat.ravel(), other.ravel())[0]))
    return np.array(correlations)


def weight_dependence(
    predictor: Predictor | EnsemblePredictor,
    images: Sequence[NDArray[np.uint8]],
    targets: Sequence[int],
    maps: NDArray[Any],
    draws: int = 3,
) -> float:
    """Compare the maps of `grad_cam_images`, (N, h, w), with those of the network with random weights, drawn `draws`
    times: the sanity check of Adebayo et al. 2018. The images are N arrays (H, W) uint8, with N `targets`.

    Returns:
        The mean rank correlation over images and draws: near 0 if maps depend on the trained weights, NaN if all maps
        are constant.
    """

    def random_maps(draw: int) -> NDArray[np.float32]:
        return grad_cam_images(
            predictor, images, targets, change=lambda network: randomize_weights(network, 0, "saliency", draw)
        )

    others = map(random_maps, range(draws))
    correlations = np.array([rank_correlations(maps, of_draw) for of_draw in others])
    defined = correlations[:, ~np.isnan(correlations[0])]
    return float(defined.mean()) if defined.size else float("nan")


def outside_note(shares: Sequence[float]) -> str:
    """Return a note on the shares of heat outside the central thorax, one share per image, from `share_outside`."""
    known = np.array([share for share in shares if not np.isnan(share)])
    if not known.size:
        return "No region of any image supports the explained label: the map is 0 everywhere."
    median = (
        f"{np.median(known):.0%} of the heat (median over {known.size} images) lies outside the central thorax, the "
        f"image without {MARGIN:.0%} at each side"
    )
    cold = len(shares) - known.size
    rest = f" In {plural(cold, 'more image')}, no region supports the explained label." if cold else ""
    if np.median(known) > OUTSIDE_LIMIT:
        return (
            f"Warning sign: {median}, and more than {OUTSIDE_LIMIT:.0%} is too much. The network may rely on corner "
            "marks, borders or devices; look at the images, and run 'xrayfast check'." + rest
        )
    even = 1 - (1 - 2 * MARGIN) ** 2
    return (
        f"{median}. Spread evenly it would be {even:.0%}; above {OUTSIDE_LIMIT:.0%} would be a warning sign of corner "
        "marks, borders or devices." + rest
    )


def dependence_note(correlation: float, images: int) -> str:
    """Return a note on the correlation from `weight_dependence` over so many images with maps that are not all 0."""
    if np.isnan(correlation):
        return "Whether the maps depend on the trained weights can't be determined: all of them are constant."
    over = f"mean rank correlation {correlation:.2f} with maps of random weights, over {images} images"
    if correlation > CORRELATION_LIMIT:
        return (
            f"Warning sign: the maps hardly change when the weights are random ({over}; at most {CORRELATION_LIMIT} is "
            "expected). They show the images' own edges and brightness rather than what the network learned."
        )
    return f"The maps depend on the trained weights: {over}."


def coarse_note(shape: tuple[int, ...]) -> str | None:
    """Return a note if maps of shape (h, w) are too coarse for both checks, else None."""
    if min(shape) >= MIN_CELLS:
        return None
    return (
        f"The maps have {shape[0]} × {shape[1]} cells, too few to separate the border of an image from the thorax, or "
        "to compare maps; training with a larger --size gives finer ones."
    )


def _overlaps(cells: int, low: float, high: float) -> NDArray[np.float64]:
    """Divide [0, 1] into equal intervals, and return the (cells,) fraction of each that is between low and high."""
    edges = np.clip(np.linspace(0, 1, cells + 1), low, high)
    return np.diff(edges) * cells
