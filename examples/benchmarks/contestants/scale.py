"""How the image cache and the search for duplicates grow: their work on data made up here, without image files."""

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.contestants.common import Orders, answer

SIDE, ROWS = 224, 512  # of a shard as a build writes it
BASES, COPIES = 300, 1000
BLOCK = 4096


def index(orders: Orders) -> None:
    """Seconds in which the index of a cache opens, with its file and without; shards are sparse, without pixels."""
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
    """Shards with random keys whose squares are holes in the file."""
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
    """Images per second that one process decodes into a new cache, and then computes features of."""
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
    """CPU seconds of finding the near duplicates among so many images, and the share of planted copies found.

    1,000 phantoms and a copy of each (cropped by up to 5 % per side, another gamma, JPEG) are hidden among blends of
    other phantoms; what is measured begins with the thumbnails.
    """
    from xrayfast.audit.duplicates import near_pairs

    count, rng = orders.settings["count"], np.random.default_rng(0)
    thumbs = np.empty((count, 40, 40), np.uint8)
    thumbs[: 2 * COPIES] = planted(rng)
    write_blends(thumbs[2 * COPIES :], rng)
    began, wall = time.process_time(), time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pairs, _ = near_pairs(thumbs, np.arange(count))
    found: dict[str, Any] = {"seconds_of_cpu": time.process_time() - began, "seconds": time.perf_counter() - wall}
    first, second = pairs.T
    right = int(((second == first + COPIES) & (first < COPIES)).sum())
    found |= {"copies_found": right / COPIES, "other_pairs": len(pairs) - right}
    answer(images=count, **found, search=str(said[0].message) if said else "exact")


def planted(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(2,000, 40, 40) thumbnails of 1,000 phantoms, then of their copies."""
    import io

    from xrayfast.audit.features import thumbnail
    from xrayfast.synthetic import CONDITIONS, phantom

    originals, copies = [], []
    for patient in range(COPIES):
        image = phantom(CONDITIONS[patient % len(CONDITIONS)], patient=patient, size=160)
        originals.append(thumbnail(image))
        top, bottom, left, right = (round(edge) for edge in rng.uniform(0, 0.05 * len(image), 4))
        cropped = image[top : len(image) - bottom, left : len(image) - right] / 255
        buffer = io.BytesIO()
        Image.fromarray((255 * cropped ** rng.uniform(0.8, 1.25)).astype(np.uint8)).save(buffer, "JPEG", quality=60)
        copies.append(thumbnail(np.asarray(Image.open(buffer))))
    return np.stack([*originals, *copies])


def write_blends(thumbs: npt.NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Fill thumbnails with phantoms laid over each other, stretched and moved: as alike as radiographs are."""
    from xrayfast.audit.alignment import warp
    from xrayfast.audit.features import thumbnail
    from xrayfast.synthetic import CONDITIONS, phantom

    patients = range(COPIES, COPIES + BASES)
    bases = np.stack([thumbnail(phantom(CONDITIONS[p % len(CONDITIONS)], patient=p, size=128)) for p in patients])
    for start in range(0, len(thumbs), BLOCK):
        block = thumbs[start : start + BLOCK]

        def layer(size: int) -> npt.NDArray[np.float32]:
            place = rng.uniform(-0.12, 0.12, (size, 4)) - np.array([0.1, 0, 0.1, 0])
            return warp(bases[rng.integers(0, BASES, size)].astype(np.float32), place.astype(np.float32))

        share = rng.uniform(0.4, 0.8, (len(block), 1, 1))
        noise = rng.normal(0, 3, block.shape)
        block[:] = (share * layer(len(block)) + (1 - share) * layer(len(block)) + noise).clip(0, 255)
