"""Runs trained with a user's own code: their files name the code, and loading them needs it again."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import SMALL, UNCHECKED, StopAfter, tiny_resnet
from xrayfast.cli import app
from xrayfast.errors import ConfigError, Interrupted, TrainingError, WeightsError
from xrayfast.learning.dataloaders.augment import augment
from xrayfast.learning.model.own_network import network_of_run
from xrayfast.learning.model.weights import read_weights
from xrayfast.learning.own_failures import name_own_code
from xrayfast.learning.training.frozen_features import caching_problem
from xrayfast.progress import NullReporter


def as_default(images):
    return augment(images)


OWN = {"arch": tiny_resnet, "loss": F.cross_entropy, "augment": [as_default]}
SETTINGS = {"unfreeze": True, "epochs": 1, **{k: v for k, v in SMALL.items() if k != "arch"}}
NAMES = "arch tiny_resnet, augment as_default, loss cross_entropy"


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir, test_fraction=0.2)


@pytest.fixture(scope="module")
def own_run(data, tmp_path_factory):
    """A run like `tiny_run`, with the same network, loss and augmentation given as own code."""
    return xf.fit(data, runs=tmp_path_factory.mktemp("runs"), name="own", **OWN, **SETTINGS)


def weights(run):
    return list(read_weights(run.model_path).values())


def test_code_equal_to_ours_trains_the_same_to_the_bit(own_run, tiny_run):
    assert all(map(torch.equal, weights(own_run), weights(tiny_run)))
    for split in ("valid", "test"):
        ours, theirs = own_run.predictions(split), tiny_run.predictions(split)
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-4)  # layers of own networks are not fused
    assert own_run.history["valid_loss"].tolist() == tiny_run.history["valid_loss"].tolist()


def test_a_run_says_what_was_code_of_the_user_s_own(own_run, tiny_run):
    assert own_run.config.train.loss == "own:cross_entropy"
    shown = own_run._repr_html_()
    assert "cross_entropy (own code)" in shown and "own:cross" not in shown and "own:resnet" not in shown
    assert own_run.config.own_code == {"arch": "tiny_resnet", "augment": "as_default", "loss": "cross_entropy"}
    (remark,) = [
        text for text in own_run.info.remarks if text.startswith(f"The run uses the user's own code: {NAMES}.")
    ]
    assert any(
        text.startswith("tiny_resnet is used as a backbone: its output is (2, 1000)") for text in own_run.info.remarks
    )
    xf.interpret(own_run)
    for path in (own_run.model_card_path, own_run.report_path):
        assert "cross_entropy (own code)" in path.read_text()
    card = own_run.model_card_path.read_text()
    assert "the user's own tiny_resnet (own code) without its classifier" in card
    assert "Training images are augmented by as_default (own code)." in card
    assert remark.split(":")[1] in own_run.model_card_path.read_text()
    for text in (own_run._repr_html_(), own_run.report_path.read_text(), xf.compare([own_run, tiny_run])._repr_html_()):
        assert "tiny_resnet (own code)" in text and not re.search(r"own:\w", text)


def test_settings_that_name_own_code_are_not_replayed_without_it(own_run, data, tmp_path):
    with pytest.raises(
        ConfigError,
        match=rf"of your own.*: {NAMES}\. Pass it again in Python",
    ):
        xf.fit(data, config=own_run.config, runs=tmp_path)
    with pytest.raises(ConfigError, match=NAMES):
        xf.find_lr(data, config=own_run.config)
    assert not list(tmp_path.iterdir())
    result = CliRunner().invoke(app, ["fit", "--config", str(own_run.path / "config.yaml"), "--runs", str(tmp_path)])
    assert result.exit_code == 2
    assert NAMES in " ".join(result.output.split())


def test_callbacks_of_a_run_are_not_left_out_of_a_replay(tiny_run, tmp_path):
    copy = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "copy", ignore=UNCHECKED))
    copy.update_info(own_code={"cbs": "GradientClip"})
    result = CliRunner().invoke(app, ["fit", "--config", str(copy.path / "config.yaml"), "--runs", str(tmp_path)])
    assert (result.exit_code, "cbs GradientClip" in result.output) == (2, True)


def test_options_of_built_in_losses_are_refused_with_an_own_loss(data):
    with pytest.raises(ConfigError, match=r"gamma is 3.*the loss takes none"):
        xf.fit(data, loss=F.cross_entropy, gamma=3.0)
    with pytest.raises(ConfigError, match=r"class_weights is auto.*code of your own"):
        xf.learner(xf.dataloaders(data, size=32), arch="tiny_resnet", loss=F.cross_entropy, class_weights="auto")


def test_a_run_is_loaded_with_its_code_or_with_a_warning(own_run):
    learn = xf.load(own_run, **OWN)
    assert learn.loss_func.loss is F.cross_entropy
    assert learn.settings["loss"] == "own:cross_entropy"
    with pytest.warns(
        UserWarning,
        match=r"augment as_default, loss cross_entropy\. The .*default .* load\(run, augment=\.\.\., loss=\.\.\.\)",
    ):
        learn = xf.load(own_run, arch=tiny_resnet)
    with pytest.raises(ConfigError, match="arch tiny_resnet"):
        xf.load(own_run)
    assert learn.settings["loss"] == "auto"


def test_a_run_without_code_is_not_loaded_or_reported_with_some(own_run, tiny_run, data):
    dls = xf.dataloaders(data, size=32, device="cpu")
    for name, code in {"splitter": by_hand, "loss": F.nll_loss, "augment": as_default}.items():
        with pytest.raises(ConfigError, match=rf"{name} is {code.__name__}, .* it was none of your own\. Leave it out"):
            xf.load(tiny_run, dls, **{name: code})
    with pytest.raises(ConfigError, match=r"loss is nll_loss, .* it was cross_entropy\. Pass that one"):
        xf.load(own_run, data, **{**OWN, "loss": F.nll_loss})
    with pytest.raises(ConfigError, match=r"arch is tiny_resnet, not code of your own"):
        xf.interpret(tiny_run, arch=tiny_resnet)
    assert xf.load(own_run, dls, **OWN).dls.augment == "own:as_default"


def test_resuming_needs_the_same_code(own_run, data, tmp_path):
    def other_loss(logits, target):
        return logits.sum()

    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", **OWN, interrupted=StopAfter(4), **SETTINGS)
    with pytest.raises(ConfigError, match=rf"r names code .*: {NAMES}"):
        xf.resume(tmp_path / "r")
    with pytest.raises(ConfigError, match=r"loss is other_loss, .* it was cross_entropy"):
        xf.resume(tmp_path / "r", **{**OWN, "loss": other_loss})
    assert all(map(torch.equal, weights(xf.resume(tmp_path / "r", **OWN)), weights(own_run)))


def test_a_loss_without_one_value_per_image_is_replaced_in_predictions(tiny_run, tmp_path):
    copy = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "copy", ignore=UNCHECKED))
    copy.write_config(copy.config.updated({"loss": "own:<lambda>"}))
    learn = xf.load(copy, loss=lambda logits, target: F.cross_entropy(logits, target))
    run = xf.save(learn, runs=tmp_path)
    said = "Losses per image are computed with ce, because <lambda> does not return one loss per image"
    assert f"{said} with reduction='none'." in run.info.remarks
    assert run.predictions("valid").loss.tolist() == tiny_run.predictions("valid").loss.tolist()


def test_predict_evaluate_and_explain_need_the_network(own_run, tiny_run, data_dir):
    files = sorted(data_dir.glob("normal/*.png"))[:2]
    with pytest.raises(ConfigError, match=r"config\.yaml names code .*: arch tiny_resnet"):
        xf.predict(own_run, files)
    with pytest.raises(ConfigError, match=r"names code .*: arch tiny_resnet"):
        xf.evaluate(own_run, data_dir, split="train")  # otherwise the error is that no image is left
    with pytest.raises(ConfigError, match=r"arch is tiny_resnet, not code of your own"):
        xf.predict(tiny_run, files, arch=tiny_resnet)
    with pytest.raises(ConfigError, match=r"tta is true, and augment of the run is as_default \(own code\)"):
        xf.predict(own_run, files, arch=tiny_resnet, tta=True)
    with pytest.raises(WeightsError, match="contains another network"):
        network_of_run(own_run.config.model, 3, own_run.model_path, Whole())
    found, expected = (
        xf.predict(*run, **o) for run, o in (((own_run, files), {"arch": tiny_resnet}), ((tiny_run, files), {}))
    )
    columns = [name for name in expected if name.startswith("prob_")]
    np.testing.assert_allclose(found[columns].astype(float), expected[columns].astype(float), atol=1e-4)
    maps = [xf.explain(own_run, files[0], arch=tiny_resnet).heat, xf.explain(tiny_run, files[0]).heat]
    np.testing.assert_allclose(*maps, atol=1e-4)
    result = CliRunner().invoke(app, ["predict", str(own_run.path), str(files[0])])
    assert (result.exit_code, "arch tiny_resnet" in result.output) == (2, True)


class Whole(nn.Module):
    """A small network with three outputs, whose `view` fails for images that are not contiguous."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(4)
        self.head = nn.Linear(8 * 2 * 2, 3)  # defined before layers that run before it
        self.conv1, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, x):
        x = self.pool(self.norm(self.conv1(x)).relu())
        x = self.pool(self.conv2(x).relu())
        return self.head(x.view(-1, 32))


def by_hand(net):
    return [[*net.conv1.parameters(), *net.norm.parameters()], net.conv2.parameters(), net.head.parameters()]


@pytest.mark.parametrize("splitter", [None, by_hand])
def test_frozen_groups_of_a_module_do_not_move(data, splitter):
    dls = xf.dataloaders(data, size=32, batch_size=8, workers=0, device="cpu")
    own = Whole()
    with pytest.warns(UserWarning, match="Whole is used as a whole network: it returns one output per label"):
        learn = xf.learner(dls, arch=own, splitter=splitter)
    assert [sum(p.numel() for p in group.parameters) for group in learn.groups] == [112 + 8, 296, 99]
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    learn.freeze_to(1)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    moved = {name.split(".")[0] for name, tensor in learn.model.state_dict().items() if not tensor.equal(before[name])}
    assert moved == {"conv2", "head"}
    assert all(map(torch.equal, own.state_dict().values(), before.values()))  # the learner trains a copy


def test_a_whole_network_is_trained_on_cached_features_and_predicts(data, tmp_path):
    options = {**SETTINGS, "weights": "imagenet", "unfreeze": False, "unfreeze_blocks": 1, "reuse_frozen": "on"}
    run = xf.fit(data, arch=Whole(), runs=tmp_path, **options)
    assert (run.path.name, run.config.model.head, run.config.model.weights) == ("Whole-1", "none", "own")
    assert run.info.frozen_feature_groups == [2, 1]
    learn = xf.load(run, arch=Whole())
    np.testing.assert_allclose(learn.get_preds()[0], run.predictions("valid").raw, atol=1e-6)
    assert "with its own head" in run.model_card_path.read_text()
    with pytest.raises(ConfigError, match=r"head is linear.*have no effect: Whole returns one output per label"):
        xf.fit(data, arch=Whole, head="linear", runs=tmp_path, **SETTINGS)
    with pytest.raises(ConfigError, match=r"fails on a batch of shape \(2, 3, 48, 48\)"):
        xf.fit(data, arch=Whole, runs=tmp_path, **{**SETTINGS, "size": 48})


class Branching(Whole):
    def forward(self, x):
        return super().forward(x) if len(x) < 1000 else super().forward(x[:1000])


def test_a_network_that_can_t_be_traced_runs_in_each_epoch(data, tmp_path):
    notes = []
    options = {**SETTINGS, "unfreeze": False, "freeze_epochs": 0, "epochs": 3}
    options.pop("freeze_epochs")
    run = xf.fit(data, arch=Branching, runs=tmp_path, reporter=NullReporter(note=notes.append), **options)
    assert run.info.frozen_feature_groups == [0]
    assert any("features of Branching (own code) can't be cached: torch.fx can't trace it" in note for note in notes)
    with pytest.raises(ConfigError, match=r"reuse_frozen is on\. The features of Branching \(own code\) can't be"):
        xf.fit(data, arch=Branching, runs=tmp_path, reuse_frozen="on", **options)


class Masked(Whole):
    def forward(self, x, mask=None):
        return super().forward(x if mask is None else x * 0)


def test_features_are_not_cached_if_torch_fx_traces_another_branch(data):
    dls = xf.dataloaders(data, size=32, batch_size=8, workers=0, device="cpu")
    with pytest.warns(UserWarning, match="Masked is used as a whole network"):
        learn = xf.learner(dls, arch=Masked)
    assert caching_problem(learn, 1) == "its outputs differ when torch.fx traces it"


def test_a_run_of_own_code_is_saved_from_a_learner(data, tmp_path):
    dls = xf.dataloaders(data, size=32, batch_size=8, workers=0, device="cpu")
    with pytest.warns(UserWarning, match="Whole is used as a whole network"):
        learn = xf.learner(dls, arch=Whole, loss=lambda x, y: F.cross_entropy(x, y))
    run = xf.save(learn, runs=tmp_path)
    assert run.config.own_code == {"arch": "Whole", "loss": "<lambda>"}
    assert any(
        text.startswith("The run uses the user's own code: arch Whole, loss <lambda>") for text in run.info.remarks
    )


def test_a_loss_without_gradient_is_named_as_such():
    learn = SimpleNamespace(own_cbs=[], loss_func=torch.nn.Identity(), is_own=True, model=torch.nn.Linear(1, 1))
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(()).backward()
    named = name_own_code(caught.value, learn)
    assert isinstance(named, TrainingError) and "No gradient reaches the network" in str(named)
