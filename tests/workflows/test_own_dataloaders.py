"""Learners on a user's own DataLoaders; their runs say what is unknown, such as patients."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock, RegressionBlock
from fastai.data.core import DataLoaders, Datasets
from fastai.data.transforms import Categorize, ColReader, Normalize, RandomSplitter, get_image_files, parent_label
from fastai.vision.augment import Resize
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock, ImageDataLoaders
from PIL import Image
from sklearn.metrics import accuracy_score
from typer.testing import CliRunner

import xrayfast as xf
from xrayfast.cli import app
from xrayfast.errors import ConfigError, DataError, RunError
from xrayfast.learning.dataloaders.own_dataloaders import describe_dataloaders
from xrayfast.learning.fastai_api import Callback
from xrayfast.workflows.explain import explain

pytestmark = pytest.mark.usefixtures("tiny_vgg_arch")

SIZE = {"bs": 8, "num_workers": 0, "seed": 1, "device": torch.device("cpu")}
NORMALIZED = {"item_tfms": Resize(32), "batch_tfms": Normalize.from_stats([0.1] * 3, [0.01] * 3)}


@pytest.fixture(scope="module")
def table(multi_dir):
    """A table of paths and labels, with several labels joined by ';'."""
    data = xf.open_data(multi_dir)
    return pd.DataFrame({"file": data.table["path"], "labels": data.table["labels"].str.replace("|", ";")})


def learner(dls, **options):
    learn = xf.learner(dls, arch="tiny_vgg", weights="none", **options)
    learn.remove_cb(learn.progress)
    learn.logger = lambda _: None
    return learn


def block(data_dir, size=32, augment="default", **options):
    """Return the DataLoaders of a fastai DataBlock with `xf.RadiographBlock`."""
    files = DataBlock(
        (xf.RadiographBlock(size, augment), CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=RandomSplitter(0.3, seed=2),
        **options,
    )
    return files.dataloaders(data_dir, bs=8, num_workers=0, device="cpu")


@pytest.fixture(scope="module")
def folder_run(data_dir, tmp_path_factory):
    """A run trained on fastai's ImageDataLoaders with color images, its learner and its DataLoaders."""
    dls = ImageDataLoaders.from_folder(data_dir, valid_pct=0.3, **NORMALIZED, **SIZE)
    learn = learner(dls, metrics=accuracy_score)
    learn.unfreeze()
    learn.fit_one_cycle(1, 0.01)
    return xf.save(learn, runs=tmp_path_factory.mktemp("runs")), learn, dls


def test_image_dataloaders_of_a_folder_train(folder_run):
    run, learn, dls = folder_run
    assert learn.dls.train is dls.train and learn.dls.manifest.labels == ("covid-19", "normal", "pneumonia")
    assert learn.dls.manifest.task == run.task == "single"
    assert run.history["valid_accuracy_score"][0] == run.history["valid_accuracy"][0]


def test_predictions_of_its_run_are_those_of_fastai(folder_run):
    run, learn, dls = folder_run
    probability, truth = learn.get_preds()
    found = run.predictions("valid")
    np.testing.assert_allclose(found.raw, probability.numpy(), atol=1e-6)
    assert found.truth.argmax(axis=1).tolist() == truth.tolist()
    files = [file.relative_to(dls.path).as_posix() for file in dls.valid.items]
    assert found.images.tolist() == files


def test_the_run_says_that_patients_and_transforms_are_unknown(folder_run):
    run, _, _ = folder_run
    assert run.info.dataloaders == "own transforms"
    assert "Resize" in run.info.own_code["dls"] and "Normalize" in run.info.own_code["dls"]
    text = " ".join(run.info.remarks)
    assert "Patients are not known" in text and "can't be used to predict on other images" in text
    xf.interpret(run)
    assert "Patients are not known" in run.report_path.read_text()


def test_the_run_s_settings_are_not_replayed_with_our_own_loaders(folder_run, data_dir, tmp_path):
    words = r"code of your own, .* dls DataLoaders with .*Resize.*\. Use xrayfast\.learner\(dls\) to train"
    options = {"size": 32, "arch": "tiny_vgg", "weights": "none"}
    for work in (xf.fit, xf.find_lr):
        for data in (None, data_dir):
            with pytest.raises(ConfigError, match=words):
                work(data, config=folder_run[0].config, **options)
            with pytest.raises(ConfigError, match=words):
                work(data, config=folder_run[0].config, augment="default", **options)


def test_the_run_refuses_to_predict_other_images(folder_run, data_dir):
    run, _, _ = folder_run
    refused = (
        r"its user's own DataLoaders, whose transforms are not saved in the folder, so .* xrayfast\.load\(run, dls\)"
    )
    for work in (xf.predict, xf.evaluate, explain):
        with pytest.raises(RunError, match=refused):
            work(run, data_dir)
    with pytest.raises(RunError, match=refused):
        xf.load(run)
    assert CliRunner().invoke(app, ["predict", str(run.path), str(data_dir)]).exit_code == 1


def test_the_run_is_loaded_with_the_same_dataloaders(folder_run, data_dir, multi_dir, recwarn):
    run, learn, dls = folder_run
    again = xf.load(run, dls)
    assert not any(words in str(one.message) for one in recwarn for words in ("other transforms", "not given"))
    plain = ImageDataLoaders.from_folder(data_dir, valid_pct=0.3, item_tfms=Resize(32), **SIZE)
    for others in (plain, block(data_dir)):
        with pytest.warns(UserWarning, match="other transforms than those that .* was trained with"):
            xf.load(run, others)
    assert torch.equal(again.get_preds()[0], learn.get_preds()[0])
    assert again.recorder.values[0][1] == pytest.approx(run.history["valid_loss"][0])
    with pytest.raises(DataError, match="was trained on the labels"):
        xf.load(run, ImageDataLoaders.from_lists(multi_dir, dls.train.items, ["a", "b"] * 13, **NORMALIZED, **SIZE))


def test_gray_images_and_several_labels_of_a_table(table, tmp_path):
    columns = {"label_delim": ";", "fn_col": "file", "label_col": "labels", "valid_pct": 0.3}
    gray = {"item_tfms": Resize(32), "batch_tfms": Normalize.from_stats([0.5], [0.25]), "img_cls": PILImageBW}
    dls = ImageDataLoaders.from_df(table, "/", **columns, **gray, **SIZE)
    assert dls.one_batch()[0].shape[1] == 1
    learn = learner(dls, loss="focal")
    learn.fit(1, 1e-3)
    run = xf.save(learn, runs=tmp_path)
    assert run.task == "multi" and run.labels == tuple(dls.vocab)
    np.testing.assert_allclose(run.predictions("valid").raw, learn.get_preds()[0].numpy(), atol=1e-6)
    source = run.config.data.source
    assert {str(source / name) for name in run.predictions("valid").images} <= set(table["file"])
    learn.show_results(max_n=2)
    assert learn.predict(table["file"][0])[2].shape == (len(run.labels),)


def test_the_exported_block_feeds_the_exported_learner(data_dir, tmp_path):
    """RadiographBlock reads images as xrayfast does, so the run can predict on other images."""
    dls = block(data_dir)
    learn = learner(dls)
    learn.fit(1, 1e-3)
    run = xf.save(learn, runs=tmp_path)
    assert run.info.dataloaders == "own" and run.config.model.size == 32
    assert run.config.data.source.samefile(data_dir)  # not the working folder
    raw = learn.get_preds()[0].numpy()
    np.testing.assert_allclose(run.predictions("valid").raw, raw, atol=1e-5)
    calibrated = xf.predict(run, dls.valid.items[0]).filter(like="prob_").to_numpy(dtype=float)
    np.testing.assert_allclose(calibrated, run.decision.calibrated(raw[:1]), atol=1e-5)
    split = pd.read_csv(run.path / "split.csv", dtype=str)
    assert split["digest"].str.len().min() > 8 and sorted(set(split["split"])) == ["train", "valid"]
    with pytest.warns(
        UserWarning, match=r"your own DataLoaders, so the learner gets a black image .* xrayfast\.load\(run, dls\)"
    ):
        assert xf.load(run).dls.origin == "xrayfast"


def test_a_run_has_size_and_batch_size_of_the_present_dataloaders(data_dir, tmp_path):
    data = xf.open_data(data_dir)
    learn = learner(xf.dataloaders(data, size=32, device="cpu"))
    learn.dls = xf.dataloaders(data, size=64, batch_size=16, device="cpu")
    learn.fit(1, 1e-3)
    run = xf.save(learn, runs=tmp_path)
    assert (run.config.model.size, run.config.train.batch_size) == (64, 16)
    files = get_image_files(data_dir)[:2]  # fastai's L
    assert len(xf.predict(run, files)) == 2
    learn.dls = block(data_dir)
    with pytest.raises(DataError, match=r"learn\.dls was replaced by DataLoaders that xrayfast does not know"):
        xf.save(learn, runs=tmp_path)


def test_predict_and_test_dl_accept_paths_arrays_and_images(data_dir):
    learn = learner(block(data_dir))
    file = sorted(data_dir.rglob("*.png"))[0]
    shown = [file, str(file), np.asarray(Image.open(file)), Image.open(file)]
    probabilities = [learn.predict(image)[2] for image in shown]
    probabilities += [learn.get_preds(dl=learn.dls.test_dl([image]))[0][0] for image in shown]
    for one in probabilities:
        torch.testing.assert_close(one, probabilities[0])


@pytest.mark.parametrize("name", ["Groups", "Precision", "Metrics", "Fit"])
def test_a_callback_with_the_name_of_an_attribute_is_refused(data_dir, name):
    with pytest.raises(ConfigError, match=f"{name} would replace learn.{name.lower()}, .* Rename the class"):
        learner(block(data_dir), cbs=type(name, (Callback,), {}))


def test_a_network_without_parameters_is_refused(data_dir):
    class Mean(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    for network in (Mean(), torch.nn.AvgPool2d(4)):  # a whole network, and a backbone
        with pytest.raises(ConfigError, match=f"{type(network).__name__} has no parameters"):
            xf.learner(block(data_dir), arch=network)


def test_augmentation_of_other_transforms_is_refused(data_dir):
    dls = block(data_dir, 64, item_tfms=Resize(32))
    with pytest.raises(
        ConfigError, match=r"augment has no effect: dls.train.after_item has Resize. Augment in the batch"
    ):
        xf.learner(dls, weights="none", augment="mild")


def test_a_radiograph_block_with_further_transforms_counts_as_own_transforms(data_dir):
    assert learner(block(data_dir, 64, item_tfms=Resize(32))).dls.origin == "own transforms"


def half(images):
    return images / 2


@pytest.mark.parametrize(("augment", "setting"), [("mild", "mild"), (False, "off"), ([half], "own:half")])
def test_a_run_has_the_augmentation_of_the_present_dataloaders(data_dir, tmp_path, augment, setting):
    dls = block(data_dir, augment=augment)
    learn = learner(dls)
    assert learn.settings["augment"] == learn.dls.augment == setting
    learn.dls = learner(block(data_dir)).dls
    assert xf.save(learn, runs=tmp_path).config.train.augment == "default"


def test_class_weights_count_their_training_split(data_dir):
    dls = block(data_dir)
    labels = [parent_label(file) for file in dls.train.items]
    expected = [len(labels) / (3 * labels.count(name)) for name in dls.vocab]
    np.testing.assert_allclose(learner(dls, class_weights="auto").loss_func.weight, expected, rtol=1e-6)


def test_images_are_not_normalized_twice(data_dir):
    with pytest.raises(ConfigError, match=r"normalizes images twice: RadiographBlock .* Leave Normalize out"):
        learner(block(data_dir, batch_tfms=Normalize.from_stats([0.5] * 3, [0.2] * 3)))


def test_pretrained_weights_want_normalized_images(data_dir, tiny_run):
    dls = ImageDataLoaders.from_folder(data_dir, valid_pct=0.3, item_tfms=Resize(32), **SIZE)
    with pytest.warns(UserWarning, match="dls does not normalize images"):
        xf.learner(dls, arch="tiny_resnet", weights=tiny_run.model_path)


def without_valid(data_dir):
    files = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=lambda items: (range(len(items)), []))  # fmt: skip
    return files.dataloaders(data_dir, bs=4, num_workers=0)


def regression(data_dir):
    files = get_image_files(data_dir)
    return ImageDataLoaders.from_lists(
        data_dir, files, [float(i) for i in range(len(files))], y_block=RegressionBlock(), **NORMALIZED, **SIZE
    )


def no_training_batch(data_dir):
    return ImageDataLoaders.from_folder(data_dir, valid_pct=0.3, **NORMALIZED, **SIZE | {"bs": 64})


def plain_torch(data_dir):
    data = torch.utils.data.TensorDataset(torch.rand(8, 3, 32, 32), torch.zeros(8, dtype=torch.long))
    return DataLoaders.from_dsets(data, data, bs=4, num_workers=0)


def not_square(data_dir):
    return ImageDataLoaders.from_folder(data_dir, valid_pct=0.3, item_tfms=Resize((32, 48)), **SIZE)


def no_image(data_dir):
    numbers = DataBlock((RegressionBlock, CategoryBlock), get_items=get_image_files, get_x=lambda f: 1.0,
                        get_y=parent_label)  # fmt: skip
    return numbers.dataloaders(data_dir, bs=4, num_workers=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (without_valid, r"splits, of 36, 0 images; expected train, valid"),
        (no_training_batch, "has 26 images and batches of 64, and drops an incomplete batch, so it has no batch"),
        (regression, "no vocab of labels"),
        (plain_torch, "no vocab of labels"),
        (not_square, r"\(8, 3, 32, 48\) of torch.float32; expected floats of shape \(N, 1 or 3, side, side\)"),
        (no_image, "expected floats of shape .N, 1 or 3, side, side"),
    ],
)
def test_unusable_dataloaders_are_named_errors(data_dir, make, words):
    with pytest.raises(DataError, match=words):
        xf.learner(make(data_dir), weights="none")


def test_a_file_in_two_splits_is_noted(data_dir, recwarn):
    learner(block(data_dir))
    assert not [w for w in recwarn if "more than one split" in str(w.message)]
    files = DataBlock(
        (xf.RadiographBlock(32), CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=lambda items: (list(range(len(items))), [3, 5]),
    )
    with pytest.warns(
        UserWarning, match=r"dls has 2 files in more than one split.* \S+\.png, \S+\.png\. Use a splitter"
    ):
        learn = learner(files.dataloaders(data_dir, **SIZE))
    assert "2 files in more than one split" in learn.dls.manifest.notes[0]


def test_a_label_that_is_only_in_validation_is_named(data_dir):
    files = DataBlock((xf.RadiographBlock(32), CategoryBlock), get_items=get_image_files, get_y=parent_label)
    files.splitter = lambda items: [
        [i for i, f in enumerate(items) if (f.parent.name == "normal") == v] for v in (0, 1)
    ]
    with pytest.raises(DataError, match=r"Label 'normal' was not included .* vocab: covid-19, pneumonia"):
        learner(files.dataloaders(data_dir, **SIZE))


def test_get_x_is_followed_to_the_file_that_is_read(data_dir, tmp_path):
    """A run that predicted on files that its user inverts on reading would see other images than in training."""
    opened = []
    dls = block(data_dir, get_x=lambda path: opened.append(path) or np.asarray(Image.open(path).convert("L")))
    assert learner(dls).dls.origin == "own transforms"
    opened.clear()
    describe_dataloaders(dls)
    assert len(opened) <= 2, "an image per split, not each image"
    rows = pd.DataFrame({"file": sorted(map(str, data_dir.rglob("*.png")))})
    rows["kind"] = [Path(file).parent.name for file in rows["file"]]
    for read, origin in (
        (lambda row: np.asarray(Image.open(row["file"])), "own transforms"),
        (ColReader("file"), "own"),
    ):
        table = DataBlock((xf.RadiographBlock(32), CategoryBlock), get_x=read, get_y=ColReader("kind"))
        assert learner(table.dataloaders(rows, **SIZE)).dls.origin == origin
    for path in data_dir.rglob("*.png"):
        new = tmp_path / path.relative_to(data_dir)
        new.parent.mkdir(exist_ok=True)
        new.symlink_to(path)
    learn = learner(block(data_dir, get_x=lambda path: tmp_path / path.relative_to(data_dir)))
    assert learn.dls.origin == "own"
    assert {str(tmp_path)} == {str(Path(path).parent.parent) for path in learn.dls.manifest.table["path"]}


def test_items_without_transforms_are_described():
    items = [torch.full((1, 32, 32), i % 2.0) for i in range(8)]
    tfms = [[], [lambda item: str(int(item[0, 0, 0])), Categorize()]]
    dls = Datasets(items, tfms, splits=[range(4), range(4, 8)]).dataloaders(bs=2, num_workers=0)
    assert describe_dataloaders(dls).labels == ("0", "1")
    assert xf.learner(dls, arch="tiny_vgg", weights="none").dls.origin == "own transforms"
