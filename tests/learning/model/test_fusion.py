"""Fusion of batch norm into convolutions."""

import threading

import pytest
import torch

from tests.learning.archs import ARCHS
from xrayfast.learning.model.fusion import fuse_batch_norm
from xrayfast.learning.model.weights import load_backbone


@pytest.mark.parametrize("arch", ARCHS)
def test_folding_batch_norm_changes_neither_the_output_nor_the_network(arch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = torch.nn.Sequential(*load_backbone(arch).blocks.values())
        for module in body.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        x = torch.rand(2, 3, 64, 64)
        whole = torch.nn.Sequential(body, torch.nn.Flatten()).eval()
        with torch.no_grad():
            expected = whole(x)
            found = fuse_batch_norm(whole)(x)
            again = whole(x)
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
    assert torch.equal(again, expected)


def test_folding_removes_the_batch_norm_layers():
    body = torch.nn.Sequential(*load_backbone("resnet18").blocks.values())
    with torch.random.fork_rng():
        whole = fuse_batch_norm(torch.nn.Sequential(body, torch.nn.Flatten()))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in whole.modules())


class BesideAnother(torch.nn.Module):
    """A network in whose forward pass another thread computes with another network."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        self.outputs = []

    def forward(self, x):
        other = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
        thread = threading.Thread(target=lambda: self.outputs.append(other(torch.rand(1, 3, 8, 8))))
        thread.start()
        thread.join()
        return self.norm(self.conv(x))


def test_a_network_is_fused_while_another_thread_computes():
    """torch.fx replaces the calls of all modules of the process while it traces."""
    network = BesideAnother()
    fused = fuse_batch_norm(torch.nn.Sequential(network))
    assert [output.shape for output in network.outputs] == [(1, 2, 6, 6)]
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
