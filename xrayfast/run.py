"""A run's folder: the only code that knows its paths.

Nothing in it is pickled: weights are safetensors, everything else YAML, JSON, CSV, PNG and HTML. Each file is written
to a temporary name and moved, and a folder that exists is never written into by a new run.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from xrayfast.config import Config, Task
from xrayfast.errors import RunError, shorten
from xrayfast.evaluation import Evaluation
from xrayfast.files import made_folder, read_json, write_csv, write_json, write_text
from xrayfast.metrics.decision import Decision
from xrayfast.predictions import Predictions
from xrayfast.run_files import LabelsFile, MetricsFile, RunInfo, validated

CONFIG = "config.yaml"
INFO = "run.json"
LABELS = "labels.json"
MODEL = "model.safetensors"
SPLIT = "split.csv"
HISTORY = "history.csv"
METRICS = "metrics.json"
REPORT = "report.html"
CHECKPOINT = "checkpoint"
PREDICTIONS = "predictions"
FIGURES = "figures"
MODEL_CARD = "model_card.md"
CLAIM = "claim.md"
EVALUATIONS = "evaluations"

PredictedSplit = Literal["valid", "test"]
"""The splits that are predicted."""

PREDICTED_SPLITS: tuple[PredictedSplit, ...] = ("valid", "test")

_HISTORY_COLUMNS = ["epoch", "phase", "train_loss", "valid_loss"]
"""Those that every history has."""


class Run:
    """One run: a folder, and what can be read from it.

    Args:
        path: an existing run's folder.

    Raises:
        RunError: the folder does not exist or is not a run's.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise RunError(
                f"{self.path}: no such run. Runs are folders such as runs/resnet18-1, made by 'xrayfast fit'."
            )
        if not (self.path / INFO).is_file():
            raise RunError(f"{self.path}: is not a run's folder: it lacks {INFO}. Runs are made by 'xrayfast fit'.")

    def __repr__(self) -> str:
        return f"Run('{self.path}')"

    @classmethod
    def of(cls, run: Run | Path | str) -> Run:
        """The run itself, or that in a folder."""
        return run if isinstance(run, Run) else cls(run)

    @classmethod
    def create(cls, root: Path, name: str | None, stem: str, config: Config, info: Mapping[str, Any]) -> Run:
        """Make a new folder, `root/name` or the first free of `root/stem-1`, `root/stem-2`, ...

        Raises:
            RunError: the name is taken or not a plain name, or the folder can't be written.
        """
        if name is not None:
            _require_plain(name, "run")
        try:
            root.mkdir(parents=True, exist_ok=True)
            path = _claim(root, name, stem, first=f"{stem}-1")
            write_text(path / CONFIG, config.to_yaml())
            write_json(path / INFO, dict(info))
        except OSError as error:
            raise RunError(
                f"{error.filename or root}: can't be written ({error.strerror}). Choose another folder with --runs."
            ) from error
        return cls(path)

    @classmethod
    def newest(cls, root: Path) -> Run:
        """The run under `root` that was started last.

        Raises:
            RunError: there is none.
        """
        found = {}
        for info in root.glob(f"*/{INFO}"):
            with contextlib.suppress(RunError):  # a damaged run does not stand in the way of the others
                run = cls(info.parent)
                found[run.info.started] = run
        if not found:
            raise RunError(f"{root}: holds no runs. Train one with 'xrayfast fit', or name a run's folder.")
        return found[max(found)]

    # What stands in the folder.

    @property
    def config(self) -> Config:
        """All settings of the run."""
        return Config.read(self._existing(CONFIG))

    def write_config(self, config: Config) -> None:
        """Replace `config.yaml`."""
        write_text(self.path / CONFIG, config.to_yaml())

    @property
    def info(self) -> RunInfo:
        """Status, versions, seeds, times: `run.json`.

        Raises:
            RunError: the file is damaged.
        """
        return validated(self._json(INFO), RunInfo, self.path / INFO)

    def total_seconds(self, seconds: float) -> float:
        """All time spent on the run, with `seconds` more than `run.json` knows of."""
        return round((self.info.seconds or 0.0) + seconds, 1)

    def update_info(self, **fields: Any) -> None:
        """Set some fields of `run.json`."""
        write_json(self.path / INFO, {**self._json(INFO), **fields})

    @property
    def global_batch(self) -> int:
        """Images per training batch over all ranks."""
        recorded = self.info.global_batch
        return recorded if isinstance(recorded, int) else self.config.train.batch_size

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the network's outputs, in order."""
        return self._labels_file().labels

    @property
    def task(self) -> Task:
        """Single-label ("single") or multi-label ("multi")."""
        return self._labels_file().task

    @property
    def decision(self) -> Decision:
        """How the network's probabilities become calibrated ones and labels, as validation chose it.

        Raises:
            RunError: `labels.json` is damaged.
        """
        content = self._labels_file()
        try:
            return Decision.from_json(content.model_dump(), content.task, content.labels)
        except ValueError as error:
            raise RunError(f"{self.path / LABELS}: {error}.") from error

    def write_decision(self, decision: Decision) -> None:
        """Write what prediction needs beside the weights: labels, task, calibration and thresholds."""
        content = {"task": decision.task, "labels": list(decision.labels), **decision.to_json()}
        write_json(self.path / LABELS, content)

    def _labels_file(self) -> LabelsFile:
        return validated(self._json(LABELS), LabelsFile, self.path / LABELS)

    @property
    def model_path(self) -> Path:
        """The weights of the best epoch.

        Raises:
            RunError: there are none yet.
        """
        return self._existing(MODEL, "No epoch was completed, or the file was removed.")

    @property
    def new_model_path(self) -> Path:
        """Where the weights of the best epoch go."""
        return self.path / MODEL

    @property
    def checkpoint(self) -> Path:
        """The folder with what `--resume` needs; it may not exist."""
        return self.path / CHECKPOINT

    @property
    def split_path(self) -> Path:
        """Which image stands in which split: `split.csv`.

        Raises:
            RunError: there is none.
        """
        return self._existing(SPLIT)

    def write_split(self, table: pd.DataFrame) -> None:
        """Write the rows used, as `Manifest.split_table` gives them."""
        self._csv(SPLIT, table)

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch: phase, losses, metrics, learning rates, seconds."""
        table = self._read_csv(HISTORY)
        missing = [name for name in _HISTORY_COLUMNS if name not in table]
        if missing:
            found = shorten(table.columns)
            raise RunError(f"{self.path / HISTORY}: lacks the columns {shorten(missing)}; found {found}.")
        # An empty column has no type of its own: a learner saved without training has no epochs.
        try:
            typed: pd.DataFrame = table.astype({"epoch": int, "train_loss": float, "valid_loss": float})
        except ValueError as error:
            raise RunError(f"{self.path / HISTORY}: holds something else than numbers ({error}).") from error
        return typed

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows so far."""
        self._csv(HISTORY, pd.DataFrame(list(rows), columns=None if rows else _HISTORY_COLUMNS))

    @property
    def metrics(self) -> MetricsFile:
        """By split, what `metrics.summary.summarise` gives: `metrics.json`.

        Raises:
            RunError: the file is missing or damaged.
        """
        return validated(self._json(METRICS), MetricsFile, self.path / METRICS)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`."""
        write_json(self.path / METRICS, dict(metrics))

    @property
    def predicted_splits(self) -> tuple[PredictedSplit, ...]:
        """The splits whose predictions are saved, of valid and test."""
        return tuple(split for split in PREDICTED_SPLITS if (self.path / PREDICTIONS / f"{split}.csv").is_file())

    def predictions(self, split: str) -> Predictions:
        """The saved predictions of a part.

        Raises:
            RunError: there are none; the message says which there are.
        """
        path = self.path / PREDICTIONS / f"{split}.csv"
        if not path.is_file():
            there = shorten(self.predicted_splits) or "none"
            raise RunError(
                f"{path}: no predictions of split '{split}' (there are: {there}). They are saved when a run "
                "completes; '--test-fraction' makes a test split."
            )
        return Predictions.read(path, self.labels)

    def write_predictions(self, split: str, predictions: Predictions) -> None:
        """Write `predictions/PART.csv`."""
        (self.path / PREDICTIONS).mkdir(exist_ok=True)
        predictions.write(self.path / PREDICTIONS / f"{split}.csv")

    @property
    def report_path(self) -> Path:
        """`report.html`; written by `interpret`."""
        return self.path / REPORT

    @property
    def model_card_path(self) -> Path:
        """`model_card.md`."""
        return self.path / MODEL_CARD

    @property
    def claim_path(self) -> Path:
        """`claim.md`."""
        return self.path / CLAIM

    @property
    def evaluations(self) -> list[Evaluation]:
        """The finished tests of this run on its own or other data, in the order of names."""
        folders = sorted((self.path / EVALUATIONS).glob("*"))
        return [Evaluation(folder, self.labels) for folder in folders if Evaluation.is_one(folder)]

    def new_evaluation(self, name: str | None, stem: str) -> Evaluation:
        """Make a new folder, `evaluations/NAME` or the first free of `evaluations/STEM`, `STEM-2`, ...

        Raises:
            RunError: the name is taken or not a plain name, or the folder can't be written.
        """
        if name is not None:
            _require_plain(name, "evaluation")
        try:
            return Evaluation(
                _claim(made_folder(self.path / EVALUATIONS), name, _plain(stem), first=_plain(stem)), self.labels
            )
        except OSError as error:
            raise RunError(f"{error.filename or self.path}: can't be written ({error.strerror}).") from error

    def figure_path(self, name: str) -> Path:
        """`figures/NAME.png`, in a folder that exists."""
        return made_folder(self.path / FIGURES) / f"{name}.png"

    def table_path(self, name: str) -> Path:
        """`tables/NAME.csv`, in a folder that exists."""
        return made_folder(self.path / "tables") / f"{name}.csv"

    def tidy(self) -> None:
        """Remove what only `--resume` needs, and what a crash may have left: half a checkpoint, temporary files."""
        for leftover in self.path.glob(f"{CHECKPOINT}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    # How it is read and written.

    def _existing(self, name: str, why: str = "") -> Path:
        path = self.path / name
        if not path.is_file():
            raise RunError(
                f"{self.path}: lacks {name}. {why}".strip() + " The run's status is '" + str(self._status()) + "'."
            )
        return path

    def _status(self) -> Any:
        try:
            return self._json(INFO).get("status", "unknown")
        except RunError:
            return "unknown"

    def _json(self, name: str) -> dict[str, Any]:
        if not (self.path / name).is_file():
            raise RunError(f"{self.path}: lacks {name}; the folder is damaged or of another program.")
        return read_json(self.path / name)

    def _csv(self, name: str, table: pd.DataFrame) -> None:
        write_csv(self.path / name, table)

    def _read_csv(self, name: str) -> pd.DataFrame:
        path = self._existing(name)
        try:
            return pd.read_csv(path)
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise RunError(f"{path}: can't be read as a table ({error}).") from error


def now() -> str:
    """The time in UTC, to the microsecond, in ISO 8601: sorts as text."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _require_plain(name: str, of: str) -> None:
    if name != _plain(name):
        raise RunError(f"{of} name '{name}': expected a plain folder name such as 'baseline'.")


def _plain(name: str) -> str:
    """The name as that of a visible folder inside another."""
    return Path(name).name.lstrip(".") or "data"


def _claim(root: Path, name: str | None, stem: str, first: str) -> Path:
    """Make the folder; whoever makes it first has it, so that two runs that start at once get two."""
    if name is not None:
        try:
            (root / name).mkdir()
        except FileExistsError:
            raise RunError(
                f"{root / name}: exists already, and a run never overwrites. Choose another --name."
            ) from None
        return root / name
    for candidate in chain([first], (f"{stem}-{number}" for number in count(2))):
        try:
            (root / candidate).mkdir()
            return root / candidate
        except FileExistsError:
            continue
    raise AssertionError("the numbers do not end")
