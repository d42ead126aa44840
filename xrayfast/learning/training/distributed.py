"""Distributed training, equal to training in one process: `torchrun --nproc-per-node 2 -m xrayfast fit`.

Every rank reads and augments whole batches, with the same random numbers, which costs little beside the network, and
runs the network on its own rows. Batch norm uses the statistics of the whole batch, dropout its rows of the whole
batch's mask. Outputs are gathered, so that losses, metrics and decisions are those of the whole batch on every rank,
and gradients are summed. The one difference from a single process is the rounding of sums.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from xrayfast.config import Device
from xrayfast.errors import ConfigError, TrainingError
from xrayfast.learning.device import torch_device
from xrayfast.learning.fastai_api import Callback, Learner
from xrayfast.learning.model.backbones import StochasticDepth
from xrayfast.learning.training.callback_order import CALLBACK_ORDER

STEP_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others between two batches, writing a checkpoint included."""

SOLO_TIMEOUT = timedelta(days=7)
"""How long the other ranks wait for what rank zero does alone, such as the final predictions. Where it fails, torchrun
ends the others at once.
"""


class _LostRankError(RuntimeError):
    """Another rank does not answer."""


@dataclass(frozen=True, eq=False)
class World:
    """The ranks that train together, as seen from one of them.

    Attributes:
        rank: of this process, from 0.
        world_size: number of ranks.
        group: the process group in which the other ranks wait for rank zero; None for a single process.
    """

    rank: int = 0
    world_size: int = 1
    group: Any = None

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes the run and reports progress."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """This rank's rows of a batch of `total`; numbers of rows differ by one at most.

        >>> [World(rank, 3).rows(7) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
        """
        size, more = divmod(total, self.world_size)
        start = self.rank * size + min(self.rank, more)
        return slice(start, start + size + (self.rank < more))

    def any(self, condition: Callable[[], bool]) -> Callable[[], bool]:
        """Whether the condition holds on any rank; to be called by all ranks equally often."""
        if self.world_size == 1:
            return condition
        return lambda: bool(_all_reduce(torch.tensor([int(condition())])))

    def broadcast_number(self, number: float) -> float:
        """Rank zero's number, on all ranks."""
        if self.world_size == 1:
            return number
        return float(_all_reduce(torch.tensor([number if self.is_rank_zero else 0.0], dtype=torch.float64)))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.world_size > 1:
            with _naming_lost_ranks():
                dist.barrier(group=self.group)

    def broadcast_text(self, text: str) -> str:
        """Rank zero's text, on all ranks."""
        if self.world_size == 1:
            return text
        content = text.encode() if self.is_rank_zero else b""
        with _naming_lost_ranks():
            size = torch.tensor([len(content)])
            dist.broadcast(size, 0, group=self.group)
            received = torch.tensor(list(content)) if self.is_rank_zero else torch.zeros(int(size), dtype=torch.int64)
            dist.broadcast(received, 0, group=self.group)
        return bytes(received.tolist()).decode()

    @contextmanager
    def output_folder(self, path: Path) -> Iterator[Path]:
        """Where this process writes: `path` for rank zero, a temporary folder for the others."""
        if self.is_rank_zero:
            yield path
            return
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)

    @contextmanager
    def working_copy(self, path: Path) -> Iterator[Path]:
        """An existing folder to continue in: itself for rank zero, a temporary copy for the others."""
        with self.output_folder(path) as folder:
            if not self.is_rank_zero:
                shutil.copytree(path, folder, dirs_exist_ok=True)
            self.barrier()  # rank zero changes nothing until all have copied it
            yield folder


@contextmanager
def join_process_group(device: Device) -> Iterator[World]:
    """Join the processes that torchrun started with this one; without torchrun, a world of one process.

    Within, "cuda" is the GPU of this rank.

    Args:
        device: where the network is trained.

    Raises:
        ConfigError: no such device, or none for this rank.
        TrainingError: another rank has ended.
    """
    started = dist.is_available() and dist.is_initialized()
    if not started and (int(os.environ.get("WORLD_SIZE", "1")) < 2 or "MASTER_ADDR" not in os.environ):
        yield World()
        return
    backend = _backend(device)
    if not started:
        dist.init_process_group(backend, timeout=STEP_TIMEOUT)
    group = dist.new_group(backend="gloo", timeout=SOLO_TIMEOUT)
    # fastai reads these by itself: on all ranks but zero, `Learner.save` and with it the range test would silently
    # write nothing, and `Learner.load` would wait for the others.
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    rank, world_size = dist.get_rank(), dist.get_world_size()
    try:
        yield World(rank, world_size, group)
    except _LostRankError as error:
        raise TrainingError(
            f"Rank {rank} of {world_size} lost the others: one has ended, or did not answer in "
            f"{STEP_TIMEOUT.seconds // 60} minutes. Its own message says why; 'xrayfast fit --resume' continues from "
            "the last epoch."
        ) from error
    finally:
        os.environ.update(hidden)
    # Not after an error, of which the others do not know: NCCL would wait for them.
    if not started:
        dist.destroy_process_group()


def _backend(device: Device) -> str:
    target = torch_device(device)
    if target.type == "cpu":
        return "gloo"
    if target.type != "cuda":
        raise ConfigError(
            f"device is {target.type}, and distributed training is for CPUs or CUDA devices. Use --device cpu, or "
            "start one process, without torchrun."
        )
    local_rank, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= devices:
        needed = os.environ.get("LOCAL_WORLD_SIZE", f"at least {local_rank + 1}")
        raise ConfigError(
            f"Found {devices} CUDA devices for {needed} processes. Use --nproc-per-node {devices}, or --device cpu."
        )
    torch.cuda.set_device(local_rank)
    return "cpu:gloo,cuda:nccl"


@contextmanager
def train_as_rank(learn: Learner, world: World) -> Iterator[None]:
    """Within it the learner trains and validates as one rank; all ranks make the same calls.

    Args:
        learn: equal on all ranks, with DataLoaders that give whole batches.
        world: from `join_process_group`.
    """
    if world.world_size == 1:
        yield
        return
    own = _OwnRows(world)
    callback = SplitBatches(own)
    learn.add_cb(callback)
    replaced = _use_whole_batch(learn.model, own)
    try:
        yield
    finally:
        learn.remove_cb(callback)
        for module in replaced:
            del module.forward


class _OwnRows:
    """Which rows of the current batch are this rank's own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.total = 0

    @property
    def rows(self) -> slice:
        return self.world.rows(self.total)

    def __deepcopy__(self, memo: dict[int, Any]) -> _OwnRows:
        """Copies of a network, such as a fused one, share it: a process group can't be copied."""
        return self


class SplitBatches(Callback):
    """Runs the network on this rank's rows, gathers the outputs of all ranks, and sums their gradients.

    Targets stay those of the whole batch. After the network, `xb` is the whole batch again.
    """

    order = CALLBACK_ORDER["SplitBatches"]

    def __init__(self, own: _OwnRows) -> None:
        self.own = own

    def before_batch(self) -> None:
        """The network gets the rank's own rows."""
        self.whole = self.xb
        self.own.total = len(self.xb[0])
        self.learn.xb = tuple(x[self.own.rows] for x in self.xb)

    def after_pred(self) -> None:
        """The loss gets the outputs of all rows, at least in float32."""
        kind = type(self.pred)
        self.learn.pred = _GatherRows.apply(_at_least_fp32(self.pred.as_subclass(Tensor)), self.own).as_subclass(kind)
        self.learn.xb = self.whole

    def before_step(self) -> None:
        """The loss is that of the whole batch, so its gradient is the sum of all ranks' gradients."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = _all_reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))


class _GatherRows(torch.autograd.Function):
    """The rows of all ranks in order; the gradient goes back to the own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: _OwnRows) -> Tensor:
        ctx.rows = own.rows
        whole = x.new_zeros((own.total, *x.shape[1:]))
        whole[own.rows] = x
        return _all_reduce(whole)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.rows], None


def _use_whole_batch(model: nn.Module, own: _OwnRows) -> list[nn.Module]:
    """Let each layer that mixes or draws by batch do so by the whole batch; returns these layers.

    Modules, parameters and keys stay; `forward` is replaced on the instance, so that deleting it there undoes it.
    (`nn.SyncBatchNorm` needs a GPU, and fastai would apply weight decay to its weights.)
    """
    forwards: dict[type[nn.Module], Any] = {
        nn.BatchNorm1d: _batch_norm,
        nn.BatchNorm2d: _batch_norm,
        nn.Dropout: _dropout,
        StochasticDepth: _stochastic_depth,
    }
    replaced = [module for module in model.modules() if type(module) in forwards]
    for module in replaced:
        module.forward = partial(forwards[type(module)], module, own)
    return replaced


def _dropout(layer: nn.Dropout, own: _OwnRows, x: Tensor) -> Tensor:
    if not layer.training:
        return x
    # The draw of a single process: same shape, same kernel, same generator.
    return x * F.dropout(x.new_ones((own.total, *x.shape[1:])), layer.p)[own.rows]


def _stochastic_depth(layer: StochasticDepth, own: _OwnRows, x: Tensor) -> Tensor:
    if not layer.training or layer.p == 0:
        return x
    lead = own.total if layer.mode == "row" else 1
    mask = x.new_empty((lead, *[1] * (x.dim() - 1))).bernoulli_(1 - layer.p)
    if layer.p < 1:
        mask = mask.div_(1 - layer.p)
    return x * (mask[own.rows] if layer.mode == "row" else mask)


def _batch_norm(norm: Any, own: _OwnRows, x: Tensor) -> Tensor:
    """Batch norm over the rows of all ranks in training; else the layer's own."""
    if not norm.training:
        return type(norm).forward(norm, x)
    x = x.as_subclass(Tensor)
    total = own.total * x.shape[2:].numel()
    with torch.no_grad():
        mean, variance = _moments(x, own)
        if norm.running_mean is not None:
            norm.num_batches_tracked.add_(1)
            momentum = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
            norm.running_var.lerp_((variance * (total / max(total - 1, 1))).to(norm.running_var), momentum)
    # Parameters, and with them statistics, are float32 where the rows are bfloat16.
    mean, variance = mean.to(norm.weight), variance.to(norm.weight)
    return _BatchNorm.apply(x, norm.weight, norm.bias, mean, variance, norm.eps, total)


def _moments(x: Tensor, own: _OwnRows) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel over all rows, (C,) float64, from those of each rank.

    As in Chan, Golub and LeVeque (1979): squares are summed about each rank's own mean, so that nothing cancels.
    """
    world, positions = own.world, x.shape[2:].numel()
    by_rank = torch.zeros((world.world_size, 2, x.shape[1]), dtype=torch.float64, device=x.device)
    if len(x):
        variance, mean = torch.var_mean(_at_least_fp32(x), _all_but_channels(x), correction=0)
        by_rank[world.rank] = torch.stack([mean, variance]).double()
    means, variances = _all_reduce(by_rank).unbind(1)
    slices = [World(rank, world.world_size).rows(own.total) for rank in range(world.world_size)]
    counts = by_rank.new_tensor([(rows.stop - rows.start) * positions for rows in slices]).unsqueeze(1)
    weights = counts / counts.sum()
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean) ** 2)).sum(0)


def _at_least_fp32(x: Tensor) -> Tensor:
    """In float32, or wider if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


class _BatchNorm(torch.autograd.Function):
    """Rows (n, C, ...) by the mean and variance (C,) of all `total` values of a channel, which depend on them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, total: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.total = total
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        column = (1, -1, *[1] * (x.dim() - 2))
        gradient = _at_least_fp32(gradient)
        centred = _at_least_fp32(x) - mean.view(column)
        dims = _all_but_channels(x)
        # (2, C): the gradients of bias and weight, of the own rows.
        own = torch.stack([gradient.sum(dims), (gradient * centred).sum(dims) * scale])
        by_bias, by_weight = _all_reduce(own.clone()) / ctx.total
        of_x = gradient - by_bias.view(column) - centred * (by_weight * scale).view(column)
        of_x *= (weight * scale).view(column)
        return of_x.to(x.dtype), own[1], own[0], None, None, None, None


def _all_reduce(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in place; equal to the bit on all of them."""
    with _naming_lost_ranks():
        dist.all_reduce(tensor)
    return tensor


@contextmanager
def _naming_lost_ranks() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch's backends raise when a peer is gone or too late
        raise _LostRankError(str(error)) from error
