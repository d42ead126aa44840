"""Copies of tensors from which checkpoints are written."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from xrayfast.learning.training import checkpoint
from xrayfast.learning.training.checkpoint import OPTIMIZER, POSITION, Checkpoint, CheckpointWriter, TensorCopies
from xrayfast.learning.training.position import Position

MAPS = Path("/proc/self/maps")


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
