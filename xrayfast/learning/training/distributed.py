"""Several processes that train as one would with the batches of all: `torchrun --nproc-per-node 2 -m xrayfast fit`.

Every process reads and augments whole batches, with the same random numbers, which costs little beside the network,
and takes its own rows through the network. Batch norm uses the statistics of the whole batch, dropout its rows of the
whole batch's mask. The outputs are gathered, so that losses, metrics and decisions are those of the whole batch in
every process, and gradients are summed. What is left between this and one process is the rounding of sums.
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
from torchvision.ops import StochasticDepth

from xrayfast.config import Device
from xrayfast.errors import ConfigError, TrainingError
from xrayfast.learning.device import torch_device
from xrayfast.learning.fastai_api import Callback, Learner, MixedPrecision

TIMEOUT = timedelta(minutes=30)
"""Between two batches nobody waits longer for the others, a checkpoint included."""

PATIENCE = timedelta(days=7)
"""For what one process does alone, such as the final predictions. Where it fails, torchrun ends the others at once."""


class _LostError(RuntimeError):
    """Another process does not answer."""


@dataclass(frozen=True, eq=False)
class Processes:
    """Those that train together, as one of them sees them.

    Attributes:
        rank: the number of this one, from 0.
        world: how many there are.
        waiting: the group in which the others wait for the first, with patience; None for one process.
    """

    rank: int = 0
    world: int = 1
    waiting: Any = None

    @property
    def first(self) -> bool:
        """Whether this one writes the run and talks to people."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """The rows of this process in a batch of `total`; counts differ by one at most.

        >>> [Processes(rank, 3).rows(7) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
        """
        size, more = divmod(total, self.world)
        start = self.rank * size + min(self.rank, more)
        return slice(start, start + size + (self.rank < more))

    def either(self, asked: Callable[[], bool]) -> Callable[[], bool]:
        """Whether any of the processes is asked; to be called by all of them equally often."""
        if self.world == 1:
            return asked
        return lambda: bool(_summed(torch.tensor([int(asked())])))

    def broadcast_number(self, number: float) -> float:
        """The number that the first process has, in all."""
        if self.world == 1:
            return number
        return float(_summed(torch.tensor([number if self.first else 0.0], dtype=torch.float64)))

    def wait(self) -> None:
        """Go on when all are here."""
        if self.world > 1:
            with _answering():
                dist.barrier(group=self.waiting)

    def told(self, text: str) -> str:
        """The text that the first process has, in all; the others wait for it with patience."""
        if self.world == 1:
            return text
        content = text.encode() if self.first else b""
        with _answering():
            size = torch.tensor([len(content)])
            dist.broadcast(size, 0, group=self.waiting)
            told = torch.tensor(list(content)) if self.first else torch.zeros(int(size), dtype=torch.int64)
            dist.broadcast(told, 0, group=self.waiting)
        return bytes(told.tolist()).decode()

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """Where this process writes: the first to `path`, the others to a folder that is thrown away."""
        if self.first:
            yield path
            return
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)

    @contextmanager
    def own_copy(self, path: Path) -> Iterator[Path]:
        """A folder to go on in: for the first the folder itself, for the others a copy that is thrown away."""
        with self.folder(path) as place:
            if not self.first:
                shutil.copytree(path, place, dirs_exist_ok=True)
            self.wait()  # until all have copied it, it stays as it is
            yield place


@contextmanager
def joined(device: Device) -> Iterator[Processes]:
    """Join the processes that torchrun started with this one; one process where it didn't.

    Within, "cuda" is the GPU of this process.

    Args:
        device: where the network is trained.

    Raises:
        ConfigError: no such device, or none for this process.
        TrainingError: another process has ended.
    """
    started = dist.is_available() and dist.is_initialized()
    if not started and (int(os.environ.get("WORLD_SIZE", "1")) < 2 or "MASTER_ADDR" not in os.environ):
        yield Processes()
        return
    backend = _backend(device)
    if not started:
        dist.init_process_group(backend, timeout=TIMEOUT)
    waiting = dist.new_group(backend="gloo", timeout=PATIENCE)
    # fastai reads these by itself: in all processes but the first, `Learner.save` and with it the range test would
    # write nothing without a word, and `Learner.load` would wait for the others.
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    rank, world = dist.get_rank(), dist.get_world_size()
    try:
        yield Processes(rank, world, waiting)
    except _LostError as error:
        raise TrainingError(
            f"Process {rank} of {world} lost the others: one has ended, or did not answer in {TIMEOUT.seconds // 60} "
            "minutes. Its own message says why; 'xrayfast fit --resume' goes on from the last epoch."
        ) from error
    finally:
        os.environ.update(hidden)
    # Not after an error, of which the others know nothing: NCCL would wait for them.
    if not started:
        dist.destroy_process_group()


def _backend(device: Device) -> str:
    target = torch_device(device)
    if target.type == "cpu":
        return "gloo"
    if target.type != "cuda":
        raise ConfigError(
            f"device is {target.type}, and several processes train on CPUs or CUDA devices. Use --device cpu, or start "
            "one process, without torchrun."
        )
    local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= found:
        raise ConfigError(
            f"Found {found} CUDA devices for {os.environ.get('LOCAL_WORLD_SIZE', f'at least {local + 1}')} processes. "
            f"Use --nproc-per-node {found}, or --device cpu."
        )
    torch.cuda.set_device(local)
    return "cpu:gloo,cuda:nccl"


@contextmanager
def in_step(learn: Learner, processes: Processes) -> Iterator[None]:
    """Within, the learner trains and validates as one of these processes, the same calls in all of them.

    Args:
        learn: equal in all processes, with DataLoaders that give the batches of all.
        processes: from `joined`.
    """
    if processes.world == 1:
        yield
        return
    share = _Share(processes)
    callback = InStep(share)
    learn.add_cb(callback)
    replaced = _as_one(learn.model, share)
    try:
        yield
    finally:
        learn.remove_cb(callback)
        for module in replaced:
            del module.forward


class _Share:
    """Which rows of the current batch are this process's own."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.total = 0

    @property
    def rows(self) -> slice:
        return self.processes.rows(self.total)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Share:
        """A copy of a network, such as one folded for inference, is of the same processes, which can't be copied."""
        return self


class InStep(Callback):
    """Takes this process's rows through the network, and gives everyone the outputs of all; sums the gradients.

    Targets stay those of the whole batch. After the network, `xb` is the whole batch again.
    """

    # Later than whatever else makes a batch; but fastai's fp16 takes its step in `before_step`, for which the
    # gradients must be there.
    order = MixedPrecision.order - 1

    def __init__(self, share: _Share) -> None:
        self.share = share

    def before_batch(self) -> None:
        """To the network go the own rows."""
        self.whole = self.xb
        self.share.total = len(self.xb[0])
        self.learn.xb = tuple(x[self.share.rows] for x in self.xb)

    def after_pred(self) -> None:
        """To the loss go all rows, as float32."""
        kind = type(self.pred)
        self.learn.pred = _Gathered.apply(_wide(self.pred.as_subclass(Tensor)), self.share).as_subclass(kind)
        self.learn.xb = self.whole

    def before_step(self) -> None:
        """The loss is that of the whole batch, so its gradient is the sum over all rows, wherever they are."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = _summed(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


class _Gathered(torch.autograd.Function):
    """The rows of all processes, in order; the gradient goes back to the own rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: _Share) -> Tensor:
        ctx.rows = share.rows
        whole = own.new_zeros((share.total, *own.shape[1:]))
        whole[share.rows] = own
        return _summed(whole)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.rows], None


def _as_one(model: nn.Module, share: _Share) -> list[nn.Module]:
    """Let each layer that mixes or draws by batch do so by the whole batch.

    The modules, their parameters and their keys stay; what is replaced is `forward`, on the instance, so that deleting
    it there undoes it. (`nn.SyncBatchNorm` needs a GPU, and fastai takes its weights for ones that decay.)
    """
    kinds: dict[type[nn.Module], Any] = {
        nn.BatchNorm1d: _normalised,
        nn.BatchNorm2d: _normalised,
        nn.Dropout: _dropped,
        StochasticDepth: _skipped,
    }
    replaced = [module for module in model.modules() if type(module) in kinds]
    for module in replaced:
        module.forward = partial(kinds[type(module)], module, share)
    return replaced


def _dropped(layer: nn.Dropout, share: _Share, x: Tensor) -> Tensor:
    if not layer.training:
        return x
    # The draw of one process: same shape, same kernel, same generator.
    return x * F.dropout(x.new_ones((share.total, *x.shape[1:])), layer.p)[share.rows]


def _skipped(layer: StochasticDepth, share: _Share, x: Tensor) -> Tensor:
    if not layer.training or layer.p == 0:
        return x
    lead = share.total if layer.mode == "row" else 1
    mask = x.new_empty((lead, *[1] * (x.dim() - 1))).bernoulli_(1 - layer.p)
    if layer.p < 1:
        mask = mask.div_(1 - layer.p)
    return x * (mask[share.rows] if layer.mode == "row" else mask)


def _normalised(norm: Any, share: _Share, x: Tensor) -> Tensor:
    """Batch norm over the rows of all processes, in training; else the layer's own."""
    if not norm.training:
        return type(norm).forward(norm, x)
    x = x.as_subclass(Tensor)
    total = share.total * x.shape[2:].numel()
    with torch.no_grad():
        mean, variance = _moments(x, share)
        if norm.running_mean is not None:
            norm.num_batches_tracked.add_(1)
            momentum = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
            norm.running_var.lerp_((variance * (total / max(total - 1, 1))).to(norm.running_var), momentum)
    # Parameters, and with them statistics, are float32 where the rows are bfloat16.
    mean, variance = mean.to(norm.weight), variance.to(norm.weight)
    return _Normalised.apply(x, norm.weight, norm.bias, mean, variance, norm.eps, total)


def _moments(x: Tensor, share: _Share) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel over all rows, (C,) float64, from those of each process.

    As Chan, Golub and LeVeque (1979) do it: squares are summed about each process's own mean, so that nothing cancels.
    """
    processes, positions = share.processes, x.shape[2:].numel()
    pieces = torch.zeros((processes.world, 2, x.shape[1]), dtype=torch.float64, device=x.device)
    if len(x):
        variance, mean = torch.var_mean(_wide(x), _all_but_channels(x), correction=0)
        pieces[processes.rank] = torch.stack([mean, variance]).double()
    means, variances = _summed(pieces).unbind(1)
    ranks = [Processes(rank, processes.world).rows(share.total) for rank in range(processes.world)]
    counts = pieces.new_tensor([(rows.stop - rows.start) * positions for rows in ranks]).unsqueeze(1)
    weights = counts / counts.sum()
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean) ** 2)).sum(0)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


class _Normalised(torch.autograd.Function):
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
        gradient = _wide(gradient)
        centred = _wide(x) - mean.view(column)
        dims = _all_but_channels(x)
        # (2, C): the gradients of bias and weight, of the own rows.
        own = torch.stack([gradient.sum(dims), (gradient * centred).sum(dims) * scale])
        by_bias, by_weight = _summed(own.clone()) / ctx.total
        of_x = gradient - by_bias.view(column) - centred * (by_weight * scale).view(column)
        of_x *= (weight * scale).view(column)
        return of_x.to(x.dtype), own[1], own[0], None, None, None, None


def _summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place; equal to the last bit in all of them."""
    with _answering():
        dist.all_reduce(tensor)
    return tensor


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch's backends raise when a peer is gone or too late
        raise _LostError(str(error)) from error
