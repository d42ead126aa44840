"""xrayfast through its Python API: the loader, prediction, the report, and the start of the command line."""

import statistics
import subprocess
import sys
import time

from benchmarks.contestants.common import Orders, answer, orders


def main() -> None:
    told = orders()
    {"loader": loader, "predict": predict, "interpret": interpret, "help": show_help}[told.task](told)


def loader(told: Orders) -> None:
    """Seconds of each pass over the training batches, augmented; the first decodes."""
    import xrayfast as xf

    passes, began = [], time.perf_counter()
    data = xf.open_data(told.folder, split_file=told.split_file, cache_dir=told.scratch)
    dls = xf.dataloaders(data, size=told.settings["size"], batch_size=told.settings["batch_size"])
    for _ in range(told.settings["epochs"]):
        images = 0
        for batch, _ in dls.train:
            images += len(batch)
        passes.append({"seconds": time.perf_counter() - began, "images": images})
        began = time.perf_counter()
    answer(passes=passes)


def predict(told: Orders) -> None:
    """Seconds of `xrayfast.predict` on files, loading the network included."""
    import xrayfast as xf

    work = xf.predict
    began = time.perf_counter()
    files = [path for split in ("train", "valid") for path, _ in told.subset(split)]
    table = work(told.model, files, batch_size=told.settings["batch_size"])
    answer(predict_seconds=time.perf_counter() - began, images=len(table))


def interpret(told: Orders) -> None:
    """Seconds of `xrayfast.interpret`, twice: the first imports what the second has."""
    import xrayfast as xf

    work, took = xf.interpret, []
    for _ in range(2):
        began = time.perf_counter()
        work(told.model)
        took.append(time.perf_counter() - began)
    answer(first_seconds=took[0], interpret_seconds=took[1], images=len(told.subset("valid")))


def show_help(told: Orders) -> None:
    """Median seconds of `xrayfast --help`, after a first that fills the disk's cache."""
    took = []
    for _ in range(told.settings["times"] + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "xrayfast", "--help"], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    answer(help_seconds=statistics.median(took[1:]), lowest=min(took[1:]), highest=max(took[1:]))


if __name__ == "__main__":
    main()
