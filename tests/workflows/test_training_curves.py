"""What a run keeps of its training: every batch."""

import collections
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import xrayfast as xf
from tests.conftest import TINY
from xrayfast.batches import add_epoch, thin_batches
from xrayfast.errors import Interrupted, RunError
from xrayfast.files import write_csv
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.training import callbacks
from xrayfast.workflows import fit

OPTIONS = TINY | {"batch_size": 4, "seed": 5, "unfreeze": True, "epochs": 2}


class Listener(Callback):
    """A user's callback: hears every training batch, and waits for each."""

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


def listened(data, folder, **options):
    """A run, and what a callback heard of it."""
    listener = Listener()

    def prepare(*arguments, real=fit.prepare):
        learn = real(*arguments)
        learn.add_cb(listener)
        return learn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "prepare", prepare)
        return xf.fit(data, runs=folder, **OPTIONS | options), pd.DataFrame(listener.heard)


@pytest.fixture(scope="module")
def single(data_dir, tmp_path_factory):
    return listened(xf.open_data(data_dir), tmp_path_factory.mktemp("single"))


def test_batches_are_those_that_a_callback_hears(single):
    run, heard = single
    batches = run.batches
    columns = ["epoch", "batch", "loss", "lr", "lr_lowest"]
    assert batches[columns].equals(heard[columns])
    assert batches["epoch"].tolist() == sorted([1, 2, 3] * 7)
    assert (batches["batches"] == 1).all()
    assert run.history["lr"].tolist() == batches.groupby("epoch")["lr"].last().tolist()


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
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_REPORTS", float("inf"))
    xf.fit(xf.open_data(data_dir), runs=tmp_path, **OPTIONS)
    # Progress reads the loss for the last batch of each split of each of three epochs, for display.
    assert read == {callbacks.__file__: 6}


class StopAfter:
    """Asks to stop after a number of batches."""

    def __init__(self, batches):
        self.left = batches

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize(("most_rows", "width"), [(20_000, 1), (12, 4)])
def test_a_resumed_run_has_the_same_batches_to_the_byte(single, data_dir, tmp_path, monkeypatch, most_rows, width):
    monkeypatch.setattr(add_epoch, "__defaults__", (most_rows,))
    write_csv(tmp_path / "whole.csv", thin_batches(single[0].batches, width))
    with pytest.raises(Interrupted):
        xf.fit(xf.open_data(data_dir), runs=tmp_path, name="r", interrupted=StopAfter(12), **OPTIONS)
    stopped = xf.Run(tmp_path / "r")
    assert stopped.batches["epoch"].unique().tolist() == [1]
    # Killed after the files of an epoch were written, and before its checkpoint was.
    lost = stopped.batches.assign(epoch=2)
    stopped.write_batches(pd.concat([stopped.batches, lost], ignore_index=True))
    run = xf.resume(stopped)
    assert (run.path / "batches.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(run.batches) == min(21, most_rows)


def test_a_run_without_batches_is_reported_without_them(single, tmp_path):
    run = xf.Run(shutil.copytree(single[0].path, tmp_path / "old"))
    xf.interpret(run)
    assert (run.path / "figures" / "batches.png").is_file()
    assert "Every batch" in run.report_path.read_text()
    (run.path / "batches.csv").unlink()
    xf.interpret(run)
    assert "Every batch" not in run.report_path.read_text()
    with pytest.raises(RunError, match=r"lacks batches.csv\. Versions before 0\.3"):
        run.batches  # noqa: B018
    with pytest.raises(RunError, match=r"lacks batches\.csv"):
        run.plot_batches()


def test_batches_are_plotted_on_axes_of_one_s_own_too(single):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    assert single[0].plot_batches(epoch=1, ax=axes) is figure
    assert len(axes.lines[0].get_xdata()) == 7
    assert single[0].plot_batches()._repr_png_()
