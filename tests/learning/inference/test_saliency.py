"""Grad-CAM compared with results by hand and an independent derivation; heat outside the thorax; random weights."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from tests.learning.archs import ARCHS
from xrayfast.data.images.reader import fit_square
from xrayfast.errors import ConfigError
from xrayfast.learning.inference import saliency
from xrayfast.learning.inference.predictor import Predictor
from xrayfast.learning.inference.saliency import central_thorax, grad_cam, grad_cam_images, share_outside
from xrayfast.learning.model.network import build_network
from xrayfast.learning.randomness import isolated_rng
from xrayfast.metrics.operating_points.decision import Decision

LABELS = ("covid-19", "normal", "pneumonia")


def predictor_of(network, size=64):
    return Predictor(network, Decision("single", LABELS), size)


def make_network(arch="resnet18"):
    with isolated_rng(1):
        return build_network(arch, len(LABELS)).eval()


def make_predictor(size=64):
    return predictor_of(make_network(), size)


@pytest.fixture(scope="module")
def bright():
    """A network with one channel, the mean brightness of 8 x 8 pixels, which raises the logit of the first label."""
    conv, last = nn.Conv2d(3, 1, 8, stride=8), nn.Linear(1, 3)
    with torch.no_grad():
        conv.weight.fill_(1 / (3 * 64))
        conv.bias.fill_(3.0)  # normalized black is -2.1
        last.weight.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
    body = nn.Sequential(nn.Sequential(conv, nn.ReLU(inplace=True)))
    return predictor_of(nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)))


# A network to compute by hand: a 1 x 1 convolution by 1 and -2, global average pooling, two outputs.


def hand_net(between=()):
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), *between, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))
        net[-1].weight.copy_(torch.tensor([[3.0, 1.0], [-1.0, 2.0]]))
    return net


IMAGE = torch.tensor([[1.0, 2.0, -1.0], [0.0, -4.0, 3.0]]).reshape(1, 1, 2, 3)


def test_grad_cam_of_average_pooling_in_closed_form():
    """relu(sum_k w_ck A_k / (h w)): for class 0 relu((3 - 2) x / 6), for class 1 relu((-1 - 4) x / 6)."""
    net = hand_net()
    heat = grad_cam(net, IMAGE.repeat(2, 1, 1, 1), torch.tensor([0, 1]), layer=net[0])
    expected = torch.tensor([[[1, 2, 0], [0, 0, 3]], [[0, 0, 1], [0, 4, 0]]]) / torch.tensor([3, 4]).reshape(2, 1, 1)
    torch.testing.assert_close(heat, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("inplace", [False, True])
def test_an_in_place_relu_does_not_falsify_the_map_before_it(inplace):
    """The map is of the convolution's x and -2x; 3 and 2 of 6 cells pass the ReLU: (3 * 3/6 * x - 2 * 2/6 * x) / 6."""
    net = hand_net([nn.ReLU(inplace=inplace)])
    heat = grad_cam(net, IMAGE, torch.tensor([0]), layer=net[0])
    torch.testing.assert_close(heat, IMAGE[0].relu() / 3, rtol=0, atol=1e-7)
    # For class 1: (-1 * 3/6 * x - 2 * 2 * 2/6 * x) / 6, so that negative cells raise the logit.
    heat = grad_cam(net, IMAGE, torch.tensor([1]), layer=net[0])
    torch.testing.assert_close(heat, (-IMAGE[0]).relu() / 4, rtol=0, atol=1e-7)


def test_the_map_of_an_in_place_relu_is_of_its_output():
    """After the ReLU, the channels are relu(x) and relu(-2x), and the map is (3 relu(x) + relu(-2x)) / 6."""
    net = hand_net([nn.ReLU(inplace=True)])
    heat = grad_cam(net, IMAGE, torch.tensor([0]), layer=net[1])
    torch.testing.assert_close(heat, (3 * IMAGE[0].relu() + (-2 * IMAGE[0]).relu()) / 9, rtol=0, atol=1e-7)


def test_a_map_without_heat_stays_zero():
    net = hand_net()
    heat = grad_cam(net, torch.cat([IMAGE.abs(), IMAGE]), torch.tensor([1, 1]), layer=net[0])
    assert not heat[0].any()
    assert heat[1].max() == 1


def test_a_layer_without_feature_map_is_an_error():
    net = hand_net()
    with pytest.raises(ConfigError, match="Linear does not output a feature map"):
        grad_cam(net, IMAGE, torch.tensor([0]), layer=net[-1])
    assert not net[-1]._forward_hooks


def reference(network, image, label):
    """Return the map of one image by the formula, with the Jacobian of a logit with respect to the last feature map."""
    body, head = network[0], network[1]
    layers = [layer for block in body for layer in block] if isinstance(body[-1][-1], nn.MaxPool2d) else list(body)
    cut = len(layers) - 1 if isinstance(layers[-1], nn.MaxPool2d) else len(layers)
    with torch.no_grad():
        map_ = nn.Sequential(*layers[:cut])(image[None])
    rest = nn.Sequential(*layers[cut:], head)
    slope = torch.autograd.functional.jacobian(lambda values: rest(values)[0, label], map_)
    heat = torch.einsum("chw,c->hw", map_[0], slope[0].mean(dim=(1, 2))).clamp(min=0)
    return heat / heat.max() if heat.max() > 0 else heat


@pytest.mark.parametrize("arch", ARCHS)
def test_every_arch_agrees_with_an_independent_derivation(arch):
    network = make_network(arch)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    heat = grad_cam(network, images, torch.tensor([0, 1, 2]))
    assert heat.shape == ((3, 4, 4) if arch.startswith("vgg") else (3, 2, 2))
    assert heat.amax() == 1
    for label in range(3):
        torch.testing.assert_close(heat[label], reference(network, images[label], label), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["fastai", "linear", "mlp", "classifier"])
def test_with_every_head_the_map_is_that_of_the_last_convolution(tiny_vgg, head):
    with isolated_rng(1):
        network = build_network(tiny_vgg, len(LABELS), head=head).eval()
    assert saliency.feature_layer(network) is network[0][4][-2]
    images = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    heat = grad_cam(network, images, torch.tensor([0, 1, 2]))
    assert heat.shape == (3, 6, 6)
    rest = nn.Sequential(network[0][4][-1], *network[0][5:], network[1])
    for label in range(3):
        with torch.no_grad():
            map_ = nn.Sequential(*network[0][:4], network[0][4][:-1])(images[label][None])
        slope = torch.autograd.functional.jacobian(lambda values, label=label: rest(values)[0, label], map_)
        expected = torch.einsum("chw,c->hw", map_[0], slope[0].mean(dim=(1, 2))).clamp(min=0)
        torch.testing.assert_close(heat[label], expected / expected.max().clamp(min=1e-30), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", ["body", "all", "nothing"])
def test_the_network_is_unchanged(frozen):
    predictor = make_predictor()
    model = predictor.network.train()
    model[0][1].eval()  # like a frozen block under FrozenInference
    if frozen != "body":
        model.requires_grad_(frozen == "nothing")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    images, wanted = torch.rand(2, 3, 64, 64), torch.tensor([0, 2])

    def state():
        return {
            "modes": [module.training for module in model.modules()],
            "grads needed": [parameter.requires_grad for parameter in model.parameters()],
            "grads": sum(float(parameter.grad.sum()) for parameter in model.parameters()),
            "weights": sum(float(tensor.double().sum()) for tensor in model.state_dict().values()),
            "hooks": sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()),
            "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
            "grad mode": torch.is_grad_enabled(),
        }

    before = state()
    heat = grad_cam(model, images, wanted)
    assert not heat.requires_grad
    with torch.no_grad():
        assert torch.equal(grad_cam(model, images, wanted), heat)
        assert not torch.is_grad_enabled()
    saliency.randomize_weights(model, 1)
    grad_cam_images(predictor, [np.zeros((64, 64), np.uint8)], [0])
    assert state() == before


@pytest.mark.parametrize(("height", "width"), [(64, 64), (160, 80), (70, 200)])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_heat_peaks_at_the_bright_area(bright, height, width, down, right):
    image = np.full((height, width), 20, np.uint8)
    rows, columns = height // 4, width // 4
    image[down * 3 * rows : (down * 3 + 1) * rows, right * 3 * columns : (right * 3 + 1) * columns] = 255
    (heat,) = grad_cam_images(bright, [image], [0])
    assert heat.shape == (8, 8)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    brightness = fit_square(image, 64).reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert brightness[row, column] == brightness.max()
    np.testing.assert_allclose(np.corrcoef(heat.ravel(), brightness.ravel())[0, 1], 1, atol=1e-5)
    assert (row >= 4, column >= 4) == (bool(down), bool(right))


def test_maps_do_not_depend_on_the_batch_and_keep_the_order(bright):
    images = list(np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8))
    at_once = grad_cam_images(bright, images, [0, 2, 0, 0, 2])
    by_two = grad_cam_images(bright, images, [0, 2, 0, 0, 2], batch_size=2)
    assert at_once.dtype == np.float32
    np.testing.assert_allclose(at_once, by_two, atol=1e-6)
    assert len(np.unique(at_once, axis=0)) == 4  # brightness lowers the logit of label 2


def test_maps_of_several_networks_are_averaged_at_the_finest_resolution():
    coarse, fine = np.array([[0, 1], [0.5, 0]], np.float32), np.eye(4, dtype=np.float32)
    enlarged = np.asarray(Image.fromarray(coarse).resize((4, 4), Image.Resampling.BILINEAR))
    found = saliency.mean_map([torch.tensor(heat)[None].repeat(2, 1, 1) for heat in (coarse, fine)])
    np.testing.assert_allclose(found, [(enlarged + fine) / (enlarged + fine).max()] * 2, atol=1e-6)
    assert (saliency.mean_map([torch.zeros(1, 2, 2)] * 2) == 0).all()


def test_the_central_thorax_is_relative_to_the_image_and_not_its_padding():
    assert central_thorax(100, 100) == pytest.approx((0.1, 0.1, 0.9, 0.9))
    assert central_thorax(50, 100) == pytest.approx((0.3, 0.1, 0.7, 0.9))
    top, left, bottom, right = central_thorax(400, 100)
    assert (top, bottom) == pytest.approx((0.1, 0.9))
    assert (left, right) == pytest.approx((0.4, 0.6))


def test_the_thorax_of_a_wide_image_is_wide():
    heat = np.zeros((10, 10))
    heat[5, 2] = 1
    thorax = saliency.central_thorax(100, 200)
    assert (saliency.share_outside(heat, thorax), saliency.share_outside(heat.T, thorax)) == (0, 1)


def test_the_share_outside_counts_cells_by_their_area():
    heat = np.zeros((4, 4))
    heat[0, 0] = 1  # 0.15 of 0.25 in each direction are inside
    assert share_outside(heat, central_thorax(1, 1)) == pytest.approx(1 - 0.6**2)
    heat[1:3, 1:3] = 2
    assert share_outside(heat, central_thorax(1, 1)) == pytest.approx((1 - 0.6**2) / 9)
    # All heat is in the black padding of a narrow image, where rows and columns must not be confused.
    left = np.zeros((10, 10))
    left[:, 0] = 1
    assert share_outside(left, central_thorax(400, 100)) == 1
    assert share_outside(left.T, central_thorax(100, 400)) == 1
    assert share_outside(np.ones((7, 7)), central_thorax(400, 100)) == pytest.approx(1 - 0.8 * 0.2)
    assert np.isnan(share_outside(np.zeros((4, 4)), central_thorax(1, 1)))


def test_rank_correlations_agree_with_scipy_and_handle_flat_maps():
    maps, others = np.random.default_rng(1).random((2, 4, 5, 6))
    maps[1], others[2] = np.sqrt(others[1]), 1
    maps[3] = 0
    found = saliency.rank_correlations(maps, others)
    assert found[0] == pytest.approx(spearmanr(maps[0], others[0], axis=None).statistic)
    assert found[1] == pytest.approx(1)
    assert found[2] == 0
    assert np.isnan(found[3])


class Scale(nn.Module):
    """A module with a parameter that no module of torch resets, like ConvNeXt's layer scale."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.arange(50.0).reshape(50, 1, 1))


def test_all_weights_of_the_copy_are_random_and_the_seed_decides():
    model = nn.Sequential(nn.Conv2d(3, 50, 3), nn.BatchNorm2d(50), Scale(), nn.Linear(50, 3, bias=False))
    for tensor in model[1].state_dict().values():
        tensor.fill_(7)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    first, again, other = (saliency.randomize_weights(model, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    for name, values in before.items():
        assert not torch.equal(first[name], values), name
        assert torch.equal(first[name], again[name])
    for name in ("0.weight", "2.scale", "3.weight"):
        assert not torch.equal(first[name], other[name])
    assert torch.equal(first["2.scale"].sort(dim=0).values, before["2.scale"])
    assert first["1.running_var"].unique().tolist() == [1]


def test_random_weights_give_maps_with_differences_without_batch_norm():
    """With torch's own reset, 13 layers of a VGG leave nothing but their biases."""
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    body = saliency.randomize_weights(make_network("vgg16")[0], 3)
    with torch.no_grad():
        spread = body.eval()(image).std(dim=(2, 3))
    assert torch.isfinite(spread).all() and float(spread.max()) > 0.1


def test_maps_that_need_no_weights_are_detected(bright, monkeypatch):
    images = list(np.random.default_rng(0).integers(0, 256, (6, 64, 64), dtype=np.uint8))

    class Fixed(nn.Module):
        """A network in which brightness raises every logit, whatever the weights."""

        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Sequential(nn.AvgPool2d(8), nn.ReLU()))

        def forward(self, images):
            return self.body(images).mean(dim=(1, 2, 3))[:, None].expand(-1, 3)

    monkeypatch.setattr(bright, "network", Fixed())
    maps = grad_cam_images(bright, images, [0] * 6)
    fixed = saliency.weight_dependence(bright, images, [0] * 6, maps)
    assert fixed == pytest.approx(1)
    assert saliency.dependence_note(fixed, 6).startswith("Warning sign: the maps hardly change")


def test_maps_of_a_network_depend_on_its_weights():
    predictor = make_predictor(size=128)
    images = list(np.random.default_rng(0).integers(0, 256, (4, 128, 128), dtype=np.uint8))
    before = {name: values.clone() for name, values in predictor.network.state_dict().items()}
    maps = grad_cam_images(predictor, images, [0, 1, 2, 0])
    found = saliency.weight_dependence(predictor, images, [0, 1, 2, 0], maps, draws=2)
    assert abs(found) < 0.5
    assert found == saliency.weight_dependence(predictor, images, [0, 1, 2, 0], maps, draws=2)
    assert found != saliency.weight_dependence(predictor, images, [0, 1, 2, 0], maps, draws=1)
    assert all(torch.equal(values, before[name]) for name, values in predictor.network.state_dict().items())
    assert saliency.dependence_note(found, 4).startswith("The maps depend on the trained weights: mean rank")


def test_sentences_state_the_median_and_its_limit():
    calm = saliency.outside_note([0.1, 0.2, 0.9, float("nan")])
    assert "Spread evenly it would be 36%" in calm
    assert calm.endswith("In 1 more image, no region supports the explained label.")
    assert calm.startswith("20% of the heat (median over 3 images) lies outside the central thorax")
    assert "above 50% would be a warning sign" in calm
    alarm = saliency.outside_note([0.6, 0.51, 0.8])
    assert alarm.startswith("Warning sign: 60% of the heat (median over 3 images)")
    assert "corner marks" in alarm
    assert "the map is 0 everywhere" in saliency.outside_note([float("nan")])
    assert "can't be determined" in saliency.dependence_note(float("nan"), 3)
    assert "2 × 3 cells" in saliency.coarse_note((2, 3))
    assert saliency.coarse_note((4, 4)) is None
