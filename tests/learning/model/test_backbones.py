import pickle

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision import models

from tests.conftest import SMALL, Payload
from tests.learning.archs import ARCHS
from xrayfast.config import ARCHS as NAMES
from xrayfast.errors import ConfigError, WeightsError
from xrayfast.learning.model import backbones
from xrayfast.learning.model.backbones import BACKBONES, describe_backbones, find_backbone
from xrayfast.learning.model.network import build_network
from xrayfast.learning.model.weights import load_backbone

BLOCKS = dict.fromkeys(BACKBONES, 5) | {"efficientnet_b0": 8}


def classify(net, features):
    """Apply the layers of torchvision's networks after the last feature map."""
    features = getattr(net, "avgpool", nn.AdaptiveAvgPool2d(1))(features)
    classifier = net.fc if hasattr(net, "fc") else net.classifier
    return classifier(features if isinstance(net, models.ConvNeXt) else features.flatten(1))


@pytest.mark.parametrize("name", ARCHS)
def test_the_blocks_in_order_compute_what_torchvision_computes(name):
    torch.manual_seed(0)
    net = BACKBONES[name].build(weights=None).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        last_map = nn.Sequential(BACKBONES[name].blocks(net))(x)
        assert last_map.shape[1] == BACKBONES[name].features or not BACKBONES[name].features
        found = classify(net, last_map)
        assert torch.equal(found, net(x))  # no tolerance, as random weights can give 1e-14
    assert not torch.equal(found[0], found[1])


def test_describe_counts_every_row_without_drawing_random_numbers():
    before = torch.get_rng_state()
    rows = {row["arch"]: row for row in describe_backbones() if row["arch"] != SMALL["arch"]}
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: len(row["blocks"]) for name, row in rows.items()} == BLOCKS
    assert rows["resnet18"]["parameters"] == 11_176_512
    assert rows["vgg16"]["parameters"] == 14_714_688
    own = {name: row["classifier_parameters"] for name, row in rows.items() if row["classifier_parameters"]}
    assert own == dict.fromkeys(("vgg16", "vgg16_bn"), (25088 + 1) * 4096 + (4096 + 1) * 4096)


@pytest.mark.parametrize("name", [name for name, row in BACKBONES.items() if row.classifier is None])
def test_a_classifier_without_hidden_layers_cannot_be_kept(name):
    """torchvision's classifier then has one linear layer, after at most normalization, pooling and dropout."""
    with torch.device("meta"):
        net = BACKBONES[name].build(weights=None)
    classifier = net.fc if hasattr(net, "fc") else net.classifier
    assert sum(isinstance(layer, nn.Linear) for layer in classifier.modules()) == 1
    with pytest.raises(
        ConfigError, match=rf"the classifier of {name} has no hidden layers to keep.*head='linear' or 'mlp'.*vgg16, vgg"
    ):
        BACKBONES[name].divide(net, with_classifier=True)


def test_an_unknown_arch_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'resnet18'"):
        find_backbone("resnet81")


@pytest.fixture(scope="module")
def donor():
    torch.manual_seed(1)
    return BACKBONES["mobilenet_v2"].build(weights=None)


def first_weight(backbone):
    return next(backbone.blocks["stem"].parameters()).detach()


@pytest.mark.parametrize("form", ["whole", "body", "half", "nested", "prefixed", "safetensors"])
def test_weights_in_every_form(donor, tmp_path, form):
    state = donor.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "body":
        state = {k: v for k, v in state.items() if k.startswith("features.")}
    if form == "half":
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    if form == "nested":
        state = {"epoch": 3, "state_dict": state}
    if form == "prefixed":
        state = {"module." + k: v for k, v in state.items()}
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    backbone = load_backbone("mobilenet_v2", str(path))
    expected = next(donor.parameters()).detach()
    torch.testing.assert_close(first_weight(backbone), expected, atol=1e-3 if form == "half" else 0, rtol=0)
    assert first_weight(backbone).dtype == torch.float32
    head = ("classifier.1.bias", "classifier.1.weight")
    assert backbone.unused == {"body": (), "prefixed": tuple("module." + key for key in head)}.get(form, head)


def test_tensors_that_are_not_used_are_listed(donor, tmp_path):
    torch.save(donor.state_dict() | {"extra.weight": torch.zeros(1)}, tmp_path / "w.pth")
    head = ("classifier.1.bias", "classifier.1.weight")
    assert load_backbone("mobilenet_v2", str(tmp_path / "w.pth")).unused == (*head, "extra.weight")


def test_weights_of_another_network_are_refused_with_the_keys(donor, tmp_path):
    torch.save(donor.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"does not fit resnet18.*missing.*conv1\.weight"):
        load_backbone("resnet18", str(tmp_path / "w.pth"))
    wrong = donor.state_dict() | {"features.0.0.weight": torch.zeros(3, 3)}
    torch.save(wrong, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"features\.0\.0\.weight is 3x3, expected 32x3x3x3"):
        load_backbone("mobilenet_v2", str(tmp_path / "x.pth"))


@pytest.fixture
def vgg_state(tiny_vgg):
    torch.manual_seed(1)
    return BACKBONES[tiny_vgg].build().state_dict()


@pytest.mark.parametrize("form", ["torchvision", "half", "run"])
def test_weights_of_the_network_s_own_classifier_are_loaded(vgg_state, tmp_path, form):
    state = {k: v.half() for k, v in vgg_state.items()} if form == "half" else vgg_state
    if form == "run":
        network = build_network("tiny_vgg", 2, head="classifier")
        state = {key: torch.rand(tensor.shape) for key, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    classifier = load_backbone("tiny_vgg", str(tmp_path / "w.pth"), with_classifier=True).blocks["classifier"]
    for name, number in (("fc1", 0), ("fc2", 3)):
        for kind in ("weight", "bias"):
            expected = state[f"0.5.{name}.{kind}" if form == "run" else f"classifier.{number}.{kind}"]
            assert torch.equal(classifier.state_dict()[f"{name}.{kind}"], expected.float())


def test_weights_without_the_network_s_own_classifier_name_what_is_missing(vgg_state, tmp_path):
    torch.save({k: v for k, v in vgg_state.items() if k.startswith("features.")}, tmp_path / "features.pth")
    missing = (
        r"classifier\.0\.bias, classifier\.0\.weight, classifier\.3\.bias, classifier\.3\.weight\. .*whole network"
    )
    with pytest.raises(WeightsError, match=rf"features\.pth: .*but not its classifier; missing are {missing}"):
        load_backbone("tiny_vgg", str(tmp_path / "features.pth"), with_classifier=True)
    load_backbone("tiny_vgg", str(tmp_path / "features.pth"))
    safetensors.torch.save_file(build_network("tiny_vgg", 2).state_dict(), tmp_path / "run.safetensors")
    with pytest.raises(WeightsError, match=r"but not its classifier; missing are 5\.fc1\.bias, 5\.fc1\.weight"):
        load_backbone("tiny_vgg", str(tmp_path / "run.safetensors"), with_classifier=True)


def test_the_classifier_of_a_run_is_left_out_where_another_head_starts_from_it(vgg_state, tmp_path):
    state = build_network("tiny_vgg", 2, head="classifier").state_dict()
    safetensors.torch.save_file(state, tmp_path / "run.safetensors")
    blocks = load_backbone("tiny_vgg", str(tmp_path / "run.safetensors")).blocks
    assert list(blocks)[-1] == "block5" and torch.equal(blocks["block1"][0].weight, state["0.0.0.weight"])


def test_a_classifier_of_another_shape_is_refused_with_both_shapes(vgg_state, tmp_path):
    torch.save(vgg_state | {"classifier.3.weight": torch.zeros(500, 16)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"classifier\.3\.weight is 500x16, expected 16x16"):
        load_backbone("tiny_vgg", str(tmp_path / "w.pth"), with_classifier=True)


def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path):
    trace = tmp_path / "ran"
    for content in ({"weight": Payload(str(trace))}, Payload(str(trace))):
        with (tmp_path / "evil.pth").open("wb") as file:
            pickle.dump(content, file)
        with pytest.raises(WeightsError, match="never loaded because they can run code"):
            load_backbone("resnet18", str(tmp_path / "evil.pth"))
        torch.save(content, tmp_path / "evil2.pth")
        with pytest.raises(WeightsError, match="never loaded"):
            load_backbone("resnet18", str(tmp_path / "evil2.pth"))
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x05.", b"\x00" * 100])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_damaged_weights_are_a_named_error(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        load_backbone("resnet18", str(tmp_path / name))


def test_a_missing_file_is_a_named_error(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        load_backbone("resnet18", str(tmp_path / "nowhere.pth"))


def test_unavailable_imagenet_weights_are_an_error_with_three_remedies(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError) as caught:
        load_backbone("vgg16_bn", "imagenet")
    message = str(caught.value)
    for words in ("vgg16_bn-6c64b313.pth", str(tmp_path), "weights=FILE", "weights='none'", "Three ways out"):
        assert words in message


def test_real_imagenet_weights(shared, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(shared / "torch"))
    backbone = load_backbone("resnet18", "imagenet")
    assert float(first_weight(backbone).std()) == pytest.approx(0.129, abs=0.01)
    vgg = load_backbone("vgg16", str(shared / "weights" / "vgg16_features_imagenet1k_v1_fp16.pth"))
    assert vgg.unused == ()
    with pytest.raises(WeightsError, match=r"missing are classifier\.0\.bias, classifier\.0\.weight"):
        file = shared / "weights" / "vgg16_features_imagenet1k_v1_fp16.pth"
        load_backbone("vgg16", str(file), with_classifier=True)
    assert backbones.BACKBONES["vgg16"].name == "vgg16"


def test_names_that_are_not_looked_up_before_the_data_are_opened_are_backbones():
    assert {*NAMES} <= {*BACKBONES}
