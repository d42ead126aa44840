"""Measure the rows of a GPU, in less than nine minutes: `python examples/benchmarks --gpu`.

It first runs the tests that need CUDA. Then it measures, on phantoms, unfrozen epochs against the limit, frozen epochs
against fastai, the first batch, and prediction. Rows are printed as they are measured, and written to `gpu.md` and
`gpu.jsonl` in the work folder.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.measure import Failure, Workspace, run
from benchmarks.results import Job, Results
from benchmarks.scenarios import Options, protocol

SECONDS = 480
"""Time after which no further measurement begins, except with --quick. It includes the tests, which run first."""

TEST_SECONDS = 200
"""Time limit of the tests."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: description of the value.
        jobs: the jobs that it needs, by name.
        value: computes the value, and how it came about as text, from the results by name.
        aim: the target as text.
    """

    what: str
    jobs: dict[str, Job]
    value: Callable[[dict[str, Any]], tuple[float, str]]
    aim: str


def rows(given: Options) -> list[Row]:
    """Return the rows to measure, in order of importance."""
    found = []
    for images in (60,) if given.quick else (1000, 10_000):
        for batch in (8,) if given.quick else (64, 256):
            settings = _unfrozen(given, images, batch)
            jobs = {
                "ours": Job("xrayfast", "fit", {**settings, "options": "--resamples 0"}),
                "limit": Job("limit", "fit", settings),
            }
            what = f"unfrozen epoch, {images:,} images, batch {batch}: limit / ours"
            found.append(Row(what, jobs, _of_limit, "at least 0.9"))
    frozen = _frozen(given)
    both = _unfrozen(given, *((60, 8) if given.quick else (1000, 64))) | {"freeze_epochs": 1, "epochs": given.epochs(5)}
    for settings, epochs, aim in (
        (frozen, "frozen epochs", 6),
        (both, "epochs of all layers after one of the head", 5),
    ):
        jobs = {
            "ours": Job("xrayfast", "fit", {**settings, "options": "--resamples 0"}),
            "fastai": Job("fastai", "fit", settings),
        }
        what = f"{settings['epochs']} {epochs}, everything counted: fastai / ours"
        found.append(Row(what, jobs, _in_all, f"at least {aim}"))
    first = {"ours": Job("xrayfast", "first_batch", frozen)}
    found.append(Row("start to the end of the first batch, s", first, _seconds("first_batch_seconds"), ""))
    model = _unfrozen(given, 60 if given.quick else 1000, 8 if given.quick else 64) | {"options": "--resamples 0"}
    for many, key in ((False, "predict_one"), (True, "predict")):
        of = _images(60 if given.quick else 10_000, given) if many else model["images"]
        job = Job("xrayfast", key, {"images": of, "model": model, "batch_size": 256})
        count = of[1] if many else 1
        found.append(Row(f"predict {count:,} files, s", {"ours": job}, _seconds(f"{key}_seconds"), ""))
    return found


def _images(count: int, given: Options) -> list[Any]:
    return ["phantoms", count, 64 if given.quick else 256, 0.2]


def _unfrozen(given: Options, images: int, batch: int) -> dict[str, Any]:
    settings = protocol(given, _images(images, given), unfreeze="all", epochs=given.epochs(3), batch_size=batch)
    # Random weights take the same time as pretrained ones, and need no download.
    return settings | {"precision": "auto", "weights": "none"}


def _frozen(given: Options) -> dict[str, Any]:
    images, batch = (60, 8) if given.quick else (1000, 64)
    return _unfrozen(given, images, batch) | {"unfreeze": "none", "epochs": given.epochs(10)}


def _epoch(result: dict[str, Any]) -> float:
    """Return the median seconds of the epochs after the first."""
    epochs = [row["seconds"] for row in result["epochs"]]
    return statistics.median(epochs[1:] or epochs)


def _of_limit(found: dict[str, Any]) -> tuple[float, str]:
    ours, limit = (_epoch(found[name]["result"]) for name in ("ours", "limit"))
    how = found["limit"]["result"].get("how", "")
    return limit / ours, f"{limit:.3f} s ({how}) / {ours:.3f} s"


def _in_all(found: dict[str, Any]) -> tuple[float, str]:
    ours, other = found["ours"]["seconds"], found["fastai"]["seconds"]
    return other / ours, f"{other:.1f} s / {ours:.1f} s"


def _seconds(key: str) -> Callable[[dict[str, Any]], tuple[float, str]]:
    def value(found: dict[str, Any]) -> tuple[float, str]:
        result = found["ours"]["result"]
        return result[key], f"on {result['device']}" if "device" in result else ""

    return value


def main(given: Options, workspace: Workspace, again: bool) -> int:
    """Run the tests, measure all rows for which there is time, and return the number of failures."""
    began, work = time.perf_counter(), workspace.work
    work.mkdir(parents=True, exist_ok=True)
    results = Results(work / "gpu.jsonl")
    failed = 0 if _tests() else 1
    for row in rows(given):
        for job in row.jobs.values():
            if results.get(job) is not None and not again:
                continue
            if not given.quick and time.perf_counter() - began > SECONDS:
                break
            try:
                results.add(job, run(job, workspace))
            except Failure as error:
                results.add(job, {"error": str(error)})
                failed += 1
                break
        print(_line(row, results), f"({time.perf_counter() - began:.0f} s)", flush=True)
        (work / "gpu.md").write_text(section(results, given) + "\n", encoding="utf-8")
    print(f"Written: {work / 'gpu.md'} and gpu.jsonl, which examples/benchmarks/gpu.jsonl holds for the page")
    return failed


def section(results: Results, given: Options) -> str:
    """Return the page's section on a GPU: the machine, and a table."""
    head = ["| what | value | aim | from |", "|---|---|---|---|"]
    return "\n".join(
        [*dict.fromkeys(map(_about, results.rows.values())), "", *head, *(_line(row, results) for row in rows(given))]
    )


def published() -> str:
    """Return the section for the results that are stored next to this module."""
    results = Results(Path(__file__).with_suffix(".jsonl"))
    threads = [row["settings"]["threads"] for row in results.rows.values() if "threads" in row["settings"]]
    return section(results, Options(threads=threads[0]) if threads else Options())


def _about(row: dict[str, Any]) -> str:
    """Return the machine, versions, commit and date of a row."""
    named = [f"{name} {value}" for of in (row["machine"], row["versions"]) for name, value in of.items()]
    return f"{', '.join(named)}; commit {row['commit']}, {row['when'][:10]}."


def _line(row: Row, results: Results) -> str:
    """Return a row of the table, from the existing measurements."""
    found = {name: result for name, job in row.jobs.items() if (result := results.get(job)) is not None}
    failed = [error for job in row.jobs.values() if (error := results.failed.get(job.key))]
    value, how = "–", f"failed: {failed[0].splitlines()[-1]}" if failed else "not measured"
    if len(found) == len(row.jobs):
        number, how = row.value(found)
        value = f"{number:.2f}"
    return f"| {row.what} | {value} | {row.aim} | {how} |"


def _tests() -> bool:
    """Run the tests that need CUDA; return whether none failed."""
    words = [sys.executable, "-m", "pytest", "-m", "cuda", "--disable-warnings", "tests/test_cuda.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=TEST_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"pytest -m cuda: not done after {TEST_SECONDS} s", flush=True)
        return False
    said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR")) or " in " in line]
    print(*(f"pytest -m cuda: {line}" for line in said[-20:]), sep="\n", flush=True)
    return done.returncode in (0, 5)
