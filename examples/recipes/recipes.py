"""The recipes to compare: options of `xf.fit` added to `BASE`, most of them with a single change."""

from collections.abc import Callable
from typing import Any

from fastai.callback.core import Callback
from torch import nn

from xrayfast.config import EMA_DECAY
from xrayfast.workflows import recipes

BASE = {"arch": "resnet18", "unfreeze": True, "epochs": 5}
"""One epoch of the head and five of all layers, with the defaults of this version."""

FASTAI = "fastai"
"""fastai's documented recipe: `Resize`, `aug_transforms`, `vision_learner`, `fine_tune`, at the default rate."""


class InferenceBatchNorm(Callback):
    """Keeps the backbone's batch norm at its pretrained statistics in all phases."""

    order = -8  # after fastai has put the network into training mode

    def before_train(self):
        for module in self.model[0].modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


OLD_BEST = {"epochs": 12, "ema": EMA_DECAY, "label_smoothing": 0.1, "tta": True}
"""What `--recipe best` set before version 0.17, which trains several networks."""

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    # The values of `--recipe`.
    "fast": dict(recipes.RECIPES["fast"]),
    "best": dict(recipes.RECIPES["best"]),
    # The defaults before version 0.7.
    "0.6": {"precise_bn": False, "lr_div": 100.0},
    # Why accuracy fell in the first unfrozen epoch.
    "running bn": {"precise_bn": False},
    "lr_div 100": {"lr_div": 100.0},
    "lr_div 3": {"lr_div": 3.0},
    "0.6 + bn inference": {"precise_bn": False, "lr_div": 100.0, "cbs": InferenceBatchNorm},
    "no head phase": {"freeze_epochs": 0, "epochs": 6},
    "flat-cos": {"schedule": "flat-cos"},
    # Batch size, epochs, weight averaging.
    "batch 16": {"batch_size": 16},
    "10 epochs": {"epochs": 10},
    "ema": {"ema": 0.99},
    "10 epochs + batch 16 + ema": {"epochs": 10, "batch_size": 16, "ema": 0.99},
    # Regularization and augmentation.
    "strong augmentation": {"augment": "strong"},
    "mild augmentation": {"augment": "mild"},
    "label smoothing": {"label_smoothing": 0.1},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "linear head": {"head": "linear"},
    "wd 0.1": {"wd": 0.1},
    "sgd": {"optimizer": "sgd", "lr": 2e-2},
    "class weights": {"class_weights": "auto"},
    "balanced sampling": {"balanced_sampling": True},
    "tta": {"tta": True},
    # The earlier `best`, and with one change.
    "0.16 best": OLD_BEST,
    "0.16 best less ema": OLD_BEST | {"ema": None},
    "0.16 best less label smoothing": OLD_BEST | {"label_smoothing": 0.0},
    "0.16 best less tta": OLD_BEST | {"tta": False},
    "0.16 best + mixup": OLD_BEST | {"mixup": 0.2},
    "0.16 best + cutmix": OLD_BEST | {"cutmix": 1.0},
    "0.16 best + strong augmentation": OLD_BEST | {"augment": "strong"},
    "0.16 best + batch 16": OLD_BEST | {"batch_size": 16},
    "0.16 best + 24 epochs": OLD_BEST | {"epochs": 24},
    "0.16 best + lr 1e-3": OLD_BEST | {"lr": 1e-3},
    "0.16 best + lr_div 3": OLD_BEST | {"lr_div": 3.0},
    "0.16 best + wd 0.1": OLD_BEST | {"wd": 0.1},
    "0.16 best + linear head": OLD_BEST | {"head": "linear"},
    "0.16 best + 320 px": OLD_BEST | {"size": 320},
    "0.16 best + 320 px + 24 epochs": OLD_BEST | {"size": 320, "epochs": 24},
}


def settings(name: str) -> tuple[dict[str, Any], Callable[[], Callback] | None]:
    """Return the options of `xf.fit` to add to `BASE`, and the recipe's callback factory or None."""
    options = RECIPES[name]
    return {key: value for key, value in options.items() if key != "cbs"}, options.get("cbs")
