"""The user's own network: the shape of its output tells whether it is whole or a backbone.

For a (2, 3, size, size) batch and L labels, a network whose output is
    (2, L) is a whole network: its last layer is the head;
    (2, C, h, w) is a backbone, to which one of xrayfast's heads is added;
    (2, F) is a backbone too. If only pooling and linear layers follow its last feature map, as in torchvision's
        networks with their classifier, it is used up to that map; otherwise its F features are used as a 1x1 map.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xrayfast.config import NAMED_WEIGHTS, OWN_WEIGHTS, HeadName, ModelConfig
from xrayfast.errors import ConfigError, plural, shorten
from xrayfast.learning.model.backbones import Blocks
from xrayfast.learning.model.fusion import make_contiguous
from xrayfast.learning.model.layers import HEAD, NORMS, Grouping, LayerGroup, group_parameters, layer_groups
from xrayfast.learning.model.network import LayeredNetwork, add_head, build_network, describe_network, unused_note
from xrayfast.learning.model.pretrained.timm_networks import is_timm
from xrayfast.learning.model.weights import LoadedBackbone, copy_weights, read_weights, require_weights_of
from xrayfast.learning.randomness import isolated_rng
from xrayfast.own_code import name_of, names_of_code, require_code, require_own_arch

BATCH = "A batch is (N, 3, size, size) float32: one gray channel three times, normalized by ImageNet's statistics"


def build_own_network(
    code: Mapping[str, Any],
    n_out: int,
    *,
    weights: str,
    head: HeadName,
    head_width: int | Sequence[int] = (),
    dropout: float | None = None,
    size: int,
    grouping: Grouping = "blocks",
) -> LayeredNetwork:
    """Build the user's own network; random initial weights are drawn from torch's global generator.

    Args:
        code: the user's own `arch`, which is a module (it is copied) or a constructor, and `splitter`, if there is one.
        n_out: number of labels.
        weights: "imagenet" or "none", which set the argument `weights` (torchvision) or `pretrained` (timm) of a
            constructor, or a weight file; without such an argument the network keeps the weights that it comes with.
        head: head of a backbone; "none" if the network has to be a whole one.
        head_width: hidden units of each hidden layer of the head.
        dropout: dropout of the head, see `add_head`.
        size: side of the images in pixels.
        grouping: one layer group per block or, for a backbone, per layer.

    Raises:
        ConfigError: the network can't be built, fails on a batch, has an output of another shape, or contradicts an
            option.
        WeightsError: the weight file can't be read or does not fit.
    """
    name = name_of(code["arch"])
    net, source = _instantiate(code["arch"], weights, name)
    with isolated_rng("probe"):
        probe = torch.rand(2, 3, size, size) * 4 - 2
        output, contiguous = _try(net, probe, name)
        whole = output.shape == (2, n_out)
        blocks = OrderedDict(net=net) if whole else _backbone_blocks(net, probe, output, name, n_out)
        if whole:
            _require_output(copy.deepcopy(net).train(), probe, n_out, name)
        probabilities = _describe_bounds(net, probe) if whole else ""
    if next(net.parameters(), None) is None:
        raise ConfigError(f"{name} has no parameters; expected a network that can be trained.")
    if head == "none" and not whole:
        raise ConfigError(
            f"head is none, which is only for a whole network, but {name} returns {tuple(output.shape)} for 2 "
            f"images; expected (2, {n_out})."
        )
    unused: tuple[str, ...] = ()
    if weights not in NAMED_WEIGHTS:
        unused = copy_weights(net, blocks, read_weights(Path(weights)), weights, name)
    model: nn.Module = net
    if whole:
        _require_no_head(name, n_out, head, head_width, dropout)
        note = (
            f"{name} is used as a whole network: it returns one output per label. No head is added. To use it as a "
            "backbone, return its features as a map (N, F, 1, 1)."
        )
        if probabilities:
            note += f" Its outputs {probabilities}, but logits are expected: remove its softmax, sigmoid or ReLU."
        if isinstance(code["arch"], nn.Module) and source in NAMED_WEIGHTS:
            note += " It starts with the weights that it has, whatever the seed."
    else:
        if head == "classifier":
            raise ConfigError(
                f"head is classifier, which works only for networks that 'xrayfast models' lists, not for {name}. Use "
                "another head."
            )
        model = add_head(LoadedBackbone(blocks, 1), n_out, head_width, head, size, dropout)
        note = (
            f"{name} is used as a backbone: its output is {_describe_features(output, blocks)}. The head '{head}' is "
            f"added; a whole network would return (N, {n_out})."
        )
    if contiguous:
        model.register_forward_pre_hook(make_contiguous)
    with isolated_rng("probe"):
        groups = _groups(code.get("splitter"), model, blocks, grouping, probe, name)
    frozen = sum(not parameter.requires_grad for parameter in net.parameters())
    notes = (note, *([_describe_frozen(name, frozen)] if frozen else []), *unused_note(unused, weights))
    return LayeredNetwork(model, groups, "none" if whole else head, source, notes)


def _require_no_head(
    name: str, n_out: int, head: HeadName, head_width: int | Sequence[int], dropout: float | None
) -> None:
    """Raise a ConfigError if an option of the head is given for a whole network."""
    if dropout is not None:
        raise ConfigError(
            f"dropout is {dropout:g}, which has no effect: it is applied in the head, and {name} is a whole network. "
            f"Set the dropout in {name}."
        )
    if head not in ("fastai", "none") or head_width:
        raise ConfigError(
            f"head is {head} and head_width {head_width or 'not given'}, which have no effect: {name} returns one "
            f"output per label ({n_out}), so it is used as a whole network. A backbone with as many features as labels "
            "must return them as a map (N, F, 1, 1)."
        )


def _describe_features(output: Tensor, blocks: Blocks) -> str:
    if output.ndim == 4:
        return "a feature map"
    cut = not any(isinstance(block, nn.Unflatten) for block in blocks.values())
    used = "so the layers after its last feature map are dropped" if cut else "its features"
    return f"{tuple(output.shape)} for 2 images, {used}"


def _describe_frozen(name: str, frozen: int) -> str:
    return (
        f"{plural(frozen, 'parameter')} of {name} with requires_grad=False will be trained all the same: which layers "
        "train is set by --unfreeze, --unfreeze-blocks and a splitter. Make what must not change a buffer."
    )


def network_of_run(model: ModelConfig, n_out: int, weights: Path, arch: Callable[..., Any] | None = None) -> nn.Module:
    """Build the network of a run's settings, and compare it with the header of the weight file, without loading it.

    A network of `BACKBONES` is on the meta device, see `describe_network`. `arch` is the user's own network, if the run
    was trained with one.

    Raises:
        ConfigError: `arch` is missing, not needed, or can't be built.
        RunError: the settings describe no network that can be built.
        WeightsError: the weight file is damaged, or belongs to another network.
    """
    if arch is None:
        require_code(names_of_code({"arch": model.arch}), {}, str(weights.parent / "config.yaml"))
        described = describe_network(model, n_out, weights)
        if not is_timm(model.arch):
            return described
        with isolated_rng("init"):  # not on the meta device: it may have buffers that are not in the state dict
            return build_network(model.arch, n_out, model.head_width, model.head, model.size)
    require_own_arch(model.arch, weights.parent)
    source = model.weights if model.weights == OWN_WEIGHTS else "none"
    settings: dict[str, Any] = {"weights": source, "head": model.head, "head_width": model.head_width}
    with isolated_rng("init"):
        network = build_own_network({"arch": arch}, n_out, size=model.size, **settings).model
    require_weights_of(network, weights)
    return network


def _instantiate(arch: Any, weights: str, name: str) -> tuple[nn.Module, str]:
    """Return the network in evaluation mode, and the source of its weights."""
    if isinstance(arch, nn.Module):
        return copy.deepcopy(arch).cpu().eval(), OWN_WEIGHTS if weights == "imagenet" else weights
    bound = arch.keywords if isinstance(arch, partial) else {}
    try:
        takes = [word for word in ("weights", "pretrained") if word in inspect.signature(arch).parameters]
    except (TypeError, ValueError):  # it has no signature
        takes = []
    options: dict[str, Any] = {}
    if takes and not set(takes) & set(bound) and weights != OWN_WEIGHTS:
        pretrained = weights == "imagenet"
        options = {takes[0]: {"weights": "DEFAULT" if pretrained else None, "pretrained": pretrained}[takes[0]]}
    elif weights == "imagenet":
        weights = OWN_WEIGHTS
    try:
        net = arch(**options)
    except Exception as error:  # whatever the user's code raises
        given = ", ".join(f"{word}={value!r}" for word, value in options.items())
        raise ConfigError(
            f"arch {name} can't be built: {name}({given}) fails: {error}. Pass the network itself, or a constructor "
            "that needs no other arguments, such as functools.partial(...); --weights none starts from random "
            "weights."
        ) from error
    if not isinstance(net, nn.Module):
        raise ConfigError(f"arch {name} returns {type(net).__name__}; expected a torch.nn.Module.")
    return net.cpu().eval(), weights


def _try(net: nn.Module, probe: Tensor, name: str) -> tuple[Tensor, bool]:
    """Return the network's output, and whether it fails on images in channels-last format."""
    errors = []
    for memory_format in (torch.channels_last, torch.contiguous_format):
        try:
            with torch.no_grad():
                output = net(probe.contiguous(memory_format=memory_format))
            break
        except Exception as error:  # whatever the user's code raises
            errors.append(error)
    else:
        raise ConfigError(f"arch {name} fails on a batch of shape {tuple(probe.shape)}: {errors[-1]}. {BATCH}.")
    if not isinstance(output, Tensor) or output.ndim not in (2, 4) or len(output) != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"arch {name} returns {found} for 2 images; expected (2, labels) from a whole network, or (2, C, h, w) "
            "or (2, F) from a backbone."
        )
    return output, bool(errors)


def _describe_bounds(net: nn.Module, probe: Tensor) -> str:
    """Describe outputs that stay within [0, 1] even for very large inputs, as after a softmax or sigmoid, or that are
    cut off at 0; "" for others, and if all are 0, as with a last layer that starts at 0.
    """
    with torch.no_grad():
        outputs = torch.cat([net(probe * scale) for scale in (1, 1000, -1000)])
    if (outputs < 0).any() or not outputs.any():
        return ""
    if (outputs <= 1).all():
        return "look like probabilities"
    return "are cut off at 0" if (outputs == 0).any() else ""


def _require_output(net: nn.Module, probe: Tensor, n_out: int, name: str) -> None:
    """Raise an error unless the output is one (2, n_out) tensor: GoogLeNet, for one, returns more in training mode."""
    with torch.no_grad():
        output = net(probe.contiguous())
    if not isinstance(output, Tensor) or output.shape != (2, n_out):
        raise ConfigError(
            f"arch {name} returns {type(output).__name__} in training mode; expected a tensor (2, {n_out}), as in "
            "evaluation mode."
        )


Call = tuple[str, nn.Module, Any]
"""A call of a module: its name in its parent, the module, and its output."""


def _calls(net: nn.Module, modules: Iterable[tuple[str, nn.Module]], probe: Tensor) -> list[Call]:
    """Run one forward pass, and return the calls of these modules in order."""
    calls: list[Call] = []

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        calls.append((name, module, output.clone() if isinstance(output, Tensor) else output))

    hooks = [module.register_forward_hook(partial(record, name)) for name, module in modules]
    try:
        with torch.no_grad():
            net(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _backbone_blocks(net: nn.Module, probe: Tensor, output: Tensor, name: str, n_out: int) -> Blocks:
    """Return the blocks of a backbone in sequence, up to the last feature map."""
    calls = _calls(net, net.named_children(), probe)
    while len(calls) == 1 and list(calls[0][1].children()) and _is_same(calls[0][2], output):  # a wrapper
        net = calls[0][1]
        calls = _calls(net, net.named_children(), probe)
    rest: list[Call] = []
    if output.ndim == 2:
        while calls and _follows_features(*calls[-1][1:]):
            rest.insert(0, calls.pop())
    ended = calls[-1][2] if calls else None
    if isinstance(ended, Tensor) and ended.ndim == 4 and (rest or _is_same(ended, output)):
        with torch.no_grad():
            value = nn.Sequential(*(module for _, module, _ in calls))(probe)
        if _is_same(value, ended):
            return _in_blocks([(name, module) for name, module, _ in calls])
    if output.ndim == 4:
        return OrderedDict(backbone=net)
    weighted = [(n, m) for n, m in net.named_modules() if m._parameters and not list(m.children())]
    if any(isinstance(module, nn.Linear) for _, module, _ in _calls(net, weighted, probe)[-1:]):
        raise ConfigError(
            f"arch {name} returns {tuple(output.shape)} for 2 images and {plural(n_out, 'label')}, and the feature "
            "map before its classifier could not be found. Give it as many outputs as there are labels, or replace "
            "its last layer by torch.nn.Identity()."
        )
    return OrderedDict(backbone=net, features=nn.Unflatten(1, (output.shape[1], 1, 1)))


def _is_same(output: Any, expected: Tensor) -> bool:
    """Whether two passes have given the same: on some CPUs the layout of the input changes the last bits."""
    return isinstance(output, Tensor) and output.shape == expected.shape and torch.allclose(output, expected, atol=1e-5)


def _follows_features(module: nn.Module, output: Any) -> bool:
    """Whether a module belongs to a classifier: a pooling, flatten, identity or dropout layer, or one whose weights are
    linear layers and norms and whose output is (N, F).
    """
    weighted = [m for m in module.modules() if m._parameters]
    if weighted:
        linear = [m for m in weighted if isinstance(m, nn.Linear)]
        return bool(linear) and output.ndim == 2 and all(isinstance(m, (nn.Linear, *NORMS)) for m in weighted)
    return "pool" in type(module).__name__.lower() or isinstance(module, (nn.Flatten, nn.Identity, nn.Dropout))


def _in_blocks(modules: Sequence[tuple[str, nn.Module]]) -> Blocks:
    """Divide modules in sequence into blocks; if there would be fewer than three, divide the `nn.Sequential`s among
    them.
    """
    blocks = _divide(modules)
    if len(blocks) < 3 and any(isinstance(module, nn.Sequential) for _, module in modules):
        inner = [
            (name, child, part)
            for name, module in modules
            for child, part in (module.named_children() if isinstance(module, nn.Sequential) else [("", module)])
        ]
        names = [child or name for name, child, _ in inner]
        if len({*names}) < len(names):  # as of two sequences
            names = [f"{name}_{child}" if child else name for name, child, _ in inner]
        return _in_blocks([(name, part) for name, (_, _, part) in zip(names, inner, strict=True)])
    return OrderedDict(
        (name, next(iter(parts.values())) if len(parts) == 1 else nn.Sequential(parts))
        for name, parts in blocks.items()
    )


def _divide(modules: Sequence[tuple[str, nn.Module]]) -> dict[str, OrderedDict[str, nn.Module]]:
    """Divide named modules into blocks: each module with weights other than a norm's begins one."""
    blocks: dict[str, OrderedDict[str, nn.Module]] = {}
    for name, module in modules:
        if not blocks or _begins_block(module):
            blocks[name] = OrderedDict()
        next(reversed(blocks.values()))[name] = module
    return blocks


def _begins_block(module: nn.Module) -> bool:
    return any(m._parameters and not isinstance(m, NORMS) for m in module.modules())


def _groups(
    splitter: Callable[[nn.Module], Any] | None,
    model: nn.Module,
    blocks: Blocks,
    grouping: Grouping,
    probe: Tensor,
    name: str,
) -> tuple[LayerGroup, ...]:
    """Return the layer groups: those of the user's splitter, one per block, or, for a whole network, one per child, of
    which the last is the head.
    """
    whole = list(blocks.values()) == [model]
    if grouping == "layers" and (splitter or whole):
        why = "has a splitter" if splitter else "is a whole network"
        raise ConfigError(f"{name} {why}, so it can't be divided into layers. Use --unfreeze-blocks.")
    if splitter is not None:
        return _split_groups(splitter, model, name, probe)
    if not whole:
        return layer_groups(blocks, list(model.children())[1], grouping)
    children = _ordered_children(model, probe)
    parts = [(first, list(modules.values())) for first, modules in _divide(children).items()]
    there = {id(p) for _, modules in parts for module in modules for p in module.parameters()}
    others = tuple(p for p in model.parameters() if id(p) not in there)
    groups = [
        LayerGroup(HEAD if n == len(parts) else first, tuple(modules), others if n == 1 else ())
        for n, (first, modules) in enumerate(parts, 1)
    ]
    return tuple(groups)


def _ordered_children(net: nn.Module, probe: Tensor) -> list[tuple[str, nn.Module]]:
    """Return the children of a whole network in the order of their first calls.

    If only one child has weights, as in a wrapper, its children are returned instead.
    """
    parent = net
    while True:
        calls = {name: module for name, module, _ in _calls(net, parent.named_children(), probe)}
        weighted = [module for module in calls.values() if _begins_block(module)]
        if len(weighted) != 1 or not list(weighted[0].children()):
            return list(calls.items())
        (parent,) = weighted


def _split_groups(
    splitter: Callable[[nn.Module], Any], model: nn.Module, name: str, probe: Tensor
) -> tuple[LayerGroup, ...]:
    """Return one group per list of parameters that the user's splitter returns; the last group is the head."""
    try:
        lists = [list(parameters) for parameters in splitter(model)]
        group_of = {id(p): number for number, parameters in enumerate(lists) for p in parameters}
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"splitter {name_of(splitter)} fails on {name}: {error}.") from error
    named = {id(p): key for key, p in model.named_parameters()}
    left, foreign = [named[p] for p in named.keys() - group_of.keys()], group_of.keys() - named.keys()
    twice = sum(map(len, lists)) - len(group_of)
    layers = [(key, m) for key, m in model.named_modules() if m._parameters and not [*m.children()]]
    last = _calls(model, layers, probe)[-1:]  # () if the network calls no such layer
    early = [key for key, m, _ in last for p in m.parameters() if group_of.get(id(p), -1) + 1 < len(lists)]
    if left or foreign or twice or early or not all(lists):
        problem = f"returns the last layer, {early[0]}, before the last list" if early else "returns an empty list"
        problem = f"leaves out {shorten(sorted(left))}" if left else problem
        problem = f"returns {plural(twice, 'tensor')} twice" if twice else problem
        problem = f"returns {plural(len(foreign), 'tensor')} that {name} does not have" if foreign else problem
        raise ConfigError(
            f"splitter {name_of(splitter)} {problem}; expected each parameter of {name} in exactly one list, and the "
            "head in the last list."
        )
    groups = group_parameters(model, {f"group {number}": found for number, found in enumerate(lists, 1)})
    return (*groups[:-1], LayerGroup(HEAD, groups[-1].modules, groups[-1].own))
