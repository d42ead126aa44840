"""Custom networks: how they are interpreted, their blocks, and what is refused by name."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models

from xrayfast.config import ModelConfig
from xrayfast.errors import ConfigError
from xrayfast.learning.model.own_network import build_own_network
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.build_learner import build_layers

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def build(arch, splitter=None, *, labels=3, weights="none", head="fastai", **options):
    code = {"arch": arch} | ({"splitter": splitter} if splitter else {})
    return build_own_network(code, labels, weights=weights, head=head, size=64, **options)


def counts(network):
    return [sum(p.numel() for p in group.parameters) for group in network.groups]


@pytest.mark.parametrize("head", ["fastai", "linear", "mlp"])
def test_torchvision_s_resnet_is_the_named_one_to_the_bit(head):
    options = dict(ModelConfig(arch="resnet18", weights="none", head=head))
    with isolated_rng(0):
        named = build_layers(options, "abc", "blocks")
    with isolated_rng(0):
        own = build(models.resnet18, head=head)
    assert named.model.state_dict().keys() == own.model.state_dict().keys()
    assert all(map(torch.equal, named.model.state_dict().values(), own.model.state_dict().values()))
    assert counts(named) == counts(own)
    assert (own.head, own.weights) == (head, "none")


@pytest.mark.parametrize(
    ("arch", "features", "blocks"),
    [
        (models.shufflenet_v2_x0_5, lambda net: net.conv5, 5),
        (models.mobilenet_v3_small, lambda net: net.features, 13),
        pytest.param(models.densenet121, lambda net: net.features, 8, marks=pytest.mark.slow),
        pytest.param(models.regnet_y_400mf, lambda net: net.trunk_output, 5, marks=pytest.mark.slow),
        pytest.param(models.swin_t, lambda net: net.permute, 8, marks=pytest.mark.slow),
        pytest.param(models.convnext_tiny, lambda net: net.features, 8, marks=pytest.mark.slow),
        pytest.param(models.vgg11, lambda net: net.features, 8, marks=pytest.mark.slow),
    ],
)
def test_a_classifier_is_cut_after_its_last_feature_map(arch, features, blocks):
    net, maps = arch(weights=None).eval(), []
    features(net).register_forward_hook(lambda module, inputs, output: maps.append(output.clone()))
    with torch.no_grad():
        net(IMAGES)
    own = build(net)
    with torch.no_grad():
        torch.testing.assert_close(own.model[0](IMAGES), maps[0])
    assert len(own.groups) == blocks + 1
    assert own.model(IMAGES).shape == (2, 3)
    assert "so the layers after its last feature map are dropped" in own.notes[0]


def maps(**_):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))


class Wrapper(nn.Module):
    def __init__(self, net, mean=False):
        super().__init__()
        self.net, self.mean = net, mean

    def forward(self, x):
        return self.net(x).mean((2, 3)) if self.mean else self.net(x)


def test_a_backbone_gives_maps_or_features():
    for arch in (maps, maps(), Wrapper(maps()), nn.Sequential(*maps(), nn.AdaptiveAvgPool2d(1), nn.Flatten())):
        own = build(arch, head="linear")
        assert counts(own)[:2] == [112 + 8, 185]  # including the norm after the first convolution
        assert own.model[1][2].in_features == 5
    vector = build(Wrapper(maps(), mean=True), head="linear")
    assert "its output is (2, 5) for 2 images, its features" in vector.notes[0]
    with torch.no_grad():
        expected = vector.model[1][2](vector.model[0][0](IMAGES))
        torch.testing.assert_close(vector.model.eval()(IMAGES), expected)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x):
        return self.conv2(self.conv1(x).relu())


def test_all_layers_of_two_sequences_with_the_same_names_are_used():
    def block(n_in):
        return nn.Sequential(nn.Conv2d(n_in, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))

    net = nn.Sequential(block(3), block(3))  # the second one alone would run too
    network = build(net)
    torch.testing.assert_close(network.model.eval()[0](IMAGES), net.eval()(IMAGES))
    assert counts(network)[:-1] == [240, 27, 240, 27]


def test_a_backbone_whose_children_are_not_in_sequence_is_one_block():
    net = Functional()
    own = build(net)
    assert counts(own)[:-1] == [112 + 185]
    with torch.no_grad():
        torch.testing.assert_close(own.model[0](IMAGES), net(IMAGES))


def test_as_many_features_as_labels_are_a_whole_network_unless_they_are_a_map():
    assert build(Wrapper(maps(), mean=True), labels=5).head == "none"
    as_map = nn.Sequential(Wrapper(maps(), mean=True), nn.Unflatten(1, (5, 1, 1)))
    assert build(as_map, labels=5).head == "fastai"


def test_constructors_get_the_weights_that_they_accept():
    asked = []

    def torchvision_like(weights=None):
        asked.append(weights)
        return maps()

    def timm_like(pretrained=False, **options):
        asked.append(pretrained)
        return maps()

    found = [
        build(arch, weights=weights).weights
        for arch in (torchvision_like, timm_like, partial(timm_like, pretrained=True), maps)
        for weights in ("imagenet", "none")
    ]
    assert asked == ["DEFAULT", None, True, False, True, True]
    assert found == ["imagenet", "none", "imagenet", "none", "own", "none", "own", "none"]


def test_a_file_of_weights_is_loaded_into_a_module(tmp_path):
    trained = maps()
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    own = build(maps, weights=str(tmp_path / "w.pth"))
    assert torch.equal(own.model[0][1].weight, trained[3].weight)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.mix, self.fc = nn.Conv2d(3, 8, 16, 16), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.mix(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Two(Wrapper):
    def forward(self, x):
        x = self.net(x).mean((2, 3))
        return (x, x) if self.training else x


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid()])
def test_a_whole_network_that_gives_probabilities_is_noted(last):
    net = Wrapper(maps(), mean=True)
    assert "probabilities" not in build(net, labels=5).notes[0]
    ended = build(nn.Sequential(net, last), labels=5)
    assert "Its outputs look like probabilities, but logits are expected" in ended.notes[0]


def test_a_whole_network_that_ends_in_a_relu_is_noted():
    net = Wrapper(maps(), mean=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        last = nn.Linear(5, 5)
        note = build(nn.Sequential(net, last, nn.ReLU()), labels=5).notes[0]
    assert "Its outputs are cut off at 0, but logits are expected" in note
    assert note.endswith("It starts with the weights that it has, whatever the seed.")
    for parameter in last.parameters():
        nn.init.zeros_(parameter)  # not a sign of a ReLU or a sigmoid
    assert "logits are expected" not in build(nn.Sequential(net, last), labels=5).notes[0]


def needs(width):
    return maps()


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        (needs, {}, "arch needs can't be built: .*missing 1 required positional argument"),
        (list, {}, "arch list returns list; expected a torch.nn.Module"),
        (nn.Conv2d(1, 4, 3), {}, r"Conv2d fails on a batch of shape \(2, 3, 64, 64\): .* one gray channel three times"),
        (nn.Flatten(2), {}, r"Flatten returns \(2, 3, 4096\) for 2 images; expected \(2, labels\)"),
        (Two(maps()), {"labels": 5}, "Two returns tuple in training"),
        (Tokens, {}, r"Tokens returns \(2, 10\) for 2 images and 3 labels, and the feature map .* could not be found"),
        (maps, {"head": "none"}, r"head is none, which is only for a whole network, but maps returns \(2, 5, "),
        (
            maps,
            {"head": "classifier"},
            "head is classifier, which works only for networks that 'xrayfast models' lists",
        ),
        (Wrapper(maps(), mean=True), {"labels": 5, "head": "mlp"}, "head is mlp .* have no effect"),
        (Wrapper(maps(), mean=True), {"labels": 5, "grouping": "layers"}, "is a whole network, so it can't be divided"),
    ],
)
def test_unusable_networks_are_refused_by_name(arch, options, message):
    with pytest.raises(ConfigError, match=message):
        build(arch, **options)


def test_a_backbone_is_divided_into_layers_where_it_is_traced():
    assert counts(build(maps, grouping="layers"))[:2] == [112 + 8, 185]


def test_a_splitter_gives_the_groups():
    own = build(maps, lambda model: [model[0][0].parameters(), [*model[0][1].parameters(), *model[1].parameters()]])
    assert counts(own)[0] == 120
    assert own.groups[0].modules == (own.model[0][0],)
    assert own.groups[1].name == "head"


@pytest.mark.parametrize(
    ("splitter", "message"),
    [
        (lambda model: [model[0].parameters()], "leaves out 1.2.bias"),
        (lambda model: [model[0].parameters(), model.parameters()], "returns 6 tensors twice"),
        (lambda model: [[], model.parameters()], "returns an empty list"),
        (lambda model: [[nn.Parameter(torch.ones(1))], model.parameters()], "returns 1 tensor that .* does not have"),
        (lambda model: model.layer1, "splitter <lambda> fails on maps: .*layer1"),
        (lambda model: [model[1].parameters(), model[0].parameters()], r"the last layer, 1\.\d+, before the last list"),
    ],
)
def test_a_splitter_whose_groups_are_no_partition_is_refused(splitter, message):
    with pytest.raises(ConfigError, match=message):
        build(maps, splitter)


def test_parameters_that_the_user_froze_are_noted():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert len(build(net).notes) == 1
    net[0].requires_grad_(False)
    assert build(net).notes[1].startswith("2 parameters of Sequential with requires_grad=False will be trained")
