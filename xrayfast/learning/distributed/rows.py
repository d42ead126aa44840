"""The rows of a batch that belong to each rank, and gathering them from all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from xrayfast.learning.randomness import isolated_rng

T = TypeVar("T")


class LostRankError(RuntimeError):
    """Another rank has ended or does not answer."""


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Within the block, turn the RuntimeErrors that torch's backends raise into LostRankErrors.

    They raise them when another rank has ended or does not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(str(error)) from error


class OwnRows:
    """A rank's own rows of the current batch.

    If a batch has fewer rows than there are ranks, as the last one of a split may, a rank without rows computes the
    first row, and the result is not used.

    Attributes:
        total: number of rows in the current batch, over all ranks; the DataLoader sets it.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size, self.total = rank, world_size, 0

    def of_rank(self, rank: int, total: int) -> slice:
        """Return the rows of a rank in a batch of `total` rows; the ranks' numbers of rows differ by at most one.

        >>> [OwnRows(0, 3).of_rank(rank, 7) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
        """
        size, more = divmod(total, self.world_size)
        start = rank * size + min(rank, more)
        return slice(start, start + size + (rank < more))

    def take(self, batch: T) -> T:
        """Return this rank's rows of a whole batch, which is a tensor or any sequence with one item per row."""
        rows = self.of_rank(self.rank, len(batch))  # type: ignore[arg-type]
        return batch[rows if rows.start < rows.stop else slice(0, 1)]  # type: ignore[index]

    def gather(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks, (total, ...), bit-identical on every rank; all ranks must call it."""
        counts = [len(range(self.total)[self.of_rank(rank, self.total)]) for rank in range(self.world_size)]
        padded = own.new_zeros((max(counts), *own.shape[1:]))
        count = counts[self.rank]
        padded[:count] = own[:count]
        parts = [torch.empty_like(padded) for _ in counts]
        with naming_lost_ranks():
            dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    def gather_outputs(self, own: Tensor) -> Tensor:
        """Gather rows in at least float32, so that gradients flow back to this rank's own rows."""
        return _Gather.apply(own.to(torch.promote_types(own.dtype, torch.float32)), self)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within the block, seed the global generators per rank; after it they are as before, advanced by one draw."""
        with isolated_rng(int(torch.randint(2**31, ())), self.rank):
            yield


class _Gather(torch.autograd.Function):
    """Gather rows in the forward pass, and take this rank's rows of the gradient in the backward pass.

    Each rank computes the loss of the whole batch, whose gradient is the sum over ranks. DistributedDataParallel takes
    the mean over ranks, so gradients are multiplied by the world size.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: OwnRows) -> Tensor:
        ctx.rows, ctx.scale = rows.of_rank(rows.rank, rows.total), rows.world_size
        return rows.gather(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.rows] * ctx.scale, None


def split_rows(rows: Sequence[int], size: int, own: OwnRows | None, drop_last: bool = False) -> list[Sequence[int]]:
    """Divide rows into batches of `size`, and return this rank's rows of each; without `own`, the whole batches."""
    end = len(rows) // size * size if drop_last else len(rows)
    batches = [rows[start : min(start + size, end)] for start in range(0, end, size)]
    return batches if own is None else [own.take(batch) for batch in batches]
