"""The provenance of a run: versions, device, network, and fingerprint of the data."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from xrayfast._version import __version__
from xrayfast.config import Config
from xrayfast.errors import XrayfastError, plural
from xrayfast.learning.model.pretrained.timm_networks import is_timm
from xrayfast.learning.training.learner import RadiographLearner
from xrayfast.learning.training.mixed_precision import training_precision
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.run import Run, now

_LIBRARIES = ("torch", "torchvision", "fastai", "numpy", "pandas", "pillow")


def collect_provenance(
    learn: RadiographLearner, command: str, remarks: Sequence[str], audit: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the initial content of `run.json`."""
    data = learn.dls.manifest
    device = learn.dls.device
    libraries = (*_LIBRARIES, *(["timm"] if is_timm(learn.arch) else []))
    return {
        "status": "created",
        "started": now(),
        "command": command,
        "xrayfast": __version__,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores",
        "precision": training_precision(learn),
        "threads": torch.get_num_threads(),
        "arch": learn.arch,
        "starting_weights": learn.start.text if learn.start else "",
        "weights_sha256": learn.start.sha256 if learn.start else "",
        "parameters": sum(parameter.numel() for parameter in learn.model.parameters()),
        "loss": getattr(learn.loss_func, "name", type(learn.loss_func).__name__),
        "counts": {split: {row: int(n) for row, n in column.items()} for split, column in data.counts().items()},
        "flow": [list(step) for step in data.flow()],
        "audit": list(audit),
        "fingerprint": "" if data.table["path"].isna().any() else data.fingerprint(),
        "data_notes": list(data.notes),
        "remarks": list(remarks),
        "own_code": learn.own_code,
        "dataloaders": learn.dls.origin,
        "history_unit": learn.validation_units.settings.unit if learn.validation_units else "image",
    }


def describe_replay(config: Config, learn: RadiographLearner) -> list[str]:
    """Return notes on why results will differ from those of the run whose config is replayed."""
    if config.folder is None:
        return []
    try:
        run = Run(config.folder)
        info, weights = run.info, run.config.model.weights
    except XrayfastError:  # the file is in no run's folder
        return []
    notes = [describe_threads(info, f"the run {run.path}")]
    same = learn.start is not None and weights == learn.settings["weights"]
    if same and learn.start.sha256 != info.weights_sha256 != "":  # type: ignore[union-attr]
        notes.append(f"{weights}: has changed since the run {run.path} started from it.")
    return [*filter(None, notes)]


def describe_threads(info: RunInfo, what: str) -> str:
    """Return a note if a run on a CPU computed with another number of threads than this process, else ""."""
    threads = torch.get_num_threads()
    if info.threads in (None, threads) or not info.device.startswith("cpu"):
        return ""
    return (
        f"This process computes with {plural(threads, 'thread')}, but {what} used {info.threads}: sums are rounded "
        f"differently, so results will differ. OMP_NUM_THREADS={info.threads} sets the same number."
    )
