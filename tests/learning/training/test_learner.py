"""The Learner: fastai's own, with what is ours in typed attributes."""

import pytest
import torch
from fastai.interpret import ClassificationInterpretation
from fastai.learner import load_learner

import xrayfast as xf
from xrayfast.learning.fastai_api import DataLoaders, Learner
from xrayfast.learning.training.learner import RadiographLearner
from xrayfast.learning.training.loaders import RadiographDataLoaders
from xrayfast.learning.training.metrics import EpochRecorder


@pytest.fixture
def learn(data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu")
    learn = xf.learner(dls, weights="none", precision="fp32", seed=3)
    with learn.no_bar(), learn.no_logging():
        yield learn


def test_learner_and_dataloaders_are_typed_subclasses_of_fastai_s(learn):
    assert isinstance(learn, Learner) and type(learn) is RadiographLearner
    assert isinstance(learn.dls, DataLoaders) and type(learn.dls) is RadiographDataLoaders
    assert (learn.arch, learn.precision, learn.unused_weights) == ("resnet18", "fp32", ())
    assert learn.settings["seed"] == 3
    assert (learn.dls.size, learn.dls.batch_size, len(learn.dls.manifest)) == (32, 8, 36)
    assert type(learn.recorder) is EpochRecorder
    assert [type(callback).__name__ for callback in learn.cbs].count("Recorder") == 0


def test_fastai_s_own_methods_work(learn, data_dir, tmp_path):
    learn.fine_tune(1)
    learn.fit_one_cycle(1)
    assert len(learn.recorder.losses) == len(learn.dls.train)
    assert learn.lr_find(num_it=20, show_plot=False).valley > 0
    found = ClassificationInterpretation.from_learner(learn)
    assert found.confusion_matrix().sum() == len(learn.dls.valid_ds)
    file = next(data_dir.rglob("*.png"))
    expected = learn.predict(file)[2]
    learn.path = tmp_path
    learn.export("exported.pkl")
    exported = load_learner(tmp_path / "exported.pkl")
    with exported.no_bar():
        torch.testing.assert_close(exported.predict(file)[2], expected)
    assert type(exported.dls) is DataLoaders, "without the manifest"
