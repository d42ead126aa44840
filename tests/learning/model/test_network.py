"""The whole network compared with fastai's `vision_learner`."""

from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from fastai.vision.learner import create_vision_model
from torch import nn

from tests.learning.archs import ARCHS
from xrayfast.config import ModelConfig
from xrayfast.errors import ConfigError, RunError, WeightsError
from xrayfast.learning.model.backbones import BACKBONES
from xrayfast.learning.model.network import MAX_SHIFT, add_head, build_network, describe_network, start_head_at
from xrayfast.learning.model.weights import load_backbone, load_weights, save_weights
from xrayfast.learning.randomness import isolated_rng


@pytest.mark.parametrize(
    ("arch", "head_width"),
    [
        *(pytest.param(*arch.values, (), marks=arch.marks) for arch in ARCHS),
        ("resnet18", 20),
        ("resnet18", (20, 10)),
    ],
)
def test_with_the_same_seed_a_network_equals_fastais_to_the_bit(arch, head_width):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        ours = build_network(arch, 3, head_width)
        after = torch.rand(3)
        torch.manual_seed(5)
        blocks = load_backbone(arch).blocks
        theirs = create_vision_model(
            lambda pretrained: nn.Sequential(OrderedDict(blocks, pool=nn.AdaptiveAvgPool2d(1))),
            3,
            pretrained=False,
            lin_ftrs=None if head_width == () else [head_width] if head_width == 20 else list(head_width),
        )
        assert torch.equal(after, torch.rand(3)), "the generator is left in the same state"
        expected = theirs.state_dict()
        assert list(ours.state_dict()) == list(expected)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())
        x = torch.rand(4, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(ours.eval()(x), theirs.eval()(x))
            torch.manual_seed(6)
            trained = ours.train()(x)
            torch.manual_seed(6)
            assert torch.equal(trained, theirs.train()(x))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_is_built_without_computing_weights_on_the_meta_device(arch):
    with torch.device("meta"):
        network = build_network(arch, 2)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    network.load_state_dict(build_network(arch, 2).state_dict(), assign=True)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize(("head", "archs"), [("linear", list(BACKBONES)), ("classifier", ["vgg16", "vgg16_bn"])])
def test_a_head_without_hidden_layers_has_as_many_parameters_as_torchvision_s_network(head, archs):
    for arch in archs:
        with torch.device("meta"):
            ours, theirs = build_network(arch, 1000, head=head), BACKBONES[arch].build(weights=None)
        expected = count(theirs)
        if arch == "convnext_tiny":
            expected -= count(theirs.classifier[0])  # its layer norm, which is in neither of the two
        if head == "linear" and arch.startswith("vgg"):
            expected += count(nn.Linear(25088, 1000)) - count(theirs.classifier)
        assert count(ours) == expected, arch
        assert ours(torch.zeros(2, 3, 96, 96, device="meta")).shape == (2, 1000)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("arch", "head", "widths", "shapes"),
    [
        ("resnet18", "linear", (), [(3, 512)]),
        ("resnet18", "mlp", (), [(512, 512), (3, 512)]),
        ("resnet18", "mlp", 120, [(120, 512), (3, 120)]),
        ("vgg16", "mlp", (500, 100), [(500, 25088), (100, 500), (3, 100)]),
        ("vgg16", "classifier", (), [(3, 4096)]),
        ("vgg16", "classifier", (500,), [(500, 4096), (3, 500)]),
    ],
)
def test_the_linear_layers_of_a_head_have_a_bias_and_a_relu_between_them(arch, head, widths, shapes):
    with torch.device("meta"):
        network = build_network(arch, 3, widths, head)
    layers = [layer for layer in network[1] if not isinstance(layer, (nn.Dropout, nn.AdaptiveAvgPool2d, nn.Flatten))]
    assert [tuple(layer.weight.shape) for layer in layers[::2]] == shapes
    assert all(layer.bias is not None for layer in layers[::2])
    assert all(isinstance(layer, nn.ReLU) for layer in layers[1::2])
    assert [type(block) for block in network[1]].count(nn.Dropout) == (head == "classifier")


@pytest.mark.parametrize("size", [64, 224])
def test_linear_on_a_resnet_is_torchvision_s_network(size):
    torch.manual_seed(2)
    ours, theirs = (
        build_network("resnet18", 1000, head="linear").eval(),
        BACKBONES["resnet18"].build(weights=None).eval(),
    )
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("arch", ["tiny_vgg", "vgg16", pytest.param("vgg16_bn", marks=pytest.mark.slow)])
def test_classifier_computes_what_torchvision_s_vgg_computes(tiny_vgg, arch):
    """It computes fc1, fc2 and the logits with the same weights and, in training, the same dropout."""
    theirs = BACKBONES[arch].build(weights=None).eval()
    with torch.device("meta"):
        ours = build_network(arch, 1000, head="classifier").eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)), assign=True)
    found, expected = {}, {}
    for hidden, outputs in ((ours[0][5].fc1, found), (theirs.classifier[0], expected)):
        hidden.register_forward_hook(lambda *call, outputs=outputs: outputs.update(fc1=call[2].clone()))
    for hidden, outputs in ((ours[0][5].fc2, found), (theirs.classifier[3], expected)):
        hidden.register_forward_hook(lambda *call, outputs=outputs: outputs.update(fc2=call[2].clone()))
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        assert all(torch.equal(found[name], expected[name]) for name in ("fc1", "fc2"))
        with torch.random.fork_rng():
            torch.manual_seed(6)
            trained = ours.train()(x)
            torch.manual_seed(6)
            assert torch.equal(trained, theirs.train()(x))
        assert not torch.equal(trained, ours.eval()(x))


def test_widths_for_a_head_without_hidden_layers_are_an_error():
    with pytest.raises(
        ConfigError, match=r"head is linear, which has no hidden layer, and head_width is 500.*head='mlp'"
    ):
        build_network("resnet18", 2, 500, "linear")


def test_a_stranger_s_run_is_compared_with_the_header_of_its_weights_before_memory_is_taken(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_weights(build_network("resnet18", 2), file)
    monkeypatch.setattr(safetensors.torch, "load_file", lambda path: pytest.fail("loaded"))
    described = describe_network(ModelConfig(), 2, file)
    assert {tensor.device.type for tensor in described.state_dict().values()} == {"meta"}
    large = ModelConfig(head_width=(10_000, 10_000))
    for model, n_out in ((large, 2), (ModelConfig(), 100_000), (ModelConfig(arch="vgg16"), 2)):
        with pytest.raises(WeightsError, match=r"contains another network than config\.yaml and labels\.json describe"):
            describe_network(model, n_out, file)
    with pytest.raises(WeightsError, match="contains another network"):
        load_weights(build_network("resnet18", 3), file)
    for model, n_out, words in (
        (ModelConfig(head_width=(30_000,) * 3), 2, "is 30000, 30000, 30000: with 2 labels the head has 1,830,780,000"),
        (ModelConfig(), 1_000_000, "with 1,000,000 labels the head has"),
        (ModelConfig(arch="resnet81"), 2, "resnet81"),
    ):
        with pytest.raises(RunError, match=words):
            describe_network(model, n_out, file)


def test_the_largest_head_is_refused_for_training_too():
    with pytest.raises(ConfigError, match=r"head_width is 30000, 30000.*expected at most 268,435,456"):
        build_network("resnet18", 2, (30_000, 30_000))


@pytest.mark.parametrize("head", ["fastai", "linear", "mlp", "classifier"])
@pytest.mark.parametrize("width", [(), (6, 5)])
def test_dropout_of_the_head_is_before_each_layer_and_changes_no_name(head, width, tiny_vgg):
    if head == "linear" and width:
        pytest.skip("it has no hidden layers")
    backbone = load_backbone(tiny_vgg, with_classifier=head == "classifier")
    with isolated_rng(1):
        plain = add_head(backbone, 3, width, head)
    with isolated_rng(1):
        found = add_head(backbone, 3, width, head, dropout=0.4)
    before = [module for module in found[1].modules() if isinstance(module, (nn.Dropout, nn.Linear))]
    layers = [i for i, module in enumerate(before) if isinstance(module, nn.Linear)]
    assert [before[i - 1].p for i in layers] == [0.2] * (len(layers) - 1) + [0.4]
    assert len(before) == 2 * len(layers)
    mine, other = found.state_dict(), plain.state_dict()
    assert list(mine) == list(other) and all(torch.equal(mine[name], other[name]) for name in mine)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(found.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("head", ["fastai", "linear", "mlp", "classifier"])
@pytest.mark.parametrize("width", [(), (6, 5)])
def test_a_new_head_starts_at_the_given_logits(head, width, tiny_vgg):
    if head == "linear" and width:
        pytest.skip("it has no hidden layers")
    logits = torch.tensor([-6.0, 0.0, 1.5], dtype=torch.float64)
    backbone = load_backbone(tiny_vgg, with_classifier=head == "classifier")
    with isolated_rng(1):
        network = add_head(backbone, 3, width, head, dropout=0.0)
        drawn = network[1][-1].weight.clone()
        start_head_at(network[1], logits)
        found = network.train()(torch.rand(16, 3, 32, 32)).double()
    # Batch norm gives each feature the mean 0, so the mean is exact; other heads have a last bias.
    torch.testing.assert_close(found.mean(0), logits, rtol=0, atol=1e-4 if head == "fastai" else 0.3)
    assert found.std(0).max() < 0.5
    if not (head == "fastai" and width):  # only few features need more than a shift
        torch.testing.assert_close(network[1][-1].weight, drawn * 0.1)


@pytest.mark.parametrize(("labels", "width"), [(200, 64), (64, 64), (50, 64), (3, 2), (3, 64)])
def test_with_many_labels_the_first_outputs_need_no_large_shift(labels, width, tiny_vgg):
    logits = torch.linspace(-6, 0, labels, dtype=torch.float64)
    with isolated_rng(1):
        head = add_head(load_backbone(tiny_vgg), labels, width)[1]
        start_head_at(head, logits)
        found = torch.stack([head.train()(torch.rand(16, 2, 7, 7)).double() for _ in range(20)])
    assert head[-3].bias.square().mean().sqrt() < MAX_SHIFT * 1.001
    if width == 64:  # dropout on two features loses half of the logit by itself
        torch.testing.assert_close(found.mean((0, 1)), logits, rtol=0, atol=0.8)
        assert found.std((0, 1)).max() < 2.5
    start_head_at(head, torch.zeros(labels, dtype=torch.float64))  # balanced classes
    assert all(p.isfinite().all() for p in head.parameters()) and not head[-3].bias.any()
