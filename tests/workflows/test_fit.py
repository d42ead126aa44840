"""Training end to end on tiny images: runs are reproducible and resumable, and options act."""

import json
import re
import shutil
import warnings
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

import xrayfast as xf
from tests.conftest import SMALL, UNCHECKED, StopAfter
from xrayfast.config import Config
from xrayfast.data.images.reader import read
from xrayfast.errors import ConfigError, DataError, Interrupted, RunError, TrainingError
from xrayfast.learning.inference.predictor import Predictor
from xrayfast.learning.model.backbones import BACKBONES
from xrayfast.metrics.registry import overall_metrics
from xrayfast.progress import NullReporter
from xrayfast.runs.history import History
from xrayfast.workflows.compare import _run_row
from xrayfast.workflows.steps.predictions.own import RunByUnit
from xrayfast.workflows.steps.preparing import require_settings

SAME = ["train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "valid_f1_macro", "valid_auroc_macro", "lr"]


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was not interrupted: one frozen epoch, two unfrozen."""
    return xf.fit(data, runs=tmp_path_factory.mktemp("whole"), unfreeze=True, epochs=2, seed=7, **SMALL)


def assert_same_numbers(a, b):
    assert a.history[SAME].equals(b.history[SAME])
    assert a.info["best_epoch"] == b.info["best_epoch"]
    mine, other = (safetensors.torch.load_file(run.model_path) for run in (a, b))
    assert all(torch.equal(mine[key], other[key]) for key in mine)
    assert np.array_equal(a.predictions("valid").probability, b.predictions("valid").probability)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(data, whole, tmp_path):
    torch.manual_seed(123)  # the state of the global generator must not matter
    again = xf.fit(data, runs=tmp_path, unfreeze=True, epochs=2, seed=7, **SMALL)
    assert_same_numbers(whole, again)
    other = xf.fit(data, runs=tmp_path, epochs=1, seed=8, **SMALL)
    assert other.history["train_loss"][0] != whole.history["train_loss"][0]


@pytest.mark.parametrize("batches", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 9)), 14])
def test_an_interrupted_run_resumes_to_the_same_numbers(data, whole, tmp_path, batches):
    with pytest.raises(Interrupted, match=r"xf\.resume\(") as caught:
        xf.fit(data, runs=tmp_path, name="r", unfreeze=True, epochs=2, seed=7, interrupted=StopAfter(batches), **SMALL)
    assert str(tmp_path / "r") in str(caught.value)
    assert xf.Run(tmp_path / "r").info["status"] == "interrupted"
    # Files that a kill in the middle of writing leaves behind.
    (tmp_path / "r" / ".run.json.0123.tmp").write_text("{")
    (tmp_path / "r" / "checkpoint.new").mkdir(exist_ok=True)
    run = xf.resume(tmp_path / "r")
    assert run.info["status"] == "completed"
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml", "run.json", "labels.json", "model.safetensors", "split.csv", "history.csv",
        "batches.csv", "metrics.json", "checksums.txt",
        "predictions", "model_card.md", "claim.md", "training_images.json",
    }  # fmt: skip
    assert_same_numbers(whole, run)


FROZEN = SMALL | {"epochs": 4, "seed": 7}


def test_frozen_layers_are_computed_once_and_the_run_resumes_to_the_same_numbers(data, tmp_path, monkeypatch):
    from xrayfast.workflows.steps import training

    computed = []
    real = training.cache_features
    monkeypatch.setattr(training, "cache_features", lambda *a, **k: computed.append(a[1:]) or real(*a, **k))
    whole = xf.fit(data, runs=tmp_path, name="whole", **FROZEN)
    assert computed == [(5, 2)]
    sentence = "run once, it was for 2 views of each training image, itself and 1 augmented one."
    assert all(sentence in (whole.path / name).read_text() for name in ("model_card.md", "claim.md"))
    with pytest.raises(Interrupted):
        # The first fifteen checks for a stop are made while frozen features are computed, the others in epochs.
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(15), **FROZEN)
    assert 0 < len(xf.Run(tmp_path / "r").history) < 4
    assert_same_numbers(whole, xf.resume(tmp_path / "r"))
    slow = xf.fit(data, runs=tmp_path, reuse_frozen="off", **FROZEN)
    assert len(computed) == 3
    assert slow.info["frozen_feature_groups"] == [0] and whole.info["frozen_feature_groups"] == [5]


@pytest.mark.slow
def test_a_resumed_run_trains_in_the_precision_that_was_decided_when_it_began(data, tmp_path, monkeypatch):
    from xrayfast.learning.model import precision
    from xrayfast.learning.training import mixed_precision

    monkeypatch.setattr(precision, "has_amx", lambda: True)
    monkeypatch.setattr(mixed_precision, "bf16_logit_error", lambda learn: 0.01)
    settings = FROZEN | {"precision": "auto"}
    whole = xf.fit(data, runs=tmp_path, name="whole", **settings)
    assert whole.info["precision"] == "bf16"
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(15), **settings)
    shutil.copytree(tmp_path / "r", tmp_path / "elsewhere")
    earlier = Path(shutil.copytree(tmp_path / "r", tmp_path / "of-an-earlier-version", ignore=UNCHECKED)) / "run.json"
    earlier.write_text(json.dumps({k: v for k, v in json.loads(earlier.read_text()).items() if k != "precision"}))
    monkeypatch.setattr(mixed_precision, "bf16_logit_error", lambda learn: pytest.fail("decided again"))
    assert xf.resume(earlier.parent).info["precision"] == "fp32"
    assert_same_numbers(whole, xf.resume(tmp_path / "r"))
    assert xf.load(whole).precision == "bf16"
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    assert xf.resume(tmp_path / "elsewhere").info["precision"] == "fp32"


@pytest.mark.slow
def test_the_phases_of_head_and_last_block_share_cached_features(data, tmp_path, monkeypatch):
    from xrayfast.workflows.steps import training

    computed = []
    real = training.cache_features
    monkeypatch.setattr(training, "cache_features", lambda *a, **k: computed.append(a[1:]) or real(*a, **k))
    run = xf.fit(data, runs=tmp_path, unfreeze_blocks=1, epochs=3, **SMALL)
    assert computed == [(4, 2)]
    assert run.history["phase"].tolist() == ["head", "last block", "last block", "last block"]


LAYERS = SMALL | {"unfreeze_layers": 3, "epochs": 3, "seed": 7}


@pytest.fixture(scope="module")
def last_layers(data, tmp_path_factory):
    """A run that trained the last three layers, so the frozen layers end within a residual block."""
    return xf.fit(data, runs=tmp_path_factory.mktemp("layers"), **LAYERS)


def test_all_files_say_that_only_the_last_layers_were_trained(last_layers):
    run = last_layers
    assert run.history["phase"].tolist() == ["head"] + ["last 3 layers"] * 3
    assert run.info["frozen_feature_groups"] == [14, 14]
    assert [(p["frozen_groups"], len(p["lrs"])) for p in run.info["phases"]] == [(17, 18), (14, 18)]
    assert run.history["lr_lowest"].iloc[-1] == run.history["lr"].iloc[-1], "a network from scratch has one rate"
    assert "last 3 layers: 3 epochs" in (run.path / "model_card.md").read_text()
    row = _run_row("r", RunByUnit.of(run, None, None), "valid", run.predictions("valid"), resamples=1, seed=0)
    assert row["trained"] == "last 3 layers"
    learn = xf.load(run)
    assert len(learn.groups) == 18 and learn.groups[-4].name == "layer4.0.conv2"


@pytest.mark.slow
@pytest.mark.parametrize("batches", [8, 13])
def test_a_run_of_the_last_layers_resumes_to_the_same_numbers(data, last_layers, tmp_path, batches):
    """The run is interrupted after the epoch of the head, or within the phase of the last layers."""
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(batches), **LAYERS)
    assert 0 < len(xf.Run(tmp_path / "r").history) < 4
    run = xf.resume(tmp_path / "r")
    assert_same_numbers(last_layers, run)
    assert run.model_path.read_bytes() == last_layers.model_path.read_bytes()


GRADUAL = SMALL | {"unfreeze_layers": 3, "gradual_unfreeze": 1, "epochs": 2, "reuse_frozen": "on", "frozen_views": 1}


@pytest.fixture(scope="module")
def gradual(data, tmp_path_factory):
    """A run that unfroze one more layer after each epoch; each phase had its own frozen-feature cache."""
    return xf.fit(data, runs=tmp_path_factory.mktemp("gradual"), **GRADUAL)


def test_gradual_unfreezing_trains_one_layer_more_in_each_phase(gradual):
    names = ["head", "last layer", "last 2 layers", "last 3 layers"]
    assert [(phase.name, phase.epochs) for phase in gradual.info.phases] == list(zip(names, [1, 1, 1, 2], strict=True))
    assert gradual.history["phase"].tolist() == [*names, names[-1]]
    assert gradual.info["frozen_feature_groups"] == [17, 16, 15, 14]


@pytest.mark.slow
@pytest.mark.parametrize("epochs", range(1, 5))
def test_gradual_unfreezing_resumes_to_the_same_numbers_after_any_epoch(data, gradual, tmp_path, epochs):
    def interrupted():
        history = tmp_path / "r" / "history.csv"
        return history.is_file() and len(history.read_text().splitlines()) > epochs

    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=interrupted, **GRADUAL)
    assert len(xf.Run(tmp_path / "r").history) == epochs
    run = xf.resume(tmp_path / "r")
    assert_same_numbers(gradual, run)
    assert run.model_path.read_bytes() == gradual.model_path.read_bytes()


@pytest.mark.slow
def test_one_phase_s_features_are_freed_before_the_next_phase_s_are_computed(data, tmp_path, monkeypatch):
    from xrayfast.workflows.steps import training

    caches, still_there = [], []

    def cache_features(*arguments, real=training.cache_features, **more):
        still_there.extend(old() for old in caches)
        features = real(*arguments, **more)
        caches.append(weakref.ref(features))
        return features

    monkeypatch.setattr(training, "cache_features", cache_features)
    run = xf.fit(data, runs=tmp_path, unfreeze_blocks=1, epochs=1, reuse_frozen="on", **SMALL)
    assert run.info["frozen_feature_groups"] == [5, 4]
    assert len(caches) == 2 and still_there == [None]


def test_progressive_sizes_are_in_the_history_and_the_best_epoch_is_of_the_last(data, tmp_path):
    run = xf.fit(
        data, runs=tmp_path, unfreeze=True, epochs=3, progressive=(32, 48), early_stop=1, **SMALL | {"size": 48}
    )
    assert run.history["size"].tolist()[:3] == [32, 48, 48]
    assert run.history["size"][run.info["best_epoch"] - 1] == 48
    assert run.config.train.progressive == (32, 48)
    card = (run.path / "model_card.md").read_text()
    assert "| Sizes of the images | 32 px, then 48 px |" in card
    assert "run once" not in card
    frozen = xf.fit(data, runs=tmp_path, epochs=3, progressive=(32, 48), **SMALL | {"size": 48})
    assert set(frozen.history["size"]) == {48}
    assert any("all epochs train on cached features" in remark for remark in frozen.info["remarks"])
    assert "Sizes of the images" not in (frozen.path / "model_card.md").read_text()


@pytest.mark.slow
def test_progressive_training_with_early_stopping_resumes_to_the_same_numbers(data, tmp_path):
    options = SMALL | {
        "size": 48,
        "unfreeze": True,
        "freeze_epochs": 0,
        "epochs": 6,
        "progressive": (32, 48),
        "seed": 3,
    }
    options |= {"early_stop": 2, "lr": 1e-6}
    whole = xf.fit(data, runs=tmp_path, **options)
    assert whole.history["size"].tolist()[:3] == [32, 32, 48], "small epochs don't count as stale"
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(4 * 5 - 2), **options)
    assert len(xf.Run(tmp_path / "r").history) >= 2
    assert_same_numbers(whole, xf.resume(tmp_path / "r"))


def test_a_frozen_feature_cache_that_needs_too_much_disk_is_not_made_with_a_note(data, tmp_path, monkeypatch):
    from xrayfast.workflows.steps import training

    monkeypatch.setattr(training, "MEMORY_BYTES", 0)
    monkeypatch.setattr(training, "free_disk_bytes", lambda _: 10_000)
    monkeypatch.setattr(training, "cache_features", None)
    notes = []

    run = xf.fit(data, runs=tmp_path, epochs=3, reporter=NullReporter(note=notes.append), **SMALL)
    assert len(run.history) == 3
    assert any("frozen layers run in each epoch" in note for note in notes)
    assert any("frozen layers run in each epoch" in remark for remark in run.info["remarks"])
    assert run.info["frozen_feature_groups"] == [0]


@pytest.mark.slow
def test_a_run_resumes_as_it_began_however_much_disk_is_free_by_then(data, tmp_path, monkeypatch):
    from xrayfast.workflows.steps import training

    monkeypatch.setattr(training, "MEMORY_BYTES", 0)
    whole = xf.fit(data, runs=tmp_path, name="whole", **FROZEN)
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", interrupted=StopAfter(15), **FROZEN)
    assert 0 < len(xf.Run(tmp_path / "r").history) < 4
    monkeypatch.setattr(training, "free_disk_bytes", lambda _: 0)
    assert_same_numbers(whole, xf.resume(tmp_path / "r"))
    grows = SMALL | {"size": 48, "progressive": (32, 48), "epochs": 3}
    assert xf.fit(data, runs=tmp_path, **grows).history["size"].tolist() == [32, 48, 48]


def test_after_training_was_aborted_in_a_batch_the_process_computes_in_float32(data, tmp_path, monkeypatch):
    from xrayfast.learning.model import losses

    monkeypatch.setattr(losses.FocalLoss, "forward", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, epochs=1, **SMALL | {"precision": "bf16", "loss": "focal"})
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("call", [lambda learn: learn.fit(1), lambda learn: learn.validate()], ids=["fit", "validate"])
def test_ctrl_c_within_the_first_convolution_leaves_no_cast_weights_behind(data, monkeypatch, call):
    learn = xf.learner(xf.dataloaders(data, size=32, batch_size=8, device="cpu"), weights="none", precision="bf16")
    forward = torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.no_logging():
        call(learn)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    assert not torch.is_autocast_enabled("cpu")
    # No autocast context is open: leaving the last one drops the cast weights.
    assert torch.autocast_increment_nesting() == 1
    assert torch.autocast_decrement_nesting() == 0


def test_a_run_that_is_complete_or_whose_data_changed_does_not_resume(data_dir, tmp_path, data):
    copy = shutil.copytree(data_dir, tmp_path / "Dr. A; B")
    with pytest.raises(Interrupted):
        xf.fit(copy, runs=tmp_path, name="r", epochs=2, interrupted=StopAfter(6), **SMALL)
    image = next(copy.glob("normal/*.png"))
    moved = image.rename(image.with_name("moved.png"))
    with pytest.raises(RunError, match=r"are not the same as when the run began: .*\. Put them back as they") as raised:
        xf.resume(tmp_path / "r")
    assert not re.search("--|split_file|missing=", str(raised.value)) and image.name in str(raised.value)
    shutil.copy(next(copy.glob("covid-19/*.png")), image)
    moved.unlink()
    with pytest.raises(RunError, match=r"began: labels, splits or sizes of files differ\. Put them back"):
        xf.resume(tmp_path / "r")
    shutil.rmtree(copy)
    with pytest.raises(RunError, match=f"began: {copy}[^.]*[.] Put them back"):
        xf.resume(tmp_path / "r")
    done = xf.fit(data, runs=tmp_path, name="done", epochs=1, **SMALL)
    with pytest.raises(RunError, match="nothing to resume"):
        xf.resume(done)


def test_the_global_generators_are_left_alone(data, tmp_path):
    import random

    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    xf.fit(data, runs=tmp_path, epochs=1, **SMALL)
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])


@pytest.mark.parametrize(
    "arch", ["resnet18", *(pytest.param(arch, marks=pytest.mark.slow) for arch in sorted({*BACKBONES} - {"resnet18"}))]
)
def test_every_arch_trains_saves_loads_and_predicts_the_same(arch, data, data_dir, tmp_path):
    # After one epoch from scratch some channels are nearly constant, and precise_bn would magnify rounding.
    small = SMALL | {"arch": arch, "batch_size": 16, "precise_bn": False}
    run = xf.fit(data, runs=tmp_path, unfreeze=True, freeze_epochs=0, epochs=1, **small)
    valid = run.predictions("valid")
    assert np.isfinite(valid.probability).all()
    table = xf.predict(run, [data_dir / image for image in valid.images])
    assert np.abs(table.filter(like="prob_").to_numpy(dtype=float) - valid.probability).max() < 1e-6
    learn = xf.load(run)
    assert np.abs(learn.get_preds()[0].numpy() - valid.raw).max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "schedule": "constant", "momentum": 0.5},
        {"schedule": "flat-cos", "loss": "focal", "gamma": 1.0},
        {"class_weights": "auto", "head_width": (20, 10)},
        {"loss": "focal", "alpha": (1.0, 2.0, 1.0)},
        {"precision": "bf16"},
        {"unfreeze_blocks": 1, "freeze_epochs": 0},
        {"monitor": "valid_loss", "early_stop": 1, "lr": 0.5, "epochs": 6},
    ],
    ids=lambda options: "-".join(options),
)
def test_options(options, data, tmp_path):
    run = xf.fit(data, runs=tmp_path, **({"epochs": 1} | SMALL | options))
    assert run.info["status"] == "completed"
    assert np.isfinite(run.predictions("valid").probability).all()
    if "head_width" in options:
        weights = safetensors.torch.load_file(run.model_path)
        shapes = {tuple(tensor.shape) for key, tensor in weights.items() if key.startswith("1.") and tensor.ndim == 2}
        assert shapes == {(20, 128), (10, 20), (3, 10)}


def test_a_run_with_tta_is_calibrated_predicted_and_evaluated_alike(data, data_dir, tmp_path):
    run = xf.fit(data, runs=tmp_path, epochs=1, seed=4, tta=True, **SMALL)
    saved = run.predictions("valid")
    expected = Predictor.from_run(run).probabilities([read(data_dir / image).pixels for image in saved.images])
    np.testing.assert_allclose(saved.raw, expected.raw, atol=1e-6)
    np.testing.assert_allclose(saved.probability, expected.calibrated, atol=1e-6)
    files = [data_dir / image for image in saved.images]

    def predicted(files, **options):
        return xf.predict(run, files, **options).filter(like="prob_").to_numpy(dtype=float)

    np.testing.assert_allclose(predicted(files), saved.probability, atol=1e-6)
    np.testing.assert_allclose(predicted(files[2]), saved.probability[2:3], atol=1e-6)
    np.testing.assert_allclose(
        [e.probabilities["normal"] for e in xf.explain(run, files[:2])],
        saved.probability[:2, run.labels.index("normal")],
        atol=1e-6,
    )
    with pytest.warns(UserWarning, match=r"tta=False.*fitted are averaged over augmented views"):
        assert not np.allclose(predicted(files, tta=False), saved.probability, atol=1e-6)
    elsewhere = tmp_path / "elsewhere" / "normal"
    elsewhere.mkdir(parents=True)
    pixels = read(files[0]).pixels
    Image.fromarray(np.roll(pixels, (len(pixels) // 2, len(pixels) // 3), (0, 1))).save(elsewhere / "a.png")
    for tta, notes in ((None, 0), (False, 1)):
        found = xf.evaluate(run, elsewhere.parent, tta=tta, resamples=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_allclose(found.predictions.probability, predicted(elsewhere, tta=tta), atol=1e-6)
        assert found.info["tta"] is (tta is None)
        assert sum("--no-tta" in note for note in found.metrics["notes"]) == notes


@pytest.mark.parametrize(
    ("head", "widths"),
    [
        ("linear", ()),
        *(pytest.param(*c, marks=pytest.mark.slow) for c in (("mlp", 20), ("classifier", ()), ("classifier", 20))),
    ],
)
def test_a_run_with_any_head_is_resumed_loaded_predicted_and_reported(head, widths, data, data_dir, tiny_vgg, tmp_path):
    settings = SMALL | {"arch": tiny_vgg, "head": head, "head_width": widths, "epochs": 2, "unfreeze_blocks": 1}
    whole = xf.fit(data, runs=tmp_path, name="whole", **settings)
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="stopped", interrupted=StopAfter(9), **settings)
    resumed = xf.resume(tmp_path / "stopped")
    weights = safetensors.torch.load_file(whole.model_path)
    again = safetensors.torch.load_file(resumed.model_path)
    assert all(torch.equal(tensor, again[key]) for key, tensor in weights.items())
    assert ("0.5.fc2.weight" in weights) == (head == "classifier")
    valid = whole.predictions("valid")
    table = xf.predict(whole, [data_dir / image for image in valid.images])
    assert np.abs(table.filter(like="prob_").to_numpy(dtype=float) - valid.probability).max() < 1e-6
    assert np.abs(xf.load(whole).get_preds()[0].numpy() - valid.raw).max() < 1e-6
    xf.interpret(whole)
    phrase = head + (", 20 hidden units" if widths else "")
    assert f"<dt>Head</dt><dd>{phrase}</dd>" in whole.report_path.read_text()


def test_an_unsupported_head_is_refused_before_a_folder_is_made(data, tmp_path):
    with pytest.raises(ConfigError, match="the classifier of tiny_resnet has no hidden layers"):
        xf.fit(data, runs=tmp_path, head="classifier", **SMALL)
    with pytest.raises(ConfigError, match=r"^head is linear, which has no hidden layer, and head_width is 8, 4\. Use"):
        xf.fit(data, runs=tmp_path, head="linear", head_width=(8, 4), **SMALL)
    assert not list(tmp_path.iterdir())


def test_early_stopping_ends_a_run_that_gets_worse(data, tmp_path):
    class Falling(NullReporter):
        """Counts epochs."""

        rows = 0

        def epoch(self, row, best):
            self.rows += 1

    reporter = Falling()
    run = xf.fit(data, runs=tmp_path, epochs=12, lr=3.0, schedule="constant", early_stop=1, monitor="valid_loss",
                 calibrate=False, reporter=reporter, **SMALL)  # fmt: skip
    assert reporter.rows == len(run.history) < 12
    best = run.info["best_epoch"]
    assert best == len(run.history) - 1
    # Weights and predictions are of the best epoch, not of the last.
    assert run.metrics["valid"]["overall"]["accuracy"] == pytest.approx(run.history["valid_accuracy"][best - 1])
    assert run.metrics["valid"]["overall"]["auroc_macro"] == pytest.approx(run.history["valid_auroc_macro"][best - 1])
    loaded = xf.load(run).get_preds()[0].numpy()
    np.testing.assert_allclose(run.predictions("valid").probability, loaded, atol=1e-6)


def test_a_run_killed_after_early_stopping_resumes_without_training(data, tmp_path, monkeypatch):
    from xrayfast.workflows.steps import network

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(network, "finish", killed)
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", epochs=12, lr=3.0, schedule="constant", early_stop=1,
               monitor="valid_loss", **SMALL)  # fmt: skip
    monkeypatch.undo()
    epochs = len(xf.Run(tmp_path / "r").history)
    assert epochs < 12
    assert len(xf.resume(tmp_path / "r").history) == epochs


@pytest.mark.slow
def test_early_stopping_counts_from_the_start_of_the_last_phase(data, tmp_path):
    """If epochs of the head counted, the unfrozen phase would end after its first epoch."""
    run = xf.fit(data, runs=tmp_path, unfreeze=True, freeze_epochs=4, epochs=3, early_stop=2, lr=1e-7,
                 schedule="constant", monitor="accuracy", **SMALL)  # fmt: skip
    assert (run.history["phase"] == "all").sum() >= 2


@pytest.mark.parametrize(
    ("settings", "trained_groups"),
    [
        pytest.param({}, 1, marks=pytest.mark.slow),
        pytest.param({"unfreeze": True, "freeze_epochs": 0}, 6, marks=pytest.mark.slow),
        ({"unfreeze_blocks": 2, "freeze_epochs": 0}, 3),
    ],
)
def test_lr_auto_and_find_lr_test_the_layers_that_are_trained(data, tmp_path, monkeypatch, settings, trained_groups):
    from xrayfast.learning.training.lr_find import METHODS, LRCurve
    from xrayfast.workflows import find_lr
    from xrayfast.workflows.steps import training

    tested = []

    def look(learn, steps=100, **_):
        tested.append(sum(any(p.requires_grad for p in group) for group in learn.opt.param_lists))
        return LRCurve(np.array([1.0]), np.array([1.0]), dict.fromkeys(METHODS, 3e-4))

    monkeypatch.setattr(training, "range_test", look)
    monkeypatch.setattr(find_lr, "range_test", look)
    run = xf.fit(data, runs=tmp_path, epochs=1, lr="auto", **settings, **SMALL)
    assert run.info["lr"] == 3e-4 == xf.find_lr(data, **settings, **SMALL).best
    assert tested == [trained_groups] * 2


def test_lr_auto_runs_the_range_test_first(data, tmp_path):
    run = xf.fit(data, runs=tmp_path, epochs=1, lr="auto", **SMALL)
    assert 1e-7 < run.info["lr"] < 10
    assert run.info["lr"] != 2e-3


def test_the_range_test_stops_when_asked_to(data, tmp_path):
    stop = StopAfter(3)
    with pytest.raises(Interrupted, match="after 0 finished epochs"):
        xf.fit(data, runs=tmp_path, name="r", lr="auto", interrupted=stop, **SMALL)
    assert stop.left == -1
    assert not list((tmp_path / "r").glob("*.safetensors"))


def test_the_range_test_leaves_the_learner_as_it_was(data):
    from xrayfast.learning.training.lr_find import range_test

    learn = xf.learner(xf.dataloaders(data, size=32, batch_size=8, device="cpu"), weights="none")
    learn.remove_cb(learn.progress)
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    curve = range_test(learn, steps=24)
    assert all(torch.equal(before[name], tensor) for name, tensor in learn.model.state_dict().items())
    assert len(curve.lrs) == len(curve.losses) >= 20
    assert (np.diff(curve.lrs) > 0).all()


def test_fit_opens_the_data_that_the_config_describes(data_dir, tmp_path):
    config = xf.Config().updated({"source": data_dir, "imply": ["covid-19=pneumonia"], "epochs": 1} | SMALL)
    run = xf.fit(config=config, runs=tmp_path)
    assert run.task == "multi"
    assert run.config.data.imply == ("covid-19=pneumonia",)
    assert xf.fit(data_dir, config=config, runs=tmp_path).task == "multi"


def test_a_run_from_a_weights_file_resumes_from_another_folder(data, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_run.path.parent)
    weights = f"{tiny_run.path.name}/model.safetensors"
    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", epochs=3, interrupted=StopAfter(8), **(SMALL | {"weights": weights}))
    monkeypatch.chdir("/")
    assert xf.resume(tmp_path / "r").info["status"] == "completed"


@pytest.mark.slow
def test_vgg16_from_half_precision_features_learns(shared, data, tmp_path):
    weights = str(shared / "weights" / "vgg16_features_imagenet1k_v1_fp16.pth")
    run = xf.fit(data, runs=tmp_path, epochs=3, **(SMALL | {"arch": "vgg16", "weights": weights, "size": 64}))
    assert run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]


@pytest.mark.parametrize("lr", [100.0, 1000.0])
def test_training_that_diverges_is_a_named_error(data, tmp_path, lr):
    with pytest.raises(TrainingError, match=r"diverged. Use a lower lr="):
        xf.fit(data, runs=tmp_path, name="r", epochs=3, lr=lr, optimizer="sgd", schedule="constant", unfreeze=True,
               freeze_epochs=0, **SMALL)  # fmt: skip
    assert xf.Run(tmp_path / "r").info["status"] == "failed"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"monitor": "subset_accuracy"}, "monitor is"),
        ({"alpha": (0.5, 0.5), "loss": "focal"}, "one for each of: covid-19, normal, pneumonia"),
        ({"precision": "fp16"}, "needs a CUDA device"),
        ({"progressive": (16, 32)}, "progressive"),
        ({"progressive": (48, 32)}, "growing sizes"),
        ({"progressive": (48, 64)}, "progressive ends at 64, and size is 32"),
        ({"frozen_views": 0}, "frozen_views"),
        ({"reuse_frozen": "maybe"}, "reuse_frozen"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"wd": float("nan")}, "wd is nan"),
        ({"imply": "covid-19=pneumonia"}, "'imply' describes the data"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_settings_are_refused_before_a_folder_is_made(options, words, data, tmp_path):
    with pytest.raises(ConfigError, match=words):
        xf.fit(data, runs=tmp_path / "runs", **(SMALL | options))
    assert not (tmp_path / "runs").exists()


def test_worker_processes_give_the_same_numbers(data, tmp_path):
    runs = [xf.fit(data, runs=tmp_path, epochs=1, **(SMALL | {"workers": workers})) for workers in (0, 2)]
    assert runs[0].history[SAME].equals(runs[1].history[SAME])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(data_dir, tmp_path, workers):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    victim = sorted(copy.glob("normal/*.png"))[2]
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(DataError) as caught:
        xf.fit(copy, runs=tmp_path / "runs", epochs=1, **(SMALL | {"workers": workers}))
    assert "1 of 36 images can't be read" in str(caught.value)
    assert str(victim) in str(caught.value)
    assert not (tmp_path / "runs").exists()
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"arch": "resnet81"}, ConfigError, "Did you mean 'resnet18'"),
        ({"unfreeze": True, "unfreeze_blocks": 1}, ConfigError, "use one of the three"),
        ({"unfreeze_blocks": 9}, ConfigError, "has only 5 blocks"),
        ({"monitor": "ap_macro"}, ConfigError, "monitor is 'ap_macro'"),
        ({"prevalence": "2"}, ConfigError, "prevalence: found '2'"),
        ({"loss": "bce"}, ConfigError, "loss bce is for multi-label data"),
        ({"head": "classifier"}, ConfigError, "head is classifier"),
        ({"name": "taken"}, RunError, "already exists"),
        ({"name": "a/b"}, RunError, "expected a plain folder name"),
        ({"runs": "file"}, RunError, "can't be written"),
    ],
)
def test_impossible_settings_are_errors_before_images_are_decoded(
    options, error, words, data_dir, tmp_path, monkeypatch
):
    def refuse(*_):
        raise AssertionError("images are decoded")

    monkeypatch.setattr("xrayfast.workflows.fit.decode", refuse)
    monkeypatch.setattr("xrayfast.workflows.find_lr.decode", refuse)
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    data, state = xf.open_data(data_dir), torch.get_rng_state()
    settings = {**SMALL, "runs": tmp_path, **options}
    settings["runs"] = tmp_path / settings["runs"]
    with pytest.raises(error, match=words):
        xf.fit(data, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]
    if error is ConfigError and "prevalence" not in options and "monitor" not in options:
        with pytest.raises(error, match=words):
            xf.find_lr(data, **{name: value for name, value in settings.items() if name != "runs"})


def test_a_class_absent_from_validation_leaves_empty_cells_and_training_goes_on(data_dir, tmp_path):
    for split in ("train", "valid"):
        shutil.copytree(data_dir, tmp_path / "data" / split)
    (tmp_path / "data" / "train" / "labels.csv").unlink()
    (tmp_path / "data" / "valid" / "labels.csv").unlink()
    shutil.rmtree(tmp_path / "data" / "valid" / "covid-19")
    shutil.rmtree(tmp_path / "data" / "valid" / "pneumonia")
    notes = []

    run = xf.fit(
        tmp_path / "data",
        runs=tmp_path,
        epochs=2,
        early_stop=1,
        allow_leaks=True,
        reporter=NullReporter(note=notes.append),
        **SMALL,
    )
    assert run.history["valid_auroc_macro"].isna().all()
    assert run.history["valid_accuracy"].notna().all()
    assert run.info["best_epoch"] == run.history["valid_loss"].argmin() + 1
    assert any("No validation image has covid-19, pneumonia" in note for note in notes)
    assert any("Every validation image has normal: AUROC and average precision" in note for note in notes)
    said = "their columns are empty: auroc_macro. The best epoch was chosen by the validation loss instead."
    assert any(said in note for note in notes)
    card = (run.path / "model_card.md").read_text()
    assert "the best according to loss, since macro AUROC is undefined, on the validation split" in card
    summary = run.metrics["valid"]
    assert [row[name] for row in summary["per_label"] for name in ("auroc", "ap")] == [None] * 6
    assert summary["overall"]["ap_macro"] is None


def test_history_prefers_defined_values_then_higher_ones_then_lower_loss():
    history = History()
    rows = [(None, 0.5), (0.6, 0.9), (None, 0.1), (0.6, 0.8), (0.7, 2.0), (0.7, 2.0)]
    improved = [
        history.add({"epoch": i, "size": 64, "auroc_macro": value, "valid_loss": loss}, "auroc_macro")
        for i, (value, loss) in enumerate(rows, 1)
    ]
    assert improved == [True, True, False, True, True, False]
    assert history.best_epoch == 5
    assert history.stale_epochs(0, size=64) == 1
    assert history.stale_epochs(6, size=64) == 0


def test_only_epochs_at_the_last_size_can_be_best_or_stale():
    history = History()
    for epoch, (size, value) in enumerate([(32, 0.9), (32, 0.8), (32, 0.7), (64, 0.5), (64, 0.4)], 1):
        history.add({"epoch": epoch, "size": size, "auroc_macro": value, "valid_loss": 1.0}, "auroc_macro")
        assert history.stale_epochs(0, size=64) == max(0, epoch - 4)
    assert history.best_epoch == 4


def test_multi_label_with_focal_loss(tiny_multi_run):
    run = tiny_multi_run
    assert run.task == "multi"
    assert run.labels == ("covid-19", "normal", "pneumonia")
    predictions = run.predictions("valid")
    covid, pneumonia = predictions.truth[:, 0], predictions.truth[:, 2]
    assert (pneumonia >= covid).all()
    assert covid.sum() > 0
    assert set(run.metrics["valid"]["overall"]) == set(overall_metrics("multi"))
    assert predictions.loss.mean() == pytest.approx(run.history["valid_loss"][run.info["best_epoch"] - 1], rel=1e-3)


def test_a_head_that_is_too_large_is_refused_before_images_are_decoded(data_dir):
    with pytest.raises(ConfigError, match="head_width is 30000, 30000: with 3 labels the head has 930,810,000 weights"):
        require_settings(xf.open_data(data_dir), Config().updated({"head_width": (30_000, 30_000)}))


def test_an_unknown_network_is_refused_before_the_data_are_opened(tmp_path):
    for use in (xf.fit, xf.find_lr, xf.cross_validate):
        with pytest.raises(ConfigError, match=r"arch is 'resnet81'.*Did you mean 'resnet18'"):
            use(tmp_path / "nowhere", arch="resnet81")


def test_one_training_image_is_refused(data_dir, tmp_path):
    table = pd.read_csv(data_dir / "labels.csv").query("labels != 'pneumonia'").drop(columns="patient")
    table = table.assign(finding=(table.pop("labels") == "normal").astype(int), split="valid")
    table.loc[table.index[0], "split"] = "train"
    table.to_csv(tmp_path / "labels.csv", index=False)
    data = xf.open_data(data_dir, labels=tmp_path / "labels.csv", task="multi")
    settings = {name: value for name, value in SMALL.items() if name != "resamples"}
    for use in (xf.find_lr, partial(xf.fit, runs=tmp_path / "runs")):
        with pytest.raises(DataError, match="train split has 1 image; expected at least 2"):
            use(data, **settings)
    assert not list((tmp_path / "runs").glob("*"))
