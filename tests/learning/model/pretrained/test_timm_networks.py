"""timm networks as backbones, compared with timm on random weights."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from xrayfast.config import ModelConfig
from xrayfast.errors import ConfigError, WeightsError
from xrayfast.learning.dataloaders.augment import normalize
from xrayfast.learning.inference.predictor import Predictor
from xrayfast.learning.inference.saliency import grad_cam, grad_cam_images, weight_dependence
from xrayfast.learning.model.layers import describe_layers
from xrayfast.learning.model.network import build_network
from xrayfast.learning.model.pretrained import timm_networks
from xrayfast.learning.model.subnetworks import split_network
from xrayfast.learning.model.weights import load_backbone
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.build_learner import build_layers
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.synthetic import phantom

timm = pytest.importorskip("timm")

TINY = "test_vit"
FAMILIES = {
    "resnet26": ["conv1", "layer1", "layer2", "layer3", "layer4"],
    "efficientnet_b0": ["conv_stem", *(f"blocks.{n}" for n in range(7))],
    "convnext_atto": ["stem", *(f"stages.{n}" for n in range(4))],
    "vit_tiny_patch16_224": ["cls_token", *(f"blocks.{n}" for n in range(12))],
    "swin_tiny_patch4_window7_224": ["patch_embed", *(f"layers.{n}" for n in range(4))],
    "regnety_002": ["stem", "s1", "s2", "s3", "s4"],
    "mobilenetv3_small_050": ["conv_stem", *(f"blocks.{n}" for n in range(6))],
    "maxvit_tiny_rw_224": ["stem", *(f"stages.{n}" for n in range(4))],
}
CASES = [(TINY, 64), *(pytest.param(name, 224, marks=pytest.mark.slow) for name in FAMILIES)]
families = pytest.mark.parametrize(("name", "size"), CASES)


def build(name, size, head="fastai", weights="none", **options):
    settings = ModelConfig(arch=f"timm:{name}", weights=weights, head=head, size=size, **options)
    with isolated_rng(0):
        return build_layers(dict(settings), "abc", "blocks")


def images(size, n=2):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(3))


def reference(net, batch):
    """Return timm's features of images in [0, 1], normalized with its own statistics, as (N, C, h, w)."""
    known = net.pretrained_cfg
    mean, std = (torch.tensor(known[which]).view(1, 3, 1, 1) for which in ("mean", "std"))
    features = net.forward_features((batch.repeat(1, 3, 1, 1) - mean) / std)
    if features.ndim == 4:
        return features if features.shape[1] == net.num_features else features.permute(0, 3, 1, 2)
    n, _, width = features.shape
    side = net.patch_embed.grid_size
    return features[:, net.num_prefix_tokens :].reshape(n, *side, width).permute(0, 3, 1, 2)


@families
def test_features_equal_timms_with_its_normalization(name, size):
    backbone = load_backbone(f"timm:{name}", size=size).blocks["timm"].eval()
    fixed = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    theirs = timm.create_model(name, num_classes=0, **fixed).eval()
    theirs.load_state_dict(backbone.net.state_dict(), strict=False)
    with torch.no_grad():
        ours, expected = backbone(normalize(images(size))), reference(theirs, images(size))
    assert ours.shape == expected.shape and ours.ndim == 4
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@families
def test_layer_groups_are_timms_blocks_and_contain_each_parameter_once(name, size):
    network = build(name, size)
    names = [group.name for group in network.groups]
    assert names == [*FAMILIES.get(name, ["cls_token", *(f"blocks.{n}" for n in range(6))]), "head"]
    listed = [id(parameter) for group in network.groups for parameter in group.parameters]
    assert sorted(listed) == sorted(map(id, network.model.parameters()))
    with torch.enable_grad():
        network.model.train()(normalize(images(size))).sum().backward()
    assert all(parameter.grad is not None for parameter in network.model.parameters())


@families
def test_frozen_features_equal_those_that_the_network_computes(name, size):
    network = build(name, size)
    model, count = network.model.eval(), len(network.groups) - 1
    with torch.no_grad():
        frozen, rest = split_network(model, network.groups, count)
        torch.testing.assert_close(rest(*frozen(normalize(images(size))))[0], model(normalize(images(size))))


@families
def test_maps_are_of_the_last_features_and_depend_on_the_weights(name, size):
    """With a linear head, heat is the positive part of weights times map; random weights give other maps."""
    model = build(name, size, head="linear").model.eval()
    batch = normalize(images(size))
    with torch.no_grad():
        map_, weight = model[0](batch), model[1][-1].weight
    every = torch.einsum("nchw,lc->lnhw", map_, weight)
    label = int(every.mean(dim=(1, 2, 3)).argmax())  # with random weights, some labels have no positive cell
    expected = every[label].relu()
    expected = expected / expected.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(grad_cam(model, batch, torch.tensor([label] * 2)), expected, rtol=1e-3, atol=1e-4)
    predictor = Predictor(model, Decision("single", ("a", "b", "c")), size)
    shown = [phantom("normal", patient=patient, size=size) for patient in range(4)]
    maps = grad_cam_images(predictor, shown, [label] * 4)
    assert maps.shape[1] >= 4
    assert weight_dependence(predictor, shown, [label] * 4, maps, draws=2) < 0.5


@families
def test_a_state_dict_saved_by_timm_can_be_loaded(name, size, tmp_path):
    """A plain state dict of timm, including its classifier, is a valid weight file."""
    fixed = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    net = timm.create_model(name, **fixed)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    network = build(name, size, weights=str(tmp_path / "w.pth"))
    for key, tensor in network.model[0][0].net.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[key]), key
    assert "Not used" in network.notes[0]


def raising(error):
    """Return a function that raises the error, whatever its arguments."""

    def fail(*arguments, **options):
        raise error

    return fail


def test_only_safetensors_are_downloaded_from_the_hub(tmp_path, monkeypatch):
    """The weights equal those that timm loads itself, at another image size, so that it resamples positions."""
    net, asked = timm.create_model(TINY), []
    save_file(net.state_dict(), tmp_path / "model.safetensors")

    def download(repo_id, filename, revision=None):
        asked.append((repo_id, filename))
        return str(tmp_path / "model.safetensors")

    class ReadTimeout(Exception):
        """The error of a slow server, named as in httpx."""

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", raising(ReadTimeout()))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    network = build(TINY, 64, weights="imagenet")
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors")]
    overlay = {"file": str(tmp_path / "model.safetensors")}
    theirs = timm.create_model(TINY, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=64)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(network.model[0][0].net.state_dict()[key], tensor), key


def test_unavailable_weights_are_an_error_with_three_remedies(monkeypatch):
    class ConnectError(Exception):
        """The error if there is no network, named as in httpx."""

    # hf_hub_download would try again for 20 s.
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", raising(ConnectError("no network")))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", raising(AssertionError("called")))
    with pytest.raises(WeightsError, match=r"(?s)timm:test_vit .*can't be downloaded \(no network\).*Three ways out"):
        build(TINY, 64, weights="imagenet")
    with pytest.raises(WeightsError, match="timm has no weights for timm:mixer_s32_224"):
        timm_networks.build_timm("timm:mixer_s32_224", 224, pretrained=True)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("timm:resnet27", r"timm [\d.]+ has no such network. Did you mean 'resnet26'"),
        ("timm:hf-hub:someone/net", "has no such network"),
        ("timm:local-dir:/tmp", "has no such network"),
        ("timm:../x", "has no such network"),
        ("timm:test_vit.no_such_tag", "has no such network|can't take"),
    ],
)
def test_names_unknown_to_timm_are_refused(arch, words):
    with pytest.raises(ConfigError, match=words):
        build_network(arch, 2)


def test_unsupported_sizes_layers_and_classifiers_are_refused():
    with pytest.raises(ConfigError, match=r"can't take images of 72 px: .*Use size=160, its default"):
        build_network(f"timm:{TINY}", 2, size=72)
    with pytest.raises(ConfigError, match=r"can't be divided into layers\. Use unfreeze_blocks="):
        describe_layers(f"timm:{TINY}")
    with pytest.raises(ConfigError, match="can't be divided into layers"):
        build_layers(dict(ModelConfig(arch=f"timm:{TINY}", weights="none", size=64)), "ab", "layers")
    with pytest.raises(ConfigError, match="head is classifier"):
        build_network(f"timm:{TINY}", 2, head="classifier", size=64)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm can't be imported .*pip install 'xrayfast\[timm\]'"):
        build_network("timm:resnet26", 2)
