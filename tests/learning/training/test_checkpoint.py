"""What is written to a checkpoint is read again, from copies of tensors as well, without training a run."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fastai.optimizer import Adam
from safetensors.torch import load_file, save_file

from xrayfast.errors import RunError
from xrayfast.files.checksums import start_checksums
from xrayfast.learning.model.weights import save_weights
from xrayfast.learning.randomness import generator_states
from xrayfast.learning.training import checkpoint
from xrayfast.learning.training.checkpoint import (
    AVERAGE,
    BEST,
    CHECKSUMS,
    MODEL,
    OPTIMIZER,
    POSITION,
    Checkpoint,
    CheckpointWriter,
    Snapshot,
    TensorCopies,
    find_checkpoint,
    save_checkpoint,
    saved_place,
)
from xrayfast.learning.training.optional.averaging import AverageWeights
from xrayfast.learning.training.position import Position
from xrayfast.runs.history import History

CPU = torch.device("cpu")
MAPS = Path("/proc/self/maps")


class Training:
    """A linear layer that is trained by Adam on zeros, and the average of its weights."""

    def __init__(self, seed, *, steps=0):
        generator = torch.Generator().manual_seed(seed)
        self.model = torch.nn.Linear(3, 2)
        for parameter in self.model.parameters():
            parameter.data = torch.rand(parameter.shape, generator=generator)
        self.opt = Adam([*self.model.parameters()], lr=0.1)
        self.average = AverageWeights(0.5)
        self.average.learn = SimpleNamespace(model=self.model)
        self.train(steps)

    def train(self, steps):
        self.average.before_train()
        for _ in range(steps):
            self.model(torch.eye(3)).square().sum().backward()
            self.opt.step()
            self.opt.zero_grad()
            self.average.after_step()
        self.average.after_train()

    def weights(self):
        return [tensor.tolist() for of in self.average.state_dicts() for tensor in of.values()]


def history(epochs=1):
    values = {"phase": "all", "size": 32, "train_loss": 0.5, "valid_loss": 0.25, "lr": 0.1}
    return History([{"epoch": epoch + 1} | values for epoch in range(epochs)], epochs or None)


def position():
    rates = {name: torch.ones(2) for name in ("losses", "lrs", "lowest_lrs")}
    batches = rates | {"total": torch.tensor(2.0), "weight": torch.tensor(16.0)}
    tensors = {f"batches.{name}": tensor for name, tensor in batches.items()}
    return Position(2, 7.5, tensors | {f"generators.{name}": t for name, t in generator_states(CPU).items()})


def test_training_with_averaged_weights_goes_on_from_a_checkpoint_as_without_a_stop(tmp_path):
    folder, whole, resumed = tmp_path / "checkpoint", Training(0, steps=3), Training(1)
    save_checkpoint(folder, Snapshot.of(whole, history()), None)
    saved = {name: load_file(folder / name)["weight"].tolist() for name in (MODEL, AVERAGE, BEST)}
    assert saved[BEST] == saved[AVERAGE] == whole.model.weight.tolist() != saved[MODEL]
    found, problem = find_checkpoint(folder, checksums=True)
    assert (found.place, found.read_position(CPU), problem) == ("epoch 2", None, "")
    found.restore_weights(resumed)
    assert resumed.model.weight.tolist() == saved[AVERAGE]
    found.restore_phase(resumed)
    assert resumed.weights() == whole.weights()
    for training in (whole, resumed):
        training.train(2)
    assert resumed.weights() == whole.weights()
    assert resumed.average.steps == 5


def test_a_checkpoint_within_an_epoch_has_its_batches_and_seconds_and_the_scale_of_gradients(tmp_path):
    folder, training, within = tmp_path / "checkpoint", Training(0, steps=3), position()
    training.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    save_checkpoint(folder, Snapshot.of(training, history(0), within), None)
    found, _ = find_checkpoint(folder, checksums=True)
    assert found.place == "epoch 1 after its batch 2" and not (folder / BEST).exists()
    assert found.state.scaler == training.scaler.state_dict()
    again = found.read_position(CPU)
    assert (again.batches, again.seconds) == (2, 7.5)
    torch.testing.assert_close(again.tensors, within.tensors, rtol=0, atol=0, equal_nan=True)


def test_the_best_weights_of_an_earlier_epoch_are_those_of_the_runs_last_version(tmp_path):
    best, folder = tmp_path / "model.safetensors", tmp_path / "checkpoint"
    start_checksums(tmp_path)
    for seed in (1, 2):
        save_weights(Training(seed).model, best)
    save_checkpoint(folder, Snapshot.of(Training(0, steps=1), history(), position()), best)
    assert find_checkpoint(folder, checksums=True)[1] == ""
    assert (folder / BEST).read_bytes() == best.read_bytes()
    for name in (BEST, AVERAGE, POSITION):
        (folder / name).rename(tmp_path / name)
        with pytest.raises(RunError, match=f"lacks {name}"):
            Checkpoint.read(folder, checksums=True)
        (tmp_path / name).rename(folder / name)


def test_a_snapshot_does_not_change_with_the_history(tmp_path):
    rows = history()
    snapshot = Snapshot.of(Training(0), rows)
    rows.rows.append(None)
    save_checkpoint(tmp_path / "checkpoint", snapshot, None)
    state = find_checkpoint(tmp_path / "checkpoint", checksums=True)[0].state
    assert state.rows == history().rows and state.best_epoch == 1


def test_the_checkpoint_before_is_kept_and_used_if_the_newest_is_damaged(tmp_path):
    folder, fresh, old = (tmp_path / f"checkpoint{suffix}" for suffix in ("", ".new", ".old"))
    for epoch in (1, 2, 3):
        fresh.mkdir()
        (fresh / "left.csv").write_text("by a kill")
        save_checkpoint(folder, Snapshot.of(Training(0), history(epoch)), None)
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, old.name}
    assert not (folder / "left.csv").exists()
    assert [len(Checkpoint.read(path, checksums=True).state.rows) for path in (folder, old)] == [3, 2]
    assert len(find_checkpoint(folder, checksums=True)[0].state.rows) == 3
    assert saved_place(folder) == "epoch 4"
    (folder / CHECKSUMS).unlink()
    found, problem = find_checkpoint(folder, checksums=True)
    assert len(found.state.rows) == 2 and problem.startswith(f"{folder}: lacks {CHECKSUMS}")
    (old / MODEL).unlink()
    found, problem = find_checkpoint(folder, checksums=True)
    assert found is None and problem.startswith(f"{folder}: lacks {CHECKSUMS}")
    folder.rename(tmp_path / "elsewhere")
    assert find_checkpoint(folder, checksums=True)[1].startswith(f"{folder}: lacks")
    assert saved_place(folder) == "epoch 3"
    old.rename(tmp_path / "there too")
    assert find_checkpoint(folder, checksums=True) == (None, "") and saved_place(folder) == "epoch 1"


def test_the_state_of_an_optimizer_with_more_parameters_is_refused(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", Snapshot.of(Training(0, steps=1), history()), None)
    found, _ = find_checkpoint(tmp_path / "checkpoint", checksums=True)
    training = Training(0)
    training.opt = Adam([training.model.weight], lr=0.1)
    with pytest.raises(RunError, match="found the state of 2 parameters; expected 1"):
        found.restore_phase(training)


def test_rows_of_earlier_versions_get_the_size_of_the_run(tmp_path):
    state = SimpleNamespace(rows=[{"epoch": 1, "size": 32}, {"epoch": 2}], best_epoch=1)
    assert [row["size"] for row in Checkpoint(tmp_path, state).read_history(64).rows] == [32, 64]


def tensors(seed):
    """Return tensors of each type, layout and size in the state of training, and of some others."""
    random = torch.Generator().manual_seed(seed)
    image = torch.rand((3, 4, 5, 6), generator=random)
    return [
        image.contiguous(memory_format=torch.channels_last),
        torch.randint(0, 9, (), generator=random),
        torch.rand((7,), generator=random).bfloat16(),
        torch.nn.Parameter(torch.tensor([torch.nan, -0.0, torch.inf, 1e-45])),
        torch.rand((0, 3), generator=random),
        torch.rand((3,), generator=random, dtype=torch.float64) > 0.5,
        torch.rand((5,), generator=random, dtype=torch.float64),
        image[:, :, 1:3, ::2],
        image[:1, :1].expand(2, 3, 5, 6),
        torch.randint(0, 255, (5,), generator=random).byte(),
    ]


def raw(some):
    return [(t.dtype, t.shape, t.detach().contiguous().reshape(-1).view(torch.uint8).tolist()) for t in some]


def test_copies_equal_their_tensors_to_the_bit_and_reuse_their_memory():
    copies, places = TensorCopies(torch.device("cpu")), []
    for seed in range(2):
        now = tensors(seed)
        expected = raw(now)
        copies.take(now)
        with torch.no_grad():
            for tensor in now[:4]:
                tensor.fill_(1)
        fetched = copies.fetch()
        assert raw(fetched) == expected
        assert fetched[0].is_contiguous(memory_format=torch.channels_last)
        places.append([t.data_ptr() for t in fetched if t.numel()])
    assert places[0] == places[1] and len({*places[0]}) == 9
    copies.take(now[:3])  # as in another phase
    assert raw(copies.fetch()) == raw(now[:3])


def test_copies_stay_in_use_until_they_are_written_even_if_the_wait_is_interrupted(monkeypatch):
    released, written = threading.Event(), []
    with CheckpointWriter(TensorCopies(torch.device("cpu"))) as writer:
        writer.write(lambda: written.append(released.wait(10)))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpoint, "wait", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
            writer.finish()
        threading.Timer(0.02, released.set).start()
        writer.finish()
        assert written == [True]


@pytest.mark.skipif(not MAPS.exists(), reason="needs the list of mapped files")
def test_no_file_of_a_checkpoint_stays_mapped_into_memory(tmp_path, monkeypatch):
    """Windows could not rename the folder then, to write the next checkpoint."""
    monkeypatch.setattr(Position, "check", lambda *_: None)
    parameter, loaded = torch.nn.Parameter(torch.ones(5000)), []
    save_file({"batches.lrs": torch.ones(5000)}, tmp_path / POSITION)
    save_file({"0.sqr_avg": torch.ones(5000)}, tmp_path / OPTIMIZER)
    read = Checkpoint(tmp_path, SimpleNamespace(batches=1, epoch_seconds=0.0, optimizer=[{}]))
    position = read.read_position(torch.device("cpu"))
    optimizer = SimpleNamespace(all_params=lambda: [(parameter,)], load_state_dict=loaded.append, hypers=[])
    read.restore_phase(SimpleNamespace(average=None, opt=optimizer))
    assert position.tensors["batches.lrs"].sum() == loaded[0]["state"][0]["sqr_avg"].sum() == 5000
    assert str(tmp_path) not in MAPS.read_text()
