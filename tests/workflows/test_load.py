"""A run is loaded as a Learner, trained further by hand, and saved as a run again."""

import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.metrics import error_rate
from fastai.optimizer import SGD, OptimWrapper
from torch import nn

import xrayfast as xf
from tests.conftest import UNCHECKED
from xrayfast.errors import ConfigError, DataError
from xrayfast.learning.fastai_api import Callback, Learner, PILImageBW, TensorImageBW, Transform
from xrayfast.learning.model.weights import load_backbone
from xrayfast.learning.training.learner import RadiographLearner


def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = lambda _: None
    return learn


def test_load_gives_a_fastai_learner_on_the_run_s_own_data(tiny_run):
    learn = xf.load(tiny_run.path)
    assert isinstance(learn, Learner)
    assert len(learn.dls.manifest) == 36
    np.testing.assert_allclose(learn.get_preds()[0].numpy(), tiny_run.predictions("valid").raw, atol=1e-5)


def test_the_cache_folder_named_by_a_run_is_used_only_if_it_is_a_cache(tiny_run, tmp_path, cache):
    """Otherwise a run from a stranger could make us write to any folder."""
    named = tmp_path / "named"
    run = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "run", ignore=UNCHECKED))
    run.write_config(run.config.updated({"cache_dir": named}))
    with pytest.warns(
        UserWarning, match=rf"{named}: is the cache_dir .* Nothing is written there; the cache in {cache}"
    ):
        assert xf.load(run, device="cpu").dls.manifest.config.cache_dir is None
    assert not named.exists()
    xf.dataloaders(xf.open_data(tiny_run.config.data.source, cache_dir=named), size=32, device="cpu")
    assert xf.load(run, device="cpu").dls.manifest.config.cache_dir == named


def test_load_works_without_the_data(tiny_run, data_dir, tmp_path):
    run = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "moved", ignore=UNCHECKED))
    config = (run.path / "config.yaml").read_text().replace(str(data_dir), str(tmp_path / "elsewhere"))
    (run.path / "config.yaml").write_text(config)
    with pytest.warns(
        UserWarning, match=r"was trained on data that have been moved.* black image .* xrayfast\.load\(run, data\)"
    ):
        learn = quiet(xf.load(run))
    file = next(data_dir.glob("normal/*.png"))
    expected = xf.predict(tiny_run, file).filter(like="prob_").to_numpy(dtype=float)[0]
    own = learn.predict(file)[2].numpy()[None].astype(float)
    np.testing.assert_allclose(run.decision.calibrated(own)[0], expected, atol=1e-6)


def test_a_learner_trained_by_hand_is_saved_as_a_run(tiny_run, tmp_path):
    seen = []

    class Count(Callback):
        """Counts training batches."""

        def after_batch(self):
            if self.training:
                seen.append(self.iter)

    learn = quiet(xf.load(tiny_run))
    learn.unfreeze()
    learn.fit(2, 1e-3)
    learn.fit_one_cycle(2, 1e-3, cbs=Count(), start_epoch=1, wd=0.3)
    learn.get_preds()
    assert len(seen) == len(learn.dls.train)
    run = xf.save(learn, runs=tmp_path, name="by-hand")
    by_hand, code = run.info["remarks"][:2]
    assert by_hand == (
        f"Trained by hand, in Python, from {tiny_run.path} on. The history is only that of the last of 2 fits."
    )
    assert "own code: cbs Count. Its folder" in code
    assert run.info["status"] == "completed"
    assert len(run.history) == 1 and run.config.train.wd == 0.3
    assert run.config.data.source == tiny_run.config.data.source
    again = xf.load(run)
    for a, b in zip(learn.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    xf.interpret(run)
    assert run.report_path.is_file()


def test_a_run_s_weights_start_another_run(tiny_run):
    backbone = load_backbone("tiny_resnet", str(tiny_run.model_path))
    learn = xf.load(tiny_run)
    assert torch.equal(next(backbone.blocks["layer4"].parameters()), next(learn.model[0][4].parameters()).cpu())


def test_data_with_other_labels_is_refused(tiny_run, multi_dir):
    with pytest.raises(DataError, match="was trained on the labels"):
        xf.load(tiny_run, xf.open_data(multi_dir))


def test_dataloaders_of_another_size_or_device_are_told(tiny_run, data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir), size=48, device="cpu")
    with pytest.warns(UserWarning, match=rf"have images of 48 pixels, but {tiny_run.path} was trained at 32, so"):
        xf.load(tiny_run, dls)
    dls.device = "meta"
    with pytest.raises(ConfigError, match="device is cpu, but the batches of these DataLoaders are on meta"):
        xf.load(tiny_run, dls, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device is cuda, but torch finds no such device"):
            xf.load(tiny_run, dls, device="cuda")


def test_a_learner_whose_data_were_replaced_by_those_of_other_labels_is_not_used(
    tiny_run, data_dir, multi_dir, tmp_path
):
    learn, renamed = xf.load(tiny_run), shutil.copytree(data_dir, tmp_path / "renamed")
    (renamed / "labels.csv").unlink()
    (renamed / "covid-19").rename(renamed / "mass")
    for folder, labels in ((renamed, r"mass, normal, pneumonia \(single"), (multi_dir, r".* \(multi")):
        learn.dls = xf.dataloaders(xf.open_data(folder), size=learn.dls.size)
        for use in (xf.save, RadiographLearner.validate, RadiographLearner.get_preds, lambda learn: learn.fit(1)):
            with pytest.raises(DataError, match=f"DataLoaders of the labels {labels}-label.*made for covid-19"):
                use(learn)
    learn.dls = type("Other", (list,), {"vocab": ["covid-19", "normal"]})([None, None])  # as fastai's
    with pytest.raises(DataError, match="of the labels covid-19, normal"):
        learn.validate()


def test_a_learner_trained_by_hand_on_splits_that_share_images_says_so(data_dir, tmp_path):
    for split in ("train", "valid"):
        for file in sorted(data_dir.glob("*/*_00.png"))[:12]:
            new = tmp_path / "data" / split / file.parent.name / f"{file.stem}{split * (split == 'valid')}.png"
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, new)
    dls = xf.dataloaders(xf.open_data(tmp_path / "data"), size=32, device="cpu")
    with pytest.warns(UserWarning, match=r"Trained with leaks allowed: .* 12 images in more than one split: .* = "):
        run = xf.save(xf.learner(dls, arch="tiny_resnet", weights="none"), runs=tmp_path / "runs")
    assert run.info["remarks"][0] == "Saved in Python without training."
    assert run.info["remarks"][1].startswith("Trained with leaks allowed")


def test_an_optimizer_without_weight_decay_is_saved(tiny_run, tmp_path):
    learn = xf.load(tiny_run)
    learn.opt_func = partial(OptimWrapper, opt=torch.optim.Rprop)
    learn.create_opt()
    assert xf.save(learn, runs=tmp_path).config.train.wd == tiny_run.config.train.wd


def test_weights_of_a_learner_of_other_labels_are_not_loaded(tiny_run, data_dir, tmp_path):
    learn, renamed = xf.load(tiny_run), shutil.copytree(data_dir, tmp_path / "renamed")
    learn.path = tmp_path
    learn.save("own", with_opt=False)
    learn.load("own", with_opt=False)
    (renamed / "labels.csv").unlink()
    (renamed / "covid-19").rename(renamed / "zoster")  # the last label, not the first
    dls = xf.dataloaders(xf.open_data(renamed), size=learn.dls.size)
    other = xf.learner(dls, arch=learn.arch, weights="none")
    other.path = tmp_path
    before = next(other.model.parameters()).clone()
    with pytest.raises(
        DataError, match="labels covid-19, normal, pneumonia, but this one has normal, pneumonia, zoster"
    ):
        other.load("own", with_opt=False)
    assert torch.equal(before, next(other.model.parameters()))
    xf.learner(dls, arch=learn.arch, weights=tiny_run)


def test_a_placeholder_for_data_that_is_gone_is_not_saved(tiny_run, data_dir, tmp_path):
    run = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "moved", ignore=UNCHECKED))
    config = (run.path / "config.yaml").read_text().replace(str(data_dir), str(tmp_path / "elsewhere"))
    (run.path / "config.yaml").write_text(config)
    with pytest.raises(DataError, match="only a placeholder"):
        xf.save(xf.load(run), runs=tmp_path)


def test_a_run_that_was_loaded_and_not_trained_keeps_its_history(tiny_run, tmp_path):
    run = xf.save(xf.load(tiny_run), runs=tmp_path)
    pd.testing.assert_frame_equal(run.history, tiny_run.history)
    pd.testing.assert_frame_equal(run.batches, tiny_run.batches)
    assert run.info["best_epoch"] == tiny_run.info["best_epoch"]
    assert (
        run.info["remarks"][0]
        == f"Saved in Python. The history is that of {tiny_run.path}, and nothing was trained since."
    )
    assert run.config.model.weights == str(tiny_run.model_path)


def test_a_run_whose_weights_were_replaced_without_training_has_no_history(tiny_run, tmp_path):
    """Such as those of `learn.load`, which the epochs of the run did not give."""
    learn = xf.load(tiny_run)
    with torch.no_grad():
        next(learn.model.parameters()).add_(1e-3)
    run = xf.save(learn, runs=tmp_path)
    assert run.history.empty and run.info["best_epoch"] is None
    assert run.info["remarks"][0].endswith("Its weights were replaced, so there is no history.")


@pytest.mark.slow
def test_a_learner_that_was_not_trained_is_saved_and_reported(tiny_run, tmp_path):
    run = xf.save(xf.learner(xf.load(tiny_run).dls, weights="none"), runs=tmp_path)
    assert len(run.history) == 0
    assert run.info["best_epoch"] is None
    xf.interpret(run)
    assert "best epoch was chosen" not in run.report_path.read_text()
    again = xf.load(run)
    assert not hasattr(again.recorder, "values") and len(xf.save(again, runs=tmp_path).history) == 0


def test_a_run_without_batches_has_one_loss_per_epoch(tiny_run, tmp_path):
    run = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "run", ignore=UNCHECKED))
    (run.path / "batches.csv").unlink()
    recorder = xf.load(run).recorder
    assert recorder.iters == [1, 2] and float(recorder.losses[0]) == pytest.approx(run.history["train_loss"][0])
    (run.path / "history.csv").unlink()
    assert not hasattr(xf.load(run).recorder, "values")


def test_a_validated_learner_is_saved_with_the_epochs_that_were_trained(tiny_run, tmp_path):
    learn = quiet(xf.load(tiny_run))
    learn.validate()
    assert len(xf.save(learn, runs=tmp_path, name="validated").history) == 2
    learn.fit(1, 0.0)
    losses = list(learn.recorder.losses)
    learn.validate()
    learn.get_preds(with_loss=True)
    assert xf.save(learn, runs=tmp_path, name="trained").history["lr"].tolist() == [0.0]
    assert learn.recorder.losses == losses


class Count(Callback):
    batches = 0

    def after_batch(self):
        self.batches += self.training


def test_further_metrics_and_callbacks_are_used_and_kept(tiny_run, tmp_path):
    dls, count = xf.load(tiny_run).dls, Count()
    learn = quiet(xf.learner(dls, arch="tiny_resnet", weights="none", metrics=error_rate, cbs=[count]))
    learn.fit(1, 0.0)
    assert count.batches == len(dls.train)
    run = xf.save(learn, runs=tmp_path)
    assert run.history["valid_error_rate"][0] == pytest.approx(1 - run.history["valid_accuracy"][0])
    xf.interpret(run)


def test_a_range_test_does_not_count_as_history(tiny_run, tmp_path):
    learn = quiet(xf.load(tiny_run))
    learn.lr_find(num_it=3, show_plot=False, suggest_funcs=None)
    run = xf.save(learn, runs=tmp_path)
    assert len(run.history) == 0 and "There is no history" in run.info["remarks"][1]


def test_another_network_is_refused_and_another_loss_or_optimizer_is_noted(tiny_run, tmp_path):
    learn = quiet(xf.load(tiny_run))
    learn.loss_func, learn.opt_func = LabelSmoothingCrossEntropyFlat(), SGD
    run = xf.save(learn, runs=tmp_path)
    assert run.info["loss"] == "LabelSmoothingCrossEntropyFlat"
    assert [r.split()[0] for r in run.info["remarks"] if "replaced in Python" in r] == [
        "learn.loss_func",
        "learn.opt_func",
    ]
    hook = learn.model[1][-1].register_forward_hook(lambda module, given, logits: -logits)
    with pytest.raises(ConfigError, match=r"has the layers of the tiny_resnet with .*, but gives other outputs"):
        xf.save(learn, runs=tmp_path)
    hook.remove()
    learn.model[1].append(nn.ReLU())
    with pytest.raises(ConfigError, match="but gives other outputs, so a hook"):
        xf.save(learn, runs=tmp_path)
    del learn.model[1][-1]
    learn.model[1][-1].half()
    with pytest.raises(ConfigError, match=r"differs in 1\.8\.weight"):
        xf.save(learn, runs=tmp_path)
    learn.model[1][-1] = nn.Linear(512, 4)
    with pytest.raises(ConfigError, match=r"not the tiny_resnet with .* differs in 1\.8\.bias, 1\.8\.weight"):
        xf.save(learn, runs=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


class Invert(Transform):
    """A user's batch transform."""

    def encodes(self, x: TensorImageBW):
        return 1 - x


class Flip(Invert):
    split_idx = 0


class Blacken(Transform):
    """A user's item transform."""

    def encodes(self, x: PILImageBW):
        return PILImageBW.create(np.zeros(x.shape, np.uint8))


def test_transforms_that_a_run_can_t_keep_are_refused_by_name(tiny_run, tmp_path):
    for event, transform in (("after_batch", Invert()), ("after_item", Blacken())):
        learn = quiet(xf.load(tiny_run))
        getattr(learn.dls.valid, event).add(transform)
        with pytest.raises(ConfigError, match=rf"dls\.valid\.{event} has {type(transform).__name__}: .*learn\.export"):
            xf.save(learn, runs=tmp_path)
    learn = quiet(xf.load(tiny_run))
    fs = learn.dls.valid.after_batch.fs
    fs.remove(next(t for t in fs if type(t).__name__ == "Normalization"))
    with pytest.raises(ConfigError, match=r"dls\.(train|valid)\.after_batch lacks Normalization"):
        xf.save(learn, runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_transform_that_only_augments_is_recorded(tiny_run, tmp_path):
    learn = quiet(xf.load(tiny_run))
    learn.dls.train.after_batch.add(Flip())
    run = xf.save(learn, runs=tmp_path)
    assert "The training split was also augmented by: Flip." in run.info["remarks"]


def test_an_item_transform_is_called(tiny_run):
    dls = xf.load(tiny_run).dls
    before = dls.valid.one_batch()
    dls.valid.after_item.add(Blacken())
    after = dls.valid.one_batch()
    assert before[0].std() > 0.1 and after[0].unique().numel() == 3 and torch.equal(before[1], after[1])


def test_a_learner_that_xrayfast_did_not_make_is_not_saved(tiny_run, tmp_path):
    learn = xf.load(tiny_run)
    learn = Learner(learn.dls, learn.model, learn.loss_func)
    with pytest.raises(ConfigError, match="was not made by"):
        xf.save(learn, runs=tmp_path)
