"""Shared fixtures: one tiny synthetic data set and one tiny run for the whole session."""

import gc
import os
import random
import shutil
import signal
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import settings
from PIL import Image

# Set before matplotlib and torch are imported. On networks this small, threads cost more time than they save, and
# much more on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("COLUMNS", "120")

# With Python's default of 700, garbage collection takes 5% of the time here and frees little.
gc.set_threshold(50_000, 20, 100)

# The same examples in every run; no deadline, because tests must not fail on a busy machine.
settings.register_profile("deterministic", deadline=None, derandomize=True)
settings.load_profile("deterministic")


def pytest_collection_finish(session):
    """Register the backbone of `SMALL` if a test module uses it."""
    if any(hasattr(getattr(item, "module", None), "SMALL") for item in session.items):
        add_tiny_resnet()


FROZEN_MODULES = set()


def pytest_runtest_setup(item):
    """Seed the global random generators, so that no result depends on the tests that ran before, and exclude the half a
    million objects that imports created from garbage collection, which `fit` starts with.

    The latter is repeated when many more modules have been imported, such as fastai's.
    """
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)
    if len(sys.modules) > len(FROZEN_MODULES) + 100:
        FROZEN_MODULES.update(sys.modules)
        gc.collect()
        gc.freeze()


SHARED = Path(__file__).resolve().parents[2] / "shared"


class StopAfter:
    """Asks to stop after a number of batches."""

    def __init__(self, batches):
        self.left = batches

    def __call__(self):
        self.left -= 1
        return self.left < 0


def record_writers(monkeypatch):
    """Return a list that collects the names of the threads that write checkpoints, in order."""
    from xrayfast.workflows.steps import training

    wrote, real = [], training.save_checkpoint
    monkeypatch.setattr(
        training, "save_checkpoint", lambda *a: wrote.append(threading.current_thread().name) or real(*a)
    )
    return wrote


class Payload:
    """An object whose pickle creates the file `path` when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


UNCHECKED = shutil.ignore_patterns("checksums.txt")
"""The `ignore` of shutil.copytree for runs whose files a test changes: without checksums, as before version 0.4."""


def with_other_weights(run, folder, factor=1.1):
    """Return a copy of a run with a changed weight, since copies of a network are refused in an ensemble."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    copied = type(run)(shutil.copytree(run.path, folder, ignore=UNCHECKED))
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    last = [name for name in weights if name.endswith("weight")][-1]
    save_file(weights | {last: weights[last] * factor}, path, metadata)
    return copied


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Cache decoded images in a folder of the session instead of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XRAYFAST_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk():
    """Turn fsync off: no test simulates a power loss, and a run would wait for the disk about thirty times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def duplicates_compared_once():
    """Compute `aligned_correlation` of equal thumbnails only once, because most runs of the tests have the same images.

    The tests of `aligned_correlation` call the original function.
    """
    from xrayfast.audit import duplicates

    known, compute = {}, duplicates.aligned_correlation

    def correlation(first, second):
        pairs = first.shape, first.tobytes(), second.tobytes()
        if pairs not in known:
            known[pairs] = compute(first, second)
        alike, place = known[pairs]
        return alike.copy(), place.copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "aligned_correlation", correlation)
        yield


@pytest.fixture(scope="session", autouse=True)
def decoding_in_this_process():
    """Decode images without worker processes: starting one takes a quarter of a second, for a few images each time.

    tests/data/cache starts them with the original function, which this fixture yields.
    """
    from xrayfast.data.cache.decode_pool import _Pool

    start_process = _Pool._start_process
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Pool, "_start_process", lambda pool: None)
        yield start_process


@pytest.fixture(scope="session", autouse=True)
def default_signal_handlers():
    """Restore the default signal handlers: nohup ignores SIGHUP, and background jobs of a shell ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in {"SIGTERM", "SIGHUP", "SIGUSR1"} & set(dir(signal)):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared():
    """The folder of real radiographs and weights next to the checkout; skip the test if there is none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no shared data beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """36 synthetic films of 64 px in three class folders, with labels.csv."""
    from xrayfast.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("films") / "data"
    write_dataset(folder, images=36, size=64, seed=3)
    return folder


@pytest.fixture(scope="session")
def multi_dir(tmp_path_factory):
    """The data set of `data_dir` as multi-label data: covid-19 films are also labeled pneumonia."""
    from xrayfast.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("multi") / "data"
    write_dataset(folder, images=36, size=64, seed=3, multi_label=True)
    return folder


TINY = {
    "arch": "resnet18",
    "weights": "none",
    "size": 32,
    "batch_size": 8,
    "workers": 0,
    "device": "cpu",
    "precision": "fp32",
    "resamples": 0,
}
"""A network that trains an epoch of `data_dir` in about a second; metrics have no intervals."""


INTERVALS = {"resamples": 100}
"""For the runs of tests that look at intervals."""


SMALL = TINY | {"arch": "tiny_resnet"}
"""`TINY` in half the time and with a fiftieth of the disk space; only this process knows the backbone."""


@pytest.fixture(scope="session")
def tiny_run(data_dir, tmp_path_factory):
    """A completed single-label run with a valid and a test split: one frozen and one unfrozen epoch."""
    import xrayfast as xf

    add_tiny_resnet()
    data = xf.open_data(data_dir, test_fraction=0.2)
    return xf.fit(data, runs=tmp_path_factory.mktemp("runs"), name="tiny", unfreeze=True, epochs=1, **SMALL | INTERVALS)


@pytest.fixture(scope="session")
def tiny_multi_run(multi_dir, tmp_path_factory):
    """A completed multi-label run with focal loss."""
    import xrayfast as xf

    add_tiny_resnet()
    data = xf.open_data(multi_dir)
    return xf.fit(
        data,
        runs=tmp_path_factory.mktemp("runs"),
        name="multi",
        unfreeze=True,
        epochs=1,
        lr=0.1,  # otherwise the outputs are nearly constant
        loss="focal",
        precise_bn=False,  # from scratch, some channels are nearly constant and would magnify rounding
        **SMALL | INTERVALS,
    )


def add_tiny_resnet():
    """Add the backbone of `SMALL`."""
    from xrayfast.learning.model.backbones import BACKBONES, Backbone

    BACKBONES["tiny_resnet"] = Backbone("tiny_resnet", tiny_resnet, None, BACKBONES["resnet18"].blocks, features=64)


def tiny_resnet(weights=None):
    """Build a network with the layers and names of resnet18 and an eighth of the channels."""
    from torch import nn
    from torchvision.models.resnet import BasicBlock, ResNet

    class TinyResNet(ResNet):
        def __init__(self):
            nn.Module.__init__(self)
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8)
            self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
            for number, (a, b) in enumerate(pairwise([8, 8, 16, 32, 64]), 1):
                half = nn.Sequential(nn.Conv2d(a, b, 1, stride=2, bias=False), nn.BatchNorm2d(b)) if b > a else None
                layer = nn.Sequential(BasicBlock(a, b, 2 if half else 1, half), BasicBlock(b, b))
                self.add_module(f"layer{number}", layer)
            self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 1000)

    return TinyResNet()


@pytest.fixture
def tiny_vgg(monkeypatch):
    """Register the backbone of `add_tiny_vgg` and return its name."""
    return add_tiny_vgg(monkeypatch)


def add_tiny_vgg(monkeypatch):
    """Register a backbone like vgg16 with few channels, and return its name.

    Its own classifier has 98, 16 and 16 units instead of 25088, 4096 and 4096.
    """
    from torch import nn

    from xrayfast.learning.model import backbones

    class TinyVgg(nn.Module):
        """A network with the layers and names of torchvision's VGG."""

        def __init__(self, weights=None):
            super().__init__()
            widths = [3, 4, 4, 4, 4, 2]
            layers = [(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for a, b in pairwise(widths)]
            self.features = nn.Sequential(*(layer for block in layers for layer in block))
            self.avgpool = nn.AdaptiveAvgPool2d(7)
            hidden = (nn.Linear(98, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout())
            self.classifier = nn.Sequential(*hidden, nn.Linear(16, 1000))

        def forward(self, x):
            return self.classifier(self.avgpool(self.features(x)).flatten(1))

    vgg16 = backbones.BACKBONES["vgg16"]
    row = backbones.Backbone("tiny_vgg", TinyVgg, None, vgg16.blocks, vgg16.pooled_side, vgg16.classifier, 2)
    monkeypatch.setitem(backbones.BACKBONES, "tiny_vgg", row)
    return "tiny_vgg"


@pytest.fixture
def quick(monkeypatch):
    """Draw figures as one pixel, for tests that don't look at them."""
    draw_one_pixel(monkeypatch)


def draw_one_pixel(monkeypatch):
    """Make figures save and show one pixel."""

    def one_pixel(figure, transparent=False):
        return Image.new("RGBA", (1, 1))

    for module in ("figures.encoding", "html.plots"):
        monkeypatch.setattr(f"xrayfast.reporting.{module}.rasterize", one_pixel)
    monkeypatch.setattr("xrayfast.reporting.html.plots.rasterize_without_foot", lambda *_: (one_pixel(None),) * 2)


def draw_nothing(monkeypatch):
    """Do as `draw_one_pixel`, and leave the figures of pages empty, which take longer than the rest of a page."""
    from matplotlib.figure import Figure

    from xrayfast.reporting.html import plots

    draw_one_pixel(monkeypatch)
    for name in dir(plots):
        if name.endswith("_figure") or name == "loss_and_metric_curves":
            monkeypatch.setattr(plots, name, lambda *_, **__: Figure())


@pytest.fixture(scope="module")
def empty_figures():
    """Apply `draw_nothing` in a module."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Apply `draw_nothing` in a test."""
    draw_nothing(monkeypatch)
