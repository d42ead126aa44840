"""Runs of timm's networks load without their code, predict without fastai, and can be explained."""

import shutil
import subprocess
import sys
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch

import xrayfast as xf
from tests.conftest import StopAfter
from xrayfast.errors import ConfigError, Interrupted, RunError
from xrayfast.learning.model.weights import read_weights

pytest.importorskip("timm")

OPTIONS = {"weights": "none", "size": 64, "batch_size": 8, "workers": 0, "device": "cpu", "resamples": 0}


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A run of timm's smallest transformer: one epoch on frozen features, one of the last two blocks."""
    runs = tmp_path_factory.mktemp("runs")
    return xf.fit(data_dir, runs=runs, arch="timm:test_vit", unfreeze_blocks=2, epochs=1, lr_div=1, lr=1e-4, **OPTIONS)


def test_a_run_names_its_network_and_its_version(run):
    assert run.path.name == "timm_test_vit-1"
    assert run.config.model.arch == "timm:test_vit"
    assert run.info.versions["timm"]
    assert [phase.frozen_groups for phase in run.info.phases] == [7, 5]
    assert not any("can't be cached" in remark for remark in run.info.remarks)
    card = run.model_card_path.read_text()
    assert "timm's" in card and "normalized by its weights' own mean" in card


def test_only_the_last_blocks_were_trained(run, data_dir):
    learn = xf.load(run)
    assert [group.name for group in learn.groups] == ["cls_token", *(f"blocks.{n}" for n in range(6)), "head"]
    start = xf.learner(xf.dataloaders(xf.open_data(data_dir), size=64, device="cpu"), arch="timm:test_vit", **{
        "weights": "none"})  # fmt: skip
    for n, (group, first) in enumerate(zip(learn.groups, start.groups, strict=True)):
        same = all(map(torch.equal, group.parameters, first.parameters))
        assert same == (n < 5), group.name


def test_predictions_are_made_again(run, data_dir):
    recorded = run.predictions("valid")
    again = xf.predict(run, [data_dir / name for name in recorded.images], device="cpu").filter(like="prob_")
    np.testing.assert_allclose(again.to_numpy(), recorded.probability, atol=1e-6)


@pytest.mark.slow
def test_predictions_are_made_again_without_fastai(run, data_dir):
    recorded = run.predictions("valid")
    files = [str(data_dir / name) for name in recorded.images]
    script = (
        "import sys, xrayfast as xf\n"
        f"print(xf.predict({str(run.path)!r}, {files!r}, device='cpu').filter(like='prob_').to_csv(index=False))\n"
        "assert 'timm' in sys.modules and 'fastai' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    again = pd.read_csv(StringIO(done.stdout)).to_numpy()
    np.testing.assert_allclose(again, recorded.probability, atol=1e-6)


def test_saliency_is_drawn_and_checked(run):
    xf.interpret(run, saliency=2)
    (dependence,) = [note for note in run.metrics["saliency"]["notes"] if "random" in note]
    assert "4 × 4 cells" not in dependence and "rank correlation" in dependence


def test_a_folder_of_a_stranger_can_name_no_other_source(run, data_dir, tmp_path):
    copy = xf.Run(shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("checksums.txt")))
    copy.write_config(run.config.updated({"arch": "timm:hf-hub:someone/net"}))
    with pytest.raises((RunError, ConfigError), match="has no such network"):
        xf.predict(copy, next(data_dir.glob("normal/*.png")))


def test_sizes_that_grow_are_refused_where_positions_are_fixed(data_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"progressive is 32, 64, but timm:test_vit only accepts images of the size"):
        xf.fit(data_dir, runs=tmp_path, arch="timm:test_vit", unfreeze=True, progressive=(32, 64), **OPTIONS)


@pytest.mark.slow
def test_it_resumes_exactly(run, data_dir, tmp_path):
    options = {"arch": "timm:test_vit", "unfreeze_blocks": 2, "epochs": 1, "lr_div": 1, "lr": 1e-4, **OPTIONS}
    with pytest.raises(Interrupted):
        xf.fit(data_dir, runs=tmp_path, name="r", interrupted=StopAfter(5), **options)
    resumed = xf.resume(tmp_path / "r")
    for key, tensor in read_weights(run.model_path).items():
        assert torch.equal(tensor, read_weights(resumed.model_path)[key]), key


@pytest.mark.slow
def test_another_run_starts_from_it(run, data_dir, tmp_path):
    again = xf.fit(data_dir, runs=tmp_path, arch="timm:test_vit", epochs=1, **OPTIONS | {"weights": run})
    assert "the labels are the same" in again.info.starting_weights
