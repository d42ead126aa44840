"""Damaged tables and images give a data set or an error that names the file, never another exception."""

import warnings
from collections import Counter

import numpy as np
import pytest

import xrayfast as xf
from tests.data.images.test_hostile import children
from tests.faults.campaign import HANG, SEED, conclude, rounds, size_of
from xrayfast.errors import XrayfastError

TABLES, IMAGES = size_of("tables", 1000), size_of("images", 30_000)
BATCH = 1000  # images per process, which keeps what it has read
STRANGE = ("", "nan", "\0", "\ufeff", '"', '""', "'", ",", ";", "|", "\t", "\r", "\n", "1e308", "-1", "=1+1", "../x",
           "é", "e\u0301", "\u202e", "x" * 100_000, "[]", "['a', 'b']", "True", "0.5", "２")  # fmt: skip


def tables(names, rng):
    """Return intact tables of these images: single-label, one-hot and delimited labels, with patients and splits."""
    labels = ["normal", "covid-19", "pneumonia"]
    drawn = [labels[i] for i in rng.integers(3, size=len(names))]
    yield "image,label\n" + "".join(f"{n},{label}\n" for n, label in zip(names, drawn, strict=True))
    yield "file;class;patient_id;split\n" + "".join(
        f"{n};{label};p{i // 2:03d};{'train' if i < 24 else 'test'}\n"
        for i, (n, label) in enumerate(zip(names, drawn, strict=True))
    )
    yield (
        "path,"
        + ",".join(labels)
        + "\n"
        + "".join(f"{n},{','.join(str(int(k)) for k in rng.integers(2, size=3))}\n" for n in names)
    )
    yield "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position\n" + "".join(
        f"{n},{'|'.join(sorted({*labels[: 1 + i % 3]}))},{i // 3},{i % 90},{'MF'[i % 2]},PA\n"
        for i, n in enumerate(names)
    )


def damaged(text, rng):
    """Return a table with some of its cells, lines or bytes damaged."""
    way, lines = rng.integers(5), text.splitlines(keepends=True)
    if way == 0:
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(len(lines))
            cells = lines[at].rstrip("\n").split(",")
            cells[rng.integers(len(cells))] = str(rng.choice(STRANGE))
            lines[at] = ",".join(cells) + "\n"
    elif way == 1:
        at = rng.integers(len(lines))
        lines[at:at] = [lines[rng.integers(len(lines))] for _ in range(rng.integers(1, 4))]
    elif way == 2:
        del lines[rng.integers(len(lines)) :]
    content = bytearray("".join(lines).encode())
    if way >= 3:
        for _ in range(rng.integers(1, 9)):
            at = rng.integers(len(content))
            if way == 3:
                content[at] = rng.integers(256)
            else:
                del content[at : at + rng.integers(1, 20)]
    return bytes(content)


@pytest.mark.slow
def test_a_damaged_table_gives_a_data_set_or_an_error_that_names_a_file(data_dir, tmp_path):
    names = sorted(str(path.relative_to(data_dir)) for path in data_dir.rglob("*.png"))
    outcomes, wrong = Counter(), []
    for number in rounds(TABLES):
        rng = np.random.default_rng([SEED, number])
        whole = list(tables(names, rng))
        table = tmp_path / f"t{number}.csv"
        table.write_bytes(damaged(whole[rng.integers(len(whole))], rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                data = xf.open_data(data_dir, labels=table)
            outcomes["read"] += 1
            if not set(data.table["image"]) <= set(names):
                wrong.append(f"table {number}: rows of images that are not there")
        except XrayfastError as error:
            outcomes["refused"] += 1
            if len(str(error)) > 5000:
                wrong.append(f"table {number}: a message of {len(str(error))} characters")
        except Exception as error:
            wrong.append(f"table {number}: {type(error).__name__}: {error}"[:500])
        table.unlink()
    conclude(number + 1, TABLES, f"tables ({dict(outcomes)})", wrong)
    assert min(outcomes["read"], outcomes["refused"]) > number / 10


@pytest.mark.slow
def test_a_damaged_image_is_read_or_refused(tmp_path):
    done, wrong = 0, []
    for batch in rounds(-(-IMAGES // BATCH)):
        count = min(BATCH, IMAGES - done)
        try:
            children(tmp_path, first=10_000_000 * (SEED + 1) + batch * BATCH, count=count, timeout=HANG)
        except AssertionError as error:
            wrong.append(str(error))
        done += count
    conclude(done, IMAGES, "images", wrong)
