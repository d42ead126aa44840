"""Weights of another run: which rows of its head are used, and which networks do not fit."""

import os
import shutil

import pytest
import torch
from torch import nn

import xrayfast as xf
from tests.conftest import UNCHECKED
from xrayfast.config import ModelConfig
from xrayfast.errors import WeightsError
from xrayfast.files.checksums import file_digest
from xrayfast.learning.model.weights import read_weights
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.build_learner import build_layers

LABELS = ("covid-19", "normal", "pneumonia")  # of tiny_run


def build(weights, labels=LABELS, code=None, **options):
    settings = dict(ModelConfig(arch=options.pop("arch", "tiny_resnet"), size=32, **options)) | {
        "weights": os.fspath(weights)
    }
    with isolated_rng(0):
        return build_layers(settings, labels, "blocks", code or {})


@pytest.fixture(scope="module")
def theirs(tiny_run):
    assert tiny_run.labels == LABELS
    return read_weights(tiny_run.model_path)


def test_all_weights_of_a_run_with_the_same_labels_are_loaded(tiny_run, theirs):
    network = build(tiny_run.path)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in network.model.state_dict().items())
    assert network.notes == (
        f"The backbone starts from the run {tiny_run.path}; the head too, because the labels are the same.",
    )
    assert network.weights == str(tiny_run.path)
    assert network.start.sha256 == file_digest(tiny_run.model_path)


def test_head_rows_are_copied_for_shared_labels_in_any_spelling_and_order(tiny_run, theirs):
    labels = ("Pneumonia", "effusion", "COVID 19")
    network, fresh = build(tiny_run.path, labels), build("none", labels).model.state_dict()
    own = network.model.state_dict()
    last = [key for key in own if own[key].shape[:1] == (3,)]
    assert last == ["1.8.weight"]
    for key, tensor in own.items():
        if key not in last:
            assert torch.equal(tensor, theirs[key]), key
    rows = own["1.8.weight"]
    assert torch.equal(rows[0], theirs["1.8.weight"][2]) and torch.equal(rows[2], theirs["1.8.weight"][0])
    assert torch.equal(rows[1], fresh["1.8.weight"][1])
    assert network.notes == (
        f"The backbone starts from the run {tiny_run.path}; the head too, with its outputs for Pneumonia, COVID 19; "
        "those for effusion from random weights; that run's outputs for normal are not used.",
        "'pneumonia' of that run is used for 'Pneumonia'.",
        "'covid-19' of that run is used for 'COVID 19'.",
    )


def test_without_a_label_in_common_the_head_is_reinitialized(tiny_run, theirs):
    network, fresh = build(tiny_run.path, "abcd"), build("none", "abcd").model.state_dict()
    for key, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, theirs[key] if key.startswith("0.") else fresh[key]), key
    text = "the head from random weights, because the data have none of that run's labels (covid-19, normal, "
    assert f"{text}pneumonia)." in network.notes[0]


def test_a_weight_file_of_a_run_gives_only_the_backbone(tiny_run, theirs):
    network, fresh = build(tiny_run.model_path), build("none").model.state_dict()
    for key, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, theirs[key] if key.startswith("0.") else fresh[key]), key
    assert network.start.sha256 == file_digest(tiny_run.model_path) and not network.start.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"arch": "resnet34"},
            r"tiny: is a tiny_resnet, but arch is resnet34\. Use arch='tiny_resnet', or use weights of",
        ),
        (
            {"head": "mlp"},
            r"head fastai with 512 hidden units; expected mlp with 512 hidden units, .* Use head='fastai'\. With"
            r".*model\.safetensors' loads only the backbone",
        ),
        ({"head": "linear"}, "expected linear with no hidden units"),
        ({"head_width": (64, 32)}, "expected fastai with 64, 32 hidden units"),
    ],
)
def test_another_arch_or_head_is_refused_with_both_named(tiny_run, options, words):
    with pytest.raises(WeightsError, match=words):
        build(tiny_run.path, **options)


def test_a_folder_that_is_no_run_and_a_run_without_weights(tiny_run, tmp_path):
    with pytest.raises(WeightsError, match=r"weights: .* is not a run's folder: it lacks run\.json"):
        build(tmp_path)
    folder = shutil.copytree(tiny_run.path, tmp_path / "run", ignore=UNCHECKED)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="No epoch was completed"):
        build(folder)


class Whole(nn.Module):
    """A custom whole network."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


def test_a_custom_whole_network_needs_the_same_labels(tiny_run, tmp_path):
    from xrayfast.learning.model.weights import save_weights

    folder, net = shutil.copytree(tiny_run.path, tmp_path / "run", ignore=UNCHECKED), Whole()
    run = xf.Run(folder)
    run.write_config(run.config.updated({"arch": "own:Whole", "head": "none"}))
    save_weights(net, run.new_model_path)
    code = {"arch": Whole}
    network = build(run, code=code, arch="own:Whole", head="none")
    assert torch.equal(network.model.fc.weight, net.fc.weight)
    assert "the labels are the same" in network.notes[-1]
    with pytest.raises(WeightsError, match="is a whole network for the labels covid-19, normal, pneumonia"):
        build(run, "abc", code=code, arch="own:Whole", head="none")
    with pytest.raises(WeightsError, match=r"is a Whole \(own code\), but arch is tiny_resnet\. Give Whole"):
        build(run)
