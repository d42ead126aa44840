"""Which passes are captured and when, without a GPU; `tests/test_cuda.py` compares graphs with what they stand for."""

import pytest
import torch
from torch import nn

import xrayfast as xf
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.model.precision import first_conv_in_fp32
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.optional.cuda_graphs import GraphedPasses


class OnCuda(torch.Tensor):
    """A tensor on the CPU that says it is on CUDA."""

    @property
    def device(self):
        return torch.device("cuda")


@pytest.fixture
def network():
    return first_conv_in_fp32(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1), nn.Flatten()))


@pytest.fixture
def find(network, monkeypatch):
    """Whether a batch of so many images has a graph."""
    monkeypatch.setattr(GraphedPasses, "_capture", lambda self, network, images, kind: (kind.__name__, network))
    passes = GraphedPasses()
    return lambda count=8, side=9: (
        passes.find(network, torch.zeros(count, 3, side, side).as_subclass(OnCuda)) or [""]
    )[0]


def test_a_pass_is_captured_when_it_is_seen_again(find, network):
    assert [find(), find(), find()] == ["", "_TrainingGraph", "_TrainingGraph"]
    assert [find(5), find(5), find()] == ["", "_TrainingGraph", "_TrainingGraph"]
    network.eval()
    with torch.no_grad():
        assert [find(), find()] == ["", "_InferenceGraph"]
    assert GraphedPasses().find(network, torch.zeros(8, 3, 9, 9)) is None  # on the CPU


def freeze(network):
    network[0].requires_grad_(False)


def infer(network):
    network[1].eval()


def drop_more(network):
    network[2].p = 0.5


def average_more(network):
    network[1].momentum = 1.0


def replace(network):
    network[0].weight.data = network[0].weight.data.clone()


@pytest.mark.parametrize("change", [freeze, infer, drop_more, average_more, replace])
def test_what_a_pass_depends_on_makes_it_another(find, network, change):
    find(), find()
    change(network)
    assert [find(), find()] == ["", "_TrainingGraph"]


def observe(network):
    network[1].register_forward_hook(lambda *_: None)


def hold_gradient(network):
    network[0].weight.grad = torch.zeros_like(network[0].weight)


def use_features(network):
    network.forward = lambda x: x


@pytest.mark.parametrize("change", [observe, hold_gradient, use_features])
def test_what_a_graph_would_leave_out_has_none(find, network, change):
    find(), find()
    change(network)
    assert [find(), find()] == ["", ""]


class Look(Callback):
    """Keeps the network that callbacks see after a pass, and may fail then."""

    def __init__(self, fail=False):
        self.seen, self.fail = [], fail

    def after_pred(self):
        self.seen.append(self.learn.model)
        if self.fail:
            raise KeyboardInterrupt


def test_a_learner_computes_by_graphs_while_it_is_fitted(data_dir, monkeypatch):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu", workers=0)
    losses = []
    for graphs in (False, True):
        learn = xf.learner(dls, weights="none", precision="fp32")
        learn.unfreeze()
        network, used = learn.model, []
        if graphs:
            monkeypatch.setattr(
                learn.graphs, "find", lambda net, images, used=used: lambda x: used.append(len(x)) or net(x)
            )
        look = Look()
        with isolated_rng(0), learn.no_bar(), learn.no_logging():
            dls.train.rng.seed(0)
            learn.fit(1, cbs=[look])
            losses.append([*learn.recorder.values[-1]])
            assert all(found is network for found in look.seen)
            assert bool(used) == graphs
            fitted = len(used)
            learn.get_preds()
            assert len(used) == fitted
            with pytest.raises(KeyboardInterrupt):
                learn.fit(1, cbs=[Look(fail=True)])
            assert learn.model is network
    assert losses[0] == losses[1]
