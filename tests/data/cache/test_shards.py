from __future__ import annotations

import errno
import json
import os
import random

import numpy as np
import pytest

from xrayfast.data.cache import shards
from xrayfast.data.cache.shards import DamagedError, Entry, ImageInfo, Shard, count_images, write_shard
from xrayfast.errors import WriteError

SIDE = 16


def entries(count: int, seed: int = 0) -> list[Entry]:
    rng = np.random.default_rng(seed)
    return [
        Entry(
            rng.bytes(16),
            ImageInfo(1000 + i, 70_000, 8 + i % 9, "I;16", "PNG", rng.bytes(16).hex(), ("16-bit scaled", "ä")[: i % 3]),
            rng.integers(0, 256, (SIDE, SIDE), np.uint8),
        )
        for i in range(count)
    ]


def content(shard: Shard) -> list[tuple]:
    """Return the whole content of a shard in a comparable form."""
    return [(key, shard.info(row), shard.square(row).tobytes()) for row, key in enumerate(map(bytes, shard.words()))]


def as_content(written: list[Entry]) -> list[tuple]:
    return [(entry.key, entry.info, entry.square.tobytes()) for entry in written]


@pytest.mark.parametrize("count", [1, 2, 100])
def test_images_are_read_back_as_written(tmp_path, count):
    written = entries(count)
    path = write_shard(tmp_path / "new" / "folder", SIDE, written)
    assert content(Shard(path, SIDE)) == as_content(written)
    assert count_images(path) == count
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_returned_square_belongs_to_the_caller(tmp_path):
    shard = Shard(write_shard(tmp_path, SIDE, entries(1)), SIDE)
    square = shard.square(0)
    square[:] = 0
    assert shard.square(0).any()


def test_squares_that_are_array_views_are_written_correctly(tmp_path):
    [entry] = entries(1)
    turned = Entry(entry.key, entry.info, entry.square.T)
    assert np.array_equal(Shard(write_shard(tmp_path, SIDE, [turned]), SIDE).square(0), entry.square.T)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return the bytes with a flipped bit, overwritten bytes, a missing or added end, or moved bytes."""
    at = rng.randrange(len(raw))
    match rng.randrange(5):
        case 0:
            return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
        case 1:
            new = rng.randbytes(rng.randint(1, 300))
            return (raw[:at] + new + raw[at + len(new) :])[: len(raw)]
        case 2:
            return raw[:at]
        case 3:
            return raw + rng.randbytes(rng.randint(1, 300))
        case _:
            return raw[at:] + raw[:at]


def test_any_damage_is_noticed_and_never_gives_another_image(tmp_path):
    written = entries(5)
    path = write_shard(tmp_path, SIDE, written)
    raw, truth, rng = path.read_bytes(), dict(zip(range(5), as_content(written), strict=True)), random.Random(0)
    for _ in range(600):
        path.write_bytes(worse := damaged(raw, rng))
        noticed = False
        try:
            shard = Shard(path, SIDE)
        except DamagedError:
            continue
        assert len(shard.words()) == 5
        for row in range(5):
            try:
                square = shard.square(row)
            except DamagedError:
                noticed = True
            else:
                assert (bytes(shard.words()[row]), shard.info(row), square.tobytes()) == truth[row]
        assert noticed or worse == raw


def test_every_byte_of_the_index_counts(tmp_path):
    path = write_shard(tmp_path, SIDE, entries(2))
    raw = path.read_bytes()
    for at in range(len(raw) - 2 * SIDE * SIDE):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :])
        with pytest.raises(DamagedError):
            Shard(path, SIDE)


@pytest.mark.parametrize("raw", [b"", b"x", b"\0" * 24, b"\xff" * 5000, json.dumps({"a": 1}).encode() * 20])
def test_foreign_files_are_no_shards(tmp_path, raw):
    path = tmp_path / "0123456789abcdef.pictures"
    path.write_bytes(raw)
    with pytest.raises(DamagedError):
        Shard(path, SIDE)
    assert count_images(path) == 0


def test_a_shard_of_another_side_is_refused(tmp_path):
    path = write_shard(tmp_path, SIDE, entries(4))
    with pytest.raises(DamagedError):
        Shard(path, SIDE // 2)


def test_a_file_cut_short_after_it_was_opened_is_noticed(tmp_path):
    path = write_shard(tmp_path, SIDE, entries(4))
    shard = Shard(path, SIDE)
    os.truncate(path, path.stat().st_size - 10)
    shard.square(2)
    with pytest.raises(DamagedError):
        shard.square(3)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device"):
        write_shard(tmp_path, SIDE, entries(1))
    assert list(tmp_path.iterdir()) == []
