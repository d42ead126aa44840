"""The metrics of an epoch are those of the pass that has just ended."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
import torch

from xrayfast.learning.fastai_api import AvgSmoothLoss
from xrayfast.learning.training.metrics import build_epoch_metrics
from xrayfast.learning.training.recorders import EpochRecorder, SmoothLoss, TrainRecorder, UnmaskedLoss
from xrayfast.metrics.registry import history_metrics
from xrayfast.metrics.summary import compute_epoch_metrics


@pytest.mark.parametrize("task", ["single", "multi"])
def test_each_pass_resets_the_metric_and_joins_batches(task):
    metrics = build_epoch_metrics(task, 3)
    assert [metric.name for metric in metrics] == list(history_metrics(task))
    generator = torch.manual_seed(0)
    for _ in range(2):
        logits = torch.randn(20, 3, generator=generator)
        classes = torch.randint(0, 3, (20,), generator=generator)
        truth = torch.nn.functional.one_hot(classes, 3)
        target = classes if task == "single" else truth.float()
        for metric in metrics:
            metric.reset()
        for rows in torch.arange(20).split(7):
            for metric in metrics:
                metric.accumulate(SimpleNamespace(pred=logits[rows], yb=(target[rows],)))
        probability = logits.softmax(-1) if task == "single" else logits.sigmoid()
        expected = compute_epoch_metrics(truth.numpy(), probability.numpy(), task)
        assert {metric.name: metric.value for metric in metrics} == pytest.approx(expected)


def test_undefined_values_are_nan():
    metrics = {metric.name: metric for metric in build_epoch_metrics("single", 2)}
    assert np.isnan(metrics["accuracy"].value)
    for metric in metrics.values():
        metric.reset()
        metric.accumulate(SimpleNamespace(pred=torch.randn(4, 2), yb=(torch.zeros(4, dtype=torch.long),)))
    assert np.isnan(metrics["auroc_macro"].value)
    assert np.isfinite(metrics["accuracy"].value)
    metrics["accuracy"].reset()
    metrics["accuracy"].accumulate(SimpleNamespace(pred=torch.full((2, 2), torch.nan), yb=(torch.tensor([0, 1]),)))
    assert np.isnan(metrics["accuracy"].value)


def test_masked_and_smoothed_cells_are_left_out_of_metrics_and_the_loss_is_weighted_by_unmasked_cells():
    metrics = build_epoch_metrics("multi", 2)
    loss = UnmaskedLoss()
    for metric in (*metrics, loss):
        metric.reset()
    nan = float("nan")
    batches = [
        (torch.tensor([[2.0, -1.0], [-1.0, 3.0]]), torch.tensor([[1.0, nan], [0.0, 0.7]]), 0.5),
        (torch.tensor([[1.0, 1.0]]), torch.tensor([[nan, nan]]), 0.0),
        (torch.tensor([[-3.0, 2.0], [3.0, -2.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 1.5),
    ]
    for logits, target, value in batches:
        learn = SimpleNamespace(pred=logits, yb=(target,), loss=torch.tensor(value), to_detach=lambda x: x.detach())
        for metric in (*metrics, loss):
            metric.accumulate(learn)
    found = {metric.name: metric.value for metric in metrics}
    assert found == {"subset_accuracy": 1.0, "f1_macro": 1.0, "auroc_macro": 1.0, "ap_macro": 1.0}
    # The batches have 3 unmasked cells (a smoothed cell counts), none, and 4.
    assert float(loss.value) == pytest.approx((0.5 * 3 + 1.5 * 4) / 7)


def test_functions_of_sklearn_get_the_images_without_masked_cells_and_decisions_at_one_half():
    nan = float("nan")
    logits = torch.tensor([[2.0, -1.0], [-1.0, 3.0], [4.0, -4.0], [0.0, -1.0], [-2.0, -3.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, nan], [nan, nan], [1.0, 0.0], [0.0, 1.0]])
    kept = [0, 3, 4]
    truth, probability = target[kept].numpy(), logits[kept].sigmoid().numpy()
    metrics = build_epoch_metrics("multi", 2, [skm.accuracy_score, skm.roc_auc_score])
    for metric in metrics:
        metric.reset()
        metric.accumulate(SimpleNamespace(pred=logits, yb=(target,)))
    found = {metric.name: metric.value for metric in metrics}
    assert found["accuracy_score"] == pytest.approx(skm.accuracy_score(truth, probability >= 0.5)) == 2 / 3
    assert found["roc_auc_score"] == pytest.approx(skm.roc_auc_score(truth, probability))


def test_with_two_classes_functions_of_sklearn_get_the_probability_of_the_second():
    logits, target = torch.tensor([[2.0, -1.0], [0.0, 1.0], [3.0, 1.0], [-1.0, 0.5]]), torch.tensor([0, 1, 0, 1])
    metrics = build_epoch_metrics("single", 2, [skm.roc_auc_score, skm.f1_score])
    for metric in metrics:
        metric.reset()
        metric.accumulate(SimpleNamespace(pred=logits, yb=(target,)))
    assert [metric.value for metric in metrics[-2:]] == [1.0, 1.0]


def test_training_losses_are_smoothed_as_by_fastai_also_after_a_restore():
    losses, ours, theirs, expected = [2.0, 1.0, 3.0, 0.5], SmoothLoss(), AvgSmoothLoss(), []
    for metric in (ours, theirs):
        metric.reset()
    for loss in losses:
        learn = SimpleNamespace(loss=torch.tensor(loss), to_detach=lambda x, **_: x.detach())
        ours.accumulate(learn)
        theirs.accumulate(learn)
        expected.append(float(theirs.value))
        assert float(ours.value) == pytest.approx(expected[-1])
    recorder = EpochRecorder()
    batches = pd.DataFrame({"epoch": [1, 1, 2, 2], "loss": losses, "lr": 0.1})
    recorder.restore(pd.DataFrame({"epoch": [1, 2], "train_loss": [1.5, 1.75], "valid_loss": 1.0}), batches)
    assert [float(loss) for loss in recorder.losses] == pytest.approx(expected)
    assert recorder.iters == [2, 4]


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_records_of_batches_go_on_after_a_restore(task):
    logits = torch.randn(14, 3, generator=torch.manual_seed(0))
    target = torch.arange(14) % 3
    target = target if task == "single" else torch.nn.functional.one_hot(target, 3).float()
    dls = SimpleNamespace(device=torch.device("cpu"), train=SimpleNamespace(bs=4))
    whole, resumed = (TrainRecorder(0, task, 3) for _ in range(2))

    def add(recorder, batch):
        rows, lr = slice(4 * batch, 4 * batch + 4), (batch + 1) / 3
        recorder.learn = SimpleNamespace(
            loss=torch.tensor(0.1 + batch), yb=(target[rows],), pred=logits[rows], iter=batch, dls=dls,
            opt=SimpleNamespace(hypers=[{"lr": lr / 7}, {"lr": lr}]),
        )  # fmt: skip
        recorder.add_batch()

    for batch in range(4):
        if batch == 2:
            resumed.learn = SimpleNamespace(dls=dls)
            resumed.restore(whole.state())
        for recorder in (whole, resumed)[: 1 + (batch >= 2)]:
            add(recorder, batch)
    assert resumed.places == [0, 1, 2, 3]
    for name, tensor in whole.state().items():
        again = resumed.state()[name]
        assert again.dtype == tensor.dtype and torch.equal(again, tensor)
    assert resumed.lrs == [1 / 3, 2 / 3, 1, 4 / 3] and resumed.lowest_lrs == [lr / 7 for lr in resumed.lrs]
    assert resumed.read_metrics() == whole.read_metrics()
