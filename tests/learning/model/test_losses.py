"""Values and gradients of the losses, compared with torch, torchvision and fastai."""

from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from xrayfast.config import DEFAULT_LOSS, LOSS_SETTINGS, LOSS_TASKS, LossName
from xrayfast.errors import ConfigError
from xrayfast.learning.model.losses import (
    EFFECTIVE_BETA,
    LOSSES,
    AsymmetricLoss,
    BinaryCrossEntropyLoss,
    CrossEntropyLoss,
    FocalLoss,
    Loss,
    balanced_weights,
    batch_weight,
    make_loss,
    prevalence_logits,
)
from xrayfast.learning.model.own_loss import OwnLoss

LOGITS = torch.tensor(
    [[-50.0, 50.0, 0.0], [50.0, -50.0, 3.0], [1.5, -2.0, 0.1], [-0.3, 0.0, 20.0]], dtype=torch.float64
)
TRUTH = torch.tensor([[1.0, 0, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)
CLASSES = torch.tensor([0, 2, 1, 1])


def value_and_gradient(loss, logits, target):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    value.sum().backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sigmoid_focal_loss_equals_torchvision(gamma, alpha, dtype):
    ours = FocalLoss("multi", gamma=gamma, alpha=alpha, reduction="none").to(dtype)
    theirs = lambda x, y: sigmoid_focal_loss(x, y, alpha=-1 if alpha is None else alpha, gamma=gamma)  # noqa: E731
    value, gradient = value_and_gradient(ours, LOGITS.to(dtype), TRUTH.to(dtype))
    expected, expected_gradient = value_and_gradient(theirs, LOGITS.to(dtype), TRUTH.to(dtype))
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
    # At 50 and a gamma below 1, torchvision's gradient is 0 / 0.
    theirs_applies = expected_gradient.isfinite()
    assert theirs_applies.all() or 0 < gamma < 1
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient[theirs_applies], expected_gradient[theirs_applies], atol=1e-6, rtol=1e-6)


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.floats(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_sigmoid_focal_loss_equals_torchvision_anywhere(logits, truth, gamma):
    x, y = (
        torch.tensor(logits, dtype=torch.float64).reshape(2, 3),
        torch.tensor(truth, dtype=torch.float64).reshape(2, 3),
    )
    got = FocalLoss("multi", gamma=gamma)(x, y)
    torch.testing.assert_close(
        got, sigmoid_focal_loss(x, y, alpha=-1, gamma=gamma, reduction="mean"), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gamma_zero_is_cross_entropy(reduction, weighted):
    weight = torch.tensor([0.005, 0.02, 0.01], dtype=torch.float64) if weighted else None  # their sum is below 1
    ours = FocalLoss("single", gamma=0.0, weight=weight, reduction=reduction)
    theirs = lambda x, y: F.cross_entropy(x, y, weight=weight, reduction=reduction)  # noqa: E731
    for got, expected in zip(
        value_and_gradient(ours, LOGITS, CLASSES), value_and_gradient(theirs, LOGITS, CLASSES), strict=True
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gamma_zero_is_binary_cross_entropy(reduction):
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    ours = FocalLoss("multi", gamma=0.0, weight=weight, reduction=reduction)(LOGITS, TRUTH)
    expected = F.binary_cross_entropy_with_logits(LOGITS, TRUTH, pos_weight=weight, reduction=reduction)
    torch.testing.assert_close(ours, expected)


def test_softmax_focal_loss_is_the_formula_per_image_not_on_the_batch_mean():
    p = LOGITS[2:].softmax(dim=-1)[torch.arange(2), CLASSES[2:]]
    expected = -((1 - p) ** 2) * p.log()
    torch.testing.assert_close(FocalLoss("single", gamma=2.0, reduction="none")(LOGITS[2:], CLASSES[2:]), expected)
    torch.testing.assert_close(FocalLoss("single", gamma=2.0)(LOGITS[2:], CLASSES[2:]), expected.mean())
    alpha = [1.0, 3.0, 0.5]
    weighted = FocalLoss("single", gamma=2.0, alpha=alpha, reduction="none")(LOGITS[2:].float(), CLASSES[2:])
    torch.testing.assert_close(weighted, (expected * torch.tensor([3.0, 3.0])).float())


def test_two_class_softmax_equals_sigmoid():
    x, y = torch.randn(8, 1, dtype=torch.float64, generator=torch.manual_seed(0)), torch.tensor([0, 1] * 4)
    single = FocalLoss("single", gamma=2.0)(torch.cat([torch.zeros_like(x), x], dim=1), y)
    torch.testing.assert_close(single, FocalLoss("multi", gamma=2.0)(x, y[:, None].double()))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_value_and_gradient_stay_finite_at_any_logit(gamma):
    x = torch.tensor([[500.0, -500.0, 50.0], [-500.0, 500.0, -50.0]])
    for y in (torch.ones(2, 3), torch.zeros(2, 3), torch.full((2, 3), 0.5)):
        value, gradient = value_and_gradient(FocalLoss("multi", gamma=gamma), x, y)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
    value, gradient = value_and_gradient(FocalLoss("single", gamma=gamma), x, torch.tensor([1, 1]))
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_activation_and_decodes():
    single, multi = FocalLoss("single"), FocalLoss("multi")
    torch.testing.assert_close(single.activation(LOGITS), LOGITS.softmax(-1))
    assert single.decodes(single.activation(LOGITS)).tolist() == LOGITS.argmax(-1).tolist()
    assert multi.decodes(multi.activation(LOGITS)).tolist() == (LOGITS > 0).tolist()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "ce", "task": "multi"}, "ce is for single-label data, and this data is multi-label"),
        ({"name": "bce", "task": "single"}, "bce is for multi-label data.*task='multi'"),
        ({"name": "focal", "task": "multi", "alpha": 1.0}, "between 0 and 1"),
        ({"name": "focal", "task": "single", "alpha": [1.0, -1.0]}, "positive"),
        ({"name": "focal", "task": "single", "gamma": -1.0}, "gamma is -1.0"),
        ({"name": "focal", "task": "multi", "alpha": 0.5, "class_weights": "auto"}, "one of them"),
    ],
)
def test_invalid_losses_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        make_loss(**arguments)


def test_alpha_of_another_length_is_refused():
    with pytest.raises(ConfigError, match=r"2 values.*3 labels"):
        FocalLoss("multi", alpha=[0.2, 0.3])(LOGITS, TRUTH)


def test_class_weights_balance():
    weight = balanced_weights([10, 40, 50], [100] * 3, "single")
    torch.testing.assert_close(weight * torch.tensor([10.0, 40, 50]), torch.full((3,), 100 / 3))
    torch.testing.assert_close(balanced_weights([20, 0, 100], [100] * 3, "multi"), torch.tensor([4.0, 1.0, 1.0]))
    assert balanced_weights([0, 100], [100] * 2, "multi", effective=True).tolist() == [1.0, 1.0]


def test_effective_weights_are_those_of_the_paper():
    counts = np.array([5000, 500, 20])
    inverse = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**counts)
    weight = balanced_weights(counts, [5520] * 3, "single", effective=True)
    np.testing.assert_allclose(weight, inverse * 3 / inverse.sum(), rtol=1e-5)
    # Few images weigh as by inverse frequency; with many images, the number hardly matters.
    few = balanced_weights([4, 2], [6, 6], "single", effective=True)
    torch.testing.assert_close(few[0] / few[1], torch.tensor(0.5), rtol=2e-3, atol=0)
    many = balanced_weights([10**6, 10**5, 0], [10**6 + 10**5] * 3, "single", effective=True)
    torch.testing.assert_close(many, torch.tensor([1.5, 1.5, 1.0]))
    # Multi-label: the weight of positives relative to negatives, counting unmasked cells.
    weight = balanced_weights([20, 0, 500], [520, 100, 600], "multi", effective=True)
    expected = (1 - EFFECTIVE_BETA ** np.array([500, 100])) / (1 - EFFECTIVE_BETA ** np.array([20, 500]))
    np.testing.assert_allclose(weight, [expected[0], 1.0, expected[1]], rtol=1e-5)


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_logits_of_the_prevalence_have_the_least_loss(task, smoothing, weighted):
    rng = torch.Generator().manual_seed(0)
    share = torch.tensor([0.7, 0.25, 0.05], dtype=torch.float64)
    if task == "single":
        targets = F.one_hot(share.multinomial(40, replacement=True, generator=rng), 3).double()
    else:
        targets = (torch.rand(40, 3, generator=rng) < share).double()
        targets[:6, 0], targets[6:9, 1] = torch.nan, 0.3
    draws = torch.rand(40, generator=rng, dtype=torch.float64) + 0.1 if weighted else torch.ones(40)
    weight = torch.tensor([0.5, 3.0, 2.0], dtype=torch.float64) if weighted else None
    found = prevalence_logits(targets, task, draws=draws, weight=weight, label_smoothing=smoothing)
    added = torch.eye(3) if task == "single" else torch.tensor([[1.0] * 3, [0.0] * 3])  # one of each, as documented
    rows, often = torch.cat([targets, added]), torch.cat([draws / draws.mean(), torch.ones(len(added))])
    kind = CrossEntropyLoss if task == "single" else BinaryCrossEntropyLoss
    loss = kind(weight, "none", smoothing)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def total():
        search.zero_grad()
        losses = loss(logits.expand(len(rows), 3), rows.argmax(1) if task == "single" else rows)
        value = (losses * (often if task == "single" else often[:, None])).sum()
        value.backward()
        return value

    search.step(total)
    expected = logits.detach() - (logits.detach().mean() if task == "single" else 0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_class_weights_count_only_unmasked_cells():
    torch.testing.assert_close(balanced_weights([20, 20], [100, 40], "multi"), torch.tensor([4.0, 1.0]))


@pytest.mark.parametrize("task", ["single", "multi"])
def test_class_weights_reach_the_loss(task):
    loss = make_loss("auto", task, class_weights="auto", positives=[1, 3, 4], unmasked=[8, 8, 8])
    plain = make_loss("auto", task)
    target = CLASSES if task == "single" else TRUTH.float()
    x = LOGITS.float() / 10
    assert not torch.isclose(torch.as_tensor(loss(x, target)), torch.as_tensor(plain(x, target)))
    weight = balanced_weights([1, 3, 4], [8] * 3, task)
    expected = (
        F.cross_entropy(x, target, weight=weight)
        if task == "single"
        else F.binary_cross_entropy_with_logits(x, target, pos_weight=weight)
    )
    torch.testing.assert_close(torch.Tensor(loss(x, target)), expected)


MULTI_LOSSES = {
    "bce": lambda: make_loss("bce", "multi"),
    "weighted": lambda: make_loss("bce", "multi", class_weights="auto", positives=[1, 3, 4], unmasked=[8, 7, 5]),
    "focal": lambda: make_loss("focal", "multi"),
    "asl": lambda: make_loss("asl", "multi", gamma_pos=1.0),
    "alpha": lambda: make_loss("focal", "multi", gamma=1.5, alpha=[0.2, 0.5, 0.9]),
}


@pytest.mark.parametrize("name", MULTI_LOSSES)
def test_a_masked_cell_has_no_loss_and_no_gradient(name):
    loss = MULTI_LOSSES[name]()
    unmasked = torch.tensor([[True, False, True], [False, False, False], [True, True, False], [True, True, True]])
    x, target = LOGITS.float() / 10, TRUTH.float()
    value, gradient = value_and_gradient(loss, x, target.masked_fill(~unmasked, torch.nan))
    assert (gradient[~unmasked] == 0).all()
    loss.reduction = "none"
    cells, cell_gradient = value_and_gradient(loss, x, target)
    torch.testing.assert_close(torch.Tensor(value), torch.Tensor(cells)[unmasked].mean())
    torch.testing.assert_close(gradient[unmasked], cell_gradient[unmasked] / unmasked.sum())
    masked = torch.Tensor(loss(x, target.masked_fill(~unmasked, torch.nan)))
    torch.testing.assert_close(masked, torch.Tensor(cells) * unmasked)


@pytest.mark.parametrize("name", MULTI_LOSSES)
def test_a_batch_in_which_all_cells_are_masked_has_no_gradient(name):
    value, gradient = value_and_gradient(MULTI_LOSSES[name](), LOGITS.float(), torch.full((4, 3), torch.nan))
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_label_smoothing_of_classes_equals_the_loss_of_smoothed_targets(reduction, weighted):
    """torch accepts label smoothing as an argument; here it gets smoothed probabilities instead."""
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) if weighted else None
    ours = CrossEntropyLoss(weight, reduction, label_smoothing=0.2)

    def theirs(x, y):
        smoothed = F.one_hot(y, 3).double() * 0.8 + 0.2 / 3
        losses = F.cross_entropy(x, smoothed, weight=weight, reduction="none")
        total = len(y) if weight is None else weight[y].sum()
        return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / total}[reduction]

    for forward in (ours, partial(Loss.forward, ours)):  # as a whole, and computed from the terms
        for got, expected in zip(
            value_and_gradient(forward, LOGITS, CLASSES), value_and_gradient(theirs, LOGITS, CLASSES), strict=True
        ):
            torch.testing.assert_close(got, expected)


def test_label_smoothing_of_multi_label_equals_that_of_two_classes_and_leaves_masked_cells_out():
    ours = make_loss("bce", "multi", label_smoothing=0.2)
    unmasked = torch.tensor([[True, False, True], [False, False, False], [True, True, False], [True, True, True]])

    def theirs(x, y):
        x, y = x[unmasked], y[unmasked].long()
        return F.cross_entropy(torch.stack([torch.zeros_like(x), x], dim=1), y, label_smoothing=0.2)

    for got, expected in zip(
        value_and_gradient(ours, LOGITS, TRUTH.masked_fill(~unmasked, torch.nan)),
        value_and_gradient(theirs, LOGITS, TRUTH),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("gammas", "margin"), [((4.0, 0.0), 0.05), ((2.0, 1.0), 0.2), ((0.0, 0.0), 0.2), ((0.5, 0.5), 0.0)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_asymmetric_loss_is_the_paper_s(gammas, margin, weighted):
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) if weighted else None

    def theirs(x, y):
        p = 1 / (1 + torch.exp(-x))
        q = torch.maximum(p - margin, torch.zeros_like(p))
        positive = (1 - p) ** gammas[1] * torch.log(p) * (1 if weight is None else weight)
        negative = q ** gammas[0] * torch.log(1 - q)
        return -torch.where(y == 1, positive, negative).mean()

    x, ours = LOGITS / 10, AsymmetricLoss(*gammas, margin, weight)
    for y in (TRUTH, 1 - TRUTH):  # the negatives of the second have probabilities on both sides of the margin
        for got, expected in zip(value_and_gradient(ours, x, y), value_and_gradient(theirs, x, y), strict=True):
            torch.testing.assert_close(got, expected)
        assert torch.autograd.gradcheck(partial(ours, target=y), x.clone().requires_grad_())
    half = torch.full((4, 3), 0.5, dtype=torch.float64)
    torch.testing.assert_close(ours(x, half), (ours(x, half.ceil()) + ours(x, half.floor())) / 2)


def test_the_asymmetric_loss_without_focus_and_margin_is_binary_cross_entropy_and_finite_anywhere():
    torch.testing.assert_close(
        AsymmetricLoss(0.0, 0.0, 0.0)(LOGITS, TRUTH), F.binary_cross_entropy_with_logits(LOGITS, TRUTH)
    )
    for margin in (0.0, 0.05, 0.5):  # a logit of 0 is just at the last
        x = torch.tensor([[500.0, -500.0, 50.0], [-500.0, 0.0, -50.0]])
        for y in (torch.ones(2, 3), torch.zeros(2, 3)):
            value, gradient = value_and_gradient(AsymmetricLoss(0.5, 0.5, margin), x, y)
            assert value.isfinite() and gradient.isfinite().all()


def test_the_asymmetric_loss_has_the_paper_s_defaults_and_equals_timm_s():
    timm = pytest.importorskip("timm.loss", reason="timm is not installed")
    theirs = timm.AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=0, clip=0.05)
    x, y = LOGITS.float() / 10, TRUTH.float()
    value, gradient = value_and_gradient(make_loss("asl", "multi"), x, y)
    expected, expected_gradient = value_and_gradient(theirs, x, y)
    ratio = expected / value  # the means have different denominators
    torch.testing.assert_close(gradient * ratio, expected_gradient)
    assert any(torch.isclose(ratio, torch.tensor(number)) for number in (3.0, 12.0))


SHARE = torch.tensor([0.3, 1.0, 0.0, 0.8], dtype=torch.float64)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_mixed_images_is_that_of_mixed_classes(weighted):
    """Each image has two classes, each with its weight in the mean, as torch's targets with probabilities."""
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) if weighted else torch.ones(3, dtype=torch.float64)
    other = torch.tensor([2, 2, 0, 0])

    def theirs(x, y):
        mixed = SHARE[:, None] * F.one_hot(y, 3) + (1 - SHARE)[:, None] * F.one_hot(other, 3)
        return F.cross_entropy(x, mixed, weight=weight, reduction="sum") / (mixed @ weight).sum()

    def ours(x, y):
        return CrossEntropyLoss(weight if weighted else None)(x, y, other, SHARE)

    for got, expected in zip(
        value_and_gradient(ours, LOGITS, CLASSES), value_and_gradient(theirs, LOGITS, CLASSES), strict=True
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_loss_of_mixed_images_is_that_of_both_targets_without_cells_that_one_of_them_masks(gamma):
    other = TRUTH.roll(1, 0)
    first, second = TRUTH.clone(), other.clone()
    first[0, 0], second[0, 1], second[2] = torch.nan, torch.nan, torch.nan
    unmasked = ~(first.isnan() | second.isnan())

    def theirs(x, y):
        losses = [sigmoid_focal_loss(x, truth, alpha=-1, gamma=gamma) for truth in (TRUTH, other)]
        mixed = SHARE[:, None] * losses[0] + (1 - SHARE)[:, None] * losses[1]
        return mixed[unmasked].mean()

    def ours(x, y):
        return FocalLoss("multi", gamma)(x, first, second, SHARE)

    for got, expected in zip(
        value_and_gradient(ours, LOGITS, TRUTH), value_and_gradient(theirs, LOGITS, TRUTH), strict=True
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("own", [F.binary_cross_entropy_with_logits, lambda x, y, reduction: _per_image(x, y)])
def test_a_custom_loss_is_mixed_in_the_same_way(own):
    loss, x, other = OwnLoss("multi", own), LOGITS / 10, TRUTH.roll(1, 0)
    loss.per_image = True  # as `try_on` finds
    mixed = SHARE[:, None] * TRUTH + (1 - SHARE)[:, None] * other
    torch.testing.assert_close(loss(x, TRUTH, other, SHARE), F.binary_cross_entropy_with_logits(x, mixed))


def _per_image(x, y):
    return F.binary_cross_entropy_with_logits(x, y, reduction="none").mean(dim=1)


@pytest.mark.parametrize("name", ["bce", "focal"])
def test_a_smoothed_target_is_the_mixture_of_both(name):
    loss = make_loss(name, "multi", gamma=0.0)
    x = LOGITS.float() / 10
    soft, ones, zeros = (torch.Tensor(loss(x, torch.full((4, 3), y))) for y in (0.7, 1.0, 0.0))
    torch.testing.assert_close(soft, 0.7 * ones + 0.3 * zeros)


def test_the_weight_of_a_batch_is_its_images_or_its_unmasked_cells():
    assert batch_weight(CLASSES) == 4
    assert batch_weight(torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])) == 1


def test_a_configuration_names_the_losses_of_the_table():
    assert get_args(LossName) == ("auto", *LOSSES)
    assert LOSS_SETTINGS.keys() <= LOSSES.keys() == LOSS_TASKS.keys()
    assert all(task in LOSS_TASKS[name] for task, name in DEFAULT_LOSS.items())
