"""Networks of timm as backbones: `--arch timm:NAME`, the extra `timm`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xrayfast.errors import ConfigError, WeightsError, did_you_mean, importing, truncate
from xrayfast.learning.dataloaders.augment import IMAGENET_MEAN, IMAGENET_STD

TIMM = "timm:"


def is_timm(arch: str) -> bool:
    """Whether an arch is a network of timm."""
    return arch.startswith(TIMM)


def require_timm(arch: str) -> tuple[Any, Any]:
    """Import timm, and return the module and timm's pretrained configuration of the network.

    Names from other sources that timm would accept, such as "hf-hub:USER/REPOSITORY", are refused, so that settings
    from an untrusted source can build only timm's own networks.
    """
    with importing(f"arch is {arch}, and timm", "timm"):
        import timm
    name, known = arch.removeprefix(TIMM), None
    if re.fullmatch(r"[\w.]+", name) and timm.is_model(name):
        with contextlib.suppress(RuntimeError):  # no such tag
            known = timm.get_pretrained_cfg(name)
    if known is None:
        hint = did_you_mean(name.partition(".")[0], timm.list_models())
        raise ConfigError(
            f"arch is {arch}, but timm {timm.__version__} has no such network.{hint} timm.list_models() lists them; "
            "a newer version may have more."
        )
    return timm, known


@dataclass(frozen=True)
class TimmForm:
    """Facts about a network of timm that were found by running it once.

    Attributes:
        layout: layout of its features: "NCHW", "NHWC", or "NLC" for tokens.
        prefix: number of tokens before the image's own, such as the class token.
        side: side of the square map that the tokens form; 0 for other layouts.
        unused: names of modules that the features don't depend on: those of its classifier.
        fixed: whether it takes only images of the size that it was built for.
        size: side of the images that its weights were trained on.
    """

    layout: Literal["NCHW", "NHWC", "NLC"]
    prefix: int
    side: int
    unused: tuple[str, ...]
    fixed: bool
    size: int


def _create(arch: str, size: int, **options: Any) -> Any:
    timm, known = require_timm(arch)
    if known.fixed_input_size:
        options["img_size"] = size
    return timm.create_model(arch.removeprefix(TIMM), num_classes=0, **options)


@cache
def inspect_timm(arch: str, size: int) -> TimmForm:
    """Build a network on the meta device, which takes neither memory nor random numbers, and run it once.

    Raises:
        ConfigError: there is no such network, it can't take images of that size, or its features are not a map.
    """
    _, known = require_timm(arch)
    own = known.input_size[-1]
    try:
        with torch.device("meta"), torch.enable_grad():
            net = _create(arch, size).eval()
            features = net.forward_features(torch.empty(1, 3, size, size))
            features.sum().backward()
    except Exception as error:  # whatever timm's code raises
        advice = "Its code may need real values, or another size." if own == size else f"Use --size {own}, its default."
        raise ConfigError(
            f"arch is {arch}, which can't take images of {size} px: {truncate(str(error), 200).rstrip('.')}. {advice}"
        ) from error
    width, shape, prefix = net.num_features, tuple(features.shape), getattr(net, "num_prefix_tokens", 0)
    layout: Literal["NCHW", "NHWC", "NLC"]
    if len(shape) == 4 and shape[1] == width:
        layout = "NCHW"
    elif len(shape) == 4 and shape[3] == width:
        layout = "NHWC"
    elif len(shape) == 3 and isqrt(shape[1] - prefix) ** 2 == shape[1] - prefix:
        layout = "NLC"
    else:
        raise ConfigError(
            f"arch is {arch}, whose features are {shape} for one image; expected a map (1, {width}, h, w), or tokens "
            f"of a square map. Use another network."
        )
    idle = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    unused: list[str] = []
    for name, module in net.named_modules():
        own_names = [f"{name}.{key}" for key, _ in module.named_parameters()]
        if name and own_names and set(own_names) <= set(idle) and not name.startswith(tuple(f"{u}." for u in unused)):
            unused.append(name)
    side = isqrt(shape[1] - prefix) if layout == "NLC" else 0
    return TimmForm(layout, prefix, side, tuple(unused), bool(known.fixed_input_size), own)


def build_timm(arch: str, size: int, *, pretrained: bool = False) -> nn.Module:
    """Build a network of timm without its classifier, with random or timm's pretrained weights.

    Args:
        arch: "timm:NAME", with or without a tag of weights, such as "timm:vit_tiny_patch16_224.augreg_in21k".
        size: side of the images in pixels.
        pretrained: load timm's weights from the Hugging Face Hub or its cache, from safetensors files only.
    """
    form = inspect_timm(arch, size)
    options: dict[str, Any] = {}
    if pretrained:
        overlay = {"file": str(_download(arch)), "custom_load": False}
        options = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    net: nn.Module = _create(arch, size, **options)
    for name in form.unused:
        net.set_submodule(name, nn.Identity())
    return net


def _download(arch: str) -> Path:
    """Download the weights of a network as a safetensors file; pickles are never read."""
    _, known = require_timm(arch)
    if not known.hf_hub_id:
        raise WeightsError(
            f"timm has no weights for {arch}. Use a file of weights (--weights FILE), or train from scratch "
            "(--weights none --unfreeze)."
        )
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    repository, _, revision = known.hf_hub_id.partition("@")
    file: dict[str, Any] = {"repo_id": repository, "filename": "model.safetensors", "revision": revision or None}
    try:
        if not isinstance(try_to_load_from_cache(**file), str):
            _require_connection(hf_hub_url(**file))
        return Path(hf_hub_download(**file))
    except Exception as error:  # no network, no permission, no such file: each fails in its own way
        raise WeightsError(
            f"The weights of {arch} (model.safetensors of {repository}) are not on this machine and can't be "
            f"downloaded ({truncate(str(error), 200)}).",
            "Three ways out:",
            f"  1. Go online and run it again; or copy the hub's cache, {HF_HUB_CACHE}, from a machine that has them",
            "     (the environment variable HF_HOME moves it).",
            "  2. Give a file of weights: --weights FILE.",
            "  3. Train from scratch: --weights none --unfreeze (needs many more images and epochs).",
        ) from error


def _require_connection(url: str) -> None:
    """Raise the error of a server that can't be connected to; `hf_hub_download` would first try again for 20 s."""
    from huggingface_hub import get_hf_file_metadata

    try:
        get_hf_file_metadata(url)
    except Exception as error:  # versions of huggingface_hub use different libraries with their own errors
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"ConnectError", "ConnectTimeout", "ConnectionError"}:
            raise


class TimmBackbone(nn.Module):
    """A network of timm up to its last feature map: (N, 3, size, size) to (N, C, h, w).

    It takes images normalized with ImageNet statistics, as every network of xrayfast does, and converts them to the
    statistics that its weights were trained with.
    """

    def __init__(self, net: nn.Module, form: TimmForm) -> None:
        super().__init__()
        self.net, self.form = net, form
        known: Any = net.pretrained_cfg
        stats = list(zip(IMAGENET_MEAN, IMAGENET_STD, known["mean"], known["std"], strict=True))
        self.scale = [theirs / std for _, theirs, _, std in stats]
        self.shift = [(imagenet - mean) / std for imagenet, _, mean, std in stats]
        self.normalizes = (tuple(known["mean"]), tuple(known["std"])) != (IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map of a batch."""
        if self.normalizes:
            x = x * x.new_tensor(self.scale).view(1, 3, 1, 1) + x.new_tensor(self.shift).view(1, 3, 1, 1)
        features: Tensor = self.net.forward_features(x)  # type: ignore[operator]
        if self.form.layout == "NHWC":
            return features.permute(0, 3, 1, 2)
        if self.form.layout == "NLC":
            tokens = features[:, self.form.prefix :].transpose(1, 2)
            return tokens.unflatten(2, (self.form.side, self.form.side))
        return features

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by block, as timm divides them for layer-wise learning rates.

        A group of norms and biases only belongs to the block before it.
        """
        from timm.models import group_parameters

        tensors = dict(self.net.named_parameters())
        groups: dict[str, list[nn.Parameter]] = {}
        matcher: Any = self.net.group_matcher(coarse=True)  # type: ignore[operator]
        for names in group_parameters(self.net, matcher).values():
            found = [tensors[name] for name in names]
            if groups and all(tensor.ndim < 2 for tensor in found):
                groups[next(reversed(groups))] += found
            else:
                groups[_common_name(names, groups)] = found
        return groups


def _common_name(names: list[str], taken: Iterable[str]) -> str:
    """Return the common prefix of the names of a block's parameters.

    >>> _common_name(["blocks.0.norm.weight", "blocks.0.norm.bias"], []), _common_name(["conv1.weight", "bn1.bias"], [])
    ('blocks.0', 'conv1')
    """
    split = [name.split(".")[:-1] or [name] for name in names]
    alike = [parts for parts in split if parts[0] == split[0][0]]
    parts = [ours for ours, theirs in zip(min(alike), max(alike), strict=False) if ours == theirs]
    name = ".".join(parts[: 2 if parts[1:2] and parts[1].isdigit() else 1])
    return name if name not in taken else ".".join(names[0].split(".")[:-1])
