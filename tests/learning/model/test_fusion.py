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


def test_networks_are_fused_while_other_threads_compute():
    """torch.fx replaces the calls of all modules of the process while it traces."""
    body = torch.nn.Sequential(*load_backbone("resnet18").blocks.values()).eval()
    x, stop, failures = torch.rand(1, 3, 32, 32), threading.Event(), []

    def work(call, times):
        try:
            while times and not stop.is_set():
                with torch.inference_mode():
                    call()
                times -= 1
        except Exception as error:
            failures.append(error)

    computing = threading.Thread(target=work, args=(lambda: body(x), 1000))
    fusing = [threading.Thread(target=work, args=(lambda: fuse_batch_norm(body), 3)) for _ in range(2)]
    for thread in (computing, *fusing):
        thread.start()
    for thread in fusing:
        thread.join()
    stop.set()
    computing.join()
    assert not failures
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fuse_batch_norm(body).modules())
