"""The trackers, each behind one interface.

fastai has callbacks for two of them. They draw batches for their own use, which changes what a seed draws; they log
images with their predictions, and models as pickles; and they start anew with each phase. So they are not used.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from typing_extensions import override

from xrayfast.config import TrackerName
from xrayfast.errors import ConfigError

PROJECT = "xrayfast"
"""The project or experiment of the runs, where the tracker's own environment variable names no other."""

FOLDER = "tensorboard"
"""In a run's folder, where TensorBoard's files are."""

_FINAL = re.compile(r"final/\w+/\w+")
"""Final metrics over all labels, beside which TensorBoard shows the settings."""

Settings = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run at its beginning.

    Attributes:
        name: of the run; of a fold with that of the cross-validation before it.
        settings: by section and name, as "train.lr".
    """

    name: str
    path: Path
    settings: Settings
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Keeps settings, metrics and figures of a run. All methods are called in one thread; each may raise anything."""

    def start(self, run: TrackedRun) -> None:
        """The run begins, or is resumed."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Metrics of an epoch, from 1; those of the end have the last one's number."""

    def figure(self, name: str, png: bytes, step: int) -> None:
        """A figure."""

    def finish(self, status: str) -> None:
        """The run is "completed", "interrupted" or "failed"."""


class TensorBoard(Tracker):
    """Writes event files to `tensorboard/` in the run's folder, for `tensorboard --logdir runs`."""

    @override
    def start(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._settings = {name: value for name, value in run.settings.items() if value is not None}
        self._final: dict[str, float] = {}
        # What an interrupted run has written is superseded: its epochs are told again.
        self._writer = SummaryWriter(str(run.path / FOLDER), purge_step=0)
        rows = "\n".join(f"| {name} | {value} |" for name, value in {**run.tags, **run.settings}.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    @override
    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._final |= {name: value for name, value in values.items() if _FINAL.fullmatch(name)}
        self._writer.flush()

    @override
    def figure(self, name: str, png: bytes, step: int) -> None:
        self._writer.add_image(name, np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), step, dataformats="HWC")

    @override
    def finish(self, status: str) -> None:
        from torch.utils.tensorboard.summary import hparams

        assert self._writer.file_writer is not None  # it is until it is closed
        for summary in hparams(self._settings, self._final):
            self._writer.file_writer.add_summary(summary)
        self._writer.close()


class MLflow(Tracker):
    """Tells MLflow's server or database: that of MLFLOW_TRACKING_URI, else MLflow's default, `mlflow.db` here."""

    @override
    def start(self, run: TrackedRun) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        tags = {"mlflow.runName": run.name, **run.tags}
        self._id = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        for setting, value in run.settings.items():
            self._client.log_param(self._id, _mlflow_name(setting), value)

    @override
    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_mlflow_name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    @override
    def figure(self, name: str, png: bytes, step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name.replace('/', '_')}.png"
            path.write_bytes(png)
            self._client.log_artifact(self._id, str(path), "figures")

    @override
    def finish(self, status: str) -> None:
        known = {"completed": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
        self._client.set_terminated(self._id, known[status])


def _mlflow_name(name: str) -> str:
    """With the characters alone that MLflow takes in names, which are those of any server version."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-. /") else "_" for letter in name)


class WandB(Tracker):
    """Tells Weights & Biases; without a login it writes to `wandb/` in the run's folder, for `wandb sync`."""

    @override
    def start(self, run: TrackedRun) -> None:
        import wandb

        self._image = wandb.Image
        is_known = os.environ.get("WANDB_MODE") or wandb.login(prompt=False)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            dir=str(run.path),
            config={**run.tags, **run.settings},
            mode=None if is_known else "offline",  # it would ask for a login and wait
            reinit="create_new",
            save_code=False,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_machine_info=True),
        )

    @override
    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    @override
    def figure(self, name: str, png: bytes, step: int) -> None:
        self._run.log({name: self._image(Image.open(io.BytesIO(png)))}, step=step)

    @override
    def finish(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "completed" else 1)


class Trackio(Tracker):
    """Tells Trackio, whose database is in the user's cache, or in TRACKIO_DIR."""

    @override
    def start(self, run: TrackedRun) -> None:
        import trackio

        self._trackio = trackio
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        quiet: dict[str, Any] = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        trackio.init(project=project, name=run.name, config={**run.tags, **run.settings}, **quiet)

    @override
    def log(self, values: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(values), step=step)

    @override
    def figure(self, name: str, png: bytes, step: int) -> None:
        self._trackio.log({name: self._trackio.Image(np.asarray(Image.open(io.BytesIO(png))))}, step=step)

    @override
    def finish(self, status: str) -> None:
        self._trackio.finish()


_TRACKERS: dict[TrackerName, tuple[type[Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WandB, "wandb"),
    "mlflow": (MLflow, "mlflow"),
    "trackio": (Trackio, "trackio"),
}
"""Each with the package that it needs, which has the name of the extra."""


def make_tracker(name: TrackerName) -> Tracker:
    """The tracker of a name, which has not begun."""
    return _TRACKERS[name][0]()


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Raise an error where a tracker's package is not there; nothing is imported.

    Raises:
        ConfigError: one is missing; the message says how to install it.
    """
    for name in names:
        package = _TRACKERS[name][1]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"track is {name}, and the package {package} is not installed. Install it: pip install "
                f"'xrayfast[{name}]'."
            )
