"""Where an epoch is: training stops within one, with a checkpoint there, and goes on from it."""

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
from xrayfast.learning.fastai_api import Callback, CancelFitException
from xrayfast.learning.randomness import generator_states, isolated_rng, restore_generators
from xrayfast.learning.training.callbacks.epoch_checkpoint import EpochCheckpoint
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.learning.training.loaders import GoingOn
from xrayfast.learning.training.optional.batch_norm import IMAGES, PreciseBatchNorm
from xrayfast.learning.training.optional.gradients import AccumulateGradients
from xrayfast.own_code import name_of

T = TypeVar("T")

SECONDS_BETWEEN_CHECKPOINTS = 1800
"""Longest time that a kill loses of an epoch; shorter epochs have checkpoints at their ends alone."""


@dataclass(frozen=True, eq=False)
class Position:
    """Where an epoch is, and what a checkpoint there has besides those of whole epochs.

    Attributes:
        batches: of the epoch that are done.
        seconds: for which it was trained.
        tensors: states of the generators, losses, rates and outputs of the batches, and the last images where the
            statistics of batch norm are computed from them.
    """

    batches: int
    seconds: float
    tensors: Mapping[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of "generators", of "batches" or of "images", by their names there."""
        return {key.split(".", 1)[1]: t for key, t in self.tensors.items() if key.startswith(f"{name}.")}

    def check(self, device: torch.device) -> None:
        """Raise an error where these are not such tensors.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: they are not.
        """
        with isolated_rng("check"):
            restore_generators(self.group("generators"), device)
        of = self.group("batches")
        shapes = [(*of[name].shape,) for name in ("losses", "lrs", "lowest_lrs", "total", "weight")]
        if shapes != [(self.batches,)] * 3 + [()] * 2:
            raise ValueError(f"found {shapes} of {self.batches} batches")


class StoppedTraining(KeyboardInterrupt):
    """Training was stopped; the message says what beside finished epochs is saved, and what begins again."""


@contextmanager
def beginning_again(what: str) -> Iterator[None]:
    """Within the block a stop says what begins again, such as "the range test"."""
    try:
        yield
    except KeyboardInterrupt as error:
        if isinstance(error, StoppedTraining):
            raise
        raise StoppedTraining(f"; {what} begins again") from error


class EpochPosition(Callback):
    """Stops training between two steps, with a checkpoint of where the epoch is, and goes on from one. Long epochs have
    such checkpoints now and then also without a stop.

    After the last batch of an epoch the statistics of batch norm are computed before it stops. Validation is not
    divided: it begins again.

    Args:
        epoch: has the clock of the epoch.
        interrupted: called after each batch; training stops when it returns True.
        save: writes a checkpoint there; None where callbacks of the user's own train too, whose state is not saved.
        main: whether this rank writes it.
        position: where the first epoch of the fit goes on; None for its beginning.
        scale: of fp16's gradients, at the beginning of the fit.
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
        """Go on where the first epoch is, after all that begins epochs anew."""
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
        for _ in range(position.batches):  # rounded as in the whole epoch
            self.learn.pct_train += 1.0 / (len(self.dls.train) * self.n_epoch)
        restore = partial(restore_generators, position.group("generators"), self.dls.device)
        self.dls.train.going_on = GoingOn(position.batches, restore)

    def after_train(self) -> None:
        """The next epoch begins at its first batch."""
        self.dls.train.going_on = None

    def after_batch(self) -> None:
        """Stop where that is asked for, or save now and then; but not between batches whose gradients are added."""
        self.stop = self.stop or self.interrupted()
        adding = self.training and self.save and any(cb.count for cb in self._of_class(AccumulateGradients))
        if self.iter + 1 == self.n_iter or adding:
            return
        if self.stop and self.training:
            self._stop(self.iter + 1)
        elif self.stop:
            self._stop(len(self.dls.train), "; its validation begins again")
        elif self.training and self.main and time.perf_counter() - self.saved >= SECONDS_BETWEEN_CHECKPOINTS:
            self._save_now_and_then(self.iter + 1)

    def before_validate(self) -> None:
        """Stop where that was asked for in the last batch."""
        if self.stop:
            self._stop(len(self.dls.train))

    def after_epoch(self) -> None:
        """Where training was to stop after the last batch of all, the epoch is saved by now."""
        if self.stop:
            raise StoppedTraining

    def _stop(self, batches: int, lost: str = "") -> None:
        """Save the position, and stop; what is lost ends the message.

        Raises:
            StoppedTraining: it is saved, or can't be.
        """
        epoch = f"epoch {len(self.of_epoch.history.rows) + 1}"
        if self.save is None:
            raise StoppedTraining(
                f"; {epoch} begins again, as callbacks of the user's own can't go on within one: "
                f"{name_of(self.learn.own_cbs)}"
            )
        if not self._is_finite():
            raise StoppedTraining(f"; {epoch} begins again, as weights are not finite")
        try:
            self.save(self._position(batches))
        except XrayfastError as error:
            raise StoppedTraining(f"; {epoch} begins again, as its batches can't be saved: {error}") from error
        raise StoppedTraining(f" and {batches} of {len(self.dls.train)} batches of {epoch}{lost}")

    def _save_now_and_then(self, batches: int) -> None:
        """Save the position, but where the epoch ends soon, for which all ranks would have to."""
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
