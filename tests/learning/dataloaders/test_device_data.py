"""Images on the device or read ahead by threads give the batches of the DataLoaders, to the bit."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

import xrayfast as xf
from xrayfast.data.cache.image_cache import ImageCache, UncachedImages
from xrayfast.errors import ConfigError, ReadError, TrainingError
from xrayfast.learning.dataloaders import device_data
from xrayfast.learning.dataloaders.device_data import place_images
from xrayfast.learning.own_failures import name_own_code
from xrayfast.learning.randomness import isolated_rng

CPU, GPU = torch.device("cpu"), torch.device("cuda")
WAYS = ("on", "read ahead")


def loaders(data, way, **options):
    """Return DataLoaders whose images are on the device, read ahead by threads, or read as usual ("off")."""
    options = {"size": 48, "batch_size": 8, "device": "cpu", "data_on_device": "on" if way in WAYS else way, **options}
    dls = xf.dataloaders(data, **options)
    for dl in dls.loaders if way == "read ahead" else ():
        dl.feed.resident = False
    return dls


def passes(dl, split_idx, times=2):
    """Return the batches of some epochs and the next random number."""
    with isolated_rng(3), dl.dataset.set_split_idx(split_idx):
        found = [batch for _ in range(times) for batch in dl]
        return found, torch.rand(1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("folder", "options"), [("data_dir", {}), ("multi_dir", {"balanced_sampling": True})])
def test_batches_equal_those_of_the_dataloaders_to_the_bit(way, folder, options, request):
    data = xf.open_data(request.getfixturevalue(folder), test_fraction=0.2)
    usual, fed = loaders(data, "off", **options), loaders(data, way, **options)
    assert [dl.feed is None for dl in usual.loaders] == [True] * 3
    assert not fed.loaders[2].feed.resident  # the test split is predicted only once
    for index, (dl, other) in enumerate(zip(usual.loaders, fed.loaders, strict=True)):
        (expected, state), (found, other_state) = (passes(loader, min(index, 1)) for loader in (dl, other))
        assert len(found) == len(expected) == 2 * len(dl) and torch.equal(state, other_state)
        for (x, y), (x2, y2) in zip(expected, found, strict=True):
            assert torch.equal(torch.Tensor(x), torch.Tensor(x2)) and torch.equal(torch.Tensor(y), torch.Tensor(y2))
            assert (type(x), x.stride(), type(y)) == (type(x2), x2.stride(), type(y2))
        assert list(dl.rows) == list(other.rows)


@pytest.mark.parametrize("way", WAYS)
def test_a_last_batch_of_one_is_dropped_and_other_files_are_read_as_usual(way, data_dir):
    data = xf.open_data(data_dir)
    fed = loaders(data, way, batch_size=len(data.subset("train")) - 1)
    assert [len(y) for _, y in fed.train] == [len(data.subset("train")) - 1]
    assert fed.train.new(shuffle=False, drop_last=False).feed is fed.train.feed
    other = fed.test_dl([str(data.subset("valid").table["path"].iloc[0])])
    assert other.feed is None and tuple(other.one_batch()[0].shape) == (1, 3, 48, 48)


def test_images_on_the_device_are_read_once(data_dir, monkeypatch):
    data = xf.open_data(data_dir)
    fed, read = loaders(data, "on"), []
    fill = ImageCache.fill
    monkeypatch.setattr(
        ImageCache, "fill", lambda self, squares, paths: read.extend(paths) or fill(self, squares, paths)
    )
    list(fed.train), list(fed.valid)
    assert sorted(read) == sorted(data.table["path"])
    list(fed.train), list(fed.train.new(bs=3)), list(fed.valid)
    assert len(read) == len(data)


def test_reading_ahead_reads_no_more_than_a_few_batches_and_ends_with_the_epoch(data_dir, monkeypatch):
    fed, asked = loaders(xf.open_data(data_dir), "read ahead", batch_size=2), []

    class Pool(device_data.ThreadPoolExecutor):
        def submit(self, function, batch):
            asked.append(len(batch))
            return super().submit(function, batch)

    monkeypatch.setattr(device_data, "_threads", lambda: 1)
    monkeypatch.setattr(device_data, "ThreadPoolExecutor", Pool)
    batches = iter(fed.train)
    next(batches)
    assert asked == [2, 2, 2, 2]  # the current batch and three more
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize("way", WAYS)
def test_an_image_that_cannot_be_read_is_named(way, tmp_path):
    for kind in "ab":
        for i in range(6):
            path = tmp_path / "d" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([i, kind == "a"]).integers(0, 255, (40, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    data = xf.open_data(tmp_path / "d")
    images = UncachedImages(48)
    fed = loaders(data, way, images=images)
    gone = data.subset("train").table["path"].iloc[-1]
    (tmp_path / "d" / gone).unlink()
    with pytest.raises(ReadError, match=str(gone)):
        list(fed.train)


GB = 10**9
PLACES = [
    # choice, share, device, free, cached, workers: resident, feeds, note
    ("auto", 0.4, CPU, None, True, None, False, False, ""),
    ("on", 0.4, CPU, None, True, None, True, True, "All images are kept on cpu, where they take 5.02 GB."),
    (
        "auto",
        0.4,
        GPU,
        70 * GB,
        True,
        None,
        True,
        True,
        "All images are kept on cuda, where they take 5.02 of the 70.0",
    ),
    ("auto", 0.4, GPU, 70 * GB, True, 0, True, True, "All images are kept on cuda"),
    ("auto", 0.4, GPU, 70 * GB, True, 4, False, False, ""),
    ("off", 0.4, GPU, 70 * GB, True, None, False, False, ""),
    ("auto", 0.4, GPU, 12 * GB, True, None, False, True, "would take 5.0 GB, more than 40% (--device-share) of the"),
    ("auto", 0.5, GPU, 12 * GB, True, None, True, True, "All images are kept on cuda"),
    ("auto", 0.4, GPU, 12 * GB, False, None, False, False, "read them, because they are not cached"),
    ("on", 0.4, GPU, 6 * GB, True, None, True, True, "All images are kept on cuda"),
]


@pytest.mark.parametrize(
    ("choice", "share", "device", "free", "cached", "workers", "resident", "feeds", "said"), PLACES
)
def test_images_are_on_the_device_if_they_fit(
    choice, share, device, free, cached, workers, resident, feeds, said, monkeypatch
):
    monkeypatch.setattr(device_data, "free_memory", lambda device: free)
    images = ImageCache(224) if cached else UncachedImages(224)
    found = place_images(choice, share, device, images, 100_000, workers)
    assert (found.resident, found.feeds) == (resident, feeds)
    assert (said in found.note) if said else not found.note
    assert found.fits(3 * GB) == (
        choice != "off" and free is not None and (1 if choice == "on" else share) * free >= 3 * GB
    )


def test_images_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(device_data, "free_memory", lambda device: GB)
    with pytest.raises(
        ConfigError, match=r"the images take 5\.0 GB and only 1\.0 GB are free on cuda\. Use data_on_device="
    ):
        place_images("on", 0.4, GPU, ImageCache(224), 100_000, None)


def test_running_out_of_device_memory_is_an_error_with_remedies(data_dir):
    learn = xf.learner(loaders(xf.open_data(data_dir), "on"), arch="resnet18", weights="none")
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1 GiB"
    )
    found = name_own_code(error, learn)
    assert isinstance(found, TrainingError)
    assert str(found) == (
        "cpu is out of memory: CUDA out of memory. Use a smaller batch_size= (a batch has 8 images; accumulate= adds "
        "up the gradients of several), a smaller size=, fewer layers unfrozen, or data_on_device='off'. Other programs "
        "may also be using its memory."
    )
