"""A run records every batch and the metrics of the training split."""

import collections
import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
import torch

import xrayfast as xf
from tests.conftest import INTERVALS, SMALL, StopAfter
from xrayfast.errors import Interrupted, RunError, TrainingError
from xrayfast.files.csv_tables import write_csv
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.training.callbacks import progress as batch_progress
from xrayfast.runs.batches import add_epoch, thin_batches, write_batches
from xrayfast.runs.history import History
from xrayfast.workflows.steps import network
from xrayfast.workflows.steps.finishing import describe_instability

OPTIONS = SMALL | {"batch_size": 4, "seed": 5, "unfreeze": True, "epochs": 2, "lr_div": 10.0}


class Listener(Callback):
    """A user's callback that records every training batch, and waits for the device each time."""

    order = 200

    def __init__(self):
        self.heard = []
        self.began = 0

    def before_train(self):
        self.began += 1
        self.batch = 0

    def after_batch(self):
        if self.training:
            self.batch += 1
            lrs = [hyper["lr"] for hyper in self.opt.hypers]
            frozen = [all(not p.requires_grad for p in group) for group in self.opt.param_lists]
            self.heard.append(
                {
                    "epoch": self.began,
                    "batch": self.batch,
                    "loss": float(self.loss.detach()),
                    "lr": lrs[-1],
                    "lr_lowest": lrs[frozen.index(False)],
                    "pred": self.pred.detach().clone(),
                    "target": self.yb[0].detach().clone(),
                }
            )


@contextmanager
def training_with(callback):
    """Add a callback to all runs trained within the block."""

    def prepare(*arguments, real=network.prepare):
        learn = real(*arguments)
        learn.add_cb(callback)
        return learn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "prepare", prepare)
        yield


def listened(data, folder, **options):
    """Train a run; return it with a table of the batches that a callback recorded."""
    listener = Listener()
    with training_with(listener):
        return xf.fit(data, runs=folder, **OPTIONS | options), pd.DataFrame(listener.heard)


@pytest.fixture(scope="module")
def single(data_dir, tmp_path_factory):
    return listened(xf.open_data(data_dir), tmp_path_factory.mktemp("single"))


def test_recorded_batches_are_those_that_a_callback_sees(single):
    run, heard = single
    batches = run.batches
    columns = ["epoch", "batch", "loss", "lr", "lr_lowest"]
    assert batches[columns].equals(heard[columns])
    assert batches["epoch"].tolist() == sorted([1, 2, 3] * 7)
    assert (batches["batches"] == 1).all()
    assert run.history["lr"].tolist() == batches.groupby("epoch")["lr"].last().tolist()


def epoch_outputs(heard):
    """Return the outputs and targets of each epoch, as the callback recorded them."""
    return [
        (torch.cat(rows["pred"].tolist()).numpy(), torch.cat(rows["target"].tolist()).numpy())
        for _, rows in heard.groupby("epoch")
    ]


def test_training_metrics_are_those_of_the_outputs_that_a_callback_sees(single):
    run, heard = single
    outputs = epoch_outputs(heard)
    assert len(run.history) == len(outputs) == 3
    for row, (logits, actual) in zip(run.history.to_dict("records"), outputs, strict=True):
        assert len(actual) == 28
        guess = logits.argmax(1)
        assert row["train_accuracy"] == sum(guess == actual) / 28
        more = {"average": "macro", "zero_division": np.nan}
        assert row["train_precision_macro"] == pytest.approx(skm.precision_score(actual, guess, **more), abs=1e-12)
        assert row["train_f1_macro"] == pytest.approx(skm.f1_score(actual, guess, **more), abs=1e-12)
    assert not {"train_auroc_macro", "accuracy"} & set(run.history)
    # All batches have four images, so the mean of batches is the mean of images.
    by_epoch = heard.groupby("epoch")["loss"].mean().to_numpy()
    np.testing.assert_allclose(run.history["train_loss"], by_epoch, rtol=1e-6)


def test_masked_cells_count_in_no_training_metric(data_dir, tmp_path):
    table = pd.read_csv(data_dir / "labels.csv")
    for name, step in (("covid-19", 4), ("pneumonia", 5)):
        table[name] = (table["labels"] == name).astype(int)
        table.loc[::step, name] = -1
    table.drop(columns="labels").to_csv(tmp_path / "labels.csv", index=False)
    data = xf.open_data(data_dir, labels=tmp_path / "labels.csv")
    assert data.task == "multi"
    run, heard = listened(data, tmp_path / "runs", epochs=1)
    for row, (logits, target) in zip(run.history.to_dict("records"), epoch_outputs(heard), strict=True):
        called, masked = logits > 0, np.isnan(target)
        assert masked.any()
        exact = ((called == target) | masked).all(axis=1)
        assert row["train_subset_accuracy"] == pytest.approx(exact[~masked.all(axis=1)].mean())
        f1 = []
        for label in range(2):
            cells = ~masked[:, label]
            true = (called[cells, label] * target[cells, label]).sum()
            f1.append(2 * true / (called[cells, label].sum() + target[cells, label].sum()))
        assert row["train_f1_macro"] == pytest.approx(np.mean(f1))
        assert "train_precision_macro" not in row


def test_train_metrics_final_predicts_the_training_split_once_with_the_best_weights(data_dir, tmp_path):
    data = xf.open_data(data_dir)
    run = xf.fit(data, runs=tmp_path, train_metrics="final", **OPTIONS | INTERVALS)
    train = data.subset("train")
    learn = xf.load(run)
    loader = learn.dls.test_dl(train.table["path"].tolist(), bs=8)
    probability = learn.get_preds(dl=loader)[0].numpy()
    actual = train.truth.argmax(axis=1)
    found = run.metrics["train"]
    assert found["images"] == len(train.table) and "intervals" not in found
    assert found["overall"]["accuracy"] == np.mean(probability.argmax(axis=1) == actual)
    by_hand = -np.log(probability[np.arange(len(actual)), actual])
    assert run.metrics["loss"]["train"] == pytest.approx(by_hand.mean(), rel=1e-4)
    assert run.metrics["loss"]["valid"] == pytest.approx(run.predictions("valid").loss.mean())
    assert run.predicted_splits == ("valid",)
    xf.interpret(run, calibrate=False)
    assert run.metrics["train"]["overall"]["accuracy"] == found["overall"]["accuracy"]
    page = run.report_path.read_text()
    assert "each training image was predicted" in page
    assert f">{found['overall']['accuracy']:.3f}<" in page


def test_the_report_shows_both_splits_of_the_best_epoch(single, tmp_path):
    run = xf.Run(shutil.copytree(single[0].path, tmp_path / "run"))
    xf.interpret(run)
    page = run.report_path.read_text()
    best = run.history.iloc[run.info.best_epoch - 1]
    assert f"Training beside validation, epoch {run.info.best_epoch}" in page
    assert f"Training accuracy {best['train_accuracy']:.3f}, validation {best['valid_accuracy']:.3f}" in page
    assert "made during the epoch" in page


def test_a_checkpoint_of_an_earlier_version_resumes_to_the_present_columns(data_dir, tmp_path):
    with pytest.raises(Interrupted):
        xf.fit(xf.open_data(data_dir), runs=tmp_path, name="r", interrupted=StopAfter(7), **OPTIONS)
    checkpoint = tmp_path / "r" / "checkpoint"
    state = json.loads((checkpoint / "state.json").read_text())
    [row] = state["rows"]
    old = {name.removeprefix("valid_") if name != "valid_loss" else name: value for name, value in row.items()}
    state["rows"] = [{name: value for name, value in old.items() if name in ("epoch", "phase", "train_loss", "lr")
                      or not name.startswith("train_")}]  # fmt: skip
    (checkpoint / "state.json").write_text(json.dumps(state))
    for name in ("checksums.txt", "best.safetensors", "batches.csv"):
        (checkpoint / name).unlink()
    (tmp_path / "r" / "checksums.txt").unlink()
    run = xf.resume(tmp_path / "r")
    assert run.history["valid_accuracy"].notna().all() and "accuracy" not in run.history
    assert run.history["train_accuracy"].isna().tolist() == [True, False, False]
    assert run.batches["epoch"].unique().tolist() == [2, 3]
    xf.interpret(run)


def test_no_batch_waits_for_the_device(data_dir, tmp_path, monkeypatch):
    package = str(Path(xf.__file__).parent)
    read = collections.Counter()

    def counting(real):
        def method(*arguments, **more):
            frame = sys._getframe(1)
            while frame is not None:
                code = frame.f_code
                if code.co_filename.startswith(package) and code.co_name in ("after_batch", "accumulate"):
                    read[code.co_filename] += 1
                frame = frame.f_back
            return real(*arguments, **more)

        return method

    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
    monkeypatch.setattr(batch_progress, "SECONDS_BETWEEN_REPORTS", float("inf"))
    xf.fit(xf.open_data(data_dir), runs=tmp_path, **OPTIONS)
    # The display reads the loss of the last batch of both splits in each of three epochs.
    assert read == {batch_progress.__file__: 6}


@pytest.mark.parametrize(("most_rows", "width"), [pytest.param(20_000, 1, marks=pytest.mark.slow), (12, 4)])
def test_a_resumed_run_has_the_same_batches_to_the_byte(single, data_dir, tmp_path, monkeypatch, most_rows, width):
    monkeypatch.setattr(add_epoch, "__defaults__", (most_rows,))
    write_csv(tmp_path / "whole.csv", thin_batches(single[0].batches, width))
    with pytest.raises(Interrupted):
        xf.fit(xf.open_data(data_dir), runs=tmp_path, name="r", interrupted=StopAfter(12), **OPTIONS)
    stopped = xf.Run(tmp_path / "r")
    assert stopped.batches["epoch"].unique().tolist() == [1]
    # As if killed after the files of an epoch were written and before its checkpoint.
    lost = stopped.batches.assign(epoch=2)
    write_batches(stopped.new_batches_path, pd.concat([stopped.batches, lost], ignore_index=True))
    run = xf.resume(stopped)
    assert (run.path / "batches.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(run.batches) == min(21, most_rows)
    assert run.history.drop(columns="seconds").equals(single[0].history.drop(columns="seconds"))


def test_a_run_without_batches_is_reported_without_them(single, tmp_path):
    run = xf.Run(shutil.copytree(single[0].path, tmp_path / "old"))
    xf.interpret(run)
    assert (run.path / "figures" / "batches.png").is_file()
    assert "Every batch" in run.report_path.read_text()
    (run.path / "batches.csv").unlink()
    xf.interpret(run)
    assert "Every batch" not in run.report_path.read_text()
    with pytest.raises(RunError, match=r"lacks batches.csv\. Batches are not recorded"):
        run.batches  # noqa: B018
    with pytest.raises(RunError, match=r"lacks batches\.csv"):
        run.plot_batches()


def test_batches_are_plotted_on_axes_of_one_s_own_too(single):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    assert single[0].plot_batches(epoch=1, ax=axes) is axes
    assert len(axes.lines[0].get_xdata()) == 7
    assert single[0].plot_batches()._repr_png_()


class Diverging(Callback):
    """Makes the loss of one training batch NaN, or every loss of the validation split."""

    def __init__(self, number, of_validation=False):
        self.left, self.of_validation = number, of_validation
        self.trained, self.seen = 0, []

    def after_loss(self):
        if self.training:
            self.trained += 1
            self.seen.append([self.dls.vocab[y] for y in self.yb[0]])
            self.left -= 1
        bad = self.left <= 0 if self.of_validation else self.left == 0
        if bad and self.training != self.of_validation:
            self.learn.loss = self.loss * float("nan")


def named_images(message, words):
    """Return the images that a message names after `words`."""
    assert words in message
    return message.partition(words)[2].partition(" and ")[0].partition(". ")[0].split(", ")


class BreakOutputs(Callback):
    """Makes the outputs of some rows of one training batch NaN."""

    def __init__(self, batch, rows):
        self.left, self.rows = batch, rows

    def after_pred(self):
        if self.training:
            self.left -= 1
            if self.left == 0:
                pred = self.pred.clone()
                pred[self.rows] = float("nan")
                self.learn.pred = pred


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (slice(2, 3), "The network's outputs are not finite for 1 of its 4 images: "),
        (slice(None), "so the weights were already not finite before it. The images of the previous batch: "),
    ],
)
def test_the_error_names_images_whose_outputs_are_not_finite_or_the_batch_before(
    single, data_dir, tmp_path, rows, words
):
    class Watch(Callback):
        order = 100

        def before_train(self):
            self.seen = self.dls.train

    watch = Watch()
    with training_with(watch), training_with(BreakOutputs(10, rows)), pytest.raises(TrainingError) as caught:
        xf.fit(xf.open_data(data_dir), runs=tmp_path, name="r", **OPTIONS)
    loader, bs = watch.seen, watch.seen.bs
    paths = [str(loader.dataset.items.table["path"].iloc[row]) for row in loader.rows]
    expected = paths[2 * bs + 2 : 2 * bs + 3] if rows.stop else paths[bs : 2 * bs][:5]
    assert named_images(str(caught.value), words) == expected


@pytest.mark.parametrize(("seconds", "trained"), [pytest.param(0.0, 10, marks=pytest.mark.slow), (float("inf"), 14)])
def test_a_loss_that_is_not_finite_is_named_and_the_epochs_before_are_saved(
    single, data_dir, tmp_path, monkeypatch, seconds, trained
):
    monkeypatch.setattr(batch_progress, "SECONDS_BETWEEN_REPORTS", seconds)
    diverging, whole = Diverging(10), single[0]
    with training_with(diverging), pytest.raises(TrainingError) as caught:
        xf.fit(xf.open_data(data_dir), runs=tmp_path, name="r", **OPTIONS)
    lr = whole.batches["lr"][9]
    assert f"is nan in epoch 2, batch 3 of 7, at a learning rate of {lr:.3g}: training diverged." in str(caught.value)
    assert "Use a lower lr=" in str(caught.value) and "xf.find_lr" in str(caught.value)
    assert "clip_grad=1 limits" in str(caught.value)
    classes = [Path(name).parent.name for name in named_images(str(caught.value), " Its images: ")]
    assert len(classes) == 4 and classes == diverging.seen[9]
    assert f"saved up to epoch 1: xf.predict('{tmp_path}/r', IMAGES)" in str(caught.value)
    assert diverging.trained == trained  # it is found at the next report or at the end of the epoch
    run = xf.Run(tmp_path / "r")
    assert run.info.status == "failed"
    before = whole.history.iloc[:1].drop(columns="seconds")
    assert run.history.drop(columns="seconds").equals(before)
    assert run.batches.equals(whole.batches.iloc[:7])
    image = next(data_dir.rglob("*.png"))
    assert xf.predict(run, [image])["error"].tolist() == [""]
    assert np.isfinite(xf.load(run).get_preds()[0].numpy()).all()


def test_a_first_batch_that_diverges_leaves_a_clear_message(data_dir, tmp_path):
    with (
        training_with(Diverging(1)),
        pytest.raises(TrainingError, match=r"epoch 1, batch 1 of 7.*No epoch was finished"),
    ):
        xf.fit(xf.open_data(data_dir), runs=tmp_path, name="r", **OPTIONS)
    assert xf.Run(tmp_path / "r").info.status == "failed"
    with pytest.raises(RunError, match="No epoch was completed"):
        xf.load(tmp_path / "r")


def test_a_validation_loss_that_is_not_finite_is_named(data_dir, tmp_path):
    with (
        training_with(Diverging(14, of_validation=True)),
        pytest.raises(TrainingError, match=r"validation loss is nan after epoch 2.*saved up to epoch 1"),
    ):
        xf.fit(xf.open_data(data_dir), runs=tmp_path, **OPTIONS)


def test_a_loss_that_grows_tenfold_is_a_remark():
    rows = [{"epoch": n, "train_loss": loss, "lr": 0.01} for n, loss in ((1, 2.0), (2, 9.0), (3, 3.0))]
    history = History(rows, batches=add_epoch(History().batches, 1, [0.9, 3.0], [0.1] * 2, [0.1] * 2))
    assert describe_instability(history) is None
    history.rows[1]["train_loss"] = 9.1
    assert "mean training loss of epoch 2 is 9.1, that of the first batch was 0.9" in describe_instability(history)
    assert describe_instability(History()) is None
