"""fastai's methods on the DataLoaders and the Learner of xrayfast, for both tasks, with their values."""

import copy
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
import torch
from fastai.callback.core import FetchPredsCallback
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import minimum, valley
from fastai.interpret import ClassificationInterpretation
from fastai.learner import load_learner
from fastai.vision.core import PILImage
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

import xrayfast as xf
from tests.conftest import SMALL
from tests.data.images.dicom_files import dicom_bytes
from xrayfast.errors import ConfigError, DataError
from xrayfast.learning.dataloaders.loaders import target_table
from xrayfast.learning.dataloaders.transforms import LabelTarget
from xrayfast.learning.fastai_api import Callback, DataLoaders, Learner
from xrayfast.learning.training.learner import RadiographLearner

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module", params=["single", "multi"])
def learn(request, tmp_path_factory):
    """A learner after three epochs on images of the size of the network."""
    folder = request.getfixturevalue({"single": "data_dir", "multi": "multi_dir"}[request.param])
    dls = xf.dataloaders(xf.open_data(folder, test_fraction=0.2), size=64, batch_size=4, device="cpu", workers=0)
    learn = xf.learner(dls, arch=SMALL["arch"], weights="none", precision="fp32", seed=3)
    learn.path = tmp_path_factory.mktemp("learner")
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3, 1e-3)
        yield learn


@pytest.fixture
def trained(learn):
    """The learner `learn`, restored after further training."""
    weights, settings = copy.deepcopy(learn.model.state_dict()), dict(learn.settings)
    yield learn
    learn.to_fp32().freeze()
    learn.model.load_state_dict(weights)
    learn.settings = settings


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


def test_the_objects_that_the_readme_names_are_fastai_objects(tiny_run):
    loaded, interpretation = xf.load(tiny_run), xf.interpret(tiny_run, top=1)
    assert isinstance(loaded, Learner) and isinstance(loaded.dls, DataLoaders)
    assert isinstance(interpretation, ClassificationInterpretation)


def is_single(learn):
    return learn.dls.manifest.task == "single"


def batch_of(files):
    """Return files as a batch for the network, without a DataLoader."""
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).float() / 255
    return normalize(pixels[:, None].repeat(1, 3, 1, 1), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def probabilities(learn, files):
    with torch.no_grad():
        logits = learn.model.eval()(batch_of(files))
    return logits.softmax(1) if is_single(learn) else logits.sigmoid()


def expected(learn, split):
    """Return probabilities, targets, decoded probabilities and losses of a split, computed without the Learner."""
    rows = learn.dls.manifest.subset(split)
    probability, target = probabilities(learn, rows.table["path"]), torch.from_numpy(rows.targets)
    if is_single(learn):
        target = target.argmax(1)
        return probability, target, probability.argmax(1), F.nll_loss(probability.log(), target, reduction="none")
    losses = F.binary_cross_entropy(probability, target, reduction="none").mean(1)
    return probability, target, probability > 0.5, losses


def names_of(learn, target):
    """Return the title of an image with this target."""
    labels = learn.dls.manifest.labels
    found = [labels[int(target)]] if is_single(learn) else [n for n, v in zip(labels, target, strict=True) if v == 1]
    return "; ".join(found) or "no label"


def titles():
    """Return the images and titles of the figure, after a check that none overlap."""
    figure = plt.gcf()
    axes = [ax for ax in figure.axes if ax.images]
    figure.canvas.draw()
    boxes = [ax.title.get_window_extent() for ax in axes if ax.get_title()] + [ax.get_window_extent() for ax in axes]
    assert not any(a.shrunk(0.98, 0.98).overlaps(b.shrunk(0.98, 0.98)) for a, b in combinations(boxes, 2))
    return [ax.images[0].get_array() for ax in axes], [ax.title for ax in axes]


def test_show_batch_shows_gray_images_under_the_names_of_all_labels(learn):
    rows = learn.dls.manifest.subset("valid")
    learn.dls.valid.show_batch(max_n=6)
    images, shown = titles()
    assert [title.get_text() for title in shown] == [names_of(learn, y) for y in expected(learn, "valid")[1][:6]]
    for image, file in zip(images, rows.table["path"], strict=False):
        for channel in np.moveaxis(np.asarray(image, float), -1, 0):
            np.testing.assert_allclose(channel, np.asarray(Image.open(file)), atol=1)
    plt.close()
    learn.dls.show_batch()
    allowed = {names_of(learn, y) for y in expected(learn, "train")[1]}
    assert {title.get_text() for title in titles()[1]} <= allowed
    assert len(titles()[0]) == learn.dls.bs


def test_masked_labels_and_images_without_a_label_are_shown_as_such():
    labels = ["Atelectasis", "Enlarged Cardiomediastinum", "Mass"]
    target = LabelTarget(vocab=labels)
    cases = {
        (0, 0, 0): "no label",
        (1, 1, 0): "Atelectasis; Enlarged\nCardiomediastinum",
        (1, 0, np.nan): "Atelectasis; Mass masked",
    }
    for cells, title in cases.items():
        decoded = target.decodes(torch.tensor(cells))
        assert decoded.show(ctx=plt.subplots()[1]).get_title() == title
        assert list(decoded) == [label for label, cell in zip(labels, cells, strict=True) if cell == 1]


def test_show_results_shows_truth_and_prediction(learn):
    _, truth, decoded, _ = expected(learn, "valid")
    learn.show_results(max_n=6, shuffle=False)
    wanted = [(names_of(learn, t), names_of(learn, p)) for t, p in zip(truth[:6], decoded[:6], strict=True)]
    shown = titles()[1]
    assert [tuple(title.get_text().split("\n")) for title in shown] == wanted
    assert [to_rgba(title.get_color()) for title in shown] == [
        to_rgba("green" if t == p else "red") for t, p in wanted
    ]  # fmt: skip


def test_titles_of_several_lines_lie_on_no_image(learn, monkeypatch):
    if is_single(learn):
        pytest.skip("one class is one line")
    names = ["Enlarged Cardiomediastinum", "Lung opacity and consolidation", "Pleural_Thickening"]
    monkeypatch.setattr(learn.dls.valid_ds.tls[1].tfms.fs[-1], "vocab", names)
    learn.show_results(max_n=6, shuffle=False)
    assert max(title.get_text().count("\n") for title in titles()[1]) >= 2


def test_lr_find_suggests_a_rate_and_leaves_weights_and_files_as_they_were(trained):
    before, files = copy.deepcopy(trained.model.state_dict()), sorted(trained.path.rglob("*.*"))
    found = trained.lr_find(end_lr=1, num_it=30, stop_div=False, suggest_funcs=(valley, minimum))
    assert found._fields == ("valley", "minimum") and all(1e-8 <= lr <= 1 for lr in found)
    (ax,) = plt.gcf().axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["valley", "minimum"]
    assert ax.lines[1].get_xdata()[0] == pytest.approx(found.valley)
    lrs = trained.recorder.lrs
    assert ax.lines[0].get_xdata() == pytest.approx(lrs[:-5])
    assert lrs[1] / lrs[0] == pytest.approx((1 / 1e-7) ** (1 / 30))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trained.model.state_dict().values(), strict=True))
    assert sorted(trained.path.rglob("*.*")) == files, "no weights are left on the disk"
    plt.close()
    assert trained.lr_find(end_lr=1, num_it=10, stop_div=False, suggest_funcs=None) is None
    assert len(plt.gcf().axes[0].lines) == 1


def test_the_recorder_plots_each_way_to_train(trained):
    batches = len(trained.dls.train)
    trained.fit_one_cycle(2, 2e-3)
    losses, values = trained.recorder.losses, trained.recorder.values
    assert len(losses) == 2 * batches and max(trained.recorder.lrs) == pytest.approx(2e-3, rel=0.05)
    ax = trained.recorder.plot_loss(skip_start=1)
    assert ax.lines[0].get_ydata() == pytest.approx(torch.stack(losses[1:]).numpy())
    assert ax.lines[1].get_ydata() == pytest.approx([row[1] for row in values])
    plt.close()
    trained.recorder.plot_sched()
    for ax, key in zip(plt.gcf().axes, ("lr", "mom"), strict=True):
        assert ax.get_ylabel() == key and ax.lines[0].get_ydata() == pytest.approx(trained.recorder.hps[key])

    for look in (trained.summary, partial(trained.tta, n=1), trained.validate):
        look()
        assert trained.recorder.losses is losses and trained.recorder.values is values and len(values) == 2

    trained.fit_flat_cos(2, 1e-3, pct_start=0.5)
    lrs = trained.recorder.lrs
    assert lrs[:batches] == pytest.approx([1e-3] * batches)
    assert all(a > b for a, b in pairwise(lrs[batches + 1 :])) and lrs[-1] < 2e-4

    backbone, seen = copy.deepcopy(trained.model[0].state_dict()), []
    trained.fine_tune(1, 2e-3, cbs=Frozen(seen))
    assert seen == [True, False], "an epoch of the head, then one of all layers"
    assert any(not torch.equal(backbone[name], value) for name, value in trained.model[0].state_dict().items())
    hypers = [group["lr"] for group in trained.opt.hypers]
    assert hypers[0] < hypers[-1] and len(hypers) == len(trained.groups)


class Frozen(Callback):
    """Records whether each epoch left the backbone unchanged."""

    def __init__(self, seen):
        self.seen = seen

    def before_train(self):
        self.before = copy.deepcopy(self.model[0].state_dict())

    def after_train(self):
        after = self.model[0].state_dict()
        self.seen.append(all(torch.equal(self.before[name], after[name]) for name in after))


@pytest.mark.parametrize("ds_idx", [1, 2])
def test_validate_and_get_preds_of_each_split(learn, ds_idx, recwarn):
    probability, truth, decoded, losses = expected(learn, SPLITS[ds_idx])
    loss, *metrics = learn.validate(ds_idx)
    assert loss == pytest.approx(float(losses.mean()), rel=1e-3)
    first = skm.accuracy_score(truth, decoded)  # for multi-label, the subset accuracy
    f1 = skm.f1_score(truth, decoded, average="macro", zero_division=0)
    names = learn.recorder.metric_names[3:]
    assert metrics[0] == pytest.approx(first) and names[0] == ("accuracy" if is_single(learn) else "subset_accuracy")
    assert metrics[names.index("f1_macro")] == pytest.approx(f1)
    for options in ({"ds_idx": ds_idx}, {"dl": learn.dls[ds_idx]}):
        found = learn.get_preds(**options, with_decoded=True, with_loss=True)
        for got, wanted in zip(found, (probability, truth, decoded, losses), strict=True):
            np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-3, atol=1e-5)
    shadowing = [str(warning.message) for warning in recwarn if "shadowing" in str(warning.message)]
    assert not shadowing, "an attribute of the learner is called like one of fastai's callbacks"


def test_the_training_split_is_predicted_in_its_own_order_and_augmented_unless_it_is_a_test_dl(learn):
    probability, truth, *_ = expected(learn, "train")
    found, target = learn.get_preds(0)
    assert torch.equal(target, truth) and not np.allclose(found, probability, atol=1e-5)
    found, _ = learn.get_preds(dl=learn.dls.test_dl(target_table(learn.dls.manifest.subset("train"))))
    np.testing.assert_allclose(found, probability, atol=1e-5)


def test_predict_and_test_dl_take_what_shows_a_radiograph(learn, tmp_path):
    files = learn.dls.manifest.subset("test").table["path"].tolist()
    (probability, *_), (_, _, (decoded, *_), _) = probabilities(learn, files), expected(learn, "test")
    image = Image.open(files[0])
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(np.asarray(image), WindowCenter=128, WindowWidth=256))
    high = np.asarray(image).astype(np.uint16) * 257
    sources = {
        "path": files[0], "array": np.asarray(image), "color array": np.asarray(image.convert("RGB")), "image": image,
        "floats": np.asarray(image) / 255, "fastai's": PILImage.create(files[0]), "palette": image.convert("P"),
        "16 bits": high, "DICOM": tmp_path / "a.dcm",
    }  # fmt: skip
    for name, source in sources.items():
        label, index, found = learn.predict(source)
        np.testing.assert_allclose(found, probability, atol=2e-3, err_msg=name)
        assert (label if is_single(learn) else "; ".join(label) or "no label") == names_of(learn, decoded)
        assert torch.equal(index, decoded)
    np.testing.assert_allclose(learn.predict(image.resize((128, 128)))[2], probability, atol=0.2)
    dl = learn.dls.test_dl(files)
    found, truth = learn.get_preds(dl=dl)
    np.testing.assert_allclose(found, probabilities(learn, files), atol=1e-5)
    assert truth is None
    dl.show_batch()
    assert [title.get_text() for title in titles()[1]] == [""] * len(files)
    rows = learn.dls.manifest.subset("test")
    found, truth = learn.get_preds(dl=learn.dls.test_dl(target_table(rows), with_labels=True))
    np.testing.assert_allclose(found, probabilities(learn, files), atol=1e-5)
    assert torch.equal(truth, expected(learn, "test")[1])


def test_test_dl_takes_a_manifest_with_its_labels(learn):
    images = learn.dls.manifest.subset("test")
    probability, truth, _, losses = expected(learn, "test")
    dl = learn.dls.test_dl(images, with_labels=True)
    found, target = learn.get_preds(dl=dl)
    np.testing.assert_allclose(found, probability, atol=1e-5)
    assert torch.equal(target, truth)
    assert learn.validate(dl=dl)[0] == pytest.approx(float(losses.mean()), rel=1e-3)
    for items, words in (
        (images.table["path"].tolist(), r"found items without labels; .*open_data"),
        (images.table, r"found items without labels; .*open_data"),
        (replace(images, labels=("a", "b", "c")), r"the manifest has the labels a, b, c .*these DataLoaders have"),
    ):
        with pytest.raises(DataError, match=words):
            learn.dls.test_dl(items, with_labels=True)
    with pytest.raises(DataError, match="columns file; expected 'path'"):
        learn.dls.test_dl(pd.DataFrame({"file": images.table["path"]}))


def test_predictions_are_fetched_after_each_epoch(trained):
    fetch = FetchPredsCallback()
    trained.fit(1, 1e-3, cbs=fetch)
    torch.testing.assert_close(fetch.preds[0], trained.get_preds()[0])
    assert len(trained.recorder.values) == 1 and trained.recorder.metric_names[1] == "train_loss"
    with trained.removed_cbs([trained.recorder]):
        assert len(trained.get_preds()[0]) == len(trained.dls.valid_ds)


def test_a_device_may_be_given_by_its_name(learn):
    manifest = learn.dls.manifest
    dls = xf.dataloaders(manifest, size=64, batch_size=4, device="cpu", data_on_device="on")
    assert dls.to("cpu").device == torch.device("cpu") and dls.train.feed is not None
    xf.learner(dls, arch=SMALL["arch"], weights="none")
    dls.device = "meta"
    assert dls.device == torch.device("meta") and dls.train.feed is dls.valid.feed is None


def test_other_dataloaders_are_used_by_fastai_s_methods_and_refused_by_name_elsewhere(trained):
    first = trained.dls
    try:
        trained.dls = xf.dataloaders(first.manifest, size=64, batch_size=4, device="cpu", workers=0, augment=False)
        with pytest.raises(ConfigError, match="no views"):
            trained.tta()
        trained.dls = DataLoaders(*first.loaders)
        for use in (
            xf.RadiographInterpretation.from_learner,
            xf.save,
            partial(RadiographLearner.add_own, cbs=[], metrics=[]),
        ):
            with pytest.raises(DataError, match=r"learn\.dls was replaced"):
                use(trained)
    finally:
        trained.dls = first


def test_summary_counts_the_parameters_that_are_trained(learn):
    text = str(learn.summary())
    total = sum(p.numel() for p in learn.model.parameters())
    head = sum(p.numel() for p in learn.model[1].parameters())
    assert f"Total params: {total:,}" in text and f"Total trainable params: {head:,}" in text
    assert f"frozen up to parameter group #{len(learn.groups) - 1}" in text
    assert type(learn.loss_func).__name__ in text and "FrozenInference" in text


def test_precision_is_changed_by_fastai_s_names_and_is_never_silently_another(trained):
    before, seen = trained.get_preds()[0], set()
    layer = [module for module in trained.model.modules() if isinstance(module, torch.nn.Linear)][-1]
    hook = layer.register_forward_hook(lambda _, __, output: seen.add(output.dtype) if trained.training else None)
    assert trained.to_bf16().to_bf16() is trained
    assert [type(cb).__name__ for cb in trained.cbs].count("Autocast") == 1
    assert torch.equal(trained.get_preds()[0], before), "predictions are in float32"
    trained.fit(1, 1e-4)
    assert (seen, trained.precision, trained.settings["precision"]) == ({torch.bfloat16}, "bf16", "bf16")
    seen.clear()
    trained.to_fp32().fit(1, 1e-4)
    assert (seen, trained.precision) == ({torch.float32}, "fp32")
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        trained.to_fp16()
    assert trained.precision == "fp32"
    hook.remove()


def test_save_and_load_keep_weights_and_optimizer(trained):
    before = trained.get_preds()[0]
    trained.save("mine")
    trained.fit(1, 1e-2)
    assert not torch.equal(trained.get_preds()[0], before)
    assert torch.equal(trained.load("mine").get_preds()[0], before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda learn: pickle.loads(pickle.dumps(learn))])
def test_a_copy_of_a_learner_predicts_the_same_and_trains_by_itself(learn, copied):
    before, other = learn.get_preds()[0], copied(learn)
    assert torch.equal(other.get_preds()[0], before)
    with other.no_bar(), other.no_logging():
        other.fit(1, 1e-2)
    assert not torch.equal(other.get_preds()[0], before) and torch.equal(learn.get_preds()[0], before)


LOAD = """
import sys, torch
from fastai.learner import load_learner
learn = load_learner(sys.argv[1])
with learn.no_bar():
    torch.save(learn.predict(sys.argv[2])[2], sys.argv[3])
"""


@pytest.fixture
def exported(learn, tmp_path):
    with pytest.warns(UserWarning, match=r"shared\.pkl is a pickle: load_learner runs the code in it.*xrayfast\.save"):
        learn.export(tmp_path / "shared.pkl")
    assert learn.dls.manifest.labels, "the learner keeps its data"
    return tmp_path / "shared.pkl"


def test_export_warns_that_it_pickles_and_predicts_the_same(learn, exported):
    file = learn.dls.manifest.table["path"][0]
    loaded = load_learner(exported)
    with loaded.no_bar():
        torch.testing.assert_close(loaded.predict(file)[2], learn.predict(file)[2])
    assert type(loaded.dls) is DataLoaders, "without the manifest"


def test_a_learner_that_can_not_be_pickled_stays_as_it_was_until_the_callback_is_removed(trained, tmp_path):
    before, file = (trained.dls, trained.opt), tmp_path / "shared.pkl"
    file.write_bytes(b"an earlier export")
    trained.own_cbs = [CSVLogger()]
    trained.add_cbs(trained.own_cbs)
    trained.csv_logger.file = (tmp_path / "log.csv").open("w")
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match=r"shared\.pkl: .*pickle.*remove_cb.*save"):
        trained.export(file)
    assert (trained.dls, trained.opt) == before and file.read_bytes() == b"an earlier export"
    assert {path.name for path in tmp_path.iterdir()} == {"shared.pkl", "log.csv"}
    trained.csv_logger.file.close()
    trained.remove_cb(CSVLogger)
    with pytest.warns(UserWarning):
        trained.export(file)
    assert load_learner(file).dls.vocab == trained.dls.vocab and len(trained.own_cbs) == 1
    trained.own_cbs = []


@pytest.mark.slow
def test_export_predicts_the_same_in_a_fresh_process(learn, exported, tmp_path):
    file = learn.dls.manifest.table["path"][0]
    subprocess.run([sys.executable, "-W", "ignore", "-c", LOAD, exported, file, tmp_path / "p.pt"], check=True)
    torch.testing.assert_close(torch.load(tmp_path / "p.pt"), learn.predict(file)[2])


def test_the_interpretation_of_a_single_label_learner(learn):
    if not is_single(learn):
        pytest.skip("fastai's adds up labels as if they were classes: xf.RadiographInterpretation does not")
    _, truth, decoded, losses = expected(learn, "valid")
    found = ClassificationInterpretation.from_learner(learn)
    matrix = skm.confusion_matrix(truth, decoded)
    assert (found.confusion_matrix() == matrix).all()
    found.plot_confusion_matrix()
    assert [text.get_text() for text in plt.gca().texts] == [str(n) for n in matrix.ravel()]
    labels = learn.dls.vocab
    off_diagonal = {(labels[a], labels[p]): matrix[a, p] for a, p in np.argwhere(matrix * (1 - np.eye(3)))}
    assert {(a, p): n for a, p, n in found.most_confused()} == off_diagonal
    order = losses.argsort(descending=True)
    assert found.top_losses(3)[1].tolist() == order[:3].tolist()
    items = found.top_losses(3, items=True)[2]
    assert [str(path) for path in items] == learn.dls.manifest.subset("valid").table["path"].iloc[order[:3]].tolist()
    found.plot_top_losses(2)
    for ax, i in zip(plt.gcf().axes, order, strict=False):
        assert ax.get_title().startswith(f"{labels[decoded[i]]}/{labels[truth[i]]} / {losses[i]:.2f}")


def test_fastai_s_cleaner_shows_the_files_of_the_largest_losses_and_tells_which_to_change(learn, monkeypatch):
    if not is_single(learn):
        pytest.skip("fastai's cleaner knows one class per image")
    widgets = pytest.importorskip("fastai.vision.widgets")
    monkeypatch.setattr(widgets, "display", lambda _: None, raising=False)  # defined only in a notebook
    cleaner = widgets.ImageClassifierCleaner(learn, max_n=5)
    for split in ("train", "valid"):
        cleaner.dd_ds.value = split.title()
        _, truth, _, losses = expected(learn, split)
        if split == "train":  # on augmented images, like everything that fastai computes on this split
            losses = torch.stack([loss for _, _, loss in cleaner.iwis[0]])
        for index, label in enumerate(learn.dls.vocab):
            cleaner.dd_cats.value = label
            table = pd.DataFrame({"path": learn.dls.manifest.subset(split).table["path"], "loss": losses})
            table = table[truth.numpy() == index].sort_values("loss", ascending=False)[:5]
            assert [str(file) for file in cleaner.fns] == table["path"].tolist()
            assert all(file.is_file() for file in cleaner.fns), "paths, to be moved or unlinked"
    menus = [box.children[1] for box in cleaner.iw.widget.children]
    menus[0].value, menus[1].value = "<Delete>", "normal"
    assert (list(cleaner.delete()), list(cleaner.change())) == ([0], [(1, "normal")])
