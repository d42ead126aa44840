"""The layers of each network, compared with numbers counted by hand or given in the papers."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from xrayfast.errors import ConfigError
from xrayfast.learning.model.backbones import BACKBONES
from xrayfast.learning.model.layers import describe_layers, divide_into_layers, layer_groups
from xrayfast.learning.model.network import add_head
from xrayfast.learning.model.subnetworks import split_network
from xrayfast.learning.model.weights import load_backbone

# Numbers of convolutions without projection shortcuts and squeeze-and-excitation: for ResNet and DenseNet, the number
# in the name minus one fully connected layer; for VGG, its "features".
COUNTS = {
    "resnet18": 17,
    "resnet34": 33,
    "resnet50": 49,
    "vgg16": 13,
    "vgg16_bn": 13,
    "densenet121": 120,
    "mobilenet_v2": 52,
    "efficientnet_b0": 1 + 2 + 15 * 3 + 1,
    "convnext_tiny": 1 + 3 + 18,
}


def blocks_of(arch):
    with torch.device("meta"):
        return load_backbone(arch).blocks


@pytest.mark.parametrize("arch", BACKBONES)
def test_the_layers_contain_each_parameter_once_in_order(arch):
    blocks = blocks_of(arch)
    layers = divide_into_layers(blocks)
    assert len(layers) == len({layer.name for layer in layers}) == COUNTS[arch]
    order = {id(parameter): n for n, parameter in enumerate(nn.Sequential(blocks).parameters())}
    found = [id(parameter) for layer in layers for parameter in layer.parameters]
    assert len(found) == len(set(found)) and set(found) == set(order)
    of_block = [list(blocks).index(layer.name.split(".")[0]) for layer in layers]
    assert of_block == sorted(of_block)
    for layer, number in zip(layers, of_block, strict=True):
        own = {id(parameter) for parameter in list(blocks.values())[number].parameters()}
        assert own >= {id(parameter) for parameter in layer.parameters}, "a layer is within one block"


def kinds(arch):
    return {
        layer.name: [type(module).__name__ for module in layer.modules if module.state_dict()]
        + ["scale"] * len(layer.own)
        for layer in divide_into_layers(blocks_of(arch))
    }


def test_which_modules_belong_to_a_layer():
    resnet = kinds("resnet18")
    assert resnet["stem.conv1"] == resnet["layer4.1.conv2"] == ["Conv2d", "BatchNorm2d"]
    assert resnet["layer2.0.conv1"] == ["Conv2d", "BatchNorm2d"] * 2, "with the projection shortcut"
    dense = kinds("densenet121")
    assert dense["dense2.denseblock2.denselayer1.conv1"] == ["BatchNorm2d", "Conv2d", "BatchNorm2d"]
    assert dense["dense1.denseblock1.denselayer1.conv2"] == ["Conv2d"]
    assert dense["dense1.transition1.conv"] == ["BatchNorm2d", "Conv2d"]
    assert dense["dense4.denseblock4.denselayer16.conv2"] == ["Conv2d", "BatchNorm2d"], "the last norm has no next"
    assert kinds("efficientnet_b0")["stage2.2.0.block.1.0"] == ["Conv2d", "BatchNorm2d", "SqueezeExcitation"]
    convnext = kinds("convnext_tiny")
    assert convnext["stage1.1.0.block.0"] == ["Conv2d", "LayerNorm", "Linear", "Linear", "scale"]
    assert convnext["stage2.2.1"] == ["LayerNorm2d", "Conv2d"]
    assert list(kinds("vgg16_bn"))[-3:] == ["block5.conv1", "block5.conv2", "block5.conv3"]


def test_fully_connected_layers_of_a_classifier_are_layers():
    blocks = OrderedDict(
        block1=nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        classifier=nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(16, 8),
                relu1=nn.ReLU(),
                dropout1=nn.Dropout(),
                fc2=nn.Linear(8, 8),
                relu2=nn.ReLU(),
                dropout2=nn.Dropout(),
            )
        ),
    )
    head = nn.Sequential(nn.Linear(8, 3))
    groups = layer_groups(blocks, head, "layers")
    assert [group.name for group in groups] == ["block1.conv1", "classifier.fc1", "classifier.fc2", "head"]
    assert blocks["classifier"].dropout1 in groups[1].modules, "dropout is frozen with the layer before it"
    model = nn.Sequential(nn.Sequential(*blocks.values()), head).eval()
    x = torch.rand(2, 3, 8, 8)
    shapes = [[value.shape[1:] for value in split_network(model, groups, n)[0](x)] for n in (1, 2, 3)]
    assert shapes == [[(16,)], [(8,)], [(8,)]]


class DependsOnValues(nn.Module):
    """A module that torch.fx can't trace."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x if x.sum() > 0 else -x)


def test_a_network_that_can_not_be_traced_has_blocks_but_no_layers():
    blocks = OrderedDict(block1=nn.Sequential(DependsOnValues()))
    head = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(ConfigError, match=r"can't be divided into layers.*unfreeze_blocks="):
        layer_groups(blocks, head, "layers")
    model, x = nn.Sequential(nn.Sequential(*blocks.values()), head), torch.rand(1, 3, 8, 8)
    frozen, later = split_network(model, layer_groups(blocks, head, "blocks"), 1)
    (value,) = frozen(x)
    assert value.shape == (1, 144)
    assert torch.equal(later(value)[0], model(x))


def test_the_description_of_layers():
    before = torch.get_rng_state()
    rows = describe_layers("resnet18")
    assert torch.equal(torch.get_rng_state(), before)
    first, shortcut, last = rows[0], rows[13], rows[-1]
    assert (first["name"], first["weight"], first["output"]) == ("stem.conv1", [64, 3, 7, 7], [64, 112, 112])
    assert first["parameters"] == 64 * 3 * 49 + 2 * 64 and first["last"] == 17
    assert (shortcut["name"], shortcut["block"], shortcut["last"]) == ("layer4.0.conv1", "layer4", 4)
    assert shortcut["parameters"] == 512 * 256 * 9 + 2 * 512 + 512 * 256 + 2 * 512
    assert (last["name"], last["output"], last["last"]) == ("layer4.1.conv2", [512, 7, 7], 1)
    assert sum(row["parameters"] for row in rows) == 11_176_512
    assert describe_layers("resnet18", 64)[-1]["output"] == [512, 2, 2]
    *_, conv, fc1, fc2 = describe_layers("vgg16", 64, with_classifier=True)
    assert (conv["name"], conv["last"], conv["parameters"]) == ("block5.conv3", 3, 512 * 512 * 9 + 512)
    assert (fc1["name"], fc1["weight"], fc1["output"]) == ("classifier.fc1", [4096, 25088], [4096])
    assert (fc2["name"], fc2["last"], fc2["parameters"]) == ("classifier.fc2", 1, 4096 * 4096 + 4096)


# The cached values per image if that number of last layers is unfrozen.
VALUES = [
    ("resnet18", 1, [(512, 2, 2), (512, 2, 2)]),  # the input of the block and that of its last convolution
    ("resnet18", 2, [(512, 2, 2)]),
    ("resnet18", 3, [(512, 2, 2), (512, 2, 2)]),  # the output of the projection shortcut instead of the input
    ("vgg16", 3, [(512, 4, 4)]),  # after the pooling
    ("densenet121", 2, [(512, 2, 2), *[(32, 2, 2)] * 15]),  # not their concatenation
    ("densenet121", 0, [(2048,)]),
    ("convnext_tiny", 1, [(768, 2, 2)]),
]


@pytest.mark.parametrize(("arch", "unfrozen", "shapes"), VALUES)
def test_which_outputs_of_the_frozen_layers_are_read(arch, unfrozen, shapes):
    torch.manual_seed(0)
    backbone = load_backbone(arch)
    blocks = backbone.blocks
    model = add_head(backbone, 3).eval()
    groups = layer_groups(blocks, model[1], "layers")
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        frozen, later = split_network(model, groups, len(groups) - 1 - unfrozen)
        values = frozen(x)
        assert [tuple(value.shape[1:]) for value in values] == shapes
        assert torch.equal(later(*values)[0], expected)
    trained = {id(p) for group in groups[len(groups) - 1 - unfrozen :] for p in group.parameters}
    assert {id(p) for p in later.parameters()} == trained
    assert not trained & {id(p) for p in frozen.parameters()}
