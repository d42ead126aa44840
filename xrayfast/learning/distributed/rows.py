"""Which rows of a batch are a rank's own, and the rows of all ranks from those."""

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
    """Another rank does not answer."""


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Raise a LostRankError in place of what torch's backends raise when a rank is gone or too late."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(str(error)) from error


class OwnRows:
    """A rank's own rows of the current batch.

    Where a batch has fewer rows than there are ranks, as the last one of a split may, a rank without any computes the
    first row, which is not used.

    Args:
        rank: of this process.
        world_size: number of ranks.

    Attributes:
        total: rows of the current batch, of all ranks; a DataLoader sets it.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size, self.total = rank, world_size, 0

    def of_rank(self, rank: int, total: int) -> slice:
        """The rows of a rank in a batch of `total`; numbers of rows differ by one at most.

        >>> [OwnRows(0, 3).of_rank(rank, 7) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
        """
        size, more = divmod(total, self.world_size)
        start = rank * size + min(rank, more)
        return slice(start, start + size + (rank < more))

    def take(self, batch: T) -> T:
        """The own rows of whatever has a row for each of the batch's, such as numbers of images."""
        rows = self.of_rank(self.rank, len(batch))  # type: ignore[arg-type]
        found: T = batch[rows if rows.start < rows.stop else slice(0, 1)]  # type: ignore[index]
        return found

    def gather(self, own: Tensor) -> Tensor:
        """The rows of all ranks, (total, ...), equal to the bit on all of them; to be called by all."""
        counts = [len(range(self.total)[self.of_rank(rank, self.total)]) for rank in range(self.world_size)]
        padded = own.new_zeros((max(counts), *own.shape[1:]))
        count = counts[self.rank]
        padded[:count] = own[:count]
        parts = [torch.empty_like(padded) for _ in counts]
        with naming_lost_ranks():
            dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    def gather_outputs(self, own: Tensor) -> Tensor:
        """The same, at least in float32, through which gradients go back to the own rows."""
        whole: Tensor = _Gather.apply(own.to(torch.promote_types(own.dtype, torch.float32)), self)
        return whole

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within it the global generators are this rank's own; all ranks continue alike from one draw after it."""
        with isolated_rng(int(torch.randint(2**31, ())), self.rank):
            yield


class _Gather(torch.autograd.Function):
    """Each rank has the loss of the whole batch: the sum of the ranks' gradients is its gradient, and
    DistributedDataParallel takes their mean.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: OwnRows) -> Tensor:
        ctx.rows, ctx.scale = rows.of_rank(rows.rank, rows.total), rows.world_size
        return rows.gather(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.rows] * ctx.scale, None


def split_rows(rows: Sequence[int], size: int, own: OwnRows | None, drop_last: bool = False) -> list[Sequence[int]]:
    """Rows in batches of `size`, of each of which a rank has its own; without ranks the whole batches."""
    end = len(rows) // size * size if drop_last else len(rows)
    batches = [rows[start : min(start + size, end)] for start in range(0, end, size)]
    return batches if own is None else [own.take(batch) for batch in batches]
