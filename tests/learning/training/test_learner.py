"""The Learner: fastai's, with our state in typed attributes."""

import importlib
import pkgutil
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import xrayfast as xf
import xrayfast.learning.training
from tests.conftest import SMALL, TINY
from xrayfast.learning.dataloaders.loaders import RadiographDataLoaders
from xrayfast.learning.dataloaders.sampling import sampling_weights
from xrayfast.learning.fastai_api import Callback, DataLoaders, Learner
from xrayfast.learning.model.weights import save_weights
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.learning.training.callbacks.preparation import EpochSeeds
from xrayfast.learning.training.learner import RadiographLearner
from xrayfast.learning.training.recorders import EpochRecorder


@pytest.fixture
def learn(data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, weights="none", precision="fp32", seed=3)
    with learn.no_bar(), learn.no_logging():
        yield learn


def test_learner_and_dataloaders_are_typed_subclasses_of_fastai_s(learn):
    assert isinstance(learn, Learner) and type(learn) is RadiographLearner
    assert isinstance(learn.dls, DataLoaders) and type(learn.dls) is RadiographDataLoaders
    assert (learn.arch, learn.precision, learn.network_notes) == ("resnet18", "fp32", ())
    assert learn.settings["seed"] == 3
    assert (learn.dls.size, learn.dls.bs, len(learn.dls.manifest)) == (32, 8, 36)
    assert type(learn.recorder) is EpochRecorder
    assert [type(callback).__name__ for callback in learn.cbs].count("Recorder") == 0


def test_one_alpha_for_all_classes_is_noted(learn):
    options = {"arch": SMALL["arch"], "weights": "none", "loss": "focal"}
    for alpha in (0.25, (0.25,)):
        (note,) = xf.learner(learn.dls, **options, alpha=alpha).network_notes
        assert "alpha is one number" in note
    assert not xf.learner(learn.dls, **options, alpha=(0.2, 0.3, 0.5)).network_notes


@pytest.mark.parametrize(
    "changed", [{}, {"class_weights": "auto"}, {"label_smoothing": 0.5}, {"balanced_sampling": True}]
)
def test_the_probabilities_of_a_new_network_are_the_prevalences_of_the_labels(multi_dir, tmp_path, changed):
    """Labels that are rare would otherwise start at 0.5, and the first epochs would only learn that they are rare."""
    table = pd.read_csv(multi_dir / "labels.csv")
    table[7:].to_csv(tmp_path / "labels.csv", index=False)  # 5 of the 12 images with covid-19 stay
    data, options = xf.open_data(multi_dir, labels=tmp_path / "labels.csv"), dict(changed)
    sampling = options.pop("balanced_sampling", False)
    dls = xf.dataloaders(data, size=32, batch_size=16, device="cpu", balanced_sampling=sampling)
    learn = xf.learner(dls, arch=SMALL["arch"], weights="none", precision="fp32", **options)
    _, _, norm, _, last = list(learn.model[1])[-5:]
    found = (last.weight @ norm.bias).sigmoid()  # batch norm gives each feature the mean 0
    rows = data.subset("train")
    expected = np.average(rows.targets, axis=0, weights=sampling_weights(rows.truth) if sampling else None)
    if "class_weights" in options:
        expected = np.full_like(expected, 0.5)  # positives have the weight of negatives
    smoothed = expected + options.get("label_smoothing", 0) * (0.5 - expected)
    np.testing.assert_allclose(found.detach(), smoothed, atol=0.05)


class EveryEvent(Callback):
    def __init__(self):
        self.events = []

    def __call__(self, event_name):
        self.events.append(event_name)


def test_an_event_reaches_a_callback_with_a_class_method_an_instance_method_or_one_for_all_events(learn):
    called, own, quiet, every = [], Callback(), Callback(), EveryEvent()
    own.after_step, quiet.run = partial(called.append, "own"), False
    with learn.added_cbs([own, quiet, every]):
        learn("after_step")
        learn(["before_step", "after_fit"])
    assert called == ["own"] and every.events == ["after_step", "before_step", "after_fit"]
    assert quiet.run, "fastai lets it run again in the next fit"


class StandsFor(Callback):
    _default = "other"

    def __init__(self, other):
        self.other = other


class StandsForOne(Callback):
    def __init__(self, other):
        self.other, self._default = other, "other"


class AnswersAll(Callback):
    def __init__(self, other):
        self.other = other

    def __getattr__(self, name):
        return getattr(self.__dict__["other"], name) if "other" in self.__dict__ else super().__getattr__(name)


@pytest.mark.parametrize("kind", [StandsFor, StandsForOne, AnswersAll])
def test_an_event_reaches_a_callback_that_delegates_to_an_object_with_the_method(learn, kind):
    called = []
    with learn.added_cbs([kind(SimpleNamespace(after_step=partial(called.append, "other")))]):
        learn("after_step")
        learn("before_step")
    assert called == ["other"]


def test_an_event_that_does_not_exist_is_an_error_as_in_fastai(learn):
    with pytest.raises(Exception, match="missing after_stop"):
        learn(["before_step", "after_stop"])


def test_a_head_of_a_weight_file_that_is_not_used_is_named(learn, tmp_path):
    save_weights(learn.model, tmp_path / "run.safetensors")
    said = r"Only the backbone is loaded from .*run\.safetensors; the head .* Not used: 1\.2\.bias"
    with pytest.warns(UserWarning, match=said):
        xf.learner(learn.dls, weights=tmp_path / "run.safetensors")
    notes = []
    options = TINY | {"weights": str(tmp_path / "run.safetensors")}
    xf.find_lr(learn.dls.manifest, steps=20, note=notes.append, **options)
    assert [note for note in notes if re.match(said, note)]


def test_the_optimizer_has_the_given_betas_and_epsilon(data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, weights="none", momentum=0.8, beta2=0.999, eps=1e-8, wd=0.0)
    learn.create_opt()
    assert {name: learn.opt.hypers[-1][name] for name in ("mom", "sqr_mom", "eps")} == {
        "mom": 0.8, "sqr_mom": 0.999, "eps": 1e-8,
    }  # fmt: skip


FASTAI_S = ("TrainEvalCallback", "CastToTensor", "ParamScheduler", "ProgressCallback", "GradientClip")


def subclasses(kind):
    for found in kind.__subclasses__():
        yield found
        yield from subclasses(found)


def test_the_order_of_every_callback_is_that_of_the_table():
    for module in pkgutil.walk_packages(xrayfast.learning.training.__path__, "xrayfast.learning.training."):
        importlib.import_module(module.name)
    kinds = {kind.__name__: kind for kind in subclasses(Callback) if kind.__module__.startswith("xrayfast.")}
    kinds |= {kind.__name__: kind for kind in subclasses(Callback) if kind.__name__ in FASTAI_S}
    assert {name: kind.order for name, kind in kinds.items()} == CALLBACK_ORDER
    assert list(CALLBACK_ORDER.values()) == sorted(CALLBACK_ORDER.values())


@pytest.mark.parametrize("reuse_frozen", ["on", "off"])
def test_callbacks_run_in_the_order_of_the_table_while_a_run_trains(data_dir, tmp_path, monkeypatch, reuse_frozen):
    orders = []

    def before_fit(self):
        orders.append([type(callback).__name__ for callback in self.learn.cbs.sorted("order")])

    monkeypatch.setattr(EpochSeeds, "before_fit", before_fit, raising=False)
    options = SMALL | {"epochs": 1, "precision": "bf16", "reuse_frozen": reuse_frozen}
    options |= {"ema": 0.9, "clip_grad": 1.0, "accumulate": 2}
    xf.fit(data_dir, runs=tmp_path, **options)
    (names,) = orders
    absent = {"TrainAsRank", "Float16", "InterruptRangeTest", "ProgressCallback", "RepeatChannel"}
    absent |= {"MixImages"}
    absent |= {"UseFrozenFeatures"} if reuse_frozen == "off" else set()
    assert names == [name for name in CALLBACK_ORDER if name not in absent]
