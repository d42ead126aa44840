"""Run one job in its own process and measure it from outside."""

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
from benchmarks.data import ImageSet, make
from benchmarks.machine import ROOT, commit, machine, versions
from benchmarks.memory import PeakMemory
from benchmarks.results import Job

MODULES = {"fastai": "fastai_recipe", "torchvision": "torchvision_loop", "timm": "timm_loop", "limit": "limit"}
"""The module of each contestant; for xrayfast it is `xrayfast fit` itself or `xrayfast_steps`."""


@dataclass(frozen=True)
class Workspace:
    """The folders and threads that jobs use.

    Attributes:
        work: folder of image sets, runs and logs.
        source: class folders of images, or None for phantoms.
        threads: number of torch threads, for all contestants.
    """

    work: Path
    source: Path | None
    threads: int

    @property
    def data(self) -> str:
        """Return a description of the originals for the page."""
        return self.source.name if self.source else "phantoms"


class Failure(Exception):
    """A contestant ended with an error; the message is the end of its output."""


def run(job: Job, workspace: Workspace) -> dict[str, Any]:
    """Make what the job needs, run it, and return its row of the results.

    Raises:
        Failure: the job ended with an error.
    """
    image_set = ImageSet(*job.settings["images"]) if "images" in job.settings else None
    if image_set is not None:
        make(image_set, workspace.source, workspace.work)
    model = _model(job, workspace)
    scratch = workspace.work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    where = (
        (str(image_set.folder(workspace.work)), str(image_set.split_file(workspace.work)))
        if image_set is not None
        else ("", "")
    )
    orders = Orders(job.task, job.settings, job.seed, *where, str(scratch), model)
    fits = job.contestant == "xrayfast" and job.task in ("fit", "distributed")
    words = xrayfast_fit.command(orders) if fits else _module(job, orders)
    measured, output = process(words, environment(job, workspace), workspace.work / "log.txt")
    result = xrayfast_fit.found(orders) if fits else _answer(output)
    shutil.rmtree(scratch, ignore_errors=True)
    about: dict[str, Any] = {"data": workspace.data, "machine": machine()}
    about |= {"versions": versions(), "commit": commit(), "when": time.strftime("%Y-%m-%d %H:%M")}
    return {**measured, "result": result, **about}


def process(words: list[str], environment: dict[str, str], log: Path) -> tuple[dict[str, Any], str]:
    """Return seconds, CPU seconds and peak memory of a command with all its children, and its standard output.

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


def environment(job: Job, workspace: Workspace) -> dict[str, str]:
    """Return the environment variables for threads, cache and modules, the same for all contestants."""
    threads = job.settings.get("threads", workspace.threads)
    own = os.environ | {"OMP_NUM_THREADS": str(threads), "XRAYFAST_CACHE": str(workspace.work / "cache")}
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT / "examples"), str(ROOT)])
    own["MPLBACKEND"] = "Agg"
    own.pop("PYTHONDONTWRITEBYTECODE", None)  # xrayfast is measured compiled, as the installed libraries are
    return own


def _module(job: Job, orders: Orders) -> list[str]:
    name = MODULES.get(job.contestant, "xrayfast_steps")
    return [sys.executable, "-m", f"benchmarks.contestants.{name}", json.dumps(asdict(orders))]


def _answer(output: str) -> dict[str, Any]:
    """Parse the last line that is JSON; progress bars may precede it."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise Failure(f"printed no result: {output[-500:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _model(job: Job, workspace: Workspace) -> str:
    """Return the xrayfast run that the job uses, trained once and not measured; "" if it needs none."""
    if "model" not in job.settings:
        return ""
    settings, image_set = job.settings["model"], ImageSet(*job.settings["model"]["images"])
    made = workspace.work / "models" / f"{image_set.name}-{settings['arch']}-{settings['size']}"
    if not (made / "run" / "metrics.json").exists():
        print("  trains a network to work on ...", flush=True)
        make(image_set, workspace.source, workspace.work)
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        where = (str(image_set.folder(workspace.work)), str(image_set.split_file(workspace.work)))
        orders = Orders("fit", settings, 0, *where, str(made))
        process(xrayfast_fit.command(orders), environment(job, workspace), workspace.work / "log.txt")
    return str(made / "run")
