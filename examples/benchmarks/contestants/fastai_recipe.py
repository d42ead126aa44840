"""fastai as documented: ImageDataLoaders, Resize, aug_transforms, vision_learner, fine_tune."""

import time

import numpy as np
import pandas as pd
from fastai.vision import all as fv
from torchvision import models

from benchmarks.contestants.common import EpochClock, Orders, answer, read_orders


def main() -> None:
    orders = read_orders()
    fv.set_seed(orders.seed)
    {"fit": fit, "loader": loader, "predict": predict}[orders.task](orders)


def dataloaders(orders: Orders) -> fv.DataLoaders:
    """Return DataLoaders from `from_df`, with the documentation's transforms and fastai's own number of workers."""
    rows = [(path, label, split == "valid") for split in ("train", "valid") for path, label in orders.subset(split)]
    table = pd.DataFrame(rows, columns=["path", "label", "is_valid"])
    return fv.ImageDataLoaders.from_df(
        table, path="/", label_col="label", valid_col="is_valid", bs=orders.settings["batch_size"],
        item_tfms=fv.Resize(orders.settings["size"]), batch_tfms=fv.aug_transforms(),
    )  # fmt: skip


def fit(orders: Orders) -> None:
    settings, clock = orders.settings, EpochClock()
    learn = learner(orders, dataloaders(orders))
    learn.add_cb(Epochs(clock))
    lr, head, unfrozen = settings["lr"], settings["freeze_epochs"], settings["epochs"]
    if settings["unfreeze"] == "none":
        learn.freeze()
        learn.fit_one_cycle(unfrozen, slice(lr))
    elif settings["unfreeze"] == "all":
        learn.fine_tune(unfrozen, base_lr=lr, freeze_epochs=head)
    else:
        learn.freeze_to(-2)
        learn.fit_one_cycle(unfrozen, np.array([lr / 100, lr / 100 ** (1 / 5), lr]))  # the same spread as xrayfast's
    answer(epochs=clock.rows, train_images=len(learn.dls.train_ds), valid_images=len(learn.dls.valid_ds))


def learner(orders: Orders, dls: fv.DataLoaders) -> fv.Learner:
    settings = orders.settings
    more = {"splitter": last_block} if settings.get("unfreeze") == "last block" else {}
    pretrained = settings["weights"] == "imagenet"
    return fv.vision_learner(
        dls, getattr(models, settings["arch"]), pretrained=pretrained, metrics=fv.accuracy, **more
    )  # fmt: skip


def last_block(model):
    """Return the layer groups of resnet18 with the last block as its own group; fastai's splitter joins two blocks."""
    return fv.L(model[0][:7], model[0][7:], model[1:]).map(fv.params)


class Epochs(fv.Callback):
    """Times each epoch, including validation. It runs after Recorder, which has the metrics."""

    order = 60

    def __init__(self, clock: EpochClock) -> None:
        self.clock = clock

    def before_epoch(self) -> None:
        self.clock.start()

    def after_epoch(self) -> None:
        _, valid_loss, accuracy = self.recorder.values[-1]
        self.clock.stop("head" if self.opt.frozen_idx else "all", accuracy, valid_loss)


def loader(orders: Orders) -> None:
    """Measure the seconds of each pass over the augmented training batches."""
    dls = dataloaders(orders)
    dls.train.after_batch.add(fv.Normalize.from_stats(*fv.imagenet_stats))
    passes = []
    for _ in range(orders.settings["epochs"]):
        began, images = time.perf_counter(), 0
        for batch, _ in dls.train:
            images += len(batch)
        passes.append({"seconds": time.perf_counter() - began, "images": images})
    answer(passes=passes)


def predict(orders: Orders) -> None:
    """Measure the seconds of `get_preds` on files."""
    learn = learner(orders, dataloaders(orders))
    files = [path for split in ("train", "valid") for path, _ in orders.subset(split)]
    began = time.perf_counter()
    found, _ = learn.get_preds(dl=learn.dls.test_dl(files))
    answer(predict_seconds=time.perf_counter() - began, images=len(found))


if __name__ == "__main__":
    main()
