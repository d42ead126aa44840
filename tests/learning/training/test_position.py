"""When training stops or saves within an epoch, and what is restored there, without training."""

import time
from types import SimpleNamespace

import pytest
import torch

from xrayfast.errors import WriteError
from xrayfast.learning.fastai_api import CancelFitException
from xrayfast.learning.randomness import generator_states, isolated_rng
from xrayfast.learning.training import position
from xrayfast.learning.training.optional.batch_norm import PreciseBatchNorm
from xrayfast.learning.training.optional.gradients import AccumulateGradients
from xrayfast.learning.training.position import EpochPosition, Position, StoppedTraining, beginning_again
from xrayfast.learning.training.recorders import SmoothLoss

CPU = torch.device("cpu")


@pytest.fixture
def made(monkeypatch):
    """A function that makes the callback, in the second of four batches of 8, 8, 8 and 5 images.

    Its attribute `saved_at` collects the positions that it saves.
    """
    monkeypatch.setattr(position, "IMAGES", 6)
    monkeypatch.setattr(position, "SECONDS_BETWEEN_CHECKPOINTS", 60)

    def make(*, of=None, interrupted=False, main=True, save="list", began=0.0, cbs=(), bad=False, losses=(), **changes):
        saved_at = []
        batches = SimpleNamespace(restore=lambda state: None, losses=list(map(torch.tensor, losses)), state=dict)
        epoch = SimpleNamespace(
            began=time.perf_counter() - began, train_batches=batches, history=SimpleNamespace(rows=[1]), failure=None
        )
        answers = iter([interrupted, False, False])
        callback = EpochPosition(
            epoch, lambda: next(answers), saved_at.append if save == "list" else save, main, of, {}
        )
        loader = type("Loader", (), {"bs": 8, "n": 29, "own": None, "going_on": None, "__len__": lambda self: 4})()
        weight = torch.nn.Parameter(torch.tensor([torch.nan if bad else 1.0, 1.0]))
        learn = {
            "training": True, "iter": 1, "n_iter": 4, "n_epoch": 2, "pct_train": 0.0, "cbs": [*cbs], "own_cbs": [],
            "dls": SimpleNamespace(train=loader, device=CPU), "model": torch.nn.ParameterList([torch.ones(2), weight]),
            "recorder": SimpleNamespace(smooth_loss=SmoothLoss()),
        }  # fmt: skip
        callback.learn = SimpleNamespace(**learn | changes)
        callback.learn.recorder.smooth_loss.reset()
        callback.saved_at = saved_at
        callback.before_train()
        callback.saved -= 61
        return callback

    return make


def test_the_clock_the_schedule_and_the_smoothed_loss_go_on_once(made):
    callback = made(of=Position(2, 7.5, {}), losses=[2.0, 1.0])
    expected = SmoothLoss()
    expected.reset()
    for loss in (2.0, 1.0):
        expected.accumulate(SimpleNamespace(loss=torch.tensor(loss)))
    for _ in range(2):  # the second time is the next epoch
        assert 7.4 < time.perf_counter() - callback.of_epoch.began < 15
        assert callback.learn.pct_train == 1 / 8 + 1 / 8
        assert float(callback.recorder.smooth_loss.value) == float(expected.value)
        assert callback.dls.train.going_on.batches == 2
        callback.before_train()
    callback.after_train()
    assert callback.dls.train.going_on is None


def test_random_numbers_go_on_and_a_damaged_position_is_refused(made):
    with isolated_rng("test"):
        tensors = {f"generators.{name}": state for name, state in generator_states(CPU).items()}
        expected = torch.rand(3)
        going_on = made(of=Position(2, 1.0, tensors)).dls.train.going_on
        torch.manual_seed(7)
        going_on.restore()
        assert torch.equal(torch.rand(3), expected)
    shapes = {"losses": 2, "lrs": 2, "lowest_lrs": 2, "total": (), "weight": ()}
    tensors |= {f"batches.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    Position(2, 1.0, tensors).check(CPU)
    for name in shapes:
        with pytest.raises(ValueError, match="for 2 batches"):
            Position(2, 1.0, tensors | {f"batches.{name}": torch.zeros(1)}).check(CPU)


def test_images_of_batch_norm_are_restored_in_their_order(made):
    norm = PreciseBatchNorm([])
    made(of=Position(3, 1.0, {f"images.{i}": torch.full((1,), float(i)) for i in range(12)}), cbs=[norm])
    assert [batch.item() for (batch,), _ in norm.batches] == list(range(12))


def test_a_position_has_the_seconds_and_the_tensors_of_each_group(made):
    callback = made(began=50)
    callback.of_epoch.train_batches.state = lambda: {"losses": torch.zeros(2)}
    callback.after_batch()
    (found,) = callback.saved_at
    assert (found.batches, [*found.group("batches")], found.group("images")) == (2, ["losses"], {})
    assert 50 <= found.seconds < 100 and {"torch", "python", "numpy"} <= {*found.group("generators")}
    callback.after_batch()
    assert len(callback.saved_at) == 1  # the next one is a minute later


@pytest.mark.parametrize(
    ("case", "batches"),
    [
        ({}, 2),
        ({"iter": 2}, None),  # 5 images are left
        ({"iter": 3}, None),
        ({"main": False}, None),
        ({"training": False}, None),
        ({"cbs": [SimpleNamespace(count=1)]}, 2),
        ({"adding": 1}, None),
        ({"adding": 0}, 2),
        ({"bad": True}, None),
    ],
)
def test_a_long_epoch_is_saved_between_steps_by_one_rank_if_it_does_not_end_soon(made, case, batches):
    if (count := case.pop("adding", None)) is not None:
        adding = AccumulateGradients(3)
        adding.count = count
        case = {"cbs": [adding]}
    callback = made(**case)
    callback.after_batch()
    assert [one.batches for one in callback.saved_at] == ([] if batches is None else [batches])


@pytest.mark.parametrize(
    ("case", "batches", "said"),
    [
        ({}, 2, "^ and 2 of 4 batches of epoch 2$"),
        ({"main": False}, 2, "^ and 2 of 4"),  # all ranks save, since some state is gathered
        ({"iter": 2}, 3, "^ and 3 of 4"),
        ({"training": False}, 4, "^ and 4 of 4 batches of epoch 2; its validation will start over$"),
        ({"bad": True}, None, "^; epoch 2 will start over, because weights are not finite$"),
    ],
)
def test_a_stop_saves_the_position(made, case, batches, said):
    callback = made(interrupted=True, **case)
    with pytest.raises(StoppedTraining, match=said):
        callback.after_batch()
    assert [one.batches for one in callback.saved_at] == ([] if batches is None else [batches])


def test_a_stop_in_the_last_batch_waits_for_the_statistics_of_batch_norm_and_in_that_of_validation_for_the_epoch(made):
    callback = made(interrupted=True, iter=3)
    callback.after_batch()
    with pytest.raises(StoppedTraining, match=r"^ and 4 of 4 batches of epoch 2$"):
        callback.before_validate()
    callback = made(interrupted=True, iter=3, training=False)
    callback.after_batch()
    with pytest.raises(StoppedTraining, match=r"^$"):
        callback.after_epoch()
    callback = made()
    callback.before_validate()
    callback.after_epoch()


def test_a_stop_is_not_forgotten_while_gradients_are_accumulated(made):
    adding = AccumulateGradients(3)
    adding.count = 1
    callback = made(interrupted=True, cbs=[adding])
    callback.after_batch()
    adding.count = 0
    with pytest.raises(StoppedTraining, match="2 of 4"):
        callback.after_batch()


def test_if_nothing_can_be_saved_a_stop_does_not_wait_for_a_step(made):
    adding = AccumulateGradients(3)
    adding.count = 1
    callback = made(interrupted=True, cbs=[adding], save=None)
    with pytest.raises(StoppedTraining, match=r"^; epoch 2 will start over, because your own callbacks can't resume"):
        callback.after_batch()


def test_the_scale_of_gradients_is_restored_once():
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for scale in (2.0, 8.0, 32.0)]
    old, current, later = (scaler.state_dict() for scaler in scalers)
    callback = EpochPosition(None, lambda: False, None, True, None, old)
    callback.learn = SimpleNamespace(scaler=scalers[1])
    callback.before_train()
    assert scalers[1].state_dict() == old != current
    scalers[1].load_state_dict(later)
    callback.before_train()  # the next epoch
    assert scalers[1].state_dict() == later


def test_a_full_disk_ends_training_with_its_error(made):
    def full(_):
        raise WriteError("no space.")

    callback = made(save=full)
    with pytest.raises(CancelFitException):
        callback.after_batch()
    assert str(callback.of_epoch.failure) == "no space."


def test_what_begins_again_is_said_once():
    with pytest.raises(StoppedTraining, match=r"^; the range test will start over$"), beginning_again("the range test"):
        raise KeyboardInterrupt
    with pytest.raises(StoppedTraining, match=r"^ and 1 batch$"), beginning_again("the phase"):
        raise StoppedTraining(" and 1 batch")
