"""Optimizer steps compared with fastai's, number by number."""

import pytest
import torch
from fastai.optimizer import SGD, Adam
from torch import nn

from xrayfast.learning.model.optimizers import make_optimizer


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2))


def trained(opt_func, steps=8):
    with torch.random.fork_rng():
        net = network()
        opt = opt_func([list(net[:2].parameters()), list(net[2:].parameters())], lr=0.01)
        opt.set_hypers(wd=0.1, lr=[0.003, 0.02])
        for parameter in (net[0].bias, *net[1].parameters(), net[3].bias):
            opt.state[parameter]["do_wd"] = False
        x, y = torch.randn(32, 5), torch.randint(2, (32,))
        for step in range(steps):
            if step == 3:
                opt.freeze_to(1)
            if step == 5:
                opt.freeze_to(0)
            opt.set_hyper("mom", 0.95 - 0.01 * step)
            nn.functional.cross_entropy(net(x), y).backward()
            opt.step()
            opt.zero_grad()
            for parameter in net[:2].parameters():
                parameter.grad = None
        return net, opt


@pytest.mark.parametrize(("name", "reference"), [("adam", Adam), ("sgd", SGD)])
def test_steps_equal_fastais(name, reference):
    from functools import partial

    ours, opt = trained(make_optimizer(name, 0.9))
    theirs, their_opt = trained(partial(reference, mom=0.9))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-5)
    for state, wanted in zip(opt.state_dict()["state"], their_opt.state_dict()["state"], strict=True):
        assert set(state) >= {"grad_avg"}
        for average in wanted.keys() & {"grad_avg", "sqr_avg"}:
            torch.testing.assert_close(state[average], wanted[average], atol=1e-6, rtol=1e-5)


def test_beta2_and_eps_of_adam_are_those_of_torch():
    # In float64: the gradient of a bias before batch norm is only rounding error, which a small eps does not suppress.
    ours, theirs = network().double(), network().double()
    opt = make_optimizer("adam", 0.9, beta2=0.999, eps=1e-8)([list(ours.parameters())], lr=1e-3, wd=0.0)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    x, y = torch.randn(32, 5, generator=torch.Generator().manual_seed(1)).double(), torch.arange(32) % 2
    for _ in range(8):
        for net, optimizer in ((ours, opt), (theirs, reference)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


def test_a_state_that_was_saved_in_another_memory_format_is_converted():
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    opt = make_optimizer("adam", 0.9)([list(net.parameters())], lr=0.1)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    opt.step()
    saved = [
        {k: v.contiguous() if isinstance(v, torch.Tensor) else v for k, v in s.items()} for s in opt.state.values()
    ]
    average = saved[0]["grad_avg"]
    opt.load_state_dict({"state": saved, "hypers": opt.hypers})
    assert opt.state[net.weight]["grad_avg"].stride() == net.weight.stride() != average.stride()
    assert torch.equal(opt.state[net.weight]["grad_avg"], average)


def test_a_state_of_fastais_adam_is_loaded():
    net = network()
    ours, theirs = (opt([list(net.parameters())], lr=0.1) for opt in (make_optimizer("adam", 0.9), Adam))
    net(torch.randn(4, 5)).sum().backward()
    theirs.step()
    ours.load_state_dict(theirs.state_dict())
    before = net[0].weight.detach().clone()
    ours.step()
    assert float(ours.state[net[0].weight]["step"]) == 2
    assert not torch.equal(net[0].weight, before)


def test_biases_and_batch_norm_have_no_weight_decay():
    opt_func = make_optimizer("adam", 0.9)
    net = network()
    opt = opt_func([list(net.parameters())], lr=0.1)
    opt.set_hypers(wd=0.5)
    opt.state[net[0].bias]["do_wd"] = False
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = [p.detach().clone() for p in (net[0].weight, net[0].bias)]
    opt.step()
    torch.testing.assert_close(net[0].weight, before[0] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(net[0].bias, before[1])
