"""Layer groups, which training freezes and unfreezes, each with its own learning rate: one per block or per layer.

A layer begins with a convolution, or with a linear layer of the block `classifier`, and ends before the next one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from xrayfast.errors import ConfigError
from xrayfast.learning.device import on_meta_device
from xrayfast.learning.model.backbones import Blocks, SqueezeExcitation, StochasticDepth, find_backbone
from xrayfast.learning.model.pretrained.timm_networks import TimmBackbone, is_timm

Grouping = Literal["blocks", "layers"]

HEAD = "head"
CLASSIFIER = "classifier"
"""Name of the block with the hidden layers of the network's own classifier."""

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """Modules that are frozen and unfrozen together.

    Attributes:
        name: name of the block or of the layer's first module, or "head".
        modules: the modules in the order in which they are computed; one without parameters may be in several groups.
        own: parameters that belong to the group but to none of these modules, such as ConvNeXt's layer scale.
    """

    name: str
    modules: tuple[nn.Module, ...]
    own: tuple[nn.Parameter, ...] = ()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the modules, and those in `own`."""
        return [*(parameter for module in self.modules for parameter in module.parameters()), *self.own]


def layer_groups(blocks: Blocks, head: nn.Module, grouping: Grouping) -> tuple[LayerGroup, ...]:
    """Return the layer groups of a network from the input to the head; the head is one group.

    Raises:
        ConfigError: `grouping` is "layers", and the network is one of timm or can't be traced by torch.fx.
    """
    if isinstance(of_timm := blocks.get("timm"), TimmBackbone):
        if grouping == "layers":
            raise ConfigError("A network of timm can't be divided into layers. Use --unfreeze-blocks.")
        return (*group_parameters(of_timm, of_timm.parameter_groups()), LayerGroup(HEAD, (head,)))
    if grouping == "blocks":
        backbone = [LayerGroup(name, (block,)) for name, block in blocks.items()]
    else:
        backbone = divide_into_layers(blocks)
    return (*backbone, LayerGroup(HEAD, (head,)))


def group_parameters(model: nn.Module, lists: Mapping[str, Sequence[nn.Parameter]]) -> list[LayerGroup]:
    """Return one group per list of parameters, with the modules whose parameters are all in that list."""
    number_of = {id(parameter): number for number, found in enumerate(lists.values()) for parameter in found}
    modules: list[list[nn.Module]] = [[] for _ in lists]
    covered: set[int] = set()
    for module in model.modules():  # parents come before their children
        numbers = {number_of.get(id(parameter)) for parameter in module.parameters()}
        if len(numbers) == 1 and id(module) not in covered and (number := numbers.pop()) is not None:
            modules[number].append(module)
            covered |= {id(m) for m in module.modules()}
    groups = []
    for (name, parameters), found in zip(lists.items(), modules, strict=True):
        there = {id(p) for module in found for p in module.parameters()}
        groups.append(LayerGroup(name, tuple(found), tuple(p for p in parameters if id(p) not in there)))
    return groups


def divide_into_layers(blocks: Blocks) -> list[LayerGroup]:
    """Return the layers of a backbone in the order in which they are computed.

    Convolutions that read the same value are one layer, such as the first one of a residual block and its projection
    shortcut. A norm belongs to the convolution before it in its block if only modules without parameters are in
    between, and otherwise to the next one, as in DenseNet and ConvNeXt, where norms come first. Every other module
    belongs to the layer before it.
    """
    network = nn.Sequential(OrderedDict(blocks))
    try:
        graph = trace(network)
    except Exception as error:  # the network's code may raise anything when it gets proxies instead of tensors
        raise ConfigError(
            f"This network can't be divided into layers: torch.fx can't trace it ({error}). Use --unfreeze-blocks."
        ) from error
    layers: list[list[fx.Node]] = []
    layer_of: dict[fx.Node, int] = {}
    reader_of: dict[fx.Node, int] = {}
    waiting: list[fx.Node] = []
    for node in graph.nodes:
        if node.op not in ("call_module", "call_function", "call_method"):
            continue
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and _block(node) == CLASSIFIER):
            layer = reader_of.setdefault(node.all_input_nodes[0], len(layers))
            layer_of[node] = layer
            if layer == len(layers):
                layers.append([])
            layers[layer] += waiting
            waiting = []
        elif isinstance(module, NORMS):
            layer = layer_of.get(_source(node, network), -1)
        else:
            layer = len(layers) - 1
        members = [*(n for n in node.all_input_nodes if n.op == "get_attr"), node]
        (layers[layer] if layer >= 0 else waiting).extend(members)
    layers[-1] += waiting
    first = {layer: node for node, layer in reversed(layer_of.items())}
    names = _names([str(first[layer].target) for layer in range(len(layers))])
    return [_group(name, nodes, network) for name, nodes in zip(names, layers, strict=True)]


def _source(norm: fx.Node, network: nn.Module) -> fx.Node:
    """Return the last module with state before a norm, or the node at which the search ends without one.

    The search goes back through nodes with one input, and returns the norm itself where it would leave the block.
    """
    node = norm
    while len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
        if node.op == "call_module":
            if _block(node) != _block(norm):
                return norm
            if network.get_submodule(str(node.target)).state_dict():
                break
    return node


def _block(node: fx.Node) -> str:
    return str(node.target).split(".")[0]


def _names(targets: list[str]) -> list[str]:
    """Return readable names of modules: those of VGG, which are numbers, become "block5.conv3".

    >>> _names(["block1.0", "block1.2", "layer4.1.conv2", "stage4.18.0"])
    ['block1.conv1', 'block1.conv2', 'layer4.1.conv2', 'stage4.18.0']
    """
    names, counts = [], Counter[str]()
    for target in targets:
        block, *rest = target.split(".")
        counts[block] += 1
        names.append(f"{block}.conv{counts[block]}" if len(rest) == 1 and rest[0].isdigit() else target)
    return names


def _group(name: str, nodes: list[fx.Node], network: nn.Module) -> LayerGroup:
    modules = dict.fromkeys(network.get_submodule(str(node.target)) for node in nodes if node.op == "call_module")
    values = [attribute(network, node) for node in nodes if node.op == "get_attr"]
    return LayerGroup(name, tuple(modules), tuple(value for value in values if isinstance(value, nn.Parameter)))


def attribute(network: nn.Module, node: fx.Node) -> Any:
    """Return the parameter or other attribute that a "get_attr" node reads."""
    owner, _, name = str(node.target).rpartition(".")
    return getattr(network.get_submodule(owner), name)


def trace(network: nn.Module, leaves: Collection[nn.Module] = ()) -> fx.Graph:
    """Trace a network with torch.fx.

    Args:
        network: the network.
        leaves: modules to keep as one node each, besides torch's own, those without children, and two of torchvision's.
    """
    return _Tracer(leaves).trace(network)


class _Tracer(fx.Tracer):
    def __init__(self, leaves: Collection[nn.Module]) -> None:
        super().__init__()
        self.leaves = set(leaves)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m in self.leaves or isinstance(m, (SqueezeExcitation, StochasticDepth)) or not list(m.children()):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def describe_layers(arch: str, size: int = 224, *, with_classifier: bool = False) -> list[dict[str, Any]]:
    """Describe each layer of a backbone: its number counted from the last one, as in `--unfreeze-layers`, name, block,
    shape of the first weight, output shape (C, H, W) of that weight's module for images of `size` px, and number of
    parameters.
    """
    if is_timm(arch):
        raise ConfigError(f"{arch}: a network of timm can't be divided into layers. Use --unfreeze-blocks.")
    row = find_backbone(arch)
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def keep_shape(module: nn.Module, inputs: Any, output: Tensor) -> None:
        shapes[module] = tuple(output.shape[1:])

    with on_meta_device():
        blocks = row.divide(row.build(weights=None), with_classifier=with_classifier)
        layers = divide_into_layers(blocks)
        first = [next(m for m in layer.modules if isinstance(m, (nn.Conv2d, nn.Linear))) for layer in layers]
        for module in first:
            module.register_forward_hook(keep_shape)
        nn.Sequential(blocks).eval()(torch.empty(1, 3, size, size))
    return [
        {
            "last": len(layers) - number,
            "name": layer.name,
            "block": layer.name.split(".")[0],
            "weight": list(module.weight.shape),
            "output": list(shapes[module]),
            "parameters": sum(parameter.numel() for parameter in layer.parameters),
        }
        for number, (layer, module) in enumerate(zip(layers, first, strict=True))
    ]
