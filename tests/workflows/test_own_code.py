"""Runs that were trained with code of the user's own: their files name it, and it has to be given again."""

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import TINY, StopAfter
from xrayfast.cli import app
from xrayfast.errors import ConfigError, Interrupted
from xrayfast.learning.model.weights import read_weights

SETTINGS = {"unfreeze": True, "epochs": 1, **TINY}


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir, test_fraction=0.2)


@pytest.fixture(scope="module")
def own_run(data, tmp_path_factory):
    """As `tiny_run`, whose loss is cross entropy too."""
    return xf.fit(data, runs=tmp_path_factory.mktemp("runs"), name="own", loss=F.cross_entropy, **SETTINGS)


def weights(run):
    return list(read_weights(run.model_path).values())


def test_a_callable_equal_to_a_loss_of_ours_trains_the_same_to_the_bit(own_run, tiny_run):
    assert all(map(torch.equal, weights(own_run), weights(tiny_run)))
    for split in ("valid", "test"):
        assert own_run.predictions(split).loss.tolist() == tiny_run.predictions(split).loss.tolist()


def test_a_run_says_what_was_code_of_the_user_s_own(own_run):
    assert own_run.config.train.loss == "own:cross_entropy"
    assert own_run.config.own_code == {"loss": "cross_entropy"}
    (remark,) = [text for text in own_run.info.remarks if text.startswith("Code of the user's own: loss cross_entropy")]
    xf.interpret(own_run)
    for path in (own_run.model_card_path, own_run.report_path):
        assert "cross_entropy (own code)" in path.read_text()
    assert remark.split(":")[1] in own_run.model_card_path.read_text()


def test_settings_that_name_it_are_not_replayed_without_it(own_run, data, tmp_path):
    with pytest.raises(ConfigError, match=r"of the user's own.*: loss cross_entropy\. Give it again in Python"):
        xf.fit(data, config=own_run.config, runs=tmp_path)
    with pytest.raises(ConfigError, match="loss cross_entropy"):
        xf.find_lr(data, config=own_run.config)
    assert not list(tmp_path.iterdir())
    result = CliRunner().invoke(app, ["fit", "--config", str(own_run.path / "config.yaml"), "--runs", str(tmp_path)])
    assert result.exit_code == 2
    assert "loss cross_entropy" in result.output


def test_an_option_of_our_losses_beside_it_is_refused(data):
    with pytest.raises(ConfigError, match=r"gamma is 3.*the loss takes none"):
        xf.fit(data, loss=F.cross_entropy, gamma=3.0)
    with pytest.raises(ConfigError, match=r"class_weights is auto.*code of your own"):
        xf.learner(xf.dataloaders(data, size=32), arch="resnet18", loss=F.cross_entropy, class_weights="auto")


def test_it_is_loaded_with_its_code_or_with_a_warning(own_run):
    learn = xf.load(own_run, loss=F.cross_entropy)
    assert learn.loss_func.loss is F.cross_entropy
    assert learn.settings["loss"] == "own:cross_entropy"
    with pytest.warns(
        UserWarning, match=r"loss cross_entropy\. The learner has the default .* load\(run, loss=\.\.\.\)"
    ):
        learn = xf.load(own_run)
    assert learn.settings["loss"] == "auto"


def test_resuming_takes_the_same_code_again(own_run, data, tmp_path):
    def other_loss(logits, target):
        return logits.sum()

    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", loss=F.cross_entropy, interrupted=StopAfter(4), **SETTINGS)
    with pytest.raises(ConfigError, match=r"config\.yaml names code .*: loss cross_entropy.* xrayfast\.resume\(run"):
        xf.resume(tmp_path / "r")
    with pytest.raises(ConfigError, match=r"loss is other_loss, .* its loss is cross_entropy"):
        xf.resume(tmp_path / "r", loss=other_loss)
    assert all(map(torch.equal, weights(xf.resume(tmp_path / "r", loss=F.cross_entropy)), weights(own_run)))


def test_a_loss_without_one_value_per_image_is_replaced_in_predictions(tiny_run, tmp_path):
    learn = xf.load(tiny_run, loss=lambda logits, target: F.cross_entropy(logits, target))
    run = xf.save(learn, runs=tmp_path)
    assert "Losses of single images are those of ce: <lambda> gives none with reduction='none'." in run.info.remarks
    assert run.predictions("valid").loss.tolist() == tiny_run.predictions("valid").loss.tolist()
