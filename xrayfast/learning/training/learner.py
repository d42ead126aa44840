"""Put one fastai Learner together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from xrayfast.config import ClassWeights, LossName, ModelConfig, OptimizerName, Precision, TrainConfig
from xrayfast.errors import ConfigError, WeightsError, WriteError, shorten
from xrayfast.learning.fastai_api import DataLoaders, Learner, params, vision_learner
from xrayfast.learning.memory import keep_freed_memory
from xrayfast.learning.model.backbones import Body, load_body
from xrayfast.learning.model.fusion import in_order
from xrayfast.learning.model.losses import make_loss
from xrayfast.learning.model.optimizers import make_optimizer
from xrayfast.learning.model.precision import first_in_float32, set_precision
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.callbacks import FrozenInference, LossesToCPU
from xrayfast.learning.training.metrics import KnownLoss, SmoothLoss, epoch_metrics


def learner(
    dls: DataLoaders,
    *,
    arch: str = "resnet18",
    weights: str = "imagenet",
    head_width: int | Sequence[int] = (),
    loss: LossName = "auto",
    gamma: float = 2.0,
    alpha: float | Sequence[float] | None = None,
    class_weights: ClassWeights = "none",
    optimizer: OptimizerName = "adam",
    momentum: float = 0.9,
    wd: float = 0.01,
    lr: float = 2e-3,
    precision: Precision = "auto",
    seed: int = 0,
) -> Learner:
    """A plain fastai Learner, its body frozen, one layer group per block of the network and one for the head.

    From now on the process keeps memory that it frees (glibc only), which training asks for again in each batch. Frozen
    blocks run in inference mode: their batch norm neither trains nor counts, so that a frozen epoch
    back-propagates through the head alone.

    Args:
        dls: from `xrayfast.dataloaders`.
        arch: a name of `xrayfast models`.
        weights: "imagenet", "none", or a file of weights.
        head_width: hidden units of the head; () for fastai's 512.
        loss: "auto", "ce", "bce" or "focal".
        gamma: of the focal loss.
        alpha: of the focal loss, a number or one per label.
        class_weights: "auto" weighs labels by inverse frequency in the training split.
        optimizer: "adam" or "sgd".
        momentum: of SGD, or Adam's first beta.
        wd: weight decay, decoupled.
        lr: the learner's default learning rate.
        precision: "auto", "fp32", "bf16" or "fp16".
        seed: of the weights that are drawn.

    Raises:
        ConfigError: unknown names, or options that do not fit together or the data.
        WeightsError: weights that can't be had or don't fit.
    """
    keep_freed_memory()
    data = dls.manifest
    truth = data.subset("train").truth
    loss_func = make_loss(
        loss,
        data.task,
        gamma=gamma,
        alpha=alpha,
        class_weights=class_weights,
        positives=(truth == 1).sum(axis=0).tolist(),
        known=(truth >= 0).sum(axis=0).tolist(),
    )
    if isinstance(alpha, Sequence) and len(alpha) not in (1, len(data.labels)):
        raise ConfigError(f"alpha has {len(alpha)} values; expected one, or one for each of: {', '.join(data.labels)}.")
    with isolated_rng(seed, "init"):
        body = load_body(arch, weights)
        learn = _assemble(dls, body, arch, head_width, loss_func, make_optimizer(optimizer, momentum), lr, wd)
    learn.metrics = epoch_metrics(data.task, len(data.labels))
    learn.recorder.loss, learn.recorder.smooth_loss = KnownLoss(), SmoothLoss()
    learn.unused_weights = body.unused
    learn.settings = {
        "arch": arch,
        "weights": weights,
        "head_width": head_width,
        "size": dls.size,
        "batch_size": dls.batch_size,
        "loss": loss,
        "gamma": gamma,
        "alpha": alpha,
        "class_weights": class_weights,
        "optimizer": optimizer,
        "momentum": momentum,
        "wd": wd,
        "lr": lr,
        "precision": precision,
        "seed": seed,
    }
    set_precision(learn, precision)
    learn.freeze()
    return learn


def learner_from_config(dls: DataLoaders, model: ModelConfig, train: TrainConfig) -> Learner:
    """The same from the settings of a run."""
    return learner(
        dls,
        arch=model.arch,
        weights=model.weights,
        head_width=model.head_width,
        loss=train.loss,
        gamma=train.gamma,
        alpha=train.alpha,
        class_weights=train.class_weights,
        optimizer=train.optimizer,
        momentum=train.momentum,
        wd=train.wd,
        lr=train.lr if train.lr != "auto" else 2e-3,
        precision=train.precision,
        seed=train.seed,
    )


def layer_groups(model: Any) -> list[list[nn.Parameter]]:
    """The parameters of each block of the body, then of the head: fastai's splitter."""
    return [params(block) for block in model[0]] + [params(model[1])]


def _assemble(
    dls: DataLoaders,
    body: Body,
    arch: str,
    head_width: int | Sequence[int],
    loss_func: Any,
    opt_func: Any,
    lr: float,
    wd: float,
) -> Learner:
    widths = [head_width] if isinstance(head_width, int) else list(head_width)
    learn = vision_learner(
        dls,
        body.as_network,
        # The DataLoaders normalise: fastai adds it only for networks it knows.
        normalize=False,
        n_out=len(dls.manifest.labels),
        pretrained=False,
        loss_func=loss_func,
        opt_func=opt_func,
        splitter=layer_groups,
        lin_ftrs=widths or None,
        lr=lr,
        wd=wd,
        train_bn=False,
        cbs=[FrozenInference(), LossesToCPU()],
    )
    # fastai moves it only when training begins; frozen layers run before that.
    learn.model = first_in_float32(in_order(learn.model.to(dls.device), dls.device))
    learn.arch = arch
    return learn


def load_weights(model: nn.Module, path: Path) -> None:
    """Load `model.safetensors` into a network of the same arch and head.

    Raises:
        WeightsError: the file is damaged or of another network.
    """
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: can't be read as safetensors ({error}).") from error
    own = model.state_dict()
    wrong = [key for key in own if key not in state or state[key].shape != own[key].shape] + [
        k for k in state if k not in own
    ]
    if wrong:
        raise WeightsError(
            f"{path}: is of another network than config.yaml and labels.json say; tensors that differ: "
            f"{shorten(wrong)}."
        )
    model.load_state_dict(state)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all weights and buffers of a network as safetensors."""
    save_tensors({key: tensor.detach() for key, tensor in model.state_dict().items()}, path)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write named tensors as safetensors.

    Raises:
        WriteError: the file can't be written.
    """
    try:
        safetensors.torch.save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    except (OSError, SafetensorError) as error:
        raise WriteError(
            f"{path.parent}: can't be written to ({error}). Check that it is open to you and not full."
        ) from error
