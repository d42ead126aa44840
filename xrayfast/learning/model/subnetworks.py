"""Networks divided in two: a subnetwork of the frozen layer groups, and the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx, nn

from xrayfast.learning.model.backbones import StochasticDepth
from xrayfast.learning.model.fusion import make_contiguous
from xrayfast.learning.model.layers import LayerGroup, attribute, trace
from xrayfast.learning.model.pretrained.timm_networks import TimmBackbone


def split_network(
    model: nn.Module, groups: Sequence[LayerGroup], n_frozen: int
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Divide a network into a frozen subnetwork and the rest; both share the network's modules.

    The frozen subnetwork takes images and returns a tuple: every value that the second one reads and that does not
    depend on an unfrozen module. Between two blocks that is one feature map, within a residual block several. Values
    that can be computed from others without weights, such as DenseNet's concatenations, are left to the second. The
    second takes these values and returns a tuple with the network's output.

    Unfrozen modules without weights or random numbers are in the frozen subnetwork if they follow it directly: with the
    whole backbone frozen, it includes the head's pooling, which makes its outputs fifty times smaller.
    """
    leaves = [module for group in groups[:-1] for module in group.modules]
    if n_frozen == len(groups) - 1:
        leaves += [module for module in model.modules() if isinstance(module, TimmBackbone)]
    graph = trace(model, leaves)
    image, output = next(iter(graph.nodes)), next(iter(reversed(graph.nodes)))
    unfrozen = _unfrozen_nodes(model, graph, groups[n_frozen:])
    read = {source for node in unfrozen for source in node.all_input_nodes} - unfrozen
    values = [node for node in graph.nodes if node in read and node.op != "get_attr"]
    for value in reversed(values):
        others = [node for node in values if node is not value]
        if all(_is_weightless(model, node) for node in _needed([value], others)):
            values = others
    return _subnetwork(model, graph, [image], values), _subnetwork(model, graph, values, output.all_input_nodes)


def _unfrozen_nodes(model: nn.Module, graph: fx.Graph, groups: Sequence[LayerGroup]) -> set[fx.Node]:
    """Return the nodes that depend on weights or random numbers of these groups."""
    modules = {module for group in groups for top in group.modules for module in top.modules()}
    parameters = {id(parameter) for group in groups for parameter in group.parameters}

    def varies(node: fx.Node) -> bool:
        if node.op == "get_attr":
            return id(attribute(model, node)) in parameters
        if node.op != "call_module" or (module := model.get_submodule(str(node.target))) not in modules:
            return False
        return isinstance(module, (nn.modules.dropout._DropoutNd, StochasticDepth)) or bool(module.state_dict())

    found: set[fx.Node] = set()
    for node in graph.nodes:
        if varies(node) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _is_weightless(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return not model.get_submodule(str(node.target)).state_dict()
    return node.op in ("call_function", "call_method")


def _needed(wanted: Sequence[fx.Node], given: Collection[fx.Node]) -> set[fx.Node]:
    """Return the nodes that have to be computed to get the wanted values if others are given."""
    found: set[fx.Node] = set()
    queue = list(wanted)
    while queue:
        node = queue.pop()
        if node not in found and node not in given:
            found.add(node)
            queue += node.all_input_nodes
    return found


def _subnetwork(
    model: nn.Module, graph: fx.Graph, inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> fx.GraphModule:
    needed, selected = _needed(outputs, inputs), fx.Graph()
    copies = {node: selected.placeholder(node.name) for node in inputs}
    for node in graph.nodes:
        if node in needed:
            copies[node] = selected.node_copy(node, copies.__getitem__)
    selected.output(tuple(copies[node] for node in outputs))
    module = fx.GraphModule(model, selected)
    if make_contiguous in model._forward_pre_hooks.values():
        module.register_forward_pre_hook(make_contiguous)
    return module
