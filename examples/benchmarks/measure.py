"""Run one job as a process of its own, and measure it from outside."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import xrayfast_fit
from benchmarks.contestants.common import Orders
from benchmarks.data import Films, make
from benchmarks.machine import ROOT, commit, machine, versions
from benchmarks.memory import PeakMemory
from benchmarks.results import Job

MODULES = {"fastai": "fastai_recipe", "torchvision": "torchvision_loop", "timm": "timm_loop", "limit": "limit"}
"""The module of each contestant; of xrayfast, `xrayfast fit` itself or `xrayfast_steps`."""


@dataclass(frozen=True)
class Place:
    """Where things are.

    Attributes:
        work: folder of films, runs and logs.
        source: class folders of films, or None for phantoms.
        threads: of torch, for everybody.
    """

    work: Path
    source: Path | None
    threads: int


class Failure(Exception):
    """A contestant ended with an error; the message is the end of what it wrote."""


def run(job: Job, place: Place) -> dict[str, Any]:
    """Make what the job needs, run it, and give its row of the results.

    Raises:
        Failure: it did not end well.
    """
    films = Films(*job.settings["films"]) if "films" in job.settings else None
    if films is not None:
        make(films, place.source, place.work)
    model = _model(job, place)
    scratch = place.work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    where = (str(films.folder(place.work)), str(films.split_file(place.work))) if films is not None else ("", "")
    told = Orders(job.task, job.settings, job.seed, *where, str(scratch), model)
    fits = job.contestant == "xrayfast" and job.task in ("fit", "distributed")
    words = xrayfast_fit.command(told) if fits else _module(job, told)
    measured, output = process(words, environment(job, place), place.work / "log.txt")
    result = xrayfast_fit.found(told) if fits else _answer(output)
    shutil.rmtree(scratch, ignore_errors=True)
    about = {"machine": machine(), "versions": versions(), "commit": commit(), "when": time.strftime("%Y-%m-%d %H:%M")}
    return {**measured, "result": result, **about}


def process(words: list[str], environment: dict[str, str], log: Path) -> tuple[dict[str, Any], str]:
    """Seconds, CPU seconds and peak memory of a command with all its children; and its standard output.

    Raises:
        Failure: its exit code is not 0.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w+", encoding="utf-8") as errors, log.with_suffix(".out").open("w+", encoding="utf-8") as out:
        began = time.perf_counter()
        child = subprocess.Popen(
            words, env=environment, stdout=out, stderr=errors, stdin=subprocess.DEVNULL, start_new_session=True
        )
        memory = PeakMemory(child.pid)
        memory.start()
        try:
            code = child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        finally:
            peak = memory.stop()
        seconds = time.perf_counter() - began
        out.seek(0), errors.seek(0)
        text, complaints = out.read(), errors.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise Failure(f"exit code {code}: {(complaints or text).strip()[-1500:].replace(str(ROOT), '.')}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 2), "peak_mb": peak}, text


def environment(job: Job, place: Place) -> dict[str, str]:
    """Threads, weights and modules, the same for everybody."""
    threads = job.settings.get("threads", place.threads)
    own = os.environ | {"OMP_NUM_THREADS": str(threads), "XRAYFAST_CACHE": str(place.work / "cache")}
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT / "examples"), str(ROOT)])
    own["MPLBACKEND"] = "Agg"
    weights = ROOT.parent / "shared" / "torch"
    if "TORCH_HOME" not in own and weights.is_dir():
        own["TORCH_HOME"] = str(weights)
    return own


def _module(job: Job, told: Orders) -> list[str]:
    name = MODULES.get(job.contestant, "xrayfast_steps")
    return [sys.executable, "-m", f"benchmarks.contestants.{name}", json.dumps(asdict(told))]


def _answer(output: str) -> dict[str, Any]:
    """The last line that is JSON; progress bars may stand before it."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise Failure(f"printed no result: {output[-500:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _model(job: Job, place: Place) -> str:
    """A run of xrayfast that the job works on; trained once, not measured. "" where it needs none."""
    if "model" not in job.settings:
        return ""
    settings, films = job.settings["model"], Films(*job.settings["model"]["films"])
    made = place.work / "models" / f"{films.name}-{settings['arch']}-{settings['size']}"
    if not (made / "run" / "metrics.json").exists():
        print("  trains a network to work on ...", flush=True)
        make(films, place.source, place.work)
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        told = Orders(
            "fit", settings, 0, str(films.folder(place.work)), str(films.split_file(place.work)), str(made)
        )  # fmt: skip
        process(xrayfast_fit.command(told), environment(job, place), place.work / "log.txt")
    return str(made / "run")
