"""The checkpoint from which `--resume` continues: weights, optimizer state, history and batches, without pickles.

It is written after each epoch, and also after a batch if training stops within an epoch or an epoch takes long. It is
the folder `checkpoint` of a run; the previous checkpoint is kept as `checkpoint.old`, in case the new one is damaged.
A damaged checkpoint, or one of another network, is a RunError or WeightsError; one that can't be written a WriteError.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from typing_extensions import Self

from xrayfast.errors import RunError, WriteError
from xrayfast.files.atomic import link_or_copy, move_when_free, write_json
from xrayfast.files.checksums import CHECKSUMS, file_digest, write_checksums
from xrayfast.files.intact import known_digests, require_intact
from xrayfast.files.writable import ensure_folder
from xrayfast.learning.memory import return_freed_memory
from xrayfast.learning.model.weights import load_weights, save_tensors
from xrayfast.learning.training.learner import RadiographLearner
from xrayfast.learning.training.position import Position
from xrayfast.runs.batches import read_batches, write_batches
from xrayfast.runs.history import History, Row
from xrayfast.runs.info_types import ROWS, ROWS_BEFORE, CheckpointState
from xrayfast.runs.json_files import read_typed
from xrayfast.runs.run import OLD_HISTORY_COLUMNS

MODEL, BEST, OPTIMIZER = "model.safetensors", "best.safetensors", "optimizer.safetensors"
AVERAGE, POSITION = "average.safetensors", "position.safetensors"
STATE, BATCHES = "state.json", "batches.csv"

_FLAGS = frozenset({"do_wd", "force_train"})
"""Entries in fastai's optimizer state that steps don't change."""

_ALIGNMENT = 64  # bytes, a multiple of each type's size


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are complete and intact.

    Attributes:
        state: the contents of `state.json`: the finished epochs, and how many batches of the next one are done.
    """

    path: Path
    state: CheckpointState

    @property
    def place(self) -> str:
        """The epoch and batch at which training resumes, in words."""
        epoch = f"epoch {len(self.state.rows) + 1}"
        return f"{epoch} after its batch {self.state.batches}" if self.state.batches else epoch

    @classmethod
    def read(cls, path: Path, *, checksums: bool) -> Checkpoint:
        """Read the state of a checkpoint, and check that its files are intact.

        Args:
            path: the folder.
            checksums: whether it must have checksums; checkpoints of versions before 0.4 have none.

        Raises:
            RunError: a file is missing or damaged; the message names it.
        """
        checksums = checksums or (path / CHECKSUMS).is_file()
        _require_files(path, [STATE, MODEL, OPTIMIZER, *([CHECKSUMS, BATCHES] if checksums else [])])
        for name in (STATE, MODEL, OPTIMIZER, BATCHES, BEST, AVERAGE, POSITION):
            if (path / name).is_file():
                require_intact(path / name)
        state = read_typed(path / STATE, CheckpointState)
        further = {BEST: checksums and state.rows, AVERAGE: state.averaged_steps is not None, POSITION: state.batches}
        _require_files(path, [name for name, needed in further.items() if needed])
        return cls(path, state)

    def read_history(self, size: int) -> History:
        """Read the finished epochs.

        Args:
            size: side of the images in pixels, for checkpoints of earlier versions, whose rows have no size. Their
                columns have other names, and they have no batches.
        """
        named = [{OLD_HISTORY_COLUMNS.get(name, name): row[name] for name in row} for row in self.state.rows]
        batches = self.path / BATCHES
        return History(
            [{**row, "size": row.get("size", size)} for row in named],
            self.state.best_epoch,
            read_batches(batches) if batches.is_file() else None,
        )

    def read_position(self, device: torch.device) -> Position | None:
        """Read the position within an epoch at which training resumes; None for the beginning of an epoch."""
        if not self.state.batches:
            return None
        path = self.path / POSITION
        try:
            position = Position(self.state.batches, self.state.epoch_seconds, _load_copies(path))
            position.check(device)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{path}: can't be read as the state of an epoch ({error}). Start a new run.") from error
        return position

    def restore_weights(self, learn: RadiographLearner) -> None:
        """Load the weights, or their average if weights are averaged."""
        load_weights(learn.model, self.path / (MODEL if learn.average is None else AVERAGE))

    def restore_phase(self, learn: RadiographLearner) -> None:
        """Load the state that each phase resets: the optimizer's, and the trained weights if weights are averaged."""
        if learn.average is not None:
            learn.average.restore(safetensors.torch.load_file(self.path / MODEL), self.state.averaged_steps or 0)
        path, parameters = self.path / OPTIMIZER, [parameter for parameter, *_ in learn.opt.all_params()]
        entries: list[dict[str, Any]] = [dict(scalars) for scalars in self.state.optimizer]
        if len(entries) != len(parameters):
            raise RunError(
                f"{self.path / STATE}: found the state of {len(entries)} parameters; expected {len(parameters)}. "
                "Start a new run."
            )
        try:
            for key, tensor in _load_copies(path).items():
                index, name = key.split(".", 1)
                entries[int(index)][name] = tensor.to(parameters[0].device)
        except (OSError, SafetensorError, ValueError, IndexError) as error:
            raise RunError(f"{path}: can't be read as the state of an optimizer ({error}). Start a new run.") from error
        if problem := _misfit(entries, parameters):
            raise RunError(f"{path}: {problem}. Start a new run.")
        learn.opt.load_state_dict({"state": entries, "hypers": learn.opt.hypers})


@dataclass(frozen=True)
class Snapshot:
    """The state of training that a checkpoint is written from.

    Attributes:
        tensors: the tensors of each file except that of the best weights: those of training, or copies of them.
        copies: if the tensors are copies on the device, the object that fetches them; else None.
    """

    tensors: dict[str, dict[str, Tensor]]
    rows: list[Row]
    state: dict[str, Any]
    batches: pd.DataFrame
    copies: TensorCopies | None

    @classmethod
    def of(
        cls,
        learn: RadiographLearner,
        history: History,
        position: Position | None = None,
        *,
        copies: TensorCopies | None = None,
    ) -> Snapshot:
        """Take the state of training at the end of an epoch or, with `position`, within one.

        With `copies` the tensors are copied, so that training can continue before they are written.
        """
        average, scalars, optimizer = learn.average, list[dict[str, Any]](), dict[str, Tensor]()
        for i, entry in enumerate(learn.opt.state_dict()["state"]):
            scalars.append({key: value for key, value in entry.items() if not isinstance(value, Tensor)})
            optimizer.update({f"{i}.{key}": value for key, value in entry.items() if isinstance(value, Tensor)})
        tensors, rows = {OPTIMIZER: optimizer}, [*history.rows]
        state = dict[str, Any]({ROWS if position is None else ROWS_BEFORE: rows, "best_epoch": history.best_epoch})
        state["optimizer"] = scalars
        if average is None:
            tensors[MODEL] = learn.model.state_dict()
        else:
            tensors[MODEL], tensors[AVERAGE] = average.state_dicts()
            state["averaged_steps"] = average.steps
        if scaler := vars(learn).get("scaler"):  # exists during a fit in fp16
            state["scaler"] = scaler.state_dict()
        if position is not None:
            tensors[POSITION] = dict(position.tensors)
            state |= {"batches": position.batches, "epoch_seconds": position.seconds}
        if copies is not None:
            tensors = _renewed(tensors, copies.take([t for of in tensors.values() for t in of.values()]))
        return cls(tensors, rows, state, history.batches, copies)

    def on_cpu(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors for writing; copies are fetched to the CPU while the device computes."""
        if self.copies is None:
            return self.tensors  # each is moved to the CPU when it is written
        return _renewed(self.tensors, self.copies.fetch())


def _renewed(files: dict[str, dict[str, Tensor]], tensors: Iterable[Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return a nested dict with the same keys and other tensors."""
    following = iter(tensors)
    return {file: {name: next(following) for name in of} for file, of in files.items()}


class TensorCopies:
    """Copies of tensors, made on the device with a few kernel launches, and fetched to the CPU with one wait.

    All copies are in one buffer on the device, which is fetched into one (pinned) buffer on the CPU. Both are reused:
    new copies overwrite the previous ones.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._layout = device, list[tuple[torch.dtype, torch.Size, tuple[int, ...]]]()
        self._pieces, self._copies, self._fetched = list[Tensor](), list[Tensor](), list[Tensor]()
        self._taken: Any = None  # on CUDA: the event that marks the copies as complete

    def take(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copy these tensors, with their memory formats, without waiting for the device."""
        layout = [(t.dtype, t.shape, t.stride()) for t in tensors]
        if layout != self._layout:
            self._allocate(tensors)
            self._layout = layout
        of_kind: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for copy, tensor in zip(self._copies, tensors, strict=True):
            into, origins = of_kind.setdefault((tensor.device, tensor.dtype), ([], []))
            into.append(copy)
            origins.append(tensor.detach())
        for into, origins in of_kind.values():  # with mixed dtypes, foreach would copy tensors one by one
            torch._foreach_copy_(into, origins)
        if self.device.type == "cuda":
            self._taken = torch.cuda.current_stream(self.device).record_event()
        return self._copies

    def fetch(self) -> list[Tensor]:
        """Return the copies on the CPU, valid until the next `fetch`. Only the calling thread waits."""
        there, here = self._pieces
        if self._taken is None:
            here.copy_(there)
            return self._fetched
        stream, fetched = torch.cuda.Stream(self.device), torch.cuda.Event(blocking=True)
        stream.wait_event(self._taken)
        with torch.cuda.stream(stream):
            here.copy_(there, non_blocking=True)
            fetched.record(stream)
        fetched.synchronize()
        return self._fetched

    def _allocate(self, tensors: Sequence[Tensor]) -> None:
        self._pieces, self._copies, self._fetched = [], [], []  # frees the old buffers before new ones are allocated
        sizes = [-(-t.numel() * t.element_size() // _ALIGNMENT) * _ALIGNMENT for t in tensors]
        there = torch.empty(sum(sizes), dtype=torch.uint8, device=self.device)
        here = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        for tensor, *parts in zip(tensors, there.split(sizes), here.split(sizes), strict=True):
            strides = torch.empty_like(tensor, device="meta").stride()
            for part, views in zip(parts, (self._copies, self._fetched), strict=True):
                views.append(part.view(tensor.dtype).as_strided(tensor.shape, strides))
        self._pieces = [there, here]


class CheckpointWriter:
    """Writer of checkpoints, one at a time: in a thread, while the next epoch trains, or synchronously.

    As a context manager it waits for the last one at the end. An error in the thread is raised by the next call.

    Args:
        copies: the copies that the thread writes from, which can be reused after `finish`; None to write synchronously.
    """

    def __init__(self, copies: TensorCopies | None) -> None:
        self.copies = copies
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def write(self, function: Callable[[], None]) -> None:
        """Call a function that writes a checkpoint, after the previous one is finished."""
        self.finish()
        if self.copies is not None:
            self._writing = self._pool.submit(function)
        else:
            function()

    def finish(self) -> None:
        """Wait until the last checkpoint is written."""
        if (writing := self._writing) is not None:
            wait([writing])  # if interrupted, `_writing` stays set, since the copies are still in use
            self._writing = None
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.finish()
        finally:
            self._pool.shutdown()


def writes_in_thread(device: torch.device) -> bool:
    """Whether checkpoints are written while the next epoch trains: only with CUDA, where the CPU is free for it."""
    return device.type == "cuda"


def save_checkpoint(folder: Path, snapshot: Snapshot, best: Path | None) -> None:
    """Replace the checkpoint with a new one, and keep the previous one; at any moment one of the two is complete.

    Args:
        folder: the folder of the checkpoint.
        snapshot: the state to write.
        best: the file of the best weights; None if the last epoch is the best. Not used before the first epoch ends.
    """
    fresh, old = folder.with_name(folder.name + ".new"), _previous(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)  # so that there are never more than two on the disk
    ensure_folder(fresh)
    shown = AVERAGE if AVERAGE in snapshot.tensors else MODEL
    try:
        for name, tensors in snapshot.on_cpu().items():
            save_tensors({key: tensor.detach() for key, tensor in tensors.items()}, fresh / name)
        write_batches(fresh / BATCHES, snapshot.batches)
        write_json(fresh / STATE, snapshot.state)
        digests: dict[str, str] = {}
        if snapshot.rows:
            link_or_copy(best or fresh / shown, fresh / BEST)
            if best is None:
                digests = dict.fromkeys((shown, BEST), file_digest(fresh / shown))
            else:
                digests = dict(zip([BEST], known_digests(best)[-1:], strict=False))
        write_checksums(fresh, digests)
        if folder.exists():
            move_when_free(folder.rename, old)
        move_when_free(fresh.rename, folder)
        return_freed_memory()  # the tensors that were written fragment the heap a little more in each epoch
    except OSError as error:
        raise WriteError(
            f"{folder}: can't be written ({error.strerror or error}). Check that the folder is writable and that the "
            "disk is not full."
        ) from error


def find_checkpoint(folder: Path, *, checksums: bool) -> tuple[Checkpoint | None, str]:
    """Return the newest intact checkpoint, or None, and the problems of newer ones, or ""."""
    problems: list[str] = []
    for path in (folder, _previous(folder)):
        try:
            return Checkpoint.read(path, checksums=checksums), " ".join(problems)
        except RunError as error:
            problems.append(str(error))
    return None, problems[0] if folder.exists() or _previous(folder).exists() else ""


def saved_place(folder: Path) -> str:
    """Return the epoch and batch at which training would resume, in words, without reading the checkpoint's weights."""
    for path in (folder, _previous(folder)):
        with contextlib.suppress(RunError):
            return Checkpoint(path, read_typed(path / STATE, CheckpointState)).place
    return "epoch 1"


def replace_damaged(folder: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Rename the previous checkpoint to `folder`, if the newest one is damaged or missing."""
    if checkpoint.path != folder:
        try:
            shutil.rmtree(folder, ignore_errors=True)
            move_when_free(checkpoint.path.rename, folder)
        except OSError as error:
            raise WriteError(f"{folder}: can't be written ({error.strerror}).") from error
    return Checkpoint(folder, checkpoint.state)


def _load_copies(path: Path) -> dict[str, Tensor]:
    """Read tensors that outlive the file: safetensors maps it into memory, and Windows can't move a mapped file."""
    return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}


def _require_files(path: Path, names: Sequence[str]) -> None:
    if missing := [name for name in names if not (path / name).is_file()]:
        raise RunError(f"{path}: lacks {', '.join(missing)}; the checkpoint is damaged.")


def _previous(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old")


def _misfit(entries: Sequence[dict[str, Any]], parameters: Sequence[Tensor]) -> str:
    """Describe why these entries can't be the optimizer state of these parameters; "" if they can."""
    for i, (entry, parameter) in enumerate(zip(entries, parameters, strict=True)):
        for name, value in entry.items():
            if isinstance(value, Tensor) and not (
                value.shape == (() if name == "step" else parameter.shape) and value.isfinite().all()
            ):
                return (
                    f"{i}.{name} has shape {tuple(value.shape)}; expected finite values of shape "
                    f"{tuple(parameter.shape)}"
                )
    trained = [entry.keys() - _FLAGS for entry, p in zip(entries, parameters, strict=True) if p.requires_grad]
    lacking = [f"{i}.{name}" for i, names in enumerate(trained) for name in sorted(set().union(*trained) - names)]
    return f"lacks {', '.join(lacking[:5])}" if lacking else ""
