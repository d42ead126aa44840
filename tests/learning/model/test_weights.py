"""Weight files as found in practice: with other names, next to other content, and unusable."""

import os
import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import safetensors.torch
import torch
from torchvision.models import resnet50

from tests.conftest import SMALL
from xrayfast.errors import WeightsError
from xrayfast.learning.device import on_meta_device
from xrayfast.learning.model import weights
from xrayfast.learning.model.backbones import BACKBONES
from xrayfast.learning.model.network import build_network
from xrayfast.learning.model.weights import load_backbone, load_weights, read_weights

VARIANCE, FIRST, COUNTER = "layer1.0.bn1.running_var", "conv1.weight", "bn1.num_batches_tracked"


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    return BACKBONES[SMALL["arch"]].build().state_dict()


def loaded(state, path, arch=SMALL["arch"]):
    torch.save(state, path)
    return load_backbone(arch, str(path))


def first(backbone):
    return next(backbone.blocks["stem"].parameters()).detach()


@pytest.mark.parametrize("prefix", ["net.", "module.", "resnet18.", "module.model.encoder.", "model.0.", "_orig_mod."])
def test_any_wrapper_prefix_is_removed(resnet, tmp_path, prefix):
    state = {prefix + key: value for key, value in resnet.items()} | {"classifier.weight": torch.zeros(14, 64)}
    backbone = loaded(state, tmp_path / "w.pth")
    assert torch.equal(first(backbone), resnet[FIRST])
    assert backbone.unused == tuple(sorted(("classifier.weight", f"{prefix}fc.bias", f"{prefix}fc.weight")))


def test_a_wrapped_network_of_a_run(tmp_path):
    state = {
        key: torch.rand_like(value.float()).to(value)
        for key, value in build_network("tiny_resnet", 2).state_dict().items()
    }
    backbone = loaded({"module." + key: value for key, value in state.items()}, tmp_path / "w.pth")
    assert torch.equal(first(backbone), state["0.0.conv1.weight"])
    assert all(name.startswith("module.1.") for name in backbone.unused) and backbone.unused


def test_two_networks_in_one_file_are_refused_by_name(resnet, tmp_path):
    state = {f"{which}.{key}": value for which in ("student", "teacher") for key, value in resnet.items()}
    with pytest.raises(
        WeightsError, match=r"contains 2 networks that fit tiny_resnet, under the names student\., teacher\."
    ):
        loaded(state, tmp_path / "w.pth")


def test_names_of_old_densenets(tmp_path):
    torch.manual_seed(1)
    state = BACKBONES["densenet121"].build(weights=None).state_dict()
    old = {}
    for key, value in state.items():
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in key:
                key = key.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.")
        old[f"module.densenet121.{key}"] = value
    assert "module.densenet121.features.denseblock1.denselayer1.norm.1.weight" in old
    blocks = loaded({"state_dict": old}, tmp_path / "w.pth", "densenet121").blocks
    expected = state["features.denseblock4.denselayer16.conv2.weight"]
    assert torch.equal(blocks["dense4"][0].denselayer16.conv2.weight, expected)


def test_numpy_scalars_next_to_the_tensors_are_accepted(resnet, tmp_path):
    content = {"state_dict": resnet, "best": np.float64(0.9), "epoch": np.int64(3), "done": np.bool_(True)}
    assert torch.equal(first(loaded(content, tmp_path / "w.pth")), resnet[FIRST])


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        (FIRST, lambda t: t.index_fill(0, torch.tensor([0]), torch.nan), "147 NaN values and 0 infinite"),
        (FIRST, lambda t: t.index_fill(0, torch.tensor([0]), torch.inf), "0 NaN values and 147 infinite"),
        (FIRST, lambda t: t.double().clamp(min=0).add(1e300), "infinite"),
        (FIRST, lambda t: t.to(torch.int8), "is of type int8"),
        (FIRST, lambda t: t.to(torch.complex64), "is of type complex64"),
        (FIRST, lambda t: t.bool(), "is of type bool"),
        (FIRST, lambda t: t.to(torch.float8_e4m3fn), "is of type float8_e4m3fn"),
        (COUNTER, lambda t: t + 0.5, "is of type float32; expected finite whole numbers"),
        (FIRST, lambda t: t.to("meta"), "is on the meta device"),
        (FIRST, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is quantized"),
        (FIRST, lambda t: t.to_sparse(), "is sparse"),
        (VARIANCE, lambda t: t - 2, "has negative variances"),
        (VARIANCE, torch.zeros_like, "is all zeros"),
        (FIRST, torch.zeros_like, "is all zeros"),
        (FIRST, lambda t: t * 1e30, r"has values of up to \de\+\d\d, but trained networks have none above 1e\+06"),
        (VARIANCE, lambda t: t * 1e30, r"has values of up to 1e\+30, .* none above 1e\+12"),
    ],
)
def test_implausible_values_are_refused(resnet, tmp_path, key, change, words):
    with pytest.raises(WeightsError, match=rf"w\.pth: {key} .*{words}"):
        loaded(resnet | {key: change(resnet[key])}, tmp_path / "w.pth")


def test_sparse_weights_are_named_when_the_settings_are_checked(resnet, tmp_path):
    with on_meta_device(), pytest.raises(WeightsError, match=f"{FIRST} is sparse"):
        loaded(resnet | {FIRST: resnet[FIRST].to_sparse()}, tmp_path / "w.pth")


def test_zeros_that_networks_have_by_design_are_no_damage(resnet, tmp_path):
    """Zeros of `zero_init_residual`, and zero biases; dead channels have a variance of 0."""
    state = resnet50(zero_init_residual=True).state_dict()
    assert not state["layer1.0.bn3.weight"].any()
    loaded(state, tmp_path / "w.pth", "resnet50")
    dead = {VARIANCE: resnet[VARIANCE].index_fill(0, torch.arange(7), 0)}
    loaded(resnet | dead | {key: t * 0 for key, t in resnet.items() if key.endswith("bias")}, tmp_path / "w.pth")


@pytest.mark.slow
def test_no_fresh_network_is_taken_for_damaged(monkeypatch):
    for arch, backbone in BACKBONES.items():
        state = backbone.build(weights=None).state_dict()
        monkeypatch.setattr(weights, "read_weights", lambda path, state=state: state)
        load_backbone(arch, "fresh.pth")


def test_no_pretrained_network_is_taken_for_damaged(shared):
    """Check the weight files that exist next to the checkout, each with its architecture."""
    folder = shared / "torch/hub/checkpoints"
    found = {
        backbone.name: folder / Path(backbone.weights.url).name for backbone in BACKBONES.values() if backbone.weights
    }
    there = {arch: str(path) for arch, path in found.items() if path.is_file()}
    assert len(there) >= 2
    for arch, path in there.items():
        load_backbone(arch, path)


def test_unused_tensors_may_have_any_value(resnet, tmp_path):
    loaded(resnet | {"fc.weight": torch.full((1000, 64), torch.nan), "seen": torch.tensor(3)}, tmp_path / "w.pth")


def test_the_weights_of_a_run_are_checked_too(tmp_path):
    network = build_network("tiny_resnet", 2)
    for change in (lambda t: t * torch.nan, lambda t: t.to(torch.int8)):
        state = network.state_dict() | {"1.2.weight": change(network.state_dict()["1.2.weight"])}
        safetensors.torch.save_file(state, tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match=r"model\.safetensors: 1\.2\.weight .*expected finite floats"):
            load_weights(network, tmp_path / "model.safetensors")


def test_the_weights_of_a_run_are_as_they_were_written(tiny_run, tmp_path):
    """A checksums.txt in another folder is ignored."""
    path = shutil.copytree(tiny_run.path, tmp_path / "run") / "model.safetensors"
    state = safetensors.torch.load_file(path)
    load_backbone("tiny_resnet", str(path))
    safetensors.torch.save_file({name: t * 2 if t.is_floating_point() else t for name, t in state.items()}, path)
    with pytest.raises(WeightsError, match=r"model\.safetensors: has changed since it was written"):
        load_backbone("tiny_resnet", str(path))
    (tmp_path / "checksums.txt").write_text(f"{'0' * 64}  model.safetensors\n")
    shutil.move(path, tmp_path)
    load_backbone("tiny_resnet", str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_weights_is_a_regular_file(tmp_path, suffix):
    os.mkfifo(tmp_path / f"w{suffix}")
    for path, words in ((tmp_path / f"w{suffix}", "found a pipe"), (tmp_path, "found a folder|found a pipe")):
        with pytest.raises(WeightsError, match=words):
            read_weights(path)
        with pytest.raises(WeightsError, match=words):
            load_weights(build_network("tiny_resnet", 2), path)


def test_a_packed_state_dict_is_refused_before_it_is_unpacked(tmp_path):
    """torch.save does not compress: a megabyte that unpacks to a gigabyte is made to fill the memory."""
    torch.save({"conv.weight": torch.zeros(10**7)}, tmp_path / "w.pth")
    with ZipFile(tmp_path / "w.pth") as plain, ZipFile(tmp_path / "packed.pth", "w", ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert (tmp_path / "packed.pth").stat().st_size < 10**5
    with pytest.raises(WeightsError, match=r"is compressed: 40.* MB in a file of"):
        read_weights(tmp_path / "packed.pth")
