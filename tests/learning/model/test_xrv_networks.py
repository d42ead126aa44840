"""torchvision's DenseNet with torchxrayvision's weights, although these expect one channel of another range."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import densenet

from xrayfast.config import Config
from xrayfast.errors import ConfigError, WeightsError
from xrayfast.learning.dataloaders.augment import normalize
from xrayfast.learning.model.backbones import BACKBONES, Backbone
from xrayfast.learning.model.weights import load_backbone, read_weights


def small(**options):
    return densenet.DenseNet(8, (2, 2), 16, 2, num_classes=3)


@pytest.fixture
def theirs():
    """A small network as torchxrayvision makes them: one input channel, and thresholds of its classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = small()
        net.features.conv0 = nn.Conv2d(1, 16, 7, stride=2, padding=3, bias=False)
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
    net.register_buffer("op_threshs", torch.rand(3))
    return net.eval()


def test_features_equal_torchxrayvisions_except_at_the_border(theirs, tmp_path, monkeypatch):
    row = BACKBONES["densenet121"]
    blocks = lambda net: {"stem": net.features[:2], "rest": net.features[2:]}  # noqa: E731
    monkeypatch.setitem(BACKBONES, "densenet121", Backbone("densenet121", small, None, blocks, row.pooled_side))
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    ours = load_backbone("densenet121", str(tmp_path / "a.pth"))
    assert ours.unused == ("classifier.bias", "classifier.weight", "op_threshs")
    pixels = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = ours.blocks["stem"].eval()(normalize(pixels)), theirs.features[:2]((2 * pixels - 1) * 1024)
    assert expected.std() > 100
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inner], expected[inner], rtol=1e-4, atol=0.02)
    rest = ours.blocks["rest"].eval().requires_grad_(False)
    assert torch.equal(rest(expected), theirs.features[2:].requires_grad_(False)(expected))


def test_a_name_stands_for_a_state_dict_that_torchxrayvision_makes(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    found = Config().updated({"weights": "xrv:densenet121-res224-nih"}).model.weights
    assert found == str(tmp_path / ".torchxrayvision" / "densenet121-res224-nih.pth")
    made = rf"DenseNet\(weights='densenet121-res224-nih'\)\.state_dict\(\), '{found}'\)\"\. Check the path\."
    with pytest.raises(WeightsError, match=f"found no such file; expected weights .* Make it with .*{made}"):
        read_weights(Path(found))
    with pytest.raises(
        ConfigError, match=r"xrv:densenet121-res224-nhi; expected xrv:NAME, where NAME is one of: .*nih'\?$"
    ):
        Config().updated({"weights": "xrv:densenet121-res224-nhi"})
