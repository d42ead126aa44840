"""Single steps of xrayfast: the loader, prediction, the report, and the start of commands."""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contestants import scale
from benchmarks.contestants.common import Orders, answer, read_orders

BEGAN = time.perf_counter()


def main() -> None:
    orders = read_orders()
    tasks = {"loader": loader, "predict": predict, "interpret": interpret, "help": show_help}
    tasks |= {"first_batch": first_batch, "predict_one": predict_one, "start": start, "rank_reads": rank_reads}
    tasks |= {"index": scale.index, "build": scale.build, "duplicates": scale.duplicates, "table": open_table}
    tasks |= {"intervals": scale.intervals}
    tasks[orders.task](orders)


def loader(orders: Orders) -> None:
    """Measure the seconds of each pass over the augmented training batches; the first pass decodes."""
    import xrayfast as xf

    passes, began = [], time.perf_counter()
    data = xf.open_data(orders.folder, split_file=orders.split_file, cache_dir=orders.scratch)
    dls = xf.dataloaders(data, size=orders.settings["size"], batch_size=orders.settings["batch_size"])
    for _ in range(orders.settings["epochs"]):
        images = 0
        for batch, _ in dls.train:
            images += len(batch)
        passes.append({"seconds": time.perf_counter() - began, "images": images})
        began = time.perf_counter()
    answer(passes=passes)


def rank_reads(orders: Orders) -> None:
    """Count the images that the busiest rank reads in an epoch of training and validation, by number of ranks."""
    import xrayfast as xf
    from xrayfast.data.cache.image_cache import ImageCache
    from xrayfast.learning.dataloaders.loaders import share_rows
    from xrayfast.learning.distributed.rows import OwnRows

    read, batch = 0, ImageCache.batch

    def counting(cache: ImageCache, paths: Any) -> Any:
        nonlocal read
        read += len(paths)
        return batch(cache, paths)

    ImageCache.batch = counting  # type: ignore[method-assign]
    data = xf.open_data(orders.folder, split_file=orders.split_file, cache_dir=orders.scratch)
    most: dict[str, int] = {}
    for ranks in orders.settings["ranks"]:
        counts = []
        for rank in range(ranks):
            size = orders.settings["batch_size"] * ranks
            dls = xf.dataloaders(data, size=orders.settings["size"], batch_size=size, device="cpu")
            share_rows(dls, OwnRows(rank, ranks))
            read = 0
            for _ in (*dls.train, *dls.valid):
                pass
            counts.append(read)
        most[f"most_read_of_{ranks}"] = max(counts)
    answer(**most)


def open_table(orders: Orders) -> None:
    """Measure `xrayfast.open_data` on a table of 14 columns of 1 and 0, patients, sex, age and view.

    The image folders of 10,000 files each are links to a single folder.
    """
    import xrayfast as xf

    rows, kind = orders.settings["rows"], orders.settings["options"]
    # In another process, so that its memory is not counted.
    make = (
        f"import benchmarks.contestants.xrayfast_steps as steps; steps.make_table({orders.scratch!r}, {rows}, {kind!r})"
    )
    subprocess.run([sys.executable, "-c", make], check=True)
    before, began, cpu = scale.peak_mb(), time.perf_counter(), time.process_time()
    data = xf.open_data(orders.scratch, labels=Path(orders.scratch) / f"labels.{kind}")
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    answer(rows=len(data), open_seconds=seconds, cpu_seconds=cpu, start_mb=before, open_mb=scale.peak_mb())


def image_name(i: int) -> str:
    """Return the path of an image of the table."""
    return f"images/{i // 10_000:04d}/{i % 10_000:08d}.png"


def make_table(folder: str, rows: int, kind: str) -> None:
    """Write a table of images in folders of 10,000, which are links to one; about three patients per ten rows."""
    import numpy as np
    import pandas as pd

    names = [image_name(i) for i in range(rows)]
    (Path(folder) / names[0]).parent.mkdir(parents=True)
    for name in names[:10_000]:
        (Path(folder) / name).touch()
    for name in names[10_000::10_000]:
        (Path(folder) / name).parent.symlink_to("0000", target_is_directory=True)
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(0, rows * 3 // 10 + 1, rows))
    table = pd.DataFrame({"image": names, "patient_id": [f"p{patient:08d}" for patient in patients.tolist()]})
    table["age"] = rng.integers(1, 95, rows)
    table["sex"], table["view"] = rng.choice(["F", "M"], rows), rng.choice(["PA", "AP"], rows)
    for i, share in enumerate(np.geomspace(0.2, 0.002, 14)):
        table[f"Finding {chr(65 + i)}"] = (rng.random(rows) < share).astype(np.int8)
    file = f"{folder}/labels.{kind}"
    table.to_csv(file, index=False) if kind == "csv" else table.to_parquet(file, index=False)


def predict(orders: Orders) -> None:
    """Measure the seconds of `xrayfast.predict` on files, including loading the network."""
    import xrayfast as xf

    work = xf.predict
    began = time.perf_counter()
    files = [path for split in ("train", "valid") for path, _ in orders.subset(split)]
    table = work(orders.model, files, batch_size=orders.settings["batch_size"])
    answer(predict_seconds=time.perf_counter() - began, images=len(table))


def first_batch(orders: Orders) -> None:
    """Measure the seconds from the start of this process to the end of the first training batch of `xrayfast.fit`, with
    an empty cache.
    """
    import torch

    import xrayfast as xf
    from xrayfast.learning.fastai_api import Callback

    class Stop(Callback):
        def after_batch(self) -> None:
            if self.training:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                raise KeyboardInterrupt

    settings = orders.settings
    names = ("arch", "weights", "size", "batch_size", "epochs", "precision")
    data = xf.open_data(orders.folder, split_file=orders.split_file, cache_dir=orders.scratch)
    try:
        xf.fit(data, runs=orders.scratch, cbs=[Stop()], reuse_frozen="on", **{name: settings[name] for name in names})
    except xf.errors.Interrupted:
        answer(first_batch_seconds=time.perf_counter() - BEGAN, device="cuda" if torch.cuda.is_available() else "cpu")


def predict_one(orders: Orders) -> None:
    """Measure the median seconds of `xrayfast predict` on one file."""
    (path, _), *_ = orders.subset("valid")
    took = []
    for _ in range(3):
        began = time.perf_counter()
        words = [sys.executable, "-m", "xrayfast", "predict", orders.model, path, "--json"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    answer(predict_one_seconds=statistics.median(took))


def interpret(orders: Orders) -> None:
    """Measure the seconds of `xrayfast.interpret` twice; the first time includes imports."""
    import xrayfast as xf

    work, took = xf.interpret, []
    for _ in range(2):
        began = time.perf_counter()
        work(orders.model)
        took.append(time.perf_counter() - began)
    answer(first_seconds=took[0], interpret_seconds=took[1], images=len(orders.subset("valid")))


def show_help(orders: Orders) -> None:
    """Measure the median seconds of `xrayfast --help`, after a first call that fills the disk cache."""
    took = []
    for _ in range(orders.settings["times"] + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "xrayfast", "--help"], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    answer(help_seconds=statistics.median(took[1:]), lowest=min(took[1:]), highest=max(took[1:]))


def start(orders: Orders) -> None:
    """Measure the seconds of whole commands, divided by those of `import torch` just before: the median ratios of wall
    time and CPU time. The first round, which caches the images, does not count.
    """
    image, runs = orders.subset("valid")[0][0], Path(orders.scratch)
    fit = f"--split-file {orders.split_file} --weights none --size 64 --epochs 1 --runs {runs}"
    commands = {
        "predict": ["predict", orders.model, image, "-o", str(runs / "predictions.csv")],
        "interpret": ["interpret", orders.model],
        "fit": ["fit", orders.folder, *fit.split()],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(orders.settings["times"] + 1):
        for name, words in commands.items():
            torch, ours = time_process(["-c", "import torch"]), time_process(["-m", "xrayfast", *words])
            found[name].append((ours[0] / torch[0], ours[1] / torch[1]))
    ratios = {name: [statistics.median(each) for each in zip(*of[1:], strict=True)] for name, of in found.items()}
    answer(
        load=os.getloadavg()[0],
        torch_seconds=torch[0],
        **{f"{name}_ratio": wall for name, (wall, _) in ratios.items()},
        **{f"{name}_cpu_ratio": cpu for name, (_, cpu) in ratios.items()},
    )


def time_process(words: list[str]) -> tuple[float, float]:
    """Return the wall seconds and the CPU seconds of a Python process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
