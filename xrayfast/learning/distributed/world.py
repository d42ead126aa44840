"""The process group of the ranks that train together, and how this process joins it."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from xrayfast.config import Device
from xrayfast.errors import ConfigError, TrainingError, truncate
from xrayfast.launch import Launch, find_launch
from xrayfast.learning.device import torch_device
from xrayfast.learning.distributed.rows import LostRankError, OwnRows, naming_lost_ranks

T = TypeVar("T")

JOIN_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others to be started."""

STEP_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others between two batches; a checkpoint may be written in that time."""

SOLO_TIMEOUT = timedelta(days=7)
"""How long the other ranks wait for work that rank zero does alone, such as computing metrics. If rank zero fails,
torchrun or srun ends the others.
"""


@dataclass(frozen=True, eq=False)
class World:
    """The ranks that train together, as seen from one of them.

    Attributes:
        group: process group with the long timeout, in which the other ranks wait for rank zero; None for a single
            process.
    """

    rank: int = 0
    world_size: int = 1
    group: Any = None

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes the run and reports progress."""
        return self.rank == 0

    def own_rows(self) -> OwnRows:
        """Return this rank's rows of batches, whose numbers of rows are set later."""
        return OwnRows(self.rank, self.world_size)

    def highest(self, number: int) -> int:
        """Return the maximum over all ranks; all ranks must call it."""
        if self.world_size == 1:
            return number
        found = torch.tensor([number])
        with naming_lost_ranks():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def broadcast_number(self, number: float) -> float:
        """Return rank zero's number on all ranks."""
        if self.world_size == 1:
            return number
        return float(all_reduce(torch.tensor([number if self.is_rank_zero else 0.0], dtype=torch.float64)))

    def barrier(self) -> None:
        """Wait until all ranks have reached this call."""
        if self.world_size > 1:
            with naming_lost_ranks():
                dist.barrier(group=self.group)

    def broadcast_text(self, text: str) -> str:
        """Return rank zero's text on all ranks."""
        if self.world_size == 1:
            return text
        content = text.encode() if self.is_rank_zero else b""
        with naming_lost_ranks():
            size = torch.tensor([len(content)])
            dist.broadcast(size, 0, group=self.group)
            received = torch.tensor(list(content)) if self.is_rank_zero else torch.zeros(int(size), dtype=torch.int64)
            dist.broadcast(received, 0, group=self.group)
        return bytes(received.tolist()).decode()

    def require_alike(self, task: str) -> None:
        """Raise a ConfigError on all ranks unless all of them have the same task, a text such as a command."""
        first = self.broadcast_text(task)
        if self.highest(task != first):
            other = f"rank {self.rank} {task}" if task != first else "another rank has another command or folder"
            raise ConfigError(
                f"Rank zero {first}, but {other}; expected the same command on all ranks, and one folder of runs "
                "that all of them can see."
            )

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Copy rank zero's values into these tensors on all ranks."""
        if self.world_size > 1:
            with naming_lost_ranks():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    @contextmanager
    def output_folder(self, path: Path) -> Iterator[Path]:
        """Yield the folder that this process writes to: `path` on rank zero, a temporary folder on the others."""
        if self.is_rank_zero:
            yield path
            return
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)

    @contextmanager
    def working_copy(self, path: Path) -> Iterator[Path]:
        """Yield an existing folder to continue in: `path` on rank zero, a temporary copy on the others."""
        with self.output_folder(path) as folder:
            if not self.is_rank_zero:
                shutil.copytree(path, folder, dirs_exist_ok=True)
            self.barrier()  # rank zero changes nothing until all have copied it
            yield folder


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks in place; the result is bit-identical on every rank."""
    with naming_lost_ranks():
        dist.all_reduce(tensor)
    return tensor


@contextmanager
def join_process_group(device: Device) -> Iterator[World]:
    """Join the processes that torchrun or srun started with this one; a process started alone is a world of one.

    Within the block, "cuda" is the GPU of this rank.

    Raises:
        ConfigError: there is no such device, or none for this rank, or the other ranks can't be joined.
        TrainingError: another rank has ended or does not answer.
    """
    started = dist.is_available() and dist.is_initialized()
    launch = Launch() if started else find_launch()
    if not started and launch.world_size == 1:
        yield World()
        return
    if not started:
        _join(launch, _backend(device, launch))
    group = dist.new_group(backend="gloo", timeout=SOLO_TIMEOUT)
    # fastai reads these variables: on ranks other than zero `Learner.save`, which the range test uses, would silently
    # write nothing, and `Learner.load` would wait for the other ranks.
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    rank, world_size = dist.get_rank(), dist.get_world_size()
    try:
        yield World(rank, world_size, group)
    except (LostRankError, RuntimeError) as error:
        if not _tells_of_lost_rank(error):
            raise
        raise TrainingError(
            f"Rank {rank} of {world_size} lost contact with the others: one of them ended, or did not answer for "
            f"{STEP_TIMEOUT.seconds // 60} minutes. The message of that rank says why; 'xrayfast fit --resume' "
            "continues from the last checkpoint."
        ) from error
    finally:
        os.environ.update(hidden)
    # Not after an error: NCCL would wait for the other ranks, which do not know of it.
    if not started:
        dist.destroy_process_group()


def _tells_of_lost_rank(error: BaseException) -> bool:
    """Whether an error means that another rank is gone.

    In the backward pass DistributedDataParallel calls the backends directly. NCCL's errors have their own type; those
    of Gloo are RuntimeErrors with the path of a source file of Gloo in the message.
    """
    backend = getattr(dist, "DistBackendError", ())
    return isinstance(error, (LostRankError, backend)) or (type(error) is RuntimeError and "gloo" in str(error))


def _join(launch: Launch, backend: str) -> None:
    """Initialize torch's default process group."""
    try:
        # Not by init_process_group alone, which has one timeout for the rendezvous and for all later operations.
        meeting = rendezvous(launch.url, launch.rank, launch.world_size, timeout=JOIN_TIMEOUT)
        store, rank, world_size = _interruptible(lambda: next(meeting))
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=STEP_TIMEOUT)
    except (RuntimeError, ValueError, OSError) as error:
        place = launch.url.removeprefix("tcp://")
        if launch.url == "env://":
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConfigError(
            f"Rank {launch.rank} of the {launch.world_size} that {launch.launcher} started could not join the others "
            f"at {place} within {JOIN_TIMEOUT.seconds // 60} minutes: {truncate(str(error), 300)}. To use another "
            "host of this job or another port, set MASTER_ADDR and MASTER_PORT."
        ) from error


def _interruptible(wait: Callable[[], T]) -> T:
    """Call `wait` in a thread, and return its result or raise its error.

    Python handles no signals in the main thread while torch waits for other ranks.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(wait())
        except BaseException as error:
            failed.append(error)

    waiting = threading.Thread(target=run, name="join-ranks", daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(0.1)
    if failed:
        raise failed[0]
    return found[0]


def _backend(device: Device, launch: Launch) -> str:
    target = torch_device(device)
    if target.type == "cpu":
        return "gloo"
    if target.type != "cuda":
        raise ConfigError(
            f"device is {target.type}, but distributed training needs CPUs or CUDA devices. Use --device cpu, or "
            f"start one process without {launch.launcher}."
        )
    local_rank, devices = launch.local_rank, torch.cuda.device_count()
    if launch.launcher == "srun" and devices == 1:
        local_rank = 0  # with --gpus-per-task each task sees only its own GPU
    if local_rank >= devices:
        needed = os.environ.get("LOCAL_WORLD_SIZE", f"at least {local_rank + 1}")
        raise ConfigError(
            f"Found {devices} CUDA devices for {needed} processes. Use --nproc-per-node {devices} (with srun, "
            f"{devices} tasks per node), or --device cpu."
        )
    torch.cuda.set_device(local_rank)
    return "cpu:gloo,cuda:nccl"
