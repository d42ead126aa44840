"""The DataLoaders: correct pixels and targets, whole lungs, plain fastai."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.transforms import ColReader
from fastai.vision.core import imagenet_stats
from fasttransform import Pipeline
from PIL import Image

import xrayfast as xf
from xrayfast.errors import ConfigError, DataError
from xrayfast.learning.dataloaders import loaders
from xrayfast.learning.dataloaders.loaders import target_table
from xrayfast.learning.dataloaders.radiograph_loader import GoingOn, RadiographDL
from xrayfast.learning.dataloaders.transforms import ChestAugmentation
from xrayfast.learning.device import torch_device
from xrayfast.learning.fastai_api import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    PILImageBW,
    TensorCategory,
    TensorImageBW,
    TfmdDL,
)
from xrayfast.learning.randomness import generator_states, isolated_rng, reseed, restore_generators


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir, test_fraction=0.2)


@pytest.fixture(scope="module")
def dls(data):
    return xf.dataloaders(data, size=48, batch_size=8, device="cpu")


def denormalized(x):
    mean, std = (torch.tensor(stat)[None, :, None, None] for stat in imagenet_stats)
    return torch.Tensor(x) * std + mean


def test_splits_and_batches(dls, data):
    assert isinstance(dls, DataLoaders)
    assert [len(dl.dataset) for dl in dls] == [len(data.subset(name)) for name in ("train", "valid", "test")]
    x, y = dls.one_batch()
    assert tuple(x.shape) == (8, 3, 48, 48)
    assert x.dtype == torch.float32
    assert tuple(y.shape) == (8,)
    assert list(dls.vocab) == list(data.labels)


def test_validation_pixels_are_those_of_the_file_resized_and_normalized(dls, data):
    x, y = next(iter(dls.valid))
    split = data.subset("valid")
    for i in range(len(x)):
        expected = np.asarray(Image.open(split.table["path"][i]).resize((48, 48), Image.Resampling.BILINEAR)) / 255
        got = denormalized(x)[i]
        assert torch.allclose(got[0], got[1], atol=1e-6)
        np.testing.assert_allclose(got[0].numpy(), expected, atol=1.5 / 255)
        assert data.labels[int(y[i])] == split.table["labels"][i]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (np.zeros((4, 4, 7), np.uint8), r"image in memory: found uint8 of shape \(4, 4, 7\)"),
        (np.zeros((4, 4), np.int64), "found int64 .* Convert it with astype"),
        (np.zeros((4, 4), complex), "found complex128 of shape"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (Image.new("L", (0, 4)), "no pixels"),
        (np.full((4, 4), np.nan), "some pixels are not finite numbers"),
        (None, "found None; expected files, arrays or Pillow images"),
    ],
)
def test_invalid_images_in_memory_are_refused(dls, item, words):
    with pytest.raises(DataError, match=words):
        dls.test_dl([item]).one_batch()


def test_test_dl_takes_any_images_and_refuses_none(dls, data):
    file = data.table["path"][0]
    pixels = np.asarray(Image.open(file))
    (expected,) = dls.test_dl([file]).one_batch()
    for items in (file, iter([file]), [pixels], pixels, pixels[..., None], data.table.iloc[:1], [Image.open(file)]):
        assert torch.equal(dls.test_dl(items).one_batch()[0], expected)
    stack = np.stack([pixels, pixels, pixels])
    color = np.stack([pixels, pixels, pixels], axis=2)
    assert len(dls.test_dl(stack).dataset) == 3 and len(dls.test_dl(color).dataset) == 1
    for items in (None, 5):
        with pytest.raises(DataError, match=f"found {items}; expected files"):
            dls.test_dl(items)
    for items in ([], iter(()), data.table.iloc[:0]):
        with pytest.raises(DataError, match="No images to predict on"):
            dls.test_dl(items)


def test_multi_label_targets_equal_the_manifest(multi_dir):
    data = xf.open_data(multi_dir)
    dls = xf.dataloaders(data, size=32, batch_size=4, device="cpu")
    got = torch.cat([y for _, y in dls.valid]).numpy()
    assert (got == data.subset("valid").targets).all()
    assert dls.c == 3
    assert list(dls.vocab) == list(data.labels)


@pytest.mark.parametrize("folder_fixture", ["data_dir", "multi_dir"])
def test_batches_read_at_once_equal_those_that_fastai_reads_item_by_item(folder_fixture, request):
    dls = xf.dataloaders(xf.open_data(request.getfixturevalue(folder_fixture)), size=48, batch_size=8, device="cpu")
    assert isinstance(dls.valid, RadiographDL)
    for dl in (dls.train, dls.valid):
        order = list(range(len(dl.dataset)))
        ours, theirs = list(dl.create_batches(iter(order))), list(TfmdDL.create_batches(dl, iter(order)))
        assert len(ours) == len(theirs) == len(dl)
        for batch, expected in zip(ours, theirs, strict=True):
            for got, wanted in zip(batch, expected, strict=True):
                assert type(got) is type(wanted) and got.dtype == wanted.dtype and torch.equal(got, wanted)


def test_worker_processes_read_the_same_batches(data_dir):
    loaders = [xf.dataloaders(xf.open_data(data_dir), size=32, batch_size=8, device="cpu", workers=n) for n in (0, 2)]
    for dl, other in zip(*(dls.loaders for dls in loaders), strict=True):
        with isolated_rng(1), dl.dataset.set_split_idx(1), other.dataset.set_split_idx(1):
            for (x, y), (x2, y2) in zip(dl, other, strict=True):
                assert torch.equal(torch.Tensor(x), torch.Tensor(x2)) and y.tolist() == y2.tolist()


def test_a_custom_datablock_keeps_its_getters(data_dir):
    rows = [{"file": str(path), "target": 0, "kind": path.parent.name} for path in sorted(data_dir.glob("*/*.png"))]
    block = DataBlock((xf.RadiographBlock(size=32), CategoryBlock), get_x=ColReader("file"), get_y=ColReader("kind"))
    dls = block.dataloaders(pd.DataFrame(rows), bs=4, num_workers=0)
    assert sorted(dls.vocab) == ["covid-19", "normal", "pneumonia"]
    x, y = dls.valid.one_batch()
    assert tuple(x.shape) == (4, 3, 32, 32)
    assert [dls.vocab[i] for i in y] == dls.valid_ds.items["kind"].tolist()[:4]


def test_images_decoded_at_another_size_are_refused(dls, data):
    for make in (xf.RadiographBlock, partial(xf.dataloaders, data, device="cpu")):
        with pytest.raises(ConfigError, match=r"size is 32, but these images were decoded at 48 pixels\. Use size=48"):
            make(size=32, images=dls.images)


def test_every_training_image_is_drawn_once_an_epoch(dls, data):
    drawn = torch.cat([y for _, y in dls.train])
    assert sorted(drawn.tolist()) == sorted(data.subset("train").targets.argmax(axis=1).tolist())


def test_a_last_batch_of_one_is_dropped_because_batch_norm_cannot_train_on_it(data):
    n = len(data.subset("train"))
    dls = xf.dataloaders(data, size=32, batch_size=n - 1, device="cpu")
    assert [len(y) for _, y in dls.train] == [n - 1]


def test_the_order_comes_from_the_seed_and_global_state_is_left_alone(data):
    orders = [
        torch.cat([y for _, y in xf.dataloaders(data, size=32, seed=s, device="cpu").train]).tolist() for s in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    xf.dataloaders(data, size=32, device="cpu")
    before = torch.get_rng_state()
    xf.dataloaders(data, size=32, device="cpu", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_goes_on_after_some_batches_with_the_same_images_and_augmentation(data):
    cpu = torch.device("cpu")
    loaders = [xf.dataloaders(data, size=32, batch_size=4, seed=1, device="cpu").train for _ in range(2)]
    whole, rest = loaders
    with isolated_rng(0):
        batches = [(*batch, generator_states(cpu)) for batch in whole]
        rest.going_on = GoingOn(2, lambda: restore_generators(batches[1][-1], cpu))
        reseed(1)
        found = list(rest)
    assert list(rest.rows) == list(whole.rows) and len(found) == len(batches) - 2
    for (x, y), (expected, labels, _) in zip(found, batches[2:], strict=True):
        assert torch.equal(x, expected) and torch.equal(y, labels)


def test_items_are_shown_as_a_table(data):
    table = target_table(data)
    assert list(table.columns) == ["image", "path", "patient", "split", "labels", "target"]
    assert table["target"].tolist() == table["labels"].tolist()


def augmented(images, seed):
    with isolated_rng(seed):
        pipeline = Pipeline([ChestAugmentation()])
        pipeline.split_idx = 0
        return torch.Tensor(pipeline(images))


def test_batch_transforms_equal_fastais_pipeline_of_them(dls):
    pixels = torch.randint(0, 256, (4, 1, 48, 48), dtype=torch.uint8)
    batch = (TensorImageBW(pixels), TensorCategory(torch.arange(4) % 2))
    for loader in (dls.train, dls.valid):
        loader.before_iter()  # tells the transforms the split
        results = []
        for call in (loader.after_batch, partial(Pipeline.__call__, loader.after_batch)):
            with isolated_rng(0, "pipeline"):
                results.append(call(batch))
        for found, expected in zip(*results, strict=True):
            assert type(found) is type(expected)
            assert torch.equal(found, expected)
    assert not torch.equal(dls.train.after_batch(batch)[0], results[0][0]), "only training is augmented"


def test_augmentation_neither_flips_nor_crops():
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    # A pair of "lungs" that reach to 2% of the edge; the one on the left is half as bright as the other.
    inside = (xx.abs() < 0.96) & (yy.abs() < 0.9) & (xx.abs() > 0.1) & ((xx / 0.98) ** 2 + (yy / 0.98) ** 2 < 1)
    image = torch.where(inside, torch.where(xx < 0, 0.4, 0.8), 0.0)
    area = float(inside.float().mean())
    out = augmented(TensorImageBW(image.expand(64, 1, 96, 96).clone()), seed=0)
    seen = out > 0.15
    assert (out[..., :48].mean(dim=(1, 2, 3)) < out[..., 48:].mean(dim=(1, 2, 3))).all(), "left and right are swapped"
    share = seen.float().mean(dim=(1, 2, 3)) / area
    assert share.min() > 0.9**2 - 0.03, "something was cut off: scaling alone goes to 0.9"
    edge = torch.cat([seen[..., 0, :], seen[..., -1, :], seen[..., :, 0], seen[..., :, -1]], dim=-1)
    assert edge.float().mean() < 0.02
    assert (out - image).abs().mean(dim=(1, 2, 3)).max() > 0.02, "nothing was augmented"


def test_training_views_are_augmented_although_no_batch_was_read(data):
    """As in a run that was interrupted after its last epoch and resumed."""
    dls = xf.dataloaders(data, size=48, batch_size=8, device="cpu")

    def views():
        with isolated_rng("views"):
            return dls.training_views(range(8))

    before = views()
    dls.train.one_batch()
    assert (views() == before).all()


def test_a_learner_predicts_on_a_path_an_array_and_a_table(tiny_run, data_dir):
    learn = xf.load(tiny_run)
    file = next(data_dir.glob("normal/*.png"))
    expected = xf.predict(tiny_run, file).filter(like="prob_").to_numpy(dtype=float)[0]
    with learn.no_bar(), learn.no_logging():
        for source in (str(file), file, np.asarray(Image.open(file))):
            label, _, probability = learn.predict(source)
            calibrated = tiny_run.decision.calibrated(probability.numpy()[None].astype(float))[0]
            np.testing.assert_allclose(calibrated, expected, atol=1e-5)
            assert label == tiny_run.labels[int(expected.argmax())]
        rows = learn.dls.manifest.subset("valid")
        preds, truth = learn.get_preds(dl=learn.dls.test_dl(target_table(rows), with_labels=True))
    np.testing.assert_allclose(preds.numpy(), tiny_run.predictions("valid").raw, atol=1e-5)
    assert truth.tolist() == rows.targets.argmax(axis=1).tolist()


def test_an_unavailable_device_is_a_named_error():
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"device is cuda.*cpu"):
            torch_device("cuda")
    assert torch_device("cpu").type == "cpu"


def test_images_are_decoded_once_and_then_come_from_the_cache(data, monkeypatch, tmp_path):
    stored = replace(data, config=data.config.model_copy(update={"cache_dir": tmp_path}))
    dls = xf.dataloaders(stored, size=48, batch_size=8, device="cpu")
    assert list(tmp_path.rglob("*.pictures"))

    def fail(*_):
        raise AssertionError("read again")

    expected = torch.cat([torch.Tensor(x) for x, _ in xf.dataloaders(data, size=48, device="cpu").valid])
    monkeypatch.setattr("xrayfast.data.cache.image_cache.read", fail)
    again = xf.dataloaders(stored, size=48, batch_size=8, device="cpu")
    for each in (dls, again):
        assert torch.equal(torch.cat([torch.Tensor(x) for x, _ in each.valid]), expected)


def test_without_a_cache_no_file_is_written_and_the_images_are_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYFAST_CACHE", str(tmp_path / "cache"))
    bare = replace(data, config=data.config.model_copy(update={"cache": False}))
    found = torch.cat([torch.Tensor(x) for x, _ in xf.dataloaders(bare, size=48, device="cpu").valid])
    assert not (tmp_path / "cache").exists()
    stored = torch.cat([torch.Tensor(x) for x, _ in xf.dataloaders(data, size=48, device="cpu").valid])
    assert torch.equal(found, stored)


@pytest.mark.parametrize(("asked", "device", "cpus", "started"), [
    (None, "cpu", 4, 0), (None, "cuda", 4, 4), (None, "cuda", 64, 8), (3, "cuda", 64, 3), (3, "cpu", 4, 3),
])  # fmt: skip
def test_with_an_accelerator_all_cpus_available_to_the_process_read(monkeypatch, asked, device, cpus, started):
    monkeypatch.setattr(loaders, "cpu_count", lambda: cpus)
    assert loaders._workers(asked, torch.device(device)) == started


def test_a_masked_target_reaches_the_batch_as_nan(data_dir, tmp_path):
    rows = [
        f"{path.relative_to(data_dir)},{i % 2},{(1, 0, -1)[i % 3]}"
        for i, path in enumerate(sorted(data_dir.glob("*/*")))
    ]
    table = tmp_path / "labels.csv"
    table.write_text("image,Edema,Mass\n" + "\n".join(rows))
    data = xf.open_data(data_dir, labels=table)
    y = torch.cat([torch.Tensor(y) for _, y in xf.dataloaders(data, size=32, device="cpu").valid])
    assert torch.equal(y.isnan(), torch.from_numpy(np.isnan(data.subset("valid").targets)))
    assert y.isnan().any()


def test_functions_are_added_as_transforms(data):
    """fastai's pipeline accepts only transforms, and fails on functions with an AttributeError."""
    seen = []

    def watch(image: PILImageBW):
        seen.append(image.size)
        return image

    dls = xf.dataloaders(data, size=32, batch_size=8, device="cpu")
    dls.valid.after_item.add(watch)
    dls.valid.one_batch()
    assert seen[0] == (32, 32) and len(seen) == len(data.subset("valid"))
    assert loaders.foreign_transforms(dls) == "dls.valid.after_item has watch"


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({"data_on_device": "off", "device_share": 0.1}, "device_share is 0.1, which has no effect"),
        ({"data_on_device": "on", "workers": 2}, "workers is 2, which has no effect"),
    ],
)
def test_options_without_effect_are_refused_as_by_fit(data_dir, options, idle):
    with pytest.raises(ConfigError, match=idle):
        xf.dataloaders(xf.open_data(data_dir), size=32, device="cpu", **options)
