"""The whole network against fastai's `vision_learner`."""

import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from fastai.vision.learner import create_vision_model
from torch import nn

from xrayfast.learning.model.backbones import BACKBONES
from xrayfast.learning.model.network import build_network
from xrayfast.learning.model.weights import load_backbone


@pytest.mark.parametrize(
    ("arch", "head_width"), [*((arch, ()) for arch in BACKBONES), ("resnet18", 20), ("resnet18", (20, 10))]
)
def test_under_a_seed_a_network_is_fastai_s_to_the_bit(arch, head_width):
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


@pytest.mark.parametrize("arch", list(BACKBONES))
def test_a_network_is_built_without_computing_weights_on_the_meta_device(arch):
    with torch.device("meta"):
        network = build_network(arch, 2)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    network.load_state_dict(build_network(arch, 2).state_dict(), assign=True)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_networks_losses_and_augmentation_load_no_fastai():
    modules = ("backbones", "fusion", "losses", "network", "precision", "weights")  # optimizers are fastai's
    code = "import sys\n" + "".join(f"import xrayfast.learning.model.{name}\n" for name in modules)
    code += "import xrayfast.learning.augment\nprint('fastai' in sys.modules, 'fastcore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "False"]
