"""Training as one of several ranks, by torch's DistributedDataParallel: `torchrun --nproc-per-node 2 -m xrayfast fit`.

Each rank reads, augments and computes its own rows of each batch. Outputs and targets are gathered, so that on every
rank the loss, with masked cells and class weights, the metrics and the decisions are those of the whole batch.
Gradients are reduced during the backward pass. fastai's DistributedTrainer is not used: it averages the ranks' losses
regardless of how many unmasked cells each has, repeats images so that ranks get equal numbers, and wraps the network
for a whole fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.futures import Future, collect_all
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from xrayfast.errors import ConfigError, shorten
from xrayfast.learning.dataloaders.loaders import share_rows
from xrayfast.learning.distributed.rows import OwnRows
from xrayfast.learning.distributed.world import World, all_reduce
from xrayfast.learning.fastai_api import Callback, Learner
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER

_KNOWN = signature(DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers": False
}
"""The option that turns off DistributedDataParallel's own synchronization of buffers; torch 2.14 renamed it."""


@contextmanager
def train_as_rank(learn: Learner, world: World, sync_bn: bool = False, always: bool = False) -> Iterator[None]:
    """Within the block, the learner trains and validates as one rank; all ranks must make the same calls.

    Args:
        learn: a learner that is equal on all ranks, on DataLoaders from `xrayfast.dataloaders` with the batch size of
            all ranks together.
        world: the ranks, from `join_process_group`.
        sync_bn: whether batch norm uses the statistics of the whole batch instead of this rank's own rows.
        always: also use DistributedDataParallel with a single rank.

    Raises:
        ConfigError: the network has batch norm that can't be synchronized, or parameters that its output does not
            depend on.
    """
    if world.world_size == 1 and not always:
        yield
        return
    own = world.own_rows()
    callback = TrainAsRank(own, sync_bn)
    share_rows(learn.dls, own)
    learn.add_cb(callback)
    try:
        yield
    finally:
        callback.unwrap()
        learn.remove_cb(callback)
        share_rows(learn.dls, None)


class TrainAsRank(Callback):
    """Callback that runs the network on this rank's rows, and gathers the outputs and targets of all ranks.

    After the forward pass `pred` and `yb` are those of the whole batch; `xb` is still that of this rank's rows.

    Args:
        own: this rank's rows; the DataLoaders set their number.
        sync_bn: as in `train_as_rank`.
    """

    order = CALLBACK_ORDER["TrainAsRank"]

    def __init__(self, own: OwnRows, sync_bn: bool) -> None:
        self.own, self.sync_bn = own, sync_bn
        self.plain: nn.Module | None = None
        self.parallel: DistributedDataParallel | None = None
        self.norms: dict[_BatchNorm, type[_BatchNorm]] = {}

    def before_fit(self) -> None:
        """Wrap the network again for each fit, since layers may have been frozen or unfrozen since the last one."""
        self.unwrap()
        if self.sync_bn:
            self.norms = synchronize_batch_norms(self.model)
        self.parallel = DistributedDataParallel(self.model, **_OWN_BUFFERS)
        if self.parallel.device.type == "cpu":
            # A lambda, since torch checks the types of a hook's annotations, which are strings in this module.
            self.parallel.register_comm_hook(None, lambda _, bucket: average_each_gradient(bucket))
        self.checked = False

    def after_fit(self) -> None:
        """Restore the network."""
        self.unwrap()

    def unwrap(self) -> None:
        """Restore the network's batch norms and remove the wrapper; also after an error."""
        self._leave_pass()
        for norm, kind in self.norms.items():
            norm.__class__ = kind
        self.norms, self.parallel = {}, None

    def before_batch(self) -> None:
        """In training, use the DistributedDataParallel wrapper, and seed dropout and mixing per rank."""
        if self.training:
            self.plain, self.learn.model = self.model, self.parallel
            self.drawn = torch.get_rng_state()
            seed = repr((torch.initial_seed(), self.iter, self.own.rank)).encode()
            torch.manual_seed(int.from_bytes(hashlib.sha256(seed).digest()[:4], "little"))

    def after_pred(self) -> None:
        """Gather outputs and targets: from here on they are those of the whole batch."""
        if self.training:
            self._leave_pass()
        kind = type(self.pred)
        self.learn.pred = self.own.gather_outputs(self.pred.as_subclass(Tensor)).as_subclass(kind)
        self.learn.yb = tuple(self.own.gather(y.as_subclass(Tensor)).as_subclass(type(y)) for y in self.yb)

    def after_batch(self) -> None:
        """Restore the network if a callback skipped the forward pass."""
        self._leave_pass()

    def after_backward(self) -> None:
        """Average running statistics, which are of each rank's rows; the backward pass needs them unchanged."""
        self._average_buffers()

    def before_validate(self) -> None:
        """Average running statistics, which `PreciseBatchNorm` may have recomputed."""
        self._average_buffers()

    def before_step(self) -> None:
        """Check once that every parameter has a gradient: the other ranks would wait for a missing one."""
        if not self.checked:
            unused = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
            if unused:
                raise ConfigError(
                    f"The output of {self.learn.settings['arch']} does not depend on {shorten(unused)}, so the ranks "
                    "would wait for their gradients forever. Freeze these parameters, or start one process."
                )
            self.checked = True

    def _leave_pass(self) -> None:
        if self.plain is not None:
            self.learn.model, self.plain = self.plain, None
            torch.set_rng_state(self.drawn)

    def _average_buffers(self) -> None:
        """Average the floating-point buffers of layers in training mode over ranks: batch norm's running statistics."""
        if self.sync_bn:
            return
        layers = (module for module in self.model.modules() if module.training)
        kept = [b for m in layers for b in m.buffers(recurse=False) if b.is_floating_point()]
        if kept:
            flat = all_reduce(torch.cat([buffer.reshape(-1) for buffer in kept])) / self.own.world_size
            for buffer, mean in zip(kept, flat.split([buffer.numel() for buffer in kept]), strict=True):
                buffer.copy_(mean.view_as(buffer))


def average_each_gradient(bucket: Any) -> Future[Tensor]:
    """Average the gradients of a bucket over the ranks, one tensor at a time.

    With three or more ranks, the order in which a number is summed, and so its rounding, depends on its place in the
    reduced tensor. DistributedDataParallel rebuilds its buckets after the first batch, and in a resumed epoch that is
    another batch than in an uninterrupted one.
    """
    flat = bucket.buffer().div_(dist.get_world_size())
    parts = flat.split([gradient.numel() for gradient in bucket.gradients()])
    works = [dist.all_reduce(part, async_op=True).get_future() for part in parts]
    return collect_all(works).then(lambda done: (done.value(), flat)[1])  # `value()` raises an error of a reduction


def synchronize_batch_norms(model: nn.Module) -> dict[_BatchNorm, type[_BatchNorm]]:
    """Let batch norm use the statistics of all ranks' rows, and return the layers with their former classes.

    The class of the layers is changed to nn.SyncBatchNorm, or to CpuSyncBatchNorm on a CPU. They remain the same
    objects, since layer groups and traced networks refer to them.

    Raises:
        ConfigError: the network has other kinds of batch norm, with code of their own.
    """
    norms = {module: type(module) for module in model.modules() if isinstance(module, _BatchNorm)}
    if others := {kind.__name__ for kind in norms.values()} - {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"}:
        raise ConfigError(
            f"sync_bn is on, but the network has {shorten(sorted(others))}, which can't be synchronized: only "
            "BatchNorm1d, BatchNorm2d and BatchNorm3d can. Leave out --sync-bn."
        )
    on_cpu = next(model.parameters()).device.type == "cpu"
    for norm in norms:
        norm.__class__ = CpuSyncBatchNorm if on_cpu else nn.SyncBatchNorm
        setattr(norm, "process_group", None)  # noqa: B010 - attribute of nn.SyncBatchNorm; None means all ranks
    return norms


class CpuSyncBatchNorm(_BatchNorm):
    """nn.SyncBatchNorm for tensors on the CPU, which torch's own does not support."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (n, C, ...), this rank's rows; in training with the statistics of all ranks' rows."""
        mean, variance = self.running_mean, self.running_var
        if not self.training:
            return F.batch_norm(x, mean, variance, self.weight, self.bias, training=mean is None, eps=self.eps)
        x = x.as_subclass(Tensor)
        dims, column = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = all_reduce(torch.tensor(float(x.numel() // x.shape[1])))
        mean = _SumOverRanks.apply(wide.sum(dims)) / count
        centered = wide - mean.view(column)
        variance = _SumOverRanks.apply(centered.square().sum(dims)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().to(self.running_mean), momentum)
            unbiased = variance.detach() * count / (count - 1).clamp(min=1)
            self.running_var.lerp_(unbiased.to(self.running_var), momentum)
        normalized = centered * (variance + self.eps).rsqrt().view(column)
        if self.affine:
            normalized = normalized * self.weight.view(column) + self.bias.view(column)
        return normalized.to(x.dtype)


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks, in the forward pass of values and in the backward pass of gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce(gradient.clone())
