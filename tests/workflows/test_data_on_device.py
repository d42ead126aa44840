"""Runs whose images and frozen features lie on the device: the numbers of those that read them batch by batch."""

import pytest

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.errors import Interrupted
from xrayfast.learning import device_data
from xrayfast.learning.training import frozen_features

OPTIONS = SMALL | {"epochs": 2, "unfreeze": True, "freeze_epochs": 3, "mixup": 0.0, "resamples": 0, "seed": 5}
pytestmark = pytest.mark.usefixtures("quick")


def numbers(run):
    files = ["model.safetensors", "batches.csv", "predictions/valid.csv", "predictions/test.csv"]
    history = run.history.drop(columns="seconds").to_csv()
    return [(run.path / name).read_bytes() for name in files] + [history]


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir, test_fraction=0.2)


@pytest.fixture(scope="module")
def usual(data, tmp_path_factory):
    """Frozen features in memory, then images read batch by batch."""
    return xf.fit(data, runs=tmp_path_factory.mktemp("usual"), **OPTIONS)


@pytest.mark.parametrize("way", ["on", "read ahead"])
def test_a_run_has_the_numbers_of_one_that_reads_its_images_batch_by_batch(data, usual, way, tmp_path, monkeypatch):
    placed = []
    if way == "read ahead":
        monkeypatch.setattr(device_data.DeviceFeed, "_load", lambda self: pytest.fail("all images were read"))
        feed = device_data.DeviceFeed.__init__
        monkeypatch.setattr(device_data.DeviceFeed, "__init__", lambda self, *a: feed(self, *a[:-1], False))
    else:  # frozen features too
        monkeypatch.setattr(device_data.Placement, "fits", lambda self, size: placed.append(size) or True)
        monkeypatch.setattr(frozen_features, "_allocate", lambda *a: pytest.fail("features were put elsewhere"))
    run = xf.fit(data, runs=tmp_path, data_on_device="on", **OPTIONS)
    assert numbers(run) == numbers(usual)
    assert bool(placed) == (way == "on")


def test_it_resumes_to_the_same_numbers(data, usual, tmp_path):
    batches = []

    def stop():
        batches.append(None)
        return len(batches) == 14  # in the fourth epoch, the first that is not frozen

    with pytest.raises(Interrupted):
        xf.fit(data, runs=tmp_path, name="r", data_on_device="on", interrupted=stop, **OPTIONS)
    assert 0 < len(xf.Run(tmp_path / "r").history) < 5
    assert numbers(xf.resume(tmp_path / "r")) == numbers(usual)


def test_it_is_said_once_where_images_lie(data, tmp_path, capsys):
    said = []
    xf.find_lr(data, steps=20, data_on_device="on", note=said.append, **{**SMALL, "resamples": 100})
    assert [text for text in said if "on cpu" in text] == ["All images are on cpu, which takes 0.00 GB."]
