"""The precision that networks compute in."""

import pytest
import torch

from xrayfast.errors import ConfigError
from xrayfast.learning.model import precision
from xrayfast.learning.model.fusion import fuse_batch_norm
from xrayfast.learning.model.precision import first_conv_in_fp32, resolve_precision
from xrayfast.learning.model.weights import load_backbone

CPU = torch.device("cpu")


def test_auto_is_bf16_only_where_the_cpu_has_units_for_it(monkeypatch):
    monkeypatch.setattr(precision, "has_amx", lambda: True)
    assert resolve_precision("auto", CPU) == "bf16"
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize("arch", ["resnet18", "vgg16", "densenet121", "efficientnet_b0", "convnext_tiny"])
@pytest.mark.parametrize("form", [lambda body: body, fuse_batch_norm])
def test_the_first_convolution_alone_is_in_float32_under_autocast(arch, form):
    with torch.random.fork_rng():
        network, types = form(first_conv_in_fp32(torch.nn.Sequential(*load_backbone(arch).blocks.values()))).eval(), []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *a: types.append(a[2].dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(torch.rand(1, 3, 64, 64))
        assert torch.is_autocast_enabled("cpu")
    assert types[0] == torch.float32
    assert set(types[1:]) == {torch.bfloat16}


def test_filters_whose_weights_cancel_out_on_gray_images_lose_nothing_to_bfloat16():
    gray = torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1).contiguous()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 7, bias=False), torch.nn.BatchNorm2d(8))
    weight = stem[0].weight.data
    weight[:, 2] = 1e-3 * weight[:, 2] - weight[:, 0] - weight[:, 1]
    expected = stem(gray)
    with torch.autocast("cpu", torch.bfloat16):
        plain, found = stem(gray), first_conv_in_fp32(stem)(gray)
    assert (plain - expected).std() > 0.1
    torch.testing.assert_close(found, expected)
