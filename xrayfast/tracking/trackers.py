"""The trackers, behind one interface.

fastai's callbacks for two of them are not used: they draw batches of their own, which changes the random numbers of a
seed; they log images with their predictions, and models as pickles; and they start a new run for each phase.
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
"""Name of the project or experiment, unless the tracker's own environment variable names another."""

FOLDER = "tensorboard"
"""Subfolder of a run with TensorBoard's files."""

_FINAL = re.compile(r"final/\w+/\w+")
"""Names of the final metrics over all labels, which TensorBoard shows next to the settings."""

Settings = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class TrackedRun:
    """The information about a run that a tracker gets at its start.

    Attributes:
        name: name of the run; for a fold, preceded by the name of the cross-validation.
        path: the run's folder.
        settings: settings keyed by section and name, such as "train.lr".
        tags: further facts about the run, such as its network.
    """

    name: str
    path: Path
    settings: Settings
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Saves a run's settings, metrics and figures. All methods are called in one thread, and may raise any error."""

    def start(self, run: TrackedRun) -> None:
        """Begin or resume a run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of an epoch, counted from 1; final metrics have the number of the last epoch."""

    def figure(self, name: str, png: bytes, step: int) -> None:
        """Log a figure."""

    def finish(self, status: str) -> None:
        """End the run with the status "completed", "interrupted" or "failed"."""


class TensorBoard(Tracker):
    """Writes event files to `tensorboard/` in the run's folder, for `tensorboard --logdir runs`."""

    @override
    def start(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._settings = {name: value for name, value in run.settings.items() if value is not None}
        self._final: dict[str, float] = {}
        # Discards what an interrupted run has written, because its epochs are logged again.
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

        assert self._writer.file_writer is not None  # None only after it is closed
        for summary in hparams(self._settings, self._final):
            self._writer.file_writer.add_summary(summary)
        self._writer.close()


class MLflow(Tracker):
    """Logs to the MLflow server or database in MLFLOW_TRACKING_URI, or else to MLflow's default, `./mlflow.db`."""

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
    """Replace the characters that some version of MLflow's server does not allow in names."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-. /") else "_" for letter in name)


class WandB(Tracker):
    """Logs to Weights & Biases or, without a login, to `wandb/` in the run's folder, for `wandb sync`."""

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
            mode=None if is_known else "offline",  # otherwise it would wait for a login
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
    """Logs to Trackio, whose database is in the user's cache folder or in TRACKIO_DIR."""

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
"""The class of each tracker, and the package that it needs. The extra has the name of the tracker."""


def make_tracker(name: TrackerName) -> Tracker:
    """Return a new tracker, which has not been started."""
    return _TRACKERS[name][0]()


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Raise a ConfigError if a tracker's package is not installed; no package is imported."""
    for name in names:
        package = _TRACKERS[name][1]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"track is {name}, but the package {package} is not installed. Install it: pip install "
                f"'xrayfast[{name}]'."
            )
