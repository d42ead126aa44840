"""Positions within an epoch: training can stop between batches with a checkpoint, and resume from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TypeVar

import torch
from torch import Tensor

from xrayfast.errors import XrayfastError
from xrayfast.learning.dataloaders.radiograph_loader import GoingOn
from xrayfast.learning.fastai_api import Callback, CancelFitException
from xrayfast.learning.randomness import generator_states, isolated_rng, restore_generators
from xrayfast.learning.training.callbacks.epoch_checkpoint import EpochCheckpoint
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.learning.training.optional.batch_norm import IMAGES, PreciseBatchNorm
from xrayfast.learning.training.optional.gradients import AccumulateGradients
from xrayfast.own_code import name_of

T = TypeVar("T")

SECONDS_BETWEEN_CHECKPOINTS = 1800
"""Time between checkpoints within an epoch, which limits what a kill loses; shorter epochs have one at the end only."""


@dataclass(frozen=True, eq=False)
class Position:
    """A position within an epoch, and the state that a checkpoint there has in addition to one after an epoch.

    Attributes:
        batches: number of batches of the epoch that are done.
        seconds: training time in the epoch so far.
        tensors: states of the random number generators; losses, learning rates and outputs of the batches; and the last
            images, if the statistics of batch norm will be computed from them.
    """

    batches: int
    seconds: float
    tensors: Mapping[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of the group "generators", "batches" or "images", keyed by their names in it."""
        return {key.split(".", 1)[1]: t for key, t in self.tensors.items() if key.startswith(f"{name}.")}

    def check(self, device: torch.device) -> None:
        """Raise an error unless the tensors are a valid position.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: the tensors are not a valid position.
        """
        with isolated_rng("check"):
            restore_generators(self.group("generators"), device)
        of = self.group("batches")
        shapes = [(*of[name].shape,) for name in ("losses", "lrs", "lowest_lrs", "total", "weight")]
        if shapes != [(self.batches,)] * 3 + [()] * 2:
            raise ValueError(f"found tensors of shapes {shapes} for {self.batches} batches")


class StoppedTraining(KeyboardInterrupt):
    """Training was stopped; the message says what is saved besides finished epochs, and what will begin again."""


@contextmanager
def beginning_again(what: str) -> Iterator[None]:
    """Within the block, let the message of a KeyboardInterrupt say what will begin again, such as "the range test"."""
    try:
        yield
    except KeyboardInterrupt as error:
        if isinstance(error, StoppedTraining):
            raise
        raise StoppedTraining(f"; {what} will start over") from error


class EpochPosition(Callback):
    """Callback that stops training between two steps with a checkpoint of the position, and resumes from one.

    Long epochs also have such checkpoints at intervals. If training stops after the last batch of an epoch, the
    statistics of batch norm are computed first. Validation does not resume in the middle: it begins again.

    Args:
        epoch: the EpochCheckpoint callback, which has the clock of the epoch.
        interrupted: called after each batch; training stops when it returns True.
        save: function that writes a checkpoint at a position; None with the user's own callbacks, whose state can't be
            saved.
        main: whether this rank writes checkpoints.
        position: position at which the first epoch of the fit resumes; None for its beginning.
        scale: state of fp16's gradient scaler at the beginning of the fit.
    """

    order = CALLBACK_ORDER["EpochPosition"]

    def __init__(
        self,
        epoch: EpochCheckpoint,
        interrupted: Callable[[], bool],
        save: Callable[[Position], None] | None,
        main: bool,
        position: Position | None,
        scale: Mapping[str, float],
    ) -> None:
        self.of_epoch, self.interrupted, self.save, self.main = epoch, interrupted, save, main
        self.position, self.scale, self.stop = position, scale, False

    def before_train(self) -> None:
        """Resume the first epoch at its position, after other callbacks have reset their state for the epoch."""
        self.saved = time.perf_counter()
        position, self.position = self.position, None
        scale, self.scale = self.scale, {}
        scaler = vars(self.learn).get("scaler")
        if scaler is not None and scaler.state_dict().keys() == scale.keys() != set():
            scaler.load_state_dict(scale)
        if position is None:
            return
        self.of_epoch.began -= position.seconds
        self.of_epoch.train_batches.restore(position.group("batches"))
        for loss in self.of_epoch.train_batches.losses:
            self.recorder.smooth_loss.accumulate(SimpleNamespace(loss=loss))
        for cb in self._of_class(PreciseBatchNorm):
            images = position.group("images")
            cb.restore((images[str(i)].to(self.dls.device) for i in range(len(images))), self.dls.train.own)
        for _ in range(position.batches):  # added one by one, for the same rounding as in an uninterrupted epoch
            self.learn.pct_train += 1.0 / (len(self.dls.train) * self.n_epoch)
        restore = partial(restore_generators, position.group("generators"), self.dls.device)
        self.dls.train.going_on = GoingOn(position.batches, restore)

    def after_train(self) -> None:
        """Let the next epoch begin at its first batch."""
        self.dls.train.going_on = None

    def after_batch(self) -> None:
        """Stop if asked to, or save at intervals; but not between batches whose gradients are accumulated."""
        self.stop = self.stop or self.interrupted()
        adding = self.training and self.save and any(cb.count for cb in self._of_class(AccumulateGradients))
        if self.iter + 1 == self.n_iter or adding:
            return
        if self.stop and self.training:
            self._stop(self.iter + 1)
        elif self.stop:
            self._stop(len(self.dls.train), "; its validation will start over")
        elif self.training and self.main and time.perf_counter() - self.saved >= SECONDS_BETWEEN_CHECKPOINTS:
            self._save_now_and_then(self.iter + 1)

    def before_validate(self) -> None:
        """Stop if that was asked for in the last batch."""
        if self.stop:
            self._stop(len(self.dls.train))

    def after_epoch(self) -> None:
        """Stop if that was asked for in the last batch of validation; the epoch is already saved."""
        if self.stop:
            raise StoppedTraining

    def _stop(self, batches: int, lost: str = "") -> None:
        """Save the position and stop; `lost` is added to the message."""
        epoch = f"epoch {len(self.of_epoch.history.rows) + 1}"
        if self.save is None:
            raise StoppedTraining(
                f"; {epoch} will start over, because your own callbacks can't resume within an epoch: "
                f"{name_of(self.learn.own_cbs)}"
            )
        if not self._is_finite():
            raise StoppedTraining(f"; {epoch} will start over, because weights are not finite")
        try:
            self.save(self._position(batches))
        except XrayfastError as error:
            raise StoppedTraining(f"; {epoch} will start over, because its batches can't be saved: {error}") from error
        raise StoppedTraining(f" and {batches} of {len(self.dls.train)} batches of {epoch}{lost}")

    def _save_now_and_then(self, batches: int) -> None:
        """Save the position, unless the epoch ends soon: a position there needs the images of all ranks."""
        self.saved = time.perf_counter()
        if self.save is None or self._images_left(batches) < IMAGES or not self._is_finite():
            return
        try:
            self.save(self._position(batches))
        except XrayfastError as error:
            self.of_epoch.failure = error
            raise CancelFitException from error

    def _is_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.model.parameters())

    def _images_left(self, batches: int) -> int:
        loader = self.dls.train
        return min(len(loader) * loader.bs, loader.n) - batches * loader.bs

    def _position(self, batches: int) -> Position:
        left = self._images_left(batches)
        images = [image for cb in self._of_class(PreciseBatchNorm) for image in cb.state(left, self.dls.train.own)]
        groups: dict[str, Mapping[str, Tensor]] = {
            "generators": generator_states(self.dls.device),
            "batches": self.of_epoch.train_batches.state(),
            "images": {str(i): batch for i, batch in enumerate(images)},
        }
        tensors = {f"{group}.{name}": tensor for group, of in groups.items() for name, tensor in of.items()}
        return Position(batches, time.perf_counter() - self.of_epoch.began, tensors)

    def _of_class(self, kind: type[T]) -> list[T]:
        return [cb for cb in self.learn.cbs if isinstance(cb, kind)]
