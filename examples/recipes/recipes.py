"""The recipes that are compared: options of `xf.fit` over `BASE`, most of them one change each."""

from collections.abc import Callable
from typing import Any

from fastai.callback.core import Callback
from torch import nn

BASE = {"arch": "resnet18", "unfreeze": True, "epochs": 5}
"""One epoch of the head and five of all layers; all else is the default of this version."""

FASTAI = "fastai"
"""fastai's documented recipe: `Resize`, `aug_transforms`, `vision_learner`, `fine_tune`, at its default rate."""


class InferenceBatchNorm(Callback):
    """Batch norm of the backbone keeps the statistics that its weights came with, in all phases."""

    order = -8  # after fastai has put the network into training mode

    def before_train(self):
        for module in self.model[0].modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


class SlowBatchNorm(Callback):
    """Running statistics of batch norm move by a hundredth per batch, not by a tenth."""

    order = -8

    def before_train(self):
        for module in self.model[0].modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.01


RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    # Why accuracy falls in the first unfrozen epoch.
    "bn inference": {"cbs": InferenceBatchNorm},
    "bn slow": {"cbs": SlowBatchNorm},
    "lr_div 10": {"lr_div": 10.0},
    "lr_div 10 + bn inference": {"lr_div": 10.0, "cbs": InferenceBatchNorm},
    "lr_div 3": {"lr_div": 3.0},
    "no head phase": {"freeze_epochs": 0, "epochs": 6},
    "flat-cos": {"schedule": "flat-cos"},
    # Steps.
    "batch 16": {"batch_size": 16},
    "lr_div 10 + batch 16": {"lr_div": 10.0, "batch_size": 16},
    "10 epochs": {"epochs": 10},
    "lr_div 10 + 10 epochs": {"lr_div": 10.0, "epochs": 10},
    # Regularisation and images.
    "strong augmentation": {"augment": "strong"},
    "mild augmentation": {"augment": "mild"},
    "linear head": {"head": "linear"},
    "wd 0.1": {"wd": 0.1},
    "tta": {"tta": True},
}


def settings(name: str) -> tuple[dict[str, Any], Callable[[], Callback] | None]:
    """Options of `xf.fit` over `BASE`, and what makes the recipe's callback, or None."""
    options = RECIPES[name]
    return {key: value for key, value in options.items() if key != "cbs"}, options.get("cbs")
