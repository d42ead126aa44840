"""Custom losses: their arguments, and what is refused by name."""

import pytest
import torch
from fastai.losses import BCEWithLogitsLossFlat, LabelSmoothingCrossEntropyFlat
from torch import nn
from torch.nn import functional as F

from xrayfast.errors import ConfigError
from xrayfast.learning.model.own_loss import OwnLoss

CLASSES = torch.eye(3).repeat(3, 1)
CELLS = CLASSES.clone()
MASKED = torch.where(torch.eye(9, 3) == 1, torch.nan, CELLS)
LOGITS = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))


def bce_of_unmasked(logits, target):
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")[~target.isnan()].mean()


def weighted_bce(logits, target, reduction="mean"):
    return F.binary_cross_entropy_with_logits(logits, target, reduction=reduction, pos_weight=torch.tensor([2.0] * 3))


@pytest.mark.parametrize(
    ("task", "own", "reference"),
    [
        ("single", F.cross_entropy, F.cross_entropy),
        ("single", lambda x, y: F.cross_entropy(x, y), F.cross_entropy),
        ("single", nn.CrossEntropyLoss, F.cross_entropy),
        (
            "single",
            LabelSmoothingCrossEntropyFlat(),
            lambda x, y, **o: F.cross_entropy(x, y, label_smoothing=0.1, **o),
        ),
        ("multi", BCEWithLogitsLossFlat(), F.binary_cross_entropy_with_logits),
        ("multi", nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits),
        ("multi", weighted_bce, weighted_bce),
        ("multi", bce_of_unmasked, F.binary_cross_entropy_with_logits),
    ],
)
def test_a_loss_is_called_unchanged(task, own, reference):
    loss = OwnLoss(task, own)
    loss.try_on(CLASSES)
    truth = CLASSES.argmax(1) if task == "single" else CELLS
    torch.testing.assert_close(loss(LOGITS, truth), reference(LOGITS, truth))
    assert loss.per_image == (own is not bce_of_unmasked and getattr(own, "__name__", "") != "<lambda>")
    if loss.per_image:
        loss.reduction = "none"
        expected = reference(LOGITS, truth, reduction="none")
        torch.testing.assert_close(loss(LOGITS, truth).view_as(expected), expected)
        loss.reduction = "mean"
        torch.testing.assert_close(loss(LOGITS, truth), expected.mean())


def test_a_loss_that_ignores_its_reduction_has_none_per_image():
    loss = OwnLoss("single", lambda x, y, reduction="mean": F.cross_entropy(x, y))
    loss.try_on(CLASSES)
    assert not loss.per_image
    loss.reduction = "none"  # as fastai does in MixUp and get_preds(with_loss=True)
    with pytest.raises(ConfigError, match=r"does not return one loss per image .*with_loss"):
        loss(LOGITS, CLASSES.argmax(1))


def test_probabilities_are_those_of_the_task():
    assert torch.equal(OwnLoss("single", F.cross_entropy).activation(LOGITS), LOGITS.softmax(1))
    assert torch.equal(OwnLoss("multi", nn.MSELoss()).activation(LOGITS), LOGITS.sigmoid())


def test_the_buffers_of_a_loss_follow_it_to_a_device():
    weighted = BCEWithLogitsLossFlat(pos_weight=torch.ones(3))
    for own in (weighted, nn.CrossEntropyLoss(torch.ones(3))):
        assert {b.device.type for b in OwnLoss("multi", own).to("meta").buffers()} == {"meta"}


def fails(logits, target):
    raise RuntimeError("no such label")


@pytest.mark.parametrize(
    ("task", "own", "target", "message"),
    [
        ("multi", F.binary_cross_entropy_with_logits, MASKED, "binary_cross_entropy_with_logits .* returns nan if"),
        ("single", lambda x, y: None, CLASSES, "<lambda> .* returns NoneType for logits"),
        ("single", nn.CrossEntropyLoss(reduction="none"), CLASSES, r"CrossEntropyLoss .* values of shape \(9,\)"),
        ("single", lambda x, y: x.detach().sum(), CLASSES, "returns a number without a gradient"),
        ("multi", fails, CELLS, "fails for logits .* and multi-label targets .*: no such label"),
        ("single", nn.BCEWithLogitsLoss(), CLASSES, "BCEWithLogitsLoss .* fails for logits .* single-label targets"),
        ("single", nn.NLLLoss(), CLASSES, "NLLLoss .* needs log-probabilities"),
        ("single", F.nll_loss, CLASSES, "nll_loss .* needs log-probabilities"),
        ("single", lambda x, y: -F.cross_entropy(x, y), CLASSES, "is -.* for right answers and -.* for wrong ones"),
        ("multi", lambda x, y: 0 * x.sum() + 1, CELLS, "is 1 for right answers and 1 for wrong ones"),
    ],
)  # fmt: skip
def test_an_unusable_loss_is_refused_before_training(task, own, target, message):
    with pytest.raises(ConfigError, match=message):
        OwnLoss(task, own).try_on(target)


def test_a_loss_that_leaves_masked_cells_out_is_accepted():
    OwnLoss("multi", bce_of_unmasked).try_on(MASKED)


def test_a_loss_is_not_judged_by_masked_cells_alone():
    def of_unmasked(logits, target):
        return (F.softplus((1 - 2 * target.nan_to_num()) * logits) * ~target.isnan()).sum()

    OwnLoss("multi", of_unmasked).try_on(torch.full_like(MASKED, torch.nan))


class Tempered(nn.Module):
    """The cross entropy at a temperature, which is a parameter."""

    def __init__(self, trained):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1), requires_grad=trained)

    def forward(self, logits, target):
        return F.cross_entropy(logits / self.temperature, target)


@pytest.mark.filterwarnings("error")
def test_parameters_of_a_loss_which_no_optimizer_gets_are_noted():
    loss = OwnLoss("single", Tempered(trained=True))
    loss.try_on(CLASSES)
    assert "parameters that are not trained" in loss.untrained_note()
    assert "loss.temperature" in loss.untrained_note()
    for fixed in (Tempered(trained=False), nn.CrossEntropyLoss(weight=torch.ones(3)), F.cross_entropy):
        assert OwnLoss("single", fixed).untrained_note() is None


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (F.cross_entropy, "stays the same if all logits of an image rise"),
        (nn.MSELoss(), "does not lower logits of 0 where the target is 0"),
        (nn.SoftMarginLoss(), "does not lower logits of 0 where the target is 0"),
        (nn.BCEWithLogitsLoss(), None),
        (BCEWithLogitsLossFlat(pos_weight=torch.full((3,), 9.0)), None),
        (lambda logits, target: F.mse_loss(logits.sigmoid(), target), None),
        (nn.MultiLabelSoftMarginLoss(), None),
    ],
)
def test_a_multi_label_loss_that_is_not_one_of_a_sigmoid_is_noted(own, problem):
    note = OwnLoss("multi", own).unsuited_note(CELLS)
    assert note is None if problem is None else problem in note
    assert OwnLoss("single", F.cross_entropy).unsuited_note(CLASSES) is None
