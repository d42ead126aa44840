"""The networks, as a table: how each is built, where it is cut, into which blocks it falls, and its weights.

A row takes torchvision's network apart into named blocks; the blocks in order, without pooling and classifier, are the
body. Each block is a layer group, so that training can thaw a network block by block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision import models

from xrayfast.errors import ConfigError, WeightsError, did_you_mean, shorten

Blocks = OrderedDict[str, nn.Module]


@dataclass(frozen=True)
class Backbone:
    """One network.

    Attributes:
        name: torchvision's name.
        build: makes the whole network without weights.
        weights: torchvision's ImageNet weights.
        blocks: cuts a whole network into the named blocks of its body.
    """

    name: str
    build: Callable[..., nn.Module]
    weights: Any
    blocks: Callable[[Any], Blocks]


def _resnet(net: Any) -> Blocks:
    stem = nn.Sequential(OrderedDict(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool))
    return OrderedDict(stem=stem, layer1=net.layer1, layer2=net.layer2, layer3=net.layer3, layer4=net.layer4)


def _vgg(net: Any) -> Blocks:
    """Each block ends with its max pooling; the adaptive pooling after them belongs to the classifier."""
    ends = [i + 1 for i, layer in enumerate(net.features) if isinstance(layer, nn.MaxPool2d)]
    starts = [0, *ends[:-1]]
    return OrderedDict((f"block{n}", net.features[a:b]) for n, (a, b) in enumerate(zip(starts, ends, strict=True), 1))


def _densenet(net: Any) -> Blocks:
    """A transition goes with the dense block before it. The last ReLU is a function in torchvision's `forward`."""
    layers = dict(net.features.named_children())

    def part(*names: str, **more: nn.Module) -> nn.Sequential:
        return nn.Sequential(OrderedDict({name: layers[name] for name in names} | more))

    return OrderedDict(
        stem=part("conv0", "norm0", "relu0", "pool0"),
        dense1=part("denseblock1", "transition1"),
        dense2=part("denseblock2", "transition2"),
        dense3=part("denseblock3", "transition3"),
        dense4=part("denseblock4", "norm5", relu5=nn.ReLU(inplace=True)),
    )


def _sliced(*bounds: int) -> Callable[[Any], Blocks]:
    """Cuts `net.features` before each of the given indices; the first block is the stem."""

    def cut(net: Any) -> Blocks:
        edges = [0, *bounds, len(net.features)]
        names = ["stem", *(f"stage{n}" for n in range(1, len(edges) - 1))]
        return OrderedDict((name, net.features[a:b]) for name, a, b in zip(names, edges[:-1], edges[1:], strict=True))

    return cut


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone("resnet18", models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1, _resnet),
        Backbone("resnet34", models.resnet34, models.ResNet34_Weights.IMAGENET1K_V1, _resnet),
        Backbone("resnet50", models.resnet50, models.ResNet50_Weights.IMAGENET1K_V2, _resnet),
        Backbone("vgg16", models.vgg16, models.VGG16_Weights.IMAGENET1K_V1, _vgg),
        Backbone("vgg16_bn", models.vgg16_bn, models.VGG16_BN_Weights.IMAGENET1K_V1, _vgg),
        Backbone("densenet121", models.densenet121, models.DenseNet121_Weights.IMAGENET1K_V1, _densenet),
        # Cut where the resolution halves; the last 1x1 convolution goes with the last stage.
        Backbone(
            "mobilenet_v2",
            models.mobilenet_v2,
            models.MobileNet_V2_Weights.IMAGENET1K_V1,
            _sliced(2, 4, 7, 14),
        ),
        Backbone(
            "efficientnet_b0",
            models.efficientnet_b0,
            models.EfficientNet_B0_Weights.IMAGENET1K_V1,
            _sliced(1, 2, 3, 4, 5, 6, 7),
        ),
        # Each downsampling layer goes with the stage after it.
        Backbone(
            "convnext_tiny",
            models.convnext_tiny,
            models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1,
            _sliced(1, 2, 4, 6),
        ),
    )
}


def backbone(name: str) -> Backbone:
    """The row of the table.

    Raises:
        ConfigError: there is no such network; the message lists those there are.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        hint = did_you_mean(name, BACKBONES)
        raise ConfigError(f"arch is '{name}'.{hint} Expected one of: {', '.join(BACKBONES)}.") from None


@dataclass(frozen=True, eq=False)
class Body:
    """A body with its weights.

    Attributes:
        blocks: the named blocks in order.
        unused: keys of the weights' file that have no place in the body (a classifier's aside).
    """

    blocks: Blocks
    unused: tuple[str, ...] = ()

    def as_network(self, **_: object) -> nn.Sequential:
        """The blocks with a pooling layer at the end, where fastai's `create_body` cuts.

        Takes and ignores the `pretrained` that fastai passes to a network it does not know: the weights are in place.
        """
        return nn.Sequential(OrderedDict(self.blocks, pool=nn.AdaptiveAvgPool2d(1)))


def load_body(arch: str, weights: str = "none") -> Body:
    """Build the body of a network and fill it.

    Args:
        arch: a name in `BACKBONES`.
        weights: "imagenet", "none" (random; torch's global generator is drawn from), or the path of a state dict
            (`.pth`, read with `weights_only=True`) or safetensors file, of the whole network, of its body, or of a
            run of xrayfast with the same arch; any float type.

    Raises:
        ConfigError: no such network.
        WeightsError: weights that can't be downloaded or read, or don't fit; the message names the tensors.
    """
    row = backbone(arch)
    network = row.build(weights=None)
    if weights == "none":
        return Body(row.blocks(network))
    if weights == "imagenet":
        network.load_state_dict(_imagenet(row))
        return Body(row.blocks(network))
    state = _plain_keys(read_weights(Path(weights)))
    if any(key.startswith("0.") for key in state):  # a run's own model: body, then head
        blocks = row.blocks(network)
        body = nn.Sequential(*blocks.values())
        _fill(body, {key[2:]: value for key, value in state.items() if key.startswith("0.")}, weights, arch)
        return Body(blocks)
    body_keys = _body_keys(network, row)
    unused = _fill(network, state, weights, arch, needed=body_keys)
    return Body(row.blocks(network), unused)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict or safetensors file. Nothing in the file can run code.

    Raises:
        WeightsError: no such file, another format, or pickled objects other than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: can't be read as weights ({error}). Expected a .pth state dict or .safetensors file."
        ) from error
    except Exception as error:  # the restricted unpickler fails with whatever its parser trips over
        raise WeightsError(
            f"{path}: is not a plain state dict: it is damaged, or holds Python objects, which are never loaded "
            "because "
            "they can run code. Save the tensors alone: torch.save(model.state_dict(), 'weights.pth')."
        ) from error
    if isinstance(content, Mapping):
        for name in ("state_dict", "model_state_dict", "model"):
            if isinstance(content.get(name), Mapping):
                content = content[name]
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise WeightsError(f"{path}: holds no tensors by name; expected a state dict.")


def _imagenet(row: Backbone) -> Mapping[str, Tensor]:
    name = Path(row.weights.url).name
    try:
        state: Mapping[str, Tensor] = row.weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, no permission, or a damaged file: each fails in its own way
        raise WeightsError(
            f"The ImageNet weights of {row.name} ({name}) are not on this machine and can't be downloaded ({error}).\n"
            "Three ways out:\n"
            f"  1. Go online and run it again, or download {row.weights.url} elsewhere and put it into\n"
            f"     {Path(torch.hub.get_dir()) / 'checkpoints'} (the environment variable TORCH_HOME moves that "
            "folder).\n"
            "  2. Give a file of weights: --weights FILE.\n"
            "  3. Train from scratch: --weights none --unfreeze (needs many more images and epochs)."
        ) from error
    return state


def _plain_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without what wrappers put before them, such as DataParallel's `module.`."""
    prefixes = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")
    plain = dict(state)
    while prefix := next((p for p in prefixes if plain and all(key.startswith(p) for key in plain)), None):
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def _body_keys(network: nn.Module, row: Backbone) -> set[str]:
    """The state-dict keys of the whole network that belong to its body."""
    body = {
        id(tensor) for block in row.blocks(network).values() for tensor in block.state_dict(keep_vars=True).values()
    }
    return {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in body}


def _fill(
    module: nn.Module, state: Mapping[str, Tensor], source: str, arch: str, needed: set[str] | None = None
) -> tuple[str, ...]:
    """Copy tensors in; every needed one must be there in the right shape. Returns the keys that have no place."""
    own = module.state_dict()
    needed = set(own) if needed is None else needed
    # Batch counters matter only for cumulative averages, which none of these networks uses; old files lack them.
    missing = sorted(key for key in needed - set(state) if not key.endswith("num_batches_tracked"))
    misfits = [
        f"{key} is {_shape(state[key])}, expected {_shape(own[key])}"
        for key in sorted(needed & set(state))
        if state[key].shape != own[key].shape
    ]
    if missing or misfits:
        problems = ([f"{len(missing)} tensors are missing: {shorten(missing)}"] if missing else []) + misfits[:5]
        raise WeightsError(
            f"{source}: does not fit {arch}: {'; '.join(problems)}. The file holds {len(state)} tensors: "
            f"{shorten(state)}. "
            "Choose the --arch that the file was made with."
        )
    module.load_state_dict({key: state[key].to(own[key].dtype) for key in needed & set(state)}, strict=False)
    return tuple(sorted(set(state) - set(own)))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def describe() -> list[dict[str, Any]]:
    """Each network's arch, blocks, parameters of its body, and layer groups (its blocks and the head)."""
    rows = []
    for row in BACKBONES.values():
        with torch.device("meta"):  # shapes without memory or random numbers
            blocks = row.blocks(row.build(weights=None))
        parameters = sum(tensor.numel() for block in blocks.values() for tensor in block.parameters())
        rows.append({"arch": row.name, "blocks": list(blocks), "parameters": parameters, "groups": len(blocks) + 1})
    return rows
