"""Predictions of a learner, with or without truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xrayfast.learning.fastai_api import Learner
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.loaders import SPLIT_INDEX
from xrayfast.learning.training.mixed_precision import fp32_inference
from xrayfast.predictions import Predictions, image_attributes

TTA_VIEWS = 4
"""Augmented views an image under test-time augmentation; fastai's default."""


def split_predictions(learn: Learner, split: str, *, tta: bool = False, seed: int = 0) -> Predictions:
    """Predictions and losses of one split of the learner's own data, not calibrated.

    Args:
        learn: a learner on `xrayfast.dataloaders`.
        split: "train", "valid" or "test".
        tta: mix in the mean over augmented views, as fastai's `Learner.tta`.
        seed: of those views.
    """
    data = learn.dls.manifest.subset(split)
    found = _probability(learn, learn.dls[SPLIT_INDEX[split]], tta=tta, seed=seed)
    probability = found.astype(np.float64)
    return Predictions(
        labels=data.labels,
        images=data.table["image"].to_numpy(dtype=object),
        patients=data.table["patient"].fillna("").to_numpy(dtype=object),
        truth=data.truth.astype(np.int64),
        probability=probability,
        loss=_losses(learn, found, data.targets),
        raw=probability,
        attributes=image_attributes(data.table),
    )


def new_probability(
    learn: Learner,
    images: Sequence[NDArray[np.uint8]],
    *,
    batch_size: int = 32,
    tta: bool = False,
    seed: int = 0,
) -> NDArray[Any]:
    """Probabilities of new images.

    Args:
        learn: a learner.
        images: N arrays (H, W) uint8.
        batch_size: images a batch.
        tta: as in `split_predictions`.
        seed: of the augmented views.

    Returns:
        (N, L) float32.
    """
    with isolated_rng(seed, "loader"):  # each new DataLoader draws from Python's generator
        dl = learn.dls.test_dl(list(images), rm_type_tfms=0, bs=batch_size, num_workers=0)
    return _probability(learn, dl, tta=tta, seed=seed)


def _probability(learn: Learner, dl: Any, *, tta: bool, seed: int) -> NDArray[Any]:
    with learn.no_bar(), fp32_inference(learn), isolated_rng(seed, "tta"):
        dl = dl.new(shuffle=False, drop_last=False)
        if tta:
            outputs = learn.tta(dl=dl, n=TTA_VIEWS)[0]
        else:
            with dl.dataset.set_split_idx(1):  # without augmentation, also on the training split
                outputs = learn.get_preds(dl=dl)[0]
    return outputs.as_subclass(torch.Tensor).float().cpu().numpy()


def _losses(learn: Learner, probability: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """The training loss of each image, from its probabilities; with several labels, the mean over the known ones.

    Logits that give the same probabilities give the same loss, so nothing needs a second pass; probabilities are kept
    1e-7, float32's resolution, away from 0 and 1.
    """
    clipped = torch.from_numpy(probability).clamp(1e-7, 1 - 1e-7)
    single = learn.dls.manifest.task == "single"
    logits = clipped.log() if single else clipped.logit()
    truth = torch.from_numpy(targets.argmax(axis=1) if single else targets)
    device = next(learn.model.parameters()).device
    with learn.loss_not_reduced():
        losses = learn.loss_func(logits.to(device), truth.to(device))
    total = losses.as_subclass(torch.Tensor).reshape(len(truth), -1).sum(dim=1).double().cpu().numpy()
    cells = 1 if single else np.maximum((~np.isnan(targets)).sum(axis=1), 1)
    per_image: NDArray[np.float64] = total / cells
    return per_image
