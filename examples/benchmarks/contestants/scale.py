"""Scaling of the image cache, the search for duplicates and intervals, on made-up data without image files."""

import io
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.contestants.common import Orders, answer

SIDE, ROWS = 224, 512  # side and rows of a shard as a build writes it
CHECKED_SIDE = 64  # the smallest side of images that are compared
BASES, COPIES = 300, 1000

Squares: TypeAlias = npt.NDArray[np.uint8]


def index(orders: Orders) -> None:
    """Measure the seconds to open the index of a cache, with and without its file. The shards are sparse."""
    from xrayfast.data.cache.index import FolderIndex

    folder, count = Path(orders.scratch), orders.settings["count"]
    write_sparse_shards(folder, count)
    seconds = {}
    for name in ("without_its_file", "with_its_file"):
        began = time.perf_counter()
        found = FolderIndex(folder, SIDE)
        found.refresh()
        seconds[f"seconds_{name}"] = time.perf_counter() - began
        assert len(found) == count
        found.save(unlisted=0)
    answer(images=count, index_mb=(folder / "index").stat().st_size / 1e6, **seconds)


def write_sparse_shards(folder: Path, count: int) -> None:
    """Write shards with random keys, whose pixels are holes in the file."""
    from xrayfast.data.cache import shards

    rng = np.random.default_rng(0)
    kinds = b'["PNG", "L", []]'
    for start in range(0, count, ROWS):
        rows = min(ROWS, count - start)
        records: npt.NDArray[np.void] = np.zeros(rows, shards._RECORD)
        records["key"] = np.frombuffer(rng.bytes(shards.KEY_BYTES * rows), f"V{shards.KEY_BYTES}")
        head = records.tobytes() + kinds
        crc = shards._crc(SIDE, rows, len(kinds), head)
        with (folder / (rng.bytes(8).hex() + shards.SHARD_SUFFIX)).open("wb") as file:
            file.write(shards._HEADER.pack(shards._MAGIC, SIDE, rows, len(kinds), crc) + head)
            file.truncate(file.tell() + rows * SIDE**2)


def build(orders: Orders) -> None:
    """Measure the images per second that one process decodes into a new cache and then computes features of."""
    from xrayfast.audit.features import compute_features
    from xrayfast.data.cache.image_cache import ImageCache

    paths = [path for split in ("train", "valid") for path, _ in orders.subset(split)]
    images = ImageCache(orders.settings["size"], root=Path(orders.scratch))
    began = time.perf_counter()
    assert images.build(paths, workers=1) == {}
    decoded = time.perf_counter()
    compute_features(paths, np.arange(len(paths)), images)
    rates = {"decoded": len(paths) / (decoded - began), "read": len(paths) / (time.perf_counter() - decoded)}
    answer(images=len(paths), **{f"{name}_per_second": rate for name, rate in rates.items()})


def duplicates(orders: Orders) -> None:
    """Measure CPU seconds and memory of `xrayfast.check`, and the share of planted copies that it finds.

    1,000 phantoms and a copy of each (cropped by up to 5% per side, another gamma, JPEG) are hidden among blends of
    other phantoms. The image files are empty; the decoded images are in the cache, as after `fit`.
    """
    import xrayfast as xf

    count, folder = orders.settings["count"], Path(orders.scratch)
    # In another process, so that memory and time are not counted.
    make = f"import benchmarks.contestants.scale as scale; scale.make_decoded({orders.scratch!r}, {count})"
    subprocess.run([sys.executable, "-c", make], check=True)
    stages: dict[str, float] = {}
    began, wall = time.process_time(), time.perf_counter()

    def at(stage: str, done: int, total: int) -> None:
        stages[f"cpu_at_end_of_{stage}"] = time.process_time() - began

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = xf.open_data(folder, labels=folder / "labels.parquet", cache_dir=folder / "cache")
        stages["cpu_at_end_of_opening"] = time.process_time() - began
        found = xf.check(data, size=CHECKED_SIDE, output=folder / "found", progress=at)
    used = {"seconds_of_cpu": time.process_time() - began, "seconds": time.perf_counter() - wall, **stages}
    near = [group.rows for group in found.duplicates if group.kind == "near"]
    right = sum(any({row, row + COPIES} <= {*rows} for row in rows if row < COPIES) for rows in near)
    used |= {"open_mb": peak_mb(), "groups": len(near)}
    used["page_mb"] = (folder / "found" / "check.html").stat().st_size / 1e6
    search = [str(one.message) for one in said if "Near duplicates" in str(one.message)]
    answer(images=count, copies_found=right / COPIES, search=search[0] if search else "exact", **used)


def intervals(orders: Orders) -> None:
    """Measure CPU seconds and peak memory of `metrics.summary.summarize` on labels of 20% to 0.2% of the images, with
    two or three images per patient. If there are few resamples, the jackknife has as many shares.
    """
    from xrayfast.metrics.intervals import resampling
    from xrayfast.metrics.summary import summarize

    rows, resamples, rng = orders.settings["rows"], orders.settings["resamples"], np.random.default_rng(0)
    resampling.SHARES = min(resampling.SHARES, resamples)
    truth, probability = np.empty((rows, 14), np.int8), np.empty((rows, 14))
    for i, share in enumerate(np.geomspace(0.2, 0.002, 14)):
        truth[:, i] = rng.random(rows) < share
        probability[:, i] = 1 / (1 + np.exp(3 - rng.normal(size=rows) - 2 * truth[:, i]))
    groups, labels = np.sort(rng.integers(0, rows * 2 // 5, rows)), [f"Finding {chr(65 + i)}" for i in range(14)]
    start, began = peak_mb(), time.process_time()
    found = summarize(truth, probability, labels, "multi", threshold=0.2, groups=groups, resamples=resamples)
    cpu, least = time.process_time() - began, found["intervals"]["overall"]["auroc_macro"]["low"]
    megabytes = (truth.nbytes + probability.nbytes) / 2**20
    sizes = {"start_mb": start, "peak_mb": peak_mb(), "input_mb": megabytes}
    answer(images=rows, resamples=resamples, cpu_seconds=cpu, auroc_low=least, **sizes)


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_decoded(folder: str, count: int) -> None:
    """Make a table of empty files, and a cache with decoded images for them."""
    from benchmarks.contestants.xrayfast_steps import image_name, make_table
    from xrayfast.data.cache.decode_worker import SHARD_BYTES, file_key
    from xrayfast.data.cache.image_cache import ImageCache
    from xrayfast.data.cache.shards import Entry, ImageInfo, write_shard

    make_table(folder, count, "parquet")
    cache, rng = ImageCache(CHECKED_SIDE, root=Path(folder) / "cache"), np.random.default_rng(0)
    rows = min(ROWS, SHARD_BYTES // CHECKED_SIDE**2)
    copies, bases = planted(rng), blend_bases()
    for start in range(0, count, rows):
        squares = np.empty((min(rows, count - start), CHECKED_SIDE, CHECKED_SIDE), np.uint8)
        known = copies[start : start + rows]
        squares[: len(known)] = known
        squares[len(known) :] = blends(bases, len(squares) - len(known), rng)
        entries = []
        for row, square in enumerate(squares, start):
            key = file_key(f"{folder}/{image_name(row)}")
            info = ImageInfo(CHECKED_SIDE, CHECKED_SIDE, 8, "L", "PNG", rng.bytes(16).hex(), ())
            entries.append(Entry(key, info, square))
        write_shard(cache.folder, CHECKED_SIDE, entries)


def planted(rng: np.random.Generator) -> Squares:
    """Return (2,000, 64, 64): 1,000 phantoms, then their copies."""
    from xrayfast.synthetic import CONDITIONS, phantom

    originals, copies = [], []
    for patient in range(COPIES):
        image = phantom(CONDITIONS[patient % len(CONDITIONS)], patient=patient, size=160)
        originals.append(shrink(Image.fromarray(image)))
        top, bottom, left, right = (round(edge) for edge in rng.uniform(0, 0.05 * len(image), 4))
        cropped = image[top : len(image) - bottom, left : len(image) - right] / 255
        buffer = io.BytesIO()
        Image.fromarray((255 * cropped ** rng.uniform(0.8, 1.25)).astype(np.uint8)).save(buffer, "JPEG", quality=60)
        copies.append(shrink(Image.open(buffer)))
    return np.stack([*originals, *copies])


def shrink(image: Image.Image) -> Squares:
    """Shrink an image to (64, 64)."""
    return np.asarray(image.resize((CHECKED_SIDE, CHECKED_SIDE), Image.Resampling.BILINEAR))


def blend_bases() -> npt.NDArray[np.float32]:
    """Return (300, 64, 64) phantoms of other patients than those of the planted ones."""
    from xrayfast.synthetic import CONDITIONS, phantom

    patients = range(COPIES, COPIES + BASES)
    images = (phantom(CONDITIONS[p % len(CONDITIONS)], patient=p, size=128) for p in patients)
    return np.stack([shrink(Image.fromarray(image)) for image in images]).astype(np.float32)


def blends(bases: npt.NDArray[np.float32], count: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return (N, 64, 64) blends of two phantoms, stretched and shifted: about as similar as radiographs are."""
    from xrayfast.audit.alignment import warp

    def layer() -> npt.NDArray[np.float32]:
        place = rng.uniform(-0.12, 0.12, (count, 4)) - np.array([0.1, 0, 0.1, 0])
        return warp(bases[rng.integers(0, BASES, count)], place.astype(np.float32))

    share = rng.uniform(0.4, 0.8, (count, 1, 1)).astype(np.float32)
    noise = 3 * rng.standard_normal((count, CHECKED_SIDE, CHECKED_SIDE), np.float32)
    return (share * layer() + (1 - share) * layer() + noise).clip(0, 255)
